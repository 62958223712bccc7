//! One decoder under libFuzzer: the one that TIDEMARK_FUZZ_TARGET names. `./x fuzz TARGET --seconds N` builds and runs it.

// libFuzzer has the main function, and calls this program through the C library's linkage.
#![no_main]
#![allow(unsafe_code)]

use std::sync::OnceLock;
use tidemark_decoders::{Target, targets};

static TARGET: OnceLock<Target> = OnceLock::new();

fn target() -> Target {
    let name = std::env::var("TIDEMARK_FUZZ_TARGET").unwrap_or_default();
    let all = targets();
    *all.iter().find(|(target, _)| *target == name).unwrap_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        panic!("TIDEMARK_FUZZ_TARGET must be one of {names:?}, not {name:?}")
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (_, decode) = TARGET.get_or_init(target);
    decode(data);
});
