//! One step of apply: the state, the engine, and the write batch in which everything that entries change comes together.
//!
//! ```text
//! entries of one call:   write  write  remote  write  check-and-mutate  write …
//!                        |-------- one batch ------|         |---- the next ----|
//!                        facts, feed, cursors, tokens, marks, applied position: one atomic write
//! ```
//! A batch ends with the call, before an entry that reads (it must see what came before), or when it has grown large; never
//! inside an entry. Each commit carries the position of the last entry in it, so a crash leaves a state that replay
//! continues exactly.

use crate::feed::{at_offset, encode_close, encode_write};
use crate::quarantine::family_of;
use crate::state::{KEY_APPLIED, KEY_MARKS, State, fault};
use crate::tokens::{self, Remembered, Token, TokenTerms};
use bytes::Bytes;
use std::sync::Arc;
use tidemark_base::{CellRef, TombstoneRef};
use tidemark_base::{
    Error, ErrorKind, FamilyId, MutationRef, PackedBatch, RowRange, RowRef, Scope, Stamp, TableSchema,
};
use tidemark_consensus::StateMachineFault;
use tidemark_engine::{Engine, EngineError, WriteBatch};
use tidemark_runtime::planted::{Bug, planted};

/// Bytes after which a batch is committed between two entries.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// See the module's drawing.
pub(crate) struct Step<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) engine: &'a dyn Engine,
    batch: Box<dyn WriteBatch + 'a>,
    /// True if the state in memory is ahead of what was committed.
    dirty: bool,
    /// A commit was refused for want of room: nothing of the batch was written.
    no_space: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn new(state: &'a mut State, engine: &'a dyn Engine) -> Step<'a> {
        let batch = engine.write_batch();
        Step {
            state,
            engine,
            batch,
            dirty: false,
            no_space: false,
        }
    }

    /// True if the fault that ended this step is a full disk. The engine holds what was committed before, and nothing else.
    pub(crate) fn no_space(&self) -> bool {
        self.no_space
    }

    /// The batch under construction.
    pub(crate) fn batch(&mut self) -> &mut dyn WriteBatch {
        &mut *self.batch
    }

    /// An entry was applied: its position counts from now on.
    pub(crate) fn entry_done(&mut self) -> Result<(), StateMachineFault> {
        self.dirty = true;
        if self.batch.size().bytes >= BATCH_BYTES_MAX {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits what entries before this one have put, so that a read sees it. Only at the beginning of an entry: what the
    /// entry itself has put would otherwise be torn from its position.
    pub(crate) fn commit(&mut self) -> Result<(), StateMachineFault> {
        if !self.dirty {
            return Ok(());
        }
        self.batch.put_state(KEY_MARKS, &self.state.marks.encode());
        self.batch.put_state(KEY_APPLIED, &self.state.applied.encode());
        let full = std::mem::replace(&mut self.batch, self.engine.write_batch());
        full.commit().map_err(|error| {
            self.no_space = matches!(error, EngineError::NoSpace(_));
            fault(error)
        })?;
        self.dirty = false;
        Ok(())
    }

    /// Checks and remembers stamps that this tablet's leader gave: the first of `count` consecutive ones. INV-20: they lie
    /// above every stamp, local or remote, that stands earlier in the log.
    pub(crate) fn take_local_stamps(&mut self, first: Stamp, count: usize) -> Result<(), StateMachineFault> {
        let marks = &mut self.state.marks;
        if first.hlc <= marks.hlc_max {
            return Err(fault(format!(
                "INV-20: local stamp {first:?} is not above hlc {} that was applied before it",
                marks.hlc_max
            )));
        }
        let last = at_offset(first, (count as u64).saturating_sub(1));
        marks.hlc_max = last.hlc;
        marks.closed = last.hlc;
        Ok(())
    }

    /// Appends rows written here to the feed, if there is a peer to read it (R13, R14). INV-41:
    /// remote facts never come through here.
    pub(crate) fn feed_rows(&mut self, first: Stamp, offsets: Option<&[u32]>, batch: &PackedBatch) {
        if !self.state.has_peers() {
            return;
        }
        // Planted: a record is cut without a look at where its rows end.
        if planted(Bug::RowCutInTheMiddle)
            && let Some([head, tail]) = crate::planted::cut_in_the_middle(first, offsets, batch)
        {
            self.append_feed(&head);
            self.state.marks.last_rows_seq = self.append_feed(&tail);
            return;
        }
        let seq = self.append_feed(&encode_write(first, offsets, batch));
        self.state.marks.last_rows_seq = seq;
    }

    /// Appends a closing stamp to the feed, if there is a peer to read it.
    pub(crate) fn feed_close(&mut self, stamp: Stamp) {
        if self.state.has_peers() {
            self.append_feed(&encode_close(stamp));
        }
    }

    fn append_feed(&mut self, bytes: &[u8]) -> u64 {
        let seq = self.state.marks.feed_next;
        self.batch.put_feed(seq, bytes);
        self.state.marks.feed_next = seq + 1;
        seq
    }

    /// Writes the facts of one row that was written here. All its families live: the verb has checked.
    pub(crate) fn put_local_row(&mut self, row: &RowRef<'_>, stamp: Stamp) {
        put_row(&mut *self.batch, row, stamp, &[]);
        let marks = &mut self.state.marks;
        marks.facts += 1;
        marks.last_stamp = marks.last_stamp.max(stamp);
    }

    /// Writes the facts of one row of a peer, cut to this tablet's range; false if nothing of it lies here. What it says of
    /// families that were dropped here is dead and left out; a row of nothing else counts as applied all the same.
    pub(crate) fn put_remote_row(&mut self, row: &RowRef<'_>, stamp: Stamp) -> bool {
        // Planted: there is nothing to delete, so there is nothing to do.
        if planted(Bug::DeleteOvertakesPut) && self.batch.size().facts == 0 {
            let found = crate::planted::finds_nothing_to_delete(self.engine, row);
            if found {
                return true;
            }
        }
        let schema = self.state.schema.clone();
        let dead = schema.as_ref().map_or(&[][..], |schema| &schema.dropped[..]);
        match row {
            RowRef::Mutation { row: key, .. } if !self.state.range.contains(key) => return false,
            RowRef::Mutation { .. } => put_row(&mut *self.batch, row, stamp, dead),
            RowRef::RangeDelete { start, end, versions } => {
                let range = RowRange {
                    start: Bytes::copy_from_slice(start),
                    end: end.map(Bytes::copy_from_slice),
                };
                let cut = range.intersect(&self.state.range);
                if cut.is_empty() {
                    return false;
                }
                let clipped = RowRef::RangeDelete {
                    start: &cut.start,
                    end: cut.end.as_deref(),
                    versions: *versions,
                };
                put_row(&mut *self.batch, &clipped, stamp, dead);
            }
        }
        let marks = &mut self.state.marks;
        marks.facts += 1;
        if !planted(Bug::HlcNotMerged) {
            marks.hlc_max = marks.hlc_max.max(stamp.hlc);
        }
        true
    }

    /// The schema, or the error that a write ends with while there is none.
    pub(crate) fn schema(&self) -> Result<Arc<TableSchema>, Error> {
        self.state.schema.clone().ok_or_else(schema_pending)
    }

    /// The answer that was given for this token, if it is remembered. The caller has committed before.
    pub(crate) fn remembered(&self, token: &Token, kind: u8) -> Result<Option<Bytes>, StateMachineFault> {
        if !self.state.tokens.contains(token) {
            return Ok(None);
        }
        let value = self.engine.state(&tokens::key(token)).map_err(fault)?;
        let value = value.ok_or_else(|| fault("a token is known whose answer is not in the state"))?;
        let remembered = Remembered::decode(&value).map_err(fault)?;
        if remembered.kind != kind {
            let error = Error::new(
                ErrorKind::FailedPrecondition,
                "TOKEN_REUSED",
                "this idempotency token belongs to an operation of another kind",
            );
            let error = error.action("make a new token for each operation");
            return Ok(Some(crate::response::failed(&error)));
        }
        Ok(Some(remembered.response))
    }

    /// Remembers an answer and forgets the tokens that must go.
    pub(crate) fn remember(&mut self, terms: &TokenTerms, kind: u8, now_ms: u64, response: &Bytes) {
        let order = self.state.tokens.next_order();
        let remembered = Remembered {
            order,
            expiry_ms: terms.expiry_ms,
            kind,
            response: response.clone(),
        };
        self.batch.put_state(&tokens::key(&terms.token), &remembered.encode());
        self.state.tokens.insert(terms.token, order, terms.expiry_ms);
        self.forget_tokens(now_ms, terms.tokens_max as usize);
    }

    /// Forgets expired tokens and those beyond the bound.
    pub(crate) fn forget_tokens(&mut self, now_ms: u64, tokens_max: usize) {
        for token in self.state.tokens.forget(now_ms, tokens_max) {
            self.batch.delete_state(&tokens::key(&token));
        }
    }
}

/// Why nothing can be written to a tablet that has not seen its schema yet.
pub(crate) fn schema_pending() -> Error {
    Error::unavailable(
        "SCHEMA_PENDING",
        "the tablet has not received its schema yet",
        std::time::Duration::from_millis(100),
    )
}

/// The error of a row that names a family which the table does not have.
pub(crate) fn family_unknown(family: FamilyId) -> Error {
    Error::invalid(
        "FAMILY_UNKNOWN",
        format!("family {family} does not belong to the table"),
    )
    .action("create the family: tidemark table alter TABLE --add FAMILY")
}

/// The error of a writer whose epoch is not the table's (R20).
pub(crate) fn epoch_fenced(given: u32, now: u32) -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "EPOCH_FENCED",
        format!("the write carries epoch {given}, the table is in epoch {now}"),
    )
    .action("read the table's routing again and write where it says")
}

/// The moment at which a command with that stamp is evaluated, microseconds. Taken from the stamp, not from a clock: it
/// rises along the log, so what a replica may physically forget can be tied to it (see `time.rs`).
pub(crate) fn evaluation_micros(stamp: Stamp) -> i64 {
    i64::try_from(stamp.ms())
        .unwrap_or(i64::MAX / 1_000)
        .saturating_mul(1_000)
}

/// Writes the facts of one row in normal form (R5): one stamp for all of them. `dead` are families of which nothing is
/// kept, ascending.
fn put_row(out: &mut dyn WriteBatch, row: &RowRef<'_>, stamp: Stamp, dead: &[FamilyId]) {
    match row {
        RowRef::Mutation { row, mutations } => {
            for mutation in mutations.clone() {
                if !dead.is_empty() && family_of(mutation).is_some_and(|f| dead.binary_search(&f).is_ok()) {
                    continue;
                }
                match mutation {
                    MutationRef::Put {
                        family,
                        qualifier,
                        version,
                        value,
                    } => out.put_cell(CellRef {
                        row,
                        family,
                        qualifier,
                        version,
                        stamp,
                        value,
                    }),
                    MutationRef::Delete { scope, versions } => out.put_tombstone(TombstoneRef {
                        row,
                        scope,
                        versions,
                        stamp,
                    }),
                }
            }
        }
        RowRef::RangeDelete { start, end, versions } => out.put_tombstone(TombstoneRef {
            row: start,
            scope: Scope::RowRange { end: *end },
            versions: *versions,
            stamp,
        }),
    }
}
