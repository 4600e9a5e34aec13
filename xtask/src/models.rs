//! The CPU models that `--cpu-model` can choose, and which of them a rig can use.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::bochs::BOCHS;
use crate::outcome::refuse;
use crate::qemu::QEMU;
use crate::rig::Rig;

/// Bochs's models with Intel VT-x and long mode; those before Westmere lack the unrestricted guest, the first nested paging too.
const BOCHS_VT_X: [&str; 11] = [
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
/// Bochs's models with AMD-V; the first two lack nested paging.
const BOCHS_AMD_V: [&str; 5] = [
    "turion64_tyler",
    "phenom_8650_toliman",
    "zambezi",
    "trinity_apu",
    "ryzen",
];

/// The model of a rig if nothing else is said.
pub fn usual(rig: Rig) -> &'static str {
    match rig {
        Rig::BochsVmx => "corei7_skylake_x",
        Rig::BochsSvm => "ryzen",
        Rig::Kvm => "host",
        Rig::QemuSvm | Rig::Auto => "max",
    }
}

/// The model that was asked for, or the usual one.
///
/// # Errors
///
/// As [`check`].
pub fn choose(rig: Rig, asked: Option<&str>) -> Result<String> {
    let model = asked.unwrap_or(usual(rig));
    check(rig, model)?;
    Ok(model.to_owned())
}

/// Checks that `model` has what `rig` is for, as far as that is known here: newer versions of the emulators have more models.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) with the models that fit.
fn check(rig: Rig, model: &str) -> Result<()> {
    let (fitting, others, other_rig) = match rig {
        Rig::BochsVmx => (&BOCHS_VT_X[..], &BOCHS_AMD_V[..], Rig::BochsSvm),
        Rig::BochsSvm => (&BOCHS_AMD_V[..], &BOCHS_VT_X[..], Rig::BochsVmx),
        Rig::QemuSvm | Rig::Kvm | Rig::Auto => return Ok(()),
    };
    if others.contains(&model) {
        refuse!(
            "--cpu-model {model} is for --rig {}; --rig {} can have {}",
            other_rig.name(),
            rig.name(),
            fitting.join(", ")
        );
    }
    Ok(())
}

/// Checks that the emulator of `rig`, which is installed, has `model`.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when it has not.
pub fn check_listed(rig: Rig, model: &str) -> Result<()> {
    if model == usual(rig) {
        return Ok(());
    }
    let (program, arguments) = if rig.is_bochs() {
        (BOCHS, ["--help", "cpu"])
    } else {
        (QEMU, ["-cpu", "help"])
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let known = listed(&String::from_utf8_lossy(&text));
    // QEMU takes features behind the name.
    let name = model.split(',').next().unwrap_or_default();
    if known.iter().any(|one| one == name) {
        return Ok(());
    }
    match rig {
        Rig::BochsVmx => refuse!(
            "{BOCHS} has no CPU model {model}; --rig bochs-vmx can have {}",
            BOCHS_VT_X.join(", ")
        ),
        Rig::BochsSvm => refuse!(
            "{BOCHS} has no CPU model {model}; --rig bochs-svm can have {}",
            BOCHS_AMD_V.join(", ")
        ),
        _ => refuse!("{QEMU} has no CPU model {name}; {QEMU} -cpu help lists them"),
    }
}

/// The models in an emulator's answer: a line each, to which QEMU adds what else it has to say, and its CPUID flags at the end.
fn listed(text: &str) -> Vec<String> {
    let names = text
        .lines()
        .take_while(|line| !line.starts_with("Recognized"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            match words.next()? {
                "x86" => words.next(),
                name => Some(name),
            }
        });
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_other_vendor_is_refused_with_those_that_fit() {
        let text = check(Rig::BochsSvm, "corei7_haswell_4770")
            .unwrap_err()
            .to_string();
        assert!(text.contains("is for --rig bochs-vmx"), "{text}");
        assert!(
            text.contains("turion64_tyler") && !text.contains('\n'),
            "{text}"
        );
        assert!(check(Rig::BochsVmx, "ryzen").is_err());
        for rig in [Rig::BochsVmx, Rig::BochsSvm, Rig::QemuSvm, Rig::Kvm] {
            assert!(check(rig, usual(rig)).is_ok());
        }
    }

    #[test]
    fn models_are_found_in_what_the_emulators_list() {
        let qemu = "Available CPUs:\nx86 486      (alias)\nx86 EPYC-v1  AMD\n\nRecognized CPUID flags:\n  3dnow\n";
        assert_eq!(listed(qemu), ["Available", "486", "EPYC-v1"]);
        let newer = "Available CPUs:\n  max    Enables all\n\nRecognized CPUID flags:\n";
        assert!(listed(newer).contains(&"max".to_owned()));
        let bochs = "Supported CPU models:\n\nbx_generic\nryzen\n\n";
        assert!(listed(bochs).contains(&"ryzen".to_owned()));
    }
}
