//! What a guest feeds Microsoft's interface: hypercalls, and where pages are to lie over its memory.

use crate::feed::Feed;
use hv_core::Gpa;
use hv_core::hyperv::hypercall::{self, Call};
use hv_core::hyperv::{Moment, Partition, Reference, Slot, Synic, Timers, msr};
use hv_core::mem::GuestMemory;
use hv_core::testing::VecMemory;

const CPUS: usize = 2;
const PAGES: u64 = 4;

/// Hypercalls, registers and timers. Once all is reset, memory is what it was.
pub fn hyperv(data: &[u8]) {
    let f = &mut Feed::new(data);
    let memory = VecMemory::new((PAGES << 12) as usize);
    for page in 0..PAGES {
        let _ = memory.write(Gpa(page << 12), &[page as u8 + 1; 0x1000]);
    }
    let partition = Partition::new(CPUS, f.bool());
    let (mut synic, mut timers) = (Synic::default(), Timers::default());
    let mut now = 0;
    while !f.is_empty() {
        // A page that there is, more often than not.
        let at = match f.below(4) {
            0 => f.u64(),
            _ => u64::from(f.u16()) & ((PAGES << 12) - 1),
        };
        let cpu = usize::from(f.u8()) % CPUS;
        let moment = Moment {
            reference: Reference::new(f.u32().into()),
            ticks: f.u64(),
            tsc: f.u64(),
        };
        match f.below(10) {
            0 => partition.set_guest_os_id(&memory, u64::from(f.u8() & 3)),
            1 => drop(partition.set_hypercall(&memory, at)),
            2 => partition.set_reference_tsc(&memory, at, moment),
            3 => partition.set_tsc_offset(&memory, cpu, u64::from(f.u8() & 1), moment),
            4 => {
                let at = f.bool().then_some(Gpa(at).page());
                let _ = partition.place_assist(&memory, cpu, at);
            }
            5 => {
                let slot = f.pick(&[Slot::Messages(cpu), Slot::Events(cpu)]);
                partition.place_synic(&memory, slot, f.bool().then_some(Gpa(at)));
            }
            6 => {
                let source = usize::from(f.u8() & 15);
                let _ = partition.post(&memory, cpu, source, f.bytes(40));
            }
            7 => call(f, at),
            8 => {
                let _ = synic.write(msr::SCONTROL + u32::from(f.u8() & 0x3f), at);
                let _ = synic.vector(usize::from(f.u8()));
                let _ = synic.ends_by_itself(f.u8());
            }
            _ => {
                let register = msr::STIMER0_CONFIG + u32::from(f.u8() & 15);
                let _ = timers.write(register, f.scaled(), now);
                now = f.scaled().max(now);
                let mut expired = 0;
                timers.poll(now, |_| {
                    expired += 1;
                    expired & 1 != 0
                });
                assert!(expired <= 4, "each timer expires once, however late it is");
                timers.retry(|_| true);
                let later = timers.due().is_none_or(|due| due > now || now == u64::MAX);
                assert!(later, "what is due has expired");
            }
        }
    }
    (0..CPUS).for_each(|cpu| partition.reset_cpu(&memory, cpu));
    partition.reset(&memory);
    let mut written = 0;
    for page in 0..PAGES {
        let mut bytes = [0; 0x1000];
        let _ = memory.read(Gpa(page << 12), &mut bytes);
        written += bytes.iter().filter(|&&b| b != page as u8 + 1).count();
    }
    assert_eq!(written, 0, "what lay over memory is gone");
}

/// One hypercall: its input is read once, from one page.
fn call(f: &mut Feed<'_>, at: u64) {
    let input = f.u64();
    let first = [if f.bool() { f.u64() } else { at }, f.u64()];
    let fast = f.bool();
    let input = input & !(1 << 16) | u64::from(fast) << 16;
    let high = f.bytes(16);
    let xmm = |n: usize| [high.get(n).copied().unwrap_or(0); 16];
    let registers = hypercall::registers(first, xmm);
    let bytes = f.bytes(64);
    let mut pages = Vec::new();
    let mut reads = 0;
    let mut read = |gpa: Gpa, buf: &mut [u8]| {
        reads += 1;
        pages.extend([gpa.page(), gpa.add(buf.len() as u64 - 1).page()]);
        let from = bytes.get(gpa.page_offset() as usize % 64..).unwrap_or(&[]);
        buf.iter_mut().zip(from).for_each(|(b, &v)| *b = v);
        !bytes.is_empty()
    };
    let parsed = hypercall::parse(input, registers, &mut read);
    pages.dedup();
    assert!(pages.len() <= 1 && reads <= 5 && !(fast && reads > 0));
    if let Ok(Call::Ipi(_, vector)) = parsed {
        assert!(vector >= 16);
    }
    let result = hypercall::result(input, parsed.map(|_| ()));
    assert_eq!(result & !(0xfff << 32 | 7), 0);
}
