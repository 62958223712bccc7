//! What waits in the quarantine of a table's tablets: shown, and given up at an operator's word.
//!
//! ```text
//! list     every tablet of the table, in order of rows: this node's replica, else the leader's or another one's
//! discard  every tablet that is named (without names: every tablet), at its leader, one log entry each
//! ```
//! Discarding is not atomic over tablets. It may be repeated: what has gone is not there any more.

use crate::call::Call;
use crate::context::{ServiceContext, TableView};
use crate::errors::Failure;
use crate::forward::leader_of;
use bytes::Bytes;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, NodeId, RegionId, Result, TabletId};
use tidemark_proto::{internal as wire, v1};
use tidemark_tablet::{Discarded, QuarantineEntry, QuarantinePage, StreamId};

/// Entries of one answer.
const ENTRIES_MAX: usize = 1_000;
/// The same where the request does not say.
const ENTRIES_DEFAULT: usize = 100;
/// Tablets that are asked at one time.
const TABLETS_AT_ONCE: usize = 8;
/// Between two searches for a tablet's leader.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a leader is searched for: 3 s, some elections.
const SEARCHES_MAX: u32 = 30;

/// A tablet with its replicas.
type Place = (TabletId, Vec<NodeId>);

/// Shows what waits.
pub async fn list(
    context: &ServiceContext,
    message: v1::ListQuarantineRequest,
) -> std::result::Result<v1::ListQuarantineResponse, Failure> {
    let limit = match message.limit as usize {
        0 => ENTRIES_DEFAULT,
        limit if limit <= ENTRIES_MAX => limit,
        limit => {
            let say = format!("{limit} entries are asked for; at most {ENTRIES_MAX} at a time");
            return Err(Error::invalid("LIMIT_TOO_LARGE", say).into());
        }
    };
    let (tablets, peers) = table_of(context, &message.table, &message.peer).await?;
    let region = (!message.peer.is_empty())
        .then(|| peers.keys().next().copied())
        .flatten();
    let mut response = v1::ListQuarantineResponse::default();
    for some in tablets.chunks(TABLETS_AT_ONCE) {
        let pages = join_all(some.iter().map(|place| page(context, place, region, limit))).await;
        for ((tablet, _), page) in some.iter().zip(pages) {
            let page = page?;
            response.more |= page.more;
            let known = page.entries.iter().filter_map(|entry| {
                let peer = peers.get(&entry.stream.region)?;
                Some(shown(context, &message.table, peer, *tablet, entry))
            });
            response.entries.extend(known);
        }
        if response.entries.len() > limit {
            break;
        }
    }
    response.more |= response.entries.len() > limit;
    response.entries.truncate(limit);
    Ok(response)
}

/// Gives up what is named, or all of the peer's.
pub async fn discard(
    context: &ServiceContext,
    call: &Call,
    message: v1::DiscardQuarantineRequest,
) -> std::result::Result<v1::DiscardQuarantineResponse, Failure> {
    let (table, peer) = (&message.table, &message.peer);
    if !message.accept_loss {
        let say = "discarded rows are lost to this region: the peer does not send them again";
        return Err(Error::new(ErrorKind::FailedPrecondition, "LOSS_NOT_ACCEPTED", say)
            .object(format!("table {table}"))
            .action("look first: tidemark replication quarantine list; then repeat with --accept-loss")
            .into());
    }
    if peer.is_empty() {
        return Err(Error::invalid("PEER_MISSING", "the request does not say whose rows").into());
    }
    if message.ids.len() > ENTRIES_MAX {
        let say = format!(
            "{} entries are named; at most {ENTRIES_MAX} at a time",
            message.ids.len()
        );
        return Err(Error::invalid("ENTRIES_TOO_MANY", say).into());
    }
    let (tablets, peers) = table_of(context, table, peer).await?;
    let region = *peers.keys().next().ok_or_else(|| not_linked(table, peer))?;
    let named = places_by_tablet(&message.ids, region)?;
    if let Some(stranger) = named.keys().find(|id| tablets.iter().all(|(tablet, _)| tablet != *id)) {
        let say = format!("{stranger} does not belong to table {table}");
        return Err(Error::invalid("ENTRY_INVALID", say)
            .action("take the ids from the list")
            .into());
    }
    let mut total = Discarded::default();
    for place in tablets
        .iter()
        .filter(|(tablet, _)| named.is_empty() || named.contains_key(tablet))
    {
        let places = named.get(&place.0).map_or(&[][..], Vec::as_slice);
        match discard_at_leader(context, call, place, region, places).await {
            Ok(done) => {
                total.entries += done.entries;
                total.rows += done.rows;
                total.bytes += done.bytes;
                if done.entries > 0 {
                    tracing::warn!(%table, %peer, tablet = %place.0, entries = done.entries, rows = done.rows,
                        bytes = done.bytes, "rows in quarantine were given up at an operator's word: they are lost here");
                }
            }
            Err(error) => return Err(partly(error, total).into()),
        }
    }
    Ok(v1::DiscardQuarantineResponse {
        entries: total.entries,
        rows: total.rows,
        bytes: total.bytes,
    })
}

/// A table's tablets, and its peers by region: all, or the one that is named.
async fn table_of(
    context: &ServiceContext,
    table: &str,
    peer: &str,
) -> std::result::Result<(Vec<Place>, BTreeMap<RegionId, String>), Failure> {
    let find = |view: &TableView| {
        let record = view.view.table_or_error(table)?;
        let links = record.links.iter().filter(|(name, _)| peer.is_empty() || *name == peer);
        let peers: BTreeMap<RegionId, String> = links.map(|(name, link)| (link.peer, name.clone())).collect();
        if peers.is_empty() {
            return Err(not_linked(table, peer).into());
        }
        let tablets = view.view.tablets_of(view.id);
        Ok((tablets.map(|t| (t.id, t.replicas.clone())).collect(), peers))
    };
    context.with_table(table, find).await
}

fn not_linked(table: &str, peer: &str) -> Error {
    let with = if peer.is_empty() {
        String::new()
    } else {
        format!(" with {peer}")
    };
    Error::new(
        ErrorKind::FailedPrecondition,
        "NOT_REPLICATED",
        format!("table {table} is not replicated{with}"),
    )
    .object(format!("table {table}"))
    .action("see what is: tidemark replication status")
}

/// One tablet's page, from whichever replica answers first: the one here, the leader's, any.
async fn page(
    context: &ServiceContext,
    (tablet, replicas): &Place,
    region: Option<RegionId>,
    limit: usize,
) -> Result<QuarantinePage> {
    if let Some(here) = context.tablets.get(*tablet) {
        return here.quarantine(region, limit).await;
    }
    let leader = leader_of(context, *tablet);
    let mut last = Error::unavailable("NO_REPLICA", format!("no replica of {tablet} is known here"), PAUSE);
    for node in leader
        .into_iter()
        .chain(replicas.iter().copied().filter(|node| Some(*node) != leader))
    {
        match context.peers.quarantine(node, *tablet, region, limit).await {
            Ok(page) => return Ok(page),
            Err(error) => last = error,
        }
    }
    Err(last.object(tablet.to_string()))
}

/// Proposes it at the leader, wherever that is by now. What may have been done is not tried again: what arrived meanwhile
/// would go too.
async fn discard_at_leader(
    context: &ServiceContext,
    call: &Call,
    (tablet, _): &Place,
    region: RegionId,
    places: &[(StreamId, u64)],
) -> Result<Discarded> {
    let mut searches_left = SEARCHES_MAX;
    loop {
        let tried = match leader_of(context, *tablet) {
            Some(node) if node == context.identity.node => match context.tablets.get(*tablet) {
                Some(here) => here.discard_quarantine(region, places).await,
                None => Err(no_leader(*tablet)),
            },
            Some(node) => context.peers.discard_quarantine(node, *tablet, region, places).await,
            None => Err(no_leader(*tablet)),
        };
        let error = match tried {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let elsewhere = matches!(error.kind(), ErrorKind::NotLeader | ErrorKind::Unavailable);
        if !elsewhere || searches_left == 0 || call.left() < 2 * PAUSE {
            return Err(error);
        }
        searches_left -= 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn no_leader(tablet: TabletId) -> Error {
    Error::unavailable("NO_LEADER", format!("{tablet} has no leader right now"), PAUSE).object(tablet.to_string())
}

/// The error of a discard that ended half-way: what is gone is gone.
fn partly(error: Error, done: Discarded) -> Error {
    if done.entries == 0 {
        return error;
    }
    let say = format!(
        "{} entries with {} rows were discarded; the rest was not, or may not have been: {error}",
        done.entries, done.rows
    );
    Error::new(ErrorKind::UnknownOutcome, "PARTLY_DONE", say)
        .object(error.object_name())
        .action("look what is left: tidemark replication quarantine list; then repeat it")
}

fn shown(
    context: &ServiceContext,
    table: &str,
    peer: &str,
    tablet: TabletId,
    entry: &QuarantineEntry,
) -> v1::QuarantineEntry {
    let id = id_of(tablet, entry.stream, entry.seq);
    let oldest_ms = entry.oldest_hlc >> 16;
    let without = format!("tidemark replication quarantine discard {table} --peer {peer} --entry {id} --accept-loss");
    let action = match entry.unreadable {
        true => format!("it can never be applied; the log of {peer} names the damage. To go on without it: {without}"),
        false => format!(
            "create that family here: tidemark table alter {table} --add-family NAME; then the rows apply by themselves. \
             To go on without them: {without}"
        ),
    };
    v1::QuarantineEntry {
        peer: peer.to_owned(),
        tablet: tablet.0,
        cause: entry.cause.clone(),
        action,
        oldest_micros: i64::try_from(oldest_ms.saturating_mul(1_000)).unwrap_or(i64::MAX),
        // A record that does not decode and came before anything else of its stream could be of any age.
        age_ms: match oldest_ms {
            0 => 0,
            ms => context.clock.now_ms().saturating_sub(ms),
        },
        rows: entry.rows,
        bytes: entry.bytes,
        sample_rows: entry.sample_rows.clone(),
        id,
    }
}

/// `tablet here:region:tablet there:record`.
fn id_of(tablet: TabletId, stream: StreamId, seq: u64) -> String {
    format!("{}:{}:{}:{seq}", tablet.0, stream.region.0, stream.tablet)
}

fn parse_id(id: &str) -> Option<(TabletId, StreamId, u64)> {
    let mut parts = id.splitn(4, ':');
    let tablet = TabletId(parts.next()?.parse().ok()?);
    let stream = StreamId {
        region: RegionId(parts.next()?.parse().ok()?),
        tablet: parts.next()?.parse().ok()?,
    };
    Some((tablet, stream, parts.next()?.parse().ok()?))
}

fn places_by_tablet(ids: &[String], region: RegionId) -> Result<BTreeMap<TabletId, Vec<(StreamId, u64)>>> {
    let mut places: BTreeMap<TabletId, Vec<(StreamId, u64)>> = BTreeMap::new();
    for id in ids {
        let Some((tablet, stream, seq)) = parse_id(id).filter(|(_, stream, _)| stream.region == region) else {
            let shown: String = id.chars().take(64).collect();
            let say = format!("{shown:?} is not an entry of that peer");
            return Err(Error::invalid("ENTRY_INVALID", say).action("take the ids from the list"));
        };
        places.entry(tablet).or_default().push((stream, seq));
    }
    Ok(places)
}

/// A page, for another node of this region.
pub(crate) fn wire_page(page: QuarantinePage) -> wire::QuarantineResponse {
    let record = |entry: QuarantineEntry| wire::WaitingRecord {
        place: Some(wire_place(entry.stream, entry.seq)),
        rows: entry.rows,
        oldest_hlc: entry.oldest_hlc,
        unreadable: entry.unreadable,
        cause: entry.cause,
        bytes: entry.bytes,
        sample_rows: entry.sample_rows,
    };
    wire::QuarantineResponse {
        records: page.entries.into_iter().map(record).collect(),
        more: page.more,
    }
}

/// The inverse of [`wire_page`].
pub(crate) fn page_from(response: wire::QuarantineResponse) -> Result<QuarantinePage> {
    let entry = |record: wire::WaitingRecord| {
        let (stream, seq) = place_from(record.place.unwrap_or_default())?;
        Ok(QuarantineEntry {
            stream,
            seq,
            rows: record.rows,
            oldest_hlc: record.oldest_hlc,
            unreadable: record.unreadable,
            cause: record.cause,
            bytes: record.bytes,
            sample_rows: record.sample_rows.into_iter().collect::<Vec<Bytes>>(),
        })
    };
    Ok(QuarantinePage {
        entries: response.records.into_iter().map(entry).collect::<Result<_>>()?,
        more: response.more,
    })
}

/// Where a record comes from, for the wire between nodes.
pub(crate) fn wire_place(stream: StreamId, seq: u64) -> wire::RecordPlace {
    wire::RecordPlace {
        region: u32::from(stream.region.0),
        tablet: stream.tablet,
        seq,
    }
}

/// The inverse of [`wire_place`].
pub(crate) fn place_from(place: wire::RecordPlace) -> Result<(StreamId, u64)> {
    let region = crate::convert::region_id(place.region)?;
    let tablet = place.tablet;
    Ok((StreamId { region, tablet }, place.seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_entry_and_nothing_else() {
        let stream = StreamId {
            region: RegionId(2),
            tablet: 9,
        };
        let id = id_of(TabletId(5), stream, 258);
        assert_eq!(id, "5:2:9:258");
        assert_eq!(parse_id(&id), Some((TabletId(5), stream, 258)));
        for bad in ["", "5:2:9", "5:2:9:258:1", "5:70000:9:1", "a:2:9:1", "5:2:9:-1"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
        let other = places_by_tablet(&[id], RegionId(3)).unwrap_err();
        assert_eq!(other.reason(), "ENTRY_INVALID", "an entry of another peer");
    }

    #[test]
    fn pages_come_back_as_they_went() {
        let stream = StreamId {
            region: RegionId(2),
            tablet: 9,
        };
        let page = QuarantinePage {
            entries: vec![QuarantineEntry {
                stream,
                seq: 7,
                rows: 3,
                oldest_hlc: 5 << 16,
                unreadable: false,
                cause: "FAMILY_UNKNOWN".to_owned(),
                bytes: 99,
                sample_rows: vec![Bytes::from_static(b"r")],
            }],
            more: true,
        };
        assert_eq!(page_from(wire_page(page.clone())).unwrap(), page);
    }
}
