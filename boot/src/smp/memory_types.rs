//! How the CPU caches which memory: MTRRs and PAT. All CPUs must have the same (SDM vol 3A 12.11.8, "MTRR Considerations in MP Systems").

use crate::host;
use alloc::vec::Vec;
use core::arch::asm;
use x86::msr::{
    IA32_MTRR_DEF_TYPE, IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX16K_80000, IA32_MTRR_FIX64K_00000,
    IA32_MTRR_PHYSBASE0, IA32_MTRRCAP, IA32_PAT, rdmsr, wrmsr,
};
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr0, Cr0Flags};

/// The registers' values, by their numbers; the one that turns the MTRRs on comes apart.
#[derive(PartialEq, Eq)]
pub struct MemoryTypes {
    registers: Vec<(u32, u64)>,
    default: Option<u64>,
}

/// IA32_MTRR_DEF_TYPE: MTRRs are on.
const ENABLE: u64 = 1 << 11;

impl MemoryTypes {
    /// Those of the current CPU.
    pub fn read() -> Self {
        let features = host::cpuid(1, 0).edx;
        let (mtrr, pat) = (features & 1 << 12 != 0, features & 1 << 16 != 0);
        let mut numbers = Vec::new();
        if pat {
            numbers.push(IA32_PAT);
        }
        if mtrr {
            // SAFETY: CPUID says that there are MTRRs.
            let capabilities = unsafe { rdmsr(IA32_MTRRCAP) };
            if capabilities & 1 << 8 != 0 {
                let first = IA32_MTRR_FIX16K_80000;
                numbers.extend([IA32_MTRR_FIX64K_00000, first, first + 1]);
                numbers.extend(IA32_MTRR_FIX4K_C0000..IA32_MTRR_FIX4K_C0000 + 8);
            }
            let variable = 2 * (capabilities & 0xff) as u32;
            numbers.extend(IA32_MTRR_PHYSBASE0..IA32_MTRR_PHYSBASE0 + variable);
        }
        // SAFETY: the CPU has said that it has each of these.
        let read = |number| unsafe { rdmsr(number) };
        Self {
            registers: numbers.into_iter().map(|n| (n, read(n))).collect(),
            default: mtrr.then(|| read(IA32_MTRR_DEF_TYPE)),
        }
    }

    /// Loads them into the current CPU, which has the same registers: with its caches off and empty (SDM vol 3A 12.11.7.2, "MemTypeSet()
    /// Function"). Global pages there are none.
    pub fn load(&self) {
        let cr0 = Cr0::read();
        // SAFETY: ring 0; without caches the CPU is slow, and right.
        unsafe { Cr0::write((cr0 | Cr0Flags::CACHE_DISABLE) & !Cr0Flags::NOT_WRITE_THROUGH) };
        flush();
        let default = |value| {
            // SAFETY: there is the register, and the value was the first CPU's or is that with the MTRRs off.
            unsafe { wrmsr(IA32_MTRR_DEF_TYPE, value) };
        };
        if let Some(value) = self.default {
            default(value & !ENABLE);
        }
        for &(number, value) in &self.registers {
            // SAFETY: there is the register, with the first CPU's value.
            unsafe { wrmsr(number, value) };
        }
        if let Some(value) = self.default {
            default(value);
        }
        flush();
        // SAFETY: as it was.
        unsafe { Cr0::write(cr0) };
    }
}

/// Writes the caches back and empties them, and the TLB.
fn flush() {
    // SAFETY: ring 0; nothing is lost.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    tlb::flush_all();
}
