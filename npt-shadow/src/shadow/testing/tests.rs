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
            let fault = ShadowFault {
                gva: Gva(va),
                error: PfError::empty(),
                state: m.cpu.state,
                cpl: 0,
                delivering: false,
                rip: 0,
            };
            assert_eq!(m.mmu.page_fault(0, &fault), Resolve::Retry);
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

/// A table that is its own child, at all levels; one CPU links its shadow at another level while another one, which may write it, changes
/// the entry.
fn entry_changed_before_it_is_linked_is_left_out() -> bool {
    const TABLE: u64 = 2;
    let mut m = Machine::new(Algorithm::Unsync, 1, 2);
    m.cpu.state.cr0 |= Cr0::PG | Cr0::WP;
    m.cpu.state.cr4 |= Cr4::PAE;
    m.cpu.state.efer |= Efer::LME | Efer::LMA;
    m.cpu.state.cr3 = TABLE << 12;
    let entry = |gfn: u64| gfn << 12 | P | RW | US | A | D;
    let first = Gpa(TABLE << 12);
    m.memory.write(first, &entry(TABLE).to_le_bytes()).unwrap();
    let of_other = m.cpu.state;
    m.cpu.state.efer |= Efer::NXE;
    let of_this = m.cpu.state;
    m.mmu.load(0, &of_this);
    m.mmu.load(1, &of_other);
    let _ = m.mmu.root(0);
    let fault = |m: &mut Machine, cpu: usize, write: bool| {
        let mut error = PfError::U;
        error.set(PfError::W, write);
        let state = if cpu == 0 { of_this } else { of_other };
        let fault = ShadowFault {
            gva: Gva(0),
            error,
            state,
            cpl: 3,
            delivering: false,
            rip: 0,
        };
        assert_eq!(m.mmu.page_fault(cpu, &fault), Resolve::Retry);
    };
    // The other CPU writes the table, through itself.
    m.cpu.state = of_other;
    let write = Access {
        write: true,
        user: true,
        ..Access::default()
    };
    let leaf = (0..9).find_map(|_| {
        let (root, _) = m.mmu.root(1);
        m.cpu.tables.clear();
        let found = m.hardware_walk(root, 0, write).ok();
        if found.is_none() {
            fault(&mut m, 1, true);
        }
        found
    });
    let (_, table, index) = leaf.expect("the other CPU may write the table");
    let flags = m.mmu.frames.read(Hpa(table), index);
    assert_eq!(flags & (TRACKED | D), TRACKED);
    m.mmu.frames.write(Hpa(table), index, flags | D);
    let last_word = LastWord(m.memory.clone(), first, entry(9));
    m.mmu.set_kick(Arc::new(last_word));
    fault(&mut m, 0, false);
    m.mmu.audit().is_ok()
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
