//! What a reset leaves of low memory: nothing, unless the system has said that it goes on there.
//!
//! RAM outlives a reset, and firmware clears little of it. Systems are known that trip over what the one before them has left in the first
//! 64 KiB (Windows 11 at 6D80h), where a computer's own power-on test leaves none. What wants its memory back says so first in CMOS byte
//! 0Fh, the shutdown status: firmware then goes on where it is told to. DOS extenders for the 80286 do that, and suspend to RAM.

use hv_core::Gpa;
use hv_core::mem::{GuestMemory, NotRam};

/// So much is cleared.
const LENGTH: u64 = 64 << 10;

/// Whether a reset with this shutdown status goes on in the memory that is there: by the vector at 40:67h (5 and 0Ah to 0Ch), after a
/// block was moved (9), or from suspend to RAM (0FEh). As SeaBIOS has it (`handle_resume`, `src/resume.c`), and the IBM AT's BIOS.
fn goes_on(status: u8) -> bool {
    matches!(status, 0x05 | 0x09..=0x0c | 0xfe)
}

/// The machine has been reset with this shutdown status.
///
/// # Errors
/// The memory is not there.
pub fn clear(memory: &dyn GuestMemory, status: u8) -> Result<(), NotRam> {
    if goes_on(status) {
        return Ok(());
    }
    let page = [0; 0x1000];
    for at in (0..LENGTH).step_by(page.len()) {
        memory.write(Gpa(at), &page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::VecMemory;

    #[test]
    fn a_reset_clears_low_memory_unless_the_system_goes_on_in_it() {
        let left = |status| {
            let memory = VecMemory::new(1 << 20);
            memory.write(Gpa(0), &[0xaa; 0x1_1000]).unwrap();
            clear(&memory, status).unwrap();
            let mut now = [0; 0x1_1000];
            memory.read(Gpa(0), &mut now).unwrap();
            now.iter().filter(|&&byte| byte == 0xaa).count()
        };
        for status in [0, 4, 0x0d, 0xff] {
            assert_eq!(left(status), 0x1000, "{status:#x}");
        }
        for status in [5, 9, 0x0a, 0x0b, 0x0c, 0xfe] {
            assert_eq!(left(status), 0x1_1000, "{status:#x}");
        }
    }
}
