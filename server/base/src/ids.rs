//! Identifiers. Each is its own type, so that a node is never passed where a group is meant.
//!
//! All ids are assigned once and never reused; zero is never assigned and means "none" on a wire that has no options.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A table server process within one region's cluster.
    NodeId(u64),
    "n"
);
id!(
    /// A Raft group within one region's cluster. A tablet's group has the tablet's number; see [`GroupId::CATALOG`].
    GroupId(u64),
    "g"
);
id!(
    /// A tablet (one key range of one table) within one region's cluster.
    TabletId(u64),
    "tablet-"
);
id!(
    /// A table within one region's cluster. The same table in a peer region has another id; names pair them.
    TableId(u64),
    "table-"
);
id!(
    /// A region: geography, nothing else. It is part of every stamp, so it stays small and is never reused.
    RegionId(u16),
    "r"
);
id!(
    /// A column family. Derived from the family's name and generation (see [`FamilyId::derive`]), so that two regions
    /// that create the same family agree on its id without talking to each other, and a dropped and re-created
    /// family is a new one.
    FamilyId(u32),
    "f"
);

impl GroupId {
    /// The group that holds the catalog. Tablets are numbered from 2 on, and a tablet's group has the tablet's number.
    pub const CATALOG: GroupId = GroupId(1);
}

impl TabletId {
    /// The Raft group that replicates this tablet.
    pub fn group(self) -> GroupId {
        GroupId(self.0)
    }
}

impl FamilyId {
    /// The id of the `generation`-th family of that name in a table (0 for the first, one more after each drop).
    ///
    /// 32 bits of XXH3 over `name 0x00 generation_le`. The top bit is always set, so that 0, the row level in keys,
    /// is never a family. Two names of one table that collide are refused at creation: 64 families collide with a
    /// probability of about one in a million.
    pub fn derive(name: &str, generation: u32) -> FamilyId {
        let mut bytes = Vec::with_capacity(name.len() + 5);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&generation.to_le_bytes());
        FamilyId(xxhash_rust::xxh3::xxh3_64(&bytes) as u32 | 0x8000_0000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_family_is_another_one() {
        assert_ne!(FamilyId::derive("m", 0), FamilyId::derive("m", 1));
        assert_eq!(FamilyId::derive("m", 0), FamilyId::derive("m", 0));
    }
}
