//! What a hypercall asks for (TLFS, "Hypercall Interface", "Virtual Interrupt Controller", "Virtual MMU"). Reading one has no effect but
//! to copy its input, once, out of guest memory; every value in it is the guest's.
//!
//! There is nothing that takes long: a flush forgets everything at once, however many addresses are listed, so that a call with
//! repetitions is always complete when it returns.

use crate::Gpa;
use crate::machine::MAX_CPUS;

/// Call codes.
mod code {
    pub const FLUSH_SPACE: u16 = 0x0002;
    pub const FLUSH_LIST: u16 = 0x0003;
    pub const NOTIFY_LONG_SPIN_WAIT: u16 = 0x0008;
    pub const SEND_CLUSTER_IPI: u16 = 0x000b;
    pub const FLUSH_SPACE_EX: u16 = 0x0013;
    pub const FLUSH_LIST_EX: u16 = 0x0014;
    pub const SEND_CLUSTER_IPI_EX: u16 = 0x0015;
    pub const POST_MESSAGE: u16 = 0x005c;
    pub const SIGNAL_EVENT: u16 = 0x005d;
}

/// What comes back in bits 15:0 of the result, but for success (TLFS, "Hypercall Status Codes").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Status {
    InvalidHypercallCode = 2,
    InvalidHypercallInput = 3,
    InvalidAlignment = 4,
    InvalidParameter = 5,
    AccessDenied = 6,
}

/// Virtual CPUs: bit n is VP index n. Those that there cannot be are left out.
pub type Cpus = u32;
const _: () = assert!(MAX_CPUS == Cpus::BITS);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// These CPUs forget all translations of linear addresses.
    Flush(Cpus),
    /// These CPUs get an interrupt with this vector, 16 or above.
    Ipi(Cpus, u8),
    /// The CPU that calls has waited long for another one.
    LongSpinWait,
}

/// Copies guest memory; false if not all of it is there.
pub type Read<'a> = &'a mut dyn FnMut(Gpa, &mut [u8]) -> bool;

const PAGE: u64 = 0x1000;

/// The registers with the parameters of a fast call: two general ones, or pairs of them, then XMM0 to XMM5 (TLFS, "Fast Hypercall
/// Interface"). The first two have the addresses of input and output of a call that is not fast.
pub type Registers = [u64; 14];

/// All of them: the first two, and what `xmm` says of the others.
#[must_use]
pub fn registers([a, b]: [u64; 2], xmm: impl Fn(usize) -> [u8; 16]) -> Registers {
    let mut all = [a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (n, pair) in all[2..].chunks_exact_mut(2).enumerate() {
        let value = u128::from_le_bytes(xmm(n));
        pair.copy_from_slice(&[value as u64, (value >> 64) as u64]);
    }
    all
}

/// The input value (TLFS, "Hypercall Inputs").
#[derive(Clone, Copy)]
struct Input(u64);

impl Input {
    fn code(self) -> u16 {
        self.0 as u16
    }

    /// Parameters are in registers.
    fn fast(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// The length of the variable part of the header in units of 8 bytes.
    fn variable(self) -> u64 {
        self.0 >> 17 & 0x3ff
    }

    fn count(self) -> u64 {
        self.0 >> 32 & 0xfff
    }

    fn start(self) -> u64 {
        self.0 >> 48 & 0xfff
    }

    /// Reserved bits, and bit 31: for the hypervisor below this one, of which guests are told nothing.
    fn reserved(self) -> bool {
        self.0 & (0x1f << 27 | 0xf << 44 | 0xf << 60) != 0
    }

    /// The header as it has to be: without repetitions, or with them.
    fn check(self, repeats: bool, has_variable: bool) -> Result<(), Status> {
        let counts = match repeats {
            true => self.start() < self.count(),
            false => self.start() == 0 && self.count() == 0,
        };
        match !self.reserved() && counts && (has_variable || self.variable() == 0) {
            true => Ok(()),
            false => Err(Status::InvalidHypercallInput),
        }
    }
}

/// The parameters.
struct Parameters<'a> {
    input: Input,
    registers: Registers,
    read: Read<'a>,
}

impl Parameters<'_> {
    /// The first `N` values of 8 bytes, of a header that has `fixed` of them besides its variable part.
    fn header<const N: usize>(&mut self) -> Result<[u64; N], Status> {
        let mut values = [0; N];
        let all = N as u64 + self.input.variable() + self.input.count();
        let at = self.registers[0];
        if self.input.fast() {
            if all > self.registers.len() as u64 {
                return Err(Status::InvalidHypercallInput);
            }
        } else if !at.is_multiple_of(8) || at % PAGE + 8 * all > PAGE {
            return Err(Status::InvalidAlignment);
        }
        for (n, value) in values.iter_mut().enumerate() {
            *value = self.value(n)?;
        }
        Ok(values)
    }

    /// Value `n`. A page that is not there is an address outside the guest's (TLFS, "Alignment Requirements").
    fn value(&mut self, n: usize) -> Result<u64, Status> {
        if self.input.fast() {
            let value = self.registers.get(n).copied();
            return value.ok_or(Status::InvalidHypercallInput);
        }
        let at = self.registers[0].wrapping_add(8 * n as u64);
        let mut bytes = [0; 8];
        match (self.read)(Gpa(at), &mut bytes) {
            true => Ok(u64::from_le_bytes(bytes)),
            false => Err(Status::InvalidAlignment),
        }
    }

    /// The CPUs of a set (TLFS, "Sparse Virtual Processor Set") whose banks are behind `N` values.
    fn set<const N: usize>(&mut self, format: u64, banks: u64) -> Result<Cpus, Status> {
        const SPARSE: u64 = 0;
        const ALL: u64 = 1;
        match format {
            ALL => return Ok(Cpus::MAX),
            SPARSE => {}
            _ => return Err(Status::InvalidParameter),
        }
        if u64::from(banks.count_ones()) != self.input.variable() {
            return Err(Status::InvalidHypercallInput);
        }
        // All CPUs are in the first bank.
        if banks & 1 == 0 {
            return Ok(0);
        }
        self.value(N).map(|bank| bank as Cpus)
    }
}

/// Flags of a flush: all CPUs, all address spaces, global translations need not go, ranges are longer.
const FLUSH_ALL_CPUS: u64 = 1 << 0;
const FLUSH_FLAGS: u64 = 0xf;

fn flags(flags: u64) -> Result<bool, Status> {
    match flags & !FLUSH_FLAGS {
        0 => Ok(flags & FLUSH_ALL_CPUS != 0),
        _ => Err(Status::InvalidParameter),
    }
}

/// The vector, of a value whose upper half is a virtual trust level, of which there is only the lowest.
fn ipi(cpus: Cpus, what: u64) -> Result<Call, Status> {
    match what {
        0x10..=0xff => Ok(Call::Ipi(cpus, what as u8)),
        _ => Err(Status::InvalidParameter),
    }
}

/// Reads a hypercall: its input value, and the registers that have its parameters or the addresses of input and output.
///
/// # Errors
/// The status that the guest gets.
pub fn parse(input: u64, registers: Registers, read: Read<'_>) -> Result<Call, Status> {
    let input = Input(input);
    let mut p = Parameters {
        input,
        registers,
        read,
    };
    let code = input.code();
    let (repeats, has_variable) = match code {
        code::FLUSH_SPACE | code::SEND_CLUSTER_IPI | code::NOTIFY_LONG_SPIN_WAIT => (false, false),
        code::FLUSH_LIST => (true, false),
        code::FLUSH_SPACE_EX | code::SEND_CLUSTER_IPI_EX => (false, true),
        code::FLUSH_LIST_EX => (true, true),
        // There is no port or connection that the guest could name.
        code::POST_MESSAGE | code::SIGNAL_EVENT => return Err(Status::AccessDenied),
        _ => return Err(Status::InvalidHypercallCode),
    };
    input.check(repeats, has_variable)?;
    match code {
        code::FLUSH_SPACE | code::FLUSH_LIST => {
            let [_space, how, mask] = p.header()?;
            let all = flags(how)?;
            Ok(Call::Flush(if all { Cpus::MAX } else { mask as Cpus }))
        }
        code::FLUSH_SPACE_EX | code::FLUSH_LIST_EX => {
            let [_space, how, format, banks] = p.header()?;
            let all = flags(how)?;
            let set = p.set::<4>(format, banks)?;
            Ok(Call::Flush(if all { Cpus::MAX } else { set }))
        }
        code::SEND_CLUSTER_IPI => {
            let [what, mask] = p.header()?;
            ipi(mask as Cpus, what)
        }
        code::SEND_CLUSTER_IPI_EX => {
            let [what, format, banks] = p.header()?;
            let set = p.set::<3>(format, banks)?;
            ipi(set, what)
        }
        _ => {
            let [_count] = p.header()?;
            Ok(Call::LongSpinWait)
        }
    }
}

/// The result value (TLFS, "Hypercall Outputs") of a call with this input value.
#[must_use]
pub fn result(input: u64, done: Result<(), Status>) -> u64 {
    match done {
        Ok(()) => Input(input).count() << 32,
        Err(status) => status as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::GuestMemory;
    use crate::testing::VecMemory;
    use alloc::vec::Vec;

    const FAST: u64 = 1 << 16;
    const AT: u64 = 0x1000;
    const GET: Status = Status::InvalidHypercallInput;

    /// Calls with these values in memory.
    fn slow(input: u64, at: u64, values: &[u64]) -> Result<Call, Status> {
        let m = VecMemory::new(0x4000);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let _ = m.write(Gpa(at), &bytes);
        let registers = registers([at, 0], |_| nothing());
        parse(input, registers, &mut |gpa, buf| m.read(gpa, buf).is_ok())
    }

    /// What no call is to look at.
    fn nothing() -> [u8; 16] {
        [0xff; 16]
    }

    fn fast(input: u64, first: [u64; 2]) -> Result<Call, Status> {
        fast_with(input, registers(first, |_| [0; 16]))
    }

    fn fast_with(input: u64, registers: Registers) -> Result<Call, Status> {
        parse(input | FAST, registers, &mut |_, _| {
            panic!("all is in registers")
        })
    }

    fn reps(count: u64, start: u64) -> u64 {
        count << 32 | start << 48
    }

    fn banks(count: u64) -> u64 {
        count << 17
    }

    #[test]
    fn linux_flushes_sends_and_waits() {
        assert_eq!(slow(2, AT, &[0x7000, 0, 0b1010]), Ok(Call::Flush(0b1010)));
        assert_eq!(slow(2, AT, &[0, 3, 0]), Ok(Call::Flush(u32::MAX)));
        assert_eq!(
            slow(3 | reps(2, 0), AT, &[0, 0, 1, 9, 9]),
            Ok(Call::Flush(1))
        );
        assert_eq!(fast(0xb, [0xf2, 0b110]), Ok(Call::Ipi(0b110, 0xf2)));
        assert_eq!(slow(0xb, AT, &[0xf2, 0b110]), Ok(Call::Ipi(0b110, 0xf2)));
        assert_eq!(fast(8, [0x1000, 0]), Ok(Call::LongSpinWait));
        let set = [0x7000, 0, 0, 1, 0b101];
        assert_eq!(slow(0x13 | banks(1), AT, &set), Ok(Call::Flush(0b101)));
        assert_eq!(slow(0x13, AT, &[0, 0, 1, 0]), Ok(Call::Flush(u32::MAX)));
        assert_eq!(
            slow(0x14 | banks(1) | reps(1, 0), AT, &set),
            Ok(Call::Flush(0b101))
        );
        assert_eq!(
            slow(0x15 | banks(1), AT, &[0x30, 0, 1, 6]),
            Ok(Call::Ipi(6, 0x30))
        );
        // CPUs that there cannot be.
        assert_eq!(
            slow(0x15 | banks(1), AT, &[0x30, 0, 2, 6]),
            Ok(Call::Ipi(0, 0x30))
        );
        assert_eq!(slow(2, AT, &[0, 0, 1 << 40]), Ok(Call::Flush(0)));
    }

    #[test]
    fn parameters_go_on_in_xmm_registers() {
        let xmm = |n: usize| {
            let value = [(1u128 << 64) | 1, 0b110, 0, 0, 0, 7][n];
            value.to_le_bytes()
        };
        let all = registers([0x7000, 0], xmm);
        assert_eq!(
            (all[2], all[3], all[4], all[12], all[13]),
            (1, 1, 0b110, 7, 0)
        );
        assert_eq!(fast_with(2, all), Ok(Call::Flush(1)));
        assert_eq!(
            fast_with(3 | reps(11, 0), all),
            Ok(Call::Flush(1)),
            "the last that fits"
        );
        let set = registers([0x7000, 0], |n| {
            [1u128 << 64, 0b101, 0, 0, 0, 0][n].to_le_bytes()
        });
        assert_eq!(fast_with(0x13 | banks(1), set), Ok(Call::Flush(0b101)));
        let ipi = registers([0x30, 0], |n| {
            [(6u128 << 64) | 1, 0, 0, 0, 0, 0][n].to_le_bytes()
        });
        assert_eq!(fast_with(0x15 | banks(1), ipi), Ok(Call::Ipi(6, 0x30)));
    }

    #[test]
    fn input_values_that_cannot_be_are_refused() {
        for bad in [
            1 << 27,
            1 << 31,
            1 << 44,
            1 << 63,
            reps(1, 0),
            reps(0, 1),
            banks(1),
        ] {
            assert_eq!(slow(2 | bad, AT, &[0; 4]), Err(GET), "{bad:#x}");
        }
        for (count, start) in [(0, 0), (2, 2), (1, 5)] {
            assert_eq!(slow(3 | reps(count, start), AT, &[0; 8]), Err(GET));
        }
        let too_much = fast(3 | reps(12, 0), [0, 3]);
        assert_eq!(too_much, Err(GET), "it does not fit into the registers");
        assert_eq!(fast(0x15 | banks(12), [0x30, 0]), Err(GET));
        // As many banks as the mask has bits.
        assert_eq!(slow(0x13 | banks(2), AT, &[0, 0, 0, 1, 1]), Err(GET));
        for (code, status) in [
            (0, Status::InvalidHypercallCode),
            (0x8001, Status::InvalidHypercallCode),
            (0x5c, Status::AccessDenied),
            (0x5d, Status::AccessDenied),
        ] {
            assert_eq!(slow(code, AT, &[0; 4]), Err(status), "{code:#x}");
        }
    }

    #[test]
    fn parameters_are_aligned_on_one_page_and_in_memory() {
        for at in [AT + 4, 0x1ff0, 0x4000, u64::MAX - 7] {
            assert_eq!(
                slow(2, at, &[0; 3]),
                Err(Status::InvalidAlignment),
                "{at:#x}"
            );
        }
        assert!(slow(2, 0x2000 - 24, &[0; 3]).is_ok());
        let list = 3 | reps(0xfff, 0);
        assert_eq!(slow(list, AT, &[0; 3]), Err(Status::InvalidAlignment));
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let bad = Err(Status::InvalidParameter);
        assert_eq!(slow(2, AT, &[0, 0x10, 1]), bad, "flags");
        assert_eq!(slow(0x13, AT, &[0, 0, 2, 0]), bad, "the format of the set");
        for what in [0, 0xf, 0x100, 1 << 32 | 0x30] {
            assert_eq!(fast(0xb, [what, 1]), bad, "{what:#x}");
        }
    }

    #[test]
    fn results_tell_of_repetitions_only_if_there_is_nothing_wrong() {
        assert_eq!(result(3 | reps(7, 1), Ok(())), 7 << 32);
        assert_eq!(result(3 | reps(7, 1), Err(Status::InvalidParameter)), 5);
    }
}
