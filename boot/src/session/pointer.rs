//! What a hand does with the host's mouse or tablet, or the host tool in its place: it is the guest's, unless the console hides its screen.
//!
//! A place on the screen goes to the guest's tablet if the guest listens to it. Otherwise it becomes a movement of its mouse, from the place
//! before; and at the edge of the screen one that goes far beyond it, so that both pointers are there, whatever the guest makes of movements.

use super::{Session, Vm};
use crate::tablet::Touch;
use crate::{mouse, screen};
use device_model::usb::tablet::{self, Point};
use hv_core::cpu::VcpuBackend;

/// A place in the guest's picture, in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pixel {
    pub x: u32,
    pub y: u32,
}

/// What is done there.
#[derive(Clone, Copy)]
pub(super) struct Deed {
    /// Steps of the wheel towards the user.
    pub wheel: i32,
    /// The buttons that are held: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

impl<B: VcpuBackend> Session<B> {
    /// The mouse has been moved, or a button pressed.
    pub(super) fn mouse_moved(&mut self, m: mouse::Move) {
        if !self.console.on_screen() {
            self.view.hurry();
            let vm = self.vm();
            vm.pointer = None;
            move_mouse(vm, m);
        }
    }

    /// The host's tablet has been touched: where that is in the guest's picture is the screen's business.
    pub(super) fn touched(&mut self, touch: Touch) {
        let Some((x, y)) = screen::within(touch.x, touch.y) else {
            return;
        };
        let deed = Deed {
            wheel: touch.wheel,
            buttons: touch.buttons,
        };
        self.pointed(Pixel { x, y }, deed);
    }

    /// The pointer is put onto a pixel of the guest's picture; one outside of it is at its edge.
    pub(super) fn pointed(&mut self, at: Pixel, deed: Deed) {
        if self.console.on_screen() {
            return;
        }
        self.view.hurry();
        let vm = self.vm();
        let size = vm.guest.vga.lock().screen();
        let (width, height) = (size.width.max(1), size.height.max(1));
        let at = Pixel {
            x: at.x.min(width - 1),
            y: at.y.min(height - 1),
        };
        let before = vm.pointer.replace(at).unwrap_or(at);
        let now = vm.time();
        if let Some(usb) = &vm.guest.usb
            && usb.lock().device_mut().in_use(now)
        {
            usb.lock().device_mut().point(Point {
                x: part(at.x, width),
                y: part(at.y, height),
                wheel: deed.wheel,
                buttons: deed.buttons,
            });
            vm.wake_devices();
            return;
        }
        let movement = mouse::Move {
            dx: way(before.x, at.x, width),
            dy: way(before.y, at.y, height),
            wheel: deed.wheel,
            buttons: deed.buttons,
        };
        move_mouse(vm, movement);
    }
}

/// The guest's mouse moves.
fn move_mouse<B: VcpuBackend>(vm: &mut Vm<B>, m: mouse::Move) {
    let mut keyboard = vm.guest.keyboard.lock();
    keyboard.mouse_move(m.dx, m.dy, m.wheel, m.buttons);
    drop(keyboard);
    vm.wake_devices();
}

/// The tablet's coordinate of the middle of pixel `at` of so many.
fn part(at: u32, pixels: u32) -> u16 {
    let parts = u64::from(tablet::MAX) + 1;
    ((2 * u64::from(at) + 1) * parts / (2 * u64::from(pixels))) as u16
}

/// The way from one pixel of so many to another; at an edge, far beyond it.
fn way(from: u32, to: u32, pixels: u32) -> i32 {
    let beyond = pixels as i32;
    let way = to as i32 - from as i32;
    match to {
        0 => way - beyond,
        last if last + 1 == pixels => way + beyond,
        _ => way,
    }
}
