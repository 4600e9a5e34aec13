//! The guest's screen on the host: text screens as Unicode, pictures as PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};

use crate::control::{Picture, TextScreen};

/// Code page 437, as a VGA's built-in font draws it.
const CP437: &str = concat!(
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼",
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~⌂",
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
);

/// The rows of `screen` as Unicode, without trailing blanks.
pub fn lines(screen: &TextScreen) -> Vec<String> {
    let table: Vec<char> = CP437.chars().collect();
    let unicode = |cell: &u8| table.get(usize::from(*cell)).copied().unwrap_or(' ');
    screen
        .cells
        .chunks(screen.cols.max(1))
        .map(|row| {
            row.iter()
                .map(unicode)
                .collect::<String>()
                .trim_end_matches([' ', '\u{a0}'])
                .to_owned()
        })
        .collect()
}

/// Writes `picture` to `path` as a PNG.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_png(path: &Path, picture: &Picture) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer
        .write_image_data(&picture.rgb)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::far;

    #[test]
    fn the_code_page_has_256_characters_in_their_places() {
        let table: Vec<char> = CP437.chars().collect();
        assert_eq!(table.len(), 256);
        assert_eq!(table[0x41], 'A');
        assert_eq!(table[0x7f], '⌂');
        assert_eq!(table[0xb3], '│');
        assert_eq!(table[0xc4], '─');
        assert_eq!(table[0xdb], '█');
        assert_eq!(table[0xfe], '■');
    }

    #[test]
    fn rows_lose_their_trailing_blanks() {
        let screen = far::screen(&["GNU GRUB   ", "", "  >"]);
        assert_eq!(lines(&screen), ["GNU GRUB", "", "  >"]);
    }

    #[test]
    fn a_screen_without_cells_has_no_lines() {
        assert!(lines(&TextScreen::default()).is_empty());
    }

    #[test]
    fn a_png_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![1, 2, 3, 250, 251, 252],
        };
        write_png(&path, &picture).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(File::open(&path).unwrap()))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.rgb);
    }
}
