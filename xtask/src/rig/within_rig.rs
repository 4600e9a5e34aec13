//! What the rigs with Linux KVM in an emulated machine have in common; [`within`] makes what they run.

use std::path::Path;

use anyhow::Result;
use protocol::options::Transport;

use super::machine::Machine;
use super::{Counting, Part, Rig, within};
use crate::emulator::Emulator;
use crate::outcome::refuse;
use crate::package::Package;

/// A rig within an emulated machine.
pub(super) struct WithinRig {
    pub name: &'static str,
    pub about: &'static str,
    /// The emulator's packages.
    pub packages: fn() -> Vec<&'static [Package]>,
    /// Why the emulator's disks lack something, if they do.
    pub outer_lacks: Option<fn(Part) -> &'static str>,
    pub most_memory: Option<u64>,
    pub slowness: u32,
    /// Starts the emulated machine with this one within it, and its log in this file.
    pub start: fn(&Machine, &Path) -> Result<Box<dyn Emulator>>,
}

impl Rig for WithinRig {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn usual_model(&self) -> &'static str {
        "host"
    }

    fn check_installed_model(&self, _model: &str) -> Result<()> {
        // The QEMU within must have it, which is not installed here.
        Ok(())
    }

    fn packages(&self, _window: bool) -> Vec<&'static [Package]> {
        (self.packages)()
    }

    fn prepare(&self) -> Result<()> {
        within::prepare()
    }

    fn control(&self) -> Transport {
        Transport::Com2
    }

    fn most_memory(&self) -> Option<u64> {
        self.most_memory
    }

    fn runs_in_parallel(&self) -> bool {
        false
    }

    fn lacks(&self, part: Part) -> Option<&'static str> {
        Some(match part {
            Part::Network => "the Linux between has none",
            Part::Snapshot => "its disks are files of the Linux between",
            Part::Vnc => "it has no screen",
            Part::WriteProtection | Part::Images => {
                return self.outer_lacks.map(|lacks| lacks(part));
            }
        })
    }

    fn counting(&self) -> Counting {
        Counting::Never
    }

    fn slowness(&self) -> u32 {
        self.slowness
    }

    fn display(&self) -> Result<&'static str> {
        refuse!("--rig {} has no window; use --headless", self.name)
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        (self.start)(machine, log)
    }
}
