//! Umbra's image: cargo builds it, with cargo's own progress on the terminal.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;

/// Names an image to take instead of one built from the sources.
pub const OVERRIDE: &str = "UMBRA_IMAGE";

/// Builds the ring-0 image if it is not up to date, and gives its path.
///
/// # Errors
///
/// It does not build; cargo has said why.
pub fn build() -> Result<PathBuf> {
    if let Some(image) = std::env::var_os(OVERRIDE) {
        return std::path::absolute(image).with_context(|| format!("{OVERRIDE} is no path"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(paths::root())
        .args([
            "build",
            "--release",
            "--package",
            "boot",
            "--bin",
            "umbra",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("Umbra's image does not build");
    }
    executable(&String::from_utf8_lossy(&output.stdout))
        .context("cargo did not say where it put Umbra's image")
}

/// The path of the program in cargo's messages: The Cargo Book, "External tools", "JSON messages".
fn executable(messages: &str) -> Option<PathBuf> {
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let artifact = message.get("reason")?.as_str()? == "compiler-artifact";
        artifact
            .then(|| message.get("executable")?.as_str().map(PathBuf::from))
            .flatten()
    });
    programs.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"hv-core"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"umbra"},"executable":"/t/release/umbra"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable(messages),
            Some(PathBuf::from("/t/release/umbra"))
        );
        assert_eq!(executable("{}"), None);
    }
}
