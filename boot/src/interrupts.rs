//! The host's descriptor tables, exceptions and interrupts.
//!
//! Interrupts are off while Umbra runs, except in two windows: [`window`] after an exit and [`idle`] when the guest has halted.
//! So handlers may take locks freely. Those of devices run on the first CPU only. Exceptions are our bugs and end in the panic screen; NMIs are only counted.

use crate::stacks::{DOUBLE_FAULT, GUARD, IST, PAGE_FAULT, Stacks};
use crate::{host_cpu, lapic, stacks};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::{Mutex, Once};
use x86::io::{inb, outb};

/// Set by the first CPU's timer.
pub static TIMER_FIRED: AtomicBool = AtomicBool::new(false);

const PIC_BASE: u8 = 0x20;
const IRQ_CASCADE: u8 = 2;

/// Whom an interrupt concerns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Concerns {
    /// The session: keys, movements, messages.
    Session,
    /// Devices of guests, whose requests have been answered.
    Devices,
}

/// What is done about an interrupt, and whom it concerns.
pub type Handler = fn() -> Concerns;

/// Vectors of messages: of devices that interrupt without a line.
const MESSAGES: core::ops::Range<u8> = 0x50..0x60;
static MESSAGE_HANDLERS: Mutex<[Option<Handler>; 16]> = Mutex::new([None; 16]);

/// How many share a line at most.
const SHARING: usize = 4;

/// Who has the lines of the interrupt controllers.
static HANDLERS: Mutex<[[Option<Handler>; SHARING]; 16]> = Mutex::new([[None; SHARING]; 16]);

/// What the stubs push.
#[repr(C)]
struct Frame {
    gprs: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// 256 stubs of 16 bytes: push an error code where the CPU does not, push the vector, and go to the common part. Vector 2 (NMI)
// must not touch anything of the interrupted code's, the SSE registers included: it only counts, or stops the CPU and says so.
global_asm!(
    r#"
    .align 16
    .global umbra_stubs
umbra_stubs:
    .set vector, 0
    .rept 256
    .align 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push 0
    .endif
    push vector
    .if vector == 2
    jmp umbra_nmi
    .else
    jmp umbra_trap_entry
    .endif
    .set vector, vector + 1
    .endr

umbra_nmi:
    lock inc qword ptr [rip + {nmis}]
    cmp byte ptr [rip + {stopping}], 0
    jne 2f
    add rsp, 16
    iretq
2:  mov byte ptr gs:[{stopped}], 1
3:  hlt
    jmp 3b

umbra_trap_entry:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbp, rsp
    and rsp, -16
    cld
    call {trap}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#,
    trap = sym trap,
    nmis = sym NMIS,
    stopping = sym STOPPING,
    stopped = const host_cpu::STOPPED,
);

static NMIS: AtomicU64 = AtomicU64::new(0);
/// NMIs do not return any more: see [`stop_at_nmi`].
static STOPPING: AtomicBool = AtomicBool::new(false);

/// From now on a CPU that has an NMI stops for good.
pub fn stop_at_nmi() {
    STOPPING.store(true, Ordering::SeqCst);
}

unsafe extern "C" {
    static umbra_stubs: u8;
}

/// The descriptor tables of one CPU. All have the same interrupt descriptor table.
#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 5],
    tss: [u32; 26],
}

/// Where each vector leads.
#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

static IDT: Once<Idt> = Once::new();

fn idt() -> Idt {
    let mut idt = [[0; 2]; 256];
    for (vector, entry) in idt.iter_mut().enumerate() {
        let handler = &raw const umbra_stubs as u64 + 16 * vector as u64;
        let ist = IST.iter().position(|&(v, _)| usize::from(v) == vector);
        let ist = ist.map_or(0, |n| n as u64 + 1);
        entry[0] =
            handler & 0xffff | 8 << 16 | ist << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        entry[1] = handler >> 32;
    }
    Idt(idt)
}

/// Loads the descriptor tables of this CPU, whose stacks these are.
pub fn load_tables(stacks: &Stacks) {
    let tables = alloc::boxed::Box::leak(alloc::boxed::Box::new(Tables {
        gdt: [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0, 0],
        tss: [0; 26],
    }));
    for i in 0..IST.len() {
        let top = stacks.exception_top(i);
        tables.tss[9 + 2 * i] = top as u32;
        tables.tss[10 + 2 * i] = (top >> 32) as u32;
    }
    tables.tss[25] = 104 << 16;
    let tss = tables.tss.as_ptr() as u64;
    tables.gdt[3] = 103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    tables.gdt[4] = tss >> 32;
    let gdtr = x86::dtables::DescriptorTablePointer {
        limit: 39,
        base: tables.gdt.as_ptr(),
    };
    let idtr = x86::dtables::DescriptorTablePointer {
        limit: 4095,
        base: IDT.call_once(idt).0.as_ptr(),
    };
    // SAFETY: ring 0; the tables live for ever; code and data selectors mean the same as in the start code's table.
    unsafe {
        x86::dtables::lgdt(&gdtr);
        x86::dtables::lidt(&idtr);
        x86::task::load_tr(x86::segmentation::SegmentSelector::from_raw(24));
    }
}

/// Sets the 8259As up with all lines masked.
pub fn init() {
    // SAFETY: ring 0.
    unsafe { init_pics() };
}

/// # Safety
/// Ring 0.
unsafe fn init_pics() {
    let sequence = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, PIC_BASE),
        (0xa1, PIC_BASE + 8),
        (0x21, 1 << IRQ_CASCADE),
        (0xa1, IRQ_CASCADE),
        (0x21, 1),
        (0xa1, 1),
        (0x21, !(1 << IRQ_CASCADE)),
        (0xa1, 0xff),
    ];
    for (port, value) in sequence {
        // SAFETY: the caller's promise; nobody else drives the interrupt controllers.
        unsafe { outb(port, value) };
    }
}

/// Whom interrupts have concerned that nobody has seen to yet.
static SESSION: AtomicBool = AtomicBool::new(false);
static DEVICES: AtomicBool = AtomicBool::new(false);

const fn news_for(who: Concerns) -> &'static AtomicBool {
    match who {
        Concerns::Session => &SESSION,
        Concerns::Devices => &DEVICES,
    }
}

/// There is something to see to for these. The first CPU looks when it has had an interrupt.
pub fn concern(who: Concerns) {
    news_for(who).store(true, Ordering::Release);
}

/// Whether there is something to see to for these.
pub fn has_news_for(who: Concerns) -> bool {
    news_for(who).load(Ordering::Relaxed)
}

/// Whether there was, which is seen to now.
pub fn take_news_for(who: Concerns) -> bool {
    has_news_for(who) && news_for(who).swap(false, Ordering::Acquire)
}

extern "C" fn trap(frame: &Frame) {
    let vector = frame.vector as u8;
    match vector {
        0..=31 => exception(frame),
        lapic::TIMER_VECTOR => {
            let cpu = host_cpu::current();
            cpu.armed.fired();
            if cpu.number == 0 {
                TIMER_FIRED.store(true, Ordering::Relaxed);
            }
            lapic::eoi();
        }
        // What it was for is seen when the guest has been left, or the CPU has woken.
        lapic::KICK_VECTOR => lapic::eoi(),
        v @ PIC_BASE..0x30 => {
            let line = v - PIC_BASE;
            let handlers = HANDLERS.lock()[usize::from(line)];
            handlers
                .into_iter()
                .flatten()
                .for_each(|handler| concern(handler()));
            end_of_interrupt(line);
        }
        v if MESSAGES.contains(&v) => {
            let handler = MESSAGE_HANDLERS.lock()[usize::from(v - MESSAGES.start)];
            if let Some(handler) = handler {
                concern(handler());
            }
            lapic::eoi();
        }
        _ => {}
    }
}

/// A vector of this CPU for messages, for each of which `handler` is called. None: there are no more.
pub fn vector(handler: Handler) -> Option<u8> {
    let mut handlers = MESSAGE_HANDLERS.lock();
    let (vector, slot) = MESSAGES
        .zip(&mut *handlers)
        .find(|(_, slot)| slot.is_none())?;
    *slot = Some(handler);
    Some(vector)
}

/// Lets interrupts of `line` (0 to 15) in from now on, and calls `handler` for each. Devices of PCI share lines: a handler has to find
/// out whether its device is meant.
pub fn unmask(line: u8, handler: Handler) {
    {
        let mut handlers = HANDLERS.lock();
        let sharing = &mut handlers[usize::from(line & 15)];
        let known = |taken: &Option<Handler>| {
            taken.is_some_and(|taken| core::ptr::fn_addr_eq(taken, handler))
        };
        if !sharing.iter().any(known) {
            let Some(slot) = sharing.iter_mut().find(|slot| slot.is_none()) else {
                return log::warn!("interrupt line {line} is shared by too many");
            };
            *slot = Some(handler);
        }
    }
    let (port, bit) = if line < 8 {
        (0x21, line)
    } else {
        (0xa1, line - 8)
    };
    // SAFETY: ring 0; the mask of one line changes, for which there is a handler.
    unsafe { outb(port, inb(port) & !(1 << bit)) };
}

/// Tells the interrupt controllers that a line has been served (8259A datasheet, "End of Interrupt"). A spurious interrupt 7 or 15 has
/// no in-service bit, and its controller is told nothing.
fn end_of_interrupt(line: u8) {
    const READ_IN_SERVICE: u8 = 0x0b;
    const END: u8 = 0x20;
    let serve = |port: u16, spurious: bool| {
        // SAFETY: ring 0; the ports are the interrupt controllers'.
        unsafe {
            outb(port, READ_IN_SERVICE);
            if !spurious || inb(port) & 0x80 != 0 {
                outb(port, END);
            }
        }
    };
    if line >= 8 {
        serve(0xa0, line == 15);
    }
    serve(0x20, line == 7);
}

/// Who is told of exceptions first, with their vector: a test of Umbra itself.
pub static WITNESS: Once<fn(u8)> = Once::new();

fn exception(f: &Frame) {
    if let Some(hear) = WITNESS.get() {
        hear(f.vector as u8);
    }
    // A guest that sets breakpoints on our addresses gets nothing for it.
    if f.vector == 1 {
        return;
    }
    let cr2 = x86_64::registers::control::Cr2::read_raw();
    // A page fault for which there is no room on its own stack is a double fault, and keeps its address.
    if matches!(f.vector as u8, PAGE_FAULT | DOUBLE_FAULT)
        && let Some((cpu, stack)) =
            stacks::all().find(|(_, s)| (s.guard..s.guard + GUARD).contains(&cr2))
    {
        panic!(
            "stack overflow of the {} stack of host CPU {cpu}: rip {:#x}, rsp {:#x}",
            stack.name, f.rip, f.rsp
        );
    }
    panic!(
        "exception {} in Umbra itself: error {:#x}, rip {:#x}, rsp {:#x}, rflags {:#x}, cr2 {cr2:#x}, ss:{:x} cs:{:x}, registers {:x?}",
        f.vector, f.error, f.rip, f.rsp, f.rflags, f.ss, f.cs, f.gprs
    );
}

/// Lets pending interrupts in.
pub fn window() {
    // SAFETY: interrupt handlers keep all registers but those named as clobbered (they may use SSE).
    unsafe { asm!("sti", "nop", "cli", clobber_abi("sysv64"), options(nostack)) };
}

/// Halts the CPU until an interrupt has come, and lets it in.
pub fn idle() {
    // SAFETY: as in `window`; STI takes effect after HLT has begun, so no interrupt is missed.
    unsafe { asm!("sti", "hlt", "cli", clobber_abi("sysv64"), options(nostack)) };
}
