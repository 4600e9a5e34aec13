//! Virtio memory balloons (VIRTIO 1.2 5.5, "Traditional Memory Balloon Device"): a guest gives pages of its RAM to the host, and takes them again.
//!
//! What the driver says goes into a [`Balloon`], whose other side the host sees to. Pages that it gives are taken at its word. Pages that it takes again
//! it may use when its request has been answered (VIRTIO_BALLOON_F_MUST_TELL_HOST), which is when all of them are there: where the host has no
//! memory, that takes as long as it has none. From a driver that does not agree to wait nothing is taken away.
//!
//! Not there: statistics, inflating when the guest runs out of memory, free page hints and reports, page poison.

mod account;

pub use account::{Balloon, CHUNK, CHUNK_PAGES, Filling};

use super::queue::{Chain, Fault, Queue, chain};
use super::{CONFIG, DeviceType, Kind, Queues};
use bitflags::bitflags;
use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;
use hv_core::time::VmTime;

bitflags! {
    /// Features (5.5.3, "Feature bits").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Features: u64 {
        /// The driver tells before it uses pages again.
        const MUST_TELL_HOST = 1 << 0;
    }
}

/// The queues (5.5.2, "Virtqueues").
const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// Offsets in the configuration (5.5.4, "Device configuration layout"), which is little-endian for older drivers too.
const NUM_PAGES: usize = 0;
const ACTUAL: usize = 4;

/// Bytes of a page's number.
const NUMBER: usize = 4;
/// Page numbers that are read together.
const PART: usize = 256;
/// Page numbers that are seen to during one call at most; a chain counts as [`CHAIN`] more.
const BUDGET: usize = 4096;
const CHAIN: usize = 16;

/// What is being done in a queue.
#[derive(Default)]
struct Task {
    chain: Chain,
    /// How many bytes of it have been seen to.
    done: usize,
}

/// A balloon device.
pub struct Device {
    balloon: Balloon,
    /// How many pages the driver says that it has given.
    actual: [u8; 4],
    /// The target that the driver has been told of.
    told: u32,
    tasks: [Task; 2],
}

impl Device {
    /// The device of `balloon`.
    #[must_use]
    pub fn new(balloon: Balloon) -> Self {
        Self {
            balloon,
            actual: [0; 4],
            told: 0,
            tasks: Default::default(),
        }
    }

    /// Does what there is in one of the queues. True: there is more.
    fn serve(
        &mut self,
        memory: &dyn GuestMemory,
        queue: &mut Queue,
        index: usize,
    ) -> Result<bool, Fault> {
        let Some(task) = self.tasks.get_mut(index) else {
            return Ok(false);
        };
        let mut left = BUDGET;
        while left != 0 {
            if task.chain.is_empty() && !queue.pop_or_ask(memory, &mut task.chain)? {
                return Ok(false);
            }
            let mut bytes = [0; PART * NUMBER];
            let readable = task.chain.readable();
            let n = chain::read(memory, readable, task.done, &mut bytes)?;
            let (numbers, _) = bytes.get(..n).unwrap_or_default().as_chunks();
            let frames = numbers.iter().map(|number| u32::from_le_bytes(*number));
            self.balloon.put(frames, index == INFLATE);
            task.done += n;
            left = left.saturating_sub(n / NUMBER);
            if n == bytes.len() {
                continue;
            }
            // The host says when they are there, and has the device polled.
            if index == DEFLATE && self.balloon.filling().wanted != 0 {
                return Ok(false);
            }
            queue.push(memory, &task.chain, 0)?;
            task.chain.clear();
            task.done = 0;
            left = left.saturating_sub(CHAIN);
        }
        Ok(true)
    }
}

impl DeviceType for Device {
    fn kind(&self) -> Kind {
        Kind {
            name: "virtio-balloon",
            id: 5,
            pci_device: 0x1002,
            // No class of its own: what QEMU's has.
            class: 0x00_ff00,
        }
    }

    fn features(&self) -> u64 {
        Features::MUST_TELL_HOST.bits()
    }

    fn queues(&self) -> usize {
        2
    }

    fn config(&self) -> [u8; CONFIG] {
        let mut config = [0; CONFIG];
        let target = self.balloon.filling().target.to_le_bytes();
        for (at, value) in [(NUM_PAGES, target), (ACTUAL, self.actual)] {
            let bytes = config.iter_mut().skip(at);
            bytes.zip(value).for_each(|(b, v)| *b = v);
        }
        config
    }

    fn write_config(&mut self, offset: usize, value: u8) {
        let byte = offset.checked_sub(ACTUAL);
        if let Some(byte) = byte.and_then(|at| self.actual.get_mut(at)) {
            *byte = value;
        }
    }

    fn config_changed(&mut self) -> bool {
        let target = self.balloon.filling().target;
        core::mem::replace(&mut self.told, target) != target
    }

    fn agree(&mut self, features: u64) {
        let agreed = Features::from_bits_truncate(features);
        self.balloon
            .agree(agreed.contains(Features::MUST_TELL_HOST));
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let mut more = false;
        for index in [INFLATE, DEFLATE] {
            if let Some(Some(queue)) = queues.get_mut(index) {
                more |= self.serve(cx.dma, queue, index)?;
            }
        }
        Ok(more.then_some(cx.now))
    }

    fn reset(&mut self, _memory: &dyn GuestMemory) {
        for task in &mut self.tasks {
            task.chain.clear();
            task.done = 0;
        }
        (self.actual, self.told) = ([0; 4], 0);
        self.balloon.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::queue::Agreed;
    use crate::virtio::testing::Driver;
    use alloc::vec::Vec;
    use hv_core::Gpa;
    use hv_core::testing::Bench;

    const NUMBERS: u64 = 0x1_0000;

    struct Rig {
        device: Device,
        balloon: Balloon,
        bench: Bench,
        drivers: [Driver; 2],
        queues: [Option<Queue>; 2],
    }

    impl Rig {
        fn new() -> Self {
            let bench = Bench::new();
            let balloon = Balloon::new(64, |_| true, |n| n != 0).unwrap();
            let mut device = Device::new(balloon.clone());
            device.agree(Features::all().bits());
            let drivers =
                [0x8_0000, 0xa_0000].map(|at| Driver::new(&bench.mem, at, 16, Agreed::default()));
            let queues = [0, 1].map(|n| Some(Queue::new(drivers[n].place, Agreed::default())));
            Self {
                device,
                balloon,
                bench,
                drivers,
                queues,
            }
        }

        /// The driver says these pages in one request.
        fn say(&mut self, queue: usize, pages: core::ops::Range<u32>) {
            let bytes: Vec<u8> = pages.flat_map(u32::to_le_bytes).collect();
            self.bench.mem.write(Gpa(NUMBERS), &bytes).unwrap();
            self.drivers[queue].add(&[(NUMBERS, bytes.len() as u32, false)], false);
        }

        fn run(&mut self) -> Option<VmTime> {
            let run = self.device.run(&mut self.bench.cx(), &mut self.queues);
            run.unwrap()
        }

        fn answered(&mut self, queue: usize) -> usize {
            core::iter::from_fn(|| self.drivers[queue].take()).count()
        }
    }

    #[test]
    fn pages_are_given_at_once_and_taken_again_when_they_are_there() {
        let mut rig = Rig::new();
        rig.say(INFLATE, 512..1024);
        assert_eq!((rig.run(), rig.answered(INFLATE)), (None, 1));
        rig.balloon.gone(1);
        rig.say(DEFLATE, 512..514);
        assert_eq!((rig.run(), rig.answered(DEFLATE)), (None, 0), "it waits");
        // Others may give pages meanwhile.
        rig.say(INFLATE, 2048..2049);
        assert_eq!((rig.run(), rig.answered(INFLATE)), (None, 1));
        rig.balloon.back(1);
        assert_eq!((rig.run(), rig.answered(DEFLATE)), (None, 1));
        assert_eq!(rig.balloon.filling().inside, 511);
        rig.say(DEFLATE, 514..600);
        assert_eq!((rig.run(), rig.answered(DEFLATE)), (None, 1), "it is there");
    }

    #[test]
    fn a_request_of_a_hundred_thousand_pages_is_served_in_parts() {
        let mut rig = Rig::new();
        rig.bench.mem.write(Gpa(NUMBERS), &[0xff; 0x8000]).unwrap();
        rig.drivers[INFLATE].add(&[(NUMBERS, 0x8000, false); 16], false);
        let mut calls = 1;
        while rig.run().is_some() {
            calls += 1;
        }
        let pages = 16 * 0x8000 / NUMBER;
        assert_eq!((rig.answered(INFLATE), calls), (1, pages / BUDGET + 1));
        assert_eq!(rig.balloon.filling(), Filling::default(), "none is RAM");
    }

    #[test]
    fn requests_without_a_page_are_answered_and_bounded() {
        let mut rig = Rig::new();
        for n in 0..16 {
            rig.drivers[DEFLATE].add(&[(NUMBERS, n % 4, n % 2 == 0)], false);
        }
        assert_eq!((rig.run(), rig.answered(DEFLATE)), (None, 16));
        assert_eq!(rig.balloon.filling(), Filling::default());
    }

    #[test]
    fn the_driver_is_told_of_a_target_once_and_says_how_far_it_is() {
        let mut rig = Rig::new();
        assert!(!rig.device.config_changed());
        rig.balloon.set_target(0x1234);
        assert!(rig.device.config_changed());
        assert!(!rig.device.config_changed());
        assert_eq!(rig.device.config()[..4], 0x1234u32.to_le_bytes());
        for (at, byte) in [(0, 9), (4, 0x56), (7, 0x78), (8, 9)] {
            rig.device.write_config(at, byte);
        }
        let config = rig.device.config();
        assert_eq!(config[..9], [0x34, 0x12, 0, 0, 0x56, 0, 0, 0x78, 0]);
    }

    #[test]
    fn a_reset_gives_everything_back_and_forgets_a_request_that_waits() {
        let mut rig = Rig::new();
        rig.say(INFLATE, 512..1536);
        rig.run();
        rig.balloon.gone(1);
        rig.balloon.gone(2);
        rig.say(DEFLATE, 512..513);
        rig.run();
        rig.device.reset(&rig.bench.mem);
        assert!(rig.device.tasks.iter().all(|task| task.chain.is_empty()));
        assert_eq!(rig.balloon.filling().wanted, 2);
        assert_eq!(rig.balloon.filling().inside, 0);
    }
}
