//! What time and number hide.
//!
//! R10: `expired <=> version + ttl <= now`, or the version is at or below the floor that a raised TTL left behind.
//!
//! R11: the greatest `max_versions` versions of a column count, ranked over everything ever written there, dead versions
//! included. A limit that was raised must go on hiding what it hid, because some region may have dropped it; so limits cut
//! a column's facts into eras by stamp, and each limit in its turn keeps the greatest versions of what was left so far:
//!
//! ```text
//! left = {}
//! for each era, oldest first:
//!     left = left + the facts stamped in that era          (without those that its own tombstones, or earlier ones, may
//!                                                           have made somebody forget, if the era had no limit)
//!     left = the facts at the `limit` greatest versions of left
//! ```

use crate::Column;
use std::collections::BTreeSet;
use tidemark_base::schema::NO_LIMIT;
use tidemark_base::{FamilySettings, Stamp};

/// R10.
pub(crate) fn expired(family: &FamilySettings, version: i64, now_micros: i64) -> bool {
    let by_age = family
        .ttl_micros
        .is_some_and(|ttl| i128::from(version) + i128::from(ttl) <= i128::from(now_micros));
    by_age || version <= family.expiry_floor
}

/// R11: the facts, by version and stamp, that no limit hides. `killed(version, stamp, hlc_max)`: a tombstone with an hlc
/// up to that kills the fact.
pub(crate) fn within(
    family: &FamilySettings,
    column: &Column,
    killed: impl Fn(i64, Stamp, u64) -> bool,
) -> BTreeSet<(i64, Stamp)> {
    let mut eras: Vec<(u64, Option<u32>)> = Vec::new();
    for past in &family.past_limits {
        eras.push((past.until, Some(past.max_versions).filter(|max| *max != NO_LIMIT)));
    }
    let now = eras.len();
    eras.push((u64::MAX, family.max_versions));

    let mut left: BTreeSet<(i64, Stamp)> = BTreeSet::new();
    for (era, (until, limit)) in eras.iter().enumerate() {
        for (version, facts) in column {
            for (stamp, _) in facts {
                // An era ends for good where an earlier one does not reach.
                let of_this_era = stamp.hlc <= *until && eras[..era].iter().all(|(earlier, _)| stamp.hlc > *earlier);
                let forgotten = limit.is_none() && era != now && killed(*version, *stamp, *until);
                if of_this_era && !forgotten {
                    left.insert((*version, *stamp));
                }
            }
        }
        if let Some(limit) = limit {
            let versions: BTreeSet<i64> = left.iter().map(|(version, _)| *version).collect();
            let greatest: Vec<i64> = versions.into_iter().rev().take(*limit as usize).collect();
            left.retain(|(version, _)| greatest.contains(version));
        }
    }
    left
}
