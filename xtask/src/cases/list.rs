//! Tests that boot one guest and follow a script.

use protocol::options::Profile;

use super::checks::Check;
use super::{Case, Outer, What, by_hand, case, keys, on, on_ide, shadowed, until};
use crate::attack::{ATTACK, ESCAPE, OPERANDS, TASKS};
use crate::guests::Guest;
use crate::rig::{BOCHS_SVM, BOCHS_VMX, KVM_IN_BOCHS, KVM_IN_QEMU, Paging, QEMU_SVM, Shadow};

/// What a Linux kernel must find in the virtual machine.
const HARDWARE: &[&str] = &[
    "GUEST-CPU 1",
    // The memory types that firmware, or Umbra in its place, has set: without them Linux does not use PAT.
    "GUEST-PAT [0-7]: WB  WC  UC- UC  WB  WP  UC- WT",
    "GUEST-DISK sda 2048",
    "GUEST-PCI 0000:00:00.0 8086:1237",
    "GUEST-PCI 0000:00:01.0 8086:7000",
    "GUEST-PCI 0000:00:01.1 8086:7010",
    "GUEST-PCI 0000:00:01.3 8086:7113",
    "GUEST-PCI 0000:00:02.0 1234:1111",
    "GUEST-PCI 0000:00:03.0 8086:100e",
    "GUEST-ACPI APIC",
    "GUEST-ACPI DSDT",
    "GUEST-ACPI FACP",
    "GUEST-ACPI FACS",
    "GUEST-ACPI WAET",
    // No line of its log is about ACPI and an error.
    "GUEST-ACPI-CLEAN",
    "GUEST-IRQ LOC:",
    "GUEST-IRQ 1:",
    "GUEST-IRQ 4:",
    "GUEST-INPUT \"AT Translated Set 2 keyboard\"",
    "GUEST-SERIAL 0: uart:16550A port:000003F8 irq:4",
];

/// What it finds besides if it does not use the local APIC's timer in TSC-deadline mode, and has to measure that timer by the PIT.
const PIT: &[&str] = &["GUEST-IRQ 0:"];

/// What it finds where there are high precision event timers.
const HPET: &[&str] = &["GUEST-ACPI HPET 56", "GUEST-CLOCK hpet", "GUEST-IRQ 0:"];

/// These tests; long ones first, so that two lanes end together.
pub(super) fn cases() -> Vec<Case> {
    use Check::{
        Colours, Console, OwnMemory, PagingSwitches, PoolFull, PoweredOff, Resets, Shown, Work,
    };
    let memtest = [until("Memtest86+"), until("Test #5"), until("Errors: 0")];
    let language = [until("Select a language")];
    let grub_answers = [
        until("GNU GRUB"),
        keys("c"),
        until("grub>"),
        keys("echo a$grub_platform-$grub_cpu\\n"),
        until("apc-i386"),
    ];
    let attack = |name| {
        let script = [
            until("ATTACK BEGINS"),
            until("ATTACK SURVIVED"),
            until("ATTACK BEGINS"),
        ];
        let checks = [Resets(1), OwnMemory];
        case(name, What::Program(ATTACK), 64, 120, &script, &checks)
    };
    let mut cases = vec![
        on(
            BOCHS_VMX,
            None,
            case(
                "bochs-vmx-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                900,
                &[],
                &[PoweredOff, Console(HARDWARE), OwnMemory],
            ),
        ),
        on(
            BOCHS_SVM,
            None,
            case(
                "bochs-svm-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                900,
                &[],
                &[PoweredOff, Console(HARDWARE), OwnMemory],
            ),
        ),
        on(
            BOCHS_VMX,
            Some("corei5_lynnfield_750"),
            case(
                "bochs-vmx-real-mode-in-software",
                What::DiskTwice,
                512,
                900,
                &[],
                &[PoweredOff],
            ),
        ),
        case(
            "debian-amd64-installer",
            What::Cd(Guest::DebianAmd64),
            1024,
            400,
            &language,
            &[Colours(4), OwnMemory],
        ),
        on(
            KVM_IN_QEMU,
            None,
            case(
                "kvm-in-qemu-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                400,
                &[],
                &[PoweredOff, Console(HARDWARE), OwnMemory],
            ),
        ),
        shadowed(
            Shadow::Unsync,
            on(
                KVM_IN_QEMU,
                None,
                case(
                    "kvm-in-qemu-shadow-kernel",
                    What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                    256,
                    400,
                    &[],
                    &[PoweredOff, Console(HARDWARE)],
                ),
            ),
        ),
        by_hand(on(
            KVM_IN_BOCHS,
            None,
            case(
                "kvm-in-bochs-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                1800,
                &[],
                &[PoweredOff, Console(HARDWARE)],
            ),
        )),
        by_hand(shadowed(
            Shadow::Unsync,
            on(
                KVM_IN_BOCHS,
                None,
                case(
                    "kvm-in-bochs-shadow-kernel",
                    What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                    256,
                    1800,
                    &[],
                    &[PoweredOff, Console(HARDWARE)],
                ),
            ),
        )),
        case(
            "debian-i386-installer",
            What::Cd(Guest::DebianI386),
            512,
            400,
            &language,
            &[Colours(4), OwnMemory],
        ),
        shadowed(
            Shadow::Unsync,
            on(
                BOCHS_VMX,
                None,
                case(
                    "bochs-vmx-shadow-kernel",
                    What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                    256,
                    900,
                    &[],
                    &[PoweredOff, Console(HARDWARE)],
                ),
            ),
        ),
        // A CPU with neither EPT nor the controls that load EFER and PAT.
        shadowed(
            Shadow::Unsync,
            on(
                BOCHS_VMX,
                Some("core2_penryn_t9600"),
                case(
                    "bochs-vmx-shadow-without-ept",
                    What::Cd(Guest::GrubRescue),
                    128,
                    400,
                    &grub_answers,
                    &[],
                ),
            ),
        ),
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-debian-amd64-installer",
                What::Cd(Guest::DebianAmd64),
                1024,
                400,
                &language,
                &[Colours(4)],
            ),
        ),
        shadowed(
            Shadow::Cached,
            case(
                "shadow-cached-kernel-i386",
                What::Kernel(Guest::I386Kernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff],
            ),
        ),
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-memtest-ia32",
                What::Cd(Guest::MemtestIa32),
                32,
                240,
                &memtest,
                &[Colours(3)],
            ),
        ),
        // Without nested paging there is nothing but shadow paging, in real mode too.
        shadowed(
            Shadow::Unsync,
            on(
                QEMU_SVM,
                Some("Opteron_G3"),
                case(
                    "shadow-grub-without-nested-paging",
                    What::Cd(Guest::GrubRescue),
                    128,
                    120,
                    &grub_answers,
                    &[],
                ),
            ),
        ),
        shadowed(
            Shadow::Vtlb,
            case(
                "shadow-vtlb-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff, Console(HARDWARE)],
            ),
        ),
        Case {
            paging: Paging::Alternate(20),
            ..case(
                "paging-alternates",
                What::Kernel(Guest::PaeKernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff, PagingSwitches(20)],
            )
        },
        Case {
            paging: Paging::Alternate(100),
            ..case(
                "paging-alternates-debian-amd64-installer",
                What::Cd(Guest::DebianAmd64),
                1024,
                600,
                &language,
                &[Colours(4), PagingSwitches(50)],
            )
        },
        Case {
            paging: Paging::Alternate(20),
            ..case(
                "paging-alternates-under-load",
                What::Kernel(Guest::CloudKernel, "umbra.then=load"),
                512,
                400,
                &[until("GUEST-LOAD")],
                &[Work, PagingSwitches(50)],
            )
        },
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-pool-is-bounded",
                What::Kernel(Guest::CloudKernel, "umbra.then=tables"),
                256,
                400,
                &[until("GUEST-TABLES")],
                &[PoolFull],
            ),
        ),
        case(
            "image-bios",
            What::Image(Guest::GrubRescue, Outer::Bios),
            256,
            240,
            &grub_answers,
            &[Shown],
        ),
        // Loading the guest into memory takes its time.
        by_hand(case(
            "image-with-a-uefi-guest",
            What::Image(Guest::LinuxEfi, Outer::Bios),
            512,
            240,
            &[until("GUEST-EFI 64")],
            &[],
        )),
        case(
            "image-uefi",
            What::Image(Guest::GrubRescue, Outer::Uefi),
            256,
            240,
            &grub_answers,
            &[Shown],
        ),
        case(
            "memtest-x64",
            What::Cd(Guest::MemtestX64),
            32,
            240,
            &memtest,
            &[Colours(3)],
        ),
        case(
            "memtest-ia32",
            What::Cd(Guest::MemtestIa32),
            32,
            240,
            &memtest,
            &[Colours(3)],
        ),
        case(
            "disk-keeps-what-was-written",
            What::DiskTwice,
            512,
            240,
            &[],
            &[PoweredOff],
        ),
        on(
            BOCHS_SVM,
            None,
            case(
                "bochs-svm-cdrom",
                What::Cd(Guest::GrubRescue),
                128,
                240,
                &grub_answers,
                &[],
            ),
        ),
        case(
            "grub-rescue-shell",
            What::Cd(Guest::GrubRescue),
            128,
            120,
            &grub_answers,
            &[],
        ),
        on_ide(case(
            "ide-disk-keeps-what-was-written",
            What::DiskTwice,
            512,
            240,
            &[],
            &[PoweredOff],
        )),
        on_ide(case(
            "ide-cdrom",
            What::Cd(Guest::GrubRescue),
            128,
            120,
            &grub_answers,
            &[OwnMemory],
        )),
        case(
            "ipxe-finds-its-card",
            What::Cd(Guest::Ipxe),
            128,
            120,
            &[until("iPXE"), until("using 82540em")],
            &[],
        ),
        case(
            "kernel-power-off",
            What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
            512,
            120,
            &[],
            &[PoweredOff, Console(HARDWARE), OwnMemory],
        ),
        case(
            "kernel-of-debian-13",
            What::Kernel(Guest::Cloud13Kernel, "umbra.then=poweroff"),
            512,
            120,
            &[],
            &[PoweredOff, Console(HARDWARE)],
        ),
        Case {
            profile: Profile {
                hpet: true,
                ..Profile::default()
            },
            ..case(
                "hpet-is-linuxs-clock",
                What::Kernel(
                    Guest::CloudKernel,
                    "umbra.then=poweroff clocksource=hpet lapic=notscdeadline",
                ),
                512,
                120,
                &[],
                &[PoweredOff, Console(HARDWARE), Console(HPET)],
            )
        },
        case(
            "kernel-i386",
            What::Kernel(Guest::I386Kernel, "umbra.then=poweroff lapic=notscdeadline"),
            256,
            240,
            &[],
            &[PoweredOff, Console(HARDWARE), Console(PIT), OwnMemory],
        ),
        case(
            "kernel-i386-pae",
            What::Kernel(Guest::PaeKernel, "umbra.then=poweroff"),
            256,
            240,
            &[],
            &[PoweredOff, Console(HARDWARE), OwnMemory],
        ),
        attack("attack-is-survived"),
        shadowed(Shadow::Unsync, attack("shadow-attack-is-survived")),
        operands("operands-on-devices", EXCEPTIONS),
        shadowed(
            Shadow::Unsync,
            operands("operands-on-devices-shadow", EXCEPTIONS),
        ),
        // Real mode is in software here, and there is no AVX.
        on(
            BOCHS_VMX,
            Some("corei5_lynnfield_750"),
            operands("bochs-vmx-operands-in-software", ALL_EXCEPTIONS),
        ),
        on(
            BOCHS_SVM,
            None,
            operands("bochs-svm-operands", ALL_EXCEPTIONS),
        ),
    ];
    let ways = [
        ("reboot", "umbra.then=reboot"),
        ("reboot-cf9", "umbra.then=cf9"),
        ("reboot-i8042", "umbra.then=i8042"),
        ("reboot-triple-fault", "umbra.then=triple"),
    ];
    cases.extend(ways.map(|(name, cmdline)| {
        let twice = [until("GUEST-UP"), until("GUEST-UP")];
        let what = What::Kernel(Guest::CloudKernel, cmdline);
        case(name, what, 256, 120, &twice, &[Resets(1)])
    }));
    let tasks = |name| {
        let script = [until("TASKS A B C"), until("TASKS DONE")];
        case(name, What::Program(TASKS), 64, 240, &script, &[])
    };
    let shadow = |case| shadowed(Shadow::Unsync, case);
    let vmx = |model, case| on(BOCHS_VMX, model, case);
    cases.extend([
        vmx(None, tasks("bochs-vmx-tasks")),
        vmx(
            Some("corei5_lynnfield_750"),
            tasks("bochs-vmx-tasks-in-software"),
        ),
        shadow(vmx(
            Some("core2_penryn_t9600"),
            tasks("bochs-vmx-shadow-tasks-without-ept"),
        )),
        shadow(on(BOCHS_SVM, None, tasks("bochs-svm-shadow-tasks"))),
        tasks("tasks"),
        shadow(tasks("shadow-tasks")),
        shadow(on(
            QEMU_SVM,
            Some("Opteron_G3"),
            tasks("shadow-tasks-without-nested-paging"),
        )),
    ]);
    // A guest that does not get out shuts down.
    let escape = |name| {
        let twice = [until("ESCAPE TRIED"), until("ESCAPE TRIED")];
        case(name, What::Program(ESCAPE), 64, 240, &twice, &[Resets(1)])
    };
    cases.extend([
        escape("escape"),
        shadow(escape("shadow-escape")),
        shadow(on(BOCHS_SVM, None, escape("bochs-svm-shadow-escape"))),
        shadow(on(BOCHS_VMX, None, escape("bochs-vmx-shadow-escape"))),
    ]);
    cases
}

/// What the guest with operands on devices says of exceptions. QEMU has none of SSE's.
const EXCEPTIONS: &str = "mf ok nm ok sysenter ok rdpmc ok vex ok sqrtss ok fsin ok";
const ALL_EXCEPTIONS: &str = "xm ok mf ok nm ok sysenter ok rdpmc ok vex ok sqrtss ok fsin ok";

/// The guest with operands and code in video memory, all of whose results are right.
fn operands(name: &'static str, exceptions: &'static str) -> Case {
    const MODE: &str = "movq ok fild ok fbstp ok fadd ok fstp80 ok fsave ok addps ok maskmovq ok fxsave ok code ok";
    let script = [
        until("mode 13:"),
        until(MODE),
        until("mode 12:"),
        until(MODE),
        until(exceptions),
        until("level 3: movq ok avx ok undefined ok"),
    ];
    case(name, What::Program(OPERANDS), 64, 300, &script, &[])
}
