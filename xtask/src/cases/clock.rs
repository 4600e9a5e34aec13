//! How well a guest keeps time by Microsoft's interface: against this computer's clock, and over a pause.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Case, by_hand, interfaces, keys, own, until};
use crate::cpio::Archive;
use crate::guests::Guest;
use crate::media;
use crate::run::{self, Options};
use crate::script::Step;
use crate::vm::Vm;

/// What the guest does: it says the kernel's clock, monotonic and in nanoseconds, again and again.
const SCRIPT: &str = "\
while true; do
    sed -n '/^now at/{s/^now at \\([0-9]*\\) nsecs/GUEST-NOW \\1/p;q}' /proc/timer_list
    sleep 0.2
done
";
/// What it says before that.
const SAYS: &str = "GUEST-NOW ";
/// How long the clocks are compared, and how long the machine is paused then.
const TIME: Duration = Duration::from_secs(130);
const PAUSE: Duration = Duration::from_secs(8);
/// What comes late says nothing of a clock: at either end the promptest line of so long counts.
const END: f64 = 25.0;
/// The bound, in millionths.
const BOUND: f64 = 50.0;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    const OLD: &[Guest] = &[Guest::CloudKernel, Guest::CloudInitrd];
    const NEW: &[Guest] = &[Guest::Cloud13Kernel, Guest::Cloud13Initrd];
    let clock = |name, guests, procedure| {
        by_hand(Case {
            profile: interfaces::windows(),
            ..own(name, guests, procedure, 256, 600)
        })
    };
    vec![
        clock("hyperv-keeps-time", OLD, |case, umbra, scratch| {
            compare(Guest::CloudKernel, case, umbra, scratch)
        }),
        clock(
            "hyperv-keeps-time-of-debian-13",
            NEW,
            |case, umbra, scratch| compare(Guest::Cloud13Kernel, case, umbra, scratch),
        ),
    ]
}

/// When a line came, and the guest's time that it names, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment {
    host: f64,
    guest: f64,
}

impl Moment {
    fn lag(self) -> f64 {
        self.host - self.guest
    }
}

fn compare(guest: Guest, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let console = "\\{ctrl-alt-esc}";
    let script = vec![
        until(SAYS),
        Step::Sleep(TIME),
        keys(console),
        until("umbra>"),
        keys("pause\\n"),
        until("paused"),
        Step::Sleep(PAUSE),
        keys("resume\\n"),
        Step::Sleep(Duration::from_secs(5)),
    ];
    let initrd = guest.initrd().context("the kernel has no RAM disk")?;
    let mut archive = Archive::default();
    archive.program("storage.sh", SCRIPT.as_bytes());
    let initrd = initrd.with_more(archive, scratch)?;
    let options = Options {
        script,
        timeout: Some(Duration::from_secs(case.timeout)),
        ..Options::headless(Vm {
            memory: case.memory,
            profile: case.profile,
            initrd: Some(media::open_initrd(&initrd)?),
            cmdline: "console=ttyS0 quiet umbra.then=storage".to_owned(),
            ..Vm::of(&guest.provide()?)?
        })
    };
    let start = Instant::now();
    let (mut text, mut moments) = (Vec::new(), Vec::new());
    let run = run::execute(&options, umbra, case.name, &mut |bytes| {
        let host = start.elapsed().as_secs_f64();
        for &byte in bytes {
            match byte {
                b'\n' => moments.extend(moment(host, &std::mem::take(&mut text))),
                _ => text.push(byte),
            }
        }
    })?;
    run.summary.result?;
    let pause = moments
        .windows(2)
        .position(|pair| gap(pair, |m| m.host) >= 0.9 * PAUSE.as_secs_f64())
        .context("the pause is not seen")?;
    let (before, after) = moments.split_at(pause + 1);
    let drift = drift(before).context("too few lines")?;
    let across = gap(&moments[pause..pause + 2], |m| m.guest);
    eprintln!(
        "{}: {:+.1} in a million against the host's clock over {:.0} s ({} lines); over a pause of {:.1} s its clock went on by {across:.2} s",
        case.name,
        -drift * 1e6,
        gap(&[before[0], before[pause]], |m| m.host),
        before.len(),
        gap(&moments[pause..pause + 2], |m| m.host),
    );
    ensure!(
        (drift * 1e6).abs() < BOUND,
        "the clocks drift apart by {:.1} in a million",
        drift * 1e6
    );
    ensure!(
        (0.0..2.0).contains(&across),
        "the clock jumped by {across:.2} s over the pause"
    );
    ensure!(
        !after.is_empty() && moments.windows(2).all(|pair| gap(pair, |m| m.guest) > 0.0),
        "the clock went back"
    );
    Ok(())
}

/// What a line of the guest says, which came at `host`.
fn moment(host: f64, line: &[u8]) -> Option<Moment> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, nanoseconds) = line.split_once(SAYS)?;
    let guest = nanoseconds.trim().parse::<f64>().ok()? / 1e9;
    Some(Moment { host, guest })
}

fn gap(pair: &[Moment], of: impl Fn(Moment) -> f64) -> f64 {
    match pair {
        [a, b] => of(*b) - of(*a),
        _ => 0.0,
    }
}

/// How much the guest's clock falls behind in a second.
fn drift(moments: &[Moment]) -> Option<f64> {
    let (first, last) = (moments.first()?.host, moments.last()?.host);
    let prompt = |within: &dyn Fn(f64) -> bool| {
        let some = moments.iter().filter(|m| within(m.host));
        some.copied().min_by(|a, b| a.lag().total_cmp(&b.lag()))
    };
    let begin = prompt(&|host| host < first + END)?;
    let end = prompt(&|host| host > last - END)?;
    let time = end.host - begin.host;
    (time > END).then(|| (end.lag() - begin.lag()) / time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_late_do_not_count() {
        let clock = |rate: f64| -> Vec<Moment> {
            let late = |n: u32| f64::from(n * 7919 % 97) / 97.0;
            let moments = (0..400u32).map(|n| {
                let time = f64::from(n) / 3.0;
                Moment {
                    host: time + late(n),
                    guest: 5.0 + time * rate,
                }
            });
            moments.collect()
        };
        for rate in [1.0, 0.99, 1.01] {
            let drift = drift(&clock(rate)).unwrap();
            assert!((drift - (1.0 - rate)).abs() < 1e-3, "{rate}: {drift}");
        }
        assert_eq!(drift(&clock(1.0)[..3]), None);
    }

    #[test]
    fn a_line_names_nanoseconds() {
        let found = moment(3.0, b"GUEST-NOW 1500000000\r").unwrap();
        assert_eq!(found.guest, 1.5);
        assert_eq!(moment(3.0, b"GUEST-NOW 15x"), None);
        assert_eq!(moment(3.0, b"GUEST-UP"), None);
    }
}
