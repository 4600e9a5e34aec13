//! What a guest's machine boots: firmware from its reset vector, or a Linux kernel without.

use crate::disk::ModuleDisk;
use crate::loader::{BootInfo, Module};
use crate::setup::Setup;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use hv_core::backend::BlockBackend;
use hv_core::machine::MachineDesc;
use hvmloader_fw::bios::{self, BiosPlacement};
use hvmloader_fw::linux::{self, LinuxBoot};
use protocol::options;

/// What is booted.
pub(super) enum Firmware {
    /// SeaBIOS or OVMF, from its reset vector.
    Bios {
        code: &'static [u8],
        placement: BiosPlacement,
    },
    /// A Linux kernel without firmware.
    Linux {
        boot: LinuxBoot,
        kernel: &'static [u8],
        initrd: &'static [u8],
        setup: Box<Setup>,
    },
}

impl Firmware {
    /// What the boot modules and options of VM `number` say, and the medium of UEFI's variables: `variables`, or what the firmware's image begins with.
    ///
    /// # Errors
    /// A sentence that says what is missing or does not fit.
    pub(super) fn choose(
        boot: &BootInfo,
        number: u8,
        options: &options::Vm<'static>,
        variables: Option<Box<dyn BlockBackend>>,
        desc: &MachineDesc,
    ) -> Result<(Self, Option<Box<dyn BlockBackend>>), String> {
        let need = |role: &str| boot.module(number.into(), role).map(Module::bytes);
        let mut store = None;
        let firmware = match need("kernel") {
            Some(kernel) => {
                let initrd = need("initrd").unwrap_or(&[]);
                let line = need("cmdline")
                    .map(|b| core::str::from_utf8(b).unwrap_or(""))
                    .or(options.cmdline)
                    .unwrap_or("");
                let head = &kernel[..kernel.len().min(linux::HEADER_LEN)];
                let plan = linux::plan(
                    head,
                    kernel.len() as u64,
                    initrd.len() as u64,
                    line.trim_end(),
                    desc,
                );
                Firmware::Linux {
                    boot: plan.map_err(|e| e.to_string())?,
                    kernel,
                    initrd,
                    setup: Box::new(Setup::new(desc)?),
                }
            }
            None => {
                // UEFI is the VM's own; the BIOS is the same for all.
                let image = need("firmware")
                    .or_else(|| boot.module(1, "bios").map(Module::bytes))
                    .ok_or("no guest: there is neither a `kernel` nor a `bios` module")?;
                // The variables are a medium of their own, or what the image begins with.
                let (first, code) = image.split_at(bios::store_in(image));
                store = match variables {
                    None if first.is_empty() => None,
                    None => Some(Box::new(ModuleDisk(first)) as Box<dyn BlockBackend>),
                    medium => medium,
                };
                let length = store.as_ref().map_or(0, |medium| medium.sectors());
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let placement = BiosPlacement::of(code, length.saturating_mul(512));
                let placement = placement.map_err(|e| e.to_string())?;
                Firmware::Bios { code, placement }
            }
        };
        Ok((firmware, store))
    }
}
