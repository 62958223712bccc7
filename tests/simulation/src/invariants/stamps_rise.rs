//! INV-20: the stamps that a tablet gives rise along its log, over all of its leaders. Seen in the feed, which has every
//! local write in that order; a record that two replicas both hold is the same on both.

use super::{Invariant, Place, Replica};
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeMap;
use tidemark_base::Stamp;
use tidemark_tablet::FeedEntry;

#[derive(Default)]
pub(super) struct StampsRise {
    /// The last stamp of each record that was seen.
    seen: BTreeMap<Place, BTreeMap<u64, Stamp>>,
    /// Where each replica is read on.
    next: BTreeMap<(String, Place, u64), u64>,
}

/// Bytes of feed read at one look.
const LOOK_BYTES: usize = 256 << 10;

impl Invariant for StampsRise {
    fn name(&self) -> &'static str {
        "stamps rise"
    }

    fn every(&self) -> u64 {
        10
    }

    fn look(&mut self, replicas: &[Replica]) -> Result<u64> {
        let mut compared = 0;
        for replica in replicas {
            let Some(tablet) = &replica.tablet else { continue };
            let place = replica.place();
            let key = (replica.site.name.clone(), place, replica.site.lives());
            let from = self.next.get(&key).copied().unwrap_or(1);
            let records = tablet.engine().feed(from, LOOK_BYTES).map_err(|e| anyhow!("{e}"))?;
            for record in records {
                let entry = FeedEntry::decode(&record.bytes).map_err(|e| anyhow!("record {}: {e}", record.seq))?;
                let last = entry.last_stamp();
                let first = match &entry {
                    FeedEntry::Write { first, .. } => *first,
                    FeedEntry::Close { stamp } => *stamp,
                };
                let seen = self.seen.entry(place).or_default();
                let before = seen.range(..record.seq).next_back();
                let after = seen.range(record.seq + 1..).next();
                let who = &replica.site.name;
                ensure!(
                    before.is_none_or(|(_, stamp)| *stamp < first) && after.is_none_or(|(_, stamp)| last < *stamp),
                    "{who} {}: record {} has stamps {first:?}..{last:?} between {before:?} and {after:?}",
                    place.1,
                    record.seq
                );
                let known = *seen.entry(record.seq).or_insert(last);
                ensure!(known == last, "{who} {}: record {} has two stamps", place.1, record.seq);
                self.next.insert(key.clone(), record.seq + 1);
                compared += 1;
            }
        }
        Ok(compared)
    }
}
