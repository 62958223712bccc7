//! The verbs, one file each, with the same function names: `encode` (what the leader proposes), `decode`, and `apply`
//! (what every replica does, from the same state to the same state).
//!
//! Apply reads no clock and no setting: times, bounds and stamps stand in the command, the schema in the state. It answers
//! bad input with an error in its response and fails only if storage fails or the log is damaged.

pub(crate) mod acknowledge_feed;
pub(crate) mod check_and_mutate;
pub(crate) mod close;
pub(crate) mod discard;
pub(crate) mod drain;
pub(crate) mod read_modify_write;
pub(crate) mod remote;
pub(crate) mod set_schema;
pub(crate) mod write;
