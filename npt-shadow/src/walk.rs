//! The guest page walker: what the CPU does with the guest's own page tables, for all of its paging modes.
//!
//! Sources: SDM vol 3A chapter 4, "Paging" (4.3, "32-Bit Paging"; 4.4, "PAE Paging"; 4.5, "4-Level Paging and 5-Level Paging";
//! 4.6, "Access Rights"; 4.7, "Page-Fault Exceptions"; 4.8, "Accessed and Dirty Flags").
//!
//! PAE page-directory-pointer entries are read from memory on each walk, as AMD CPUs do. Protection keys are not offered to guests.

use hv_core::mem::{GuestMemory, NotRam};
use hv_core::mmu::{Access, PageFault, PagingState, PfError};
use hv_core::regs::{Cr0, Cr4, Efer};
use hv_core::trail::{End, Step, Tables, Trail};
use hv_core::{Gpa, Gva};

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The shape of the guest's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    levels: u32,
    /// Bytes of an entry: 4 or 8.
    entry: u64,
    pae: bool,
}

fn shape(s: &PagingState) -> Shape {
    if !s.cr4.contains(Cr4::PAE) {
        Shape {
            levels: 2,
            entry: 4,
            pae: false,
        }
    } else if !s.efer.contains(Efer::LMA) {
        Shape {
            levels: 3,
            entry: 8,
            pae: true,
        }
    } else if s.cr4.contains(Cr4::LA57) {
        Shape {
            levels: 5,
            entry: 8,
            pae: true,
        }
    } else {
        Shape {
            levels: 4,
            entry: 8,
            pae: true,
        }
    }
}

/// Memory in which a walk sets no flags: it is for somebody outside.
pub(crate) struct ReadOnly<'a>(pub &'a dyn GuestMemory);

impl GuestMemory for ReadOnly<'_> {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        self.0.read(gpa, buf)
    }

    fn write(&self, gpa: Gpa, _buf: &[u8]) -> Result<(), NotRam> {
        Err(NotRam(gpa))
    }

    fn compare_exchange(
        &self,
        gpa: Gpa,
        _size: usize,
        _old: u128,
        _new: u128,
    ) -> Result<bool, NotRam> {
        Err(NotRam(gpa))
    }
}

/// A successful walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// What the address translates to.
    pub gpa: Gpa,
    /// Level of the first table: 5 to 2; 0 without paging.
    pub top: u32,
    /// Level of the entry that maps the page: 1, or 2 or 3 for a large page; 0 without paging.
    pub leaf: u32,
    /// The entries that led there, as they are now, by level - 1.
    pub entries: [u64; 5],
    /// Where the tables are, by level - 1.
    pub tables: [Gpa; 5],
    /// Writable at all levels.
    pub rw: bool,
    /// User-accessible at all levels.
    pub us: bool,
    /// Not executable at some level.
    pub nx: bool,
    /// Whether an accessed flag has been set that was clear.
    pub set_accessed: bool,
    /// Whether the dirty flag has been set that was clear.
    pub set_dirty: bool,
}

impl Walk {
    /// Without paging.
    const fn identity(gva: Gva) -> Walk {
        Walk {
            gpa: Gpa(gva.0 & 0xffff_ffff),
            top: 0,
            leaf: 0,
            entries: [0; 5],
            tables: [Gpa(0); 5],
            rw: true,
            us: true,
            nx: false,
            set_accessed: false,
            set_dirty: false,
        }
    }

    /// Whether the page's dirty flag is set.
    #[must_use]
    pub fn dirty(&self) -> bool {
        let leaf = (self.leaf as usize).wrapping_sub(1);
        self.entries.get(leaf).is_none_or(|entry| entry & D != 0)
    }
}

/// Translates `gva` for `access`, setting accessed and dirty flags as the CPU would.
///
/// # Errors
/// The page fault that the access raises, with CR2 and error code.
pub fn translate(
    mem: &dyn GuestMemory,
    s: &PagingState,
    gva: Gva,
    access: Access,
) -> Result<Gpa, PageFault> {
    walk(mem, s, gva, access).map(|walk| walk.gpa)
}

/// [`translate`], with all that was seen on the way.
///
/// # Errors
/// The page fault that the access raises, with CR2 and error code.
pub fn walk(
    mem: &dyn GuestMemory,
    s: &PagingState,
    gva: Gva,
    access: Access,
) -> Result<Walk, PageFault> {
    walk_by(mem, s, gva, access, |_| {}).map_err(|(fault, _)| fault)
}

/// [`walk`], which shows `read` each entry that it reads, and says in a fault how it has ended.
#[inline(always)]
fn walk_by(
    mem: &dyn GuestMemory,
    s: &PagingState,
    gva: Gva,
    access: Access,
    mut read: impl FnMut(Step),
) -> Result<Walk, (PageFault, End)> {
    let mut walk = Walk::identity(gva);
    if !s.cr0.contains(Cr0::PG) {
        return Ok(walk);
    }
    let shape = shape(s);
    let va = if s.efer.contains(Efer::LMA) {
        gva.0
    } else {
        gva.0 & 0xffff_ffff
    };
    let nxe = s.efer.contains(Efer::NXE) && shape.pae;
    let user = access.user && !access.implicit;
    let fault = |end: End| {
        let mut error = error_of(end);
        error.set(PfError::W, access.write);
        error.set(PfError::U, user);
        error.set(
            PfError::I,
            access.fetch && (nxe || s.cr4.contains(Cr4::SMEP)),
        );
        (PageFault { gva, error }, end)
    };
    let mut table = if shape.levels == 3 {
        s.cr3 & 0xffff_ffe0
    } else {
        s.cr3 & ADDRESS
    };
    walk.top = shape.levels;
    let bits = if shape.entry == 8 { 9 } else { 10 };
    let mut level = shape.levels;
    let mut races = 0;
    loop {
        let shift = 12 + bits * (level - 1);
        let index = va >> shift & ((1 << bits) - 1);
        let at = Gpa(table + index * shape.entry);
        // Tables outside RAM read all ones on the bus: never a translation that we would follow.
        let entry = read_entry(mem, at, shape.entry).ok_or_else(|| fault(End::NotRam))?;
        read(Step {
            level,
            place: at.0,
            entry,
        });
        if entry & P == 0 {
            return Err(fault(End::NotPresent));
        }
        let pdpte = shape.levels == 3 && level == 3;
        let large = level > 1
            && !pdpte
            && entry & PS != 0
            && (shape.pae || s.cr4.contains(Cr4::PSE))
            && level <= 3;
        if reserved(entry, level, large, shape, nxe, s.physical_bits) {
            return Err(fault(End::Reserved));
        }
        let leaf = level == 1 || large;
        let (mut rw, mut us) = (walk.rw, walk.us);
        if !pdpte {
            rw &= entry & RW != 0;
            us &= entry & US != 0;
        }
        let nx = walk.nx || nxe && entry & NX != 0;
        if leaf && !allowed(s, access, user, rw, us, nx) {
            return Err(fault(End::Rights));
        }
        let flags = match (leaf, pdpte) {
            (_, true) => 0,
            (true, _) if access.write => A | D,
            _ => A,
        };
        if !set_flags(mem, at, shape.entry, entry, flags) {
            races += 1;
            if races > RACES {
                return Err(fault(End::NotPresent));
            }
            continue;
        }
        (walk.rw, walk.us, walk.nx) = (rw, us, nx);
        walk.set_accessed |= entry & flags & A != flags & A;
        let slot = level as usize - 1;
        walk.tables[slot] = Gpa(table);
        walk.entries[slot] = entry | flags;
        if !leaf {
            table = entry & ADDRESS;
            level -= 1;
            continue;
        }
        walk.set_dirty = access.write && entry & D == 0;
        walk.leaf = level;
        let size = 1u64 << shift;
        walk.gpa = Gpa(frame_of(entry, level, large, shape) | va & (size - 1));
        return Ok(walk);
    }
}

/// How a walk has ended, in the error code (SDM vol 3A 4.7, "Page-Fault Exceptions").
fn error_of(end: End) -> PfError {
    match end {
        End::Mapped { .. } | End::NoTables | End::NotPresent => PfError::empty(),
        End::Reserved | End::NotRam => PfError::P | PfError::RSVD,
        End::Rights => PfError::P,
    }
}

/// The address in an entry that maps a page.
fn frame_of(entry: u64, level: u32, large: bool, shape: Shape) -> u64 {
    if large && !shape.pae {
        // PSE-36: bits 20:13 are address bits 39:32.
        (entry & 0xffc0_0000) | (entry >> 13 & 0xff) << 32
    } else {
        let bits = if shape.entry == 8 { 9 } else { 10 };
        entry & ADDRESS & !((1 << (12 + bits * (level - 1))) - 1)
    }
}

/// What [`walk`] makes of an access, step by step. No flag is set.
#[must_use]
pub fn trail(mem: &dyn GuestMemory, s: &PagingState, gva: Gva, access: Access) -> Trail {
    let mut trail = Trail::new(Tables::Guest, gva.0);
    let walked = walk_by(&ReadOnly(mem), s, gva, access, |step| trail.read(step));
    trail.end = match walked {
        Ok(walk) => End::Mapped {
            to: walk.gpa.0,
            writable: walk.rw,
            user: walk.us,
            no_execute: walk.nx,
        },
        Err((_, end)) => end,
    };
    trail
}

fn read_entry(mem: &dyn GuestMemory, at: Gpa, size: u64) -> Option<u64> {
    if size == 8 {
        mem.read_u64(at).ok()
    } else {
        mem.read_u32(at).ok().map(u64::from)
    }
}

/// Reserved bits of a PAE page-directory-pointer-table entry. Bit 5 is reserved too, but QEMU's emulation of nested paging sets it in
/// the guest's tables as if these entries had an accessed flag, which PAE guests there would then die of.
const PDPTE_RESERVED: u64 = 0x1c6;

/// Whether a reserved bit is set (SDM vol 3A tables 4-4 to 4-20).
fn reserved(
    entry: u64,
    level: u32,
    large: bool,
    shape: Shape,
    nxe: bool,
    physical_bits: u8,
) -> bool {
    let beyond = |address: u64| address >> physical_bits.min(52) != 0;
    if !shape.pae {
        return large && (entry & 1 << 21 != 0 || beyond((entry >> 13 & 0xff) << 32));
    }
    let pdpte = shape.levels == 3 && level == 3;
    if beyond(entry & ADDRESS) || entry & NX != 0 && (!nxe || pdpte) {
        return true;
    }
    // Bits 62:52 are reserved in PAE entries; long mode ignores them.
    if shape.levels == 3 && entry >> 52 & 0x7ff != 0 {
        return true;
    }
    if pdpte {
        return entry & PDPTE_RESERVED != 0;
    }
    match level {
        4 | 5 => entry & PS != 0,
        2 | 3 if large => entry & ((1 << (12 + 9 * (level - 1))) - 1) & !0x1fff != 0,
        _ => false,
    }
}

fn allowed(s: &PagingState, access: Access, user: bool, rw: bool, us: bool, nx: bool) -> bool {
    if access.fetch && nx {
        return false;
    }
    if user {
        return us && (!access.write || rw);
    }
    if access.fetch {
        return !(us && s.cr4.contains(Cr4::SMEP));
    }
    if us && s.cr4.contains(Cr4::SMAP) && (access.implicit || !s.ac) {
        return false;
    }
    !access.write || rw || !s.cr0.contains(Cr0::WP)
}

/// An entry that is changed so often under the walk's eyes is not present: a CPU could have found it so, or the guest can expect no better.
const RACES: u32 = 100;

/// Sets flags in an entry, in one step with the check that it is still what was read, as the CPU does (SDM vol 3A 4.8, "Accessed and Dirty
/// Flags"; 9.1.2.1, "Automatic Locking"). False: another CPU or a device has changed it meanwhile, and what was read does not count. In ROM
/// the flags are as good as set.
fn set_flags(mem: &dyn GuestMemory, at: Gpa, size: u64, entry: u64, flags: u64) -> bool {
    entry & flags == flags
        || mem.compare_exchange(at, size as usize, entry.into(), (entry | flags).into())
            != Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::mem::NotRam;
    use hv_core::testing::{Random, VecMemory};

    const READ: Access = Access {
        write: false,
        fetch: false,
        user: false,
        implicit: false,
    };
    const WRITE: Access = Access {
        write: true,
        ..READ
    };
    const USER: Access = Access { user: true, ..READ };
    const FETCH: Access = Access {
        fetch: true,
        ..READ
    };

    fn long_mode() -> PagingState {
        PagingState {
            cr0: Cr0::PE | Cr0::PG | Cr0::WP,
            cr3: 0x1000,
            cr4: Cr4::PAE,
            efer: Efer::LME | Efer::LMA | Efer::NXE,
            ac: false,
            physical_bits: 40,
        }
    }

    /// Four levels at 1000h, 2000h, 3000h, 4000h; linear page 0 maps to 5000h with `leaf` flags.
    fn four_levels(leaf: u64) -> VecMemory {
        let m = VecMemory::new(0x10000);
        for t in 1..=3u64 {
            m.write(Gpa(t << 12), &((t + 1) << 12 | P | RW | US).to_le_bytes())
                .unwrap();
        }
        m.write(Gpa(0x4000), &(0x5000 | leaf).to_le_bytes())
            .unwrap();
        m
    }

    fn error(m: &VecMemory, s: &PagingState, a: Access) -> Option<u32> {
        translate(m, s, Gva(0x123), a).err().map(|f| f.error.bits())
    }

    #[test]
    fn no_paging_is_the_identity_below_four_gigabytes() {
        let s = PagingState::unpaged(40);
        assert_eq!(
            translate(&VecMemory::new(16), &s, Gva(0x1_0000_1234), READ),
            Ok(Gpa(0x1234))
        );
    }

    #[test]
    fn rights_matrix_of_four_level_paging() {
        for leaf in 0..16u64 {
            let (w, u, nx) = (leaf & 1, leaf >> 1 & 1, leaf >> 2 & 1);
            let m = four_levels(P | w << 1 | u << 2 | nx << 63);
            for wp in [false, true] {
                let mut s = long_mode();
                s.cr0.set(Cr0::WP, wp);
                assert_eq!(error(&m, &s, READ), None);
                assert_eq!(error(&m, &s, WRITE), (w == 0 && wp).then_some(3));
                assert_eq!(error(&m, &s, USER), (u == 0).then_some(5));
                assert_eq!(
                    error(
                        &m,
                        &s,
                        Access {
                            write: true,
                            ..USER
                        }
                    ),
                    (u == 0 || w == 0).then_some(7)
                );
                assert_eq!(error(&m, &s, FETCH), (nx == 1).then_some(0x11));
                s.cr4 |= Cr4::SMEP | Cr4::SMAP;
                assert_eq!(error(&m, &s, FETCH), (nx == 1 || u == 1).then_some(0x11));
                assert_eq!(error(&m, &s, READ), (u == 1).then_some(1));
                s.ac = true;
                assert_eq!(error(&m, &s, READ), None);
                assert_eq!(
                    error(
                        &m,
                        &s,
                        Access {
                            implicit: true,
                            ..READ
                        }
                    ),
                    (u == 1).then_some(1)
                );
            }
        }
    }

    #[test]
    fn not_present_has_no_protection_bit() {
        let m = four_levels(0);
        assert_eq!(error(&m, &long_mode(), WRITE), Some(2));
        assert_eq!(error(&m, &long_mode(), USER), Some(4));
    }

    #[test]
    fn nx_without_nxe_is_reserved() {
        let m = four_levels(P | NX);
        let mut s = long_mode();
        s.efer.remove(Efer::NXE);
        assert_eq!(error(&m, &s, READ), Some(9));
    }

    #[test]
    fn accessed_and_dirty_are_set_only_where_the_cpu_sets_them() {
        let m = four_levels(P | RW);
        translate(&m, &long_mode(), Gva(0), READ).unwrap();
        for t in 1..=4u64 {
            assert_eq!(
                m.read_u64(Gpa(t << 12)).unwrap() & (A | D),
                A,
                "level {}",
                5 - t
            );
        }
        translate(&m, &long_mode(), Gva(0), WRITE).unwrap();
        assert_eq!(m.read_u64(Gpa(0x3000)).unwrap() & D, 0);
        assert_eq!(m.read_u64(Gpa(0x4000)).unwrap() & D, D);
        let m = four_levels(P);
        assert!(translate(&m, &long_mode(), Gva(0), WRITE).is_err());
        assert_eq!(
            m.read_u64(Gpa(0x4000)).unwrap() & (A | D),
            0,
            "a faulting access sets neither in the leaf"
        );
    }

    /// Memory in which another CPU changes an entry whenever the walker is about to set flags in it.
    struct Racing {
        inner: VecMemory,
        at: Gpa,
        changes: std::sync::Mutex<Vec<u64>>,
    }

    impl GuestMemory for Racing {
        fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
            self.inner.read(gpa, buf)
        }
        fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
            self.inner.write(gpa, buf)
        }
        fn compare_exchange(
            &self,
            gpa: Gpa,
            size: usize,
            a: u128,
            b: u128,
        ) -> Result<bool, NotRam> {
            if gpa == self.at
                && let Some(change) = self.changes.lock().unwrap().pop()
            {
                self.inner.write(gpa, &change.to_le_bytes())?;
            }
            self.inner.compare_exchange(gpa, size, a, b)
        }
        fn contains(&self, gpa: Gpa, len: usize, write: bool) -> bool {
            self.inner.contains(gpa, len, write)
        }
    }

    fn racing(changes: &[u64]) -> Racing {
        Racing {
            inner: four_levels(P | RW),
            at: Gpa(0x4000),
            changes: changes.to_vec().into(),
        }
    }

    #[test]
    fn an_entry_that_changes_before_its_flags_are_set_is_read_again() {
        let m = racing(&[0x6000 | P | RW, 0x7000 | P | RW]);
        assert_eq!(translate(&m, &long_mode(), Gva(5), WRITE), Ok(Gpa(0x6005)));
        assert_eq!(
            m.read_u64(Gpa(0x4000)).unwrap(),
            0x6000 | P | RW | A | D,
            "what another CPU has stored is not lost"
        );
        let m = racing(&[0x6000 | P]);
        let fault = translate(&m, &long_mode(), Gva(5), WRITE).unwrap_err();
        assert_eq!(fault.error.bits(), 3, "the right has gone meanwhile");
        assert_eq!(m.read_u64(Gpa(0x4000)).unwrap(), 0x6000 | P);
    }

    #[test]
    fn an_entry_that_never_stands_still_is_not_present() {
        let changes: Vec<_> = (0..1000).map(|n| n << 12 | P | RW).collect();
        let fault = translate(&racing(&changes), &long_mode(), Gva(5), WRITE).unwrap_err();
        assert_eq!(fault.error.bits(), 2);
    }

    #[test]
    fn two_level_pse36_large_page() {
        let m = VecMemory::new(0x4000);
        let pde = 0x0040_0000u32 | 3 << 13 | (P | PS | RW) as u32;
        m.write(Gpa(0x1004), &pde.to_le_bytes()).unwrap();
        let mut s = PagingState {
            cr0: Cr0::PE | Cr0::PG,
            cr3: 0x1000,
            cr4: Cr4::PSE,
            efer: Efer::empty(),
            ac: false,
            physical_bits: 40,
        };
        assert_eq!(
            translate(&m, &s, Gva(0x0041_2345), READ),
            Ok(Gpa(0x3_0041_2345))
        );
        m.write(Gpa(0x1004), &(pde | 1 << 21).to_le_bytes())
            .unwrap();
        assert_eq!(
            translate(&m, &s, Gva(0x0041_2345), READ)
                .unwrap_err()
                .error
                .bits(),
            9
        );
        s.cr4 = Cr4::empty();
        m.write(Gpa(0x1004), &(0x2000u32 | (P | PS) as u32).to_le_bytes())
            .unwrap();
        m.write(
            Gpa(0x2000 + 0x12 * 4),
            &(0x3000u32 | P as u32).to_le_bytes(),
        )
        .unwrap();
        assert_eq!(
            translate(&m, &s, Gva(0x0041_2345), READ),
            Ok(Gpa(0x3345)),
            "without CR4.PSE the bit means nothing"
        );
    }

    #[test]
    fn pae_page_directory_pointers_have_no_rights() {
        let m = VecMemory::new(0x6000);
        m.write(Gpa(0x1020 + 8), &(0x2000 | P).to_le_bytes())
            .unwrap();
        m.write(Gpa(0x2000), &(0x3000 | P | RW | US).to_le_bytes())
            .unwrap();
        m.write(Gpa(0x3000), &(0x4000 | P | RW | US).to_le_bytes())
            .unwrap();
        let s = PagingState {
            cr0: Cr0::PE | Cr0::PG | Cr0::WP,
            cr3: 0x1020,
            cr4: Cr4::PAE,
            efer: Efer::empty(),
            ac: false,
            physical_bits: 40,
        };
        assert_eq!(
            translate(
                &m,
                &s,
                Gva(0x4000_0007),
                Access {
                    write: true,
                    ..USER
                }
            ),
            Ok(Gpa(0x4007))
        );
        m.write(Gpa(0x1020 + 8), &(0x2000 | P | A).to_le_bytes())
            .unwrap();
        assert_eq!(
            translate(&m, &s, Gva(0x4000_0007), READ),
            Ok(Gpa(0x4007)),
            "QEMU sets the flag that these entries do not have"
        );
        m.write(Gpa(0x1020 + 8), &(0x2000 | P | RW).to_le_bytes())
            .unwrap();
        assert_eq!(
            translate(&m, &s, Gva(0x4000_0007), READ)
                .unwrap_err()
                .error
                .bits(),
            9
        );
    }

    #[test]
    fn random_tables_never_panic_or_loop() {
        let m = VecMemory::new(0x8000);
        let mut random = Random::new(88_172_645_463_325_252);
        for _ in 0..20_000 {
            let seed = random.next();
            m.write(
                Gpa(seed >> 8 & 0x7ff8),
                &(seed.rotate_left(13) & !0xffff_0000_0000_8000 | seed & NX).to_le_bytes(),
            )
            .unwrap();
            let s = PagingState {
                cr0: Cr0::PE | Cr0::PG,
                cr3: seed & 0x7fff,
                cr4: Cr4::from_bits_retain(seed >> 5 & 0x30_1030),
                efer: Efer::from_bits_retain(seed >> 3 & 0xd00),
                ac: false,
                physical_bits: 40,
            };
            let a = Access {
                write: seed & 1 != 0,
                fetch: seed & 2 != 0,
                user: seed & 4 != 0,
                implicit: seed & 8 != 0,
            };
            let _ = translate(&m, &s, Gva(seed), a);
        }
    }
}
