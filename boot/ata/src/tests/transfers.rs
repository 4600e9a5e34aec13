//! Finding drives, and reads and writes that succeed.

use super::rig::{Medium, Rig};
use crate::host::Host;
use crate::{Kind, Place, Role, choose};
use hv_core::testing::Random;

/// A disk and a CD on the primary channel, another disk on the secondary one.
fn pc() -> (Rig, Medium, Medium) {
    let (disk, cd) = (Medium::new(3000), Medium::new(4 * 500));
    let rig = Rig::new([disk.disk(), cd.cdrom(), Medium::new(7).disk(), None]);
    (rig, disk, cd)
}

fn check_read(disk: &mut dyn hv_core::backend::BlockBackend, sector: u64, sectors: usize) {
    let mut buf = vec![0xee; sectors * 512];
    disk.read(sector, &mut buf).unwrap();
    assert!(
        buf == Medium::contents(sector, buf.len()),
        "{sectors} sectors from {sector} on"
    );
}

#[test]
fn all_drives_of_a_channel_are_found() {
    let (rig, ..) = pc();
    let kinds = |channel| {
        let found = rig.probe(channel, true);
        found
            .into_iter()
            .map(|f| (f.position, f.identity.kind))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(0),
        [(0, Kind::Disk { sectors: 3000 }), (1, Kind::Cdrom)]
    );
    assert_eq!(kinds(1), [(0, Kind::Disk { sectors: 7 })]);
    assert!(!rig.interrupted());
}

#[test]
fn a_drive_alone_in_the_second_place_is_found() {
    let rig = Rig::new([None, Medium::new(9).disk(), None, Medium::new(8).cdrom()]);
    for (channel, kind) in [(0, Kind::Disk { sectors: 9 }), (1, Kind::Cdrom)] {
        let found = rig.probe(channel, true);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].position, found[0].identity.kind), (1, kind));
    }
}

#[test]
fn a_drive_in_the_middle_of_a_command_is_found() {
    let (mut rig, ..) = pc();
    // IDENTIFY DEVICE, whose data nobody has taken: the registers of some drives do not take what is written until then.
    rig.out8(0x1f6, 0xe0);
    rig.out8(0x1f7, 0xec);
    rig.tamper(|port, value| match port {
        0x1f2 | 0x1f3 => 0,
        _ => value,
    });
    let found = rig.probe(0, true);
    assert_eq!((found.len(), found[0].position), (1, 0));
}

#[test]
fn drives_that_do_not_identify_themselves_at_first_are_asked_again() {
    let (rig, ..) = pc();
    let mut reads = 0;
    // What follows the first reset comes to nothing: neither signature nor status.
    rig.tamper(move |port, value| {
        reads += u32::from(port == 0x1f7);
        if (5..40).contains(&reads) && matches!(port, 0x1f4 | 0x1f5 | 0x1f7) {
            0
        } else {
            value
        }
    });
    assert_eq!(rig.probe(0, true).len(), 2);
}

#[test]
fn nothing_is_found_on_an_empty_channel_and_quickly() {
    let rig = Rig::new([None, None, None, None]);
    assert!(rig.probe(0, true).is_empty());
    assert!(rig.accesses() < 50);
    rig.tamper(|_, _| 0xff);
    assert!(rig.probe(0, true).is_empty());
    assert!(rig.accesses() < 50);
    assert!(rig.commands().is_empty());
}

#[test]
fn drives_are_chosen_by_name() {
    let (rig, ..) = pc();
    let found = rig.probe(0, true);
    let at = |position| Place {
        channel: 0,
        position,
    };
    let drives: Vec<_> = found
        .iter()
        .map(|f| (at(f.position), &f.identity))
        .collect();
    assert_eq!(choose(&drives, (Role::Cdrom, 1), "", None), Ok(None));
    assert_eq!(
        choose(&drives, (Role::Cdrom, 1), "", Some(at(1))),
        Ok(Some(at(1)))
    );
    assert!(choose(&drives, (Role::Disk, 1), "", Some(at(1))).is_err());
}

#[test]
fn a_drive_that_is_not_opened_is_only_identified() {
    let (rig, disk, _) = pc();
    let mut cd = rig.open(0, 1, true).unwrap();
    assert_eq!(rig.commands()[..2], [0xec, 0xa1]);
    check_read(&mut *cd, 3, 9);
    assert!(rig.commands().iter().all(|&c| c == 0xa0));
    assert!(disk.log.lock().unwrap().written.is_empty());
}

#[test]
fn a_long_disk_read_is_one_command() {
    for (dma, command) in [(false, 0x20), (true, 0xc8)] {
        let (rig, ..) = pc();
        let mut disk = rig.open(0, 0, dma).unwrap();
        rig.commands();
        rig.pio();
        check_read(&mut *disk, 17, 256);
        assert_eq!(rig.commands(), [command], "dma {dma}");
        assert_eq!(rig.pio(), if dma { 0 } else { 256 * 512 });
    }
}

#[test]
fn random_disk_reads_are_right() {
    let mut r = Random::from_env("UMBRA_SEED", 0xd15c);
    for dma in [false, true] {
        let (rig, ..) = pc();
        let mut disk = rig.open(0, 0, dma).unwrap();
        assert_eq!((disk.sectors(), disk.read_only()), (3000, false));
        for _ in 0..60 {
            let n = r.below(700) + 1;
            check_read(&mut *disk, r.below(3000 - n + 1), n as usize);
        }
    }
}

#[test]
fn random_cd_reads_need_no_alignment() {
    let mut r = Random::from_env("UMBRA_SEED", 0xcd);
    for dma in [false, true] {
        let (rig, ..) = pc();
        let mut cd = rig.open(0, 1, dma).unwrap();
        assert_eq!((cd.sectors(), cd.read_only()), (2000, true));
        rig.pio();
        for _ in 0..60 {
            let n = r.below(700) + 1;
            check_read(&mut *cd, r.below(2000 - n + 1), n as usize);
        }
        // Only packets go through the data port when data do not.
        assert_eq!(rig.pio() < 60 * 4 * 12 + 1, dma);
    }
}

#[test]
fn both_drives_of_a_channel_are_used_in_turn() {
    let (rig, ..) = pc();
    let mut found = rig.probe(0, true).into_iter();
    let (disk, cd) = (found.next().unwrap(), found.next().unwrap());
    let mut disk = disk.open(false, || Some(rig.buffer())).unwrap();
    let mut cd = cd.open(false, || None).unwrap();
    for i in 0..5 {
        check_read(&mut *disk, i, 3);
        check_read(&mut *cd, i, 3);
    }
}

#[test]
fn sectors_beyond_28_bits_are_reached() {
    for (dma, command) in [(false, 0x24), (true, 0x25)] {
        let rig = Rig::new([Medium::new(1 << 34).disk(), None, None, None]);
        let mut disk = rig.open(0, 0, dma).unwrap();
        assert_eq!(disk.sectors(), 1 << 34);
        rig.commands();
        check_read(&mut *disk, (1 << 34) - 5, 5);
        check_read(&mut *disk, (1 << 28) - 2, 5);
        assert_eq!(rig.commands(), [command; 2]);
    }
}

#[test]
fn what_is_written_and_flushed_is_on_the_medium() {
    for (dma, command) in [(false, 0x30), (true, 0xca)] {
        let (rig, medium, _) = pc();
        let mut disk = rig.open(0, 0, dma).unwrap();
        rig.commands();
        let data: Vec<u8> = (0..300 * 512).map(|i| (i / 7) as u8).collect();
        disk.write(11, &data).unwrap();
        disk.flush().unwrap();
        let long = if dma { command } else { 0x34 };
        let expected = if dma {
            vec![long, command, 0xea]
        } else {
            vec![long, 0xea]
        };
        assert_eq!(rig.commands(), expected);
        let log = medium.log.lock().unwrap();
        assert_eq!(log.flushes, 1);
        let mut at = 11;
        let mut all = Vec::new();
        for (sector, bytes) in &log.written {
            assert_eq!(*sector, at);
            at += bytes.len() as u64 / 512;
            all.extend_from_slice(bytes);
        }
        assert!(all == data);
    }
}

#[test]
fn a_disk_opened_read_only_is_not_written() {
    let (rig, medium, _) = pc();
    let found = rig.probe(0, true).remove(0);
    let mut disk = found.open(true, || Some(rig.buffer())).unwrap();
    rig.commands();
    assert!(disk.read_only());
    assert!(disk.write(0, &[0; 512]).is_err());
    disk.flush().unwrap();
    assert!(rig.commands().is_empty());
    assert!(medium.log.lock().unwrap().written.is_empty());
}

#[test]
fn what_is_not_on_the_medium_is_not_asked_for() {
    let (rig, ..) = pc();
    let mut disk = rig.open(0, 0, true).unwrap();
    let mut cd = rig.open(0, 1, true).unwrap();
    rig.commands();
    for (sector, len) in [(2999, 1024), (u64::MAX, 512), (u64::MAX - 1, 512)] {
        assert!(disk.read(sector, &mut vec![0; len]).is_err());
        assert!(disk.write(sector, &vec![0; len]).is_err());
        assert!(cd.read(sector, &mut vec![0; len]).is_err());
    }
    assert!(disk.read(0, &mut [0; 100]).is_err());
    assert!(cd.write(0, &[0; 512]).is_err());
    assert!(rig.commands().is_empty());
}
