//! The Universal Serial Bus: a host controller ([`uhci`]) and what is plugged into it, a [`tablet`].
//!
//! Sources: *Universal Host Controller Interface (UHCI) Design Guide*, revision 1.1; *Universal Serial Bus Specification*, revision 2.0,
//! whose chapters 8 and 9 hold for a full-speed device as those of revision 1.1 do.
//!
//! Not here: hubs, other speeds than full speed, isochronous endpoints, data toggles (nothing is lost on this bus, so no packet comes
//! twice).

pub mod tablet;
pub mod uhci;

mod control;

use hv_core::VmTime;

/// The longest packet of a full-speed endpoint that is not isochronous (USB 2.0 5.8.3, "Bulk Transfer Packet Size Constraints").
pub const MAX_PACKET: usize = 64;

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// So many bytes have been moved.
    Data(usize),
    /// The endpoint has nothing to send, or no room.
    Nak,
    /// The endpoint is halted, or a request is not supported.
    Stall,
    /// Nobody answers.
    Silence,
}

/// A full-speed device (USB 2.0 chapters 8, "Protocol Layer", and 9, "USB Device Framework").
pub trait UsbDevice: Send {
    /// The bus is reset: the device has address 0 and no configuration.
    fn bus_reset(&mut self);

    /// The address that it answers to.
    fn address(&self) -> u8;

    /// A SETUP transaction with a whole request.
    fn setup(&mut self, endpoint: u8, request: [u8; 8]) -> Answer;

    /// An OUT transaction.
    fn output(&mut self, endpoint: u8, data: &[u8]) -> Answer;

    /// An IN transaction; [`Answer::Data`] says how much of `packet` has been filled.
    fn input(&mut self, now: VmTime, endpoint: u8, packet: &mut [u8; MAX_PACKET]) -> Answer;

    /// Whether there is something new to say since the last call: the host controller looks for who wants to hear it.
    fn take_news(&mut self) -> bool;

    /// When there is something to say again though nothing happens, if that is later than now.
    fn due(&self) -> VmTime;

    /// Whether it signals a resume while its bus is suspended (USB 2.0 7.1.7.7, "Resume").
    fn wakes(&self) -> bool;
}
