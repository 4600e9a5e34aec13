//! Whole firmware and boot loaders in the emulator, from the reset vector to what they show on the screen.

use hv_core::machine::BootFrom;
use std::path::PathBuf;
use std::process::Command;
use tests::firmware::{FirmwarePc, Media};

/// A file of the system. None, and a word about it, if it is not there; an error if `UMBRA_REQUIRE_TOOLS=1` wants it to be.
fn file(places: &[PathBuf]) -> Option<Vec<u8>> {
    if let Some(found) = places.iter().find_map(|p| std::fs::read(p).ok()) {
        return Some(found);
    }
    assert!(
        std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() != Ok("1"),
        "none of {places:?} is there"
    );
    eprintln!("SKIPPED: none of {places:?} is there");
    None
}

/// A machine with SeaBIOS and a CD.
fn pc(cdrom: Vec<u8>) -> Option<FirmwarePc> {
    pc_with(Media {
        cdrom: Some(cdrom),
        ..Media::default()
    })
}

/// A machine with SeaBIOS and what it has to boot from.
fn pc_with(media: Media) -> Option<FirmwarePc> {
    let bios = file(&["/usr/share/seabios/bios-256k.bin".into()])?;
    let vgabios = file(&["/usr/share/seabios/vgabios-stdvga.bin".into()])?;
    Some(FirmwarePc::with(bios, &vgabios, media))
}

fn expect(pc: &mut FirmwarePc, wanted: &str, limit: u64) {
    let start = std::time::Instant::now();
    if let Err(why) = pc.run_until(wanted, limit) {
        panic!("{wanted:?} does not appear: {why}");
    }
    println!(
        "{wanted:?} after {} instructions, {:.1} s",
        pc.vcpu.stats.software_instructions,
        start.elapsed().as_secs_f32()
    );
}

/// GRUB's rescue CD, which `cargo xtask test` fetches.
fn grub_rescue() -> Option<Vec<u8>> {
    let guests = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests");
    file(&[
        PathBuf::from(guests).join("grub-rescue-cdrom.iso"),
        "/usr/lib/grub-rescue/grub-rescue-cdrom.iso".into(),
    ])
}

#[test]
fn seabios_boots_grub() {
    let Some(mut pc) = grub_rescue().and_then(pc) else {
        return;
    };
    expect(&mut pc, "SeaBIOS (version", 1 << 30);
    expect(&mut pc, "GNU GRUB  version 2.06", 1 << 32);
}

/// A CD with isolinux, a prompt and nothing else.
fn isolinux() -> Option<Vec<u8>> {
    let tree = std::env::temp_dir().join(format!("umbra-isolinux-{}", std::process::id()));
    let boot = tree.join("isolinux");
    let program = file(&["/usr/lib/ISOLINUX/isolinux.bin".into()])?;
    let core = file(&["/usr/lib/syslinux/modules/bios/ldlinux.c32".into()])?;
    std::fs::create_dir_all(&boot).unwrap();
    std::fs::write(boot.join("isolinux.bin"), program).unwrap();
    std::fs::write(boot.join("ldlinux.c32"), core).unwrap();
    std::fs::write(boot.join("isolinux.cfg"), "PROMPT 1\nDEFAULT none\n").unwrap();
    let image = tree.with_extension("iso");
    let made = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-o"])
        .arg(&image)
        .args(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"])
        .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
        .arg(&tree)
        .status();
    let cd = match made {
        Ok(status) => {
            assert!(status.success(), "xorriso fails");
            file(std::slice::from_ref(&image))
        }
        Err(e) => {
            assert!(
                std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() != Ok("1"),
                "xorriso: {e}"
            );
            eprintln!("SKIPPED: xorriso: {e}");
            None
        }
    };
    let _ = std::fs::remove_dir_all(&tree);
    let _ = std::fs::remove_file(&image);
    cd
}

#[test]
fn seabios_boots_isolinux() {
    let Some(mut pc) = isolinux().and_then(pc) else {
        return;
    };
    expect(&mut pc, "boot:", 100_000_000);
    // The scan codes of "abc" and Enter.
    for code in [0x1e, 0x30, 0x2e, 0x1c] {
        pc.key(code);
    }
    expect(&mut pc, "Loading abc... failed", 10_000_000);
}

/// A boot sector as DOS-like systems begin: it reads a sector by INT 13h, writes it to the disk's last track, reads it from there and
/// shows it.
const BOOT_SECTOR: [u8; 78] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // ax, ds, es, ss = 0
    0xbc, 0x00, 0x7c, // sp = 7C00h
    0xbb, 0x00, 0x7e, // bx = 7E00h
    0xb8, 0x01, 0x02, 0xb9, 0x03, 0x01, 0xb6,
    0x01, // read one sector: cylinder 1, head 1, sector 3
    0xcd, 0x13, 0x72, 0x2d, // INT 13h; if it fails, say F
    0xb8, 0x01, 0x03, 0xb9, 0x12, 0x4f, 0xb6,
    0x00, // write it: cylinder 79, head 0, sector 18
    0xcd, 0x13, 0x72, 0x21, //
    0xc7, 0x07, 0x58, 0x00, // spoil the buffer
    0xb8, 0x01, 0x02, 0xb9, 0x12, 0x4f, 0xb6, 0x00, // read what was written
    0xcd, 0x13, 0x72, 0x11, //
    0xbe, 0x00, 0x7e, // si = 7E00h
    0xac, 0x84, 0xc0, 0x74, 0x06, 0xb4, 0x0e, 0xcd, 0x10, 0xeb, 0xf5, // show it by INT 10h
    0xf4, 0xeb, 0xfd, // halt
    0xb8, 0x46, 0x0e, 0xcd, 0x10, 0xeb, 0xf6, // F
];

/// A floppy of `spt` sectors a track with that boot sector. `writes` is false for a disk that cannot be written.
fn floppy(spt: usize, text: &str, writes: bool) -> Vec<u8> {
    let mut image = vec![0; 80 * 2 * spt * 512];
    image[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    if !writes {
        // From the first read to what shows it.
        image[26..28].copy_from_slice(&[0xeb, 0x1a]);
    }
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let sector = ((2 + 1) * spt + 2) * 512;
    image[sector..sector + text.len()].copy_from_slice(text.as_bytes());
    image
}

#[test]
fn seabios_boots_a_floppy_which_reads_and_writes_itself() {
    let media = Media {
        floppy: Some(floppy(18, "from head 1", true)),
        ..Media::default()
    };
    if let Some(mut pc) = pc_with(media) {
        expect(&mut pc, "Booting from Floppy", 1 << 30);
        expect(&mut pc, "from head 1", 1 << 28);
    }
}

/// SeaBIOS tries the data rates in turn.
#[test]
fn seabios_boots_a_floppy_of_720_kb() {
    let mut image = floppy(9, "half as dense", true);
    // The sector that is written: 9 is the last.
    image[30] = 9;
    image[46] = 9;
    let media = Media {
        floppy: Some(image),
        ..Media::default()
    };
    if let Some(mut pc) = pc_with(media) {
        expect(&mut pc, "half as dense", 1 << 30);
    }
}

/// A CD image that boots `floppy` as El Torito's emulated floppy (1.5, figure 4, boot media type 2).
fn el_torito_floppy(floppy: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 2048;
    let mut cd = vec![0; 20 * BLOCK + floppy.len()];
    let mut put = |block: usize, at: usize, bytes: &[u8]| {
        cd[block * BLOCK + at..][..bytes.len()].copy_from_slice(bytes);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &19u32.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    put(19, 0, &[1]);
    put(19, 28, &[0xaa, 0x55, 0x55, 0xaa]);
    put(19, 32, &[0x88, 2, 0, 0, 0, 0, 1, 0, 20, 0, 0, 0]);
    put(20, 0, floppy);
    cd
}

#[test]
fn seabios_boots_a_floppy_that_el_torito_emulates() {
    let media = Media {
        cdrom: Some(el_torito_floppy(&floppy(18, "on a CD", false))),
        ..Media::default()
    };
    if let Some(mut pc) = pc_with(media) {
        expect(&mut pc, "on a CD", 1 << 30);
    }
}

#[test]
fn what_boots_first_can_be_chosen() {
    let media = |boot| Media {
        cdrom: Some(el_torito_floppy(&floppy(18, "from the CD", false))),
        floppy: Some(floppy(18, "from the floppy", true)),
        disks: vec![
            (0, floppy(18, "from the disk", false)),
            (1, floppy(18, "from the other disk", false)),
        ],
        boot,
    };
    for (boot, wanted) in [
        (None, "Booting from Hard Disk"),
        (Some(BootFrom::Disk), "Booting from Hard Disk"),
        (Some(BootFrom::Cdrom), "from the CD"),
        (Some(BootFrom::Floppy), "from the floppy"),
    ] {
        let Some(mut pc) = pc_with(media(boot)) else {
            return;
        };
        expect(&mut pc, wanted, 1 << 30);
    }
}
