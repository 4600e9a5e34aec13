//! Conversations, with a machine of two CPUs that only remembers.

use super::testing::Fake;
use super::*;
use hv_core::Gva;
use hv_core::debug::{DebugStop, PointKind};
use hv_core::testing::Random;
use std::string::ToString;
use std::vec::Vec;

/// A conversation.
struct Talk {
    debugger: Debugger<Fake>,
    fake: Option<Fake>,
}

impl Talk {
    fn new() -> Self {
        Self {
            debugger: Debugger::new().unwrap(),
            fake: Some(Fake::default()),
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> String {
        let mut said = Vec::new();
        let fake = self.fake.take().unwrap();
        let send = &mut |bytes: &[u8]| said.extend_from_slice(bytes);
        self.fake = Some(self.debugger.hear(fake, bytes, send));
        String::from_utf8_lossy(&said).to_string()
    }

    /// What is answered to a packet, without the frame around it.
    fn ask(&mut self, packet: &str) -> String {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        let said = self.hear(std::format!("${packet}#{sum:02x}+").as_bytes());
        let said = said.trim_start_matches('+').trim_start_matches('$');
        expand(said.split('#').next().unwrap_or_default())
    }

    fn stopped(&mut self, cpu: usize, stop: DebugStop) -> String {
        let mut said = Vec::new();
        let fake = self.fake.take().unwrap();
        let send = &mut |bytes: &[u8]| said.extend_from_slice(bytes);
        self.fake = Some(self.debugger.stopped(fake, cpu, stop, send));
        String::from_utf8_lossy(&said).to_string()
    }

    fn fake(&mut self) -> &mut Fake {
        self.fake.as_mut().unwrap()
    }
}

/// Without run-length encoding (gdb's manual, "Overview" of the remote protocol).
fn expand(said: &str) -> String {
    let mut text = String::new();
    let mut chars = said.chars();
    while let Some(c) = chars.next() {
        let times = if c == '*' { chars.next() } else { None };
        let again = text.chars().last().unwrap_or_default();
        match times {
            Some(n) => (29..n as u32).for_each(|_| text.push(again)),
            None => text.push(c),
        }
    }
    text
}

#[test]
fn a_debugger_comes_looks_and_goes() {
    let mut talk = Talk::new();
    assert!(
        talk.ask("qSupported:swbreak+;hwbreak+")
            .contains("PacketSize")
    );
    assert_eq!(talk.debugger.state(), State::Stopped);
    assert!(talk.ask("qfThreadInfo").contains('2'));
    assert_eq!(talk.ask("m1010,4"), "10111213");
    assert_eq!(talk.ask("D"), "OK");
    assert_eq!(talk.debugger.state(), State::Gone);
    assert_eq!(talk.hear(b"$g#67"), "", "nobody is there any more");
}

#[test]
fn breakpoints_and_steps_are_what_the_machine_goes_on_with() {
    let mut talk = Talk::new();
    talk.ask("qSupported:swbreak+;hwbreak+");
    assert_eq!(talk.ask("Z0,ffffffff81000000,1"), "OK");
    assert_eq!(talk.ask("Z2,1000,8"), "OK");
    assert_eq!(talk.ask("Z3,1000,8"), "OK");
    assert_eq!(talk.ask("Z4,1000,8"), "OK");
    assert_ne!(talk.ask("Z2,1000,41"), "OK", "too wide");
    talk.ask("vCont;s:2;c");
    assert_eq!(talk.debugger.state(), State::Running);
    let (points, actions) = talk.fake().resumed.pop().unwrap();
    assert_eq!(points.len(), 4);
    assert_eq!(actions, [Action::Run, Action::Step]);
    for (point, word) in points
        .iter()
        .skip(1)
        .zip([";watch:", ";rwatch:", ";awatch:"])
    {
        let said = talk.stopped(0, DebugStop::Watchpoint(*point));
        let said = said.replace("T05", ";");
        assert!(said.contains(word) && said.contains("thread:01"), "{said}");
        talk.ask("vCont;c");
    }
    talk.stopped(0, DebugStop::Step);
    for packet in ["z2,1000,8", "z3,1000,8", "z4,1000,8"] {
        assert_eq!(talk.ask(packet), "OK");
    }
    // Only one CPU goes on.
    talk.ask("vCont;s:1");
    let (points, actions) = talk.fake().resumed.pop().unwrap();
    assert_eq!(actions, [Action::Step, Action::Hold]);
    assert_eq!(
        points,
        [Point {
            kind: PointKind::Execute,
            at: Gva(0xffff_ffff_8100_0000),
            len: 1
        }]
    );
    assert!(talk.hear(b"\x03").contains("T02"), "stopped by hand");
    assert_eq!(talk.debugger.state(), State::Stopped);
}

#[test]
fn there_are_only_so_many_points() {
    let mut talk = Talk::new();
    let set = (0..1000).filter(|n| talk.ask(&std::format!("Z0,{n:x},1")) == "OK");
    assert_eq!(set.count(), hv_core::debug::MAX_POINTS);
}

#[test]
fn registers_come_back_as_they_went() {
    let mut r = Random::from_env("UMBRA_SEED", 1);
    let mut talk = Talk::new();
    for _ in 0..200 {
        let mut registers = Registers::default();
        registers
            .gprs
            .regs
            .iter_mut()
            .for_each(|reg| *reg = r.next());
        registers.system.iter_mut().for_each(|reg| *reg = r.next());
        registers.rip = r.next();
        registers.rflags = r.next() & 0x3f_7fd5 | 2;
        registers.is_64 = r.below(2) == 0;
        for segment in &mut registers.segments {
            (segment.base, segment.selector) = (r.next(), r.next() as u16);
        }
        for n in 0..8 {
            registers.fx.set_st(n, [r.next() as u8; 10]);
        }
        if !registers.is_64 {
            registers.rip &= 0xffff_ffff;
        }
        talk.fake().registers[0] = registers.clone();
        let all = talk.ask("g");
        assert_eq!(talk.ask(&std::format!("G{all}")), "OK");
        assert_eq!(talk.fake().registers[0], registers);
        // Another RAX.
        let changed = std::format!("G{}{}", "01".repeat(8), &all[16..]);
        assert_eq!(talk.ask(&changed), "OK");
        registers.gprs.regs[0] = 0x0101_0101_0101_0101;
        assert_eq!(talk.fake().registers[0], registers);
    }
    assert_ne!(talk.ask("G00"), "OK");
}

#[test]
fn the_description_has_a_name_for_every_byte() {
    let xml = <registers::X64 as gdbstub::arch::Arch>::target_description_xml().unwrap();
    let bits = xml.split("bitsize=\"").skip(1);
    let bits: usize = bits
        .map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap())
        .sum();
    let mut bytes = 0;
    let all = registers::GdbRegisters::of(&Registers::default());
    gdbstub::arch::Registers::gdb_serialize(&all, |_| bytes += 1);
    assert_eq!(bits, 8 * bytes);
}

#[test]
fn monitor_reaches_the_machine() {
    let hex = |text: &str| {
        text.bytes()
            .map(|b| std::format!("{b:02x}"))
            .collect::<String>()
    };
    let mut talk = Talk::new();
    talk.ask("Hg2");
    talk.ask("g");
    let said = talk.ask(&std::format!("qRcmd,{}", hex("walk 0")));
    assert!(said.contains(&hex("1: walk 0")), "{said}");
    talk.ask(&std::format!("qRcmd,{}", hex("physical on")));
    assert_eq!(talk.ask("m10,2"), "1011");
}

#[test]
fn any_bytes_leave_the_machine_whole() {
    let mut r = Random::from_env("UMBRA_SEED", 2);
    let packets = [
        "g",
        "G00",
        "m0,ffffffff",
        "Mffff,4:00",
        "X0,5:abc",
        "vCont;c",
        "vCont;s:9",
        "Z0,0,1",
        "qRcmd,zz",
        "Hc-1",
        "T7",
        "qXfer:features:read:target.xml:0,ffff",
        "k",
        "?",
        "!",
        "vKill;1",
        "R00",
        "s",
        "c1000",
    ];
    for _ in 0..3000 {
        let mut talk = Talk::new();
        for _ in 0..r.below(8) {
            let packet = r.pick(&packets);
            match r.below(4) {
                0 => {
                    let mut bytes = packet.as_bytes().to_vec();
                    let at = r.below(bytes.len() as u64) as usize;
                    bytes[at] = r.next() as u8;
                    talk.hear(&bytes);
                }
                1 => {
                    talk.hear(&[0x03]);
                }
                2 if talk.debugger.state() == State::Running => {
                    talk.stopped(r.below(2) as usize, DebugStop::Breakpoint);
                }
                _ => {
                    talk.ask(packet);
                }
            }
        }
        assert_eq!(talk.fake().cpus(), 2);
    }
}
