//! Brings schemas from the catalog to the tablets: this is how an altered family, and a link that comes or goes, reaches
//! the apply of every replica (through the tablet's own log, so that all replicas switch at the same entry).

use crate::link::TabletAccess;
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, Result, TableId, TableSchema};
use tidemark_catalog::{Catalog, CatalogView};
use tidemark_runtime::{Entropy, SharedClock, Shutdown};
use tidemark_tablet::Tablet;

/// How often the tablets are compared with the catalog, besides on every change of the catalog.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How long one round waits for its tablets.
const ROUND_MAX: Duration = Duration::from_secs(2);
/// Between two tries of one tablet.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// For every tablet led here whose applied schema is older than the catalog's: proposes the newer one. Runs until the
/// shutdown. [`crate::Replicator::start`] starts one; a second is harmless.
pub async fn keep_schemas(catalog: Catalog, tablets: Arc<dyn TabletAccess>, stop: Shutdown) {
    let mut changes = catalog.watch();
    loop {
        let view = catalog.view();
        let due = tablets.local().into_iter().filter_map(|tablet| {
            let schema = due(&view, &tablet)?;
            Some(keep(tablet, schema))
        });
        let due: Vec<_> = due.collect();
        tokio::select! {
            _ = stop.wait() => return,
            // A tablet that cannot answer now must not keep the others waiting; what was proposed for it stays proposed.
            _ = tokio::time::timeout(ROUND_MAX, join_all(due)) => {}
        }
        tokio::select! {
            _ = stop.wait() => return,
            changed = changes.changed() => if changed.is_err() { return },
            _ = tokio::time::sleep(KEEP_INTERVAL) => {}
        }
    }
}

fn due(view: &CatalogView, tablet: &Tablet) -> Option<Arc<TableSchema>> {
    let wanted = view.schema(tablet.descriptor().table)?;
    let applied = tablet.schema().map(|schema| schema.revision);
    let newer = applied.is_none_or(|applied| applied < wanted.revision);
    (newer && tablet.group().leadership().ready).then_some(wanted)
}

async fn keep(tablet: Tablet, schema: Arc<TableSchema>) {
    let require_empty = adds_peer(tablet.schema().as_deref(), &schema);
    if let Err(error) = tablet.set_schema(schema.clone(), require_empty).await {
        tracing::debug!(
            tablet = %tablet.descriptor().tablet, revision = schema.revision, %error, "schema not taken over yet"
        );
    }
}

/// A tablet may get a peer only while it is empty: rows from before are not in its feed. The keeper must ask for that
/// too, because it may reach a tablet before the verb that switches replication on does.
fn adds_peer(applied: Option<&TableSchema>, wanted: &TableSchema) -> bool {
    applied.is_some_and(|applied| wanted.has_new_link(applied))
}

/// Hands the catalog's present schema of a table to all its tablets, wherever they are led, and returns when all have it.
/// Retries what may pass until `patience` is over. Returns the number of tablets.
pub(crate) async fn push_schema(
    catalog: &Catalog,
    tablets: &Arc<dyn TabletAccess>,
    clock: &SharedClock,
    entropy: &Entropy,
    table: TableId,
    require_empty: bool,
    patience: Duration,
) -> Result<usize> {
    let view = catalog.view();
    let schema = view
        .schema(table)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "TABLE_UNKNOWN", "the table was dropped meanwhile"))?;
    let deadline = clock.monotonic() + patience;
    let all = view.tablets_of(table).map(|tablet| {
        let (tablet, schema) = (tablet.id, schema.clone());
        async move {
            loop {
                let Err(error) = tablets.set_schema(tablet, schema.clone(), require_empty).await else {
                    return Ok(());
                };
                // Setting the same schema again is the same, so an unknown outcome is only a reason to ask again.
                let may_pass = error.kind().is_retryable()
                    || matches!(error.kind(), ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded);
                if !may_pass || clock.monotonic() >= deadline {
                    return Err(error.object(tablet.to_string()));
                }
                tokio::time::sleep(entropy.jitter(RETRY_DELAY)).await;
            }
        }
    });
    let outcomes: Vec<Result<()>> = join_all(all).await;
    let count = outcomes.len();
    // A refusal says more than a time-out of another tablet.
    let mut errors: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.kind().is_retryable());
    match errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::RegionId;

    #[test]
    fn only_a_new_peer_asks_for_an_empty_tablet() {
        let mut applied = TableSchema::new(RegionId(1));
        let mut wanted = applied.clone();
        assert!(!adds_peer(None, &wanted) && !adds_peer(Some(&applied), &wanted));
        wanted.peers = vec![RegionId(2)];
        assert!(adds_peer(Some(&applied), &wanted));
        applied.peers = vec![RegionId(2), RegionId(3)];
        assert!(!adds_peer(Some(&applied), &wanted));
        wanted.links.insert(RegionId(2), 7);
        assert!(adds_peer(Some(&applied), &wanted), "it left and came again");
    }
}
