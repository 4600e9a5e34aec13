//! Finds the drives of a channel. ATA/ATAPI-6 9.12, "Signature and persistence".

use crate::access::Access;
use crate::cdrom::Cdrom;
use crate::channel::{Channel, Location};
use crate::command::{Command, op, select};
use crate::disk::Disk;
use crate::host::{DmaBuffer, Host};
use crate::identify::{self, Identity, Kind};
use crate::registers::{DEVICE_ONES, Status, reg};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::backend::BlockBackend;
use spin::Mutex;

/// LBA mid and high of packet drives after a reset, and of those behind a SATA bridge.
const PACKET_SIGNATURES: [[u8; 2]; 2] = [[0x14, 0xeb], [0x69, 0x96]];
/// Microseconds in which a drive that is there shows any status at all after a command.
const PRESENCE_LIMIT: u64 = 10_000;

/// How often the drives are reset and asked: an emulator on a busy machine may carry a reset out when the first question has been asked.
const ATTEMPTS: u32 = 3;
/// Microseconds between two attempts.
const ATTEMPT_PAUSE: u64 = 100_000;

/// A drive that was found and identified, and no more.
pub struct Found<H> {
    /// Its position on the channel, 0 or 1.
    pub position: u8,
    /// What it says of itself.
    pub identity: Identity,
    channel: Arc<Mutex<Channel<H>>>,
}

/// Finds the drives of the channel at `at`. It touches nothing where nothing answers; both drives are reset where something does.
pub fn probe<H: Host>(host: H, at: Location) -> Vec<Found<H>> {
    let mut channel = Channel::new(host, at);
    let answers = [0, 1].map(|position| channel.answers(position));
    if answers == [false; 2] {
        return Vec::new();
    }
    let mut identities = Vec::new();
    for left in (0..ATTEMPTS).rev() {
        channel.present = answers;
        channel.reset();
        let (found, complaints) = channel.identify_both(answers);
        identities = found;
        if complaints.is_empty() {
            break;
        }
        if left == 0 {
            for complaint in complaints {
                log::warn!("IDE channel at {:x}h: {complaint}", at.command);
            }
        } else {
            channel.pause(ATTEMPT_PAUSE);
        }
    }
    let channel = Arc::new(Mutex::new(channel));
    identities
        .into_iter()
        .map(|(position, identity)| Found {
            position,
            identity,
            channel: channel.clone(),
        })
        .collect()
}

impl<H: Host> Channel<H> {
    /// Identifies both drives after a reset, those that have answered before it, and says what is wrong with those that cannot be.
    fn identify_both(&mut self, answers: [bool; 2]) -> (Vec<(u8, Identity)>, Vec<String>) {
        // Both before any command: what is written to the registers goes to both drives.
        let signatures = [0, 1].map(|position| self.signature(position));
        let (mut identities, mut complaints) = (Vec::new(), Vec::new());
        for (position, signature) in [0, 1].into_iter().zip(signatures) {
            if self.present[usize::from(position)] {
                let packet = PACKET_SIGNATURES.contains(&signature);
                match self.identify(position, packet) {
                    Some(identity) => identities.push((position, identity)),
                    None => {
                        let (status, error) = (self.status(), self.read(reg::ERROR));
                        // The status of a drive that is not there is 0 if the other one answers for it.
                        if position == 0 || !status.is_empty() {
                            complaints.push(alloc::format!(
                                "drive {position} does not identify itself: signature {signature:x?}, {status:?}, error {error:x}h"
                            ));
                        }
                    }
                }
            } else if answers[usize::from(position)] {
                complaints.push(alloc::format!("drive {position} stays busy after a reset"));
            }
        }
        (identities, complaints)
    }

    /// LBA mid and high of drive `position`, which tell after a reset what it is.
    fn signature(&mut self, position: u8) -> [u8; 2] {
        self.write(reg::DEVICE, DEVICE_ONES | select(position));
        self.settle();
        [reg::LBA_MID, reg::LBA_HIGH].map(|r| self.read(r))
    }

    /// Identifies drive `position`, which is a packet drive by its signature or not.
    fn identify(&mut self, position: u8, packet: bool) -> Option<Identity> {
        self.identify_as(position, packet).or_else(|| {
            // A packet drive aborts IDENTIFY DEVICE and shows its signature then.
            let late = !packet && PACKET_SIGNATURES.contains(&self.signature(position));
            late.then(|| self.identify_as(position, true))?
        })
    }

    fn identify_as(&mut self, position: u8, packet: bool) -> Option<Identity> {
        let op = if packet {
            op::IDENTIFY_PACKET_DEVICE
        } else {
            op::IDENTIFY_DEVICE
        };
        let mut data = [0; 512];
        // A disk that is still spinning up may not be ready (DRDY), but it answers this command.
        self.issue(position, &Command::plain(op), Status::empty())
            .ok()?;
        let start = self.host.now();
        while self.status().is_empty() {
            if self.host.now().wrapping_sub(start) > PRESENCE_LIMIT {
                return None;
            }
        }
        self.take_sectors(&mut data).ok()?;
        identify::parse(&data, packet)
    }
}

impl<H: Host + 'static> Found<H> {
    /// Makes the drive a medium for a guest. `buffer` gives memory for DMA where the drive can use it; without, it is PIO.
    /// With `read_only` nothing is ever written.
    ///
    /// # Errors
    /// Why it cannot be used, as a clause.
    pub fn open(
        self,
        read_only: bool,
        buffer: impl FnOnce() -> Option<DmaBuffer>,
    ) -> Result<Box<dyn BlockBackend>, String> {
        let kind = self.identity.kind;
        let mut access = Access {
            channel: self.channel,
            position: self.position,
            identity: self.identity,
            buffer: None,
            complained: false,
            dead: false,
        };
        if access.set_up_dma() {
            access.buffer = buffer();
        }
        match kind {
            Kind::Disk { sectors } => match Disk::new(access, sectors, read_only) {
                Ok(disk) => Ok(Box::new(disk)),
                Err(fault) => Err(fault.to_string()),
            },
            Kind::Cdrom => Ok(Box::new(Cdrom::new(access)?)),
            Kind::Other(what) => Err(what.into()),
        }
    }
}
