//! `kvm`: this computer's own processor, through QEMU and Linux KVM with nested virtualization.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use protocol::options::Transport;

use super::qemu::{self, Qemu};
use super::{Counting, Machine, Rig};
use crate::emulator::Emulator;
use crate::package::Package;

/// The rig.
pub const KVM: &dyn Rig = &Kvm;

struct Kvm;

impl Rig for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn about(&self) -> &'static str {
        "This machine's processor, through QEMU and Linux KVM with nested virtualization"
    }

    fn usual_model(&self) -> &'static str {
        "host"
    }

    fn check_installed_model(&self, model: &str) -> Result<()> {
        qemu::check_model(self, model)
    }

    fn packages(&self, window: bool) -> Vec<&'static [Package]> {
        qemu::packages(window)
    }

    fn missing(&self) -> Option<String> {
        missing()
    }

    fn control(&self) -> Transport {
        Transport::Com2
    }

    fn counting(&self) -> Counting {
        Counting::Never
    }

    fn display(&self) -> Result<&'static str> {
        qemu::display()
    }

    fn start(&self, machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
        Ok(Box::new(Qemu::start(machine, "kvm", log)?))
    }
}

/// What stands in the way of KVM here, as a sentence's end; nothing if it is usable.
fn missing() -> Option<String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({})", error.kind()));
    }
    let nested = ["kvm_intel", "kvm_amd"].into_iter().any(|module| {
        let path = Path::new("/sys/module").join(module);
        fs::read_to_string(path.join("parameters/nested")).is_ok_and(|text| is_on(&text))
    });
    if !nested {
        return Some(
            "nested virtualization is off (the parameter nested of the module kvm_intel or kvm_amd)"
                .to_owned(),
        );
    }
    (!answers()).then(|| format!("{} cannot use it", qemu::program()))
}

/// Whether a module's parameter is on, which older kernels say with a number.
fn is_on(text: &str) -> bool {
    matches!(text.trim(), "Y" | "1")
}

/// Whether KVM makes a machine for QEMU. Before QEMU is installed nothing speaks against it.
fn answers() -> bool {
    let child = Command::new(qemu::program())
        .args(["-accel", "kvm", "-M", "none", "-nodefaults"])
        .args(["-display", "none", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return true;
    };
    let told = child
        .stdin
        .take()
        .is_some_and(|mut monitor| monitor.write_all(b"quit\n").is_ok());
    if !told {
        // It has ended already; an error means the same.
        let _ = child.kill();
    }
    child.wait().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_parameter_is_a_letter_or_a_number() {
        for (text, on) in [("Y\n", true), ("1\n", true), ("N\n", false), ("0\n", false)] {
            assert_eq!(is_on(text), on);
        }
    }
}
