//! The numbers of KVM's hypercalls, with which the CPUs of a guest help each other, and the CPUID bits that offer them (Linux
//! Documentation/virt/kvm/x86, "Linux KVM Hypercall" and "KVM CPUID bits").

/// KVM_FEATURE_PV_UNHALT: [`KICK_CPU`].
pub const FEATURE_UNHALT: u32 = 1 << 7;
/// KVM_FEATURE_PV_SEND_IPI: [`SEND_IPI`].
pub const FEATURE_SEND_IPI: u32 = 1 << 11;
/// KVM_FEATURE_PV_SCHED_YIELD: [`SCHED_YIELD`].
pub const FEATURE_YIELD: u32 = 1 << 13;

/// KVM_HC_KICK_CPU: the CPU with the APIC ID in the second argument halts no longer, or not the next time.
pub const KICK_CPU: u64 = 5;
/// KVM_HC_SEND_IPI: an interprocessor interrupt to each CPU of a bit map.
pub const SEND_IPI: u64 = 10;
/// KVM_HC_SCHED_YIELD: the CPU with the APIC ID in the first argument may run instead of this one.
pub const SCHED_YIELD: u64 = 11;

/// The result of a call that is not there: KVM_ENOSYS, negative.
pub const NO_SUCH_CALL: u64 = -1000i64 as u64;
/// The result for user code: EPERM, negative.
pub const NOT_PERMITTED: u64 = -1i64 as u64;
