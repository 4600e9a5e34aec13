//! `bochs-svm`: Bochs with AMD-V, which unlike QEMU's saves the next RIP.

use std::path::Path;

use anyhow::Result;
use protocol::options::Transport;

use super::bochs::{self, Bochs};
use super::{Counting, Machine, Part, Rig};
use crate::emulator::Emulator;
use crate::setup::Package;

/// The rig.
pub const BOCHS_SVM: &dyn Rig = &BochsSvm;

struct BochsSvm;

/// Bochs's models with AMD-V; the first two lack nested paging.
pub(super) const MODELS: [&str; 5] = [
    "turion64_tyler",
    "phenom_8650_toliman",
    "zambezi",
    "trinity_apu",
    "ryzen",
];

impl Rig for BochsSvm {
    fn name(&self) -> &'static str {
        "bochs-svm"
    }

    fn about(&self) -> &'static str {
        "Bochs with AMD-V"
    }

    fn usual_model(&self) -> &'static str {
        "ryzen"
    }

    fn check_model(&self, model: &str) -> Result<()> {
        bochs::check_vendor(
            self,
            model,
            &MODELS,
            super::BOCHS_VMX,
            &super::bochs_vmx::MODELS,
        )
    }

    fn check_installed_model(&self, model: &str) -> Result<()> {
        bochs::check_model(self, model, &MODELS)
    }

    fn packages(&self, window: bool) -> Vec<&'static [Package]> {
        bochs::packages(window)
    }

    fn control(&self) -> Transport {
        bochs::CONTROL
    }

    fn most_memory(&self) -> Option<u64> {
        Some(bochs::MOST_MEMORY)
    }

    fn lacks(&self, part: Part) -> Option<&'static str> {
        Some(bochs::lacks(part))
    }

    fn counting(&self) -> Counting {
        Counting::Always
    }

    fn slowness(&self) -> u32 {
        bochs::SLOWNESS
    }

    fn native_words(&self) -> &'static str {
        // Linux waits by MWAITX on AMD, and Bochs 2.7 arms the wrong timer for it (`set_mwaitx_timer` in its `cpu/apic.cc`), so that it
        // waits for ever. In Umbra there is no MWAITX.
        " clearcpuid=221"
    }

    fn display(&self) -> Result<&'static str> {
        bochs::display()
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        Ok(Box::new(Bochs::start(machine, log)?))
    }
}
