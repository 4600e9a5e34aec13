//! Drives that answer anything.

use crate::{DmaBuffer, Host, Location, probe};
use hv_core::testing::{Random, VecDeviceRam};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A machine whose ports read random values, mostly such as keep the driver going.
struct Noise {
    random: Random,
    now: u64,
    accesses: Arc<AtomicU64>,
}

impl Noise {
    fn count(&mut self) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.now += 20_000;
    }
}

impl Host for Noise {
    fn in8(&mut self, port: u16) -> u8 {
        self.count();
        let r = &mut self.random;
        match port & 7 {
            7 if !r.one_in(8) => r.pick(&[0x50, 0x58, 0x58, 0x50, 0xd0, 0x51, 0x08, 0x00]),
            2 if !r.one_in(8) => r.pick(&[0x55, 0x55, 0x01, 0x02, 0x03, 0x00]),
            3 if !r.one_in(8) => 0xaa,
            4 | 5 if !r.one_in(4) => r.pick(&[0, 0x14, 0xeb, 8, 1]),
            _ => r.next() as u8,
        }
    }
    fn out8(&mut self, _port: u16, _value: u8) {
        self.count();
    }
    fn out32(&mut self, _port: u16, _value: u32) {
        self.count();
    }
    fn in16s(&mut self, _port: u16, buf: &mut [u8]) {
        self.count();
        self.random.fill(buf);
        if buf.len() == 512 && !self.random.one_in(4) {
            // Mostly a drive: LBA, DMA, no checksum.
            buf[0] = 0xc0;
            buf[1] = self.random.pick(&[0, 0x85]);
            buf[99] |= 3;
            buf[510] = 0;
        }
    }
    fn out16s(&mut self, _port: u16, _buf: &[u8]) {
        self.count();
    }
    fn now(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

#[test]
fn whatever_drives_answer_the_driver_comes_to_an_end() {
    let mut seeds = Random::from_env("UMBRA_SEED", 0x2019);
    let (mut found, mut opened) = (0, 0);
    for _ in 0..2_000 {
        let accesses = Arc::new(AtomicU64::new(0));
        let noise = Noise {
            random: Random::new(seeds.next()),
            now: 0,
            accesses: accesses.clone(),
        };
        let at = Location {
            command: 0x1f0,
            control: 0x3f6,
            bus_master: Some(0xc000),
        };
        for drive in probe(noise, at) {
            found += 1;
            let ram = Arc::new(VecDeviceRam::new(DmaBuffer::SIZE));
            let buffer = || DmaBuffer::new(ram.clone(), 0x10_0000);
            if let Ok(mut drive) = drive.open(false, buffer) {
                opened += 1;
                let sectors = drive.sectors();
                let mut buf = [0; 16 * 512];
                for _ in 0..3 {
                    let sector = seeds.below(sectors.max(1));
                    let n = (sectors - sector.min(sectors)).min(16) as usize;
                    let _ = drive.read(sector, &mut buf[..n * 512]);
                    let _ = drive.write(sector, &buf[..n * 512]);
                    let _ = drive.flush();
                }
            }
        }
        assert!(accesses.load(Ordering::Relaxed) < 2_000_000);
    }
    assert!(found > 50 && opened > 10, "{found} found, {opened} opened");
}
