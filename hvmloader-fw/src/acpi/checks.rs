//! The tables as others read them: `iasl` disassembles all of them and compiles the DSDT again, `acpiexec` evaluates every method of
//! it, and a walker with SeaBIOS' rules looks for the keyboard.

use crate::place::place;
use crate::testing::{machines, pluggable, scratch, tool, with_hpet};
use hv_core::Gpa;
use hv_core::machine::MachineDesc;
use hv_core::mem::GuestMemory;
use hv_core::testing::VecMemory;
use std::path::Path;
use std::process::Command;

/// The tables after they have been placed, by name, as the XSDT and the FADT list them.
fn placed_tables(desc: &MachineDesc) -> Vec<(String, Vec<u8>)> {
    let desc = MachineDesc {
        memory: 32 << 20,
        ..*desc
    };
    let mem = VecMemory::new(32 << 20);
    let p = place(&desc, &mem).unwrap();
    let read = |at: u64| {
        let mut t = vec![0; mem.read_u32(Gpa(at + 4)).unwrap() as usize];
        mem.read(Gpa(at), &mut t).unwrap();
        (
            String::from_utf8(t[..4].to_vec()).unwrap().to_lowercase(),
            t,
        )
    };
    let rsdt = read(u64::from(mem.read_u32(p.rsdp.add(16)).unwrap()));
    let xsdt = read(mem.read_u64(p.rsdp.add(24)).unwrap());
    let mut tables: Vec<_> = xsdt.1[36..]
        .chunks(8)
        .map(|pointer| read(u64::from_le_bytes(pointer.try_into().unwrap())))
        .collect();
    let pointer = |at: usize| {
        u64::from(u32::from_le_bytes(
            tables[0].1[at..at + 4].try_into().unwrap(),
        ))
    };
    let (facs, dsdt) = (read(pointer(36)), read(pointer(40)));
    tables.extend([facs, dsdt, rsdt, xsdt]);
    tables
}

/// Runs iasl in `dir` and returns what it printed and the file it made.
fn iasl(dir: &Path, args: &[&str], output: &str) -> Option<(String, String)> {
    let out = tool(Command::new("iasl").args(args).current_dir(dir))?;
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "iasl {args:?}: {text}");
    let made = std::fs::read(dir.join(output)).unwrap();
    Some((text, String::from_utf8_lossy(&made).into_owned()))
}

fn assert_clean(text: &str) {
    for bad in [
        "Invalid",
        "Incorrect",
        "Error",
        "Warning",
        "AE_",
        "beyond",
        "Unknown",
    ] {
        assert!(!text.contains(bad), "{text}");
    }
}

#[test]
fn iasl_disassembles_every_table_without_complaint() {
    for (n, desc) in machines().iter().enumerate() {
        let dir = scratch(&format!("iasl-d{n}"));
        for (name, bytes) in placed_tables(desc) {
            std::fs::write(dir.join(format!("{name}.dat")), bytes).unwrap();
            let Some((text, dsl)) = iasl(
                &dir,
                &["-d", &format!("{name}.dat")],
                &format!("{name}.dsl"),
            ) else {
                return;
            };
            assert_clean(&text);
            let notes = dsl.replace("**** 32-bit table (V1), no 64-bit math support", "");
            assert!(
                !notes.contains("****") && !dsl.contains("Invalid"),
                "{name}: {dsl}"
            );
            let want: &[&str] = match name.as_str() {
                "facp" => &[
                    "Revision : 03",
                    "SCI Interrupt : 0009",
                    "SMI Command Port : 00000000",
                    "RTC Century Index : 32",
                ],
                "apic" => &[
                    "Interrupt : 00000002",
                    "Address : FEC00000",
                    "PC-AT Compatibility : 1",
                ],
                "waet" => &["PM timer"],
                "hpet" => &["Hardware Block ID : 8086A201", "Address : 00000000FED00000"],
                _ => &[],
            };
            // iasl aligns its columns with blanks and marks the values with brackets or not.
            let flat = dsl.split_whitespace().collect::<Vec<_>>().join(" ");
            want.iter()
                .for_each(|w| assert!(flat.contains(w), "{name} has no {w:?}: {dsl}"));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn iasl_compiles_the_disassembled_dsdt() {
    for (cpus, max_cpus) in [(1, 1), (8, 8), (1, 32)] {
        let dir = scratch(&format!("iasl-c{cpus}-{max_cpus}"));
        let tables = placed_tables(&pluggable(cpus, max_cpus));
        let (_, dsdt) = tables.iter().find(|t| t.0 == "dsdt").unwrap();
        std::fs::write(dir.join("dsdt.dat"), dsdt).unwrap();
        // -e with the other tables: an unresolved name would become an External.
        for (name, bytes) in tables.iter().filter(|t| t.0 == "apic") {
            std::fs::write(dir.join(format!("{name}.dat")), bytes).unwrap();
        }
        let Some((text, dsl)) = iasl(&dir, &["-d", "dsdt.dat"], "dsdt.dsl") else {
            return;
        };
        assert_clean(&text);
        assert!(!dsl.contains("External"), "{dsl}");
        let count = |text: &str| dsl.matches(text).count();
        assert_eq!(count("Processor ("), max_cpus as usize);
        assert_eq!(count("Method (_EJ0, 1"), max_cpus as usize - 1);
        assert_eq!(count("Method (\\_GPE._E02"), usize::from(max_cpus > 1));
        for hid in [
            "PNP0A03", "PNP0C0F", "PNP0303", "PNP0F13", "PNP0B00", "PNP0501", "PNP0700", "PNP0C02",
        ] {
            assert!(dsl.contains(&format!("EisaId (\"{hid}\")")), "no {hid}");
        }
        assert!(dsl.contains("_S5") && dsl.contains("_S3") && !dsl.contains("_S4"));
        let Some((text, _)) = iasl(&dir, &["-p", "again", "dsdt.dsl"], "again.aml") else {
            return;
        };
        // Processor objects are for Windows XP; a method's name lives as long as the method runs.
        let mut complaints = text
            .lines()
            .filter(|l| l.starts_with("Warning") || l.starts_with("Remark"));
        let complaint = complaints.find(|l| !l.contains(" 3168 ") && !l.contains(" 2173 "));
        assert_eq!(complaint, None, "{text}");
        assert!(text.contains("0 Errors"), "{text}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// What ACPICA's interpreter says when it does `commands` with the DSDT in `dir`. What stands in an operation region is memory there, at
/// first 0.
fn acpiexec(dir: &Path, commands: &str) -> Option<String> {
    let out = tool(
        Command::new("acpiexec")
            .args(["-b", commands, "dsdt.dat"])
            .current_dir(dir),
    )?;
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "acpiexec {commands}: {text}");
    for bad in ["Error", "Warning", "AE_", "Exception", "Could not"] {
        assert!(!text.contains(bad), "acpiexec {commands}: {text}");
    }
    Some(text)
}

/// The methods of the table in `dir`, with how many arguments they take.
fn methods(dir: &Path) -> Option<Vec<(String, usize)>> {
    let text = acpiexec(dir, "methods")?;
    let lines = text.lines().filter(|line| line.contains(" Method "));
    let own = lines.filter(|line| {
        // What the interpreter brings itself.
        !line.contains("\\_OSI ") && !line.contains("\\_TI.")
    });
    let read = own.map(|line| {
        let mut words = line.split_whitespace();
        let path = words.next().unwrap().to_owned();
        let args = words.skip_while(|word| *word != "Args").nth(1).unwrap();
        (path, args.parse().unwrap())
    });
    Some(read.collect())
}

/// What a method is called with: what a system gives it (ACPI 6.2 and 6.3), or as many zeroes as it wants.
fn arguments(path: &str, count: usize) -> String {
    let name = &path[path.rfind('.').map_or(1, |dot| dot + 1)..];
    let given = match name {
        "_SRS" => "(89 06 00 09 01 0B 00 00 00 79 00)",
        "_OST" => "1 0 (00)",
        "_EJ0" | "_PIC" => "1",
        _ => return ["0"; 7][..count].join(" "),
    };
    given.to_owned()
}

#[test]
fn acpiexec_evaluates_every_method_without_complaint() {
    for (desc, least) in [(pluggable(1, 1), 19), (pluggable(1, 3), 30)] {
        let dir = scratch(&format!("acpiexec-{}", desc.max_cpus));
        let tables = placed_tables(&desc);
        let (_, dsdt) = tables.iter().find(|t| t.0 == "dsdt").unwrap();
        std::fs::write(dir.join("dsdt.dat"), dsdt).unwrap();
        let Some(methods) = methods(&dir) else {
            return;
        };
        assert!(methods.len() >= least, "{methods:?}");
        // Each run of the interpreter takes longer than what it does.
        for some in methods.chunks(8) {
            let commands = some
                .iter()
                .map(|(path, count)| format!("evaluate {path} {}", arguments(path, *count)));
            let text = acpiexec(&dir, &commands.collect::<Vec<_>>().join(";")).unwrap();
            for (path, _) in some {
                assert!(
                    text.contains(&format!("valuation of {path}")),
                    "{path}: {text}"
                );
            }
        }
        // A link is where it was set, until it is off.
        let link = "\\_SB.LNKB";
        let text = acpiexec(
            &dir,
            &format!(
                "evaluate {link}._SRS {};evaluate {link}._CRS;evaluate {link}._STA;evaluate {link}._DIS;evaluate {link}._STA",
                arguments("\\_SRS", 1)
            ),
        );
        let text = text.unwrap();
        let lines = text.lines().map(str::trim);
        let values: Vec<_> = lines
            .filter(|line| line.starts_with("[Buffer]") || line.starts_with("[Integer]"))
            .collect();
        let [set, enabled, disabled] = values[..] else {
            panic!("{text}");
        };
        assert!(set.contains("89 06 00 09 01 0B 00 00 00 79 00"), "{text}");
        assert!(
            enabled.ends_with("0B") && disabled.ends_with("09"),
            "{text}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn hpet_is_told_of_where_there_is_one() {
    for (desc, there) in [(with_hpet(), true), (machines()[0], false)] {
        let tables = placed_tables(&desc);
        assert_eq!(tables.iter().any(|t| t.0 == "hpet"), there);
        let (_, dsdt) = tables.iter().find(|t| t.0 == "dsdt").unwrap();
        assert_eq!(dsdt.windows(4).any(|name| name == b"HPET"), there);
    }
}

/// SeaBIOS' walk through AML (its src/fw/dsdt_parser.c): what it can skip or enter; anything else stops it.
struct SeaBiosWalk {
    /// Devices with their _HID, if it is an EISA ID.
    devices: Vec<Option<u32>>,
}

impl SeaBiosWalk {
    fn of(aml: &[u8]) -> Self {
        let mut walk = Self { devices: vec![] };
        walk.terms(aml, None, 0);
        walk
    }

    /// A list of terms, which must not be empty: SeaBIOS parses one before it looks at the length.
    fn terms(&mut self, aml: &[u8], device: Option<usize>, depth: usize) {
        assert!(!aml.is_empty() && depth < 16);
        let (mut at, mut device) = (0, device);
        while at < aml.len() {
            let is_device = aml[at] == 0x5b && aml[at + 1] == 0x82;
            at += self.term(&aml[at..], device, depth);
            // After a device SeaBIOS has forgotten the one around it.
            if is_device {
                device = None;
            }
        }
        assert_eq!(at, aml.len());
    }

    fn term(&mut self, t: &[u8], device: Option<usize>, depth: usize) -> usize {
        match t[0] {
            0 | 1 => 1,
            0x08 => {
                let name = 1 + name_len(&t[1..]);
                if &t[name - 4..name] == b"_HID" && t[name] == 0x0c {
                    let id = u32::from_le_bytes(t[name + 1..name + 5].try_into().unwrap());
                    self.devices[device.expect("a _HID belongs before the devices inside")] =
                        Some(id);
                }
                name + self.term(&t[name..], device, depth + 1)
            }
            0x0a => 2,
            0x0b => 3,
            0x0c => 5,
            0x0d => 2 + t[1..].iter().position(|b| *b == 0).unwrap(),
            0x10 => 1 + self.enter(&t[1..], device, depth),
            0x11..=0x14 => 1 + package_len(&t[1..]).1,
            0x5b => match t[1] {
                0x80 => {
                    let mut at = 3 + name_len(&t[2..]);
                    for _ in 0..2 {
                        at += match t[at] {
                            0 | 1 => 1,
                            0x0a => 2,
                            0x0b => 3,
                            0x0c => 5,
                            op => panic!("operation region with operand {op:#x}"),
                        };
                    }
                    at
                }
                0x01 => 2 + name_len(&t[2..]) + 1,
                0x81 | 0x83 => 2 + package_len(&t[2..]).1,
                0x82 => {
                    self.devices.push(None);
                    2 + self.enter(&t[2..], Some(self.devices.len() - 1), depth)
                }
                op => panic!("SeaBIOS does not know 5b {op:x}"),
            },
            op => panic!("SeaBIOS does not know {op:#x}"),
        }
    }

    fn enter(&mut self, t: &[u8], device: Option<usize>, depth: usize) -> usize {
        let (bytes, len) = package_len(t);
        let start = bytes + name_len(&t[bytes..]);
        self.terms(&t[start..len], device, depth + 1);
        len
    }
}

/// How many bytes the length takes, and the length.
fn package_len(t: &[u8]) -> (usize, usize) {
    let more = usize::from(t[0] >> 6);
    let low = usize::from(if more == 0 { t[0] & 0x3f } else { t[0] & 0xf });
    (
        1 + more,
        (0..more).fold(low, |len, i| len | usize::from(t[1 + i]) << (4 + 8 * i)),
    )
}

fn name_len(t: &[u8]) -> usize {
    match t[0] {
        b'\\' => 1 + name_len(&t[1..]),
        0x2e => 9,
        b'A'..=b'Z' | b'_' => 4,
        other => panic!("name begins with {other:#x}"),
    }
}

#[test]
fn seabios_finds_the_keyboard() {
    // PNP0303 as a compressed EISA ID.
    const PNP0303: u32 = 0x0303_d041;
    for desc in machines() {
        let tables = placed_tables(&desc);
        let (_, dsdt) = tables.iter().find(|t| t.0 == "dsdt").unwrap();
        let walk = SeaBiosWalk::of(&dsdt[36..]);
        assert_eq!(
            walk.devices.iter().filter(|d| **d == Some(PNP0303)).count(),
            1
        );
        assert!(walk.devices.len() >= 14);
    }
}
