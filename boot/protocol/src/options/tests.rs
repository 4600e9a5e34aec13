//! What is written is what is read, and any line is read or refused.

use super::value::MIB;
use super::*;
use hv_core::testing::Random;
use std::string::ToString;

fn random_share(r: &mut Random) -> Share {
    let usual = Share::default();
    Share {
        weight: r.pick(&[usual.weight, 1, MAX_WEIGHT]),
        cap: r.pick(&[usual.cap, 1, MAX_CAP]),
        warp: r.pick(&[usual.warp, 1, MAX_WARP]),
    }
}

fn random_nics(r: &mut Random) -> Nics {
    let mut nics = Nics::default();
    for _ in 0..r.below(MAX_NICS as u64 + 1) {
        let card = Card {
            nic: r.pick(&Nic::ALL),
            mac: None,
        };
        let address = Mac([2, 0, 0, 0, 0, r.next() as u8]);
        let has_address = card.nic != Nic::None && r.below(2) == 0;
        // What cannot be said is not.
        let _ = nics.add(Card {
            mac: has_address.then_some(address),
            ..card
        });
    }
    nics
}

fn random_profile(r: &mut Random) -> Profile {
    let enlighten = Enlighten {
        kvm: r.below(2) == 0,
        hyperv: r.below(2) == 0,
    };
    let minutes = r.below(2 * MAX_OFFSET as u64 + 1) as i16 - MAX_OFFSET;
    Profile {
        os: r.pick(&Os::ALL),
        enlighten: (r.below(2) == 0).then_some(enlighten),
        rtc: r.pick(&[None, Some(Rtc::Utc), Some(Rtc::Local(minutes))]),
        unknown_msrs: r.pick(&[UnknownMsrs::Fault, UnknownMsrs::Ignore]),
        hpet: r.below(2) == 0,
        disk_bus: (r.below(2) == 0).then(|| r.pick(&DiskBus::ALL)),
        cd_bus: (r.below(2) == 0).then(|| r.pick(&CdBus::ALL)),
        nics: random_nics(r),
        console: r.pick(&Console::ALL),
        rng: r.pick(&[None, Some(true), Some(false)]),
        balloon: r.pick(&[None, Some(true), Some(false)]),
    }
}

fn random_vm(r: &mut Random) -> Vm<'static> {
    let places = |r: &mut Random| {
        let place = |r: &mut Random| HostDrive {
            place: Place {
                channel: r.next() as u8,
                position: r.below(2) as u8,
            },
            readonly: r.below(2) == 0,
        };
        (0..r.below(MAX_MEDIA as u64 + 1))
            .map(|_| place(r))
            .collect()
    };
    let cpus = (r.below(2) == 0).then(|| 1 + r.below(32) as u32);
    let least = cpus.unwrap_or(1);
    Vm {
        memory: (r.below(4) != 0).then(|| (32 + r.below(512 * 1024 - 31)) * MIB),
        cpus,
        max_cpus: (r.below(2) == 0).then(|| least + r.below(u64::from(33 - least)) as u32),
        share: random_share(r),
        paging: match r.below(3) {
            0 => Paging::Nested,
            1 => Paging::Shadow,
            _ => Paging::Alternate(1 + r.below(1_000_000) as u32),
        },
        shadow: (r.below(2) == 0).then(|| Shadow::ALL[r.below(3) as usize]),
        profile: random_profile(r),
        record: r.below(10_001) as u32,
        trace: r.pick(&[None, Some("all"), Some("reason:cpuid+hlt,pc:0x10-0x20")]),
        count: r.below(2) == 0,
        cdroms: places(r),
        disks: places(r),
        floppies: places(r),
        boot: r.pick(&[None, Some(BootFrom::Cd), Some(BootFrom::Net)]),
        tablet: r.below(2) == 0,
        breaks: r.pick(&[None, Some("cr3-write,exec:0x7c00")]),
        break_ends: r.below(2) == 0,
        gdb_wait: r.below(2) == 0,
        later: r.below(2) == 0,
        cmdline: None,
    }
}

#[test]
fn what_the_tool_writes_is_what_umbra_reads() {
    let mut r = Random::from_env("UMBRA_SEED", 11);
    for _ in 0..5_000 {
        let vms: Vec<_> = (0..=r.below(8)).map(|_| random_vm(&mut r)).collect();
        let mut options = Options {
            control: r.pick(&[None, Some(Transport::Com2), Some(Transport::E9)]),
            window: r.below(2) == 0,
            check: r.below(2) == 0,
            host_cpus: r.pick(&[None, Some(1), Some(MAX_CPUS)]),
            selftest: r
                .pick(&[None, Some(Failure::Overflow("main")), Some(Failure::Panic)])
                .map(|failure| SelfTest {
                    failure,
                    cpu: r.below(32) as usize,
                }),
            vms,
        };
        options.vms[0].cmdline = r.pick(&[None, Some("quiet vm=3 -- memory=1"), Some("")]);
        let line = options.to_string();
        let read = Options::parse(&line, &mut |word| panic!("{word} is not known"));
        assert_eq!(read, Ok(options.clone()), "{line}");
        assert_eq!(count(&line), options.vms.len());
        assert_eq!(control(&line), options.control);
    }
}

#[test]
fn any_line_is_read_or_refused_and_what_was_read_stays_within_the_limits() {
    let mut r = Random::from_env("UMBRA_SEED", 12);
    let pieces = [
        "memory=",
        "cpus=",
        "max-cpus=",
        "host-cpus=",
        "weight=",
        "cap=",
        "warp=",
        "paging=",
        "shadow=",
        "os=",
        "windows",
        "enlighten=",
        "rtc=",
        "local:",
        "unknown-msrs=",
        "hpet=",
        "on",
        "hyperv",
        ",",
        "record=",
        "trace=",
        "tablet",
        "gdb-wait",
        "balloon=",
        "start=",
        "later",
        "break=",
        "cdrom=",
        "disk=",
        "vm=",
        "control=",
        "window",
        "check",
        "alternate:",
        "ms",
        "nested",
        "unsync",
        "ata",
        ".",
        "com2",
        "e9",
        "M",
        "G",
        "0",
        "1",
        "2",
        "32",
        "512",
        "99999999999999999999",
        " ",
        " ",
        " ",
        " -- ",
        "é",
        "=",
        "-",
        "+",
    ];
    for _ in 0..50_000 {
        let line: String = (0..r.below(20)).map(|_| r.pick(&pieces)).collect();
        assert!((1..=8).contains(&count(&line)));
        match Options::parse(&line, &mut |_| {}) {
            Ok(options) => {
                assert!((1..=8).contains(&options.vms.len()));
                for vm in &options.vms {
                    let memory = vm.memory.unwrap_or(MIN_MEMORY);
                    assert!((MIN_MEMORY..=MAX_MEMORY).contains(&memory));
                    assert!(vm.record <= MAX_RECORD);
                    assert!((1..=vm.max_cpus()).contains(&vm.cpus()));
                    assert!(vm.max_cpus() <= MAX_CPUS);
                    let Share { weight, cap, warp } = vm.share;
                    assert!((1..=MAX_WEIGHT).contains(&weight));
                    assert!(cap <= MAX_CAP && warp <= MAX_WARP);
                }
                let again = options.to_string();
                assert_eq!(Options::parse(&again, &mut |_| {}), Ok(options));
            }
            Err(wrong) => assert!(line.contains(wrong.word)),
        }
    }
}

#[test]
fn a_wrong_word_is_named() {
    for (line, word) in [
        ("memory=16M", "memory=16M"),
        ("memory=33000K", "memory=33000K"),
        ("memory=1T", "memory=1T"),
        ("cpus=0", "cpus=0"),
        ("cpus=33", "cpus=33"),
        ("cpus=two", "cpus=two"),
        ("cpus=04", "cpus=04"),
        ("max-cpus=33", "max-cpus=33"),
        ("cpus=4 max-cpus=2", "max-cpus=2"),
        ("max-cpus=2 cpus=4", "cpus=4"),
        ("weight=0", "weight=0"),
        ("weight=10001", "weight=10001"),
        ("cap=0", "cap=0"),
        ("cap=20%", "cap=20%"),
        ("cap=3201", "cap=3201"),
        ("warp=1001", "warp=1001"),
        ("window paging=both", "paging=both"),
        ("paging=alternate:0ms", "paging=alternate:0ms"),
        ("shadow=none", "shadow=none"),
        ("os=dos", "os=dos"),
        ("os=windows rtc=local:+900", "rtc=local:+900"),
        ("unknown-msrs=", "unknown-msrs="),
        ("hpet", "hpet"),
        ("enlighten=xen", "enlighten=xen"),
        ("enlighten=", "enlighten="),
        ("enlighten=none,kvm", "enlighten=none,kvm"),
        ("record=10001", "record=10001"),
        ("trace", "trace"),
        ("cdrom=ata0", "cdrom=ata0"),
        ("disk=ata0.2", "disk=ata0.2"),
        ("boot=hd", "boot=hd"),
        ("disk-bus=scsi", "disk-bus=scsi"),
        ("cd-bus=virtio", "cd-bus=virtio"),
        ("nic=e100", "nic=e100"),
        ("console=hvc0", "console=hvc0"),
        ("rng=yes", "rng=yes"),
        ("balloon=512M", "balloon=512M"),
        ("start=soon", "start=soon"),
        ("vm=3", "vm=3"),
        ("vm=2 vm=2", "vm=2"),
        ("control=com1", "control=com1"),
        ("vm=2 vm=3 vm=4 vm=5 vm=6 vm=7 vm=8 vm=9", "vm=9"),
    ] {
        let wrong = Options::parse(line, &mut |_| {}).unwrap_err();
        assert_eq!(wrong.word, word);
        assert!(wrong.to_string().contains(word));
    }
}

#[test]
fn a_guest_can_have_as_many_cpus_as_it_starts_with_unless_more_are_asked_for() {
    for (line, counts) in [
        ("", (1, 1)),
        ("cpus=4", (4, 4)),
        ("max-cpus=8", (1, 8)),
        ("max-cpus=32 cpus=2", (2, 32)),
        ("cpus=3 max-cpus=3", (3, 3)),
    ] {
        let options = Options::parse(line, &mut |_| {}).unwrap();
        let vm = &options.vms[0];
        assert_eq!((vm.cpus(), vm.max_cpus()), counts, "{line}");
    }
    let options = Options::parse("cpus=4 vm=2 max-cpus=2", &mut |_| {}).unwrap();
    assert_eq!(options.vms[1].cpus(), 1, "each has its own");
}

#[test]
fn places_are_channel_and_position() {
    let at = |channel, position| Place { channel, position };
    assert_eq!("ata0.1".parse(), Ok(at(0, 1)));
    assert_eq!("ata12.0".parse(), Ok(at(12, 0)));
    for bad in [
        "", "ata", "ata0", "ata.1", "ata0.2", "ata0.1.", "sda", "ata00.1", "ata+0.1", "ata256.0",
        "ATA0.1",
    ] {
        assert!(bad.parse::<Place>().is_err(), "{bad}");
    }
    let drive = |text: &str| {
        text.parse()
            .map(|HostDrive { place, readonly }| (place, readonly))
    };
    assert_eq!(drive("ata1.0"), Ok((at(1, 0), false)));
    assert_eq!(drive("ata1.0,readonly"), Ok((at(1, 0), true)));
    for bad in [
        ",readonly",
        "ata1.0,",
        "ata1.0,ro",
        "ata1.0,readonly,readonly",
    ] {
        assert!(drive(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_boot_loaders_add_is_passed_over() {
    let mut unknown = Vec::new();
    let line = "BOOT_IMAGE=/umbra window=1 memory=64M root=x -- memory=1M";
    let options = Options::parse(line, &mut |word| unknown.push(word)).unwrap();
    assert_eq!(unknown, ["BOOT_IMAGE=/umbra", "root=x"]);
    assert!(options.window);
    assert_eq!(options.vms[0].memory, Some(64 * MIB));
    assert_eq!(options.vms[0].cmdline, Some("memory=1M"));
}
