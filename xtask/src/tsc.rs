//! A program for the test guest that says the time stamp counter, which no shell can read: a static ELF of a few instructions.

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// The length of an ELF64 header, and of one program header.
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// RDTSC, its 64 bits in decimal and a newline by write(2), then exit(2) with 0.
const CODE: &[u8] = &[
    0x0f, 0x31, // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
    0x48, 0x09, 0xd0, // or rax, rdx
    0x48, 0x83, 0xec, 0x40, // sub rsp, 64
    0x48, 0x8d, 0x74, 0x24, 0x3f, // lea rsi, [rsp + 63]
    0xc6, 0x06, 0x0a, // mov byte [rsi], '\n'
    0xb9, 0x0a, 0x00, 0x00, 0x00, // mov ecx, 10
    0x31, 0xd2, // digit: xor edx, edx
    0x48, 0xf7, 0xf1, // div rcx
    0x80, 0xc2, 0x30, // add dl, '0'
    0x48, 0xff, 0xce, // dec rsi
    0x88, 0x16, // mov [rsi], dl
    0x48, 0x85, 0xc0, // test rax, rax
    0x75, 0xee, // jnz digit
    0x48, 0x8d, 0x54, 0x24, 0x40, // lea rdx, [rsp + 64]
    0x48, 0x29, 0xf2, // sub rdx, rsi
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
    0x0f, 0x05, // syscall
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60 (exit)
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
];

/// The program as an ELF file: System V ABI, "Object Files", "ELF Header" and "Program Header".
pub fn program() -> Vec<u8> {
    let start = u64::from(HEADER + PROGRAM_HEADER);
    let length = start + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |file: &mut Vec<u8>, values: &[u16]| {
        values
            .iter()
            .for_each(|v| file.extend_from_slice(&v.to_le_bytes()))
    };
    let words = |file: &mut Vec<u8>, values: &[u32]| {
        values
            .iter()
            .for_each(|v| file.extend_from_slice(&v.to_le_bytes()))
    };
    let longs = |file: &mut Vec<u8>, values: &[u64]| {
        values
            .iter()
            .for_each(|v| file.extend_from_slice(&v.to_le_bytes()))
    };
    // An executable for x86-64, version 1; entry, program headers, no section headers, no flags.
    halves(&mut file, &[2, 62]);
    words(&mut file, &[1]);
    longs(&mut file, &[BASE + start, u64::from(HEADER), 0]);
    words(&mut file, &[0]);
    halves(&mut file, &[HEADER, PROGRAM_HEADER, 1, 64, 0, 0]);
    // One segment to load, readable and executable: all of the file.
    words(&mut file, &[1, 5]);
    longs(&mut file, &[0, BASE, BASE, length, length, 0x1000]);
    file.extend_from_slice(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn the_program_runs_and_says_a_growing_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tsc");
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let read = || -> u64 {
            let output = Command::new(&path).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        let first = read();
        assert!(read() > first);
    }
}
