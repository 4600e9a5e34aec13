//! The setup header of a bzImage (boot.rst, "THE REAL-MODE KERNEL HEADER").

use super::LinuxError;
use crate::e820::EXTENDED_MEMORY;
use core::ops::Range;

/// First byte of the header, in the file and in the boot parameters alike.
pub(super) const START: usize = 0x1f1;
/// The highest end of a header in the boot parameters, where the EDD buffer begins.
const MAX_END: usize = 0x290;

const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
/// A short jump over the header: its operand tells where the header ends.
const JUMP_OPERAND: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const INITRD_ADDR_MAX: usize = 0x22c;
const RELOCATABLE: usize = 0x234;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const LOADED_HIGH: u8 = 1;
/// The first protocol with a known command-line length: Linux 2.6.22.
const MIN_VERSION: u16 = 0x0206;
/// The first protocol that tells pref_address and init_size.
const VERSION_INIT_SIZE: u16 = 0x020a;
const SECTOR: u64 = 512;
/// syssize counts units of 16 bytes, and kernels round it in different ways.
const SYSSIZE_SLACK: u64 = 512;
/// How much larger than its file a kernel of an older protocol may be when it has unpacked itself.
const UNPACKED_FACTOR: u64 = 6;

/// What the header says.
#[derive(Clone, Debug)]
pub(super) struct SetupHeader<'a> {
    /// The header's bytes, from [`START`].
    pub bytes: &'a [u8],
    pub version: u16,
    pub cmdline_size: u32,
    pub initrd_addr_max: u32,
    pub relocatable: bool,
    /// Where the kernel wants to be; 0 if it does not say.
    pub pref_address: u64,
    /// How much memory it needs from there on; 0 if it does not say.
    init_size: u32,
    setup_sects: u8,
    syssize: u32,
}

impl<'a> SetupHeader<'a> {
    /// Reads the header from the beginning of a file.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LinuxError> {
        let byte = |at: usize| file.get(at).copied();
        let short = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));

        if short(BOOT_FLAG) != Some(0xaa55) || file.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
            return Err(LinuxError::NotAKernel(looks_like(file)));
        }
        let version = short(VERSION).unwrap_or(0);
        if version < MIN_VERSION {
            return Err(LinuxError::ProtocolTooOld(version));
        }
        if byte(LOADFLAGS).unwrap_or(0) & LOADED_HIGH == 0 {
            return Err(LinuxError::NotBzImage);
        }
        let header = || {
            let end = (MAGIC + usize::from(byte(JUMP_OPERAND)?)).min(MAX_END);
            let tells_size = version >= VERSION_INIT_SIZE;
            let pref_address =
                u64::from(long(PREF_ADDRESS)?) | u64::from(long(PREF_ADDRESS + 4)?) << 32;
            Some(Self {
                bytes: file.get(START..end)?,
                version,
                cmdline_size: long(CMDLINE_SIZE)?,
                initrd_addr_max: long(INITRD_ADDR_MAX)?,
                relocatable: byte(RELOCATABLE)? != 0,
                pref_address: if tells_size { pref_address } else { 0 },
                init_size: if tells_size { long(INIT_SIZE)? } else { 0 },
                setup_sects: byte(SETUP_SECTS)?,
                syssize: long(SYSSIZE)?,
            })
        };
        header().ok_or(LinuxError::Truncated {
            wanted: MAX_END as u64,
            len: file.len() as u64,
        })
    }

    /// Which part of a file of `len` bytes is the protected-mode kernel.
    pub(super) fn payload(&self, len: u64) -> Result<Range<u64>, LinuxError> {
        // 0 is for kernels that did not know the field yet.
        let setup_sects = if self.setup_sects == 0 {
            4
        } else {
            u64::from(self.setup_sects)
        };
        let start = (setup_sects + 1) * SECTOR;
        let wanted = start + u64::from(self.syssize) * 16;
        if len <= start || len.saturating_add(SYSSIZE_SLACK) < wanted {
            return Err(LinuxError::Truncated { wanted, len });
        }
        Ok(start..len)
    }

    /// Where the memory ends that a kernel loaded to `load` uses before it reads the memory map.
    pub(super) fn end(&self, load: u64, payload_len: u64) -> u64 {
        let loaded = load.saturating_add(payload_len);
        let runs = load.max(self.pref_address).max(EXTENDED_MEMORY);
        let needs = match self.init_size {
            0 => payload_len.saturating_mul(UNPACKED_FACTOR),
            size => u64::from(size),
        };
        loaded.max(runs.saturating_add(needs))
    }
}

/// What a file is that is no kernel, for the error message.
fn looks_like(file: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| file.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"\x7fELF") {
        "it is an ELF file, perhaps vmlinux; take arch/x86/boot/bzImage"
    } else if at(0x8001, b"CD001") {
        "it is an ISO image; boot it as a CD-ROM"
    } else if at(0, b"\x1f\x8b") || at(0, b"\xfd7zXZ") || at(0, b"\x28\xb5\x2f\xfd") {
        "it is a compressed file, perhaps an initrd"
    } else if at(0, b"MZ") {
        "it is an EFI program"
    } else if at(BOOT_FLAG, &[0x55, 0xaa]) {
        "it is a boot sector, perhaps of a disk image; boot it as a disk"
    } else if file.len() < MAGIC + 4 {
        "it is too short"
    } else {
        "it has no setup header"
    }
}

#[cfg(test)]
pub(super) mod testing {
    /// The beginning of a made-up kernel, and its length.
    pub(in super::super) struct Kernel {
        pub header: Vec<u8>,
        pub len: u64,
    }

    /// A relocatable bzImage with 31 setup sectors that prefers 16 MiB, needs 32 MiB and takes 2,047 bytes of command line.
    pub(in super::super) fn bzimage(version: u16, payload: u64) -> Kernel {
        let mut h = vec![0u8; 0x400];
        let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[31]);
        put(0x1f4, &((payload / 16) as u32).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &version.to_le_bytes());
        put(0x211, &[1]);
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x234, &[1, 21]);
        put(0x238, &2047u32.to_le_bytes());
        put(0x258, &0x100_0000u64.to_le_bytes());
        put(0x260, &0x200_0000u32.to_le_bytes());
        Kernel {
            header: h,
            len: 0x4000 + payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::bzimage;
    use super::*;

    fn error(change: impl FnOnce(&mut Vec<u8>)) -> LinuxError {
        let mut header = bzimage(0x20f, 1 << 20).header;
        change(&mut header);
        SetupHeader::parse(&header).unwrap_err()
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let named = |file: Vec<u8>| error(|h| *h = file).to_string();
        assert!(named(b"\x7fELF".repeat(200)).contains("vmlinux"));
        assert!(named(vec![0x1f, 0x8b, 8]).contains("compressed"));
        assert!(named(vec![]).contains("too short"));
        assert!(named(vec![0; 4096]).contains("no setup header"));
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(named(sector).contains("boot sector"));
        let mut iso = vec![0; 0x9000];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        assert!(named(iso).contains("CD-ROM"));
    }

    #[test]
    fn old_protocols_and_zimages_are_refused() {
        assert_eq!(error(|h| h[0x206] = 5), LinuxError::ProtocolTooOld(0x205));
        assert!(error(|h| h[0x206] = 5).to_string().contains("2.05"));
        assert_eq!(error(|h| h[0x211] = 0), LinuxError::NotBzImage);
    }

    #[test]
    fn a_header_that_ends_early_is_truncated() {
        for len in 0x206..0x264 {
            assert!(matches!(
                error(|h| h.truncate(len)),
                LinuxError::Truncated { .. }
                    | LinuxError::NotBzImage
                    | LinuxError::ProtocolTooOld(_)
            ));
        }
    }

    #[test]
    fn a_file_shorter_than_its_header_says_is_truncated() {
        let k = bzimage(0x20f, 1 << 20);
        let h = SetupHeader::parse(&k.header).unwrap();
        assert_eq!(h.payload(k.len), Ok(0x4000..k.len));
        assert!(matches!(
            h.payload(k.len - 4096),
            Err(LinuxError::Truncated { .. })
        ));
        assert!(matches!(
            h.payload(0x4000),
            Err(LinuxError::Truncated { .. })
        ));
    }

    #[test]
    fn older_protocols_have_no_preferred_address() {
        let k = bzimage(0x209, 1 << 20);
        let h = SetupHeader::parse(&k.header).unwrap();
        assert_eq!((h.pref_address, h.end(1 << 20, 1 << 20)), (0, 7 << 20));
    }
}
