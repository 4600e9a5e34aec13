//! `qemu-svm`: QEMU's own emulation of AMD-V, the fastest without hardware.

use std::path::Path;

use anyhow::Result;
use protocol::options::Transport;

use super::machine::MAX_HOST_CPUS;
use super::qemu::{self, Qemu};
use super::{Counting, Machine, Rig};
use crate::emulator::Emulator;
use crate::package::Package;

/// The rig.
pub const QEMU_SVM: &dyn Rig = &QemuSvm;

struct QemuSvm;

impl Rig for QemuSvm {
    fn name(&self) -> &'static str {
        "qemu-svm"
    }

    fn about(&self) -> &'static str {
        "QEMU's own emulation of AMD-V"
    }

    fn usual_model(&self) -> &'static str {
        "max"
    }

    fn check_installed_model(&self, model: &str) -> Result<()> {
        qemu::check_model(self, model)
    }

    fn packages(&self, window: bool) -> Vec<&'static [Package]> {
        qemu::packages(window)
    }

    fn control(&self) -> Transport {
        Transport::Com2
    }

    fn counting(&self) -> Counting {
        Counting::OnDemand
    }

    fn most_cpus(&self) -> u32 {
        MAX_HOST_CPUS - self.serving_cpus()
    }

    fn serving_cpus(&self) -> u32 {
        1
    }

    fn display(&self) -> Result<&'static str> {
        qemu::display()
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        Ok(Box::new(Qemu::start(machine, "tcg", log)?))
    }
}
