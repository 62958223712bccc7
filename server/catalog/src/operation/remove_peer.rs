//! Remove peer: forgets another region.

use crate::command::Answer;
use crate::state::{CatalogState, Outcome};
use tidemark_base::{Error, ErrorKind, Result};

/// Removes the record. Refused while a table is replicated with the peer.
pub(crate) fn apply(state: &mut CatalogState, name: &str) -> Result<Outcome> {
    state.view.peer_or_error(name)?;
    if let Some(table) = state.view.tables.values().find(|table| table.links.contains_key(name)) {
        let say = format!("table {} is replicated with peer {name}", table.name);
        return Err(Error::new(ErrorKind::FailedPrecondition, "PEER_IN_USE", say)
            .object(format!("peer {name}"))
            .action(format!(
                "end replication first: tidemark replication disable {} --peer {name}",
                table.name
            )));
    }
    state.view.peers.remove(name);
    Ok(Outcome::changed(Answer::Done))
}
