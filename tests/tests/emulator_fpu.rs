//! x87, MMX, SSE and AVX in the emulator against the processor this test runs on: every opcode of their maps, with a memory and
//! with register operands.
//!
//! The emulator has the CPU execute these ([`NativeInsn`]): here that is a function which runs the rewritten instruction on two
//! pages at the addresses it is made for. The same instruction as the guest has it is run directly, on the guest's own operand. Registers,
//! flags, memory and exceptions have to be the same.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod native;

use hv_core::emulate::testing::{FakeCpu, RegionKind};
use hv_core::emulate::{EmuFault, Executed, NativeInsn, step};
use hv_core::fx::FxState;
use hv_core::regs::{Cr0, Cr4, Rflags, gpr};
use hv_core::testing::Random;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use native::{FLAGS, HOST_RSP};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The [`native`] context, and behind it the XSAVE area.
const CONTEXT: u64 = 0x2400_0000;
/// Where it all begins and ends.
const GATE: u64 = 0x2401_0000;
/// The guest's memory operands.
const DATA: u64 = 0x2410_0000;
const DATA_LEN: usize = 0x1000;

const AREA: u64 = 1024;
const AREA_LEN: usize = 1024;
const YMM: usize = 576;
/// XSTATE_BV in an XSAVE area.
const HEADER: usize = 512;

const ARITH: u64 = 0x8d5;

/// The vector of the exception that the code has raised, or [`NO_TRAP`].
static TRAP: AtomicU64 = AtomicU64::new(NO_TRAP);
const NO_TRAP: u64 = u64::MAX;
/// Where it goes on after an exception.
static EPILOGUE: AtomicU64 = AtomicU64::new(0);
/// Whether the emulator has had the CPU execute something.
static USED: AtomicBool = AtomicBool::new(false);
/// The upper halves of the YMM registers.
static UPPER: Mutex<[u8; 256]> = Mutex::new([0; 256]);
/// The pages are for one test at a time.
static PAGES: Mutex<bool> = Mutex::new(false);

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context of this type.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    TRAP.store(
        registers[libc::REG_TRAPNO as usize] as u64,
        Ordering::Relaxed,
    );
    registers[libc::REG_RIP as usize] = EPILOGUE.load(Ordering::Relaxed) as i64;
}

/// Makes the pages at the first call, and takes them.
fn pages() -> MutexGuard<'static, bool> {
    let mut made = PAGES.lock().unwrap_or_else(|e| e.into_inner());
    if !std::mem::replace(&mut made, true) {
        for (at, len) in [
            (CONTEXT, 0x1000),
            (GATE, 0x1000),
            (DATA, DATA_LEN),
            (NativeInsn::OPERAND, 0x2000),
        ] {
            native::map(at, len);
        }
        let mut a = CodeAssembler::new(64).unwrap();
        native::leave_host(&mut a, CONTEXT);
        a.mov(eax, 7).unwrap();
        a.xor(edx, edx).unwrap();
        a.xrstor64(ptr(CONTEXT + AREA)).unwrap();
        native::load(&mut a, CONTEXT);
        a.jmp(NativeInsn::CODE).unwrap();
        let prologue = a.assemble(GATE).unwrap();
        let mut a = CodeAssembler::new(64).unwrap();
        native::store(&mut a, CONTEXT);
        a.mov(eax, 7).unwrap();
        a.xor(edx, edx).unwrap();
        a.xsave64(ptr(CONTEXT + AREA)).unwrap();
        a.fninit().unwrap();
        a.mov(dword_ptr(CONTEXT + HOST_RSP + 8), 0x1f80).unwrap();
        a.ldmxcsr(dword_ptr(CONTEXT + HOST_RSP + 8)).unwrap();
        a.vzeroupper().unwrap();
        native::return_to_host(&mut a, CONTEXT);
        let at = GATE + 0x800;
        EPILOGUE.store(at, Ordering::Relaxed);
        let epilogue = a.assemble(at).unwrap();
        // SAFETY: the pages have just been mapped for this.
        unsafe {
            (GATE as *mut u8).copy_from(prologue.as_ptr(), prologue.len());
            (at as *mut u8).copy_from(epilogue.as_ptr(), epilogue.len());
        }
    }
    // The signals' stack is the thread's own.
    let stack = Box::leak(vec![0u8; 0x10000].into_boxed_slice());
    // SAFETY: the handler touches nothing but the context; the stack lives for ever.
    unsafe {
        let stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
    made
}

/// Everything that these instructions see and change.
#[derive(Clone, PartialEq, Eq)]
struct State {
    gprs: [u64; 16],
    flags: u64,
    area: [u8; AREA_LEN],
    data: [u8; DATA_LEN],
}

/// Runs `code` in the code page. The answer is the vector of an exception.
fn run(code: &[u8], state: &mut State) -> Option<u8> {
    let mut bytes = code.to_vec();
    let next = NativeInsn::CODE + code.len() as u64 + 5;
    bytes.push(0xe9);
    let distance = EPILOGUE.load(Ordering::Relaxed).wrapping_sub(next) as i32;
    bytes.extend(distance.to_le_bytes());
    let mut context = [0u8; 160];
    for (i, r) in state.gprs.iter().enumerate() {
        context[8 * i..8 * i + 8].copy_from_slice(&r.to_le_bytes());
    }
    context[FLAGS as usize..FLAGS as usize + 8].copy_from_slice(&state.flags.to_le_bytes());
    state.area[HEADER..YMM].fill(0);
    state.area[HEADER] = 7;
    TRAP.store(NO_TRAP, Ordering::Relaxed);
    // SAFETY: the pages are mapped, and this test's by its lock. The code ends with a return and keeps what the calling convention
    // wants kept; the instruction in it is one that the emulator lets through, and touches registers and the data.
    unsafe {
        (NativeInsn::CODE as *mut u8).copy_from(bytes.as_ptr(), bytes.len());
        (CONTEXT as *mut u8).copy_from(context.as_ptr(), context.len());
        ((CONTEXT + AREA) as *mut u8).copy_from(state.area.as_ptr(), AREA_LEN);
        (DATA as *mut u8).copy_from(state.data.as_ptr(), DATA_LEN);
        let call: extern "C" fn() = std::mem::transmute(GATE as *const u8);
        call();
        (CONTEXT as *const u8).copy_to(context.as_mut_ptr(), context.len());
        ((CONTEXT + AREA) as *const u8).copy_to(state.area.as_mut_ptr(), AREA_LEN);
        (DATA as *const u8).copy_to(state.data.as_mut_ptr(), DATA_LEN);
    }
    let value = |at: usize| u64::from_le_bytes(context[at..at + 8].try_into().unwrap());
    state.gprs = std::array::from_fn(|i| value(8 * i));
    state.flags = value(FLAGS as usize);
    match TRAP.load(Ordering::Relaxed) {
        NO_TRAP => None,
        vector => Some(vector as u8),
    }
}

fn legacy(area: &[u8; AREA_LEN]) -> [u8; FxState::SAVED] {
    area[..FxState::SAVED].try_into().unwrap()
}

/// What the emulator has the CPU do.
fn execute(insn: &mut NativeInsn) -> Executed {
    USED.store(true, Ordering::Relaxed);
    let mut upper = UPPER.lock().unwrap();
    let mut area = [0; AREA_LEN];
    area[..FxState::SAVED].copy_from_slice(&insn.fx.saved(true));
    area[YMM..YMM + 256].copy_from_slice(&*upper);
    let mut state = State {
        gprs: insn.gprs.regs,
        flags: insn.flags | 0x202,
        area,
        data: [0; DATA_LEN],
    };
    // SAFETY: the operand's page is this test's.
    unsafe { (NativeInsn::OPERAND as *mut u8).copy_from(insn.operand.as_ptr(), NativeInsn::MOST) };
    let trap = run(&insn.code[..insn.len], &mut state);
    assert!(insn.fx.restore(&legacy(&state.area), true));
    if let Some(vector) = trap {
        return Executed::Raised(vector);
    }
    // SAFETY: as above.
    unsafe {
        (NativeInsn::OPERAND as *const u8).copy_to(insn.operand.as_mut_ptr(), insn.operand_len);
    }
    upper.copy_from_slice(&state.area[YMM..YMM + 256]);
    (insn.gprs.regs, insn.flags) = (state.gprs, state.flags);
    Executed::Done
}

/// The emulator on `state`, in 64-bit mode or as `cpu` is set up.
fn emulate(cpu: FakeCpu, code: &[u8], state: &State) -> (State, Result<(), EmuFault>) {
    let mut cpu = cpu
        .region(DATA, DATA_LEN, RegionKind::Device)
        .code(NativeInsn::CODE, code);
    cpu.native = execute;
    cpu.cr0 &= !(Cr0::TS | Cr0::EM).bits();
    cpu.cr4 |= (Cr4::OSFXSR | Cr4::OSXSAVE | Cr4::OSXMMEXCPT).bits();
    cpu.cpl = 3;
    cpu.regions[0].data.copy_from_slice(&state.data);
    cpu.gprs.regs = state.gprs;
    cpu.rflags = Rflags::from_bits_retain(state.flags);
    assert!(cpu.fx.restore(&legacy(&state.area), true));
    UPPER
        .lock()
        .unwrap()
        .copy_from_slice(&state.area[YMM..YMM + 256]);
    USED.store(false, Ordering::Relaxed);
    let result = step(&mut cpu).map(drop);
    let mut after = state.clone();
    (after.gprs, after.flags) = (cpu.gprs.regs, cpu.rflags.bits());
    after.area[..FxState::SAVED].copy_from_slice(&cpu.fx.saved(true));
    after.area[YMM..YMM + 256].copy_from_slice(&*UPPER.lock().unwrap());
    after.data.copy_from_slice(&cpu.regions[0].data);
    (after, result)
}

/// Numbers that are easy, and others.
fn float(r: &mut Random, wide: bool) -> u64 {
    let easy = (r.below(2000) as f64 - 1000.0) / 8.0;
    let value = match r.below(8) {
        0 => 0.0,
        1 => f64::INFINITY,
        2 => f64::NAN,
        3 => return r.next(),
        4 => easy * 1e300,
        5 => easy * 1e-300,
        _ => easy,
    };
    if wide {
        value.to_bits()
    } else {
        let other = (easy as f32).to_bits();
        u64::from((value as f32).to_bits()) | u64::from(other) << 32
    }
}

fn random_state(r: &mut Random, unmasked: bool) -> State {
    let mut state = State {
        gprs: std::array::from_fn(|_| r.next()),
        flags: r.next() & ARITH | 0x202,
        area: [0; AREA_LEN],
        data: [0; DATA_LEN],
    };
    let wide = r.one_in(2);
    for chunk in state.data.chunks_exact_mut(8) {
        chunk.copy_from_slice(&float(r, wide).to_le_bytes());
    }
    for chunk in state.area.chunks_exact_mut(8) {
        chunk.copy_from_slice(&float(r, wide).to_le_bytes());
    }
    state.area[..32].fill(0);
    let control: u16 = if unmasked { 0x340 } else { 0x37f };
    let mxcsr: u16 = if unmasked { 0 } else { 0x1f80 };
    state.area[..2].copy_from_slice(&control.to_le_bytes());
    state.area[24..26].copy_from_slice(&mxcsr.to_le_bytes());
    state.area[28..30].copy_from_slice(&[0xff, 0xff]);
    // Some of the stack is in use.
    let top = r.below(8) as u16;
    state.area[2..4].copy_from_slice(&(top << 11).to_le_bytes());
    state.area[4] = r.next() as u8 | r.next() as u8;
    for n in 0..8 {
        let at = 32 + 16 * n;
        let value = (r.below(2000) as i64 - 1000) as f64;
        let bits = value.abs().to_bits();
        let significand = if bits == 0 { 0 } else { bits << 11 | 1 << 63 };
        let exponent = if bits == 0 {
            0
        } else {
            (bits >> 52) as u16 - 1023 + 16383
        };
        let sign = if value < 0.0 { 0x8000 } else { 0 };
        state.area[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        state.area[at + 8..at + 10].copy_from_slice(&(exponent | sign).to_le_bytes());
        state.area[at + 10..at + 16].fill(0);
    }
    state.gprs[gpr::RBX] = DATA + 0x400;
    state.gprs[gpr::RDI] = DATA + 0x400 + 8 * r.below(16);
    state
}

/// What differs, in words.
fn difference(ours: &State, theirs: &State) -> Option<String> {
    let mut out = String::new();
    for n in 0..16 {
        if ours.gprs[n] != theirs.gprs[n] {
            out += &format!(" gpr{n} {:x} native {:x}", ours.gprs[n], theirs.gprs[n]);
        }
    }
    if (ours.flags ^ theirs.flags) & ARITH != 0 {
        out += &format!(" flags {:x} native {:x}", ours.flags, theirs.flags);
    }
    // Not the opcode and the pointers, which not every CPU keeps, nor what is between registers and reserved.
    let compared = (0..6)
        .chain(24..28)
        .chain((0..8).flat_map(|n| 32 + 16 * n..42 + 16 * n))
        .chain(160..416)
        .chain(YMM..YMM + 256);
    for i in compared {
        if ours.area[i] != theirs.area[i] {
            out += &format!(" area[{i}] {:x} native {:x}", ours.area[i], theirs.area[i]);
        }
    }
    for i in 0..DATA_LEN {
        if ours.data[i] != theirs.data[i] {
            out += &format!(
                " data[{i:x}] {:x} native {:x}",
                ours.data[i], theirs.data[i]
            );
        }
    }
    (!out.is_empty()).then_some(out)
}

/// ModRM bytes with what follows: a memory operand at RBX + 8-bit displacement, or a register.
fn operands(r: &mut Random, memory: bool, reg: u8) -> Vec<u8> {
    if memory {
        let displacement = if r.one_in(4) {
            r.below(128) as u8
        } else {
            (r.below(4) * 32) as u8
        };
        vec![0x43 | reg << 3, displacement]
    } else {
        vec![0xc0 | reg << 3 | r.below(8) as u8]
    }
}

/// Every opcode, with a prefix as its map has it.
fn encodings(r: &mut Random) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for escape in 0xd8..=0xdf {
        for modrm in 0xc0..=0xff {
            all.push(vec![escape, modrm]);
        }
        for reg in 0..8 {
            let mut code = vec![escape];
            code.extend(operands(r, true, reg));
            all.push(code);
        }
    }
    let maps: [&[u8]; 3] = [&[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for (number, map) in maps.into_iter().enumerate() {
        for opcode in 0..=255 {
            for memory in [true, false] {
                for reg in 0..8 {
                    for prefix in [None, Some(0x66), Some(0xf3), Some(0xf2)] {
                        let mut code: Vec<u8> = prefix.into_iter().collect();
                        if r.one_in(2) {
                            code.push(0x40 | r.below(16) as u8 & !1);
                        }
                        code.extend(map);
                        code.push(opcode);
                        code.extend(operands(r, memory, reg));
                        code.push(r.next() as u8);
                        all.push(code);
                    }
                }
                // VEX: W, L and pp in all combinations; R and vvvv are inverted, X and B not used.
                let groups = matches!(opcode, 0x71..=0x73 | 0xae | 0xf3);
                for n in 0..16u8 {
                    for reg in if groups { 0..8 } else { 0..1 } {
                        let reg = if groups { reg } else { r.below(8) as u8 };
                        let vvvv = if r.one_in(2) {
                            0x78
                        } else {
                            r.next() as u8 & 0x78
                        };
                        let map = 0x61 + number as u8;
                        let mut code = vec![0xc4, map | (r.next() as u8 & 0x80)];
                        code.push((n & 8) << 4 | vvvv | n & 7);
                        code.push(opcode);
                        code.extend(operands(r, memory, reg));
                        code.push(r.next() as u8);
                        all.push(code);
                    }
                }
            }
        }
    }
    all
}

fn decode(code: &[u8]) -> Option<Instruction> {
    let insn = Decoder::with_ip(64, code, NativeInsn::CODE, DecoderOptions::NONE).decode();
    (!insn.is_invalid()).then_some(insn)
}

/// Instructions whose outcome is not a function of what they are given.
fn unpredictable(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Rdrand | Rdseed | Xsaveopt | Xsaveopt64 | Rcpps | Rcpss | Rsqrtps | Rsqrtss
    )
}

/// Whether software answers it that is to be compared, too.
fn ours(insn: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        insn.mnemonic(),
        Maskmovq
            | Maskmovdqu
            | Vmaskmovdqu
            | Crc32
            | Movups
            | Movupd
            | Movaps
            | Movapd
            | Movdqa
            | Movdqu
            | Movd
            | Movq
            | Movss
            | Movlps
            | Movhps
            | Fnstcw
            | Fldcw
            | Fnstsw
            | Fnstenv
            | Fldenv
            | Fnsave
            | Frstor
            | Fninit
            | Fnclex
    )
}

fn compare(unmasked: bool, seed: u64) -> (usize, BTreeSet<String>) {
    let _pages = pages();
    let mut r = Random::new(seed);
    let (mut compared, mut lacking) = (0, BTreeSet::new());
    let mut failures = Vec::new();
    for mut code in encodings(&mut r) {
        let Some(insn) = decode(&code) else { continue };
        code.truncate(insn.len());
        let mut state = random_state(&mut r, unmasked);
        if unpredictable(insn.mnemonic()) {
            continue;
        }
        // LDMXCSR and FLDENV need values that are none of these numbers.
        if matches!(insn.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr) {
            state.data.as_chunks_mut::<4>().0.fill([0x80, 0x1f, 0, 0]);
        }
        if matches!(insn.mnemonic(), Mnemonic::Xrstor | Mnemonic::Xrstor64) {
            continue;
        }
        // A guest has x87, SSE and AVX state. The processor here may have more, such as AVX-512's, and would save it.
        if matches!(insn.mnemonic(), Mnemonic::Xsave | Mnemonic::Xsave64) {
            state.gprs[gpr::RAX] &= 7;
        }
        let (after, result) = emulate(FakeCpu::long64(), &code, &state);
        if let Err(EmuFault::Unsupported(_)) = result {
            lacking.insert(format!("{:?}", insn.mnemonic()));
            continue;
        }
        if !USED.load(Ordering::Relaxed) && !ours(&insn) {
            continue;
        }
        let mut direct = state.clone();
        let trap = run(&code, &mut direct);
        let what = match (result, trap) {
            (Ok(()), None) => difference(&after, &direct),
            (Err(EmuFault::Exception { vector, .. }), Some(trap)) if vector == trap => None,
            (result, trap) => Some(format!(" {result:?} native {trap:?}")),
        };
        compared += 1;
        if let Some(what) = what {
            failures.push(format!("{code:02x?} {:?}:{what}", insn.code()));
        }
    }
    for failure in failures.iter().take(40) {
        eprintln!("{failure}");
    }
    assert!(
        failures.is_empty(),
        "{} of {compared} differ",
        failures.len()
    );
    (compared, lacking)
}

fn can() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("xsave")
}

#[test]
fn every_opcode_does_what_the_processor_does() {
    if !can() {
        return;
    }
    let (compared, lacking) = compare(false, 1);
    println!("{compared} compared; lacking: {lacking:?}");
    assert!(compared > 7000, "{compared}");
    let avx = lacking.iter().find(|name| name.starts_with('V'));
    assert_eq!(avx, None);
}

#[test]
fn unmasked_exceptions_are_raised_as_the_processor_raises_them() {
    if can() {
        compare(true, 2);
    }
}

/// 16- and 32-bit code reach the same registers and memory by other encodings of the operand.
#[test]
fn other_modes_do_what_64_bit_mode_does() {
    if !can() {
        return;
    }
    let _pages = pages();
    let mut r = Random::new(3);
    let mut compared = 0;
    for mut code in encodings(&mut r) {
        let Some(insn) = decode(&code) else { continue };
        code.truncate(insn.len());
        let rex = code.iter().take(2).any(|b| (0x40..0x50).contains(b));
        let vex_64 = code[0] == 0xc4 && (code[1] & 0x80 == 0 || code[2] & 0xc0 != 0x40);
        let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
        // Only 64-bit mode has that register.
        let high = insn.op_count() == 4 && insn.op_register(3) >= Register::XMM8;
        if rex || vex_64 || high || unpredictable(insn.mnemonic()) {
            continue;
        }
        let state = random_state(&mut r, false);
        let (long, expected) = emulate(FakeCpu::long64(), &code, &state);
        if !USED.load(Ordering::Relaxed) || expected.is_err() {
            continue;
        }
        let (short, result) = emulate(FakeCpu::protected32(), &code, &state);
        assert_eq!(result, Ok(()), "{code:02x?} {insn:?}");
        assert!(USED.load(Ordering::Relaxed));
        assert_eq!(
            difference(&short, &long),
            None,
            "{code:02x?} {:?}",
            insn.code()
        );
        if memory {
            // [EBX + d] behind an address-size prefix, in 16-bit code.
            let mut code16 = vec![0x67];
            code16.extend(&code);
            let mut cpu = FakeCpu::protected16();
            cpu.segments.iter_mut().for_each(|s| s.limit = u32::MAX);
            let (short, result) = emulate(cpu, &code16, &state);
            assert_eq!(result, Ok(()), "{code:02x?} {insn:?}");
            assert_eq!(
                difference(&short, &long),
                None,
                "{code:02x?} {:?}",
                insn.code()
            );
        }
        compared += 1;
    }
    println!("{compared} compared");
    assert!(compared > 500, "{compared}");
}

/// Registers 8 to 15 are not there in 32-bit code: neither saved nor loaded.
#[test]
fn xrstor_brings_back_what_xsave_saved() {
    if !can() {
        return;
    }
    let _pages = pages();
    let mut r = Random::new(4);
    // XSAVE [RBX], XRSTOR [RBX]; the header before it is all zeroes.
    let (xsave, xrstor) = ([0x0f, 0xae, 0x23], [0x0f, 0xae, 0x2b]);
    let all = |state: &mut State| {
        (state.gprs[gpr::RAX], state.gprs[gpr::RDX]) = (7, 0);
        state.gprs[gpr::RBX] = DATA + 0x400;
    };
    for long in [true, false] {
        let cpu = || match long {
            true => FakeCpu::long64(),
            false => FakeCpu::protected32(),
        };
        let mut first = random_state(&mut r, false);
        all(&mut first);
        let untouched = first.data[0x400 + 288..0x400 + 416].to_vec();
        first.data[0x400 + HEADER..0x400 + YMM].fill(0);
        let (saved, result) = emulate(cpu(), &xsave, &first);
        assert_eq!(result, Ok(()));
        assert_eq!(saved.data[0x400 + HEADER], 7);
        let upper = &saved.data[0x400 + 288..0x400 + 416];
        assert_eq!(upper == &untouched[..], !long);
        let mut second = random_state(&mut r, false);
        all(&mut second);
        second.data.copy_from_slice(&saved.data);
        let (restored, result) = emulate(cpu(), &xrstor, &second);
        assert_eq!(result, Ok(()));
        let (mut expected, old) = (first.clone(), second.clone());
        expected.data = restored.data;
        expected.gprs = restored.gprs;
        expected.flags = restored.flags;
        if !long {
            for at in [288..416, YMM + 128..YMM + 256] {
                expected.area[at.clone()].copy_from_slice(&old.area[at]);
            }
        }
        assert_eq!(difference(&restored, &expected), None, "long {long}");
        // A bit of the header that there is no component for.
        second.data[0x400 + HEADER + 1] = 0x80;
        let (_, result) = emulate(cpu(), &xrstor, &second);
        let gp = matches!(result, Err(EmuFault::Exception { vector: 13, .. }));
        assert!(gp, "{result:?}");
    }
}
