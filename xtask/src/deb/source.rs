//! Where Debian packages come from.
//!
//! A suite that the system's own package sources have is taken from there. Any other comes from Debian's archive, through a private
//! configuration of apt which leaves the system's as it is: from the mirror that the environment names, or that the system's own sources
//! name (a mirror of Debian carries all suites), or, where the system is no Debian, that debootstrap uses if it is told none.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Name, unpacked_tool};
use crate::command;
use crate::paths;
use crate::progress::Step;
use crate::setup::{self, Purpose};

/// The keys that Debian's archive is signed with.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The environment variable with a Debian mirror.
pub const MIRROR: &str = "UMBRA_DEBIAN_MIRROR";
/// The architecture of the guests' packages if nothing else is said.
const USUAL: &str = "amd64";

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This system's own sources.
    System,
    /// They too, for another architecture.
    SystemFor(String),
    /// A suite of Debian's archive.
    Archive {
        suite: String,
        architecture: String,
        mirror: String,
    },
}

impl Place {
    /// Where the package of this name comes from.
    ///
    /// # Errors
    ///
    /// The system does not have its suite, and no mirror is known.
    pub fn of(name: Name<'_>) -> Result<Place> {
        let systems = targets()?.contains(&format!("Debian {} main ", name.suite));
        Ok(match name.architecture {
            None if systems => Place::System,
            Some(architecture) if systems => Place::SystemFor(architecture.to_owned()),
            architecture => Place::Archive {
                suite: name.suite.to_owned(),
                architecture: architecture.unwrap_or(USUAL).to_owned(),
                mirror: mirror()?,
            },
        })
    }

    /// The source, with lists in which `package` is looked up: they are fetched once a day, and again if they lack it.
    ///
    /// # Errors
    ///
    /// Its configuration cannot be written, or lists cannot be fetched.
    pub fn source(&self, package: &str) -> Result<Source> {
        let guests = paths::guests();
        paths::make(&guests)?;
        let (source, what, stamp) = match self {
            Place::System => {
                fresh(&guests.join("lists-fetched"), setup::refresh_lists)?;
                return Ok(Source::System);
            }
            Place::SystemFor(architecture) => {
                let directory = guests.join(format!("apt-{architecture}"));
                let source = private_source(&directory, architecture, None)?;
                (source, architecture.clone(), directory)
            }
            Place::Archive {
                suite,
                architecture,
                mirror,
            } => {
                if !Path::new(KEYRING).exists() {
                    setup::require(Purpose::DebianKeys)?;
                }
                let directory = guests.join(format!("apt-{suite}-{architecture}"));
                let source = private_source(&directory, architecture, Some((mirror, suite)))?;
                (source, format!("{suite}, {architecture}"), directory)
            }
        };
        let stamp = stamp.join("lists-fetched");
        let fetch = || {
            fetch_lists(&source, &what);
            Ok(())
        };
        fresh(&stamp, fetch)?;
        if source.file(package).is_none() {
            fs::remove_file(&stamp)?;
            fresh(&stamp, fetch)?;
        }
        Ok(source)
    }
}

/// Where packages are looked up.
#[derive(Debug)]
pub enum Source {
    /// The system's configuration of apt.
    System,
    /// The options of a private configuration.
    Private(Vec<String>),
}

impl Source {
    /// A program of apt's that looks here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Source::Private(options) = self {
            command.args(options.iter().flat_map(|option| ["-o", option]));
        }
        command.stdin(Stdio::null());
        command
    }

    /// The name and the length of the file that holds `package`, if this source has it.
    pub fn file(&self, package: &str) -> Option<(String, u64)> {
        let output = self
            .command("apt-get")
            .args(["download", "--print-uris", package])
            .output()
            .ok()?;
        parse_uri(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Reads `text` as everything that apt and debootstrap print.
pub fn parse(text: &str) {
    let _ = parse_uri(text);
    let _ = parse_archive(text);
    let _ = parse_debootstrap(text);
}

/// Reads `'uri' file length hash`.
fn parse_uri(line: &str) -> Option<(String, u64)> {
    let mut fields = line
        .lines()
        .find(|line| line.starts_with('\''))?
        .split_whitespace()
        .skip(1);
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// How old the lists of packages may be before a package is looked up in them.
const LISTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Brings lists of packages up to date with `fetch`, once a day for each `stamp`.
fn fresh(stamp: &Path, fetch: impl FnOnce() -> Result<()>) -> Result<()> {
    let age = fs::metadata(stamp)
        .and_then(|stamp| stamp.modified())
        .ok()
        .and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age < LISTS_AGE) {
        return Ok(());
    }
    fetch()?;
    fs::write(stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
}

/// Fetches the lists of packages of a private configuration. Where one of several lists cannot be had, the others may do, and
/// what is missing is said when a package is not found.
fn fetch_lists(source: &Source, what: &str) {
    let step = Step::start(format!("Fetching the lists of packages for {what}"));
    match command::run(source.command("apt-get").arg("update")) {
        Ok(_) => step.done(),
        Err(_) => eprintln!("not all lists of packages for {what} could be fetched"),
    }
}

/// What the system's own sources have: a line each of label, codename, component and address.
fn targets() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format"])
        .args([
            "$(LABEL) $(CODENAME) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context("cannot start apt-get")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The address of Debian's archive (the folder with `dists`), without a slash at its end.
///
/// # Errors
///
/// It is not known here.
pub fn mirror() -> Result<String> {
    if let Some(mirror) = env::var(MIRROR).ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror.trim_end_matches('/').to_owned());
    }
    if let Some(mirror) = parse_archive(&targets()?) {
        return Ok(mirror);
    }
    debootstraps_mirror().with_context(|| {
        format!(
            "no mirror of Debian is known here: set {MIRROR} to the address of one (the folder with dists/bookworm)"
        )
    })
}

/// The archive among the system's sources, which security updates are not.
fn parse_archive(text: &str) -> Option<String> {
    let found = text.lines().find_map(|line| {
        let (codename, address) = line.strip_prefix("Debian ")?.split_once(" main ")?;
        (!codename.contains('-')).then_some(address)
    })?;
    Some(found.trim_end_matches('/').to_owned())
}

/// The mirror that debootstrap uses if it is told none.
fn debootstraps_mirror() -> Result<String> {
    const PROGRAM: &str = "usr/sbin/debootstrap";
    let installed = PathBuf::from("/").join(PROGRAM);
    let program = if installed.exists() {
        installed
    } else {
        unpacked_tool("debootstrap")?.join(PROGRAM)
    };
    let text = fs::read_to_string(&program)
        .with_context(|| format!("cannot read {}", program.display()))?;
    parse_debootstrap(&text).context("debootstrap names no mirror")
}

fn parse_debootstrap(program: &str) -> Option<String> {
    let mut named = program
        .lines()
        .filter_map(|line| line.trim().strip_prefix("DEF_MIRROR="));
    let mirror = named.next()?.trim_matches('"');
    (!mirror.is_empty()).then(|| mirror.trim_end_matches('/').to_owned())
}

/// A private configuration of apt in `directory`, for one architecture: with a suite of Debian's archive in a mirror, or with the
/// system's own sources.
fn private_source(
    directory: &Path,
    architecture: &str,
    archive: Option<(&str, &str)>,
) -> Result<Source> {
    for part in ["lists/partial", "cache/archives/partial", "etc"] {
        paths::make(&directory.join(part))?;
    }
    fs::write(directory.join("status"), "")?;
    let at = |part: &str| directory.join(part).display().to_string();
    let mut options = vec![
        format!("Dir::State={}", at("")),
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        format!("APT::Architecture={architecture}"),
        format!("APT::Architectures::={architecture}"),
        "APT::Sandbox::User=root".to_owned(),
    ];
    if let Some((mirror, suite)) = archive {
        let list = format!("deb [arch={architecture} signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(directory.join("etc/sources.list"), list)?;
        options.extend([
            format!("Dir::Etc::SourceList={}", at("etc/sources.list")),
            "Dir::Etc::SourceParts=/nonexistent".to_owned(),
            "Dir::Etc::PreferencesParts=/nonexistent".to_owned(),
        ]);
    }
    Ok(Source::Private(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_uris_give_file_and_length() {
        let line =
            "'http://mirror.example/p/ipxe_1.0_all.deb' ipxe_1.0_all.deb 1171912 SHA256:00\n";
        assert_eq!(
            parse_uri(line),
            Some(("ipxe_1.0_all.deb".to_owned(), 1_171_912))
        );
        assert_eq!(parse_uri("E: no such package"), None);
    }

    #[test]
    fn debians_archive_is_told_from_its_updates_whatever_its_release() {
        let text = "Debian trixie-updates main http://m.example/updates/\n\
                    Debian-Security trixie-security main http://m.example/security/\n\
                    Debian trixie main http://m.example/debian/\n";
        assert_eq!(
            parse_archive(text).as_deref(),
            Some("http://m.example/debian")
        );
        assert_eq!(
            parse_archive("Ubuntu noble main http://u.example/ubuntu/\n"),
            None
        );
    }

    #[test]
    fn debootstrap_names_a_mirror() {
        let text = "MIRRORS=\"\"\nDEF_MIRROR=\"http://m.example/debian\"\n";
        assert_eq!(
            parse_debootstrap(text).as_deref(),
            Some("http://m.example/debian")
        );
        assert_eq!(parse_debootstrap("DEF_MIRROR=\"\"\n"), None);
    }
}
