//! `bochs-vmx`: Bochs with Intel VT-x, the only emulator that has it, and a strict one.

use std::path::Path;

use anyhow::Result;
use protocol::options::Transport;

use super::bochs::{self, Bochs};
use super::{Counting, Machine, Part, Rig};
use crate::emulator::Emulator;
use crate::setup::Package;

/// The rig.
pub const BOCHS_VMX: &dyn Rig = &BochsVmx;

struct BochsVmx;

/// Bochs's models with Intel VT-x and long mode; those before Westmere lack the unrestricted guest, the first nested paging too.
pub(super) const MODELS: [&str; 11] = [
    "core2_penryn_t9600",
    "corei5_lynnfield_750",
    "corei5_arrandale_m520",
    "corei7_sandy_bridge_2600k",
    "corei7_ivy_bridge_3770k",
    "corei7_haswell_4770",
    "broadwell_ult",
    "corei7_skylake_x",
    "corei3_cnl",
    "corei7_icelake_u",
    "tigerlake",
];

impl Rig for BochsVmx {
    fn name(&self) -> &'static str {
        "bochs-vmx"
    }

    fn about(&self) -> &'static str {
        "Bochs with Intel VT-x: exact, and about ten times slower"
    }

    fn usual_model(&self) -> &'static str {
        "corei7_skylake_x"
    }

    fn check_model(&self, model: &str) -> Result<()> {
        bochs::check_vendor(
            self,
            model,
            &MODELS,
            super::BOCHS_SVM,
            &super::bochs_svm::MODELS,
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

    fn display(&self) -> Result<&'static str> {
        bochs::display()
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        Ok(Box::new(Bochs::start(machine, log)?))
    }
}
