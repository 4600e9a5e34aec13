//! What the fuzz targets do, with random bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hv_core::testing::Random;
use std::path::Path;
use tests::fuzz;

/// Calls `body` with `rounds` strings of up to `len` random bytes.
fn feed(body: fn(&[u8]), rounds: u64, len: u64) {
    let more = std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse::<u64>().ok());
    let mut r = Random::from_env("UMBRA_SEED", 0xf022_5eed);
    for _ in 0..more.map_or(rounds, |n| rounds * n / 100_000) {
        let mut data = vec![0; r.below(len) as usize];
        r.fill(&mut data);
        body(&data);
    }
}

#[test]
fn emulator_survives_random_instructions() {
    feed(fuzz::emulator, 20_000, 512);
}

#[test]
fn gdb_survives_whatever_a_debugger_says() {
    feed(fuzz::gdb, 3_000, 1_024);
}

#[test]
fn hyperv_survives_any_calls_and_gives_memory_back() {
    feed(fuzz::hyperv, 3_000, 2048);
}

#[test]
fn a_balloon_gives_and_takes_only_what_it_may() {
    feed(fuzz::balloon, 2_000, 512);
}

#[test]
fn walker_survives_random_tables() {
    feed(fuzz::walker, 3_000, 4096);
}

#[test]
fn shadow_tables_survive_random_programs() {
    feed(fuzz::shadow, 60, 4_096);
}

#[test]
fn flash_keeps_to_its_model_and_so_does_its_medium() {
    feed(fuzz::flash, 300, 1_024);
}

#[test]
fn uhci_survives_any_schedule() {
    feed(fuzz::uhci, 300, 2_048);
}

#[test]
fn fdc_keeps_to_the_lengths_of_its_commands() {
    feed(fuzz::fdc, 200, 4_000);
}

#[test]
fn virtio_rings_survive_any_driver_and_any_host() {
    feed(fuzz::virtio, 1_500, 1_024);
}

#[test]
fn ahci_survives_any_driver_and_any_host() {
    feed(fuzz::ahci, 1_500, 1_024);
}

#[test]
fn ide_survives_random_accesses() {
    feed(fuzz::ide, 60, 20_000);
}

#[test]
fn ide_survives_random_accesses_with_slow_and_bad_media() {
    feed(fuzz::ide_slow, 60, 20_000);
}

#[test]
fn cpus_come_and_go_whatever_the_guest_does() {
    feed(fuzz::pm, 300, 1_024);
}

#[test]
fn the_driver_of_the_hosts_drives_survives_random_answers() {
    feed(fuzz::ata, 300, 1_024);
}

#[test]
fn the_whole_machine_survives_random_exits() {
    feed(fuzz::vm, 300, 4_096);
}

/// What the fuzzers have found to reach most, and what has failed once.
#[test]
fn seeds_pass() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for entry in std::fs::read_dir(directory).expect("there are seeds") {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if name.is_some_and(|name| fuzz::OF_THE_TOOL.contains(&name)) {
            continue;
        }
        let target = name.and_then(fuzz::named);
        let target = target.unwrap_or_else(|| panic!("{}: no such target", path.display()));
        for line in std::fs::read_to_string(&path).expect("text").lines() {
            let seed = STANDARD.decode(line).expect("a line of base64");
            (target.body)(&seed);
        }
    }
}

#[test]
fn vga_survives_random_accesses() {
    feed(fuzz::vga, 30, 20_000);
}

#[test]
fn umbra_survives_whatever_the_tool_asks() {
    feed(fuzz::requests, 3_000, 4_096);
}

#[test]
fn the_tool_survives_whatever_umbra_says() {
    feed(fuzz::messages, 3_000, 4_096);
}

#[test]
fn any_screen_comes_whole_to_the_tool() {
    feed(fuzz::screens, 30, 20_000);
}

#[test]
fn ne2k_survives_random_accesses() {
    feed(fuzz::ne2k, 100, 20_000);
}

#[test]
fn e1000_survives_whatever_its_driver_does() {
    feed(fuzz::e1000, 1_000, 2_048);
}

#[test]
fn fw_cfg_survives_random_accesses() {
    feed(fuzz::fw_cfg, 100, 20_000);
}

#[test]
fn i8042_survives_random_accesses() {
    feed(fuzz::i8042, 100, 20_000);
}

#[test]
fn linux_plan_of_a_random_header_stays_in_file_and_ram() {
    feed(fuzz::linux, 10_000, 2_048);
}

#[test]
fn random_bios_image_is_placed_below_1_mib_or_refused() {
    feed(fuzz::bios, 200, 2_048);
}

#[test]
fn switch_survives_whatever_frames_say() {
    feed(fuzz::switch, 1_000, 20_000);
}

#[test]
fn console_survives_whatever_is_typed() {
    feed(fuzz::console, 1_000, 4_096);
}
