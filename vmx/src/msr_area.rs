//! MSRs that VM entries and exits load from memory, on CPUs without a control for them (SDM vol 3C 25.7.2, "VM-Exit Controls for
//! MSRs", and 25.8.2, "VM-Entry Controls for MSRs").

use alloc::boxed::Box;

/// EFER's number.
pub const EFER: u32 = 0xc000_0080;
/// IA32_PAT's number.
pub const PAT: u32 = 0x277;
/// IA32_SPEC_CTRL's number.
pub const SPEC_CTRL: u32 = 0x48;
/// How many registers an area has room for.
const ROOM: usize = 3;

/// One register (table 25-14, "Format of an MSR Entry").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct MsrEntry {
    index: u32,
    reserved: u32,
    value: u64,
}

/// An area that the CPU loads registers from.
#[derive(Clone, Debug, Default)]
#[repr(C, align(16))]
pub struct MsrArea {
    entries: [MsrEntry; ROOM],
    count: usize,
}

impl MsrArea {
    /// An empty area.
    #[must_use]
    pub fn new() -> Box<Self> {
        Box::default()
    }

    /// How many registers are loaded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Loads `value` into `index` from now on.
    pub fn set(&mut self, index: u32, value: u64) {
        let at = self.entries[..self.count]
            .iter()
            .position(|e| e.index == index)
            .unwrap_or(self.count);
        if let Some(entry) = self.entries.get_mut(at) {
            *entry = MsrEntry {
                index,
                reserved: 0,
                value,
            };
            self.count = self.count.max(at + 1);
        }
    }
}

const _: () = assert!(core::mem::offset_of!(MsrEntry, value) == 8);
const _: () = assert!(core::mem::offset_of!(MsrArea, entries) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_has_one_entry() {
        let mut area = MsrArea::new();
        area.set(EFER, 1);
        area.set(PAT, 2);
        area.set(EFER, 3);
        assert_eq!(area.count(), 2);
        assert_eq!(area.entries[0].value, 3);
        assert_eq!(area.entries[1].index, PAT);
    }
}
