//! The programs that the unit tests run.

use super::super::mutants::ACTIVE;
use super::machine::Machine;
use super::*;
use hv_core::flush::CpuSet;
use hv_core::testing::{Random, VecMemory};

/// Runs programs.
fn run(algorithm: Algorithm, cpus: usize, seed: u64, steps: u32) {
    let mut machine = Machine::new(algorithm, seed, cpus);
    for step in 0..steps {
        if step % 250 == 0 {
            machine.restart();
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            machine.step();
            if step % 16 == 0 {
                settle(&mut machine);
            }
        }));
        if let Err(panic) = result {
            if ACTIVE.get().is_none() {
                for line in &machine.log {
                    println!("{line}");
                }
                println!("{algorithm:?}, {cpus} CPUs, seed {seed}, step {step}");
            }
            std::panic::resume_unwind(panic);
        }
    }
}

/// All mistakes.
const MUTANTS: [Mutant; 32] = [
    Mutant::LinkAcceptsAnyChild,
    Mutant::LinkOutOfStep,
    Mutant::RightsNotInRole,
    Mutant::ParentsForgotten,
    Mutant::RootKept,
    Mutant::NoFlush,
    Mutant::WritesUnnoticed,
    Mutant::NoWriteProtection,
    Mutant::TableMappedWritable,
    Mutant::LargeOverTable,
    Mutant::LargeKept,
    Mutant::AccessedIgnored,
    Mutant::DirtyIgnored,
    Mutant::RomWritable,
    Mutant::RemapKeepsEntries,
    Mutant::InvlpgIgnored,
    Mutant::LoadIgnored,
    Mutant::LiftedForUser,
    Mutant::LiftedExecutable,
    Mutant::SmapNotInRole,
    Mutant::SmepNotInRole,
    Mutant::WrittenForgotten,
    Mutant::OneFlushForAll,
    Mutant::OthersRootKept,
    Mutant::PaeRootShared,
    Mutant::VtlbShared,
    Mutant::RootsReclaimed,
    Mutant::QuarantineTooShort,
    Mutant::ProtectionTrustedEarly,
    Mutant::DirtyTrustedEarly,
    Mutant::RemapReturnsEarly,
    Mutant::WalkBelieved,
];

/// Whether the random programs notice `mutant`, with one of the algorithms.
fn is_caught(mutant: Mutant) -> bool {
    let caught = |algorithm, seed| {
        ACTIVE.set(Some(mutant));
        let cpus = 1 + seed as usize % 3;
        let result = std::panic::catch_unwind(|| run(algorithm, cpus, seed, 60_000));
        ACTIVE.set(None);
        result.is_err()
    };
    let algorithms = [Algorithm::Unsync, Algorithm::Cached, Algorithm::Vtlb];
    (1..=12).any(|seed| algorithms.iter().any(|&algorithm| caught(algorithm, seed)))
}

#[test]
fn every_mistake_is_caught() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if ACTIVE.get().is_none() {
            previous(info);
        }
    }));
    let survivors: Vec<_> = MUTANTS
        .into_iter()
        .filter(|&mutant| !is_caught(mutant))
        .collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

fn steps() -> u32 {
    std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(400_000)
}

fn seed() -> u64 {
    Random::from_env("UMBRA_SEED", 1).next()
}

/// A fault of CPU `cpu`, in the state that the machine has, is resolved by a shadow entry.
fn fault(m: &mut Machine, cpu: usize, va: u64, error: PfError) {
    let fault = ShadowFault {
        gva: Gva(va),
        error,
        state: m.cpu.state,
        cpl: if error.contains(PfError::U) { 3 } else { 0 },
        delivering: false,
        rip: 0,
    };
    assert_eq!(m.mmu.page_fault(cpu, &fault), Resolve::Retry);
}

/// A page of 2 MiB that the host cannot map as one is changed, and INVLPG executed for one address in it.
fn large_page_goes_as_a_whole() -> bool {
    let mut m = Machine::new(Algorithm::Vtlb, 1, 1);
    m.cpu.state.cr0 |= Cr0::PG | Cr0::WP;
    m.cpu.state.cr4 |= Cr4::PAE;
    m.cpu.state.efer |= Efer::LME | Efer::LMA;
    for table in 0..3u64 {
        let entry = (table + 1) << 12 | P | RW | A;
        m.memory
            .write(Gpa(table << 12), &entry.to_le_bytes())
            .unwrap();
    }
    let large = |gfn: u64| (gfn << 12 | P | RW | A | D | PS).to_le_bytes();
    m.memory.write(Gpa(0x2000), &large(0)).unwrap();
    m.map(ROM, Backing::Mmio);
    m.mmu.load(0, &m.cpu.state);
    let reached = |m: &mut Machine, va: u64| {
        for _ in 0..4 {
            let (root, _) = m.mmu.root(0);
            m.cpu.tables.clear();
            if let Ok((cached, ..)) = m.hardware_walk(root, va, Access::default()) {
                return (cached.hpa - RAM) >> 12;
            }
            fault(m, 0, va, PfError::empty());
        }
        unreachable!("the fault is never resolved")
    };
    assert_eq!((reached(&mut m, 0x5000), reached(&mut m, 0x6000)), (5, 6));
    m.memory.write(Gpa(0x2000), &large(512)).unwrap();
    m.mmu.invalidate_page(0, &m.cpu.state, Gva(0x5000));
    reached(&mut m, 0x6000) == 518
}

#[test]
fn a_large_page_goes_as_a_whole() {
    assert!(large_page_goes_as_a_whole());
    ACTIVE.set(Some(Mutant::InvlpgDropsPart));
    let caught = !large_page_goes_as_a_whole();
    ACTIVE.set(None);
    assert!(caught);
}

/// A CPU that is kicked stores an entry first.
struct LastWord(Arc<VecMemory>, Gpa, u64);

impl Kick for LastWord {
    fn kick(&self, _: CpuSet) {
        self.0.write(self.1, &self.2.to_le_bytes()).unwrap();
    }
}

/// A table that is its own child at all levels, on which the first entry's pages are.
const TABLE: u64 = 2;

/// A user's entry that leads to frame `gfn`.
const fn entry_to(gfn: u64) -> u64 {
    gfn << 12 | P | RW | US | A | D
}

/// A machine whose CPUs are in long mode on [`TABLE`].
fn on_its_own_child(cpus: usize) -> Machine {
    let mut m = Machine::new(Algorithm::Unsync, 1, cpus);
    m.cpu.state.cr0 |= Cr0::PG | Cr0::WP;
    m.cpu.state.cr4 |= Cr4::PAE;
    m.cpu.state.efer |= Efer::LME | Efer::LMA;
    m.cpu.state.cr3 = TABLE << 12;
    let first = entry_to(TABLE).to_le_bytes();
    m.memory.write(Gpa(TABLE << 12), &first).unwrap();
    for cpu in 0..cpus {
        m.mmu.load(cpu, &m.cpu.state);
    }
    m
}

/// CPU `cpu` gets the right to write the table through itself: which entry of which shadow table it has for that. It has not written yet.
fn lets_write(m: &mut Machine, cpu: usize) -> (Hpa, usize) {
    let write = Access {
        write: true,
        user: true,
        ..Access::default()
    };
    let leaf = (0..9).find_map(|_| {
        let (root, _) = m.mmu.root(cpu);
        m.cpu.tables.clear();
        let found = m.hardware_walk(root, 0, write).ok();
        if found.is_none() {
            fault(m, cpu, 0, PfError::U | PfError::W);
        }
        found
    });
    let (_, table, index) = leaf.expect("the CPU may write the table");
    let entry = m.mmu.frames.read(Hpa(table), index);
    assert_eq!(entry & (TRACKED | D), TRACKED);
    (Hpa(table), index)
}

/// One CPU links the shadow of the table at another level while another one, which may write the table, changes the entry.
fn entry_changed_before_it_is_linked_is_left_out() -> bool {
    let mut m = on_its_own_child(2);
    let of_other = m.cpu.state;
    m.cpu.state.efer |= Efer::NXE;
    let of_this = m.cpu.state;
    m.mmu.load(0, &of_this);
    let _ = m.mmu.root(0);
    m.cpu.state = of_other;
    let (table, index) = lets_write(&mut m, 1);
    let entry = m.mmu.frames.read(table, index);
    m.mmu.frames.write(table, index, entry | D);
    let last_word = LastWord(m.memory.clone(), Gpa(TABLE << 12), entry_to(9));
    m.mmu.set_kick(Arc::new(last_word));
    m.cpu.state = of_this;
    fault(&mut m, 0, 0, PfError::U);
    m.mmu.audit().is_ok()
}

/// A CPU stores to the table, and sets the dirty flag of its mapping, just as the table is protected again.
fn dirty_flag_set_at_the_last_moment_is_noticed() -> bool {
    let second = Gpa((TABLE << 12) + 8);
    let mut m = on_its_own_child(1);
    m.memory.write(second, &entry_to(5).to_le_bytes()).unwrap();
    fault(&mut m, 0, 0x1000, PfError::U);
    lets_write(&mut m, 0);
    m.memory.write(second, &entry_to(6).to_le_bytes()).unwrap();
    m.mmu.limits.idle = 0;
    m.mmu.frames.inner_mut().dirty_late = true;
    m.mmu.load(0, &m.cpu.state);
    m.mmu.audit().is_ok()
}

#[test]
fn a_dirty_flag_that_is_set_at_the_last_moment_is_noticed() {
    assert!(dirty_flag_set_at_the_last_moment_is_noticed());
    ACTIVE.set(Some(Mutant::DirtyLost));
    let caught = !dirty_flag_set_at_the_last_moment_is_noticed();
    ACTIVE.set(None);
    assert!(caught);
}

#[test]
fn an_entry_that_another_cpu_changes_before_it_is_linked_is_left_out() {
    assert!(entry_changed_before_it_is_linked_is_left_out());
    ACTIVE.set(Some(Mutant::LinkBelieved));
    let caught = !entry_changed_before_it_is_linked_is_left_out();
    ACTIVE.set(None);
    assert!(caught);
}

/// Programs on one CPU, on two, and on three.
fn run_all(algorithm: Algorithm) {
    for cpus in 1..=3 {
        run(algorithm, cpus, seed(), steps() / 3);
    }
}

#[test]
fn random_programs_on_a_virtual_tlb() {
    run_all(Algorithm::Vtlb);
}

#[test]
fn random_programs_on_cached_shadows() {
    run_all(Algorithm::Cached);
}

#[test]
fn random_programs_on_shadows_out_of_sync() {
    run_all(Algorithm::Unsync);
}
