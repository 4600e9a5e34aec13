//! VT-x on this CPU: whether it can do what Umbra needs, and turning it on.

use crate::host::{self, SecondStage, Virtualization};
use crate::memory;
use alloc::string::String;
use hv_core::Gpa;
use hv_core::machine::IDENTITY_MAP;
use hv_core::mmu::Backing;
use npt_shadow::Format;
use protocol::options::Paging;
use spin::Once;
use vmx::VmxVcpu;
use vmx::capabilities::{Capabilities, Plan, SecondStage as Stage, availability, ept};
use vmx::controls::{Pin, Secondary};
use vmx::hw::{self, Region};

/// VT-x, turned on.
pub struct Intel {
    capabilities: Capabilities,
    check_entries: bool,
    /// Virtual-processor identifiers that have been given away: 1 to this.
    vpids: u16,
}

/// Asks the CPU, which has VT-x, for what Umbra needs, and turns it on.
///
/// # Errors
/// A sentence that says what is missing.
pub fn enable(check_entries: bool) -> Result<Intel, String> {
    let unlocked = availability(true, hw::feature_control)?;
    // CPUID 8000_0008h; every CPU with VT-x has it.
    let capabilities = hw::capabilities(host::cpuid(0x8000_0008, 0).eax as u8);
    capabilities.plan(Stage::Shadow)?;
    host::set_up_cr4();
    turn_on(&capabilities, unlocked)?;
    FIRST.call_once(|| capabilities);
    Ok(Intel {
        capabilities,
        check_entries,
        vpids: 0,
    })
}

/// What the first CPU can do.
static FIRST: Once<Capabilities> = Once::new();

/// Turns VT-x on for a further CPU.
///
/// # Errors
/// A sentence that says what is missing, or in what it is not like the first.
pub fn enable_further() -> Result<(), String> {
    let unlocked = availability(true, hw::feature_control)?;
    let capabilities = hw::capabilities(host::cpuid(0x8000_0008, 0).eax as u8);
    if FIRST.get() != Some(&capabilities) {
        return Err("its VT-x has not the same capabilities as the first one's".into());
    }
    // A guest that moves to another CPU has it forget everything.
    let v = capabilities.ept_vpid;
    let all = [
        (ept::INVEPT, ept::INVEPT_ALL),
        (ept::INVVPID, ept::INVVPID_ALL),
    ];
    if all.iter().any(|&(one, all)| v & one != 0 && v & all == 0) {
        return Err("it cannot flush for all guests (INVEPT, INVVPID)".into());
    }
    turn_on(&capabilities, unlocked)
}

/// Puts this CPU into VMX operation.
fn turn_on(capabilities: &Capabilities, unlocked: bool) -> Result<(), String> {
    let region = Region::new(capabilities.revision());
    if !hw::enable(region, capabilities, unlocked) {
        return Err("VMXON failed: another hypervisor may be active below Umbra".into());
    }
    Ok(())
}

impl Virtualization for Intel {
    type Cpu = VmxVcpu;

    fn vcpu(&mut self, paging: Paging) -> Result<VmxVcpu, String> {
        let plan = self.plan(paging)?;
        let cpu = self.create(plan);
        cpu.ok_or_else(|| "the CPU does not take a VMCS (VMPTRLD failed)".into())
    }

    fn second_stage(&mut self, paging: Paging) -> Result<Option<SecondStage>, String> {
        let capabilities = self.capabilities;
        let plan = self.plan(paging)?;
        let yes = |have: bool| if have { "yes" } else { "no" };
        log::info!(
            "VT-x: unrestricted guest {}, VPID {}, preemption timer {}, 2 MiB pages {}, 1 GiB pages {}",
            yes(plan.unrestricted_guest()),
            yes(plan.secondary.contains(Secondary::ENABLE_VPID)),
            yes(plan.pin.contains(Pin::PREEMPTION_TIMER)),
            yes(capabilities.ept_vpid & ept::PAGES_2M != 0),
            yes(capabilities.ept_vpid & ept::PAGES_1G != 0)
        );
        if !paging.needs_nested() {
            return Ok(None);
        }
        let identity_map = match plan.unrestricted_guest() {
            true => None,
            false => Some(Backing::Ram {
                hpa: memory::identity_table().ok_or("no memory for the identity page table")?,
                writable: false,
            }),
        };
        Ok(Some(SecondStage {
            format: Format::Ept,
            largest: match capabilities.ept_vpid {
                v if v & ept::PAGES_1G != 0 => 3,
                v if v & ept::PAGES_2M != 0 => 2,
                _ => 1,
            },
            identity_map,
        }))
    }

    fn spare_vcpu(&mut self) -> Option<VmxVcpu> {
        let plan = self.capabilities.plan(Stage::Shadow).ok()?;
        self.create(plan)
    }
}

impl Intel {
    /// The controls of a VM's virtual CPUs.
    fn plan(&self, paging: Paging) -> Result<Plan, String> {
        let nested = paging.needs_nested();
        let stage = if nested { Stage::Nested } else { Stage::Shadow };
        self.capabilities.plan(stage).map_err(|why| {
            if nested && self.capabilities.plan(Stage::Shadow).is_ok() {
                alloc::format!("{why}; use paging=shadow")
            } else {
                why
            }
        })
    }

    /// A virtual CPU with a virtual-processor identifier of its own; 0 is the host's.
    fn create(&mut self, plan: Plan) -> Option<VmxVcpu> {
        self.vpids = self.vpids.checked_add(1)?;
        let mut cpu = VmxVcpu::new(self.capabilities, plan, self.vpids, Gpa(IDENTITY_MAP))?;
        cpu.check_entries |= self.check_entries;
        Some(cpu)
    }
}
