//! DSDT: the machine's devices in AML, for what ACPI operating systems cannot discover by themselves (ACPI 5.6, "ACPI Event
//! Programming Model" to 6, "Device Configuration"; the PIIX3's registers from its data sheet).
//!
//! ```text
//! \_SB   PCI0  host bridge: windows, interrupt routing
//!              ISA_  PIIX3: KBD_ MOU_ RTC_ COM1 FDC0 MBRD (the ports that belong to no device) and PIRQ routing registers
//!              IDE_ PM__ VGA_ NIC_, USB_ with a tablet
//!        LNKA..LNKD  interrupt links over the PIIX3's PIRQ routing registers
//!        C000, or CPUS   processors (see `processors.rs`)
//!        HPET   in machines that have one
//! \_S3   suspend to RAM
//! \_S5   power off; there is no other sleep state
//! ```
//!
//! Revision 1: integers have 32 bits, as for Windows XP. SeaBIOS walks this table too, without an interpreter: only `Name`,
//! `Scope`, `Device`, `Method`, `OperationRegion`, `Field`, `Mutex` and `Processor` stand outside of methods, no package is empty, and
//! without PNP0303 it would leave the keyboard off.

use super::aml::{Bytes, Raw, path};
use super::madt::SPARE_PIRQ;
use super::processors;
use crate::e820::pci_window;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, BufferData, CreateDWordField, Device, EISAName,
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, LessThan,
    Memory32Fixed, Method, MethodCall, Name, OpRegion, OpRegionSpace, Or, PackageBuilder,
    ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::machine::{
    CPU_HOTPLUG_BASE, CPU_HOTPLUG_LEN, FloppyDrive, GPE0_BASE, HPET, IDE, ISA_BRIDGE, MachineDesc,
    NIC, PM, PM_BASE, PM_BASE_ALT, PM_LEN, Slot, USB, VGA, VGA_WINDOW, irq, pirq,
};

pub(super) const REVISION: u8 = 1;

const LINKS: [&str; 4] = ["LNKA", "LNKB", "LNKC", "LNKD"];
const ROUTES: [&str; 4] = ["PRQA", "PRQB", "PRQC", "PRQD"];
/// PIIX3 data sheet, "PIRQRC\[A:D\] - PIRQx Route Control Registers": four bytes, bit 7 set disables the route.
const PIRQRC: u8 = 0x60;
const ROUTE_DISABLED: u8 = 0x80;

/// _STA: present, decoding, shown, working; and the same without decoding (ACPI 6.3.7, "_STA (Device Status)").
const STA_ENABLED: u8 = 0x0b;
const STA_DISABLED: u8 = 0x09;

/// Ports of the motherboard that no other device claims: first port, length.
const BOARD_PORTS: [(u16, u8); 8] = [
    (0x92, 1),
    (0xb2, 2),
    (0x402, 1),
    (0x4d0, 2),
    (0x510, 12),
    (PM_BASE, PM_LEN as u8),
    (PM_BASE_ALT, PM_LEN as u8),
    (GPE0_BASE, 4),
];

/// Length of the HPET's registers (IA-PC HPET specification 1.0a 2.3, "Memory Mapped Registers").
const HPET_LEN: u32 = 0x400;

/// The definition block after the table's header.
pub(super) fn build(desc: &MachineDesc) -> Vec<u8> {
    let mut aml = Vec::new();
    Scope::new(path("\\_SB_"), vec![&host_bridge(desc)]).to_aml_bytes(&mut aml);
    Scope::new(path("\\_SB_"), vec![&links(), &processors::objects(desc)]).to_aml_bytes(&mut aml);
    if desc.hpet {
        let page = Memory32Fixed::new(true, HPET as u32, HPET_LEN);
        let timers = device("HPET", vec![&hid("PNP0103"), &crs(vec![&page])]);
        Scope::new(path("\\_SB_"), vec![&timers]).to_aml_bytes(&mut aml);
    }
    if let Some(handler) = processors::event_handler(desc) {
        handler.to_aml_bytes(&mut aml);
    }
    Name::new(path("\\_S3_"), &package(&[&1u8, &1u8, &0u8, &0u8])).to_aml_bytes(&mut aml);
    Name::new(path("\\_S5_"), &package(&[&0u8, &0u8, &0u8, &0u8])).to_aml_bytes(&mut aml);
    // The links are used with PIC and I/O APIC alike, so there is nothing to remember.
    Method::new(path("\\_PIC"), 1, false, vec![]).to_aml_bytes(&mut aml);
    aml
}

/// A small IRQ descriptor without flags: edge triggered, active high, exclusive (ACPI 6.4.2.1, "IRQ Descriptor").
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// An 8-bit DMA channel in compatibility mode, of a device that is no bus master (ACPI 6.4.2.2, "DMA Descriptor").
struct DmaChannel(u8);

impl Aml for DmaChannel {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x2a);
        sink.byte(1 << self.0);
        sink.byte(0);
    }
}

/// A level-triggered, active-high, shared interrupt that is one of several (ACPI 6.4.3.6, "Extended Interrupt Descriptor").
struct LevelIrqs<'a>(&'a [u8]);

impl LevelIrqs<'_> {
    /// The first interrupt number's offset in the descriptor.
    const NUMBER: u8 = 5;
}

impl Aml for LevelIrqs<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const CONSUMER_SHARED: u8 = 1 << 0 | 1 << 3;
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        sink.byte(CONSUMER_SHARED);
        sink.byte(self.0.len() as u8);
        for irq in self.0 {
            sink.dword(u32::from(*irq));
        }
    }
}

fn package(elements: &[&dyn Aml]) -> PackageBuilder {
    let mut p = PackageBuilder::new();
    elements.iter().for_each(|e| p.add_element(*e));
    p
}

fn port(first: u16, len: u8) -> IO {
    IO::new(first, first, 1, len)
}

fn adr(slot: Slot) -> Name {
    Name::new(
        path("_ADR"),
        &(u32::from(slot.device) << 16 | u32::from(slot.function)),
    )
}

fn hid(id: &str) -> Name {
    Name::new(path("_HID"), &EISAName::new(id))
}

fn uid(number: u32) -> Name {
    Name::new(path("_UID"), &number)
}

fn crs(resources: Vec<&dyn Aml>) -> Name {
    Name::new(path("_CRS"), &ResourceTemplate::new(resources))
}

/// Encodes a device.
fn device(name: &str, children: Vec<&dyn Aml>) -> Raw {
    let mut aml = Vec::new();
    Device::new(path(name), children).to_aml_bytes(&mut aml);
    Raw(aml)
}

fn host_bridge(desc: &MachineDesc) -> Raw {
    let window = pci_window(desc);
    let memory = |cacheable, start: u64, end: u64| {
        AddressSpace::new_memory(cacheable, true, start as u32, (end - 1) as u32, None)
    };
    let crs = crs(vec![
        &AddressSpace::new_bus_number(0u16, 0xff),
        // The configuration ports are the bridge's own; all other ports are behind it.
        &port(0xcf8, 8),
        &AddressSpace::new_io(0u16, 0xcf7, None),
        &AddressSpace::new_io(0xd00u16, 0xffff, None),
        &memory(
            AddressSpaceCacheable::Cacheable,
            VGA_WINDOW.start,
            VGA_WINDOW.end,
        ),
        &memory(
            AddressSpaceCacheable::NotCacheable,
            window.start,
            window.end,
        ),
    ]);
    let (routing, isa) = (routing(), isa_bridge(desc));
    let usb = desc.tablet.then_some(("USB_", USB));
    let functions = [("IDE_", IDE), ("PM__", PM), ("VGA_", VGA), ("NIC_", NIC)];
    let functions: Vec<Raw> = functions
        .into_iter()
        .chain(usb)
        .map(|(name, slot)| device(name, vec![&adr(slot)]))
        .collect();
    let (hid, uid) = (hid("PNP0A03"), uid(0));
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &crs, &routing, &isa];
    children.extend(functions.iter().map(|function| function as &dyn Aml));
    device("PCI0", children)
}

/// _PRT: every pin of every slot ends at a link (ACPI 6.2.13, "_PRT (PCI Routing Table)").
fn routing() -> Name {
    const ANY_FUNCTION: u32 = 0xffff;
    let mut table = PackageBuilder::new();
    for slot in 1..32u8 {
        for pin in 0..4u8 {
            let link = path(LINKS[usize::from(pirq(slot, pin))]);
            table.add_element(&package(&[
                &(u32::from(slot) << 16 | ANY_FUNCTION),
                &pin,
                &link,
                &ZERO,
            ]));
        }
    }
    Name::new(path("_PRT"), &table)
}

/// The floppy disk controller with its one drive (ACPI 9.9, "Floppy Controller Device Objects"), of which `_FDI` says what the BIOS's
/// diskette parameter table does, as in QEMU (`hw/block/fdc-isa.c`).
fn floppy(drive: FloppyDrive) -> Raw {
    let (kind, sectors) = match drive {
        FloppyDrive::M1440 => (4u8, 18u8),
        FloppyDrive::M2880 => (5, 36),
    };
    // Drive 0 is there; of tape drives nothing is known.
    let present = [1u32, 0, 0, 0, 2].map(u32::to_le_bytes).concat();
    // Drive, type, the last cylinder, sectors a track, the last head; then the table: specify, motor off, size code, last sector, gap,
    // data length, gap and fill byte of formatting, head settling, motor start.
    let info: [u8; 16] = [
        0, kind, 79, sectors, 1, 0xaf, 0x02, 0x25, 0x02, sectors, 0x1b, 0xff, 0x6c, 0xf6, 0x0f,
        0x08,
    ];
    let info: Vec<&dyn Aml> = info.iter().map(|byte| byte as &dyn Aml).collect();
    device(
        "FDC0",
        vec![
            &hid("PNP0700"),
            &crs(vec![
                &port(0x3f2, 4),
                &port(0x3f7, 1),
                &Irq(irq::FLOPPY),
                &DmaChannel(2),
            ]),
            &Name::new(path("_FDE"), &BufferData::new(present)),
            &device(
                "FLPA",
                vec![
                    &Name::new(path("_ADR"), &ZERO),
                    &Name::new(path("_FDI"), &package(&info)),
                ],
            ),
        ],
    )
}

fn isa_bridge(desc: &MachineDesc) -> Raw {
    let region = OpRegion::new(path("PIRQ"), OpRegionSpace::PCIConfig, &PIRQRC, &4u8);
    let routes = ROUTES.map(|name| {
        let mut field = [0; 4];
        field.copy_from_slice(name.as_bytes());
        FieldEntry::Named(field, 8)
    });
    let fields = Field::new(
        path("PIRQ"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        routes.to_vec(),
    );
    let hotplug = (CPU_HOTPLUG_BASE, CPU_HOTPLUG_LEN as u8);
    let ports = BOARD_PORTS.into_iter();
    let ports = ports.chain((desc.max_cpus > 1).then_some(hotplug));
    let ports: Vec<IO> = ports.map(|(first, len)| port(first, len)).collect();
    device(
        "ISA_",
        vec![
            &adr(ISA_BRIDGE),
            &region,
            &fields,
            &device(
                "KBD_",
                vec![
                    &hid("PNP0303"),
                    &crs(vec![&port(0x60, 1), &port(0x64, 1), &Irq(irq::KEYBOARD)]),
                ],
            ),
            &device("MOU_", vec![&hid("PNP0F13"), &crs(vec![&Irq(irq::MOUSE)])]),
            &device(
                "RTC_",
                vec![&hid("PNP0B00"), &crs(vec![&port(0x70, 2), &Irq(irq::RTC)])],
            ),
            &device(
                "COM1",
                vec![
                    &hid("PNP0501"),
                    &uid(1),
                    &crs(vec![&port(0x3f8, 8), &Irq(irq::COM1)]),
                ],
            ),
            &floppy(desc.floppy),
            &device(
                "MBRD",
                vec![
                    &hid("PNP0C02"),
                    &crs(ports.iter().map(|p| p as &dyn Aml).collect()),
                ],
            ),
        ],
    )
}

/// The four interrupt links and the methods they share.
fn links() -> Raw {
    let mut aml = Vec::new();
    status_method().to_aml_bytes(&mut aml);
    current_method().to_aml_bytes(&mut aml);
    for (number, (link, route)) in LINKS.iter().zip(ROUTES).enumerate() {
        let register = path(&format!("\\_SB_.PCI0.ISA_.{route}"));
        let call = |method: &str| MethodCall::new(path(method), vec![&register]).bytes();
        device(
            link,
            vec![
                &hid("PNP0C0F"),
                &uid(number as u32),
                &Name::new(
                    path("_PRS"),
                    &ResourceTemplate::new(vec![&LevelIrqs(&[
                        SPARE_PIRQ,
                        irq::PIRQ[0],
                        irq::PIRQ[2],
                    ])]),
                ),
                &Method::new(path("_STA"), 0, false, vec![&Return::new(&call("IQST"))]),
                &Method::new(
                    path("_DIS"),
                    0,
                    false,
                    vec![&Or::new(&register, &register, &ROUTE_DISABLED)],
                ),
                &Method::new(path("_CRS"), 0, false, vec![&Return::new(&call("IQCR"))]),
                &Method::new(
                    path("_SRS"),
                    1,
                    false,
                    vec![
                        &CreateDWordField::new(&path("PRRI"), &Arg(0), &LevelIrqs::NUMBER),
                        &Store::new(&register, &path("PRRI")),
                    ],
                ),
            ],
        )
        .to_aml_bytes(&mut aml);
    }
    Raw(aml)
}

/// IQST(route): the link's _STA.
fn status_method() -> Raw {
    let mut aml = Vec::new();
    Method::new(
        path("IQST"),
        1,
        false,
        vec![
            &If::new(
                &And::new(&ZERO, &Arg(0), &ROUTE_DISABLED),
                vec![&Return::new(&STA_DISABLED)],
            ),
            &Return::new(&STA_ENABLED),
        ],
    )
    .to_aml_bytes(&mut aml);
    Raw(aml)
}

/// IQCR(route): the link's _CRS; interrupt 0 when it is disabled.
fn current_method() -> Raw {
    let mut aml = Vec::new();
    Method::new(
        path("IQCR"),
        1,
        true,
        vec![
            &Name::new(path("PRR0"), &ResourceTemplate::new(vec![&LevelIrqs(&[0])])),
            &CreateDWordField::new(&path("PRRI"), &path("PRR0"), &LevelIrqs::NUMBER),
            &If::new(
                &LessThan::new(&Arg(0), &ROUTE_DISABLED),
                vec![&Store::new(&path("PRRI"), &Arg(0))],
            ),
            &Return::new(&path("PRR0")),
        ],
    )
    .to_aml_bytes(&mut aml);
    Raw(aml)
}
