//! Commands: the payloads of a tablet's log. Drawn in docs/formats/commands.md; each operation draws its own body.
//!
//! ```text
//! command := kind u8 | body
//!            1 write · 2 check and mutate · 3 read, modify, write · 4 remote · 5 set schema · 6 close
//!            7 acknowledge feed · 8 drain · 9 discard
//! ```
//! Kinds never change their meaning. A command that does not decode is corruption of the log and stops the replica; it is
//! never skipped, because a replica that skips what another applies has lost the race to be the same.

use crate::apply::Step;
use crate::operation::{
    acknowledge_feed, check_and_mutate, close, discard, drain, read_modify_write, remote, set_schema, write,
};
use crate::state::fault;
use bytes::Bytes;
use tidemark_base::codec::{Malformed, Reader};
use tidemark_consensus::StateMachineFault;

/// A decoded command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Write(write::Write),
    CheckAndMutate(Box<check_and_mutate::CheckAndMutateCommand>),
    ReadModifyWrite(read_modify_write::ReadModifyWriteCommand),
    Remote(remote::Remote),
    SetSchema(set_schema::SetSchema),
    Close(close::Close),
    AcknowledgeFeed(acknowledge_feed::AcknowledgeFeed),
    Drain(drain::Drain),
    Discard(discard::Discard),
}

impl Command {
    /// Reads a whole command. Packed batches in it are checked and share its memory.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Command, Malformed> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let command = match kind {
            write::KIND => Command::Write(write::decode(bytes, &mut r)?),
            check_and_mutate::KIND => Command::CheckAndMutate(Box::new(check_and_mutate::decode(bytes, &mut r)?)),
            read_modify_write::KIND => Command::ReadModifyWrite(read_modify_write::decode(bytes, &mut r)?),
            remote::KIND => Command::Remote(remote::decode(bytes, &mut r)?),
            set_schema::KIND => Command::SetSchema(set_schema::decode(&mut r)?),
            close::KIND => Command::Close(close::decode(&mut r)?),
            acknowledge_feed::KIND => Command::AcknowledgeFeed(acknowledge_feed::decode(&mut r)?),
            drain::KIND => Command::Drain(drain::decode(&mut r)?),
            discard::KIND => Command::Discard(discard::decode(&mut r)?),
            _ => return Err(Malformed("unknown kind of command")),
        };
        crate::codec::done(&r)?;
        Ok(command)
    }

    /// Decodes and applies one command; returns the response.
    pub(crate) fn run(bytes: &Bytes, step: &mut Step<'_>) -> Result<Bytes, StateMachineFault> {
        let command = Command::decode(bytes).map_err(|e| {
            fault(format!(
                "a command in the log does not decode ({}): the log is damaged",
                e.0
            ))
        })?;
        match command {
            Command::Write(command) => write::apply(command, step),
            Command::CheckAndMutate(command) => check_and_mutate::apply(*command, step),
            Command::ReadModifyWrite(command) => read_modify_write::apply(command, step),
            Command::Remote(command) => remote::apply(command, step),
            Command::SetSchema(command) => set_schema::apply(command, step),
            Command::Close(command) => close::apply(command, step),
            Command::AcknowledgeFeed(command) => acknowledge_feed::apply(command, step),
            Command::Drain(command) => drain::apply(command, step),
            Command::Discard(command) => discard::apply(command, step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_decoder_never_panics(kind in 0u8..11, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut command = vec![kind];
            command.extend_from_slice(&bytes);
            let _ = Command::decode(&command.into());
        }
    }
}
