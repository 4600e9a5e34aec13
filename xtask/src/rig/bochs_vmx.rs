//! `bochs-vmx`: Bochs with Intel VT-x, the only emulator that has it, and a strict one.

use super::Rig;
use super::bochs_rig::BochsRig;

/// The rig.
pub const BOCHS_VMX: &dyn Rig = &RIG;

static RIG: BochsRig = BochsRig {
    name: "bochs-vmx",
    about: "Bochs with Intel VT-x: exact, and about ten times slower",
    usual_model: "corei7_skylake_x",
    // With long mode; those before Westmere lack the unrestricted guest, the first nested paging too.
    models: &[
        "core2_penryn_t9600",
        "corei5_lynnfield_750",
        "corei5_arrandale_m520",
        "corei7_sandy_bridge_2600k",
        "corei7_ivy_bridge_3770k",
        "corei7_haswell_4770",
        "broadwell_ult",
        "corei7_skylake_x",
        "corei3_cnl",
        "corei7_icelake_u",
        "tigerlake",
    ],
    native_words: "",
};
