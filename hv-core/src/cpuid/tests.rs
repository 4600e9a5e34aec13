//! The rules of CPUID.

use super::hypervisor::SECOND;
use super::*;

fn all_ones(leaf: u32, _sub: u32) -> CpuidResult {
    match leaf {
        0 => CpuidResult {
            eax: 0x20,
            ebx: 1,
            ecx: 2,
            edx: 3,
        },
        0x8000_0000 => CpuidResult {
            eax: 0x8000_0020,
            ebx: 1,
            ecx: 2,
            edx: 3,
        },
        0x0d => CpuidResult {
            eax: 0xff,
            ebx: 576,
            ecx: 2000,
            edx: 0,
        },
        _ => CpuidResult {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        },
    }
}

const ONE: Topology = Topology::new(1);

const STATE: CpuidState = CpuidState {
    apic_id: 0,
    osxsave: false,
    apic_enabled: true,
    xcr0: 1,
};

#[test]
fn features_that_are_not_virtualized_are_hidden() {
    let c = Cpuid::new(all_ones, ONE);
    let l1 = c.get(1, 0, || STATE);
    for (bit, name) in [
        (3, "MONITOR"),
        (5, "VMX"),
        (15, "PDCM"),
        (17, "PCID"),
        (27, "OSXSAVE"),
    ] {
        assert_eq!(l1.ecx >> bit & 1, 0, "{name}");
    }
    assert_eq!(c.get(0x8000_0001, 0, || STATE).ecx >> 2 & 1, 0, "SVM");
    assert_eq!(c.get(0x8000_0001, 0, || STATE).edx >> 27 & 1, 0, "RDTSCP");
    assert_eq!(c.get(7, 0, || STATE).ecx >> 16 & 1, 0, "LA57");
    assert_eq!(c.get(0, 0, || STATE).eax, MAX_BASIC);
    assert_eq!(c.get(0x8000_0000, 0, || STATE).eax, MAX_EXTENDED);
    assert_eq!(c.get(0x0d, 0, || STATE).eax, 7);
}

/// A guest that found a feature without its state, or state without the feature, would enable what XSETBV refuses.
#[test]
fn features_and_sizes_are_those_of_the_state_that_xcr0_allows() {
    // What leaf 0Dh of the host says of XCR0, whether leaf 1 has AVX, and what the guest may set.
    for (state, avx, allowed) in [
        (0xff, true, 7),
        (0xff, false, 3),
        (3, true, 3),
        (1, true, 0),
        (0, true, 0),
    ] {
        let host = |leaf, sub| {
            let mut all = all_ones(leaf, sub);
            match (leaf, sub) {
                (1, _) if !avx => all.ecx &= !LEAF1_ECX_AVX,
                (0x0d, 0) => all.eax = state,
                (0x0d, 2) => (all.eax, all.ebx) = (256, 576),
                _ => {}
            }
            all
        };
        let c = Cpuid::new(host, ONE);
        assert_eq!(c.xcr0_allowed(), allowed, "{state:#x} {avx}");
        let has_avx = allowed & XCR0_AVX != 0;
        let vex = c.leaf1().ecx & (LEAF1_ECX_AVX | LEAF1_ECX_VEX) != 0
            || c.leaf7().ebx & LEAF7_EBX_VEX != 0
            || c.leaf7().ecx & LEAF7_ECX_VEX != 0;
        assert_eq!(vex, has_avx, "{state:#x} {avx}");
        assert_eq!(c.leaf1().ecx & LEAF1_ECX_XSAVE != 0, allowed != 0);
        let leaf = |sub, xcr0| c.get(0x0d, sub, || CpuidState { xcr0, ..STATE });
        assert_eq!(leaf(2, 1).eax != 0, has_avx);
        let most = match allowed {
            7 => 576 + 256,
            3 => 576,
            _ => 0,
        };
        assert_eq!((leaf(0, allowed).ecx, leaf(0, allowed).ebx), (most, most));
        assert_eq!(leaf(0, 1).ebx, most.min(576));
    }
}

#[test]
fn x2apic_and_tsc_deadline_are_offered_whatever_the_host_has() {
    let bare = |leaf, _| CpuidResult {
        eax: if leaf == 0 { 1 } else { 0 },
        ..CpuidResult::default()
    };
    assert_eq!(
        Cpuid::new(bare, ONE).get(1, 0, || STATE).ecx & LEAF1_ECX_APIC,
        LEAF1_ECX_APIC
    );
    assert_eq!(
        Cpuid::new(bare, ONE).get(0x0b, 0, || STATE),
        CpuidResult::default()
    );
}

#[test]
fn bits_follow_the_guests_state() {
    let c = Cpuid::new(all_ones, ONE);
    assert_ne!(
        c.get(1, 0, || CpuidState {
            osxsave: true,
            ..STATE
        })
        .ecx & LEAF1_ECX_OSXSAVE,
        0
    );
    assert_eq!(
        c.get(1, 0, || CpuidState {
            apic_enabled: false,
            ..STATE
        })
        .edx & LEAF1_EDX_APIC,
        0
    );
}

#[test]
fn any_leaf_has_an_answer() {
    let c = Cpuid::new(all_ones, ONE);
    for leaf in [
        2,
        0x0c,
        0x0e,
        0x1f,
        0x3fff_ffff,
        0x4000_0001,
        0x7fff_ffff,
        0x8000_0009,
        u32::MAX,
    ] {
        for sub in [0, 1, 2, 3, u32::MAX] {
            let _ = c.get(leaf, sub, || STATE);
        }
    }
    assert_eq!(c.get(0x4000_0000, 0, || STATE).ebx.to_le_bytes(), *b"KVMK");
}

/// Windows looks at the first leaves only, Linux goes through the bases and takes the last interface that it knows.
#[test]
fn interfaces_are_where_systems_look_for_them() {
    let name = |interfaces, leaf| {
        let r = Cpuid::new(all_ones, ONE)
            .offering(interfaces)
            .get(leaf, 0, || STATE);
        let bytes: Vec<u8> = [r.ebx, r.ecx, r.edx]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        (r.eax, alloc::string::String::from_utf8(bytes).unwrap())
    };
    let (kvm, hyperv) = ("KVMKVMKVM\0\0\0", "Microsoft Hv");
    let nothing = "\0\0\0\0\0\0\0\0\0\0\0\0";
    for (interfaces, first, second) in [
        (
            Interfaces::empty(),
            (0x4000_0000, "UmbraUmbraUm"),
            (0, nothing),
        ),
        (Interfaces::KVM, (0x4000_0001, kvm), (0, nothing)),
        (Interfaces::HYPERV, (0x4000_0005, hyperv), (0, nothing)),
        (Interfaces::all(), (0x4000_0005, hyperv), (0x4000_0101, kvm)),
    ] {
        for (leaf, (last, said)) in [(HYPERVISOR, first), (SECOND, second)] {
            assert_eq!(
                name(interfaces, leaf),
                (last, said.into()),
                "{interfaces:?}"
            );
        }
    }
    let both = Cpuid::new(all_ones, ONE).offering(Interfaces::all());
    assert_eq!(both.get(0x4000_0006, 0, || STATE), CpuidResult::default());
    assert_ne!(both.get(0x4000_0101, 0, || STATE).eax, 0);
}
