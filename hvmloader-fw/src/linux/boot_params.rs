//! The boot parameters, or "zero page": what the kernel would have learnt from the firmware (the kernel's
//! Documentation/arch/x86/zero-page.rst, "Zero Page"). Only the fields below; all others are zero.

use super::header::START;
use crate::blob::Blob;
use crate::e820::{E820Entry, EXTENDED_MEMORY, direct_boot};
use crate::place::RSDP;
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::machine::MachineDesc;

const LEN: usize = 4096;

// screen_info
const EXT_MEM_KIB: usize = 0x02;
const VIDEO_MODE: usize = 0x06;
const VIDEO_COLUMNS: usize = 0x07;
const VIDEO_EGA_BX: usize = 0x0a;
const VIDEO_LINES: usize = 0x0e;
const VIDEO_IS_VGA: usize = 0x0f;
const VIDEO_POINTS: usize = 0x10;

const ACPI_RSDP_ADDR: usize = 0x070;
const ALT_MEM_KIB: usize = 0x1e0;
const E820_ENTRIES: usize = 0x1e8;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;

const TEXT_MODE_80X25: u8 = 3;
/// INT 10h AH=12h BL=10h: colour, 256 KiB.
const EGA_BX_256K: u16 = 3;
const VID_MODE_NORMAL: u16 = 0xffff;
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
/// End of the real-mode heap; the protected-mode entry does not use it.
const HEAP_END: u16 = 0xfe00;

/// What the plan has decided.
pub(super) struct Parameters<'a> {
    pub setup_header: &'a [u8],
    pub code32_start: u32,
    /// Address and length; 0, 0 without one.
    pub initrd: (u32, u32),
    pub command_line: Gpa,
}

pub(super) fn build(p: &Parameters<'_>, desc: &MachineDesc) -> Vec<u8> {
    let mut b = Blob::zeroed(LEN);
    b.set(START, p.setup_header);

    // The VGA as its BIOS would have left it, for vgacon.
    b.set8(VIDEO_MODE, TEXT_MODE_80X25)
        .set8(VIDEO_COLUMNS, 80)
        .set8(VIDEO_LINES, 25);
    b.set16(VIDEO_EGA_BX, EGA_BX_256K)
        .set8(VIDEO_IS_VGA, 1)
        .set16(VIDEO_POINTS, 16);
    b.set16(VID_MODE, VID_MODE_NORMAL);

    let extended_kib = desc.low_ram().saturating_sub(EXTENDED_MEMORY) >> 10;
    b.set16(EXT_MEM_KIB, extended_kib.min(0xffff) as u16)
        .set32(ALT_MEM_KIB, extended_kib as u32);
    let map = direct_boot(desc);
    b.set8(E820_ENTRIES, map.len() as u8);
    for (n, entry) in map.iter().enumerate() {
        b.set(E820_TABLE + n * E820Entry::SIZE, &entry.encode());
    }

    b.set64(ACPI_RSDP_ADDR, RSDP.0);
    let loadflags = b.0[LOADFLAGS] | LOADED_HIGH | CAN_USE_HEAP;
    b.set8(TYPE_OF_LOADER, LOADER_UNDEFINED)
        .set8(LOADFLAGS, loadflags)
        .set16(HEAP_END_PTR, HEAP_END);
    b.set32(CODE32_START, p.code32_start)
        .set32(CMD_LINE_PTR, p.command_line.0 as u32);
    b.set32(RAMDISK_IMAGE, p.initrd.0)
        .set32(RAMDISK_SIZE, p.initrd.1);
    b.0
}
