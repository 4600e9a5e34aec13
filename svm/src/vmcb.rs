//! The virtual machine control block (APM vol 2 appendix B, "Layout of VMCB").
// The manuals' bit names are their own documentation.
#![allow(missing_docs)]

use bitflags::bitflags;
use core::mem::offset_of;

bitflags! {
    /// Intercept vector 3, at offset 00Ch.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercept3: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const SMI = 1 << 2;
        const INIT = 1 << 3;
        const VINTR = 1 << 4;
        const CR0_SEL_WRITE = 1 << 5;
        const RDPMC = 1 << 15;
        const CPUID = 1 << 18;
        const RSM = 1 << 19;
        const IRET = 1 << 20;
        const INVD = 1 << 22;
        const PAUSE = 1 << 23;
        const HLT = 1 << 24;
        const INVLPG = 1 << 25;
        const INVLPGA = 1 << 26;
        const IOIO = 1 << 27;
        const MSR = 1 << 28;
        const TASK_SWITCH = 1 << 29;
        const FERR_FREEZE = 1 << 30;
        const SHUTDOWN = 1 << 31;
    }

    /// Intercept vector 4, at offset 010h.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercept4: u32 {
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const RDTSCP = 1 << 7;
        const ICEBP = 1 << 8;
        const WBINVD = 1 << 9;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const MWAIT_ARMED = 1 << 12;
        const XSETBV = 1 << 13;
        const RDPRU = 1 << 14;
    }

    /// Intercept vector 5, at offset 014h.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Intercept5: u32 {
        const INVLPGB = 1 << 0;
        const INVLPGB_ILLEGAL = 1 << 1;
        const INVPCID = 1 << 2;
        const MCOMMIT = 1 << 3;
        const TLBSYNC = 1 << 4;
    }

    /// Virtual interrupt control, at offset 060h.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VirtualInterrupt: u64 {
        const V_TPR = 0xf;
        const V_IRQ = 1 << 8;
        const V_INTR_PRIO = 0xf << 16;
        const V_IGN_TPR = 1 << 20;
        const V_INTR_MASKING = 1 << 24;
    }
}

/// Where the vector stands in virtual interrupt control.
pub const V_INTR_VECTOR: u32 = 32;

/// TLB_CONTROL: what VMRUN flushes.
pub mod tlb_control {
    pub const NOTHING: u8 = 0;
    pub const EVERYTHING: u8 = 1;
    pub const THIS_GUEST: u8 = 3;
}

/// NP_ENABLE, at offset 090h: nested paging on.
pub const NP_ENABLE: u64 = 1;
/// INTERRUPT_SHADOW, at offset 068h: the guest is in an interrupt shadow.
pub const INTERRUPT_SHADOW: u64 = 1;

/// A segment register in the save area.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct VmcbSegment {
    pub selector: u16,
    pub attrib: u16,
    pub limit: u32,
    pub base: u64,
}

/// The control block: control area, then save area.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Vmcb {
    pub intercept_cr_read: u16,
    pub intercept_cr_write: u16,
    pub intercept_dr_read: u16,
    pub intercept_dr_write: u16,
    pub intercept_exceptions: u32,
    pub intercept3: u32,
    pub intercept4: u32,
    pub intercept5: u32,
    reserved0: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    reserved1: [u8; 3],
    pub virtual_interrupt: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub np_enable: u64,
    reserved2: [u8; 0x10],
    pub event_injection: u64,
    pub n_cr3: u64,
    pub lbr_control: u64,
    pub clean: u64,
    pub next_rip: u64,
    reserved3: [u8; 0x330],
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    reserved4: [u8; 0x2b],
    pub cpl: u8,
    reserved5: [u8; 4],
    pub efer: u64,
    reserved6: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved7: [u8; 0x58],
    pub rsp: u64,
    reserved8: [u8; 0x18],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved9: [u8; 0x20],
    pub g_pat: u64,
    pub debug_ctl: u64,
    reserved10: [u8; 0x68],
    pub spec_ctrl: u64,
    reserved11: [u8; 0x918],
}

macro_rules! at {
    ($($field:ident = $offset:expr),* $(,)?) => {
        $(const _: () = assert!(offset_of!(Vmcb, $field) == $offset);)*
    };
}

at! {
    intercept_cr_read = 0x000, intercept_dr_read = 0x004, intercept_exceptions = 0x008, intercept3 = 0x00c, intercept4 = 0x010, intercept5 = 0x014,
    pause_filter_threshold = 0x03c, pause_filter_count = 0x03e, iopm_base = 0x040, msrpm_base = 0x048, tsc_offset = 0x050,
    asid = 0x058, tlb_control = 0x05c, virtual_interrupt = 0x060, interrupt_shadow = 0x068, exit_code = 0x070, exit_info1 = 0x078,
    exit_info2 = 0x080, exit_int_info = 0x088, np_enable = 0x090, event_injection = 0x0a8, n_cr3 = 0x0b0, lbr_control = 0x0b8,
    clean = 0x0c0, next_rip = 0x0c8,
    es = 0x400, cs = 0x410, ss = 0x420, ds = 0x430, fs = 0x440, gs = 0x450, gdtr = 0x460, ldtr = 0x470, idtr = 0x480, tr = 0x490,
    cpl = 0x4cb, efer = 0x4d0, cr4 = 0x548, cr3 = 0x550, cr0 = 0x558, dr7 = 0x560, dr6 = 0x568, rflags = 0x570, rip = 0x578,
    rsp = 0x5d8, rax = 0x5f8, star = 0x600, lstar = 0x608, cstar = 0x610, sfmask = 0x618, kernel_gs_base = 0x620,
    sysenter_cs = 0x628, sysenter_esp = 0x630, sysenter_eip = 0x638, cr2 = 0x640, g_pat = 0x668, debug_ctl = 0x670, spec_ctrl = 0x6e0,
}
const _: () = assert!(size_of::<Vmcb>() == 4096);

impl Default for Vmcb {
    fn default() -> Self {
        let segment = VmcbSegment::default();
        Self {
            intercept_cr_read: 0,
            intercept_cr_write: 0,
            intercept_dr_read: 0,
            intercept_dr_write: 0,
            intercept_exceptions: 0,
            intercept3: 0,
            intercept4: 0,
            intercept5: 0,
            reserved0: [0; 0x24],
            pause_filter_threshold: 0,
            pause_filter_count: 0,
            iopm_base: 0,
            msrpm_base: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_control: 0,
            reserved1: [0; 3],
            virtual_interrupt: 0,
            interrupt_shadow: 0,
            exit_code: 0,
            exit_info1: 0,
            exit_info2: 0,
            exit_int_info: 0,
            np_enable: 0,
            reserved2: [0; 0x10],
            event_injection: 0,
            n_cr3: 0,
            lbr_control: 0,
            clean: 0,
            next_rip: 0,
            reserved3: [0; 0x330],
            es: segment,
            cs: segment,
            ss: segment,
            ds: segment,
            fs: segment,
            gs: segment,
            gdtr: segment,
            ldtr: segment,
            idtr: segment,
            tr: segment,
            reserved4: [0; 0x2b],
            cpl: 0,
            reserved5: [0; 4],
            efer: 0,
            reserved6: [0; 0x70],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            reserved7: [0; 0x58],
            rsp: 0,
            reserved8: [0; 0x18],
            rax: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            cr2: 0,
            reserved9: [0; 0x20],
            g_pat: 0,
            debug_ctl: 0,
            reserved10: [0; 0x68],
            spec_ctrl: 0,
            reserved11: [0; 0x918],
        }
    }
}
