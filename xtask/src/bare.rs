//! A guest without Umbra: QEMU boots its CD itself and follows the same script, so that its own VGA shows what is to be seen.
//!
//! The machine is the one that Umbra's guest has, as far as pictures go: QEMU's standard VGA and the same firmware, the CD on the
//! second IDE channel. Texts are looked for on COM1 and on a text screen of 80 by 25 characters.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::control::{Picture, TextScreen};
use crate::emulator::{Channel, Emulator};
use crate::keys;
use crate::monitor::Monitor;
use crate::mouse::{self, Hand, Motion};
use crate::outcome::{Interrupted, interrupted};
use crate::paths;
use crate::rig::{Boot, Machine, Network, QEMU_SVM};
use crate::screen::write_png;
use crate::script::{Step, Watch};
use crate::session::{CLICK_PAUSE, KEY_PAUSE, STRIDE_PAUSE};

/// The text screen's memory, and its size.
const TEXT: u64 = 0xb_8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// How often the machine is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a picture has to become the one that is expected: the guest finishes drawing, what blinks does so, and a guest whose
/// screen stood still while it was busy goes on.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running machine without Umbra.
struct Bare {
    monitor: Monitor,
    watch: Watch,
    /// What the guest says on COM1, and how much of it was read.
    console: PathBuf,
    read: usize,
    hand: Hand,
    deadline: Instant,
    _emulator: Box<dyn Emulator>,
    _channel: Channel,
}

/// Boots the CD `cd` with `memory` bytes in QEMU alone, follows `script`, and compares what its VGA shows at each picture of the
/// script with `pictures`, those of a run in Umbra.
///
/// # Errors
///
/// The machine does not do what the script waits for in `timeout`, or shows something else. Both pictures are kept then.
pub fn compare(
    name: &str,
    cd: &Path,
    memory: u64,
    script: &[Step],
    pictures: &[Picture],
    timeout: Duration,
) -> Result<()> {
    let mut bare = Bare::start(name, cd, memory, script, timeout)?;
    let mut pictures = pictures.iter();
    let mut number = 0;
    for step in script {
        match step {
            Step::Until(text) => bare.until(text)?,
            Step::Type(text) => {
                for key in keys::scancodes(text)? {
                    bare.monitor.press(&key)?;
                    sleep(KEY_PAUSE);
                }
            }
            Step::Focus(number) => ensure!(*number == 1, "a bare machine is one machine"),
            Step::Mouse(words) => {
                for movement in mouse::movements(words, &mut bare.hand)? {
                    bare.mouse(movement)?;
                }
            }
            Step::Steady(time) => bare.steady(*time)?,
            Step::Sleep(time) => sleep(*time),
            Step::UntilPixel(_) | Step::UntilPicture(_) => {
                bail!("what is to be compared waits for texts")
            }
            Step::Picture { blinks } => {
                for picture in pictures.by_ref().take(if *blinks { 2 } else { 1 }) {
                    number += 1;
                    let kept = paths::logs().join(format!("{name}-{number}"));
                    bare.shows(picture, &kept)
                        .with_context(|| format!("picture {number}"))?;
                }
            }
        }
    }
    ensure!(number > 0, "no picture was compared");
    ensure!(pictures.next().is_none(), "a picture was not compared");
    Ok(())
}

impl Bare {
    fn start(
        name: &str,
        cd: &Path,
        memory: u64,
        script: &[Step],
        timeout: Duration,
    ) -> Result<Bare> {
        let machine = Machine {
            rig: QEMU_SVM,
            cpu_model: QEMU_SVM.usual_model().to_owned(),
            cpus: 1,
            memory,
            boot: Boot::Cd {
                path: cd.to_owned(),
                firmware: None,
            },
            drives: Vec::new(),
            network: Network::default(),
            remains: None,
            snapshot: false,
            icount: false,
            display: None,
            tablet: false,
        };
        let console = paths::new_log(&format!("{name}-bare"))?;
        let mut emulator = machine.rig.start(&machine, &console)?;
        Ok(Bare {
            _channel: emulator.connect()?,
            monitor: emulator.monitor()?.context("there is no monitor")?,
            watch: Watch::new(script),
            console,
            read: 0,
            hand: Hand::default(),
            deadline: Instant::now() + timeout,
            _emulator: emulator,
        })
    }

    /// Waits for `text`.
    fn until(&mut self, text: &str) -> Result<()> {
        loop {
            let console = fs::read(&self.console).unwrap_or_default();
            self.watch
                .console(console.get(self.read..).unwrap_or_default());
            self.read = console.len();
            let cells = self.monitor.memory(TEXT, 2 * COLUMNS * ROWS)?;
            self.watch.screen(TextScreen {
                cols: COLUMNS,
                rows: ROWS,
                cells: cells.into_iter().step_by(2).collect(),
            });
            if self.watch.take(text) {
                return Ok(());
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            if Instant::now() >= self.deadline {
                bail!(
                    "\"{text}\" did not appear without Umbra; the screen:\n{}",
                    self.watch.screen_rows().join("\n")
                );
            }
            sleep(LOOK);
        }
    }

    /// Waits until the screen has not changed for `time`.
    fn steady(&mut self, time: Duration) -> Result<()> {
        let mut last = self.monitor.screen()?;
        let mut since = Instant::now();
        while since.elapsed() < time {
            if interrupted() {
                return Err(Interrupted.into());
            }
            ensure!(
                Instant::now() < self.deadline,
                "the screen without Umbra never stands still"
            );
            sleep(LOOK);
            let picture = self.monitor.screen()?;
            if picture != last {
                last = picture;
                since = Instant::now();
            }
        }
        Ok(())
    }

    fn mouse(&mut self, motion: Motion) -> Result<()> {
        let Motion::By(mouse) = motion else {
            bail!("what is to be compared has no tablet")
        };
        self.monitor.mouse(mouse)?;
        sleep(if motion.is_still() {
            CLICK_PAUSE
        } else {
            STRIDE_PAUSE
        });
        Ok(())
    }

    /// Waits until the screen is `expected`; `kept` is where both pictures go if it never is.
    fn shows(&mut self, expected: &Picture, kept: &Path) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut nearest: Option<(usize, Picture)> = None;
        loop {
            let seen = self.monitor.screen()?;
            let off = different(&seen, expected);
            if off == 0 {
                return Ok(());
            }
            if nearest.as_ref().is_none_or(|(least, _)| off < *least) {
                nearest = Some((off, seen));
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            if Instant::now() >= end {
                break;
            }
            sleep(LOOK);
        }
        let (off, seen) = nearest.context("there is no picture")?;
        let name = |who| kept.with_extension(format!("{who}.png"));
        write_png(&name("umbra"), expected)?;
        write_png(&name("qemu"), &seen)?;
        bail!(
            "{off} pixels of {}x{} differ from QEMU's {}x{}: {} and {}",
            expected.width,
            expected.height,
            seen.width,
            seen.height,
            name("umbra").display(),
            name("qemu").display()
        )
    }
}

/// How many pixels differ; all, if the sizes do.
fn different(one: &Picture, other: &Picture) -> usize {
    if (one.width, one.height) != (other.width, other.height) {
        return one.rgb.len().max(other.rgb.len()) / 3;
    }
    let pixels = one.rgb.chunks_exact(3).zip(other.rgb.chunks_exact(3));
    pixels.filter(|(a, b)| a != b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_other_sizes_differ_everywhere() {
        let picture = |width, rgb: &[u8]| Picture {
            width,
            height: 1,
            rgb: rgb.to_vec(),
        };
        let one = picture(2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(different(&one, &one), 0);
        assert_eq!(different(&one, &picture(2, &[1, 2, 3, 4, 5, 7])), 1);
        assert_eq!(different(&one, &picture(1, &[1, 2, 3])), 2);
    }
}
