//! The ACPI fixed hardware registers of the PIIX4 (ACPI 1.0b 4.7.3, "Fixed Hardware Feature Control Blocks", and 82371AB
//! datasheet 7.2, "Power Management IO Space Registers") and its general-purpose events.
//!
//! The timer is computed from the VM's time. Its overflow status is too: it is set when the moment has passed at which
//! bit 23 toggles next after the status was cleared.

use super::RtcAlarm;
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, PowerAction};
use hv_core::irq::IrqLine;
use hv_core::machine::PM_TIMER_HZ;

/// Offset of the power management 1 status register, 16 bits.
const PM1_STS: u16 = 0x00;
/// Offset of the power management 1 enable register, 16 bits.
const PM1_EN: u16 = 0x02;
/// Offset of the power management 1 control register, 16 bits.
const PM1_CNT: u16 = 0x04;
/// Offset of the timer, 32 bits.
const PM_TMR: u16 = 0x08;

/// Ticks between two toggles of the timer's bit 23.
const HALF_TURN: u64 = 1 << 23;
/// Bits that the timer counts.
const TIMER_MASK: u64 = (1 << 24) - 1;

bitflags::bitflags! {
    /// The status and enable registers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Pm1: u16 {
        const TMR = 1 << 0;
        const GBL = 1 << 5;
        const PWRBTN = 1 << 8;
        const RTC = 1 << 10;
        const WAK = 1 << 15;
        /// The events that can be enabled.
        const EVENTS = Self::TMR.bits() | Self::GBL.bits() | Self::PWRBTN.bits() | Self::RTC.bits();
    }

    /// The control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Pm1Control: u16 {
        const SCI_EN = 1 << 0;
        const BM_RLD = 1 << 1;
        const SLP_TYP = 7 << 10;
        const SLP_EN = 1 << 13;
    }
}

/// The sleep types that our `\_S5` and `\_S3` packages name: soft-off, and suspend to RAM.
const SOFT_OFF: u16 = 0;
const SUSPEND: u16 = 1;

/// The fixed registers and general-purpose events, with the SCI they raise.
pub(super) struct AcpiBlock {
    sci: IrqLine,
    status: Pm1,
    enable: Pm1,
    control: Pm1Control,
    /// When the timer's status is set next; meaningless while it is set.
    overflow: VmTime,
    gpe_status: u16,
    gpe_enable: u16,
    /// The clock's alarm, whose status is one of ours.
    alarm: RtcAlarm,
    /// The machine is suspended to RAM, and since then the power button or a key has been pressed.
    asleep: bool,
    pressed: bool,
}

/// Ticks of the timer since time 0. Exact, without the 128-bit division of [`VmTime::ticks`]: guests poll it.
fn ticks(now: VmTime) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    now.0 / SECOND * PM_TIMER_HZ + now.0 % SECOND * PM_TIMER_HZ / SECOND
}

/// The first moment after `now` at which bit 23 of the timer toggles.
fn next_overflow(now: VmTime) -> VmTime {
    VmTime::of_ticks((ticks(now) / HALF_TURN + 1) * HALF_TURN, PM_TIMER_HZ)
}

impl AcpiBlock {
    pub(super) fn new(sci: IrqLine) -> Self {
        let alarm = RtcAlarm::new(sci.clone());
        Self::power_on(sci, alarm, VmTime(0))
    }

    /// The power-on state at `now`. It takes no memory: the guest resets its machine when the heap may be full.
    fn power_on(sci: IrqLine, alarm: RtcAlarm, now: VmTime) -> Self {
        Self {
            alarm,
            sci,
            status: Pm1::empty(),
            enable: Pm1::empty(),
            control: Pm1Control::SCI_EN,
            overflow: next_overflow(now),
            gpe_status: 0,
            gpe_enable: 0,
            asleep: false,
            pressed: false,
        }
    }

    pub(super) fn alarm(&self) -> RtcAlarm {
        self.alarm.clone()
    }

    pub(super) fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.alarm.clear();
        self.alarm.enable(false);
        *self = Self::power_on(self.sci.clone(), self.alarm.clone(), cx.now);
        self.drive_sci();
    }

    /// The end of S3: what has come meanwhile can be read, with WAK_STS; nothing is enabled.
    pub(super) fn wake(&mut self, cx: &mut DevCx<'_>) {
        let rings = self.alarm.rings();
        let kept = self.status & (Pm1::PWRBTN | Pm1::GBL);
        let gpe_status = self.gpe_status;
        self.reset(cx);
        self.status = kept | Pm1::WAK;
        self.gpe_status = gpe_status;
        if rings {
            self.alarm.ring();
        }
    }

    /// The button wakes a machine that sleeps.
    pub(super) fn press_power_button(&mut self) {
        self.status |= Pm1::PWRBTN;
        self.pressed = self.asleep;
        self.drive_sci();
    }

    /// A key wakes a machine that sleeps, and is the power button then, as in QEMU: there is no status of its own for it.
    pub(super) fn press_key(&mut self) {
        if self.asleep {
            self.press_power_button();
        }
    }

    /// Whether the machine sleeps, and something has come that wakes it.
    pub(super) fn wakes(&self) -> bool {
        let enabled = self.status() & self.enable;
        self.asleep && (self.pressed || enabled.contains(Pm1::RTC))
    }

    fn status(&self) -> Pm1 {
        let mut status = self.status;
        status.set(Pm1::RTC, self.alarm.rings());
        status
    }

    /// Sets the status of general-purpose event `event` (0 to 15).
    pub(super) fn raise_gpe(&mut self, event: u8) {
        self.gpe_status |= 1 << event;
        self.drive_sci();
    }

    /// Notices the timer's overflow and tells when it must be noticed next, if anybody waits for it.
    pub(super) fn poll(&mut self, now: VmTime) -> Option<VmTime> {
        self.notice_overflow(now);
        let waits = self.enable.contains(Pm1::TMR) && !self.status.contains(Pm1::TMR);
        waits.then_some(self.overflow)
    }

    fn notice_overflow(&mut self, now: VmTime) {
        if now >= self.overflow && !self.status.contains(Pm1::TMR) {
            self.status |= Pm1::TMR;
            self.drive_sci();
        }
    }

    fn drive_sci(&self) {
        let fixed = self.status() & self.enable & Pm1::EVENTS;
        self.sci
            .set(!fixed.is_empty() || self.gpe_status & self.gpe_enable != 0);
    }

    pub(super) fn read(&mut self, now: VmTime, offset: u16, size: AccessSize) -> u32 {
        let timer = (ticks(now) & TIMER_MASK) as u32;
        if offset == PM_TMR {
            return timer & size.ones();
        }
        self.notice_overflow(now);
        let low = u64::from(self.status().bits())
            | u64::from(self.enable.bits()) << 16
            | u64::from(self.control.bits()) << 32;
        let block = u128::from(low) | u128::from(timer) << (8 * PM_TMR);
        block.checked_shr(8 * u32::from(offset)).unwrap_or(0) as u32 & size.ones()
    }

    pub(super) fn write(&mut self, cx: &mut DevCx<'_>, offset: u16, size: AccessSize, value: u32) {
        self.notice_overflow(cx.now);
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(size.bytes()) {
            let shift = 8 * (at & 1);
            let (bits, keep) = (u16::from(byte) << shift, !(0xff << shift));
            match at & !1 {
                PM1_STS => self.clear_status(cx.now, Pm1::from_bits_truncate(bits)),
                PM1_EN => {
                    let enable = self.enable.bits() & keep | bits;
                    self.enable = Pm1::from_bits_truncate(enable) & Pm1::EVENTS;
                    self.alarm.enable(self.enable.contains(Pm1::RTC));
                }
                PM1_CNT => self.set_control(cx, self.control.bits() & keep | bits),
                _ => {}
            }
        }
        self.drive_sci();
        if let Some(when) = self.poll(cx.now) {
            cx.requests.wake_at(when);
        }
    }

    fn clear_status(&mut self, now: VmTime, bits: Pm1) {
        if self.status.contains(Pm1::TMR) && bits.contains(Pm1::TMR) {
            self.overflow = next_overflow(now);
        }
        if bits.contains(Pm1::RTC) {
            self.alarm.clear();
        }
        self.status &= !bits;
    }

    fn set_control(&mut self, cx: &mut DevCx<'_>, value: u16) {
        let value = Pm1Control::from_bits_truncate(value);
        if value.contains(Pm1Control::SLP_EN) {
            let sleep_type = (value & Pm1Control::SLP_TYP).bits() >> 10;
            match sleep_type {
                SOFT_OFF => cx.requests.power = Some(PowerAction::PowerOff),
                SUSPEND => {
                    cx.requests.power = Some(PowerAction::Suspend);
                    (self.asleep, self.pressed) = (true, false);
                }
                _ => log::debug!("pm: sleep type {sleep_type} is not implemented"),
            }
        }
        self.control = value & !Pm1Control::SLP_EN | Pm1Control::SCI_EN;
    }

    pub(super) fn read_gpe(&self, offset: u16, size: AccessSize) -> u32 {
        let block = u32::from(self.gpe_status) | u32::from(self.gpe_enable) << 16;
        block.checked_shr(8 * u32::from(offset)).unwrap_or(0) & size.ones()
    }

    pub(super) fn write_gpe(&mut self, offset: u16, size: AccessSize, value: u32) {
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(size.bytes()) {
            let shift = 8 * (at & 1);
            let bits = u16::from(byte) << shift;
            match at & !1 {
                0 => self.gpe_status &= !bits,
                2 => self.gpe_enable = self.gpe_enable & !(0xff << shift) | bits,
                _ => {}
            }
        }
        self.drive_sci();
    }
}
