//! The flash chip with UEFI's variables, beside the simplest model of one.

use super::device::device;
use device_model::flash::{BLOCK, Flash, Parts, Windows};
use device_model::mapped::Mapped;
use hv_core::device::{Device, WindowId};
use hv_core::mem::DeviceRam;
use hv_core::testing::{SharedDisk, VecDeviceRam};
use hv_core::{Gpa, Hpa};
use std::sync::Arc;

const LEN: usize = 3 * BLOCK;
const ARRAY: WindowId = WindowId(0);
const REGISTERS: WindowId = WindowId(1);

/// Commands, programs and erases in any order: a program clears bits and an erase sets a block, nothing else changes the contents, and the medium has
/// them when the chip shows its array.
pub fn flash(data: &[u8]) {
    let ram = Arc::new(VecDeviceRam::new(LEN));
    let medium = SharedDisk::of(vec![0; LEN]);
    let parts = Parts {
        at: Gpa(0xffc0_0000),
        memory: Mapped {
            ram: ram.clone(),
            hpa: Hpa(0),
        },
        medium: Some(medium.boxed()),
    };
    let windows = Windows {
        array: ARRAY,
        registers: REGISTERS,
    };
    let chip = Flash::new(parts, windows);
    let seen = [(ARRAY, LEN as u64), (REGISTERS, LEN as u64)];
    let contents = || {
        let mut bytes = vec![0; LEN];
        ram.read(0, &mut bytes);
        bytes
    };
    device(data, chip, &[], &seen, |flash, bench, f| {
        let mut write = |flash: &mut Flash, offset: u64, value: u8| {
            flash.mmio_write(&mut bench.cx(), ARRAY, offset, 1, value.into());
        };
        // Whatever it waits for: to the array.
        for _ in 0..2 {
            write(flash, 0, 0xff);
        }
        medium.set_fail(f.below(8) == 0);
        let mut model = contents();
        for _ in 0..f.below(6) {
            let offset = f.u16() as usize % LEN;
            match f.below(3) {
                0 => {
                    let value = f.u8();
                    write(flash, offset as u64, f.pick(&[0x10, 0x40]));
                    write(flash, offset as u64, value);
                    model[offset] &= value;
                }
                1 => {
                    write(flash, offset as u64, 0x20);
                    write(flash, offset as u64, 0xd0);
                    model[offset / BLOCK * BLOCK..][..BLOCK].fill(0xff);
                }
                _ => write(
                    flash,
                    offset as u64,
                    f.pick(&[0x50, 0x70, 0x90, 0xff, 0x98]),
                ),
            }
        }
        write(flash, 0, 0xff);
        assert!(contents() == model, "the contents are those of the model");
        if !medium.set_fail(false) {
            assert!(medium.contents() == model, "the medium has them");
        }
    });
}
