//! A tablet: a pointing device whose position on the screen is absolute (*Device Class Definition for Human Interface Devices (HID)*,
//! version 1.11), so that a guest's pointer is where the hand is.
//!
//! It has X and Y from 0 to 7FFFh, three buttons and a wheel, and one interrupt endpoint. A report is sent when something has changed, and
//! again when the idle rate says so (7.2.4, "Set_Idle Request"); a suspended host is woken by it if it has allowed that.
//!
//! Not implemented: the boot protocol, output and feature reports. A BIOS takes it for nothing that it knows.
//!
//! Invariant: what waits is bounded, whether the guest fetches it or not.

mod descriptors;
mod reports;
#[cfg(test)]
mod tests;

pub use reports::{MAX, Point};

use super::control::{Bytes, ControlPipe, Reply, Setup};
use super::{Answer, MAX_PACKET, UsbDevice};
use descriptors::{ENDPOINT, MAX_PACKET_0};
use hv_core::VmTime;
use reports::Reports;

/// bmRequestType of the requests that there are: direction, type (standard or class) and recipient.
mod kind {
    pub const TO_DEVICE: u8 = 0x00;
    pub const TO_INTERFACE: u8 = 0x01;
    pub const TO_ENDPOINT: u8 = 0x02;
    pub const FROM_DEVICE: u8 = 0x80;
    pub const FROM_INTERFACE: u8 = 0x81;
    pub const FROM_ENDPOINT: u8 = 0x82;
    pub const CLASS_TO_INTERFACE: u8 = 0x21;
    pub const CLASS_FROM_INTERFACE: u8 = 0xa1;
}

/// Standard requests (USB 2.0 9.4, "Standard Device Requests").
mod standard {
    pub const GET_STATUS: u8 = 0;
    pub const CLEAR_FEATURE: u8 = 1;
    pub const SET_FEATURE: u8 = 3;
    pub const SET_ADDRESS: u8 = 5;
    pub const GET_DESCRIPTOR: u8 = 6;
    pub const GET_CONFIGURATION: u8 = 8;
    pub const SET_CONFIGURATION: u8 = 9;
    pub const GET_INTERFACE: u8 = 10;
    pub const SET_INTERFACE: u8 = 11;
}

/// Requests of the class (HID 1.11 7.2, "Class-Specific Requests").
mod hid {
    pub const GET_REPORT: u8 = 1;
    pub const GET_IDLE: u8 = 2;
    pub const SET_IDLE: u8 = 0x0a;
}

/// Features.
const ENDPOINT_HALT: u16 = 0;
const REMOTE_WAKEUP: u16 = 1;
/// GET_STATUS of a device: it may wake the host.
const STATUS_REMOTE_WAKEUP: u8 = 1 << 1;
/// GET_REPORT: an input report, of the only kind.
const INPUT_REPORT: u16 = 0x0100;
/// The unit of the idle rate.
const IDLE_UNIT: VmTime = VmTime::from_millis(4);
/// A guest that has not asked for so long does not use the tablet.
const USED: VmTime = VmTime::from_millis(1_000);

/// What a bus reset clears.
struct State {
    pipe: ControlPipe,
    configuration: u8,
    remote_wakeup: bool,
    /// The interrupt endpoint is halted.
    halted: bool,
    /// In units of 4 ms; 0: only what is new is sent.
    idle: u8,
    /// When the last report was sent.
    sent: VmTime,
    /// When the guest has asked for a report last.
    asked: Option<VmTime>,
}

impl State {
    fn new() -> Self {
        Self {
            pipe: ControlPipe::new(MAX_PACKET_0.into()),
            configuration: 0,
            remote_wakeup: false,
            halted: false,
            idle: 0,
            sent: VmTime(0),
            asked: None,
        }
    }
}

/// The tablet.
pub struct Tablet {
    state: State,
    reports: Reports,
    /// Something has come that the host controller has not been told of.
    news: bool,
}

impl Tablet {
    /// A tablet that has just been plugged in.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::new(),
            reports: Reports::new(),
            news: false,
        }
    }

    /// The pointer has come to a point.
    pub fn point(&mut self, point: Point) {
        self.reports.push(point);
        self.news = true;
    }

    /// Whether the guest listens at time `now`: it asks for reports again and again, or has gone to sleep and wants to be woken.
    #[must_use]
    pub fn in_use(&self, now: VmTime) -> bool {
        let asked = self.state.asked;
        self.state.configuration != 0
            && (asked.is_some_and(|asked| now < asked + USED) || self.state.remote_wakeup)
    }

    /// When the report has to be repeated.
    fn repeat(&self) -> VmTime {
        match self.state.idle {
            0 => VmTime::NEVER,
            idle => self.state.sent + VmTime(IDLE_UNIT.0 * u64::from(idle)),
        }
    }

    fn reply(&mut self, setup: Setup) -> Reply {
        let state = &mut self.state;
        let Setup {
            value,
            index,
            length,
            ..
        } = setup;
        let is_configured = state.configuration != 0;
        let byte = |byte| Some(Bytes::of(&[byte]));
        let status = |low| Some(Bytes::of(&[low, 0]));
        let endpoint = index == u16::from(ENDPOINT) && is_configured;
        match (setup.kind, setup.request) {
            (kind::FROM_DEVICE, standard::GET_STATUS) => status(if state.remote_wakeup {
                STATUS_REMOTE_WAKEUP
            } else {
                0
            }),
            (kind::FROM_INTERFACE, standard::GET_STATUS) if is_configured && index == 0 => {
                status(0)
            }
            (kind::FROM_ENDPOINT, standard::GET_STATUS) => match index {
                0 | 0x80 => status(0),
                _ if endpoint => status(state.halted.into()),
                _ => None,
            },
            (kind::TO_DEVICE, feature @ (standard::SET_FEATURE | standard::CLEAR_FEATURE))
                if value == REMOTE_WAKEUP =>
            {
                state.remote_wakeup = feature == standard::SET_FEATURE;
                Some(Bytes::NONE)
            }
            (kind::TO_ENDPOINT, feature @ (standard::SET_FEATURE | standard::CLEAR_FEATURE))
                if value == ENDPOINT_HALT && endpoint =>
            {
                state.halted = feature == standard::SET_FEATURE;
                Some(Bytes::NONE)
            }
            (kind::TO_DEVICE, standard::SET_ADDRESS) if value < 128 && length == 0 => {
                state.pipe.set_address(value as u8);
                Some(Bytes::NONE)
            }
            (kind::FROM_DEVICE, standard::GET_DESCRIPTOR) => descriptors::of_device(value),
            (kind::FROM_INTERFACE, standard::GET_DESCRIPTOR) if index == 0 => {
                descriptors::of_interface(value)
            }
            (kind::FROM_DEVICE, standard::GET_CONFIGURATION) => byte(state.configuration),
            (kind::TO_DEVICE, standard::SET_CONFIGURATION) if value < 2 => {
                state.configuration = value as u8;
                state.halted = false;
                state.asked = None;
                Some(Bytes::NONE)
            }
            (kind::FROM_INTERFACE, standard::GET_INTERFACE) if is_configured && index == 0 => {
                byte(0)
            }
            (kind::TO_INTERFACE, standard::SET_INTERFACE)
                if is_configured && (value, index) == (0, 0) =>
            {
                state.halted = false;
                Some(Bytes::NONE)
            }
            (kind::CLASS_FROM_INTERFACE, hid::GET_REPORT)
                if (value, index) == (INPUT_REPORT, 0) =>
            {
                Some(Bytes::of(&self.reports.again()))
            }
            (kind::CLASS_FROM_INTERFACE, hid::GET_IDLE) if (value, index) == (0, 0) => {
                byte(state.idle)
            }
            (kind::CLASS_TO_INTERFACE, hid::SET_IDLE) if value & 0xff == 0 && index == 0 => {
                state.idle = (value >> 8) as u8;
                Some(Bytes::NONE)
            }
            _ => None,
        }
    }

    /// The interrupt endpoint is asked for a report.
    fn report(&mut self, now: VmTime, packet: &mut [u8; MAX_PACKET]) -> Answer {
        self.state.asked = Some(now);
        let again = now >= self.repeat();
        let report = self.reports.fetch();
        let Some(report) = report.or_else(|| again.then(|| self.reports.again())) else {
            return Answer::Nak;
        };
        self.state.sent = now;
        for (to, from) in packet.iter_mut().zip(report) {
            *to = from;
        }
        Answer::Data(report.len())
    }
}

impl Default for Tablet {
    fn default() -> Self {
        Self::new()
    }
}

impl UsbDevice for Tablet {
    fn bus_reset(&mut self) {
        self.state = State::new();
        self.reports.forget();
        self.news = false;
    }

    fn address(&self) -> u8 {
        self.state.pipe.address()
    }

    fn setup(&mut self, endpoint: u8, request: [u8; 8]) -> Answer {
        if endpoint != 0 {
            return Answer::Silence;
        }
        let setup = Setup::decode(request);
        self.state.pipe.begin();
        let reply = self.reply(setup);
        self.state.pipe.reply(setup, reply);
        // A SETUP is always taken.
        Answer::Data(request.len())
    }

    fn output(&mut self, endpoint: u8, data: &[u8]) -> Answer {
        match endpoint {
            0 => self.state.pipe.output(data.len()),
            _ => Answer::Silence,
        }
    }

    fn input(&mut self, now: VmTime, endpoint: u8, packet: &mut [u8; MAX_PACKET]) -> Answer {
        match endpoint {
            0 => self.state.pipe.input(packet),
            1 if self.state.configuration == 0 => Answer::Silence,
            1 if self.state.halted => Answer::Stall,
            1 => self.report(now, packet),
            _ => Answer::Silence,
        }
    }

    fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.news)
    }

    fn due(&self) -> VmTime {
        self.repeat()
    }

    fn wakes(&self) -> bool {
        self.state.remote_wakeup && !self.reports.is_empty()
    }
}
