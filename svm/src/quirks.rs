//! What AMD-V does otherwise than its manual says, on the emulators that Umbra runs on. All of it is gathered here; the rest of the crate asks
//! these fields and never for a name.
//!
//! | field | who does it | how it is found out |
//! |---|---|---|
//! | [`inject_virtual`](Quirks::inject_virtual) | QEMU's software emulation | by QEMU's signature in CPUID |
//! | [`cr_reads_as_cr0`](Quirks::cr_reads_as_cr0) | QEMU 10.0 | [`probe::cr_reads_as_cr0`](crate::probe::cr_reads_as_cr0) |
//! | [`unchecked_cr0`](Quirks::unchecked_cr0) | QEMU 7.2 | by QEMU's signature in CPUID |
//! | [`fatal_cr8`](Quirks::fatal_cr8) | QEMU 7.2 | by QEMU's signature in CPUID |
//! | [`unguarded_xcr0`](Quirks::unguarded_xcr0) | QEMU 7.2 | by QEMU's signature in CPUID |
//! | [`identity_map`](Quirks::identity_map) | QEMU before 7.2.16 and 9.1.2 | [`probe::nested_tables_hold_without_paging`](crate::probe::nested_tables_hold_without_paging) |
//! | [`invalid_cr3_fails_entry`](Quirks::invalid_cr3_fails_entry) | QEMU | [`probe::invalid_cr3_fails_entry`](crate::probe::invalid_cr3_fails_entry) |
//! | [`stale_vectoring`](Quirks::stale_vectoring) | Bochs 2.7 | [`probe::vectoring_may_be_stale`](crate::probe::vectoring_may_be_stale) |
//! | [`stale_dr6`](Quirks::stale_dr6) | Bochs 2.7 and 3.0 | [`probe::dr6_may_be_stale`](crate::probe::dr6_may_be_stale) |
//!
//! What needs no field, because it is right on every CPU and no exit costs more for it:
//!
//! * Flags that no CPU has are seen at the exit that tells them (`vcpu`, `mend_flags`).
//! * #DF is delivered in software: Bochs 2.7 does not look at the intercept of a shutdown then, and a probe of that would end Bochs.
//! * Host interrupts are let in whenever service is due, and not only after exits for them: Bochs 2.7 makes no such exit while the guest's
//!   interrupt flag is clear.
//! * Bit 5 of the page-directory-pointer entries of PAE paging is not checked, though reserved: QEMU's walker sets it in the guest's tables,
//!   also where KVM is between it and Umbra, so that no signature tells.
//! * Without next-RIP saving INVD and WBINVD are decoded together: QEMU tells the one as the other.
//! * CR2 is loaded before VMRUN, for Bochs, and an STI precedes VMRUN in a shadow, for QEMU.
//! * Of a task switch, only an exception has an error code (`exit`).

use hv_core::Gpa;

/// The default is a CPU that keeps to the manual.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quirks {
    /// VMRUN leaves an interrupt that it has injected by EVENTINJ behind as an exception that is still due (`helper_vmrun` in
    /// `target/i386/tcg/sysemu/svm_helper.c`), so that a request of the main loop before the next exit is lost and the interrupt comes
    /// twice. Interrupts are injected as virtual ones there. Not elsewhere: Bochs 2.7 does not deliver a virtual interrupt to a guest
    /// whose interrupt flag is set at VMRUN.
    pub inject_virtual: bool,
    /// Reads of all control registers leave the guest as reads of CR0, and only if those are intercepted. They are, there, and the
    /// instruction tells the register.
    pub cr_reads_as_cr0: bool,
    /// MOV to CR0 takes NW without CD, and bits that do not exist, for which a CPU raises #GP. The next VMRUN then refuses the guest.
    /// Writes of CR0 that change more than TS and MP leave the guest there.
    pub unchecked_cr0: bool,
    /// MOV to CR8 while a virtual interrupt waits ends the emulator itself: `helper_write_crN` in `target/i386/tcg/sysemu/misc_helper.c`
    /// requests the interrupt without the lock that this needs. OVMF's interrupt handlers end with one. Such writes leave the guest there.
    pub fatal_cr8: bool,
    /// XSETBV does not leave the guest, whatever the intercept says: the guest sets the CPU's own XCR0.
    pub unguarded_xcr0: bool,
    /// Nested tables are not walked while the guest's paging is off, so that it would have the host's memory for its own. It never is off
    /// there: a guest that turns it off runs on the identity map at this address.
    pub identity_map: Option<Gpa>,
    /// A MOV that sets reserved bits of CR3 leaves the guest as if VMRUN had refused it (`helper_write_crN` in
    /// `target/i386/tcg/sysemu/misc_helper.c`). It raises #GP for the guest.
    pub invalid_cr3_fails_entry: bool,
    /// While INT n, INT3 or INTO is delivered, EXITINTINFO tells the event before it (`interrupt` in `cpu/exception.cc` records none). The run
    /// loop looks whether INT n is at RIP.
    pub stale_vectoring: bool,
    /// A #DB that is intercepted leaves the guest before DR6 tells of it (`exception` in `cpu/exception.cc`). It is not intercepted there, so that
    /// the guest gets it with its DR6; host interrupts come between two of them.
    pub stale_dr6: bool,
}
