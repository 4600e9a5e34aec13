//! Rings against a driver of their own, and what breaks their rules.

use super::chain::{self, Buffer};
use super::{Agreed, Chain, Fault, Place, Queue};
use crate::virtio::testing::{Driver, Part};
use alloc::collections::VecDeque;
use hv_core::Gpa;
use hv_core::mem::GuestMemory;
use hv_core::testing::{Random, VecMemory};

const RING: u64 = 0x1_0000;

fn agreed(bits: u64) -> Agreed {
    Agreed {
        packed: bits & 1 != 0,
        indirect: bits & 2 != 0,
        event_index: bits & 4 != 0,
        in_order: bits & 8 != 0,
    }
}

fn parts_of(chain: &Chain) -> Vec<Part> {
    let part = |write| move |b: &Buffer| (b.address.0, b.len, write);
    let read = chain.readable().iter().map(part(false));
    read.chain(chain.writable().iter().map(part(true)))
        .collect()
}

fn random_parts(r: &mut Random) -> Vec<Part> {
    let count = 1 + r.below(5);
    let read = r.below(count + 1);
    let part = |n| (r.below(0x8000), 1 + r.below(0x1000) as u32, n >= read);
    (0..count).map(part).collect()
}

/// Whoever sleeps is woken: the device when there is something to do, the driver when something is over.
#[test]
fn chains_arrive_whole_come_back_once_and_nobody_sleeps_for_ever() {
    let mut r = Random::from_env("UMBRA_SEED", 1);
    for round in 0..320 {
        let agreed = agreed(round % 16);
        let memory = VecMemory::new(1 << 20);
        let size = [1, 2, 8, 64, 256][(round / 16 % 5) as usize];
        // A packed ring needs not be a power of two.
        let size = if agreed.packed && size > 2 {
            size - 1
        } else {
            size
        };
        let mut driver = Driver::new(&memory, RING, size, agreed);
        let mut queue = Queue::new(driver.place, agreed);
        // What the driver has given, in order; what the device has of it; what it has given back.
        let mut given: VecDeque<(u16, Vec<Part>)> = VecDeque::new();
        let mut held: Vec<(u16, Chain)> = Vec::new();
        let mut done: VecDeque<(u16, u32)> = VecDeque::new();
        let mut order: VecDeque<u16> = VecDeque::new();
        let (mut device_sleeps, mut driver_sleeps) = (false, false);
        for _ in 0..400 {
            match r.below(4) {
                0 if !driver_sleeps => {
                    let parts = random_parts(&mut r);
                    let indirect = agreed.indirect && r.below(2) == 0;
                    let places = if indirect { 1 } else { parts.len() };
                    if driver.has_room(places) {
                        let id = driver.add(&parts, indirect);
                        given.push_back((id, parts));
                        order.push_back(id);
                    }
                    if r.below(2) == 0 && driver.must_kick() {
                        device_sleeps = false;
                    }
                }
                1 if !device_sleeps => {
                    let mut chain = Chain::default();
                    if queue.pop(&memory, &mut chain).unwrap() {
                        let (id, parts) = given.pop_front().expect("a chain that was given");
                        assert_eq!(parts_of(&chain), parts);
                        held.push((id, chain));
                    } else if driver.must_kick() {
                        // It asks only when it has said so before.
                    } else {
                        device_sleeps = !queue.ask_for_kicks(&memory, true).unwrap();
                    }
                }
                2 if !held.is_empty() => {
                    let (id, chain) = held.swap_remove(r.below(held.len() as u64) as usize);
                    let written = r.below(1000) as u32;
                    queue.push(&memory, &chain, written).unwrap();
                    done.push_back((id, written));
                    if r.below(2) == 0 && queue.take_interrupt(&memory).unwrap() {
                        driver_sleeps = false;
                    }
                }
                3 => {
                    let mut any = false;
                    while let Some((id, written)) = driver.take() {
                        any = true;
                        let at = done.iter().position(|d| *d == (id, written));
                        done.remove(at.expect("what the device has given back"));
                        let first = order.iter().position(|o| *o == id).unwrap();
                        assert!(!agreed.in_order || first == 0, "in order");
                        order.remove(first);
                    }
                    if !any && !agreed.in_order {
                        assert!(done.is_empty(), "what is over is to be seen");
                    }
                    if r.below(4) == 0 {
                        // What was made available is told before the driver sleeps.
                        if driver.must_kick() {
                            device_sleeps = false;
                        }
                        let _ = queue.take_interrupt(&memory).unwrap();
                        driver.want_interrupt(true);
                        driver_sleeps = true;
                    }
                }
                _ => {}
            }
            if device_sleeps && driver_sleeps {
                // Nobody would do anything any more.
                assert!(
                    given.is_empty(),
                    "the device sleeps, and there are {}",
                    given.len()
                );
                if held.is_empty() {
                    driver_sleeps = false;
                }
            }
            // The last of the ring given back while the driver sleeps wakes it.
            if driver_sleeps && held.is_empty() && !done.is_empty() {
                let told = queue.take_interrupt(&memory).unwrap();
                assert!(
                    told || !driver_sleeps,
                    "the driver sleeps, and {} are over",
                    done.len()
                );
                driver_sleeps = false;
            }
        }
    }
}

#[test]
fn what_is_not_wanted_is_not_told() {
    for bits in 0..8 {
        let agreed = agreed(bits);
        let memory = VecMemory::new(1 << 20);
        let mut driver = Driver::new(&memory, RING, 16, agreed);
        let mut queue = Queue::new(driver.place, agreed);
        let mut chain = Chain::default();
        driver.want_interrupt(false);
        queue.ask_for_kicks(&memory, false).unwrap();
        for _ in 0..40 {
            driver.add(&[(0, 1, true)], false);
            assert!(queue.pop(&memory, &mut chain).unwrap());
            queue.push(&memory, &chain, 1).unwrap();
            if !agreed.event_index || agreed.packed {
                assert!(!queue.take_interrupt(&memory).unwrap(), "{agreed:?}");
                assert!(!driver.must_kick());
            }
            assert_eq!(driver.take().map(|t| t.1), Some(1));
        }
        // At most once a round of the indices, where the event index is all that there is.
        let told = (0..40).filter(|_| {
            driver.add(&[(0, 1, true)], false);
            queue.pop(&memory, &mut chain).unwrap();
            queue.push(&memory, &chain, 1).unwrap();
            driver.take();
            driver.must_kick() | queue.take_interrupt(&memory).unwrap()
        });
        assert!(told.count() <= 2, "{agreed:?}");
    }
}

fn split(size: u16) -> (VecMemory, Place, Queue) {
    let memory = VecMemory::new(1 << 20);
    let agreed = agreed(2);
    let driver = Driver::new(&memory, RING, size, agreed);
    (memory, driver.place, Queue::new(driver.place, agreed))
}

fn descriptor(memory: &VecMemory, at: u64, address: u64, len: u32, flags: u16, next: u16) {
    let value = u128::from(address) | u128::from(len) << 64;
    let value = value | u128::from(flags) << 96 | u128::from(next) << 112;
    memory.write(Gpa(at), &value.to_le_bytes()).unwrap();
}

fn available(memory: &VecMemory, place: &Place, heads: &[u16]) {
    for (i, head) in (0..).zip(heads) {
        let at = Gpa(place.driver.0 + 4 + 2 * i);
        memory.write(at, &head.to_le_bytes()).unwrap();
    }
    let index = heads.len() as u16;
    memory
        .write(Gpa(place.driver.0 + 2), &index.to_le_bytes())
        .unwrap();
}

/// What a split queue of four says to a table and a head.
fn split_says(table: &[(u64, u32, u16, u16)], head: u16) -> Result<bool, Fault> {
    let (memory, place, mut queue) = split(4);
    for (i, &(address, len, flags, next)) in (0..).zip(table) {
        descriptor(&memory, RING + 16 * i, address, len, flags, next);
    }
    available(&memory, &place, &[head]);
    queue.pop(&memory, &mut Chain::default())
}

#[test]
fn split_chains_that_break_the_rules_are_faults() {
    let ram = 0x1000;
    for (table, head, fault) in [
        (&[(ram, 1, 1, 0)][..], 0, Fault::Chain),
        (&[(ram, 1, 1, 1), (ram, 1, 1, 0)], 0, Fault::Chain),
        (&[(ram, 1, 1, 4)], 0, Fault::Descriptor),
        (&[(ram, 1, 0, 0)], 4, Fault::Descriptor),
        (&[(ram, 1, 3, 1), (ram, 1, 0, 0)], 0, Fault::Order),
        (&[(1 << 40, 1, 0, 0)], 0, Fault::NotRam),
        (&[(u64::MAX, 2, 0, 0)], 0, Fault::NotRam),
        (&[((1 << 20) - 1, 2, 2, 0)], 0, Fault::NotRam),
        (&[(ram, 0, 4, 0)], 0, Fault::Indirect),
        (&[(ram, 17, 4, 0)], 0, Fault::Indirect),
        (&[(ram, 16, 5, 1), (ram, 1, 0, 0)], 0, Fault::Indirect),
        (&[(1 << 40, 16, 4, 0)], 0, Fault::NotRam),
        // A table in a table: this one.
        (&[(RING, 16, 4, 0)], 0, Fault::Indirect),
        (&[(0, 0xffff_ffff, 1, 1), (0, 2, 0, 0)], 0, Fault::NotRam),
    ] {
        assert_eq!(split_says(table, head), Err(fault), "{table:x?}");
    }
    assert_eq!(
        split_says(&[(1 << 40, 0, 0, 0)], 0),
        Ok(true),
        "nothing is nowhere"
    );
}

#[test]
fn more_available_than_the_ring_has_is_a_fault() {
    let (memory, place, mut queue) = split(4);
    available(&memory, &place, &[0; 5]);
    assert_eq!(queue.pop(&memory, &mut Chain::default()), Err(Fault::Index));
    let (memory, place, _) = split(4);
    let far = Place {
        driver: Gpa(1 << 40),
        ..place
    };
    let mut queue = Queue::new(far, agreed(0));
    assert_eq!(
        queue.pop(&memory, &mut Chain::default()),
        Err(Fault::NotRam)
    );
}

#[test]
fn packed_chains_that_break_the_rules_are_faults() {
    let says = |table: &[(u64, u32, u16)]| {
        let memory = VecMemory::new(1 << 20);
        let driver = Driver::new(&memory, RING, 4, agreed(3));
        let mut queue = Queue::new(driver.place, agreed(3));
        for (i, &(address, len, flags)) in (0..).zip(table) {
            descriptor(&memory, RING + 16 * i, address, len, 7, flags | 1 << 7);
        }
        queue.pop(&memory, &mut Chain::default())
    };
    let ram = 0x1000;
    assert_eq!(says(&[(ram, 1, 1); 4]), Err(Fault::Chain));
    assert_eq!(says(&[(ram, 1, 3), (ram, 1, 0)]), Err(Fault::Order));
    assert_eq!(says(&[(ram, 16, 5), (ram, 1, 0)]), Err(Fault::Indirect));
    assert_eq!(says(&[(ram, 1, 1), (ram, 16, 4)]), Err(Fault::Indirect));
    assert_eq!(says(&[(ram, 8, 4)]), Err(Fault::Indirect));
    assert_eq!(says(&[(ram, 16 * 257, 4)]), Err(Fault::Chain));
    assert_eq!(says(&[(1 << 40, 16, 0)]), Err(Fault::NotRam));
    assert_eq!(says(&[(ram, 16, 0)]), Ok(true));
}

#[test]
fn parts_of_buffers_are_where_their_bytes_are() {
    let buffer = |address, len| Buffer {
        address: Gpa(address),
        len,
    };
    let all = [
        buffer(10, 3),
        buffer(100, 0),
        buffer(200, 4),
        buffer(300, 1),
    ];
    let of = |start, len| -> Vec<_> {
        let parts = chain::part(&all, start, len);
        parts.map(|b| (b.address.0, b.len)).collect()
    };
    assert_eq!(of(0, 8), [(10, 3), (200, 4), (300, 1)]);
    assert_eq!(of(2, 3), [(12, 1), (200, 2)]);
    assert_eq!(of(7, 9), [(300, 1)]);
    assert_eq!(of(8, 1), []);
    assert_eq!(chain::len(&all), 8);
}
