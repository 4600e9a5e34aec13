//! The tablet's reports that wait to be fetched.

use super::descriptors::REPORT_LEN;
use alloc::collections::VecDeque;

/// Where the pointer is, in 1/7FFFh of the screen, and what is done there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Point {
    /// From the left, 0 to [`MAX`].
    pub x: u16,
    /// From the top, likewise.
    pub y: u16,
    /// Steps of the wheel towards the user.
    pub wheel: i32,
    /// The buttons that are held: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// The largest coordinate.
pub const MAX: u16 = 0x7fff;

/// Steps of the wheel that a report tells at most.
const WHEEL: i32 = 127;
/// Reports that wait at most. The last one always says how things are.
const WAITING: usize = 16;
const BUTTONS: u8 = 7;

/// Reports, from the oldest.
pub(super) struct Reports {
    waiting: VecDeque<Point>,
    /// The one that has been fetched last.
    last: Point,
}

impl Reports {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::with_capacity(WAITING),
            last: Point::default(),
        }
    }

    /// The pointer has come to a point. On the way there, only where a button changed and how far the wheel was turned is of interest.
    pub(super) fn push(&mut self, point: Point) {
        let point = Point {
            x: point.x.min(MAX),
            y: point.y.min(MAX),
            wheel: point.wheel.clamp(-WHEEL, WHEEL),
            buttons: point.buttons & BUTTONS,
        };
        let is_full = self.waiting.len() == WAITING;
        if let Some(last) = self.waiting.back_mut() {
            let wheel = last.wheel + point.wheel;
            if last.buttons == point.buttons && wheel.abs() <= WHEEL {
                *last = Point { wheel, ..point };
                return;
            }
            if is_full {
                *last = point;
                return;
            }
        } else if point.wheel == 0 && point == self.last {
            return;
        }
        self.waiting.push_back(point);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Fetches the next report.
    pub(super) fn fetch(&mut self) -> Option<[u8; REPORT_LEN]> {
        let point = self.waiting.pop_front()?;
        self.last = Point { wheel: 0, ..point };
        Some(encode(point))
    }

    /// The report that was fetched last, once more: the wheel has not been turned since.
    pub(super) fn again(&self) -> [u8; REPORT_LEN] {
        encode(self.last)
    }

    /// Nothing waits any more.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }
}

/// A report as [`descriptors::REPORT`](super::descriptors::REPORT) describes it. A wheel of HID counts away from the user.
fn encode(point: Point) -> [u8; REPORT_LEN] {
    let [x0, x1] = point.x.to_le_bytes();
    let [y0, y1] = point.y.to_le_bytes();
    [point.buttons, x0, x1, y0, y1, -point.wheel as i8 as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: u16, wheel: i32, buttons: u8) -> Point {
        Point {
            x,
            y: 0x102,
            wheel,
            buttons,
        }
    }

    #[test]
    fn a_way_is_one_report_and_a_click_on_it_three() {
        let mut reports = Reports::new();
        for (x, buttons) in [(1, 0), (2, 0), (2, 1), (3, 1), (3, 0)] {
            reports.push(point(x, 0, buttons));
        }
        let all: Vec<_> = core::iter::from_fn(|| reports.fetch()).collect();
        assert_eq!(
            all,
            [[0, 2, 0, 2, 1, 0], [1, 3, 0, 2, 1, 0], [0, 3, 0, 2, 1, 0]]
        );
    }

    #[test]
    fn steps_of_the_wheel_add_up_and_none_is_told_twice() {
        let mut reports = Reports::new();
        reports.push(point(1, 1, 0));
        reports.push(point(1, 2, 0));
        assert_eq!(reports.fetch(), Some([0, 1, 0, 2, 1, 0xfd]));
        assert_eq!(reports.again(), [0, 1, 0, 2, 1, 0]);
        reports.push(point(1, 100, 0));
        reports.push(point(1, 100, 0));
        assert_eq!(reports.fetch(), Some([0, 1, 0, 2, 1, 0x9c]));
        assert_eq!(reports.fetch(), Some([0, 1, 0, 2, 1, 0x9c]));
        assert!(reports.is_empty());
    }

    #[test]
    fn a_point_where_it_is_already_is_no_report() {
        let mut reports = Reports::new();
        reports.push(point(1, 0, 0));
        reports.fetch();
        reports.push(point(1, 0, 0));
        assert!(reports.is_empty());
    }

    #[test]
    fn the_last_report_of_too_many_says_how_things_are() {
        let mut reports = Reports::new();
        for n in 0..1000 {
            reports.push(point(n, 0, n as u8 & 1));
        }
        let all: Vec<_> = core::iter::from_fn(|| reports.fetch()).collect();
        assert_eq!(all.len(), WAITING);
        assert_eq!(all.last(), Some(&[1, 0xe7, 3, 2, 1, 0]));
    }

    #[test]
    fn what_is_outside_the_screen_is_at_its_edge() {
        let mut reports = Reports::new();
        reports.push(Point {
            x: 0xffff,
            y: 0x8000,
            wheel: -1000,
            buttons: 0xff,
        });
        assert_eq!(reports.fetch(), Some([7, 0xff, 0x7f, 0xff, 0x7f, 127]));
    }
}
