//! Code that a test lets this computer's processor execute, with registers that the test gives it: the way in and out.
//!
//! The registers are in a *context*, a page below 2 GiB, so that it can be addressed absolutely: the sixteen general registers, the flags
//! before and after, the host's stack pointer.

use iced_x86::code_asm::*;

/// Where the flags are in a context; those after the code lie here, too.
pub const FLAGS: u64 = 128;
/// Where the host's stack pointer is in a context.
pub const HOST_RSP: u64 = 144;

/// The general registers, in the order of their numbers.
const GPRS: [AsmRegister64; 16] = [
    rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
];
/// Those that the calling convention wants kept.
const KEPT: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];

/// Maps `len` bytes at `at`, for data and code.
pub fn map(at: u64, len: usize) {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: the kernel refuses to map over anything that is there already.
    let got = unsafe { libc::mmap(at as *mut _, len, protection, flags, -1, 0) };
    assert_eq!(got as u64, at);
}

/// Leaves the host: what it wants kept goes onto its stack. All registers may be used behind it.
pub fn leave_host(a: &mut CodeAssembler, context: u64) {
    for r in KEPT {
        a.push(r).unwrap();
    }
    a.mov(qword_ptr(context + HOST_RSP), rsp).unwrap();
}

/// Loads flags and general registers from the context.
pub fn load(a: &mut CodeAssembler, context: u64) {
    a.mov(esp, (context + FLAGS) as u32).unwrap();
    a.popfq().unwrap();
    for (i, r) in GPRS.into_iter().enumerate() {
        a.mov(r, qword_ptr(context + 8 * i as u64)).unwrap();
    }
}

/// Stores them there. All registers may be used behind it.
pub fn store(a: &mut CodeAssembler, context: u64) {
    for (i, r) in GPRS.into_iter().enumerate() {
        a.mov(qword_ptr(context + 8 * i as u64), r).unwrap();
    }
    a.mov(esp, (context + FLAGS + 8) as u32).unwrap();
    a.pushfq().unwrap();
    a.cld().unwrap();
}

/// Returns to the host.
pub fn return_to_host(a: &mut CodeAssembler, context: u64) {
    a.mov(rsp, qword_ptr(context + HOST_RSP)).unwrap();
    for r in KEPT.into_iter().rev() {
        a.pop(r).unwrap();
    }
    a.ret().unwrap();
}
