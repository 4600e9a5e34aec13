use super::chunk::{HEAD, LONGEST, Reader};
use super::*;
use crate::device::AccessSize;
use crate::event::EventKind;
use crate::exit::{ExitReason, NestedFault, PortIo, RegAccess, VmExit};
use crate::regs::SegReg;
use crate::testing::Random;
use crate::{Gpa, Gva};
use alloc::string::String;
use alloc::vec::Vec;

/// Each reason with some values.
fn reasons(r: &mut Random) -> Vec<ExitReason> {
    let io = PortIo {
        port: r.next() as u16,
        size: AccessSize::of(1 << (r.next() % 3)).unwrap(),
        write: r.next() & 1 != 0,
        rep: r.next() & 1 != 0,
        address_size: [None, Some(2), Some(8)][r.next() as usize % 3],
        segment: [None, Some(SegReg::Es), Some(SegReg::Gs)][r.next() as usize % 3],
    };
    let access = RegAccess {
        number: (r.next() % 16) as u8,
        write: r.next() & 1 != 0,
        gpr: [None, Some(0), Some(15)][r.next() as usize % 3],
    };
    alloc::vec![
        ExitReason::ExternalInterrupt,
        ExitReason::Nmi,
        ExitReason::Init,
        ExitReason::Exception {
            kind: EventKind::Exception,
            vector: 14,
            error: r.next() as u32,
            payload: r.next(),
            insn_len: 3,
        },
        ExitReason::Shutdown,
        ExitReason::InterruptWindow,
        ExitReason::NmiWindow,
        ExitReason::Timer,
        ExitReason::TprBelowThreshold,
        ExitReason::Iret,
        ExitReason::Cpuid,
        ExitReason::Hlt,
        ExitReason::Pause,
        ExitReason::Invd,
        ExitReason::Wbinvd,
        ExitReason::Invlpg(Some(Gva(r.next()))),
        ExitReason::Invlpg(None),
        ExitReason::Rdtsc,
        ExitReason::Rdtscp,
        ExitReason::Rdpmc,
        ExitReason::Hypercall,
        ExitReason::Xsetbv,
        ExitReason::Rdmsr,
        ExitReason::Wrmsr,
        ExitReason::PortIo(io),
        ExitReason::StringIo(io),
        ExitReason::CrAccess(access),
        ExitReason::Cr0Misc,
        ExitReason::DrAccess(access),
        ExitReason::DescriptorTable(SegReg::Idtr),
        ExitReason::TaskSwitch,
        ExitReason::NestedFault(NestedFault {
            gpa: Gpa(r.next()),
            write: r.next() & 1 != 0,
            fetch: r.next() & 1 != 0,
            present: r.next() & 1 != 0,
            table_walk: r.next() & 1 != 0,
        }),
        ExitReason::Undefined,
        ExitReason::EntryFailed,
        ExitReason::Unknown(r.next()),
    ]
}

fn seen(reason: ExitReason, r: &mut Random) -> Seen {
    let event = |r: &mut Random| {
        [
            None,
            Some(Event::interrupt(0x31)),
            Some(Event::exception(13, Some(r.next() as u32))),
            Some(Event {
                kind: EventKind::SoftwareInterrupt,
                vector: 0x80,
                error: None,
                insn_len: 2,
            }),
        ][r.next() as usize % 4]
    };
    Seen {
        exit: VmExit {
            reason,
            next_rip: [None, Some(r.next())][r.next() as usize % 2],
            vectoring: event(r),
            untaken: [None, Some(0x40)][r.next() as usize % 2],
        },
        at: VmTime(r.next()),
        pc: r.next(),
        cpl: (r.next() % 4) as u8,
        cr3: r.next(),
        rax: r.next(),
        rcx: r.next(),
        rdx: r.next(),
        operand: r.next(),
        came: Came {
            pc: r.next(),
            rax: r.next(),
            rdx: r.next(),
            cr3: r.next(),
            event: event(r),
            at: VmTime(r.next()),
        },
    }
}

fn plain(reason: ExitReason) -> Seen {
    Seen {
        at: VmTime(1000),
        pc: 0x7c00,
        cr3: 0x5000,
        cpl: 0,
        rax: 1,
        rcx: 0xc000_0080,
        rdx: 0,
        operand: 0,
        exit: VmExit::bare(reason),
        came: Came {
            pc: 0x7c02,
            rax: 0x501,
            rdx: 0,
            cr3: 0x5000,
            event: None,
            at: VmTime(1200),
        },
    }
}

fn line(event: &Traced) -> String {
    let mut out = String::new();
    event.line(1, 0, &mut out).unwrap();
    out
}

/// Takes all events as chunks, and gives them read again, with the last head.
fn drain(tracer: &mut Tracer, last: bool) -> (Vec<Traced>, Option<chunk::Head>) {
    let mut buffer = [0; 8192];
    let (mut all, mut end) = (Vec::new(), None);
    while let Some(bytes) = tracer.take(3, last, &mut buffer) {
        let (head, events) = Reader::begin(bytes).unwrap();
        assert_eq!(head.cpu, 3);
        assert!(end.is_none_or(|end: chunk::Head| !end.last));
        end = Some(head);
        all.extend(events.map(Result::unwrap));
    }
    (all, end)
}

#[test]
fn every_event_is_read_as_it_was_written() {
    let mut r = Random::new(17);
    let mut tracer = Tracer::new(Filter::default(), Full::Lose).unwrap();
    let mut all = Vec::new();
    for _ in 0..20 {
        for reason in reasons(&mut r) {
            let seen = seen(reason, &mut r);
            tracer.begin(3, || seen);
            all.push(seen);
        }
    }
    let (read, end) = drain(&mut tracer, true);
    assert_eq!(read.len(), all.len());
    for (n, (read, seen)) in read.iter().zip(&all).enumerate() {
        assert_eq!((read.number, &read.seen), (n as u64, seen));
    }
    let end = end.unwrap();
    assert!(end.last);
    assert_eq!((end.totals.exits, end.totals.lost), (all.len() as u64, 0));
    assert_eq!(drain(&mut tracer, true), (Vec::new(), None), "once");
}

#[test]
fn the_longest_event_fits() {
    let mut buffer = [0; HEAD + LONGEST];
    let head = chunk::Head {
        cpu: 0,
        last: false,
        totals: Totals {
            exits: u64::MAX,
            kept: u64::MAX,
            lost: u64::MAX,
        },
    };
    let mut r = Random::new(17);
    let mut event = Traced {
        number: u64::MAX,
        seen: seen(ExitReason::Cpuid, &mut r),
    };
    let far = 1 << 63;
    event.seen.exit = VmExit {
        reason: ExitReason::Exception {
            kind: EventKind::Exception,
            vector: 14,
            error: u32::MAX,
            payload: u64::MAX,
            insn_len: 15,
        },
        next_rip: Some(0),
        vectoring: Some(Event::exception(14, Some(u32::MAX))),
        untaken: Some(255),
    };
    event.seen.at = VmTime(u64::MAX);
    (event.seen.pc, event.seen.cr3) = (far, far);
    event.seen.came = Came {
        pc: 0,
        rax: 0,
        rdx: 0,
        cr3: 0,
        event: Some(Event::exception(14, Some(u32::MAX))),
        at: VmTime(u64::MAX - 1),
    };
    (event.seen.rax, event.seen.rcx, event.seen.rdx) = (far, far, far);
    event.seen.operand = far;
    let mut writer = chunk::Writer::begin(&head, &mut buffer);
    assert!(writer.add(&event));
    let (_, mut events) = Reader::begin(writer.end()).unwrap();
    assert_eq!(events.next(), Some(Ok(event)));
    assert_eq!(events.next(), None);
}

#[test]
fn what_is_no_chunk_is_refused() {
    assert!(Reader::begin(&[]).is_err());
    assert!(Reader::begin(&[0, 2, 0, 0, 0]).is_err());
    let long = [
        0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0,
    ];
    assert!(Reader::begin(&long).is_err(), "more than 64 bits");
    let mut tracer = Tracer::new(Filter::default(), Full::Lose).unwrap();
    tracer.begin(0, || plain(ExitReason::Cpuid));
    let mut buffer = [0; 4096];
    let whole = tracer.take(0, true, &mut buffer).unwrap();
    for end in 5..whole.len() {
        let (_, events) = Reader::begin(&whole[..end]).unwrap();
        let events: Vec<_> = events.collect();
        let wrong = end > 5;
        assert_eq!(events.iter().any(Result::is_err), wrong, "{end}");
    }
}

#[test]
fn a_full_ring_counts_what_it_loses_and_asks_before() {
    let seen = plain(ExitReason::Cpuid);
    for full in [Full::Lose, Full::Overwrite] {
        let mut tracer = Tracer::new(Filter::default(), full).unwrap();
        let mut asked = None;
        for n in 0..RING + 5 {
            tracer.begin(0, || seen);
            if tracer.is_filling() {
                asked.get_or_insert(n);
            }
        }
        assert_eq!(asked.is_some_and(|n| n < RING), full == Full::Lose);
        let totals = tracer.totals();
        assert_eq!((totals.exits, totals.lost), (RING as u64 + 5, 5));
        let oldest = tracer.events().next().unwrap().number;
        assert_eq!(oldest, if full == Full::Lose { 0 } else { 5 });
        assert_eq!(tracer.events().len(), RING);
    }
}

#[test]
fn the_newest_event_stays_until_nothing_more_comes_of_it() {
    let mut tracer = Tracer::new(Filter::default(), Full::Lose).unwrap();
    tracer.begin(3, || plain(ExitReason::ExternalInterrupt));
    assert_eq!(drain(&mut tracer, false).0, []);
    let came = Came {
        event: Some(Event::interrupt(0x30)),
        ..Came::default()
    };
    tracer.tell(&came);
    tracer.close();
    tracer.tell(&Came::default());
    let (events, end) = drain(&mut tracer, false);
    assert_eq!(events[0].seen.came, came);
    assert!(!end.unwrap().last);
}

#[test]
fn a_filter_takes_what_fits_all_its_words() {
    let io = PortIo::plain(0x3f8, AccessSize::Byte, true);
    let (cpuid, port) = (plain(ExitReason::Cpuid), plain(ExitReason::PortIo(io)));
    for (text, cpu, takes) in [
        ("all", 0, [true, true]),
        ("reason:cpuid", 0, [true, false]),
        ("reason:port-io+hlt", 0, [false, true]),
        ("cpu:1+2", 0, [false, false]),
        ("cpu:1+2", 2, [true, true]),
        ("pc:0x7c00", 0, [true, true]),
        ("pc:0x7c01-0x7cff", 0, [false, false]),
        ("at:0x3f8-0x3ff", 0, [false, true]),
        ("reason:cpuid,at:1", 0, [true, false]),
        ("reason:cpuid,at:2", 0, [false, false]),
    ] {
        let filter = Filter::parse(text).unwrap();
        let took = [&cpuid, &port].map(|seen| filter.takes(cpu, seen));
        assert_eq!(took, takes, "{text}");
    }
    let filter = Filter::parse("vm:2,first:0x10").unwrap();
    assert!(filter.takes_vm(2) && !filter.takes_vm(1) && !filter.takes_vm(200));
    assert_eq!(filter.when_full(), Full::Lose);
    assert_eq!(Filter::parse("last").unwrap().when_full(), Full::Overwrite);
    for wrong in [
        "",
        "all:1",
        "reason:",
        "reason:cpu",
        "cpu:32",
        "cpu:x",
        "pc:2-1",
        "pc:7c00",
        "at:",
        "first:",
        "what",
    ] {
        let why = Filter::parse(wrong);
        assert!(why.is_err(), "{wrong}");
    }
    let why = Filter::parse("reason:cpuid,pc:x").unwrap_err();
    assert!(alloc::format!("{why}").starts_with("\"pc:x\" is wrong: use addresses"));
}

#[test]
fn kept_out_events_have_numbers() {
    let filter = Filter::parse("reason:hlt,first:2").unwrap();
    let mut tracer = Tracer::new(filter, Full::Lose).unwrap();
    for n in 0..9 {
        let reason = match n % 2 {
            0 => ExitReason::Cpuid,
            _ => ExitReason::Hlt,
        };
        tracer.begin(3, || plain(reason));
    }
    let (events, end) = drain(&mut tracer, true);
    let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [1, 3]);
    let Totals { exits, kept, lost } = end.unwrap().totals;
    assert_eq!((exits, kept, lost), (9, 2, 0));
}

#[test]
fn a_line_and_an_object_have_the_same_fields() {
    let mut rdmsr = Traced {
        number: 7,
        seen: plain(ExitReason::Rdmsr),
    };
    assert_eq!(
        line(&rdmsr),
        "7 vm=1 cpu=0 ns=1000 reason=rdmsr pc=0x7c00 cpl=0 cr3=0x5000 msr=0xc0000080 value=0x501 next=0x7c02 took=200"
    );
    let mut out = String::new();
    rdmsr.json(1, 0, &mut out).unwrap();
    assert_eq!(
        out,
        "{\"number\": 7, \"vm\": 1, \"cpu\": 0, \"ns\": 1000, \"reason\": \"rdmsr\", \"pc\": \"0x7c00\", \"cpl\": 0, \"cr3\": \"0x5000\", \
         \"msr\": \"0xc0000080\", \"value\": \"0x501\", \"next\": \"0x7c02\", \"took\": 200}"
    );
    rdmsr.seen.came.event = Some(Event::exception(13, Some(0)));
    assert!(
        line(&rdmsr).ends_with("msr=0xc0000080 next=0x7c02 injected=exception:0xd:0x0 took=200")
    );
    let io = PortIo::plain(0x71, AccessSize::Byte, false);
    let port = Traced {
        number: 0,
        seen: plain(ExitReason::PortIo(io)),
    };
    assert!(line(&port).contains(" reason=port-io "), "{}", line(&port));
    assert!(line(&port).contains(" port=0x71 size=1 access=read value=0x1 "));
}

#[test]
fn each_name_of_a_reason_is_one_word() {
    for index in 0..ExitReason::KINDS {
        let word = alloc::format!("{}", ExitReason::word(index));
        let fits = |letter: char| letter.is_ascii_lowercase() || letter == '-';
        assert!(word.chars().all(fits), "{word}");
        assert_eq!(ExitReason::named(&word), Some(index));
    }
}

/// What a trace around CPUIDs, `count` on either side, keeps of a CPU whose exits are CPUIDs or HLTs, by their numbers. It is emptied now and then.
fn kept_around(exits: &[bool], count: u64, r: &mut Random) -> (Vec<u64>, Totals) {
    let filter = Filter::parse(&alloc::format!("around:cpuid/{count}")).unwrap();
    let mut tracer = Tracer::new(filter, Full::Lose).unwrap();
    let mut buffer = [0; HEAD + 4 * LONGEST];
    let (mut numbers, mut totals) = (Vec::new(), Totals::default());
    let mut empty = |tracer: &mut Tracer, last| {
        while let Some(chunk) = tracer.take(0, last, &mut buffer) {
            let (head, events) = Reader::begin(chunk).unwrap();
            totals = head.totals;
            numbers.extend(events.map(|event| event.unwrap().number));
        }
    };
    for &triggers in exits {
        let reason = if triggers {
            ExitReason::Cpuid
        } else {
            ExitReason::Hlt
        };
        let what = seen(reason, r);
        tracer.begin(0, || what);
        tracer.tell(&Came::default());
        tracer.close();
        if tracer.is_filling() || r.one_in(500) {
            empty(&mut tracer, false);
        }
    }
    empty(&mut tracer, true);
    (numbers, totals)
}

#[test]
fn a_trace_around_an_exit_has_so_many_before_it_and_behind_it_and_no_other() {
    let mut r = Random::from_env("UMBRA_SEED", 8);
    for round in 0..60 {
        let count = r.pick(&[1, 2, 7, 100, 999, 1000]);
        let often = r.pick(&[3, 50, 1000, 5000]);
        let exits: Vec<bool> = (0..8000).map(|_| r.one_in(often)).collect();
        let near = |n: u64| {
            let from = n.saturating_sub(count) as usize;
            let to = (n + count + 1).min(exits.len() as u64) as usize;
            exits[from..to].contains(&true)
        };
        let expected: Vec<u64> = (0..exits.len() as u64).filter(|&n| near(n)).collect();
        let (found, totals) = kept_around(&exits, count, &mut r);
        assert_eq!(
            found, expected,
            "round {round}: {count} around one of {often}"
        );
        assert_eq!((totals.exits, totals.lost), (8000, 0), "round {round}");
        assert_eq!(totals.kept, expected.len() as u64, "round {round}");
    }
}

#[test]
fn a_trace_is_around_known_reasons_with_room_for_what_waits() {
    for wrong in [
        "around:cpuid",
        "around:cpuid/0",
        "around:cpuid/1001",
        "around:x/5",
        "around:/5",
        "last,around:hlt/5",
    ] {
        assert!(Filter::parse(wrong).is_err(), "{wrong}");
    }
    assert!(
        Filter::parse("around:cpuid+hlt/1000,vm:1")
            .unwrap()
            .is_around()
    );
}
