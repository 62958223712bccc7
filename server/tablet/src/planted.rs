//! Planted bugs (see `tidemark_runtime::planted`) that take more than a line: each is what somebody could have written in
//! good faith. Without the feature every one of them is an empty function.

use crate::apply::Step;
use crate::feed::encode_write;
use crate::operation::write;
use crate::remote::RemoteBatch;
use crate::response::{self, Failures};
use crate::state::cursor_key;
use crate::stream::{Cursor, Taken};
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;
use tidemark_base::codec::Reader;
use tidemark_base::{BatchBuilder, MutationRef, PackedBatch, ReadSpec, Result, RowRef, Stamp};
use tidemark_engine::Engine;
use tidemark_runtime::planted::{Bug, planted};

/// How long a hasty leader waits for a quorum.
const HASTE: Duration = Duration::from_millis(50);

/// [`Bug::AckBeforeQuorum`]: what a write is answered whose quorum is slow. Only writes: the other verbs answer with what
/// apply found, which nobody knows yet.
pub(crate) fn hasty_answer(command: &Bytes) -> Option<Bytes> {
    if !planted(Bug::AckBeforeQuorum) {
        return None;
    }
    let mut reader = Reader::new(command);
    if reader.u8().ok()? != write::KIND {
        return None;
    }
    let written = write::decode(command, &mut reader).ok()?;
    let none_failed = vec![Failures::new(); written.batches.len()];
    Some(response::encode_write(&none_failed).into())
}

/// Gives the outcome if it comes in time, and the answer if not.
pub(crate) async fn answer_in_haste(outcome: impl Future<Output = Result<Bytes>>, answer: Bytes) -> Result<Bytes> {
    tokio::time::timeout(HASTE, outcome).await.unwrap_or(Ok(answer))
}

/// [`Bug::CursorBeforeApply`]: the position of a batch is written down although the batch was refused.
pub(crate) fn keep_position(step: &mut Step<'_>, batch: &RemoteBatch) {
    if !planted(Bug::CursorBeforeApply) {
        return;
    }
    let known = step.state.cursors.get(&batch.stream).cloned();
    let mut cursor = known.unwrap_or_else(|| Cursor::new(batch.range.clone()));
    cursor.take(Taken {
        first: batch.first_seq,
        last: batch.last_seq,
        closed_hlc: batch.closed_hlc,
    });
    if cursor.ahead_len() <= crate::stream::AHEAD_MAX {
        step.batch().put_state(&cursor_key(batch.stream), &cursor.encode());
        step.state.cursors.insert(batch.stream, cursor);
    }
}

/// [`Bug::DeleteOvertakesPut`]: true for a row mutation of deletes alone whose row holds nothing.
pub(crate) fn finds_nothing_to_delete(engine: &dyn Engine, row: &RowRef<'_>) -> bool {
    let RowRef::Mutation { row, mutations } = row else {
        return false;
    };
    let deletes = mutations.clone().all(|m| matches!(m, MutationRef::Delete { .. }));
    let finds_a_cell = || engine.read(&ReadSpec::row(row), 0)?.advance();
    deletes && finds_a_cell().is_ok_and(|found| !found)
}

/// [`Bug::RowCutInTheMiddle`]: two feed records of one batch, of which the first ends inside its last row mutation. None
/// if there is nothing to cut there.
pub(crate) fn cut_in_the_middle(first: Stamp, offsets: Option<&[u32]>, batch: &PackedBatch) -> Option<[Vec<u8>; 2]> {
    let last = batch.rows_len().checked_sub(1)?;
    let (mut head, mut tail) = (BatchBuilder::new(), BatchBuilder::new());
    for (index, row) in batch.rows().enumerate() {
        let RowRef::Mutation { row, mutations } = row else {
            return None;
        };
        let count = mutations.clone().count();
        let kept = if index == last { count / 2 } else { count };
        if kept == 0 {
            return None;
        }
        head.begin_row(row).ok()?;
        mutations.clone().take(kept).try_for_each(|m| head.push(m)).ok()?;
        head.end_row().ok()?;
        if kept < count {
            tail.begin_row(row).ok()?;
            mutations.skip(kept).try_for_each(|m| tail.push(m)).ok()?;
            tail.end_row().ok()?;
        }
    }
    let offset = offsets.map_or(last as u32, |offsets| offsets[last]);
    Some([
        encode_write(first, offsets, &head.finish()?),
        encode_write(first, Some(&[offset]), &tail.finish()?),
    ])
}
