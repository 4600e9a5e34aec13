//! Integer arithmetic and its flags, as pure functions of operands and RFLAGS (SDM vol 1 appendix A, "EFLAGS
//! Cross-Reference"). Sizes are in bytes: 1, 2, 4 or 8. Results have no bits above the size.
//!
//! Where a manual leaves a flag undefined, the function leaves it as it was or does what is simplest.

/// Carry.
pub(super) const CF: u64 = 1 << 0;
/// Parity.
pub(super) const PF: u64 = 1 << 2;
/// Auxiliary carry.
pub(super) const AF: u64 = 1 << 4;
/// Zero.
pub(super) const ZF: u64 = 1 << 6;
/// Sign.
pub(super) const SF: u64 = 1 << 7;
/// Overflow.
pub(super) const OF: u64 = 1 << 11;
/// The six arithmetic flags.
pub(super) const ARITH: u64 = CF | PF | AF | ZF | SF | OF;

/// All ones of `size` bytes.
pub(super) const fn mask(size: usize) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The bits of `size` bytes.
const fn bits(size: usize) -> u32 {
    size as u32 * 8
}

/// The top bit of a value of `size` bytes, as 0 or 1.
const fn msb(size: usize, v: u64) -> u64 {
    v >> (bits(size) - 1) & 1
}

/// `v` of `size` bytes extended with its sign to 64 bits.
pub(super) const fn sign_extend(size: usize, v: u64) -> u64 {
    let shift = 64 - bits(size);
    ((v << shift) as i64 >> shift) as u64
}

const fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

/// PF, ZF and SF of a result.
pub(super) const fn result_flags(size: usize, r: u64) -> u64 {
    flag((r as u8).count_ones().is_multiple_of(2), PF)
        | flag(r & mask(size) == 0, ZF)
        | flag(msb(size, r) != 0, SF)
}

/// A result and the new RFLAGS.
pub(super) type Result2 = (u64, u64);

/// ADD, and ADC with `carry`.
pub(super) const fn add(size: usize, a: u64, b: u64, carry: bool, flags: u64) -> Result2 {
    let (a, b) = (a & mask(size), b & mask(size));
    let wide = a as u128 + b as u128 + carry as u128;
    let r = wide as u64 & mask(size);
    let f = flag(wide >> bits(size) != 0, CF)
        | flag((a ^ b ^ r) & 0x10 != 0, AF)
        | flag(msb(size, (a ^ r) & (b ^ r)) != 0, OF)
        | result_flags(size, r);
    (r, flags & !ARITH | f)
}

/// SUB and CMP, and SBB with `borrow`.
pub(super) const fn sub(size: usize, a: u64, b: u64, borrow: bool, flags: u64) -> Result2 {
    let (a, b) = (a & mask(size), b & mask(size));
    let r = a.wrapping_sub(b).wrapping_sub(borrow as u64) & mask(size);
    let f = flag((a as u128) < b as u128 + borrow as u128, CF)
        | flag((a ^ b ^ r) & 0x10 != 0, AF)
        | flag(msb(size, (a ^ b) & (a ^ r)) != 0, OF)
        | result_flags(size, r);
    (r, flags & !ARITH | f)
}

/// The flags of AND, OR, XOR and TEST: CF and OF clear; AF is undefined and cleared.
pub(super) const fn logic(size: usize, r: u64, flags: u64) -> Result2 {
    let r = r & mask(size);
    (r, flags & !ARITH | result_flags(size, r))
}

/// INC: all flags but CF.
pub(super) const fn inc(size: usize, a: u64, flags: u64) -> Result2 {
    let (r, f) = add(size, a, 1, false, flags);
    (r, f & !CF | flags & CF)
}

/// DEC: all flags but CF.
pub(super) const fn dec(size: usize, a: u64, flags: u64) -> Result2 {
    let (r, f) = sub(size, a, 1, false, flags);
    (r, f & !CF | flags & CF)
}

/// SHL.
pub(super) const fn shl(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    if count == 0 {
        return (a, flags);
    }
    let wide = (a as u128) << count;
    let r = wide as u64 & mask(size);
    let carry = wide >> bits(size) & 1 != 0;
    let f = flag(carry, CF) | flag(carry as u64 != msb(size, r), OF) | result_flags(size, r);
    (r, flags & !(ARITH & !AF) | f)
}

/// SHR.
pub(super) const fn shr(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    if count == 0 {
        return (a, flags);
    }
    let r = a >> count;
    let f =
        flag(a >> (count - 1) & 1 != 0, CF) | flag(msb(size, a) != 0, OF) | result_flags(size, r);
    (r, flags & !(ARITH & !AF) | f)
}

/// SAR.
pub(super) const fn sar(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    if count == 0 {
        return (a, flags);
    }
    let wide = sign_extend(size, a) as i64;
    let r = (wide >> count) as u64 & mask(size);
    let f = flag(wide >> (count - 1) & 1 != 0, CF) | result_flags(size, r);
    (r, flags & !(ARITH & !AF) | f)
}

/// ROL.
pub(super) const fn rol(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    if count == 0 {
        return (a, flags);
    }
    let n = count as u32 % bits(size);
    let r = if n == 0 {
        a
    } else {
        (a << n | a >> (bits(size) - n)) & mask(size)
    };
    let carry = r & 1;
    (
        r,
        flags & !(CF | OF) | flag(carry != 0, CF) | flag(carry != msb(size, r), OF),
    )
}

/// ROR.
pub(super) const fn ror(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    if count == 0 {
        return (a, flags);
    }
    let n = count as u32 % bits(size);
    let r = if n == 0 {
        a
    } else {
        (a >> n | a << (bits(size) - n)) & mask(size)
    };
    let f = flag(msb(size, r) != 0, CF) | flag(msb(size, r) != msb(size, r << 1), OF);
    (r, flags & !(CF | OF) | f)
}

/// RCL: rotates the operand with CF above its top bit.
pub(super) const fn rcl(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    let n = count as u32 % (bits(size) + 1);
    if n == 0 {
        return (a, flags);
    }
    let all = ((flags & CF) as u128) << bits(size) | a as u128;
    let turned = all << n | all >> (bits(size) + 1 - n);
    let r = turned as u64 & mask(size);
    let carry = (turned >> bits(size) & 1) as u64;
    (
        r,
        flags & !(CF | OF) | carry | flag(carry != msb(size, r), OF),
    )
}

/// RCR: rotates the operand with CF above its top bit.
pub(super) const fn rcr(size: usize, a: u64, count: u64, flags: u64) -> Result2 {
    let (a, count) = (a & mask(size), count & if size == 8 { 63 } else { 31 });
    let n = count as u32 % (bits(size) + 1);
    if n == 0 {
        return (a, flags);
    }
    let all = ((flags & CF) as u128) << bits(size) | a as u128;
    let turned = all >> n | all << (bits(size) + 1 - n);
    let r = turned as u64 & mask(size);
    let carry = (turned >> bits(size) & 1) as u64;
    (
        r,
        flags & !(CF | OF) | carry | flag(msb(size, r) != msb(size, r << 1), OF),
    )
}

/// SHLD: shifts `a` left, filling with the top bits of `b`. Results of 16-bit operands with counts above 16 are undefined;
/// here `a` follows `b`.
pub(super) const fn shld(size: usize, a: u64, b: u64, count: u64, flags: u64) -> Result2 {
    let (a, b, count) = (
        a & mask(size),
        b & mask(size),
        count & if size == 8 { 63 } else { 31 },
    );
    if count == 0 {
        return (a, flags);
    }
    let n = count as u32;
    let (r, carry) = if size == 2 {
        let all = a << 32 | b << 16 | a;
        ((all << n >> 32) & 0xffff, all >> (48 - n) & 1)
    } else {
        (
            (a << n | b >> (bits(size) - n)) & mask(size),
            a >> (bits(size) - n) & 1,
        )
    };
    let f = carry | flag(msb(size, r ^ a) != 0, OF) | result_flags(size, r);
    (r, flags & !(ARITH & !AF) | f)
}

/// SHRD: shifts `a` right, filling with the low bits of `b`.
pub(super) const fn shrd(size: usize, a: u64, b: u64, count: u64, flags: u64) -> Result2 {
    let (a, b, count) = (
        a & mask(size),
        b & mask(size),
        count & if size == 8 { 63 } else { 31 },
    );
    if count == 0 {
        return (a, flags);
    }
    let n = count as u32;
    let (r, carry) = if size == 2 {
        let all = a << 32 | b << 16 | a;
        (all >> n & 0xffff, all >> (n - 1) & 1)
    } else {
        (
            (a >> n | b << (bits(size) - n)) & mask(size),
            a >> (n - 1) & 1,
        )
    };
    let f = carry | flag(msb(size, r ^ a) != 0, OF) | result_flags(size, r);
    (r, flags & !(ARITH & !AF) | f)
}

/// MUL (`signed` false) and one-operand IMUL: the low and high halves of the product and the new RFLAGS. CF and OF tell
/// whether the high half is significant.
pub(super) const fn mul(size: usize, a: u64, b: u64, signed: bool, flags: u64) -> (u64, u64, u64) {
    let (lo, hi, big) = if signed {
        let p = sign_extend(size, a) as i64 as i128 * sign_extend(size, b) as i64 as i128;
        let lo = p as u64 & mask(size);
        (
            lo,
            (p >> bits(size)) as u64 & mask(size),
            sign_extend(size, lo) as i64 as i128 != p,
        )
    } else {
        let p = (a & mask(size)) as u128 * (b & mask(size)) as u128;
        let hi = (p >> bits(size)) as u64 & mask(size);
        (p as u64 & mask(size), hi, hi != 0)
    };
    (lo, hi, flags & !(CF | OF) | flag(big, CF | OF))
}

/// DIV and IDIV of the double-width `hi:lo`: quotient and remainder, or `None` for #DE.
pub(super) const fn div(
    size: usize,
    hi: u64,
    lo: u64,
    by: u64,
    signed: bool,
) -> Option<(u64, u64)> {
    let (hi, lo, by) = (hi & mask(size), lo & mask(size), by & mask(size));
    let n = (hi as u128) << bits(size) | lo as u128;
    if by == 0 {
        return None;
    }
    if signed {
        let shift = 128 - 2 * bits(size);
        let n = (n << shift) as i128 >> shift;
        let by = sign_extend(size, by) as i64 as i128;
        let (Some(q), Some(r)) = (n.checked_div(by), n.checked_rem(by)) else {
            return None;
        };
        let short = q as u64 & mask(size);
        if sign_extend(size, short) as i64 as i128 != q {
            return None;
        }
        Some((short, r as u64 & mask(size)))
    } else {
        let q = n / by as u128;
        if q > mask(size) as u128 {
            return None;
        }
        Some((q as u64, (n % by as u128) as u64))
    }
}

/// Whether condition `cc` (the low four bits of Jcc's opcode) holds (SDM vol 1 appendix B, "EFLAGS Condition Codes").
pub(super) const fn condition(cc: u8, flags: u64) -> bool {
    let less = (flags & SF != 0) != (flags & OF != 0);
    let holds = match cc >> 1 & 7 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => less || flags & ZF != 0,
    };
    holds != (cc & 1 != 0)
}

/// DAA and DAS (`sub`): the new AL and RFLAGS.
pub(super) const fn decimal_adjust(al: u8, sub: bool, flags: u64) -> (u8, u64) {
    let low = al & 0xf > 9 || flags & AF != 0;
    let high = al > 0x99 || flags & CF != 0;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let r = if sub {
        al.wrapping_sub(by)
    } else {
        al.wrapping_add(by)
    };
    // DAS also reports the borrow out of its first step.
    let borrow = sub && low && al < 6;
    let f = flag(low, AF) | flag(high || borrow, CF) | result_flags(1, r as u64);
    (r, flags & !ARITH | f)
}

/// AAA and AAS (`sub`): the new AX and RFLAGS.
pub(super) const fn ascii_adjust(ax: u16, sub: bool, flags: u64) -> (u16, u64) {
    let adjust = ax & 0xf > 9 || flags & AF != 0;
    let r = match (adjust, sub) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    } & 0xff0f;
    (r, flags & !(AF | CF) | flag(adjust, AF | CF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adc_of_all_ones_and_carry_carries() {
        assert_eq!(
            add(8, u64::MAX, u64::MAX, true, 0),
            (u64::MAX, CF | AF | SF | PF)
        );
        assert_eq!(add(1, 0x7f, 0, true, 0).1, AF | SF | OF);
    }

    #[test]
    fn sbb_borrows_when_only_the_carry_makes_it_negative() {
        assert_eq!(sub(4, 0, 0xffff_ffff, true, 0).0, 0);
        assert_eq!(sub(4, 0, 0xffff_ffff, true, 0).1 & CF, CF);
        assert_eq!(sub(8, 0, u64::MAX, true, 0).1 & CF, CF);
    }

    #[test]
    fn shift_by_zero_after_masking_changes_no_flag() {
        assert_eq!(shl(4, 0x8000_0001, 32, ARITH), (0x8000_0001, ARITH));
        assert_eq!(shr(8, 1, 64, ARITH), (1, ARITH));
    }

    #[test]
    fn rotate_through_carry_counts_modulo_width_plus_one() {
        assert_eq!(rcl(1, 0x80, 9, CF).0, 0x80);
        assert_eq!(rcl(1, 0x80, 1, 0), (0, CF | OF));
        assert_eq!(rcr(2, 1, 1, CF).0, 0x8000);
    }

    #[test]
    fn idiv_of_the_most_negative_number_by_minus_one_is_a_divide_error() {
        assert_eq!(div(4, 0xffff_ffff, 0x8000_0000, 0xffff_ffff, true), None);
        assert_eq!(div(8, 1 << 63, 0, u64::MAX, true), None);
        assert_eq!(div(1, 0xff, 0x80, 1, true), Some((0x80, 0)));
        assert_eq!(div(8, 1, 0, 1, false), None);
    }

    #[test]
    fn daa_of_9c_without_flags_is_02_with_carry() {
        // SDM vol 2A, "DAA - Decimal Adjust AL after Addition"; also DAS's own example 35h - 47h = EEh -> 88h.
        assert_eq!(decimal_adjust(0x9c, false, 0).0, 0x02);
        assert_eq!(decimal_adjust(0xae, false, 0), (0x14, AF | CF | PF));
        assert_eq!(
            decimal_adjust(0xee, true, CF | AF),
            (0x88, AF | CF | SF | PF)
        );
    }
}
