//! What the console's commands do.

use super::{Session, State};
use crate::media::Cabinet;
use crate::{clock, memory};
use alloc::string::String;
use console::{COMMANDS, Command, Drive, PagingMode};
use core::fmt;
use device_model::ata::CdromState;
use hv_core::cpu::VcpuBackend;
use hv_core::sched::Share;
use protocol::Event;

/// Writes a line to the console.
macro_rules! say {
    ($session:expr, $($text:tt)*) => {{
        let _ = core::fmt::Write::write_fmt(&mut $session.console, format_args!("{}\n", format_args!($($text)*)));
    }};
}
pub(super) use say;

/// A drive's name.
const fn drive_name(drive: Drive) -> &'static str {
    match drive {
        Drive::Cdrom => "CD-ROM drive",
        Drive::Floppy => "floppy drive",
    }
}

impl<B: VcpuBackend> Session<B> {
    /// Does what has been asked for at the console, with the VM that has the focus.
    pub(super) fn execute(&mut self, command: Command) {
        let index = self.focus;
        self.unload();
        let vm = &mut self.vms[index];
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
                State::Debugged(_) => say!(self, "its debugger has stopped it"),
                State::Suspended => say!(self, "it is suspended"),
                State::Waiting => say!(self, "it waits for memory"),
                State::Off => say!(self, "it is off"),
            },
            Command::Resume => match vm.state {
                State::Running => say!(self, "it runs"),
                State::Paused(_) => {
                    vm.resume();
                    say!(self, "running");
                }
                State::Debugged(_) => say!(self, "its debugger has stopped it"),
                State::Suspended => say!(self, "it is suspended; `power` or a key wakes it"),
                State::Waiting => say!(self, "it waits for memory"),
                State::Off => say!(self, "it is off; `reset` starts it"),
            },
            Command::Reset => {
                vm.resume();
                if !matches!(vm.state, State::Debugged(_)) {
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
                    vm.wake_devices();
                    let what = match vm.state {
                        State::Suspended => "it wakes",
                        _ => "a guest with ACPI shuts down by itself",
                    };
                    say!(self, "pressed; {what}");
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
            Command::Eject { drive, force } => self.eject(drive, force),
            Command::Insert { drive, number } => self.insert(drive, number),
            Command::Paging(mode) => match vm.guest.use_paging(mode == PagingMode::Shadow) {
                Ok(()) => {
                    let name = vm.paging_name();
                    say!(self, "{name} paging");
                }
                Err(why) => say!(self, "{why}"),
            },
            Command::Weight(weight) => self.change_share(index, |share| share.weight = weight),
            Command::Cap(cap) => self.change_share(index, |share| share.cap = cap),
            Command::Warp(warp) => self.change_share(index, |share| share.warp = warp),
            Command::Balloon(size) => self.change_balloon(size),
            Command::Start(number) => self.start(number.wrapping_sub(1)),
            Command::Cpus(count) => self.change_cpus(count),
            Command::Stats => {
                let now = self.time();
                self.begin_to_watch(index, now);
                return;
            }
            Command::Screenshot => self.screenshot(),
            Command::Trace(what) => self.execute_trace(what),
            Command::Close => return self.console.close(),
        }
        self.console.prompt();
    }

    /// VM `index` gets another share of the CPU from now on.
    fn change_share(&mut self, index: usize, change: impl FnOnce(&mut Share)) {
        let mut share = self.scheduler.share(index);
        change(&mut share);
        self.scheduler.set_share(index, share);
        say!(self, "{}", Shown(share));
    }

    fn list(&mut self) {
        say!(
            self,
            "VM   state    time      memory         paging     resets  weight   cap  exits"
        );
        for index in 0..self.vms.len() {
            let vm = &self.vms[index];
            let Share { weight, cap, .. } = self.scheduler.share(index);
            let seconds = vm.time().0 / 1_000_000_000;
            let stats = vm.stats();
            let exits: u64 = stats.exits.iter().sum();
            say!(
                self,
                "{}{} {:8} {}:{:02}:{:02}   {:14} {:10} {:6} {weight:7} {:>5}  {exits}",
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
                match vm.guest.given() {
                    0 => size(vm.guest.memory_size),
                    given => alloc::format!(
                        "{} of {}",
                        size_name(vm.guest.memory_size - given),
                        size_name(vm.guest.memory_size)
                    ),
                },
                vm.paging_name(),
                stats.resets,
                match cap {
                    0 => String::from("none"),
                    cap => alloc::format!("{cap} %"),
                }
            );
            say!(self, "     {}", self.vms[index].guest.profile.decided());
            if self.vms[index].guest.cpus.len() > 1 {
                self.list_cpus(index);
            }
        }
    }

    /// The virtual CPUs of VM `index`, a line each.
    fn list_cpus(&mut self, index: usize) {
        let cpus = self.cpu_facts(index);
        let second = clock::tsc_hz().max(1);
        say!(
            self,
            "       CPU  state        used s  halted s  steal s    waits    IPIs  exits"
        );
        for (n, cpu) in cpus.iter().enumerate() {
            say!(
                self,
                "       {n:3}  {:11} {:7}  {:8}  {:7} {:8} {:7}  {}",
                cpu.state,
                cpu.used / second,
                cpu.halted / second,
                cpu.steal / second,
                cpu.waits,
                cpu.ipis,
                cpu.exits
            );
        }
    }

    /// How much of its RAM the VM with the focus has, or is to have.
    fn change_balloon(&mut self, size: Option<u64>) {
        let vm = self.vm();
        let all = vm.guest.memory_size;
        let has = all - vm.guest.given();
        match size {
            None => say!(self, "{} of {}", size_name(has), size_name(all)),
            Some(_) if !vm.guest.profile.balloon() => {
                say!(
                    self,
                    "it has no balloon; balloon=on gives it one at the start"
                );
            }
            Some(wanted) if wanted > all => say!(self, "it can have {}", size_name(all)),
            Some(wanted) => {
                vm.guest.set_balloon(wanted);
                vm.wake_devices();
                say!(self, "the guest is asked; `list` says how much it has");
            }
        }
    }

    /// Starts VM `index`, which is off.
    fn start(&mut self, index: usize) {
        match self.vms.get_mut(index) {
            None => say!(self, "there is no such VM; `list` has them"),
            Some(vm) if vm.state != State::Off => say!(self, "it is not off"),
            Some(vm) => {
                vm.state = State::Running;
                self.reset(index, "started from the console");
                let vm = &self.vms[index];
                let number = vm.number;
                match vm.state {
                    State::Waiting => say!(
                        self,
                        "VM {number} starts when its {} are there; {} are free",
                        size(vm.guest.given()),
                        size(memory::left())
                    ),
                    _ => say!(self, "VM {number} starts"),
                }
            }
        }
    }

    /// How many virtual CPUs the VM with the focus has, or is to have.
    fn change_cpus(&mut self, count: Option<u32>) {
        let vm = self.vm();
        let most = vm.guest.cpus.len() as u32;
        let there = vm.guest.present_cpus().count();
        match count {
            None => say!(self, "{there} of {most} that it can have"),
            Some(_) if vm.state == State::Off => {
                say!(self, "it is off; `reset` starts it with the CPUs it had");
            }
            Some(count) if count > most => {
                say!(
                    self,
                    "it can have {most}; max-cpus says how many at the start"
                );
            }
            Some(count) => {
                vm.guest.want_cpus(count);
                vm.wake_devices();
                if count < there {
                    say!(self, "the guest is asked; `cpus` says how many it has left");
                } else {
                    say!(self, "{count}; the guest is told");
                }
            }
        }
    }

    fn list_media(&mut self) {
        for drive in [Drive::Cdrom, Drive::Floppy] {
            let Some(state) = self.drive(drive) else {
                continue;
            };
            let name = drive_name(drive);
            if self.cabinet(drive).len() == 0 {
                say!(self, "{name}: there are no media for it");
                continue;
            }
            say!(self, "{name}:");
            let discs = match drive {
                Drive::Cdrom => &self.vms[self.focus].media.cdroms,
                Drive::Floppy => &self.vms[self.focus].media.floppies,
            };
            for (number, (disc, inside)) in (1..).zip(discs.discs()) {
                let place = match (inside, state.open) {
                    (true, true) => "on the open tray",
                    (true, false) if state.locked => "in the drive, locked by the guest",
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
            if !state.loaded {
                say!(self, "the drive is empty");
            }
        }
    }

    /// How a drive of the VM with the focus is; None, and a word about it: there is none.
    fn drive(&mut self, drive: Drive) -> Option<CdromState> {
        let guest = &self.vm().guest;
        let state = match drive {
            Drive::Cdrom => guest.cdrom.state(),
            Drive::Floppy => Some(CdromState {
                loaded: guest.fdc.lock().floppy().loaded,
                open: false,
                locked: false,
            }),
        };
        if state.is_none() {
            say!(self, "the guest has no CD-ROM drive");
        }
        state
    }

    fn cabinet(&mut self, drive: Drive) -> &mut Cabinet {
        let media = &mut self.vm().media;
        match drive {
            Drive::Cdrom => &mut media.cdroms,
            Drive::Floppy => &mut media.floppies,
        }
    }

    fn eject(&mut self, drive: Drive, force: bool) {
        let Some(state) = self.drive(drive) else {
            return;
        };
        if !state.loaded {
            return say!(self, "the drive is empty");
        }
        if state.locked && !state.open && !force {
            return say!(
                self,
                "the guest has locked the drive; `eject force` takes the medium out nevertheless"
            );
        }
        self.exchange(drive, None);
        say!(self, "ejected");
    }

    fn insert(&mut self, drive: Drive, number: usize) {
        if self.drive(drive).is_none() {
            return;
        }
        let cabinet = self.cabinet(drive);
        let wanted = match number.checked_sub(1) {
            Some(index) => Some(index).filter(|&index| index < cabinet.len()),
            None => cabinet.first_outside(),
        };
        let Some(index) = wanted else {
            return say!(self, "there is no such medium; `media` lists them");
        };
        // One that is in the drive already is taken out first: its tray is closed, and the guest sees a change.
        self.exchange(drive, None);
        self.exchange(drive, Some(index));
        say!(self, "inserted");
    }

    fn exchange(&mut self, drive: Drive, wanted: Option<usize>) {
        let vm = self.vm();
        match drive {
            Drive::Cdrom => {
                let drive = &vm.guest.cdrom;
                let exchange = |medium| drive.change_medium(medium);
                vm.media.cdroms.exchange(wanted, exchange);
            }
            Drive::Floppy => {
                let mut fdc = vm.guest.fdc.lock();
                let exchange = |medium| fdc.change_medium(medium);
                vm.media.floppies.exchange(wanted, exchange);
            }
        }
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
}

/// A share as people read it.
pub(super) struct Shown(pub Share);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Share { weight, cap, warp } = self.0;
        write!(f, "weight {weight}, ")?;
        match cap {
            0 => f.write_str("no cap")?,
            cap => write!(f, "cap {cap} %")?,
        }
        match warp {
            0 => Ok(()),
            warp => write!(f, ", warp {warp} ms"),
        }
    }
}

/// A number of bytes as it is typed.
fn size_name(bytes: u64) -> String {
    alloc::format!("{}M", bytes >> 20)
}

/// A number of bytes as people write it.
fn size(bytes: u64) -> String {
    alloc::format!("{} MiB", bytes >> 20)
}
