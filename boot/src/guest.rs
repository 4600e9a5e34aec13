//! Puts the guest's machine together: memory, devices, firmware, media.

use crate::clock::HostClock;
use crate::disk::{self, ModuleDisk};
use crate::loader::{BootInfo, Module};
use crate::memory::{GuestRam, HostDeviceRam, HostFrames};
use crate::options::Options;
use crate::{clock, control, host};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use device_model::debug::DebugPort;
use device_model::dma::Dma;
use device_model::fwcfg::FwCfg;
use device_model::i8042::I8042;
use device_model::ide::{self, Drive, Ide};
use device_model::irq::{CpuInterrupts, GsiSink, InterruptChips, IoApicMmio, LapicMmio, PciSink, PicPorts, SharedChips};
use device_model::ne2k::{self, Ne2k};
use device_model::pci::{ConfigSpace, HostBridge, Identity, IsaBridge, PciBus, Shared};
use device_model::pit::Pit;
use device_model::pm::Piix4Pm;
use device_model::rtc::Rtc;
use device_model::syscontrol::SystemControl;
use device_model::uart::Uart;
use device_model::vga::{self, Vga};
use hv_core::backend::{BlockBackend, ConsoleBackend, NullNet};
use hv_core::bus::{Bus, SharedDevice, Width};
use hv_core::cpu::VcpuBackend;
use hv_core::cpuid::Cpuid;
use hv_core::device::AccessSize;
use hv_core::irq::IrqLine;
use hv_core::machine::{self, MachineDesc, Slot, irq};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Backing, Mmu};
use hv_core::regs::{SegReg, Segment, SysReg, gpr};
use hv_core::pvclock::PvClock;
use hv_core::vcpu::{self, Vcpu};
use hv_core::{Hpa, VmTime};
use hvmloader_fw::bios::BiosPlacement;
use hvmloader_fw::linux::{self, LinuxBoot, Source};
use hvmloader_fw::{cmos, fwcfg, pci_setup, place, vga_text};
use npt_shadow::NestedMmu;
use spin::Mutex;
use svm::{Features, SvmVcpu};

/// The virtual CPU on this machine.
pub type Cpu = Vcpu<SvmVcpu, NestedMmu<HostFrames>, HostClock>;

/// RAM of a guest when the command line does not say.
const DEFAULT_MEMORY: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Locally administered, like QEMU's default.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// What is booted.
enum Firmware {
    /// SeaBIOS from its reset vector.
    Bios { image: &'static [u8], placement: BiosPlacement },
    /// A Linux kernel without firmware.
    Linux { boot: LinuxBoot, kernel: &'static [u8], initrd: &'static [u8] },
}

/// The guest's machine.
pub struct Guest {
    /// Its CPU, with the buses.
    pub cpu: Cpu,
    /// The screen.
    pub vga: Shared<Vga>,
    /// The keyboard controller.
    pub keyboard: Arc<Mutex<I8042>>,
    /// COM1.
    pub uart: Arc<Mutex<Uart>>,
    /// RAM in bytes.
    pub memory_size: u64,
    chips: SharedChips,
    memory: Arc<GuestRam>,
    firmware: Firmware,
    desc: MachineDesc,
    vgabios: &'static [u8],
}

/// The guest's COM1.
struct Com1;

impl ConsoleBackend for Com1 {
    fn write(&mut self, byte: u8) {
        if control::is_open() {
            control::console(byte);
        }
    }
}

/// The firmware's debug output, in lines.
#[derive(Default)]
struct FirmwareLog(String);

impl ConsoleBackend for FirmwareLog {
    fn write(&mut self, byte: u8) {
        if byte == b'\n' || self.0.len() >= 160 {
            log::info!("firmware: {}", self.0);
            self.0.clear();
        } else if byte >= b' ' {
            self.0.push(char::from(byte & 0x7f));
        }
    }
}

fn bytes(module: &Module) -> &'static [u8] {
    let r = module.range;
    // SAFETY: modules are never given to the allocator, never written, and stay mapped.
    unsafe { core::slice::from_raw_parts(r.start as *const u8, (r.end - r.start) as usize) }
}

fn identity(vendor: u16, device: u16, class: u32, revision: u8) -> Identity {
    Identity { vendor, device, class, revision, subsystem: (0x1af4, 0x1100) }
}

impl Guest {
    /// Builds the machine that the boot modules and options describe.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(boot: &BootInfo, options: &Options, features: Features) -> Result<Self, String> {
        let memory_size = if options.memory == 0 { DEFAULT_MEMORY } else { options.memory & !(MIB - 1) };
        let need = |role: &str| boot.module(role).map(bytes);
        let (mut cdrom, mut disk): (Option<Box<dyn BlockBackend>>, Option<Box<dyn BlockBackend>>) = (None, None);
        if let Some(iso) = need("cdrom").or_else(|| need("iso")) {
            cdrom = Some(Box::new(ModuleDisk(iso)));
        }
        if let Some(image) = need("disk") {
            disk = Some(Box::new(ModuleDisk(image)));
        }
        for (serial, found) in disk::find() {
            match serial.as_str() {
                "umbra-cdrom" => cdrom = Some(found),
                "umbra-disk" => disk = Some(found),
                _ => {}
            }
        }
        let desc = MachineDesc {
            memory: memory_size,
            cpus: 1,
            mac: MAC,
            uuid: *b"Umbra virtual PC",
            disk: disk.is_some(),
            cdrom: cdrom.is_some(),
        };

        let firmware = match need("kernel") {
            Some(kernel) => {
                let initrd = need("initrd").unwrap_or(&[]);
                let line = need("cmdline").map(|b| core::str::from_utf8(b).unwrap_or("")).or(options.cmdline).unwrap_or("");
                let head = &kernel[..kernel.len().min(linux::HEADER_LEN)];
                let plan = linux::plan(head, kernel.len() as u64, initrd.len() as u64, line.trim_end(), &desc);
                Firmware::Linux { boot: plan.map_err(|e| e.to_string())?, kernel, initrd }
            }
            None => {
                let image = need("bios").ok_or("no guest: there is neither a `kernel` nor a `bios` module")?;
                let placement = BiosPlacement::of(image).map_err(|e| e.to_string())?;
                Firmware::Bios { image, placement }
            }
        };

        let ranges = [(0, desc.low_ram()), (machine::HIGH_RAM, desc.high_ram())];
        let enough = || alloc::format!("this machine has too little memory for a guest of {} MiB", memory_size / MIB);
        let mut ram = GuestRam::allocate(&ranges).ok_or_else(enough)?;
        if let Firmware::Bios { image, placement } = &firmware {
            ram.add_rom(placement.flash(), Hpa(image.as_ptr() as u64), image.len() as u64);
        }
        ram.punch(machine::VGA_WINDOW);
        let ram = Arc::new(ram);
        let mut mmu = NestedMmu::new(HostFrames, host::gigabyte_pages()).ok_or_else(enough)?;
        for e in ram.extents() {
            mmu.remap(e.gpa, e.len, Backing::Ram { hpa: e.hpa, writable: e.writable });
        }
        if mmu.exhausted() {
            return Err(enough());
        }

        let memory: Arc<dyn GuestMemory> = ram.clone();
        let mut bus = Bus::new(memory.clone());
        let vgabios = need("vgabios").unwrap_or(&[]);
        let parts = devices(&mut bus, &desc, &firmware, vgabios, cdrom, disk).ok_or_else(enough)?;
        let irqs = CpuInterrupts::new(&parts.chips, 0).ok_or("no local APIC")?;
        let cpu = SvmVcpu::new(features, 1);
        let cpuid = Cpuid::new(host::cpuid);
        let vcpu = Vcpu::new(vcpu::Parts {
            cpu,
            mmu,
            bus,
            clock: HostClock::new(),
            cpuid,
            pvclock: PvClock::new(clock::tsc_hz(), host::unix_time()),
            irqs: Box::new(irqs),
            memory,
        });
        let Parts { chips, vga, keyboard, uart } = parts;
        let mut guest = Self { cpu: vcpu, vga, keyboard, uart, memory_size, chips, memory: ram, firmware, desc, vgabios };
        guest.reset()?;
        Ok(guest)
    }

    /// Everything to the power-on state, and the firmware or kernel in its place again.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn reset(&mut self) -> Result<(), String> {
        let now = self.cpu.now();
        self.cpu.bus.reset(now);
        self.cpu.reset();
        match &self.firmware {
            Firmware::Bios { image, placement } => {
                let (at, part) = placement.low_copy();
                self.memory.write(at, &image[part]).map_err(|e| e.to_string())
            }
            Firmware::Linux { .. } => self.start_linux(),
        }
    }

    /// Text mode 3 with the VGA BIOS's font and an empty screen.
    fn start_text_mode(&mut self) {
        for (port, value) in vga_text::mode3() {
            self.cpu.bus.port_write(self.cpu.now(), port, AccessSize::Byte, value.into());
        }
        let vga = self.vga.lock();
        // Four planes interleaved: character, attribute, font.
        for cell in 0..80 * 25 {
            vga.vram().write(4 * cell, b" \x07");
        }
        let glyphs = vga_text::find_font(self.vgabios).unwrap_or_default().chunks_exact(vga_text::FONT_HEIGHT);
        for (character, glyph) in glyphs.enumerate() {
            for (line, dots) in glyph.iter().enumerate() {
                vga.vram().write(4 * (32 * character + line) + 2, &[*dots]);
            }
        }
    }

    /// What firmware would have done, then the kernel's 32-bit entry (Linux/x86 boot protocol, "32-bit BOOT PROTOCOL").
    fn start_linux(&mut self) -> Result<(), String> {
        place::place(&self.desc, &*self.memory).map_err(|e| e.to_string())?;
        for w in pci_setup::config_writes() {
            let address = 1 << 31 | u32::from(w.slot.devfn()) << 8 | u32::from(w.offset & 0xfc);
            self.cpu.bus.port_write(self.cpu.now(), 0xcf8, AccessSize::Dword, address);
            self.cpu.bus.port_write(self.cpu.now(), 0xcfc + u16::from(w.offset & 3), w.size, w.value);
        }
        for (port, value) in pci_setup::port_writes() {
            self.cpu.bus.port_write(self.cpu.now(), port, AccessSize::Byte, value.into());
        }
        self.chips.lock().preset_virtual_wire();
        self.start_text_mode();
        let Firmware::Linux { boot, kernel, initrd } = &self.firmware else { return Ok(()) };
        for c in &boot.copies {
            let from: &[u8] = match c.source {
                Source::Kernel => kernel,
                Source::Initrd => initrd,
            };
            let part = from.get(c.range.start as usize..c.range.end as usize).ok_or("the kernel file is cut off")?;
            self.memory.write(c.to, part).map_err(|e| e.to_string())?;
        }
        for w in [&boot.boot_params, &boot.command_line, &boot.gdt] {
            self.memory.write(w.to, &w.bytes).map_err(|e| e.to_string())?;
        }
        let e = &boot.entry;
        let cpu = &mut self.cpu.cpu;
        cpu.set_segment(SegReg::Cs, e.code);
        for s in [SegReg::Ds, SegReg::Es, SegReg::Ss, SegReg::Fs, SegReg::Gs] {
            cpu.set_segment(s, e.data);
        }
        cpu.set_segment(SegReg::Gdtr, Segment { base: e.gdt.0, limit: e.gdt_limit.into(), ..Segment::default() });
        cpu.set_sysreg(SysReg::Cr0, 0x11);
        cpu.gprs_mut().regs = [0; 16];
        cpu.gprs_mut().regs[gpr::RSI] = e.esi.into();
        cpu.set_rip(e.eip.into());
        Ok(())
    }
}

/// The devices that somebody outside the bus needs.
struct Parts {
    chips: SharedChips,
    vga: Shared<Vga>,
    keyboard: Arc<Mutex<I8042>>,
    uart: Arc<Mutex<Uart>>,
}

/// Puts every device of the virtual PC on the buses.
fn devices(
    bus: &mut Bus,
    desc: &MachineDesc,
    firmware: &Firmware,
    vgabios: &[u8],
    cdrom: Option<Box<dyn BlockBackend>>,
    disk: Option<Box<dyn BlockBackend>>,
) -> Option<Parts> {
    let chips = InterruptChips::shared(1);
    let line = |gsi: u8| IrqLine::new(Arc::new(GsiSink(chips.clone())), gsi);
    let shared = |d: SharedDevice| d;

    let id = bus.add(shared(Arc::new(Mutex::new(PicPorts::new(chips.clone())))));
    for (base, len) in [(0x20, 2), (0xa0, 2), (0x4d0, 2)] {
        bus.add_ports(id, base, len, Width::Byte);
    }
    let id = bus.add(shared(Arc::new(Mutex::new(IoApicMmio::new(chips.clone())))));
    bus.add_mmio(id, 0x1000, Some(machine::IOAPIC));
    let id = bus.add(shared(Arc::new(Mutex::new(LapicMmio::new(chips.clone(), 0)))));
    bus.add_mmio(id, 0x1000, Some(machine::LAPIC));
    bus.set_outside(id);

    let id = bus.add(shared(Arc::new(Mutex::new(Dma::new()))));
    for (base, len) in [(0x00, 0x10), (0x81, 0x0f), (0xc0, 0x20)] {
        bus.add_ports(id, base, len, Width::Byte);
    }
    let id = bus.add(shared(Arc::new(Mutex::new(Pit::new(line(irq::PIT))))));
    bus.add_ports(id, 0x40, 4, Width::Byte);
    bus.add_ports(id, 0x61, 1, Width::Byte);
    let mut rtc = Rtc::new(line(irq::RTC), host::unix_time());
    for (index, value) in cmos::cmos(desc) {
        rtc.set_cmos(index, value);
    }
    let id = bus.add(shared(Arc::new(Mutex::new(rtc))));
    bus.add_ports(id, 0x70, 2, Width::Byte);
    let keyboard = Arc::new(Mutex::new(I8042::new(line(irq::KEYBOARD), line(irq::MOUSE))));
    let id = bus.add(shared(keyboard.clone()));
    bus.add_ports(id, 0x60, 1, Width::Byte);
    bus.add_ports(id, 0x64, 1, Width::Byte);
    let uart = Arc::new(Mutex::new(Uart::new(0x3f8, line(irq::COM1), Box::new(Com1))));
    let id = bus.add(shared(uart.clone()));
    bus.add_ports(id, 0x3f8, 8, Width::Byte);
    let id = bus.add(shared(Arc::new(Mutex::new(SystemControl::new(line(irq::FERR))))));
    for (base, len) in [(0x80, 1), (0x92, 1), (0xb2, 2), (0xf0, 1)] {
        bus.add_ports(id, base, len, Width::Byte);
    }
    let id = bus.add(shared(Arc::new(Mutex::new(DebugPort::new(Box::new(FirmwareLog::default()))))));
    bus.add_ports(id, 0x402, 1, Width::Byte);
    bus.add_ports(id, 0xe9, 1, Width::Byte);
    if matches!(firmware, Firmware::Bios { .. }) {
        let mut fw = FwCfg::new();
        let items = fwcfg::fw_cfg_items(desc, vgabios);
        for (key, value) in items.keys {
            fw.add_key(key, value);
        }
        for (name, value) in items.files {
            fw.add_file(&name, value);
        }
        let id = bus.add(shared(Arc::new(Mutex::new(fw))));
        bus.add_ports(id, 0x510, 0x0c, Width::Native);
    }

    // PCI.
    let mut pci = PciBus::new();
    pci.add(machine::HOST_BRIDGE, Box::new(HostBridge::new(0)));
    pci.add(machine::ISA_BRIDGE, Box::new(IsaBridge::new(chips.clone())));

    let drives = [disk.map(Drive::disk), None, cdrom.map(|m| Drive::cdrom(Some(m))), None];
    let id = bus.add(shared(Arc::new(Mutex::new(Ide::new(line(irq::IDE0), line(irq::IDE1), drives)))));
    for (base, len) in [(0x1f0, 8), (0x170, 8), (0x3f6, 1), (0x376, 1)] {
        bus.add_ports(id, base, len, Width::Native);
    }
    let bar = bus.add_port_window(id, ide::config::BUS_MASTER_LEN, Width::Native);
    let config = ConfigSpace::new(&identity(ide::config::VENDOR, ide::config::DEVICE, ide::config::CLASS, 0))
        .preset(0x06, &ide::config::STATUS.to_le_bytes())
        .writable(0x40, 0x44, 0xff)
        .io_bar(ide::config::BUS_MASTER_BAR, ide::config::BUS_MASTER_LEN.into(), bar);
    pci.add(machine::IDE, Box::new(config));

    let pm = Shared::new(Piix4Pm::new(line(machine::SCI_IRQ)));
    let id = bus.add(shared(Arc::new(Mutex::new(pm.clone()))));
    for (base, len) in [(machine::PM_BASE, machine::PM_LEN), (machine::PM_BASE_ALT, machine::PM_LEN), (machine::GPE0_BASE, 4)] {
        bus.add_ports(id, base, len, Width::Native);
    }
    pci.add(machine::PM, Box::new(pm));

    // The VGA's windows are numbered by the bus before the device exists.
    let vram = HostDeviceRam::allocate(vga::pci_id::VRAM_SIZE as u64)?;
    let placeholder = bus.reserve();
    let legacy = bus.add_mmio(placeholder, 0x2_0000, Some(machine::VGA_WINDOW.start));
    let registers = bus.add_mmio(placeholder, vga::pci_id::MMIO_SIZE as u64, None);
    let frame_buffer = bus.add_ram_window(placeholder, vga::pci_id::VRAM_SIZE as u64, vram.hpa());
    bus.add_ports(placeholder, vga::VGA_PORTS.start, vga::VGA_PORTS.end - vga::VGA_PORTS.start, Width::Byte);
    bus.add_ports(placeholder, vga::DISPI_PORTS.start, vga::DISPI_PORTS.end - vga::DISPI_PORTS.start, Width::Native);
    let text_ram = HostDeviceRam::allocate(vga::TEXT_RAM as u64)?;
    let text = bus.add_ram_window(placeholder, vga::TEXT_RAM as u64, text_ram.hpa());
    let screen = Shared::new(Vga::new(vram, legacy, registers).with_text_map(text_ram, text));
    bus.occupy(placeholder, Arc::new(Mutex::new(screen.clone())));
    let config = ConfigSpace::new(&identity(vga::pci_id::VENDOR, vga::pci_id::DEVICE, vga::pci_id::CLASS, vga::pci_id::REVISION))
        .memory_bar(vga::pci_id::VRAM_BAR, vga::pci_id::VRAM_SIZE as u32, true, frame_buffer)
        .memory_bar(vga::pci_id::MMIO_BAR, vga::pci_id::MMIO_SIZE as u32, false, registers);
    pci.add(machine::VGA, Box::new(config));

    let Slot { device, .. } = machine::NIC;
    let wire = IrqLine::new(Arc::new(PciSink(chips.clone())), PciSink::input(device, 0));
    let id = bus.add(shared(Arc::new(Mutex::new(Ne2k::new(wire, desc.mac, Box::new(NullNet))))));
    let bar = bus.add_port_window(id, ne2k::config::BAR0_LEN, Width::Native);
    let config = ConfigSpace::new(&identity(ne2k::config::VENDOR, ne2k::config::DEVICE, ne2k::config::CLASS, 0))
        .interrupt_pin(0)
        .io_bar(0, ne2k::config::BAR0_LEN.into(), bar);
    pci.add(machine::NIC, Box::new(config));

    let id = bus.add(shared(Arc::new(Mutex::new(pci))));
    bus.add_ports(id, 0xcf8, 8, Width::Native);
    bus.wake_at(VmTime(0));
    Some(Parts { chips, vga: screen, keyboard, uart })
}

