//! A guest that is GRUB with a graphical menu: a theme with a picture behind it, drawn in a VBE mode.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::control::Picture;
use crate::screen::write_png;
use crate::{cdrom, paths};

/// GRUB's font.
const FONT: &str = "/usr/share/grub/unicode.pf2";
/// GRUB's own modules besides those that they need themselves.
const MODULES: [&str; 11] = [
    "biosdisk", "iso9660", "normal", "serial", "terminfo", "echo", "vbe", "font", "gfxterm",
    "gfxmenu", "png",
];
/// What it does before the menu. The menu's own settings are on COM1 too, so that a script can wait for it.
const START: &str = "set root=cd\nset prefix=(cd)/boot/grub\nnormal /boot/grub/grub.cfg\n";
const THEME: &str = r##"title-text: "Guests in Umbra"
title-font: "Unifont Regular 16"
title-color: "#ffe080"
desktop-image: "background.png"
terminal-font: "Unifont Regular 16"
+ boot_menu {
    left = 20%
    top = 30%
    width = 60%
    height = 40%
    item_font = "Unifont Regular 16"
    item_color = "#a0b0d0"
    selected_item_color = "#ffffff"
    item_height = 28
    item_padding = 6
    item_spacing = 4
}
+ label {
    left = 20%
    top = 85%
    width = 60%
    align = "center"
    color = "#80c0a0"
    text = "äöü ß Æ Ω ж — 0123456789"
}
"##;

/// Makes the CD in `path`, whose menu takes the VBE mode `mode`, written as in `1024x768x32`.
///
/// # Errors
///
/// A file cannot be read, or the image not be written.
pub fn make(path: &Path, mode: &str) -> Result<()> {
    let tree = tempfile::tempdir()?;
    let grub = tree.path().join("boot/grub");
    paths::make(&grub)?;
    let put = |name: &str, text: &str| fs::write(grub.join(name), text);
    put("start.cfg", START)?;
    put("grub.cfg", &configuration(mode))?;
    put("theme.txt", THEME)?;
    fs::copy(FONT, grub.join("unicode.pf2")).with_context(|| format!("cannot copy {FONT}"))?;
    write_png(&grub.join("background.png"), &background())?;
    cdrom::make_with_grub(path, tree.path(), &grub.join("start.cfg"), &MODULES)
}

fn configuration(mode: &str) -> String {
    let entries = ["Debian 12", "memtest86+", "iPXE", "A disk"];
    let entries = entries.map(|title| format!("menuentry '{title}' {{\n    true\n}}\n"));
    format!(
        "serial --unit=0 --speed=115200\nloadfont /boot/grub/unicode.pf2\nset gfxmode={mode}\n\
         terminal_output gfxterm serial\nset theme=/boot/grub/theme.txt\nset timeout=-1\n{}",
        entries.concat()
    )
}

/// A picture of fields in many colours, which GRUB stretches to the screen's size.
fn background() -> Picture {
    let (width, height) = (320, 200);
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        [
            x / 40 * 12,
            y * 255 / height / 2,
            ((x / 40) ^ (y / 25)) * 15,
        ]
        .map(|c| c as u8)
    };
    Picture {
        width,
        height,
        rgb: (0..width * height).flat_map(pixel).collect(),
    }
}
