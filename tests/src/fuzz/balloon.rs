//! A balloon whose driver does as it likes, and a host that takes what it may and brings what it has to, when it likes.

use crate::feed::Feed;
use device_model::virtio::DeviceType;
use device_model::virtio::balloon::{Balloon, CHUNK_PAGES, Device};
use device_model::virtio::queue::{Agreed, Place, Queue};
use hv_core::Gpa;
use hv_core::mem::GuestMemory;
use hv_core::testing::Bench;
use std::collections::BTreeSet;

const CHUNKS: usize = 6;
/// Where the rings are, and what the buffers hold.
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const NUMBERS: u64 = 0x3_0000;
const SIZE: u16 = 8;

struct Rig {
    device: Device,
    bench: Bench,
    queues: [Option<Queue>; 2],
    available: [u16; 2],
}

impl Rig {
    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.bench.mem.write(Gpa(at), bytes);
    }

    /// The driver begins anew, and waits for pages or not.
    fn start(&mut self, waits: bool) {
        self.device.reset(&self.bench.mem);
        self.device.agree(waits.into());
        for (n, at) in RINGS.into_iter().enumerate() {
            self.put(at, &[0; 0x4000]);
            let place = Place {
                size: SIZE,
                descriptors: Gpa(at),
                driver: Gpa(at + 0x1000),
                device: Gpa(at + 0x2000),
            };
            self.queues[n] = Some(Queue::new(place, Agreed::default()));
            self.available[n] = 0;
        }
    }

    /// A request of one or two buffers, mostly of pages that follow each other.
    fn request(&mut self, f: &mut Feed<'_>) {
        let (n, pages) = (usize::from(f.u8() & 1), CHUNKS as u32 * CHUNK_PAGES as u32);
        let first = match f.below(8) {
            0 => f.u64() as u32,
            chunk => u32::from(chunk as u8) * CHUNK_PAGES as u32,
        };
        let count = f.pick(&[CHUNK_PAGES as u32, CHUNK_PAGES as u32, 1, 3, pages]);
        let numbers: Vec<u8> = (0..count)
            .flat_map(|page| first.wrapping_add(page).to_le_bytes())
            .collect();
        self.put(NUMBERS, &numbers);
        let whole = 4 * count;
        let len = f.pick(&[whole, whole, whole, whole - 1, 0, 0x8_0000]);
        let flags = f.pick(&[0u16, 0, 0, 1, 2, 3, 4]);
        for (slot, flags) in [(0, flags), (1, f.pick(&[0u16, 1, 2]))] {
            let at = RINGS[n] + 16 * slot;
            self.put(at, &NUMBERS.to_le_bytes());
            self.put(at + 8, &u32::to_le_bytes(len));
            self.put(at + 12, &flags.to_le_bytes());
            self.put(at + 14, &1u16.to_le_bytes());
        }
        let entry = u64::from(self.available[n] % SIZE);
        self.put(RINGS[n] + 0x1004 + 2 * entry, &0u16.to_le_bytes());
        self.available[n] = self.available[n].wrapping_add(1);
        self.put(RINGS[n] + 0x1002, &self.available[n].to_le_bytes());
    }

    /// Whether the driver has kept the rules.
    fn run(&mut self) -> bool {
        for _ in 0..64 {
            match self.device.run(&mut self.bench.cx(), &mut self.queues) {
                Err(_) => return false,
                Ok(None) => return true,
                Ok(Some(_)) => {}
            }
        }
        true
    }
}

/// The balloon's queues, and the host behind it.
pub fn balloon(data: &[u8]) {
    let mut f = Feed::new(data);
    let balloon = Balloon::new(CHUNKS, |n| n != 3, |n| n != 0).expect("there is memory");
    let mut rig = Rig {
        device: Device::new(balloon.clone()),
        bench: Bench::new(),
        queues: [None, None],
        available: [0; 2],
    };
    let mut away = BTreeSet::new();
    rig.start(true);
    while !f.is_empty() {
        match f.below(12) {
            0..=5 => rig.request(&mut f),
            6 => rig.start(f.bool()),
            7 | 8 => {
                if let Some(chunk) = balloon.ripe(f.below(3) as usize) {
                    assert!(chunk != 0 && chunk != 3 && away.insert(chunk));
                    balloon.gone(chunk);
                }
            }
            9 => {
                if let Some(chunk) = balloon.wanted() {
                    assert!(away.remove(&chunk), "it was away");
                    balloon.back(chunk);
                }
            }
            10 => balloon.set_target(f.u64() as u32),
            _ => match f.bool() {
                true => balloon.power_on(),
                false => balloon.power_off(),
            },
        }
        if !rig.run() {
            rig.start(true);
        }
        let filling = balloon.filling();
        assert_eq!(filling.away, away.len() as u64);
        assert!(filling.inside <= 5 * CHUNK_PAGES);
    }
    balloon.power_on();
    while let Some(chunk) = balloon.wanted() {
        away.remove(&chunk);
        balloon.back(chunk);
    }
    assert!(away.is_empty(), "a machine that starts has all of its RAM");
}
