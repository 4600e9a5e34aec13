//! The emulated controller as a host of the driver.

use crate::{DmaBuffer, Found, Host, Location, probe};
use device_model::ata::Drive;
use device_model::ide::Ide;
use hv_core::Gpa;
use hv_core::backend::{BlockBackend, BlockError};
use hv_core::device::{AccessSize, DevCx, Device, Requests};
use hv_core::irq::IrqLine;
use hv_core::mem::{DeviceRam, GuestMemory};
use hv_core::testing::{RecordingIrqs, VecMemory};
use hv_core::time::VmTime;
use std::sync::{Arc, Mutex};

/// The bus-master block.
pub(super) const BM: u16 = 0xc000;
/// Where the DMA buffer is.
const BUFFER: u64 = 0x1_0000;

/// Changes what a port reads.
type Tamper = Box<dyn FnMut(u16, u8) -> u8 + Send>;

pub(super) struct Inner {
    pub(super) ide: Ide,
    mem: Arc<VecMemory>,
    now: VmTime,
    /// Microseconds from one look at the clock to the next.
    pub(super) tick: u64,
    /// Port and value of every command.
    pub(super) commands: Vec<(u16, u8)>,
    /// Bytes that went through the data ports.
    pub(super) pio: usize,
    /// Accesses to ports.
    pub(super) accesses: usize,
    pub(super) tamper: Option<Tamper>,
    irqs: Arc<RecordingIrqs>,
}

/// The machine; its clones are the same.
#[derive(Clone)]
pub(super) struct Rig(pub(super) Arc<Mutex<Inner>>);

impl Rig {
    /// The drives of both channels.
    pub(super) fn new(drives: [Option<Drive>; 4]) -> Self {
        let irqs = RecordingIrqs::new();
        let line = |pin| IrqLine::new(irqs.clone(), pin);
        Self(Arc::new(Mutex::new(Inner {
            ide: Ide::new(line(14), line(15), drives),
            mem: Arc::new(VecMemory::new(1 << 20)),
            now: VmTime(0),
            tick: 1,
            commands: Vec::new(),
            pio: 0,
            accesses: 0,
            tamper: None,
            irqs,
        })))
    }

    pub(super) fn location(channel: u16, bus_master: bool) -> Location {
        let command = if channel == 0 { 0x1f0 } else { 0x170 };
        Location {
            command,
            control: command + 0x206,
            bus_master: bus_master.then_some(BM + 8 * channel),
        }
    }

    pub(super) fn probe(&self, channel: u16, bus_master: bool) -> Vec<Found<Rig>> {
        probe(self.clone(), Self::location(channel, bus_master))
    }

    /// The drive at `position`, opened.
    pub(super) fn open(
        &self,
        channel: u16,
        position: u8,
        dma: bool,
    ) -> Result<Box<dyn BlockBackend>, String> {
        let mut found = self.probe(channel, dma);
        found.retain(|f| f.position == position);
        found.remove(0).open(false, || Some(self.buffer()))
    }

    pub(super) fn buffer(&self) -> DmaBuffer {
        let ram = Window(self.0.lock().unwrap().mem.clone());
        DmaBuffer::new(Arc::new(ram), BUFFER).unwrap()
    }

    /// Changes what ports read. Drives that hang would take long: time goes faster.
    pub(super) fn tamper(&self, with: impl FnMut(u16, u8) -> u8 + Send + 'static) {
        let mut inner = self.0.lock().unwrap();
        inner.tamper = Some(Box::new(with));
        inner.tick = 1000;
    }

    /// The commands since the last call.
    pub(super) fn commands(&self) -> Vec<u8> {
        let mut inner = self.0.lock().unwrap();
        std::mem::take(&mut inner.commands)
            .into_iter()
            .map(|(_, c)| c)
            .collect()
    }

    pub(super) fn pio(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().pio)
    }

    pub(super) fn accesses(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().accesses)
    }

    pub(super) fn interrupted(&self) -> bool {
        !self.0.lock().unwrap().irqs.take().is_empty()
    }

    fn access<T>(&self, f: impl FnOnce(&mut Ide, &mut DevCx<'_>) -> T) -> T {
        let mut inner = self.0.lock().unwrap();
        let inner = &mut *inner;
        inner.now = inner.now + VmTime::from_micros(1);
        inner.accesses += 1;
        let mut requests = Requests::default();
        let mut cx = DevCx {
            now: inner.now,
            dma: &*inner.mem,
            requests: &mut requests,
        };
        inner.ide.poll(&mut cx);
        f(&mut inner.ide, &mut cx)
    }
}

impl Host for Rig {
    fn in8(&mut self, port: u16) -> u8 {
        let value = self.access(|ide, cx| ide.port_read(cx, port, AccessSize::Byte)) as u8;
        match &mut self.0.lock().unwrap().tamper {
            Some(tamper) => tamper(port, value),
            None => value,
        }
    }
    fn out8(&mut self, port: u16, value: u8) {
        if port == 0x1f7 || port == 0x177 {
            self.0.lock().unwrap().commands.push((port, value));
        }
        self.access(|ide, cx| ide.port_write(cx, port, AccessSize::Byte, value.into()));
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.access(|ide, cx| ide.port_write(cx, port, AccessSize::Dword, value));
    }
    fn in16s(&mut self, port: u16, buf: &mut [u8]) {
        assert!(buf.len().is_multiple_of(2));
        self.0.lock().unwrap().pio += buf.len();
        self.access(|ide, cx| ide.port_read_block(cx, port, AccessSize::Word, buf));
    }
    fn out16s(&mut self, port: u16, buf: &[u8]) {
        assert!(buf.len().is_multiple_of(2));
        self.0.lock().unwrap().pio += buf.len();
        self.access(|ide, cx| ide.port_write_block(cx, port, AccessSize::Word, buf));
    }
    fn now(&mut self) -> u64 {
        let mut inner = self.0.lock().unwrap();
        inner.now = inner.now + VmTime::from_micros(inner.tick);
        inner.now.0 / 1000
    }
}

/// The part of memory that is the DMA buffer.
struct Window(Arc<VecMemory>);

impl DeviceRam for Window {
    fn len(&self) -> usize {
        DmaBuffer::SIZE
    }
    fn read(&self, offset: usize, buf: &mut [u8]) {
        assert!(offset + buf.len() <= self.len());
        self.0.read(Gpa(BUFFER + offset as u64), buf).unwrap();
    }
    fn write(&self, offset: usize, buf: &[u8]) {
        assert!(offset + buf.len() <= self.len());
        self.0.write(Gpa(BUFFER + offset as u64), buf).unwrap();
    }
    fn fill(&self, _offset: usize, _len: usize, _byte: u8) {
        unreachable!("the driver does not");
    }
}

/// What a medium was asked for.
#[derive(Default)]
pub(super) struct Log {
    pub(super) written: Vec<(u64, Vec<u8>)>,
    pub(super) flushes: u32,
    /// Reads that are still to fail.
    pub(super) failures: u32,
}

/// A medium of any size: sector `n` holds `n`, over and over.
#[derive(Clone)]
pub(super) struct Medium {
    pub(super) sectors: u64,
    pub(super) log: Arc<Mutex<Log>>,
}

impl Medium {
    pub(super) fn new(sectors: u64) -> Self {
        Self {
            sectors,
            log: Arc::default(),
        }
    }

    /// What the sectors from `sector` on hold.
    pub(super) fn contents(sector: u64, len: usize) -> Vec<u8> {
        (0..len as u64)
            .map(|i| (sector + i / 512).to_le_bytes()[i as usize % 8])
            .collect()
    }

    pub(super) fn disk(&self) -> Option<Drive> {
        Some(Drive::disk(Box::new(self.clone())))
    }

    pub(super) fn cdrom(&self) -> Option<Drive> {
        Some(Drive::cdrom(Some(Box::new(self.clone()))))
    }
}

impl BlockBackend for Medium {
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut log = self.log.lock().unwrap();
        if log.failures != 0 {
            log.failures -= 1;
            return Err(BlockError);
        }
        buf.copy_from_slice(&Self::contents(sector, buf.len()));
        Ok(())
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.log
            .lock()
            .unwrap()
            .written
            .push((sector, buf.to_vec()));
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.log.lock().unwrap().flushes += 1;
        Ok(())
    }
}
