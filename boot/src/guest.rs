//! Puts a guest's machine together: memory, devices, firmware, media.

mod balloon;
mod consoles;
mod cpu_slot;
mod cpus;
mod devices;
mod direct;
mod firmware;
mod paging;

use crate::clock::HostClock;
use crate::host::{ExtendedState, Virtualization};
use crate::loader::{BootInfo, Module};
use crate::media::{Cabinet, Media};
use crate::memory::{GuestRam, HostFrames};
use crate::{clock, host, memory, net, smp};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use balloon::Ballooned;
use consoles::{FirmwareLog, Screen};
use core::ops::Range;
pub use cpu_slot::CpuSlot;
use device_model::ahci;
use device_model::fdc::{self, Fdc};
use device_model::i8042::I8042;
use device_model::irq::{CpuInterrupts, SharedChips};
use device_model::machine::{CdromDrive, Machine, Outside};
use device_model::pci::Shared;
use device_model::pm::Piix4Pm;
use device_model::rtc::Rtc;
use device_model::uart::Uart;
use device_model::usb::tablet::Tablet;
use device_model::usb::uhci::Uhci;
use device_model::vga::{self, Vga};
use device_model::virtio::balloon::Balloon;
use device_model::virtio::block;
use device_model::virtio::console::Terminal;
use devices::{
    ata_drives, device_ram, fw_cfg, network_cards, numbered, pci_disks, small_devices, variables,
};
use firmware::Firmware;
use host_memory::{CHUNK, Chunks, Demand, MIB, Pinning};
use hv_core::backend::{BlockBackend, NullNet};
use hv_core::bus::Bus;
use hv_core::cpu::VcpuBackend;
use hv_core::cpuid::Cpuid;
use hv_core::emulate::EmuCx;
use hv_core::hyperv::Overlays;
use hv_core::interface::Interfaces;
use hv_core::lock::Lock;
use hv_core::machine::{self, BootFrom, FloppyDrive, MachineDesc, Nic};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Backing, Mmu};
use hv_core::pvclock::PvClock;
use hv_core::scratch::Scratch;
use hv_core::time::Clock;
use hv_core::trace;
use hv_core::vcpu::{self, Vcpu};
use hv_core::vm;
use hv_core::{Gpa, Hpa, VmTime};
use hvmloader_fw::bios;
use hvmloader_fw::fwcfg::Roms;
use hvmloader_fw::{cmos, low_memory, mtrr, vga_text};
use npt_shadow::shadow::Config;
use npt_shadow::{Paging, WatchedMemory};
use paging::{Ways, algorithm, shadow_pages};
use protocol::options::{self, CdBus, DiskBus};
use switch::Ports;

/// What the virtual CPUs of a guest share.
pub type Vm = vm::Vm<Paging<HostFrames>>;
/// A virtual CPU on this machine.
pub type Cpu<B> = Vcpu<B, Paging<HostFrames>, HostClock>;

/// RAM of a guest when the command line does not say.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// What the devices of a VM take besides the heap's region of small things, at most. A test measures it (`tests/tests/heap.rs`).
const DEVICES: u64 = 4 * MIB;
/// What a network card takes, with the frames that wait for it.
const CARD: u64 = 256 << 10;
/// What a further virtual CPU takes.
const CPU: u64 = 256 << 10;
const UUID: [u8; 16] = *b"Umbra virtual PC";

/// A guest's machine.
pub struct Guest<B: VcpuBackend> {
    /// What its CPUs share: buses, memory.
    pub vm: Arc<Vm>,
    /// Its CPUs.
    pub cpus: Vec<CpuSlot<B>>,
    /// The screen.
    pub vga: Shared<Vga>,
    /// The keyboard controller.
    pub keyboard: Arc<Lock<I8042>>,
    /// COM1.
    uart: Arc<Lock<Uart>>,
    /// The keyboard of its virtio console.
    pub terminal: Option<Terminal>,
    /// The clock, with CMOS memory.
    rtc: Arc<Lock<Rtc>>,
    /// The CD-ROM drive.
    pub cdrom: CdromDrive,
    /// The floppy disk controller.
    pub fdc: Arc<Lock<Fdc>>,
    /// Power management, with the power button.
    pub pm: Shared<Piix4Pm>,
    /// The USB controller with the tablet.
    pub usb: Option<Shared<Uhci<Tablet>>>,
    /// Where its network cards are plugged in.
    pub ports: Ports,
    /// RAM in bytes.
    pub memory_size: u64,
    /// What kind of PC it is.
    pub profile: options::Profile,
    /// Its RAM, if it comes and goes.
    ballooned: Option<Ballooned>,
    chips: SharedChips,
    /// How its memory was to be virtualized when it was started.
    pub paging: options::Paging,
    ways: Ways,
    memory: Arc<dyn GuestMemory>,
    firmware: Firmware,
    vgabios: &'static [u8],
}

/// The media that can be taken out of a guest's drives, and put into them.
pub struct Removable {
    /// Those of its CD-ROM drive.
    pub cdroms: Cabinet,
    /// Those of its floppy drive.
    pub floppies: Cabinet,
}

const _: () = assert!(options::MAX_CPUS == machine::MAX_CPUS);
const _: () = assert!(options::MAX_FIRMWARE == bios::MOST as u64);
const _: () = assert!(options::FIRMWARE_STEP == bios::STEP as u64);

/// What the firmware boots first, as the user said.
fn boot_from(boot: options::BootFrom) -> BootFrom {
    match boot {
        options::BootFrom::Cd => BootFrom::Cdrom,
        options::BootFrom::Disk => BootFrom::Disk,
        options::BootFrom::Floppy => BootFrom::Floppy,
        options::BootFrom::Net => BootFrom::Network,
    }
}

/// The interfaces of hypervisors that the user wants offered.
fn interfaces(enlighten: options::Enlighten) -> Interfaces {
    let mut all = Interfaces::empty();
    all.set(Interfaces::KVM, enlighten.kvm);
    all.set(Interfaces::HYPERV, enlighten.hyperv);
    all
}

impl<B: VcpuBackend> Guest<B> {
    /// Builds the machine of VM `number` (from 1) that the boot modules and options describe.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn new(
        boot: &BootInfo,
        number: u8,
        options: &options::Vm<'static>,
        mut media: Media,
        scratch: Option<Arc<Lock<dyn Scratch>>>,
        virtualization: &mut impl Virtualization<Cpu = B>,
    ) -> Result<(Self, Removable), String> {
        let second_stage = virtualization.second_stage(options.paging)?;
        let memory_size = options.memory.unwrap_or(DEFAULT_MEMORY);
        // Guests whose RAM comes and goes.
        let comes_and_goes = options.later || options.profile.balloon();
        let end = machine::top_of_ram(memory_size);
        let no_books = || alloc::format!("there is no memory for the books of VM {number}");
        let chunks = match comes_and_goes {
            true => Some(Arc::new(Chunks::new(end).ok_or_else(no_books)?)),
            false => None,
        };
        if let Some(chunks) = &chunks {
            let pin = |medium: &mut Vec<Box<dyn BlockBackend>>| {
                let all = core::mem::take(medium).into_iter();
                *medium = all
                    .map(|medium| -> Box<dyn BlockBackend> {
                        Box::new(Pinning::new(medium, chunks.clone()))
                    })
                    .collect();
            };
            pin(&mut media.cdroms);
            pin(&mut media.disks);
        }
        // The firmware is the same for all.
        let firmware_image = |role: &str| boot.module(1, role).map(Module::bytes);
        let sizes = media.floppies.iter().map(|floppy| floppy.sectors());
        let large = Some(FloppyDrive::M2880);
        let floppy_drive = match sizes.map(fdc::drive_for).any(|drive| drive == large) {
            true => FloppyDrive::M2880,
            false => FloppyDrive::M1440,
        };
        let (cdroms, cdrom) = Cabinet::of(media.cdroms);
        let (floppies, floppy) = Cabinet::of(media.floppies);
        let none = Vec::new;
        let (ide_disks, sata_disks, virtio_disks) = match options.profile.disk_bus() {
            DiskBus::Ide => (media.disks, none(), none()),
            DiskBus::Ahci => (none(), media.disks, none()),
            DiskBus::Virtio => (none(), none(), media.disks),
        };
        let (ide_cd, sata_cd) = match options.profile.cd_bus() {
            CdBus::Ide => (cdrom, None),
            CdBus::Ahci => (None, cdrom),
        };
        let ide_cd = ide_cd.map(|medium| (machine::CDROM, medium));
        let sata_cd = sata_cd.map(|medium| (machine::SATA_CDROM, medium));
        let (described, drives) = ata_drives(number, ide_disks, ide_cd);
        let (described_sata, sata) = ata_drives(number, sata_disks, sata_cd);
        let queues = options.cpus() as u16;
        let mut virtio = pci_disks(number, virtio_disks, queues);
        let desc = MachineDesc {
            memory: memory_size,
            cpus: options.cpus(),
            max_cpus: options.max_cpus(),
            nics: network_cards(number, &options.profile),
            uuid: numbered(UUID, number),
            drives: described,
            sata: described_sata,
            pci_disks: virtio.len(),
            floppy: floppy_drive,
            boot: options.boot.map(boot_from),
            hpet: options.profile.hpet,
            tablet: options.tablet,
        };
        let disks = virtio.len();
        let sata_drives = desc.sata.iter().flatten().count();
        let ranges = [(0, desc.low_ram()), (machine::HIGH_RAM, desc.high_ram())];
        let balloon = match &chunks {
            Some(chunks) => {
                let is_in =
                    |range: &Range<u64>, chunk: usize| range.contains(&(chunk as u64 * CHUNK));
                let is_ram = |chunk| {
                    let ram = ranges.map(|(start, len)| start..start + len);
                    ram.iter().any(|range| is_in(range, chunk))
                };
                let may_go = |chunk| memory::chunks(&ranges).any(|range| is_in(&range, chunk));
                let balloon = Balloon::new(chunks.count(), is_ram, may_go);
                Some(balloon.ok_or_else(no_books)?)
            }
            None => None,
        };
        let terminal = small_devices(number, &options.profile, balloon.as_ref(), &mut virtio);

        let (firmware, store) = Firmware::choose(boot, number, options, media.variables, &desc)?;

        let cpuid =
            Cpuid::with_capabilities(host::cpuid, desc.topology(), host::arch_capabilities())
                .offering(interfaces(options.profile.enlighten()));
        let frames = desc.top_of_ram() >> 12;
        let shadow = Config {
            algorithm: algorithm(options.shadow),
            cpus: desc.max_cpus as usize,
            pages: shadow_pages(memory_size),
            frames,
            physical_bits: cpuid.physical_bits(),
        };
        let needs_shadow = !matches!(options.paging, options::Paging::Nested);
        let paging = Ways::demand(
            second_stage.filter(|_| options.paging.needs_nested()),
            needs_shadow.then_some(&shadow),
            memory_size,
        );
        let overlays = match options.profile.enlighten().hyperv {
            true => Overlays::bytes(desc.max_cpus as usize),
            false => 0,
        };
        let coming: u64 = memory::chunks(&ranges).map(|r| r.end - r.start).sum();
        // Every other chunk may be away.
        let (pieces, balloon_books) = match &chunks {
            Some(chunks) => {
                let pieces = chunks.count() / 2 + 1;
                let books = Chunks::bytes(end) + Balloon::bytes(chunks.count());
                (pieces, books + Paging::<HostFrames>::bytes(pieces))
            }
            None => (0, 0),
        };
        let demand = Demand {
            ram: memory_size - if options.later { coming } else { 0 },
            video: (vga::pci_id::VRAM_SIZE + vga::TEXT_RAM) as u64
                + store.as_ref().map_or(0, |medium| medium.sectors() * 512),
            devices: DEVICES
                + u64::from(desc.max_cpus - 1) * CPU
                + (disks * block::MEMORY) as u64
                + (sata_drives * ahci::DRIVE_MEMORY) as u64
                + desc.nics.iter().flatten().count() as u64 * CARD
                + overlays as u64
                + match options.trace {
                    Some(_) => desc.max_cpus as u64 * trace::BYTES as u64,
                    None => 0,
                },
            books: paging.books + WatchedMemory::bytes(frames) + balloon_books,
            ..paging
        };
        let fits = demand.check(number, memory::left());
        fits.map_err(|lack| lack.to_string())?;
        let enough = || {
            alloc::format!(
                "this machine's memory is in too many pieces for VM {number}, a guest of {} MiB; give it less",
                memory_size / MIB
            )
        };
        let mut ram = match options.later {
            false => GuestRam::allocate(&ranges),
            true => GuestRam::allocate(&memory::fixed(&ranges)),
        }
        .ok_or_else(enough)?;
        if let Firmware::Bios { code, placement } = &firmware {
            let hpa = Hpa(code.as_ptr() as u64);
            ram.add_rom(placement.code(), hpa, code.len() as u64);
        }
        ram.punch(machine::VGA_WINDOW);
        let mapped = ram.extents().to_vec();
        if let Some(chunks) = chunks {
            ram.divide(&ranges, chunks);
        }
        let ram = Arc::new(ram);
        // Shadow paging may be switched on at any time: everything that writes to memory goes through the watch.
        let memory = WatchedMemory::new(ram.clone(), frames).ok_or_else(enough)?;
        let ways = Ways {
            second_stage,
            confinement: virtualization.confinement(),
            memory: memory.clone(),
            shadow,
        };
        let first = match options.paging {
            options::Paging::Shadow => ways.shadow(),
            options::Paging::Nested | options::Paging::Alternate(_) => ways.nested(),
        };
        let mut mmu = Paging::new(first.ok_or_else(enough)?);
        mmu.reserve(pieces).then_some(()).ok_or_else(enough)?;
        if let options::Paging::Alternate(_) = options.paging {
            let added = mmu.add(ways.shadow().ok_or_else(enough)?);
            added.then_some(()).ok_or_else(enough)?;
        }
        if let Some(backing) = second_stage.and_then(|stage| stage.identity_map) {
            mmu.remap(Gpa(machine::IDENTITY_MAP), 0x1000, backing);
        }
        for e in mapped {
            mmu.remap(
                e.gpa,
                e.len,
                Backing::Ram {
                    hpa: e.hpa,
                    writable: e.writable,
                },
            );
        }
        if mmu.exhausted() {
            return Err(enough());
        }

        let mut bus = Bus::new(memory.clone());
        let vgabios = firmware_image("vgabios").unwrap_or(&[]);
        // It asks for keys, and takes its time.
        let role = match desc.boot_nic().map(|card| card.nic) {
            Some(Nic::Virtio) => "nicrom-virtio",
            Some(Nic::E1000) => "nicrom-e1000",
            None | Some(Nic::Ne2k) => "nicrom",
        };
        let nic = firmware_image(role).filter(|_| desc.boot == Some(BootFrom::Network));
        let roms = Roms {
            vga: vgabios,
            nic: nic.unwrap_or(&[]),
        };
        let (mut nets, mut ports) = (Vec::new(), Ports::NONE);
        for card in desc.nics.iter().flatten() {
            match net::plug(number, card.mac) {
                Some((cable, port)) => {
                    nets.push(cable);
                    ports = ports.and(Ports::one(port));
                }
                None => {
                    log::warn!(
                        "VM {number}: a network card is connected to nothing: another card has its address {}",
                        options::Mac(card.mac)
                    );
                    nets.push(Box::new(NullNet));
                }
            }
        }
        let has_firmware = matches!(firmware, Firmware::Bios { .. });
        let flash = match (&firmware, store) {
            (Firmware::Bios { placement, .. }, Some(medium)) => {
                Some(variables(number, placement.store(), medium)?)
            }
            _ => None,
        };
        let outside = Outside {
            com1: Box::new(Screen(number)),
            debug: Box::new(FirmwareLog::new(number)),
            nets,
            drives,
            sata,
            virtio,
            floppy,
            video: device_ram(vga::pci_id::VRAM_SIZE).ok_or_else(enough)?,
            text: device_ram(vga::TEXT_RAM).ok_or_else(enough)?,
            unix_time: host::unix_time().saturating_add_signed(options.profile.rtc().ahead()),
            cmos: cmos::cmos(&desc),
            flash,
            fw_cfg: has_firmware.then(|| fw_cfg(&desc, roms)),
        };
        let Machine {
            chips,
            vga,
            keyboard,
            uart,
            rtc,
            cdrom,
            fdc,
            pm,
            usb,
        } = Machine::build(&mut bus, &desc, outside);
        let wakeups = chips.lock().wakeups();
        let mut vm = Vm::new(vm::Parts {
            number,
            mmu,
            bus,
            memory: memory.clone(),
            cpuid,
            wakeups,
            scratch,
        });
        vm.unknown_msrs.ignored = options.profile.unknown_msrs == options::UnknownMsrs::Ignore;
        let vm = Arc::new(vm);
        if smp::used() > 1 {
            let kicks = &vm.wakeups.kicks;
            kicks.interrupt_by(smp::interrupt);
            vm.mmu().set_kick(kicks.clone());
        }
        let components = vm.cpuid.xcr0_allowed() | virtualization.unguarded_components();
        let clock = HostClock::new();
        let mut cpus = Vec::new();
        for index in 0..desc.max_cpus as u8 {
            let cpu = virtualization.vcpu(options.paging)?;
            let irqs = CpuInterrupts::new(&chips, index.into()).ok_or("no local APIC")?;
            let parts = vcpu::Parts {
                cpu,
                clock: clock.another(),
                pvclock: PvClock::new(clock::tsc_hz(), host::unix_time()),
                irqs: Box::new(irqs),
            };
            let mut cpu = Vcpu::new(vm.clone(), index, parts);
            cpu.cpu.unload();
            let extended = ExtendedState::new(components);
            let extended = extended.ok_or("no memory for the CPU's extended state")?;
            cpus.push(CpuSlot::new(cpu, extended));
        }
        let mut guest = Self {
            paging: options.paging,
            ways,
            vm,
            cpus,
            vga,
            keyboard,
            uart,
            terminal,
            rtc,
            cdrom,
            fdc,
            pm,
            usb,
            ports,
            memory_size,
            profile: options.profile,
            ballooned: balloon.map(|balloon| Ballooned { ram, balloon }),
            chips,
            memory,
            firmware,
            vgabios,
        };
        match options.later {
            true => guest.have_none(),
            false => guest.reset()?,
        }
        Ok((guest, Removable { cdroms, floppies }))
    }

    /// Everything to the power-on state, and the firmware or kernel in its place again. None of its CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn reset(&mut self) -> Result<(), String> {
        self.vm.bus().reset(self.now());
        self.tell_chips();
        self.reset_cpus();
        let status = self.rtc.lock().cmos(cmos::SHUTDOWN_STATUS);
        low_memory::clear(&*self.memory, status).map_err(|e| e.to_string())?;
        match &self.firmware {
            Firmware::Bios { code, placement } => {
                let (at, part) = placement.low_copy();
                self.memory
                    .write(at, &code[part])
                    .map_err(|e| e.to_string())
            }
            Firmware::Linux { .. } => {
                self.cpus[0].load();
                let started = self.start_linux();
                self.cpus[0].unload();
                started
            }
        }
    }

    /// The machine wakes from S3: its memory is as it was, and the firmware or Umbra in its place starts. None of its CPUs is loaded.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn wake_up(&mut self) -> Result<(), String> {
        self.vm.bus().wake_up(self.now());
        self.tell_chips();
        self.reset_cpus();
        match self.firmware {
            Firmware::Bios { .. } => Ok(()),
            Firmware::Linux { .. } => {
                self.cpus[0].load();
                let resumed = self.resume_linux();
                self.cpus[0].unload();
                resumed
            }
        }
    }

    /// All CPUs to the power-on state; without firmware, with the memory types that it would have set.
    fn reset_cpus(&mut self) {
        let ticks = clock::ticks();
        let bits = self.vm.cpuid.physical_bits();
        let has_firmware = matches!(self.firmware, Firmware::Bios { .. });
        for slot in &mut self.cpus {
            slot.wake();
            slot.reset(ticks);
            if has_firmware {
                continue;
            }
            slot.while_loaded(|cpu| {
                for (msr, value) in mtrr::writes(bits) {
                    let set = cpu.write_msr(msr, value);
                    debug_assert!(set.is_ok(), "firmware sets registers that are there");
                }
            });
        }
    }

    /// A byte is typed at its terminal: it is the virtio console's if that is driven, and COM1's otherwise.
    pub fn typed(&self, byte: u8) {
        let taken = self.terminal.as_ref().is_some_and(|t| t.typed(byte));
        if !taken {
            self.uart.lock().receive(&[byte]);
        }
    }

    /// The guest's time.
    pub fn now(&self) -> VmTime {
        let clock = &self.cpus[0].cpu.clock;
        clock.time(clock.ticks())
    }

    /// Whether all its CPUs have halted for ever.
    pub fn is_dead(&self) -> bool {
        self.cpus.iter().all(|slot| slot.has_halted_for_ever()) && !self.chips.lock().can_send_nmi()
    }

    /// Keeps what has just passed, `ticks` ticks of the time-stamp counter, out of the guest's time. None of its CPUs is loaded.
    pub fn skip(&mut self, ticks: u64) {
        for slot in &mut self.cpus {
            slot.while_loaded(|cpu| cpu.skip(ticks));
        }
    }

    /// The VGA BIOS's font.
    pub fn font(&self) -> Option<&'static [u8]> {
        vga_text::find_font(self.vgabios)
    }
}
