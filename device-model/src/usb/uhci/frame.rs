//! The work of one frame: the walk through the schedule (UHCI Design Guide 1.3, "Scheduling"; 3.4, "Transfer Queuing").
//!
//! A guest can make the schedule as long as it likes and link it in circles, as drivers do on purpose to use what is left of a frame
//! ("bandwidth reclamation"). A frame ends when its time is used up, when [`FETCHES`] structures have been read, or when a circle of queues
//! is closed in which nothing was moved.

use super::descriptors::{ACTUAL, Control, ERRORS, ERRORS_SHIFT, Link, Pid, QueueHead, Transfer};
use super::registers::Causes;
use crate::usb::{Answer, MAX_PACKET, UsbDevice};
use hv_core::mem::{GuestMemory, NotRam};
use hv_core::{Gpa, VmTime};

/// Structures of the schedule that are read in a frame at most. Drivers have some ten.
const FETCHES: u32 = 256;
/// Bytes that a frame has room for at 12 Mb/s.
const FRAME_BYTES: usize = 1500;
/// What a transaction takes besides its data: packets, handshake, turn-around (USB 2.0 5.11.3, "Calculating Bus Transaction Times").
const OVERHEAD: usize = 13;

/// Why the host controller halts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Memory did not answer.
    System,
    /// A descriptor is not consistent.
    Process,
}

impl From<NotRam> for Fault {
    fn from(_: NotRam) -> Self {
        Fault::System
    }
}

/// What a frame came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Outcome {
    /// Interrupts at its end.
    pub causes: Causes,
    /// Something was moved, or has failed: there is more to do soon.
    pub progress: bool,
}

/// How it goes on behind a transfer descriptor.
enum Step {
    /// It is done.
    Done,
    /// It is not, or was done before: its queue waits.
    Wait,
    /// The frame has no room for it, or was broken off.
    End,
}

/// Notices that a walk goes round in circles, after at most three rounds (R. P. Brent, *An Improved Monte Carlo Factorization Algorithm*).
struct Circle {
    mark: Option<Link>,
    steps: u32,
    limit: u32,
}

impl Circle {
    const NEW: Self = Self {
        mark: None,
        steps: 0,
        limit: 1,
    };

    fn closes(&mut self, link: Link) -> bool {
        if self.mark == Some(link) {
            return true;
        }
        if self.steps == self.limit {
            *self = Self {
                mark: Some(link),
                steps: 0,
                limit: self.limit * 2,
            };
        }
        self.steps += 1;
        false
    }
}

/// The bus during one frame.
pub(super) struct Frame<'a> {
    pub dma: &'a dyn GuestMemory,
    pub now: VmTime,
    /// The device, if its port lets transactions through.
    pub device: Option<&'a mut dyn UsbDevice>,
    pub outcome: Outcome,
}

impl Frame<'_> {
    /// Executes what is behind `first`, an entry of the frame list.
    ///
    /// # Errors
    /// The controller halts.
    pub(super) fn run(&mut self, first: Link) -> Result<(), Fault> {
        let mut link = first;
        let mut fetches = FETCHES;
        let mut room = FRAME_BYTES;
        let mut circle = Circle::NEW;
        while !link.is_end() && fetches != 0 {
            fetches -= 1;
            if !link.is_queue() {
                let transfer = Transfer::read(self.dma, link.target())?;
                if let Step::End = self.transfer(link.target(), &transfer, false, &mut room)? {
                    break;
                }
                link = transfer.link;
                continue;
            }
            if circle.closes(link) {
                break;
            }
            let at = link.target();
            let queue = QueueHead::read(self.dma, at)?;
            link = queue.link;
            let mut element = queue.element;
            while !element.is_end() && fetches != 0 {
                if element.is_queue() {
                    link = element;
                    break;
                }
                fetches -= 1;
                let transfer = Transfer::read(self.dma, element.target())?;
                match self.transfer(element.target(), &transfer, true, &mut room)? {
                    Step::End => return Ok(()),
                    Step::Wait => break,
                    Step::Done => {
                        circle = Circle::NEW;
                        element = transfer.link;
                        let place = at.add(QueueHead::ELEMENT);
                        self.dma.write(place, &element.0.to_le_bytes())?;
                        if !element.is_depth_first() {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Executes the transfer descriptor at `at`.
    fn transfer(
        &mut self,
        at: Gpa,
        transfer: &Transfer,
        queued: bool,
        room: &mut usize,
    ) -> Result<Step, Fault> {
        let flags = transfer.flags();
        let interrupt = match flags.contains(Control::INTERRUPT) {
            true => Causes::COMPLETE,
            false => Causes::empty(),
        };
        if !flags.contains(Control::ACTIVE) {
            // It interrupts whenever it is fetched.
            self.outcome.causes |= interrupt;
            self.outcome.progress |= !interrupt.is_empty();
            return Ok(Step::Wait);
        }
        let (Some(pid), Some(length)) = (transfer.pid(), transfer.length()) else {
            return Err(Fault::Process);
        };
        let Some(left) = room.checked_sub(OVERHEAD) else {
            return Ok(Step::End);
        };
        let answer = self.transact(transfer, pid, length)?;
        let moved = match answer {
            Answer::Data(bytes) => bytes,
            _ => 0,
        };
        *room = left.saturating_sub(moved);
        let mut control = transfer.control;
        let mut step = Step::Wait;
        let actual = (moved as u32).wrapping_sub(1) & ACTUAL;
        match answer {
            Answer::Data(_) if moved > length => {
                control = ended(control, Control::BABBLE | Control::STALLED, ACTUAL);
                self.outcome.causes |= Causes::ERROR | interrupt;
                step = Step::End;
            }
            Answer::Data(_) => {
                control = ended(control, Control::empty(), actual);
                self.outcome.causes |= interrupt;
                let is_short = queued && pid == Pid::In && moved < length;
                if is_short && flags.contains(Control::SHORT_PACKET) {
                    self.outcome.causes |= Causes::SHORT;
                } else {
                    step = Step::Done;
                }
            }
            Answer::Nak => control |= Control::NAK.bits(),
            Answer::Stall => {
                control = ended(control, Control::STALLED, ACTUAL);
                self.outcome.causes |= Causes::ERROR | interrupt;
            }
            Answer::Silence => {
                control |= Control::TIMEOUT.bits();
                let left = (control & ERRORS) >> ERRORS_SHIFT;
                match left {
                    0 => {}
                    1 => {
                        control = ended(control, Control::TIMEOUT | Control::STALLED, ACTUAL);
                        control &= !ERRORS;
                        self.outcome.causes |= Causes::ERROR | interrupt;
                    }
                    _ => control = control & !ERRORS | (left - 1) << ERRORS_SHIFT,
                }
            }
        }
        if flags.contains(Control::ISOCHRONOUS) {
            // It is tried once.
            control &= !Control::ACTIVE.bits();
            self.outcome.causes |= interrupt;
            step = Step::Done;
        }
        if control != transfer.control {
            let place = at.add(Transfer::CONTROL);
            self.dma.write(place, &control.to_le_bytes())?;
            // A NAK alone changes nothing.
            self.outcome.progress |= answer != Answer::Nak;
        }
        Ok(step)
    }

    /// The transaction on the bus.
    fn transact(&mut self, transfer: &Transfer, pid: Pid, length: usize) -> Result<Answer, Fault> {
        let address = transfer.address();
        let device = self.device.as_deref_mut();
        let Some(device) = device.filter(|device| device.address() == address) else {
            return Ok(Answer::Silence);
        };
        let endpoint = transfer.endpoint();
        let mut packet = [0; MAX_PACKET];
        if pid == Pid::In {
            let answer = device.input(self.now, endpoint, &mut packet);
            if let Answer::Data(bytes) = answer {
                let data = packet.get(..bytes.min(length)).unwrap_or_default();
                self.dma.write(transfer.buffer, data)?;
            }
            return Ok(answer);
        }
        // What is longer than a packet is not understood.
        let Some(data) = packet.get_mut(..length) else {
            return Ok(Answer::Silence);
        };
        self.dma.read(transfer.buffer, data)?;
        Ok(match (pid, <[u8; 8]>::try_from(&*data)) {
            (Pid::Setup, Ok(request)) => device.setup(endpoint, request),
            (Pid::Setup, Err(_)) => Answer::Silence,
            _ => device.output(endpoint, data),
        })
    }
}

/// The control double word of a transfer that has ended so.
fn ended(control: u32, status: Control, actual: u32) -> u32 {
    const STATUS: u32 = Control::ACTIVE
        .union(Control::STALLED)
        .union(Control::BUFFER)
        .union(Control::BABBLE)
        .union(Control::NAK)
        .union(Control::TIMEOUT)
        .union(Control::BITSTUFF)
        .bits();
    control & !(STATUS | ACTUAL) | status.bits() | actual
}
