//! The tablet's descriptors (USB 2.0 9.6, "Standard USB Descriptor Definitions"; *Device Class Definition for Human Interface Devices (HID)*,
//! version 1.11, 6.2, "Report Descriptors", and appendix E).
//!
//! Vendor and product are those of QEMU's tablet: systems know by them that it can be suspended while nothing moves, which stops the host
//! controller (systemd's `60-autosuspend.hwdb`).

use crate::usb::control::Bytes;

/// Types of descriptors.
mod kind {
    pub const DEVICE: u8 = 1;
    pub const CONFIGURATION: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INTERFACE: u8 = 4;
    pub const ENDPOINT: u8 = 5;
    pub const HID: u8 = 0x21;
    pub const REPORT: u8 = 0x22;
}

/// Packets of the control pipe.
pub(super) const MAX_PACKET_0: u8 = 8;
/// The interrupt endpoint, to the host.
pub(super) const ENDPOINT: u8 = 0x81;
/// Bytes of a report.
pub(super) const REPORT_LEN: usize = 6;
/// Milliseconds between two questions whether there is a report.
const INTERVAL: u8 = 4;

const MANUFACTURER: u8 = 1;
const PRODUCT: u8 = 2;
const STRINGS: [&str; 2] = ["Umbra", "USB tablet"];
const ENGLISH: u16 = 0x0409;

const DEVICE: [u8; 18] = [
    18,
    kind::DEVICE,
    0x10, // USB 1.1
    0x01,
    0, // class: the interface has it
    0,
    0,
    MAX_PACKET_0,
    0x27, // vendor
    0x06,
    0x01, // product
    0x00,
    0x00, // release
    0x01,
    MANUFACTURER,
    PRODUCT,
    0, // no serial number
    1, // configuration
];

/// HID 1.11 5.2, "Report Descriptors": three buttons; X and Y from 0 to 7FFFh; a wheel. Items are named as in 6.2.2.
#[rustfmt::skip]
pub(super) const REPORT: [u8; 66] = [
    0x05, 0x01, // Usage Page (Generic Desktop)
    0x09, 0x02, // Usage (Mouse)
    0xa1, 0x01, // Collection (Application)
    0x09, 0x01, //   Usage (Pointer)
    0xa1, 0x00, //   Collection (Physical)
    0x05, 0x09, //     Usage Page (Button)
    0x19, 0x01, //     Usage Minimum (1)
    0x29, 0x03, //     Usage Maximum (3)
    0x15, 0x00, //     Logical Minimum (0)
    0x25, 0x01, //     Logical Maximum (1)
    0x95, 0x03, //     Report Count (3)
    0x75, 0x01, //     Report Size (1)
    0x81, 0x02, //     Input (Data, Variable, Absolute)
    0x95, 0x01, //     Report Count (1)
    0x75, 0x05, //     Report Size (5)
    0x81, 0x01, //     Input (Constant)
    0x05, 0x01, //     Usage Page (Generic Desktop)
    0x09, 0x30, //     Usage (X)
    0x09, 0x31, //     Usage (Y)
    0x26, 0xff, 0x7f, // Logical Maximum (7FFFh)
    0x46, 0xff, 0x7f, // Physical Maximum (7FFFh)
    0x75, 0x10, //     Report Size (16)
    0x95, 0x02, //     Report Count (2)
    0x81, 0x02, //     Input (Data, Variable, Absolute)
    0x09, 0x38, //     Usage (Wheel)
    0x15, 0x81, //     Logical Minimum (-127)
    0x25, 0x7f, //     Logical Maximum (127)
    0x45, 0x00, //     Physical Maximum (0: as the logical one)
    0x75, 0x08, //     Report Size (8)
    0x95, 0x01, //     Report Count (1)
    0x81, 0x06, //     Input (Data, Variable, Relative)
    0xc0, //         End Collection
    0xc0, //       End Collection
];

const HID: [u8; 9] = [
    9,
    kind::HID,
    0x11, // HID 1.11
    0x01,
    0, // no country
    1, // one descriptor more
    kind::REPORT,
    REPORT.len() as u8,
    0,
];

/// One configuration: powered by the bus, and able to wake the host.
const CONFIGURATION: [u8; 9] = [
    9,
    kind::CONFIGURATION,
    (9 + INTERFACE.len() + HID.len() + INTERRUPT.len()) as u8,
    0,
    1, // interface
    1, // its number
    0,
    0xa0,
    50, // 100 mA
];

/// One interface, of the class HID: neither a keyboard nor a mouse that a BIOS knows.
const INTERFACE: [u8; 9] = [9, kind::INTERFACE, 0, 0, 1, 3, 0, 0, 0];

const INTERRUPT: [u8; 7] = [
    7,
    kind::ENDPOINT,
    ENDPOINT,
    3, // interrupt
    8, // packets
    0,
    INTERVAL,
];

/// The descriptor of the device that wValue of a request names, if there is one.
pub(super) fn of_device(value: u16) -> Option<Bytes> {
    let [index, kind] = value.to_le_bytes();
    match (kind, index) {
        (kind::DEVICE, 0) => Some(Bytes::of(&DEVICE)),
        (kind::CONFIGURATION, 0) => {
            let parts: [&[u8]; 4] = [&CONFIGURATION, &INTERFACE, &HID, &INTERRUPT];
            Some(parts.into_iter().flatten().copied().collect())
        }
        (kind::STRING, 0) => {
            let [low, high] = ENGLISH.to_le_bytes();
            Some(Bytes::of(&[4, kind::STRING, low, high]))
        }
        (kind::STRING, index) => {
            let text = STRINGS.get(usize::from(index) - 1)?;
            let len = 2 + 2 * text.len();
            let units = text.encode_utf16().flat_map(u16::to_le_bytes);
            let head = [len as u8, kind::STRING];
            Some(head.into_iter().chain(units).collect())
        }
        _ => None,
    }
}

/// The descriptor of the interface, likewise (HID 1.11 7.1, "Standard Requests").
pub(super) fn of_interface(value: u16) -> Option<Bytes> {
    match value.to_le_bytes() {
        [0, kind::HID] => Some(Bytes::of(&HID)),
        [0, kind::REPORT] => Some(Bytes::of(&REPORT)),
        _ => None,
    }
}
