//! All interrupt chips of a virtual machine and the wires between them.
//!
//! Input n of the PIC and of the I/O APIC are one wire, a GSI, but for GSI 0 (the PIT), which is the I/O APIC's input 2,
//! and for the I/O APIC's input 0, which is the PIC's output. PCI interrupt pins are wired-OR to four PIRQ lines, which the
//! PIIX3 routes to GSIs. The PIC's output reaches a CPU through LINT0 in ExtINT mode, through the I/O APIC's input 0 in
//! ExtINT mode, or directly when the boot CPU's local APIC is disabled (MP Specification 1.4 3.6.2, "Interrupt Modes").
//!
//! Invariant: whenever the lock is free, each CPU's signals say what its chips would answer.

use super::cpu::Signals;
use super::ioapic::IoApic;
use super::lapic::{Accept, Effect, Lapic, Shorthand, x2apic};
use super::pic::PicPair;
use super::{DeliveryMode, Message};
use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_core::VmTime;
use hv_core::irq::Wakeups;
use hv_core::machine::{IOAPIC_PINS, pirq};
use spin::Mutex;

/// The interrupt chips behind their lock, which is taken after any device's and before none.
pub type SharedChips = Arc<Mutex<InterruptChips>>;

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

struct Cpu {
    /// Whether it is plugged in: messages do not reach one that is not.
    present: bool,
    lapic: Lapic,
    signals: Arc<Signals>,
    /// Whether the PIC, and not the local APIC, gave the vector that was acknowledged last.
    from_pic: bool,
    /// Interprocessor interrupts that it has sent.
    ipis: u64,
}

/// The PIC pair, the I/O APIC and the local APICs.
pub struct InterruptChips {
    pic: PicPair,
    ioapic: IoApic,
    cpus: Vec<Cpu>,
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
    /// Where the search for a lowest-priority receiver begins.
    turn: usize,
}

impl InterruptChips {
    /// The chips of a machine of `cpus` virtual CPUs (at least 1, at most 255), in power-on state.
    #[must_use]
    pub fn new(cpus: u8) -> Self {
        let wakeups = Arc::<Wakeups>::default();
        let cpu = |n| Cpu {
            present: true,
            lapic: Lapic::new(n),
            signals: Arc::new(Signals::new(n.into(), wakeups.clone())),
            from_pic: false,
            ipis: 0,
        };
        let mut chips = Self {
            pic: PicPair::default(),
            ioapic: IoApic::new(),
            cpus: (0..cpus.max(1)).map(cpu).collect(),
            wakeups: wakeups.clone(),
            pic_output: false,
            isa: 0,
            pci: 0,
            pirqs: 0,
            routes: [None; 4],
            gsis: 0,
            turn: 0,
        };
        chips.signal_all();
        chips
    }

    /// [`new`](Self::new) behind its lock.
    #[must_use]
    pub fn shared(cpus: u8) -> SharedChips {
        Arc::new(Mutex::new(Self::new(cpus)))
    }

    /// Which halted CPUs the chips have something for.
    #[must_use]
    pub fn wakeups(&self) -> Arc<Wakeups> {
        self.wakeups.clone()
    }

    /// CPU `cpu` is plugged in or taken away: its local APIC is new, and nothing waits for it.
    pub fn set_present(&mut self, cpu: usize, present: bool) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            c.present = present;
            c.lapic.reset();
            c.signals.forget();
        }
        self.signal(cpu);
    }

    /// Presets LINT0 of the boot CPU to ExtINT as firmware leaves it, for booting an operating system without firmware.
    /// To be repeated after each reset.
    pub fn preset_virtual_wire(&mut self) {
        if let Some(c) = self.cpus.first_mut() {
            c.lapic.preset_virtual_wire();
        }
        self.signal_all();
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

    /// A device writes `data` to `address` FEEx_xxxxh: a message-signalled interrupt (SDM vol 3A 12.11, "Message Signalled
    /// Interrupts").
    pub fn msi(&mut self, address: u64, data: u32) {
        let message = Message {
            destination: Message::wide((address >> 12) as u8),
            logical: address & 1 << 2 != 0,
            mode: DeliveryMode::of(data),
            vector: data as u8,
            level: data & 1 << 15 != 0,
        };
        self.deliver(message);
    }

    /// Whether anything but a CPU can send an NMI, an INIT or a start-up message. If not, CPUs that have all halted with interrupts off have
    /// halted for ever.
    #[must_use]
    pub fn can_send_nmi(&self) -> bool {
        self.ioapic.can_send_nmi() || self.cpus.iter().any(|c| c.lapic.lint0_is_nmi())
    }

    /// Pulls the NMI pin (LINT1 of all local APICs; the pin itself where there is none).
    pub fn pull_nmi(&mut self) {
        for cpu in 0..self.cpus.len() {
            let Some(c) = self.cpus.get_mut(cpu) else {
                return;
            };
            let accept = if c.lapic.enabled() {
                c.lapic.lint1_rises()
            } else {
                Accept::Nmi
            };
            self.accept(cpu, accept);
        }
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
            && self.deliver(message)
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
                && self.deliver(message)
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
        self.signal_all();
        self.set_ioapic(PIC_INPUT, output);
        if output {
            for cpu in 0..self.cpus.len() {
                let Some(c) = self.cpus.get_mut(cpu) else {
                    return;
                };
                let accept = c.lapic.lint0_rises();
                self.accept(cpu, accept);
            }
        }
    }

    /// Hands `message` to the local APICs it is addressed to; false if none accepted it.
    fn deliver(&mut self, message: Message) -> bool {
        if message.mode == DeliveryMode::LowestPriority {
            return self.arbitrate(message);
        }
        let mut accepted = false;
        for cpu in 0..self.cpus.len() {
            accepted |= self
                .cpus
                .get(cpu)
                .is_some_and(|c| c.lapic.is_destination(message.destination, message.logical))
                && self.receive(cpu, message);
        }
        accepted
    }

    /// Lowest-priority delivery: among the addressed the one with the lowest processor priority, in turns.
    fn arbitrate(&mut self, message: Message) -> bool {
        let count = self.cpus.len();
        let mut best: Option<(u8, usize)> = None;
        for i in 0..count {
            let cpu = (self.turn + i) % count;
            let Some(c) = self.cpus.get(cpu) else {
                continue;
            };
            if !c.present
                || !c.lapic.is_destination(message.destination, message.logical)
                || !c.lapic.arbitrates()
            {
                continue;
            }
            let class = c.lapic.ppr() >> 4;
            if best.is_none_or(|(lowest, _)| class < lowest) {
                best = Some((class, cpu));
            }
        }
        let Some((_, cpu)) = best else { return false };
        self.turn = (cpu + 1) % count;
        self.receive(cpu, message)
    }

    fn receive(&mut self, cpu: usize, message: Message) -> bool {
        let Some(c) = self.cpus.get_mut(cpu).filter(|c| c.present) else {
            return false;
        };
        let accept = c.lapic.receive(message);
        self.accept(cpu, accept);
        accept != Accept::Refused
    }

    fn accept(&mut self, cpu: usize, accept: Accept) {
        let Some(c) = self.cpus.get(cpu) else { return };
        match accept {
            // Even a refused message may raise the error interrupt.
            Accept::Refused | Accept::Interrupt => {}
            Accept::Nmi => c.signals.nmi(),
            Accept::Init => c.signals.init(),
            Accept::StartUp(vector) => c.signals.start_up(vector),
        }
        self.signal(cpu);
    }

    /// Whether the PIC's interrupts reach `cpu`.
    fn takes_ext_int(&self, cpu: usize, lapic: &Lapic) -> bool {
        if !lapic.enabled() {
            return cpu == 0;
        }
        lapic.ext_int()
            || self
                .ioapic
                .ext_int()
                .is_some_and(|(to, logical)| lapic.is_destination(to, logical))
    }

    /// Recomputes what `cpu` is told.
    fn signal(&self, cpu: usize) {
        let Some(c) = self.cpus.get(cpu) else { return };
        let interrupt =
            c.lapic.deliverable().is_some() || self.pic_output && self.takes_ext_int(cpu, &c.lapic);
        c.signals
            .publish(interrupt, c.lapic.tpr(), c.lapic.held_back_by_tpr());
    }

    fn signal_all(&mut self) {
        for cpu in 0..self.cpus.len() {
            self.signal(cpu);
        }
    }

    /// The signals of CPU `cpu`.
    pub(super) fn signals(&self, cpu: usize) -> Option<Arc<Signals>> {
        Some(self.cpus.get(cpu)?.signals.clone())
    }

    /// The interrupt-acknowledge cycle of `cpu`.
    pub(super) fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        let c = self.cpus.get(cpu)?;
        let from_pic = self.pic_output && self.takes_ext_int(cpu, &c.lapic);
        self.cpus.get_mut(cpu)?.from_pic = from_pic;
        let vector = if from_pic {
            let vector = self.pic.acknowledge();
            self.pic_changed();
            Some(vector)
        } else {
            self.cpus.get_mut(cpu)?.lapic.acknowledge()
        };
        self.signal(cpu);
        vector
    }

    /// Undoes the last acknowledge cycle of `cpu`, which gave `vector`.
    pub(super) fn unacknowledge(&mut self, cpu: usize, vector: u8) {
        let Some(c) = self.cpus.get_mut(cpu) else {
            return;
        };
        if !core::mem::take(&mut c.from_pic) {
            c.lapic.unacknowledge(vector);
            self.signal(cpu);
            return;
        }
        self.pic.unacknowledge();
        self.pic_output = self.pic.output();
        // The line rises as if it had never fallen: for an I/O APIC that does not pass it on as ExtINT there is no edge.
        let _ = self.ioapic.set(PIC_INPUT, self.pic_output);
        self.signal_all();
    }

    /// Whether the interrupt in service of `cpu` is edge-triggered and the only one in service or requested.
    pub(super) fn eoi_may_be_skipped(&self, cpu: usize) -> bool {
        !self.pic_output
            && self
                .cpus
                .get(cpu)
                .is_some_and(|c| c.lapic.eoi_may_be_skipped())
    }

    /// Ends the interrupt in service of `cpu`.
    pub(super) fn end_of_interrupt(&mut self, cpu: usize) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            let effect = c.lapic.end_of_interrupt();
            self.carry_out(cpu, effect);
        }
    }

    /// Sets the task priority of `cpu`.
    pub(super) fn set_tpr(&mut self, cpu: usize, value: u8) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            c.lapic.set_tpr(value);
        }
        self.signal(cpu);
    }

    /// Reads IA32_APIC_BASE of `cpu`.
    pub(super) fn apic_base(&self, cpu: usize) -> u64 {
        self.cpus.get(cpu).map_or(0, |c| c.lapic.apic_base())
    }

    /// Writes IA32_APIC_BASE of `cpu`; false means #GP(0).
    pub(super) fn set_apic_base(&mut self, cpu: usize, value: u64) -> bool {
        let valid = self
            .cpus
            .get_mut(cpu)
            .is_some_and(|c| c.lapic.set_apic_base(value));
        self.signal(cpu);
        self.send_due(self.ioapic.waiting());
        valid
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
        self.signal_all();
    }

    pub(super) fn ioapic_read(&self, offset: u64) -> u32 {
        self.ioapic.read(offset)
    }

    pub(super) fn ioapic_write(&mut self, offset: u64, value: u32) {
        match self.ioapic.write(offset, value) {
            Some(PIC_INPUT) => {
                self.signal_all();
                self.send_due(1 << PIC_INPUT);
            }
            Some(pin) => self.send_due(1 << pin),
            None => {}
        }
    }

    pub(super) fn lapic_reset(&mut self, cpu: usize) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            c.lapic.reset();
            c.signals.forget();
        }
        self.signal(cpu);
    }

    /// Lets the timer of `cpu` run up to `now` and tells when it is due next.
    pub(super) fn lapic_poll(&mut self, cpu: usize, now: VmTime) -> Option<VmTime> {
        let c = self.cpus.get_mut(cpu)?;
        let fired = c.lapic.advance(now);
        let deadline = c.lapic.deadline();
        if fired {
            self.signal(cpu);
        }
        deadline
    }

    /// Reads the register at `offset` of the page; none while it does not answer.
    pub(super) fn lapic_read(&mut self, cpu: usize, now: VmTime, offset: u64) -> Option<u32> {
        let c = self.cpus.get_mut(cpu).filter(|c| c.lapic.has_page())?;
        let fired = c.lapic.advance(now);
        let value = c.lapic.read(now, offset);
        if fired {
            self.signal(cpu);
        }
        Some(value)
    }

    /// Writes the register at `offset` of the page. Returns the timer's deadline if the write may have changed it.
    pub(super) fn lapic_write(
        &mut self,
        cpu: usize,
        now: VmTime,
        offset: u64,
        value: u32,
    ) -> Option<VmTime> {
        let c = self.cpus.get_mut(cpu).filter(|c| c.lapic.has_page())?;
        c.lapic.advance(now);
        let effect = c.lapic.write(now, offset, value);
        self.carry_out(cpu, effect)
    }

    /// Reads the register `msr` in x2APIC mode; none means #GP(0).
    pub(super) fn x2apic_read(&mut self, cpu: usize, now: VmTime, msr: u32) -> Option<u64> {
        let c = self.cpus.get_mut(cpu)?;
        let fired = c.lapic.advance(now);
        let value = c.lapic.x2apic_read(now, msr);
        if fired {
            self.signal(cpu);
        }
        value
    }

    /// Writes the register `msr` in x2APIC mode; none means #GP(0). Returns the timer's deadline if the write may have
    /// changed it.
    pub(super) fn x2apic_write(
        &mut self,
        cpu: usize,
        now: VmTime,
        msr: u32,
        value: u64,
    ) -> Option<Option<VmTime>> {
        let c = self.cpus.get_mut(cpu)?;
        // The end of an interrupt, once an interrupt, does not care for the timer.
        let fired = msr != x2apic::EOI && c.lapic.advance(now);
        match c.lapic.x2apic_write(now, msr, value) {
            Some(effect) => Some(self.carry_out(cpu, effect)),
            None => {
                if fired {
                    self.signal(cpu);
                }
                None
            }
        }
    }

    /// Reads IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&mut self, cpu: usize, now: VmTime) -> u64 {
        let Some(c) = self.cpus.get_mut(cpu) else {
            return 0;
        };
        let fired = c.lapic.advance(now);
        let value = c.lapic.tsc_deadline();
        if fired {
            self.signal(cpu);
        }
        value
    }

    /// Writes IA32_TSC_DEADLINE, whose moment is `at`. Returns the timer's deadline if the write has changed it.
    pub(super) fn set_tsc_deadline(
        &mut self,
        cpu: usize,
        now: VmTime,
        value: u64,
        at: VmTime,
    ) -> Option<VmTime> {
        let c = self.cpus.get_mut(cpu)?;
        c.lapic.advance(now);
        let effect = c.lapic.set_tsc_deadline(value, at);
        self.carry_out(cpu, effect)
    }

    /// Does what a register write of `cpu` asks for. Returns the timer's deadline if the write may have changed it.
    fn carry_out(&mut self, cpu: usize, effect: Effect) -> Option<VmTime> {
        self.signal(cpu);
        match effect {
            Effect::None => {}
            Effect::Timer => return self.cpus.get(cpu)?.lapic.deadline(),
            Effect::Eoi(vector) => {
                let pins = self.ioapic.eoi(vector);
                self.send_due(pins);
            }
            Effect::Send(message, shorthand) => self.send(cpu, message, shorthand),
            Effect::Accepting => {
                let pins = self.ioapic.waiting();
                self.send_due(pins);
            }
        }
        None
    }

    /// Kicks the CPU with this APIC ID.
    pub(super) fn kick(&self, apic_id: u32) {
        let is = |c: &&Cpu| c.lapic.is_destination(apic_id, false);
        if let Some(c) = self.cpus.iter().find(is) {
            c.signals.kick();
        }
    }

    /// Sends what bits 10:0 of `icr` say from `cpu` to the CPU with this APIC ID. Whether there is one.
    pub(super) fn send_ipi(&mut self, cpu: usize, apic_id: u32, icr: u32) -> bool {
        let message = Message {
            destination: apic_id,
            logical: false,
            mode: DeliveryMode::of(icr),
            vector: icr as u8,
            level: false,
        };
        let there = self
            .cpus
            .iter()
            .any(|c| c.lapic.is_destination(apic_id, false));
        if there {
            self.send(cpu, message, Shorthand::Destination);
        }
        there
    }

    /// How many interprocessor interrupts `cpu` has sent.
    pub(super) fn ipis(&self, cpu: usize) -> u64 {
        self.cpus.get(cpu).map_or(0, |c| c.ipis)
    }

    /// Sends an interprocessor interrupt of `cpu`.
    fn send(&mut self, cpu: usize, message: Message, shorthand: Shorthand) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            c.ipis += 1;
        }
        match shorthand {
            Shorthand::Destination => {
                self.deliver(message);
            }
            Shorthand::Itself => {
                self.receive(cpu, message);
            }
            Shorthand::All | Shorthand::Others => {
                for other in 0..self.cpus.len() {
                    let there = self.cpus.get(other).is_some_and(|c| c.lapic.enabled());
                    if there && (shorthand == Shorthand::All || other != cpu) {
                        self.receive(other, message);
                    }
                }
            }
        }
    }
}
