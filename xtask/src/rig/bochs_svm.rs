//! `bochs-svm`: Bochs with AMD-V, which unlike QEMU's saves the next RIP.

use super::Rig;
use super::bochs_rig::BochsRig;

/// The rig.
pub const BOCHS_SVM: &dyn Rig = &RIG;

static RIG: BochsRig = BochsRig {
    name: "bochs-svm",
    about: "Bochs with AMD-V",
    usual_model: "ryzen",
    // The first two lack nested paging.
    models: &[
        "turion64_tyler",
        "phenom_8650_toliman",
        "zambezi",
        "trinity_apu",
        "ryzen",
    ],
    // Linux waits by MWAITX on AMD, and Bochs 2.7 arms the wrong timer for it (`set_mwaitx_timer` in its `cpu/apic.cc`), so that it
    // waits for ever. In Umbra there is no MWAITX.
    native_words: " clearcpuid=221",
};
