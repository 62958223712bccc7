//! The stamp: what decides which of two writes wins (R2). Given once, by the tablet's leader when it proposes, and
//! never changed by anything afterwards.
//!
//! ```text
//! stamp (16 bytes, big endian, so that bytes order as stamps do)
//! +-----------+-------------------------------+--------------+---------------+
//! | epoch u32 | hlc u64 = ms << 16 | logical  | region u16   | reserved u16  |
//! +-----------+-------------------------------+--------------+---------------+
//! ```
//! In storage the two reserved bytes are not written: 14 bytes.

use crate::ids::RegionId;
use std::fmt;

/// `(epoch, hlc, region)`, compared left to right. The derived `Ord` is the one order that reads, compaction,
/// replication and repair use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// 0 for active-active tables, the writer's epoch for single-writer tables (R20).
    pub epoch: u32,
    /// Hybrid logical clock: milliseconds since the Unix epoch in the upper 48 bits, a logical count in the lower 16.
    pub hlc: u64,
    /// The region whose leader gave the stamp.
    pub region: RegionId,
}

/// Bytes of an encoded stamp.
pub const STAMP_BYTES: usize = 14;

impl Stamp {
    /// Below every stamp that is ever given.
    pub const MIN: Stamp = Stamp {
        epoch: 0,
        hlc: 0,
        region: RegionId(0),
    };
    /// Above every stamp that is ever given.
    pub const MAX: Stamp = Stamp {
        epoch: u32::MAX,
        hlc: u64::MAX,
        region: RegionId(u16::MAX),
    };

    /// The order-preserving encoding.
    pub fn encode(self) -> [u8; STAMP_BYTES] {
        let mut out = [0; STAMP_BYTES];
        out[..4].copy_from_slice(&self.epoch.to_be_bytes());
        out[4..12].copy_from_slice(&self.hlc.to_be_bytes());
        out[12..].copy_from_slice(&self.region.0.to_be_bytes());
        out
    }

    /// The inverse of [`Stamp::encode`]; every 14 bytes are a stamp.
    pub fn decode(bytes: &[u8; STAMP_BYTES]) -> Stamp {
        let [a, b, c, d, h0, h1, h2, h3, h4, h5, h6, h7, r0, r1] = *bytes;
        Stamp {
            epoch: u32::from_be_bytes([a, b, c, d]),
            hlc: u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]),
            region: RegionId(u16::from_be_bytes([r0, r1])),
        }
    }

    /// The physical part, in milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.hlc >> 16
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}.{}@{}",
            self.epoch,
            self.hlc >> 16,
            self.hlc & 0xffff,
            self.region
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        (any::<u32>(), any::<u64>(), any::<u16>()).prop_map(|(epoch, hlc, r)| Stamp {
            epoch,
            hlc,
            region: RegionId(r),
        })
    }

    #[test]
    fn golden() {
        let stamp = Stamp {
            epoch: 1,
            hlc: (2 << 16) | 3,
            region: RegionId(4),
        };
        assert_eq!(stamp.encode(), [0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 3, 0, 4]);
    }

    proptest! {
        #[test]
        fn bytes_order_as_stamps(a in any_stamp(), b in any_stamp()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
            prop_assert_eq!(Stamp::decode(&a.encode()), a);
        }
    }
}
