//! Taking what a peer ships: check, unpack, cut by the tablets of this region, apply at each, answer.
//!
//! ```text
//! Ship -> registered peer? enabled link?
//!         between these two very tables?     FAILED_PRECONDITION otherwise (INV-42)
//!      -> room for it?                        BUSY with a delay otherwise
//!      -> decompress (bounded), decode, sums
//!      -> stamps within reach of our clock?   clock_quarantine otherwise, nothing taken (R8)
//!      -> cut (crate::cut) -> every tablet's leader, concurrently; a change of leaders is waited for
//!      -> all took it?                        the first error otherwise; a repeat skips what was taken (R16)
//! ```
//! A message is answered only when all its tablets committed their share, so its origin never forgets what one of them
//! lacks.

use crate::counters::Counters;
use crate::cut::{Run, cut, decode_records};
use crate::lag::millis;
use crate::link::{RegionIdentity, Ship, Shipped, TabletAccess};
use crate::report::HeardReport;
use crate::run::{damaged, decode_run, decompress};
use crate::settings::ReplicationSettings;
use crate::verbs::LINK_STALE;
use futures::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::limits::MAX_OFFSET_MS;
use tidemark_base::{Error, ErrorKind, RegionId, Result, RowRange, TableId, TabletId};
use tidemark_catalog::{Catalog, CatalogView, LinkRecord, LinkState, TableRecord};
use tidemark_runtime::{ByteBudget, Permit, SharedClock};
use tidemark_tablet::{RemoteBatch, RemoteOutcome, StreamId};

/// The least that a message counts against the budget, which thereby bounds their number too.
const SHIP_COST_BYTES_MIN: u64 = 64 << 10;
/// How long a message waits here for a tablet that is changing its leader. An election takes about a second; the origin
/// would need a whole turn over the WAN and a pause for each attempt, and its messages behind this one would stand still.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for the new leader.
const LEADER_LOOK: Duration = Duration::from_millis(50);
/// What an origin is told to wait when there is no room.
const BUSY_DELAY: Duration = Duration::from_millis(200);
/// Streams remembered per link at most: as many as a table has tablets at creation, twice.
const HEARD_MAX: usize = 2 * tidemark_base::limits::TABLETS_AT_CREATE_MAX;

struct Heard {
    range: RowRange,
    last_seq: u64,
    lag_ms: u64,
    lag_known: bool,
    at: Duration,
}

/// The table here, the peer, and which link between them: what was heard over an earlier link, or of an earlier table of the
/// same name, says nothing of this one.
type LinkKey = (TableId, String, u64);

/// See the module.
pub(crate) struct Receiver {
    catalog: Catalog,
    tablets: Arc<dyn TabletAccess>,
    clock: SharedClock,
    counters: Arc<Counters>,
    memory: ByteBudget,
    heard: Mutex<BTreeMap<LinkKey, BTreeMap<u64, Heard>>>,
}

impl Receiver {
    pub(crate) fn new(
        catalog: Catalog,
        tablets: Arc<dyn TabletAccess>,
        clock: SharedClock,
        counters: Arc<Counters>,
        settings: &ReplicationSettings,
    ) -> Receiver {
        Receiver {
            catalog,
            tablets,
            clock,
            counters,
            memory: ByteBudget::new(settings.receive_memory_bytes_max),
            heard: Mutex::default(),
        }
    }

    /// See the module.
    pub(crate) async fn on_ship(&self, ship: Ship) -> Result<Shipped> {
        let view = self.catalog.view();
        let (link, tablets) = admit(&view, &ship)?;
        let link_number = link.2;
        let _memory = self.reserve(&ship)?;
        self.hear(link, &ship);
        let run = unpack(&ship, link_number).await?;
        if let Some(cause) = self.clock_trouble(run.decoded.hlc_max) {
            return Ok(Shipped {
                clock_quarantine: true,
                cause,
                ..Shipped::default()
            });
        }
        let batches = cut(run, &tablets);
        let outcomes = join_all(batches.into_iter().map(|(tablet, batch)| self.apply(tablet, batch))).await;
        let outcomes: Vec<RemoteOutcome> = outcomes.into_iter().collect::<Result<_>>()?;
        let duplicate = outcomes.iter().any(|outcome| outcome.duplicate);
        self.counters.received(&ship.table, &ship.from.name, duplicate);
        let rows_quarantined = outcomes.iter().map(|outcome| outcome.rows_quarantined_now).sum();
        Ok(Shipped {
            applied_seq: outcomes.iter().map(|outcome| outcome.contiguous_seq).min().unwrap_or(0),
            rows_quarantined,
            // INV-40: the slowest tablet decides.
            complete_hlc: outcomes.iter().map(|outcome| outcome.complete_hlc).min().unwrap_or(0),
            clock_quarantine: false,
            cause: match rows_quarantined {
                0 => String::new(),
                rows => format!("{rows} row mutations of this stream wait in quarantine"),
            },
        })
    }

    /// Hands a tablet its share. A repeat takes nothing twice (R16), so whoever leads next may simply be asked again.
    async fn apply(&self, tablet: TabletId, batch: RemoteBatch) -> Result<RemoteOutcome> {
        let (command, deadline) = (batch.encode(), self.clock.monotonic() + LEADER_PATIENCE);
        let answer = loop {
            match self.tablets.apply_remote(tablet, command.clone()).await {
                Err(error) if between_leaders(&error) && self.clock.monotonic() < deadline => {
                    tokio::time::sleep(LEADER_LOOK).await;
                }
                answer => break answer?,
            }
        };
        RemoteOutcome::decode(&answer).map_err(|error| Error::internal(format!("a tablet's answer: {error}")))
    }

    fn reserve(&self, ship: &Ship) -> Result<Permit> {
        let cost = ship.records_bytes.max(SHIP_COST_BYTES_MIN);
        let permit = usize::try_from(cost)
            .ok()
            .and_then(|cost| self.memory.try_acquire(cost));
        permit.ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "RECEIVER_BUSY",
                "this node is applying as many shipped records as it may hold",
            )
            .retry_after(BUSY_DELAY)
        })
    }

    fn clock_trouble(&self, hlc_max: u64) -> Option<String> {
        let ahead_ms = (hlc_max >> 16).saturating_sub(self.clock.now_ms());
        (ahead_ms > MAX_OFFSET_MS).then(|| {
            format!("a stamp is {ahead_ms} ms ahead of this region's clock; at most {MAX_OFFSET_MS} ms is taken")
        })
    }

    /// Remembers what the origin says of its lag: the ground of RPO, also when the message itself is refused later.
    fn hear(&self, link: LinkKey, ship: &Ship) {
        let heard = Heard {
            range: ship.range.clone(),
            last_seq: ship.last_seq,
            lag_ms: ship.lag_ms,
            lag_known: ship.lag_known,
            at: self.clock.monotonic(),
        };
        let mut all = self.heard.lock();
        let streams = all.entry(link).or_default();
        // A message that was overtaken says how things were before: it must not make the age smaller.
        let overtaken = streams
            .get(&ship.tablet.0)
            .is_some_and(|known| known.last_seq > heard.last_seq);
        if !overtaken && (streams.len() < HEARD_MAX || streams.contains_key(&ship.tablet.0)) {
            streams.insert(ship.tablet.0, heard);
        }
    }

    /// What was heard of every stream of a living link, with ages as of now; forgets the rest.
    pub(crate) fn heard(&self) -> Vec<HeardReport> {
        let (view, now) = (self.catalog.view(), self.clock.monotonic());
        let mut all = self.heard.lock();
        all.retain(|key, _| linked_table(&view, key).is_some());
        let reports = all.iter().flat_map(|(key, streams)| {
            let table = linked_table(&view, key)
                .map(|table| table.name.clone())
                .unwrap_or_default();
            streams.iter().map(move |(tablet, heard)| HeardReport {
                table: table.clone(),
                peer: key.1.clone(),
                tablet: *tablet,
                start: heard.range.start.to_vec(),
                end: heard.range.end.as_ref().map(|end| end.to_vec()),
                rpo_ms: heard.lag_ms.saturating_add(millis(now.saturating_sub(heard.at))),
                rpo_known: heard.lag_known,
            })
        });
        reports.collect()
    }
}

/// The table of a link that is still there.
fn linked_table<'a>(view: &'a CatalogView, (table, peer, number): &LinkKey) -> Option<&'a TableRecord> {
    let table = view.table_by_id(*table)?;
    let link = table.links.get(peer)?;
    (link.link == *number).then_some(table)
}

/// True for an error that ends when the tablet has its next leader.
fn between_leaders(error: &Error) -> bool {
    error.kind() == ErrorKind::NotLeader || matches!(error.reason(), "NO_LEADER" | "LEADER_MOVED" | "TABLET_STOPPED")
}

/// The reason of the refusal while the link is being made here.
pub(crate) const LINK_PREPARING: &str = "LINK_PREPARING";

/// Checks who ships what, and finds the link and the tablets that it concerns, in range order.
fn admit(view: &CatalogView, ship: &Ship) -> Result<(LinkKey, Vec<(TabletId, RowRange)>)> {
    check_peer(view, &ship.from)?;
    let missing = |why: String| {
        Error::new(ErrorKind::FailedPrecondition, "LINK_MISSING", why)
            .object(format!("table {}", ship.table))
            .action(format!(
                "switch it on: tidemark replication enable {} --peer {}",
                ship.table, ship.from.name
            ))
    };
    let table = view
        .table(&ship.table)
        .ok_or_else(|| missing(format!("region {} has no such table", view.region_name)))?;
    let link = table.links.get(&ship.from.name).ok_or_else(|| {
        missing(format!(
            "region {} does not replicate the table with it",
            view.region_name
        ))
    })?;
    if link.peer != ship.from.region {
        return Err(missing(format!(
            "region {}'s link is with {}",
            view.region_name, link.peer
        )));
    }
    if link.state != LinkState::Enabled {
        let why = format!(
            "region {} has begun to switch replication on and has not finished",
            view.region_name
        );
        return Err(
            Error::new(ErrorKind::FailedPrecondition, LINK_PREPARING, why).object(format!("table {}", ship.table))
        );
    }
    same_tables(view, table, link, ship)?;
    if ship.first_seq == 0 || ship.first_seq > ship.last_seq || ship.range.is_empty() {
        return Err(damaged("its sequences or its row range are empty"));
    }
    let tablets: Vec<(TabletId, RowRange)> = view
        .overlapping(table.id, &ship.range)
        .into_iter()
        .map(|tablet| (tablet.id, tablet.range.clone()))
        .collect();
    match tablets.is_empty() {
        true => Err(Error::internal("a table's tablets do not cover every row")),
        false => Ok(((table.id, ship.from.name.clone(), link.link), tablets)),
    }
}

/// INV-42: names pair tables once, when the link is made. A message that was under way while a table was dropped and
/// created again, or that belongs to the table before, is not for this one.
fn same_tables(view: &CatalogView, table: &TableRecord, link: &LinkRecord, ship: &Ship) -> Result<()> {
    if ship.to_table == table.id && link.peer_table == Some(ship.from_table) {
        return Ok(());
    }
    let (here, there) = (&view.region_name, &ship.from.name);
    let linked = link.peer_table.map_or("none".to_owned(), |table| table.to_string());
    let why = format!(
        "the message is from {} of region {there} for {} of region {here}; the link is between {linked} and {}",
        ship.from_table, ship.to_table, table.id
    );
    Err(Error::new(ErrorKind::FailedPrecondition, LINK_STALE, why).object(format!("table {}", ship.table)))
}

/// The asking region must be registered here under exactly that name and number.
pub(crate) fn check_peer(view: &CatalogView, from: &RegionIdentity) -> Result<()> {
    let known = view.peers.get(&from.name);
    if known.is_some_and(|peer| peer.region == from.region) {
        return Ok(());
    }
    let number = known.map(|peer| peer.region);
    Err(unknown_peer(view, from, number))
}

fn unknown_peer(view: &CatalogView, from: &RegionIdentity, registered: Option<RegionId>) -> Error {
    let (reason, why) = match registered {
        Some(number) => (
            "PEER_MISMATCH",
            format!(
                "region {} knows {} as number {}, not {}",
                view.region_name, from.name, number.0, from.region.0
            ),
        ),
        None => (
            "PEER_UNKNOWN",
            format!("region {} has no peer named {}", view.region_name, from.name),
        ),
    };
    Error::new(ErrorKind::FailedPrecondition, reason, why)
        .object(format!("peer {}", from.name))
        .action(format!(
            "register it in region {}: tidemark peer add {} --region {} --addresses HOST:PORT",
            view.region_name, from.name, from.region.0
        ))
}

/// Decompresses and decodes a message's run. Large ones on a thread that may block.
async fn unpack(ship: &Ship, link: u64) -> Result<Run> {
    let (codec, records, declared) = (ship.codec, ship.records.clone(), ship.records_bytes);
    let job = move || {
        let run = decompress(codec, &records, declared)?;
        let records = decode_run(&run).map_err(|error| damaged(&error.to_string()))?;
        let bounds = records.first().map(|r| r.seq).zip(records.last().map(|r| r.seq));
        Ok::<_, Error>((decode_records(records), bounds))
    };
    let (decoded, bounds) = match ship.records_bytes > SHIP_COST_BYTES_MIN {
        true => tokio::task::spawn_blocking(job)
            .await
            .map_err(|error| Error::internal(format!("unpacking stopped: {error}")))??,
        false => job()?,
    };
    if !bounds.is_some_and(|(first, last)| ship.first_seq <= first && last == ship.last_seq) {
        return Err(damaged("its records are not those that its header names"));
    }
    Ok(Run {
        stream: StreamId {
            region: ship.from.region,
            tablet: ship.tablet.0,
        },
        link,
        range: ship.range.clone(),
        first_seq: ship.first_seq,
        last_seq: ship.last_seq,
        decoded,
    })
}
