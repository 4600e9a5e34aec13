//! How a kernel's stack is unwound: its ORC tables (Linux, Documentation/arch/x86/orc-unwinder.rst) as DWARF's call frame information
//! (DWARF 5, 6.4), which debuggers know.

use goblin::elf::Elf;

/// Rows of a table that are one entry of DWARF's at most: a debugger reads one from its beginning.
const ROWS: usize = 64;

/// DWARF's numbers of registers (System V ABI for AMD64, figure 3.36).
mod reg {
    pub const RBP: u8 = 6;
    pub const RSP: u8 = 7;
    pub const RIP: u8 = 16;
    /// Those of `struct pt_regs`, in its order, up to RDI.
    pub const SAVED: [u8; 15] = [15, 14, 13, 12, 6, 3, 11, 10, 9, 8, 0, 2, 1, 4, 5];
}
/// DWARF's operations.
mod op {
    pub const ADVANCE4: u8 = 4;
    pub const UNDEFINED: u8 = 7;
    pub const SAME: u8 = 8;
    pub const DEF_CFA: u8 = 12;
    pub const DEF_CFA_EXPRESSION: u8 = 15;
    pub const OFFSET_SIGNED: u8 = 17;
    pub const BREG0: u8 = 0x70;
    pub const DEREF: u8 = 6;
    pub const PLUS_CONST: u8 = 0x23;
}

/// A row: from `at` on, with ORC's values.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Row {
    at: u64,
    sp: i16,
    bp: i16,
    regs: u8,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing is known, or there is nobody above.
    End,
    /// A function, with the address of its return.
    Call,
    /// All registers are on the stack, or those of the processor's own frame.
    Regs,
    Frame,
}

/// The section `.debug_frame` of a kernel that has ORC's tables.
pub fn frames(kernel: &[u8], elf: &Elf<'_>) -> Option<Vec<u8>> {
    let section = |name: &str| {
        let mut all = elf.section_headers.iter();
        let header = all.find(|h| elf.shdr_strtab.get_at(h.sh_name) == Some(name))?;
        Some((header.sh_addr, kernel.get(header.file_range()?)?))
    };
    let (start, addresses) = section(".orc_unwind_ip")?;
    let (_, entries) = section(".orc_unwind")?;
    // Since Linux 6.4 the kinds begin with those that end.
    let new = section(".orc_header").is_some();
    let rows = addresses
        .chunks_exact(4)
        .zip(entries.chunks_exact(6))
        .zip(0..);
    let rows = rows.map(|((at, entry), n)| {
        let from = start.wrapping_add(4 * n);
        let at = i32::from_le_bytes([at[0], at[1], at[2], at[3]]);
        let kind = match (new, entry[5] & if new { 7 } else { 3 }) {
            (true, 2) | (false, 0) => Kind::Call,
            (true, 3) | (false, 1) => Kind::Regs,
            (true, 4) | (false, 2) => Kind::Frame,
            _ => Kind::End,
        };
        Row {
            at: from.wrapping_add(i64::from(at) as u64),
            sp: i16::from_le_bytes([entry[0], entry[1]]),
            bp: i16::from_le_bytes([entry[2], entry[3]]),
            regs: entry[4],
            kind,
        }
    });
    Some(write(&rows.collect::<Vec<_>>()))
}

fn uleb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn sleb(out: &mut Vec<u8>, mut value: i64) {
    while !(-0x40..0x40).contains(&value) {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8 & 0x7f);
}

/// Adds an entry with its length before it, and what aligns it behind.
fn entry(out: &mut Vec<u8>, mut body: Vec<u8>) {
    // An address has to follow twelve bytes.
    body.resize((body.len() + 4).next_multiple_of(8) - 4, 0);
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
}

fn write(rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::new();
    // Common information: a frame of a function, and one of an interrupt.
    let mut commons = [0; 2];
    for (place, augmentation) in commons.iter_mut().zip(["", "S"]) {
        *place = out.len() as u32;
        let mut body = [&[0xff; 4][..], &[1], augmentation.as_bytes(), &[0, 1, 1]].concat();
        body.push(reg::RIP);
        entry(&mut out, body);
    }
    let mut rest = rows;
    while let Some((first, _)) = rest.split_first() {
        let interrupt = |row: &Row| matches!(row.kind, Kind::Regs | Kind::Frame);
        let alike = rest
            .iter()
            .take(ROWS)
            .take_while(|row| interrupt(row) == interrupt(first));
        let (these, later) = rest.split_at(alike.count());
        rest = later;
        let Some(end) = later.first().map(|row| row.at) else {
            break;
        };
        let mut body = commons[usize::from(interrupt(first))]
            .to_le_bytes()
            .to_vec();
        body.extend(first.at.to_le_bytes());
        body.extend(end.wrapping_sub(first.at).to_le_bytes());
        let mut at = first.at;
        for row in these {
            if row.at != at {
                body.push(op::ADVANCE4);
                body.extend((row.at.wrapping_sub(at) as u32).to_le_bytes());
                at = row.at;
            }
            rules(&mut body, row);
        }
        entry(&mut out, body);
    }
    out
}

/// The rules of a row.
fn rules(out: &mut Vec<u8>, row: &Row) {
    // ORC's registers: 2 RDX, 3 RDI, 4 RBP, 5 RSP, 6 R10, 7 R13, 8 what RBP points to, 9 what RSP points to.
    let base = [0, 0, 1, 5, reg::RBP, reg::RSP, 10, 13][usize::from(row.regs & 7)];
    let sp = i64::from(row.sp);
    match row.regs & 15 {
        2..=7 if row.kind != Kind::End && sp >= 0 => {
            out.extend([op::DEF_CFA, base]);
            uleb(out, sp as u64);
        }
        indirect @ 8..=9 if row.kind != Kind::End => {
            let mut expression = vec![op::BREG0 + if indirect == 8 { reg::RBP } else { reg::RSP }];
            sleb(&mut expression, if indirect == 8 { sp } else { 0 });
            expression.push(op::DEREF);
            if indirect == 9 {
                expression.push(op::PLUS_CONST);
                uleb(&mut expression, sp.max(0) as u64);
            }
            out.push(op::DEF_CFA_EXPRESSION);
            uleb(out, expression.len() as u64);
            out.extend(expression);
        }
        _ => {
            out.extend([op::DEF_CFA, reg::RSP, 8, op::UNDEFINED, reg::RIP]);
            return;
        }
    }
    let mut saved = |register: u8, offset: i64| {
        out.extend([op::OFFSET_SIGNED, register]);
        sleb(out, offset);
    };
    match row.kind {
        // `struct pt_regs`: 15 registers, the error code, then the processor's frame.
        Kind::Regs => {
            (0..)
                .zip(reg::SAVED)
                .for_each(|(n, register)| saved(register, 8 * n));
            saved(reg::RIP, 16 * 8);
            saved(reg::RSP, 19 * 8);
        }
        Kind::Frame => {
            saved(reg::RIP, 0);
            saved(reg::RSP, 3 * 8);
        }
        Kind::Call | Kind::End => {
            saved(reg::RIP, -8);
            match row.regs >> 4 {
                1 => saved(reg::RBP, i64::from(row.bp)),
                _ => out.extend([op::SAME, reg::RBP]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_dwarf_has_them() {
        let mut out = Vec::new();
        uleb(&mut out, 624485);
        sleb(&mut out, -2);
        sleb(&mut out, -129);
        sleb(&mut out, 127);
        assert_eq!(out, [0xe5, 0x8e, 0x26, 0x7e, 0xff, 0x7e, 0xff, 0]);
    }

    #[test]
    fn a_function_and_an_interrupt_are_entries_of_two_kinds() {
        let row = |at, sp, regs, kind| Row {
            at,
            sp,
            bp: -16,
            regs,
            kind,
        };
        let rows = [
            row(0x1000, 8, 5, Kind::Call),
            row(0x1001, 16, 0x15, Kind::Call),
            row(0x2000, 0, 5, Kind::Regs),
            row(0x3000, 0, 0, Kind::End),
        ];
        let out = write(&rows);
        let call = [
            op::DEF_CFA,
            7,
            8,
            op::OFFSET_SIGNED,
            16,
            0x78,
            op::SAME,
            6,
            op::ADVANCE4,
            1,
            0,
            0,
            0,
        ];
        let pushed = [
            op::DEF_CFA,
            7,
            16,
            op::OFFSET_SIGNED,
            16,
            0x78,
            op::OFFSET_SIGNED,
            6,
            0x70,
        ];
        let body = [
            &0x1000u64.to_le_bytes()[..],
            &0x1000u64.to_le_bytes(),
            &call,
            &pushed,
        ]
        .concat();
        assert!(out.windows(body.len()).any(|part| part == body));
        // R15 is first in pt_regs; RSP is in the processor's frame.
        let regs = [op::DEF_CFA, 7, 0, op::OFFSET_SIGNED, 15, 0];
        assert!(out.windows(regs.len()).any(|part| part == regs));
        assert!(out.len().is_multiple_of(8));
    }
}
