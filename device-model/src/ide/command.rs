//! A command is given to the selected drive, and the channel does what is left to be done for it.

use super::channel::Channel;
use super::transfer::{Phase, Protocol, Transfer};
use crate::ata::{Access, Attached, Outcome, Registers, SECTOR};
use hv_core::device::DevCx;

impl Channel {
    /// The selected drive gets `command`.
    pub(super) fn carry_out(&mut self, cx: &mut DevCx<'_>, command: u8) {
        let position = self.selected();
        let Some(drive) = &mut self.drives[position] else {
            return;
        };
        let registers = Registers {
            file: &mut self.regs[position],
            device: &mut self.device,
        };
        let at = Attached::Parallel(position);
        match drive.execute(command, registers, at, &mut self.buf) {
            Outcome::Done => self.succeed(cx),
            Outcome::Failed(error) => self.fail(cx, error),
            Outcome::Data(len) => {
                let transfer = Transfer {
                    block: len,
                    end: len,
                    ..Transfer::new(Phase::PioIn, Protocol::AtaPlain, position)
                };
                self.begin(cx, transfer);
            }
            Outcome::Access(access) => self.move_sectors(cx, access, position),
            Outcome::Flush => {
                let transfer = Transfer::new(Phase::Flush, Protocol::AtaPlain, position);
                self.begin(cx, transfer);
            }
            Outcome::Packet => self.ask_for_packet(cx),
            Outcome::Reset => self.device_reset(cx),
        }
    }

    fn move_sectors(&mut self, cx: &mut DevCx<'_>, access: Access, position: usize) {
        let phase = match (access.dma, access.write) {
            (false, false) => Phase::PioIn,
            (false, true) => Phase::PioOut,
            (true, false) => Phase::DmaIn,
            (true, true) => Phase::DmaOut,
        };
        let transfer = Transfer {
            span: access.span,
            block: usize::from(access.block) * SECTOR,
            ..Transfer::new(phase, Protocol::Ata(access.addressing), position)
        };
        self.begin(cx, transfer);
    }
}
