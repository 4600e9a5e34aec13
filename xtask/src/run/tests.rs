//! What the command line may ask for.

use super::options::TIMEOUT;
use super::*;
use crate::cli::{Cli, Command};
use crate::media::{Boots, Kind, Medium};
use crate::outcome::Refused;
use crate::rig::{BOCHS_VMX, Boot, MIB, Net, Paging};
use crate::vm::Vm;
use clap::Parser;
use std::time::Duration;

fn check(line: &str) -> Result<Options> {
    let cli = Cli::try_parse_from(format!("xtask run {line}").split_whitespace())?;
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    let steps = args
        .types
        .iter()
        .map(|text| Step::Type(text.clone()))
        .chain(args.mouse.iter().map(|words| Step::Mouse(words.clone())))
        .chain(args.until.iter().map(|text| Step::Until(text.clone())));
    let focus = args.focus.iter().map(|&number| Step::Focus(number));
    Options::check(&args, focus.chain(steps).collect())
}

fn refusal(line: &str) -> String {
    let error = check(line).expect_err(line);
    assert!(error.is::<Refused>(), "{line}: {error}");
    error.to_string()
}

#[test]
fn each_guest_has_its_own_number_of_cpus_and_the_outer_machine_has_one() {
    let option = |line| {
        let options = check(&format!("--headless {line}")).unwrap();
        options.vm.options(0, false).to_string()
    };
    assert_eq!(option("--cpus 1"), "memory=1024M paging=nested");
    assert_eq!(option("--cpus 4"), "memory=1024M cpus=4 paging=nested");
    assert_eq!(
        option("--cpus 2 --max-cpus 8"),
        "memory=1024M cpus=2 max-cpus=8 paging=nested"
    );
    assert_eq!(
        option("--max-cpus 8"),
        "memory=1024M max-cpus=8 paging=nested"
    );
    let options = check("--cpus 4 --vm=--cpus=3").unwrap();
    assert_eq!((options.vm.cpus, options.others[0].cpus), (4, 3));
    assert_eq!(check("--host-cpus 4").unwrap().host_cpus, 4);
    assert!(refusal("--cpus 4 --max-cpus 2").contains("less than --cpus 4"));
    assert!(refusal("--cpus 33").contains("from 1 to 32"));
    assert!(refusal("--rig bochs-vmx --host-cpus 9").contains("from 1 to 8"));
}

#[test]
fn paging_is_nested_shadow_or_both_in_turn() {
    let option = |line| {
        let options = check(&format!("--headless {line}")).unwrap();
        options.vm.options(0, false).to_string()
    };
    assert_eq!(option(""), "memory=1024M paging=nested");
    assert_eq!(option("--paging shadow"), "memory=1024M paging=shadow");
    assert_eq!(
        option("--paging alternate:100ms --shadow vtlb"),
        "memory=1024M paging=alternate:100ms shadow=vtlb"
    );
    assert!(refusal("--shadow vtlb").contains("--paging shadow"));
    for wrong in ["both", "alternate", "alternate:0ms", "alternate:5s"] {
        assert!(wrong.parse::<Paging>().is_err(), "{wrong}");
    }
}

#[test]
fn there_is_a_tablet_where_somebody_looks_unless_it_is_said() {
    let tablets = |line| {
        let options = check(line).unwrap();
        (options.vm.tablet, options.others[0].tablet)
    };
    assert_eq!(tablets("--vm=--memory=64M"), (true, true));
    assert_eq!(tablets("--headless --vm=--memory=64M"), (false, false));
    assert_eq!(
        tablets("--vnc 5901 --tablet off --vm=--memory=64M"),
        (false, true)
    );
    assert_eq!(tablets("--headless --vm=--tablet=on"), (false, true));
    assert!(check("--vnc 5901").unwrap().window);
    assert!(refusal("--rig bochs-vmx --vnc 5901").contains("--vnc cannot go with"));
}

#[test]
fn a_rig_brings_its_cpu_and_takes_only_such_as_fit() {
    let options = check("--rig bochs-vmx").unwrap();
    assert_eq!(
        (options.rig, options.cpu_model.as_str()),
        (BOCHS_VMX, "corei7_skylake_x")
    );
    let options = check("--rig bochs-svm --cpu-model zambezi").unwrap();
    assert_eq!(options.cpu_model, "zambezi");
    assert!(refusal("--rig bochs-vmx --cpu-model ryzen").contains("is for --rig bochs-svm"));
}

#[test]
fn a_rig_says_what_its_machine_has_not() {
    for (line, word) in [
        ("--rig kvm-in-qemu --icount", "--icount cannot go"),
        ("--rig kvm-in-qemu --net user", "the Linux between"),
        ("--rig bochs-vmx --net user", "no driver"),
    ] {
        let text = refusal(line);
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(check("--rig kvm-in-qemu").unwrap().network.net, Net::None);
}

#[test]
fn the_focus_goes_to_a_machine_that_is_there() {
    assert!(refusal("--focus 2").contains("no such virtual machine"));
    assert!(refusal("--focus 0").contains("no such virtual machine"));
    let eight = ["--vm="; 8].join(" ");
    assert!(refusal(&eight).contains("8 virtual machines"));
    let options = check("--focus 2 --vm=--memory=64M --paging shadow").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let disk = scratch.path().join("d.img");
    fs::write(&disk, [0; 512]).unwrap();
    let vm = |vm: &Vm| Vm {
        guest: Some(Medium {
            path: disk.clone(),
            readonly: false,
            format: crate::media::Format::Raw,
            kind: Kind::Disk,
            boots: Boots::Bios,
            length: 512,
            warnings: Vec::new(),
        }),
        ..vm.clone()
    };
    let options = Options {
        vm: vm(&options.vm),
        others: vec![vm(&options.others[0])],
        ..options
    };
    let machine = machine(&options, Path::new("/u"), None, scratch.path()).unwrap();
    let Boot::Multiboot { options, .. } = machine.boot else {
        panic!("not by Multiboot");
    };
    assert!(
        options.ends_with("memory=1024M paging=shadow tablet vm=2 memory=64M paging=nested tablet"),
        "{options}"
    );
    assert_eq!(machine.drives.len(), 2);
    assert!(machine.memory > 1088 * MIB);
}

#[test]
fn a_guest_that_is_too_large_for_bochs_is_refused() {
    let guest = Medium {
        path: "/g.iso".into(),
        readonly: false,
        format: crate::media::Format::Raw,
        kind: Kind::Cdrom,
        boots: Boots::Bios,
        length: 100 * MIB,
        warnings: Vec::new(),
    };
    let outer = |memory: &str| {
        let mut options = check(&format!("--rig bochs-svm --memory {memory}")).unwrap();
        options.vm.guest = Some(guest.clone());
        machine(&options, Path::new("/u"), None, Path::new("/"))
    };
    assert!(outer("1900M").is_ok());
    let error = outer("2G").unwrap_err();
    assert!(error.is::<Refused>());
    assert!(
        error.to_string().contains("bochs-svm can have 2048M"),
        "{error}"
    );
}

#[test]
fn numbers_that_are_none_are_refused() {
    for line in [
        "--cpus 0",
        "--cpus x",
        "--cpus -1",
        "--max-cpus 0",
        "--host-cpus 0",
        "--host-cpus 33",
        "--vm=--cpus=0",
        "--memory 16M",
        "--memory lots",
        "--timeout 0",
        "--timeout -1",
        "--timeout x",
    ] {
        refusal(line);
    }
}

#[test]
fn files_that_are_not_there_are_refused() {
    for line in [
        "/nonexistent.iso",
        "--disk /nonexistent/d.img",
        "--screenshot /nonexistent/a.png",
    ] {
        assert!(refusal(line).contains("nonexistent"), "{line}");
    }
}

#[test]
fn a_screenshot_needs_a_file_and_what_is_written_is_used_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    assert!(refusal(&format!("--screenshot {path}")).contains("is a directory"));
    for line in [
        format!("--disk {path}/a.img --disk {path}/a.img"),
        format!(
            "--disk {path}/a.img --disk {path}/../{}/a.img",
            directory.path().file_name().unwrap().display()
        ),
        format!("--disk {path}/a.img --vm=--disk={path}/a.img"),
        format!("--disk {path}/a.img --report {path}/a.img"),
        format!("--screenshot {path}/a.png --report {path}/a.png"),
    ] {
        assert!(refusal(&line).contains("used twice"), "{line}");
        assert!(!directory.path().join("a.img").exists(), "nothing is made");
    }
    check(&format!("--disk {path}/a.img --vm=--disk={path}/b.img")).unwrap();
}

#[test]
fn a_disk_that_is_only_read_is_one_for_umbra_too_and_may_be_anothers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let image = directory.path().join("a.img");
    assert!(refusal(&format!("--disk {path}/a.img,readonly")).contains("is not made"));
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&image, sector).unwrap();
    let drives = |line: &str| {
        let options = check(line).unwrap();
        let machine = machine(&options, Path::new("/u"), None, directory.path()).unwrap();
        let disks = machine.drives.into_iter();
        let disks = disks.filter(|drive| drive.serial.contains("disk"));
        disks
            .map(|disk| (disk.serial, disk.writable))
            .collect::<Vec<_>>()
    };
    let two = format!("{path}/a.img,readonly --vm={path}/a.img,readonly");
    let (first, second) = ("umbra-disk".to_owned(), "umbra-vm2-disk".to_owned());
    assert_eq!(drives(&two), [(first.clone(), false), (second, false)]);
    let further = format!("{path}/a.img --disk {path}/b.img");
    let disk2 = "umbra-disk2".to_owned();
    assert_eq!(drives(&further), [(first.clone(), true), (disk2, true)]);
    let snapshot = format!("--snapshot {path}/a.img,readonly");
    assert_eq!(drives(&snapshot), [(first, false)]);
    let mixed = format!("{path}/a.img --vm={path}/a.img,readonly");
    assert!(refusal(&mixed).contains("used twice"));
    let bochs = format!("--rig bochs-vmx {path}/a.img,readonly");
    assert!(refusal(&bochs).contains("opens every disk to write it"));
    // A variable store that is not there is not made for such a disk.
    let uefi = format!("--firmware uefi {path}/a.img,readonly");
    assert_eq!(drives(&uefi).len(), 1);
    assert!(!directory.path().join("a.img.vars").exists());
    // A run that keeps nothing makes none there either.
    let scratch = tempfile::tempdir().unwrap();
    let options = check(&format!("--snapshot --firmware uefi {path}/a.img")).unwrap();
    let machine = machine(&options, Path::new("/u"), None, scratch.path()).unwrap();
    let vars = machine
        .drives
        .iter()
        .find(|drive| drive.serial == "umbra-vars");
    assert_eq!(vars.unwrap().path, scratch.path().join("vars"));
    assert!(!directory.path().join("a.img.vars").exists());
}

#[test]
fn a_kernels_options_need_a_kernel() {
    assert!(refusal("--cmdline quiet").contains("needs a Linux kernel"));
}

#[test]
fn keys_that_cannot_be_typed_are_refused() {
    assert!(refusal("--type ü").contains("US keyboard"));
    assert!(refusal("--mouse jump").contains("nothing a mouse does"));
}

#[test]
fn the_timeout_is_120_seconds_but_not_for_a_person_at_a_window() {
    assert_eq!(check("--headless").unwrap().timeout, Some(TIMEOUT));
    assert_eq!(check("--until x").unwrap().timeout, Some(TIMEOUT));
    assert_eq!(check("").unwrap().timeout, None);
    assert_eq!(
        check("--timeout 0.5").unwrap().timeout,
        Some(Duration::from_millis(500))
    );
}

#[test]
fn a_kernel_that_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinuz");
    let mut kernel = vec![0; 4096];
    kernel[510..512].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x260..0x264].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    fs::write(&path, &kernel).unwrap();
    assert!(refusal(&format!("{} --memory 64M", path.display())).contains("need 80M"));
    assert!(check(&format!("{} --memory 128M", path.display())).is_ok());
}

#[test]
fn the_report_gets_a_host_section() {
    let host = Host {
        wall_seconds: 1.5,
        cpu_seconds: Some(2.0),
        exit: 0,
    };
    let text = with_host("{\"exits\": {\"cpuid\": 7}}", host).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["host"]["wall_seconds"], 1.5);
    assert_eq!(report["exits"]["cpuid"], 7);
    assert!(with_host("[]", host).is_err());
}

#[test]
fn what_the_guests_say_is_kept_beside_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("debian-7.log");
    let mut kept = Com1Logs {
        log: &log,
        files: BTreeMap::new(),
    };
    for (vm, text) in [(1, "one "), (2, "two"), (1, "more")] {
        kept.keep(vm, text.as_bytes());
    }
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("debian-7-com1.log"), "one more");
    assert_eq!(read("debian-7-vm2-com1.log"), "two");
    let nowhere = directory.path().join("none/debian-7.log");
    let mut kept = Com1Logs {
        log: &nowhere,
        files: BTreeMap::new(),
    };
    kept.keep(1, b"lost");
}
