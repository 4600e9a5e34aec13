//! Booting a Linux kernel without firmware (the kernel's Documentation/arch/x86/boot.rst, "32-bit BOOT PROTOCOL"), which i386,
//! PAE and x86-64 kernels all support.
//!
//! [`plan`] says what goes where from the first 64 KiB of the file and its length; nobody has to hold the kernel in memory twice.
//!
//! ```text
//! 0x01000  GDT                    1 MiB or the kernel's preferred address  the kernel's protected-mode part
//! 0x10000  boot parameters        as high as allowed                       initrd
//! 0x20000  command line           top of low RAM - 64K                     tables (placed by crate::place)
//! ```
//!
//! Not here: kernels before protocol 2.06 (Linux 2.6.22) and zImages, which want real-mode firmware; boot them from an image.

mod boot_params;
mod error;
mod header;

use crate::e820::{EXTENDED_MEMORY, table_area};
use alloc::vec::Vec;
use core::ops::Range;
pub use error::LinuxError;
use header::SetupHeader;
use hv_core::Gpa;
use hv_core::machine::MachineDesc;
use hv_core::regs::{SegAttr, Segment};

/// How much of the kernel file [`plan`] wants to see, in bytes (less if the file is shorter).
pub const HEADER_LEN: usize = 0x1_0000;

const GDT: Gpa = Gpa(0x1000);
const BOOT_PARAMS: Gpa = Gpa(0x1_0000);
const COMMAND_LINE: Gpa = Gpa(0x2_0000);
/// Room for the command line with its NUL.
const COMMAND_LINE_ROOM: u32 = 0x1_0000;

/// The selectors that the protocol asks for.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
/// The flat descriptors: base 0, limit 4 GiB, 32-bit, accessed.
const CODE_DESCRIPTOR: u64 = 0x00cf_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// Which of the two files a copy is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The kernel file (bzImage).
    Kernel,
    /// The initrd file.
    Initrd,
}

/// Part of a file that goes into guest RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// Where to.
    pub to: Gpa,
    /// From which file.
    pub source: Source,
    /// Which of its bytes.
    pub range: Range<u64>,
}

/// Bytes that go into guest RAM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Where to.
    pub to: Gpa,
    /// What.
    pub bytes: Vec<u8>,
}

/// The state in which the boot CPU starts: protected mode without paging (CR0.PE), interrupts off, direction flag clear, all
/// other general registers 0. The IDT does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// EIP: the 32-bit entry point.
    pub eip: u32,
    /// ESI: the boot parameters.
    pub esi: u32,
    /// CS: flat 4 GiB code.
    pub code: Segment,
    /// DS, ES, FS, GS and SS: flat 4 GiB data.
    pub data: Segment,
    /// GDTR: base.
    pub gdt: Gpa,
    /// GDTR: limit.
    pub gdt_limit: u16,
}

/// How to boot one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinuxBoot {
    /// What to copy from the files.
    pub copies: Vec<Copy>,
    /// The boot parameters ("zero page"), 4 KiB. They name the RSDP at [`place::RSDP`](crate::place::RSDP).
    pub boot_params: Write,
    /// The command line with its NUL.
    pub command_line: Write,
    /// The GDT of the entry state.
    pub gdt: Write,
    /// How the boot CPU starts.
    pub entry: EntryState,
    /// The boot protocol's version, major in the high byte.
    pub protocol: u16,
}

/// Plans the boot of a kernel of `kernel_len` bytes of which `header` is the beginning ([`HEADER_LEN`] bytes or the whole file),
/// with an initrd of `initrd_len` bytes (0: none).
///
/// # Errors
/// The file is no kernel that can be booted this way, or the machine is too small for it.
pub fn plan(
    header: &[u8],
    kernel_len: u64,
    initrd_len: u64,
    cmdline: &str,
    desc: &MachineDesc,
) -> Result<LinuxBoot, LinuxError> {
    let kernel = SetupHeader::parse(header)?;
    let payload = kernel.payload(kernel_len)?;
    let payload_len = payload.end - payload.start;
    let command_line = command_line(cmdline, kernel.cmdline_size)?;

    let ram_end = table_area(desc).start;
    let load = if kernel.relocatable {
        kernel.pref_address.max(EXTENDED_MEMORY)
    } else {
        EXTENDED_MEMORY
    };
    let end = kernel.end(load, payload_len);
    if end > ram_end {
        let overhead = desc.low_ram() - ram_end;
        return Err(LinuxError::TooLittleMemory {
            wanted: end.saturating_add(overhead),
            have: desc.low_ram(),
        });
    }
    let mut copies = alloc::vec![Copy {
        to: Gpa(load),
        source: Source::Kernel,
        range: payload
    }];

    let initrd = initrd_address(&kernel, initrd_len, end, ram_end)?;
    if initrd_len != 0 {
        copies.push(Copy {
            to: initrd,
            source: Source::Initrd,
            range: 0..initrd_len,
        });
    }

    let params = boot_params::Parameters {
        setup_header: kernel.bytes,
        code32_start: load as u32,
        initrd: (initrd.0 as u32, initrd_len as u32),
        command_line: COMMAND_LINE,
    };
    let gdt: Vec<u8> = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR]
        .iter()
        .flat_map(|d: &u64| d.to_le_bytes())
        .collect();
    let entry = EntryState {
        eip: load as u32,
        esi: BOOT_PARAMS.0 as u32,
        code: flat(BOOT_CS, SegAttr::CODE),
        data: flat(BOOT_DS, SegAttr::empty()),
        gdt: GDT,
        gdt_limit: gdt.len() as u16 - 1,
    };
    Ok(LinuxBoot {
        copies,
        boot_params: Write {
            to: BOOT_PARAMS,
            bytes: boot_params::build(&params, desc),
        },
        command_line: Write {
            to: COMMAND_LINE,
            bytes: command_line,
        },
        gdt: Write {
            to: GDT,
            bytes: gdt,
        },
        entry,
        protocol: kernel.version,
    })
}

/// A flat, present, accessed, 32-bit segment of privilege 0.
fn flat(selector: u16, kind: SegAttr) -> Segment {
    let attr =
        SegAttr::ACCESSED | SegAttr::RW | SegAttr::S | SegAttr::P | SegAttr::DB | SegAttr::G | kind;
    Segment {
        selector,
        attr,
        limit: u32::MAX,
        base: 0,
    }
}

fn command_line(cmdline: &str, max: u32) -> Result<Vec<u8>, LinuxError> {
    let max = max.min(COMMAND_LINE_ROOM - 1) as usize;
    if cmdline.contains('\0') {
        return Err(LinuxError::CommandLineNul);
    }
    if cmdline.len() > max {
        return Err(LinuxError::CommandLineTooLong {
            len: cmdline.len(),
            max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// The highest page at which the initrd ends below the tables and below what the kernel can reach, or 0 without an initrd.
fn initrd_address(
    kernel: &SetupHeader<'_>,
    len: u64,
    kernel_end: u64,
    ram_end: u64,
) -> Result<Gpa, LinuxError> {
    if len == 0 {
        return Ok(Gpa(0));
    }
    let top = ram_end.min(u64::from(kernel.initrd_addr_max) + 1);
    let bottom = kernel_end.next_multiple_of(4096);
    let address = top
        .checked_sub(len)
        .map(|a| Gpa(a).page())
        .filter(|a| a.0 >= bottom);
    address.ok_or(LinuxError::InitrdTooLarge {
        len,
        max: top.saturating_sub(bottom),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::machine;
    use header::testing::bzimage;
    use hv_core::testing::Random;

    const MIB: u64 = 1 << 20;

    fn value(b: &[u8], at: usize, size: usize) -> u64 {
        b[at..at + size]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    }

    #[test]
    fn a_relocatable_kernel_goes_to_its_preferred_address() {
        let k = bzimage(0x20f, 5 * MIB);
        let b = plan(
            &k.header,
            k.len,
            3 * MIB + 5,
            "console=ttyS0",
            &machine(256 * MIB, 1),
        )
        .unwrap();
        assert_eq!(
            b.copies[0],
            Copy {
                to: Gpa(16 * MIB),
                source: Source::Kernel,
                range: 0x4000..k.len
            }
        );
        let initrd = &b.copies[1];
        assert_eq!(
            (initrd.source, initrd.range.clone()),
            (Source::Initrd, 0..3 * MIB + 5)
        );
        assert_eq!(initrd.to.0 % 4096, 0);
        let end = initrd.to.0 + 3 * MIB + 5;
        assert!(end <= 256 * MIB - 0x1_0000 && end > 256 * MIB - 0x1_0000 - 4096);
        assert_eq!((b.entry.eip, b.entry.esi), (16 << 20, 0x1_0000));
    }

    #[test]
    fn a_fixed_kernel_goes_to_1_mib() {
        let mut k = bzimage(0x20f, 5 * MIB);
        k.header[0x234] = 0;
        let b = plan(&k.header, k.len, 0, "", &machine(256 * MIB, 1)).unwrap();
        assert_eq!(
            (b.copies.len(), b.copies[0].to, b.entry.eip),
            (1, Gpa(MIB), 1 << 20)
        );
    }

    #[test]
    fn boot_parameters_tell_the_kernel_what_it_asks_for() {
        let k = bzimage(0x20f, 5 * MIB);
        let b = plan(&k.header, k.len, 4096, "quiet", &machine(5 << 30, 1)).unwrap();
        let p = &b.boot_params.bytes;
        assert_eq!(p.len(), 4096);
        assert_eq!(
            (p[6], p[7], p[0xe], p[0xf], p[0x10]),
            (3, 80, 25, 1, 16),
            "screen_info"
        );
        assert_eq!(value(p, 0x70, 8), 0xf_0000, "acpi_rsdp_addr");
        assert_eq!((p[0x1ef], p[0x210], p[0x211] & 0x81), (0, 0xff, 0x81));
        assert_eq!(p[0x1f1..0x1fa], k.header[0x1f1..0x1fa]);
        assert_eq!(p[0x1fe..0x210], k.header[0x1fe..0x210]);
        assert_eq!(value(p, 0x214, 4), 16 * MIB);
        assert_eq!(
            (value(p, 0x218, 4), value(p, 0x21c, 4)),
            (b.copies[1].to.0, 4096)
        );
        assert_eq!(value(p, 0x228, 4), b.command_line.to.0);
        assert_eq!(b.command_line.bytes, b"quiet\0");
        let map = crate::e820::direct_boot(&machine(5 << 30, 1));
        assert_eq!(usize::from(p[0x1e8]), map.len());
        assert_eq!(p[0x2d0..0x2d0 + 20], map[0].encode());
        assert_eq!(value(p, 0x2d0 + 20 * (map.len() - 1), 8), 4 << 30);
    }

    #[test]
    fn what_is_after_the_setup_header_is_not_copied() {
        let mut k = bzimage(0x20f, MIB);
        k.header[0x270..0x280].fill(0xee);
        let b = plan(&k.header, k.len, 0, "", &machine(256 * MIB, 1)).unwrap();
        assert!(b.boot_params.bytes[0x270..0x280].iter().all(|b| *b == 0));
    }

    #[test]
    fn the_descriptors_in_the_gdt_are_the_entry_segments() {
        let k = bzimage(0x20f, MIB);
        let b = plan(&k.header, k.len, 0, "", &machine(256 * MIB, 1)).unwrap();
        assert_eq!(usize::from(b.entry.gdt_limit) + 1, b.gdt.bytes.len());
        for s in [b.entry.code, b.entry.data] {
            let d = value(&b.gdt.bytes, usize::from(s.selector), 8);
            assert_eq!((d >> 40 & 0xff | d >> 44 & 0xf00) as u16, s.attr.bits());
            assert_eq!((s.base, s.limit), (0, u32::MAX));
        }
    }

    #[test]
    fn a_machine_too_small_for_the_kernel_is_told_how_much_it_needs() {
        let k = bzimage(0x20f, 5 * MIB);
        let wanted = 16 * MIB + 32 * MIB + 0x1_0000;
        let small = plan(&k.header, k.len, 0, "", &machine(32 * MIB, 1));
        assert_eq!(
            small,
            Err(LinuxError::TooLittleMemory {
                wanted,
                have: 32 * MIB
            })
        );
        assert!(small.unwrap_err().to_string().contains("49 MiB"));
        assert!(
            plan(
                &k.header,
                k.len,
                0,
                "",
                &machine(wanted.next_multiple_of(MIB), 1)
            )
            .is_ok()
        );
    }

    #[test]
    fn the_initrd_stays_between_kernel_and_its_limit() {
        let mut k = bzimage(0x20f, MIB);
        k.header[0x22c..0x230].copy_from_slice(&0x37ff_ffffu32.to_le_bytes());
        let b = plan(&k.header, k.len, MIB, "", &machine(3 << 30, 1)).unwrap();
        assert_eq!(b.copies[1].to, Gpa(0x3800_0000 - MIB));
        let max = 256 * MIB - 0x1_0000 - 48 * MIB;
        let plan = |len| plan(&k.header, k.len, len, "", &machine(256 * MIB, 1));
        assert!(plan(max).is_ok());
        assert_eq!(
            plan(max + 1),
            Err(LinuxError::InitrdTooLarge { len: max + 1, max })
        );
        assert!(plan(u64::MAX).is_err());
    }

    #[test]
    fn the_command_line_may_be_as_long_as_the_kernel_allows() {
        let k = bzimage(0x20f, MIB);
        let plan = |line: &str| plan(&k.header, k.len, 0, line, &machine(256 * MIB, 1));
        assert!(plan(&"x".repeat(2047)).is_ok());
        assert_eq!(
            plan(&"x".repeat(2048)),
            Err(LinuxError::CommandLineTooLong {
                len: 2048,
                max: 2047
            })
        );
        assert_eq!(plan("a\0b"), Err(LinuxError::CommandLineNul));
    }

    #[test]
    fn random_headers_are_survived() {
        let good = bzimage(0x20f, 5 * MIB);
        let mut random = Random::new(0x2545_f491_4f6c_dd1d);
        let mut next = || random.next();
        for round in 0..20_000 {
            let mut header = good.header.clone();
            for _ in 0..1 + next() % 8 {
                let at = 0x1f1 + next() as usize % 0x80;
                if !(0x1fe..0x206).contains(&at) {
                    header[at] = next() as u8;
                }
            }
            if round % 7 == 0 {
                header.truncate(next() as usize % 0x300);
            }
            let len = if round % 5 == 0 { next() } else { good.len };
            let d = machine((next() % 4096 + 1) << 20, 1);
            if let Ok(b) = plan(&header, len, next() >> (next() % 64), "x", &d) {
                for c in &b.copies {
                    assert!(
                        c.to.0 >= MIB
                            && c.to.0 + (c.range.end - c.range.start) <= table_area(&d).start
                    );
                }
            }
        }
    }

    #[test]
    fn a_kernel_of_the_system_is_understood() {
        let Ok(dir) = std::fs::read_dir("/boot") else {
            return eprintln!("SKIPPED: no /boot");
        };
        for file in dir
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().starts_with("vmlinuz"))
        {
            let Ok(bytes) = std::fs::read(file.path()) else {
                continue;
            };
            let b = plan(
                &bytes[..HEADER_LEN],
                bytes.len() as u64,
                MIB,
                "",
                &machine(1 << 30, 1),
            )
            .unwrap();
            assert!(b.protocol >= 0x206);
        }
    }
}
