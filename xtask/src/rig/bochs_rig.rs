//! What the rigs in Bochs have in common: they differ in their processors only.

use std::path::Path;

use anyhow::Result;
use protocol::options::Transport;

use super::bochs::{self, Bochs};
use super::{Counting, Machine, Part, Rig};
use crate::emulator::Emulator;
use crate::outcome::refuse;
use crate::package::Package;

/// A rig in Bochs.
pub(super) struct BochsRig {
    pub name: &'static str,
    pub about: &'static str,
    pub usual_model: &'static str,
    /// The models that fit.
    pub models: &'static [&'static str],
    pub native_words: &'static str,
}

impl Rig for BochsRig {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn usual_model(&self) -> &'static str {
        self.usual_model
    }

    fn models(&self) -> &'static [&'static str] {
        self.models
    }

    fn check_installed_model(&self, model: &str) -> Result<()> {
        if model == self.usual_model || bochs::has_model(model)? {
            return Ok(());
        }
        refuse!(
            "{} has no CPU model {model}; --rig {} can have {}",
            bochs::BOCHS,
            self.name,
            self.models.join(", ")
        )
    }

    fn packages(&self, window: bool) -> Vec<&'static [Package]> {
        bochs::packages(window)
    }

    fn control(&self) -> Transport {
        Transport::E9
    }

    fn most_memory(&self) -> Option<u64> {
        Some(bochs::MOST_MEMORY)
    }

    fn most_cpus(&self) -> u32 {
        bochs::MOST_CPUS
    }

    fn runs_in_parallel(&self) -> bool {
        false
    }

    fn lacks(&self, part: Part) -> Option<&'static str> {
        Some(bochs::lacks(part))
    }

    fn counting(&self) -> Counting {
        Counting::Always
    }

    fn slowness(&self) -> u32 {
        4
    }

    fn native_words(&self) -> &'static str {
        self.native_words
    }

    fn display(&self) -> Result<&'static str> {
        bochs::display()
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        Ok(Box::new(Bochs::start(machine, log)?))
    }
}
