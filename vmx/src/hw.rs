//! The instructions: entering VMX operation, VMCS accesses and the world switch. The only file of this crate with unsafe code.
//!
//! What must be true of the machine: the hypervisor runs in ring 0 and long mode with host memory mapped at its physical
//! addresses, so that the address of a structure is its physical address; interrupts are off whenever this code is entered. A
//! virtual CPU that is loaded stays on its processor, whose current VMCS is its own.
//!
//! The registers of [`CpuRegister`] hold the guest's values while Umbra runs: Umbra neither faults on pages nor sets breakpoints
//! nor uses SYSCALL, so that nothing has to be switched but between guests.

use crate::capabilities::{Capabilities, FEATURE_CONTROL_ENABLE, ept, msr};
use crate::vmcs::Field;
use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use hv_core::Hpa;
use hv_core::fx::FxState;
use hv_core::regs::Gprs;
use x86::msr::{rdmsr, wrmsr};

const CR4_VMXE: u64 = 1 << 13;
const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;
const GS_BASE: u32 = 0xc000_0101;

/// A guest register that VM entries and exits do not switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum CpuRegister {
    Cr2,
    Dr0,
    Dr1,
    Dr2,
    Dr3,
    Dr6,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
}

impl CpuRegister {
    /// All of them.
    pub const ALL: [CpuRegister; 11] = [
        CpuRegister::Cr2,
        CpuRegister::Dr0,
        CpuRegister::Dr1,
        CpuRegister::Dr2,
        CpuRegister::Dr3,
        CpuRegister::Dr6,
        CpuRegister::Star,
        CpuRegister::Lstar,
        CpuRegister::Cstar,
        CpuRegister::Sfmask,
        CpuRegister::KernelGsBase,
    ];

    /// Its number, if it is model-specific.
    const fn msr(self) -> Option<u32> {
        Some(match self {
            CpuRegister::Cr2
            | CpuRegister::Dr0
            | CpuRegister::Dr1
            | CpuRegister::Dr2
            | CpuRegister::Dr3
            | CpuRegister::Dr6 => return None,
            CpuRegister::Star => 0xc000_0081,
            CpuRegister::Lstar => 0xc000_0082,
            CpuRegister::Cstar => 0xc000_0083,
            CpuRegister::Sfmask => 0xc000_0084,
            CpuRegister::KernelGsBase => 0xc000_0102,
        })
    }

    /// `value`, made such that the register takes it: the run loop has refused others.
    const fn valid(self, value: u64) -> u64 {
        match self {
            CpuRegister::Sfmask => value & 0xffff_ffff,
            CpuRegister::Lstar | CpuRegister::Cstar | CpuRegister::KernelGsBase => {
                ((value << 16) as i64 >> 16) as u64
            }
            _ => value,
        }
    }
}

/// An entry that did not happen (SDM vol 3C 31.2, "Conventions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryError {
    /// VMfailInvalid: there is no current VMCS.
    NoVmcs,
    /// VMfailValid: the VM-instruction error field says why.
    Instruction,
}

/// The processor as a virtual CPU uses it. Tests have one of their own.
pub trait Hardware: Send + 'static {
    /// VMREAD.
    fn read(&self, field: Field) -> u64;
    /// VMWRITE.
    fn write(&mut self, field: Field, value: u64);
    /// A register that holds the guest's value.
    fn register(&self, register: CpuRegister) -> u64;
    /// Sets a register that holds the guest's value.
    fn set_register(&mut self, register: CpuRegister, value: u64);
    /// EFER and PAT as the host has them. The VMCS has fields for them only where there are the controls that load them.
    fn host_efer_and_pat(&self) -> (u64, u64);
    /// Loads XCR0. `value` has been checked against CPUID.
    fn set_xcr0(&mut self, value: u64);
    /// IBPB. The CPU has it.
    fn prediction_barrier(&mut self);
    /// VMPTRLD: makes this virtual CPU's VMCS the current one of the processor that executes this. Whether it is another processor than
    /// the last time: what that one remembers of the guest may be out of date, and has been flushed.
    fn make_current(&mut self) -> bool;
    /// VMCLEAR: writes what the processor has of the VMCS to memory, so that another one can have it (SDM vol 3C 25.11.1, "Software Use of
    /// Virtual-Machine Control Structures").
    fn clear(&mut self);
    /// The guest's general registers. RSP is not switched with them.
    fn gprs(&self) -> &Gprs;
    /// The guest's general registers, to be changed.
    fn gprs_mut(&mut self) -> &mut Gprs;
    /// Runs the guest until it exits.
    ///
    /// # Errors
    /// The entry was refused before it began.
    fn enter(&mut self, fx: &mut FxState) -> Result<(), EntryError>;
    /// INVEPT: forgets translations made with the tables that `eptp` points to.
    fn flush_ept(&mut self, eptp: u64);
    /// INVVPID: forgets translations of linear addresses tagged with `vpid`.
    fn flush_vpid(&mut self, vpid: u16);
    /// Lets the host's NMI handler run for an NMI that has left the guest, and unblocks NMIs.
    fn host_nmi(&mut self);
    /// How many VMREADs and VMWRITEs there have been.
    fn accesses(&self) -> (u64, u64);
}

/// What the world switch works on; `offset_of!` assertions tie it to the assembly.
#[repr(C)]
struct Context {
    /// The guest's general registers, RSP excepted, which is in the VMCS.
    gprs: Gprs,
    fx: u64,
    /// What HOST_RSP holds.
    host_rsp: u64,
    /// Whether VMRESUME is to be used.
    launched: u64,
}

const _: () = assert!(offset_of!(Context, gprs) == 0);
const _: () = assert!(offset_of!(Context, fx) == 128);
const _: () = assert!(offset_of!(Context, host_rsp) == 136);
const _: () = assert!(offset_of!(Context, launched) == 144);
const _: () = assert!(Field::HOST_RSP.encoding() == 0x6c14);

// The guest exits to `umbra_vmx_exit` with the stack pointer that HOST_RSP holds, at which the context's address lies. A failed
// VMLAUNCH or VMRESUME goes on behind it, with the reason in CF and ZF. An exit has loaded the host's segments and tables; the
// x87 and SSE state and the other general registers are switched here.
global_asm!(
    ".global umbra_vmx_run",
    ".global umbra_vmx_exit",
    "umbra_vmx_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "cmp rsp, [rdi + 136]",
    "je 2f",
    "mov eax, 0x6c14",
    "vmwrite rax, rsp",
    "mov [rdi + 136], rsp",
    "2:",
    "mov rax, [rdi + 128]",
    "fxrstor64 [rax]",
    "cmp qword ptr [rdi + 144], 0",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "je 3f",
    "vmresume",
    "jmp 4f",
    "3:",
    "vmlaunch",
    "4:",
    "mov eax, 1",
    "mov ecx, 2",
    "cmovz eax, ecx",
    "jmp 5f",
    "umbra_vmx_exit:",
    "push rdi",
    "mov rdi, [rsp + 8]",
    "mov [rdi], rax",
    "mov [rdi + 8], rcx",
    "mov [rdi + 16], rdx",
    "mov [rdi + 24], rbx",
    "mov [rdi + 40], rbp",
    "mov [rdi + 48], rsi",
    "mov [rdi + 64], r8",
    "mov [rdi + 72], r9",
    "mov [rdi + 80], r10",
    "mov [rdi + 88], r11",
    "mov [rdi + 96], r12",
    "mov [rdi + 104], r13",
    "mov [rdi + 112], r14",
    "mov [rdi + 120], r15",
    "pop qword ptr [rdi + 56]",
    "mov qword ptr [rdi + 144], 1",
    "mov rax, [rdi + 128]",
    "fxsave64 [rax]",
    "xor eax, eax",
    "5:",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rdi",
    "pop rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "cld",
    "ret",
);

unsafe extern "C" {
    fn umbra_vmx_run(context: *mut Context) -> u64;
    fn umbra_vmx_exit();
}

/// A page that the processor works with: VMXON region or VMCS.
#[repr(C, align(4096))]
pub struct Region {
    revision: u32,
    rest: [u8; 4092],
}

impl Region {
    /// A region for a processor with this revision identifier.
    #[must_use]
    pub fn new(revision: u32) -> Box<Self> {
        Box::new(Self {
            revision,
            rest: [0; 4092],
        })
    }
}

const fn kind(capabilities: &Capabilities, single: u64) -> u64 {
    if capabilities.ept_vpid & single != 0 {
        SINGLE
    } else {
        ALL
    }
}

/// The physical address of something in the hypervisor's own memory.
pub fn address<T>(of: &T) -> Hpa {
    Hpa(core::ptr::from_ref(of) as u64)
}

/// Asks this CPU, which has VT-x and physical addresses of `physical_bits`, what it can do.
#[must_use]
pub fn capabilities(physical_bits: u8) -> Capabilities {
    // SAFETY: ring 0; only registers that the CPU's other answers say are there are read.
    Capabilities::read(|msr| unsafe { rdmsr(msr) }, physical_bits)
}

/// IA32_FEATURE_CONTROL of this CPU, which has VT-x.
#[must_use]
pub fn feature_control() -> u64 {
    // SAFETY: ring 0; CPUs with VT-x have the register.
    unsafe { rdmsr(msr::FEATURE_CONTROL) }
}

/// Puts this CPU into VMX operation, with `region` as its VMXON region, which it keeps. `unlocked`: IA32_FEATURE_CONTROL has to
/// be set first. False: VMXON failed.
#[must_use]
pub fn enable(region: Box<Region>, capabilities: &Capabilities, unlocked: bool) -> bool {
    let pa = address(&*Box::leak(region)).0;
    let (cr0, cr4): (u64, u64);
    // SAFETY: ring 0; reading control registers has no effect.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0, options(nostack, nomem, preserves_flags));
        asm!("mov {}, cr4", out(reg) cr4, options(nostack, nomem, preserves_flags));
    }
    let failed: u8;
    // SAFETY: ring 0 on a CPU with VT-x; the fixed bits change nothing that Umbra relies on; the region is the CPU's for ever.
    unsafe {
        if unlocked {
            wrmsr(msr::FEATURE_CONTROL, FEATURE_CONTROL_ENABLE);
        }
        asm!("mov cr0, {}", in(reg) cr0 | capabilities.cr0_fixed.0, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4 | capabilities.cr4_fixed.0 | CR4_VMXE, options(nostack, preserves_flags));
        asm!("vmxon [{}]", "setbe {}", in(reg) &pa, out(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// This CPU with a VMCS of its own, which is current.
pub struct Processor {
    context: Box<Context>,
    vmcs: Box<Region>,
    /// GS base of the CPU whose state the VMCS has as the host's.
    gs_base: u64,
    /// Whether the CPU has INVEPT and INVVPID.
    flushes: (bool, bool),
    /// The kinds of INVEPT and INVVPID to use: for one guest, or for all where the CPU cannot do that.
    invept: u64,
    invvpid: u64,
    reads: Cell<u64>,
    writes: u64,
}

/// INVEPT and INVVPID type "single-context".
const SINGLE: u64 = 1;
/// INVEPT and INVVPID type "all contexts".
const ALL: u64 = 2;

impl Processor {
    /// Makes a VMCS and fills in the host's state. None: the CPU does not take it. The CPU is in VMX operation, with its final
    /// descriptor tables and control registers.
    #[must_use]
    pub fn new(capabilities: &Capabilities) -> Option<Self> {
        let vmcs = Region::new(capabilities.revision());
        if !clear_vmcs(&vmcs) || !load_vmcs(&vmcs) {
            return None;
        }
        let mut p = Self {
            context: Box::new(Context {
                gprs: Gprs::default(),
                fx: 0,
                host_rsp: 0,
                launched: 0,
            }),
            vmcs,
            gs_base: 0,
            flushes: (
                capabilities.ept_vpid & ept::INVEPT != 0,
                capabilities.ept_vpid & ept::INVVPID != 0,
            ),
            invept: kind(capabilities, ept::INVEPT_SINGLE),
            invvpid: kind(capabilities, ept::INVVPID_SINGLE),
            reads: Cell::new(0),
            writes: 0,
        };
        p.write_host_state();
        Some(p)
    }

    /// Forgets what this CPU remembers of any guest.
    fn flush_everything(&mut self) {
        let (ept, vpid) = self.flushes;
        let descriptor = [0u64; 2];
        if ept {
            // SAFETY: ring 0 in VMX operation on a CPU with INVEPT; forgetting translations is always right.
            unsafe {
                asm!("invept {}, [{}]", in(reg) ALL, in(reg) &descriptor, options(nostack));
            }
        }
        if vpid {
            // SAFETY: as above, with INVVPID.
            unsafe {
                asm!("invvpid {}, [{}]", in(reg) ALL, in(reg) &descriptor, options(nostack));
            }
        }
    }

    fn write_host_state(&mut self) {
        use x86::{controlregs, dtables, segmentation, task};
        let mut gdtr = dtables::DescriptorTablePointer::<u64>::default();
        let mut idtr = dtables::DescriptorTablePointer::<u64>::default();
        let (cr0, cr3, cr4, efer, pat, gs): (u64, u64, u64, u64, u64, u64);
        // SAFETY: ring 0; these instructions store registers and have no other effect.
        unsafe {
            dtables::sgdt(&mut gdtr);
            dtables::sidt(&mut idtr);
            cr3 = controlregs::cr3();
            asm!("mov {}, cr0", out(reg) cr0, options(nostack, nomem, preserves_flags));
            asm!("mov {}, cr4", out(reg) cr4, options(nostack, nomem, preserves_flags));
            efer = rdmsr(EFER);
            pat = rdmsr(PAT);
            // What Umbra has of this CPU's own is found through it.
            gs = gs_base();
        }
        self.gs_base = gs;
        // SAFETY: as above.
        let tr = unsafe { task::tr() };
        let selector = |s: segmentation::SegmentSelector| u64::from(s.bits() & !7);
        let gdt = gdtr.base as u64;
        // SAFETY: the task register was loaded from this entry of the table, which stays in place.
        let tss = unsafe { ((gdt + selector(tr)) as *const [u64; 2]).read_unaligned() };
        let tr_base = tss[0] >> 16 & 0xff_ffff | tss[0] >> 32 & 0xff00_0000 | tss[1] << 32;
        for (field, value) in [
            (Field::HOST_CR0, cr0),
            (Field::HOST_CR3, cr3),
            (Field::HOST_CR4, cr4),
            (Field::HOST_EFER, efer),
            (Field::HOST_PAT, pat),
            (Field::HOST_ES_SELECTOR, selector(segmentation::es())),
            (Field::HOST_CS_SELECTOR, selector(segmentation::cs())),
            (Field::HOST_SS_SELECTOR, selector(segmentation::ss())),
            (Field::HOST_DS_SELECTOR, selector(segmentation::ds())),
            (Field::HOST_FS_SELECTOR, selector(segmentation::fs())),
            (Field::HOST_GS_SELECTOR, selector(segmentation::gs())),
            (Field::HOST_TR_SELECTOR, selector(tr)),
            (Field::HOST_FS_BASE, 0),
            (Field::HOST_GS_BASE, gs),
            (Field::HOST_TR_BASE, tr_base),
            (Field::HOST_GDTR_BASE, gdt),
            (Field::HOST_IDTR_BASE, idtr.base as u64),
            (Field::HOST_SYSENTER_CS, 0),
            (Field::HOST_SYSENTER_ESP, 0),
            (Field::HOST_SYSENTER_EIP, 0),
            (Field::HOST_RIP, umbra_vmx_exit as *const () as u64),
        ] {
            self.write(field, value);
        }
    }
}

/// GS base of this CPU, by which Umbra tells its CPUs apart.
fn gs_base() -> u64 {
    // SAFETY: ring 0; every CPU in long mode has it.
    unsafe { rdmsr(GS_BASE) }
}

/// VMCLEAR. False: the CPU does not take it.
fn clear_vmcs(vmcs: &Region) -> bool {
    let pa = address(vmcs).0;
    let failed: u8;
    // SAFETY: ring 0 in VMX operation; the region is its owner's and has the right revision.
    unsafe {
        asm!("vmclear [{}]", "setbe {}", in(reg) &pa, out(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// VMPTRLD. False: the CPU does not take it.
fn load_vmcs(vmcs: &Region) -> bool {
    let pa = address(vmcs).0;
    let failed: u8;
    // SAFETY: ring 0 in VMX operation; a VMCS that is current says of a guest only what its owner has written there.
    unsafe {
        asm!("vmptrld [{}]", "setbe {}", in(reg) &pa, out(reg_byte) failed, options(nostack));
    }
    failed == 0
}

impl Hardware for Processor {
    #[inline(always)]
    fn read(&self, field: Field) -> u64 {
        self.reads.set(self.reads.get() + 1);
        let value: u64;
        // SAFETY: the VMCS is current; reading a field has no effect. The fields are those of the manual.
        unsafe {
            asm!("vmread {}, {}", out(reg) value, in(reg) field.encoding(), options(nostack));
        }
        value
    }

    #[inline(always)]
    fn write(&mut self, field: Field, value: u64) {
        self.writes += 1;
        // SAFETY: the VMCS is current. Host state is written by `write_host_state` only; what guest state and controls can do is
        // bounded by the controls that `vcpu` always sets.
        unsafe {
            asm!("vmwrite {}, {}", in(reg) field.encoding(), in(reg) value, options(nostack));
        }
    }

    fn register(&self, register: CpuRegister) -> u64 {
        let value: u64;
        match (register, register.msr()) {
            // SAFETY: ring 0; the registers exist on every 64-bit CPU.
            (_, Some(msr)) => value = unsafe { rdmsr(msr) },
            (CpuRegister::Dr0, _) => {
                // SAFETY: ring 0; reading has no effect.
                unsafe {
                    asm!("mov {}, dr0", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr1, _) => {
                // SAFETY: ring 0; reading has no effect.
                unsafe {
                    asm!("mov {}, dr1", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr2, _) => {
                // SAFETY: ring 0; reading has no effect.
                unsafe {
                    asm!("mov {}, dr2", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr3, _) => {
                // SAFETY: ring 0; reading has no effect.
                unsafe {
                    asm!("mov {}, dr3", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr6, _) => {
                // SAFETY: ring 0; reading has no effect.
                unsafe {
                    asm!("mov {}, dr6", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            _ => {
                // SAFETY: as above.
                unsafe {
                    asm!("mov {}, cr2", out(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
        }
        value
    }

    fn set_register(&mut self, register: CpuRegister, value: u64) {
        match (register, register.msr()) {
            // SAFETY: ring 0; Umbra itself does not depend on these registers (see above).
            (_, Some(msr)) => unsafe { wrmsr(msr, register.valid(value)) },
            (CpuRegister::Dr0, _) => {
                // SAFETY: ring 0; the host's DR7, which exits load with 400h, enables no breakpoint.
                unsafe {
                    asm!("mov dr0, {}", in(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr1, _) => {
                // SAFETY: ring 0; the host's DR7, which exits load with 400h, enables no breakpoint.
                unsafe {
                    asm!("mov dr1, {}", in(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr2, _) => {
                // SAFETY: ring 0; the host's DR7, which exits load with 400h, enables no breakpoint.
                unsafe {
                    asm!("mov dr2, {}", in(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr3, _) => {
                // SAFETY: ring 0; the host's DR7, which exits load with 400h, enables no breakpoint.
                unsafe {
                    asm!("mov dr3, {}", in(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
            (CpuRegister::Dr6, _) => {
                // SAFETY: ring 0; DR6 only reports.
                unsafe {
                    asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nostack, nomem, preserves_flags));
                }
            }
            _ => {
                // SAFETY: ring 0; CR2 only reports.
                unsafe {
                    asm!("mov cr2, {}", in(reg) value, options(nostack, nomem, preserves_flags));
                }
            }
        }
    }

    fn host_efer_and_pat(&self) -> (u64, u64) {
        // SAFETY: ring 0; every CPU in long mode has both.
        unsafe { (rdmsr(EFER), rdmsr(PAT)) }
    }

    fn set_xcr0(&mut self, value: u64) {
        // SAFETY: ring 0 with CR4.OSXSAVE set; a valid value changes no register contents.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
        }
    }

    fn prediction_barrier(&mut self) {
        const PRED_CMD: u32 = 0x49;
        // SAFETY: ring 0; the caller's promise. What the CPU forgets is found out again.
        unsafe { wrmsr(PRED_CMD, 1) };
    }

    fn make_current(&mut self) -> bool {
        // The CPU has taken it before. Without a current VMCS the next entry fails, and says so.
        let _ = load_vmcs(&self.vmcs);
        let moved = self.gs_base != gs_base();
        if moved {
            self.write_host_state();
            self.flush_everything();
        }
        moved
    }

    fn clear(&mut self) {
        let _ = clear_vmcs(&self.vmcs);
        // The next entry is the first since (SDM vol 3C 25.1, "Overview": the launch state).
        self.context.launched = 0;
    }

    #[inline(always)]
    fn gprs(&self) -> &Gprs {
        &self.context.gprs
    }

    #[inline(always)]
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.context.gprs
    }

    #[inline(always)]
    fn enter(&mut self, fx: &mut FxState) -> Result<(), EntryError> {
        self.context.fx = core::ptr::from_mut(fx) as u64;
        // SAFETY: the VMCS is current and has host state that leads to `umbra_vmx_exit` (module documentation: ring 0, identity
        // map, interrupts off); context and FPU state are exclusively borrowed and live until the call returns.
        match unsafe { umbra_vmx_run(&mut *self.context) } {
            0 => Ok(()),
            1 => Err(EntryError::NoVmcs),
            _ => Err(EntryError::Instruction),
        }
    }

    fn flush_ept(&mut self, eptp: u64) {
        let descriptor = [eptp, 0];
        // SAFETY: ring 0 in VMX operation on a CPU with INVEPT; forgetting translations is always right.
        unsafe {
            asm!("invept {}, [{}]", in(reg) self.invept, in(reg) &descriptor, options(nostack));
        }
    }

    fn flush_vpid(&mut self, vpid: u16) {
        let descriptor = [u64::from(vpid), 0];
        // SAFETY: as in `flush_ept`.
        unsafe {
            asm!("invvpid {}, [{}]", in(reg) self.invvpid, in(reg) &descriptor, options(nostack));
        }
    }

    fn host_nmi(&mut self) {
        // SAFETY: the host's handler of vector 2 only counts; its IRET unblocks NMIs.
        unsafe { asm!("int 2") };
    }

    fn accesses(&self) -> (u64, u64) {
        (self.reads.get(), self.writes)
    }
}
