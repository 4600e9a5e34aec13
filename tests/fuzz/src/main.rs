//! libFuzzer around one of `tests::fuzz::TARGETS`, which the environment variable `UMBRA_FUZZ` names. `cargo xtask fuzz` builds and runs
//! it.
#![no_main]

use std::alloc::System;
use std::sync::LazyLock;

use cap::Cap;
use libfuzzer_sys::{Corpus, fuzz_target};
use tests::fuzz::{self, TARGETS, Target};

/// The most memory that a target may have in use, in bytes: no guest may make Umbra grow. Whoever wants more gets none, and aborts.
const MOST: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("UMBRA_FUZZ").unwrap_or_default();
    fuzz::named(&name).unwrap_or_else(|| {
        // `cargo xtask fuzz` asks so which targets there are, and how long their strings may be.
        for target in TARGETS {
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
