//! The wiring of the virtual PC: every device, where it answers, and which wire it drives, as
//! [`hv_core::machine`] describes it.
//!
//! What differs between hosts (consoles, media, video memory, the time of day) and what the firmware makes (CMOS, fw_cfg)
//! comes in through [`Outside`].

use crate::a20::A20;
use crate::ahci::{self, Ahci};
use crate::ata::{CdromState, Drive};
use crate::debug::DebugPort;
use crate::dma::Dma;
use crate::e1000::{self, E1000};
use crate::fdc::Fdc;
use crate::flash::{self, Flash};
use crate::fwcfg::FwCfg;
use crate::hpet::Hpet;
use crate::i8042::I8042;
use crate::ide::{self, Ide};
use crate::irq::{
    GsiSink, InterruptChips, IoApicMmio, MessageSink, PciSink, PicPorts, Replaceable, SharedChips,
};
use crate::mapped::Mapped;
use crate::ne2k::{self, Ne2k};
use crate::pci::{ConfigSpace, HostBridge, Identity, IsaBridge, PciBus, Shared};
use crate::pit::Pit;
use crate::pm::{CpuHotplug, Piix4Pm};
use crate::rtc::Rtc;
use crate::syscontrol::SystemControl;
use crate::uart::Uart;
use crate::usb::tablet::Tablet;
use crate::usb::uhci::{self, Uhci};
use crate::vga::{self, Vga};
use crate::virtio::{self, DeviceType, VirtioPci};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::backend::{BlockBackend, ConsoleBackend, NetBackend, NullNet};
use hv_core::bus::{Bus, DeviceId, SharedDevice, Width};
use hv_core::irq::{IrqLine, MsiLine};
use hv_core::lock::{Lock, Rank};
use hv_core::machine::{self, IDE_DRIVES, MachineDesc, NetworkCard, Nic, SATA_PORTS, Slot, irq};
use hv_core::{Gpa, VmTime};

/// The subsystem that all PCI functions name: QEMU's vendor and device.
const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);
const COM1: u16 = 0x3f8;

/// What the machine is given from outside.
pub struct Outside {
    /// Where COM1 goes.
    pub com1: Box<dyn ConsoleBackend>,
    /// Where the firmware's debug output goes.
    pub debug: Box<dyn ConsoleBackend>,
    /// What the network cards are connected to, by card; those without are connected to nothing.
    pub nets: Vec<Box<dyn NetBackend>>,
    /// The drives on the IDE channels, as the description has them.
    pub drives: [Option<Drive>; IDE_DRIVES],
    /// The drives at the ports of the AHCI controller, likewise. Without any there is none.
    pub sata: [Option<Drive>; SATA_PORTS],
    /// Virtio devices, and where each is on the PCI bus.
    pub virtio: Vec<(Slot, Box<dyn DeviceType>)>,
    /// The disk in the floppy drive.
    pub floppy: Option<Box<dyn BlockBackend>>,
    /// Video memory of [`vga::pci_id::VRAM_SIZE`] bytes.
    pub video: Mapped,
    /// Memory of [`vga::TEXT_RAM`] bytes that the guest sees instead of the legacy window while text is shown.
    pub text: Mapped,
    /// Seconds since 1970 (UTC) at the VM's time 0.
    pub unix_time: u64,
    /// Contents of CMOS RAM by index.
    pub cmos: Vec<(u8, u8)>,
    /// The flash chip with UEFI's variables.
    pub flash: Option<flash::Parts>,
    /// The firmware's configuration device, with its items. None: a machine without firmware.
    pub fw_cfg: Option<FwCfg>,
}

/// The devices that somebody outside the bus needs.
pub struct Machine {
    /// The interrupt chips.
    pub chips: SharedChips,
    /// The screen.
    pub vga: Shared<Vga>,
    /// The keyboard controller.
    pub keyboard: Arc<Lock<I8042>>,
    /// COM1.
    pub uart: Arc<Lock<Uart>>,
    /// The clock, with CMOS memory.
    pub rtc: Arc<Lock<Rtc>>,
    /// The CD-ROM drive.
    pub cdrom: CdromDrive,
    /// The floppy disk controller.
    pub fdc: Arc<Lock<Fdc>>,
    /// Power management, with the power button.
    pub pm: Shared<Piix4Pm>,
    /// The USB controller with the tablet.
    pub usb: Option<Shared<Uhci<Tablet>>>,
}

/// The machine's CD-ROM drive, wherever it is.
pub enum CdromDrive {
    /// On an IDE channel, if it is anywhere.
    Ide(Arc<Lock<Ide>>),
    /// At a port of the AHCI controller.
    Sata(Shared<Ahci>),
}

impl CdromDrive {
    /// How it is. None: there is none.
    #[must_use]
    pub fn state(&self) -> Option<CdromState> {
        match self {
            Self::Ide(ide) => ide.lock().cdrom(machine::CDROM),
            Self::Sata(ahci) => ahci.lock().cdrom(machine::SATA_CDROM),
        }
    }

    /// Changes its medium, closes its tray and returns the old medium. Where there is no drive, `medium` is returned.
    pub fn change_medium(
        &self,
        medium: Option<Box<dyn BlockBackend>>,
    ) -> Option<Box<dyn BlockBackend>> {
        match self {
            Self::Ide(ide) => ide.lock().change_medium(machine::CDROM, medium),
            Self::Sata(ahci) => ahci.lock().change_medium(machine::SATA_CDROM, medium),
        }
    }
}

/// A new device's place on the bus.
fn put(bus: &mut Bus, device: SharedDevice, ports: &[(u16, u16)], width: Width) -> DeviceId {
    let id = bus.add(device);
    for &(base, len) in ports {
        bus.add_ports(id, base, len, width);
    }
    id
}

fn config_space(vendor: u16, device: u16, class: u32, revision: u8) -> ConfigSpace {
    ConfigSpace::new(&Identity {
        vendor,
        device,
        class,
        revision,
        subsystem: SUBSYSTEM,
    })
}

impl Machine {
    /// Puts every device of the virtual PC on the empty `bus`.
    pub fn build(bus: &mut Bus, desc: &MachineDesc, outside: Outside) -> Self {
        let Outside {
            com1,
            debug,
            nets,
            drives,
            sata,
            virtio,
            floppy,
            video,
            text,
            unix_time,
            cmos,
            flash,
            fw_cfg,
        } = outside;
        let chips = InterruptChips::shared(desc.max_cpus as u8);
        let line = |gsi: u8| IrqLine::new(Arc::new(GsiSink(chips.clone())), gsi);

        interrupt_chips(bus, &chips, desc.max_cpus);
        let dma = Arc::new(Lock::new(Rank::Part, Dma::new()));
        put(
            bus,
            dma.clone(),
            &[(0x00, 0x10), (0x81, 0x0f), (0xc0, 0x20)],
            Width::Byte,
        );
        let fdc = Fdc::new(line(irq::FLOPPY), dma, desc.floppy, floppy);
        let fdc = Arc::new(Lock::device(fdc));
        // 3F6h between them is the IDE controller's.
        put(bus, fdc.clone(), &[(0x3f2, 4), (0x3f7, 1)], Width::Byte);
        let (irq0, irq8) = timers(bus, desc, &line);
        put(
            bus,
            Arc::new(Lock::device(Pit::new(irq0))),
            &[(0x40, 4), (0x61, 1)],
            Width::Byte,
        );
        let pm = Piix4Pm::new(line(machine::SCI_IRQ));
        let mut rtc = Rtc::new(irq8, unix_time).with_alarm(pm.alarm());
        for (index, value) in cmos {
            rtc.set_cmos(index, value);
        }
        let rtc = Arc::new(Lock::device(rtc));
        put(bus, rtc.clone(), &[(0x70, 2)], Width::Byte);
        let a20 = A20::new(bus.add_wrap());
        let keyboard = Arc::new(Lock::device(I8042::new(
            line(irq::KEYBOARD),
            line(irq::MOUSE),
            a20.clone(),
        )));
        put(bus, keyboard.clone(), &[(0x60, 1), (0x64, 1)], Width::Byte);
        let uart = Arc::new(Lock::device(Uart::new(COM1, line(irq::COM1), com1)));
        put(bus, uart.clone(), &[(COM1, 8)], Width::Byte);
        let control = SystemControl::new(line(irq::FERR), a20);
        put(
            bus,
            Arc::new(Lock::device(control)),
            &[(0x80, 1), (0x92, 1), (0xb2, 2), (0xf0, 1)],
            Width::Byte,
        );
        put(
            bus,
            Arc::new(Lock::device(DebugPort::new(debug))),
            &[(0x402, 1), (0xe9, 1)],
            Width::Byte,
        );
        if let Some(fw_cfg) = fw_cfg {
            put(
                bus,
                Arc::new(Lock::device(fw_cfg)),
                &[(0x510, 0x0c)],
                Width::Native,
            );
        }

        if let Some(parts) = flash {
            variables(bus, parts);
        }

        let mut pci = PciBus::new();
        pci.add(machine::HOST_BRIDGE, Box::new(HostBridge::new(0)));
        pci.add(machine::ISA_BRIDGE, Box::new(IsaBridge::new(chips.clone())));
        let ide = Ide::new(line(irq::IDE0), line(irq::IDE1), drives);
        let ide = Arc::new(Lock::device(ide));
        storage(bus, &mut pci, ide.clone());
        let at_sata = sata[machine::SATA_CDROM].as_ref();
        let at_sata = at_sata.is_some_and(Drive::is_cdrom);
        let mut cdrom = CdromDrive::Ide(ide);
        if sata.iter().any(Option::is_some) {
            let ahci = serial_ata(bus, &mut pci, &chips, sata);
            if at_sata {
                cdrom = CdromDrive::Sata(ahci);
            }
        }
        let mut pm = pm;
        let mut blocks = vec![
            (machine::PM_BASE, machine::PM_LEN),
            (machine::PM_BASE_ALT, machine::PM_LEN),
            (machine::GPE0_BASE, 4),
        ];
        if desc.max_cpus > 1 {
            pm = pm.with_cpus(CpuHotplug::new(desc.cpus, desc.max_cpus));
            blocks.push((machine::CPU_HOTPLUG_BASE, machine::CPU_HOTPLUG_LEN));
        }
        let pm = Shared::new(pm);
        put(bus, pm.on_bus(), &blocks, Width::Native);
        pci.add(machine::PM, Box::new(pm.clone()));
        let usb = desc.tablet.then(|| {
            let wire = PciSink::input(machine::USB.device, uhci::PIN);
            let wire = IrqLine::new(Arc::new(PciSink(chips.clone())), wire);
            tablet(bus, &mut pci, wire)
        });
        let vga = display(bus, &mut pci, video, text);
        let mut nets = nets.into_iter();
        for (n, card) in desc.nics.iter().enumerate() {
            if let Some(card) = card {
                let net = nets.next().unwrap_or_else(|| Box::new(NullNet));
                network_card(bus, &mut pci, &chips, (machine::nic(n), *card), net);
            }
        }
        for (slot, device) in virtio {
            put_virtio(bus, &mut pci, &chips, slot, device);
        }
        put(
            bus,
            Arc::new(Lock::device(pci)),
            &[(0xcf8, 8)],
            Width::Native,
        );
        bus.wake_at(VmTime(0));
        Self {
            chips,
            vga,
            keyboard,
            uart,
            rtc,
            cdrom,
            fdc,
            pm,
            usb,
        }
    }
}

/// The interrupts of the PIT and the RTC, with the HPET before them if there is one.
fn timers(bus: &mut Bus, desc: &MachineDesc, line: &impl Fn(u8) -> IrqLine) -> (IrqLine, IrqLine) {
    if !desc.hpet {
        return (line(irq::PIT), line(irq::RTC));
    }
    let legacy = [irq::PIT, irq::RTC].map(|pin| Replaceable::new(line(pin)));
    let [irq0, irq8] = &legacy;
    let own = (irq0.own(), irq8.own());
    let id = bus.add(Arc::new(Lock::device(Hpet::new(legacy, line))));
    bus.add_mmio(id, 0x1000, Some(machine::HPET));
    own
}

fn interrupt_chips(bus: &mut Bus, chips: &SharedChips, cpus: u32) {
    put(
        bus,
        Arc::new(Lock::device(PicPorts::new(chips.clone()))),
        &[(0x20, 2), (0xa0, 2), (0x4d0, 2)],
        Width::Byte,
    );
    let id = bus.add(Arc::new(Lock::device(IoApicMmio::new(chips.clone()))));
    bus.add_mmio(id, 0x1000, Some(machine::IOAPIC));
    for _ in 0..cpus {
        bus.add_cpu_page(Gpa(machine::LAPIC));
    }
}

/// The flash chip. Its windows are numbered by the bus before it exists.
fn variables(bus: &mut Bus, parts: flash::Parts) {
    let place = bus.reserve();
    let len = parts.memory.ram.len() as u64;
    let windows = flash::Windows {
        array: bus.add_rom_window(place, len, parts.memory.hpa),
        registers: bus.add_mmio(place, len, None),
    };
    bus.occupy(place, Arc::new(Lock::device(Flash::new(parts, windows))));
}

fn storage(bus: &mut Bus, pci: &mut PciBus, ide: SharedDevice) {
    use ide::config::{BUS_MASTER_BAR, BUS_MASTER_LEN, CLASS, DEVICE, STATUS, VENDOR};
    let id = put(
        bus,
        ide,
        &[(0x1f0, 8), (0x170, 8), (0x3f6, 1), (0x376, 1)],
        Width::Native,
    );
    let registers = bus.add_port_window(id, BUS_MASTER_LEN, Width::Native);
    let config = config_space(VENDOR, DEVICE, CLASS, 0)
        .preset(0x06, &STATUS.to_le_bytes())
        .writable(0x40, 0x44, 0xff)
        // Firmware switches the channels on (IDETIM) at power-on only, and systems give up a channel that is off.
        .kept(0x40, 0x44)
        .io_bar(BUS_MASTER_BAR, BUS_MASTER_LEN.into(), registers);
    pci.add(machine::IDE, Box::new(config));
}

/// The AHCI controller. Its window is numbered by the bus before it exists.
fn serial_ata(
    bus: &mut Bus,
    pci: &mut PciBus,
    chips: &SharedChips,
    drives: [Option<Drive>; SATA_PORTS],
) -> Shared<Ahci> {
    let place = bus.reserve();
    let input = PciSink::input(machine::AHCI.device, 0);
    let parts = ahci::Parts {
        line: IrqLine::new(Arc::new(PciSink(chips.clone())), input),
        messages: MsiLine::new(Arc::new(MessageSink::new(chips))),
        window: bus.add_mmio(place, ahci::MEMORY_LEN, None),
    };
    let function = Shared::new(Ahci::new(drives, parts));
    bus.occupy(place, function.on_bus());
    pci.add(machine::AHCI, Box::new(function.clone()));
    function
}

/// The USB controller with the tablet. Its window is numbered by the bus before it exists.
fn tablet(bus: &mut Bus, pci: &mut PciBus, wire: IrqLine) -> Shared<Uhci<Tablet>> {
    let place = bus.reserve();
    let registers = bus.add_port_window(place, uhci::PORTS, Width::Native);
    let usb = Shared::new(Uhci::new(wire, registers, Tablet::new()));
    bus.occupy(place, usb.on_bus());
    pci.add(machine::USB, Box::new(usb.clone()));
    usb
}

/// The VGA. Its windows are numbered by the bus before the device exists.
fn display(bus: &mut Bus, pci: &mut PciBus, video: Mapped, text: Mapped) -> Shared<Vga> {
    use vga::pci_id::{CLASS, DEVICE, MMIO_BAR, MMIO_SIZE, REVISION, VENDOR, VRAM_BAR, VRAM_SIZE};
    let place = bus.reserve();
    let legacy = bus.add_mmio(place, 0x2_0000, Some(machine::VGA_WINDOW.start));
    let registers = bus.add_mmio(place, MMIO_SIZE as u64, None);
    let frame_buffer = bus.add_ram_window(place, VRAM_SIZE as u64, video.hpa);
    bus.add_ports(
        place,
        vga::VGA_PORTS.start,
        vga::VGA_PORTS.end - vga::VGA_PORTS.start,
        Width::Byte,
    );
    bus.add_ports(
        place,
        vga::DISPI_PORTS.start,
        vga::DISPI_PORTS.end - vga::DISPI_PORTS.start,
        Width::Native,
    );
    let text_window = bus.add_ram_window(place, vga::TEXT_RAM as u64, text.hpa);
    let screen = Vga::new(video.ram, legacy, registers)
        .with_frame_buffer(frame_buffer)
        .with_text_map(text.ram, text_window);
    let screen = Shared::new(screen);
    bus.occupy(place, screen.on_bus());
    let config = config_space(VENDOR, DEVICE, CLASS, REVISION)
        .memory_bar(VRAM_BAR, VRAM_SIZE as u32, true, frame_buffer)
        .memory_bar(MMIO_BAR, MMIO_SIZE as u32, false, registers);
    pci.add(machine::VGA, Box::new(config));
    screen
}

fn network_card(
    bus: &mut Bus,
    pci: &mut PciBus,
    chips: &SharedChips,
    (slot, card): (Slot, NetworkCard),
    net: Box<dyn NetBackend>,
) {
    let input = PciSink::input(slot.device, 0);
    let wire = IrqLine::new(Arc::new(PciSink(chips.clone())), input);
    match card.nic {
        Nic::Ne2k => ne2000(bus, pci, slot, Ne2k::new(wire, card.mac, net)),
        Nic::E1000 => gigabit(bus, pci, slot, |windows| {
            E1000::new(wire, windows, card.mac, net)
        }),
        Nic::Virtio => {
            let card = Box::new(virtio::net::Net::new(card.mac, net));
            put_virtio(bus, pci, chips, slot, card);
        }
    }
}

fn ne2000(bus: &mut Bus, pci: &mut PciBus, slot: Slot, nic: Ne2k) {
    use ne2k::config::{BAR0_LEN, CLASS, DEVICE, VENDOR};
    let id = bus.add(Arc::new(Lock::device(nic)));
    let registers = bus.add_port_window(id, BAR0_LEN, Width::Native);
    let config = config_space(VENDOR, DEVICE, CLASS, 0)
        .interrupt_pin(0)
        .io_bar(0, BAR0_LEN.into(), registers);
    pci.add(slot, Box::new(config));
}

/// The gigabit card. Its windows are numbered by the bus before it exists.
fn gigabit(
    bus: &mut Bus,
    pci: &mut PciBus,
    slot: Slot,
    card: impl FnOnce(e1000::Windows) -> E1000,
) {
    let place = bus.reserve();
    let windows = e1000::Windows {
        registers: bus.add_mmio(place, e1000::REGISTERS_LEN, None),
        ports: bus.add_port_window(place, e1000::PORTS_LEN, Width::Native),
    };
    let card = Shared::new(card(windows));
    bus.occupy(place, card.on_bus());
    pci.add(slot, Box::new(card));
}

/// A virtio device. Its windows are numbered by the bus before it exists.
fn put_virtio(
    bus: &mut Bus,
    pci: &mut PciBus,
    chips: &SharedChips,
    slot: Slot,
    device: Box<dyn DeviceType>,
) {
    let place = bus.reserve();
    let windows = virtio::Windows {
        ports: bus.add_port_window(place, virtio::PORTS_LEN, Width::Native),
        msi_x: bus.add_mmio(place, virtio::MSI_X_LEN, None),
        memory: bus.add_mmio(place, virtio::MEMORY_LEN, None),
    };
    let input = PciSink::input(slot.device, 0);
    let parts = virtio::Parts {
        line: IrqLine::new(Arc::new(PciSink(chips.clone())), input),
        messages: MsiLine::new(Arc::new(MessageSink::new(chips))),
        windows,
    };
    let function = Shared::new(VirtioPci::new(device, parts));
    bus.occupy(place, function.on_bus());
    pci.add(slot, Box::new(function));
}
