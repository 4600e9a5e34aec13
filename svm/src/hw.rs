//! The instructions: enabling AMD-V and the world switch. The only file of this crate with unsafe code.
//!
//! What must be true of the machine: the hypervisor runs in ring 0 and long mode with host memory mapped at its physical
//! addresses, so that the address of a control block is its physical address; interrupts are off whenever this code is entered.

use crate::vmcb::Vmcb;
use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use hv_core::Hpa;
use hv_core::fx::FxState;
use hv_core::regs::{Gprs, gpr};

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// What the world switch works on; `offset_of!` assertions tie it to the assembly. A `Box` is the address of what it holds.
#[repr(C)]
pub struct Context {
    /// The guest's general registers. RAX and RSP live in the control block while the guest runs.
    pub gprs: Gprs,
    /// The guest's control block.
    pub vmcb: Box<Vmcb>,
    /// The control block that [`save_host`] has filled.
    pub host: Box<Vmcb>,
    /// MXCSR of the hypervisor.
    mxcsr: u32,
    /// The guest's x87 and SSE state.
    pub fx: FxState,
    /// The guest's SPEC_CTRL, where the control block does not have it. The hypervisor's is 0.
    pub spec_ctrl: u64,
}

const _: () = assert!(core::mem::offset_of!(Context, gprs) == 0);
const _: () = assert!(core::mem::offset_of!(Context, vmcb) == 128);
const _: () = assert!(core::mem::offset_of!(Context, host) == 136);
const _: () = assert!(core::mem::offset_of!(Context, mxcsr) == 144);
const _: () = assert!(core::mem::offset_of!(Context, fx) == 160);

// The guests that `probe` runs; they never come past HLT, which is intercepted.
global_asm!(
    ".global umbra_svm_probe",
    "umbra_svm_probe:",
    "mov rax, cr3",
    "2: hlt",
    "jmp 2b",
    ".global umbra_svm_probe_cr3",
    "umbra_svm_probe_cr3:",
    "mov rax, 0x4000000000000000",
    "mov cr3, rax",
    "jmp 2b",
);

unsafe extern "C" {
    fn umbra_svm_probe();
    fn umbra_svm_probe_cr3();
}

impl Context {
    /// A guest with all registers 0, described by `vmcb`. `host` is the control block that [`save_host`] filled.
    #[must_use]
    pub fn new(vmcb: Box<Vmcb>, host: Box<Vmcb>) -> Self {
        const MXCSR_RESET: u32 = 0x1f80;
        Self {
            gprs: Gprs::default(),
            vmcb,
            host,
            mxcsr: MXCSR_RESET,
            fx: FxState::reset(),
            spec_ctrl: 0,
        }
    }

    /// Runs the guest until it exits.
    ///
    /// VMRUN saves and restores what the host needs to go on; VMLOAD and VMSAVE move the rest (FS, GS, TR, LDTR and the system-call
    /// registers), the host's own being in a control block that is never run. Between CLGI and STGI nothing can interrupt, so that
    /// neither side ever runs with the other's task register. Interrupts are enabled behind CLGI: with V_INTR_MASKING a host
    /// interrupt then leaves the guest, and stays pending after STGI because interrupts are off again. The second STI is for QEMU, where
    /// it makes the guest's interrupt shadow (offset 068h of the control block); for a CPU it changes nothing.
    #[inline(always)]
    pub fn run(&mut self) {
        self.vmcb.rax = self.gprs.regs[gpr::RAX];
        self.vmcb.rsp = self.gprs.regs[gpr::RSP];
        set_spec_ctrl(0, self.spec_ctrl);
        // SAFETY: the caller has called `enable` (module documentation: ring 0, identity map, interrupts off); the control blocks are this
        // object's own, which is exclusively borrowed. All registers that the guest has had are saved here or named as changed; the
        // hypervisor does no floating-point arithmetic with another MXCSR.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "clgi",
                "sti",
                "fxrstor64 [rdi + 160]",
                "mov rax, [rdi + 128]",
                "vmload rax",
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
                "test byte ptr [rax + 0x68], 1",
                "jz 2f",
                "sti",
                "2:",
                "vmrun rax",
                "cli",
                "vmsave rax",
                "push rdi",
                "mov rdi, [rsp + 8]",
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
                "mov rax, [rdi + 136]",
                "vmload rax",
                "fxsave64 [rdi + 160]",
                "ldmxcsr [rdi + 144]",
                "stgi",
                "pop rdi",
                "pop rbp",
                "pop rbx",
                in("rdi") core::ptr::from_mut(self),
                out("r12") _,
                out("r13") _,
                out("r14") _,
                out("r15") _,
                clobber_abi("sysv64"),
            );
        }
        set_spec_ctrl(self.spec_ctrl, 0);
        self.gprs.regs[gpr::RAX] = self.vmcb.rax;
        self.gprs.regs[gpr::RSP] = self.vmcb.rsp;
    }
}

/// Loads SPEC_CTRL, which has the value `from`, with `to`. The register is not touched on CPUs without it, where both are 0.
#[inline(always)]
fn set_spec_ctrl(from: u64, to: u64) {
    if from != to {
        // SAFETY: ring 0; only bits that CPUID tells of are ever set, so that the register exists.
        unsafe { write_msr(SPEC_CTRL, to) };
    }
}

/// IBPB. The CPU has it.
pub fn prediction_barrier() {
    if cfg!(test) {
        return;
    }
    // SAFETY: ring 0; the caller's promise. What the CPU forgets is found out again.
    unsafe { write_msr(PRED_CMD, 1) };
}

/// The physical address of something in the hypervisor's own memory.
pub fn address<T>(of: &T) -> Hpa {
    Hpa(core::ptr::from_ref(of) as u64)
}

/// Turns AMD-V on for this CPU, with `save` as the CPU's host save area, which must stay allocated while it is on.
pub fn enable(save: &'static mut [u8; 4096]) {
    let pa = core::ptr::from_ref(save) as u64;
    // SAFETY: ring 0; the CPU has AMD-V (the caller has asked CPUID), so both registers exist.
    unsafe {
        write_msr(EFER, read_msr(EFER) | EFER_SVME);
        write_msr(VM_HSAVE_PA, pa);
    }
}

/// Stores the host's FS, GS, TR, LDTR and system-call registers, to be loaded again after every exit.
pub fn save_host(host: &mut Vmcb) {
    // SAFETY: ring 0 with AMD-V enabled; VMSAVE writes one control block, which is exclusively borrowed.
    unsafe { asm!("vmsave rax", in("rax") address(host).0, options(nostack, preserves_flags)) };
}

/// Stores them again, as the guest runs on this CPU from now on. Whether it is another CPU than the one whose they were: each has a GS base of its
/// own.
pub fn renew_host(host: &mut Vmcb) -> bool {
    if cfg!(test) {
        return false;
    }
    let before = host.gs.base;
    save_host(host);
    host.gs.base != before
}

/// Where the guest that [`probe`](crate::probe) runs begins.
pub fn probe_code() -> u64 {
    umbra_svm_probe as *const () as u64
}

/// Where the one begins that sets reserved bits of CR3.
pub fn probe_cr3_code() -> u64 {
    umbra_svm_probe_cr3 as *const () as u64
}

/// The hypervisor's own control registers.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, with SVME.
    pub efer: u64,
}

/// Reads the hypervisor's own control registers.
pub fn own_control() -> Control {
    let (cr0, cr3, cr4);
    // SAFETY: ring 0; reading has no effect.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
    }
    Control {
        cr0,
        cr3,
        cr4,
        // SAFETY: ring 0, and CPUs in long mode have EFER.
        efer: unsafe { read_msr(EFER) },
    }
}

/// Reads XCR0, on a CPU that has it and with CR4.OSXSAVE set.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Loads XCR0. `value` must be valid for this CPU: the caller has checked it against CPUID.
pub fn write_xcr0(value: u64) {
    // SAFETY: ring 0 with CR4.OSXSAVE set; a valid value changes no register contents.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Writes CR2. VMRUN loads it from the control block, except in Bochs, where the guest finds what is there.
pub fn write_cr2(value: u64) {
    if cfg!(test) {
        return;
    }
    // SAFETY: ring 0. The host has no use for CR2: its own page faults are fatal, and write it first.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Reads debug register `n` (0 to 3). They are the guest's all the time, until it is unloaded: the world switch leaves them
/// alone, and the hypervisor has no use for them.
pub fn debug_address(n: u8) -> u64 {
    if cfg!(test) {
        // The host's tests run outside ring 0.
        return 0;
    }
    let value: u64;
    // SAFETY: ring 0 with DR7.GD clear, as VMEXIT leaves it: reading has no effect.
    unsafe {
        match n {
            0 => asm!("mov {}, dr0", out(reg) value, options(nomem, nostack, preserves_flags)),
            1 => asm!("mov {}, dr1", out(reg) value, options(nomem, nostack, preserves_flags)),
            2 => asm!("mov {}, dr2", out(reg) value, options(nomem, nostack, preserves_flags)),
            _ => asm!("mov {}, dr3", out(reg) value, options(nomem, nostack, preserves_flags)),
        }
    }
    value
}

/// Writes debug register `n` (0 to 3).
pub fn set_debug_address(n: u8, value: u64) {
    if cfg!(test) {
        return;
    }
    // SAFETY: ring 0. The host's DR7, which VMEXIT loads with 400h, enables no breakpoint: the address means nothing here.
    unsafe {
        match n {
            0 => asm!("mov dr0, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            1 => asm!("mov dr1, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            2 => asm!("mov dr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
            _ => asm!("mov dr3, {}", in(reg) value, options(nomem, nostack, preserves_flags)),
        }
    }
}

/// What FNSTENV stores (APM vol 5, "FNSTENV—Store x87 Environment"; vol 2 11.4.4, "Saving Media and x87 Processor State"): control, status
/// and tag word, and the pointers to the last instruction and its operand. FXSAVE and FXRSTOR of AMD CPUs leave the pointers alone unless an
/// exception is pending, so that they pass from guest to guest (CVE-2006-1056).
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(4))]
pub struct X87Environment([u32; 7]);

/// Stores the pointers of the guest that ran last. What FXSAVE has stored already is lost.
#[must_use]
pub fn save_x87_environment() -> X87Environment {
    let mut environment = X87Environment::default();
    if !cfg!(test) {
        // SAFETY: the structure has the 28 bytes that are stored. Umbra itself computes nothing by the x87 FPU, and an entry loads the
        // state of its guest.
        unsafe { asm!("fnstenv [{}]", in(reg) &mut environment, options(nostack)) };
    }
    environment
}

/// Makes the pointers those of the guest that runs next. FNINIT clears them, also in QEMU, whose FLDENV does not load them.
pub fn load_x87_environment(environment: &X87Environment) {
    if !cfg!(test) {
        // SAFETY: as in `save_x87_environment`. FNINIT leaves no exception pending that FLDENV would raise; one that it loads is pending
        // only for the next x87 instruction, which is FXRSTOR, and that raises none.
        unsafe { asm!("fninit", "fldenv [{}]", in(reg) environment, options(nostack)) };
    }
}

/// # Safety
/// Ring 0, and the register must exist.
unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// Ring 0, the register must exist and the value be valid and harmless to the hypervisor.
unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}
