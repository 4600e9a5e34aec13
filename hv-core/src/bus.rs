//! The port and memory buses of the virtual PC: find the range, lock the device, call it.
//!
//! Ports are found through a table with one byte a port, MMIO windows by a short search. Ranges that the guest can move (PCI
//! base address registers) are *windows*: a device reports a move through its [`Requests`], and [`Bus::settle`] carries it
//! out when the device has been unlocked.

use crate::device::{AccessSize, DevCx, Device, PowerAction, Requests, WindowId};
use crate::lock::Lock;
use crate::mem::GuestMemory;
use crate::mmu::Backing;
use crate::{Gpa, Hpa, VmTime};
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

#[derive(Clone, Copy)]
enum WindowKind {
    Ports {
        handler: u8,
    },
    Mmio,
    Ram {
        hpa: Hpa,
        writable: bool,
    },
    /// Registers of a CPU itself, which it accesses without the bus and which hide from it whatever is there.
    Cpu {
        cpu: u8,
    },
    /// The first mebibyte, shown once more.
    Wrap,
}

struct Window {
    kind: WindowKind,
    device: u8,
    len: u64,
    base: Option<u64>,
}

struct MmioRange {
    base: u64,
    len: u64,
    window: WindowId,
    device: u8,
}

/// A change of the guest-physical map that a device's window made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapChange {
    /// First address.
    pub start: Gpa,
    /// Length in bytes.
    pub len: u64,
    /// What is there now.
    pub backing: Backing,
}

/// No piece of the guest's RAM is smaller.
const RAM_STEP: usize = 512 << 10;

const PAGE: u64 = 0x1000;
/// What A20 divides: with it off, the second mebibyte is the first.
const MIB: u64 = 1 << 20;
/// Set in addresses of a CPU's own registers; no guest-physical address has so many bits.
const CPU_REGISTERS: u64 = 1 << 63;

/// What a CPU whose own registers are at `page` makes of a physical address on its way to memory and bus. `wraps`: A20 is off.
#[inline]
#[must_use]
pub fn decode(gpa: Gpa, page: Option<Gpa>, wraps: bool) -> Gpa {
    if page == Some(gpa.page()) {
        Gpa(CPU_REGISTERS | gpa.page_offset())
    } else if wraps && gpa.0 / MIB == 1 {
        Gpa(gpa.0 - MIB)
    } else {
        gpa
    }
}

/// The offset within the page of a CPU's own registers, if it is one of them that [`decode`] has made of an address.
#[inline]
#[must_use]
pub fn own_register(gpa: Gpa) -> Option<u64> {
    (gpa.0 & CPU_REGISTERS != 0).then_some(gpa.0 & !CPU_REGISTERS)
}

/// The page with a CPU's own registers: its local APIC's.
struct CpuPage {
    window: WindowId,
    page: Option<Gpa>,
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

    /// Adds a movable range of `len` ports, not yet placed.
    pub fn add_port_window(&mut self, device: DeviceId, len: u16, width: Width) -> WindowId {
        let handler = self.handler(device, width);
        self.window(WindowKind::Ports { handler }, device, u64::from(len), None)
    }

    /// Adds an MMIO window of `len` bytes, placed at `base` or not yet.
    pub fn add_mmio(&mut self, device: DeviceId, len: u64, base: Option<u64>) -> WindowId {
        let id = self.window(WindowKind::Mmio, device, len, None);
        if base.is_some() {
            self.place(id, base, &mut |_| ());
        }
        id
    }

    /// Adds the page with the registers of the next CPU itself, its local APIC's, at `base`, where there is no RAM.
    pub fn add_cpu_page(&mut self, base: Gpa) {
        let cpu = self.cpus.len() as u8;
        let window = self.window(WindowKind::Cpu { cpu }, DeviceId(NOBODY), PAGE, None);
        self.cpus.push(CpuPage { window, page: None });
        self.place(window, Some(base.0), &mut |_| ());
    }

    /// Moves the page with the own registers of CPU `cpu`, or (None) takes it away.
    pub fn move_cpu_page(&mut self, cpu: u8, base: Option<Gpa>) {
        if let Some(c) = self.cpus.get(usize::from(cpu))
            && c.page != base
        {
            let window = c.window;
            self.requests.move_window(window, base.map(|b| b.0));
        }
    }

    /// Adds the window that is open while A20 is off: at [`A20_WRAP`](crate::machine::A20_WRAP), it shows what is at address 0.
    pub fn add_wrap(&mut self) -> WindowId {
        self.window(WindowKind::Wrap, DeviceId(NOBODY), MIB, None)
    }

    /// Whether A20 is off: the second mebibyte is the first.
    #[inline]
    #[must_use]
    pub fn wraps(&self) -> bool {
        self.wraps
    }

    /// Adds a movable window of host memory at `hpa` (video RAM), not yet placed.
    pub fn add_ram_window(&mut self, device: DeviceId, len: u64, hpa: Hpa) -> WindowId {
        let writable = true;
        self.window(WindowKind::Ram { hpa, writable }, device, len, None)
    }

    /// Adds a movable window of host memory at `hpa` (flash), not yet placed, which the guest reads itself; `device` gets what it writes.
    pub fn add_rom_window(&mut self, device: DeviceId, len: u64, hpa: Hpa) -> WindowId {
        let writable = false;
        self.window(WindowKind::Ram { hpa, writable }, device, len, None)
    }

    fn window(
        &mut self,
        kind: WindowKind,
        device: DeviceId,
        len: u64,
        base: Option<u64>,
    ) -> WindowId {
        self.windows.push(Window {
            kind,
            device: device.0,
            len,
            base,
        });
        // Room for what the guest can make of them.
        self.requests.moved.reserve_exact(self.windows.len());
        self.mmio.reserve_exact(self.windows.len());
        WindowId((self.windows.len() - 1) as u16)
    }

    /// What is at the page `gpa`. No CPU sees memory where one of them has its own registers.
    fn backing(&self, gpa: Gpa) -> Backing {
        if self.cpus.iter().any(|c| c.page == Some(gpa)) {
            return Backing::Mmio;
        }
        if let Some(piece) = self.memory.piece(gpa, PAGE as usize, false) {
            let writable = self.memory.contains(gpa, PAGE as usize, true);
            return Backing::Ram {
                hpa: piece.hpa,
                writable,
            };
        }
        let window = self.windows.iter().find_map(|w| {
            let offset = gpa.0.wrapping_sub(w.base?);
            match w.kind {
                WindowKind::Ram { hpa, writable } if offset < w.len => Some(Backing::Ram {
                    hpa: hpa.add(offset),
                    writable,
                }),
                _ => None,
            }
        });
        window.unwrap_or(Backing::Mmio)
    }

    /// Tells what is in the second mebibyte, in as few pieces as possible.
    fn show_second_mebibyte(&self, changed: &mut dyn FnMut(MapChange)) {
        let mut run: Option<MapChange> = None;
        for start in (MIB..2 * MIB).step_by(PAGE as usize).map(Gpa) {
            // What is no RAM is the bus's, which knows of the wrap.
            let below = Gpa(start.0 - MIB);
            let backing = match self.wraps {
                false => self.backing(start),
                true if self.memory.contains(below, 1, false) => self.backing(below),
                true => Backing::Mmio,
            };
            let follows = |c: &MapChange| match (c.backing, backing) {
                (Backing::Mmio, Backing::Mmio) => true,
                (
                    Backing::Ram { hpa, writable },
                    Backing::Ram {
                        hpa: next,
                        writable: next_writable,
                    },
                ) => hpa.add(c.len) == next && writable == next_writable,
                _ => false,
            };
            match &mut run {
                Some(c) if follows(c) => c.len += PAGE,
                _ => {
                    let change = MapChange {
                        start,
                        len: PAGE,
                        backing,
                    };
                    if let Some(done) = run.replace(change) {
                        changed(done);
                    }
                }
            }
        }
        if let Some(done) = run {
            changed(done);
        }
    }

    /// Moves a window, and tells what changes in the guest-physical map.
    fn place(&mut self, id: WindowId, base: Option<u64>, changed: &mut dyn FnMut(MapChange)) {
        // RAM stays where it is, whatever a base address register says.
        let on_ram = |base: u64, len: u64| {
            (base..base.saturating_add(len))
                .step_by(RAM_STEP)
                .any(|at| self.memory.contains(Gpa(at), 1, false))
        };
        let Some(w) = self.windows.get_mut(usize::from(id.0)) else {
            return;
        };
        let base =
            base.filter(|&b| !(matches!(w.kind, WindowKind::Ram { .. }) && on_ram(b, w.len)));
        if w.base == base {
            return;
        }
        let old = core::mem::replace(&mut w.base, base);
        let (kind, len, device) = (w.kind, w.len, w.device);
        if matches!(kind, WindowKind::Mmio | WindowKind::Ram { .. }) {
            // Memory of a device too is reached through it by instructions that are emulated.
            self.mmio.retain(|r| r.window != id);
            if let Some(base) = base {
                let range = MmioRange {
                    base,
                    len,
                    window: id,
                    device,
                };
                self.mmio.push(range);
            }
        }
        match kind {
            WindowKind::Ports { handler } => {
                let span = |b: u64| {
                    let start = (b as usize).min(0x1_0000);
                    start..(start + len as usize).min(0x1_0000)
                };
                if let Some(b) = old {
                    self.ports[span(b)]
                        .iter_mut()
                        .filter(|p| **p == handler)
                        .for_each(|p| *p = NOBODY);
                }
                if let Some(b) = base {
                    // Fixed ports stay with their devices, wherever a base address register is moved.
                    self.ports[span(b)]
                        .iter_mut()
                        .filter(|p| **p == NOBODY)
                        .for_each(|p| *p = handler);
                }
            }
            WindowKind::Mmio => {}
            WindowKind::Ram { hpa, writable } => {
                let there = Backing::Ram { hpa, writable };
                for (base, backing) in [(old, Backing::Mmio), (base, there)] {
                    if let Some(start) = base.map(Gpa) {
                        changed(MapChange {
                            start,
                            len,
                            backing,
                        });
                    }
                }
            }
            WindowKind::Cpu { cpu } => {
                let page = base.map(Gpa);
                let Some(c) = self.cpus.get_mut(usize::from(cpu)) else {
                    return;
                };
                c.page = None;
                let below = |bus: &Self, at: Option<Gpa>| {
                    at.map(|start| (start, bus.backing(start)))
                        .filter(|(_, backing)| *backing != Backing::Mmio)
                };
                // Another CPU's page may cover it still.
                if let Some((start, backing)) = below(self, old.map(Gpa)) {
                    changed(MapChange {
                        start,
                        len,
                        backing,
                    });
                }
                if let Some((start, _)) = below(self, page) {
                    changed(MapChange {
                        start,
                        len,
                        backing: Backing::Mmio,
                    });
                }
                if let Some(c) = self.cpus.get_mut(usize::from(cpu)) {
                    c.page = page;
                }
            }
            WindowKind::Wrap => {
                self.wraps = base.is_some();
                self.show_second_mebibyte(changed);
            }
        }
    }

    /// Carries out what devices asked for: window moves go to `changed`; a power action is returned.
    pub fn settle(&mut self, mut changed: impl FnMut(MapChange)) -> Option<PowerAction> {
        if !self.requests.moved.is_empty() {
            // All leave their old places before one comes to its new place, which may be what another has left.
            for i in 0..self.requests.moved.len() {
                let (id, base) = self.requests.moved[i];
                if self.base(id) != base {
                    self.place(id, None, &mut changed);
                }
            }
            for i in 0..self.requests.moved.len() {
                let (id, base) = self.requests.moved[i];
                self.place(id, base, &mut changed);
            }
            self.requests.moved.clear();
        }
        self.requests.power.take()
    }

    /// Where a window is.
    fn base(&self, id: WindowId) -> Option<u64> {
        self.windows.get(usize::from(id.0))?.base
    }

    /// Whether [`Bus::settle`] has anything to do.
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.requests.power.is_some() || !self.requests.moved.is_empty()
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

    /// IN.
    pub fn port_read(&mut self, now: VmTime, port: u16, size: AccessSize) -> u32 {
        match self.port_handler(port, size) {
            Some(h) => self.with(h, now, |d, cx| d.port_read(cx, port, size)) & size.ones(),
            None => self.port_read_by_bytes(now, port, size),
        }
    }

    #[cold]
    #[inline(never)]
    fn port_read_by_bytes(&mut self, now: VmTime, port: u16, size: AccessSize) -> u32 {
        (0..size.bytes()).fold(0, |value, i| {
            let p = port.wrapping_add(i as u16);
            let byte = match self.port_handler(p, AccessSize::Byte) {
                Some(h) => self.with(h, now, |d, cx| d.port_read(cx, p, AccessSize::Byte)) & 0xff,
                None => 0xff,
            };
            value | byte << (8 * i)
        })
    }

    /// OUT.
    pub fn port_write(&mut self, now: VmTime, port: u16, size: AccessSize, value: u32) {
        let value = value & size.ones();
        match self.port_handler(port, size) {
            Some(h) => self.with(h, now, |d, cx| d.port_write(cx, port, size, value)),
            None => self.port_write_by_bytes(now, port, size, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn port_write_by_bytes(&mut self, now: VmTime, port: u16, size: AccessSize, value: u32) {
        for (i, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(size.bytes())
        {
            let p = port.wrapping_add(i as u16);
            if let Some(h) = self.port_handler(p, AccessSize::Byte) {
                self.with(h, now, |d, cx| {
                    d.port_write(cx, p, AccessSize::Byte, byte.into())
                });
            }
        }
    }

    /// The device that takes an access of this width as one; none if it has to be split (or nobody is there).
    fn port_handler(&self, port: u16, size: AccessSize) -> Option<u8> {
        let n = self.ports[usize::from(port)];
        let h = self.handlers.get(usize::from(n))?;
        if size == AccessSize::Byte {
            return Some(h.device);
        }
        let last = self.ports.get(usize::from(port) + size.bytes() - 1);
        (h.width == Width::Native && last == Some(&n)).then_some(h.device)
    }

    /// REP INS: fills `buf` from one port.
    pub fn port_read_block(&mut self, now: VmTime, port: u16, size: AccessSize, buf: &mut [u8]) {
        if let Some(h) = self.port_handler(port, size) {
            self.with(h, now, |d, cx| d.port_read_block(cx, port, size, buf));
            return;
        }
        for chunk in buf.chunks_exact_mut(size.bytes()) {
            let v = self.port_read(now, port, size).to_le_bytes();
            chunk.copy_from_slice(&v[..chunk.len()]);
        }
    }

    /// REP OUTS: writes `buf` to one port.
    pub fn port_write_block(&mut self, now: VmTime, port: u16, size: AccessSize, buf: &[u8]) {
        if let Some(h) = self.port_handler(port, size) {
            self.with(h, now, |d, cx| d.port_write_block(cx, port, size, buf));
            return;
        }
        for chunk in buf.chunks_exact(size.bytes()) {
            let mut v = [0; 4];
            v[..chunk.len()].copy_from_slice(chunk);
            self.port_write(now, port, size, u32::from_le_bytes(v));
        }
    }

    fn mmio_at(&self, gpa: Gpa, size: usize) -> Option<(u8, WindowId, u64)> {
        let at = gpa.0;
        self.mmio.iter().find_map(|r| {
            let offset = at.wrapping_sub(r.base);
            (offset < r.len && size as u64 <= r.len - offset)
                .then_some((r.device, r.window, offset))
        })
    }

    /// Reads `size` (1, 2, 4 or 8) bytes of MMIO; all ones where nobody is.
    pub fn mmio_read(&mut self, now: VmTime, gpa: Gpa, size: usize) -> u64 {
        let ones = if size >= 8 {
            u64::MAX
        } else {
            (1 << (8 * size)) - 1
        };
        match self.mmio_at(gpa, size) {
            Some((device, window, offset)) => {
                self.with(device, now, |d, cx| d.mmio_read(cx, window, offset, size)) & ones
            }
            None => ones,
        }
    }

    /// Writes `size` (1, 2, 4 or 8) bytes of MMIO; dropped where nobody is.
    pub fn mmio_write(&mut self, now: VmTime, gpa: Gpa, size: usize, value: u64) {
        let value = if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        };
        if let Some((device, window, offset)) = self.mmio_at(gpa, size) {
            self.with(device, now, |d, cx| {
                d.mmio_write(cx, window, offset, size, value)
            });
        }
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
