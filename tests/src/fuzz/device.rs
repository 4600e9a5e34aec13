//! Accesses to one device, whichever it is, and the devices that need little besides.

use crate::feed::Feed;
use device_model::a20::A20;
use device_model::fwcfg::FwCfg;
use device_model::hpet::Hpet;
use device_model::i8042::I8042;
use device_model::irq::Replaceable;
use device_model::ne2k::Ne2k;
use device_model::pci::PciFunction;
use device_model::pm::{CpuHotplug, Piix4Pm};
use device_model::usb::tablet::{Point, Tablet};
use device_model::usb::uhci::{self, Uhci};
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::IrqLine;
use hv_core::machine;
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, RamDisk, RecordingIrqs};
use hv_core::{Gpa, VmTime};

/// Accesses to one device. `other` does what only this device knows.
pub(super) fn device<D: Device>(
    data: &[u8],
    device: D,
    ports: &[(u16, u16)],
    windows: &[(WindowId, u64)],
    other: impl FnMut(&mut D, &mut Bench, &mut Feed<'_>),
) {
    device_on(Bench::new(), data, device, ports, windows, other);
}

/// The same on a bench that is there already.
pub(super) fn device_on<D: Device>(
    mut bench: Bench,
    data: &[u8],
    mut device: D,
    ports: &[(u16, u16)],
    windows: &[(WindowId, u64)],
    mut other: impl FnMut(&mut D, &mut Bench, &mut Feed<'_>),
) {
    let mut f = Feed::new(data);
    let mut block = [0; 2048];
    while !f.is_empty() {
        let port = match f.below(16) {
            0 => f.u16(),
            _ if ports.is_empty() => 0,
            _ => {
                let (base, len) = f.pick(ports);
                base + f.below(len)
            }
        };
        match f.below(16) {
            0..=5 => {
                let size = f.size();
                device.port_write(&mut bench.cx(), port, size, f.value(size));
            }
            6..=8 => drop(device.port_read(&mut bench.cx(), port, f.size())),
            9 => {
                let (size, len) = (f.size(), usize::from(f.u16() & 0x7fc));
                device.port_read_block(&mut bench.cx(), port, size, &mut block[..len]);
            }
            10 => {
                let (size, len) = (f.size(), usize::from(f.u16() & 0x7fc));
                let some = f.bytes(16);
                block[..some.len()].copy_from_slice(some);
                device.port_write_block(&mut bench.cx(), port, size, &block[..len]);
            }
            11 if !windows.is_empty() => {
                let (window, len) = f.pick(windows);
                let offset = if f.below(8) == 0 {
                    f.u64()
                } else {
                    f.scaled() % len
                };
                let size = 1 << f.below(4);
                if f.bool() {
                    let value = f.u64() & (u64::MAX >> (64 - 8 * size));
                    device.mmio_write(&mut bench.cx(), window, offset, size, value);
                } else {
                    device.mmio_read(&mut bench.cx(), window, offset, size);
                }
            }
            12 => {
                let span = if f.below(8) == 0 {
                    f.scaled() >> 8
                } else {
                    f.u16().into()
                };
                bench.now = VmTime((bench.now + VmTime(span)).0.min(u64::MAX / 4));
                let next = device.poll(&mut bench.cx());
                assert!(next.is_none_or(|t| t > bench.now), "due again at once");
            }
            13 => {
                let at = u64::from(f.u8()) * 16;
                bench.mem.write(Gpa(at), f.bytes(16)).expect("it is RAM");
            }
            14 if f.below(32) == 0 => device.reset(&mut bench.cx()),
            _ => other(&mut device, &mut bench, &mut f),
        }
        bench.requests = Default::default();
    }
}

pub(super) fn line() -> IrqLine {
    IrqLine::new(RecordingIrqs::new(), 1)
}

pub(super) fn disk(sectors: usize) -> Box<RamDisk> {
    Box::new(RamDisk {
        data: vec![0x5a; sectors * 512],
        read_only: false,
        fail: false,
    })
}

/// Frames of any length, one for each byte that the list had.
struct Frames(Vec<u8>);

impl NetBackend for Frames {
    fn send(&mut self, frame: &[u8]) {
        assert!(frame.len() <= 0x1_0000);
    }
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let n = self.0.pop()?;
        let len = (usize::from(n) * 6).min(buf.len());
        buf[..len].fill(n);
        if n & 1 != 0 {
            buf[..len.min(6)].fill(0xff);
        }
        Some(len)
    }
}

/// The NE2000.
pub fn ne2k(data: &[u8]) {
    const BASE: u16 = 0xc000;
    let frames = Frames(data.iter().copied().step_by(7).collect());
    let card = Ne2k::new(line(), [0x52, 0x54, 0, 1, 2, 3], Box::new(frames));
    device(
        data,
        card,
        &[(BASE, 0x20), (BASE, 8), (BASE + 0x10, 1)],
        &[],
        |card, bench, f| {
            // The ring's limits, then the start command.
            let mut out = |port: u16, v: u8| {
                card.port_write(&mut bench.cx(), BASE + port, AccessSize::Byte, v.into())
            };
            out(0, 0x21);
            for port in [1, 2, 3, 4, 5, 6, 12] {
                out(port, f.u8());
            }
            out(0, 0x61);
            out(7, f.u8());
            out(0, f.pick(&[0x22, 0x26, 0x0a, 0x12, 0x1a]));
        },
    );
}

/// The firmware's configuration device.
pub fn fw_cfg(data: &[u8]) {
    let mut card = FwCfg::new();
    card.add_key(5, vec![1, 2]);
    card.add_file("etc/table-loader", vec![7; 300]);
    card.add_file("empty", Vec::new());
    device(data, card, &[(0x510, 0x0c)], &[], |card, bench, f| {
        // A DMA descriptor: control, length, address.
        let at = u32::from(f.u8()) * 16;
        let select = f.pick(&[0u16, 5, 0x19, 0x20, 0x21, 0x4000, 0x8000]);
        let control = u32::from(select) << 16 | u32::from(f.u8() & 0x1f);
        let (len, address) = (f.scaled() as u32, f.scaled());
        let descriptor = [
            &control.to_be_bytes()[..],
            &len.to_be_bytes(),
            &address.to_be_bytes(),
        ]
        .concat();
        bench
            .mem
            .write(Gpa(at.into()), &descriptor)
            .expect("it is RAM");
        card.port_write(
            &mut bench.cx(),
            0x514,
            AccessSize::Dword,
            u32::from(f.below(2)).swap_bytes(),
        );
        card.port_write(&mut bench.cx(), 0x518, AccessSize::Dword, at.swap_bytes());
    });
}

/// The high precision event timers, before a PIT and an RTC.
pub fn hpet(data: &[u8]) {
    let legacy = [(); 2].map(|()| Replaceable::new(line()));
    let own = legacy[0].own();
    let card = Hpet::new(legacy, |_| line());
    let windows = [(WindowId(0), 0x180)];
    device(data, card, &[], &windows, |_, _, _| own.pulse());
}

/// Power management, with CPUs that come and go.
pub fn pm(data: &[u8]) {
    let card = Piix4Pm::new(line()).with_cpus(CpuHotplug::new(2, 5));
    let ports = [
        (machine::PM_BASE, machine::PM_LEN),
        (machine::PM_BASE_ALT, machine::PM_LEN),
        (machine::GPE0_BASE, 4),
        (machine::CPU_HOTPLUG_BASE, machine::CPU_HOTPLUG_LEN),
    ];
    device(data, card, &ports, &[], |card, _, f| {
        let (what, cpu) = (f.below(6), u32::from(f.u8() & 7));
        let done = card.cpus(|cpus| {
            match what {
                0 => drop(cpus.plug(cpu)),
                1 => drop(cpus.request_unplug(cpu)),
                2 => drop(cpus.want(cpu)),
                3 => drop(cpus.take_refused()),
                4 => {
                    let gone = cpus.take_ejected();
                    assert!(gone.is_none_or(|cpu| cpu != 0 && !cpus.present().contains(cpu)));
                }
                _ => {}
            }
            cpus.present()
        });
        assert!(done.is_some_and(|present| present.contains(0) && present.count() <= 5));
        if what == 5 {
            card.press_power_button();
        }
    });
}

/// The USB controller with the tablet, whose schedule lies in the memory that is written to.
pub fn uhci(data: &[u8]) {
    let card = Uhci::new(line(), WindowId(0), Tablet::new());
    let ports = [(0, uhci::PORTS)];
    device(data, card, &ports, &[], |card, bench, f| match f.below(8) {
        0..3 => card.device_mut().point(Point {
            x: f.u16(),
            y: f.u16(),
            wheel: i32::from(f.u8()) - 0x80,
            buttons: f.u8(),
        }),
        3 => {
            let (at, size) = (f.u8(), f.size());
            card.config_write(&mut bench.cx(), at, size, f.value(size));
        }
        _ => {
            // As a driver starts it.
            card.config_write(&mut bench.cx(), 4, AccessSize::Byte, 5);
            for (port, value) in [(0x10, 4), (4, 0xf), (0, 1)] {
                card.port_write(&mut bench.cx(), port, AccessSize::Word, value);
            }
        }
    });
}

/// The keyboard controller with keyboard and mouse.
pub fn i8042(data: &[u8]) {
    let card = I8042::new(line(), line(), A20::new(WindowId(0)));
    device(data, card, &[(0x60, 1), (0x64, 1)], &[], |card, _, f| {
        if f.bool() {
            let given = f.bytes(6);
            assert!(card.key_scancodes(given) <= given.len());
        } else {
            card.mouse_move(f.u32() as i32, f.u32() as i32, f.u32() as i32, f.u8());
        }
    });
}
