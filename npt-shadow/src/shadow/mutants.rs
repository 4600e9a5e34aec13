//! Mistakes that shadow MMUs have had, or could have, to be made on purpose: each must be caught by the tests.
//!
//! The code asks [`mutant`] at the place of each; outside tests the answer is a constant.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A child that is linked already is taken for the right one (CVE-2026-53359).
    LinkAcceptsAnyChild,
    /// A table out of sync is linked as it is (KVM, commit 65855ed8).
    LinkOutOfStep,
    /// What forbids access at upper levels is not in the role (KVM, commit d28c6cfb).
    RightsNotInRole,
    /// A shadow page is given up, and entries still point to it (XSA-427).
    ParentsForgotten,
    /// The root is given up and goes on being used (CVE-2026-64561).
    RootKept,
    /// A flush is forgotten where an entry changes (XSA-408).
    NoFlush,
    /// Writes of devices and of the emulator are not noticed (CVE-2026-23401).
    WritesUnnoticed,
    /// A page that becomes a table stays writable.
    NoWriteProtection,
    /// A table is mapped writable.
    TableMappedWritable,
    /// A large page is mapped over a table.
    LargeOverTable,
    /// A large page stays when a table appears below it.
    LargeKept,
    /// The accessed flag is not waited for.
    AccessedIgnored,
    /// The dirty flag is not waited for.
    DirtyIgnored,
    /// ROM is mapped writable.
    RomWritable,
    /// A change of the guest-physical map leaves old entries (XSA-494).
    RemapKeepsEntries,
    /// INVLPG does nothing.
    InvlpgIgnored,
    /// A part of a large page is all that INVLPG drops of it.
    InvlpgDropsPart,
    /// A load of CR3 does nothing for tables out of sync.
    LoadIgnored,
    /// With CR0.WP clear, a page made writable for the supervisor stays the user's.
    LiftedForUser,
    /// Likewise, it becomes executable for a supervisor with SMEP.
    LiftedExecutable,
    /// CR4.SMAP is not in the role where it matters.
    SmapNotInRole,
    /// CR4.SMEP is not in the role where it matters.
    SmepNotInRole,
    /// A write through an entry that then changed is forgotten.
    WrittenForgotten,
    /// The first CPU that flushes for a change does so for all.
    OneFlushForAll,
    /// A root that several CPUs are on is given up, and one of them learns of it.
    OthersRootKept,
    /// All CPUs have one PAE root.
    PaeRootShared,
    /// A CPU finds what another one's virtual TLB remembers.
    VtlbShared,
    /// The pages that CPUs are on are given up for room.
    RootsReclaimed,
    /// What was given up is used again while a CPU in the guest may remember it.
    QuarantineTooShort,
    /// A table is read although a CPU in the guest may still write it: it has been write-protected since.
    ProtectionTrustedEarly,
    /// A dirty flag is cleared that a CPU in the guest may remember (XSA-480 is of this kind).
    DirtyTrustedEarly,
    /// Memory is given back while a CPU in the guest may still reach it.
    RemapReturnsEarly,
    /// An entry that another CPU has changed since the walk goes into the shadow.
    WalkBelieved,
    /// Likewise one that it has changed while the table below was looked up, and that a table brought up to date meanwhile had right.
    LinkBelieved,
    /// A dirty flag that a CPU sets while its entry is being changed is lost.
    DirtyLost,
}

#[cfg(test)]
std::thread_local! {
    /// The mistake that this thread makes.
    pub static ACTIVE: core::cell::Cell<Option<Mutant>> = const { core::cell::Cell::new(None) };
}

/// Whether to make this mistake.
#[cfg(test)]
pub fn mutant(which: Mutant) -> bool {
    ACTIVE.get() == Some(which)
}

/// Whether to make this mistake: never.
#[cfg(not(test))]
pub const fn mutant(_which: Mutant) -> bool {
    false
}
