//! How Umbra ends when it has failed: a panic on any of the host's CPUs, whatever the others do and whatever locks are held.
//!
//! The CPU that fails first stops the others and waits until they have stopped. Then ports, screen and control channel are its alone. It takes
//! no lock and no memory. What is to be done is a row of steps, and each is begun once: a panic in one of them leads on to the next.

use crate::{control, host_cpu, logger, screen, smp};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use protocol::MAX_SENTENCE;

/// The number of the CPU that has failed first.
static FAILED: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;
/// The step that comes next.
static NEXT: AtomicUsize = AtomicUsize::new(0);

const STEPS: [fn(&Failure<'_>); 5] = [
    |_| smp::stop_others(),
    |failure| logger::emergency(format_args!("\n*** Umbra has failed: {failure}\n")),
    |_| {
        for cpu in smp::running() {
            logger::emergency(format_args!("host CPU {cpu} does not stop\n"));
        }
        logger::emergency(format_args!("Umbra has stopped\n"));
    },
    |failure| screen::failure(failure),
    |failure| control::failed(Sentence::of(failure).text()),
];

/// What has failed, and on which of the host's CPUs.
struct Failure<'a> {
    cpu: usize,
    panic: &'a PanicInfo<'a>,
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host CPU {} {}", self.cpu, self.panic)
    }
}

// When the whole workspace is documented, some host tool's features bring `std` and its handler in.
#[cfg_attr(not(doc), panic_handler)]
fn panic(panic: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    let cpu = host_cpu::number();
    let first = FAILED.compare_exchange(NOBODY, cpu, Ordering::SeqCst, Ordering::SeqCst);
    let again = match first {
        Ok(_) => false,
        Err(failed) if failed == cpu => true,
        // Another CPU tells already.
        Err(_) => smp::stop(),
    };
    let failure = Failure { cpu, panic };
    let mut told = !again;
    while let Some(step) = STEPS.get(NEXT.fetch_add(1, Ordering::SeqCst)) {
        if !told {
            told = true;
            logger::emergency(format_args!("\n*** while that was told: {failure}\n"));
        }
        step(&failure);
    }
    smp::stop()
}

/// A sentence of one line, in memory of its own.
struct Sentence {
    bytes: [u8; MAX_SENTENCE],
    len: usize,
}

impl Sentence {
    fn of(what: &impl fmt::Display) -> Self {
        let mut sentence = Self {
            bytes: [0; MAX_SENTENCE],
            len: 0,
        };
        // What has no room is cut.
        let _ = write!(sentence, "{what}");
        sentence
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Sentence {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            let c = if c == '\n' { ' ' } else { c };
            let room = self.bytes[self.len..].get_mut(..c.len_utf8());
            self.len += c.encode_utf8(room.ok_or(fmt::Error)?).len();
        }
        Ok(())
    }
}
