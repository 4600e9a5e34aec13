//! Whole firmware and boot loaders in the emulator, from the reset vector to what they show on the screen.

use std::path::PathBuf;
use std::process::Command;
use tests::firmware::FirmwarePc;

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
    let bios = file(&["/usr/share/seabios/bios-256k.bin".into()])?;
    let vgabios = file(&["/usr/share/seabios/vgabios-stdvga.bin".into()])?;
    Some(FirmwarePc::new(bios, &vgabios, cdrom))
}

fn expect(pc: &mut FirmwarePc, wanted: &str, limit: u64) {
    let start = std::time::Instant::now();
    if let Err(why) = pc.run_until(wanted, limit) {
        panic!("{wanted:?} does not appear: {why}");
    }
    println!(
        "{wanted:?} after {} instructions, {:.1} s",
        pc.vm.stats.software_instructions,
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
