//! The processors in AML, and how the guest's system plugs and unplugs them (ACPI 8.4, "Declaring Processors"; QEMU,
//! "docs/specs/acpi_cpu_hotplug", for the registers, which `device-model` has).
//!
//! ```text
//! \_SB  C000            the one processor of a machine that can have no more
//!
//! \_SB  CPUS            the container of the others' processors, with the registers PRST
//!         C000..C01F    _STA, _MAT, _OST, and _EJ0 but for the first
//!         CSTA CEJC COST CSCN   the same for any CPU
//! \_GPE _E02            general-purpose event 2: some CPU has come, or is to go
//! ```
//!
//! They are `Processor` objects, which ACPI 6 deprecates: Windows before 10 knows only these, and all newer systems know them.
//! A CPU selector stays what it is from its writing to the last use, so every method holds the mutex CPLK meanwhile.

use super::aml::{Bytes, Raw, path};
use super::madt;
use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Arg, BufferData, Device, EISAName, Else, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, If, Local, Method, MethodCall, Mutex, Name, Notify, ONE,
    OpRegion, OpRegionSpace, Release, Return, Store, While, ZERO,
};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::machine::{CPU_HOTPLUG_BASE, CPU_HOTPLUG_LEN, GPE_CPU_HOTPLUG, MachineDesc};

/// Values of Notify (ACPI 5.6.6, "Device Object Notifications").
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
/// _STA: present, enabled, shown, working.
const STA_PRESENT: u8 = 0x0f;
/// Commands of the registers.
const NEXT_WITH_EVENT: u8 = 0;
const OST_EVENT: u8 = 1;
const OST_STATUS: u8 = 2;

/// The processors, for the scope `\_SB`.
pub(super) fn objects(desc: &MachineDesc) -> Raw {
    if desc.max_cpus == 1 {
        return processor(0, &[]);
    }
    let (registers, bytes, dwords) = registers();
    let processors: Vec<Raw> = (0..desc.max_cpus).map(pluggable).collect();
    let methods = [status(), eject(), report(), scan(desc.max_cpus)];
    let hid = Name::new(path("_HID"), &"ACPI0010");
    let cid = Name::new(path("_CID"), &EISAName::new("PNP0A05"));
    let lock = Mutex::new(path("CPLK"), 0);
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &lock, &registers, &bytes, &dwords];
    children.extend(methods.iter().chain(&processors).map(|aml| aml as &dyn Aml));
    Device::new(path("CPUS"), children).bytes()
}

/// The handler of the general-purpose event, for the root.
pub(super) fn event_handler(desc: &MachineDesc) -> Option<Raw> {
    if desc.max_cpus == 1 {
        return None;
    }
    let name = format!("\\_GPE._E{GPE_CPU_HOTPLUG:02X}");
    let scan = MethodCall::new(path("\\_SB_.CPUS.CSCN"), vec![]);
    Some(Method::new(path(&name), 0, false, vec![&scan]).bytes())
}

/// The registers and their fields. Flags are written one at a time: the other bits of their byte are zeroes then.
fn registers() -> (Raw, Raw, Raw) {
    let flag = |name: &[u8; 4]| FieldEntry::Named(*name, 1);
    let field = |access, update, entries| {
        let lock = FieldLockRule::NoLock;
        Field::new(path("PRST"), access, lock, update, entries).bytes()
    };
    let base = u32::from(CPU_HOTPLUG_BASE);
    let len = CPU_HOTPLUG_LEN as u8;
    (
        OpRegion::new(path("PRST"), OpRegionSpace::SystemIO, &base, &len).bytes(),
        field(
            FieldAccessType::Byte,
            FieldUpdateRule::WriteAsZeroes,
            vec![
                FieldEntry::Reserved(32),
                flag(b"CPEN"),
                flag(b"CINS"),
                flag(b"CRMV"),
                flag(b"CEJT"),
                FieldEntry::Reserved(4),
                FieldEntry::Named(*b"CCMD", 8),
            ],
        ),
        field(
            FieldAccessType::DWord,
            FieldUpdateRule::Preserve,
            vec![
                FieldEntry::Named(*b"CSEL", 32),
                FieldEntry::Reserved(32),
                FieldEntry::Named(*b"CDAT", 32),
            ],
        ),
    )
}

/// A method that holds the registers' lock while it executes `body`.
fn locked(name: &str, args: u8, body: &[&dyn Aml], result: Option<&dyn Aml>) -> Raw {
    const FOR_EVER: u16 = 0xffff;
    let (acquire, release) = (
        Acquire::new(path("CPLK"), FOR_EVER),
        Release::new(path("CPLK")),
    );
    let result = result.map(Return::new);
    let mut children: Vec<&dyn Aml> = vec![&acquire];
    children.extend(body);
    children.push(&release);
    children.extend(result.iter().map(|aml| aml as &dyn Aml));
    Method::new(path(name), args, false, children).bytes()
}

/// CSTA(CPU): its _STA.
fn status() -> Raw {
    let present = Store::new(&Local(0), &STA_PRESENT);
    locked(
        "CSTA",
        1,
        &[
            &Store::new(&path("CSEL"), &Arg(0)),
            &Store::new(&Local(0), &ZERO),
            &If::new(&Equal::new(&path("CPEN"), &ONE), vec![&present]),
        ],
        Some(&Local(0)),
    )
}

/// CEJC(CPU): its _EJ0. The system has stopped using it.
fn eject() -> Raw {
    locked(
        "CEJC",
        1,
        &[
            &Store::new(&path("CSEL"), &Arg(0)),
            &Store::new(&path("CEJT"), &ONE),
        ],
        None,
    )
}

/// COST(CPU, event, status): its _OST (ACPI 6.3.5, "_OST (OSPM Status Indication)"), what has become of a Notify.
fn report() -> Raw {
    locked(
        "COST",
        3,
        &[
            &Store::new(&path("CSEL"), &Arg(0)),
            &Store::new(&path("CCMD"), &OST_EVENT),
            &Store::new(&path("CDAT"), &Arg(1)),
            &Store::new(&path("CCMD"), &OST_STATUS),
            &Store::new(&path("CDAT"), &Arg(2)),
        ],
        None,
    )
}

/// CSCN(): notifies every CPU that has an event, and clears the event. It begins with CPU 0, so that the selector is a valid one.
fn scan(cpus: u32) -> Raw {
    let notify: Vec<Raw> = (0..cpus)
        .map(|cpu| {
            let notify = Notify::new(&path(&name(cpu)), &Local(1)).bytes();
            If::new(&Equal::new(&path("CDAT"), &cpu), vec![&notify]).bytes()
        })
        .collect();
    let event = |flag: &str, value: u8| {
        let clear = Store::new(&path(flag), &ONE).bytes();
        let (again, value) = (Store::new(&Local(0), &ONE), Store::new(&Local(1), &value));
        let body: Vec<&dyn Aml> = vec![&clear, &again, &value];
        If::new(&Equal::new(&path(flag), &ONE), body).bytes()
    };
    let removal = event("CRMV", EJECT_REQUEST);
    let told = notify.iter().map(|aml| aml as &dyn Aml).collect();
    let none = Store::new(&Local(0), &ZERO);
    let next = Store::new(&path("CCMD"), &NEXT_WITH_EVENT).bytes();
    let insertion = event("CINS", DEVICE_CHECK);
    let otherwise = Else::new(vec![&removal]);
    let found = Equal::new(&Local(0), &ONE);
    let tell = If::new(&found, told);
    let round = While::new(&found, vec![&none, &next, &insertion, &otherwise, &tell]);
    locked(
        "CSCN",
        0,
        &[
            &Store::new(&path("CSEL"), &ZERO),
            &Store::new(&Local(0), &ONE),
            &round,
        ],
        None,
    )
}

fn name(cpu: u32) -> String {
    format!("C{cpu:03X}")
}

/// A processor that can come and go.
fn pluggable(cpu: u32) -> Raw {
    let number = cpu as u8;
    let of_cpu = |method: &str, args: &[&dyn Aml]| {
        let mut all: Vec<&dyn Aml> = vec![&number];
        all.extend(args);
        MethodCall::new(path(method), all).bytes()
    };
    let status = of_cpu("CSTA", &[]);
    let status = Method::new(path("_STA"), 0, false, vec![&Return::new(&status)]).bytes();
    let entry = BufferData::new(madt::local_apic(cpu, true).to_vec());
    let entry = Name::new(path("_MAT"), &entry);
    let report = of_cpu("COST", &[&Arg(0), &Arg(1)]);
    let report = Method::new(path("_OST"), 3, false, vec![&report]).bytes();
    let eject = of_cpu("CEJC", &[]);
    let eject = Method::new(path("_EJ0"), 1, false, vec![&eject]).bytes();
    let mut children: Vec<&dyn Aml> = vec![&status, &entry, &report];
    // Systems boot on the first and never let it go.
    if cpu != 0 {
        children.push(&eject);
    }
    processor(cpu, &children)
}

/// A `Processor` object, which `acpi_tables` lacks: number, and no P_BLK. It begins like a device.
fn processor(cpu: u32, children: &[&dyn Aml]) -> Raw {
    const PROCESSOR_OP: u8 = 0x83;
    let block = Raw(vec![cpu as u8, 0, 0, 0, 0, 0]);
    let mut parts: Vec<&dyn Aml> = vec![&block];
    parts.extend(children);
    let mut aml = Device::new(path(&name(cpu)), parts).bytes();
    aml.0[1] = PROCESSOR_OP;
    aml
}
