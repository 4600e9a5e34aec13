//! The registers of a virtio device that say how it is driven (VIRTIO 1.2 4.1.4.3, "Common configuration structure layout"), of which older
//! drivers see some at ports.

use super::queue::{LARGEST, Place};
use super::{CONFIG, Status};
use alloc::vec::Vec;
use hv_core::Gpa;

/// No vector.
pub const NO_VECTOR: u16 = 0xffff;
/// Older drivers give the page of a queue, whose used ring begins at a page, too (2.7.2, "Legacy Interfaces: A Note on Virtqueue Layout").
const PAGE: u64 = 0x1000;

// Offsets.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;

/// A queue as the driver has set it up.
#[derive(Clone, Copy)]
struct Setup {
    place: Place,
    vector: u16,
    enabled: bool,
    /// The page that an older driver has given, or 0.
    page: u32,
}

impl Setup {
    const RESET: Self = Self {
        place: Place {
            size: LARGEST,
            descriptors: Gpa(0),
            driver: Gpa(0),
            device: Gpa(0),
        },
        vector: NO_VECTOR,
        enabled: false,
        page: 0,
    };
}

/// What a write asks for besides being stored.
pub enum Common {
    /// Nothing.
    Done,
    /// The status is written.
    Status(u8),
    /// The selected queue is put into use.
    Enable(Place),
}

/// The registers.
pub struct Registers {
    pub status: Status,
    /// What the driver has written of the features that it agrees to.
    pub features: u64,
    pub config_vector: u16,
    /// Another one after each change of the device's configuration.
    pub generation: u8,
    /// The queue that the others are about.
    pub selected: u16,
    device_select: u32,
    driver_select: u32,
    queues: Vec<Setup>,
}

impl Registers {
    /// Those of a device of so many queues, after its reset.
    pub fn new(queues: usize) -> Self {
        Self {
            status: Status::empty(),
            features: 0,
            config_vector: NO_VECTOR,
            generation: 0,
            selected: 0,
            device_select: 0,
            driver_select: 0,
            queues: alloc::vec![Setup::RESET; queues],
        }
    }

    pub fn reset(&mut self) {
        let queues = core::mem::take(&mut self.queues);
        *self = Self {
            queues,
            ..Self::new(0)
        };
        self.queues.fill(Setup::RESET);
    }

    /// Whether the driver does without version 1.
    pub fn is_legacy(&self) -> bool {
        self.features & super::Features::VERSION_1.bits() == 0
    }

    /// Whether the driver drives the device. Older ones begin before they say so (3.1.2, "Legacy Interface: Device Initialization").
    pub fn ready(&self) -> bool {
        if self.is_legacy() {
            return self.status.contains(Status::DRIVER_OK)
                || self.queues.iter().any(|q| q.page != 0);
        }
        self.status
            .contains(Status::DRIVER_OK | Status::FEATURES_OK)
    }

    fn selected(&self) -> Option<&Setup> {
        self.queues.get(usize::from(self.selected))
    }

    fn selected_mut(&mut self) -> Option<&mut Setup> {
        self.queues.get_mut(usize::from(self.selected))
    }

    /// The vector of a queue.
    pub fn vector(&self, queue: usize) -> u16 {
        self.queues.get(queue).map_or(NO_VECTOR, |q| q.vector)
    }

    /// The driver chooses the vector for changes of the configuration, of so many: it reads back whether it has it.
    pub fn set_config_vector(&mut self, vector: u16, vectors: u16) {
        self.config_vector = if vector < vectors { vector } else { NO_VECTOR };
    }

    /// The driver chooses the vector of the selected queue.
    pub fn set_vector(&mut self, vector: u16, vectors: u16) {
        if let Some(q) = self.selected_mut() {
            q.vector = if vector < vectors { vector } else { NO_VECTOR };
        }
    }

    /// All registers as bytes.
    pub fn image(&self, offered: u64) -> [u8; CONFIG] {
        let mut image = [0; CONFIG];
        let mut put = |offset: u64, value: &[u8]| {
            let bytes = image.iter_mut().skip(offset as usize);
            bytes.zip(value).for_each(|(b, v)| *b = *v);
        };
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(DEVICE_FEATURE_SELECT, &self.device_select.to_le_bytes());
        put(4, &half(offered, self.device_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &self.driver_select.to_le_bytes());
        let agreed = half(self.features, self.driver_select);
        put(DRIVER_FEATURE, &agreed.to_le_bytes());
        put(CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(STATUS, &[self.status.bits(), self.generation]);
        put(QUEUE_SELECT, &self.selected.to_le_bytes());
        if let Some(q) = self.selected() {
            put(QUEUE_SIZE, &q.place.size.to_le_bytes());
            put(QUEUE_VECTOR, &q.vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(q.enabled).to_le_bytes());
            // All queues are notified at one place: offset 0.
            put(QUEUE_DESCRIPTORS, &q.place.descriptors.0.to_le_bytes());
            put(QUEUE_DRIVER, &q.place.driver.0.to_le_bytes());
            put(QUEUE_DEVICE, &q.place.device.0.to_le_bytes());
        }
        image
    }

    /// A write of `size` bytes at `offset`. Fields are written in their own width, and those of 64 bits in halves, too (4.1.3.1).
    pub fn write(&mut self, offset: u64, size: usize, value: u64, vectors: u16) -> Common {
        match (offset, size) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_select = value as u32,
            (DRIVER_FEATURE_SELECT, 4) => self.driver_select = value as u32,
            (DRIVER_FEATURE, 4) if !self.status.contains(Status::FEATURES_OK) => {
                match self.driver_select {
                    0 => self.features = self.features >> 32 << 32 | value & 0xffff_ffff,
                    1 => self.features = self.features & 0xffff_ffff | value << 32,
                    // There are no such features: nobody agrees to them.
                    _ => {}
                }
            }
            (CONFIG_VECTOR, 2) => self.set_config_vector(value as u16, vectors),
            (STATUS, 1) => return Common::Status(value as u8),
            (QUEUE_SELECT, 2) => self.selected = value as u16,
            (QUEUE_VECTOR, 2) => self.set_vector(value as u16, vectors),
            (QUEUE_ENABLE, 2) if value as u16 == 1 => {
                if let Some(q) = self.selected_mut().filter(|q| !q.enabled) {
                    q.enabled = true;
                    return Common::Enable(q.place);
                }
            }
            // A queue in use stays where it is (4.1.4.3.2).
            _ => {
                if let Some(q) = self.selected_mut().filter(|q| !q.enabled) {
                    place(&mut q.place, offset, size, value);
                }
            }
        }
        Common::Done
    }

    /// The features that an older driver agrees to.
    pub fn set_legacy_features(&mut self, features: u64) {
        if !self.status.contains(Status::FEATURES_OK) {
            self.features = features;
        }
    }

    /// The page of the selected queue, as an older driver has given it.
    pub fn legacy_page(&self) -> u32 {
        self.selected().map_or(0, |q| q.page)
    }

    /// The size of the selected queue, which an older driver cannot choose.
    pub fn legacy_size(&self) -> u16 {
        self.selected().map_or(0, |_| LARGEST)
    }

    /// An older driver gives the page of the selected queue, or takes it out of use (0): None.
    pub fn set_legacy_page(&mut self, page: u32) -> Option<Place> {
        let q = self.selected_mut()?;
        q.page = page;
        let descriptors = u64::from(page) * PAGE;
        let driver = descriptors + 16 * u64::from(LARGEST);
        // Flags, index, ring, event index.
        let end = driver + 4 + 2 * u64::from(LARGEST) + 2;
        q.place = Place {
            size: LARGEST,
            descriptors: Gpa(descriptors),
            driver: Gpa(driver),
            device: Gpa(end.next_multiple_of(PAGE)),
        };
        q.enabled = page != 0;
        q.enabled.then_some(q.place)
    }
}

/// A write to what says where a queue is.
fn place(place: &mut Place, offset: u64, size: usize, value: u64) {
    if (offset, size) == (QUEUE_SIZE, 2) {
        place.size = value as u16;
        return;
    }
    let field = match offset & !7 {
        QUEUE_DESCRIPTORS => &mut place.descriptors.0,
        QUEUE_DRIVER => &mut place.driver.0,
        QUEUE_DEVICE => &mut place.device.0,
        _ => return,
    };
    match (offset & 7, size) {
        (0, 8) => *field = value,
        (0, 4) => *field = *field >> 32 << 32 | value & 0xffff_ffff,
        (4, 4) => *field = *field & 0xffff_ffff | value << 32,
        _ => {}
    }
}
