//! Power management of the Intel PIIX4 (82371AB datasheet 290562, chapter 7, "Power Management"), function 0:1.3.
//!
//! [`Piix4Pm`] is both the PCI function and the device behind three port ranges: the power-management block at
//! [`PM_BASE`] and again at [`PM_BASE_ALT`], whatever the base register says, because static ACPI tables name one place
//! and each firmware programs another; and the general-purpose event block at [`GPE0_BASE`]. In machines that can have more than
//! one CPU there are the registers of CPU hotplug too, at [`CPU_HOTPLUG_BASE`].
//!
//! Implemented: the ACPI fixed registers, the 24-bit timer with its overflow event, power button, the clock's alarm, soft-off, suspend
//! to RAM, SCI. SCI_EN is permanently set: there is no legacy mode. Not implemented: other sleep states, SMIs, device monitors and
//! clock control (their registers read 0), and the SMBus host, which says that it is not enabled.

mod acpi;
mod alarm;
mod cpus;

pub use alarm::RtcAlarm;
pub use cpus::{CpuHotplug, Cpus};

use acpi::AcpiBlock;

use crate::pci::{ConfigSpace, Identity, PciFunction, register};
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;
use hv_core::machine::{
    CPU_HOTPLUG_BASE, CPU_HOTPLUG_LEN, GPE_CPU_HOTPLUG, GPE0_BASE, PM_BASE, PM_BASE_ALT, PM_LEN,
};

/// SMBus host configuration: bit 0 enables the host. Not writable.
const SMBHSTCFG: u8 = 0xd2;

/// Power-on values that are not zero. 5Bh: APMC_EN, by which SeaBIOS sees that SMM has been set up. 5Fh, 63h, 67h: which
/// ISA devices there are; of those Linux looks at, only the first serial port.
const RESET: [(u8, &[u8]); 5] = [
    (register::STATUS, &[0x80, 0x02]),
    (0x5b, &[0x02]),
    (0x5f, &[0x10]),
    (0x63, &[0x60]),
    (0x67, &[0x08]),
];

/// Length of the general-purpose event block.
const GPE0_LEN: u16 = 4;

/// The power-management function and its registers.
pub struct Piix4Pm {
    config: ConfigSpace,
    acpi: AcpiBlock,
    cpus: Option<CpuHotplug>,
}

impl Piix4Pm {
    /// The function in power-on state; `sci` is the wire of ACPI's interrupt, a level.
    #[must_use]
    pub fn new(sci: IrqLine) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7113,
            class: 0x06_8000,
            revision: 3,
            subsystem: (0x1af4, 0x1100),
        };
        let mut config = ConfigSpace::new(&identity)
            .interrupt_pin(0)
            .writable(0x40, 0xff, 0xff)
            .writable(SMBHSTCFG, SMBHSTCFG, 0);
        for (offset, value) in RESET {
            config = config.preset(offset, value);
        }
        Self {
            config,
            acpi: AcpiBlock::new(sci),
            cpus: None,
        }
    }

    /// The same with the registers of CPU hotplug.
    #[must_use]
    pub fn with_cpus(mut self, cpus: CpuHotplug) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// The CPUs that come and go, for `change` to change; the guest is told of what is new to it. None: the machine can have only one.
    pub fn cpus<T>(&mut self, change: impl FnOnce(&mut CpuHotplug) -> T) -> Option<T> {
        let cpus = self.cpus.as_mut()?;
        let before = cpus.events();
        let answer = change(cpus);
        if cpus.events().has_more_than(before) {
            self.acpi.raise_gpe(GPE_CPU_HOTPLUG);
        }
        Some(answer)
    }

    /// Someone presses the power button: an ACPI guest shuts down, or wakes.
    pub fn press_power_button(&mut self) {
        self.acpi.press_power_button();
    }

    /// Someone presses a key: a guest that sleeps wakes.
    pub fn press_key(&mut self) {
        self.acpi.press_key();
    }

    /// Whether the machine [is suspended](hv_core::device::PowerAction::Suspend), and something has come that wakes it.
    #[must_use]
    pub fn wakes(&self) -> bool {
        self.acpi.wakes()
    }

    /// Where the clock's alarm ends.
    #[must_use]
    pub fn alarm(&self) -> RtcAlarm {
        self.acpi.alarm()
    }
}

impl PciFunction for Piix4Pm {
    fn config_read(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.config.config_read(cx, offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.config.config_write(cx, offset, size, value);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.config.config_reset(cx);
    }
}

/// The offset of `port` in the block that begins at `base`.
fn within(port: u16, base: u16, len: u16) -> Option<u16> {
    port.checked_sub(base).filter(|&o| o < len)
}

fn in_pm_block(port: u16) -> Option<u16> {
    within(port, PM_BASE, PM_LEN).or_else(|| within(port, PM_BASE_ALT, PM_LEN))
}

fn in_cpu_block(port: u16) -> Option<u16> {
    within(port, CPU_HOTPLUG_BASE, CPU_HOTPLUG_LEN)
}

impl Device for Piix4Pm {
    fn name(&self) -> &'static str {
        "pm"
    }

    /// Power-on of the register blocks; configuration space is reset with the PCI bus.
    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.acpi.reset(cx);
        if let Some(cpus) = &mut self.cpus {
            cpus.reset();
        }
    }

    /// The registers of CPU hotplug have power while the machine sleeps: the CPUs stay.
    fn wake(&mut self, cx: &mut DevCx<'_>) {
        self.acpi.wake(cx);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.acpi.poll(cx.now)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        if let Some(offset) = in_pm_block(port) {
            self.acpi.read(cx.now, offset, size)
        } else if let Some(offset) = within(port, GPE0_BASE, GPE0_LEN) {
            self.acpi.read_gpe(offset, size)
        } else if let (Some(cpus), Some(offset)) = (&self.cpus, in_cpu_block(port)) {
            cpus.read(offset, size)
        } else {
            size.ones()
        }
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        if let Some(offset) = in_pm_block(port) {
            self.acpi.write(cx, offset, size, value);
        } else if let Some(offset) = within(port, GPE0_BASE, GPE0_LEN) {
            self.acpi.write_gpe(offset, size, value);
        } else if let (Some(cpus), Some(offset)) = (&mut self.cpus, in_cpu_block(port)) {
            cpus.write(offset, size, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuHotplug, Piix4Pm};
    use crate::pci::PciFunction;
    use hv_core::VmTime;
    use hv_core::device::AccessSize::{self, Byte, Dword, Word};
    use hv_core::device::{Device, PowerAction};
    use hv_core::irq::IrqLine;
    use hv_core::machine::SCI_IRQ;
    use hv_core::testing::{Bench, Random, RecordingIrqs};
    use std::sync::Arc;

    struct Machine {
        pm: Piix4Pm,
        bench: Bench,
        irqs: Arc<RecordingIrqs>,
    }

    impl Machine {
        fn new() -> Self {
            let irqs = RecordingIrqs::new();
            let pm = Piix4Pm::new(IrqLine::new(irqs.clone(), SCI_IRQ));
            let pm = pm.with_cpus(CpuHotplug::new(2, 4));
            Self {
                pm,
                bench: Bench::new(),
                irqs,
            }
        }
        fn read(&mut self, port: u16, size: AccessSize) -> u32 {
            self.pm.port_read(&mut self.bench.cx(), port, size)
        }
        fn write(&mut self, port: u16, size: AccessSize, value: u32) {
            self.pm.port_write(&mut self.bench.cx(), port, size, value);
        }
        fn sci(&self) -> bool {
            self.irqs.level(SCI_IRQ)
        }
    }

    #[test]
    fn configuration_space_is_the_piix4s() {
        let mut m = Machine::new();
        let cx = &mut m.bench.cx();
        for (offset, value) in [
            (0x00, 0x7113_8086),
            (0x04, 0x0280_0000),
            (0x08, 0x0680_0003),
            (0x3c, 0x0000_0100),
            (0x58, 0x0200_0000),
            (0x5c, 0x1000_0000),
        ] {
            assert_eq!(m.pm.config_read(cx, offset, Dword), value, "{offset:#x}");
        }
        m.pm.config_write(cx, 0x40, Dword, 0x601);
        m.pm.config_write(cx, 0xd2, Byte, 9);
        assert_eq!(m.pm.config_read(cx, 0x40, Dword), 0x601);
        assert_eq!(m.pm.config_read(cx, 0xd2, Byte), 0, "no SMBus host");
        m.pm.config_reset(cx);
        assert_eq!(m.pm.config_read(cx, 0x40, Dword), 0);
    }

    #[test]
    fn timer_counts_24_bits_at_both_places() {
        let mut m = Machine::new();
        for (ns, ticks) in [
            (0, 0),
            (1_000_000_000, 3_579_545),
            (10_000_000_000, 35_795_450 & 0xff_ffff),
            (
                u64::MAX,
                ((u128::from(u64::MAX) * 3_579_545 / 1_000_000_000) & 0xff_ffff) as u32,
            ),
        ] {
            m.bench.now = VmTime(ns);
            assert_eq!(m.read(0x608, Dword), ticks, "{ns}");
            assert_eq!(m.read(0xb008, Dword), ticks, "{ns}");
            assert_eq!(m.read(0x608, Word), ticks & 0xffff);
        }
    }

    #[test]
    fn timer_status_is_set_when_bit_23_toggles_and_cleared_by_one() {
        let mut m = Machine::new();
        assert_eq!(m.read(0x600, Word), 0);
        m.bench.now = VmTime(2_343_500_000);
        assert_eq!(m.read(0x600, Word), 1);
        m.write(0x600, Word, 1);
        assert_eq!(m.read(0x600, Word), 0);
        m.bench.now = VmTime(4_687_000_000);
        assert_eq!(m.read(0x600, Word), 1);
        assert!(!m.sci());
    }

    #[test]
    fn enabled_timer_event_raises_sci_in_time() {
        let mut m = Machine::new();
        m.write(0x602, Word, 1);
        let wake = m.bench.requests.wake.unwrap();
        m.bench.now = wake - VmTime(1);
        m.pm.poll(&mut m.bench.cx());
        assert!(!m.sci());
        m.bench.now = wake;
        assert_eq!(m.pm.poll(&mut m.bench.cx()), None);
        assert!(m.sci());
        m.write(0x600, Word, 1);
        assert!(!m.sci());
        assert!(m.pm.poll(&mut m.bench.cx()).is_some_and(|w| w > wake));
    }

    #[test]
    fn power_button_raises_sci_until_its_status_is_cleared() {
        let mut m = Machine::new();
        m.pm.press_power_button();
        assert!(!m.sci(), "not enabled");
        m.write(0x602, Word, 0x120); // Linux: power button, global lock
        assert!(m.sci());
        assert_eq!(m.read(0x600, Word), 0x100);
        m.write(0x600, Word, 0x100);
        assert!(!m.sci());
    }

    #[test]
    fn registers_can_be_accessed_in_bytes() {
        let mut m = Machine::new();
        m.pm.press_power_button();
        m.write(0x603, Byte, 1);
        assert!(m.sci());
        assert_eq!(m.read(0x601, Byte), 1);
        assert_eq!(m.read(0x600, Dword), 0x0100_0100);
        m.write(0x601, Byte, 1);
        assert!(!m.sci());
    }

    #[test]
    fn sleep_type_0_switches_off_1_suspends_and_others_do_nothing() {
        let mut m = Machine::new();
        m.write(0x604, Word, 0x2801);
        assert_eq!(m.bench.requests.power, None);
        assert_eq!(m.read(0x604, Word), 0x0801, "SLP_EN is write-only");
        m.write(0x604, Word, 0x2401);
        assert_eq!(m.bench.requests.power.take(), Some(PowerAction::Suspend));
        m.write(0x604, Word, 0x0001);
        assert_eq!(m.bench.requests.power, None);
        m.write(0xb004, Word, 0x2001);
        assert_eq!(m.bench.requests.power, Some(PowerAction::PowerOff));
    }

    #[test]
    fn sci_enable_cannot_be_cleared() {
        let mut m = Machine::new();
        m.write(0x604, Word, 0);
        assert_eq!(m.read(0x604, Word), 1);
    }

    #[test]
    fn general_purpose_events_can_be_enabled_in_bytes() {
        let mut m = Machine::new();
        m.write(0xafe2, Byte, 0x0f);
        m.write(0xafe3, Byte, 0xf0);
        assert_eq!(m.read(0xafe0, Dword), 0xf00f_0000);
        m.write(0xafe0, Word, 0xffff);
        assert_eq!(m.read(0xafe0, Word), 0);
        assert!(!m.sci());
    }

    #[test]
    fn a_cpu_that_comes_raises_event_2_until_its_status_is_cleared() {
        let mut m = Machine::new();
        m.write(0xafe2, Byte, 1 << 2);
        assert_eq!(m.pm.cpus(|cpus| cpus.plug(2)), Some(true));
        assert!(m.sci());
        assert_eq!(m.read(0xafe0, Byte), 1 << 2);
        // ACPI: an edge's status is cleared before its method runs.
        m.write(0xafe0, Byte, 1 << 2);
        assert!(!m.sci());
        assert_eq!(m.pm.cpus(|cpus| cpus.take_ejected()), Some(None));
        assert!(!m.sci(), "nothing is new");
        m.write(0xaf05, Byte, 0);
        assert_eq!((m.read(0xaf04, Byte), m.read(0xaf08, Dword)), (3, 2));
        m.write(0xaf04, Byte, 2);
        assert_eq!(m.pm.cpus(|cpus| cpus.request_unplug(1)), Some(true));
        assert!(m.sci());
        m.pm.reset(&mut m.bench.cx());
        assert!(!m.sci());
        assert_eq!(m.pm.cpus(|cpus| cpus.present().count()), Some(2));
        assert!(!m.sci());
    }

    #[test]
    fn a_machine_with_one_cpu_has_no_registers_of_cpu_hotplug() {
        let mut m = Machine::new();
        m.pm.cpus = None;
        m.write(0xaf00, Dword, 0);
        assert_eq!(m.read(0xaf00, Dword), u32::MAX);
        assert_eq!(m.pm.cpus(|cpus| cpus.plug(1)), None);
    }

    #[test]
    fn reset_lowers_sci_and_clears_events() {
        let mut m = Machine::new();
        m.write(0x602, Word, 0x100);
        m.pm.press_power_button();
        m.pm.reset(&mut m.bench.cx());
        assert!(!m.sci());
        assert_eq!(m.read(0x600, Dword), 0);
    }

    /// A machine that sleeps as Linux lets it: with the power button and the clock enabled.
    fn asleep() -> Machine {
        let mut m = Machine::new();
        m.write(0x602, Word, 0x500);
        m.write(0x604, Word, 0x2401);
        assert!(!m.pm.wakes());
        m
    }

    #[test]
    fn button_key_and_alarm_wake_and_leave_their_status() {
        for (event, status) in [
            (Piix4Pm::press_power_button as fn(&mut Piix4Pm), 0x8100),
            (Piix4Pm::press_key, 0x8100),
            (|pm| pm.alarm().ring(), 0x8400),
        ] {
            let mut m = asleep();
            event(&mut m.pm);
            assert!(m.pm.wakes());
            m.pm.wake(&mut m.bench.cx());
            assert!(!m.pm.wakes() && !m.sci(), "nothing is enabled");
            assert_eq!(m.read(0x600, Dword), status);
            m.write(0x600, Word, 0x8500);
            assert_eq!(m.read(0x600, Word), 0);
        }
    }

    #[test]
    fn an_alarm_that_is_not_enabled_does_not_wake_nor_does_a_key_before_sleep() {
        let mut m = Machine::new();
        m.pm.press_key();
        assert_eq!(m.read(0x600, Word), 0);
        m.pm.press_power_button();
        m.write(0x604, Word, 0x2401);
        m.pm.alarm().ring();
        assert!(!m.pm.wakes());
        m.write(0x602, Word, 0x400);
        assert!(m.pm.wakes());
    }

    #[test]
    fn the_alarm_raises_sci_while_it_is_enabled() {
        let mut m = Machine::new();
        m.pm.alarm().ring();
        assert!(!m.sci());
        m.write(0x602, Word, 0x400);
        assert!(m.sci());
        m.write(0x600, Word, 0x400);
        assert!(!m.sci());
        m.pm.alarm().ring();
        assert!(m.sci());
        m.pm.reset(&mut m.bench.cx());
        assert!(!m.sci());
        m.pm.alarm().ring();
        assert!(!m.sci());
    }

    #[test]
    fn cpus_that_have_come_are_there_after_sleep() {
        let mut m = asleep();
        assert_eq!(m.pm.cpus(|cpus| cpus.plug(2)), Some(true));
        m.pm.wake(&mut m.bench.cx());
        assert_eq!(m.pm.cpus(|cpus| cpus.present().count()), Some(3));
        assert_eq!(
            m.read(0xafe0, Byte),
            1 << 2,
            "the system has still to be told"
        );
    }

    #[test]
    fn random_abuse_never_panics() {
        let mut m = Machine::new();
        let mut random = Random::new(0x1234_5678_9abc_def1);
        for _ in 0..200_000 {
            let x = random.next();
            let base = [0x600, 0xb000, 0xafe0, 0xaf00][(x >> 4 & 3) as usize];
            let port = base + (x >> 8 & 0x7f) as u16;
            let size = [Byte, Word, Dword, Byte][(x >> 16 & 3) as usize];
            match x & 7 {
                0..3 => m.write(port, size, (x >> 32) as u32 & size.ones()),
                3..6 => assert_eq!(m.read(port, size) & !size.ones(), 0),
                6 => {
                    m.bench.now = m.bench.now + VmTime(x >> (x >> 20 & 63));
                    let wake = m.pm.poll(&mut m.bench.cx());
                    assert!(wake.is_none_or(|w| w > m.bench.now || w == VmTime::NEVER));
                }
                _ => {
                    m.pm.press_power_button();
                    m.pm.config_write(&mut m.bench.cx(), (x >> 24) as u8, size, (x >> 32) as u32);
                }
            }
        }
    }
}
