//! Starts a Linux kernel without firmware, and wakes it.

use super::Guest;
use super::firmware::Firmware;
use crate::setup::Setup;
use alloc::string::{String, ToString};
use hv_core::cpu::VcpuBackend;
use hv_core::device::AccessSize;
use hv_core::regs::{SegReg, Segment, SysReg, gpr};
use hvmloader_fw::acpi::facs;
use hvmloader_fw::linux::Source;
use hvmloader_fw::{cmos, pci_setup, vga_text};

impl<B: VcpuBackend> Guest<B> {
    /// Text mode 3, whose registers have been set, with the VGA BIOS's font and an empty screen.
    fn clear_text_screen(&self) {
        let vga = self.vga.lock();
        // Four planes interleaved: character, attribute, font.
        for cell in 0..80 * 25 {
            vga.vram().write(4 * cell, b" \x07");
        }
        let glyphs = vga_text::find_font(self.vgabios)
            .unwrap_or_default()
            .chunks_exact(vga_text::FONT_HEIGHT);
        for (character, glyph) in glyphs.enumerate() {
            for (line, dots) in glyph.iter().enumerate() {
                vga.vram().write(4 * (32 * character + line) + 2, &[*dots]);
            }
        }
    }

    /// The chips and the screen as firmware leaves them.
    fn set_up_chips(&self, setup: &Setup) {
        let now = self.cpus[0].cpu.now();
        let out = |port, size, value| self.vm.bus().port_write(now, port, size, value);
        for w in &setup.config {
            let address = 1 << 31 | u32::from(w.slot.devfn()) << 8 | u32::from(w.offset & 0xfc);
            out(0xcf8, AccessSize::Dword, address);
            out(0xcfc + u16::from(w.offset & 3), w.size, w.value);
        }
        for (port, value) in pci_setup::port_writes() {
            out(port, AccessSize::Byte, value.into());
        }
        self.chips.lock().preset_virtual_wire();
        for &(port, value) in &setup.text_mode {
            out(port, AccessSize::Byte, value.into());
        }
        self.clear_text_screen();
    }

    /// What firmware does when the machine wakes from S3: the chips, then the waking vector in the FACS, in real mode (ACPI 16.3.2, "BIOS
    /// Initialization of Memory").
    ///
    /// # Errors
    /// The guest has left no vector.
    pub(super) fn resume_linux(&mut self) -> Result<(), String> {
        let Firmware::Linux { setup, .. } = &self.firmware else {
            return Ok(());
        };
        let mut facs = [0; facs::LEN];
        let read = self.memory.read(setup.facs, &mut facs);
        read.map_err(|e| e.to_string())?;
        let vector = facs::waking_vector(&facs);
        let vector = vector.ok_or("it has left no waking vector below 1 MiB")?;
        self.set_up_chips(setup);
        // The status has been seen.
        self.rtc.lock().set_cmos(cmos::SHUTDOWN_STATUS, 0);
        let cpu = &mut self.cpus[0].cpu.cpu;
        let mut code = cpu.segment(SegReg::Cs);
        code.selector = (vector >> 4) as u16;
        code.base = u64::from(vector & !0xf);
        cpu.set_segment(SegReg::Cs, code);
        cpu.set_rip(u64::from(vector & 0xf));
        Ok(())
    }

    /// What firmware would have done, then the kernel's 32-bit entry (Linux/x86 boot protocol, "32-bit BOOT PROTOCOL").
    pub(super) fn start_linux(&mut self) -> Result<(), String> {
        let Firmware::Linux {
            boot,
            kernel,
            initrd,
            setup,
        } = &self.firmware
        else {
            return Ok(());
        };
        for (at, bytes) in &setup.tables {
            self.memory.write(*at, bytes).map_err(|e| e.to_string())?;
        }
        self.set_up_chips(setup);
        for c in &boot.copies {
            let from: &[u8] = match c.source {
                Source::Kernel => kernel,
                Source::Initrd => initrd,
            };
            let part = from
                .get(c.range.start as usize..c.range.end as usize)
                .ok_or("the kernel file is cut off")?;
            self.memory.write(c.to, part).map_err(|e| e.to_string())?;
        }
        for w in [&boot.boot_params, &boot.command_line, &boot.gdt] {
            self.memory
                .write(w.to, &w.bytes)
                .map_err(|e| e.to_string())?;
        }
        let e = &boot.entry;
        let cpu = &mut self.cpus[0].cpu.cpu;
        cpu.set_segment(SegReg::Cs, e.code);
        for s in [SegReg::Ds, SegReg::Es, SegReg::Ss, SegReg::Fs, SegReg::Gs] {
            cpu.set_segment(s, e.data);
        }
        cpu.set_segment(
            SegReg::Gdtr,
            Segment {
                base: e.gdt.0,
                limit: e.gdt_limit.into(),
                ..Segment::default()
            },
        );
        cpu.set_sysreg(SysReg::Cr0, 0x11);
        cpu.gprs_mut().regs = [0; 16];
        cpu.gprs_mut().regs[gpr::RSI] = e.esi.into();
        cpu.set_rip(e.eip.into());
        Ok(())
    }
}
