//! The registers of CPU hotplug, as QEMU's PIIX4 has them at port AF00h (its "docs/specs/acpi_cpu_hotplug", "Modern ACPI CPU hotplug
//! interface registers"): stock OVMF counts the CPUs with them, and the methods of our DSDT tell the system what comes and goes.
//!
//! | offset | read | write |
//! |---|---|---|
//! | 0, 4 bytes | 0 | the CPU that all else is about |
//! | 4 | [`Flags`] | [`Flags`]: those set clear an event, or eject |
//! | 5 | 0 | command |
//! | 8, 4 bytes | answer to the command | what the command wants |
//!
//! A CPU comes at once: [`plug`](CpuHotplug::plug). It goes when the guest lets it: asked by
//! [`request_unplug`](CpuHotplug::request_unplug) it stops using the CPU and *ejects* it, and whoever runs the CPU takes it away
//! ([`take_ejected`](CpuHotplug::take_ejected)). A guest may eject without having been asked, but never the first CPU. A reset
//! is power-on: the machine has the CPUs again that it started with, of which the firmware's tables tell.
//!
//! Not here: the interface of QEMU before 2.7 (a bitmap, which a write of 0 to the first register replaced by these registers; that
//! write means the same here, and systems still do it), and ejection by firmware in system-management mode.

use bitflags::bitflags;
use hv_core::device::AccessSize;
use hv_core::machine::{CPU_HOTPLUG_LEN, MAX_CPUS, Topology};

const SELECTOR: u16 = 0;
const FLAGS: u16 = 4;
const COMMAND: u16 = 5;
const DATA: u16 = 8;

/// Selects the next CPU with an event, and shows which is selected.
const NEXT_WITH_EVENT: u8 = 0;
/// Takes the event of an `_OST`.
const OST_EVENT: u8 = 1;
/// Takes the status of an `_OST`.
const OST_STATUS: u8 = 2;
/// Shows the selected CPU's APIC ID.
const APIC_ID: u8 = 3;

bitflags! {
    /// The status and control bits of a CPU.
    struct Flags: u8 {
        /// Read: it is there.
        const PRESENT = 1 << 0;
        /// Read: the system has not been told yet that it has come. Written: it has.
        const INSERTED = 1 << 1;
        /// Read: the system has not been asked yet to let it go. Written: it has.
        const REMOVING = 1 << 2;
        /// Written: the system lets it go.
        const EJECT = 1 << 3;
    }
}

/// What `_OST` tells of an ejection (ACPI 6.3.5, "_OST (OSPM Status Indication)").
mod ost {
    /// Event: an ejection that a Notify asked for, and one that the system began by itself.
    pub(super) const EJECTIONS: [u32; 2] = [3, 0x103];
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const EJECTION_IN_PROGRESS: u32 = 0x84;
}

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpus(u32);

const _: () = assert!(MAX_CPUS == u32::BITS);

impl Cpus {
    /// The first `count` CPUs.
    #[must_use]
    pub const fn first(count: u32) -> Self {
        match 1u32.checked_shl(count) {
            Some(end) => Self(end - 1),
            None => Self(u32::MAX),
        }
    }

    /// Whether CPU `cpu` is one of them.
    #[must_use]
    pub const fn contains(self, cpu: u32) -> bool {
        cpu < MAX_CPUS && self.0 >> cpu & 1 != 0
    }

    /// How many there are.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// All of them, from the lowest.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..MAX_CPUS).filter(move |&cpu| self.contains(cpu))
    }

    fn set(&mut self, cpu: u32, member: bool) {
        let bit = 1 << cpu;
        self.0 = if member { self.0 | bit } else { self.0 & !bit };
    }

    /// Takes out the lowest.
    fn take(&mut self) -> Option<u32> {
        let cpu = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.set(cpu, false);
        Some(cpu)
    }
}

/// What a guest is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Events {
    inserted: Cpus,
    removing: Cpus,
}

impl Events {
    /// Whether something is new since `before`.
    pub(super) fn has_more_than(self, before: Self) -> bool {
        let (inserted, removing) = (before.inserted.0, before.removing.0);
        self.inserted.0 & !inserted | self.removing.0 & !removing != 0
    }
}

/// The CPUs that a machine has, those that come and go, and the registers that tell the guest.
#[derive(Debug)]
pub struct CpuHotplug {
    /// CPUs that are there at power-on.
    initial: u32,
    /// CPUs that there can be.
    possible: u32,
    present: Cpus,
    /// The guest has not been told that they have come.
    inserted: Cpus,
    /// The guest has not been told that they are to go.
    removing: Cpus,
    /// They are to go, whether the guest knows or not.
    leaving: Cpus,
    /// They have gone, and nobody has taken them away yet.
    ejected: Cpus,
    /// The guest wants to keep them, and nobody has heard of it yet.
    refused: Cpus,
    selector: u32,
    command: u8,
    ost_event: u32,
}

impl CpuHotplug {
    /// The registers of a machine with `cpus` CPUs (at least 1) that can have `possible`.
    #[must_use]
    pub fn new(cpus: u32, possible: u32) -> Self {
        let possible = possible.clamp(1, MAX_CPUS);
        let initial = cpus.clamp(1, possible);
        Self {
            initial,
            possible,
            present: Cpus::first(initial),
            inserted: Cpus::default(),
            removing: Cpus::default(),
            leaving: Cpus::default(),
            ejected: Cpus::default(),
            refused: Cpus::default(),
            selector: 0,
            command: NEXT_WITH_EVENT,
            ost_event: 0,
        }
    }

    /// The CPUs that are there.
    #[must_use]
    pub fn present(&self) -> Cpus {
        self.present
    }

    /// CPU `cpu` comes; it must be ready to be started. False: it is there already, has not been taken away yet, or cannot be.
    pub fn plug(&mut self, cpu: u32) -> bool {
        let can = cpu < self.possible && !self.present.contains(cpu) && !self.ejected.contains(cpu);
        if can {
            self.present.set(cpu, true);
            self.inserted.set(cpu, true);
        }
        can
    }

    /// Asks the guest to let CPU `cpu` go. False: it is not there, or the first, which stays.
    pub fn request_unplug(&mut self, cpu: u32) -> bool {
        let can = cpu != 0 && self.present.contains(cpu);
        if can {
            self.removing.set(cpu, true);
            self.leaving.set(cpu, true);
        }
        can
    }

    /// Asks for `count` CPUs in all (at least 1, at most as many as possible): those above are asked to go, once more if they have been
    /// before, and those below may stay after all. Answers those below that are not there, for the caller to make ready and to plug.
    pub fn want(&mut self, count: u32) -> Cpus {
        let wanted = Cpus::first(count.clamp(1, self.possible));
        self.removing.0 &= !wanted.0;
        self.leaving.0 &= !wanted.0;
        for cpu in wanted.count()..self.possible {
            self.request_unplug(cpu);
        }
        Cpus(wanted.0 & !self.present.0)
    }

    /// A CPU that has gone, once each: whoever runs it stops.
    pub fn take_ejected(&mut self) -> Option<u32> {
        self.ejected.take()
    }

    /// A CPU that was to go and that the guest said it keeps, once each time it said so.
    pub fn take_refused(&mut self) -> Option<u32> {
        self.refused.take()
    }

    /// Whether a CPU has gone or is kept, and nobody has heard of it yet.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.ejected.0 | self.refused.0 != 0
    }

    /// What the guest has not been told.
    pub(super) fn events(&self) -> Events {
        Events {
            inserted: self.inserted,
            removing: self.removing,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.initial, self.possible);
    }

    fn eject(&mut self, cpu: u32) {
        if cpu != 0 && self.present.contains(cpu) {
            for set in [
                &mut self.present,
                &mut self.inserted,
                &mut self.removing,
                &mut self.leaving,
                &mut self.refused,
            ] {
                set.set(cpu, false);
            }
            self.ejected.set(cpu, true);
        }
    }

    fn flags(&self) -> Flags {
        let mut flags = Flags::empty();
        flags.set(Flags::PRESENT, self.present.contains(self.selector));
        flags.set(Flags::INSERTED, self.inserted.contains(self.selector));
        flags.set(Flags::REMOVING, self.removing.contains(self.selector));
        flags
    }

    pub(super) fn read(&self, offset: u16, size: AccessSize) -> u32 {
        if self.selector >= self.possible {
            return 0;
        }
        let data = match self.command {
            NEXT_WITH_EVENT => self.selector,
            APIC_ID => Topology::apic_id(self.selector),
            _ => 0,
        };
        let block = u128::from(self.flags().bits()) << (8 * FLAGS) | u128::from(data) << (8 * DATA);
        block.checked_shr(8 * u32::from(offset)).unwrap_or(0) as u32 & size.ones()
    }

    /// The first byte's register takes the value. With the flags, the next byte may be the command.
    pub(super) fn write(&mut self, offset: u16, size: AccessSize, value: u32) {
        match offset {
            SELECTOR => self.selector = value,
            _ if self.selector >= self.possible || offset >= CPU_HOTPLUG_LEN => {}
            FLAGS => {
                self.control(Flags::from_bits_truncate(value as u8));
                if size != AccessSize::Byte {
                    self.take_command((value >> 8) as u8);
                }
            }
            COMMAND => self.take_command(value as u8),
            DATA => self.take_data(value),
            _ => {}
        }
    }

    fn control(&mut self, flags: Flags) {
        if flags.contains(Flags::INSERTED) {
            self.inserted.set(self.selector, false);
        }
        if flags.contains(Flags::REMOVING) {
            self.removing.set(self.selector, false);
        }
        if flags.contains(Flags::EJECT) {
            self.eject(self.selector);
        }
    }

    fn take_command(&mut self, command: u8) {
        if command > APIC_ID {
            return;
        }
        self.command = command;
        if command == NEXT_WITH_EVENT {
            let events = Cpus(self.inserted.0 | self.removing.0);
            let from_here = (self.selector..self.possible).chain(0..self.selector);
            let next = from_here.into_iter().find(|&cpu| events.contains(cpu));
            self.selector = next.unwrap_or(self.selector);
        }
    }

    fn take_data(&mut self, value: u32) {
        match self.command {
            OST_EVENT => self.ost_event = value,
            OST_STATUS => self.ost(value),
            _ => {}
        }
    }

    /// What has become of an event of the selected CPU, as the guest tells it.
    fn ost(&mut self, status: u32) {
        let (cpu, event) = (self.selector, self.ost_event);
        log::debug!("CPU {cpu}: the guest reports {status:#x} for event {event:#x}");
        let kept = ost::EJECTIONS.contains(&event)
            && ![ost::SUCCESS, ost::EJECTION_IN_PROGRESS].contains(&status);
        if kept && self.leaving.contains(cpu) {
            self.leaving.set(cpu, false);
            self.removing.set(cpu, false);
            self.refused.set(cpu, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::testing::Random;

    /// The DSDT's `_STA`.
    fn status(h: &mut CpuHotplug, cpu: u32) -> bool {
        h.write(SELECTOR, Dword, cpu);
        h.read(FLAGS, Byte) & 1 != 0
    }

    /// The DSDT's scan: the CPUs that it notifies, and of what.
    fn scan(h: &mut CpuHotplug) -> Vec<(u32, u8)> {
        let mut told = Vec::new();
        h.write(SELECTOR, Dword, 0);
        loop {
            h.write(COMMAND, Byte, NEXT_WITH_EVENT.into());
            let (flag, what) = match h.read(FLAGS, Byte) {
                flags if flags & 2 != 0 => (2, 1),
                flags if flags & 4 != 0 => (4, 3),
                _ => return told,
            };
            h.write(FLAGS, Byte, flag);
            told.push((h.read(DATA, Dword), what));
        }
    }

    /// The DSDT's `_OST`.
    fn ost(h: &mut CpuHotplug, cpu: u32, event: u32, status: u32) {
        h.write(SELECTOR, Dword, cpu);
        for (command, data) in [(OST_EVENT, event), (OST_STATUS, status)] {
            h.write(COMMAND, Byte, command.into());
            h.write(DATA, Dword, data);
        }
    }

    /// The DSDT's `_EJ0`.
    fn eject(h: &mut CpuHotplug, cpu: u32) {
        h.write(SELECTOR, Dword, cpu);
        h.write(FLAGS, Byte, 8);
    }

    /// OVMF's MaxCpuCountInitialization (OvmfPkg/PlatformPei): detection, then all CPUs up to the first that cannot be.
    fn count(h: &mut CpuHotplug) -> Option<(u32, u32)> {
        h.write(SELECTOR, Dword, 0);
        h.write(SELECTOR, Dword, 0);
        h.write(COMMAND, Byte, 0);
        if h.read(0, Dword) != 0 {
            return None;
        }
        let (mut present, mut possible) = (0, 0);
        loop {
            present += h.read(FLAGS, Byte) & 1;
            possible += 1;
            h.write(SELECTOR, Dword, possible);
            if h.read(DATA, Dword) == 0 {
                h.write(SELECTOR, Dword, 0);
                return Some((present, possible));
            }
        }
    }

    #[test]
    fn ovmf_counts_present_and_possible_cpus() {
        for (cpus, possible) in [(1, 1), (1, 4), (4, 4), (3, 32), (32, 32)] {
            let mut h = CpuHotplug::new(cpus, possible);
            assert_eq!(count(&mut h), Some((cpus, possible)));
            assert!(status(&mut h, cpus - 1) && !status(&mut h, cpus));
        }
    }

    #[test]
    fn a_plugged_cpu_is_notified_once_and_there_at_once() {
        let mut h = CpuHotplug::new(1, 4);
        assert!(h.plug(2) && h.plug(1) && !h.plug(1) && !h.plug(4) && !h.plug(0));
        assert_ne!(h.events(), Events::default());
        assert!(status(&mut h, 2));
        assert_eq!(scan(&mut h), [(1, 1), (2, 1)]);
        assert_eq!(scan(&mut h), []);
        assert_eq!(h.events(), Events::default());
        assert_eq!(h.present().iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_cpu_goes_when_the_guest_ejects_it() {
        let mut h = CpuHotplug::new(4, 4);
        assert!(h.request_unplug(3) && !h.request_unplug(0) && !h.request_unplug(7));
        assert_eq!(scan(&mut h), [(3, 3)]);
        assert!(status(&mut h, 3), "still in use");
        ost(&mut h, 3, 0x103, 0x84);
        assert_eq!(h.take_ejected(), None);
        eject(&mut h, 3);
        assert!(!status(&mut h, 3));
        ost(&mut h, 3, 0x103, 0);
        assert!(!h.plug(3), "not taken away yet");
        assert_eq!((h.take_ejected(), h.take_ejected()), (Some(3), None));
        assert_eq!(h.take_refused(), None);
        assert!(h.plug(3));
    }

    #[test]
    fn what_the_guest_keeps_is_told_and_no_longer_leaves() {
        let mut h = CpuHotplug::new(2, 2);
        h.request_unplug(1);
        scan(&mut h);
        // Linux: busy.
        ost(&mut h, 1, 3, 0x82);
        assert_eq!((h.take_refused(), h.take_refused()), (Some(1), None));
        ost(&mut h, 1, 3, 0x82);
        assert_eq!(h.take_refused(), None, "nobody has asked again");
    }

    #[test]
    fn the_first_cpu_and_absent_ones_cannot_be_ejected_others_without_being_asked() {
        let mut h = CpuHotplug::new(2, 4);
        for cpu in [0, 2, 3, 4, u32::MAX] {
            eject(&mut h, cpu);
        }
        assert_eq!((h.present(), h.take_ejected()), (Cpus::first(2), None));
        eject(&mut h, 1);
        assert_eq!((h.present(), h.take_ejected()), (Cpus::first(1), Some(1)));
    }

    #[test]
    fn a_number_of_cpus_asks_those_above_to_go_and_names_those_to_come() {
        let mut h = CpuHotplug::new(4, 8);
        assert_eq!(h.want(2), Cpus::default());
        assert_eq!(scan(&mut h), [(2, 3), (3, 3)]);
        assert_eq!(h.want(2), Cpus::default());
        assert_eq!(scan(&mut h), [(2, 3), (3, 3)], "asked again");
        eject(&mut h, 3);
        // CPU 2 may stay.
        let come: Vec<_> = h.want(6).iter().collect();
        assert_eq!(come, [3, 4, 5]);
        assert_eq!(scan(&mut h), [], "and nobody is asked");
        assert_eq!(h.want(0), Cpus::default());
        assert_eq!(scan(&mut h), [(1, 3), (2, 3)], "the first stays");
    }

    #[test]
    fn a_reset_is_power_on() {
        let mut h = CpuHotplug::new(3, 4);
        h.plug(3);
        eject(&mut h, 2);
        h.request_unplug(1);
        h.write(SELECTOR, Dword, 99);
        h.reset();
        assert_eq!(h.events(), Events::default());
        assert_eq!((h.present(), h.take_ejected()), (Cpus::first(3), None));
        assert_eq!(h.read(FLAGS, Byte), 1, "CPU 0 is selected");
    }

    #[test]
    fn with_a_selector_of_no_cpu_all_reads_are_zero_and_writes_do_nothing() {
        let mut h = CpuHotplug::new(2, 2);
        h.request_unplug(1);
        h.write(SELECTOR, Dword, 2);
        h.write(COMMAND, Byte, 0);
        h.write(FLAGS, Word, 0x0c);
        for offset in 0..16 {
            assert_eq!(h.read(offset, Dword), 0);
        }
        assert_eq!(scan(&mut h), [(1, 3)]);
        assert_eq!(h.present().count(), 2);
    }

    #[test]
    fn command_3_shows_the_apic_id_and_unknown_commands_are_none() {
        let mut h = CpuHotplug::new(4, 4);
        h.write(SELECTOR, Byte, 3);
        h.write(COMMAND, Byte, APIC_ID.into());
        assert_eq!((h.read(DATA, Dword), h.read(0, Dword)), (3, 0));
        h.write(COMMAND, Byte, 77);
        assert_eq!(h.read(DATA, Dword), 3);
        h.write(COMMAND, Byte, OST_EVENT.into());
        assert_eq!(h.read(DATA, Dword), 0);
    }

    #[test]
    fn any_access_leaves_the_sets_in_order() {
        let mut random = Random::from_env("UMBRA_SEED", 21);
        for possible in [1, 2, 31, 32] {
            let mut h = CpuHotplug::new(1, possible);
            for _ in 0..20_000 {
                let size = random.pick(&[Byte, Word, Dword]);
                let offset = random.below(20) as u16;
                let cpu = random.below(40) as u32;
                match random.below(8) {
                    0 => drop(h.plug(cpu)),
                    1 => drop(h.request_unplug(cpu)),
                    2 => drop(h.want(cpu)),
                    3 => drop(h.take_ejected()),
                    4 if random.below(50) == 0 => h.reset(),
                    5 => h.write(SELECTOR, Dword, cpu),
                    6 => assert_eq!(h.read(offset, size) & !size.ones(), 0),
                    _ => h.write(offset, size, random.next() as u32 & size.ones()),
                }
                let absent = !h.present.0;
                assert_eq!(h.present.0 & !Cpus::first(possible).0, 0);
                assert!(h.present.contains(0) && !h.leaving.contains(0));
                assert_eq!((h.inserted.0 | h.removing.0 | h.leaving.0) & absent, 0);
                assert_eq!(h.removing.0 & !h.leaving.0, 0);
                assert_eq!(h.ejected.0 & h.present.0, 0);
            }
        }
    }
}
