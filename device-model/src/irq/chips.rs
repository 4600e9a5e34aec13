//! The interrupt chips that the CPUs of a virtual machine share, PIC and I/O APIC, and the wires that end there.
//!
//! Input n of the PIC and of the I/O APIC are one wire, a GSI, but for GSI 0 (the PIT), which is the I/O APIC's input 2,
//! and for the I/O APIC's input 0, which is the PIC's output. PCI interrupt pins are wired-OR to four PIRQ lines, which the
//! PIIX3 routes to GSIs. The PIC's output reaches a CPU through LINT0 in ExtINT mode, through the I/O APIC's input 0 in
//! ExtINT mode, or directly when the boot CPU's local APIC is disabled (MP Specification 1.4 3.6.2, "Interrupt Modes").
//!
//! Invariant: whenever the lock is free, each CPU's mailbox has the level of the PIC's output.

use super::apics::Apics;
use super::ioapic::IoApic;
use super::mailbox::Flags;
use super::pic::PicPair;
use alloc::sync::Arc;
use hv_core::irq::Wakeups;
use hv_core::lock::{Lock, Rank};
use hv_core::machine::{IOAPIC_PINS, pirq};

/// The interrupt chips behind their lock, which is taken after any device's and before none.
pub type SharedChips = Arc<Lock<InterruptChips>>;

/// The I/O APIC's input that GSI 0 is wired to.
const PIT_INPUT: u8 = 2;
/// The I/O APIC's input that the PIC's output is wired to.
const PIC_INPUT: u8 = 0;

/// For each PIRQ the PCI interrupt pins (bit device * 4 + pin) that are wired to it.
const PIRQ_PINS: [u128; 4] = {
    let mut pins = [0; 4];
    let mut input = 0;
    while input < 128 {
        pins[pirq(input >> 2, input & 3) as usize] |= 1 << input;
        input += 1;
    }
    pins
};

/// The PIC pair and the I/O APIC, and the way to the local APICs.
pub struct InterruptChips {
    pic: PicPair,
    ioapic: IoApic,
    apics: Arc<Apics>,
    wakeups: Arc<Wakeups>,
    /// The PIC's output as the APICs have seen it.
    pic_output: bool,
    /// Levels that ISA devices drive, by GSI.
    isa: u32,
    /// Levels that PCI devices drive, by device * 4 + pin.
    pci: u128,
    /// Levels of the PIRQ lines.
    pirqs: u8,
    routes: [Option<u8>; 4],
    /// Levels of the GSIs: ISA or PIRQ.
    gsis: u32,
}

impl InterruptChips {
    /// The chips of a machine of `cpus` virtual CPUs (at least 1, at most 255), in power-on state.
    #[must_use]
    pub fn new(cpus: u8) -> Self {
        let wakeups = Arc::<Wakeups>::default();
        Self {
            pic: PicPair::default(),
            ioapic: IoApic::new(),
            apics: Arc::new(Apics::new(cpus, &wakeups)),
            wakeups,
            pic_output: false,
            isa: 0,
            pci: 0,
            pirqs: 0,
            routes: [None; 4],
            gsis: 0,
        }
    }

    /// [`new`](Self::new) behind its lock.
    #[must_use]
    pub fn shared(cpus: u8) -> SharedChips {
        Arc::new(Lock::new(Rank::Chips, Self::new(cpus)))
    }

    /// Which halted CPUs the chips have something for.
    #[must_use]
    pub fn wakeups(&self) -> Arc<Wakeups> {
        self.wakeups.clone()
    }

    /// The way to the local APICs.
    pub(super) fn apics(&self) -> Arc<Apics> {
        self.apics.clone()
    }

    /// CPU `cpu` is plugged in or taken away: nothing waits for it. Its local APIC is reset with it.
    pub fn set_present(&mut self, cpu: usize, present: bool) {
        if let Some(mailbox) = self.apics.all().get(cpu) {
            mailbox.set_present(present);
        }
    }

    /// Presets LINT0 of the boot CPU to ExtINT as firmware leaves it, for booting an operating system without firmware.
    /// To be repeated after each reset.
    pub fn preset_virtual_wire(&mut self) {
        if let Some(mailbox) = self.apics.all().first() {
            mailbox.tell(Flags::VIRTUAL_WIRE);
        }
    }

    /// Sets the level that ISA devices drive on `gsi` (0 to 23).
    pub fn set_gsi(&mut self, gsi: u8, level: bool) {
        if gsi >= IOAPIC_PINS {
            return;
        }
        let bit = 1 << gsi;
        self.isa = if level {
            self.isa | bit
        } else {
            self.isa & !bit
        };
        self.drive(gsi);
    }

    /// Sets the level that PCI interrupt pin `input` (device * 4 + pin, 0 to 127) drives.
    pub fn set_pci(&mut self, input: u8, level: bool) {
        let bit = 1u128.checked_shl(input.into()).unwrap_or(0);
        self.pci = if level {
            self.pci | bit
        } else {
            self.pci & !bit
        };
        let line = pirq(input >> 2, input & 3);
        let asserted = PIRQ_PINS
            .get(usize::from(line))
            .is_some_and(|pins| self.pci & pins != 0);
        if asserted != (self.pirqs >> line & 1 != 0) {
            self.pirqs ^= 1 << line;
            if let Some(gsi) = self.routes.get(usize::from(line)).copied().flatten() {
                self.drive(gsi);
            }
        }
    }

    /// Routes PIRQ `line` (0 = A to 3 = D) to ISA interrupt `irq` (0 to 15), or to none.
    pub fn set_pirq_route(&mut self, line: u8, irq: Option<u8>) {
        let Some(route) = self.routes.get_mut(usize::from(line)) else {
            return;
        };
        let old = core::mem::replace(route, irq.filter(|&i| i < 16));
        let new = *route;
        for gsi in [old, new].into_iter().flatten() {
            self.drive(gsi);
        }
    }

    /// Whether anything but a CPU can send an NMI, an INIT or a start-up message. If not, CPUs that have all halted with interrupts off have
    /// halted for ever.
    #[must_use]
    pub fn can_send_nmi(&self) -> bool {
        self.ioapic.can_send_nmi() || self.apics.has_nmi_at_lint0()
    }

    /// Pulls the NMI pin (LINT1 of all local APICs; the pin itself where there is none).
    pub fn pull_nmi(&mut self) {
        self.apics.pull_nmi();
    }

    /// Recomputes the level of `gsi` and tells the chips of a change.
    fn drive(&mut self, gsi: u8) {
        let bit = 1u32 << (gsi & 31);
        let mut level = self.isa & bit != 0;
        for (line, route) in self.routes.iter().enumerate() {
            level |= *route == Some(gsi) && self.pirqs >> line & 1 != 0;
        }
        if level == (self.gsis & bit != 0) {
            return;
        }
        self.gsis ^= bit;
        self.pic.set(gsi, level);
        self.pic_changed();
        match gsi {
            0 | PIT_INPUT => self.set_ioapic(PIT_INPUT, self.gsis & (1 | 1 << PIT_INPUT) != 0),
            _ => self.set_ioapic(gsi, level),
        }
    }

    fn set_ioapic(&mut self, pin: u8, level: bool) {
        if let Some(message) = self.ioapic.set(pin, level)
            && self.apics.deliver(message)
        {
            self.ioapic.accepted(pin);
        }
    }

    /// Sends what the inputs in `pins` have to send.
    fn send_due(&mut self, mut pins: u32) {
        while pins != 0 {
            let pin = pins.trailing_zeros() as u8;
            pins &= pins - 1;
            if let Some(message) = self.ioapic.due(pin)
                && self.apics.deliver(message)
            {
                self.ioapic.accepted(pin);
            }
        }
    }

    /// The PIC may have changed its output.
    fn pic_changed(&mut self) {
        let output = self.pic.output();
        if output == self.pic_output {
            return;
        }
        self.pic_output = output;
        self.tell_output();
        self.set_ioapic(PIC_INPUT, output);
        if output {
            self.apics.lint0_rises();
        }
    }

    /// Tells all CPUs the level of the PIC's output.
    fn tell_output(&self) {
        self.apics.pic(self.pic_output);
        self.tell_output_of_ioapic();
    }

    /// Tells the CPUs to which the I/O APIC passes the PIC's output on.
    fn tell_output_of_ioapic(&self) {
        let to = self.ioapic.ext_int().filter(|_| self.pic_output);
        self.apics.pic_by_ioapic(to);
    }

    /// A local APIC may be addressed otherwise, or accept what it refused before.
    pub(super) fn addresses_changed(&mut self) {
        self.tell_output_of_ioapic();
        self.send_due(self.ioapic.waiting());
    }

    /// The level-triggered interrupt `vector` has ended.
    pub(super) fn end_of_interrupt(&mut self, vector: u8) {
        let pins = self.ioapic.eoi(vector);
        self.send_due(pins);
    }

    /// The PIC's part in an interrupt-acknowledge cycle; none if it has nothing any more.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        if !self.pic_output {
            return None;
        }
        let vector = self.pic.acknowledge();
        self.pic_changed();
        Some(vector)
    }

    /// Undoes the PIC's last acknowledge cycle.
    pub(super) fn unacknowledge(&mut self) {
        self.pic.unacknowledge();
        self.pic_output = self.pic.output();
        // The line rises as if it had never fallen: for an I/O APIC that does not pass it on as ExtINT there is no edge.
        let _ = self.ioapic.set(PIC_INPUT, self.pic_output);
        self.tell_output();
    }

    pub(super) fn pic_reset(&mut self) {
        self.pic.reset();
        self.pic_changed();
    }

    pub(super) fn pic_read(&mut self, port: u16) -> u8 {
        let value = self.pic.read(port);
        self.pic_changed();
        value
    }

    pub(super) fn pic_write(&mut self, port: u16, value: u8) {
        self.pic.write(port, value);
        self.pic_changed();
    }

    pub(super) fn ioapic_reset(&mut self) {
        self.ioapic.reset();
        self.tell_output_of_ioapic();
    }

    pub(super) fn ioapic_read(&self, offset: u64) -> u32 {
        self.ioapic.read(offset)
    }

    pub(super) fn ioapic_write(&mut self, offset: u64, value: u32) {
        match self.ioapic.write(offset, value) {
            Some(PIC_INPUT) => {
                self.tell_output_of_ioapic();
                self.send_due(1 << PIC_INPUT);
            }
            Some(pin) => self.send_due(1 << pin),
            None => {}
        }
    }
}
