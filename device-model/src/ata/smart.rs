//! SMART (ATA8-ACS 7, "Command descriptions", SMART): it can be switched on and off, and says that the drive is well. There are no
//! attributes: a disk of the host knows more of itself than a guest would be told.

use super::command::Outcome;
use super::drive::Disk;
use super::taskfile::{Error, TaskFile};

/// Subcommands, in the features register.
const READ_DATA: u8 = 0xd0;
const ATTRIBUTE_AUTOSAVE: u8 = 0xd2;
const ENABLE: u8 = 0xd8;
const DISABLE: u8 = 0xd9;
const RETURN_STATUS: u8 = 0xda;

/// LBA mid and high of every SMART command; RETURN STATUS leaves them so while no threshold is exceeded.
const KEY: [u8; 2] = [0x4f, 0xc2];

/// Bytes of the data structure, and where its capabilities and its checksum are.
const LEN: usize = 512;
const CAPABILITY: usize = 368;
const CHECKSUM: usize = 511;

/// Carries out a SMART command. What it reads goes to the beginning of `buf`.
pub(crate) fn smart(disk: &mut Disk, regs: &TaskFile, buf: &mut [u8]) -> Outcome {
    if [regs.lba[1].now(), regs.lba[2].now()] != KEY {
        return Outcome::Failed(Error::ABRT);
    }
    match regs.features.now() {
        ENABLE => disk.smart = true,
        _ if !disk.smart => return Outcome::Failed(Error::ABRT),
        DISABLE => disk.smart = false,
        // The registers say already that all is well.
        RETURN_STATUS | ATTRIBUTE_AUTOSAVE => {}
        READ_DATA => {
            let Some(data) = buf.get_mut(..LEN) else {
                return Outcome::Failed(Error::ABRT);
            };
            data.fill(0);
            // Attributes are saved before power is lost, and by themselves.
            data[CAPABILITY] = 3;
            let sum = data[..CHECKSUM].iter().fold(0u8, |s, b| s.wrapping_add(*b));
            data[CHECKSUM] = sum.wrapping_neg();
            return Outcome::Data(LEN);
        }
        _ => return Outcome::Failed(Error::ABRT),
    }
    Outcome::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ata::{Attached, Drive, Registers};
    use hv_core::testing::SharedDisk;

    fn run(drive: &mut Drive, feature: u8, key: [u8; 2], buf: &mut [u8]) -> (Outcome, TaskFile) {
        let (mut regs, mut device) = (TaskFile::default(), 0);
        regs.features.write(feature);
        regs.lba[1].write(key[0]);
        regs.lba[2].write(key[1]);
        let registers = Registers {
            file: &mut regs,
            device: &mut device,
        };
        let outcome = drive.execute(0xb0, registers, Attached::Serial(0), buf);
        (outcome, regs)
    }

    #[test]
    fn drive_is_well_and_its_data_have_a_checksum_unless_smart_is_off() {
        let mut drive = Drive::disk(SharedDisk::new(8).boxed());
        let mut buf = [0xcc; 512];
        let (outcome, regs) = run(&mut drive, RETURN_STATUS, KEY, &mut buf);
        assert!(matches!(outcome, Outcome::Done));
        assert_eq!([regs.lba[1].now(), regs.lba[2].now()], KEY);
        let (outcome, _) = run(&mut drive, READ_DATA, KEY, &mut buf);
        assert!(matches!(outcome, Outcome::Data(512)));
        assert_eq!(buf.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        let aborted = |o: Outcome| matches!(o, Outcome::Failed(Error::ABRT));
        assert!(aborted(run(&mut drive, READ_DATA, [0, 0], &mut buf).0));
        assert!(aborted(run(&mut drive, 0xd5, KEY, &mut buf).0));
        assert!(matches!(
            run(&mut drive, DISABLE, KEY, &mut buf).0,
            Outcome::Done
        ));
        assert!(aborted(run(&mut drive, RETURN_STATUS, KEY, &mut buf).0));
        assert!(matches!(
            run(&mut drive, ENABLE, KEY, &mut buf).0,
            Outcome::Done
        ));
    }
}
