//! The rigs: the outer machines that Umbra can run on.
//!
//! A rig is one file here behind [`Rig`], with a line in [`ALL`]. What it is asked to play is a [`Machine`](machine::Machine), and what runs
//! then is an [`Emulator`].

mod bochs;
mod bochs_rig;
mod bochs_svm;
mod bochs_vmx;
mod kvm;
mod kvm_in_bochs;
mod kvm_in_qemu;
mod machine;
mod models;
mod qemu;
mod qemu_svm;
mod sockets;
mod within;
mod within_rig;

use std::fmt;
use std::path::Path;

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use protocol::options::Transport;

pub use self::bochs_svm::BOCHS_SVM;
pub use self::bochs_vmx::BOCHS_VMX;
pub use self::kvm::KVM;
pub use self::kvm_in_bochs::KVM_IN_BOCHS;
pub use self::kvm_in_qemu::KVM_IN_QEMU;
pub use self::machine::{
    Boot, Bus, Display, Drive, Forward, MAX_HOST_CPUS, MIB, Machine, Module, Net, Network, Paging,
    REMAINS, Shadow, Vnc, host_cpus, outer_memory, parse_cpus, parse_memory,
};
pub use self::qemu_svm::QEMU_SVM;
use crate::emulator::Emulator;
use crate::outcome::refuse;
use crate::package::Package;
use crate::setup::{self, Purpose};

/// All of them, in the order in which they are named to people.
pub const ALL: [&dyn Rig; 6] = [
    QEMU_SVM,
    BOCHS_VMX,
    BOCHS_SVM,
    KVM,
    KVM_IN_QEMU,
    KVM_IN_BOCHS,
];

/// Where an outer machine comes from.
pub trait Rig: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it is, in a line.
    fn about(&self) -> &'static str;

    /// The CPU model if nothing else is said.
    fn usual_model(&self) -> &'static str;

    /// The CPU models that have what this rig is for, where another rig of the same emulator needs others; as far as they are known here:
    /// newer versions of the emulators have more.
    fn models(&self) -> &'static [&'static str] {
        &[]
    }

    /// Checks that the emulator, which is installed, has `model`.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) when it has not.
    fn check_installed_model(&self, model: &str) -> Result<()>;

    /// The system packages that it needs, and that its window needs.
    fn packages(&self, window: bool) -> Vec<&'static [Package]>;

    /// Fetches what it is made of besides these packages.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// What stands in its way on this computer, as a sentence's end; nothing if it can be used.
    fn missing(&self) -> Option<String> {
        None
    }

    /// How Umbra speaks to the tool on it: its option `control`.
    fn control(&self) -> Transport;

    /// The most memory that the outer machine can have, in bytes, if there is a limit.
    fn most_memory(&self) -> Option<u64> {
        None
    }

    /// The most CPUs that the outer machine can have.
    fn most_cpus(&self) -> u32 {
        MAX_HOST_CPUS
    }

    /// Whether the outer machine's CPUs run at the same time: more of them make guests with several CPUs faster.
    fn runs_in_parallel(&self) -> bool {
        true
    }

    /// The CPUs that the outer machine has besides those for guests, if there are several of these: Umbra keeps them for itself.
    fn serving_cpus(&self) -> u32 {
        0
    }

    /// Why the outer machine has no such part; nothing if it has it.
    fn lacks(&self, _part: Part) -> Option<&'static str> {
        None
    }

    /// Whether its clock counts instructions.
    fn counting(&self) -> Counting;

    /// How many times longer than QEMU's emulation it may take for the same.
    fn slowness(&self) -> u32 {
        1
    }

    /// What a Linux kernel's command line needs besides where it runs on it without Umbra.
    fn native_words(&self) -> &'static str {
        ""
    }

    /// The window that shows the outer machine's screen, as the emulator calls it.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) when there is none here.
    fn display(&self) -> Result<&'static str>;

    /// Starts `machine`, with Umbra's log going to `log`.
    ///
    /// # Errors
    ///
    /// The emulator, or the temporary files it needs, cannot be had.
    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>>;
}

/// What not every outer machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A network card for which Umbra has a driver.
    Network,
    /// A VNC server at an address that is said.
    Vnc,
    /// Disks that forget what is written.
    Snapshot,
    /// Hard disks that cannot be written.
    WriteProtection,
    /// Hard disks in images that are not raw.
    Images,
}

/// Whether an outer machine's clock counts instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// It always does.
    Always,
    /// It does where [`Machine::icount`] asks for that.
    OnDemand,
    /// It never does.
    Never,
}

impl dyn Rig {
    /// The CPU model that was asked for, or the usual one.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) for a model of another rig, with those that fit.
    pub fn choose_model(&self, asked: Option<&str>) -> Result<String> {
        let model = asked.unwrap_or(self.usual_model());
        let own = self.models();
        let its = ALL.iter().find(|rig| rig.models().contains(&model));
        if let Some(its) = its
            && !own.is_empty()
            && !own.contains(&model)
        {
            refuse!(
                "--cpu-model {model} is for --rig {}; --rig {} can have {}",
                its.name(),
                self.name(),
                own.join(", ")
            );
        }
        Ok(model.to_owned())
    }
}

impl fmt::Debug for dyn Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn Rig {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Rig {}

/// What the command line says about the rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// KVM where that can be used, otherwise QEMU's emulation of AMD-V.
    Auto,
    /// This one.
    This(&'static dyn Rig),
}

impl Choice {
    /// The rig that will be used for this choice.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) for a rig that cannot be used here.
    pub fn resolve(self) -> Result<&'static dyn Rig> {
        let rig = match self {
            Choice::Auto => KVM,
            Choice::This(rig) => rig,
        };
        self.choose(rig, rig.missing())
    }

    /// Chooses by what `rig` lacks here.
    fn choose(self, rig: &'static dyn Rig, missing: Option<String>) -> Result<&'static dyn Rig> {
        match missing {
            None => Ok(rig),
            Some(_) if self == Choice::Auto => Ok(QEMU_SVM),
            Some(missing) => refuse!("--rig {} cannot be used here: {missing}", rig.name()),
        }
    }
}

/// The name of [`Choice::Auto`].
const AUTO: &str = "auto";

/// Reads `--rig` where any rig will do.
pub fn any() -> impl TypedValueParser<Value = Choice> {
    let auto = PossibleValue::new(AUTO).help("kvm where that can be used, otherwise qemu-svm");
    let values = ALL.map(possible).into_iter().chain([auto]);
    PossibleValuesParser::new(values.collect::<Vec<_>>())
        .map(|name| named(&name).map_or(Choice::Auto, Choice::This))
}

/// Reads `--rig` where instructions are counted.
pub fn that_counts() -> impl TypedValueParser<Value = &'static dyn Rig> {
    let counts = |rig: &&'static dyn Rig| rig.counting() != Counting::Never;
    let values = ALL.into_iter().filter(counts).map(possible);
    PossibleValuesParser::new(values.collect::<Vec<_>>())
        .map(|name| named(&name).unwrap_or(QEMU_SVM))
}

fn possible(rig: &dyn Rig) -> PossibleValue {
    PossibleValue::new(rig.name()).help(rig.about())
}

/// The rig with this name.
fn named(name: &str) -> Option<&'static dyn Rig> {
    ALL.into_iter().find(|rig| rig.name() == name)
}

/// Installs what running a guest on `rig`, in a window or not, needs and the system lacks.
///
/// # Errors
///
/// As [`setup::require`].
pub fn require(rig: &dyn Rig, window: bool) -> Result<()> {
    setup::require_with(Purpose::Run, &rig.packages(window))
}

/// Installs what all tests need and the system lacks.
///
/// # Errors
///
/// As [`setup::require`].
pub fn require_for_tests() -> Result<()> {
    let rigs = ALL.into_iter().flat_map(|rig| rig.packages(false));
    setup::require_with(Purpose::Test, &rigs.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_kvm_where_nothing_is_missing_and_kvm_says_what_is() {
        let kvm = Choice::This(KVM);
        assert_eq!(Choice::Auto.choose(KVM, None).unwrap(), KVM);
        assert_eq!(kvm.choose(KVM, None).unwrap(), KVM);
        let missing = || Some("/dev/kvm cannot be opened".to_owned());
        assert_eq!(Choice::Auto.choose(KVM, missing()).unwrap(), QEMU_SVM);
        let refusal = kvm.choose(KVM, missing()).unwrap_err();
        assert!(refusal.is::<crate::outcome::Refused>());
        assert!(refusal.to_string().ends_with("/dev/kvm cannot be opened"));
    }

    #[test]
    fn each_rig_has_a_name_of_its_own_and_a_model_that_fits() {
        for rig in ALL {
            assert_eq!(named(rig.name()).unwrap(), rig);
            assert!(rig.choose_model(None).is_ok());
            assert!(rig.models().is_empty() || rig.models().contains(&rig.usual_model()));
        }
        assert!(named(AUTO).is_none());
    }
}
