//! What a script does with the mouse or the tablet, in words: to movements as the control channel and the emulator's monitor take them.

use anyhow::{Result, bail};

use crate::control::{Mouse, Point};

/// Counts that a movement has at most in either direction: a long way takes many, as a hand makes them.
const STRIDE: i32 = 10;
/// Counts that QEMU's mouse puts into a packet at most.
const PACKET: i16 = 127;
/// The longest way in a word, in counts.
const FAR: i32 = 10_000;
/// The buttons and their bits.
const BUTTONS: [(&str, u8); 3] = [("left", 1), ("right", 2), ("middle", 4)];

/// What a hand does at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// With the mouse.
    By(Mouse),
    /// With the tablet.
    To(Point),
}

impl Motion {
    /// Whether it goes nowhere and turns no wheel: a button is pressed or let go.
    pub fn is_still(&self) -> bool {
        match self {
            Motion::By(mouse) => (mouse.dx, mouse.dy, mouse.wheel) == (0, 0, 0),
            Motion::To(point) => point.wheel == 0,
        }
    }
}

/// A hand, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hand {
    /// The buttons that are held.
    held: u8,
    /// Where it has put the pointer, if the tablet is what it has used last.
    at: Option<(u16, u16)>,
}

impl Hand {
    /// Holds these buttons from now on.
    fn hold(&mut self, buttons: u8) -> Motion {
        self.held = buttons;
        self.turn(0)
    }

    /// Turns the wheel.
    fn turn(&self, wheel: i8) -> Motion {
        let buttons = self.held;
        match self.at {
            None => Motion::By(Mouse {
                wheel,
                ..still(buttons)
            }),
            Some((x, y)) => Motion::To(Point {
                x,
                y,
                wheel,
                buttons,
            }),
        }
    }
}

/// The movements of `text`, whose words are parted by blanks, by `hand`.
///
/// `DX,DY` moves by so many counts to the right and downwards. `left`, `right` and `middle` click; with `+` before them they press
/// and hold, with `-` let go. `jump,DX,DY` moves at once, as no hand does: then a system that accelerates pointers knows no speed but
/// that of a first movement, and two runs of a guest do the same. `wheel,N` turns the wheel by N steps towards the user. `to,X,Y` puts the
/// tablet's pointer onto a pixel of the guest's picture; buttons and wheel are the tablet's until the mouse is moved again.
///
/// # Errors
///
/// A word is none of these.
pub fn movements(text: &str, hand: &mut Hand) -> Result<Vec<Motion>> {
    let mut all = Vec::new();
    for word in text.split_whitespace() {
        let (sign, name) = match word.split_at_checked(1) {
            Some((sign @ ("+" | "-"), name)) => (sign, name),
            _ => ("", word),
        };
        if let Some((_, button)) = BUTTONS.iter().find(|(known, _)| *known == name) {
            if sign != "-" {
                all.push(hand.hold(hand.held | button));
            }
            if sign != "+" {
                all.push(hand.hold(hand.held & !button));
            }
            continue;
        }
        let number = |text: &str| {
            let number = text.parse::<i32>().ok();
            number.filter(|number| number.abs() <= FAR)
        };
        match word.split_once(',').map(|(x, y)| (x, number(x), number(y))) {
            Some(("wheel", _, Some(steps))) => {
                all.extend((0..steps.abs()).map(|_| hand.turn(steps.signum() as i8)));
            }
            Some((_, Some(dx), Some(dy))) => {
                hand.at = None;
                let buttons = hand.held;
                all.extend(strides(dx, dy).map(|(dx, dy)| {
                    Motion::By(Mouse {
                        dx,
                        dy,
                        ..still(buttons)
                    })
                }));
            }
            Some(("jump", ..)) => {
                hand.at = None;
                all.push(Motion::By(jump(word, hand.held)?));
            }
            Some(("to", ..)) => {
                hand.at = Some(place(word)?);
                all.push(hand.turn(0));
            }
            _ => bail!(
                "'{word}' is nothing a mouse does: use DX,DY, left, right, middle, +left, -left, jump,DX,DY, wheel,N, or to,X,Y"
            ),
        }
    }
    Ok(all)
}

/// The movement of `jump,DX,DY`: as far as one packet goes.
fn jump(word: &str, buttons: u8) -> Result<Mouse> {
    let mut numbers = word.split(',').skip(1).map(|number| {
        let number = number.parse::<i16>().ok();
        number.filter(|number| number.abs() <= PACKET)
    });
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Some(dx)), Some(Some(dy)), None) => Ok(Mouse {
            dx,
            dy,
            ..still(buttons)
        }),
        _ => bail!("'{word}' is no jump of up to {PACKET} counts"),
    }
}

/// The pixel of `to,X,Y`.
fn place(word: &str) -> Result<(u16, u16)> {
    let mut numbers = word.split(',').skip(1).map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(x)), Some(Ok(y)), None) => Ok((x, y)),
        _ => bail!("'{word}' is no pixel of a screen"),
    }
}

/// A mouse that does not move.
fn still(buttons: u8) -> Mouse {
    Mouse {
        buttons,
        ..Mouse::default()
    }
}

/// A way in strides that are as straight as whole counts allow.
fn strides(dx: i32, dy: i32) -> impl Iterator<Item = (i16, i16)> {
    let count = (dx.abs().max(dy.abs()) + STRIDE - 1) / STRIDE;
    (0..count).map(move |i| {
        let part = |way: i32| (way * (i + 1) / count - way * i / count) as i16;
        (part(dx), part(dy))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done with the mouse alone.
    fn mouse(text: &str, hand: &mut Hand) -> Vec<Mouse> {
        let all = movements(text, hand).unwrap();
        let mouse = all.into_iter().map(|motion| match motion {
            Motion::By(mouse) => mouse,
            Motion::To(point) => panic!("{point:?}"),
        });
        mouse.collect()
    }

    #[test]
    fn a_long_way_is_made_in_strides_that_add_up() {
        let all = mouse("-105,33 0,0 4,4", &mut Hand::default());
        assert_eq!(all.len(), 11 + 1);
        assert!(all.iter().all(|m| m.dx.abs() <= 10 && m.dy.abs() <= 10));
        let sum = |way: fn(&Mouse) -> i16| all.iter().map(way).sum::<i16>();
        assert_eq!((sum(|m| m.dx), sum(|m| m.dy)), (-105 + 4, 33 + 4));
    }

    #[test]
    fn a_click_is_press_and_release_and_what_is_held_stays_so() {
        let mut hand = Hand::default();
        let mut buttons = |text: &str| {
            let all = mouse(text, &mut hand);
            all.iter().map(|m| m.buttons).collect::<Vec<_>>()
        };
        assert_eq!(buttons("left middle"), [1, 0, 4, 0]);
        assert_eq!(buttons("+right 1,1"), [2, 2]);
        assert_eq!(buttons("left -right"), [3, 2, 0]);
    }

    #[test]
    fn the_wheel_turns_step_by_step() {
        let all = mouse("wheel,-2", &mut Hand::default());
        assert_eq!(all.iter().map(|m| m.wheel).collect::<Vec<_>>(), [-1, -1]);
    }

    #[test]
    fn a_jump_is_one_movement() {
        let all = mouse("jump,-127,3", &mut Hand::default());
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].dx, all[0].dy), (-127, 3));
    }

    #[test]
    fn buttons_and_wheel_are_the_tablets_until_the_mouse_moves() {
        let point = |wheel, buttons| {
            Motion::To(Point {
                x: 640,
                y: 65_535,
                wheel,
                buttons,
            })
        };
        let mut hand = Hand::default();
        assert_eq!(
            movements("to,640,65535 left wheel,1 +right", &mut hand).unwrap(),
            [
                point(0, 0),
                point(0, 1),
                point(0, 0),
                point(1, 0),
                point(0, 2)
            ]
        );
        let all = mouse("1,0 -right", &mut hand);
        assert_eq!(all.iter().map(|m| m.buttons).collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn other_words_are_errors() {
        for wrong in [
            "up",
            "1",
            "1,",
            "wheel",
            "+",
            "1,2,3",
            "20000,0",
            "jump,1",
            "jump,128,0",
            "+wheel,1",
            "to,1",
            "to,-1,0",
            "to,1,65536",
            "to,1,2,3",
        ] {
            assert!(movements(wrong, &mut Hand::default()).is_err(), "{wrong}");
        }
    }
}
