//! The CPU models that an emulator lists.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Whether `program`, which lists its models with `arguments`, has `model`.
///
/// # Errors
///
/// It cannot be started.
pub fn has(program: &str, arguments: &[&str], model: &str) -> Result<bool> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let known = listed(&String::from_utf8_lossy(&text));
    Ok(known.iter().any(|one| one == model))
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
    fn models_are_found_in_what_the_emulators_list() {
        let qemu = "Available CPUs:\nx86 486      (alias)\nx86 EPYC-v1  AMD\n\nRecognized CPUID flags:\n  3dnow\n";
        assert_eq!(listed(qemu), ["Available", "486", "EPYC-v1"]);
        let newer = "Available CPUs:\n  max    Enables all\n\nRecognized CPUID flags:\n";
        assert!(listed(newer).contains(&"max".to_owned()));
        let bochs = "Supported CPU models:\n\nbx_generic\nryzen\n\n";
        assert!(listed(bochs).contains(&"ryzen".to_owned()));
    }
}
