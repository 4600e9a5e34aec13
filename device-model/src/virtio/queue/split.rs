//! Split virtqueues (VIRTIO 1.2 2.7, "Split Virtqueues"): a descriptor table, an available ring and a used ring.

use super::chain::Chain;
use super::{DESCRIPTOR, Descriptor, Fault, INDIRECT, LONGEST, NEXT, Place, Token, WRITE, at};
use hv_core::Gpa;
use hv_core::mem::GuestMemory;

/// Offsets in both rings (2.7.6, "The Virtqueue Available Ring", and 2.7.8, "The Virtqueue Used Ring").
const FLAGS: u64 = 0;
const INDEX: u64 = 2;
const RING: u64 = 4;
/// Bytes of an entry of the available ring, and of the used ring.
const AVAILABLE: u64 = 2;
const USED: u64 = 8;
/// Flags of the available ring: no interrupts. Of the used ring: no notifications.
const SILENT: u16 = 1;

pub struct Split {
    place: Place,
    /// The next entry of the available ring.
    taken: u16,
    /// The next entry of the used ring.
    used: u16,
}

impl Split {
    pub const fn new(place: Place) -> Self {
        Self {
            place,
            taken: 0,
            used: 0,
        }
    }

    /// Where the event index is that the driver has written, and the one that the device writes.
    fn used_event(&self) -> Gpa {
        let entries = u64::from(self.place.size) * AVAILABLE;
        at(self.place.driver, RING + entries)
    }

    fn available_event(&self) -> Gpa {
        let entries = u64::from(self.place.size) * USED;
        at(self.place.device, RING + entries)
    }

    /// How many chains are available.
    pub fn available(&self, memory: &dyn GuestMemory) -> Result<u16, Fault> {
        let index = memory.read_u16(at(self.place.driver, INDEX))?;
        let available = index.wrapping_sub(self.taken);
        if available > self.place.size {
            return Err(Fault::Index);
        }
        Ok(available)
    }

    pub fn pop(
        &mut self,
        memory: &dyn GuestMemory,
        indirect: bool,
        chain: &mut Chain,
    ) -> Result<Option<Token>, Fault> {
        if self.available(memory)? == 0 {
            return Ok(None);
        }
        let entry = u64::from(self.taken % self.place.size);
        let head = memory.read_u16(at(self.place.driver, RING + entry * AVAILABLE))?;
        self.taken = self.taken.wrapping_add(1);
        let table = (self.place.descriptors, self.place.size);
        if let Some(inner) = walk(memory, table, head, chain, indirect)? {
            // "A driver MUST NOT set both" (2.7.5.3.1): there are no tables in tables.
            walk(memory, inner, 0, chain, false)?;
        }
        Ok(Some(Token {
            id: head,
            places: 1,
        }))
    }

    /// Enters a used buffer, which the driver does not see before [`publish`](Self::publish).
    pub fn push(
        &mut self,
        memory: &dyn GuestMemory,
        token: Token,
        written: u32,
    ) -> Result<(), Fault> {
        let entry = u64::from(self.used % self.place.size);
        let element = u64::from(token.id) | u64::from(written) << 32;
        let to = at(self.place.device, RING + entry * USED);
        memory.write(to, &element.to_le_bytes())?;
        self.used = self.used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all that was entered.
    pub fn publish(&self, memory: &dyn GuestMemory) -> Result<(), Fault> {
        memory.write(at(self.place.device, INDEX), &self.used.to_le_bytes())?;
        Ok(())
    }

    /// Whether the driver wants to be told of the last `untold` used buffers.
    pub fn interrupts(
        &self,
        memory: &dyn GuestMemory,
        event: bool,
        untold: u16,
    ) -> Result<bool, Fault> {
        if !event {
            let flags = memory.read_u16(at(self.place.driver, FLAGS))?;
            return Ok(flags & SILENT == 0);
        }
        let wanted = memory.read_u16(self.used_event())?;
        let behind = self.used.wrapping_sub(wanted);
        Ok((1..=untold).contains(&behind))
    }

    pub fn ask_for_kicks(
        &self,
        memory: &dyn GuestMemory,
        event: bool,
        yes: bool,
    ) -> Result<(), Fault> {
        match (event, yes) {
            (true, true) => memory.write(self.available_event(), &self.taken.to_le_bytes())?,
            // The driver tells only when it passes the index, which is past.
            (true, false) => {}
            (false, _) => {
                let flags = if yes { 0 } else { SILENT };
                memory.write(at(self.place.device, FLAGS), &flags.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

/// A descriptor table: where it is, and how many it has.
type Table = (Gpa, u16);

/// Walks a chain through one table. Returns the indirect table that it ends in, if it does.
fn walk(
    memory: &dyn GuestMemory,
    (table, size): Table,
    head: u16,
    chain: &mut Chain,
    indirect: bool,
) -> Result<Option<Table>, Fault> {
    let mut index = head;
    // No chain visits a descriptor twice.
    for _ in 0..size {
        if index >= size {
            return Err(Fault::Descriptor);
        }
        let descriptor = Descriptor::read(memory, at(table, u64::from(index) * DESCRIPTOR))?;
        let (flags, next) = (descriptor.middle, descriptor.high);
        if flags & INDIRECT != 0 {
            if !indirect || flags & NEXT != 0 {
                return Err(Fault::Indirect);
            }
            // A longer table may be; a longer chain may not.
            let count = descriptor.table_len()?.min(LONGEST as u32) as u16;
            return Ok(Some((descriptor.address, count)));
        }
        chain.add(descriptor.buffer(), flags & WRITE != 0)?;
        if flags & NEXT == 0 {
            return Ok(None);
        }
        index = next;
    }
    Err(Fault::Chain)
}
