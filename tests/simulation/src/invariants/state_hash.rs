//! INV-21: replicas of a tablet that have applied the same entries are the same: facts as readers see them, with their
//! stamps, and the state beside them.

use super::{Invariant, Place, Replica};
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeMap;
use tidemark_base::RowRange;
use tidemark_tablet::Tablet;
use xxhash_rust::xxh3::Xxh3;

#[derive(Default)]
pub(super) struct StateHash {
    /// By applied position, the hash and who had it first.
    seen: BTreeMap<(Place, Vec<u8>), (u64, String)>,
}

/// The key of the applied position among a tablet's state records.
const APPLIED: &[u8] = b"a";
/// Records that hashing takes at most; a tablet of the simulation has a few dozen.
const RECORDS_MAX: usize = 100_000;

impl Invariant for StateHash {
    fn name(&self) -> &'static str {
        "equal state at equal position"
    }

    fn every(&self) -> u64 {
        50
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        let mut compared = 0;
        for replica in replicas {
            let Some(tablet) = &replica.tablet else { continue };
            let engine = tablet.engine();
            let Some(applied) = engine.state(APPLIED).map_err(|e| anyhow!("{e}"))? else {
                continue;
            };
            let hash = hash(tablet)?;
            let key = (replica.place(), applied.to_vec());
            let Some((known, by)) = self.seen.get(&key) else {
                self.seen.insert(key, (hash, replica.site.name.clone()));
                continue;
            };
            ensure!(
                *known == hash,
                "{} {}: {} and {by} have applied the same entries and differ",
                replica.site.region,
                tablet.descriptor().tablet,
                replica.site.name
            );
            compared += u64::from(*by != replica.site.name);
        }
        Ok(compared)
    }
}

fn hash(tablet: &Tablet) -> Result<u64> {
    let engine = tablet.engine();
    // Nothing expires in a simulation's tables, so that any moment will do.
    let digest = engine.digest(&RowRange::all(), 0).map_err(|e| anyhow!("{e}"))?;
    let mut hash = Xxh3::new();
    hash.update(&digest.content_hash.to_le_bytes());
    hash.update(&digest.stamps_hash.to_le_bytes());
    let records = engine.state_scan(b"", b"", RECORDS_MAX).map_err(|e| anyhow!("{e}"))?;
    for (key, value) in records {
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(&key);
        hash.update(&(value.len() as u64).to_le_bytes());
        hash.update(&value);
    }
    Ok(hash.digest())
}
