//! Drop table: the records go at once; nodes then remove the tablets' files by themselves.

use crate::command::Answer;
use crate::state::{CatalogState, Outcome};
use tidemark_base::{Error, ErrorKind, Result};

/// Removes the table and its tablets. Refused while it is replicated: the peer would go on shipping into nothing.
pub(crate) fn apply(state: &mut CatalogState, name: &str) -> Result<Outcome> {
    let table = state.view.table_or_error(name)?;
    if !table.links.is_empty() {
        let peers: Vec<&str> = table.links.keys().map(String::as_str).collect();
        let say = format!("table {name} is replicated with {}", peers.join(", "));
        return Err(Error::new(ErrorKind::FailedPrecondition, "TABLE_REPLICATED", say)
            .object(format!("table {name}"))
            .action(format!(
                "end replication first: tidemark replication disable {name} --peer {}",
                peers[0]
            )));
    }
    let id = table.id;
    state.view.tables.remove(&id);
    state.view.tablets.retain(|_, tablet| tablet.table != id);
    Ok(Outcome::changed(Answer::Done))
}
