//! libFuzzer around one of `tests::fuzz::TARGETS` or of the host tool's own, which the environment variable `UMBRA_FUZZ` names.
//! `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::alloc::System;
use std::sync::LazyLock;

use cap::Cap;
use libfuzzer_sys::{Corpus, fuzz_target};
use tests::fuzz::{OF_THE_TOOL, TARGETS, Target, target};
use xtask::parsers;

/// The most memory that a target may have in use, in bytes: no guest may make Umbra grow. Whoever wants more gets none, and aborts.
const MOST: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// The targets of the host tool.
const TOOL: [Target; 4] = [
    target(OF_THE_TOOL[0], parsers::media, 8_192),
    target(OF_THE_TOOL[1], parsers::words, 512),
    target(OF_THE_TOOL[2], parsers::trace, 2_048),
    target(OF_THE_TOOL[3], parsers::symbols, 4_096),
];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("UMBRA_FUZZ").unwrap_or_default();
    let mut all = TARGETS.iter().chain(&TOOL);
    let named = all.clone().find(|target| target.name == name);
    named.copied().unwrap_or_else(|| {
        // `cargo xtask fuzz` asks so which targets there are, and how long their strings may be.
        for target in &mut all {
            println!("{} {}", target.name, target.longest);
        }
        std::process::exit(0)
    })
});

fuzz_target!(
    init: {
        LazyLock::force(&TARGET);
        let _ = ALLOCATOR.set_limit(MOST);
    },
    |data: &[u8]| -> Corpus {
        (TARGET.body)(data);
        Corpus::Keep
    }
);
