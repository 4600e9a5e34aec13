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
use protocol::Event;

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
    /// Does what has been asked for at the console, with the VM that has the focus.
    pub(super) fn execute(&mut self, command: Command) {
        let index = self.focus;
        let vm = self.load(index);
        match command {
            Command::Nothing => {}
            Command::Help => {
                for (usage, what) in COMMANDS {
                    say!(self, "{usage:22} {what}");
                }
            }
            Command::List => self.list(),
            Command::Vm(number) => {
                let wanted = number.wrapping_sub(1);
                if wanted < self.vms.len() {
                    self.set_focus(wanted);
                    say!(
                        self,
                        "keyboard, screen, COM1 and commands are VM {number}'s"
                    );
                } else {
                    say!(self, "there is no such VM; `list` has them");
                }
            }
            Command::Pause => match vm.state {
                State::Running => {
                    vm.pause();
                    say!(self, "paused");
                }
                State::Paused(_) => say!(self, "it is paused already"),
                State::Off => say!(self, "it is off"),
            },
            Command::Resume => match vm.state {
                State::Running => say!(self, "it runs"),
                State::Paused(_) => {
                    vm.resume();
                    say!(self, "running");
                }
                State::Off => say!(self, "it is off; `reset` starts it"),
            },
            Command::Reset => {
                vm.resume();
                if vm.state == State::Off {
                    vm.guest.cpu.resume();
                    vm.state = State::Running;
                }
                say!(self, "reset");
                self.reset(index, "reset from the console");
            }
            Command::Power => {
                if vm.state == State::Off {
                    say!(self, "it is off; `reset` starts it");
                } else {
                    vm.resume();
                    vm.guest.pm.lock().press_power_button();
                    vm.rouse();
                    say!(self, "pressed; a guest with ACPI shuts down by itself");
                }
            }
            Command::Off => {
                if vm.state == State::Off {
                    say!(self, "it is off");
                } else {
                    log::info!("VM {}: switched off from the console", vm.number);
                    say!(self, "off");
                    self.switched_off(index, Event::PowerOff);
                }
            }
            Command::Media => self.list_media(),
            Command::Eject { force } => self.eject(force),
            Command::Insert(number) => self.insert(number),
            Command::Paging(mode) => match vm.guest.use_paging(mode == PagingMode::Shadow) {
                Ok(()) => {
                    let name = vm.paging_name();
                    say!(self, "{name} paging");
                }
                Err(why) => say!(self, "{why}"),
            },
            Command::Stats => {
                let stats = &self.vms[index].guest.cpu.stats;
                let halted = self.vms[index].halted_ticks();
                let watch = Watch::new(self.time(), clock::ticks(), halted, stats);
                self.console.watch = Some(watch);
                return;
            }
            Command::Screenshot => self.screenshot(),
            Command::Close => return self.console.close(),
        }
        self.console.prompt();
    }

    fn list(&mut self) {
        say!(
            self,
            "VM   state    time      memory    paging     resets  exits"
        );
        for (index, vm) in self.vms.iter().enumerate() {
            let seconds = vm.time().0 / 1_000_000_000;
            let stats = &vm.guest.cpu.stats;
            let exits: u64 = stats.exits.iter().sum();
            say!(
                self,
                "{}{} {:8} {}:{:02}:{:02}   {:9} {:10} {:6}  {exits}",
                vm.number,
                if index == self.focus && self.vms.len() > 1 {
                    " *"
                } else {
                    "  "
                },
                vm.state_name(),
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60,
                size(vm.guest.memory_size),
                vm.paging_name(),
                stats.resets
            );
        }
    }

    fn list_media(&mut self) {
        let Some(drive) = self.vm().guest.ide.lock().cdrom(CDROM) else {
            return say!(self, "the guest has no CD-ROM drive");
        };
        for (number, (disc, inside)) in (1..).zip(self.vms[self.focus].cabinet.discs()) {
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
        let Some(drive) = self.vm().guest.ide.lock().cdrom(CDROM) else {
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
        if self.vm().guest.ide.lock().cdrom(CDROM).is_none() {
            return say!(self, "the guest has no CD-ROM drive");
        }
        let wanted = match number.checked_sub(1) {
            Some(index) => Some(index).filter(|&index| index < self.vm().cabinet.len()),
            None => self.vm().cabinet.first_outside(),
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
        let vm = self.vm();
        let ide = &vm.guest.ide;
        vm.cabinet
            .exchange(wanted, |medium| ide.lock().change_medium(CDROM, medium));
    }

    fn screenshot(&mut self) {
        log::info!("screenshot: a PNG in base64 follows");
        self.log_picture(&mut |line| {
            line.bytes().chain(*b"\r\n").for_each(crate::logger::write);
        });
        log::info!("screenshot: end");
        say!(self, "written to Umbra's log; to decode it:");
        say!(
            self,
            "  sed -n '/a PNG/,/shot: end/{{/shot:/!p}}' LOG | base64 -di >x.png"
        );
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
        let vm = &self.vms[self.focus];
        let ticks = clock::ticks();
        let next = now + INTERVAL;
        let new = Watch::new(next, ticks, vm.halted_ticks(), &vm.guest.cpu.stats);
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
                "VM {} {}: {} exits/s; hypervisor {}.{} %, halted {}.{} %   (any key ends this)",
                vm.number,
                vm.state_name(),
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
            let mmu = &vm.guest.cpu.mmu;
            if mmu.is_shadow()
                && let Some(report) = mmu.shadow_report()
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
