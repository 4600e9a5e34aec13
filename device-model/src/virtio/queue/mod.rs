//! Virtqueues as the device sees them (VIRTIO 1.2 2.6 to 2.8): split and packed rings behind one interface.
//!
//! A descriptor is read once: its address, its length and its flags are checked before anything is done with them, and what the guest
//! makes of the ring afterwards changes nothing of the chain. Every walk is bounded by [`LONGEST`]. What breaks the rules is a [`Fault`]; the
//! device then wants to be reset, and looks at no queue of its any more.
//!
//! Invariant: a queue holds nothing that a guest can make grow, but for in-order completion one place for each of its descriptors.

pub mod chain;
mod order;
mod packed;
mod split;
#[cfg(test)]
mod tests;

pub use chain::{Buffer, Chain};

use hv_core::Gpa;
use hv_core::mem::{GuestMemory, NotRam};
use order::Order;
use packed::Packed;
use split::Split;

/// Most descriptors of a queue, a power of two.
pub const LARGEST: u16 = 256;
/// Most buffers of a chain, whatever the size of its queue: "A driver MUST NOT create a descriptor chain longer than the Queue Size of the
/// device" (2.7.5.3.1), of which the largest is meant, as Linux does.
pub const LONGEST: usize = LARGEST as usize;

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;

/// Flags of a descriptor (2.7.5, "The Virtqueue Descriptor Table").
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;

/// What the guest did against the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The ring, an indirect table or a buffer is not RAM.
    NotRam,
    /// More buffers are available than the ring has places.
    Index,
    /// A descriptor is named that does not exist.
    Descriptor,
    /// A chain is longer than any may be, or goes round in circles.
    Chain,
    /// The host has no memory for the list of its buffers.
    NoMemory,
    /// A buffer that the device reads comes behind one that it writes.
    Order,
    /// An indirect table where none may be, or of no whole descriptors.
    Indirect,
    /// A queue of an impossible size, or at an address that is not aligned.
    Place,
    /// A request without the parts that its device needs.
    Request,
}

impl From<NotRam> for Fault {
    fn from(_: NotRam) -> Self {
        Self::NotRam
    }
}

/// What of a queue driver and device have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// The ring is packed.
    pub packed: bool,
    /// Descriptors may be indirect.
    pub indirect: bool,
    /// Both sides say at which index they want to be told.
    pub event_index: bool,
    /// Buffers are used in the order in which they were made available.
    pub in_order: bool,
}

/// Where a queue is, and how large.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Descriptors: 1 to [`LARGEST`], a power of two for a split ring.
    pub size: u16,
    /// The descriptor area.
    pub descriptors: Gpa,
    /// The driver area: the available ring, or the driver's event suppression.
    pub driver: Gpa,
    /// The device area: the used ring, or the device's event suppression.
    pub device: Gpa,
}

/// How a chain is given back. A chain knows its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Token {
    /// Its head in a split ring, its buffer identifier in a packed one.
    id: u16,
    /// How many places of a packed ring it takes.
    places: u16,
}

enum Ring {
    Split(Split),
    Packed(Packed),
}

/// A queue in use.
pub struct Queue {
    ring: Ring,
    agreed: Agreed,
    /// Buffers that were used since it was last asked whether the driver is to be told.
    untold: u16,
    /// Only with in-order completion.
    order: Option<Order>,
}

impl Queue {
    /// The queue at `place`, empty.
    #[must_use]
    pub fn new(place: Place, agreed: Agreed) -> Self {
        let ring = match agreed.packed {
            true => Ring::Packed(Packed::new(place)),
            false => Ring::Split(Split::new(place)),
        };
        Self {
            ring,
            agreed,
            untold: 0,
            order: agreed.in_order.then(Order::default),
        }
    }

    /// Takes the next chain into `chain`; false: there is none.
    ///
    /// # Errors
    /// The guest broke the rules.
    pub fn pop(&mut self, memory: &dyn GuestMemory, chain: &mut Chain) -> Result<bool, Fault> {
        chain.clear();
        let indirect = self.agreed.indirect;
        let token = match &mut self.ring {
            Ring::Split(ring) => ring.pop(memory, indirect, chain)?,
            Ring::Packed(ring) => ring.pop(memory, indirect, chain)?,
        };
        let Some(token) = token else {
            return Ok(false);
        };
        chain.check(memory)?;
        chain.token = token;
        if let Some(order) = &mut self.order {
            order.begin(token).ok_or(Fault::Index)?;
        }
        Ok(true)
    }

    /// Takes the next chain into `chain`. False: there is none, and the driver is asked to tell of one.
    ///
    /// # Errors
    /// The guest broke the rules.
    pub fn pop_or_ask(
        &mut self,
        memory: &dyn GuestMemory,
        chain: &mut Chain,
    ) -> Result<bool, Fault> {
        Ok(self.pop(memory, chain)?
            || self.ask_for_kicks(memory, true)? && self.pop(memory, chain)?)
    }

    /// Gives `chain` back, into which the device has written `written` bytes.
    ///
    /// # Errors
    /// The ring is not RAM.
    pub fn push(
        &mut self,
        memory: &dyn GuestMemory,
        chain: &Chain,
        written: u32,
    ) -> Result<(), Fault> {
        self.push_all(memory, [(chain, written)])
    }

    /// Gives chains back that belong together: the driver sees all or none.
    ///
    /// # Errors
    /// The ring is not RAM.
    pub fn push_all<'a>(
        &mut self,
        memory: &dyn GuestMemory,
        chains: impl IntoIterator<Item = (&'a Chain, u32)>,
    ) -> Result<(), Fault> {
        for (chain, written) in chains {
            match &mut self.order {
                Some(order) => order.end(chain.token, written),
                None => self
                    .ring
                    .push(memory, chain.token, written, &mut self.untold)?,
            }
        }
        if let Some(order) = &mut self.order {
            while let Some((token, written)) = order.next() {
                self.ring.push(memory, token, written, &mut self.untold)?;
            }
        }
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(memory),
            Ring::Packed(ring) => ring.publish(memory),
        }
    }

    /// Whether the driver wants to be told of what was used since this was last asked.
    ///
    /// # Errors
    /// The ring is not RAM.
    pub fn take_interrupt(&mut self, memory: &dyn GuestMemory) -> Result<bool, Fault> {
        let untold = core::mem::take(&mut self.untold);
        if untold == 0 {
            return Ok(false);
        }
        // What was used is seen before the driver's wish is looked at (2.7.7.2, 2.8.21.3.1).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        let event = self.agreed.event_index;
        match &self.ring {
            Ring::Split(ring) => ring.interrupts(memory, event, untold),
            Ring::Packed(ring) => ring.interrupts(memory, event, untold),
        }
    }

    /// Asks the driver to tell of further buffers, or not to. It may tell all the same. True: it is asked to, and there are some already.
    ///
    /// # Errors
    /// The ring is not RAM.
    pub fn ask_for_kicks(&mut self, memory: &dyn GuestMemory, yes: bool) -> Result<bool, Fault> {
        let event = self.agreed.event_index;
        match &mut self.ring {
            Ring::Split(ring) => ring.ask_for_kicks(memory, event, yes)?,
            Ring::Packed(ring) => ring.ask_for_kicks(memory, event, yes)?,
        }
        if !yes {
            return Ok(false);
        }
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.has_more(memory)
    }

    /// Whether there is a chain.
    ///
    /// # Errors
    /// The ring is not RAM, or more buffers are available than it has places.
    pub fn has_more(&self, memory: &dyn GuestMemory) -> Result<bool, Fault> {
        match &self.ring {
            Ring::Split(ring) => Ok(ring.available(memory)? != 0),
            Ring::Packed(ring) => ring.is_available(memory),
        }
    }
}

impl Ring {
    fn push(
        &mut self,
        memory: &dyn GuestMemory,
        token: Token,
        written: u32,
        untold: &mut u16,
    ) -> Result<(), Fault> {
        // More than a ring has at once is as good as all of it.
        *untold = untold.saturating_add(match self {
            Ring::Split(_) => 1,
            Ring::Packed(_) => token.places,
        });
        match self {
            Ring::Split(ring) => ring.push(memory, token, written),
            Ring::Packed(ring) => ring.push(memory, token, written),
        }
    }
}

/// One descriptor, read once.
#[derive(Clone, Copy)]
struct Descriptor {
    address: Gpa,
    len: u32,
    /// Bits 63:48 of its second quadword: `next` in a split ring, `flags` in a packed one; and bits 47:32, which are the other.
    high: u16,
    middle: u16,
}

impl Descriptor {
    fn read(memory: &dyn GuestMemory, at: Gpa) -> Result<Self, Fault> {
        let mut bytes = [0; DESCRIPTOR as usize];
        memory.read(at, &mut bytes)?;
        let value = u128::from_le_bytes(bytes);
        Ok(Self {
            address: Gpa(value as u64),
            len: (value >> 64) as u32,
            middle: (value >> 96) as u16,
            high: (value >> 112) as u16,
        })
    }

    /// What it describes.
    const fn buffer(&self) -> Buffer {
        Buffer {
            address: self.address,
            len: self.len,
        }
    }

    /// How many descriptors the indirect table has that it describes.
    fn table_len(&self) -> Result<u32, Fault> {
        let size = DESCRIPTOR as u32;
        let whole = self.len != 0 && self.len.is_multiple_of(size);
        whole.then_some(self.len / size).ok_or(Fault::Indirect)
    }
}

/// `base` and `offset`, which wraps round only where no RAM is.
const fn at(base: Gpa, offset: u64) -> Gpa {
    Gpa(base.0.wrapping_add(offset))
}
