//! The queue of a host's disk, as large as it is useful and the disk has it: a request of 1 MiB in single pages fills a large one.

use super::QUEUE;
use crate::virtio::{HostHal, HostTransport};
use alloc::boxed::Box;
use virtio_drivers::Result;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Descriptors of a large queue and of a small one.
pub const LARGE: usize = 256;
const SMALL: usize = 128;

/// What is done with a queue, whatever its size.
pub trait Queue: Send {
    /// Its descriptors.
    fn size(&self) -> usize;

    /// Gives the device buffers that it reads and buffers that it writes. Returns the token of the request.
    ///
    /// # Safety
    /// The buffers stay where they are, and nobody accesses them otherwise than the device may stand, until [`pop`](Self::pop).
    unsafe fn add<'a>(
        &mut self,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
    ) -> Result<u16>;

    /// Takes back the request of `token`, which is over.
    ///
    /// # Safety
    /// The buffers are those that it was begun with.
    unsafe fn pop<'a>(
        &mut self,
        token: u16,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
    ) -> Result<u32>;

    /// Does a request and waits for it. There is no other.
    fn wait<'a>(
        &mut self,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
        transport: &mut HostTransport,
    ) -> Result<u32>;

    /// The token of the next request that is over.
    fn peek(&self) -> Option<u16>;

    /// Whether the device is to be told of a new request.
    fn should_notify(&self) -> bool;

    /// Whether the device is to interrupt.
    fn set_interrupts(&mut self, yes: bool);

    /// Descriptors that are free.
    fn free(&self) -> usize;
}

impl<const SIZE: usize> Queue for VirtQueue<HostHal, SIZE> {
    fn size(&self) -> usize {
        SIZE
    }
    unsafe fn add<'a>(
        &mut self,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
    ) -> Result<u16> {
        // SAFETY: the caller promises the same.
        unsafe { VirtQueue::add(self, read, written) }
    }
    unsafe fn pop<'a>(
        &mut self,
        token: u16,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
    ) -> Result<u32> {
        // SAFETY: the caller promises the same.
        unsafe { self.pop_used(token, read, written) }
    }
    fn wait<'a>(
        &mut self,
        read: &'a [&'a [u8]],
        written: &'a mut [&'a mut [u8]],
        transport: &mut HostTransport,
    ) -> Result<u32> {
        self.add_notify_wait_pop(read, written, transport)
    }
    fn peek(&self) -> Option<u16> {
        self.peek_used()
    }
    fn should_notify(&self) -> bool {
        VirtQueue::should_notify(self)
    }
    fn set_interrupts(&mut self, yes: bool) {
        self.set_dev_notify(yes);
    }
    fn free(&self) -> usize {
        self.available_desc()
    }
}

/// The queue of the disk behind `transport`.
pub fn open(transport: &mut HostTransport) -> Result<Box<dyn Queue>> {
    if transport.max_queue_size(QUEUE) >= LARGE as u32 {
        let queue = VirtQueue::<HostHal, LARGE>::new(transport, QUEUE, false, false)?;
        return Ok(Box::new(queue));
    }
    let queue = VirtQueue::<HostHal, SMALL>::new(transport, QUEUE, false, false)?;
    Ok(Box::new(queue))
}
