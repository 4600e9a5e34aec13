//! What can be typed at the console.

use alloc::format;
use alloc::string::String;
use protocol::options::{self, Share};

/// How a guest's memory is virtualized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingMode {
    /// The CPU walks a second set of tables.
    Nested,
    /// The CPU walks tables that Umbra makes from the guest's.
    Shadow,
}

/// A drive whose medium can be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drive {
    /// The CD-ROM drive.
    Cdrom,
    /// The floppy drive.
    Floppy,
}

/// What `trace` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// Keep the last exits from now on.
    On,
    /// Keep none.
    Off,
    /// Show so many.
    Last(usize),
    /// Explain the exit of this number, or the last.
    Why(Option<u64>),
}

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// Say what can be typed.
    Help,
    /// Say which VMs there are and how they are.
    List,
    /// Turn to the VM of this number.
    Vm(usize),
    /// Stop the VM; its time stops too.
    Pause,
    /// Let it run again.
    Resume,
    /// Press its reset button.
    Reset,
    /// Press its power button, of which an ACPI guest is told.
    Power,
    /// Switch it off, as if its plug were pulled.
    Off,
    /// Say which media there are.
    Media,
    /// Take the medium out of a drive, even a locked one if `force`.
    Eject {
        /// Of these.
        drive: Drive,
        /// Whatever the guest says.
        force: bool,
    },
    /// Put a medium into a drive.
    Insert {
        /// Of these.
        drive: Drive,
        /// The medium's number in the list of the drive's media. 0: the first that is out.
        number: usize,
    },
    /// Change how the guest's memory is virtualized.
    Paging(PagingMode),
    /// Change its weight, as in [`Share`].
    Weight(u32),
    /// Change its cap, likewise.
    Cap(u32),
    /// Change its warp, likewise.
    Warp(u32),
    /// Change how much of its RAM the guest is to have, in bytes; None: say how much it has.
    Balloon(Option<u64>),
    /// Start the VM of this number, which is off.
    Start(usize),
    /// Change how many virtual CPUs the guest has; None: say how many it has.
    Cpus(Option<u32>),
    /// Show what the VM does, every second until a key is pressed.
    Stats,
    /// See to the trace of its exits.
    Trace(Trace),
    /// Write the guest's picture to the log.
    Screenshot,
    /// Leave the console.
    Close,
}

/// How many exits `trace last` shows.
const LAST: usize = 10;

/// The commands with their arguments, and what each does in a few words.
pub const COMMANDS: [(&str, &str); 22] = [
    ("list", "the virtual machines and their state"),
    (
        "vm NUMBER",
        "turn to another: it gets keyboard, screen and commands",
    ),
    ("start NUMBER", "start a VM that is off"),
    ("pause", "stop the guest; its time stops with it"),
    ("resume", "let it run again"),
    ("reset", "press its reset button"),
    (
        "power",
        "press its power button: the guest shuts down by itself",
    ),
    ("off", "switch it off at once"),
    ("media", "the media for its CD-ROM and floppy drives"),
    (
        "eject [force|floppy]",
        "take the CD (`force`: a locked one) or the floppy out",
    ),
    (
        "insert [floppy] [NUM]",
        "put in a CD or a floppy: this one, or the first",
    ),
    (
        "paging nested|shadow",
        "how its memory is virtualized from now on",
    ),
    (
        "weight N",
        "its share of the CPU beside the others: 100 is usual",
    ),
    (
        "cap PERCENT|none",
        "the most it gets, in percent of one CPU",
    ),
    ("warp MS", "how much of its time it may use before its turn"),
    (
        "cpus [NUMBER]",
        "how many virtual CPUs it has; from now on so many",
    ),
    (
        "balloon [SIZE]",
        "how much memory it has; from now on so much (512M)",
    ),
    ("stats", "what it does, every second until a key is pressed"),
    (
        "trace on|off|last|why",
        "keep its exits, show the `last N`, explain one (`why N`)",
    ),
    (
        "screenshot",
        "its picture, as a PNG in base64 in Umbra's log",
    ),
    ("close", "back to the guest; as the keys that lead here"),
    ("help", "this list"),
];

/// A number of exits, or of one of them.
fn exits(text: &str) -> Result<usize, String> {
    let wrong = |_| format!("trace: {text} is no number of exits");
    text.parse().map_err(wrong)
}

impl Command {
    /// Understands a line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(line: &str) -> Result<Command, String> {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next() else {
            return Ok(Command::Nothing);
        };
        let mut argument = words.next();
        // What of a drive is said comes before the drive's own word.
        let drive = match (name, argument) {
            ("insert" | "eject", Some("floppy")) => {
                argument = words.next();
                Drive::Floppy
            }
            _ => Drive::Cdrom,
        };
        let number = match (name, argument) {
            ("trace", Some("last" | "why")) => words.next(),
            _ => None,
        };
        if let Some(word) = words.next() {
            return Err(format!("{name}: {word} is one word too many"));
        }
        let command = match (name, argument) {
            ("help" | "?", None) => Command::Help,
            ("list", None) => Command::List,
            ("vm", Some(number)) if number.parse().is_ok_and(|n: usize| n > 0) => {
                Command::Vm(number.parse().unwrap_or_default())
            }
            ("start", Some(number)) if number.parse().is_ok_and(|n: usize| n > 0) => {
                Command::Start(number.parse().unwrap_or_default())
            }
            ("pause", None) => Command::Pause,
            ("resume", None) => Command::Resume,
            ("reset", None) => Command::Reset,
            ("power", None) => Command::Power,
            ("off", None) => Command::Off,
            ("media", None) => Command::Media,
            ("eject", None) => Command::Eject {
                drive,
                force: false,
            },
            ("eject", Some("force")) if drive == Drive::Cdrom => {
                Command::Eject { drive, force: true }
            }
            ("insert", None) => Command::Insert { drive, number: 0 },
            ("insert", Some(number)) => match number.parse() {
                Ok(number @ 1..) => Command::Insert { drive, number },
                _ => {
                    return Err(format!(
                        "insert: {number} is not the number of a medium; `media` has them"
                    ));
                }
            },
            ("paging", Some("nested")) => Command::Paging(PagingMode::Nested),
            ("paging", Some("shadow")) => Command::Paging(PagingMode::Shadow),
            ("weight" | "cap" | "warp", Some(value)) => {
                let mut share = Share::default();
                let taken = share.take(name, value);
                taken.map_err(|why| format!("{name}: {why}"))?;
                match name {
                    "weight" => Command::Weight(share.weight),
                    "cap" => Command::Cap(share.cap),
                    _ => Command::Warp(share.warp),
                }
            }
            ("cpus", None) => Command::Cpus(None),
            ("cpus", Some(number)) if number.parse().is_ok_and(|n: u32| n > 0) => {
                Command::Cpus(number.parse().ok())
            }
            ("balloon", None) => Command::Balloon(None),
            ("balloon", Some(size)) => match options::size(size) {
                Some(bytes) => Command::Balloon(Some(bytes)),
                None => {
                    return Err(format!(
                        "balloon: {size} is no size from 32M on, as 512M is"
                    ));
                }
            },
            ("stats", None) => Command::Stats,
            ("trace", Some("on")) => Command::Trace(Trace::On),
            ("trace", Some("off")) => Command::Trace(Trace::Off),
            ("trace", Some("last")) => Command::Trace(Trace::Last(match number {
                None => LAST,
                Some(number) => exits(number)?.max(1),
            })),
            ("trace", Some("why")) => {
                let number = number.map(exits).transpose()?;
                Command::Trace(Trace::Why(number.map(|number| number as u64)))
            }
            ("screenshot", None) => Command::Screenshot,
            ("close" | "exit" | "quit", None) => Command::Close,
            _ => {
                let known = COMMANDS
                    .iter()
                    .find(|(usage, _)| usage.split(' ').next() == Some(name));
                return Err(match known {
                    Some((usage, _)) => format!("it is: {usage}"),
                    None => format!("there is no command {name}; `help` lists them"),
                });
            }
        };
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_list_is_understood() {
        for (usage, _) in COMMANDS {
            let name = usage.split(' ').next().unwrap();
            let line = match name {
                "paging" => "paging shadow",
                "vm" => "vm 2",
                "start" => "start 2",
                "weight" => "weight 300",
                "cap" => "cap none",
                "warp" => "warp 20",
                "trace" => "trace on",
                name => name,
            };
            assert!(Command::parse(line).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_list_fits_on_the_screen() {
        for (usage, what) in COMMANDS {
            assert!(
                usage.len() < 23 && 23 + what.len() < crate::COLUMNS,
                "{usage}"
            );
        }
        // With the lines where it was asked for, and where the next is.
        assert!(COMMANDS.len() + 2 < crate::ROWS);
    }

    #[test]
    fn arguments_are_checked() {
        let (cd, floppy) = (Drive::Cdrom, Drive::Floppy);
        for (line, drive, number) in [
            ("  insert  2 ", cd, 2),
            ("insert", cd, 0),
            ("insert floppy", floppy, 0),
            ("insert floppy 3", floppy, 3),
        ] {
            assert_eq!(Command::parse(line), Ok(Command::Insert { drive, number }));
        }
        for (line, drive, force) in [
            ("eject", cd, false),
            ("eject force", cd, true),
            ("eject floppy", floppy, false),
        ] {
            assert_eq!(Command::parse(line), Ok(Command::Eject { drive, force }));
        }
        for (line, command) in [
            ("", Command::Nothing),
            ("weight 300", Command::Weight(300)),
            ("cap 20", Command::Cap(20)),
            ("cap none", Command::Cap(0)),
            ("warp 0", Command::Warp(0)),
        ] {
            assert_eq!(Command::parse(line), Ok(command));
        }
        for (line, trace) in [
            ("trace off", Trace::Off),
            ("trace last", Trace::Last(LAST)),
            ("trace last 3", Trace::Last(3)),
            ("trace why", Trace::Why(None)),
            ("trace why 0", Trace::Why(Some(0))),
        ] {
            assert_eq!(Command::parse(line), Ok(Command::Trace(trace)));
        }
        assert_eq!(Command::parse("start 3"), Ok(Command::Start(3)));
        let half = Command::Balloon(Some(512 << 20));
        assert_eq!(Command::parse("balloon 512M"), Ok(half));
        assert_eq!(Command::parse("balloon"), Ok(Command::Balloon(None)));
        assert_eq!(Command::parse("cpus"), Ok(Command::Cpus(None)));
        assert_eq!(Command::parse("cpus 4"), Ok(Command::Cpus(Some(4))));
        for (line, part) in [
            ("insert 0", "not the number"),
            ("insert x", "not the number"),
            ("eject now", "eject [force"),
            ("eject floppy force", "eject [force"),
            ("insert floppy x", "not the number"),
            ("insert floppy 1 2", "too many"),
            ("paging", "nested|shadow"),
            ("list 1", "it is: list"),
            ("vm", "vm NUMBER"),
            ("vm 0", "vm NUMBER"),
            ("start", "start NUMBER"),
            ("balloon 512", "no size"),
            ("balloon 1M", "no size"),
            ("balloon 512M now", "too many"),
            ("cpus 0", "cpus [NUMBER]"),
            ("cpus -1", "cpus [NUMBER]"),
            ("vm x", "vm NUMBER"),
            ("paging nested 1", "too many"),
            ("weight", "weight N"),
            ("weight 0", "weight: it is a number from 1 to 10000"),
            ("cap 20%", "cap: it is a percentage"),
            ("warp -1", "warp: it is a number of milliseconds"),
            ("trace", "trace on|off"),
            ("trace now", "trace on|off"),
            ("trace last x", "no number"),
            ("trace last 1 2", "too many"),
            ("trace why x", "no number"),
            ("fly", "no command fly"),
        ] {
            let why = Command::parse(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}
