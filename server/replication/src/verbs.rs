//! What an operator asks of this region: switch replication of a table on and off, stop and resume shipping.
//!
//! Switching on, step by step; every step may be repeated, so the verb is simply run again after a crash at any of them:
//!
//! ```text
//! here                                              at the peer
//! 0  peer registered? ───────── identify ─────────> knows us under our name and number?
//! 1  link unknown here ──────── dry run ──────────> would it work? nothing changes yet; families are compared
//! 2  link PREPARING: the schema names the peer;
//!    every tablet takes it over only if empty,
//!    decided at apply: no write slips between.
//!    From here on the feed is written.
//! 3  ────────────────────────── prepare ──────────> the same two steps there, then ENABLED, with our table's number
//! 4  families that only the peer has
//! 5  link ENABLED, with the peer's table's number: streams start
//! ```
//! A refusal in 2 or 3 is rolled back by the call that made the link (the peer rolls itself back). An outcome that is not
//! known is not: the peer may have switched on already; the link stays PREPARING, visibly, until the verb is run again or
//! replication is disabled. Nor is a refusal of a repeat: the feed of the first call holds writes by then.

use crate::keeper::push_schema;
use crate::link::{
    PeerConnector, PeerFamily, PeerLink, PrepareTable, Prepared, RegionIdentity, ReleaseTable, TabletAccess,
};
use crate::prepare::{missing_here, refuse_history};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, Result, TableId};
use tidemark_catalog::{Catalog, CatalogView, Command, FamilyRecord, LinkChange, LinkState, PeerRecord, TableRecord};
use tidemark_runtime::{Entropy, SharedClock};

/// What switching on came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    /// The table was created at the peer.
    pub created_at_peer: bool,
    /// Families that were added at the peer.
    pub families_added: Vec<String>,
    /// Families that were added here, because the peer has them.
    pub families_added_here: Vec<String>,
}

/// What the verbs of both sides need.
pub(crate) struct Verbs {
    pub(crate) catalog: Catalog,
    pub(crate) tablets: Arc<dyn TabletAccess>,
    pub(crate) peers: Arc<dyn PeerConnector>,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: Entropy,
    pub(crate) patience: Duration,
}

impl Verbs {
    /// See the module.
    pub(crate) async fn enable(&self, table: &str, peer: &str) -> Result<Enabled> {
        let view = self.catalog.view();
        let record = view.table_or_error(table)?;
        let peer = known_peer(&view, peer)?;
        let link = self.peers.link(peer);
        check_identity(&view, peer, &*link).await?;
        let prepare = |dry_run| prepare_request(&view, record, dry_run);
        let state = record.links.get(&peer.name).map(|link| link.state);
        let mut promised = Prepared::default();
        match state {
            None => {
                self.refuse_rows(record, &peer.name)?;
                refuse_history(record, &view.region_name, self.clock.now_ms())?;
                promised = link.prepare_table(prepare(true)).await?;
                missing_here(&view, record, &peer.name, peer.region, &promised)?;
            }
            // Complete here, so it must be complete there: the answer to a dry run is then that it is.
            Some(LinkState::Enabled) => match link.prepare_table(prepare(true)).await {
                Err(error) if error.reason() == LINK_STALE => {}
                Err(error) if error.reason() != TABLE_NOT_EMPTY => return Err(error),
                _ => return Err(stale(table, &view.region_name, &peer.name)),
            },
            Some(LinkState::Preparing) => {}
        }
        if state != Some(LinkState::Enabled) {
            self.prepare_link(table, record.id, &peer.name, state).await?;
        }
        match link.prepare_table(prepare(false)).await {
            Ok(prepared) => promised = merge(promised, prepared),
            Err(error) => return Err(self.not_prepared(record, peer, state, error).await),
        }
        let families_added_here = self.finish(table, peer, &promised).await?;
        tracing::info!(table, peer = peer.name, "replication is on");
        Ok(Enabled {
            created_at_peer: promised.created,
            families_added: promised.families_added,
            families_added_here,
        })
    }

    /// Steps 4 and 5; the families that were added here.
    async fn finish(&self, table: &str, peer: &PeerRecord, promised: &Prepared) -> Result<Vec<String>> {
        let peer_table = promised
            .table_id
            .ok_or_else(|| Error::internal("a peer that prepared its table does not say which"))?;
        let view = self.catalog.view();
        let record = view.table_or_error(table)?;
        let request = missing_here(&view, record, &peer.name, peer.region, promised)?;
        let added: Vec<String> = request.families.iter().map(|family| family.name.clone()).collect();
        if !added.is_empty() {
            self.add_families(&request.table, &request.families).await?;
            // The streams bring rows of these families at once; what comes before the tablets know them would wait.
            if let Err(error) = self.push(record.id, false).await {
                tracing::info!(table, %error, "a tablet does not know the peer's families yet; it will");
            }
        }
        self.set_link(table, &peer.name, LinkChange::Enable { peer_table })
            .await?;
        Ok(added)
    }

    async fn not_prepared(
        &self,
        table: &TableRecord,
        peer: &PeerRecord,
        state: Option<LinkState>,
        error: Error,
    ) -> Error {
        if refused(&error) && state.is_none() {
            self.undo(table.id, &table.name, &peer.name).await;
            return error;
        }
        again(&table.name, &peer.name, error)
    }

    /// The link becomes PREPARING and every tablet takes the schema over that names the peer; undone if one refuses, and
    /// only if there was no link before (`state`): a feed that an earlier call began holds writes by now.
    pub(crate) async fn prepare_link(
        &self,
        table: &str,
        id: TableId,
        peer: &str,
        state: Option<LinkState>,
    ) -> Result<()> {
        self.set_link(table, peer, LinkChange::Prepare).await?;
        let Err(error) = self.push(id, true).await else {
            return Ok(());
        };
        let undone = refused(&error) && state.is_none();
        if undone {
            self.undo(id, table, peer).await;
        }
        Err(match error.reason() {
            TABLE_NOT_EMPTY => not_empty(table, &self.catalog.view().region_name),
            _ if undone => error,
            _ => again(table, peer, error),
        })
    }

    /// Takes a link back, as far as it can be done now; the schema keeper does the rest.
    pub(crate) async fn undo(&self, id: TableId, table: &str, peer: &str) {
        if let Err(error) = self.set_link(table, peer, LinkChange::Remove).await {
            tracing::warn!(table, peer, %error, "the link could not be taken back: disable it");
            return;
        }
        let short = self.patience.min(Duration::from_secs(2));
        if let Err(error) = self.push_within(id, false, short).await {
            tracing::info!(table, peer, %error, "a tablet has not yet let go of the link; it will");
        }
    }

    pub(crate) async fn push(&self, table: TableId, require_empty: bool) -> Result<usize> {
        self.push_within(table, require_empty, self.patience).await
    }

    async fn push_within(&self, table: TableId, require_empty: bool, patience: Duration) -> Result<usize> {
        push_schema(
            &self.catalog,
            &self.tablets,
            &self.clock,
            &self.entropy,
            table,
            require_empty,
            patience,
        )
        .await
    }

    pub(crate) async fn set_link(&self, table: &str, peer: &str, change: LinkChange) -> Result<()> {
        let (table, peer) = (table.to_owned(), peer.to_owned());
        self.catalog
            .execute(Command::SetLink { table, peer, change })
            .await
            .map(|_| ())
    }

    /// An early refusal for the usual case, before anything changes. What decides is the tablets' own check at apply.
    pub(crate) fn refuse_rows(&self, table: &TableRecord, peer: &str) -> Result<()> {
        let view = self.catalog.view();
        let rows = self.tablets.local().into_iter().any(|tablet| {
            tablet.descriptor().table == table.id && tablet.engine().is_empty().is_ok_and(|empty| !empty)
        });
        match rows && !table.links.contains_key(peer) {
            true => Err(not_empty(&table.name, &view.region_name)),
            false => Ok(()),
        }
    }

    /// Switches off here and, unless `local_only`, at the peer, which goes first: if it cannot be reached, nothing changes.
    pub(crate) async fn disable(&self, table: &str, peer: &str, local_only: bool) -> Result<()> {
        let view = self.catalog.view();
        let record = view.table_or_error(table)?;
        if !local_only {
            let peer = known_peer(&view, peer)?;
            let from = identity(&view);
            let request = ReleaseTable {
                from,
                table: table.to_owned(),
            };
            self.peers.link(peer).release_table(request).await.map_err(|error| {
                let alone = format!(
                    "to switch it off only here: tidemark replication disable {table} --peer {} --local-only",
                    peer.name
                );
                error.action(alone)
            })?;
        }
        self.release(record, peer).await
    }

    /// Takes the link away here and tells the tablets.
    pub(crate) async fn release(&self, table: &TableRecord, peer: &str) -> Result<()> {
        self.set_link(&table.name, peer, LinkChange::Remove).await?;
        if let Err(error) = self
            .push_within(table.id, false, self.patience.min(Duration::from_secs(5)))
            .await
        {
            tracing::info!(table = table.name, peer, %error, "a tablet has not yet let go of the link; it will");
        }
        tracing::info!(table = table.name, peer, "replication is off");
        Ok(())
    }
}

/// This region as it calls itself.
pub(crate) fn identity(view: &CatalogView) -> RegionIdentity {
    RegionIdentity {
        name: view.region_name.clone(),
        region: view.region,
    }
}

fn known_peer<'a>(view: &'a CatalogView, peer: &str) -> Result<&'a PeerRecord> {
    view.peers.get(peer).ok_or_else(|| {
        Error::new(
            ErrorKind::FailedPrecondition,
            "PEER_UNKNOWN",
            format!("region {} has no peer of that name", view.region_name),
        )
        .object(format!("peer {peer}"))
        .action(format!(
            "register it: tidemark peer add {peer} --region NUMBER --addresses HOST:PORT"
        ))
    })
}

/// The peer is who we think, and knows us.
async fn check_identity(view: &CatalogView, peer: &PeerRecord, link: &dyn PeerLink) -> Result<()> {
    let us = identity(view);
    let answer = link.identify(us.clone()).await?;
    let refuse = |reason: &'static str, why: String, action: String| {
        Err(Error::new(ErrorKind::FailedPrecondition, reason, why)
            .object(format!("peer {}", peer.name))
            .action(action))
    };
    if answer.region.name != peer.name || answer.region.region != peer.region {
        let why = format!(
            "what answers at {} is region {} number {}, registered here as {} number {}",
            peer.addresses.join(","),
            answer.region.name,
            answer.region.region.0,
            peer.name,
            peer.region.0
        );
        let action = format!(
            "correct the peer: tidemark peer remove {}, then tidemark peer add {} --region {} --addresses {}",
            peer.name,
            answer.region.name,
            answer.region.region.0,
            peer.addresses.join(",")
        );
        return refuse("PEER_MISMATCH", why, action);
    }
    if !answer.knows_asker {
        let addresses: Vec<&str> = view.nodes.values().map(|node| node.address.as_str()).collect();
        let addresses = match addresses.is_empty() {
            true => "HOST:PORT".to_owned(),
            false => addresses.join(","),
        };
        let why = format!("{} does not know region {} number {}", peer.name, us.name, us.region.0);
        let action = format!(
            "run in region {}: tidemark peer add {} --region {} --addresses {addresses}",
            peer.name, us.name, us.region.0
        );
        return refuse("PEER_DOES_NOT_KNOW_US", why, action);
    }
    Ok(())
}

fn prepare_request(view: &CatalogView, table: &TableRecord, dry_run: bool) -> PrepareTable {
    let families = table.families.iter().map(peer_family);
    PrepareTable {
        from: identity(view),
        table: table.name.clone(),
        table_id: table.id,
        families: families.collect(),
        split_at: view
            .tablets_of(table.id)
            .map(|tablet| tablet.range.start.clone())
            .filter(|start| !start.is_empty())
            .collect(),
        max_future_micros: table.max_future_micros,
        dry_run,
    }
}

/// A family as another region is told of it.
pub(crate) fn peer_family(family: &FamilyRecord) -> PeerFamily {
    PeerFamily {
        name: family.settings.name.clone(),
        id: family.settings.id,
        generation: family.generation,
        ttl_micros: family.settings.ttl_micros,
        max_versions: family.settings.max_versions,
        compression: family.settings.compression,
        layout: family.settings.layout,
    }
}

/// True for an answer that will be the same next time. After any other the step may have been done, or may be later.
fn refused(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::FailedPrecondition
            | ErrorKind::InvalidArgument
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Unsupported
    )
}

/// The error of a step that left the link PREPARING, with what to do.
fn again(table: &str, peer: &str, error: Error) -> Error {
    let again = format!(
        "the feed is being written already, so nothing is lost: repeat tidemark replication enable {table} --peer {peer}"
    );
    let action = match error.next_action() {
        "" => again,
        action => format!("{action}; then {again}"),
    };
    error.action(action)
}

/// What the dry run promised counts too: the step itself may be a repeat that found its work done.
fn merge(promised: Prepared, done: Prepared) -> Prepared {
    let mut families_added = done.families_added;
    for family in promised.families_added {
        if !families_added.contains(&family) {
            families_added.push(family);
        }
    }
    Prepared {
        created: promised.created || done.created,
        families_added,
        // What the step itself says is how it is now.
        families_missing: done.families_missing,
        table_id: done.table_id,
    }
}

/// The reason of [`not_empty`], and of a tablet's refusal to get a peer.
const TABLE_NOT_EMPTY: &str = "TABLE_NOT_EMPTY";
/// The reason of [`stale`].
pub(crate) const LINK_STALE: &str = "LINK_STALE";

/// The refusal where one region has a complete link and the other none: it is left from an earlier life of the table, and
/// its watermarks speak of rows that the other may no longer have.
pub(crate) fn stale(table: &str, here: &str, other: &str) -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        LINK_STALE,
        format!("region {here} replicates table {table} with {other}, which has no link with it (any more)"),
    )
    .object(format!("table {table}"))
    .action(format!(
        "run in region {here}: tidemark replication disable {table} --peer {other} --local-only"
    ))
}

/// The refusal of a table that holds rows.
pub(crate) fn not_empty(table: &str, region: &str) -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        TABLE_NOT_EMPTY,
        format!("table {table} in region {region} holds rows or deletes already; only an empty table can be replicated so far"),
    )
    .object(format!("table {table}"))
    .action(format!(
        "export it (tidemark export {table}), drop and create it, enable replication, then import"
    ))
}
