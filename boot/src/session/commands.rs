//! What the console's commands do.

use super::console::Watch;
use super::{Session, State};
use crate::clock;
use alloc::string::String;
use alloc::vec::Vec;
use console::{COMMANDS, Command, PagingMode};
use core::fmt::Write;
use device_model::ide::CDROM;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::exit::ExitReason;
use hv_core::mmu::Mmu;

/// How often the statistics are shown.
const INTERVAL: VmTime = VmTime::from_millis(1000);
/// Reasons of exits that are shown.
const REASONS: usize = 14;

/// Writes a line to the console.
macro_rules! say {
    ($session:expr, $($text:tt)*) => {{
        let _ = writeln!($session.console, $($text)*);
    }};
}

impl<B: VcpuBackend> Session<B> {
    /// Does what has been asked for at the console.
    pub(super) fn execute(&mut self, command: Command) {
        match command {
            Command::Nothing => {}
            Command::Help => {
                for (usage, what) in COMMANDS {
                    say!(self, "{usage:22} {what}");
                }
            }
            Command::List => self.list(),
            Command::Pause => match self.state {
                State::Running => {
                    self.pause();
                    say!(self, "paused");
                }
                State::Paused(_) => say!(self, "it is paused already"),
                State::Off => say!(self, "it is off"),
            },
            Command::Resume => match self.state {
                State::Running => say!(self, "it runs"),
                State::Paused(_) => {
                    self.resume();
                    say!(self, "running");
                }
                State::Off => say!(self, "it is off; `reset` starts it"),
            },
            Command::Reset => {
                self.resume();
                if self.state == State::Off {
                    self.guest.cpu.resume();
                    self.state = State::Running;
                }
                say!(self, "reset");
                self.reset("reset from the console");
            }
            Command::Power => {
                if self.state == State::Off {
                    say!(self, "it is off; `reset` starts it");
                } else {
                    self.resume();
                    self.guest.pm.lock().press_power_button();
                    let now = self.guest.cpu.now();
                    self.guest.cpu.bus.wake_at(now);
                    say!(self, "pressed; a guest with ACPI shuts down by itself");
                }
            }
            Command::Off => {
                if self.state == State::Off {
                    say!(self, "it is off");
                } else {
                    log::info!("the guest was switched off from the console");
                    say!(self, "off");
                    self.switched_off("poweroff");
                }
            }
            Command::Media => self.list_media(),
            Command::Eject { force } => self.eject(force),
            Command::Insert(number) => self.insert(number),
            Command::Paging(mode) => {
                let shadow = mode == PagingMode::Shadow;
                match self.guest.use_paging(shadow) {
                    Ok(()) => say!(self, "{} paging", self.paging_name()),
                    Err(why) => say!(self, "{why}"),
                }
            }
            Command::Stats => {
                let stats = &self.guest.cpu.stats;
                let watch = Watch::new(self.time(), clock::ticks(), self.halted_ticks, stats);
                self.console.watch = Some(watch);
                return;
            }
            Command::Screenshot => self.screenshot(),
            Command::Close => return self.console.close(),
        }
        self.console.prompt();
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::Running => "running",
            State::Paused(_) => "paused",
            State::Off => "off",
        }
    }

    fn list(&mut self) {
        let seconds = self.guest.cpu.now().0 / 1_000_000_000;
        let exits: u64 = self.guest.cpu.stats.exits.iter().sum();
        let (state, paging) = (self.state_name(), self.paging_name());
        say!(
            self,
            "VM  state    time      memory    paging     resets  exits"
        );
        say!(
            self,
            "1   {state:8} {}:{:02}:{:02}   {:9} {paging:10} {:6}  {exits}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            size(self.guest.memory_size),
            self.guest.cpu.stats.resets
        );
    }

    fn list_media(&mut self) {
        let Some(drive) = self.guest.ide.lock().cdrom(CDROM) else {
            return say!(self, "the guest has no CD-ROM drive");
        };
        for (number, (disc, inside)) in (1..).zip(self.cabinet.discs()) {
            let place = match (inside, drive.open) {
                (true, true) => "on the open tray",
                (true, false) if drive.locked => "in the drive, locked by the guest",
                (true, false) => "in the drive",
                (false, _) => "",
            };
            say!(
                self,
                "{number}  {:32} {:9} {place}",
                disc.name,
                size(disc.length)
            );
        }
        if !drive.loaded {
            say!(self, "the drive is empty");
        }
    }

    fn eject(&mut self, force: bool) {
        let Some(drive) = self.guest.ide.lock().cdrom(CDROM) else {
            return say!(self, "the guest has no CD-ROM drive");
        };
        if !drive.loaded {
            return say!(self, "the drive is empty");
        }
        if drive.locked && !drive.open && !force {
            return say!(
                self,
                "the guest has locked the drive; `eject force` takes the medium out nevertheless"
            );
        }
        self.exchange(None);
        say!(self, "ejected");
    }

    fn insert(&mut self, number: usize) {
        if self.guest.ide.lock().cdrom(CDROM).is_none() {
            return say!(self, "the guest has no CD-ROM drive");
        }
        let wanted = match number.checked_sub(1) {
            Some(index) => Some(index).filter(|&index| index < self.cabinet.len()),
            None => self.cabinet.first_outside(),
        };
        let Some(index) = wanted else {
            return say!(self, "there is no such medium; `media` lists them");
        };
        // One that is in the drive already is taken out first: its tray is closed, and the guest sees a change.
        self.exchange(None);
        self.exchange(Some(index));
        say!(self, "inserted");
    }

    fn exchange(&mut self, wanted: Option<usize>) {
        let ide = &self.guest.ide;
        self.cabinet
            .exchange(wanted, |medium| ide.lock().change_medium(CDROM, medium));
    }

    fn screenshot(&mut self) {
        log::info!("screenshot: a PNG in base64 follows");
        let there = self.log_picture(|line| {
            line.bytes().chain(*b"\r\n").for_each(crate::logger::write);
        });
        log::info!("screenshot: end");
        if there {
            say!(self, "written to Umbra's log; to decode it:");
            say!(
                self,
                "  sed -n '/a PNG/,/shot: end/{{/shot:/!p}}' LOG | base64 -di >x.png"
            );
        } else {
            say!(self, "there is no memory for a picture of this size");
        }
    }

    /// Shows what the guest does, if somebody watches, and returns when to do it again.
    pub(super) fn show_statistics(&mut self, now: VmTime) -> VmTime {
        let Some(watch) = self.console.watch.take() else {
            return VmTime::NEVER;
        };
        let due = watch.due;
        if now < due {
            self.console.watch = Some(watch);
            return due;
        }
        let (ticks, stats) = (clock::ticks(), &self.guest.cpu.stats);
        let next = now + INTERVAL;
        let new = Watch::new(next, ticks, self.halted_ticks, stats);
        let passed = ticks - watch.since;
        let second = clock::tsc_hz();
        // The first time there is nothing to compare with.
        if passed > second / 4 {
            let rate = |n: u64| (u128::from(n) * u128::from(second) / u128::from(passed)) as u64;
            let share = |n: u64| 1000 * n / passed;
            let mut reasons: Vec<(u64, u64, &str)> = (0..ExitReason::KINDS)
                .map(|i| {
                    let count = new.exits[i] - watch.exits[i];
                    let ticks = new.ticks[i] - watch.ticks[i];
                    (count, ticks, ExitReason::NAMES[i])
                })
                .filter(|&(count, ..)| count != 0)
                .collect();
            reasons.sort_unstable_by(|a, b| b.cmp(a));
            let all: u64 = reasons.iter().map(|&(count, ..)| count).sum();
            let spent: u64 = reasons.iter().map(|&(_, ticks, _)| ticks).sum();
            let halted = new.halted - watch.halted;
            self.console.screen.clear();
            say!(
                self,
                "VM 1 {}: {} exits/s; hypervisor {}.{} %, halted {}.{} %   (any key ends this)",
                self.state_name(),
                rate(all),
                share(spent) / 10,
                share(spent) % 10,
                share(halted) / 10,
                share(halted) % 10
            );
            say!(self, "  exits/s  ticks each  reason");
            for (count, ticks, name) in reasons.into_iter().take(REASONS) {
                say!(self, "{:9} {:11}  {name}", rate(count), ticks / count);
            }
            if self.guest.cpu.mmu.is_shadow()
                && let Some(report) = self.guest.cpu.mmu.shadow_report()
            {
                say!(
                    self,
                    "shadow pages: {} of {}",
                    report.pages,
                    report.pages_capacity
                );
            }
        }
        self.console.watch = Some(new);
        next
    }
}

/// A number of bytes as people write it.
fn size(bytes: u64) -> String {
    alloc::format!("{} MiB", bytes >> 20)
}
