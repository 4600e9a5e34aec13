//! The driver of the host's ATA drives, before drives that answer anything.

use crate::feed::Feed;
use ata::{DmaBuffer, Host, Location, probe};
use hv_core::testing::VecDeviceRam;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The accesses to ports after which the driver has to have given up: it waits for each answer for a while, and tries thrice.
const MOST: u64 = 2_000_000;

/// A machine whose ports read what the bytes say, mostly such as keeps the driver going.
struct Drives {
    bytes: Arc<Mutex<(Vec<u8>, usize)>>,
    now: u64,
    accesses: Arc<AtomicU64>,
}

impl Drives {
    fn count(&mut self) {
        let accesses = self.accesses.fetch_add(1, Ordering::Relaxed);
        assert!(accesses < MOST, "the driver does not come to an end");
        self.now += 20_000;
    }

    /// The next decisions, from the beginning again when all are used up.
    fn feed<T>(&self, n: usize, decide: impl FnOnce(&mut Feed<'_>) -> T) -> T {
        let (bytes, at) = &mut *self.bytes.lock().expect("nothing panics with it");
        if *at + n > bytes.len() {
            *at = 0;
        }
        let end = bytes.len().min(*at + n);
        let result = decide(&mut Feed::new(&bytes[*at..end]));
        *at = end;
        result
    }
}

impl Host for Drives {
    fn in8(&mut self, port: u16) -> u8 {
        self.count();
        self.feed(3, |f| match port & 7 {
            7 if f.below(8) != 1 => f.pick(&[0x50, 0x58, 0x58, 0x50, 0xd0, 0x51, 0x08, 0x00]),
            2 if f.below(8) != 1 => f.pick(&[0x55, 0x55, 0x01, 0x02, 0x03, 0x00]),
            3 if f.below(8) != 1 => 0xaa,
            4 | 5 if f.below(4) != 1 => f.pick(&[0, 0x14, 0xeb, 8, 1]),
            _ => f.u8(),
        })
    }
    fn out8(&mut self, _port: u16, _value: u8) {
        self.count();
    }
    fn out32(&mut self, _port: u16, _value: u32) {
        self.count();
    }
    fn in16s(&mut self, _port: u16, buf: &mut [u8]) {
        self.count();
        self.feed(64, |f| {
            let kind = f.below(4);
            for (byte, given) in buf.iter_mut().zip(f.rest().iter().cycle()) {
                *byte = *given;
            }
            if buf.len() == 512 && kind != 1 {
                // Mostly a drive: LBA, DMA, no checksum.
                buf[0] = 0xc0;
                buf[1] = if kind == 0 { 0 } else { 0x85 };
                buf[99] |= 3;
                buf[510] = 0;
            }
        });
    }
    fn out16s(&mut self, _port: u16, _buf: &[u8]) {
        self.count();
    }
    fn now(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// What drives answer while they are found, opened, read and written.
///
/// # Panics
/// The driver does not come to an end.
pub fn ata(data: &[u8]) {
    answered(data);
}

/// The same. Returns how many drives were found, and how many of them could be opened.
fn answered(data: &[u8]) -> (usize, usize) {
    let (mut found, mut opened) = (0, 0);
    let drives = Drives {
        bytes: Arc::new(Mutex::new((data.to_vec(), 0))),
        now: 0,
        accesses: Arc::default(),
    };
    let at = Location {
        command: 0x1f0,
        control: 0x3f6,
        bus_master: Some(0xc000),
    };
    for drive in probe(drives, at) {
        found += 1;
        let ram = Arc::new(VecDeviceRam::new(DmaBuffer::SIZE));
        let buffer = || DmaBuffer::new(ram.clone(), 0x10_0000);
        let Ok(mut drive) = drive.open(false, buffer) else {
            continue;
        };
        opened += 1;
        let sectors = drive.sectors();
        let mut buf = [0; 16 * 512];
        for turn in 0..3 {
            let sector = sectors / 3 * turn;
            let n = (sectors - sector).min(16) as usize;
            let _ = drive.read(sector, &mut buf[..n * 512]);
            let _ = drive.write(sector, &buf[..n * 512]);
            let _ = drive.flush();
        }
    }
    (found, opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    #[test]
    fn whatever_drives_answer_the_driver_comes_to_an_end() {
        let mut random = Random::from_env("UMBRA_SEED", 0x2019);
        let (mut found, mut opened) = (0, 0);
        for _ in 0..200 {
            let mut data = [0; 1024];
            random.fill(&mut data);
            let (more, open) = answered(&data);
            (found, opened) = (found + more, opened + open);
        }
        assert!(found > 5 && opened > 1, "{found} found, {opened} opened");
    }
}
