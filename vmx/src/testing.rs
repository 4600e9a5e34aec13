//! A processor that is a map of fields.

use crate::hw::{CpuRegister, EntryError, Hardware};
use crate::vmcs::Field;
use hv_core::fx::FxState;
use hv_core::regs::Gprs;
use std::cell::Cell;
use std::collections::BTreeMap;

/// What the guest does to the fields between an entry and the next exit.
pub type Guest = Box<dyn FnMut(&mut BTreeMap<Field, u64>) -> Result<(), EntryError> + Send>;

/// Fields and registers as they were last written; what is to be run is a function.
#[derive(Default)]
pub struct FakeHardware {
    /// The VMCS.
    pub fields: BTreeMap<Field, u64>,
    /// The other registers.
    pub registers: BTreeMap<u8, u64>,
    /// General registers.
    pub gprs: Gprs,
    /// XCR0.
    pub xcr0: u64,
    /// Arguments of INVEPT, and of INVVPID.
    pub flushed: (Vec<u64>, Vec<u16>),
    /// How often the VMCS was made the current one.
    pub made_current: u32,
    /// Whether that will be on another processor the next time.
    pub moved: bool,
    /// How often it was written to memory.
    pub cleared: u32,
    /// What the next entries do.
    pub guest: Option<Guest>,
    reads: Cell<u64>,
    writes: u64,
}

impl Hardware for FakeHardware {
    fn read(&self, field: Field) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.fields.get(&field).copied().unwrap_or(0)
    }
    fn write(&mut self, field: Field, value: u64) {
        assert_eq!(
            field.truncate(value),
            value,
            "{field:?} does not hold {value:#x}"
        );
        self.writes += 1;
        self.fields.insert(field, value);
    }
    fn register(&self, register: CpuRegister) -> u64 {
        self.registers.get(&(register as u8)).copied().unwrap_or(0)
    }
    fn set_register(&mut self, register: CpuRegister, value: u64) {
        self.registers.insert(register as u8, value);
    }
    fn host_efer_and_pat(&self) -> (u64, u64) {
        let field = |field| self.fields.get(&field).copied().unwrap_or(0);
        (field(Field::HOST_EFER), field(Field::HOST_PAT))
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }
    fn prediction_barrier(&mut self) {}
    fn make_current(&mut self) -> bool {
        self.made_current += 1;
        std::mem::take(&mut self.moved)
    }
    fn clear(&mut self) {
        self.cleared += 1;
    }
    fn gprs(&self) -> &Gprs {
        &self.gprs
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }
    fn enter(&mut self, _fx: &mut FxState) -> Result<(), EntryError> {
        match self.guest.as_mut() {
            Some(guest) => guest(&mut self.fields),
            None => Ok(()),
        }
    }
    fn flush_ept(&mut self, eptp: u64) {
        self.flushed.0.push(eptp);
    }
    fn flush_vpid(&mut self, vpid: u16) {
        self.flushed.1.push(vpid);
    }
    fn host_nmi(&mut self) {}
    fn accesses(&self) -> (u64, u64) {
        (self.reads.get(), self.writes)
    }
}
