//! The port and memory buses of the virtual PC: find the range, lock the device, call it.
//!
//! Ports are found through a table with one byte a port, MMIO windows by a short search. Ranges that the guest can move (PCI
//! base address registers) are *windows*: a device reports a move through its [`Requests`], and [`Bus::settle`] carries it
//! out when the device has been unlocked.

mod access;
mod own;
mod windows;

pub use self::own::{decode, own_register};
pub use self::windows::MapChange;

use self::own::CpuPage;
use self::windows::{MmioRange, Window};
use crate::VmTime;
use crate::device::{DevCx, Device, Requests};
use crate::lock::Lock;
use crate::mem::GuestMemory;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// A device as the bus holds it.
pub type SharedDevice = Arc<Lock<dyn Device>>;

/// How accesses wider than a byte reach a port range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// The device is 8 bits wide: wider accesses are split into bytes, low address first.
    Byte,
    /// The device takes every width.
    Native,
}

#[derive(Clone, Copy)]
struct PortHandler {
    device: u8,
    width: Width,
}

/// No device at this port.
const NOBODY: u8 = 0xff;

/// The buses with everything on them.
pub struct Bus {
    devices: Vec<SharedDevice>,
    handlers: Vec<PortHandler>,
    ports: Box<[u8]>,
    windows: Vec<Window>,
    mmio: Vec<MmioRange>,
    memory: Arc<dyn GuestMemory>,
    requests: Requests,
    /// When each device wants to be polled, and the earliest of these.
    deadlines: Vec<VmTime>,
    deadline: VmTime,
    /// The pages with the CPUs' own registers, by CPU.
    cpus: Vec<CpuPage>,
    /// A20 is off.
    wraps: bool,
}

impl Bus {
    /// Empty buses over `memory`.
    #[must_use]
    pub fn new(memory: Arc<dyn GuestMemory>) -> Self {
        Self {
            devices: Vec::new(),
            handlers: Vec::new(),
            ports: vec![NOBODY; 0x1_0000].into_boxed_slice(),
            windows: Vec::new(),
            mmio: Vec::new(),
            memory,
            requests: Requests::default(),
            deadlines: Vec::new(),
            deadline: VmTime(0),
            cpus: Vec::new(),
            wraps: false,
        }
    }

    /// Puts a device on the bus; the ranges it answers to come from the other methods.
    ///
    /// # Panics
    /// With more than 254 devices.
    pub fn add(&mut self, device: SharedDevice) -> DeviceId {
        assert!(
            self.devices.len() < usize::from(NOBODY),
            "the bus numbers devices with 8 bits"
        );
        self.devices.push(device);
        self.deadlines.push(VmTime(0));
        DeviceId((self.devices.len() - 1) as u8)
    }

    /// Keeps a place for a device that needs its window numbers to be built; [`Bus::occupy`] fills it.
    pub fn reserve(&mut self) -> DeviceId {
        self.add(Arc::new(Lock::device(Nobody)))
    }

    /// Puts the device into the place that [`Bus::reserve`] has kept.
    pub fn occupy(&mut self, place: DeviceId, device: SharedDevice) {
        self.devices[usize::from(place.0)] = device;
    }

    fn handler(&mut self, device: DeviceId, width: Width) -> u8 {
        let found = self
            .handlers
            .iter()
            .position(|h| h.device == device.0 && h.width == width);
        found.unwrap_or_else(|| {
            assert!(
                self.handlers.len() < usize::from(NOBODY),
                "the bus numbers port handlers with 8 bits"
            );
            self.handlers.push(PortHandler {
                device: device.0,
                width,
            });
            self.handlers.len() - 1
        }) as u8
    }

    /// Makes `device` answer at `len` fixed ports from `base` on.
    pub fn add_ports(&mut self, device: DeviceId, base: u16, len: u16, width: Width) {
        let h = self.handler(device, width);
        for p in &mut self.ports[usize::from(base)..usize::from(base) + usize::from(len)] {
            *p = h;
        }
    }

    /// When [`Bus::poll`] is next due.
    #[must_use]
    pub fn deadline(&self) -> VmTime {
        self.deadline
    }

    /// Lets all devices do what has become due by `now`. A device that says that it is still due is polled again one nanosecond
    /// later at the earliest, so that the guest goes on.
    pub fn poll(&mut self, now: VmTime) {
        let mut next = VmTime::NEVER;
        for (d, deadline) in self.devices.iter().zip(&mut self.deadlines) {
            if *deadline <= now {
                let mut cx = DevCx {
                    now,
                    dma: &*self.memory,
                    requests: &mut self.requests,
                };
                *deadline = d.lock().poll(&mut cx).unwrap_or(VmTime::NEVER);
                if let Some(w) = self.requests.wake.take() {
                    *deadline = (*deadline).min(w);
                }
            }
            next = next.min(*deadline);
        }
        self.deadline = next.max(now + VmTime(1));
    }

    /// Makes the next [`Bus::poll`] due at `when` at the latest: something outside has changed a device.
    pub fn wake_at(&mut self, when: VmTime) {
        self.deadlines.iter_mut().for_each(|d| *d = (*d).min(when));
        self.deadline = self.deadline.min(when);
    }

    /// Resets all devices.
    pub fn reset(&mut self, now: VmTime) {
        self.restart(now, |device, cx| device.reset(cx));
    }

    /// Wakes all devices from S3.
    pub fn wake_up(&mut self, now: VmTime) {
        self.restart(now, |device, cx| device.wake(cx));
    }

    fn restart(&mut self, now: VmTime, mut f: impl FnMut(&mut dyn Device, &mut DevCx<'_>)) {
        for d in &self.devices {
            let mut cx = DevCx {
                now,
                dma: &*self.memory,
                requests: &mut self.requests,
            };
            f(&mut *d.lock(), &mut cx);
        }
        self.requests.power = None;
        self.requests.wake = None;
        self.requests.wake_all = None;
        self.wake_at(VmTime(0));
    }

    /// Calls `f` with the device, which handlers and windows name, and its context.
    #[inline]
    fn with<R>(
        &mut self,
        device: u8,
        now: VmTime,
        f: impl FnOnce(&mut dyn Device, &mut DevCx<'_>) -> R,
    ) -> R {
        let d = &self.devices[usize::from(device)];
        let mut cx = DevCx {
            now,
            dma: &*self.memory,
            requests: &mut self.requests,
        };
        let result = f(&mut *d.lock(), &mut cx);
        if let Some(w) = self.requests.wake.take() {
            self.wake(device, w);
        }
        if let Some(w) = self.requests.wake_all.take() {
            self.wake_at(w);
        }
        result
    }

    /// A device wants to be polled at `when`.
    fn wake(&mut self, device: u8, when: VmTime) {
        if let Some(d) = self.deadlines.get_mut(usize::from(device)) {
            *d = (*d).min(when);
        }
        self.deadline = self.deadline.min(when);
    }
}

/// Keeps a place.
struct Nobody;

impl Device for Nobody {
    fn name(&self) -> &'static str {
        "nobody"
    }
}

/// A device's place on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceId(u8);

#[cfg(test)]
mod tests;
