//! Sizes in bytes.

/// Mebibyte.
pub const MIB: u64 = 1 << 20;

/// The number of bytes in `text`: a number with G or T or one of the `smaller` units behind it, or with none, which stands for the unit
/// `usual`. Units may be written as M, MB and MiB, in small letters too. None: it is no size.
pub fn bytes(text: &str, smaller: &[(char, u64)], usual: char) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..)?.to_ascii_lowercase();
    let mut letters = unit.chars();
    let letter = letters.next().unwrap_or(usual);
    if !["", "b", "ib"].contains(&letters.as_str()) {
        return None;
    }
    let mut units = smaller.iter().chain(&[('g', 1 << 30), ('t', 1 << 40)]);
    let (_, unit) = units.find(|(name, _)| *name == letter)?;
    digits.parse::<u64>().ok()?.checked_mul(*unit)
}
