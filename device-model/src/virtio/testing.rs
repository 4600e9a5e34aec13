//! Drivers of virtqueues, written from the driver's side of the specification: what the device's side is tested against.

use super::queue::{Agreed, Place};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::mem::GuestMemory;
use hv_core::testing::VecMemory;

/// A buffer: its address, its length, and whether the device writes it.
pub type Part = (u64, u32, bool);

/// A driver of one queue.
pub struct Driver {
    pub memory: VecMemory,
    pub place: Place,
    pub agreed: Agreed,
    /// Where indirect tables are.
    tables: u64,
    free: Vec<u16>,
    /// Descriptors of each chain that the device has.
    has: BTreeMap<u16, Vec<u16>>,
    /// Available and used indices of a split ring; positions in a packed one.
    available: u16,
    used: u16,
    available_wrap: bool,
    used_wrap: bool,
    /// Descriptors that were made available since it was last asked whether to kick.
    unkicked: u16,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

impl Driver {
    pub fn new(memory: &VecMemory, at: u64, size: u16, agreed: Agreed) -> Self {
        let place = Place {
            size,
            descriptors: Gpa(at),
            driver: Gpa(at + 0x2000),
            device: Gpa(at + 0x3000),
        };
        Self {
            memory: memory.clone(),
            place,
            agreed,
            tables: at + 0x4000,
            free: (0..size).rev().collect(),
            has: BTreeMap::new(),
            available: 0,
            used: 0,
            available_wrap: true,
            used_wrap: true,
            unkicked: 0,
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        self.memory.read_u16(Gpa(at)).unwrap()
    }

    fn descriptor(&self, at: u64, (address, len, _): Part, low: u16, high: u16) {
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &low.to_le_bytes());
        self.put(at + 14, &high.to_le_bytes());
    }

    /// How many chains of `parts` buffers there is room for at least.
    pub fn has_room(&self, parts: usize) -> bool {
        self.free.len() >= parts
    }

    /// Makes a chain available; returns by what it is known.
    pub fn add(&mut self, parts: &[Part], indirect: bool) -> u16 {
        if self.agreed.packed {
            self.add_packed(parts, indirect)
        } else {
            self.add_split(parts, indirect)
        }
    }

    fn add_split(&mut self, parts: &[Part], indirect: bool) -> u16 {
        let write = |p: &Part| if p.2 { WRITE } else { 0 };
        let table = self.place.descriptors.0;
        let ids: Vec<u16> = (0..if indirect { 1 } else { parts.len() })
            .map(|_| self.free.pop().unwrap())
            .collect();
        if indirect {
            let inner = self.tables + u64::from(ids[0]) * 0x400;
            for (i, p) in parts.iter().enumerate() {
                let last = i + 1 == parts.len();
                let flags = write(p) | if last { 0 } else { NEXT };
                self.descriptor(inner + 16 * i as u64, *p, flags, i as u16 + 1);
            }
            let outer = (inner, 16 * parts.len() as u32, false);
            self.descriptor(table + 16 * u64::from(ids[0]), outer, INDIRECT, 0);
        } else {
            for (i, p) in parts.iter().enumerate() {
                let next = ids.get(i + 1);
                let flags = write(p) | if next.is_some() { NEXT } else { 0 };
                let at = table + 16 * u64::from(ids[i]);
                self.descriptor(at, *p, flags, next.copied().unwrap_or(0));
            }
        }
        let entry = u64::from(self.available % self.place.size);
        self.put(self.place.driver.0 + 4 + 2 * entry, &ids[0].to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.put(self.place.driver.0 + 2, &self.available.to_le_bytes());
        self.unkicked += 1;
        let head = ids[0];
        self.has.insert(head, ids);
        head
    }

    fn add_packed(&mut self, parts: &[Part], indirect: bool) -> u16 {
        let ring = self.place.descriptors.0;
        let count = if indirect { 1 } else { parts.len() };
        // Descriptors are places of the ring here; the buffer identifier is one of them.
        let ids: Vec<u16> = (0..count).map(|_| self.free.pop().unwrap()).collect();
        let id = ids[0];
        let outer = [(
            self.tables + u64::from(id) * 0x400,
            16 * parts.len() as u32,
            false,
        )];
        if indirect {
            for (i, p) in parts.iter().enumerate() {
                let flags = if p.2 { WRITE } else { 0 };
                self.descriptor(outer[0].0 + 16 * i as u64, *p, 0xeeee, flags);
            }
        }
        let list = if indirect { &outer[..] } else { parts };
        let mut first = None;
        for (i, p) in list.iter().enumerate() {
            let at = ring + 16 * u64::from(self.available);
            let mut flags = if self.available_wrap { 1 << 7 } else { 1 << 15 };
            flags |= if p.2 { WRITE } else { 0 };
            flags |= if indirect { INDIRECT } else { 0 };
            flags |= if i + 1 == list.len() { 0 } else { NEXT };
            // The head's flags come last.
            self.descriptor(at, *p, id, if i == 0 { self.word(at + 14) } else { flags });
            first.get_or_insert((at + 14, flags));
            self.available += 1;
            if self.available == self.place.size {
                (self.available, self.available_wrap) = (0, !self.available_wrap);
            }
        }
        let (at, flags) = first.unwrap();
        self.put(at, &flags.to_le_bytes());
        self.unkicked += count as u16;
        self.has.insert(id, ids);
        id
    }

    /// Takes the next used chain, and what the device says that it has written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        let (id, len) = if self.agreed.packed {
            let at = self.place.descriptors.0 + 16 * u64::from(self.used);
            let flags = self.word(at + 14);
            let (available, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
            if available != used || used != self.used_wrap {
                return None;
            }
            let id = self.word(at + 12);
            self.used += self.has[&id].len() as u16;
            if self.used >= self.place.size {
                (self.used, self.used_wrap) = (self.used - self.place.size, !self.used_wrap);
            }
            (id, self.memory.read_u32(Gpa(at + 8)).unwrap())
        } else {
            if self.word(self.place.device.0 + 2) == self.used {
                return None;
            }
            let at = self.place.device.0 + 4 + 8 * u64::from(self.used % self.place.size);
            self.used = self.used.wrapping_add(1);
            let id = self.memory.read_u32(Gpa(at)).unwrap();
            (id as u16, self.memory.read_u32(Gpa(at + 4)).unwrap())
        };
        let ids = self.has.remove(&id).expect("a chain that the device has");
        self.free.extend(ids);
        Some((id, len))
    }

    /// Whether the device wants to be told of what was made available since this was last asked.
    pub fn must_kick(&mut self) -> bool {
        let new = core::mem::take(&mut self.unkicked);
        let device = self.place.device.0;
        if self.agreed.packed {
            return match self.word(device + 2) {
                0 => new != 0,
                1 => false,
                _ => {
                    let event = self.word(device);
                    let size = i32::from(self.place.size);
                    let mut at = i32::from(event & 0x7fff);
                    if (event >> 15 != 0) != self.available_wrap {
                        at -= size;
                    }
                    let now = i32::from(self.available);
                    (now - i32::from(new)..now).contains(&at)
                }
            };
        }
        if !self.agreed.event_index {
            return new != 0 && self.word(device) & 1 == 0;
        }
        let event = self.word(device + 4 + 8 * u64::from(self.place.size));
        let passed = self.available.wrapping_sub(event).wrapping_sub(1);
        passed < new
    }

    /// Wants an interrupt for the next used chain, or none at all. With an event index there is no "none": an old index stands for it.
    pub fn want_interrupt(&mut self, yes: bool) {
        let driver = self.place.driver.0;
        match (self.agreed.packed, self.agreed.event_index) {
            (true, true) if yes => {
                let wrap = u16::from(self.used_wrap) << 15;
                self.put(driver, &(self.used | wrap).to_le_bytes());
                self.put(driver + 2, &2u16.to_le_bytes());
            }
            (true, _) => self.put(driver + 2, &u16::from(!yes).to_le_bytes()),
            (false, true) => {
                let event = if yes {
                    self.used
                } else {
                    self.used.wrapping_sub(1)
                };
                let at = driver + 4 + 2 * u64::from(self.place.size);
                self.put(at, &event.to_le_bytes());
            }
            (false, false) => self.put(driver, &u16::from(!yes).to_le_bytes()),
        }
    }
}
