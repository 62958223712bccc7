//! Set link: one step in the life of a table's replication with a peer.
//!
//! ```text
//! (none) --Prepare--> Preparing --Enable--> Enabled      Pause, Resume: on both      Remove: back to none
//! ```
//!
//! Each step may be repeated: enabling replication is a flow over two regions that is run again after a crash. A link is
//! with one table of the peer for its whole life; one that was created there again needs a link of its own.

use crate::command::{Answer, LinkChange};
use crate::record::{LinkRecord, LinkState};
use crate::state::{CatalogState, Outcome, table_mut};
use tidemark_base::{Error, ErrorKind, Result};

/// Takes the step. The schema's revision rises where the table's peers change.
pub(crate) fn apply(
    state: &mut CatalogState,
    table: &str,
    peer: &str,
    change: LinkChange,
    now_ms: u64,
) -> Result<Outcome> {
    let region = match change {
        LinkChange::Prepare => Some(state.view.peer_or_error(peer)?.region),
        _ => None,
    };
    let record = table_mut(state, table)?;
    let unknown = || {
        Error::new(
            ErrorKind::NotFound,
            "LINK_UNKNOWN",
            format!("table {table} is not replicated with peer {peer}"),
        )
        .object(format!("table {table}"))
        .action(format!(
            "switch it on: tidemark replication enable {table} --peer {peer}"
        ))
    };
    let link = record.links.get_mut(peer);
    let changed = match (change, region, link) {
        (LinkChange::Prepare, Some(region), None) => {
            record.revision += 1;
            let link = LinkRecord {
                peer: region,
                state: LinkState::Preparing,
                paused: false,
                since_ms: now_ms,
                linked_at_ms: now_ms,
                link: record.revision,
                peer_table: None,
            };
            record.links.insert(peer.to_owned(), link);
            true
        }
        (LinkChange::Prepare, _, _) => false,
        (LinkChange::Enable { peer_table }, _, Some(link)) => {
            let enables = link.state != LinkState::Enabled;
            if !enables && link.peer_table != Some(peer_table) {
                let say = format!("table {table} is linked with another table of that name at peer {peer}");
                return Err(Error::new(ErrorKind::FailedPrecondition, "LINK_STALE", say)
                    .object(format!("table {table}"))
                    .action(format!(
                        "take the old link away: tidemark replication disable {table} --peer {peer} --local-only"
                    )));
            }
            if enables {
                (link.state, link.since_ms, link.peer_table) = (LinkState::Enabled, now_ms, Some(peer_table));
            }
            enables
        }
        (LinkChange::Enable { .. }, _, None) => {
            let say = format!("the link of table {table} with peer {peer} is not prepared");
            return Err(Error::new(ErrorKind::FailedPrecondition, "LINK_NOT_PREPARED", say)
                .object(format!("table {table}"))
                .action(format!(
                    "run it from the start: tidemark replication enable {table} --peer {peer}"
                )));
        }
        (LinkChange::Pause | LinkChange::Resume, _, link) => {
            let link = link.ok_or_else(unknown)?;
            let paused = change == LinkChange::Pause;
            let differs = link.paused != paused;
            if differs {
                (link.paused, link.since_ms) = (paused, now_ms);
            }
            differs
        }
        (LinkChange::Remove, _, Some(_)) => {
            record.links.remove(peer);
            record.revision += 1;
            true
        }
        (LinkChange::Remove, _, None) => false,
    };
    Ok(Outcome {
        changed,
        answer: Answer::Done,
    })
}
