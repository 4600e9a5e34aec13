//! The host's CPUs: what each of them has of its own, which is found through GS.

use alloc::boxed::Box;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use host_cpus::MAX_HOST_CPUS;
use x86::msr::{IA32_GS_BASE, wrmsr};

/// A CPU of the host's. GS points to it on that CPU.
#[repr(C)]
pub struct HostCpu {
    /// Where this is.
    this: AtomicPtr<HostCpu>,
    /// Where its usual stack begins: the code that starts it reads this.
    stack_top: u64,
    /// It has stopped for good: the handler of NMIs sets this ([`STOPPED`]).
    pub stopped: AtomicBool,
    /// Its number, from 0. 0 is the one that Umbra was started on.
    pub number: usize,
    apic_id: AtomicU32,
    /// What its timer is armed for.
    pub armed: Armed,
}

const _: () = assert!(core::mem::offset_of!(HostCpu, this) == 0);
/// Where `HostCpu::stack_top` is.
pub const STACK_TOP: usize = core::mem::offset_of!(HostCpu, stack_top);
/// Where [`HostCpu::stopped`] is.
pub const STOPPED: usize = core::mem::offset_of!(HostCpu, stopped);

/// What a CPU's timer was armed for last: the number of the clock, and when. Nobody, if it has fired.
#[derive(Default)]
pub struct Armed {
    by: AtomicU64,
    at: AtomicU64,
}

impl Armed {
    /// It is to be armed by clock `by`, from 1, for this moment. False: it is already.
    pub fn change(&self, by: u64, at: u64) -> bool {
        let same = self.by.load(Ordering::Relaxed) == by && self.at.load(Ordering::Relaxed) == at;
        if !same {
            self.by.store(by, Ordering::Relaxed);
            self.at.store(at, Ordering::Relaxed);
        }
        !same
    }

    /// The timer's interrupt has come: the next deadline has to be armed anew.
    pub fn fired(&self) {
        self.by.store(0, Ordering::Relaxed);
    }
}

static CPUS: [AtomicPtr<HostCpu>; MAX_HOST_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_HOST_CPUS];

/// All CPUs that were to be used, whatever has become of them.
pub fn all() -> impl Iterator<Item = &'static HostCpu> {
    CPUS.iter().filter_map(|cpu| {
        // SAFETY: null, or what `HostCpu::new` has leaked.
        unsafe { cpu.load(Ordering::Acquire).as_ref() }
    })
}

/// This CPU. There is one as soon as the first has been [made current](HostCpu::make_current).
pub fn current() -> &'static HostCpu {
    let this: *const HostCpu;
    // SAFETY: GS points to a `HostCpu`, which begins with its own address, from `make_current` on; the world switches keep it.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, pure, readonly, preserves_flags));
        &*this
    }
}

/// The number of this CPU, even before there is one.
pub fn number() -> usize {
    all().next().map_or(0, |_| current().number)
}

impl HostCpu {
    /// CPU `number`, which is to be known from now on, with its usual stack.
    pub fn new(number: usize, apic_id: u32, stack_top: u64) -> &'static Self {
        let cpu = Box::leak(Box::new(Self {
            this: AtomicPtr::new(ptr::null_mut()),
            stack_top,
            stopped: AtomicBool::new(false),
            number,
            apic_id: AtomicU32::new(apic_id),
            armed: Armed::default(),
        }));
        let at = ptr::from_mut(cpu);
        cpu.this.store(at, Ordering::Relaxed);
        if let Some(place) = CPUS.get(number) {
            place.store(at, Ordering::Release);
        }
        cpu
    }

    /// The current CPU is `self` from now on.
    pub fn make_current(&'static self) {
        // SAFETY: ring 0; nobody uses GS but `current` and the handler of NMIs.
        unsafe { wrmsr(IA32_GS_BASE, ptr::from_ref(self) as u64) };
    }

    /// Its local APIC's ID.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Its local APIC has this ID.
    pub fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }
}
