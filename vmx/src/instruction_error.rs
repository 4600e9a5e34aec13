//! Why a VMX instruction failed: the numbers of the VM-instruction error field (SDM vol 3C 31.4, "VM Instruction Error
//! Numbers").

macro_rules! errors {
    ($($name:ident = $number:literal $text:literal)*) => {
        $(#[doc = $text] pub const $name: u32 = $number;)*

        /// What the number says, as one sentence for messages.
        #[must_use]
        pub const fn meaning(error: u32) -> Option<&'static str> {
            match error {
                $($name => Some($text),)*
                _ => None,
            }
        }
    };
}

errors! {
    VMCALL_IN_ROOT = 1 "VMCALL was executed in VMX root operation"
    VMCLEAR_ADDRESS = 2 "VMCLEAR's operand is no valid physical address"
    VMCLEAR_VMXON_POINTER = 3 "VMCLEAR's operand is the VMXON region"
    VMLAUNCH_NOT_CLEAR = 4 "VMLAUNCH needs a VMCS in the clear state: this one has been launched"
    VMRESUME_NOT_LAUNCHED = 5 "VMRESUME needs a VMCS in the launched state: this one is clear"
    VMRESUME_AFTER_VMXOFF = 6 "VMRESUME follows VMXOFF and VMXON without a VMLAUNCH in between"
    ENTRY_CONTROLS = 7 "VM entry found an invalid control field"
    ENTRY_HOST_STATE = 8 "VM entry found an invalid host-state field"
    VMPTRLD_ADDRESS = 9 "VMPTRLD's operand is no valid physical address"
    VMPTRLD_VMXON_POINTER = 10 "VMPTRLD's operand is the VMXON region"
    VMPTRLD_REVISION = 11 "VMPTRLD found another CPU's VMCS revision identifier"
    UNSUPPORTED_COMPONENT = 12 "VMREAD or VMWRITE names a field that this CPU does not have"
    READ_ONLY_COMPONENT = 13 "VMWRITE names a field that can only be read"
    VMXON_IN_ROOT = 15 "VMXON was executed in VMX root operation"
    ENTRY_EXECUTIVE_POINTER = 16 "VM entry found an invalid executive-VMCS pointer"
    ENTRY_EXECUTIVE_NOT_LAUNCHED = 17 "VM entry found an executive VMCS that was not launched"
    ENTRY_EXECUTIVE_NOT_VMXON_POINTER = 18
        "VM entry that ends the dual-monitor treatment found an executive-VMCS pointer other than the VMXON pointer"
    VMCALL_NOT_CLEAR = 19 "VMCALL that starts the dual-monitor treatment needs a VMCS in the clear state"
    VMCALL_EXIT_CONTROLS = 20 "VMCALL that starts the dual-monitor treatment found an invalid VM-exit control field"
    VMCALL_MSEG_REVISION = 22 "VMCALL found another CPU's MSEG revision identifier"
    VMXOFF_DUAL_MONITOR = 23 "VMXOFF was executed under the dual-monitor treatment of SMIs and SMM"
    VMCALL_SMM_FEATURES = 24 "VMCALL found SMM-monitor features that this CPU does not have"
    ENTRY_EXECUTIVE_CONTROLS = 25 "VM entry that returns from SMM found an invalid execution control in the executive VMCS"
    ENTRY_BLOCKED_BY_MOV_SS = 26 "VM entry was attempted in the shadow of MOV SS or POP SS"
    INVALIDATION_OPERAND = 28 "INVEPT or INVVPID has an invalid operand"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_manuals_table() {
        // The table's row headings in order; the manual leaves 0, 14, 21 and 27 out.
        let rows = [
            "", "VMCALL", "VMCLEAR", "VMCLEAR", "VMLAUNCH", "VMRESUME", "VMRESUME", "VM entry",
            "VM entry", "VMPTRLD", "VMPTRLD", "VMPTRLD", "VMREAD", "VMWRITE", "", "VMXON",
            "VM entry", "VM entry", "VM entry", "VMCALL", "VMCALL", "", "VMCALL", "VMXOFF",
            "VMCALL", "VM entry", "VM entry", "", "INVEPT",
        ];
        for (number, row) in (0u32..).zip(rows) {
            match meaning(number) {
                Some(text) => assert!(
                    !row.is_empty() && text.starts_with(row),
                    "{number}: {text:?} is not {row:?}"
                ),
                None => assert!(row.is_empty(), "{number} is missing"),
            }
        }
        assert!((29..1000).all(|n| meaning(n).is_none()));
    }

    #[test]
    fn what_vm_entry_can_meet_is_told_apart() {
        assert_eq!([ENTRY_CONTROLS, ENTRY_HOST_STATE], [7, 8]);
        assert_eq!([VMLAUNCH_NOT_CLEAR, VMRESUME_NOT_LAUNCHED], [4, 5]);
        assert_eq!(ENTRY_BLOCKED_BY_MOV_SS, 26);
    }
}
