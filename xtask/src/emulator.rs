//! An emulator as the outer machine: its process, its temporary files, and the byte streams to Umbra.
//!
//! What differs between emulators is behind [`Emulator`], and which there are is told in [`rig`](crate::rig).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use crate::monitor::Monitor;
use crate::outcome::{Interrupted, Refused, interrupted, refuse};

/// How long an emulator has to open its control channel.
const START: Duration = Duration::from_secs(30);

/// A running emulator; it ends when this value goes.
pub trait Emulator {
    /// Connects to the control channel, or without Umbra to the machine's COM1.
    ///
    /// # Errors
    ///
    /// The emulator ended first, with its own words for why.
    fn connect(&mut self) -> Result<Channel>;

    /// The emulator's monitor, where Umbra itself shows the guest and takes the keys.
    ///
    /// # Errors
    ///
    /// It does not answer.
    fn monitor(&self) -> Result<Option<Monitor>>;

    /// The instructions that passed before a system without Umbra was entered, as far as the emulator tells.
    ///
    /// # Errors
    ///
    /// It should have told and has not.
    fn entered(&self) -> Result<u64>;

    /// What the emulator has had to complain about.
    fn complaints(&mut self) -> String;

    /// Its process.
    fn process(&self) -> &Process;
}

/// The two byte streams between the tool and Umbra.
pub struct Channel {
    /// From Umbra.
    pub from: Box<dyn Read + Send>,
    /// To Umbra.
    pub to: Sender,
}

impl Channel {
    /// A channel over one stream for both directions, of which `clone` is a second handle.
    pub fn over<S: Read + Write + Send + 'static>(stream: S, clone: S) -> Channel {
        Channel {
            from: Box::new(stream),
            to: Sender::new(clone),
        }
    }
}

/// The way to Umbra, which several threads may use.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<dyn Write + Send>>);

impl Sender {
    /// Sends to `stream`.
    pub fn new(stream: impl Write + Send + 'static) -> Sender {
        Sender(Arc::new(Mutex::new(stream)))
    }

    /// Sends all of `bytes`, with nothing of another thread's between them.
    ///
    /// # Errors
    ///
    /// The stream is closed or broken.
    pub fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stream = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.write_all(bytes)
    }
}

/// An emulator's process with the temporary files around it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    directory: TempDir,
    start: Instant,
    name: String,
}

impl Process {
    /// Starts the program `name` with `arguments` and `directory`, which holds its files and becomes its working directory. Its
    /// standard output is taken if `output`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(
        name: &str,
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
        directory: TempDir,
        output: bool,
    ) -> Result<Process> {
        let errors = fs::File::create(directory.path().join("errors"))?;
        let child = tied_to_us(name)
            .args(arguments)
            .current_dir(directory.path())
            // Ctrl-C is for the tool alone, which then ends the emulator.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(if output {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process {
            child,
            directory,
            start: Instant::now(),
            name: name.to_owned(),
        })
    }

    /// Tries `attempt` again and again until it gives something.
    ///
    /// # Errors
    ///
    /// The process ended first, the time was over, or the tool was interrupted.
    pub fn await_start<T>(&mut self, mut attempt: impl FnMut(&Path) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = attempt(self.directory.path()) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status})", self.name);
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            if self.start.elapsed() > START {
                bail!(
                    "{} did not open its control channel within {} seconds",
                    self.name,
                    START.as_secs()
                );
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Its standard output, once.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Whether it has ended by itself. One that has closed its streams is given a moment.
    pub fn has_ended(&mut self) -> bool {
        for _ in 0..20 {
            match self.child.try_wait() {
                Ok(None) => sleep(Duration::from_millis(10)),
                _ => return true,
            }
        }
        false
    }

    /// What it wrote to its standard error.
    pub fn errors(&self) -> String {
        let bytes = fs::read(self.directory.path().join("errors")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What reads `file`, to which the process writes, up to its end. The file may be a pipe that does not block.
    pub fn tail(&self, file: fs::File) -> Tail {
        Tail {
            file,
            stat: PathBuf::from(format!("/proc/{}/stat", self.child.id())),
        }
    }

    /// Its CPU time so far, in seconds of user and system time.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name in brackets may have spaces; user and system time are fields 14 and 15 (proc(5)), in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / 100.0)
    }
}

/// A file that a process is still writing.
#[derive(Debug)]
pub struct Tail {
    file: fs::File,
    /// Where the system tells the process's state.
    stat: PathBuf,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            // The state is older than what is read, so that nothing is missed at the end.
            let ended = fs::read_to_string(&self.stat).map_or(true, |stat| has_ended(&stat));
            match self.file.read(buffer) {
                Ok(0) if !ended => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a process that has this `stat` (proc(5)) is a zombie or dead.
fn has_ended(stat: &str) -> bool {
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program of an emulator: what the environment variable `variable` names, or what is installed as `usual`.
pub fn program(variable: &str, usual: &str) -> String {
    let named = std::env::var(variable).ok().filter(|path| !path.is_empty());
    let path = named.and_then(|path| Some(std::path::absolute(path).ok()?.to_str()?.to_owned()));
    path.unwrap_or_else(|| usual.to_owned())
}

/// A command that the system ends with us where it can do that.
fn tied_to_us(program: &str) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", program]);
        command
    } else {
        Command::new(program)
    }
}

/// A directory whose path can stand in any emulator's options.
///
/// # Errors
///
/// It cannot be made.
pub fn temporary_directory() -> Result<TempDir> {
    let usual = std::env::temp_dir();
    // The path of a socket may have 107 bytes.
    let plain = |path: &Path| {
        path.to_str()
            .is_some_and(|text| text.len() < 60 && !text.contains([' ', ',', '"', '$']))
    };
    let parent = if plain(&usual) {
        usual
    } else {
        PathBuf::from("/tmp")
    };
    tempfile::Builder::new()
        .prefix("umbra-")
        // Sockets and pipes to the machine are in it.
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .context("cannot make a temporary directory")
}

/// An error followed by the emulator's own words, if it has any.
pub fn with_words(error: anyhow::Error, words: &str) -> anyhow::Error {
    if words.is_empty() || error.is::<Refused>() || error.is::<Interrupted>() {
        error
    } else {
        anyhow!("{error}\n{words}")
    }
}

/// Checks that windows can be shown here.
///
/// # Errors
///
/// A [`Refused`] when they cannot.
pub fn window_system() -> Result<()> {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !has("DISPLAY") && !has("WAYLAND_DISPLAY") {
        refuse!(
            "there is no window system here (neither DISPLAY nor WAYLAND_DISPLAY is set); use --headless"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_end_of_the_process_that_writes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        fs::write(&path, "").unwrap();
        let script = format!(
            "sleep 0.1; echo one > {0}; sleep 0.1; echo two >> {0}",
            path.display()
        );
        let arguments = ["-c".into(), script.into()];
        let process =
            Process::start("sh", arguments, temporary_directory().unwrap(), false).unwrap();
        let mut text = String::new();
        let file = fs::File::open(&path).unwrap();
        process.tail(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    /// QEMU's sockets are there: whoever could open them would be the tool to Umbra, or have QEMU's monitor.
    #[test]
    fn the_files_of_an_emulator_are_nobody_elses() {
        let directory = temporary_directory().unwrap();
        let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(has_ended("7 (a (b) c) Z 1 7"));
        assert!(!has_ended("7 (qemu) S 1 7"));
        assert!(has_ended(""));
    }
}
