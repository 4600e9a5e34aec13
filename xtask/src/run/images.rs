//! Which files a run uses, and that none of them is used in two ways that cannot both be.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::{RunArgs, VmArgs};
use crate::firmware::{self, Firmware};
use crate::media::{Kind, Medium};
use crate::outcome::refuse;
use crate::vm::Vm;

/// A file of a run.
struct Use {
    path: PathBuf,
    /// Where it really is.
    place: PathBuf,
    /// Whether something writes it.
    written: bool,
}

/// Where `path` really is, though there may be no such file yet.
fn place(path: &Path) -> PathBuf {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    path.canonicalize()
        .or_else(|_| {
            Ok(directory
                .canonicalize()?
                .join(path.file_name().unwrap_or_default()))
        })
        .unwrap_or_else(|_: std::io::Error| path.to_owned())
}

/// Checks the files of these virtual machines, each with its options, and those that the run writes: a file that is written is used once.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) that names a file that is used twice.
pub fn check(args: &RunArgs, vms: &[(&VmArgs, &Vm)]) -> Result<()> {
    let mut uses: Vec<Use> = Vec::new();
    let mut add = |path: &Path, written| -> Result<()> {
        let place = place(path);
        if let Some(other) = uses.iter().find(|other| other.place == place)
            && (written || other.written)
        {
            let name = other.path.display();
            refuse!(
                "{name} is used twice: what is written to can be one disk, floppy or file only"
            );
        }
        let path = path.to_owned();
        uses.push(Use {
            path,
            place,
            written,
        });
        Ok(())
    };
    for (args, vm) in vms {
        if let Some(guest) = &vm.guest {
            let written = matches!(guest.kind, Kind::Disk | Kind::Floppy);
            add(&guest.path, written && !guest.readonly)?;
        }
        if let Some((path, _)) = &vm.initrd {
            add(path, false)?;
        }
        for path in &args.cdrom {
            add(path, false)?;
        }
        for disk in &args.disk {
            add(&disk.path, !disk.readonly)?;
        }
        let itself = vm.guest.as_ref().and_then(Medium::disk);
        let disk = itself.as_ref().or(args.disk.first());
        if let Some(disk) = disk.filter(|_| vm.firmware != Firmware::Bios) {
            add(&firmware::variables_beside(&disk.path), !disk.readonly)?;
        }
        for floppy in &vm.floppies {
            add(&floppy.path, floppy.writable)?;
        }
    }
    for path in [&args.screenshot, &args.report].into_iter().flatten() {
        add(path, true)?;
    }
    Ok(())
}
