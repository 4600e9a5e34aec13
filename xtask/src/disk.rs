//! A raw hard disk image with its own boot loader: GRUB in the master boot record, Linux on an ext2 partition.
//!
//! The RAM disk's script counts the disk's boots in a sector between the two, so that a second boot shows that the first
//! one's write has stayed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::paths;
use crate::progress::Step;

const SECTOR: usize = 512;
/// Where the partition starts: the usual mebibyte.
const PARTITION: usize = 2048;
/// The partition's length in KiB.
const PARTITION_KIB: usize = 48 << 10;
/// Where the boots are counted; `init.sh` knows it too.
const COUNTER: usize = 2000;
const GRUB: &str = "/usr/lib/grub/i386-pc";

const CONFIG: &str = "\
serial --unit=0 --speed=115200
terminal_output console serial
echo GUEST-GRUB
linux /vmlinuz console=tty0 console=ttyS0 umbra.then=poweroff
initrd /initrd.img
boot
";

/// Makes a disk image in `path` which boots `kernel` with `initrd`.
///
/// # Errors
///
/// A file cannot be read, a tool fails, or the image cannot be written.
pub fn make(path: &Path, kernel: &Path, initrd: &Path) -> Result<()> {
    let step = Step::start(format!("Writing {}", path.display()));
    let parent = path.parent().context("the image has no directory")?;
    let scratch = tempfile::Builder::new()
        .prefix("disk-")
        .tempdir_in(parent)?;
    let root = scratch.path().join("root");
    paths::make(&root.join("boot/grub"))?;
    fs::copy(kernel, root.join("vmlinuz"))
        .with_context(|| format!("cannot copy {}", kernel.display()))?;
    fs::copy(initrd, root.join("initrd.img"))
        .with_context(|| format!("cannot copy {}", initrd.display()))?;
    fs::write(root.join("boot/grub/grub.cfg"), CONFIG)?;
    let partition = scratch.path().join("partition");
    command::run(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext2", "-d"])
            .arg(&root)
            .arg(&partition)
            .arg(format!("{PARTITION_KIB}k")),
    )?;
    let core = scratch.path().join("core.img");
    command::run(
        Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"])
            .arg(&core)
            .args([
                "biosdisk",
                "part_msdos",
                "ext2",
                "linux",
                "normal",
                "serial",
                "terminal",
                "echo",
            ]),
    )?;
    let boot =
        fs::read(Path::new(GRUB).join("boot.img")).context("cannot read GRUB's boot sector")?;
    let image = assemble(&boot, &fs::read(&core)?, &fs::read(&partition)?)?;
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, image)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))?;
    step.done();
    Ok(())
}

/// Puts boot sector, GRUB, counter and partition where they belong.
fn assemble(boot: &[u8], core: &[u8], partition: &[u8]) -> Result<Vec<u8>> {
    /// The boot sector's code, before the disk's signature and the partitions.
    const CODE: usize = 440;
    /// The first of four partition entries.
    const ENTRY: usize = 446;
    ensure!(boot.len() >= CODE, "GRUB's boot sector is too short");
    ensure!(
        core.len() <= (COUNTER - 1) * SECTOR,
        "GRUB does not fit before the partition"
    );
    let mut image = vec![0; PARTITION * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| {
        let place = image
            .get_mut(at..at + bytes.len())
            .context("it lies beyond the partition's start")?;
        place.copy_from_slice(bytes);
        anyhow::Ok(())
    };
    put(0, boot.get(..CODE).unwrap_or_default())?;
    // Active, addresses as cylinder, head and sector that say "too large", Linux.
    put(ENTRY, &[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff])?;
    put(ENTRY + 8, &u32::try_from(PARTITION)?.to_le_bytes())?;
    put(
        ENTRY + 12,
        &u32::try_from(partition.len() / SECTOR)?.to_le_bytes(),
    )?;
    put(510, &[0x55, 0xaa])?;
    put(SECTOR, core)?;
    put(COUNTER * SECTOR, b"UMBRA-BOOTS 0\n")?;
    image.extend_from_slice(partition);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_where_the_boot_loader_and_the_script_look() {
        let image = assemble(&[0xeb; 512], &[0xcc; 1000], &[0xee; 4096]).unwrap();
        assert_eq!(image[439], 0xeb);
        assert_eq!(image[440], 0);
        assert_eq!(image[446], 0x80);
        assert_eq!(image[454..462], [0, 8, 0, 0, 8, 0, 0, 0]);
        assert_eq!(image[510..512], [0x55, 0xaa]);
        assert_eq!(image[512], 0xcc);
        assert_eq!(image[2000 * 512..][..11], *b"UMBRA-BOOTS");
        assert_eq!(image[2048 * 512], 0xee);
        assert!(crate::initrd::INIT.contains(&format!("skip={COUNTER}")));
    }

    #[test]
    fn a_boot_loader_that_does_not_fit_is_an_error() {
        assert!(assemble(&[0; 512], &vec![0; PARTITION * SECTOR], &[]).is_err());
        assert!(assemble(&[0; 12], &[], &[]).is_err());
    }
}
