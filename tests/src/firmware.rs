//! A PC that runs real firmware from its reset vector, without a processor: the real run loop, emulator, buses, devices and page
//! walker around a CPU whose hardware can run nothing.
//!
//! Its time is virtual. Every look at the clock takes a little, and the run loop looks at it at each device access and after
//! each batch of instructions: so a run repeats exactly, on any machine.

use crate::rig;
use device_model::ata::Drive;
use device_model::fwcfg::FwCfg;
use device_model::i8042::I8042;
use device_model::irq::CpuInterrupts;
use device_model::machine::{Machine, Outside};
use device_model::mapped::Mapped;
use device_model::pci::Shared;
use device_model::vga::{self, TextScreen, Vga};
use hv_core::backend::{BlockBackend, BlockError, NullConsole};
use hv_core::bus::Bus;
use hv_core::cpuid::{Cpuid, CpuidResult};
use hv_core::lock::Lock;
use hv_core::machine::{self, BootFrom, FloppyDrive, IDE_DRIVES, IdeDrive, MachineDesc, Nic};
use hv_core::mem::{GuestMemory, NotRam};
use hv_core::mmu::Frames;
use hv_core::pvclock::PvClock;
use hv_core::testing::{RamDisk, ScriptedCpu, VecConsole, VecDeviceRam, VecMemory};
use hv_core::time::Clock;
use hv_core::vcpu::{self, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use hv_core::{Gpa, Hpa, VmTime};
use hvmloader_fw::bios::BiosPlacement;
use hvmloader_fw::{cmos, fwcfg};
use npt_shadow::{Format, NestedMmu};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Guest RAM in bytes.
const RAM: usize = 64 << 20;
/// How long a look at the clock takes, in nanoseconds.
const LOOK: u64 = 400;

/// RAM with the VGA's window punched out of it, and the BIOS below 4 GiB.
struct PcMemory {
    ram: VecMemory,
    rom: Vec<u8>,
    rom_at: u64,
}

impl PcMemory {
    /// Whether all of an access lies in RAM.
    fn in_ram(gpa: Gpa, len: usize) -> bool {
        let end = gpa.0.saturating_add(len as u64);
        end <= machine::VGA_WINDOW.start || gpa.0 >= machine::VGA_WINDOW.end
    }

    fn rom(&self, gpa: Gpa, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(gpa.0.checked_sub(self.rom_at)?).ok()?;
        self.rom.get(at..at.checked_add(len)?)
    }
}

impl GuestMemory for PcMemory {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        if !Self::in_ram(gpa, buf.len()) {
            return Err(NotRam(gpa));
        }
        match self.rom(gpa, buf.len()) {
            Some(rom) => buf.copy_from_slice(rom),
            None => self.ram.read(gpa, buf)?,
        }
        Ok(())
    }
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        if !Self::in_ram(gpa, buf.len()) {
            return Err(NotRam(gpa));
        }
        self.ram.write(gpa, buf)
    }
    fn contains(&self, gpa: Gpa, len: usize, write: bool) -> bool {
        (!write && self.rom(gpa, len).is_some())
            || (Self::in_ram(gpa, len) && self.ram.contains(gpa, len, write))
    }
    fn compare_exchange(
        &self,
        gpa: Gpa,
        size: usize,
        old: u128,
        new: u128,
    ) -> Result<bool, NotRam> {
        if !Self::in_ram(gpa, size) {
            return Err(NotRam(gpa));
        }
        self.ram.compare_exchange(gpa, size, old, new)
    }
}

/// The second stage's tables, which nothing walks here.
#[derive(Default)]
pub struct VecFrames(Vec<[u64; 512]>);

impl Frames for VecFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        self.0.push([0; 512]);
        Some(Hpa((self.0.len() as u64 - 1) << 12))
    }
    fn free(&mut self, _frame: Hpa) {}
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.0[(frame.0 >> 12) as usize][index]
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        self.0[(frame.0 >> 12) as usize][index] = value;
    }
}

/// A clock of one nanosecond a tick that moves when it is looked at.
#[derive(Clone, Default)]
pub struct LookClock(Arc<AtomicU64>);

impl LookClock {
    /// Sets the time.
    pub fn set(&self, now: VmTime) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

impl Clock for LookClock {
    fn ticks(&self) -> u64 {
        self.0.fetch_add(LOOK, Ordering::Relaxed)
    }
    fn time(&self, ticks: u64) -> VmTime {
        VmTime(ticks)
    }
    /// Nobody pauses this machine.
    fn skip(&mut self, _ticks: u64) {}
    fn arm(&mut self, _deadline: VmTime, _now: VmTime) {}
    fn ticks_until(&self, deadline: VmTime, now: VmTime) -> u64 {
        (deadline - now).0
    }
}

/// A CD in memory.
struct Cdrom(Vec<u8>);

impl BlockBackend for Cdrom {
    fn sectors(&self) -> u64 {
        self.0.len() as u64 / 512
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let start = sector as usize * 512;
        let data = self.0.get(start..start + buf.len()).ok_or(BlockError)?;
        buf.copy_from_slice(data);
        Ok(())
    }
    fn write(&mut self, _sector: u64, _buf: &[u8]) -> Result<(), BlockError> {
        Err(BlockError)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// The machine.
pub struct FirmwarePc {
    /// The run loop with everything in it.
    pub vcpu: Vcpu<ScriptedCpu, NestedMmu<VecFrames>, LookClock>,
    /// The keyboard controller.
    pub keyboard: Arc<Lock<I8042>>,
    vga: Shared<Vga>,
    clock: LookClock,
    debug: VecConsole,
    text: TextScreen,
}

/// CPUID without RDRAND, which the emulator does not have.
fn host(leaf: u32, subleaf: u32) -> CpuidResult {
    const RDRAND: u32 = 1 << 30;
    let mut result = rig::host(leaf, subleaf);
    if leaf == 1 {
        result.ecx &= !RDRAND;
    }
    result
}

fn mapped(len: usize) -> Mapped {
    Mapped {
        ram: Arc::new(VecDeviceRam::new(len)),
        hpa: Hpa(0x1_0000_0000),
    }
}

/// What a machine has to boot from.
#[derive(Default)]
pub struct Media {
    /// A CD in its drive. None: there is no CD-ROM drive.
    pub cdrom: Option<Vec<u8>>,
    /// A disk in the floppy drive.
    pub floppy: Option<Vec<u8>>,
    /// Hard disks by position.
    pub disks: Vec<(usize, Vec<u8>)>,
    /// What is booted first.
    pub boot: Option<BootFrom>,
}

fn ram_disk(data: Vec<u8>) -> Box<RamDisk> {
    Box::new(RamDisk {
        data,
        read_only: false,
        fail: false,
    })
}

impl FirmwarePc {
    /// A machine at its reset vector, with `bios` (SeaBIOS), `vgabios` (SeaVGABIOS) and a CD.
    ///
    /// # Panics
    /// `bios` is no BIOS.
    #[must_use]
    pub fn new(bios: Vec<u8>, vgabios: &[u8], cdrom: Vec<u8>) -> Self {
        let media = Media {
            cdrom: Some(cdrom),
            ..Media::default()
        };
        Self::with(bios, vgabios, media)
    }

    /// The same with any media.
    ///
    /// # Panics
    /// `bios` is no BIOS.
    #[must_use]
    pub fn with(bios: Vec<u8>, vgabios: &[u8], media: Media) -> Self {
        let mut drives: [Option<Drive>; IDE_DRIVES] = Default::default();
        let mut described = [None; IDE_DRIVES];
        if let Some(cdrom) = media.cdrom {
            drives[machine::CDROM] = Some(Drive::cdrom(Some(Box::new(Cdrom(cdrom)))));
            described[machine::CDROM] = Some(IdeDrive::Cdrom);
        }
        for (position, data) in media.disks {
            let sectors = (data.len() / 512) as u64;
            drives[position] = Some(Drive::disk(ram_disk(data)));
            described[position] = Some(IdeDrive::Disk { sectors });
        }
        let desc = MachineDesc {
            memory: RAM as u64,
            cpus: 1,
            max_cpus: 1,
            nics: MachineDesc::one_nic(Nic::Ne2k, [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            uuid: [7; 16],
            drives: described,
            sata: [None; 6],
            pci_disks: 0,
            floppy: FloppyDrive::M1440,
            boot: media.boot,
            hpet: false,
            tablet: false,
        };
        let placement = BiosPlacement::of(&bios, 0).expect("the image is a BIOS");
        let (low, part) = placement.low_copy();
        let memory = Arc::new(PcMemory {
            ram: VecMemory::new(RAM),
            rom_at: placement.code().0,
            rom: bios.clone(),
        });
        let written = memory.write(low, &bios[part]);
        written.expect("the BIOS area is RAM");
        let mut bus = Bus::new(memory.clone());
        let mut fw_cfg = FwCfg::new();
        let roms = fwcfg::Roms {
            vga: vgabios,
            nic: &[],
        };
        let items = fwcfg::fw_cfg_items(&desc, roms);
        for (key, value) in items.keys {
            fw_cfg.add_key(key, value);
        }
        for (name, value) in items.files {
            fw_cfg.add_file(&name, value);
        }
        let debug = VecConsole::default();
        let outside = Outside {
            com1: Box::new(NullConsole),
            debug: Box::new(debug.clone()),
            nets: Vec::new(),
            drives,
            sata: Default::default(),
            virtio: Vec::new(),
            floppy: media.floppy.map(|data| ram_disk(data) as Box<_>),
            video: mapped(vga::pci_id::VRAM_SIZE),
            text: mapped(vga::TEXT_RAM),
            unix_time: 1_700_000_000,
            cmos: cmos::cmos(&desc),
            flash: None,
            fw_cfg: Some(fw_cfg),
        };
        let Machine {
            chips,
            vga,
            keyboard,
            ..
        } = Machine::build(&mut bus, &desc, outside);
        let irqs = CpuInterrupts::new(&chips, 0).expect("the machine has one CPU");
        let clock = LookClock::default();
        let mut cpu = ScriptedCpu::default();
        cpu.can_run = |_| false;
        let mmu = NestedMmu::new(VecFrames::default(), Format::LongMode, 2);
        let vm = Vm::new(vm::Parts {
            number: 1,
            mmu: mmu.expect("frames do not run out"),
            bus,
            memory,
            cpuid: Cpuid::new(host, desc.topology()),
            wakeups: Arc::default(),
            scratch: None,
        });
        let parts = vcpu::Parts {
            cpu,
            clock: clock.clone(),
            pvclock: PvClock::new(1_000_000_000, 0),
            irqs: Box::new(irqs),
        };
        let vcpu = Vcpu::new(Arc::new(vm), 0, parts);
        vcpu.vm.bus().reset(VmTime(0));
        Self {
            vcpu,
            keyboard,
            vga,
            clock,
            debug,
            text: TextScreen::default(),
        }
    }

    /// The clock, for tests that say what time it is.
    #[must_use]
    pub fn clock(&self) -> LookClock {
        self.clock.clone()
    }

    /// Runs until `wanted` is on the text screen.
    ///
    /// # Errors
    /// What happened instead, with the screen and the firmware's log: the guest stopped, or executed `limit` instructions.
    pub fn run_until(&mut self, wanted: &str, limit: u64) -> Result<(), String> {
        let end = self.vcpu.stats.software_instructions + limit;
        for turn in 0u64.. {
            match self.vcpu.run() {
                Stop::HostInterrupt
                | Stop::Service
                | Stop::Wakeup
                | Stop::Yield
                | Stop::Trace
                | Stop::YieldTo(_)
                | Stop::Crashed
                | Stop::Debug(_) => {}
                // Nothing happens before then, so time passes at once.
                Stop::Idle(until) if until != VmTime::NEVER => {
                    self.clock.0.fetch_max(until.0, Ordering::Relaxed);
                    self.vcpu.resume();
                }
                stop => return Err(self.report(&format!("{stop:?}"))),
            }
            if turn % 16 == 0 && self.screen().contains(wanted) {
                return Ok(());
            }
            if self.vcpu.stats.software_instructions >= end {
                break;
            }
        }
        Err(self.report("the guest has used up its instructions"))
    }

    /// Presses and releases a key by its scan code (set 1).
    pub fn key(&mut self, code: u8) {
        self.keyboard.lock().key_scancodes(&[code, code | 0x80]);
        self.vcpu.vm.bus().wake_at(self.vcpu.now());
    }

    /// The characters on the screen, in lines; empty if it shows no text.
    #[must_use]
    pub fn screen(&mut self) -> String {
        if !self.vga.lock().text_screen(&mut self.text) {
            return String::new();
        }
        let mut lines = String::new();
        for row in self.text.chars.chunks(self.text.cols.max(1) as usize) {
            let line: String = row.iter().map(|&c| char::from(c)).collect();
            lines += line.trim_end_matches(['\0', ' ']);
            lines.push('\n');
        }
        lines
    }

    fn report(&mut self, why: &str) -> String {
        use hv_core::cpu::VcpuBackend;
        let mut dump = String::new();
        self.vcpu.cpu.dump(&mut dump);
        let debug = self
            .debug
            .0
            .lock()
            .map(|log| log.clone())
            .unwrap_or_default();
        let screen = self.screen();
        let n = self.vcpu.stats.software_instructions;
        format!(
            "{why} after {n} instructions\n{dump}screen:\n{screen}\nfirmware:\n{}",
            String::from_utf8_lossy(&debug)
        )
    }
}
