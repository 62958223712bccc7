//! What regions say to each other.

use super::table::{compression_code, compression_from_code, region_id};
use super::{at_most, row_range};
use tidemark_base::schema::Layout;
use tidemark_base::{Error, FamilyId, Result, TableId, TabletId, limits};
use tidemark_proto::{region as wire, v1};
use tidemark_replication::{
    PeerFamily, PeerIdentity, PrepareTable, Prepared, RegionIdentity, ReleaseTable, Ship, ShipCodec, Shipped,
};

/// A region on the wire.
pub fn wire_region(region: &RegionIdentity) -> wire::RegionId {
    wire::RegionId {
        name: region.name.clone(),
        number: u32::from(region.region.0),
    }
}

/// A region from the wire.
pub fn region(region: Option<wire::RegionId>) -> Result<RegionIdentity> {
    let region =
        region.ok_or_else(|| Error::invalid("REGION_INVALID", "the message does not say which region it is from"))?;
    Ok(RegionIdentity {
        region: region_id(region.number)?,
        name: region.name,
    })
}

/// Who the asked region is.
pub fn wire_identity(identity: PeerIdentity) -> wire::IdentifyResponse {
    wire::IdentifyResponse {
        region: Some(wire_region(&identity.region)),
        version: identity.version,
        knows_asker: identity.knows_asker,
    }
}

/// The inverse of [`wire_identity`].
pub fn identity(response: wire::IdentifyResponse) -> Result<PeerIdentity> {
    Ok(PeerIdentity {
        region: region(response.region)?,
        version: response.version,
        knows_asker: response.knows_asker,
    })
}

fn wire_family(family: &PeerFamily) -> wire::FamilySpec {
    wire::FamilySpec {
        name: family.name.clone(),
        id: family.id.0,
        generation: family.generation,
        ttl_micros: family.ttl_micros,
        max_versions: family.max_versions,
        compression: compression_code(family.compression),
        block_micros: family.layout.block_micros(),
    }
}

fn families(families: Vec<wire::FamilySpec>) -> Result<Vec<PeerFamily>> {
    at_most(
        "FAMILIES_TOO_MANY",
        "list of families",
        families.len(),
        limits::FAMILIES_MAX,
    )?;
    let family = |family: wire::FamilySpec| {
        Ok(PeerFamily {
            id: FamilyId(family.id),
            generation: family.generation,
            ttl_micros: family.ttl_micros,
            max_versions: family.max_versions,
            compression: compression_from_code(family.compression)?,
            layout: match family.block_micros {
                // The catalog refuses what is no length.
                Some(block_micros) => Layout::Series { block_micros },
                None => Layout::Cells,
            },
            name: family.name,
        })
    };
    families.into_iter().map(family).collect()
}

/// A request to prepare a table, on the wire.
pub fn wire_prepare(request: &PrepareTable) -> wire::PrepareTableRequest {
    wire::PrepareTableRequest {
        from: Some(wire_region(&request.from)),
        table: request.table.clone(),
        table_id: request.table_id.0,
        families: request.families.iter().map(wire_family).collect(),
        split_at: request.split_at.clone(),
        max_future_micros: request.max_future_micros,
        dry_run: request.dry_run,
    }
}

/// The inverse of [`wire_prepare`].
pub fn prepare(request: wire::PrepareTableRequest) -> Result<PrepareTable> {
    at_most(
        "TABLETS_TOO_MANY",
        "list of split keys",
        request.split_at.len(),
        limits::TABLETS_AT_CREATE_MAX,
    )?;
    Ok(PrepareTable {
        from: region(request.from)?,
        table: request.table,
        table_id: TableId(request.table_id),
        families: families(request.families)?,
        split_at: request.split_at,
        max_future_micros: request.max_future_micros,
        dry_run: request.dry_run,
    })
}

/// What preparing did, on the wire.
pub fn wire_prepared(prepared: Prepared) -> wire::PrepareTableResponse {
    wire::PrepareTableResponse {
        created: prepared.created,
        families_added: prepared.families_added,
        families_missing: prepared.families_missing.iter().map(wire_family).collect(),
        table_id: prepared.table_id.map(|table| table.0),
    }
}

/// The inverse of [`wire_prepared`].
pub fn prepared(response: wire::PrepareTableResponse) -> Result<Prepared> {
    Ok(Prepared {
        created: response.created,
        families_added: response.families_added,
        families_missing: families(response.families_missing)?,
        table_id: response.table_id.map(TableId),
    })
}

/// A request to release a table, on the wire.
pub fn wire_release(request: &ReleaseTable) -> wire::ReleaseTableRequest {
    wire::ReleaseTableRequest {
        from: Some(wire_region(&request.from)),
        table: request.table.clone(),
    }
}

/// The inverse of [`wire_release`].
pub fn release(request: wire::ReleaseTableRequest) -> Result<ReleaseTable> {
    Ok(ReleaseTable {
        from: region(request.from)?,
        table: request.table,
    })
}

/// A run of feed records, on the wire.
pub fn wire_ship(ship: Ship) -> wire::ShipRequest {
    wire::ShipRequest {
        from: Some(wire_region(&ship.from)),
        table: ship.table,
        tablet: ship.tablet.0,
        range_start: ship.range.start,
        range_end: ship.range.end,
        first_seq: ship.first_seq,
        last_seq: ship.last_seq,
        codec: ship.codec.code(),
        records: ship.records,
        records_bytes: ship.records_bytes,
        lag_ms: ship.lag_ms,
        lag_known: ship.lag_known,
        from_table: ship.from_table.0,
        to_table: ship.to_table.0,
    }
}

/// The inverse of [`wire_ship`]. What is inside the records is the receiver's to check.
pub fn ship(request: wire::ShipRequest) -> Result<Ship> {
    let codec = ShipCodec::from_code(request.codec).ok_or_else(|| {
        Error::invalid("CODEC_UNKNOWN", format!("feed records with codec {}", request.codec))
            .action("upgrade this region before the one that ships to it")
    })?;
    let range = row_range(&v1::RowRange {
        start: request.range_start,
        end: request.range_end,
    })?;
    Ok(Ship {
        from: region(request.from)?,
        table: request.table,
        tablet: TabletId(request.tablet),
        range,
        first_seq: request.first_seq,
        last_seq: request.last_seq,
        codec,
        records: request.records,
        records_bytes: request.records_bytes,
        lag_ms: request.lag_ms,
        lag_known: request.lag_known,
        from_table: TableId(request.from_table),
        to_table: TableId(request.to_table),
    })
}

/// The answer to a run, on the wire.
pub fn wire_shipped(shipped: Shipped) -> wire::ShipResponse {
    wire::ShipResponse {
        applied_seq: shipped.applied_seq,
        rows_quarantined: shipped.rows_quarantined,
        clock_quarantine: shipped.clock_quarantine,
        cause: shipped.cause,
        complete_hlc: shipped.complete_hlc,
    }
}

/// The inverse of [`wire_shipped`].
pub fn shipped(response: wire::ShipResponse) -> Shipped {
    Shipped {
        applied_seq: response.applied_seq,
        rows_quarantined: response.rows_quarantined,
        complete_hlc: response.complete_hlc,
        clock_quarantine: response.clock_quarantine,
        cause: response.cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::schema::Compression;
    use tidemark_base::{RegionId, RowRange};

    fn east() -> RegionIdentity {
        RegionIdentity {
            name: "east".into(),
            region: RegionId(1),
        }
    }

    fn family() -> PeerFamily {
        PeerFamily {
            name: "m".into(),
            id: FamilyId::derive("m", 2),
            generation: 2,
            ttl_micros: Some(5),
            max_versions: None,
            compression: Compression::Zstd,
            layout: Layout::Series { block_micros: 9 },
        }
    }

    #[test]
    fn requests_there_and_back() {
        let asked = PrepareTable {
            from: east(),
            table: "telemetry".into(),
            table_id: TableId(6),
            families: vec![family()],
            split_at: vec!["k".into()],
            max_future_micros: 9,
            dry_run: true,
        };
        assert_eq!(prepare(wire_prepare(&asked)).unwrap(), asked);
        let released = ReleaseTable {
            from: east(),
            table: "t".into(),
        };
        assert_eq!(release(wire_release(&released)).unwrap(), released);
        let run = Ship {
            from: east(),
            table: "t".into(),
            from_table: TableId(4),
            to_table: TableId(5),
            tablet: TabletId(7),
            range: RowRange {
                start: "a".into(),
                end: None,
            },
            first_seq: 3,
            last_seq: 9,
            codec: ShipCodec::Zstd,
            records: "bytes".into(),
            records_bytes: 100,
            lag_ms: 12,
            lag_known: true,
        };
        assert_eq!(ship(wire_ship(run.clone())).unwrap(), run);
    }

    #[test]
    fn answers_there_and_back() {
        let who = PeerIdentity {
            region: east(),
            version: "1".into(),
            knows_asker: true,
        };
        assert_eq!(identity(wire_identity(who.clone())).unwrap(), who);
        let done = Prepared {
            created: true,
            families_added: vec!["m".into()],
            families_missing: vec![family()],
            table_id: Some(TableId(8)),
        };
        assert_eq!(prepared(wire_prepared(done.clone())).unwrap(), done);
        let answer = Shipped {
            applied_seq: 1,
            rows_quarantined: 2,
            complete_hlc: 3,
            clock_quarantine: true,
            cause: "c".into(),
        };
        assert_eq!(shipped(wire_shipped(answer.clone())), answer);
    }

    #[test]
    fn what_a_later_release_may_send_is_refused_in_words() {
        let unknown = wire::ShipRequest {
            codec: 9,
            ..wire::ShipRequest::default()
        };
        assert_eq!(ship(unknown).unwrap_err().reason(), "CODEC_UNKNOWN");
        assert_eq!(
            ship(wire::ShipRequest::default()).unwrap_err().reason(),
            "REGION_INVALID"
        );
    }
}
