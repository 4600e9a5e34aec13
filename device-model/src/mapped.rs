//! Memory of a device in the guest's address space.

use alloc::sync::Arc;
use hv_core::Hpa;
use hv_core::mem::DeviceRam;

/// A device's memory that can be mapped into the guest.
pub struct Mapped {
    /// As the device sees it.
    pub ram: Arc<dyn DeviceRam>,
    /// Where it is.
    pub hpa: Hpa,
}
