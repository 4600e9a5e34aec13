//! The default control pipe of a device: the stages of a request (USB 2.0 8.5.3, "Control Transfers"; 9.3, "USB Device Requests").
//!
//! Requests that send data to the device are not supported: the devices here have none. A request is carried out when its SETUP comes, but
//! for a new address, which holds from the end of the status stage (USB 2.0 9.4.6, "Set Address").

use super::{Answer, MAX_PACKET};

/// A device request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setup {
    /// bmRequestType: direction, type and recipient.
    pub kind: u8,
    /// bRequest.
    pub request: u8,
    /// wValue.
    pub value: u16,
    /// wIndex.
    pub index: u16,
    /// wLength.
    pub length: u16,
}

/// bmRequestType: the data stage goes to the host.
const TO_HOST: u8 = 1 << 7;

impl Setup {
    /// The request in the data of a SETUP transaction.
    pub(super) fn decode([kind, request, v0, v1, i0, i1, l0, l1]: [u8; 8]) -> Self {
        Self {
            kind,
            request,
            value: u16::from_le_bytes([v0, v1]),
            index: u16::from_le_bytes([i0, i1]),
            length: u16::from_le_bytes([l0, l1]),
        }
    }
}

/// The longest answer of a device here.
pub(super) const MAX_ANSWER: usize = 128;

/// What a device answers to a request. None: it does not support it.
pub(super) type Reply = Option<Bytes>;

/// The bytes of an answer; none where there is no data stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes {
    bytes: [u8; MAX_ANSWER],
    len: usize,
}

impl Bytes {
    /// No bytes.
    pub(super) const NONE: Self = Self {
        bytes: [0; MAX_ANSWER],
        len: 0,
    };

    /// These bytes, of which what is beyond [`MAX_ANSWER`] is lost.
    pub(super) fn of(all: &[u8]) -> Self {
        all.iter().copied().collect()
    }
}

impl FromIterator<u8> for Bytes {
    fn from_iter<I: IntoIterator<Item = u8>>(all: I) -> Self {
        let mut answer = Self::NONE;
        for (to, from) in answer.bytes.iter_mut().zip(all) {
            *to = from;
            answer.len += 1;
        }
        answer
    }
}

/// Where a request is.
#[derive(Clone, Copy)]
enum Stage {
    /// None is under way, or it is not supported.
    Stalled,
    /// So much of the answer has been sent; then comes the status stage, to the device.
    Answer(usize),
    /// The status stage, to the host.
    Status,
}

/// The control pipe, with the device's address.
pub(super) struct ControlPipe {
    stage: Stage,
    answer: Bytes,
    address: u8,
    /// The address that holds after the status stage.
    next_address: Option<u8>,
    max_packet: usize,
}

impl ControlPipe {
    /// The pipe of a device that has just been reset, with packets of up to `max_packet` bytes.
    pub(super) const fn new(max_packet: usize) -> Self {
        Self {
            stage: Stage::Stalled,
            answer: Bytes::NONE,
            address: 0,
            next_address: None,
            max_packet,
        }
    }

    /// The device's address.
    pub(super) const fn address(&self) -> u8 {
        self.address
    }

    /// The device gets this address when the request is over.
    pub(super) fn set_address(&mut self, address: u8) {
        self.next_address = Some(address);
    }

    /// A request has come: what was under way is over.
    pub(super) fn begin(&mut self) {
        self.stage = Stage::Stalled;
        self.next_address = None;
    }

    /// This is the device's reply to the request.
    pub(super) fn reply(&mut self, setup: Setup, reply: Reply) {
        self.stage = match reply {
            Some(mut bytes) if setup.kind & TO_HOST != 0 => {
                bytes.len = bytes.len.min(setup.length.into());
                self.answer = bytes;
                Stage::Answer(0)
            }
            Some(_) if setup.length == 0 => Stage::Status,
            _ => Stage::Stalled,
        };
    }

    /// An IN transaction.
    pub(super) fn input(&mut self, packet: &mut [u8; MAX_PACKET]) -> Answer {
        match self.stage {
            Stage::Stalled => Answer::Stall,
            Stage::Answer(sent) => {
                let rest = self.answer.bytes.get(sent..self.answer.len);
                let rest = rest.unwrap_or_default();
                let len = rest.len().min(self.max_packet);
                for (to, from) in packet.iter_mut().zip(rest).take(len) {
                    *to = *from;
                }
                self.stage = Stage::Answer(sent + len);
                Answer::Data(len)
            }
            Stage::Status => {
                self.stage = Stage::Stalled;
                if let Some(address) = self.next_address.take() {
                    self.address = address;
                }
                Answer::Data(0)
            }
        }
    }

    /// An OUT transaction with `len` bytes: the status stage of a request that is answered, perhaps before all of it has been fetched.
    pub(super) fn output(&mut self, len: usize) -> Answer {
        match self.stage {
            Stage::Answer(_) if len == 0 => {
                self.stage = Stage::Stalled;
                Answer::Data(0)
            }
            _ => Answer::Stall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(kind: u8, length: u16) -> Setup {
        Setup::decode([kind, 6, 0, 1, 0, 0, length as u8, (length >> 8) as u8])
    }

    fn input(pipe: &mut ControlPipe) -> Result<Vec<u8>, Answer> {
        let mut packet = [0xee; MAX_PACKET];
        match pipe.input(&mut packet) {
            Answer::Data(len) => Ok(packet[..len].to_vec()),
            other => Err(other),
        }
    }

    #[test]
    fn an_answer_comes_in_packets_and_ends_with_a_short_one() {
        let mut pipe = ControlPipe::new(8);
        pipe.reply(setup(0x80, 64), Some(Bytes::of(&[1; 16])));
        assert_eq!(input(&mut pipe), Ok(vec![1; 8]));
        assert_eq!(input(&mut pipe), Ok(vec![1; 8]));
        assert_eq!(
            input(&mut pipe),
            Ok(vec![]),
            "the answer was a whole number of packets"
        );
        assert_eq!(pipe.output(0), Answer::Data(0));
        assert_eq!(input(&mut pipe), Err(Answer::Stall));
    }

    #[test]
    fn no_more_is_sent_than_asked_for() {
        let mut pipe = ControlPipe::new(8);
        pipe.reply(setup(0x80, 5), Some(Bytes::of(&[1; 16])));
        assert_eq!(input(&mut pipe), Ok(vec![1; 5]));
        assert_eq!(input(&mut pipe), Ok(vec![]));
    }

    #[test]
    fn the_status_stage_may_come_early() {
        let mut pipe = ControlPipe::new(8);
        pipe.reply(setup(0x80, 64), Some(Bytes::of(&[1; 16])));
        assert_eq!(input(&mut pipe), Ok(vec![1; 8]));
        assert_eq!(pipe.output(0), Answer::Data(0));
    }

    #[test]
    fn what_is_not_supported_stalls_until_the_next_request() {
        let mut pipe = ControlPipe::new(8);
        pipe.reply(setup(0x80, 64), None);
        assert_eq!(input(&mut pipe), Err(Answer::Stall));
        assert_eq!(pipe.output(0), Answer::Stall);
        pipe.reply(setup(0x00, 8), Some(Bytes::NONE));
        assert_eq!(pipe.output(8), Answer::Stall, "data to the device");
        pipe.reply(setup(0x00, 0), Some(Bytes::NONE));
        assert_eq!(input(&mut pipe), Ok(vec![]));
    }

    #[test]
    fn an_address_holds_from_the_end_of_the_status_stage() {
        let mut pipe = ControlPipe::new(8);
        pipe.begin();
        pipe.set_address(4);
        pipe.begin();
        pipe.set_address(5);
        pipe.reply(setup(0x00, 0), Some(Bytes::NONE));
        assert_eq!(pipe.address(), 0);
        assert_eq!(input(&mut pipe), Ok(vec![]));
        assert_eq!(pipe.address(), 5);
    }
}
