//! Register node: a server says where it is. Idempotent: every start of a node repeats it.

use crate::command::Answer;
use crate::limits::{ADDRESS_BYTES_MAX, INCARNATION_BYTES_MAX, NODES_MAX, VERSION_BYTES_MAX};
use crate::record::NodeRecord;
use crate::state::{CatalogState, Outcome};
use tidemark_base::names::check_name;
use tidemark_base::{Error, ErrorKind, Result};

/// Adds or replaces the record. A repeat without a change keeps the time of the first.
pub(crate) fn apply(state: &mut CatalogState, record: NodeRecord) -> Result<Outcome> {
    if record.id.0 == 0 {
        return Err(Error::invalid("NODE_ID_INVALID", "node number 0 is never assigned").object("node 0"));
    }
    check_name("zone", &record.zone)?;
    check_address(&record.address)?;
    if record.version.len() > VERSION_BYTES_MAX {
        return Err(Error::invalid(
            "VERSION_TOO_LONG",
            format!("a version has at most {VERSION_BYTES_MAX} bytes"),
        ));
    }
    if record.incarnation.len() > INCARNATION_BYTES_MAX {
        let say = format!("an incarnation has at most {INCARNATION_BYTES_MAX} bytes");
        return Err(Error::invalid("INCARNATION_TOO_LONG", say));
    }
    let nodes = &mut state.view.nodes;
    if let Some(old) = nodes.get(&record.id) {
        old.check_incarnation(&record.incarnation)?;
        let repeat = NodeRecord {
            registered_ms: old.registered_ms,
            ..record.clone()
        };
        if *old == repeat {
            return Ok(Outcome::unchanged(Answer::Done));
        }
    } else if nodes.len() >= NODES_MAX {
        let say = format!("the region has {NODES_MAX} nodes, more are not supported");
        return Err(Error::new(ErrorKind::FailedPrecondition, "NODES_TOO_MANY", say));
    }
    nodes.insert(record.id, record);
    Ok(Outcome::changed(Answer::Done))
}

/// Checks the form `host:port`; `[::1]:7400` for IPv6.
pub(crate) fn check_address(address: &str) -> Result<()> {
    let good = address.len() <= ADDRESS_BYTES_MAX
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
            let bare = !host.is_empty() && !host.contains([':', '[', ']']);
            let clean = host
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'@' | b'"' | b'\\'));
            (bracketed || bare) && clean && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if good {
        return Ok(());
    }
    let shown: String = address.chars().take(80).collect();
    Err(
        Error::invalid("ADDRESS_INVALID", format!("{shown:?} is not an address"))
            .action("give host:port, for example 10.0.0.5:7400 or [::1]:7400"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["localhost:7400", "10.0.0.1:1", "[::1]:65535", "a-b.example.org:80"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        let long = format!("{}:1", "a".repeat(ADDRESS_BYTES_MAX));
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "::1:5",
            "http://a:1",
            "a b:1",
            "[]:1",
            &long,
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
