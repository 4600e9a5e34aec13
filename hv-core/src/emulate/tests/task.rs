//! Task switches: what they save and load, and their faults in order.

use super::*;
use crate::emulate::testing::{Event as Seen, RegionKind};
use crate::emulate::{complete_task_switch, deliver};
use crate::event::{Event, EventKind};
use crate::regs::gpr::{RAX, RDI, RSP};
use crate::regs::{Cr0, Rflags, SegAttr, SegReg, Segment};

const GDT: u64 = 0x3000;
const LDT: u64 = 0x3800;
const IDT: u64 = 0x4000;
/// The TSS of the task that runs, and that of another.
const OLD: u64 = 0x5000;
const NEW: u64 = 0x6000;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const OLD_TSS: u16 = 0x28;
const NEW_TSS: u16 = 0x30;
const LDT_SELECTOR: u16 = 0x38;
const GATE: u16 = 0x40;
const NARROW_TSS: u16 = 0x48;
/// A 16-bit TSS.
const NARROW: u64 = 0x7000;

const JMP: u8 = 0xea;
const CALL: u8 = 0x9a;

fn descriptor(base: u64, limit: u16, access: u8, flags: u8) -> [u8; 8] {
    let (b, l) = (base.to_le_bytes(), limit.to_le_bytes());
    [l[0], l[1], b[0], b[1], b[2], access, flags, b[3]]
}

fn put(cpu: &mut FakeCpu, selector: u16, d: [u8; 8]) {
    assert!(cpu.poke(GDT + u64::from(selector & !7), &d));
}

fn dword(cpu: &mut FakeCpu, at: u64) -> u32 {
    u32::from_le_bytes(cpu.peek(at, 4).try_into().unwrap())
}

fn word(cpu: &mut FakeCpu, at: u64) -> u16 {
    u16::from_le_bytes(cpu.peek(at, 2).try_into().unwrap())
}

/// The access byte of a descriptor.
fn access(cpu: &mut FakeCpu, selector: u16) -> u8 {
    cpu.peek(GDT + u64::from(selector & !7) + 5, 1)[0]
}

/// A task at privilege level 0 that executes `code`, and another to switch to.
fn cpu(code: &[u8]) -> FakeCpu {
    let mut c = FakeCpu::protected32()
        .region(0, 0x1_0000, RegionKind::Ram)
        .code(0x1000, code);
    for (selector, d) in [
        (CODE0, descriptor(0, 0xffff, 0x9b, 0xcf)),
        (DATA0, descriptor(0, 0xffff, 0x93, 0xcf)),
        (CODE3, descriptor(0, 0xffff, 0xfb, 0xcf)),
        (DATA3, descriptor(0, 0xffff, 0xf3, 0xcf)),
        (OLD_TSS, descriptor(OLD, 0x67, 0x8b, 0)),
        (NEW_TSS, descriptor(NEW, 0x67, 0x89, 0)),
        (LDT_SELECTOR, descriptor(LDT, 0x0f, 0x82, 0)),
        (GATE, gate(NEW_TSS, 0x85)),
        (NARROW_TSS, descriptor(NARROW, 0x2b, 0x81, 0)),
    ] {
        put(&mut c, selector, d);
    }
    // An LDT with a data segment.
    c.poke(LDT + 8, &descriptor(0, 0xffff, 0x93, 0xcf));
    let table = |base, limit| Segment {
        base,
        limit,
        ..Segment::default()
    };
    c.segments[SegReg::Gdtr as usize] = table(GDT, 0x4f);
    c.segments[SegReg::Idtr as usize] = table(IDT, 0x7ff);
    c.segments[SegReg::Ldtr as usize] = Segment::default();
    c.segments[SegReg::Tr as usize] = Segment {
        selector: OLD_TSS,
        attr: SegAttr::from_bits_retain(0x8b),
        ..table(OLD, 0x67)
    };
    c.segments[SegReg::Cs as usize].selector = CODE0;
    for seg in [SegReg::Es, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
        c.segments[seg as usize].selector = DATA0;
    }
    for n in 0..8 {
        c.gprs.regs[n] = 0x1111_1111 * n as u64;
    }
    c.gprs.regs[RSP] = 0x8000;
    c.rflags = Rflags::ONE | Rflags::CF | Rflags::IF;
    image(&mut c);
    c
}

fn gate(tss: u16, access: u8) -> [u8; 8] {
    let s = tss.to_le_bytes();
    [0, 0, s[0], s[1], 0, access, 0, 0]
}

/// The other task: 2000h, with a selector in its LDT.
fn image(c: &mut FakeCpu) {
    let mut fields = vec![
        (0x1c, 0x9000u32),
        (0x20, 0x2000),
        (0x24, 0x46),
        (0x60, LDT_SELECTOR.into()),
        (0x64, 104 << 16),
    ];
    fields.extend((0..8).map(|n| (0x28 + 4 * n, 0xa000 + n)));
    fields.extend((0..6).map(|n| (0x48 + 4 * n, DATA0.into())));
    fields.extend([(0x4c, CODE0.into()), (0x58, 0x0c)]);
    for (at, value) in fields {
        c.poke(NEW + u64::from(at), &value.to_le_bytes());
    }
    let narrow = [
        (0x0e, 0x2222u16),
        (0x10, 0x0002),
        (0x1a, 0x7ffe),
        (0x22, DATA0),
        (0x24, CODE0),
        (0x26, DATA0),
        (0x28, DATA0),
    ];
    for (at, value) in narrow {
        c.poke(NARROW + at, &value.to_le_bytes());
    }
}

fn far(opcode: u8, selector: u16) -> [u8; 7] {
    let s = selector.to_le_bytes();
    [opcode, 0, 0, 0, 0, s[0], s[1]]
}

/// In the other task, as [`image`] has it.
fn check_new_task(c: &mut FakeCpu, flags: Rflags) {
    assert_eq!((c.rip, c.rflags), (0x2000, flags));
    let registers: Vec<u64> = (0..8).map(|n| 0xa000 + n).collect();
    assert_eq!(c.gprs.regs[..8], registers[..]);
    let selectors = SegReg::WITH_SELECTOR.map(|seg| c.segments[seg as usize].selector);
    assert_eq!(
        selectors,
        [
            DATA0,
            CODE0,
            DATA0,
            DATA0,
            0x0c,
            DATA0,
            LDT_SELECTOR,
            NEW_TSS
        ]
    );
    let tr = c.segments[SegReg::Tr as usize];
    assert_eq!((tr.base, tr.limit, tr.attr.bits()), (NEW, 0x67, 0x8b));
    assert_ne!(c.cr0 & Cr0::TS.bits(), 0);
}

/// What the old task's TSS keeps of it.
fn check_saved(c: &mut FakeCpu, ip: u32, flags: u32) {
    assert_eq!((dword(c, OLD + 0x20), dword(c, OLD + 0x24)), (ip, flags));
    assert_eq!(dword(c, OLD + 0x28), 0);
    assert_eq!(dword(c, OLD + 0x38), 0x8000);
    assert_eq!(dword(c, OLD + 0x44), 0x7777_7777);
    assert_eq!(dword(c, OLD + 0x4c), CODE0.into());
    assert_eq!(dword(c, OLD + 0x5c), DATA0.into());
    assert_eq!(
        (dword(c, OLD + 0x1c), dword(c, OLD + 0x60)),
        (0, 0),
        "CR3 and LDTR are not saved"
    );
}

#[test]
fn jump_ends_the_old_task_and_begins_the_new_one() {
    for selector in [NEW_TSS, GATE] {
        let mut c = cpu(&far(JMP, selector));
        run(&mut c);
        check_new_task(&mut c, Rflags::from_bits_retain(0x46));
        check_saved(&mut c, 0x1007, 0x203);
        assert_eq!(
            (access(&mut c, OLD_TSS), access(&mut c, NEW_TSS)),
            (0x89, 0x8b)
        );
        assert_eq!(word(&mut c, NEW), 0, "no link");
        assert_eq!(c.take(), [Seen::EnterTask { cr3: None }], "without paging");
    }
}

#[test]
fn call_nests_and_iret_goes_back() {
    let mut c = cpu(&far(CALL, NEW_TSS));
    c.cr0 |= Cr0::PG.bits();
    run(&mut c);
    let nested = Rflags::from_bits_retain(0x46) | Rflags::NT;
    check_new_task(&mut c, nested);
    assert_eq!(c.take(), [Seen::EnterTask { cr3: Some(0x9000) }]);
    assert_eq!(word(&mut c, NEW), OLD_TSS);
    assert_eq!(
        (access(&mut c, OLD_TSS), access(&mut c, NEW_TSS)),
        (0x8b, 0x8b)
    );

    c.poke(OLD + 0x24, &0x4203u32.to_le_bytes());
    c = c.code(0x2000, &[0xcf]);
    c.gprs.regs[RDI] = 0x1234;
    let step = run(&mut c);
    assert!(step.iret);
    assert_eq!(
        (c.rip, c.rflags.bits(), c.gprs.regs[RSP]),
        (0x1007, 0x4203, 0x8000)
    );
    assert_eq!(c.segments[SegReg::Tr as usize].selector, OLD_TSS);
    assert_eq!(dword(&mut c, NEW + 0x44), 0x1234);
    assert_eq!(dword(&mut c, NEW + 0x24), 0x46, "saved without NT");
    assert_eq!(
        (access(&mut c, OLD_TSS), access(&mut c, NEW_TSS)),
        (0x8b, 0x89)
    );
}

#[test]
fn sixteen_bit_tasks_have_sixteen_bits() {
    let mut c = cpu(&far(CALL, NARROW_TSS));
    c.cr0 |= Cr0::PG.bits();
    c.poke(NARROW + 0x12, &0xbeefu16.to_le_bytes());
    run(&mut c);
    assert_eq!((c.rip, c.gprs.regs[RAX]), (0x2222, 0xffff_beef));
    assert_eq!(c.take(), [Seen::EnterTask { cr3: None }], "and no CR3");
    assert_eq!(c.segments[SegReg::Fs as usize], Segment::default());
    assert_eq!(c.segments[SegReg::Tr as usize].attr.bits(), 0x83);

    // And back: saved in the short form.
    c = c.code(0x2222, &[0xcf]);
    run(&mut c);
    assert_eq!(c.rip, 0x1007);
    assert_eq!(word(&mut c, NARROW + 0x0e), 0x2223);
    assert_eq!(word(&mut c, NARROW + 0x28), DATA0);
}

#[test]
fn faults_before_the_switch_are_the_old_tasks_and_change_nothing() {
    type Prepare = fn(&mut FakeCpu);
    type Case<'a> = (&'a str, u16, &'a dyn Fn(&mut FakeCpu), (u8, Option<u32>));
    let gp = |s: u16| (vector::GP, Some(u32::from(s)));
    let ts = |s: u16| (vector::TS, Some(u32::from(s)));
    let np = |s: u16| (vector::NP, Some(u32::from(s)));
    let nothing: Prepare = |_| {};
    let new = |d| move |c: &mut FakeCpu| put(c, NEW_TSS, d);
    let absent_busy = new(descriptor(NEW, 0x67, 0x0b, 0));
    let absent_short = new(descriptor(NEW, 0x66, 0x09, 0));
    let short = new(descriptor(NEW, 0x66, 0x89, 0));
    let user: Prepare = |c| c.cpl = 3;
    let absent_gate: Prepare = |c| put(c, GATE, gate(NEW_TSS, 0x05));
    let to_data: Prepare = |c| put(c, GATE, gate(DATA0, 0x85));
    let to_ldt: Prepare = |c| put(c, GATE, gate(NEW_TSS | 4, 0x85));
    let to_nowhere: Prepare = |c| put(c, GATE, gate(0x58, 0x85));
    let old_short: Prepare = |c| c.segments[SegReg::Tr as usize].limit = 0x66;
    let bad_cr3: Prepare = |c| (c.cr0, c.refused_cr3) = (c.cr0 | Cr0::PG.bits(), 0x9000);
    let cases: [Case<'_>; 14] = [
        ("beyond the table", 0x58, &nothing, gp(0x58)),
        ("requested privilege", NEW_TSS | 3, &nothing, gp(NEW_TSS)),
        ("privilege", NEW_TSS, &user, gp(NEW_TSS)),
        ("busy before absent", NEW_TSS, &absent_busy, gp(NEW_TSS)),
        ("absent before short", NEW_TSS, &absent_short, np(NEW_TSS)),
        ("short", NEW_TSS, &short, ts(NEW_TSS)),
        ("gate's privilege", GATE, &user, gp(GATE)),
        ("absent gate", GATE, &absent_gate, np(GATE)),
        ("gate to no TSS", GATE, &to_data, gp(DATA0)),
        ("gate to the LDT", GATE, &to_ldt, gp(NEW_TSS | 4)),
        ("gate beyond the table", GATE, &to_nowhere, gp(0x58)),
        ("short behind a gate", GATE, &short, ts(NEW_TSS)),
        ("old TSS too short", NEW_TSS, &old_short, ts(OLD_TSS)),
        ("CR3", NEW_TSS, &bad_cr3, GP0),
    ];
    for (name, selector, prepare, fault) in cases {
        for opcode in [JMP, CALL] {
            let mut c = cpu(&far(opcode, selector));
            prepare(&mut c);
            let before = c.peek(0, 0x1_0000);
            assert_eq!(faults(&mut c), fault, "{name}");
            assert!(c.peek(0, 0x1_0000) == before, "{name}: memory");
            assert_eq!(c.take(), []);
        }
    }
}

#[test]
fn pages_that_cannot_be_written_fault_before_anything_is() {
    // Where the TSS in use ends, and where it begins.
    for (place, at) in [(OLD - 0x40, 0x5000), (OLD + 0xff0, 0x6000)] {
        let mut c = cpu(&far(CALL, NEW_TSS));
        c.regions[0].data.truncate(0x5000);
        c.regions.retain(|r| r.base < 0x5000);
        let kind = |read_only| match read_only {
            true => RegionKind::ReadOnly,
            false => RegionKind::Ram,
        };
        c = c
            .region(0x5000, 0x1000, kind(at == 0x5000))
            .region(0x6000, 0x1000, kind(at == 0x6000))
            .region(0x8000, 0x1000, RegionKind::Ram);
        put(&mut c, NEW_TSS, descriptor(0x8000, 0x67, 0x89, 0));
        c.segments[SegReg::Tr as usize].base = place;
        let before = c.regions.clone();
        assert_eq!(faults(&mut c), (vector::PF, Some(3)));
        for (region, old) in c.regions.iter().zip(before) {
            assert!(region.data == old.data);
        }
    }
}

/// What is wrong with the new task, and the fault that it leads to, in the order of the checks.
type Wrong = (&'static str, fn(&mut FakeCpu), (u8, u16));

const WRONG: [Wrong; 12] = {
    use vector::{GP, NP, SS, TS};
    fn set(c: &mut FakeCpu, at: u64, selector: u16) {
        c.poke(NEW + at, &selector.to_le_bytes());
    }
    [
        ("LDT in the LDT", |c| set(c, 0x60, 0x3c), (TS, 0x3c)),
        ("no LDT", |c| set(c, 0x60, DATA0), (TS, DATA0)),
        (
            "absent LDT",
            |c| put(c, LDT_SELECTOR, descriptor(LDT, 0x0f, 0x02, 0)),
            (TS, LDT_SELECTOR),
        ),
        ("null CS", |c| set(c, 0x4c, 0), (TS, 0)),
        ("CS is data", |c| set(c, 0x4c, DATA0), (TS, DATA0)),
        ("CS with another RPL", |c| set(c, 0x4c, 9), (TS, 8)),
        (
            "absent CS",
            |c| {
                put(c, 0x48, descriptor(0, 0xffff, 0x1b, 0xcf));
                set(c, 0x4c, 0x48);
            },
            (NP, 0x48),
        ),
        ("null SS", |c| set(c, 0x50, 0), (TS, 0)),
        ("SS of another level", |c| set(c, 0x50, DATA3), (TS, 0x20)),
        (
            "absent SS",
            |c| {
                put(c, 0x48, descriptor(0, 0xffff, 0x13, 0xcf));
                set(c, 0x50, 0x48);
            },
            (SS, 0x48),
        ),
        ("DS is a TSS", |c| set(c, 0x54, OLD_TSS), (TS, OLD_TSS)),
        (
            "EIP beyond CS",
            |c| {
                put(c, 0x48, descriptor(0, 0x1fff, 0x9b, 0x40));
                set(c, 0x4c, 0x48);
            },
            (GP, 0),
        ),
    ]
};

#[test]
fn faults_after_the_switch_are_the_new_tasks() {
    for (name, spoil, (vector, selector)) in WRONG {
        for event in [false, true] {
            let mut c = cpu(&far(CALL, NEW_TSS));
            c.poke(IDT + 0x80, &gate(NEW_TSS, 0x85));
            spoil(&mut c);
            let (result, ext) = match event {
                true => (deliver(&mut c, &Event::interrupt(0x10)), 1),
                false => (step(&mut c), 0),
            };
            let fault = EmuFault::Exception {
                vector,
                error: Some(u32::from(selector) | ext),
                cr2: None,
            };
            assert_eq!(result, Err(fault), "{name}");
            assert_eq!((c.rip, c.gprs.regs[RAX]), (0x2000, 0xa000), "{name}");
            assert_eq!(c.segments[SegReg::Tr as usize].selector, NEW_TSS);
            assert_eq!(word(&mut c, NEW), OLD_TSS, "{name}");
        }
    }
}

#[test]
fn the_first_thing_that_is_wrong_counts() {
    let data = WRONG.iter().position(|w| w.0.starts_with("DS")).unwrap();
    for (name, spoil, (vector, selector)) in &WRONG[..data] {
        let mut c = cpu(&far(CALL, NEW_TSS));
        WRONG[data].1(&mut c);
        spoil(&mut c);
        let fault = EmuFault::Exception {
            vector: *vector,
            error: Some(u32::from(*selector)),
            cr2: None,
        };
        assert_eq!(step(&mut c), Err(fault), "{name}");
    }
}

#[test]
fn iret_checks_the_link() {
    let with = |link: u16, d: [u8; 8]| {
        let mut c = cpu(&[0xcf]);
        c.rflags |= Rflags::NT;
        c.poke(OLD, &link.to_le_bytes());
        put(&mut c, NEW_TSS, d);
        c
    };
    let busy = descriptor(NEW, 0x67, 0x8b, 0);
    let ts = |s: u16| (vector::TS, Some(u32::from(s)));
    for (link, d, fault) in [
        (0x58, busy, ts(0x58)),
        (NEW_TSS | 4, busy, ts(NEW_TSS | 4)),
        (0, busy, ts(0)),
        (DATA0, busy, ts(DATA0)),
        (NEW_TSS, descriptor(NEW, 0x67, 0x89, 0), ts(NEW_TSS)),
        (
            NEW_TSS,
            descriptor(NEW, 0x67, 0x0b, 0),
            (vector::NP, Some(NEW_TSS.into())),
        ),
        (NEW_TSS, descriptor(NEW, 0x2b, 0x8b, 0), ts(NEW_TSS)),
    ] {
        assert_eq!(faults(&mut with(link, d)), fault, "{link:x}");
    }
    let mut c = with(NEW_TSS, busy);
    assert!(run(&mut c).iret);
    check_new_task(&mut c, Rflags::from_bits_retain(0x46));
}

#[test]
fn event_through_a_task_gate_saves_where_to_go_on_and_pushes_its_error_code() {
    let cases = [
        // The event, EIP and EFLAGS of the interrupted task.
        (Event::exception(14, Some(7)), 0x1000, 0x1_0203, true),
        (Event::exception(8, Some(0)), 0x1000, 0x203, true),
        (Event::nmi(), 0x1000, 0x203, false),
        (Event::interrupt(0x30), 0x1000, 0x203, false),
        (
            Event {
                kind: EventKind::SoftwareInterrupt,
                insn_len: 2,
                ..Event::interrupt(0x40)
            },
            0x1002,
            0x203,
            false,
        ),
    ];
    for (event, ip, flags, code) in cases {
        let mut c = cpu(&[0xcd, 0x40]);
        c.poke(IDT + 8 * u64::from(event.vector), &gate(NEW_TSS, 0x85));
        deliver(&mut c, &event).unwrap();
        let sp = 0xa004 - if code { 4 } else { 0 };
        assert_eq!(c.gprs.regs[RSP], sp);
        if code {
            assert_eq!(dword(&mut c, sp), event.error.unwrap());
        }
        c.gprs.regs[RSP] = 0xa004;
        check_new_task(&mut c, Rflags::from_bits_retain(0x46) | Rflags::NT);
        check_saved(&mut c, ip, flags);
        assert_eq!(word(&mut c, NEW), OLD_TSS);
    }
}

#[test]
fn faults_at_a_task_gate_tell_that_the_event_is_external() {
    let through = |event: Event, gate: [u8; 8], busy: bool| {
        let mut c = cpu(&[]);
        c.cpl = 3;
        c.poke(IDT + 8 * u64::from(event.vector), &gate);
        if busy {
            put(&mut c, NEW_TSS, descriptor(NEW, 0x67, 0x8b, 0));
        }
        match deliver(&mut c, &event) {
            Err(EmuFault::Exception { vector, error, .. }) => (vector, error.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let int = Event {
        kind: EventKind::SoftwareInterrupt,
        insn_len: 2,
        ..Event::interrupt(0x30)
    };
    let hard = Event::interrupt(0x30);
    let new = u32::from(NEW_TSS);
    assert_eq!(through(int, gate(NEW_TSS, 0x85), false), (13, 0x182));
    assert_eq!(through(int, gate(NEW_TSS, 0xe5), true), (13, new));
    assert_eq!(through(hard, gate(NEW_TSS, 0x85), true), (13, new | 1));
    assert_eq!(through(hard, gate(NEW_TSS, 0x05), false), (11, 0x183));
    assert_eq!(through(hard, gate(0x58, 0x85), false), (13, 0x59));
}

#[test]
fn a_task_can_be_one_in_virtual_8086_mode() {
    let mut c = cpu(&far(JMP, NEW_TSS));
    c.poke(NEW + 0x24, &(1u32 << 17 | 0x3002).to_le_bytes());
    c.poke(NEW + 0x4c, &0x1234u16.to_le_bytes());
    run(&mut c);
    let cs = c.segments[SegReg::Cs as usize];
    assert_eq!(
        (cs.selector, cs.base, cs.limit, cs.attr.bits()),
        (0x1234, 0x1_2340, 0xffff, 0xf3)
    );
    assert_eq!(c.cpl, 3);
    assert!(c.rflags.contains(Rflags::VM));
    assert_eq!(c.segments[SegReg::Ldtr as usize].selector, LDT_SELECTOR);
}

#[test]
fn a_task_at_level_three_has_its_stack() {
    let mut c = cpu(&far(JMP, NEW_TSS));
    for (at, selector) in [(0x4c, CODE3), (0x50, DATA3), (0x54, DATA3)] {
        c.poke(NEW + at, &selector.to_le_bytes());
    }
    // A level that its data segments do not have.
    for at in [0x48, 0x58, 0x5c] {
        c.poke(NEW + at, &[0, 0]);
    }
    run(&mut c);
    assert_eq!(
        (c.cpl, c.segments[SegReg::Cs as usize].selector),
        (3, CODE3)
    );
    assert_eq!(c.segments[SegReg::Es as usize].attr, SegAttr::empty());
}

#[test]
fn the_trap_flag_of_a_tss_is_told() {
    let mut c = cpu(&far(JMP, NEW_TSS));
    c.rflags |= Rflags::TF;
    c.poke(NEW + 0x64, &[1]);
    let step = run(&mut c);
    assert!(step.task_trap);
    assert!(!step.single_step, "the old task's TF is the old task's");
}

#[test]
fn there_are_no_task_switches_in_long_mode() {
    let mut c = cpu(&[0xff, 0x2c, 0x25, 0, 0x20, 0, 0]);
    c.efer = 0x500;
    c.cr0 |= Cr0::PG.bits();
    c.segments[SegReg::Cs as usize].attr = SegAttr::from_bits_retain(0x29b);
    c.poke(0x2000, &[0, 0, 0, 0, NEW_TSS as u8, 0]);
    assert_eq!(faults(&mut c), (vector::GP, Some(NEW_TSS.into())));
}

#[test]
fn what_a_cpu_has_begun_is_completed_from_the_tss() {
    // As QEMU leaves it: TR, the flags and registers are the new task's, segments have selectors only.
    let event = |c: &mut FakeCpu| {
        c.cr0 |= Cr0::PG.bits();
        c.segments[SegReg::Tr as usize] = Segment {
            selector: NEW_TSS,
            attr: SegAttr::from_bits_retain(0x89),
            limit: 0x67,
            base: NEW,
        };
        c.segments[SegReg::Cs as usize] = Segment {
            selector: CODE0,
            ..Segment::default()
        };
    };
    let mut c = cpu(&far(CALL, NEW_TSS));
    event(&mut c);
    c.rflags = Rflags::ONE | Rflags::NT;
    complete_task_switch(&mut c, 0x9000, false, None).unwrap();
    check_new_task(&mut c, Rflags::from_bits_retain(0x46) | Rflags::NT);
    assert_eq!(c.take(), [Seen::EnterTask { cr3: Some(0x9000) }]);

    let mut c = cpu(&[]);
    event(&mut c);
    complete_task_switch(&mut c, 0x9000, true, Some(7)).unwrap();
    assert_eq!(c.gprs.regs[RSP], 0xa000);
    assert_eq!(dword(&mut c, 0xa000), 7, "the error code");

    let mut c = cpu(&[]);
    event(&mut c);
    c.poke(NEW + 0x50, &[0, 0]);
    let fault = EmuFault::Exception {
        vector: vector::TS,
        error: Some(1),
        cr2: None,
    };
    assert_eq!(
        complete_task_switch(&mut c, 0x9000, true, None),
        Err(fault),
        "a null stack"
    );
}
