//! The National PC16550D UART, as COM ports have it: 8 ports from a base.
//!
//! Transmission takes no time: the transmitter is always empty, and each write to it raises its interrupt anew. Received
//! bytes wait in a bounded queue and move to the receiver's FIFO in [`Device::poll`], a FIFO's worth at a time when it has been
//! empty for a character's time: the interrupt line falls in between, as drivers behind edge-triggered
//! interrupt chips need it to. OUT2 connects the interrupt line, loopback disconnects it, as PC hardware does.
//!
//! Not implemented: breaks, parity and framing errors (the line never has them), word lengths below 8.
//!
//! Invariant: after each call the interrupt line is up if a source is pending and OUT2 lets it through.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use hv_core::VmTime;
use hv_core::backend::ConsoleBackend;
use hv_core::device::{AccessSize, DevCx, Device};
use hv_core::irq::IrqLine;

/// Receiver buffer and transmitter holding register; with DLAB: divisor, low byte.
const DATA: u16 = 0;
/// Interrupt enable; with DLAB: divisor, high byte.
const INTERRUPT_ENABLE: u16 = 1;
/// Interrupt identification; written: FIFO control.
const INTERRUPT_ID: u16 = 2;
/// Line control.
const LINE_CONTROL: u16 = 3;
/// Modem control.
const MODEM_CONTROL: u16 = 4;
/// Line status.
const LINE_STATUS: u16 = 5;
/// Modem status.
const MODEM_STATUS: u16 = 6;

/// Line control: the divisor is accessible.
const DLAB: u8 = 1 << 7;
/// FIFO control: FIFOs on.
const FIFO_ENABLE: u8 = 1 << 0;
/// FIFO control: empty the receiver's FIFO.
const FIFO_CLEAR_RX: u8 = 1 << 1;
/// Interrupt identification: FIFOs are on.
const ID_FIFOS: u8 = 0xc0;
/// Interrupt identification: nothing is pending.
const ID_NONE: u8 = 0x01;

/// Bytes in the receiver's FIFO.
const FIFO_LEN: usize = 16;
/// Bytes that may wait for the guest behind the FIFO.
const QUEUE_LEN: usize = 4096;
/// The divisor at power-on: 9600 baud.
const DIVISOR_RESET: u16 = 12;
/// Nanoseconds of one character of 10 bits at divisor 1: 160 clocks of 1.8432 MHz.
const CHARACTER_NS: u64 = 86_806;
/// The longest character time: slow lines are not waited for.
const CHARACTER_MAX_NS: u64 = 1_000_000;

bitflags::bitflags! {
    /// The interrupt enable register (PC16550D datasheet 8.6, "Interrupt Enable Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Ier: u8 {
        const RECEIVED = 1 << 0;
        const THR_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// The modem control register (8.7, "Modem Control Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOP = 1 << 4;
    }

    /// The line status register (8.3, "Line Status Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Lsr: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const THR_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// The modem status register (8.8, "Modem Status Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Msr: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        const TRAILING_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
        /// The bits that a read clears and that interrupt.
        const CHANGES = 0x0f;
        /// What somebody at the other end looks like.
        const CONNECTED = Self::CTS.bits() | Self::DSR.bits() | Self::DCD.bits();
    }
}

/// What interrupts, highest priority first, by its identification (8.5, "Interrupt Identification Register").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    LineStatus = 0x06,
    Received = 0x04,
    Timeout = 0x0c,
    ThrEmpty = 0x02,
    ModemStatus = 0x00,
}

/// The receiver's FIFO; with FIFOs off only one byte of it is used.
#[derive(Default)]
struct Fifo {
    bytes: [u8; FIFO_LEN],
    head: usize,
    len: usize,
}

impl Fifo {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut((self.head + self.len) % FIFO_LEN) {
            *slot = byte;
            self.len = (self.len + 1).min(FIFO_LEN);
        }
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.head).filter(|_| self.len != 0)?;
        self.head = (self.head + 1) % FIFO_LEN;
        self.len -= 1;
        Some(byte)
    }
}

/// Stands in for the console during a reset.
struct Nobody;

impl ConsoleBackend for Nobody {
    fn write(&mut self, _byte: u8) {}
}

/// A serial port.
pub struct Uart {
    base: u16,
    irq: IrqLine,
    tx: Box<dyn ConsoleBackend>,

    ier: Ier,
    fifos: bool,
    /// At how many bytes the receiver interrupts with FIFOs on.
    trigger: usize,
    lcr: u8,
    mcr: Mcr,
    msr: Msr,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    fifo: Fifo,
    /// Transmitter empty and nobody was told yet.
    thr_pending: bool,
    /// The character timeout has come.
    timeout: bool,

    /// Bytes from outside that are not in the FIFO yet.
    queue: VecDeque<u8>,
    /// No byte arrives before this.
    arrival: VmTime,
    /// When the character timeout comes.
    timeout_at: VmTime,
    /// What the interrupt line was set to last.
    level: bool,
}

impl Uart {
    /// A serial port at ports `base` to `base` + 7 in power-on state, with somebody connected. What the guest sends goes to
    /// `tx`.
    #[must_use]
    pub fn new(base: u16, irq: IrqLine, tx: Box<dyn ConsoleBackend>) -> Self {
        Self::with_queue(base, irq, tx, VecDeque::with_capacity(QUEUE_LEN))
    }

    /// The same with a queue that is empty and long enough.
    fn with_queue(
        base: u16,
        irq: IrqLine,
        tx: Box<dyn ConsoleBackend>,
        queue: VecDeque<u8>,
    ) -> Self {
        Self {
            base,
            irq,
            tx,
            ier: Ier::empty(),
            fifos: false,
            trigger: 1,
            lcr: 0,
            mcr: Mcr::OUT2,
            msr: Msr::CONNECTED,
            scratch: 0,
            divisor: DIVISOR_RESET,
            overrun: false,
            fifo: Fifo::default(),
            thr_pending: false,
            timeout: false,
            queue,
            arrival: VmTime(0),
            timeout_at: VmTime::NEVER,
            level: false,
        }
    }

    /// Queues bytes for the guest to receive; what exceeds 4,096 bytes in waiting is lost. They arrive at the next
    /// [`Device::poll`], which the caller makes happen.
    pub fn receive(&mut self, bytes: &[u8]) {
        let room = QUEUE_LEN.saturating_sub(self.queue.len());
        self.queue.extend(bytes.iter().take(room));
    }

    /// How many bytes the receiver holds before it overruns.
    fn capacity(&self) -> usize {
        if self.fifos { FIFO_LEN } else { 1 }
    }

    fn character(&self) -> VmTime {
        VmTime((u64::from(self.divisor.max(1)) * CHARACTER_NS).min(CHARACTER_MAX_NS))
    }

    /// Whether queued bytes can move to the FIFO.
    fn can_arrive(&self) -> bool {
        !self.queue.is_empty() && self.fifo.len == 0 && !self.mcr.contains(Mcr::LOOP)
    }

    /// The pending interrupt of the highest priority.
    fn source(&self) -> Option<Source> {
        let enabled = |bit, pending: bool| pending && self.ier.contains(bit);
        if enabled(Ier::LINE_STATUS, self.overrun) {
            Some(Source::LineStatus)
        } else if enabled(Ier::RECEIVED, self.fifo.len >= self.trigger) {
            Some(Source::Received)
        } else if enabled(Ier::RECEIVED, self.timeout) {
            Some(Source::Timeout)
        } else if enabled(Ier::THR_EMPTY, self.thr_pending) {
            Some(Source::ThrEmpty)
        } else if enabled(Ier::MODEM_STATUS, self.msr.intersects(Msr::CHANGES)) {
            Some(Source::ModemStatus)
        } else {
            None
        }
    }

    /// Drives the interrupt line.
    fn update(&mut self) {
        let connected = self.mcr & (Mcr::OUT2 | Mcr::LOOP) == Mcr::OUT2;
        self.drive(connected && self.source().is_some());
    }

    fn drive(&mut self, level: bool) {
        if self.level != level {
            self.level = level;
            self.irq.set(level);
        }
    }

    /// The FIFO has changed: the character timeout starts over, and the queue may go on a character's time later.
    fn restart_timeout(&mut self, cx: &mut DevCx<'_>) {
        self.timeout = false;
        self.timeout_at = VmTime::NEVER;
        if self.fifos && self.fifo.len != 0 {
            self.timeout_at = cx.now + VmTime(4 * self.character().0);
            cx.requests.wake_at(self.timeout_at);
        }
        if self.can_arrive() {
            cx.requests.wake_at(self.arrival);
        }
    }

    fn read_data(&mut self, cx: &mut DevCx<'_>) -> u8 {
        let Some(byte) = self.fifo.pop() else {
            return 0;
        };
        if self.fifo.len == 0 {
            self.arrival = cx.now + self.character();
        }
        self.restart_timeout(cx);
        self.update();
        byte
    }

    /// Sends `bytes` one after the other; each could have interrupted, but the line cannot tell them apart.
    fn transmit(&mut self, cx: &mut DevCx<'_>, bytes: impl Iterator<Item = u8>) {
        if self.mcr.contains(Mcr::LOOP) {
            for byte in bytes {
                self.loop_back(byte);
            }
            self.restart_timeout(cx);
        } else {
            for byte in bytes {
                self.tx.write(byte);
            }
        }
        self.thr_pending = true;
        if self.level && self.source() == Some(Source::ThrEmpty) {
            // The write ended the interrupt before, an empty transmitter is the next one.
            self.drive(false);
        }
        self.update();
    }

    fn loop_back(&mut self, byte: u8) {
        if self.fifo.len < self.capacity() {
            self.fifo.push(byte);
        } else {
            self.overrun = true;
            if !self.fifos {
                // Without FIFOs the new character replaces the old one.
                self.fifo.len = 0;
                self.fifo.push(byte);
            }
        }
    }

    fn write_interrupt_enable(&mut self, value: u8) {
        let ier = Ier::from_bits_truncate(value);
        if (ier ^ self.ier).contains(Ier::THR_EMPTY) {
            // The transmitter is empty: enabling its interrupt raises it. Linux, Windows and SeaBIOS test this.
            self.thr_pending = ier.contains(Ier::THR_EMPTY);
        }
        self.ier = ier;
        self.update();
    }

    fn write_fifo_control(&mut self, cx: &mut DevCx<'_>, value: u8) {
        let fifos = value & FIFO_ENABLE != 0;
        if fifos != self.fifos || fifos && value & FIFO_CLEAR_RX != 0 {
            self.fifo = Fifo::default();
        }
        self.fifos = fifos;
        self.trigger = match value >> 6 {
            _ if !fifos => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
        self.restart_timeout(cx);
        self.update();
    }

    fn write_modem_control(&mut self, cx: &mut DevCx<'_>, value: u8) {
        self.mcr = Mcr::from_bits_truncate(value);
        let lines = if self.mcr.contains(Mcr::LOOP) {
            [
                (Mcr::RTS, Msr::CTS),
                (Mcr::DTR, Msr::DSR),
                (Mcr::OUT1, Msr::RI),
                (Mcr::OUT2, Msr::DCD),
            ]
            .into_iter()
            .filter(|(out, _)| self.mcr.contains(*out))
            .fold(Msr::empty(), |lines, (_, line)| lines | line)
        } else {
            Msr::CONNECTED
        };
        let was = self.msr;
        let changed = was ^ lines;
        self.msr = lines | was & Msr::CHANGES;
        self.msr
            .set_if(Msr::DELTA_CTS, changed.contains(Msr::CTS))
            .set_if(Msr::DELTA_DSR, changed.contains(Msr::DSR))
            .set_if(Msr::TRAILING_RI, changed & was & Msr::RI == Msr::RI)
            .set_if(Msr::DELTA_DCD, changed.contains(Msr::DCD));
        if self.can_arrive() {
            cx.requests.wake_at(self.arrival);
        }
        self.update();
    }

    fn line_status(&mut self) -> u8 {
        let mut status = Lsr::THR_EMPTY | Lsr::TRANSMITTER_EMPTY;
        status.set(Lsr::DATA_READY, self.fifo.len != 0);
        if self.overrun {
            status |= Lsr::OVERRUN;
            self.overrun = false;
            self.update();
        }
        status.bits()
    }

    fn interrupt_id(&mut self) -> u8 {
        let source = self.source();
        if source == Some(Source::ThrEmpty) {
            self.thr_pending = false;
            self.update();
        }
        source.map_or(ID_NONE, |s| s as u8) | if self.fifos { ID_FIFOS } else { 0 }
    }
}

impl Msr {
    fn set_if(&mut self, bit: Msr, yes: bool) -> &mut Self {
        if yes {
            *self |= bit;
        }
        self
    }
}

impl Device for Uart {
    fn name(&self) -> &'static str {
        "uart"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.drive(false);
        let tx = core::mem::replace(&mut self.tx, Box::new(Nobody));
        // A guest that resets its machine takes no memory for that.
        let mut queue = core::mem::take(&mut self.queue);
        queue.clear();
        *self = Self::with_queue(self.base, self.irq.clone(), tx, queue);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        let mut next = VmTime::NEVER;
        if self.can_arrive() {
            if cx.now >= self.arrival {
                let n = self.capacity().min(self.queue.len());
                for byte in self.queue.drain(..n) {
                    self.fifo.push(byte);
                }
                self.restart_timeout(cx);
                self.update();
            } else {
                next = self.arrival;
            }
        }
        if cx.now >= self.timeout_at {
            self.timeout_at = VmTime::NEVER;
            self.timeout = true;
            self.update();
        }
        next = next.min(self.timeout_at);
        (next != VmTime::NEVER).then_some(next)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let byte = match port.wrapping_sub(self.base) {
            DATA if self.lcr & DLAB != 0 => self.divisor as u8,
            DATA => self.read_data(cx),
            INTERRUPT_ENABLE if self.lcr & DLAB != 0 => (self.divisor >> 8) as u8,
            INTERRUPT_ENABLE => self.ier.bits(),
            INTERRUPT_ID => self.interrupt_id(),
            LINE_CONTROL => self.lcr,
            MODEM_CONTROL => self.mcr.bits(),
            LINE_STATUS => self.line_status(),
            MODEM_STATUS => {
                let status = self.msr;
                if status.intersects(Msr::CHANGES) {
                    self.msr.remove(Msr::CHANGES);
                    self.update();
                }
                status.bits()
            }
            _ => self.scratch,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let value = value as u8;
        match port.wrapping_sub(self.base) {
            DATA if self.lcr & DLAB != 0 => self.divisor = self.divisor & 0xff00 | u16::from(value),
            DATA => self.transmit(cx, core::iter::once(value)),
            INTERRUPT_ENABLE if self.lcr & DLAB != 0 => {
                self.divisor = self.divisor & 0x00ff | u16::from(value) << 8;
            }
            INTERRUPT_ENABLE => self.write_interrupt_enable(value),
            INTERRUPT_ID => self.write_fifo_control(cx, value),
            LINE_CONTROL => self.lcr = value,
            MODEM_CONTROL => self.write_modem_control(cx, value),
            LINE_STATUS | MODEM_STATUS => {}
            _ => self.scratch = value,
        }
    }

    fn port_write_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &[u8]) {
        let bytes = buf.iter().step_by(size.bytes()).copied();
        if port == self.base && self.lcr & DLAB == 0 {
            self.transmit(cx, bytes);
        } else {
            for byte in bytes {
                self.port_write(cx, port, AccessSize::Byte, byte.into());
            }
        }
    }
}
