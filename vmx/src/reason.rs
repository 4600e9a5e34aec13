//! Basic exit reasons (SDM vol 3D appendix C, "VMX Basic Exit Reasons").
//!
//! They are bits 15:0 of the exit-reason field; the flags above them are not here. Numbers that the manual leaves out have no
//! name.

macro_rules! reasons {
    ($($name:ident = $number:literal $text:literal)*) => {
        $(#[doc = $text] pub const $name: u16 = $number;)*

        /// The exit reason in the manual's words, for messages.
        #[must_use]
        pub const fn name(reason: u16) -> Option<&'static str> {
            match reason {
                $($name => Some($text),)*
                _ => None,
            }
        }
    };
}

reasons! {
    EXCEPTION_OR_NMI = 0 "exception or NMI"
    EXTERNAL_INTERRUPT = 1 "external interrupt"
    TRIPLE_FAULT = 2 "triple fault"
    INIT_SIGNAL = 3 "INIT signal"
    STARTUP_IPI = 4 "start-up IPI"
    IO_SMI = 5 "I/O SMI"
    OTHER_SMI = 6 "other SMI"
    INTERRUPT_WINDOW = 7 "interrupt window"
    NMI_WINDOW = 8 "NMI window"
    TASK_SWITCH = 9 "task switch"
    CPUID = 10 "CPUID"
    GETSEC = 11 "GETSEC"
    HLT = 12 "HLT"
    INVD = 13 "INVD"
    INVLPG = 14 "INVLPG"
    RDPMC = 15 "RDPMC"
    RDTSC = 16 "RDTSC"
    RSM = 17 "RSM"
    VMCALL = 18 "VMCALL"
    VMCLEAR = 19 "VMCLEAR"
    VMLAUNCH = 20 "VMLAUNCH"
    VMPTRLD = 21 "VMPTRLD"
    VMPTRST = 22 "VMPTRST"
    VMREAD = 23 "VMREAD"
    VMRESUME = 24 "VMRESUME"
    VMWRITE = 25 "VMWRITE"
    VMXOFF = 26 "VMXOFF"
    VMXON = 27 "VMXON"
    CONTROL_REGISTER_ACCESS = 28 "control-register access"
    MOV_DR = 29 "MOV DR"
    IO_INSTRUCTION = 30 "I/O instruction"
    RDMSR = 31 "RDMSR"
    WRMSR = 32 "WRMSR"
    ENTRY_FAILURE_GUEST_STATE = 33 "VM-entry failure due to invalid guest state"
    ENTRY_FAILURE_MSR_LOADING = 34 "VM-entry failure due to MSR loading"
    MWAIT = 36 "MWAIT"
    MONITOR_TRAP_FLAG = 37 "monitor trap flag"
    MONITOR = 39 "MONITOR"
    PAUSE = 40 "PAUSE"
    ENTRY_FAILURE_MACHINE_CHECK = 41 "VM-entry failure due to machine-check event"
    TPR_BELOW_THRESHOLD = 43 "TPR below threshold"
    APIC_ACCESS = 44 "APIC access"
    VIRTUALIZED_EOI = 45 "virtualized EOI"
    ACCESS_TO_GDTR_OR_IDTR = 46 "access to GDTR or IDTR"
    ACCESS_TO_LDTR_OR_TR = 47 "access to LDTR or TR"
    EPT_VIOLATION = 48 "EPT violation"
    EPT_MISCONFIGURATION = 49 "EPT misconfiguration"
    INVEPT = 50 "INVEPT"
    RDTSCP = 51 "RDTSCP"
    PREEMPTION_TIMER = 52 "VMX-preemption timer expired"
    INVVPID = 53 "INVVPID"
    WBINVD = 54 "WBINVD or WBNOINVD"
    XSETBV = 55 "XSETBV"
    APIC_WRITE = 56 "APIC write"
    RDRAND = 57 "RDRAND"
    INVPCID = 58 "INVPCID"
    VMFUNC = 59 "VMFUNC"
    ENCLS = 60 "ENCLS"
    RDSEED = 61 "RDSEED"
    PAGE_MODIFICATION_LOG_FULL = 62 "page-modification log full"
    XSAVES = 63 "XSAVES"
    XRSTORS = 64 "XRSTORS"
    PCONFIG = 65 "PCONFIG"
    SPP_RELATED_EVENT = 66 "SPP-related event"
    UMWAIT = 67 "UMWAIT"
    TPAUSE = 68 "TPAUSE"
    LOADIWKEY = 69 "LOADIWKEY"
    ENCLV = 70 "ENCLV"
    ENQCMD_PASID = 72 "ENQCMD PASID translation failure"
    ENQCMDS_PASID = 73 "ENQCMDS PASID translation failure"
    BUS_LOCK = 74 "bus lock"
    INSTRUCTION_TIMEOUT = 75 "instruction timeout"
    SEAMCALL = 76 "SEAMCALL"
    TDCALL = 77 "TDCALL"
    RDMSRLIST = 78 "RDMSRLIST"
    WRMSRLIST = 79 "WRMSRLIST"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual's table as runs of consecutive numbers: the first one, and key words of each entry in order.
    const RUNS: [(u16, &str); 5] = [
        (
            0,
            "NMI|external|triple|INIT|IPI|I/O SMI|other SMI|interrupt window|NMI window|task|CPUID|GETSEC|HLT|INVD|INVLPG|RDPMC|\
             RDTSC|RSM|VMCALL|VMCLEAR|VMLAUNCH|VMPTRLD|VMPTRST|VMREAD|VMRESUME|VMWRITE|VMXOFF|VMXON|control-register|DR|\
             I/O instruction|RDMSR|WRMSR|invalid guest state|MSR loading",
        ),
        (36, "MWAIT|monitor trap flag"),
        (39, "MONITOR|PAUSE|machine-check"),
        (
            43,
            "TPR|APIC access|EOI|GDTR or IDTR|LDTR or TR|violation|misconfiguration|INVEPT|RDTSCP|timer|INVVPID|WBINVD|XSETBV|\
             APIC write|RDRAND|INVPCID|VMFUNC|ENCLS|RDSEED|log full|XSAVES|XRSTORS|PCONFIG|SPP|UMWAIT|TPAUSE|LOADIWKEY|ENCLV",
        ),
        (
            72,
            "ENQCMD |ENQCMDS|bus lock|timeout|SEAMCALL|TDCALL|RDMSRLIST|WRMSRLIST",
        ),
    ];

    #[test]
    fn each_reason_has_its_place_in_the_manuals_table() {
        let mut named = 0;
        for (first, words) in RUNS {
            for (number, word) in (first..).zip(words.split('|')) {
                let text = name(number).unwrap();
                assert!(text.contains(word), "{number}: {text:?} is not {word:?}");
                named += 1;
            }
        }
        let all = (0..=u16::MAX).filter(|&n| name(n).is_some()).count();
        assert_eq!(named, all, "the manual's table has no others");
    }
}
