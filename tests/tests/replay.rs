//! Exits that were recorded on real backends, replayed on a scripted CPU in front of the same machine: the run loop and the devices
//! make of them what they made of them then.
//!
//! The recordings are the way of stock SeaBIOS from the reset vector through its set-up of the machine, as
//! `cargo xtask run grub-rescue --memory 64M --headless --until "GNU GRUB" --record 1200 --report FILE` puts it into the report: one with
//! `--rig qemu-svm`, one with `--rig bochs-vmx`. Exits that need guest memory cannot be repeated and are passed over. What CPUID
//! and the model-specific registers say depends on the processor: of those only the way on is compared.

use hv_core::VmTime;
use hv_core::exit::{ExitReason, PortIo, VmExit};
use hv_core::record::width;
use hv_core::regs::gpr::{RAX, RBX, RCX, RDX};
use hv_core::vcpu::Stop;
use std::sync::{Arc, Mutex};
use tests::firmware::FirmwarePc;

/// One line of a recording.
#[derive(Clone, Debug)]
struct Line {
    number: usize,
    now: VmTime,
    reason: ExitReason,
    rip: u64,
    regs: [u64; 4],
    rip_after: u64,
    rax_after: u64,
}

impl Line {
    fn parse(number: usize, text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let now = VmTime(words.next()?.parse().ok()?);
        let reason = reason(words.next()?)?;
        let mut hex = words.map(|w| u64::from_str_radix(w, 16).expect("a register"));
        let mut next = || hex.next().expect("nine words");
        Some(Self {
            number,
            now,
            reason,
            rip: next(),
            regs: [next(), next(), next(), next()],
            rip_after: next(),
            rax_after: next(),
        })
    }

    /// Whether what is read is the machine's, not the processor's, and is known again.
    fn value_counts(&self) -> bool {
        const RTC_DATA: u16 = 0x71;
        match self.reason {
            // The date is another one.
            ExitReason::PortIo(io) => !io.write && io.port != RTC_DATA,
            _ => false,
        }
    }
}

/// The exit that a word names, if it can be repeated.
fn reason(word: &str) -> Option<ExitReason> {
    let mut parts = word.split(':');
    Some(match parts.next()? {
        "cpuid" => ExitReason::Cpuid,
        "rdmsr" => ExitReason::Rdmsr,
        "wrmsr" => ExitReason::Wrmsr,
        direction @ ("in" | "out") => {
            let size = width(parts.next()?)?;
            let port = u16::from_str_radix(parts.next()?, 16).ok()?;
            ExitReason::PortIo(PortIo::plain(port, size, direction == "out"))
        }
        _ => return None,
    })
}

/// The machine that the recordings come from.
fn machine() -> Option<FirmwarePc> {
    let read = |name| std::fs::read(format!("/usr/share/seabios/{name}")).ok();
    match (read("bios-256k.bin"), read("vgabios-stdvga.bin")) {
        (Some(bios), Some(vgabios)) => Some(FirmwarePc::new(bios, &vgabios, vec![0; 2048 * 64])),
        _ => {
            let required = std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() == Ok("1");
            assert!(!required, "SeaBIOS is not installed");
            eprintln!("SKIPPED: SeaBIOS is not installed");
            None
        }
    }
}

/// Replays a recording and answers how many values were compared.
fn replay(recording: &str) -> Option<usize> {
    let lines: Vec<Line> = recording
        .lines()
        .enumerate()
        .filter_map(|(i, text)| Line::parse(i + 1, text))
        .collect();
    assert!(lines.len() > 1000, "most exits can be repeated");
    let mut pc = machine()?;
    let clock = pc.clock();
    pc.vcpu.cpu.can_run = |_| true;
    let compared = Arc::new(Mutex::new(0));
    // At each exit the one before has been dealt with.
    for (i, line) in lines.iter().enumerate() {
        let (line, clock) = (line.clone(), clock.clone());
        let (before, compared) = (
            i.checked_sub(1).map(|i| lines[i].clone()),
            Arc::clone(&compared),
        );
        pc.vcpu.cpu.play(move |cpu| {
            if let Some(b) = &before {
                assert_eq!(cpu.rip, b.rip_after, "RIP after line {}: {b:x?}", b.number);
                if b.value_counts() {
                    assert_eq!(
                        cpu.gprs.regs[RAX], b.rax_after,
                        "RAX after line {}: {b:x?}",
                        b.number
                    );
                    *compared.lock().unwrap() += 1;
                }
            }
            cpu.rip = line.rip;
            for (n, value) in [RAX, RBX, RCX, RDX].into_iter().zip(line.regs) {
                cpu.gprs.regs[n] = value;
            }
            clock.set(line.now);
            VmExit {
                next_rip: Some(line.rip_after),
                ..VmExit::bare(line.reason)
            }
        });
    }
    assert_eq!(
        pc.vcpu.run(),
        Stop::HostInterrupt,
        "the script is played to its end"
    );
    let compared = *compared.lock().unwrap();
    Some(compared)
}

#[test]
fn what_svm_recorded_comes_out_again() {
    if let Some(compared) = replay(include_str!("../recordings/svm-seabios.txt")) {
        assert!(compared > 50, "{compared} values were compared");
    }
}

#[test]
fn what_vmx_recorded_comes_out_again() {
    if let Some(compared) = replay(include_str!("../recordings/vmx-seabios.txt")) {
        assert!(compared > 50, "{compared} values were compared");
    }
}
