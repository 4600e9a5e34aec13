//! Conversations with an Umbra that the tests play.

use super::*;
use crate::control::{Mouse, far};
use crate::script::wait;
use protocol::Event;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// Runs a session against `umbra`, which plays the far side and gets what was asked of it.
fn converse(plan: &Plan, umbra: impl FnOnce(&mut Far) + Send + 'static) -> (Summary, Vec<u8>) {
    let (near, far) = UnixStream::pair().unwrap();
    let player = thread::spawn(move || {
        let mut far = Far {
            stream: far,
            decoder: protocol::Decoder::new(),
            waiting: Vec::new(),
        };
        far.say(&far::hello());
        umbra(&mut far);
    });
    let mut heard = Vec::new();
    let clone = near.try_clone().unwrap();
    let summary = Session::new(Channel::over(near, clone), &plan.script).run(plan, &mut |com1| {
        if com1.focus {
            heard.extend_from_slice(com1.bytes);
        }
    });
    player.join().unwrap();
    (summary, heard)
}

struct Far {
    stream: UnixStream,
    decoder: protocol::Decoder,
    waiting: Vec<u8>,
}

impl Far {
    fn say(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).unwrap();
    }

    fn hear(&mut self) -> Option<Request> {
        loop {
            let mut bytes = &self.waiting[..];
            let request = far::request(&mut self.decoder, &mut bytes);
            let left = bytes.len();
            self.waiting.drain(..self.waiting.len() - left);
            if request.is_some() {
                return request;
            }
            let mut buffer = [0; 256];
            match self.stream.read(&mut buffer) {
                Ok(count) if count > 0 => self.waiting.extend_from_slice(&buffer[..count]),
                _ => return None,
            }
        }
    }
}

fn plan(script: &[Step]) -> Plan {
    Plan {
        script: script.to_vec(),
        timeout: Some(Duration::from_secs(5)),
        ends_on_panic: true,
        ..Plan::default()
    }
}

fn until(text: &str) -> Step {
    Step::Until(text.to_owned())
}

#[test]
fn the_last_text_ends_the_run_and_umbra_is_told_to_quit() {
    let (summary, heard) = converse(&plan(&[until("login:")]), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::console(1, b"debian login: "));
        assert_eq!(umbra.hear(), Some(Request::Quit));
        umbra.say(&far::event(1, Event::Bye));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
    assert_eq!(heard, b"debian login: ");
}

#[test]
fn keys_are_sent_after_the_text_before_them() {
    let script = [until("GNU GRUB"), Step::Type("c".into()), until("grub>")];
    let (summary, _) = converse(&plan(&script), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::text(&["GNU GRUB  version 2.06"]));
        assert_eq!(umbra.hear(), Some(Request::Keys(vec![0x2e, 0xae])));
        umbra.say(&far::text(&["grub>"]));
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
}

#[test]
fn the_mouse_moves_and_clicks_in_the_scripts_order() {
    let script = [
        Step::Mouse("12,0 left".into()),
        Step::Type("c".into()),
        until("x"),
    ];
    let (summary, _) = converse(&plan(&script), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        let mouse = |dx, buttons| {
            Some(Request::Mouse(Mouse {
                dx,
                buttons,
                ..Mouse::default()
            }))
        };
        for (dx, buttons) in [(6, 0), (6, 0), (0, 1), (0, 0)] {
            assert_eq!(umbra.hear(), mouse(dx, buttons));
        }
        assert_eq!(umbra.hear(), Some(Request::Keys(vec![0x2e, 0xae])));
        umbra.say(&far::console(1, b"x"));
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
}

#[test]
fn power_off_without_texts_is_success() {
    let (summary, _) = converse(&plan(&[]), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::event(1, Event::PowerOff));
        umbra.hear();
    });
    assert_eq!(summary.result.unwrap(), Ending::PoweredOff);
}

#[test]
fn each_machine_is_watched_by_itself() {
    let script = [until("A"), Step::Focus(2), until("A"), until("B")];
    let plan = Plan {
        vms: 2,
        report: true,
        ..plan(&script)
    };
    let (summary, heard) = converse(&plan, |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::console(2, b"A B"));
        umbra.say(&far::console(1, b"A"));
        assert_eq!(umbra.hear(), Some(Request::Focus(2)));
        assert_eq!(umbra.hear(), Some(Request::Report));
        umbra.say(&far::report("1"));
        umbra.say(&far::report("2"));
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
    assert_eq!(heard, b"A", "only the COM1 of the one with the focus");
    assert_eq!(summary.report.unwrap(), "{\"vms\": [1, 2]}");
}

#[test]
fn a_run_ends_when_all_machines_are_off() {
    let plan = Plan {
        vms: 2,
        ..plan(&[])
    };
    let (summary, heard) = converse(&plan, |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::event(1, Event::PowerOff));
        umbra.say(&far::event(2, Event::Focus));
        umbra.say(&far::console(2, b"x"));
        umbra.say(&far::event(2, Event::PowerOff));
        umbra.hear();
    });
    assert_eq!(summary.result.unwrap(), Ending::PoweredOff);
    assert_eq!(heard, b"x");
}

#[test]
fn power_off_before_a_text_is_failure() {
    let (summary, _) = converse(&plan(&[until("A"), until("B")]), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::console(1, b"A"));
        umbra.say(&far::event(1, Event::PowerOff));
        umbra.hear();
    });
    assert_eq!(
        summary.result.unwrap_err().to_string(),
        "the guest powered off before \"B\" appeared"
    );
}

#[test]
fn the_deadline_is_failure_and_the_picture_is_taken_all_the_same() {
    let plan = Plan {
        timeout: Some(Duration::from_millis(100)),
        screenshot: true,
        ..plan(&[until("never")])
    };
    let (summary, _) = converse(&plan, |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        assert_eq!(umbra.hear(), Some(Request::Screenshot));
        umbra.say(&far::picture(&Picture {
            width: 1,
            height: 1,
            rgb: vec![1, 2, 3],
        }));
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(
        summary.result.unwrap_err().to_string(),
        "gave up after 0 seconds before \"never\" appeared"
    );
    assert_eq!(summary.picture.unwrap().rgb, [1, 2, 3]);
}

#[test]
fn a_refusal_is_a_refusal() {
    let (summary, _) = converse(&plan(&[]), |umbra| {
        umbra.say(&far::event(
            1,
            Event::Refused("this processor has no AMD-V"),
        ));
        umbra.hear();
    });
    assert!(summary.result.unwrap_err().is::<Refused>());
}

/// Why a run fails in which Umbra says that it is ready, and then that `event` has happened.
fn failure_after(event: Event<&'static str>) -> String {
    let (summary, _) = converse(&plan(&[until("x")]), move |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::event(1, event));
        umbra.hear();
    });
    summary.result.unwrap_err().to_string()
}

#[test]
fn a_fatal_event_ends_the_run_with_its_reason() {
    assert!(failure_after(Event::Fatal("exit 0x999")).ends_with("exit 0x999"));
}

#[test]
fn a_failure_of_umbra_ends_the_run_with_what_has_failed() {
    assert_eq!(
        failure_after(Event::Failed("host CPU 1 panicked")),
        "Umbra itself has failed: host CPU 1 panicked"
    );
}

#[test]
fn a_guest_that_has_crashed_ends_the_run_unless_it_is_to_go_on() {
    assert!(failure_after(Event::Crashed("0x1")).contains("its system has crashed: 0x1"));
    let plan = Plan {
        ends_on_panic: false,
        ..plan(&[until("UP")])
    };
    let (summary, _) = converse(&plan, |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::event(1, Event::Crashed("0x1")));
        umbra.say(&far::console(1, b"UP\n"));
        umbra.hear();
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
}

#[test]
fn a_reset_is_counted_and_the_run_goes_on() {
    let (summary, _) = converse(&plan(&[until("UP"), until("UP")]), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::console(1, b"UP\n"));
        umbra.say(&far::event(1, Event::Reset));
        umbra.say(&far::console(1, b"UP\n"));
        umbra.hear();
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
    assert_eq!(summary.resets, 1);
}

#[test]
fn a_run_that_waits_for_a_guest_that_sleeps_says_so() {
    let waits = |events: &'static [Event<&'static str>]| {
        let plan = Plan {
            timeout: Some(Duration::from_millis(300)),
            ..plan(&[until("never")])
        };
        let (summary, _) = converse(&plan, move |umbra| {
            umbra.say(&far::event(1, Event::Ready));
            for &event in events {
                umbra.say(&far::event(1, event));
            }
            umbra.hear();
        });
        summary.result.unwrap_err().to_string()
    };
    assert!(waits(&[Event::Suspended]).ends_with("the guest has suspended its machine"));
    for ends in [Event::Woken, Event::Reset, Event::PowerOff] {
        let events = Box::leak(Box::new([Event::Suspended, ends]));
        assert!(!waits(events).contains("suspended"), "{ends:?}");
    }
}

#[test]
fn who_watches_is_told_what_wakes_a_guest_that_sleeps() {
    let headless = suspended(" 2", false);
    assert!(headless.starts_with("the guest 2 has suspended its machine"));
    assert!(headless.contains("Ctrl-A three times") && !headless.contains("key in"));
    assert!(suspended("", true).contains("a key in the window"));
}

#[test]
fn umbra_starting_twice_is_failure() {
    assert!(failure_after(Event::Ready).contains("started again"));
}

#[test]
fn the_report_is_passed_on() {
    let plan = Plan {
        report: true,
        ..plan(&[])
    };
    let (summary, _) = converse(&plan, |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        umbra.say(&far::event(1, Event::PowerOff));
        assert_eq!(umbra.hear(), Some(Request::Report));
        umbra.say(&far::report("{\"exits\": 3}"));
        umbra.hear();
    });
    assert_eq!(summary.report.unwrap(), "{\"exits\": 3}");
}

#[test]
fn an_emulator_that_ends_is_failure() {
    let (summary, _) = converse(&plan(&[until("x")]), |_| {});
    assert_eq!(
        summary.result.unwrap_err().to_string(),
        "the emulator ended before \"x\" appeared"
    );
}

#[test]
fn what_is_not_understood_is_noted_and_the_run_goes_on() {
    let (summary, heard) = converse(&plan(&[until("x")]), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        let mut picture = far::picture(&Picture {
            width: 1,
            height: 1,
            rgb: vec![1, 2, 3],
        });
        // Its height is now 0.
        picture[9] = 0;
        umbra.say(&picture);
        umbra.say(b"<bochs:1>");
        umbra.say(&far::console(1, b"x"));
        umbra.hear();
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
    assert_eq!(heard, b"x");
    assert_eq!(
        summary.skipped,
        [
            "a frame 'p': a picture outside the limits",
            "rows of no picture",
            "9 bytes that are no frame"
        ]
    );
}

#[test]
fn an_umbra_of_another_version_is_refused_at_once_and_told() {
    let mut later = Vec::new();
    protocol::Message::Hello(VERSION + 1).encode(1, &mut |part| later.extend_from_slice(part));
    for (version, begins) in [
        (VERSION + 1, later),
        (1, b"C\x01\0\0\0xE\x05\0\0\0ready".to_vec()),
    ] {
        let (near, far) = UnixStream::pair().unwrap();
        let player = thread::spawn(move || {
            let mut far = far;
            far.write_all(&begins).unwrap();
            let mut heard = vec![0; 64];
            let count = far.read(&mut heard).unwrap();
            let hello = far::request(&mut protocol::Decoder::new(), &mut &heard[..count]);
            assert_eq!(hello, Some(Request::Hello(VERSION)));
        });
        let clone = near.try_clone().unwrap();
        let plan = plan(&[until("it waits for ever")]);
        let session = Session::new(Channel::over(near, clone), &plan.script);
        let error = session.run(&plan, &mut |_| {}).result.unwrap_err();
        assert!(error.is::<Refused>());
        let versions = format!(
            "speaks version {version} of the control protocol, and this tool version {VERSION}"
        );
        assert!(error.to_string().contains(&versions), "{error}");
        player.join().unwrap();
    }
}

/// A picture of one pixel.
fn shot(rgb: [u8; 3]) -> Vec<u8> {
    far::picture(&Picture {
        width: 1,
        height: 1,
        rgb: rgb.to_vec(),
    })
}

#[test]
fn pixels_and_pictures_are_waited_for_in_order() {
    let pixel = wait::pixel("0,0=010203").unwrap();
    let goal = Step::UntilPicture(wait::Goal {
        path: "goal.png".into(),
        picture: std::sync::Arc::new(Picture {
            width: 1,
            height: 1,
            rgb: vec![4, 5, 6],
        }),
    });
    let script = [pixel, Step::Type("c".into()), goal];
    let (summary, _) = converse(&plan(&script), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        for rgb in [[4, 5, 6], [1, 2, 3]] {
            assert_eq!(umbra.hear(), Some(Request::Screenshot));
            umbra.say(&shot(rgb));
        }
        assert_eq!(umbra.hear(), Some(Request::Keys(vec![0x2e, 0xae])));
        for rgb in [[1, 2, 3], [4, 5, 6]] {
            assert_eq!(umbra.hear(), Some(Request::Screenshot));
            umbra.say(&shot(rgb));
        }
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
}

#[test]
fn time_passes_before_what_follows() {
    let script = [
        Step::Sleep(Duration::from_millis(300)),
        Step::Type("c".into()),
    ];
    let (summary, _) = converse(&plan(&script), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        let since = Instant::now();
        assert_eq!(umbra.hear(), Some(Request::Keys(vec![0x2e, 0xae])));
        assert!(since.elapsed() >= Duration::from_millis(250));
        assert_eq!(umbra.hear(), Some(Request::Quit));
    });
    assert_eq!(summary.result.unwrap(), Ending::ScriptDone);
}

#[test]
fn what_happens_while_a_picture_is_waited_for_is_heard() {
    let script = [wait::pixel("0,0=010203").unwrap()];
    let (summary, _) = converse(&plan(&script), |umbra| {
        umbra.say(&far::event(1, Event::Ready));
        assert_eq!(umbra.hear(), Some(Request::Screenshot));
        umbra.say(&far::event(1, Event::PowerOff));
        umbra.say(&shot([0, 0, 0]));
        umbra.hear();
    });
    assert_eq!(
        summary.result.unwrap_err().to_string(),
        "the guest powered off before pixel 0,0 was 010203"
    );
}
