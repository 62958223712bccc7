//! What each link moved since this process started, and its metrics. Together the counters prove O13: rows shipped minus
//! rows written is what leaders shipped again, and that is what the target counts as duplicate.

use crate::report::LinkCounters;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tidemark_runtime::{CounterFamily, GaugeFamily, Metrics};

const LINK: &[&str] = &["table", "peer"];

/// What one link's gauges show, over the tablets that this node leads.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkGauges {
    /// The greatest lag.
    pub lag_ms: u64,
    /// Tablets of which it is only a bound.
    pub lag_unknown_tablets: u64,
    /// Records not acknowledged.
    pub backlog_records: u64,
    /// Row mutations from the peer in quarantine here.
    pub rows_quarantined: u64,
}

/// Counters by table and peer, and the metric families.
pub struct Counters {
    links: Mutex<BTreeMap<(String, String), LinkCounters>>,
    lag_ms: GaugeFamily,
    lag_unknown: GaugeFamily,
    ship_memory: GaugeFamily,
    backlog_records: GaugeFamily,
    quarantined_rows: GaugeFamily,
    rows_shipped: CounterFamily,
    bytes_shipped: CounterFamily,
    messages_resent: CounterFamily,
    duplicates: CounterFamily,
}

impl Counters {
    /// Declares the metrics.
    pub fn new(metrics: &Metrics) -> Counters {
        Counters {
            links: Mutex::default(),
            lag_ms: metrics.gauge(
                "tidemark_replication_lag_ms",
                "Age of the oldest write that the peer has not applied, over the tablets that this node leads, in milliseconds.",
                LINK,
            ),
            lag_unknown: metrics.gauge(
                "tidemark_replication_lag_unknown_tablets",
                "Tablets that this node leads whose lag is not known: the lag shown is an upper bound.",
                LINK,
            ),
            ship_memory: metrics.gauge(
                "tidemark_replication_ship_memory_bytes",
                "Bytes of feed records that this node holds for the peer until it has acknowledged them, before compression.",
                &["peer"],
            ),
            backlog_records: metrics.gauge(
                "tidemark_replication_backlog_records",
                "Feed records that the peer has not acknowledged, over the tablets that this node leads.",
                LINK,
            ),
            quarantined_rows: metrics.gauge(
                "tidemark_replication_quarantined_rows",
                "Row mutations from the peer that wait in quarantine here, over the tablets that this node leads.",
                LINK,
            ),
            rows_shipped: metrics.counter(
                "tidemark_replication_shipped_rows",
                "Row mutations that the peer acknowledged.",
                LINK,
            ),
            bytes_shipped: metrics.counter(
                "tidemark_replication_shipped_bytes",
                "Bytes sent to the peer, compressed, repeats included.",
                LINK,
            ),
            messages_resent: metrics.counter(
                "tidemark_replication_resent_messages",
                "Messages that went to the peer more than once.",
                LINK,
            ),
            duplicates: metrics.counter(
                "tidemark_replication_duplicates",
                "Messages from the peer of which some part was applied here before.",
                LINK,
            ),
        }
    }

    fn update(&self, table: &str, peer: &str, change: impl FnOnce(&mut LinkCounters)) {
        let mut links = self.links.lock();
        let counters = links
            .entry((table.to_owned(), peer.to_owned()))
            .or_insert_with(|| LinkCounters {
                table: table.to_owned(),
                peer: peer.to_owned(),
                ..LinkCounters::default()
            });
        change(counters);
    }

    /// A message goes out, for the `sends`-th time.
    pub fn sending(&self, table: &str, peer: &str, bytes: u64, sends: u32) {
        self.bytes_shipped.with(&[table, peer]).add(bytes);
        let again = u64::from(sends > 1);
        self.messages_resent.with(&[table, peer]).add(again);
        self.update(table, peer, |link| {
            link.bytes_shipped += bytes;
            link.messages_resent += again;
        });
    }

    /// Row mutations were acknowledged.
    pub fn shipped(&self, table: &str, peer: &str, rows: u64) {
        self.rows_shipped.with(&[table, peer]).add(rows);
        self.update(table, peer, |link| link.rows_shipped += rows);
    }

    /// A message from the peer was applied.
    pub fn received(&self, table: &str, peer: &str, duplicate: bool) {
        self.duplicates.with(&[table, peer]).add(u64::from(duplicate));
        self.update(table, peer, |link| {
            link.messages_received += 1;
            link.duplicates += u64::from(duplicate);
        });
    }

    /// The gauges of one link.
    pub fn show(&self, table: &str, peer: &str, gauges: &LinkGauges) {
        let link = [table, peer];
        self.lag_ms.with(&link).set(gauges.lag_ms as f64);
        self.lag_unknown.with(&link).set(gauges.lag_unknown_tablets as f64);
        self.backlog_records.with(&link).set(gauges.backlog_records as f64);
        self.quarantined_rows.with(&link).set(gauges.rows_quarantined as f64);
    }

    /// What is held for a peer.
    pub fn show_memory(&self, peer: &str, bytes: usize) {
        self.ship_memory.with(&[peer]).set(bytes as f64);
    }

    /// The link is gone, or this node leads none of its tablets any more.
    pub fn hide(&self, table: &str, peer: &str) {
        self.lag_ms.remove(&[table, peer]);
        self.lag_unknown.remove(&[table, peer]);
        self.backlog_records.remove(&[table, peer]);
        self.quarantined_rows.remove(&[table, peer]);
    }

    /// All links' counters.
    pub fn links(&self) -> Vec<LinkCounters> {
        self.links.lock().values().cloned().collect()
    }
}
