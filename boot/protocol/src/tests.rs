//! Both ends against each other: round trips, damaged frames, and parts that do not fit together.

use super::*;
use core::fmt::Write;
use hv_core::testing::Random;
use std::string::String;
use std::vec;
use std::vec::Vec;

fn random(seed: u64) -> Random {
    Random::from_env("UMBRA_SEED", seed)
}

fn noise(r: &mut Random, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; r.below(len) as usize];
    r.fill(&mut bytes);
    bytes
}

fn buffer() -> [u8; MAX_PAYLOAD] {
    [0; MAX_PAYLOAD]
}

/// A frame's kind, machine and payload.
type Found = Result<(u8, u8, Vec<u8>), Skipped>;

/// What a decoder makes of `bytes`, which it gets in pieces of up to `piece`.
fn items(bytes: &[u8], piece: usize) -> Vec<Found> {
    let mut decoder = Decoder::new();
    let mut all = Vec::new();
    for mut part in bytes.chunks(piece) {
        while let Some(item) = decoder.next(&mut part) {
            all.push(match item {
                Item::Frame(Frame { kind, vm, payload }) => Ok((kind, vm, payload.to_vec())),
                Item::Skipped(skipped) => Err(skipped),
            });
        }
    }
    all
}

/// What the tool makes of `bytes`.
fn tool(bytes: &[u8]) -> Vec<Result<(u8, Whole), Skipped>> {
    let (mut decoder, mut assembler) = (Decoder::new(), Assembler::default());
    let mut rest = bytes;
    let mut all = Vec::new();
    let mut vm = 0;
    while let Some(item) = decoder.next(&mut rest) {
        let taken = match item {
            Item::Frame(frame) => {
                vm = frame.vm;
                Message::decode(frame).and_then(|m| assembler.take(frame.vm, m))
            }
            Item::Skipped(skipped) => Err(skipped),
        };
        all.extend(
            taken
                .map(|whole| whole.map(|whole| (vm, whole)))
                .transpose(),
        );
    }
    all
}

/// What Umbra makes of `bytes`.
fn umbra(bytes: &[u8]) -> Vec<Result<Request<Vec<u8>>, Skipped>> {
    let mut decoder = Decoder::new();
    let mut rest = bytes;
    let mut all = Vec::new();
    while let Some(item) = decoder.next(&mut rest) {
        all.push(match item {
            Item::Frame(frame) => Request::decode(frame).map(|request| match request {
                Request::Keys(bytes) => Request::Keys(bytes.to_vec()),
                Request::Input(bytes) => Request::Input(bytes.to_vec()),
                Request::Hello(version) => Request::Hello(version),
                Request::Mouse(mouse) => Request::Mouse(mouse),
                Request::Point(point) => Request::Point(point),
                Request::Focus(vm) => Request::Focus(vm),
                Request::Attach(vm) => Request::Attach(vm),
                Request::Debugger(vm, bytes) => Request::Debugger(vm, bytes.to_vec()),
                Request::Detach(vm) => Request::Detach(vm),
                Request::Screenshot => Request::Screenshot,
                Request::Report => Request::Report,
                Request::Quit => Request::Quit,
            }),
            Item::Skipped(skipped) => Err(skipped),
        });
    }
    all
}

fn encoded(vm: u8, message: Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(vm, &mut |part| bytes.extend_from_slice(part));
    bytes
}

/// What Umbra sends of a picture.
fn picture(size: Size, rows: &[Vec<u32>]) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), buffer());
    let send = &mut |message: Message<'_>| {
        message.encode(1, &mut |part| bytes.extend_from_slice(part));
    };
    let mut bands = Bands::begin(size, &mut buffer, send);
    rows.iter().for_each(|row| bands.row(row, send));
    bands.end(send);
    bytes
}

/// Whole screens, pictures and reports, and what is said at once.
fn random_message(r: &mut Random) -> (Whole, Vec<u8>) {
    let mut buffer = buffer();
    let mut bytes = Vec::new();
    let send = &mut |message: Message<'_>| {
        message.encode(1, &mut |part| bytes.extend_from_slice(part));
    };
    let whole = match r.below(10) {
        9 => {
            let chunk = noise(r, MAX_PAYLOAD as u64);
            send(Message::Trace(&chunk));
            Whole::Trace(chunk)
        }
        8 => {
            let said = noise(r, MAX_PAYLOAD as u64);
            send(Message::Debug(&said));
            Whole::Debug(said)
        }
        0 => {
            send(Message::Hello(r.next() as u16));
            return (tool(&bytes).remove(0).unwrap().1, bytes);
        }
        1 => {
            let said = noise(r, MAX_PAYLOAD as u64);
            let said = if said.is_empty() { vec![1] } else { said };
            send(Message::Console(&said));
            Whole::Console(said)
        }
        2 => {
            let (cols, rows) = (r.below(256) as u16 + 1, r.below(1024) as u16 + 1);
            let mut cells = vec![0; usize::from(cols) * usize::from(rows)];
            r.fill(&mut cells);
            let mut parts = Rows::begin(cols, rows, &mut buffer);
            cells
                .chunks(cols.into())
                .for_each(|row| parts.row(row, send));
            parts.end(send);
            Whole::Text(TextScreen {
                cols: cols.into(),
                rows: rows.into(),
                cells,
            })
        }
        3 => {
            send(Message::Text(TextRows::NONE));
            Whole::Text(TextScreen::default())
        }
        4 | 5 => {
            let size = Size::new(r.below(2560) as u32 + 1, r.below(40) as u32 + 1).unwrap();
            let colours = [1, 2, 3, 1 << 24][r.below(4) as usize];
            let mut bands = Bands::begin(size, &mut buffer, send);
            let mut rgb = Vec::new();
            for _ in 0..size.height() {
                let row: Vec<u32> = (0..size.width()).map(|_| r.below(colours) as u32).collect();
                rgb.extend(
                    row.iter()
                        .flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]),
                );
                bands.row(&row, send);
            }
            bands.end(send);
            Whole::Screenshot(Picture {
                width: size.width().into(),
                height: size.height().into(),
                rgb,
            })
        }
        6 => {
            let text = "{\"é\": 1}".repeat(r.below(4000) as usize);
            let mut report = report::Report::begin(&mut buffer, send);
            report.write_str(&text).unwrap();
            report.end();
            Whole::Report(text)
        }
        _ => {
            let why = "why ".repeat(r.below(200) as usize);
            let event = [
                Event::Ready,
                Event::PowerOff,
                Event::Reset,
                Event::Bye,
                Event::Focus,
                Event::Fatal(&*why),
                Event::Refused(&*why),
                Event::Failed(&*why),
                Event::Crashed(&*why),
                Event::Suspended,
                Event::Woken,
                Event::Break(&*why),
            ][r.below(12) as usize];
            send(Message::Event(event));
            Whole::Event(event.map(String::from))
        }
    };
    (whole, bytes)
}

fn random_request(r: &mut Random) -> Request<Vec<u8>> {
    let bytes = noise(r, 100);
    match r.below(12) {
        8 => Request::Attach(r.below(8) as u8 + 1),
        9 if !bytes.is_empty() => Request::Debugger(r.below(8) as u8 + 1, bytes),
        10 => Request::Detach(r.below(8) as u8 + 1),
        0 => Request::Hello(r.next() as u16),
        1 if !bytes.is_empty() => Request::Keys(bytes),
        2 => Request::Mouse(Mouse {
            dx: r.next() as i16,
            dy: r.next() as i16,
            wheel: r.next() as i8,
            buttons: r.next() as u8,
        }),
        3 if !bytes.is_empty() => Request::Input(bytes),
        4 => Request::Focus(r.below(8) as u8 + 1),
        5 => Request::Screenshot,
        6 => Request::Report,
        7 => Request::Point(Point {
            x: r.next() as u16,
            y: r.next() as u16,
            wheel: r.next() as i8,
            buttons: r.next() as u8,
        }),
        _ => Request::Quit,
    }
}

#[test]
fn what_umbra_says_comes_out_whole_at_the_tool() {
    let mut r = random(1);
    for _ in 0..300 {
        let (whole, bytes) = random_message(&mut r);
        let told = tool(&bytes);
        assert!(told == [Ok((1, whole))], "{:?}", told.first());
    }
}

#[test]
fn what_the_tool_asks_comes_out_at_umbra() {
    let mut r = random(2);
    for _ in 0..5000 {
        let request = random_request(&mut r);
        assert_eq!(umbra(&request.to_bytes()), [Ok(request)]);
    }
}

#[test]
fn frames_are_found_wherever_the_stream_is_cut() {
    let mut r = random(3);
    let stream: Vec<u8> = (0..20).flat_map(|_| random_message(&mut r).1).collect();
    let whole = items(&stream, usize::MAX);
    assert!(whole.iter().all(Result::is_ok));
    for piece in [1, 2, 3, 7, 100, 8191] {
        assert!(items(&stream, piece) == whole, "pieces of {piece}");
    }
}

#[test]
fn a_message_that_is_cut_off_gives_nothing_and_does_no_harm() {
    let mut r = random(4);
    for _ in 0..200 {
        let (_, bytes) = random_message(&mut r);
        let part = &bytes[..r.below(bytes.len() as u64) as usize];
        assert!(tool(part).is_empty(), "nothing is whole");
        // What follows is heard again, after at most one payload that the cut frame takes with it.
        let mut stream = part.to_vec();
        stream.resize(stream.len() + MAX_PAYLOAD, 0);
        stream.extend(encoded(2, Message::Console(b"later")));
        let last = tool(&stream).pop();
        assert_eq!(last, Some(Ok((2, Whole::Console(b"later".to_vec())))));
    }
}

#[test]
fn changed_bytes_never_panic_and_the_stream_goes_on() {
    let mut r = random(5);
    for _ in 0..400 {
        let mut bytes = if r.below(4) == 0 {
            random_request(&mut r).to_bytes()
        } else {
            random_message(&mut r).1
        };
        for _ in 0..=r.below(4) {
            let at = r.below(bytes.len() as u64) as usize;
            match r.below(3) {
                0 => bytes[at] = r.next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, r.next() as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes.resize(bytes.len() + usize::from(u16::MAX), 0);
        bytes.extend(encoded(1, Message::Event(Event::Bye)));
        bytes.extend(Request::<&[u8]>::Quit.to_bytes());
        let told = tool(&bytes);
        assert!(told.contains(&Ok((1, Whole::Event(Event::Bye)))));
        assert_eq!(umbra(&bytes).pop(), Some(Ok(Request::Quit)));
        for skipped in told.iter().filter_map(|told| told.as_ref().err()) {
            assert!(!skipped.to_string().is_empty());
        }
    }
}

#[test]
fn random_frames_never_panic() {
    let mut r = random(6);
    let kinds = b"hctpbregHKMIFSRAGDQ?";
    for _ in 0..20_000 {
        let mut payload = noise(&mut r, 40);
        // Small numbers are those within the limits.
        payload.iter_mut().skip(1).step_by(2).for_each(|byte| {
            *byte &= 3;
        });
        let kind = kinds[r.below(kinds.len() as u64) as usize];
        let mut bytes = Vec::new();
        frame::encode(kind, r.below(10) as u8, &[&payload], &mut |part| {
            bytes.extend_from_slice(part);
        });
        tool(&bytes);
        umbra(&bytes);
    }
}

#[test]
fn what_stands_between_frames_is_passed_over_and_counted() {
    let hello = encoded(1, Message::Hello(VERSION));
    let stream = [
        b"\x1b[2JSeaBIOS \xfe\xfe\xd5",
        &hello[..],
        b"bochs> ",
        &hello[..],
    ]
    .concat();
    assert_eq!(
        tool(&stream),
        [
            Err(Skipped::Noise(15)),
            Ok((1, Whole::Hello(VERSION))),
            Err(Skipped::Noise(7)),
            Ok((1, Whole::Hello(VERSION)))
        ]
    );
}

#[test]
fn a_frame_longer_than_the_limit_is_passed_over_as_a_whole() {
    let mut bytes = vec![0xfe, 0xd5, b'c', 1, 0xff, 0xff];
    bytes.push(0xa5 ^ b'c' ^ 2 ^ 0xff ^ 0xff);
    bytes.extend(vec![0xfe; 0xffff]);
    bytes.extend(encoded(1, Message::Console(b"x")));
    assert_eq!(
        tool(&bytes),
        [
            Err(Skipped::TooLong {
                kind: b'c',
                len: 0xffff
            }),
            Ok((1, Whole::Console(b"x".to_vec())))
        ]
    );
}

#[test]
fn what_is_unknown_or_about_no_machine_is_skipped() {
    let mut bytes = Vec::new();
    let mut frame = |kind, vm, payload: &[u8]| {
        frame::encode(kind, vm, &[payload], &mut |p| bytes.extend_from_slice(p));
    };
    frame(b'?', 1, b"new");
    frame(b'c', 0, b"x");
    frame(b'c', MAX_VMS + 1, b"x");
    frame(b'e', 1, &[99]);
    frame(b'c', MAX_VMS, b"x");
    let told = tool(&bytes);
    assert_eq!(told[0], Err(Skipped::Unknown(b'?')));
    assert!(
        told[1..4]
            .iter()
            .all(|t| matches!(t, Err(Skipped::Malformed { .. })))
    );
    assert_eq!(told[4], Ok((MAX_VMS, Whole::Console(b"x".to_vec()))));
}

#[test]
fn a_later_versions_hello_is_heard() {
    let mut bytes = Vec::new();
    frame::encode(b'h', 1, &[&[9, 1, 7, 7, 7]], &mut |p| {
        bytes.extend_from_slice(p);
    });
    assert_eq!(tool(&bytes), [Ok((1, Whole::Hello(0x109)))]);
}

#[test]
fn the_largest_text_screen_and_picture_come_through() {
    let (mut bytes, mut scratch) = (Vec::new(), buffer());
    let send = &mut |message: Message<'_>| {
        message.encode(1, &mut |part| bytes.extend_from_slice(part));
    };
    let mut rows = Rows::begin(MAX_COLUMNS, MAX_ROWS, &mut scratch);
    (0..MAX_ROWS).for_each(|_| rows.row(&[b'x'; 256], send));
    rows.end(send);
    let size = Size::new(MAX_WIDTH.into(), MAX_HEIGHT.into()).unwrap();
    let mut bands = Bands::begin(size, &mut scratch, send);
    let row = |y: u32| -> Vec<u32> { (0..u32::from(MAX_WIDTH)).map(|x| (x * 7919) ^ y).collect() };
    (0..u32::from(MAX_HEIGHT)).for_each(|y| bands.row(&row(y), send));
    bands.end(send);
    let mut told = tool(&bytes);
    let Some(Ok((_, Whole::Screenshot(picture)))) = told.pop() else {
        panic!("no picture");
    };
    assert_eq!((picture.width, picture.height), (2560, 1600));
    for (y, line) in (0..).zip(picture.rgb.chunks(3 * 2560)) {
        let back = line
            .chunks(3)
            .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]));
        assert!(
            back.eq(row(y).into_iter().map(|p| p & 0xff_ffff)),
            "row {y}"
        );
    }
    let Some(Ok((_, Whole::Text(text)))) = told.pop() else {
        panic!("no text");
    };
    assert_eq!((text.cols, text.rows), (256, 1024));
    assert!(text.cells.iter().all(|&cell| cell == b'x'));
}

#[test]
fn a_row_never_takes_more_than_a_frame_has_room_for() {
    let mut r = random(7);
    for _ in 0..300 {
        let alike = r.below(6) + 1;
        let mut row = Vec::new();
        while row.len() < 2560 {
            let pixel = r.below(1 << 24) as u32;
            row.extend(vec![pixel; r.below(alike) as usize + 1]);
        }
        row.truncate(2560);
        let size = Size::new(2560, 1).unwrap();
        let told = tool(&picture(size, &[row]));
        assert!(matches!(told[..], [Ok((1, Whole::Screenshot(_)))]));
    }
}

#[test]
fn rows_that_are_too_short_or_missing_are_black() {
    let size = Size::new(3, 2).unwrap();
    let told = tool(&picture(size, &[vec![0x010203]]));
    let [Ok((1, Whole::Screenshot(picture)))] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(picture.rgb[..4], [1, 2, 3, 0]);
    assert_eq!(picture.rgb.len(), 18);
}

#[test]
fn parts_that_do_not_follow_each_other_are_skipped() {
    let begin = encoded(1, Message::Picture(Size::new(2, 3).unwrap()));
    let band =
        |y, rows, tokens: &[u8]| encoded(1, Message::Band(Band::new(y, rows, tokens).unwrap()));
    let row = [0x81, 1, 2, 3];
    for (what, stream) in [
        ("no picture", band(0, 1, &row)),
        ("missing", [begin.clone(), band(1, 1, &row)].concat()),
        ("missing", [begin.clone(), band(0, 4, &row)].concat()),
        (
            "damaged",
            [begin.clone(), band(0, 1, &[0x82, 1, 2, 3])].concat(),
        ),
        (
            "damaged",
            [begin.clone(), band(0, 1, &[0x80, 1, 2, 3])].concat(),
        ),
        (
            "damaged",
            [begin.clone(), band(0, 1, &[0xff, 0xff, 1, 2, 3])].concat(),
        ),
        (
            "damaged",
            [begin.clone(), band(0, 1, &[0x01, 1, 2, 3])].concat(),
        ),
    ] {
        let told = tool(&stream);
        let [Err(why)] = &told[..] else {
            panic!("{told:?}");
        };
        assert!(why.to_string().contains(what), "{why}");
    }
    // Another picture begins before the first is complete: it is whole.
    let stream = [
        begin.clone(),
        band(0, 1, &row),
        begin,
        band(0, 3, &row.repeat(3)),
    ]
    .concat();
    assert!(matches!(tool(&stream)[..], [Ok((1, Whole::Screenshot(_)))]));
    let rows = |rows, first, cells| {
        encoded(
            1,
            Message::Text(TextRows::new(2, rows, first, cells).unwrap()),
        )
    };
    for stream in [
        rows(2, 1, b"ab"),
        [rows(3, 0, b"ab"), rows(3, 2, b"ab")].concat(),
        [rows(3, 0, b"ab"), rows(2, 1, b"ab")].concat(),
    ] {
        assert!(matches!(tool(&stream)[..], [Err(Skipped::Incomplete(_))]));
    }
}

#[test]
fn a_report_without_end_is_not_kept() {
    let piece = [b'x'; MAX_PAYLOAD - 1];
    let more = encoded(
        1,
        Message::Report {
            last: false,
            piece: &piece,
        },
    );
    let mut assembler = Assembler::default();
    let mut decoder = Decoder::new();
    let mut told = Vec::new();
    let last = encoded(
        1,
        Message::Report {
            last: true,
            piece: &[],
        },
    );
    for n in 0..2000 {
        let mut rest = if n < 1999 { &more[..] } else { &last[..] };
        while let Some(Item::Frame(frame)) = decoder.next(&mut rest) {
            told.extend(
                assembler
                    .take(1, Message::decode(frame).unwrap())
                    .transpose(),
            );
        }
        assert!(assembler.held() <= MAX_REPORT);
    }
    assert_eq!(
        told,
        [Err(Skipped::Incomplete("a report that is too long"))]
    );
}

#[test]
fn an_events_sentence_is_cut_at_a_character() {
    let why = "é".repeat(1000);
    let told = tool(&encoded(1, Message::Event(Event::Fatal(&why))));
    let [Ok((1, Whole::Event(Event::Fatal(cut))))] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(cut.len(), MAX_SENTENCE);
}

#[test]
fn long_input_is_several_frames() {
    let bytes = vec![7; 20_000];
    let heard = umbra(&Request::Input(bytes.clone()).to_bytes());
    assert_eq!(heard.len(), 3);
    let all: Vec<u8> = heard
        .into_iter()
        .flat_map(|request| match request {
            Ok(Request::Input(bytes)) => bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(all, bytes);
}
