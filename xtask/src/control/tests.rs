//! What the tool makes of bytes; the frames themselves are tested where they are made.

use super::*;
use protocol::Event;

fn decode(bytes: &[u8]) -> Vec<Said> {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    std::iter::from_fn(|| decoder.next(&mut rest)).collect()
}

#[test]
fn what_the_firmware_wrote_before_the_first_frame_is_passed_over() {
    let stream = [
        &b"\x1b[2JE\x1b[=3hEE"[..],
        &far::hello(),
        &far::console(2, b"E"),
        b"<bochs:1>",
        &far::event(1, Event::Bye),
    ]
    .concat();
    assert_eq!(
        decode(&stream),
        [
            Said::About(0, Message::Hello(protocol::VERSION)),
            Said::About(1, Message::Console(b"E".to_vec())),
            Said::Skipped("9 bytes that are no frame".to_owned()),
            Said::About(0, Message::Event(Event::Bye)),
        ]
    );
}

#[test]
fn a_screen_of_1024_rows_is_a_screen() {
    let rows = vec!["ab"; 1024];
    let said = decode(&far::text(&rows));
    let [Said::About(0, Message::Text(screen))] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((screen.cols, screen.rows), (2, 1024));
}
