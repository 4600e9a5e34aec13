//! Several virtual machines on one Umbra.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::{Nic, Nics, Profile, Share};

use super::network::md5;
use super::{Case, by_hand, keys, on, on_host_cpus, own, until, with_cpus};
use crate::guests::Guest;
use crate::largest::Largest;
use crate::rig::{BOCHS_SVM, BOCHS_VMX, Net, Network, Paging};
use crate::run::Options;
use crate::script::Step;
use crate::vm::Vm;
use crate::{attack, media, pcap, registers};

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let corner = |name| own(name, &[], corners, 64, 120);
    let keep = |name| own(name, &[], keep_registers, 64, 200);
    let moves = |name| own(name, &[], move_registers, 64, 900);
    vec![
        own(
            "two-vms-see-each-other",
            &[Guest::I386Kernel, Guest::I386Initrd],
            meet,
            128,
            400,
        ),
        own(
            "console-turns-between-vms",
            &[Guest::GrubRescue, Guest::MemtestX64],
            turn,
            64,
            200,
        ),
        own("three-vms-share-by-weight-and-cap", &[], share, 64, 120),
        on_host_cpus(
            2,
            with_cpus(
                2,
                own("host-cpus-2-share-by-weight", &[], share_two, 64, 200),
            ),
        ),
        own("screen-of-1024-rows-ends-no-run", &[], rows, 64, 120),
        own("screen-of-2560x1600-comes-whole", &[], pixels, 64, 240),
        keep("two-vms-keep-their-registers"),
        moves("host-cpus-2-three-vms-keep-their-registers"),
        by_hand(on(
            BOCHS_VMX,
            None,
            moves("bochs-vmx-host-cpus-2-three-vms-keep-their-registers"),
        )),
        by_hand(own(
            "host-cpus-2-two-vms-see-each-other",
            &[Guest::I386Kernel, Guest::I386Initrd],
            meet_on_two,
            128,
            400,
        )),
        corner("corners-of-the-architecture"),
        on(BOCHS_VMX, None, corner("bochs-vmx-corners")),
        on(BOCHS_SVM, None, corner("bochs-svm-corners")),
        on(
            BOCHS_VMX,
            None,
            keep("bochs-vmx-two-vms-keep-their-registers"),
        ),
    ]
}

/// Two guests that try corners of the architecture, one under nested and one under shadow paging.
fn corners(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let vm = |name: &str, paging| -> Result<Vm> {
        let disk = scratch.join(name);
        registers::make_corners(&disk)?;
        Ok(Vm {
            memory: case.memory,
            paging,
            ..Vm::of(&disk)?
        })
    };
    let done = || until("CORNERS DONE");
    let options = Options {
        script: vec![done(), Step::Focus(2), done()],
        others: vec![vm("two.img", Paging::Shadow)?],
        ..Options::headless(vm("one.img", Paging::Nested)?)
    };
    case.run_once(&options, umbra, scratch)
}

/// Two guests that have their registers full, each with its own values, on one CPU of the host.
fn keep_registers(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = full_registers(case, scratch)?;
    case.run_once(&options, umbra, scratch)
}

/// Three of them on two CPUs of the host: they run at the same time, and move from one CPU to the other.
fn move_registers(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let mut options = full_registers(case, scratch)?;
    let third = scratch.join("three.img");
    registers::make(&third, 0x3c2d_1e0f)?;
    options.others.push(Vm {
        memory: case.memory,
        ..Vm::of(&third)?
    });
    options.host_cpus = 2;
    options.script.push(Step::Focus(3));
    options.script.extend([until("KEPT"), until("KEPT")]);
    case.run_once(&options, umbra, scratch)
}

/// Two guests that have their registers full.
fn full_registers(case: &Case, scratch: &Path) -> Result<Options> {
    let vm = |name: &str, pattern, paging| -> Result<Vm> {
        let disk = scratch.join(name);
        registers::make(&disk, pattern)?;
        Ok(Vm {
            memory: case.memory,
            paging,
            ..Vm::of(&disk)?
        })
    };
    let kept = || until("KEPT");
    Ok(Options {
        script: vec![
            kept(),
            Step::Focus(2),
            kept(),
            kept(),
            Step::Focus(1),
            kept(),
        ],
        others: vec![vm("two.img", 0x0f1e_2d3c, Paging::Shadow)?],
        ..Options::headless(vm("one.img", 0x5a69_7887, Paging::Nested)?)
    })
}

/// Three guests that compute all the time. The third is not to have more than a fifth, whatever its weight; of the rest the second gets three
/// times as much as the first.
fn share(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let vm = |number: usize, weight, cap| -> Result<Vm> {
        let disk = scratch.join(format!("{number}.img"));
        attack::SPIN.make(&disk)?;
        let usual = Share::default();
        Ok(Vm {
            memory: case.memory,
            share: Share {
                weight,
                cap,
                ..usual
            },
            ..Vm::of(&disk)?
        })
    };
    let spins = || until("SPINS");
    let options = Options {
        script: vec![
            spins(),
            Step::Focus(2),
            spins(),
            Step::Focus(3),
            spins(),
            keys("\\{ctrl-alt-esc}"),
            until("umbra>"),
            keys("list\\nweight 0\\nweight 1000\\n"),
            until("20 %"),
            until("weight: it is a number from 1 to 10000"),
            until("weight 1000, cap 20 %"),
            keys("stats\\n"),
            until("it had the CPU for"),
            Step::Sleep(Duration::from_secs(10)),
        ],
        others: vec![vm(2, 300, 0)?, vm(3, 500, 20)?],
        ..Options::headless(vm(1, 100, 0)?)
    };
    let report = case.look(&options, umbra, scratch)?.report;
    let ticks = |number: usize, what: &str| {
        let ticks = &report["vms"][number - 1]["ticks"][what];
        ticks.as_f64().context("the report tells of no time")
    };
    let (one, two, three) = (ticks(1, "run")?, ticks(2, "run")?, ticks(3, "run")?);
    let of_two = 100.0 * two / (one + two);
    let of_all = 100.0 * three / ticks(3, "total")?;
    ensure!(
        (72.0..=78.0).contains(&of_two) && (17.0..=21.0).contains(&of_all),
        "the second had {of_two:.1} % of what it shares with the first, the third {of_all:.1} % of all"
    );
    Ok(())
}

/// Two guests of two CPUs each that compute all the time, on two CPUs of the host: the second has three times the weight.
fn share_two(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let vm = |number: usize, weight| -> Result<Vm> {
        let disk = scratch.join(format!("{number}.img"));
        attack::spin_on(case.cpus, &disk)?;
        Ok(Vm {
            memory: case.memory,
            cpus: case.cpus,
            max_cpus: case.cpus,
            share: Share {
                weight,
                ..Share::default()
            },
            ..Vm::of(&disk)?
        })
    };
    let options = Options {
        script: vec![
            until("SPINS"),
            Step::Focus(2),
            until("SPINS"),
            Step::Sleep(Duration::from_secs(10)),
        ],
        others: vec![vm(2, 300)?],
        ..Options::headless(vm(1, 100)?)
    };
    let report = case.look(&options, umbra, scratch)?.report;
    let run = |number: usize| {
        let ticks = &report["vms"][number - 1]["ticks"]["run"];
        ticks.as_f64().context("the report tells of no time")
    };
    let of_all = 100.0 * run(2)? / (run(1)? + run(2)?);
    ensure!(
        (72.0..=78.0).contains(&of_all),
        "the second had {of_all:.1} % of both"
    );
    Ok(())
}

/// Two guests of which the first has a text screen of 1,024 rows: both go on, and the picture has it.
fn rows(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    largest(case, umbra, scratch, Largest::Text)
}

/// The same with a picture of 2560 by 1600 pixels.
fn pixels(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    largest(case, umbra, scratch, Largest::Picture)
}

fn largest(case: &Case, umbra: &Path, scratch: &Path, screen: Largest) -> Result<()> {
    let (one, two) = (scratch.join("largest.img"), scratch.join("registers.img"));
    screen.make(&one)?;
    registers::make(&two, 0x5a69_7887)?;
    let other = Vm {
        memory: case.memory,
        ..Vm::of(&two)?
    };
    let options = Options {
        script: vec![
            until("SET"),
            Step::Picture { blinks: false },
            until("AGAIN"),
            Step::Focus(2),
            until("KEPT"),
            Step::Focus(1),
            until("AGAIN"),
        ],
        others: vec![other],
        ..Options::headless(Vm::of(&one)?)
    };
    let pictures = case.look(&options, umbra, scratch)?.pictures;
    screen.check(pictures.first().context("there is no picture")?)
}

/// The guests' cards, with the last bytes of the IP addresses that each uses; 0 is the address of nobody, with which one asks whether an
/// address is free.
const CARDS: [([u8; 6], &[u8]); 3] = [
    ([0x52, 0x54, 0x00, 0x12, 0x34, 0x56], &[101, 0]),
    ([0x52, 0x54, 0x00, 0x13, 0x34, 0x56], &[103, 0]),
    ([0x52, 0x54, 0x00, 0x12, 0x34, 0x57], &[102, 0]),
];
/// How the addresses begin of what QEMU is on its network: its servers, and its router of IPv6.
const OUTSIDE: [[u8; 2]; 2] = [[0x52, 0x55], [0x52, 0x56]];

/// Two guests on one Umbra: each reaches the host's network, and fetches a file from the other. One is under nested paging, the other
/// under shadow paging. The first has a second card, and tries another's address with it.
fn meet(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    meet_on(1, case, umbra, scratch)
}

/// The same with a CPU of the host for each.
fn meet_on_two(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    meet_on(2, case, umbra, scratch)
}

fn meet_on(host_cpus: u32, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let file = scratch.join("much");
    fs::write(
        &file,
        b"umbra\n"
            .repeat(200_000)
            .get(..1_000_000)
            .unwrap_or_default(),
    )?;
    let met = until(&format!("GUEST-MET {}", md5(&file)?));
    let addresses = ["10.0.2.101", "10.0.2.102"];
    let capture = scratch.join("frames");
    // Large frames go from one virtio card to the other as they are, and outside in segments.
    let mut nics = Nics::from(Nic::Virtio);
    nics.add(Nic::E1000.into()).map_err(anyhow::Error::msg)?;
    let case = &Case {
        profile: Profile {
            nics,
            ..Profile::default()
        },
        ..case.clone()
    };
    let vm = |own: &str, other: &str, paging| -> Result<Vm> {
        let words = format!("umbra.then=meet umbra.address={own} umbra.url=http://{other}/much");
        Ok(Vm {
            initrd: Some(media::open_initrd(&Guest::I386Initrd.provide()?)?),
            cmdline: format!("console=tty0 console=ttyS0 quiet {words}"),
            memory: case.memory,
            paging,
            profile: Profile {
                nics: Nic::Virtio.into(),
                ..Profile::default()
            },
            ..Vm::of(&Guest::I386Kernel.provide()?)?
        })
    };
    let [one, two] = addresses;
    let options = Options {
        host_cpus,
        network: Network {
            net: Net::User,
            capture: Some(capture.clone()),
            ..Network::default()
        },
        script: vec![
            until("GUEST-UPLINK"),
            met.clone(),
            until("GUEST-SECOND-CARD"),
            until("GUEST-REFUSED"),
            Step::Focus(2),
            until("GUEST-UPLINK"),
            met,
        ],
        others: vec![vm(two, one, Paging::Shadow)?],
        ..Options::headless(vm(one, two, Paging::Nested)?)
    };
    case.run_once(&options, umbra, scratch)?;
    each_has_its_own(&pcap::frames(&fs::read(&capture)?)?)
}

/// What goes outside has the address of a card that is there, the one with which its IP address goes, and nothing goes outside that is for a
/// guest.
fn each_has_its_own(frames: &[pcap::Frame]) -> Result<()> {
    for frame in frames {
        let from = CARDS.iter().find(|(mac, _)| *mac == frame.from);
        match from {
            Some((_, own)) => {
                let right = frame.ip.is_none_or(|ip| own.contains(&ip[3]));
                ensure!(right, "another's IP address: {frame:x?}");
                let inside = CARDS.iter().any(|(mac, _)| *mac == frame.to);
                ensure!(!inside, "it was for a guest: {frame:x?}");
            }
            None => {
                let known = OUTSIDE.iter().any(|begin| frame.from.starts_with(begin));
                ensure!(known, "whose is {frame:x?}?");
            }
        }
    }
    for (mac, _) in CARDS {
        let seen = frames.iter().any(|frame| frame.from == mac);
        ensure!(seen, "{mac:x?} has not sent anything");
    }
    Ok(())
}

/// Two guests: the console turns to the second and switches it off, and the first goes on.
fn turn(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let console = || keys("\\{ctrl-alt-esc}");
    let script = vec![
        until("GNU GRUB"),
        console(),
        until("umbra>"),
        keys("vm 3\\nvm 2\\nlist\\n"),
        until("there is no such VM"),
        until("2 * running"),
        console(),
        until("Memtest86+"),
        console(),
        keys("off\\nvm 1\\nlist\\n"),
        until("2   off"),
        console(),
        keys("c"),
        until("grub>"),
        keys("echo a$grub_platform-$grub_cpu\\n"),
        until("apc-i386"),
    ];
    let options = Options {
        script,
        others: vec![Vm {
            memory: case.memory,
            ..Vm::of(&Guest::MemtestX64.provide()?)?
        }],
        ..Options::headless(Vm::of(&Guest::GrubRescue.provide()?)?)
    };
    case.run_once(&options, umbra, scratch)
}
