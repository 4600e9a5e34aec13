//! Guest RAM that comes and goes: what is in the guest's balloon, and all of it while its machine is off, is the host's.
//!
//! What is taken here is somebody else's afterwards. So this is done between rounds ([`smp::together`](crate::smp::together)): none of the guest's CPUs runs,
//! and no code of Umbra's is within an access to its memory, on any CPU of the host's. Then, in this order: the [books](host_memory::Chunks) of where
//! memory is forget the chunk, unless a device of the host is at work on it; no CPU can enter any more with a translation to it; it is free.

use super::Guest;
use crate::memory::GuestRam;
use alloc::sync::Arc;
use alloc::vec::Vec;
use device_model::virtio::balloon::{Balloon, Filling};
use host_memory::{CHUNK, PAGE};
use hv_core::cpu::VcpuBackend;
use hv_core::mmu::{Backing, Mmu};
use hv_core::{Gpa, Hpa};

/// Chunks that are moved during one call at most: each is cleared when it comes.
const BURST: usize = 16;

const _: () = assert!(CHUNK == device_model::virtio::balloon::CHUNK);

/// RAM that comes and goes.
pub(super) struct Ballooned {
    pub(super) ram: Arc<GuestRam>,
    pub(super) balloon: Balloon,
}

/// What has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Chunks that were given to the host, and taken from it.
    pub chunks: usize,
    /// The host has no memory for what is wanted.
    pub lacks: bool,
}

impl<B: VcpuBackend> Guest<B> {
    /// How its balloon is. None: its RAM does not come and go.
    pub fn filling(&self) -> Option<Filling> {
        self.ballooned
            .as_ref()
            .map(|ballooned| ballooned.balloon.filling())
    }

    /// Bytes of its RAM that are the host's at present.
    pub fn given(&self) -> u64 {
        self.filling().map_or(0, |filling| filling.away * CHUNK)
    }

    /// Whether all of its RAM is there, or on its way out again.
    pub fn is_whole(&self) -> bool {
        self.filling().is_none_or(|filling| filling.wanted == 0)
    }

    /// It is to have so many bytes of its RAM. Its devices have to be woken then.
    pub fn set_balloon(&self, memory: u64) {
        if let Some(ballooned) = &self.ballooned {
            let pages = self.memory_size.saturating_sub(memory) / PAGE;
            ballooned.balloon.set_target(pages as u32);
        }
    }

    /// Its machine is off: all of its RAM goes to the host.
    pub fn give_all(&self) {
        if let Some(ballooned) = &self.ballooned {
            ballooned.balloon.power_off();
        }
    }

    /// Its machine is off, and has had no RAM yet.
    pub(super) fn have_none(&self) {
        self.give_all();
        let balloon = self.ballooned.as_ref().map(|ballooned| &ballooned.balloon);
        let mut from = 0;
        while let Some((balloon, chunk)) = balloon.and_then(|b| Some((b, b.ripe(from)?))) {
            balloon.gone(chunk);
            from = chunk + 1;
        }
    }

    /// Its machine is to start: all of its RAM has to come back. Whether it is there.
    pub fn want_all(&self) -> bool {
        if let Some(ballooned) = &self.ballooned {
            ballooned.balloon.power_on();
        }
        self.is_whole()
    }

    /// Gives the host what it may take, and takes from it what the guest wants, up to [`BURST`] chunks. Nothing runs.
    pub fn move_ram(&mut self) -> Moved {
        let mut moved = Moved::default();
        let Some(ballooned) = &self.ballooned else {
            return moved;
        };
        let mut from = 0;
        while moved.chunks < BURST
            && let Some(chunk) = ballooned.balloon.ripe(from)
        {
            from = chunk + 1;
            moved.chunks += usize::from(self.give(ballooned, chunk));
        }
        while moved.chunks < BURST
            && let Some(chunk) = ballooned.balloon.wanted()
        {
            if !self.bring(ballooned, chunk) {
                moved.lacks = true;
                break;
            }
            moved.chunks += 1;
        }
        moved
    }

    fn give(&self, ballooned: &Ballooned, chunk: usize) -> bool {
        let Some(hpa) = ballooned.ram.take(chunk) else {
            return false;
        };
        self.vm.mmu().withdraw(start(chunk), CHUNK);
        ballooned.balloon.gone(chunk);
        // SAFETY: it has been withdrawn from all tables, and no CPU enters the guest with a translation of before.
        unsafe { GuestRam::give(hpa) };
        true
    }

    fn bring(&self, ballooned: &Ballooned, chunk: usize) -> bool {
        let Some(hpa) = ballooned.ram.bring(chunk) else {
            return false;
        };
        let gpa = start(chunk);
        let hidden: Vec<Gpa> = self.vm.bus().cpu_pages(gpa, CHUNK).collect();
        let mut mmu = self.vm.mmu();
        mmu.remap(gpa, CHUNK, ram(hpa));
        for page in hidden {
            mmu.remap(page, PAGE, Backing::Mmio);
        }
        drop(mmu);
        ballooned.balloon.back(chunk);
        true
    }
}

fn start(chunk: usize) -> Gpa {
    Gpa(chunk as u64 * CHUNK)
}

fn ram(hpa: Hpa) -> Backing {
    let writable = true;
    Backing::Ram { hpa, writable }
}
