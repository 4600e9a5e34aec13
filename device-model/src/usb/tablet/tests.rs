//! Requests as drivers send them, and reports.

use super::*;
use hv_core::testing::Random;
use std::vec::Vec;

const GET_DEVICE: [u8; 8] = [0x80, 6, 0, 1, 0, 0, 64, 0];

fn now(ms: u64) -> VmTime {
    VmTime::from_millis(ms)
}

/// Sends a request and goes through its stages. None: it stalls.
fn ask(tablet: &mut Tablet, request: [u8; 8]) -> Option<Vec<u8>> {
    assert_eq!(tablet.setup(0, request), Answer::Data(8));
    let wanted = usize::from(u16::from_le_bytes([request[6], request[7]]));
    let mut all = Vec::new();
    let mut packet = [0; MAX_PACKET];
    loop {
        match tablet.input(now(0), 0, &mut packet) {
            Answer::Data(len) => all.extend(&packet[..len]),
            Answer::Stall => return None,
            other => panic!("{other:?}"),
        }
        if all.len() >= wanted || !all.len().is_multiple_of(8) {
            break;
        }
    }
    if request[0] & 0x80 != 0 {
        assert_eq!(tablet.output(0, &[]), Answer::Data(0));
    }
    Some(all)
}

fn configured() -> Tablet {
    let mut tablet = Tablet::new();
    assert_eq!(ask(&mut tablet, [0, 5, 3, 0, 0, 0, 0, 0]), Some(vec![]));
    assert_eq!(ask(&mut tablet, [0, 9, 1, 0, 0, 0, 0, 0]), Some(vec![]));
    tablet
}

fn report(tablet: &mut Tablet, at: VmTime) -> Result<Vec<u8>, Answer> {
    let mut packet = [0; MAX_PACKET];
    match tablet.input(at, 1, &mut packet) {
        Answer::Data(len) => Ok(packet[..len].to_vec()),
        other => Err(other),
    }
}

#[test]
fn descriptors_tell_their_lengths() {
    let mut tablet = Tablet::new();
    let device = ask(&mut tablet, GET_DEVICE).unwrap();
    assert_eq!((device.len(), device[0], device[1]), (18, 18, 1));
    assert_eq!(device[8..12], [0x27, 0x06, 0x01, 0x00]);
    let head = ask(&mut tablet, [0x80, 6, 0, 2, 0, 0, 9, 0]).unwrap();
    assert_eq!(head.len(), 9);
    let all = ask(&mut tablet, [0x80, 6, 0, 2, 0, 0, 255, 0]).unwrap();
    assert_eq!(usize::from(head[2]), all.len());
    let mut rest = &all[..];
    let mut kinds = Vec::new();
    while let [len, kind, ..] = *rest {
        kinds.push(kind);
        rest = &rest[usize::from(len)..];
    }
    assert_eq!(kinds, [2, 4, 0x21, 5]);
    let hid = &all[18..27];
    let report = ask(&mut tablet, [0x81, 6, 0, 0x22, 0, 0, 255, 0]).unwrap();
    assert_eq!(usize::from(hid[7]), report.len());
    assert_eq!(report.last(), Some(&0xc0));
    assert_eq!(
        ask(&mut tablet, [0x80, 6, 0, 3, 0, 0, 255, 0]),
        Some(vec![4, 3, 9, 4])
    );
    let product = ask(&mut tablet, [0x80, 6, 2, 3, 9, 4, 255, 0]).unwrap();
    assert_eq!(product[2..6], [b'U', 0, b'S', 0]);
    for missing in [[6, 3], [0, 6], [1, 1]] {
        let [index, kind] = missing;
        assert_eq!(ask(&mut tablet, [0x80, 6, index, kind, 0, 0, 255, 0]), None);
    }
}

/// The bits of the report's fields, as the report descriptor counts them.
#[test]
fn the_report_descriptor_describes_the_report() {
    let mut rest = &descriptors::REPORT[..];
    let (mut size, mut count, mut bits, mut depth) = (0, 0, 0, 0);
    while let [item, ref data @ ..] = *rest {
        let len = [0, 1, 2, 4][usize::from(item & 3)];
        match item & 0xfc {
            0x74 => size = usize::from(data[0]),
            0x94 => count = usize::from(data[0]),
            0x80 => bits += size * count,
            0xa0 => depth += 1,
            0xc0 => depth -= 1,
            _ => {}
        }
        rest = &data[len..];
    }
    assert_eq!((bits, depth), (8 * descriptors::REPORT_LEN, 0));
}

#[test]
fn the_address_holds_after_the_request() {
    let tablet = configured();
    assert_eq!(tablet.address(), 3);
}

#[test]
fn a_bus_reset_takes_address_and_configuration_away() {
    let mut tablet = configured();
    tablet.point(Point::default());
    tablet.bus_reset();
    assert_eq!(tablet.address(), 0);
    assert_eq!(ask(&mut tablet, [0x80, 8, 0, 0, 0, 0, 1, 0]), Some(vec![0]));
    assert_eq!(report(&mut tablet, now(0)), Err(Answer::Silence));
}

#[test]
fn there_is_a_report_when_something_has_changed() {
    let mut tablet = configured();
    assert_eq!(report(&mut tablet, now(0)), Err(Answer::Nak));
    let point = Point {
        x: 0x1234,
        y: 0x7fff,
        wheel: 1,
        buttons: 4,
    };
    tablet.point(point);
    assert!(tablet.take_news());
    assert!(!tablet.take_news());
    assert_eq!(
        report(&mut tablet, now(0)),
        Ok(vec![4, 0x34, 0x12, 0xff, 0x7f, 0xff])
    );
    assert_eq!(report(&mut tablet, now(0)), Err(Answer::Nak));
    assert_eq!(
        ask(&mut tablet, [0xa1, 1, 0, 1, 0, 0, 6, 0]),
        Some(vec![4, 0x34, 0x12, 0xff, 0x7f, 0]),
        "GET_REPORT"
    );
}

#[test]
fn the_idle_rate_repeats_a_report() {
    let mut tablet = configured();
    assert_eq!(tablet.due(), VmTime::NEVER);
    assert_eq!(
        ask(&mut tablet, [0x21, 0x0a, 0, 25, 0, 0, 0, 0]),
        Some(vec![])
    );
    assert_eq!(
        ask(&mut tablet, [0xa1, 2, 0, 0, 0, 0, 1, 0]),
        Some(vec![25])
    );
    assert_eq!(tablet.due(), now(100));
    assert_eq!(report(&mut tablet, now(99)), Err(Answer::Nak));
    assert_eq!(report(&mut tablet, now(100)), Ok(vec![0; 6]));
    assert_eq!(tablet.due(), now(200));
}

#[test]
fn a_halted_endpoint_stalls_until_it_is_cleared() {
    let mut tablet = configured();
    tablet.point(Point {
        x: 1,
        ..Point::default()
    });
    assert_eq!(ask(&mut tablet, [2, 3, 0, 0, 0x81, 0, 0, 0]), Some(vec![]));
    assert_eq!(
        ask(&mut tablet, [0x82, 0, 0, 0, 0x81, 0, 2, 0]),
        Some(vec![1, 0])
    );
    assert_eq!(report(&mut tablet, now(0)), Err(Answer::Stall));
    assert_eq!(ask(&mut tablet, [2, 1, 0, 0, 0x81, 0, 0, 0]), Some(vec![]));
    assert!(report(&mut tablet, now(0)).is_ok());
}

#[test]
fn it_wakes_only_a_host_that_wants_it() {
    let mut tablet = configured();
    tablet.point(Point {
        x: 1,
        ..Point::default()
    });
    assert!(!tablet.wakes());
    assert_eq!(ask(&mut tablet, [0, 3, 1, 0, 0, 0, 0, 0]), Some(vec![]));
    assert_eq!(
        ask(&mut tablet, [0x80, 0, 0, 0, 0, 0, 2, 0]),
        Some(vec![2, 0])
    );
    assert!(tablet.wakes());
    assert_eq!(ask(&mut tablet, [0, 1, 1, 0, 0, 0, 0, 0]), Some(vec![]));
    assert!(!tablet.wakes());
}

#[test]
fn it_is_in_use_while_the_guest_asks() {
    let mut tablet = Tablet::new();
    assert!(!tablet.in_use(now(0)));
    tablet = configured();
    assert!(!tablet.in_use(now(0)), "no driver has asked yet");
    let _ = report(&mut tablet, now(10));
    assert!(tablet.in_use(now(1_009)));
    assert!(!tablet.in_use(now(1_010)));
    ask(&mut tablet, [0, 3, 1, 0, 0, 0, 0, 0]);
    assert!(tablet.in_use(now(9_999)), "it waits to be woken");
}

#[test]
fn what_is_no_request_of_its_stalls() {
    let mut tablet = configured();
    for request in [
        [0, 5, 128, 0, 0, 0, 0, 0],
        [0, 9, 2, 0, 0, 0, 0, 0],
        [0x21, 9, 0, 2, 0, 0, 1, 0],
        [0xa1, 3, 0, 0, 0, 0, 1, 0],
        [2, 3, 0, 0, 0x82, 0, 0, 0],
        [1, 11, 1, 0, 0, 0, 0, 0],
        [0xc0, 1, 0, 0, 4, 0, 16, 0],
    ] {
        assert_eq!(ask(&mut tablet, request), None, "{request:x?}");
    }
    assert_eq!(tablet.setup(2, GET_DEVICE), Answer::Silence);
    assert_eq!(tablet.output(1, &[0; 8]), Answer::Silence);
}

#[test]
fn random_abuse_never_panics() {
    let mut tablet = Tablet::new();
    let mut random = Random::from_env("UMBRA_SEED", 71);
    let mut packet = [0; MAX_PACKET];
    for _ in 0..100_000 {
        let x = random.next();
        let kinds = [0, 1, 2, 0x80, 0x81, 0x82, 0x21, 0xa1];
        match x & 7 {
            0..3 => {
                let mut request = x.to_le_bytes();
                request[0] = random.pick(&kinds);
                request[1] &= 15;
                tablet.setup((x >> 60) as u8 & 1, request);
            }
            3 => drop(tablet.output((x >> 8) as u8 & 3, &packet[..(x >> 16) as usize & 15])),
            4 => tablet.point(Point {
                x: (x >> 8) as u16,
                y: (x >> 24) as u16,
                wheel: (x >> 32) as i32,
                buttons: (x >> 40) as u8,
            }),
            5 => tablet.bus_reset(),
            _ => {
                let answer = tablet.input(VmTime(x >> 20), (x >> 8) as u8 & 3, &mut packet);
                assert!(!matches!(answer, Answer::Data(len) if len > 8));
            }
        }
    }
}
