//! Events by the manuals' rules, in all their states, for the tests of each backend.
//!
//! [`Bare`] is a small processor in real mode without a hypervisor: it keeps the rules of what is taken when (SDM vol 3A 6.8,
//! "Enabling and Disabling Interrupts"; 6.7.1, "Handling Multiple NMIs"; 6.9, "Priority Among Simultaneous Exceptions and Interrupts").
//! Beside it runs the real run loop with a real backend, on the backend's own fake of its hardware, which is a [`Tiny`] processor too,
//! but one that is entered and left by the vendor's rules. [`walk`] puts every instruction of [`Insn`] and every arrival of an
//! interrupt or NMI before both, in every state that they can come to, and compares them after each.
//!
//! Where the manuals leave a choice, both sides make the same: NMIs wait behind STI as behind MOV SS, and an IRET that faults would
//! have ended the blocking of NMIs. Left out: faults during delivery, single steps, privilege levels.

mod bare;
mod chip;
mod tiny;
mod walk;

pub use bare::Bare;
pub use chip::Chip;
pub use tiny::{Insn, Tiny};
pub use walk::{Guest, Shared, walk};
