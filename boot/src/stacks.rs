//! The stacks of the host's CPUs, each with a page below it that is not mapped: an overflow is a page fault.

use crate::{memory, paging};
use core::arch::global_asm;
use host_cpus::MAX_HOST_CPUS;
use spin::Once;

// The first CPU's stacks of exceptions; its usual one is in `start`. Their guard pages go with `Stacks::of_first`.
global_asm!(
    r#"
    .section .bss
    .align 4096
    .global umbra_exception_stacks
umbra_exception_stacks:
    .skip 4 * (4096 + 16384)
    .text
"#
);

unsafe extern "C" {
    static umbra_stack_guard: u8;
    static umbra_exception_stacks: u8;
}

/// Bytes of the page below a stack.
pub const GUARD: u64 = 4096;
/// Bytes of the usual stack, as in the start code.
const MAIN_STACK: u64 = 128 * 1024;
/// Bytes of a stack of exceptions.
const IST_STACK: u64 = 16 * 1024;

/// Vector of double faults.
pub const DOUBLE_FAULT: u8 = 8;
/// Vector of page faults.
pub const PAGE_FAULT: u8 = 14;
/// The exceptions that must not trust the current stack, by vector, from the first entry of the interrupt stack table on (SDM vol 3A 7.14.5,
/// "Interrupt Stack Table"). A page fault has a stack of its own because an overflow of the usual one is one.
pub const IST: [(u8, &str); 4] = [
    (DOUBLE_FAULT, "double-fault"),
    (2, "NMI"),
    (18, "machine-check"),
    (PAGE_FAULT, "page-fault"),
];

/// A stack with a guard page.
pub struct Stack {
    /// Its name.
    pub name: &'static str,
    /// Where its guard page is. The stack lies right above.
    pub guard: u64,
}

/// All stacks of a CPU.
pub struct Stacks {
    /// Where the usual stack's guard page is.
    main: u64,
    /// Where the guard page of the first stack of exceptions is.
    exceptions: u64,
}

/// Those of all CPUs, by their numbers.
static ALL: [Once<Stacks>; MAX_HOST_CPUS] = [const { Once::new() }; MAX_HOST_CPUS];

/// Those of CPU `number`, if it has any.
pub fn of(number: usize) -> Option<&'static Stacks> {
    ALL.get(number)?.get()
}

/// Each stack, with its CPU's number.
pub fn all() -> impl Iterator<Item = (usize, Stack)> {
    let all = (0..).zip(&ALL);
    all.filter_map(|(number, stacks)| Some((number, stacks.get()?)))
        .flat_map(|(number, stacks)| stacks.iter().map(move |stack| (number, stack)))
}

impl Stacks {
    /// Those of the CPU that Umbra was started on, which is number 0. None: there is no memory for tables.
    pub fn of_first() -> Option<&'static Self> {
        let stacks = Self {
            main: &raw const umbra_stack_guard as u64,
            exceptions: &raw const umbra_exception_stacks as u64,
        };
        stacks.guard(0)
    }

    /// Those of the further CPU `number`. None: there is no memory for them.
    pub fn allocate(number: usize) -> Option<&'static Self> {
        let main = GUARD + MAIN_STACK;
        let len = main + IST.len() as u64 * (GUARD + IST_STACK);
        let at = memory::take_own(len, GUARD)?;
        let stacks = Self {
            main: at,
            exceptions: at + main,
        };
        stacks.guard(number)
    }

    /// Takes away the pages below them, and makes them known as those of CPU `number`.
    fn guard(self, number: usize) -> Option<&'static Self> {
        let guarded = self.iter().all(|stack| paging::guard(stack.guard));
        let place = ALL.get(number).filter(|_| guarded)?;
        Some(place.call_once(|| self))
    }

    /// Where the usual stack begins.
    pub fn top(&self) -> u64 {
        self.main + GUARD + MAIN_STACK
    }

    /// Where stack `n` of the interrupt stack table begins.
    pub fn exception_top(&self, n: usize) -> u64 {
        self.exception_guard(n) + GUARD + IST_STACK
    }

    fn exception_guard(&self, n: usize) -> u64 {
        self.exceptions + n as u64 * (GUARD + IST_STACK)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Stack> {
        let main = Stack {
            name: "main",
            guard: self.main,
        };
        let exceptions = IST.iter().enumerate().map(|(n, &(_, name))| Stack {
            name,
            guard: self.exception_guard(n),
        });
        [main].into_iter().chain(exceptions)
    }
}
