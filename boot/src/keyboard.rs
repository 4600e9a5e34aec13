//! The host's PS/2 keyboard: scan codes of set 1, as the controller translates them, go to the guest's keyboard.

use alloc::collections::VecDeque;
use spin::Mutex;
use x86::io::inb;

/// Keys that nobody has taken yet.
static KEYS: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
/// More are dropped: somebody leans on the keyboard.
const LIMIT: usize = 256;

/// Takes what the keyboard has sent.
pub fn interrupt() {
    // SAFETY: ring 0; the keyboard controller is ours.
    unsafe {
        while inb(0x64) & 0x21 == 1 {
            let code = inb(0x60);
            let mut keys = KEYS.lock();
            if keys.len() < LIMIT {
                keys.push_back(code);
            }
        }
    }
}

/// Hands the waiting scan codes to `take`, which answers how many it accepted.
pub fn drain(take: impl FnOnce(&[u8]) -> usize) {
    let mut keys = KEYS.lock();
    if !keys.is_empty() {
        let n = take(keys.make_contiguous());
        keys.drain(..n);
    }
}

/// Whether keys wait.
pub fn waiting() -> bool {
    !KEYS.lock().is_empty()
}
