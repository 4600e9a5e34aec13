//! Instruction lengths and MOVs of system registers.

use super::*;
use crate::emulate::testing::RegionKind;
use crate::emulate::{Intercepted, MovSystem, SystemRegister, length, mov_system};

fn len64(code: &[u8], what: Intercepted) -> Option<u8> {
    length(&mut FakeCpu::long64().code(0x1000, code), what).unwrap()
}

#[test]
fn lengths_of_intercepted_instructions() {
    use Intercepted::*;
    let cases: [(&[u8], Intercepted); 30] = [
        (&[0x0f, 0xa2], Cpuid),
        (&[0x66, 0x2e, 0x48, 0x0f, 0xa2], Cpuid),
        (&[0xf4], Hlt),
        (&[0x0f, 0x30], Wrmsr),
        (&[0x0f, 0x32], Rdmsr),
        (&[0x0f, 0x01, 0xd9], Vmmcall),
        (&[0x0f, 0x01, 0xc1], Vmmcall),
        (&[0x0f, 0x09], Wbinvd),
        (&[0xf3, 0x0f, 0x09], Wbinvd),
        (&[0x0f, 0x08], Invd),
        (&[0x0f, 0x31], Rdtsc),
        (&[0x0f, 0x01, 0xf9], Rdtscp),
        (&[0x0f, 0x33], Rdpmc),
        (&[0x0f, 0x01, 0xd1], Xsetbv),
        (&[0xf3, 0x90], Pause),
        (&[0x0f, 0x22, 0xd8], MovCr),
        (&[0x44, 0x0f, 0x20, 0xc0], MovCr),
        (&[0x0f, 0x23, 0xf8], MovDr),
        (&[0x0f, 0x06], Clts),
        (&[0x0f, 0x01, 0xf0], Lmsw),
        (&[0x0f, 0x01, 0x64, 0x24, 0x08], Smsw),
        (&[0x0f, 0x01, 0x3d, 1, 2, 3, 4], Invlpg),
        (&[0x41, 0x0f, 0x01, 0x7c, 0x24, 0x10], Invlpg),
        (&[0x48, 0xcf], Iret),
        (&[0x0f, 0x01, 0xc8], Monitor),
        (&[0x0f, 0x01, 0xc9], Mwait),
        (&[0xcd, 0x80], Int),
        (&[0xcc], Int3),
        (&[0xf1], Icebp),
        (&[0x0f, 0x01, 0xd8], Svm),
    ];
    for (code, what) in cases {
        let mut longer = code.to_vec();
        longer.extend([0x90; 15]);
        assert_eq!(len64(&longer, what), Some(code.len() as u8), "{code:x?}");
        assert_eq!(
            len64(code, what),
            Some(code.len() as u8),
            "{code:x?} at the end of memory"
        );
    }
}

#[test]
fn another_instruction_than_expected_is_reported() {
    use Intercepted::*;
    assert_eq!(len64(&[0x90, 0x90], Cpuid), None);
    assert_eq!(len64(&[0x0f, 0x32], Wrmsr), None);
    assert_eq!(len64(&[0xf0, 0x0f, 0xa2], Cpuid), None);
    assert_eq!(len64(&[0x0f, 0x0b], Hlt), None);
    assert_eq!(len64(&[0x90], Pause), None);
}

#[test]
fn rex_before_a_legacy_prefix_and_outside_64_bit_mode() {
    // 40h is INC EAX in 32-bit code.
    let mut cpu = FakeCpu::protected32().code(0x1000, &[0x40, 0x0f, 0xa2]);
    assert_eq!(length(&mut cpu, Intercepted::Cpuid), Ok(None));
    assert_eq!(
        len64(&[0x48, 0x66, 0x0f, 0xa2], Intercepted::Cpuid),
        Some(4)
    );
}

#[test]
fn too_many_prefixes_are_not_the_instruction() {
    let mut code = [0x66; 16];
    (code[14], code[15]) = (0x0f, 0xa2);
    assert_eq!(
        length(
            &mut FakeCpu::long64().code(0x1000, &code),
            Intercepted::Cpuid
        ),
        Err(EmuFault::GP0)
    );
}

#[test]
fn mov_system_tells_register_and_direction() {
    let mov = |code: &[u8]| mov_system(&mut FakeCpu::long64().code(0x1000, code)).unwrap();
    let of = |register, gpr, write, len| {
        Some(MovSystem {
            register,
            gpr,
            write,
            len,
        })
    };
    assert_eq!(
        mov(&[0x0f, 0x22, 0xd8]),
        of(SystemRegister::Control(3), 0, true, 3)
    );
    assert_eq!(
        mov(&[0x41, 0x0f, 0x20, 0xe7]),
        of(SystemRegister::Control(4), 15, false, 4)
    );
    assert_eq!(
        mov(&[0x44, 0x0f, 0x22, 0xc1]),
        of(SystemRegister::Control(8), 1, true, 4)
    );
    assert_eq!(
        mov(&[0x0f, 0x23, 0xff]),
        of(SystemRegister::Debug(7), 7, true, 3)
    );
    assert_eq!(mov(&[0x0f, 0x06]), None);
    let mut cpu = FakeCpu::protected32().code(0x1000, &[0xf0, 0x0f, 0x20, 0xc0]);
    assert_eq!(
        mov_system(&mut cpu),
        Ok(of(SystemRegister::Control(8), 0, false, 4))
    );
}

#[test]
fn length_over_a_page_border_fetches_the_rest() {
    let mut cpu = FakeCpu::long64()
        .region(0x2000, 16, RegionKind::Ram)
        .code(0x1fff, &[0x0f]);
    cpu.poke(0x2000, &[0xa2]);
    assert_eq!(length(&mut cpu, Intercepted::Cpuid), Ok(Some(2)));
}
