//! Set schema: families, peers, epoch, as this tablet's replicas apply them from here on.
//!
//! ```text
//! set schema := 0x05 | require_empty u8 (0, 1) | schema slice
//! ```
//! An older or equal revision changes nothing and is no error, so that it may be sent again. `require_empty` refuses to add
//! a peer once any row was ever written: what was written before is not in the feed, so the peer would never get it. It is
//! decided here, in the log, so that no write slips in between; by a count of rows, because what garbage collection has left
//! differs between replicas.
//!
//! A peer that leaves takes all of the link with it: what it acknowledged, how far its streams came, and its rows that wait
//! in quarantine. A later link with the same region begins anew, and its watermarks wait for nothing of this one. It is
//! known by its number, so that a tablet that missed the schema between the two forgets the earlier one all the same, and
//! asks for an empty table as if the peer had just come (INV-42).

use crate::apply::Step;
use crate::operation::{acknowledge_feed, drain};
use crate::quarantine;
use crate::response;
use crate::state::{KEY_SCHEMA, ack_key, cursor_key};
use crate::stream::StreamId;
use bytes::Bytes;
use std::sync::Arc;
use tidemark_base::codec::{Malformed, Reader, put_slice};
use tidemark_base::{Error, ErrorKind, RegionId, TableSchema};
use tidemark_consensus::StateMachineFault;

pub(crate) const KIND: u8 = 5;
/// Bytes of an encoded schema: 64 families with names and limits (20 KiB), 65,535 peers (128 KiB), 4,096 dropped families
/// (16 KiB).
const SCHEMA_BYTES_MAX: usize = 256 << 10;

/// The decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SetSchema {
    pub(crate) require_empty: bool,
    pub(crate) schema: TableSchema,
}

pub(crate) fn encode(schema: &TableSchema, require_empty: bool) -> Bytes {
    let mut out = vec![KIND, u8::from(require_empty)];
    put_slice(&mut out, &schema.encode());
    out.into()
}

pub(crate) fn decode(r: &mut Reader<'_>) -> Result<SetSchema, Malformed> {
    Ok(SetSchema {
        require_empty: r.u8()? != 0,
        schema: TableSchema::decode(r.slice(SCHEMA_BYTES_MAX, "schema too long")?)?,
    })
}

pub(crate) fn apply(command: SetSchema, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
    let before = step.state.schema.clone();
    if before
        .as_ref()
        .is_some_and(|old| command.schema.revision <= old.revision)
    {
        return Ok(response::ok(&[]));
    }
    let old = before.unwrap_or_else(|| Arc::new(TableSchema::new(command.schema.region)));
    let schema = Arc::new(command.schema);
    let adds_peer = schema.has_new_link(&old);
    if command.require_empty && adds_peer && step.state.marks.facts > 0 {
        let error = Error::new(
            ErrorKind::FailedPrecondition,
            "TABLE_NOT_EMPTY",
            "rows were written to the table before replication was enabled",
        );
        let error = error.action("create a new table, enable replication on it, then write");
        return Ok(response::failed(&error));
    }
    step.commit()?;
    step.batch().put_state(KEY_SCHEMA, &schema.encode());
    step.state.schema = Some(schema.clone());
    step.engine.set_schema(schema.clone());
    for peer in old.peers.iter().filter(|p| schema.link(**p) != old.link(**p)) {
        forget_peer(step, *peer);
    }
    acknowledge_feed::trim(step, &schema);
    drain::begin(step)?;
    Ok(response::ok(&[]))
}

fn forget_peer(step: &mut Step<'_>, peer: RegionId) {
    step.state.acks.remove(&peer);
    step.batch().delete_state(&ack_key(peer));
    let streams = step.state.cursors.keys().filter(|stream| stream.region == peer);
    let streams: Vec<StreamId> = streams.copied().collect();
    for stream in streams {
        step.state.cursors.remove(&stream);
        step.batch().delete_state(&cursor_key(stream));
    }
    for (stream, seq) in step.state.pins.of_region(peer) {
        step.state.pins.remove(stream, seq);
        step.batch().delete_state(&quarantine::key(stream, seq));
    }
}
