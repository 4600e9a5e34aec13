//! The host's tablet, a virtio one (VIRTIO 1.2, 5.8, "Input Device"): where the pointer is on the host's screen.
//!
//! Its events are those of Linux's evdev (`linux/input-event-codes.h`): what has changed, one by one, and then a report that this was all.

use crate::interrupts::Concerns;
use crate::virtio::{self, HostHal, HostTransport};
use alloc::collections::VecDeque;
use spin::Mutex;
use virtio_drivers::device::input::{InputEvent, VirtIOInput};
use virtio_drivers::transport::DeviceType;

/// Where the pointer is, and what is done there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touch {
    /// From the left of the screen.
    pub x: Part,
    /// From the top.
    pub y: Part,
    /// Steps of the wheel towards the user.
    pub wheel: i32,
    /// Bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// A part of the screen's width or height.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    at: u32,
    of: u32,
}

impl Default for Part {
    fn default() -> Self {
        Self { at: 0, of: 1 }
    }
}

impl Part {
    /// The pixel of so many that it is on. QEMU makes of pixel `n` the part `n * of / pixels`, rounded down.
    pub fn pixel(self, pixels: u32) -> u32 {
        let pixel = (u64::from(self.at) + 1) * u64::from(pixels) / u64::from(self.of);
        (pixel as u32).min(pixels.saturating_sub(1))
    }
}

/// Touches that nobody has taken yet; more are dropped, but for the last.
const LIMIT: usize = 256;

/// Types of events.
const SYN: u16 = 0;
const KEY: u16 = 1;
const REL: u16 = 2;
const ABS: u16 = 3;
/// Codes of these types.
const REL_WHEEL: u16 = 8;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const BUTTONS: [u16; 3] = [0x110, 0x111, 0x112];

/// The coordinates of an axis.
#[derive(Clone, Copy)]
struct Axis {
    min: u32,
    max: u32,
}

impl Axis {
    fn part(self, value: u32) -> Part {
        Part {
            at: value.clamp(self.min, self.max) - self.min,
            of: self.max - self.min,
        }
    }
}

struct Tablet {
    device: VirtIOInput<HostHal, HostTransport>,
    axes: [Axis; 2],
    /// How it is now; the wheel since the last report.
    now: Touch,
    touches: VecDeque<Touch>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for Tablet {}

static TABLET: Mutex<Option<Tablet>> = Mutex::new(None);

/// Finds the tablet and switches it on.
pub fn init() {
    for mut found in virtio::find(DeviceType::Input) {
        let function = found.function;
        if found.enable_interrupt(interrupt).is_none() {
            log::warn!("the input device at {function} is not used: it cannot interrupt");
            continue;
        }
        let mut device = match VirtIOInput::new(found.transport) {
            Ok(device) => device,
            Err(error) => {
                log::warn!("the input device at {function} cannot be used: {error}");
                continue;
            }
        };
        let mut axis = |code: u16| {
            let info = device.abs_info(code as u8).ok()?;
            let (min, max) = (info.min, info.max);
            (min < max).then_some(Axis { min, max })
        };
        let (Some(x), Some(y)) = (axis(ABS_X), axis(ABS_Y)) else {
            continue;
        };
        log::info!("tablet: ready");
        *TABLET.lock() = Some(Tablet {
            device,
            axes: [x, y],
            now: Touch::default(),
            touches: VecDeque::with_capacity(LIMIT),
        });
        return;
    }
}

impl Tablet {
    fn event(&mut self, event: InputEvent) {
        let (kind, code, value) = (event.event_type, event.code, event.value);
        let now = &mut self.now;
        match (kind, code) {
            (ABS, ABS_X) => now.x = self.axes[0].part(value),
            (ABS, ABS_Y) => now.y = self.axes[1].part(value),
            (REL, REL_WHEEL) => now.wheel = now.wheel.saturating_sub(value.cast_signed()),
            (KEY, code) => {
                for (bit, button) in BUTTONS.into_iter().enumerate() {
                    if button == code {
                        now.buttons = now.buttons & !(1 << bit) | u8::from(value != 0) << bit;
                    }
                }
            }
            (SYN, _) => {
                if self.touches.len() == LIMIT {
                    self.touches.pop_back();
                }
                self.touches.push_back(*now);
                now.wheel = 0;
            }
            _ => {}
        }
    }
}

/// The tablet interrupts: it has events.
fn interrupt() -> Concerns {
    if let Some(tablet) = &mut *TABLET.lock() {
        tablet.device.ack_interrupt();
        while let Some(event) = tablet.device.pop_pending_event() {
            tablet.event(event);
        }
    }
    Concerns::Session
}

/// The oldest touch that waits.
pub fn next() -> Option<Touch> {
    TABLET.lock().as_mut()?.touches.pop_front()
}
