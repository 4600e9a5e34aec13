//! What processors without next-RIP saving and decode assists do not say about an intercepted instruction: its length, and
//! the operands of MOV to and from control and debug registers.
//!
//! The instruction is read from memory again, where another CPU may have replaced it meanwhile. So the answer is always to a
//! question with an expectation, and "that is not what is there" is one of the answers.

use super::decode::{Bytes, MAX_LEN};
use super::operand::gpr;
use super::system::system_register;
use super::{EmuCx, EmuFault, Mode};
use iced_x86::{DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// An intercepted instruction, as the exit code names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Intercepted {
    Cpuid,
    Hlt,
    Rdmsr,
    Wrmsr,
    /// VMMCALL, and Intel's VMCALL.
    Vmmcall,
    /// WBINVD and WBNOINVD.
    Wbinvd,
    Invd,
    Rdtsc,
    Rdtscp,
    Rdpmc,
    Rdpru,
    Xsetbv,
    Pause,
    /// MOV to or from a control register.
    MovCr,
    /// MOV to or from a debug register.
    MovDr,
    Clts,
    Lmsw,
    Smsw,
    Invlpg,
    Invlpga,
    Invpcid,
    Iret,
    Rsm,
    Monitor,
    Mwait,
    Pushf,
    Popf,
    /// INT n.
    Int,
    Int3,
    Into,
    /// INT1.
    Icebp,
    /// INT n, INT3 or INTO.
    SoftwareInterrupt,
    /// SGDT, SIDT, SLDT, STR.
    StoreTable,
    /// LGDT, LIDT, LLDT, LTR.
    LoadTable,
    /// VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    Svm,
    /// IN and OUT, INS and OUTS.
    Io,
    /// A far JMP or CALL, INT or IRET that switches tasks.
    TaskSwitch,
}

/// The length in bytes, 1 to 15, of the instruction at RIP if it is `what`; `None` if it is something else.
///
/// # Errors
/// The fault of fetching it.
pub fn length<C: EmuCx + ?Sized>(cx: &mut C, what: Intercepted) -> Result<Option<u8>, EmuFault> {
    let mode = Mode::of(cx);
    let mut bytes = Bytes::fetch(cx, mode)?;
    if let Some(answer) = quick(bytes.known(), mode.is_64(), what) {
        return Ok(answer);
    }
    match bytes.decode(cx, mode, DecoderOptions::AMD) {
        Ok(insn) => Ok(is(&insn, what).then_some(insn.len() as u8)),
        Err(EmuFault::UD) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The answer for instructions of fixed opcode bytes without operands in memory; `None` if it takes a decoder to tell.
fn quick(bytes: &[u8], is_64: bool, what: Intercepted) -> Option<Option<u8>> {
    use Intercepted::*;
    let wanted: &[u8] = match what {
        Cpuid => &[0x0f, 0xa2],
        Hlt => &[0xf4],
        Rdmsr => &[0x0f, 0x32],
        Wrmsr => &[0x0f, 0x30],
        Vmmcall => &[0x0f, 0x01, 0xd9],
        Wbinvd => &[0x0f, 0x09],
        Invd => &[0x0f, 0x08],
        Rdtsc => &[0x0f, 0x31],
        Rdtscp => &[0x0f, 0x01, 0xf9],
        Xsetbv => &[0x0f, 0x01, 0xd1],
        Clts => &[0x0f, 0x06],
        Iret => &[0xcf],
        Pushf => &[0x9c],
        Popf => &[0x9d],
        _ => return None,
    };
    let prefixes = bytes.iter().take_while(|b| is_prefix(**b, is_64)).count();
    let found = bytes.get(prefixes..prefixes + wanted.len())?;
    let len = prefixes + wanted.len();
    // Anything else is left to the decoder: there may be another encoding, and LOCK makes all of these invalid.
    let plain =
        found == wanted && len <= MAX_LEN && !bytes.iter().take(prefixes).any(|b| *b == 0xf0);
    plain.then_some(Some(len as u8))
}

/// Whether a byte is a legacy prefix or, in 64-bit mode, REX.
fn is_prefix(byte: u8, is_64: bool) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
    ) || (is_64 && matches!(byte, 0x40..=0x4f))
}

/// Whether a decoded instruction is `what`.
fn is(insn: &Instruction, what: Intercepted) -> bool {
    use Intercepted as I;
    use Mnemonic::*;
    let m = insn.mnemonic();
    match what {
        I::Cpuid => m == Cpuid,
        I::Hlt => m == Hlt,
        I::Rdmsr => m == Rdmsr,
        I::Wrmsr => m == Wrmsr,
        I::Vmmcall => matches!(m, Vmmcall | Vmcall),
        I::Wbinvd => matches!(m, Wbinvd | Wbnoinvd),
        I::Invd => m == Invd,
        I::Rdtsc => m == Rdtsc,
        I::Rdtscp => m == Rdtscp,
        I::Rdpmc => m == Rdpmc,
        I::Rdpru => m == Rdpru,
        I::Xsetbv => m == Xsetbv,
        I::Pause => m == Pause,
        I::MovCr => matches!(moves(insn), Some((SystemRegister::Control(_), ..))),
        I::MovDr => matches!(moves(insn), Some((SystemRegister::Debug(_), ..))),
        I::Clts => m == Clts,
        I::Lmsw => m == Lmsw,
        I::Smsw => m == Smsw,
        I::Invlpg => m == Invlpg,
        I::Invlpga => m == Invlpga,
        I::Invpcid => m == Invpcid,
        I::Iret => matches!(m, Iret | Iretd | Iretq),
        I::Rsm => m == Rsm,
        I::Monitor => matches!(m, Monitor | Monitorx),
        I::Mwait => matches!(m, Mwait | Mwaitx),
        I::Pushf => matches!(m, Pushf | Pushfd | Pushfq),
        I::Popf => matches!(m, Popf | Popfd | Popfq),
        I::Int => m == Int,
        I::Int3 => m == Int3,
        I::Into => m == Into,
        I::Icebp => m == Int1,
        I::SoftwareInterrupt => matches!(m, Int | Int3 | Into),
        I::StoreTable => matches!(m, Sgdt | Sidt | Sldt | Str),
        I::LoadTable => matches!(m, Lgdt | Lidt | Lldt | Ltr),
        I::Svm => matches!(m, Vmrun | Vmload | Vmsave | Stgi | Clgi | Skinit),
        I::Io => matches!(m, In | Out | Insb | Insw | Insd | Outsb | Outsw | Outsd),
        I::TaskSwitch => matches!(m, Jmp | Call | Int | Int3 | Into | Int1 | Iret | Iretd),
    }
}

/// A control or debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SystemRegister {
    /// CR0 to CR15.
    Control(u8),
    /// DR0 to DR15.
    Debug(u8),
}

/// A MOV to or from a control or debug register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovSystem {
    /// The system register.
    pub register: SystemRegister,
    /// The general-purpose register, by its number in [`Gprs`](crate::regs::Gprs).
    pub gpr: usize,
    /// To the system register; false is from it.
    pub write: bool,
    /// The instruction's length in bytes.
    pub len: u8,
}

/// The MOV to or from a control or debug register at RIP; `None` if something else is there, such as LMSW, SMSW or CLTS, which
/// CR0 intercepts cover too and [`step`](super::step) executes. LOCK MOV CR0 is CR8, as AMD's processors have it.
///
/// # Errors
/// The fault of fetching it.
pub fn mov_system<C: EmuCx + ?Sized>(cx: &mut C) -> Result<Option<MovSystem>, EmuFault> {
    let mode = Mode::of(cx);
    let insn = match Bytes::fetch(cx, mode)?.decode(cx, mode, DecoderOptions::AMD) {
        Err(EmuFault::UD) => return Ok(None),
        insn => insn?,
    };
    Ok(moves(&insn).map(|(register, gpr, write)| MovSystem {
        register,
        gpr,
        write,
        len: insn.len() as u8,
    }))
}

/// The system register, the general-purpose register and the direction of a MOV between them.
fn moves(insn: &Instruction) -> Option<(SystemRegister, usize, bool)> {
    let register = |i| {
        if insn.op_kind(i) == OpKind::Register {
            insn.op_register(i)
        } else {
            Register::None
        }
    };
    if insn.mnemonic() != Mnemonic::Mov {
        return None;
    }
    match (system_register(register(0)), system_register(register(1))) {
        (Some(s), _) => Some((s, gpr(register(1))?.0, true)),
        (_, Some(s)) => Some((s, gpr(register(0))?.0, false)),
        _ => None,
    }
}
