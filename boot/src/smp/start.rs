//! Starts the host's further CPUs, one after the other (SDM vol 3A 10.4.4, "MP Initialization Example"; APM vol 2 14.1.2, "Initialization
//! Process": INIT, and a start-up message with the page where they begin).
//!
//! A CPU begins in real mode in a page of the first mebibyte, which does no more than lead to 32-bit code of the image. So that page is
//! never executed with paging on, and is data to Umbra like all memory around it.

use super::join::{self, Enable};
use super::state::{State, ready};
use super::{round, state, stop};
use crate::host_cpu::{self, HostCpu};
use crate::lapic::{self, Ipi};
use crate::stacks::{self, Stacks};
use crate::{clock, interrupts, memory, paging};
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use host_cpus::{Features, Local, MAX_HOST_CPUS, Plan};
use spin::Mutex;
use x86_64::registers::model_specific::{Efer, EferFlags};

// In real mode CS is the page. Bytes where the assembler's Intel syntax has no words: LGDT with a 32-bit operand from CS, and a far jump
// with a 32-bit offset.
global_asm!(
    r#"
    .section .rodata
    .global umbra_ap_begin
    .global umbra_ap_end
    .code16
umbra_ap_begin:
    cli
    cld
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16
    .short 2f - umbra_ap_begin
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long umbra_ap_protected
    .short 24
2:  .short 31
    .long umbra_boot_gdt
umbra_ap_end:

    .section .boot.text, "ax", @progbits
    .code32
umbra_ap_protected:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset umbra_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, [{efer}]
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3
    or eax, 0x80010023
    mov cr0, eax
    .byte 0xea
    .long 3f
    .short 8
    .code64
3:  mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    // Whoever takes the block has its stack. One that comes too late finds none.
    xor edi, edi
    xchg [{next}], rdi
    test rdi, rdi
    jz 4f
    mov rsp, [rdi + {stack}]
    xor ebp, ebp
    call {main}
4:  cli
    hlt
    jmp 4b
    .text
    .code64
"#,
    efer = sym EFER,
    next = sym NEXT,
    stack = const host_cpu::STACK_TOP,
    main = sym umbra_ap_main,
);

unsafe extern "C" {
    static umbra_ap_begin: u8;
    static umbra_ap_end: u8;
}

/// What is to be set in EFER before paging is on.
static EFER: AtomicU32 = AtomicU32::new(0);
/// The block of the CPU that is being started.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// What it does when it has joined.
static ENABLE: spin::Once<(Features, join::Common, Enable)> = spin::Once::new();

/// Why the CPU that was started last is unfit.
static WHY: Mutex<String> = Mutex::new(String::new());

/// Gives the first CPU its descriptor tables, and its place among the others.
pub fn init() {
    let stacks = Stacks::of_first().expect("there is memory for the tables of the stacks");
    let cpu = HostCpu::new(0, 0, stacks.top());
    State::Ready.set(cpu);
    cpu.make_current();
    interrupts::load_tables(stacks);
}

/// [`paging::audit`] with the stacks of all CPUs.
pub fn audit() {
    let guards: Vec<u64> = stacks::all().map(|(_, stack)| stack.guard).collect();
    paging::audit(&guards);
}

/// The first Rust of a further CPU.
extern "C" fn umbra_ap_main(cpu: &'static HostCpu) -> ! {
    cpu.make_current();
    let stacks = stacks::of(cpu.number).expect("it runs on one of them");
    interrupts::load_tables(stacks);
    State::Joins.set(cpu);
    let joined = match ENABLE.get() {
        Some((features, common, enable)) => join::join(cpu, features, common, *enable),
        None => Err(String::new()),
    };
    match joined {
        Ok(()) => {
            State::Ready.set(cpu);
            round::idle(cpu)
        }
        Err(why) => {
            *WHY.lock() = why;
            State::Unfit.set(cpu);
            stop::stop()
        }
    }
}

/// How long a CPU has to be silent before it is told to start, in milliseconds; and how long it is waited for: an outer machine may be busy.
const SILENCE: u64 = 10;
const PATIENCE: u64 = 2_000;
/// How long it is waited for once it has been heard of.
const LONG_PATIENCE: u64 = 10_000;

/// Waits until `is_so`, for so many milliseconds at most; whether it is.
fn wait(ms: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let end = clock::ticks() + clock::tsc_hz() / 1000 * ms;
    loop {
        if is_so() {
            return true;
        }
        if clock::ticks() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Starts those of `cpus` that may be used besides the first, so that there are `most` in all. `enable` turns their virtualization on.
pub fn start(cpus: &[Local], most: Option<u32>, enable: Enable) {
    let own = lapic::id();
    host_cpu::current().set_apic_id(own);
    let most = most.map_or(MAX_HOST_CPUS, |most| most as usize);
    let plan = Plan::new(cpus.iter().copied(), own, lapic::is_x2apic(), most);
    if plan.unnamed != 0 {
        log::warn!(
            "{} of the host's CPUs cannot be used: they need x2APIC mode, which the firmware has not turned on",
            plan.unnamed
        );
    }
    match (plan.start().is_empty(), memory::low_page()) {
        (true, _) => {}
        (false, None) => log::warn!(
            "one CPU only: the firmware leaves no page below 1 MiB where others could begin"
        ),
        (false, Some(page)) => start_from(page, plan.start(), enable),
    }
    let answers = call_all();
    log::info!(
        "host CPUs: {} found, {} used{answers}",
        plan.found,
        state::used()
    );
}

fn start_from(page: u64, apic_ids: &[u32], enable: Enable) {
    let begin = &raw const umbra_ap_begin;
    let len = &raw const umbra_ap_end as usize - begin as usize;
    // SAFETY: the page is nobody else's, mapped, and has room for these few bytes.
    unsafe { core::ptr::copy_nonoverlapping(begin, page as *mut u8, len) };
    let no_execute = Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE);
    EFER.store(
        1 << 8 | if no_execute { 1 << 11 } else { 0 },
        Ordering::Relaxed,
    );
    ENABLE.call_once(|| join::first(enable));
    for (number, &apic_id) in (1..).zip(apic_ids) {
        let Some(stacks) = Stacks::allocate(number) else {
            return log::warn!("there is no memory for the stacks of more CPUs");
        };
        let cpu = HostCpu::new(number, apic_id, stacks.top());
        if let Err(why) = start_one(cpu, (page >> 12) as u8) {
            log::warn!("host CPU {number} (APIC {apic_id:#x}) is not used: {why}");
        }
    }
    audit();
}

/// Starts one, and waits until it can be used.
fn start_one(cpu: &'static HostCpu, page: u8) -> Result<(), String> {
    let is_heard = || State::of(cpu) != State::Silent;
    NEXT.store(core::ptr::from_ref(cpu) as u64, Ordering::SeqCst);
    lapic::send(cpu.apic_id(), Ipi::Init);
    wait(SILENCE, || false);
    // A second one for CPUs that miss the first; others are not waiting for one by then.
    for patience in [SILENCE, PATIENCE] {
        lapic::send(cpu.apic_id(), Ipi::StartUp(page));
        if wait(patience, is_heard) {
            break;
        }
    }
    // From now on it comes too late, unless it has taken its block.
    if NEXT.swap(0, Ordering::SeqCst) != 0 {
        return Err("it does not start".into());
    }
    let compares = || {
        matches!(
            State::of(cpu),
            State::Compares | State::Ready | State::Unfit
        )
    };
    if wait(LONG_PATIENCE, compares) && State::of(cpu) == State::Compares {
        join::compare_clocks(0);
    }
    wait(LONG_PATIENCE, || {
        matches!(State::of(cpu), State::Ready | State::Unfit)
    });
    match State::of(cpu) {
        State::Ready => Ok(()),
        State::Unfit => Err(core::mem::take(&mut *WHY.lock())),
        _ => Err("it has stopped on its way".into()),
    }
}

/// Calls each CPU, and says how long the slowest took to wake and to answer.
fn call_all() -> String {
    let others = ready().filter(|cpu| cpu.number != 0);
    let took = others.map(|cpu| {
        let before = clock::ticks();
        let call = round::call(cpu);
        let answered = wait(PATIENCE, || round::has_answered(cpu, call));
        assert!(answered, "host CPU {} does not answer", cpu.number);
        clock::ticks() - before
    });
    let Some(slowest) = took.max() else {
        return String::new();
    };
    let us = u128::from(slowest) * 1_000_000 / u128::from(clock::tsc_hz().max(1));
    alloc::format!("; each wakes and answers an IPI, within {us} us")
}
