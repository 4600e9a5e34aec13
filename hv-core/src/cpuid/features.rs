//! The features that guests may have, as bits of their leaves.

/// XCR0 components that guests may use: x87, SSE, AVX.
pub const XCR0_ALLOWED: u64 = XCR0_X87_SSE | XCR0_AVX;
/// Without these there is no XSAVE.
pub(super) const XCR0_X87_SSE: u64 = 0b011;
pub(super) const XCR0_AVX: u64 = 0b100;

/// Leaf 1 ECX bits that pass: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND. What is not here (MONITOR, VMX, PCID, PDCM, ...) the virtual CPU does not have.
pub(super) const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
/// Leaf 1 ECX: XSAVE.
pub(super) const LEAF1_ECX_XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX: AVX.
pub(super) const LEAF1_ECX_AVX: u32 = 1 << 28;
/// Leaf 1 ECX: what is encoded as AVX is: FMA, F16C.
pub(super) const LEAF1_ECX_VEX: u32 = 1 << 12 | 1 << 29;
/// Leaf 7.0 EBX and ECX likewise: AVX2; VAES, VPCLMULQDQ.
pub(super) const LEAF7_EBX_VEX: u32 = 1 << 5;
pub(super) const LEAF7_ECX_VEX: u32 = 1 << 9 | 1 << 10;
/// Leaf 1 ECX: x2APIC, and the local APIC's timer in TSC-deadline mode, which are emulated whatever the host has.
pub(super) const LEAF1_ECX_APIC: u32 = 1 << 21 | 1 << 24;
/// Leaf 1 ECX: there is a hypervisor.
pub(super) const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 ECX: OSXSAVE.
pub(super) const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: APIC.
pub(super) const LEAF1_EDX_APIC: u32 = 1 << 9;
/// Leaf 1 EDX bits that pass: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
pub(super) const LEAF1_EDX: u32 = 0x078b_fbff;
/// Leaf 7.0 EBX bits that pass: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
pub(super) const LEAF7_EBX: u32 = 1
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 24
    | 1 << 29;
/// Leaf 7.0 ECX bits that pass: UMIP, VAES, VPCLMULQDQ, RDPID is left out (it needs TSC_AUX).
pub(super) const LEAF7_ECX: u32 = 1 << 2 | 1 << 9 | 1 << 10;
/// Leaf 7.0 EDX bits that pass: FSRM.
pub(super) const LEAF7_EDX: u32 = 1 << 4;
/// Leaf 8000_0001 ECX bits that pass: LAHF, ABM, SSE4A, misaligned SSE, PREFETCHW.
pub(super) const EXT1_ECX: u32 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 8000_0001 EDX bits that pass: those of leaf 1, SYSCALL, NX, MMXEXT, FFXSR is left out, 1 GiB pages, LM, 3DNow! is left out.
pub(super) const EXT1_EDX: u32 =
    0x0183_f3ff | 1 << 11 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 26 | 1 << 29;
