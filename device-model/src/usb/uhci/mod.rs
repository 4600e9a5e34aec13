//! The USB host controller of the Intel PIIX3 (82371SB datasheet 290550, "USB Host Controller"), function 0:1.2: a UHCI (*Universal Host
//! Controller Interface (UHCI) Design Guide*, revision 1.1) with a device in the first of its two ports.
//!
//! A frame's work is done at its end, all at once: what the schedule holds is executed, the frame number counts, interrupts are raised.
//! UHCI has no doorbell: a driver queues a transfer by writing to memory, and nobody is told. So the controller has to look, but not a thousand times a
//! second. While nothing moves it waits a quarter of the time that nothing has moved for, up to `LONGEST`, and then makes up for the
//! frames that have passed. A register that is accessed finds them made up for, too. As soon as something moves, or the device has something new,
//! each frame has its turn. A controller that is stopped, as drivers do when they suspend their bus, does nothing.
//!
//! Not implemented: software debug mode, the length of a frame (SOFMOD is kept), over-current, the keyboard traps of legacy support, whose
//! register is kept; so is its bit that leads the interrupt to PIRQD, where it always goes.
//!
//! Invariant: between two calls, frames up to a bound are made up for, each of which does bounded work.

mod descriptors;
mod frame;
mod registers;
#[cfg(test)]
mod tests;

use super::UsbDevice;
use crate::pci::{Command as PciCommand, ConfigSpace, Identity, Intx, PciFunction, register};
use descriptors::Link;
use frame::{Fault, Frame, Outcome};
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use hv_core::irq::IrqLine;
use hv_core::mem::GuestMemory;
use hv_core::{Gpa, VmTime};
use registers::{
    Causes, Command, Enable, FLBASEADD, FRNUM, PORTSC, PortStatus, SOF_DEFAULT, SOFMOD, Status,
    USBCMD, USBINTR, USBSTS,
};

/// Ports.
pub const PORTS: u16 = 32;
/// The base address register with them.
const BASE: u8 = 4;
/// The interrupt pin: INTD.
pub const PIN: u8 = 3;
/// Serial bus release number: 1.0.
const SBRNUM: u8 = 0x60;
/// Legacy support (82371SB, "LEGSUP"): bits that can be written, and the value after reset: the interrupt goes to PIRQD.
const LEGSUP: u8 = 0xc0;
const LEGSUP_WRITABLE: [u8; 2] = [0xbf, 0x20];
const LEGSUP_RESET: [u8; 2] = [0x00, 0x20];

/// When the device is plugged in, after power-on: firmware that waits for keyboards and disks finds none, and goes on. SeaBIOS takes 70 ms to learn
/// that it has no driver for a tablet.
const PLUG: VmTime = VmTime::from_millis(1_000);
/// A frame.
const FRAME: VmTime = VmTime::from_millis(1);
/// The longest time between two looks at the schedule, in frames.
const LONGEST: u64 = 32;
/// The frame number has 11 bits, of which 10 choose an entry of the frame list.
const FRAME_NUMBER: u16 = 0x7ff;
const ENTRIES: u16 = 0x3ff;
/// Entries of the frame list behind which nothing moves that are remembered while frames are made up for.
const REMEMBERED: usize = 8;

/// What a reset of the controller clears.
#[derive(Default)]
struct State {
    command: Command,
    status: Status,
    /// What [`Status::INTERRUPT`] stands for.
    causes: Causes,
    enable: Enable,
    frame: u16,
    list: u32,
    sof: u8,
    /// While it runs: when the current frame ends, when something moved last, and when the schedule is looked at next.
    frame_end: VmTime,
    moved: VmTime,
    look: VmTime,
}

impl State {
    fn new() -> Self {
        Self {
            sof: SOF_DEFAULT,
            ..Self::default()
        }
    }

    fn runs(&self) -> bool {
        self.command.contains(Command::RUN)
    }

    /// Decides when the schedule is looked at next.
    fn plan(&mut self, now: VmTime) {
        let idle = now.0.saturating_sub(self.moved.0) / FRAME.0;
        let frames = (idle / 4).clamp(1, LONGEST);
        self.look = self.frame_end + VmTime(FRAME.0 * (frames - 1));
    }

    fn interrupts(&self) -> bool {
        let enabled = |cause, status: Status, enable| {
            self.causes.contains(cause)
                && self.status.contains(status)
                && self.enable.contains(enable)
        };
        enabled(Causes::COMPLETE, Status::INTERRUPT, Enable::COMPLETE)
            || enabled(Causes::SHORT, Status::INTERRUPT, Enable::SHORT)
            || enabled(Causes::empty(), Status::ERROR, Enable::ERROR)
            || enabled(Causes::empty(), Status::RESUME, Enable::RESUME)
            || self
                .status
                .intersects(Status::SYSTEM_ERROR | Status::PROCESS_ERROR)
    }
}

/// The host controller with its device.
pub struct Uhci<D> {
    config: ConfigSpace,
    irq: Intx,
    state: State,
    ports: [PortStatus; 2],
    /// When the device will be plugged in; none once it is.
    plug: Option<VmTime>,
    device: D,
}

impl<D: UsbDevice> Uhci<D> {
    /// The controller in power-on state, with `device` for its first port, interrupting on `irq`. Its ports are the window `registers`.
    #[must_use]
    pub fn new(irq: IrqLine, registers: WindowId, device: D) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7020,
            class: 0x0c_0300,
            revision: 1,
            subsystem: (0x1af4, 0x1100),
        };
        let [low, high] = LEGSUP_WRITABLE;
        let config = ConfigSpace::new(&identity)
            .preset(register::STATUS, &0x0280_u16.to_le_bytes())
            .preset(SBRNUM, &[0x10])
            .preset(LEGSUP, &LEGSUP_RESET)
            .writable(LEGSUP, LEGSUP, low)
            .writable(LEGSUP + 1, LEGSUP + 1, high)
            .interrupt_pin(PIN)
            .io_bar(BASE, PORTS.into(), registers);
        Self {
            config,
            irq: Intx::new(irq),
            state: State::new(),
            ports: [PortStatus::power_on(false); 2],
            plug: Some(PLUG),
            device,
        }
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    fn update_irq(&mut self) {
        let asks = self.state.interrupts();
        self.irq.set(&mut self.config, asks);
    }

    /// Does the work of the frames that have ended.
    fn catch_up(&mut self, now: VmTime, dma: &dyn GuestMemory) {
        let state = &mut self.state;
        if !state.runs() || now < state.frame_end {
            return;
        }
        // Longer ago than it ever waits: the host was busy, or the guest stood still.
        let ended = (now.0 - state.frame_end.0) / FRAME.0 + 1;
        let lost = ended.saturating_sub(LONGEST);
        state.frame = state.frame.wrapping_add(lost as u16) & FRAME_NUMBER;
        state.frame_end = state.frame_end + VmTime(FRAME.0 * lost);
        let mut quiet = [None; REMEMBERED];
        let mut known = 0;
        for _ in lost..ended {
            if let Err(fault) = self.frame(now, dma, &mut quiet, &mut known) {
                let status = match fault {
                    Fault::System => Status::SYSTEM_ERROR,
                    Fault::Process => Status::PROCESS_ERROR,
                };
                self.state.status |= status;
                self.state.command -= Command::RUN;
                break;
            }
            self.state.frame = (self.state.frame + 1) & FRAME_NUMBER;
            self.state.frame_end = self.state.frame_end + FRAME;
        }
        self.state.plan(now);
        self.update_irq();
    }

    /// The work of one frame. Entries of the frame list that are `quiet` have been looked at: nothing moves behind them.
    fn frame(
        &mut self,
        now: VmTime,
        dma: &dyn GuestMemory,
        quiet: &mut [Option<Link>; REMEMBERED],
        known: &mut usize,
    ) -> Result<(), Fault> {
        if !self.config.command().contains(PciCommand::MASTER) {
            return Ok(());
        }
        let entry = u64::from(self.state.frame & ENTRIES) * 4;
        let entry = Link(dma.read_u32(Gpa(u64::from(self.state.list) + entry))?);
        if entry.is_end() || quiet.contains(&Some(entry)) {
            return Ok(());
        }
        let open = self.ports[0].lets_through();
        let mut frame = Frame {
            dma,
            now,
            device: open.then_some(&mut self.device),
            outcome: Outcome::default(),
        };
        let result = frame.run(entry);
        let Outcome { causes, progress } = frame.outcome;
        if causes.intersects(Causes::COMPLETE | Causes::SHORT) {
            self.state.causes |= causes;
            self.state.status |= Status::INTERRUPT;
        }
        if causes.contains(Causes::ERROR) {
            self.state.status |= Status::ERROR;
        }
        if progress {
            self.state.moved = now;
            *quiet = [None; REMEMBERED];
        } else if let Some(place) = quiet.get_mut(*known % REMEMBERED) {
            *place = Some(entry);
            *known += 1;
        }
        result
    }

    /// What of the bus is suspended: the device's port, and all of it.
    fn sleeps(&self) -> (bool, bool) {
        (
            self.ports[0].contains(PortStatus::SUSPENDED),
            self.state.command.contains(Command::GLOBAL_SUSPEND),
        )
    }

    /// A suspended port sees that the device resumes, if it wants to be heard. That may have begun before the whole bus was suspended.
    fn wake(&mut self) {
        let port = &mut self.ports[0];
        let resumes = port.contains(PortStatus::RESUME);
        let can = port.contains(PortStatus::ENABLED) && self.device.wakes();
        if self.sleeps() != (false, false) && (resumes || can) {
            self.ports[0].insert(PortStatus::RESUME);
            self.resume();
        }
    }

    /// Something has happened at a port, which a suspended bus sees (UHCI Design Guide 2.1.1, "USB Command Register", "Force Global Resume").
    fn resume(&mut self) {
        let resumes = self.state.command.contains(Command::GLOBAL_RESUME);
        if self.state.command.contains(Command::GLOBAL_SUSPEND) && !resumes {
            self.state.command |= Command::GLOBAL_RESUME;
            self.state.status |= Status::RESUME;
            self.update_irq();
        }
    }

    /// Plugs the device in when it is time.
    fn plug(&mut self, now: VmTime) {
        if self.plug.is_some_and(|plug| now >= plug) {
            self.plug = None;
            self.ports[0] = PortStatus::power_on(true);
            self.resume();
        }
    }

    fn reset_ports(&mut self) {
        self.ports = [self.plug.is_none(), false].map(PortStatus::power_on);
        self.device.bus_reset();
    }

    fn write_command(&mut self, cx: &mut DevCx<'_>, value: u16) {
        let command = Command::from_bits_truncate(value);
        if command.contains(Command::GLOBAL_RESET) {
            self.state = State::new();
            self.state.command = Command::GLOBAL_RESET;
            self.reset_ports();
        } else if command.contains(Command::RESET) {
            self.state = State::new();
            self.ports.iter_mut().for_each(PortStatus::reconnect);
        } else {
            if command.contains(Command::RUN) && !self.state.runs() {
                self.state.frame_end = cx.now + FRAME;
            }
            self.state.command = command;
        }
    }

    /// Reads the 16-bit register at `offset`, which is even.
    fn read(&self, offset: u8) -> u16 {
        let state = &self.state;
        match offset {
            USBCMD => state.command.bits(),
            USBSTS => {
                let mut status = state.status;
                status.set(Status::HALTED, !state.runs());
                status.bits()
            }
            USBINTR => state.enable.bits(),
            FRNUM => state.frame,
            FLBASEADD => state.list as u16,
            0x0a => (state.list >> 16) as u16,
            SOFMOD => state.sof.into(),
            _ => {
                let port = PORTSC.into_iter().zip(self.ports);
                let port = port.into_iter().find(|&(at, _)| at == offset);
                port.map_or(0, |(_, port)| port.bits())
            }
        }
    }

    /// Writes the bits `mask` of the 16-bit register at `offset`, which is even.
    fn write(&mut self, cx: &mut DevCx<'_>, offset: u8, value: u16, mask: u16) {
        // Bits that are cleared by ones are not written with the others of their register.
        let kept = match offset {
            USBSTS => 0,
            at if PORTSC.contains(&at) => {
                let changes = PortStatus::CONNECT_CHANGE | PortStatus::ENABLE_CHANGE;
                self.read(at) & !changes.bits()
            }
            at => self.read(at),
        };
        let value = kept & !mask | value & mask;
        let state = &mut self.state;
        match offset {
            USBCMD => self.write_command(cx, value),
            USBSTS => {
                let cleared = Status::from_bits_truncate(value);
                state.status -= cleared;
                if cleared.contains(Status::INTERRUPT) {
                    state.causes = Causes::empty();
                }
            }
            USBINTR => state.enable = Enable::from_bits_truncate(value),
            FRNUM if !state.runs() => state.frame = value & FRAME_NUMBER,
            FLBASEADD => state.list = state.list & !0xffff | u32::from(value & 0xf000),
            0x0a => state.list = state.list & 0xffff | u32::from(value) << 16,
            SOFMOD => state.sof = value as u8 & 0x7f,
            _ => {
                let place = PORTSC.into_iter().zip(&mut self.ports).enumerate();
                for (index, (at, port)) in place {
                    if at == offset && port.write(value) && index == 0 {
                        self.device.bus_reset();
                    }
                }
            }
        }
    }

    /// The driver is at work: what it queues is executed soon.
    fn touched(&mut self, cx: &mut DevCx<'_>) {
        if self.state.runs() {
            self.state.moved = cx.now;
            self.state.plan(cx.now);
            cx.requests.wake_at(self.state.look);
        }
    }
}

impl<D: UsbDevice> Device for Uhci<D> {
    fn name(&self) -> &'static str {
        "uhci"
    }

    /// Power-on of the registers and of the device; configuration space is reset with the PCI bus.
    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.state = State::new();
        let plug = cx.now + PLUG;
        self.plug = Some(plug);
        cx.requests.wake_at(plug);
        self.reset_ports();
        self.update_irq();
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.plug(cx.now);
        let due = self.device.due();
        if self.device.take_news() {
            self.wake();
            self.state.moved = cx.now;
            self.catch_up(cx.now, cx.dma);
            self.state.plan(cx.now);
        } else if cx.now >= self.state.look.min(due) {
            self.catch_up(cx.now, cx.dma);
        }
        let state = &self.state;
        let due = Some(self.device.due()).filter(|&due| due > cx.now && due != VmTime::NEVER);
        let next = due.map_or(state.look, |due| state.look.min(due.max(state.frame_end)));
        let next = state.runs().then_some(next);
        next.into_iter().chain(self.plug).min()
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        self.catch_up(cx.now, cx.dma);
        let offset = (port % PORTS) as u8;
        let low = u32::from(self.read(offset & !1));
        let high = u32::from(self.read((offset & !1) + 2));
        (low | high << 16) >> (8 * (offset & 1)) & size.ones()
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        self.catch_up(cx.now, cx.dma);
        let offset = (port % PORTS) as u8;
        let shift = 8 * (offset & 1);
        let value = u64::from(value) << shift;
        let mask = u64::from(size.ones()) << shift;
        let (port_slept, slept) = self.sleeps();
        for (n, offset) in (0..3).zip((offset & !1..PORTS as u8).step_by(2)) {
            let part = |all: u64| (all >> (16 * n)) as u16;
            if part(mask) != 0 {
                self.write(cx, offset, part(value), part(mask));
            }
        }
        // What came while the driver was about to suspend has found nobody who polls.
        let (port_sleeps, sleeps) = self.sleeps();
        if port_sleeps && !port_slept || sleeps && !slept {
            self.wake();
        }
        self.update_irq();
        self.touched(cx);
    }
}

impl<D: UsbDevice> PciFunction for Uhci<D> {
    fn config_read(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.config.config_read(cx, offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.config.config_write(cx, offset, size, value);
        self.irq.settle(&self.config);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.config.config_reset(cx);
        self.irq.settle(&self.config);
    }
}
