//! The whole virtual PC without a CPU: every device on its buses, in guest memory, as firmware leaves it.

use crate::feed::Feed;
use device_model::ata::Drive;
use device_model::fwcfg::FwCfg;
use device_model::irq::CpuInterrupts;
use device_model::machine::{Machine, Outside};
use device_model::mapped::Mapped;
use device_model::vga::{self, Painter};
use device_model::virtio::block::Block;
use hv_core::backend::{NetBackend, NullConsole};
use hv_core::bus::{Bus, decode, own_register};
use hv_core::device::AccessSize;
use hv_core::irq::InterruptController;
use hv_core::machine::{self, FloppyDrive, IdeDrive, MachineDesc, Nic};
use hv_core::mem::GuestMemory;
use hv_core::testing::{RamDisk, VecDeviceRam, VecMemory};
use hv_core::{Gpa, Hpa, VmTime};
use hvmloader_fw::{cmos, fwcfg, pci_setup};
use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

/// Guest RAM in bytes, from address 0.
pub const RAM: usize = 2 << 20;
/// Where the host has the video memory, and the memory behind the text window.
const VIDEO: Hpa = Hpa(0x1000_0000);
const TEXT: Hpa = Hpa(0x2000_0000);
/// Bytes of its disk and its CD.
pub const DISKS: usize = (2048 + 1024) * 512;
const NIC: u16 = pci_setup::NIC_PORTS;
const BUS_MASTER: u16 = pci_setup::BUS_MASTER_PORTS;

/// Where devices answer: first port and number of ports.
const PORTS: [(u16, u16); 31] = [
    (0x00, 0x10),
    (0x20, 2),
    (0x40, 4),
    (0x60, 6),
    (0x70, 2),
    (0x80, 0x10),
    (0x92, 1),
    (0xa0, 2),
    (0xb2, 2),
    (0xc0, 0x20),
    (0xe9, 1),
    (0xf0, 1),
    (0x170, 8),
    (0x1ce, 4),
    (0x1f0, 8),
    (0x376, 1),
    (0x3b0, 0x10),
    (0x3c0, 0x10),
    (0x3d0, 0x10),
    (0x3f6, 1),
    (0x3f8, 8),
    (0x402, 1),
    (0x4d0, 2),
    (0x510, 0x0c),
    (0x600, 0x40),
    (0xafe0, 4),
    (0xb000, 0x40),
    (0xcf8, 8),
    (NIC, 0x20),
    (BUS_MASTER, 0x10),
    (0xcfb, 3),
];

/// A network on which frames of any length arrive, as long as there are bytes for them.
#[derive(Default)]
struct Chatter(u64);

impl NetBackend for Chatter {
    fn send(&mut self, frame: &[u8]) {
        self.0 = self.0.wrapping_mul(31).wrapping_add(frame.len() as u64);
    }
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        if self.0 >> 61 != 0 {
            return None;
        }
        let len = ((self.0 >> 40) as usize % 1515).min(buf.len());
        buf[..len].fill(if self.0 >> 39 & 1 == 0 { 0xff } else { 0x52 });
        Some(len)
    }
}

/// The machine.
pub struct Pc {
    /// The buses.
    pub bus: Bus,
    /// The devices that are known by name.
    pub machine: Machine,
    /// What the CPU sees of the interrupt chips.
    pub irqs: CpuInterrupts,
    /// RAM.
    pub memory: Arc<VecMemory>,
    /// The time.
    pub now: VmTime,
    painter: Painter,
    /// What firmware writes to configuration space.
    config: Vec<pci_setup::PciWrite>,
}

impl Default for Pc {
    fn default() -> Self {
        Self::new()
    }
}

/// The memory of a machine. A thread's next machine gets that of its last one, cleared, so that a new machine costs little.
struct Memory {
    ram: Arc<VecMemory>,
    video: Arc<VecDeviceRam>,
    text: Arc<VecDeviceRam>,
}

impl Memory {
    fn new() -> Self {
        Self {
            ram: Arc::new(VecMemory::new(RAM)),
            video: Arc::new(VecDeviceRam::new(vga::pci_id::VRAM_SIZE)),
            text: Arc::new(VecDeviceRam::new(vga::TEXT_RAM)),
        }
    }

    /// Cleared memory that no other machine has.
    fn take() -> Self {
        thread_local!(static LAST: RefCell<Memory> = RefCell::new(Memory::new()));
        LAST.with_borrow_mut(|last| {
            let used = Arc::strong_count(&last.ram)
                + Arc::strong_count(&last.video)
                + Arc::strong_count(&last.text);
            if used > 3 {
                *last = Self::new();
            }
            last.ram.clear();
            last.video.clear();
            last.text.clear();
            Self {
                ram: last.ram.clone(),
                video: last.video.clone(),
                text: last.text.clone(),
            }
        })
    }
}

/// What the firmware asks for. It is the same for all machines.
fn items() -> &'static fwcfg::Items {
    static ITEMS: OnceLock<fwcfg::Items> = OnceLock::new();
    ITEMS.get_or_init(|| {
        let roms = fwcfg::Roms {
            vga: &[0x55; 512],
            nic: &[],
        };
        fwcfg::fw_cfg_items(&desc(1), roms)
    })
}

fn desc(cpus: u32) -> MachineDesc {
    MachineDesc {
        memory: RAM as u64,
        cpus,
        max_cpus: cpus,
        nics: MachineDesc::one_nic(Nic::Ne2k, [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        uuid: [7; 16],
        drives: [
            Some(IdeDrive::Disk { sectors: 2048 }),
            None,
            Some(IdeDrive::Cdrom),
            None,
        ],
        sata: [None, None, None, None, None, Some(IdeDrive::Cdrom)],
        pci_disks: 0,
        floppy: FloppyDrive::M1440,
        boot: None,
        hpet: true,
        tablet: true,
    }
}

fn disk(sectors: usize) -> Box<RamDisk> {
    Box::new(RamDisk {
        data: vec![0x5a; sectors * 512],
        read_only: false,
        fail: false,
    })
}

impl Pc {
    /// The machine as firmware leaves it.
    ///
    /// # Panics
    /// The machine cannot be built: a bug in its wiring.
    #[must_use]
    pub fn new() -> Self {
        Self::with(1, |ram| ram)
    }

    /// The same for so many CPUs, with devices that see what `dma` makes of its memory.
    ///
    /// # Panics
    /// The machine cannot be built: a bug in its wiring.
    #[must_use]
    pub fn with(cpus: u32, dma: impl FnOnce(Arc<VecMemory>) -> Arc<dyn GuestMemory>) -> Self {
        let desc = desc(cpus);
        let Memory { ram, video, text } = Memory::take();
        let memory = ram.clone();
        let mut bus = Bus::new(dma(ram));
        let mut fw_cfg = FwCfg::new();
        for (key, value) in &items().keys {
            fw_cfg.add_key(*key, value.clone());
        }
        for (name, value) in &items().files {
            fw_cfg.add_file(name, value.clone());
        }
        let outside = Outside {
            com1: Box::new(NullConsole),
            debug: Box::new(NullConsole),
            nets: vec![Box::<Chatter>::default()],
            drives: [
                Some(Drive::disk(disk(2048))),
                None,
                Some(Drive::cdrom(Some(disk(1024)))),
                None,
            ],
            sata: [
                None,
                None,
                None,
                None,
                None,
                Some(Drive::cdrom(Some(disk(64)))),
            ],
            virtio: vec![(
                machine::pci_disk(0),
                Box::new(Block::new(disk(64), "fuzz", 1)) as Box<_>,
            )],
            floppy: Some(disk(2880)),
            video: Mapped {
                ram: video,
                hpa: VIDEO,
            },
            text: Mapped {
                ram: text,
                hpa: TEXT,
            },
            unix_time: 1_700_000_000,
            cmos: cmos::cmos(&desc),
            flash: None,
            fw_cfg: Some(fw_cfg),
        };
        let machine = Machine::build(&mut bus, &desc, outside);
        let irqs = CpuInterrupts::new(&machine.chips, 0).expect("the machine has one CPU");
        let mut pc = Self {
            bus,
            machine,
            irqs,
            memory,
            now: VmTime(0),
            painter: Painter::default(),
            config: pci_setup::config_writes(&desc),
        };
        pc.reset();
        pc
    }

    /// Power-on, then what firmware does to the PCI devices.
    pub fn reset(&mut self) {
        self.bus.reset(self.now);
        for i in 0..self.config.len() {
            let w = self.config[i];
            let address = 1 << 31 | u32::from(w.slot.devfn()) << 8 | u32::from(w.offset & 0xfc);
            self.bus
                .port_write(self.now, 0xcf8, AccessSize::Dword, address);
            let data = 0xcfc + u16::from(w.offset & 3);
            self.bus.port_write(self.now, data, w.size, w.value);
        }
        self.settle();
    }

    fn settle(&mut self) {
        while self.bus.unsettled() {
            self.bus.settle(|change| assert!(change.len > 0));
        }
    }

    /// What the run loop does between two exits.
    fn catch_up(&mut self) {
        self.settle();
        if self.bus.deadline() <= self.now {
            self.bus.poll(self.now);
            self.settle();
        }
    }

    /// One thing that a guest or the host may do.
    pub fn step(&mut self, feed: &mut Feed<'_>) {
        let now = self.now;
        match feed.below(32) {
            0..=9 => {
                let (port, size) = (port(feed), feed.size());
                let value = feed.value(size);
                self.bus.port_write(now, port, size, value);
            }
            10..=15 => {
                let (port, size) = (port(feed), feed.size());
                let value = self.bus.port_read(now, port, size);
                assert_eq!(
                    value & !size.ones(),
                    0,
                    "port {port:#x} reads more than its width"
                );
            }
            16..=18 => {
                let (gpa, size) = (self.address(feed), 1 << feed.below(4));
                let value = feed.scaled();
                let gpa = self.decode(gpa);
                self.mmio_write(gpa, size, value);
            }
            19 | 20 => {
                let (gpa, size) = (self.address(feed), 1 << feed.below(4));
                let gpa = self.decode(gpa);
                let value = self.mmio_read(gpa, size);
                assert!(
                    size == 8 || value >> (8 * size) == 0,
                    "{gpa:?} reads more than its width"
                );
            }
            21 => {
                let (port, size) = (port(feed), feed.size());
                let mut block = [0; 2048];
                let len = usize::from(feed.u16() & 0x7fc);
                self.bus.port_read_block(now, port, size, &mut block[..len]);
            }
            22 => {
                let (port, size) = (port(feed), feed.size());
                let mut block = [0; 512];
                let some = feed.bytes(16);
                block[..some.len()].copy_from_slice(some);
                let len = usize::from(feed.u16() & 0x1fc);
                self.bus.port_write_block(now, port, size, &block[..len]);
            }
            23 => self.configure(feed),
            24 => self.dma_structures(feed),
            25..=27 => {
                let span = if feed.below(8) == 0 {
                    feed.scaled() >> 8
                } else {
                    feed.u16().into()
                };
                self.now = VmTime(now.0.saturating_add(span).min(u64::MAX / 4));
            }
            28 => self.interrupts(feed),
            29 => self.input(feed),
            30 if feed.below(8) == 0 => self.look(),
            31 if feed.below(64) == 0 => self.reset(),
            _ => self.drive(feed),
        }
        self.catch_up();
    }

    /// A device's memory, more often than not.
    fn address(&self, feed: &mut Feed<'_>) -> Gpa {
        Gpa(match feed.below(6) {
            0 => machine::VGA_WINDOW.start + u64::from(feed.u32() & 0x1_ffff),
            1 => machine::LAPIC + u64::from(feed.u8()) * 16 % 0x1000,
            2 if feed.bool() => machine::HPET + u64::from(feed.u16() & 0x1f8),
            2 => machine::IOAPIC + feed.pick(&[0, 0x10, 0x40, 0x20]),
            3 => u64::from(pci_setup::VGA_REGISTERS) + u64::from(feed.u16() & 0xfff),
            4 => {
                feed.pick(&[machine::LAPIC, machine::IOAPIC, 0xc_0000]) - 4
                    + u64::from(feed.below(8))
            }
            _ => feed.scaled(),
        })
    }

    /// What the CPU makes of an address.
    fn decode(&self, gpa: Gpa) -> Gpa {
        decode(gpa, Some(Gpa(machine::LAPIC)), self.bus.wraps())
    }

    /// Writes to the CPU's own registers, or to the bus.
    fn mmio_write(&mut self, gpa: Gpa, size: usize, value: u64) {
        match own_register(gpa) {
            Some(offset) => self.irqs.mmio_write(self.now, offset, size, value),
            None => self.bus.mmio_write(self.now, gpa, size, value),
        }
    }

    /// Likewise reads.
    fn mmio_read(&mut self, gpa: Gpa, size: usize) -> u64 {
        match own_register(gpa) {
            Some(offset) => self.irqs.mmio_read(self.now, offset) & (u64::MAX >> (64 - 8 * size)),
            None => self.bus.mmio_read(self.now, gpa, size),
        }
    }

    /// A write to configuration space.
    fn configure(&mut self, feed: &mut Feed<'_>) {
        let devfn = feed.pick(&[0u32, 0x08, 0x09, 0x0b, 0x10, 0x18]);
        let register =
            u32::from(feed.pick(&[4u8, 0x10, 0x14, 0x18, 0x20, 0x30, 0x3c, 0x40, 0x60, 0x80]));
        let address = 1 << 31 | devfn << 8 | register;
        self.bus
            .port_write(self.now, 0xcf8, AccessSize::Dword, address);
        let size = feed.size();
        let value = feed.value(size);
        self.bus
            .port_write(self.now, 0xcfc + feed.below(4), size, value);
    }

    /// Lists of regions for the IDE bus master and the fw_cfg device.
    fn dma_structures(&mut self, feed: &mut Feed<'_>) {
        let at = u64::from(feed.u8()) * 8;
        let _ = self.memory.write(Gpa(at), feed.bytes(16));
        self.bus.port_write(
            self.now,
            BUS_MASTER + feed.pick(&[4, 12]),
            AccessSize::Dword,
            at as u32,
        );
        self.bus.port_write(self.now, 0x514, AccessSize::Dword, 0);
        self.bus
            .port_write(self.now, 0x518, AccessSize::Dword, (at as u32).swap_bytes());
    }

    /// What the CPU does with the interrupt chips.
    fn interrupts(&mut self, feed: &mut Feed<'_>) {
        if self
            .irqs
            .attention()
            .contains(hv_core::irq::Attention::INTERRUPT)
        {
            self.irqs.acknowledge();
            let eoi = self.decode(Gpa(machine::LAPIC + 0xb0));
            self.mmio_write(eoi, 4, 0);
        }
        self.irqs.take_nmi();
        self.irqs.take_init();
        self.irqs.take_start_up();
        match feed.below(5) {
            0 => self.irqs.set_cr8(feed.u8() & 15),
            1 => drop(
                self.irqs
                    .set_apic_base(0xfee0_0100 | u64::from(feed.below(4)) << 10),
            ),
            2 => drop(
                self.irqs
                    .x2apic_read(0x800 + u32::from(feed.below(0x40)), self.now),
            ),
            3 => {
                let (value, at) = (feed.scaled(), VmTime(feed.scaled()));
                self.irqs.set_tsc_deadline(value, at, self.now);
                self.irqs.tsc_deadline(self.now);
            }
            _ => {
                let (msr, value) = (0x800 + u32::from(feed.below(0x40)), feed.scaled());
                self.irqs.x2apic_write(msr, value, self.now);
            }
        }
    }

    /// The host's keyboard, mouse and serial line.
    fn input(&mut self, feed: &mut Feed<'_>) {
        match feed.below(3) {
            0 => drop(self.machine.keyboard.lock().key_scancodes(feed.bytes(4))),
            1 => {
                let (dx, dy) = (feed.u32() as i32, feed.u32() as i32);
                let (wheel, buttons) = (feed.u32() as i32, feed.u8());
                self.machine
                    .keyboard
                    .lock()
                    .mouse_move(dx, dy, wheel, buttons);
            }
            _ => self.machine.uart.lock().receive(feed.bytes(8)),
        }
        self.bus.wake_at(self.now);
    }

    /// The host looks at the screen.
    pub fn look(&mut self) {
        let vga = self.machine.vga.lock();
        let (mut pixels, mut characters) = (0, 0);
        vga.paint(self.now, &mut self.painter, &mut |_, row| {
            pixels = row.len()
        });
        vga.text_rows(&mut |row| characters = row.len());
        assert!(pixels <= vga::MAX_WIDTH as usize && characters <= 256);
    }

    /// A command for a disk drive that it is likely to understand.
    fn drive(&mut self, feed: &mut Feed<'_>) {
        let base = feed.pick(&[0x1f0, 0x170]);
        let registers = [
            feed.u8(),
            feed.u8() & 7,
            feed.u8(),
            feed.u8() & 3,
            feed.u8() & 3,
            0xe0 | feed.u8(),
        ];
        for (port, value) in (base + 1..).zip(registers) {
            self.bus
                .port_write(self.now, port, AccessSize::Byte, value.into());
        }
        let commands = [
            0x20, 0x24, 0x30, 0x34, 0xa0, 0xa1, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xec, 0xef, 0x08,
        ];
        let command = feed.pick(&commands);
        self.bus
            .port_write(self.now, base + 7, AccessSize::Byte, command);
        if feed.bool() {
            let direction = feed.pick(&[1u32, 9]);
            let bus_master = if base == 0x1f0 {
                BUS_MASTER
            } else {
                BUS_MASTER + 8
            };
            self.bus
                .port_write(self.now, bus_master, AccessSize::Byte, direction);
        }
    }
}

/// A port, mostly one where a device is.
fn port(feed: &mut Feed<'_>) -> u16 {
    if feed.below(32) == 0 {
        return feed.u16();
    }
    let (base, len) = feed.pick(&PORTS);
    base + feed.below(len)
}
