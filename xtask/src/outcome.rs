//! How the tool ends: the exit codes that scripts rely on, as error values.
//!
//! 0 is success, 1 a run or build that failed, 2 a command that cannot be carried out as given, 130 an interruption.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The command cannot be carried out as given: exit code 2, before anything boots.
#[derive(Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// The person at the keyboard, or whoever started the tool, wants it to end: exit code 130.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A failure that has been told already: exit code 1.
#[derive(Debug)]
pub struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Told {}

/// Returns with a [`Refused`] that has the formatted sentence.
macro_rules! refuse {
    ($($sentence:tt)*) => { return Err($crate::outcome::Refused(format!($($sentence)*)).into()) };
}
pub(crate) use refuse;

static STOP: AtomicBool = AtomicBool::new(false);

/// Takes Ctrl-C and the termination signals; from then on they are seen through [`interrupted`].
///
/// # Errors
///
/// The system does not let us handle signals.
pub fn watch_signals() -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?)
}

/// Whether the tool was told to stop.
pub fn interrupted() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if interrupted() || error.is::<Interrupted>() {
        130
    } else if error.is::<Refused>() {
        2
    } else {
        1
    }
}
