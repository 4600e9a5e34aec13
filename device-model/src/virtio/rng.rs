//! Virtio entropy devices (VIRTIO 1.2 5.4, "Entropy Device") on an [`EntropyBackend`].
//!
//! A buffer gets `MOST` bytes at most, however long it is (5.4.6.2, "Device Requirements: Device Operation": "it MAY use less than the
//! entire buffer length"). A buffer for which the host has nothing waits, and is looked at again after `AGAIN`.

use super::queue::{Chain, Fault, chain};
use super::{DeviceType, Kind, Queues};
use alloc::boxed::Box;
use hv_core::backend::EntropyBackend;
use hv_core::device::DevCx;
use hv_core::mem::GuestMemory;
use hv_core::time::VmTime;

/// Bytes that a buffer gets at most.
const MOST: usize = 256;
/// Buffers that are filled during one call at most.
const BURST: usize = 16;
/// When the host is asked again that has had nothing.
const AGAIN: VmTime = VmTime::from_millis(1);

/// An entropy device.
pub struct Rng {
    source: Box<dyn EntropyBackend>,
    /// A chain to be filled.
    vacant: Chain,
}

impl Rng {
    /// One that gives what `source` does.
    #[must_use]
    pub fn new(source: Box<dyn EntropyBackend>) -> Self {
        Self {
            source,
            vacant: Chain::default(),
        }
    }
}

impl DeviceType for Rng {
    fn kind(&self) -> Kind {
        Kind {
            name: "virtio-rng",
            id: 4,
            pci_device: 0x1005,
            // No class of its own: what QEMU's has.
            class: 0x00_ff00,
        }
    }

    fn queues(&self) -> usize {
        1
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        let Some(Some(queue)) = queues.first_mut() else {
            return Ok(None);
        };
        for _ in 0..BURST {
            if self.vacant.is_empty() && !queue.pop_or_ask(cx.dma, &mut self.vacant)? {
                return Ok(None);
            }
            let mut bytes = [0; MOST];
            let wanted = chain::len(self.vacant.writable()).min(MOST);
            let wanted = bytes.get_mut(..wanted).filter(|b| !b.is_empty());
            // The device has to write at least one byte.
            let got = self.source.fill(wanted.ok_or(Fault::Request)?);
            if got == 0 {
                return Ok(Some(cx.now + AGAIN));
            }
            let got = bytes.get(..got).unwrap_or_default();
            let written = chain::write(cx.dma, self.vacant.writable(), 0, got)?;
            queue.push(cx.dma, &self.vacant, written as u32)?;
            self.vacant.clear();
        }
        Ok(Some(cx.now))
    }

    fn reset(&mut self, _memory: &dyn GuestMemory) {
        self.vacant.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::queue::{Agreed, Queue};
    use crate::virtio::testing::Driver;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use hv_core::Gpa;
    use hv_core::testing::Bench;

    /// So many bytes, then nothing.
    #[derive(Clone, Default)]
    struct Source(Arc<AtomicUsize>);

    impl EntropyBackend for Source {
        fn fill(&mut self, buf: &mut [u8]) -> usize {
            let n = buf.len().min(self.0.load(Ordering::Relaxed));
            self.0.fetch_sub(n, Ordering::Relaxed);
            buf[..n].fill(0xa5);
            n
        }
    }

    const BUFFERS: u64 = 0x1_0000;

    struct Rig {
        rng: Rng,
        source: Source,
        bench: Bench,
        driver: Driver,
        queues: [Option<Queue>; 1],
    }

    impl Rig {
        fn new(has: usize) -> Self {
            let (bench, source) = (Bench::new(), Source::default());
            source.0.store(has, Ordering::Relaxed);
            let driver = Driver::new(&bench.mem, 0x8_0000, 64, Agreed::default());
            Self {
                rng: Rng::new(Box::new(source.clone())),
                source,
                queues: [Some(Queue::new(driver.place, Agreed::default()))],
                driver,
                bench,
            }
        }

        fn run(&mut self) -> Result<Option<VmTime>, Fault> {
            self.rng.run(&mut self.bench.cx(), &mut self.queues)
        }
    }

    #[test]
    fn buffers_get_what_the_host_has_and_at_most_256_bytes_each() {
        let mut rig = Rig::new(400);
        for n in 0..3 {
            rig.driver.add(&[(BUFFERS + n * 0x1000, 2000, true)], false);
        }
        assert_eq!(rig.run(), Ok(Some(AGAIN)), "the third waits");
        let over = core::iter::from_fn(|| rig.driver.take().map(|(_, len)| len));
        assert_eq!(over.collect::<Vec<_>>(), [256, 144]);
        let mut bytes = [0; 145];
        rig.bench
            .mem
            .read(Gpa(BUFFERS + 0x1000), &mut bytes)
            .unwrap();
        assert!(bytes[..144] == [0xa5; 144] && bytes[144] == 0);
        rig.source.0.store(7, Ordering::Relaxed);
        assert_eq!(rig.run(), Ok(None));
        assert_eq!(rig.driver.take().map(|(_, len)| len), Some(7));
        assert!(rig.driver.must_kick());
    }

    #[test]
    fn a_driver_that_asks_without_end_is_served_in_parts() {
        let mut rig = Rig::new(usize::MAX);
        for n in 0..20 {
            rig.driver.add(&[(BUFFERS + n * 0x100, 64, true)], false);
        }
        assert_eq!(rig.run(), Ok(Some(VmTime(0))));
        assert_eq!(core::iter::from_fn(|| rig.driver.take()).count(), BURST);
    }

    #[test]
    fn a_buffer_without_room_is_the_guests_fault() {
        let mut rig = Rig::new(10);
        rig.driver.add(&[(BUFFERS, 64, false)], false);
        assert_eq!(rig.run(), Err(Fault::Request));
    }
}
