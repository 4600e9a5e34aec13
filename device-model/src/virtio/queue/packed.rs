//! Packed virtqueues (VIRTIO 1.2 2.8, "Packed Virtqueues"): one ring that driver and device both write, with a wrap counter each.

use super::chain::Chain;
use super::{DESCRIPTOR, Descriptor, Fault, INDIRECT, LONGEST, NEXT, Place, Token, WRITE, at};
use hv_core::Gpa;
use hv_core::mem::GuestMemory;

/// Flags of a descriptor: available, and used (2.8.1, "Driver and Device Ring Wrap Counters").
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Where the flags are in a descriptor, and the buffer identifier.
const FLAGS: u64 = 14;
const LENGTH: u64 = 8;

/// The event suppression structures (2.8.14): offset and wrap counter, then flags.
const EVENT_FLAGS: u64 = 2;
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
/// For one descriptor only.
const DESCRIPTOR_EVENT: u16 = 2;
const EVENT_WRAP: u16 = 1 << 15;

/// A place in the ring, and the wrap counter there.
#[derive(Clone, Copy)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self {
        index: 0,
        wrap: true,
    };

    /// `places` further on in a ring of `size`.
    const fn after(self, places: u16, size: u16) -> Self {
        let index = self.index + places;
        if index >= size {
            Self {
                index: index - size,
                wrap: !self.wrap,
            }
        } else {
            Self { index, ..self }
        }
    }

    const fn bits(self) -> u16 {
        self.index | if self.wrap { EVENT_WRAP } else { 0 }
    }
}

pub struct Packed {
    place: Place,
    /// The next descriptor that the driver makes available.
    next: Position,
    /// The next that the device uses.
    used: Position,
    /// Flags that the driver has not seen yet: of the first of the buffers that belong together.
    unseen: Option<(Gpa, u16)>,
}

impl Packed {
    pub const fn new(place: Place) -> Self {
        Self {
            place,
            next: Position::START,
            used: Position::START,
            unseen: None,
        }
    }

    fn descriptor(&self, index: u16) -> Gpa {
        at(self.place.descriptors, u64::from(index) * DESCRIPTOR)
    }

    pub fn is_available(&self, memory: &dyn GuestMemory) -> Result<bool, Fault> {
        let flags = memory.read_u16(at(self.descriptor(self.next.index), FLAGS))?;
        let (available, used) = (flags & AVAILABLE != 0, flags & USED != 0);
        Ok(available == self.next.wrap && used != self.next.wrap)
    }

    pub fn pop(
        &mut self,
        memory: &dyn GuestMemory,
        indirect: bool,
        chain: &mut Chain,
    ) -> Result<Option<Token>, Fault> {
        // The flags are looked at before the rest is read, which the driver has written before them.
        if !self.is_available(memory)? {
            return Ok(None);
        }
        let (first, mut places) = (self.next, 0);
        while places < self.place.size {
            let here = first.after(places, self.place.size);
            let descriptor = Descriptor::read(memory, self.descriptor(here.index))?;
            let (id, flags) = (descriptor.middle, descriptor.high);
            places += 1;
            let more = flags & NEXT != 0;
            if flags & INDIRECT != 0 {
                // "A driver MUST NOT set both" INDIRECT and NEXT, nor have other descriptors beside it (2.8.7).
                if !indirect || more || places != 1 {
                    return Err(Fault::Indirect);
                }
                table(memory, descriptor, chain)?;
            } else {
                chain.add(descriptor.buffer(), flags & WRITE != 0)?;
            }
            if !more {
                self.next = first.after(places, self.place.size);
                return Ok(Some(Token { id, places }));
            }
        }
        Err(Fault::Chain)
    }

    /// Enters a used buffer, which the driver, who looks for one after the other, does not see before [`publish`](Self::publish).
    pub fn push(
        &mut self,
        memory: &dyn GuestMemory,
        token: Token,
        written: u32,
    ) -> Result<(), Fault> {
        let to = self.descriptor(self.used.index);
        let mut flags = if self.used.wrap { AVAILABLE | USED } else { 0 };
        if written != 0 {
            flags |= WRITE;
        }
        memory.write(at(to, LENGTH), &written.to_le_bytes())?;
        memory.write(at(to, LENGTH + 4), &token.id.to_le_bytes())?;
        match self.unseen {
            None => self.unseen = Some((at(to, FLAGS), flags)),
            Some(_) => memory.write(at(to, FLAGS), &flags.to_le_bytes())?,
        }
        self.used = self.used.after(token.places, self.place.size);
        Ok(())
    }

    /// Shows the driver all that was entered.
    pub fn publish(&mut self, memory: &dyn GuestMemory) -> Result<(), Fault> {
        if let Some((at, flags)) = self.unseen.take() {
            memory.write(at, &flags.to_le_bytes())?;
        }
        Ok(())
    }

    /// Whether the driver wants to be told of the buffers in the last `untold` places.
    pub fn interrupts(
        &self,
        memory: &dyn GuestMemory,
        event: bool,
        untold: u16,
    ) -> Result<bool, Fault> {
        let flags = memory.read_u16(at(self.place.driver, EVENT_FLAGS))?;
        if flags & 3 != DESCRIPTOR_EVENT || !event {
            return Ok(flags & 3 != DISABLE);
        }
        let wanted = memory.read_u16(self.place.driver)?;
        // Where both are in two rounds of the ring, which the wrap counter tells apart.
        let size = u32::from(self.place.size);
        let round = |index: u16, wrap| u32::from(index) + if wrap { size } else { 0 };
        let wanted = round(wanted & !EVENT_WRAP, wanted & EVENT_WRAP != 0) % (2 * size);
        let now = round(self.used.index, self.used.wrap);
        let behind = (now + 2 * size - wanted) % (2 * size);
        Ok((1..=u32::from(untold)).contains(&behind))
    }

    pub fn ask_for_kicks(
        &self,
        memory: &dyn GuestMemory,
        event: bool,
        yes: bool,
    ) -> Result<(), Fault> {
        let flags = match (yes, event) {
            (false, _) => DISABLE,
            (true, false) => ENABLE,
            (true, true) => {
                memory.write(self.place.device, &self.next.bits().to_le_bytes())?;
                DESCRIPTOR_EVENT
            }
        };
        memory.write(at(self.place.device, EVENT_FLAGS), &flags.to_le_bytes())?;
        Ok(())
    }
}

/// The buffers of an indirect table, one after the other (2.8.7, "Indirect Flag: Scatter-Gather Support").
fn table(memory: &dyn GuestMemory, descriptor: Descriptor, chain: &mut Chain) -> Result<(), Fault> {
    let count = descriptor.table_len()?;
    if count > LONGEST as u32 {
        return Err(Fault::Chain);
    }
    for i in 0..u64::from(count) {
        let inner = Descriptor::read(memory, at(descriptor.address, i * DESCRIPTOR))?;
        // Of its flags only this one counts.
        chain.add(inner.buffer(), inner.high & WRITE != 0)?;
    }
    Ok(())
}
