//! The host's local APIC: its timer, end of interrupt, and the virtual wire to the 8259s. xAPIC or x2APIC, as the firmware left
//! it (SDM vol 3A chapter 11, "Advanced Programmable Interrupt Controller").

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};
use x86::msr::{IA32_APIC_BASE, rdmsr, wrmsr};

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Vector by which Umbra leaves the guest at the next opportunity.
pub const KICK_VECTOR: u8 = 0x41;
/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const BASE: u64 = 0xfee0_0000;
const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SVR: u32 = 0xf0;
const TPR: u32 = 0x80;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

/// IA32_APIC_BASE: it is enabled, and in x2APIC mode.
const ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
/// A local vector table entry that is masked.
const MASKED: u32 = 1 << 16;

/// What is sent to another CPU: the low half of the interrupt command register (SDM vol 3A 11.6.1, "Interrupt Command Register (ICR)").
#[derive(Clone, Copy)]
pub enum Ipi {
    /// An interrupt of this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Back to where it waits for a start-up message.
    Init,
    /// It begins, in real mode, with this page of the first mebibyte.
    StartUp(u8),
}

impl Ipi {
    fn command(self) -> u32 {
        /// The level that INIT asserts.
        const ASSERT: u32 = 1 << 14;
        match self {
            Ipi::Fixed(vector) => ASSERT | u32::from(vector),
            Ipi::Nmi => ASSERT | 4 << 8,
            Ipi::Init => ASSERT | 5 << 8,
            Ipi::StartUp(page) => ASSERT | 6 << 8 | u32::from(page),
        }
    }
}

/// Sends `ipi` to the CPU with this APIC ID. What was stored before is seen by it.
pub fn send(to: u32, ipi: Ipi) {
    const PENDING: u32 = 1 << 12;
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: ring 0 in x2APIC mode. WRMSR of these registers does not wait for stores: SDM vol 3A 11.12.3, "MSR Access in x2APIC
        // Mode".
        unsafe {
            asm!("mfence", "lfence", options(nostack, preserves_flags));
            wrmsr(
                0x800 + (ICR >> 4),
                u64::from(to) << 32 | u64::from(ipi.command()),
            );
        }
        return;
    }
    write(ICR_HIGH, to << 24);
    write(ICR, ipi.command());
    // The register must not be written again before it has been sent.
    while read(ICR) & PENDING != 0 {
        core::hint::spin_loop();
    }
}

static X2APIC: AtomicBool = AtomicBool::new(false);

fn write(register: u32, value: u32) {
    // SAFETY: ring 0; the registers are the CPU's own and mapped uncached by the MTRRs.
    unsafe {
        if X2APIC.load(Ordering::Relaxed) {
            wrmsr(0x800 + (register >> 4), value.into());
        } else {
            ((BASE + u64::from(register)) as *mut u32).write_volatile(value);
        }
    }
}

fn read(register: u32) -> u32 {
    // SAFETY: as in `write`.
    unsafe {
        if X2APIC.load(Ordering::Relaxed) {
            rdmsr(0x800 + (register >> 4)) as u32
        } else {
            ((BASE + u64::from(register)) as *const u32).read_volatile()
        }
    }
}

/// Enables that of the first CPU, with the timer in one-shot mode and LINT0 connected to the 8259s.
pub fn init() {
    // SAFETY: ring 0; every CPU with AMD-V or VT-x has a local APIC.
    let base = unsafe { rdmsr(IA32_APIC_BASE) };
    X2APIC.store(base & X2APIC_ENABLE != 0, Ordering::Relaxed);
    set_up();
    write(LVT_LINT0, 0x700);
}

/// Enables that of a further CPU likewise, in the first one's mode. The 8259s are the first one's.
pub fn init_further() {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: ring 0; the first CPU's firmware has done so, and this CPU has the same features.
        unsafe {
            wrmsr(
                IA32_APIC_BASE,
                rdmsr(IA32_APIC_BASE) | ENABLE | X2APIC_ENABLE,
            );
        }
    }
    set_up();
    write(LVT_LINT0, MASKED);
}

fn set_up() {
    write(SVR, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(TPR, 0);
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, TIMER_VECTOR.into());
    write(INITIAL_COUNT, 0);
}

/// Whether it is in x2APIC mode.
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// This CPU's APIC ID.
pub fn id() -> u32 {
    let id = read(ID);
    if X2APIC.load(Ordering::Relaxed) {
        id
    } else {
        id >> 24
    }
}

/// Starts the timer with `count` ticks; 0 stops it.
pub fn arm(count: u32) {
    write(INITIAL_COUNT, count);
}

/// What is left of the count.
pub fn remaining() -> u32 {
    read(CURRENT_COUNT)
}

/// End of interrupt.
pub fn eoi() {
    write(EOI, 0);
}
