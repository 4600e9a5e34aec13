//! Drives that fail, hang, or are not what they seem.

use super::rig::{BM, Medium, Rig};
use device_model::ata::Drive;
use hv_core::backend::BlockError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn rig() -> (Rig, Medium, Medium) {
    let (disk, cd) = (Medium::new(3000), Medium::new(4 * 500));
    let rig = Rig::new([disk.disk(), cd.cdrom(), None, None]);
    (rig, disk, cd)
}

#[test]
fn a_drive_without_a_medium_is_not_offered() {
    let rig = Rig::new([Some(Drive::cdrom(None)), None, None, None]);
    let why = rig.open(0, 0, true).err();
    assert_eq!(why.as_deref(), Some("there is no medium in it"));
}

#[test]
fn an_error_is_tried_once_more() {
    for dma in [false, true] {
        let (rig, disk, cd) = rig();
        // A chunk fails and then its first unit: the emulated drive looks for the bad place.
        for (position, medium) in [(0, disk), (1, cd)] {
            let mut drive = rig.open(0, position, dma).unwrap();
            medium.log.lock().unwrap().failures = 2;
            drive.read(0, &mut [0; 2048]).unwrap();
            medium.log.lock().unwrap().failures = 4;
            assert_eq!(drive.read(0, &mut [0; 2048]), Err(BlockError));
            rig.pio();
            drive.read(0, &mut [0; 2048]).unwrap();
            assert_eq!(rig.pio() < 2048, dma, "a bad place is not DMA's fault");
        }
    }
}

#[test]
fn dma_that_does_not_end_gives_way_to_pio() {
    for position in [0, 1] {
        let (rig, ..) = rig();
        let mut drive = rig.open(0, position, true).unwrap();
        rig.tamper(|port, value| if port == BM + 2 { value | 1 } else { value });
        let mut buf = [0; 4096];
        drive.read(8, &mut buf).unwrap();
        assert!(buf[..] == Medium::contents(8, 4096));
        // For good: the engine is not asked again.
        rig.tamper(|port, value| {
            assert!(!(BM..BM + 8).contains(&port));
            value
        });
        drive.read(8, &mut buf).unwrap();
    }
}

#[test]
fn a_bus_masters_error_gives_way_to_pio() {
    let (rig, ..) = rig();
    let mut drive = rig.open(0, 0, true).unwrap();
    rig.tamper(|port, value| if port == BM + 2 { value | 2 } else { value });
    let mut buf = [0; 4096];
    drive.read(8, &mut buf).unwrap();
    assert!(buf[..] == Medium::contents(8, 4096));
}

#[test]
fn a_drive_that_hangs_is_given_up() {
    for position in [0, 1] {
        let (rig, ..) = rig();
        let mut drive = rig.open(0, position, true).unwrap();
        rig.tamper(|port, value| if port == 0x1f7 { value | 0x80 } else { value });
        assert!(drive.read(0, &mut [0; 512]).is_err());
        rig.accesses();
        assert!(drive.read(0, &mut [0; 512]).is_err());
        assert!(drive.write(0, &[0; 512]).is_err());
        assert_eq!(rig.accesses(), 0, "it is not asked again");
    }
}

#[test]
fn a_drive_that_hangs_for_one_command_is_reset() {
    for position in [0, 1] {
        let (rig, ..) = rig();
        let mut drive = rig.open(0, position, false).unwrap();
        let hangs = Arc::new(AtomicBool::new(true));
        let (mut reads, seen) = (0, hangs.clone());
        rig.tamper(move |port, value| {
            reads += u64::from(port == 0x1f7);
            // A look a millisecond, for ten seconds.
            if reads > 10_100 {
                seen.store(false, Ordering::Relaxed);
            }
            if port == 0x1f7 && seen.load(Ordering::Relaxed) {
                0xd0
            } else {
                value
            }
        });
        let mut buf = [0; 2048];
        drive.read(4, &mut buf).unwrap();
        assert!(buf[..] == Medium::contents(4, 2048));
        assert!(!hangs.load(Ordering::Relaxed));
    }
}

#[test]
fn a_drive_that_wants_no_data_fails() {
    let (rig, ..) = rig();
    let mut drive = rig.open(0, 0, false).unwrap();
    rig.tamper(|port, value| if port == 0x1f7 { value & !8 } else { value });
    assert!(drive.read(0, &mut [0; 512]).is_err());
    assert!(drive.write(0, &[0; 512]).is_err());
}

#[test]
fn a_channel_that_stays_busy_has_no_drives() {
    let (rig, ..) = rig();
    rig.tamper(|_, _| 0x80);
    assert!(rig.probe(0, true).is_empty());
}

#[test]
fn another_medium_of_the_same_length_is_read_and_one_of_another_is_not() {
    let (rig, ..) = rig();
    let mut cd = rig.open(0, 1, true).unwrap();
    let change = |blocks: u64| {
        let new: Box<dyn hv_core::backend::BlockBackend> = Box::new(Medium::new(4 * blocks));
        rig.0.lock().unwrap().ide.change_medium(1, Some(new));
    };
    change(500);
    cd.read(3, &mut [0; 512]).unwrap();
    change(499);
    assert!(cd.read(3, &mut [0; 512]).is_err());
}

#[test]
fn a_medium_taken_out_is_an_error() {
    let (rig, ..) = rig();
    let mut cd = rig.open(0, 1, false).unwrap();
    rig.0.lock().unwrap().ide.change_medium(1, None);
    assert!(cd.read(3, &mut [0; 512]).is_err());
}
