//! Tables, families, nodes and peers.

use super::at_most;
use tidemark_base::limits::SERIES_BLOCK_MICROS_DEFAULT;
use tidemark_base::names::check_name;
use tidemark_base::schema::{Compression, Layout};
use tidemark_base::{Error, FamilySettings, RegionId, Result, limits};
use tidemark_catalog::{CatalogView, FamilySpec, NodeRecord, PeerRecord, TableRecord};
use tidemark_proto::v1;

/// Addresses of one peer region. A region has a handful of nodes; a client needs only some of them.
const PEER_ADDRESSES_MAX: usize = 64;
/// A host name has at most 253 bytes, a port five digits.
const ADDRESS_BYTES_MAX: usize = 260;

/// A table as it is answered.
pub fn table(record: &TableRecord, view: &CatalogView) -> v1::Table {
    v1::Table {
        name: record.name.clone(),
        families: record.families.iter().map(|f| wire_family(&f.settings)).collect(),
        max_future_ms: u64::try_from(record.max_future_micros / 1_000).unwrap_or(0),
        id: record.id.0,
        revision: record.revision,
        tablets: u32::try_from(view.tablets_of(record.id).count()).unwrap_or(u32::MAX),
        peers: record.links.keys().cloned().collect(),
    }
}

/// A family as it is answered. Its TTL is rounded down to milliseconds.
pub fn wire_family(family: &FamilySettings) -> v1::Family {
    let compression = match family.compression {
        Compression::None => v1::Compression::None,
        Compression::Lz4 => v1::Compression::Lz4,
        Compression::Zstd => v1::Compression::Zstd,
    };
    let layout = match family.layout {
        Layout::Cells => v1::Layout::Cells,
        Layout::Series { .. } => v1::Layout::Series,
    };
    v1::Family {
        name: family.name.clone(),
        ttl_ms: family.ttl_micros.map(|ttl| u64::try_from(ttl / 1_000).unwrap_or(0)),
        max_versions: family.max_versions,
        compression: compression as i32,
        id: family.id.0,
        layout: layout as i32,
        block_ms: family
            .layout
            .block_micros()
            .map(|block| u64::try_from(block / 1_000).unwrap_or(0)),
    }
}

/// A family as it is asked for. The catalog checks the bounds of its settings.
pub fn family_spec(family: &v1::Family) -> Result<FamilySpec> {
    check_name("family", &family.name)?;
    let ttl_micros = match family.ttl_ms {
        None => None,
        Some(ms) => {
            let micros = ms.checked_mul(1_000).and_then(|micros| i64::try_from(micros).ok());
            Some(micros.ok_or_else(|| Error::invalid("TTL_INVALID", format!("a ttl of {ms} ms is too long")))?)
        }
    };
    let compression = v1::Compression::try_from(family.compression).map_err(|_| {
        Error::invalid(
            "COMPRESSION_UNKNOWN",
            format!("compression {} is not known", family.compression),
        )
        .action("use none, lz4 or zstd")
    })?;
    Ok(FamilySpec {
        name: family.name.clone(),
        ttl_micros,
        max_versions: family.max_versions,
        compression: match compression {
            v1::Compression::None => Compression::None,
            v1::Compression::Lz4 => Compression::Lz4,
            v1::Compression::Zstd => Compression::Zstd,
        },
        layout: layout(family)?,
    })
}

/// The layout that is asked for; none = what the family has, or cells.
fn layout(family: &v1::Family) -> Result<Option<Layout>> {
    let unknown = || {
        Error::invalid("LAYOUT_UNKNOWN", format!("layout {} is not known", family.layout))
            .object(format!("family {}", family.name))
            .action("use cells or series; only series has a time block")
    };
    let block_micros = match family.block_ms {
        None => SERIES_BLOCK_MICROS_DEFAULT,
        // The catalog refuses what is too long.
        Some(ms) => i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX),
    };
    match v1::Layout::try_from(family.layout).map_err(|_| unknown())? {
        v1::Layout::Series => Ok(Some(Layout::Series { block_micros })),
        _ if family.block_ms.is_some() => Err(unknown()),
        v1::Layout::Cells => Ok(Some(Layout::Cells)),
        v1::Layout::Unspecified => Ok(None),
    }
}

/// Several families, at most as many as a table may have.
pub fn family_specs(families: &[v1::Family]) -> Result<Vec<FamilySpec>> {
    at_most(
        "FAMILIES_TOO_MANY",
        "list of families",
        families.len(),
        limits::FAMILIES_MAX,
    )?;
    families.iter().map(family_spec).collect()
}

/// How far ahead a version may be, from milliseconds.
pub fn max_future_micros(ms: u64) -> Result<i64> {
    let micros = ms.checked_mul(1_000).and_then(|micros| i64::try_from(micros).ok());
    micros.ok_or_else(|| Error::invalid("MAX_FUTURE_INVALID", format!("max_future of {ms} ms is too long")))
}

/// The number of a compression between regions; it never changes meaning.
pub fn compression_code(compression: Compression) -> u32 {
    match compression {
        Compression::None => 0,
        Compression::Lz4 => 1,
        Compression::Zstd => 2,
    }
}

/// The inverse of [`compression_code`].
pub fn compression_from_code(code: u32) -> Result<Compression> {
    match code {
        0 => Ok(Compression::None),
        1 => Ok(Compression::Lz4),
        2 => Ok(Compression::Zstd),
        _ => Err(Error::invalid(
            "COMPRESSION_UNKNOWN",
            format!("compression {code} is not known here: upgrade this region first"),
        )),
    }
}

/// A node as it is answered.
pub fn node(record: &NodeRecord) -> v1::Node {
    v1::Node {
        id: record.id.0,
        address: record.address.clone(),
        zone: record.zone.clone(),
    }
}

/// A peer region as it is answered.
pub fn peer(record: &PeerRecord) -> v1::Peer {
    v1::Peer {
        name: record.name.clone(),
        region: u32::from(record.region.0),
        addresses: record.addresses.clone(),
    }
}

/// A peer region as it is asked for. Number 0 stays: the caller has not given it, and the peer is to be asked.
pub fn peer_record(peer: Option<&v1::Peer>) -> Result<PeerRecord> {
    let peer = peer.ok_or_else(|| Error::invalid("PEER_INVALID", "the request names no peer"))?;
    check_name("peer", &peer.name)?;
    at_most(
        "PEER_INVALID",
        "list of addresses",
        peer.addresses.len(),
        PEER_ADDRESSES_MAX,
    )?;
    if peer.addresses.is_empty() {
        return Err(
            Error::invalid("PEER_INVALID", "a peer has at least one address").action("give --addresses HOST:PORT")
        );
    }
    peer.addresses.iter().try_for_each(|address| check_address(address))?;
    Ok(PeerRecord {
        name: peer.name.clone(),
        region: match peer.region {
            0 => RegionId(0),
            number => region_id(number)?,
        },
        addresses: peer.addresses.clone(),
    })
}

/// A region's number: 1 to 65,535.
pub fn region_id(number: u32) -> Result<RegionId> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(RegionId(number)),
        _ => Err(
            Error::invalid("REGION_INVALID", format!("{number} is not a region's number"))
                .action("region numbers are 1 to 65535"),
        ),
    }
}

fn check_address(address: &str) -> Result<()> {
    at_most("ADDRESS_INVALID", "address", address.len(), ADDRESS_BYTES_MAX)?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '@' | '?' | '#');
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(port)) if port != 0 && address.chars().all(legal) => Ok(()),
        _ => Err(Error::invalid("ADDRESS_INVALID", format!("{address:?} is not an address")).action("use HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_there_and_back() {
        let wire = v1::Family {
            name: "m".into(),
            ttl_ms: Some(1_500),
            max_versions: Some(3),
            compression: v1::Compression::Zstd as i32,
            id: 0,
            layout: v1::Layout::Series as i32,
            block_ms: Some(60_000),
        };
        let spec = family_spec(&wire).unwrap();
        let mut settings = FamilySettings::new(&spec.name, 0);
        settings.ttl_micros = spec.ttl_micros;
        settings.max_versions = spec.max_versions;
        settings.compression = spec.compression;
        settings.layout = spec.layout.unwrap();
        assert_eq!(settings.ttl_micros, Some(1_500_000));
        let id = settings.id.0;
        assert_eq!(wire_family(&settings), v1::Family { id, ..wire });
    }

    #[test]
    fn bad_families_are_refused() {
        let with = |change: fn(&mut v1::Family)| {
            let mut family = v1::Family {
                name: "m".into(),
                ..v1::Family::default()
            };
            change(&mut family);
            family_spec(&family).unwrap_err().reason().to_owned()
        };
        assert_eq!(with(|f| f.name = "1".into()), "NAME_INVALID");
        assert_eq!(with(|f| f.ttl_ms = Some(u64::MAX)), "TTL_INVALID");
        assert_eq!(with(|f| f.compression = 9), "COMPRESSION_UNKNOWN");
        assert_eq!(with(|f| f.layout = 9), "LAYOUT_UNKNOWN");
        assert_eq!(with(|f| f.block_ms = Some(60_000)), "LAYOUT_UNKNOWN");
        let many = vec![v1::Family::default(); limits::FAMILIES_MAX + 1];
        assert_eq!(family_specs(&many).unwrap_err().reason(), "FAMILIES_TOO_MANY");
    }

    #[test]
    fn peers() {
        let peer = |region, address: &str| v1::Peer {
            name: "west".into(),
            region,
            addresses: vec![address.into()],
        };
        for good in ["127.0.0.1:7401", "[::1]:9", "db.example:65535"] {
            assert!(peer_record(Some(&peer(2, good))).is_ok(), "{good}");
        }
        for bad in ["", ":1", "host", "host:0", "host:x", "http://host:1", "h h:1"] {
            assert!(peer_record(Some(&peer(2, bad))).is_err(), "{bad}");
        }
        assert_eq!(peer_record(Some(&peer(0, "h:1"))).unwrap().region, RegionId(0));
        assert!(peer_record(Some(&peer(65_536, "h:1"))).is_err());
        assert!(peer_record(None).is_err());
    }

    #[test]
    fn compressions_have_numbers() {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            assert_eq!(
                compression_from_code(compression_code(compression)).unwrap(),
                compression
            );
        }
        assert!(compression_from_code(3).is_err());
    }
}
