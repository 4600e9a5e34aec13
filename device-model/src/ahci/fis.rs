//! Frame information structures: what the host sends in a command table, and what it finds in its received FIS area. Serial ATA 2.6 10.3,
//! "FIS Types"; AHCI 1.3.1 4.2.1, "Received FIS Structure".

use crate::ata::TaskFile;

/// Where each kind lies in the received FIS area.
pub(super) const PIO_SETUP_AT: u64 = 0x20;
pub(super) const REGISTER_AT: u64 = 0x40;
pub(super) const DEVICE_BITS_AT: u64 = 0x58;

/// Types.
const HOST_TO_DEVICE: u8 = 0x27;
const DEVICE_TO_HOST: u8 = 0x34;
const PIO_SETUP: u8 = 0x5f;
const DEVICE_BITS: u8 = 0xa1;

/// Bit 6 of the second byte: the drive's interrupt.
const INTERRUPT: u8 = 1 << 6;
/// Bit 5 of it, in a PIO setup: the drive sends the data.
const TO_HOST: u8 = 1 << 5;
/// Bit 7 of it, in what the host sends: this is a command.
const COMMAND: u8 = 1 << 7;

/// The length of a register FIS in bytes.
pub(super) const LEN: usize = 20;

/// Bit 2 of the device control register: software reset.
pub(super) const SRST: u8 = 1 << 2;

/// A register FIS from the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostToDevice([u8; LEN]);

impl HostToDevice {
    /// None: it is something else.
    pub(super) fn of(bytes: [u8; LEN]) -> Option<Self> {
        (bytes[0] == HOST_TO_DEVICE).then_some(Self(bytes))
    }

    /// Its command. None: it is for the device control register.
    pub(super) fn command(&self) -> Option<u8> {
        (self.0[1] & COMMAND != 0).then_some(self.0[2])
    }

    pub(super) fn control(&self) -> u8 {
        self.0[15]
    }

    pub(super) fn device(&self) -> u8 {
        self.0[7]
    }

    /// The count and the features registers, both contents.
    pub(super) fn count(&self) -> u16 {
        u16::from_le_bytes([self.0[12], self.0[13]])
    }

    pub(super) fn features(&self) -> u16 {
        u16::from_le_bytes([self.0[3], self.0[11]])
    }

    /// The registers of a drive that has received it.
    pub(super) fn task_file(&self) -> TaskFile {
        let mut file = TaskFile::default();
        let [.., a, b, c, _, d, e, f, _, _, _, _, _, _, _, _, _] = self.0;
        for (register, previous, now) in [
            (&mut file.features, self.0[11], self.0[3]),
            (&mut file.count, self.0[13], self.0[12]),
        ] {
            register.write(previous);
            register.write(now);
        }
        for (register, (previous, now)) in file.lba.iter_mut().zip([(d, a), (e, b), (f, c)]) {
            register.write(previous);
            register.write(now);
        }
        file
    }
}

/// The registers as a FIS from the drive has them.
fn registers(kind: u8, flags: u8, file: &TaskFile, device: u8) -> [u8; LEN] {
    let [a, b, c] = file.lba;
    let (status, error) = (file.status.bits(), file.error);
    let mut fis = [0; LEN];
    let bytes = [
        kind,
        flags,
        status,
        error,
        a.now(),
        b.now(),
        c.now(),
        device,
    ];
    fis[..8].copy_from_slice(&bytes);
    fis[8..11].copy_from_slice(&[a.old(), b.old(), c.old()]);
    fis[12..14].copy_from_slice(&[file.count.now(), file.count.old()]);
    fis
}

/// The drive's registers.
pub(super) fn register(file: &TaskFile, device: u8, interrupt: bool) -> [u8; LEN] {
    let flags = if interrupt { INTERRUPT } else { 0 };
    registers(DEVICE_TO_HOST, flags, file, device)
}

/// The last data block of PIO to the host, of so many bytes. `status` is shown while the data move, the registers' own at the end.
pub(super) fn pio_setup(file: &TaskFile, device: u8, status: u8, bytes: u16) -> [u8; LEN] {
    let mut fis = registers(PIO_SETUP, INTERRUPT | TO_HOST, file, device);
    (fis[2], fis[15]) = (status, file.status.bits());
    fis[16..18].copy_from_slice(&bytes.to_le_bytes());
    fis
}

/// Queued commands that are over.
pub(super) fn device_bits(status: u8, error: u8, done: u32) -> [u8; 8] {
    let [a, b, c, d] = done.to_le_bytes();
    // BSY and DRQ have no place in it.
    [DEVICE_BITS, INTERRUPT, status & 0x77, error, a, b, c, d]
}
