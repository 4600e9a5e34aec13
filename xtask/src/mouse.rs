//! What a script does with the mouse, in words: to movements as the control channel and the emulator's monitor take them.

use anyhow::{Result, bail};

use crate::control::Mouse;

/// Counts that a movement has at most in either direction: a long way takes many, as a hand makes them.
const STRIDE: i32 = 10;
/// Counts that QEMU's mouse puts into a packet at most.
const PACKET: i16 = 127;
/// The longest way in a word, in counts.
const FAR: i32 = 10_000;
/// The buttons and their bits.
const BUTTONS: [(&str, u8); 3] = [("left", 1), ("right", 2), ("middle", 4)];

/// The movements of `text`, whose words are parted by blanks; `held` are the buttons that are held, before and then after it.
///
/// `DX,DY` moves by so many counts to the right and downwards. `left`, `right` and `middle` click; with `+` before them they press
/// and hold, with `-` let go. `jump,DX,DY` moves at once, as no hand does: then a system that accelerates pointers knows no speed but
/// that of a first movement, and two runs of a guest do the same. `wheel,N` turns the wheel by N steps towards the user.
///
/// # Errors
///
/// A word is none of these.
pub fn movements(text: &str, held: &mut u8) -> Result<Vec<Mouse>> {
    let mut all = Vec::new();
    for word in text.split_whitespace() {
        let (sign, name) = match word.split_at_checked(1) {
            Some((sign @ ("+" | "-"), name)) => (sign, name),
            _ => ("", word),
        };
        if let Some((_, button)) = BUTTONS.iter().find(|(known, _)| *known == name) {
            if sign != "-" {
                *held |= button;
                all.push(still(*held));
            }
            if sign != "+" {
                *held &= !button;
                all.push(still(*held));
            }
            continue;
        }
        let number = |text: &str| {
            let number = text.parse::<i32>().ok();
            number.filter(|number| number.abs() <= FAR)
        };
        match word.split_once(',').map(|(x, y)| (x, number(x), number(y))) {
            Some(("wheel", _, Some(steps))) => all.extend((0..steps.abs()).map(|_| Mouse {
                wheel: steps.signum() as i8,
                ..still(*held)
            })),
            Some((_, Some(dx), Some(dy))) => all.extend(strides(dx, dy).map(|(dx, dy)| Mouse {
                dx,
                dy,
                ..still(*held)
            })),
            Some(("jump", ..)) => all.push(jump(word, *held)?),
            _ => bail!(
                "'{word}' is nothing a mouse does: use DX,DY, left, right, middle, +left, -left, jump,DX,DY, or wheel,N"
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

    #[test]
    fn a_long_way_is_made_in_strides_that_add_up() {
        let mut held = 0;
        let all = movements("-105,33 0,0 4,4", &mut held).unwrap();
        assert_eq!(all.len(), 11 + 1);
        assert!(all.iter().all(|m| m.dx.abs() <= 10 && m.dy.abs() <= 10));
        let sum = |way: fn(&Mouse) -> i16| all.iter().map(way).sum::<i16>();
        assert_eq!((sum(|m| m.dx), sum(|m| m.dy)), (-105 + 4, 33 + 4));
    }

    #[test]
    fn a_click_is_press_and_release_and_what_is_held_stays_so() {
        let mut held = 0;
        let buttons = |text: &str, held: &mut u8| {
            let all = movements(text, held).unwrap();
            all.iter().map(|m| m.buttons).collect::<Vec<_>>()
        };
        assert_eq!(buttons("left middle", &mut held), [1, 0, 4, 0]);
        assert_eq!(buttons("+right 1,1", &mut held), [2, 2]);
        assert_eq!(buttons("left -right", &mut held), [3, 2, 0]);
    }

    #[test]
    fn the_wheel_turns_step_by_step() {
        let all = movements("wheel,-2", &mut 0).unwrap();
        assert_eq!(all.iter().map(|m| m.wheel).collect::<Vec<_>>(), [-1, -1]);
    }

    #[test]
    fn a_jump_is_one_movement() {
        let all = movements("jump,-127,3", &mut 0).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].dx, all[0].dy), (-127, 3));
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
        ] {
            assert!(movements(wrong, &mut 0).is_err(), "{wrong}");
        }
    }
}
