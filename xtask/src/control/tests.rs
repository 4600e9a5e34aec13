//! Frames, whole and damaged.

use super::*;

fn synchronized() -> Decoder {
    Decoder {
        synchronized: true,
        ..Decoder::default()
    }
}

#[test]
fn what_the_firmware_wrote_before_the_first_event_is_passed_over() {
    let stream = [
        &b"\x1b[2JE\x1b[=3hEE"[..],
        &far::event("ready"),
        &far::console(b"E"),
    ]
    .concat();
    for cut in 0..stream.len() {
        let mut decoder = Decoder::default();
        let mut got = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            decoder.feed(part);
            while let Some(message) = decoder.next().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(
            got,
            [
                Message::Event(Event::Ready),
                Message::Console(b"E".to_vec())
            ],
            "cut at {cut}"
        );
    }
}

#[test]
fn a_flood_without_events_is_not_kept() {
    let mut decoder = Decoder::default();
    for _ in 0..1000 {
        decoder.feed(&[b'x'; 1000]);
        assert_eq!(decoder.next().unwrap(), None);
    }
    assert!(decoder.pending.is_empty());
}

fn decode_all(bytes: &[u8]) -> Vec<Message> {
    let mut decoder = synchronized();
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.next().expect("valid frames")).collect()
}

#[test]
fn a_frame_is_kind_length_payload() {
    assert_eq!(
        Request::Keys(vec![0x1e, 0x9e]).encode(),
        [b'K', 2, 0, 0, 0, 0x1e, 0x9e]
    );
    let mouse = Mouse {
        dx: -2,
        dy: 300,
        wheel: -1,
        buttons: 4,
    };
    assert_eq!(
        Request::Mouse(mouse).encode(),
        [b'M', 6, 0, 0, 0, 0xfe, 0xff, 0x2c, 0x01, 0xff, 4]
    );
    assert_eq!(Request::Screenshot.encode(), [b'S', 0, 0, 0, 0]);
}

#[test]
fn frames_are_decoded_wherever_the_stream_is_cut() {
    let stream = [
        far::console(b"hello"),
        far::event("ready"),
        far::text(&["ab", "cd"]),
    ]
    .concat();
    let whole = decode_all(&stream);
    assert_eq!(whole.len(), 3);
    for cut in 0..stream.len() {
        let mut decoder = synchronized();
        let mut got = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            decoder.feed(part);
            while let Some(message) = decoder.next().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, whole, "cut at {cut}");
    }
}

#[test]
fn events_carry_their_sentence() {
    let event = |text| decode_all(&far::event(text)).remove(0);
    assert_eq!(event("poweroff"), Message::Event(Event::PowerOff));
    assert_eq!(event("reset"), Message::Event(Event::Reset));
    assert_eq!(
        event("fatal: no way"),
        Message::Event(Event::Fatal("no way".into()))
    );
    assert_eq!(
        event("refused: no SVM"),
        Message::Event(Event::Refused("no SVM".into()))
    );
    assert_eq!(
        event("sleepy"),
        Message::Event(Event::Other("sleepy".into()))
    );
    assert_eq!(event("focus 2"), Message::Event(Event::Focus(2)));
}

#[test]
fn frames_say_which_machine_they_are_about() {
    assert_eq!(decode_all(&far::vm(2)), [Message::Vm(2)]);
    for payload in [&[0][..], &[], &[1, 2]] {
        let mut decoder = synchronized();
        decoder.feed(&frame(kind::VM, payload));
        assert!(decoder.next().is_err(), "{payload:?}");
    }
}

#[test]
fn a_picture_is_runs_of_pixels() {
    let mut payload = vec![3, 0, 0, 0, 2, 0, 0, 0];
    payload.extend_from_slice(&[4, 0, 1, 2, 3]);
    payload.extend_from_slice(&[2, 0, 9, 8, 7]);
    let picture = Picture::decode(&payload).unwrap();
    assert_eq!((picture.width, picture.height), (3, 2));
    assert_eq!(picture.rgb[..3], [1, 2, 3]);
    assert_eq!(picture.rgb[15..], [9, 8, 7]);
}

#[test]
fn a_picture_with_too_few_or_too_many_pixels_is_an_error() {
    for count in [5, 7] {
        let payload = [&[3, 0, 0, 0, 2, 0, 0, 0][..], &[count, 0, 1, 2, 3]].concat();
        assert!(Picture::decode(&payload).is_err());
    }
}

#[test]
fn a_huge_picture_or_frame_is_an_error_and_not_an_allocation() {
    assert!(Picture::decode(&[0xff; 8]).is_err());
    let mut decoder = synchronized();
    decoder.feed(&[b'C', 0xff, 0xff, 0xff, 0xff]);
    assert!(decoder.next().is_err());
}

#[test]
fn a_text_screen_must_hold_what_its_size_says() {
    assert!(TextScreen::decode(&[80, 0, 25, 0, 1, 2]).is_err());
    assert!(TextScreen::decode(&[0, 0, 0, 0]).unwrap().cells.is_empty());
}

#[test]
fn unknown_kinds_are_passed_over() {
    let stream = [frame(b'?', b"new"), far::event("bye")].concat();
    assert_eq!(
        decode_all(&stream),
        [Message::Unknown(b'?'), Message::Event(Event::Bye)]
    );
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        let mut decoder = synchronized();
        for _ in 0..40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let [a, b, c, ..] = state.to_le_bytes();
            decoder.feed(&[
                *b"CTSREV?".get(usize::from(a) % 7).unwrap(),
                b % 32,
                0,
                0,
                0,
                c,
            ]);
            if decoder.next().is_err() {
                break;
            }
        }
    }
}
