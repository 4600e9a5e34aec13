//! The interrupt chips together, driven as guests drive them.

use super::{CpuInterrupts, GsiSink, InterruptChips, IoApicMmio, MessageSink, PciSink, PicPorts};
use alloc::sync::Arc;
use hv_core::VmTime;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::irq::{Attention, InterruptController, IrqLine, MsiSink};
use hv_core::testing::{Bench, Random};

const W: WindowId = WindowId(0);
/// IA32_APIC_BASE of the boot CPU in x2APIC mode.
const X2APIC: u64 = 0xfee0_0d00;

struct Machine {
    chips: super::SharedChips,
    bench: Bench,
    pic: PicPorts,
    ioapic: IoApicMmio,
    cpu: CpuInterrupts,
}

impl Machine {
    fn new() -> Self {
        let chips = InterruptChips::shared(1);
        Self {
            bench: Bench::new(),
            pic: PicPorts::new(chips.clone()),
            ioapic: IoApicMmio::new(chips.clone()),
            cpu: CpuInterrupts::new(&chips, 0).unwrap(),
            chips,
        }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.pic
            .port_write(&mut self.bench.cx(), port, AccessSize::Byte, value.into());
    }

    fn init_pics(&mut self) {
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x30),
            (0xa1, 0x38),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ] {
            self.out(port, value);
        }
    }

    fn lapic(&mut self, offset: u64, value: u32) {
        self.cpu.mmio_write(self.bench.now, offset, 4, value.into());
    }

    fn lapic_read(&mut self, offset: u64) -> u32 {
        self.cpu.mmio_read(self.bench.now, offset) as u32
    }

    fn redirect(&mut self, pin: u8, low: u32) {
        for (offset, value) in [
            (0, 0x11 + 2 * u64::from(pin)),
            (0x10, 0),
            (0, 0x10 + 2 * u64::from(pin)),
            (0x10, low.into()),
        ] {
            self.ioapic
                .mmio_write(&mut self.bench.cx(), W, offset, 4, value);
        }
    }

    fn rdmsr(&mut self, msr: u32) -> Option<u64> {
        self.cpu.x2apic_read(msr, self.bench.now)
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> bool {
        self.cpu.x2apic_write(msr, value, self.bench.now)
    }

    fn gsi(&self, pin: u8) -> IrqLine {
        IrqLine::new(Arc::new(GsiSink(self.chips.clone())), pin)
    }

    fn pci(&self, device: u8, pin: u8) -> IrqLine {
        IrqLine::new(
            Arc::new(PciSink(self.chips.clone())),
            PciSink::input(device, pin),
        )
    }
}

#[test]
fn masked_lint0_keeps_the_pic_away_until_firmware_opens_it() {
    let mut m = Machine::new();
    m.init_pics();
    m.gsi(4).set(true);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x350, 0x8700); // SeaBIOS
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    assert_eq!(m.cpu.acknowledge(), Some(0x34));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn preset_virtual_wire_passes_the_pic_without_firmware() {
    let mut m = Machine::new();
    m.chips.lock().preset_virtual_wire();
    m.init_pics();
    m.gsi(0).pulse();
    assert_eq!(m.cpu.acknowledge(), Some(0x30));
}

#[test]
fn interrupt_that_was_not_taken_has_the_vector_to_which_the_guest_moves_its_pic() {
    // An old BSD: the BIOS's vectors first, then its own, with interrupts off.
    let mut m = Machine::new();
    m.chips.lock().preset_virtual_wire();
    for (port, value) in [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0)] {
        m.out(port, value);
    }
    m.gsi(1).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(9));
    m.cpu.unacknowledge(9);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    for (port, value) in [(0x21, 0xff), (0x20, 0x11), (0x21, 0x20), (0x21, 4)] {
        m.out(port, value);
    }
    m.out(0x21, 1);
    assert_eq!(m.cpu.attention(), Attention::NONE, "edges are cleared");
    m.gsi(1).pulse();
    m.out(0x21, 0xff);
    assert_eq!(m.cpu.attention(), Attention::NONE, "masked");
    m.out(0x21, 0);
    assert_eq!(m.cpu.acknowledge(), Some(0x21));
}

#[test]
fn level_interrupt_that_was_not_taken_is_requested_again_and_ends_once() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.redirect(10, 0x8041);
    m.gsi(10).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x41));
    m.cpu.unacknowledge(0x41);
    assert_eq!(m.lapic_read(0x220) & 2, 2, "IRR");
    assert_eq!(m.lapic_read(0x120) & 2, 0, "ISR");
    assert_eq!(m.lapic_read(0x1a0) & 2, 2, "TMR");
    // The task priority is raised above it, and lowered.
    m.lapic(0x80, 0x50);
    assert_eq!(m.cpu.attention(), Attention::priority(5, 4));
    m.lapic(0x80, 0);
    assert_eq!(m.cpu.acknowledge(), Some(0x41));
    m.gsi(10).set(false);
    m.lapic(0xb0, 0);
    assert_eq!(m.cpu.attention(), Attention::NONE);
}

#[test]
fn pic_output_that_comes_back_is_no_edge_for_the_apics() {
    let mut m = Machine::new();
    m.init_pics();
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x350, 0x700);
    // The I/O APIC's input 0 is the PIC's output too.
    m.redirect(0, 0x51);
    m.gsi(3).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x33));
    m.out(0x20, 0x20);
    assert_eq!(m.cpu.acknowledge(), Some(0x51), "the edge of its rise");
    m.lapic(0xb0, 0);
    m.gsi(4).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x34));
    m.cpu.unacknowledge(0x34);
    assert_eq!(m.cpu.acknowledge(), Some(0x34));
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
    m.lapic(0xb0, 0);
    assert_eq!(m.cpu.attention(), Attention::NONE, "one edge");
}

#[test]
fn disabled_local_apic_lets_the_pic_through_and_hides_its_page() {
    let mut m = Machine::new();
    m.init_pics();
    assert!(m.cpu.set_apic_base(0xfee0_0100));
    m.gsi(1).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x31));
    assert_eq!(m.lapic_read(0x30), u32::MAX);
    assert!(m.cpu.set_apic_base(0xfee0_0900));
    assert_eq!(m.lapic_read(0x30), 0x0005_0014);
}

#[test]
fn pic_reaches_the_cpu_through_ioapic_input_0_in_extint_mode() {
    let mut m = Machine::new();
    m.init_pics();
    m.lapic(0xf0, 0x1ff);
    m.gsi(0).set(true);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.redirect(0, 0x700);
    assert_eq!(m.cpu.acknowledge(), Some(0x30));
}

#[test]
fn pit_is_ioapic_input_2() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.redirect(2, 0x30);
    m.gsi(0).pulse();
    assert_eq!(m.cpu.acknowledge(), Some(0x30));
    m.lapic(0xb0, 0);
    m.gsi(0).pulse();
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn ext_int_ignores_the_task_priority() {
    let mut m = Machine::new();
    m.init_pics();
    m.chips.lock().preset_virtual_wire();
    m.cpu.set_cr8(15);
    m.gsi(1).set(true);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn pic_output_in_fixed_mode_at_lint0_is_an_edge() {
    let mut m = Machine::new();
    m.init_pics();
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x350, 0x31);
    m.gsi(0).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x31));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn lowering_cr8_delivers_what_waited() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.cpu.set_cr8(0xd);
    assert_eq!(m.lapic_read(0x80), 0xd0);
    m.lapic(0x300, 0x4_00d1); // self
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.cpu.set_cr8(0xc);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    m.lapic(0x80, 0xff);
    assert_eq!(m.cpu.cr8(), 0xf);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    assert_eq!(m.cpu.acknowledge(), None);
}

#[test]
fn level_interrupt_comes_again_after_eoi_while_the_line_is_asserted() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.chips.lock().set_pirq_route(2, Some(11));
    m.redirect(11, 0xa051);
    let nic = m.pci(3, 0);
    nic.set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.lapic(0xb0, 0);
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
    nic.set(false);
    m.lapic(0xb0, 0);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn level_interrupt_waits_for_the_local_apic_to_be_enabled() {
    let mut m = Machine::new();
    m.redirect(9, 0x8041);
    m.gsi(9).set(true);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.lapic(0xf0, 0x1ff);
    assert_eq!(m.cpu.acknowledge(), Some(0x41));
}

#[test]
fn level_interrupt_with_an_illegal_vector_comes_when_the_vector_is_corrected() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.redirect(9, 0x8005);
    m.gsi(9).set(true);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.redirect(9, 0x8041);
    assert_eq!(m.cpu.acknowledge(), Some(0x41));
}

/// An NT-like HAL starts the RTC's periodic interrupt, does something else for longer than a period, and unmasks the I/O APIC's input:
/// its clock then ticks, at the RTC's rate.
#[test]
fn rtc_ticks_though_its_input_was_masked_when_the_first_tick_came() {
    let mut m = Machine::new();
    let mut rtc = crate::rtc::Rtc::new(m.gsi(8), 1_234_567_890);
    m.lapic(0xf0, 0x1ff);
    m.redirect(8, 0x1_00d1);
    let byte = AccessSize::Byte;
    for (index, value) in [(0x0a, 0x26), (0x0b, 0x42)] {
        rtc.port_write(&mut m.bench.cx(), 0x70, byte, index);
        rtc.port_write(&mut m.bench.cx(), 0x71, byte, value);
    }
    m.bench.now = VmTime(20_000_000);
    rtc.poll(&mut m.bench.cx());
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT), "masked");
    m.redirect(8, 0xd1);
    for tick in 0..100 {
        assert_eq!(m.cpu.acknowledge(), Some(0xd1), "tick {tick}");
        assert_eq!(m.cpu.acknowledge(), None);
        rtc.port_write(&mut m.bench.cx(), 0x70, byte, 0x0c);
        assert_eq!(rtc.port_read(&mut m.bench.cx(), 0x71, byte), 0xc0);
        m.lapic(0xb0, 0);
        m.bench.now = rtc.poll(&mut m.bench.cx()).unwrap();
        rtc.poll(&mut m.bench.cx());
    }
}

#[test]
fn edge_interrupt_waits_for_the_local_apic_to_be_enabled_while_its_line_lasts() {
    let mut m = Machine::new();
    m.redirect(8, 0xd1);
    m.redirect(6, 0xd2);
    m.gsi(8).set(true);
    m.gsi(6).set(true);
    m.gsi(6).set(false);
    m.lapic(0xf0, 0x1ff);
    assert_eq!(m.cpu.acknowledge(), Some(0xd1));
    m.lapic(0xb0, 0);
    assert_eq!(m.cpu.acknowledge(), None);
}

#[test]
fn pci_pins_on_one_pirq_are_ored() {
    let mut m = Machine::new();
    m.init_pics();
    m.out(0x4d1, 0x0c);
    m.cpu.set_apic_base(0xfee0_0100);
    m.chips.lock().set_pirq_route(2, Some(11));
    let (a, b) = (m.pci(3, 0), m.pci(7, 0));
    a.set(true);
    b.set(true);
    a.set(false);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    b.set(false);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn pirqs_and_isa_lines_on_one_interrupt_are_ored() {
    let mut m = Machine::new();
    m.init_pics();
    m.out(0x4d1, 0x0c);
    m.cpu.set_apic_base(0xfee0_0100);
    for line in [0, 1] {
        m.chips.lock().set_pirq_route(line, Some(10));
    }
    let (isa, a, b) = (m.gsi(10), m.pci(1, 0), m.pci(2, 0));
    a.set(true);
    b.set(true);
    isa.set(true);
    isa.set(false);
    a.set(false);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    b.set(false);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn route_rewritten_with_the_line_asserted_moves_the_level() {
    let mut m = Machine::new();
    m.init_pics();
    m.out(0x4d1, 0x0e);
    m.cpu.set_apic_base(0xfee0_0100);
    m.pci(3, 0).set(true);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    m.chips.lock().set_pirq_route(2, Some(11));
    assert_eq!(m.cpu.acknowledge(), Some(0x3b));
    m.out(0xa0, 0x20);
    m.out(0x20, 0x20);
    m.chips.lock().set_pirq_route(2, Some(9));
    assert_eq!(m.cpu.acknowledge(), Some(0x39));
    m.out(0xa0, 0x20);
    m.out(0x20, 0x20);
    m.chips.lock().set_pirq_route(2, None);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn timer_is_due_when_it_says_and_fires_in_poll() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x3e0, 0xb);
    m.lapic(0x320, 0x2_00ec);
    m.lapic(0x380, 4_000_000);
    assert_eq!(m.cpu.deadline(), VmTime(4_000_000));
    m.cpu.poll(VmTime(4_000_000));
    assert_eq!(m.cpu.deadline(), VmTime(8_000_000));
    assert_eq!(m.cpu.acknowledge(), Some(0xec));
    m.lapic(0x320, 0x1_00ec);
    assert_eq!(m.cpu.deadline(), VmTime::NEVER);
}

#[test]
fn msi_reaches_the_addressed_cpu() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    MessageSink::new(&m.chips).send(0xfee0_1000, 0x41);
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    MessageSink::new(&m.chips).send(0xfee0_0000, 0x4041);
    assert_eq!(m.cpu.acknowledge(), Some(0x41));
    m.lapic(0xd0, 0x0100_0000);
    MessageSink::new(&m.chips).send(0xfee0_100c, 0x4151); // logical, lowest priority
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
}

#[test]
fn nmi_init_and_startup_reach_their_cpu_once() {
    let chips = InterruptChips::shared(2);
    let mut boot = CpuInterrupts::new(&chips, 0).unwrap();
    let mut other = CpuInterrupts::new(&chips, 1).unwrap();
    let mut ipi = |value: u64| boot.mmio_write(VmTime(0), 0x300, 4, value);
    ipi(0xc_c500); // SeaBIOS: INIT to all others, then start-up
    ipi(0xc_8500);
    assert!(other.take_init());
    assert!(!other.take_init());
    ipi(0xc_4610);
    assert_eq!(other.take_start_up(), Some(0x10));
    ipi(0xc_4611);
    assert_eq!(other.take_start_up(), None);
    ipi(0xc_4400);
    assert!(other.take_nmi());
    assert!(!other.take_nmi());
}

#[test]
fn no_message_reaches_a_cpu_that_is_not_plugged_in() {
    let chips = InterruptChips::shared(2);
    let mut boot = CpuInterrupts::new(&chips, 0).unwrap();
    let mut other = CpuInterrupts::new(&chips, 1).unwrap();
    let mut ipi = |value: u64| boot.mmio_write(VmTime(0), 0x300, 4, value);
    ipi(0xc_4500);
    chips.lock().set_present(1, false);
    assert!(!other.take_init(), "what waits for it goes with it");
    for message in [0xc_4500, 0xc_4610, 0xc_4400] {
        ipi(message);
    }
    assert!(!other.take_init() && !other.take_nmi());
    assert_eq!(other.take_start_up(), None);
    chips.lock().set_present(1, true);
    ipi(0xc_4500);
    ipi(0xc_4610);
    assert!(other.take_init());
    assert_eq!(other.take_start_up(), Some(0x10));
}

#[test]
fn lowest_priority_takes_turns_and_avoids_busy_cpus() {
    let chips = InterruptChips::shared(2);
    let mut cpus = [0, 1].map(|cpu| {
        let mut own = CpuInterrupts::new(&chips, cpu).unwrap();
        for (offset, value) in [(0xf0, 0x1ff), (0xd0, 0x0100_0000 << cpu)] {
            own.mmio_write(VmTime(0), offset, 4, value);
        }
        own
    });
    MessageSink::new(&chips).send(0xfee0_3004, 0x141);
    MessageSink::new(&chips).send(0xfee0_3004, 0x142);
    assert_eq!(
        cpus.each_mut().map(|c| c.acknowledge()),
        [Some(0x41), Some(0x42)]
    );
    cpus[0].set_cr8(8);
    assert!(!cpus[0].attention().contains(Attention::INTERRUPT));
    MessageSink::new(&chips).send(0xfee0_3004, 0x151);
    assert!(!cpus[0].attention().contains(Attention::INTERRUPT));
    assert!(cpus[1].attention().contains(Attention::INTERRUPT));
}

#[test]
fn nmi_pin_obeys_lint1() {
    let mut m = Machine::new();
    m.chips.lock().pull_nmi();
    assert!(!m.cpu.take_nmi());
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x360, 0x400);
    m.chips.lock().pull_nmi();
    assert!(m.cpu.take_nmi());
}

#[test]
fn reset_is_power_on() {
    let mut m = Machine::new();
    m.init_pics();
    m.lapic(0xf0, 0x1ff);
    m.lapic(0x350, 0x700);
    m.gsi(4).set(true);
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
    m.pic.reset(&mut m.bench.cx());
    m.ioapic.reset(&mut m.bench.cx());
    m.cpu.reset();
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    assert_eq!(m.lapic_read(0x350), 0x1_0000);
    assert_eq!(m.cpu.apic_base(), 0xfee0_0900);
}

#[test]
fn x2apic_mode_takes_the_page_off_the_bus() {
    let mut m = Machine::new();
    m.lapic(0xf0, 0x1ff);
    assert_eq!(m.rdmsr(0x803), None, "xAPIC mode");
    assert!(!m.wrmsr(0x80b, 0), "xAPIC mode");
    assert!(m.cpu.set_apic_base(X2APIC));
    assert_eq!(m.lapic_read(0x30), u32::MAX);
    assert_eq!(m.lapic_read(0x34), u32::MAX);
    m.lapic(0x80, 0x50);
    assert_eq!(m.cpu.cr8(), 0);
    assert_eq!(m.rdmsr(0x803), Some(0x0005_0014));
    assert!(m.wrmsr(0x808, 0x50));
    assert_eq!(m.cpu.cr8(), 5);
}

#[test]
fn level_interrupt_comes_again_after_eoi_by_wrmsr() {
    let mut m = Machine::new();
    assert!(m.cpu.set_apic_base(X2APIC));
    assert!(m.wrmsr(0x80f, 0x1ff));
    m.redirect(11, 0xa051);
    m.gsi(11).set(true);
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    assert!(!m.wrmsr(0x80b, 1));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    assert!(m.wrmsr(0x80b, 0));
    assert_eq!(m.cpu.acknowledge(), Some(0x51));
    m.gsi(11).set(false);
    assert!(m.wrmsr(0x80b, 0));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn eoi_by_wrmsr_uncovers_the_lower_interrupt() {
    let mut m = Machine::new();
    assert!(m.cpu.set_apic_base(X2APIC));
    assert!(m.wrmsr(0x80f, 0x1ff));
    assert!(m.wrmsr(0x83f, 0x61));
    assert_eq!(m.cpu.acknowledge(), Some(0x61));
    assert!(m.wrmsr(0x83f, 0x51));
    assert!(!m.cpu.attention().contains(Attention::INTERRUPT));
    assert!(m.wrmsr(0x80b, 0));
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn timer_set_by_wrmsr_says_when_it_is_due() {
    let mut m = Machine::new();
    assert!(m.cpu.set_apic_base(X2APIC));
    for (msr, value) in [(0x80f, 0x1ff), (0x83e, 0xb), (0x832, 0xec), (0x838, 4_000)] {
        assert!(m.wrmsr(msr, value));
    }
    assert_eq!(m.cpu.deadline(), VmTime(4_000));
    m.bench.now = VmTime(1_000);
    assert_eq!(m.rdmsr(0x839), Some(3_000));
    m.bench.now = VmTime(4_000);
    assert_eq!(m.rdmsr(0x839), Some(0));
    assert_eq!(m.cpu.acknowledge(), Some(0xec));
}

#[test]
fn refused_write_still_shows_the_timer_that_ran_out() {
    let mut m = Machine::new();
    assert!(m.cpu.set_apic_base(X2APIC));
    for (msr, value) in [(0x80f, 0x1ff), (0x83e, 0xb), (0x832, 0xec), (0x838, 4_000)] {
        assert!(m.wrmsr(msr, value));
    }
    m.bench.now = VmTime(4_000);
    assert!(!m.wrmsr(0x803, 0));
    assert!(m.cpu.attention().contains(Attention::INTERRUPT));
}

#[test]
fn device_interrupts_reach_cpus_in_x2apic_mode() {
    let chips = InterruptChips::shared(2);
    let mut cpus = [0, 1].map(|c| CpuInterrupts::new(&chips, c).unwrap());
    for (i, cpu) in cpus.iter_mut().enumerate() {
        assert!(cpu.set_apic_base(X2APIC & !0x100 | if i == 0 { 0x100 } else { 0 }));
        assert!(cpu.x2apic_write(0x80f, 0x1ff, VmTime(0)));
    }
    MessageSink::new(&chips).send(0xfee0_1000, 0x41);
    MessageSink::new(&chips).send(0xfee0_2004, 0x42); // logical: second member of cluster 0
    assert!(!cpus[0].attention().contains(Attention::INTERRUPT));
    assert_eq!(cpus[1].acknowledge(), Some(0x42));
    MessageSink::new(&chips).send(0xfeef_f000, 0x51);
    assert_eq!(cpus[0].acknowledge(), Some(0x51), "FFh means all");
    assert!(cpus[0].x2apic_write(0x830, 1 << 32 | 0x61, VmTime(0)));
    assert!(!cpus[0].attention().contains(Attention::INTERRUPT));
    assert_eq!(cpus[1].acknowledge(), Some(0x61));
}

#[test]
fn reset_returns_to_xapic_mode() {
    let mut m = Machine::new();
    assert!(m.cpu.set_apic_base(X2APIC));
    m.cpu.reset();
    assert_eq!(m.cpu.apic_base(), 0xfee0_0900);
    assert_eq!(m.lapic_read(0x30), 0x0005_0014);
    assert_eq!(m.rdmsr(0x803), None);
}

#[test]
fn random_abuse_never_panics_and_signals_stay_true() {
    let mut m = Machine::new();
    let mut numbers = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut random = move || numbers.next();
    for _ in 0..200_000 {
        let (a, b) = (random(), random());
        let size = [1, 2, 4, 8][(b >> 60 & 3) as usize];
        m.bench.now = m.bench.now + VmTime(a >> 40);
        match a % 12 {
            0 => {
                let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x22][(a >> 8) as usize % 7];
                m.out(port, b as u8);
            }
            1 => {
                let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][(a >> 8) as usize % 6];
                m.pic.port_read(&mut m.bench.cx(), port, AccessSize::Word);
            }
            2 => m.gsi((a >> 8) as u8 % 32).set(b & 1 != 0),
            3 => m.chips.lock().set_pci((a >> 8) as u8, b & 1 != 0),
            4 => m
                .chips
                .lock()
                .set_pirq_route((a >> 8) as u8 % 5, Some((b >> 8) as u8 % 20)),
            5 => m
                .ioapic
                .mmio_write(&mut m.bench.cx(), W, a >> 8 & 0x1f, size, b),
            6 => m.redirect((a >> 8) as u8 % 30, b as u32),
            7 | 8 => m.cpu.mmio_write(m.bench.now, a >> 8 & 0xff0, size, b),
            9 => {
                m.cpu.mmio_read(m.bench.now, a >> 8 & 0xfff);
                m.ioapic.mmio_read(&mut m.bench.cx(), W, b & 0xfff, size);
            }
            10 => match b % 7 {
                0 => MessageSink::new(&m.chips).send(a, b as u32),
                1 => m.cpu.set_cr8(b as u8),
                2 => {
                    m.cpu.set_apic_base(0xfee0_0100 | a & 0xe00);
                }
                5 => {
                    let msr = 0x800 | (a >> 8) as u32 & 0x3f;
                    let mask = [0, 0xff, 0x3_00ff, u64::MAX][(a >> 16) as usize % 4];
                    m.wrmsr(msr, b >> 8 & mask);
                }
                6 => {
                    m.rdmsr(0x7fe + (a >> 8) as u32 % 0x44);
                    m.rdmsr(b as u32);
                }
                3 => m.chips.lock().pull_nmi(),
                _ => m.lapic(0xf0, b as u32 | 0x100),
            },
            _ => {
                m.cpu.poll(m.bench.now);
                assert!(m.cpu.deadline() > m.bench.now);
                let pending = m.cpu.attention().contains(Attention::INTERRUPT);
                let vector = m.cpu.acknowledge();
                assert_eq!(vector.is_some(), pending);
                if let Some(vector) = vector
                    && b & 3 == 0
                {
                    m.cpu.unacknowledge(vector);
                    assert_eq!(m.cpu.acknowledge(), Some(vector));
                }
            }
        }
    }
}
