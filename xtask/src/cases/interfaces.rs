//! Guests that are offered interfaces of hypervisors: what they make of them.

use protocol::options::Enlighten;

use super::checks::Check::{Console, PoweredOff};
use super::{Case, What, case};
use crate::guests::Guest;

/// The cloud kernel with these interfaces, which has to say so and to switch the machine off.
fn kernel(name: &'static str, enlighten: Enlighten, says: &'static [&'static str]) -> Case {
    let what = What::Kernel(Guest::CloudKernel, "umbra.then=poweroff");
    let checks = [PoweredOff, Console(says)];
    Case {
        enlighten,
        ..case(name, what, 512, 200, &[], &checks)
    }
}

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let hyperv = Enlighten {
        kvm: false,
        hyperv: true,
    };
    let both = Enlighten {
        kvm: true,
        hyperv: true,
    };
    vec![
        kernel(
            "hyperv-kernel",
            hyperv,
            &[
                "GUEST-HYPERVISOR Microsoft Hyper-V",
                "GUEST-CLOCK hyperv_clocksource_tsc_page",
            ],
        ),
        kernel("kvm-and-hyperv-kernel", both, &["GUEST-HYPERVISOR KVM"]),
    ]
}
