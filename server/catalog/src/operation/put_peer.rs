//! Put peer: registers another region, or changes where it is reached.

use super::register_node::check_address;
use crate::command::Answer;
use crate::limits::{PEER_ADDRESSES_MAX, PEERS_MAX};
use crate::record::PeerRecord;
use crate::state::{CatalogState, Outcome};
use tidemark_base::names::check_name;
use tidemark_base::{Error, ErrorKind, Result};

/// Adds or replaces the record. Region numbers are part of stamps: each belongs to one name, and stays while links use it.
pub(crate) fn apply(state: &mut CatalogState, record: &PeerRecord) -> Result<Outcome> {
    check(state, record)?;
    let peers = &mut state.view.peers;
    let old = peers.get(&record.name);
    if old == Some(record) {
        return Ok(Outcome::unchanged(Answer::Done));
    }
    if old.is_none() && peers.len() >= PEERS_MAX {
        let say = format!("the region has {PEERS_MAX} peers, more are not supported");
        return Err(Error::new(ErrorKind::FailedPrecondition, "PEERS_TOO_MANY", say));
    }
    peers.insert(record.name.clone(), record.clone());
    Ok(Outcome::changed(Answer::Done))
}

fn check(state: &CatalogState, record: &PeerRecord) -> Result<()> {
    check_name("peer", &record.name)?;
    let (name, number) = (&record.name, record.region.0);
    let object = format!("peer {name}");
    if number == 0 {
        return Err(Error::invalid("REGION_INVALID", "region number 0 is never assigned").object(object));
    }
    if *name == state.view.region_name || record.region == state.view.region {
        let (own, own_number) = (&state.view.region_name, state.view.region.0);
        let say = format!("name or number is that of this region itself ({own}, {own_number})");
        return Err(Error::invalid("PEER_IS_SELF", say)
            .object(object)
            .action("give the other region's name and number, as in its settings"));
    }
    if let Some(other) = state
        .view
        .peers
        .values()
        .find(|peer| peer.region == record.region && peer.name != *name)
    {
        let say = format!("region number {number} belongs to peer {}", other.name);
        return Err(Error::new(ErrorKind::AlreadyExists, "REGION_TAKEN", say)
            .object(object)
            .action("list the peers: tidemark peer list"));
    }
    let renumbered = state
        .view
        .peers
        .get(name)
        .is_some_and(|old| old.region != record.region);
    if renumbered && let Some(table) = state.view.tables.values().find(|table| table.links.contains_key(name)) {
        let say = format!(
            "table {} is replicated with peer {name} under its present number",
            table.name
        );
        return Err(Error::new(ErrorKind::FailedPrecondition, "PEER_IN_USE", say)
            .object(object)
            .action(format!(
                "end replication first: tidemark replication disable {} --peer {name}",
                table.name
            )));
    }
    if record.addresses.is_empty() || record.addresses.len() > PEER_ADDRESSES_MAX {
        return Err(Error::invalid(
            "ADDRESSES_INVALID",
            format!("a peer has 1 to {PEER_ADDRESSES_MAX} addresses"),
        )
        .object(object)
        .action("give host:port of some of its nodes"));
    }
    record.addresses.iter().try_for_each(|address| check_address(address))
}
