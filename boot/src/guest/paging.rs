//! How a guest's memory is virtualized: what nested and shadow paging are made of, and the change from one to the other while it runs.

use super::Guest;
use crate::host::{Confinement, SecondStage};
use crate::memory::{self, HostFrames};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use host_memory::{Demand, MIB, PAGE};
use hv_core::cpu::VcpuBackend;
use hv_core::mmu::Mmu;
use hv_core::sentence::sentence;
use npt_shadow::paging::Kind;
use npt_shadow::shadow::Config;
use npt_shadow::{Algorithm, NestedMmu, ShadowMmu, WatchedMemory};
use protocol::options::{self, Shadow};

/// What nested and shadow paging are made of.
pub(super) struct Ways {
    /// None: the CPU was not set up for nested paging.
    pub(super) second_stage: Option<SecondStage>,
    pub(super) confinement: Confinement,
    pub(super) memory: Arc<WatchedMemory>,
    pub(super) shadow: Config,
}

impl Ways {
    /// Nested paging, with nothing mapped. None: the CPU has none, or there is no memory for it.
    pub(super) fn nested(&self) -> Option<Kind<HostFrames>> {
        let SecondStage {
            format, largest, ..
        } = self.second_stage?;
        NestedMmu::new(HostFrames, format, largest).map(Kind::Nested)
    }

    /// Shadow paging, likewise.
    pub(super) fn shadow(&self) -> Option<Kind<HostFrames>> {
        let mut shadow = ShadowMmu::new(HostFrames, self.memory.clone(), self.shadow)?;
        match self.confinement {
            Confinement::Hardware => {}
            Confinement::Fence(stage) => {
                let tables = NestedMmu::new(HostFrames, stage.format, stage.largest)?;
                if !shadow.enclose(tables) {
                    return None;
                }
            }
            Confinement::None => return None,
        }
        Some(Kind::Shadow(Box::new(shadow)))
    }

    /// What nested or shadow paging takes for a guest with so many bytes of RAM.
    pub(super) fn demand(
        second_stage: Option<SecondStage>,
        shadow: Option<&Config>,
        ram: u64,
    ) -> Demand {
        let nested = second_stage.map_or(0, |stage| {
            NestedMmu::<HostFrames>::tables(ram, stage.largest)
        });
        Demand {
            tables: PAGE * (nested + shadow.map_or(0, Config::least_frames)),
            books: shadow.map_or(0, Config::books),
            ..Demand::default()
        }
    }
}

/// How shadow tables are kept, as the user said or as is best.
pub(super) fn algorithm(shadow: Option<Shadow>) -> Algorithm {
    match shadow {
        Some(Shadow::Vtlb) => Algorithm::Vtlb,
        Some(Shadow::Cached) => Algorithm::Cached,
        Some(Shadow::Unsync) | None => Algorithm::Unsync,
    }
}

/// How many shadow pages a guest with so many bytes of RAM may use: enough to map all of it once with 4 KiB pages, twice the tables
/// that a usual system has, within what Umbra's heap can keep books of.
pub(super) fn shadow_pages(memory: u64) -> usize {
    (memory >> 18).clamp(1024, 4096) as usize
}

impl<B: VcpuBackend> Guest<B> {
    /// Nested or shadow paging from now on, whatever it was before. The guest does not notice.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn use_paging(&mut self, shadow: bool) -> Result<(), String> {
        if shadow == self.vm.is_shadow() {
            return Ok(());
        }
        if !self.switch_paging() {
            self.add_paging(shadow)?;
            self.switch_paging();
        }
        // What the user says now overrides turns that were asked for at the start.
        self.paging = if shadow {
            options::Paging::Shadow
        } else {
            options::Paging::Nested
        };
        Ok(())
    }

    /// Goes from nested to shadow paging or back. Returns whether this guest has both.
    pub fn switch_paging(&self) -> bool {
        self.vm.mmu().set_shadow(!self.vm.is_shadow())
    }

    /// Adds nested or shadow paging to the one that is used, if there is memory for it. Otherwise all stays as it was.
    fn add_paging(&mut self, shadow: bool) -> Result<(), String> {
        let ways = &self.ways;
        if !shadow && ways.second_stage.is_none() {
            return Err(sentence(format_args!(
                "this machine was not set up for nested paging: start with paging=nested"
            )));
        }
        let config = shadow.then_some(&ways.shadow);
        let second_stage = ways.second_stage.filter(|_| !shadow);
        let need = Ways::demand(second_stage, config, self.memory_size).total();
        let left = memory::left();
        let lacks = || {
            sentence(format_args!(
                "there is too little memory for {} paging: it needs {} MiB, and {} MiB are left; the guest goes on as it was",
                if shadow { "shadow" } else { "nested" },
                need.div_ceil(MIB),
                left / MIB
            ))
        };
        if need > left {
            return Err(lacks());
        }
        let way = if shadow { ways.shadow() } else { ways.nested() };
        let added = way.is_some_and(|way| self.vm.mmu().add(way));
        added.then_some(()).ok_or_else(lacks)
    }
}
