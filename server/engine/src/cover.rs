//! Which versions a set of tombstones of one scope hides, and from which stamps.
//!
//! A column with thousands of deleted single versions must not cost a look at each of them for each cell: those are
//! found by their version; only tombstones over a real range of versions are looked through.

use std::collections::HashMap;
use tidemark_base::{Stamp, VersionRange};

/// The tombstones of one scope (a row, a family in it, a column in it).
#[derive(Debug, Default)]
pub(crate) struct Cover {
    singles: HashMap<i64, Vec<Stamp>>,
    wide: Vec<(VersionRange, Stamp)>,
}

impl Cover {
    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.wide.clear();
        if !self.singles.is_empty() {
            self.singles = HashMap::new();
        }
    }

    /// Adds a tombstone.
    pub(crate) fn add(&mut self, versions: VersionRange, stamp: Stamp) {
        if versions.from == versions.to {
            self.singles.entry(versions.from).or_default().push(stamp);
        } else {
            self.wide.push((versions, stamp));
        }
    }

    /// True if one of them, with `stamp.hlc <= hlc_max`, kills a cell of that version and stamp (R4).
    pub(crate) fn kills(&self, version: i64, stamp: Stamp, hlc_max: u64) -> bool {
        let newer = |tombstone: &Stamp| *tombstone > stamp && tombstone.hlc <= hlc_max;
        let wide = self
            .wide
            .iter()
            .any(|(versions, s)| versions.contains(version) && newer(s));
        wide || (!self.singles.is_empty()
            && self
                .singles
                .get(&version)
                .is_some_and(|stamps| stamps.iter().any(newer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::RegionId;

    #[test]
    fn singles_and_ranges() {
        let at = |hlc| Stamp {
            epoch: 0,
            hlc,
            region: RegionId(1),
        };
        let mut cover = Cover::default();
        cover.add(VersionRange::one(5), at(10));
        cover.add(VersionRange { from: 7, to: 8 }, at(20));
        assert!(
            cover.kills(5, at(9), u64::MAX) && !cover.kills(5, at(10), u64::MAX) && !cover.kills(6, at(9), u64::MAX)
        );
        assert!(cover.kills(8, at(19), 20) && !cover.kills(8, at(19), 19));
        cover.clear();
        assert!(!cover.kills(5, at(1), u64::MAX) && !cover.kills(7, at(1), u64::MAX));
    }
}
