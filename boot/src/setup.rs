//! What firmware would do before a kernel that is booted directly, put together when the VM is made: a guest that resets its machine takes
//! no memory for that.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::machine::MachineDesc;
use hv_core::mem::{GuestMemory, NotRam};
use hvmloader_fw::pci_setup::{self, PciWrite};
use hvmloader_fw::{place, vga_text};
use spin::Mutex;

/// Guest memory of which only what is written is kept.
#[derive(Default)]
struct Notes(Mutex<Vec<(Gpa, Vec<u8>)>>);

impl GuestMemory for Notes {
    fn read(&self, gpa: Gpa, _buf: &mut [u8]) -> Result<(), NotRam> {
        Err(NotRam(gpa))
    }
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        self.0.lock().push((gpa, buf.to_vec()));
        Ok(())
    }
    fn compare_exchange(&self, gpa: Gpa, _: usize, _: u128, _: u128) -> Result<bool, NotRam> {
        Err(NotRam(gpa))
    }
}

/// What firmware does.
pub struct Setup {
    /// The tables that it leaves in memory, in order.
    pub tables: Vec<(Gpa, Vec<u8>)>,
    /// Where the FACS is, by which a system wakes.
    pub facs: Gpa,
    /// What it writes to configuration space.
    pub config: Vec<PciWrite>,
    /// What it writes to the video card's ports, for text mode 3.
    pub text_mode: Vec<(u16, u8)>,
}

impl Setup {
    /// What it does in this machine.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn new(desc: &MachineDesc) -> Result<Self, String> {
        let notes = Notes::default();
        let placed = place::place(desc, &notes).map_err(|e| e.to_string())?;
        Ok(Self {
            facs: placed.acpi_tables,
            tables: notes.0.into_inner(),
            config: pci_setup::config_writes(desc),
            text_mode: vga_text::mode3(),
        })
    }
}
