//! The run's chance: streams that are given by the seed and a name, so that one part's draws do not move another's.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemark_runtime::SeededRng;
use xxhash_rust::xxh3::xxh3_64;

/// The stream of that part of the run.
pub fn stream(seed: u64, part: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ xxh3_64(part.as_bytes()))
}

/// The same as nodes take it.
pub fn entropy(seed: u64, part: &str) -> SeededRng {
    SeededRng::from_seed(stream(seed, part).next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_independent_and_repeat() {
        let draw = |seed, part| stream(seed, part).next_u64();
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "network"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }
}
