//! Tests of the tablet, and of the VNC server that shows the outer machine's screen.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Case, by_hand, own, until};
use crate::control::Picture;
use crate::guests::Guest;
use crate::rfb::Viewer;
use crate::run::Options;
use crate::script::Step;
use crate::script::wait::Pixel;
use crate::tablet;
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    const GUESTS: &[Guest] = &[Guest::I386Kernel, Guest::I386Initrd];
    vec![
        Case {
            script: woken(),
            ..own("tablet", GUESTS, told, 128, 240)
        },
        Case {
            script: vec![
                until("GUEST-EVENT 3 0 16406"),
                until("GUEST-EVENT 3 1 16424"),
            ],
            ..own("vnc", GUESTS, watched, 128, 240)
        },
        by_hand(Case {
            script: pointed(),
            ..own(
                "tablet-debian-gtk",
                &[Guest::DebianGtk],
                installer,
                1024,
                900,
            )
        }),
    ]
}

/// The graphical installer's pointer, a black arrow with a white edge, has its tip on the pixel.
fn pointed() -> Vec<Step> {
    let mut script = vec![
        until("Loading initrd"),
        // Its first page is empty for most of this time.
        Step::Steady(Duration::from_secs(75)),
    ];
    for (x, y) in [(611u32, 433u32), (100, 300)] {
        script.push(Step::Mouse(format!("to,{x},{y}")));
        let colours = [(x, y, [0; 3]), (x - 1, y, [0xff; 3]), (x, y - 1, [0xff; 3])];
        script.extend(colours.map(|(x, y, rgb)| Step::UntilPixel(Pixel { x, y, rgb })));
    }
    script
}

fn installer(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options::headless(Vm {
        tablet: true,
        ..Vm::of(&Guest::DebianGtk.provide()?)?
    });
    case.run_once(&options, umbra, scratch)
}

/// A text screen has 720 by 400 pixels, and the tablet 32,768 steps in either direction: a pixel's middle is at `(2n + 1) * 32768 / 1440`.
fn tapped() -> Vec<Step> {
    let mouse = |words: &str| Step::Mouse(words.to_owned());
    vec![
        until("GUEST-TABLET"),
        mouse("to,360,200"),
        until("GUEST-EVENT 3 0 16406"),
        until("GUEST-EVENT 3 1 16424"),
        mouse("to,719,399 left"),
        until("GUEST-EVENT 3 0 32745"),
        until("GUEST-EVENT 3 1 32727"),
        until("GUEST-EVENT 1 272 1"),
        until("GUEST-EVENT 1 272 0"),
        mouse("wheel,1"),
        until("GUEST-EVENT 2 8 -1"),
        until("GUEST-BUS suspended"),
    ]
}

/// The same, and then the suspended bus is woken.
fn woken() -> Vec<Step> {
    let wakes = [
        Step::Mouse("to,10,0".to_owned()),
        until("GUEST-EVENT 3 0 477"),
    ];
    [tapped(), wakes.to_vec()].concat()
}

/// The guest's driver gets each pixel that the script points to, and is woken by it.
fn told(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    case.run_once(&tablet::options(scratch)?, umbra, scratch)
}

/// Who watches by VNC sees the guest's screen, and moves its pointer: the outer machine's tablet is the guest's.
fn watched(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    // Ports that are given out are far above 5900.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let options = Options {
        window: true,
        vnc: Some(
            free.port()
                .to_string()
                .parse()
                .map_err(anyhow::Error::msg)?,
        ),
        ..tablet::options(scratch)?
    };
    let over = AtomicBool::new(false);
    let seen = Mutex::new(None);
    let ran = thread::scope(|scope| {
        scope.spawn(|| watch(free, &over, &seen));
        let ran = case.run_once(&options, umbra, scratch);
        over.store(true, Ordering::Relaxed);
        ran
    });
    let seen = seen.into_inner().unwrap_or_default();
    ran.with_context(|| match &seen {
        None => "no viewer saw the screen".to_owned(),
        Some(seen) => format!("a viewer saw {} by {} pixels", seen.width, seen.height),
    })?;
    let seen = seen.context("no viewer saw the screen")?;
    ensure!(
        (seen.width, seen.height) == (720, 400),
        "the viewer saw {} by {} pixels",
        seen.width,
        seen.height
    );
    Ok(())
}

/// Whether there is something to read on the screen.
fn is_lit(picture: &Picture) -> bool {
    let lit = |pixel: &&[u8]| *pixel != [0; 3];
    picture.rgb.chunks(3).filter(lit).count() > 1_000
}

/// Views the screen at `address` until it is `over`. From the moment that there is something to read, it moves the pointer to and fro:
/// in both directions, because Linux tells its readers only what has changed, and nobody may read the first report.
fn watch(address: SocketAddr, over: &AtomicBool, seen: &Mutex<Option<Picture>>) {
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        thread::sleep(Duration::from_millis(300));
        let Ok(mut viewer) = Viewer::connect(address) else {
            continue;
        };
        for (x, y) in [(355, 195), (360, 200)].into_iter().cycle() {
            thread::sleep(Duration::from_millis(200));
            let (Ok(picture), false) = (viewer.screen(), is_over()) else {
                break;
            };
            let points = is_lit(&picture);
            if let Ok(mut seen) = seen.lock() {
                *seen = Some(picture);
            }
            if points && viewer.point(x, y, 0).is_err() {
                break;
            }
        }
    }
}
