//! Ranges that can move: what is added to the buses, where it is, and what a move changes in the guest-physical map.

use super::own::{CpuPage, MIB};
use super::{Bus, DeviceId, NOBODY, Width};
use crate::device::{PowerAction, WindowId};
use crate::mmu::Backing;
use crate::{Gpa, Hpa};

#[derive(Clone, Copy)]
pub(super) enum WindowKind {
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

pub(super) struct Window {
    pub(super) kind: WindowKind,
    pub(super) device: u8,
    pub(super) len: u64,
    pub(super) base: Option<u64>,
}

pub(super) struct MmioRange {
    pub(super) base: u64,
    pub(super) len: u64,
    pub(super) window: WindowId,
    pub(super) device: u8,
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
impl Bus {
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

    /// The pages within `[start, start + len)` where CPUs have their own registers, whatever memory is there.
    pub fn cpu_pages(&self, start: Gpa, len: u64) -> impl Iterator<Item = Gpa> {
        let pages = self.cpus.iter().filter_map(|cpu| cpu.page);
        pages.filter(move |page| page.0.wrapping_sub(start.0) < len)
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
    pub(super) fn backing(&self, gpa: Gpa) -> Backing {
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
                .any(|at| self.memory.belongs(Gpa(at)))
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
}
