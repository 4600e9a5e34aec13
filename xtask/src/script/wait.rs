//! What a script can wait for besides texts, as the command line says it: a pixel, a picture, a time.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::{MAX_HEIGHT, MAX_WIDTH, Size};

use super::Step;
use crate::control::Picture;
use crate::outcome::refuse;

/// A pixel and its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pixel {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Red, green and blue.
    pub rgb: [u8; 3],
}

impl Pixel {
    /// Whether `picture` has it. A smaller picture has not.
    pub fn is_in(&self, picture: &Picture) -> bool {
        let at = 3 * (self.y as usize * picture.width as usize + self.x as usize);
        let inside = self.x < picture.width && self.y < picture.height;
        inside && picture.rgb.get(at..at + 3) == Some(&self.rgb)
    }

    /// It in words.
    pub fn words(&self) -> String {
        let [r, g, b] = self.rgb;
        format!("pixel {},{} was {r:02x}{g:02x}{b:02x}", self.x, self.y)
    }
}

/// The picture of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The file.
    pub path: PathBuf,
    /// What it shows.
    pub picture: Arc<Picture>,
}

/// The step of `--until-pixel`.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): `text` is no pixel.
pub fn pixel(text: &str) -> Result<Step> {
    let number = |text: &str, most: u16| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number.filter(|&number: &u32| number < u32::from(most))
    };
    let parts = text.split_once('=').and_then(|(place, colour)| {
        let (x, y) = place.split_once(',')?;
        let digits = colour.len() == 6 && colour.bytes().all(|byte| byte.is_ascii_hexdigit());
        let colour = digits
            .then(|| u32::from_str_radix(colour, 16).ok())
            .flatten()?;
        let [_, r, g, b] = colour.to_be_bytes();
        Some(Pixel {
            x: number(x, MAX_WIDTH)?,
            y: number(y, MAX_HEIGHT)?,
            rgb: [r, g, b],
        })
    });
    match parts {
        Some(pixel) => Ok(Step::UntilPixel(pixel)),
        None => refuse!(
            "--until-pixel {text} is not X,Y=RRGGBB, as in 320,200=ff8000 (X below {MAX_WIDTH}, Y below {MAX_HEIGHT})"
        ),
    }
}

/// The step of `--until-picture`: reads the file.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): it is no picture that a guest can show.
pub fn picture(path: &Path) -> Result<Step> {
    match read_png(path) {
        Ok(picture) => Ok(Step::UntilPicture(Goal {
            path: path.to_owned(),
            picture: Arc::new(picture),
        })),
        Err(error) => refuse!("--until-picture {}: {error:#}", path.display()),
    }
}

/// The step of `--sleep`.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): `text` is no time.
pub fn sleep(text: &str) -> Result<Step> {
    let seconds = text.parse::<f64>().ok();
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match time {
        Some(time) => Ok(Step::Sleep(time)),
        None => refuse!("--sleep {text} is not a number of seconds, as in 2.5"),
    }
}

/// The picture in a PNG, without its transparency.
fn read_png(path: &Path) -> Result<Picture> {
    let file = File::open(path).context("it cannot be opened")?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().context("it is no PNG")?;
    let (width, height) = (reader.info().width, reader.info().height);
    if Size::new(width, height).is_none() {
        bail!(
            "it has {width} by {height} pixels, and a guest's screen at most {MAX_WIDTH} by {MAX_HEIGHT}"
        );
    }
    let mut bytes = vec![0; reader.output_buffer_size().context("it is too large")?];
    let info = reader.next_frame(&mut bytes).context("it is damaged")?;
    let samples = info.color_type.samples();
    let pixels = bytes.chunks_exact(samples).take((width * height) as usize);
    let rgb = pixels.flat_map(|pixel| match *pixel {
        [r, g, b, ..] => [r, g, b],
        [grey, ..] => [grey; 3],
        [] => [0; 3],
    });
    Ok(Picture {
        width,
        height,
        rgb: rgb.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::write_png;

    fn refusal(step: Result<Step>) -> String {
        let error = step.unwrap_err();
        assert!(error.is::<crate::outcome::Refused>());
        error.to_string()
    }

    #[test]
    fn a_pixel_is_a_place_and_a_colour() {
        let Ok(Step::UntilPixel(pixel)) = pixel("1,0=0A0b0c") else {
            panic!("no pixel");
        };
        let mut picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![0, 0, 0, 10, 11, 12],
        };
        assert!(pixel.is_in(&picture));
        picture.rgb[5] = 13;
        assert!(!pixel.is_in(&picture));
        picture.width = 1;
        assert!(!pixel.is_in(&picture), "the picture is too small");
        for wrong in [
            "",
            "1,1",
            "1=000000",
            "1,1=00000",
            "1,1=#00000",
            "1,1=gg0000",
            "-1,1=000000",
            "+1,1=000000",
            "2560,0=000000",
            "0,1600=000000",
            "1,1=+00000",
        ] {
            assert!(
                refusal(super::pixel(wrong)).contains("X,Y=RRGGBB"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_picture_is_a_file_that_is_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        assert!(refusal(picture(&path)).contains("cannot be opened"));
        std::fs::write(&path, "text").unwrap();
        assert!(refusal(picture(&path)).contains("is no PNG"));
        let mut shown = Picture {
            width: 2,
            height: 1,
            rgb: vec![1, 2, 3, 4, 5, 6],
        };
        write_png(&path, &shown).unwrap();
        let Ok(Step::UntilPicture(goal)) = picture(&path) else {
            panic!("no picture");
        };
        assert_eq!(*goal.picture, shown);
        (shown.width, shown.rgb) = (3000, vec![0; 9000]);
        write_png(&path, &shown).unwrap();
        assert!(refusal(picture(&path)).contains("3000 by 1"));
    }

    #[test]
    fn a_time_is_a_number_of_seconds() {
        assert_eq!(
            sleep("2.5").unwrap(),
            Step::Sleep(Duration::from_millis(2500))
        );
        for wrong in ["", "-1", "x", "1s", "inf", "NaN"] {
            assert!(
                refusal(sleep(wrong)).contains("number of seconds"),
                "{wrong}"
            );
        }
    }
}
