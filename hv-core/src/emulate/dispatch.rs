//! The table of instructions: one line each.

use super::Res;
use super::alu;
use super::arith::{ADC, ADD, AND, Bit, OR, SBB, SUB, XOR};
use super::exec::Exec;
use super::operand::segreg;
use super::strings::StringOp;
use super::{EmuCx, EmuFault, StepKind};
use crate::regs::{Rflags, SegReg};
use iced_x86::{Code, Mnemonic, OpKind};

/// The condition of Jcc, SETcc and CMOVcc as the low four bits of their opcodes.
fn condition_code(m: Mnemonic) -> Option<u8> {
    use Mnemonic::*;
    Some(match m {
        Jo | Seto | Cmovo => 0,
        Jno | Setno | Cmovno => 1,
        Jb | Setb | Cmovb => 2,
        Jae | Setae | Cmovae => 3,
        Je | Sete | Cmove => 4,
        Jne | Setne | Cmovne => 5,
        Jbe | Setbe | Cmovbe => 6,
        Ja | Seta | Cmova => 7,
        Js | Sets | Cmovs => 8,
        Jns | Setns | Cmovns => 9,
        Jp | Setp | Cmovp => 10,
        Jnp | Setnp | Cmovnp => 11,
        Jl | Setl | Cmovl => 12,
        Jge | Setge | Cmovge => 13,
        Jle | Setle | Cmovle => 14,
        Jg | Setg | Cmovg => 15,
        _ => return None,
    })
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// Executes the instruction on the copied registers.
    pub fn execute(&mut self) -> Res<()> {
        use Mnemonic::*;
        match self.insn.mnemonic() {
            Mov => self.any_mov(),
            Movzx | Movnti => self.mov(),
            Movsx | Movsxd => self.movsx(),
            Movbe => self.movbe(),
            Lea => self.lea(),
            Xchg => self.xchg(),
            Xlatb => self.xlat(),

            Add => self.binary(ADD),
            Adc => self.binary(ADC),
            Sub => self.binary(SUB),
            Sbb => self.binary(SBB),
            And => self.binary(AND),
            Or => self.binary(OR),
            Xor => self.binary(XOR),
            Cmp => self.compare(SUB),
            Test => self.compare(AND),
            Inc => self.unary(alu::inc),
            Dec => self.unary(alu::dec),
            Neg => self.neg(),
            Not => self.not(),
            Rol => self.binary(alu::rol),
            Ror => self.binary(alu::ror),
            Rcl => self.binary(alu::rcl),
            Rcr => self.binary(alu::rcr),
            Shl | Sal => self.binary(alu::shl),
            Shr => self.binary(alu::shr),
            Sar => self.binary(alu::sar),
            Shld => self.double_shift(alu::shld),
            Shrd => self.double_shift(alu::shrd),
            Bt => self.bit(Bit::Test),
            Bts => self.bit(Bit::Set),
            Btr => self.bit(Bit::Reset),
            Btc => self.bit(Bit::Complement),
            Bsf => self.scan(false, false),
            Bsr => self.scan(true, false),
            Tzcnt => self.scan(false, true),
            Lzcnt => self.scan(true, true),
            Popcnt => self.popcnt(),
            Bswap => self.bswap(),
            Xadd => self.xadd(),
            Cmpxchg => self.cmpxchg(),
            Cmpxchg8b => self.cmpxchg_double(4),
            Cmpxchg16b => self.cmpxchg_double(8),
            Mul => self.multiply(false),
            Imul => self.imul(),
            Div => self.divide(false),
            Idiv => self.divide(true),
            Cbw => self.extend_accumulator(1),
            Cwde => self.extend_accumulator(2),
            Cdqe => self.extend_accumulator(4),
            Cwd => self.extend_to_dx(2),
            Cdq => self.extend_to_dx(4),
            Cqo => self.extend_to_dx(8),
            Daa => self.decimal_adjust(false),
            Das => self.decimal_adjust(true),
            Aaa => self.ascii_adjust(false),
            Aas => self.ascii_adjust(true),
            Aam => self.aam(),
            Aad => self.aad(),
            Lahf => self.lahf(),
            Sahf => self.sahf(),
            Salc => self.salc(),
            Bound => self.bound(),

            Movsb => self.string(StringOp::Movs, 1),
            Movsw => self.string(StringOp::Movs, 2),
            Movsd if self.insn.code() == Code::Movsd_m32_m32 => self.string(StringOp::Movs, 4),
            Movsq => self.string(StringOp::Movs, 8),
            Stosb => self.string(StringOp::Stos, 1),
            Stosw => self.string(StringOp::Stos, 2),
            Stosd => self.string(StringOp::Stos, 4),
            Stosq => self.string(StringOp::Stos, 8),
            Lodsb => self.string(StringOp::Lods, 1),
            Lodsw => self.string(StringOp::Lods, 2),
            Lodsd => self.string(StringOp::Lods, 4),
            Lodsq => self.string(StringOp::Lods, 8),
            Cmpsb => self.string(StringOp::Cmps, 1),
            Cmpsw => self.string(StringOp::Cmps, 2),
            Cmpsd if self.insn.code() == Code::Cmpsd_m32_m32 => self.string(StringOp::Cmps, 4),
            Cmpsq => self.string(StringOp::Cmps, 8),
            Scasb => self.string(StringOp::Scas, 1),
            Scasw => self.string(StringOp::Scas, 2),
            Scasd => self.string(StringOp::Scas, 4),
            Scasq => self.string(StringOp::Scas, 8),
            Insb | Insw | Insd | Outsb | Outsw | Outsd => self.ins_outs(),
            In => self.in_out(false),
            Out => self.in_out(true),

            Movaps | Movapd | Movdqa | Movntdq | Movntdqa | Movntps | Movntpd => {
                self.move_xmm(true)
            }
            Movups | Movupd | Movdqu | Lddqu => self.move_xmm(false),
            Movd | Movq => self.move_xmm_low(false),
            Movss | Movsd => self.move_xmm_low(true),
            Movlps | Movlpd => self.move_xmm_half(false),
            Movhps | Movhpd => self.move_xmm_half(true),

            Push => self.push_operand(),
            Pop => match segreg(self.insn.op_register(0))
                .filter(|_| self.insn.op_kind(0) == OpKind::Register)
            {
                Some(seg) => self.pop_segment(seg),
                None => self.pop_operand(),
            },
            Pusha | Pushad => self.pusha(),
            Popa | Popad => self.popa(),
            Pushf | Pushfd | Pushfq => self.pushf(),
            Popf | Popfd | Popfq => self.popf(),
            Enter => self.enter(),
            Leave => self.leave(),
            Jmp if self.is_far() => self.jmp_far(),
            Jmp => self.jmp(),
            Call if self.is_far() => self.call_far(),
            Call => self.call(),
            Ret => self.ret(),
            Loop => self.loop_while(None),
            Loope => self.loop_while(Some(true)),
            Loopne => self.loop_while(Some(false)),
            Jcxz => self.jump_if(self.reg_sized(1, 2) == 0),
            Jecxz => self.jump_if(self.reg_sized(1, 4) == 0),
            Jrcxz => self.jump_if(self.reg(1) == 0),

            Clc => self.change_flag(Rflags::CF, Some(false)),
            Stc => self.change_flag(Rflags::CF, Some(true)),
            Cmc => self.change_flag(Rflags::CF, None),
            Cld => self.change_flag(Rflags::DF, Some(false)),
            Std => self.change_flag(Rflags::DF, Some(true)),
            Cli => self.set_interrupt_flag(false),
            Sti => self.set_interrupt_flag(true),

            Fninit => self.fninit(),
            Fnclex => self.fnclex(),
            Fnstcw => self.fnstcw(),
            Fldcw => self.fldcw(),
            Fnstsw => self.fnstsw(),
            Wait => self.wait(),
            Fxsave => self.fxsave(false),
            Fxsave64 => self.fxsave(true),
            Fxrstor => self.fxrstor(false),
            Fxrstor64 => self.fxrstor(true),
            Fnstenv => self.fnstenv(false),
            Fnsave => self.fnstenv(true),
            Fldenv => self.fldenv(false),
            Frstor => self.fldenv(true),
            Maskmovq | Maskmovdqu | Vmaskmovdqu => self.maskmov(),
            Crc32 => self.crc32(),

            Nop | Pause | Endbr32 | Endbr64 | Lfence | Mfence | Sfence | Prefetchnta
            | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw | Prefetch | Clflush
            | Clflushopt | Clwb | Cldemote | Prefetchwt1 | Reservednop => Ok(()),
            // Without MPX they do nothing.
            Bndmk | Bndmov | Bndcl | Bndcu | Bndcn | Bndldx | Bndstx => Ok(()),
            Retf => self.ret_far(),
            Iret | Iretd | Iretq => self.iret(),
            Int | Int3 | Into | Int1 => self.software_interrupt(),
            Lds => self.load_far_pointer(SegReg::Ds),
            Les => self.load_far_pointer(SegReg::Es),
            Lfs => self.load_far_pointer(SegReg::Fs),
            Lgs => self.load_far_pointer(SegReg::Gs),
            Lss => self.load_far_pointer(SegReg::Ss),

            Cpuid => self.cpuid(),
            Rdmsr => self.rdmsr(),
            Wrmsr => self.wrmsr(),
            Rdtsc => self.rdtsc(),
            Rdpmc => self.rdpmc(),
            Xgetbv => self.xgetbv(),
            Xsetbv => self.xsetbv(),
            Clac => self.change_ac(false),
            Stac => self.change_ac(true),
            Sysenter => self.sysenter(),
            Sysexit => self.sysexit(false),
            Sysexitq => self.sysexit(true),
            Syscall => self.syscall(),
            Sysret => self.sysret(false),
            Sysretq => self.sysret(true),
            Swapgs => self.swapgs(),
            Rdfsbase => self.segment_base(SegReg::Fs, false),
            Rdgsbase => self.segment_base(SegReg::Gs, false),
            Wrfsbase => self.segment_base(SegReg::Fs, true),
            Wrgsbase => self.segment_base(SegReg::Gs, true),
            Clts => self.clts(),
            Lmsw => self.lmsw(),
            Smsw => self.smsw(),
            Sldt => self.store_selector(SegReg::Ldtr),
            Str => self.store_selector(SegReg::Tr),
            Lldt => self.load_system_segment(SegReg::Ldtr),
            Ltr => self.load_system_segment(SegReg::Tr),
            Lgdt => self.load_table(SegReg::Gdtr),
            Lidt => self.load_table(SegReg::Idtr),
            Sgdt => self.store_table(SegReg::Gdtr),
            Sidt => self.store_table(SegReg::Idtr),
            Lar => self.inspect_segment(false),
            Lsl => self.inspect_segment(true),
            Verr => self.verify_segment(false),
            Verw => self.verify_segment(true),
            Arpl => self.arpl(),
            Invlpg => self.invlpg(),
            Invd | Wbinvd | Wbnoinvd => self.wbinvd(),
            // What no virtual CPU has, and what is there to be undefined.
            Ud0 | Ud1 | Ud2 | Rdtscp | Rsm | Monitor | Mwait | Getsec | Vmcall | Vmmcall
            | Vmlaunch | Vmresume | Vmxon | Vmxoff | Vmclear | Vmptrld | Vmptrst | Vmread
            | Vmwrite | Vmrun | Vmload | Vmsave | Stgi | Clgi | Skinit | Invlpga | Invept
            | Invvpid | Invpcid | Rdpid | Rdpkru | Wrpkru | Monitorx | Mwaitx | Clzero | Rdpru
            | Xbegin | Xabort | Xend | Xtest | Tpause | Umonitor | Umwait | Movdiri | Movdir64b
            | Xsavec | Xsavec64 | Xsaves | Xsaves64 | Xrstors | Xrstors64 | Encls | Enclu
            | Enclv => Err(EmuFault::UD),
            Hlt => {
                self.privileged()?;
                self.kind = StepKind::Halt;
                Ok(())
            }
            m => match condition_code(m) {
                Some(cc) if self.is_jcc() => self.jump_on(cc),
                Some(cc) if self.insn.op_count() == 2 => self.move_on(cc),
                Some(cc) => self.set_on(cc),
                None => self.natively(),
            },
        }
    }

    fn is_jcc(&self) -> bool {
        matches!(
            self.insn.op_kind(0),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        )
    }

    fn change_flag(&mut self, flag: Rflags, value: Option<bool>) -> Res<()> {
        match value {
            Some(true) => self.flags |= flag.bits(),
            Some(false) => self.flags &= !flag.bits(),
            None => self.flags ^= flag.bits(),
        }
        Ok(())
    }
}
