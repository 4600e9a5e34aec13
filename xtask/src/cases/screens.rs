//! What guests show: each boots once in Umbra and once in QEMU alone, and every pixel must be the same.
//!
//! Where something blinks, two pictures of the guest in Umbra are taken, one with each phase, and QEMU must show both.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::checks::Check;
use super::{Case, What, by_hand, case, keys, until};
use crate::control::Picture;
use crate::guests::Guest;
use crate::run::Options;
use crate::script::Step;
use crate::vm::Vm;
use crate::{bare, gfxmenu, screens};

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "screen-grub-shell",
            What::Own(&[Guest::GrubRescue], grub_shell),
            128,
            240,
            &[
                until("GNU GRUB"),
                keys("c"),
                until("grub>"),
                keys("echo a$grub_platform-$grub_cpu\\n"),
                until("apc-i386"),
                Step::Picture { blinks: true },
            ],
            &[],
        ),
        case(
            "screen-modes-and-mouse",
            What::Own(&[], drawing),
            64,
            240,
            &modes(),
            &[],
        ),
        case(
            "screen-grub-menu",
            What::Own(&[], |case, umbra, scratch| {
                menu(case, umbra, scratch, "1024x768x32")
            }),
            128,
            240,
            &chosen(),
            &[Check::Colours(300)],
        ),
        case(
            "screen-grub-menu-1920x1080",
            What::Own(&[], |case, umbra, scratch| {
                menu(case, umbra, scratch, "1920x1080x32")
            }),
            128,
            300,
            &chosen(),
            &[Check::Colours(300)],
        ),
        by_hand(case(
            "screen-debian-gtk",
            What::Own(&[Guest::DebianGtk], installer),
            1024,
            900,
            &clicked(),
            &[Check::Colours(50)],
        )),
        case(
            "screen-outer-mouse",
            What::Own(&[], outer),
            64,
            240,
            &[
                until("?"),
                keys("p"),
                until("p!"),
                Step::Mouse("-123,57 left 40,31 middle 300,-210 right -17,0".to_owned()),
                Step::Picture { blinks: false },
            ],
            &[Check::Shown],
        ),
    ]
}

/// The third entry of GRUB's graphical menu is chosen.
fn chosen() -> Vec<Step> {
    vec![
        until("A disk"),
        Step::Picture { blinks: false },
        keys("\\{down}\\{down}"),
        Step::Picture { blinks: false },
    ]
}

/// The graphical installer: a language is chosen by the mouse, and the list is moved by its wheel.
fn clicked() -> Vec<Step> {
    let steady = |seconds| Step::Steady(Duration::from_secs(seconds));
    let mouse = |words: &str| Step::Mouse(words.to_owned());
    vec![
        until("Loading initrd"),
        // Its first page is empty for most of this time.
        steady(75),
        Step::Picture { blinks: false },
        mouse("jump,-100,0"),
        steady(2),
        mouse("jump,0,120"),
        steady(2),
        mouse("left"),
        steady(2),
        Step::Picture { blinks: false },
        mouse("wheel,2"),
        steady(2),
        Step::Picture { blinks: false },
    ]
}

/// The drawing guest's modes, one after the other, and its mouse at the end.
fn modes() -> Vec<Step> {
    let mut script = vec![until("?")];
    for (key, blinks) in [
        ('t', true),
        ('5', true),
        ('d', false),
        ('b', false),
        ('c', false),
        ('m', false),
        ('p', false),
    ] {
        script.extend([
            keys(&key.to_string()),
            until(&format!("{key}!")),
            Step::Picture { blinks },
        ]);
    }
    script.extend([
        Step::Mouse("-123,57 left 40,31 middle 300,-210 right -17,0".to_owned()),
        Step::Picture { blinks: false },
    ]);
    script
}

fn grub_shell(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    case.compare(&Guest::GrubRescue.provide()?, umbra, scratch)
}

fn installer(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    case.compare(&Guest::DebianGtk.provide()?, umbra, scratch)
}

fn menu(case: &Case, umbra: &Path, scratch: &Path, mode: &str) -> Result<()> {
    let cd = scratch.join("menu.iso");
    gfxmenu::make(&cd, mode)?;
    case.compare(&cd, umbra, scratch)
}

fn drawing(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let cd = scratch.join("screens.iso");
    screens::make(&cd)?;
    case.compare(&cd, umbra, scratch)
}

/// The keys and the mouse are the outer machine's, which Umbra takes, and its screen shows the guest's.
fn outer(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let cd = scratch.join("screens.iso");
    screens::make(&cd)?;
    let pictures = case.run_image(&cd, None, umbra, scratch)?;
    case.compare_with_qemu(&cd, &pictures)
}

impl Case {
    /// Follows the script with the CD `cd` in Umbra and in QEMU alone, and compares their pictures.
    fn compare(&self, cd: &Path, umbra: &Path, scratch: &Path) -> Result<()> {
        let pictures = self
            .look(&Options::headless(Vm::of(cd)?), umbra, scratch)?
            .pictures;
        self.compare_with_qemu(cd, &pictures)
    }

    fn compare_with_qemu(&self, cd: &Path, pictures: &[Picture]) -> Result<()> {
        bare::compare(
            self.name,
            cd,
            self.memory,
            &self.script,
            pictures,
            Duration::from_secs(self.timeout),
        )
    }
}
