//! Writes: a request is cut by tablets, each part goes to its tablet's leader, and what the tablets say is put together
//! again by the request's rows.
//!
//! Parts of different tablets are written at the same time; a tablet that fails fails its rows only. A row counts as
//! written when every tablet that it touches (a range delete may touch many) has committed it.
//!
//! ```text
//! what its tablets say of one row             the row
//! all: done                                   written
//! all: not done, or all: perhaps done         the first one's error
//! a mixture                                   UNKNOWN_OUTCOME, PARTLY_DONE, with the tablets of each kind
//! ```

use crate::call::Call;
use crate::context::{ServiceContext, TableView, is_unknown};
use crate::errors::{Failure, from_wire, to_wire};
use crate::forward::{Answerer, Forwarding, Repeat, at_leader, onward};
use crate::split::{Piece, Split, split_packed, split_readable};
use futures::future::join_all;
use prost::Message;
use std::collections::BTreeMap;
use tidemark_base::{Error, ErrorKind, PackedBatch, TabletId, limits};
use tidemark_proto::v1;
use tidemark_tablet::Tablet;
use tokio::sync::oneshot;

/// A request, checked and cut.
pub struct Plan {
    table: TableView,
    split: Split,
    epoch: u32,
}

impl Plan {
    /// The tablets that it touches.
    pub fn tablets(&self) -> impl Iterator<Item = TabletId> + '_ {
        self.split.tablets.keys().copied()
    }
}

/// A place in the order in which requests of one stream reach one tablet: a request waits until the one before it was
/// submitted, and says when it was itself.
#[derive(Debug, Default)]
pub struct Place {
    before: Option<oneshot::Receiver<()>>,
    submitted: Option<oneshot::Sender<()>>,
}

impl Place {
    /// The next place in a lane, whose last place `lane` remembers.
    pub fn next(lane: &mut Option<oneshot::Receiver<()>>) -> Place {
        let (sender, receiver) = oneshot::channel();
        Place {
            before: lane.replace(receiver),
            submitted: Some(sender),
        }
    }

    async fn wait(&mut self) {
        if let Some(before) = self.before.take() {
            // An error means that it ended without being submitted.
            let _ = before.await;
        }
    }

    fn say_submitted(&mut self) {
        if let Some(submitted) = self.submitted.take() {
            let _ = submitted.send(());
        }
    }
}

/// The places of a request, by tablet. None = order does not matter, and a tablet that refuses is looked for elsewhere.
pub type Places = Option<BTreeMap<TabletId, Place>>;

/// Answers one Write.
pub async fn write(
    context: &ServiceContext,
    call: &Call,
    request: v1::WriteRequest,
) -> Result<v1::WriteResponse, Failure> {
    let _bytes = context.admission.write(request.encoded_len())?;
    let plan = plan(context, &request).await?;
    drop(request);
    execute(context, call, plan, None).await
}

/// Checks a request and cuts it by tablets.
pub async fn plan(context: &ServiceContext, request: &v1::WriteRequest) -> Result<Plan, Failure> {
    let packed = match (request.rows.is_empty(), request.packed.is_empty()) {
        (true, false) => Some(PackedBatch::parse(request.packed.clone())?),
        (false, true) => None,
        (true, true) => return Err(Error::invalid("BATCH_EMPTY", "the request has no row").into()),
        (false, false) => {
            let error = Error::invalid("BATCH_AMBIGUOUS", "the request has readable rows and a packed batch");
            return Err(error.action("send one of them").into());
        }
    };
    if request.rows.len() > limits::BATCH_ROWS_MAX {
        let message = format!(
            "{} rows are over the limit of {}",
            request.rows.len(),
            limits::BATCH_ROWS_MAX
        );
        return Err(Error::invalid("BATCH_TOO_LARGE", message)
            .action("split it into smaller ones")
            .into());
    }
    let cut = |table: &TableView| -> Result<Plan, Failure> {
        let split = match &packed {
            Some(batch) => split_packed(batch.clone(), table)?,
            None => split_readable(&request.rows, &table.schema, &table.name, table),
        };
        Ok(Plan {
            table: table.clone(),
            split,
            epoch: request.epoch,
        })
    };
    let mut plan = context.with_table(&request.table, cut).await?;
    if !plan.split.failures.values().any(is_unknown) {
        return Ok(plan);
    }
    match context.newer_catalog(plan.table.view.revision).await {
        Ok(false) => {}
        Ok(true) => return context.with_table(&request.table, cut).await,
        // Whether these rows' families exist cannot be known now; the other rows are written.
        Err(unavailable) => {
            let failures = plan.split.failures.values_mut();
            let unknown = failures.filter(|error| is_unknown(error));
            unknown.for_each(|error| *error = unavailable.clone());
        }
    }
    Ok(plan)
}

/// Writes a plan.
pub async fn execute(
    context: &ServiceContext,
    call: &Call,
    plan: Plan,
    mut places: Places,
) -> Result<v1::WriteResponse, Failure> {
    let Plan { table, split, epoch } = plan;
    let ordered = places.is_some();
    let parts = split.tablets.iter().map(|(tablet, pieces)| {
        let place = places
            .as_mut()
            .and_then(|places| places.remove(tablet))
            .unwrap_or_default();
        let job = Job {
            context,
            call,
            table: &table,
            tablet: *tablet,
            epoch,
            ordered,
        };
        job.write(pieces, place)
    });
    let parts: Vec<Part> = join_all(parts).await;
    merge(&split, parts)
}

/// What became of one tablet's part of a request.
#[derive(Debug)]
struct Part {
    tablet: TabletId,
    /// Rows that failed, by their index in the request.
    failures: Vec<(u32, Error)>,
    /// The failure of everything that went to this tablet, if it is one.
    whole: Option<Failure>,
    redirect: Option<v1::Redirect>,
}

/// The part of a request that goes to one tablet.
struct Job<'a> {
    context: &'a ServiceContext,
    call: &'a Call,
    table: &'a TableView,
    tablet: TabletId,
    epoch: u32,
    ordered: bool,
}

impl Job<'_> {
    async fn write(self, pieces: &[Piece], mut place: Place) -> Part {
        let mut part = Part {
            tablet: self.tablet,
            failures: Vec::new(),
            whole: None,
            redirect: None,
        };
        let mut failed = Vec::new();
        place.wait().await;
        for (at, piece) in pieces.iter().enumerate() {
            // Only the last batch opens the way for the next request: the earlier ones are answered before it.
            let signal = (at + 1 == pieces.len()).then(|| place.submitted.take()).flatten();
            match self.write_piece(piece, signal).await {
                Ok((failures, redirect)) => {
                    let rows = failures.into_iter().map(|(row, error)| (piece.request_row(row), error));
                    part.failures.extend(rows);
                    part.redirect = redirect.or(part.redirect);
                }
                Err(failure) => {
                    let rows = piece.request_rows().map(|row| (row, failure.error.clone()));
                    part.failures.extend(rows);
                    failed.push(failure);
                }
            }
        }
        place.say_submitted();
        if failed.len() == pieces.len() {
            // Of several failures the one that promises least.
            part.whole = failed.into_iter().max_by_key(|failure| is_uncertain(&failure.error));
        }
        part
    }

    async fn write_piece(
        &self,
        piece: &Piece,
        signal: Option<oneshot::Sender<()>>,
    ) -> Result<(Vec<(u32, Error)>, Option<v1::Redirect>), Failure> {
        let record = self.table.view.tablets.get(&self.tablet);
        let record = record.ok_or_else(|| Error::internal("a tablet vanished from the catalog's view"))?;
        let how = Forwarding {
            repeat: Repeat::Risky,
            answerer: Answerer::Leader,
            onward: !self.ordered,
        };
        let signal = parking_lot::Mutex::new(signal);
        let local = |tablet: Tablet| {
            let batch = piece.batch.clone();
            let signal = signal.lock().take();
            async move {
                self.context.admission.check_disk()?;
                submit(tablet, batch, self.epoch, signal).await
            }
        };
        let remote = |mut client: v1::data_client::DataClient<_>, left| {
            let request = v1::WriteRequest {
                table: self.table.name.clone(),
                rows: Vec::new(),
                packed: piece.batch.bytes().clone(),
                tablet: self.tablet.0,
                epoch: self.epoch,
            };
            async move {
                let response = client.write(onward(request, left)).await?.into_inner();
                let failures = response.failures.into_iter();
                let failures = failures.map(|row| (row.index, from_wire(&row.error.unwrap_or_default())));
                Ok(failures.collect::<Vec<_>>())
            }
        };
        at_leader(self.context, self.call, record, how, local, remote).await
    }
}

/// Hands a batch to the tablet here. The signal is given when the tablet has it in its queue, which is when the write has
/// been polled once: the next request then stands behind it.
async fn submit(
    tablet: Tablet,
    batch: PackedBatch,
    epoch: u32,
    signal: Option<oneshot::Sender<()>>,
) -> tidemark_base::Result<Vec<(u32, Error)>> {
    let mut write = std::pin::pin!(tablet.write(batch, epoch));
    let first = futures::poll!(write.as_mut());
    if let Some(signal) = signal {
        let _ = signal.send(());
    }
    let outcome = match first {
        std::task::Poll::Ready(outcome) => outcome?,
        std::task::Poll::Pending => write.await?,
    };
    Ok(outcome.failures)
}

/// Puts the parts together. A request that went to one tablet and failed there whole fails whole, so that its caller
/// learns the leader and the delay.
fn merge(split: &Split, parts: Vec<Part>) -> Result<v1::WriteResponse, Failure> {
    let mut failed: BTreeMap<u32, RowOutcome> = BTreeMap::new();
    let mut redirect = None;
    let alone = parts.len() == 1 && split.failures.is_empty();
    for part in parts {
        if let Some(failure) = part.whole.filter(|_| alone) {
            return Err(failure);
        }
        redirect = redirect.or(part.redirect);
        for (row, error) in part.failures {
            failed.entry(row).or_default().errors.push((part.tablet, error));
        }
    }
    if !failed.is_empty() && split.tablets.len() > 1 {
        for (tablet, pieces) in &split.tablets {
            for row in pieces.iter().flat_map(Piece::request_rows) {
                if let Some(outcome) = failed.get_mut(&row) {
                    outcome.asked.push(*tablet);
                }
            }
        }
    }
    let mut failures: BTreeMap<u32, Error> = failed
        .into_iter()
        .map(|(row, outcome)| (row, outcome.error()))
        .collect();
    failures.extend(split.failures.iter().map(|(row, error)| (*row, error.clone())));
    let failed = u32::try_from(failures.len()).unwrap_or(u32::MAX);
    Ok(v1::WriteResponse {
        rows_written: split.rows.saturating_sub(failed),
        failures: failures
            .iter()
            .map(|(index, error)| v1::RowFailure {
                index: *index,
                error: Some(to_wire(error)),
            })
            .collect(),
        redirect,
    })
}

/// True for an error after which the write may be there.
fn is_uncertain(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::UnknownOutcome | ErrorKind::DeadlineExceeded)
}

/// What the tablets say of one row that did not succeed everywhere.
#[derive(Default)]
struct RowOutcome {
    /// The tablets that it touches; not filled where the whole request touches one.
    asked: Vec<TabletId>,
    /// Those of them that failed, and how.
    errors: Vec<(TabletId, Error)>,
}

impl RowOutcome {
    fn error(mut self) -> Error {
        let uncertain = self.errors.iter().filter(|(_, error)| is_uncertain(error)).count();
        let done = self.asked.len().saturating_sub(self.errors.len());
        if done == 0 && (uncertain == 0 || uncertain == self.errors.len()) {
            return self.errors.swap_remove(0).1;
        }
        self.asked
            .retain(|tablet| self.errors.iter().all(|(failed, _)| failed != tablet));
        let (perhaps, not): (Vec<_>, Vec<_>) = self.errors.iter().partition(|(_, error)| is_uncertain(error));
        let said = |(tablet, error): &(TabletId, Error)| format!("{tablet} ({})", error.reason());
        let parts = [
            ("done in", self.asked.iter().map(TabletId::to_string).collect()),
            ("not done in", not.into_iter().map(said).collect()),
            ("perhaps done in", perhaps.into_iter().map(said).collect()),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, tablets): &&(&str, Vec<String>)| !tablets.is_empty())
            .map(|(what, tablets)| format!("{what} {}", listed(tablets)))
            .collect();
        Error::new(ErrorKind::UnknownOutcome, "PARTLY_DONE", parts.join("; "))
            .action("repeat it only if nothing was written to these rows since: a repeat deletes that as well")
    }
}

/// Some names, of a list that may be long.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(tablet: u64, rows: &[u32], whole: bool) -> Part {
        failed_part(tablet, rows, whole, ErrorKind::NotLeader)
    }

    fn failed_part(tablet: u64, rows: &[u32], whole: bool, kind: ErrorKind) -> Part {
        let error = Error::new(kind, kind.name(), "m");
        Part {
            tablet: TabletId(tablet),
            failures: rows.iter().map(|row| (*row, error.clone())).collect(),
            whole: whole.then(|| error.into()),
            redirect: None,
        }
    }

    /// A request of that many rows, with the rows of each tablet.
    fn split(rows: u32, tablets: &[(u64, &[u32])]) -> Split {
        let piece = |rows: &[u32]| {
            let mut builder = tidemark_base::BatchBuilder::new();
            for _ in rows {
                let all = tidemark_base::VersionRange::ALL;
                builder.push_range_delete(&tidemark_base::RowRange::all(), all).unwrap();
            }
            Piece {
                batch: builder.finish().unwrap(),
                indexes: Some(rows.to_vec()),
            }
        };
        Split {
            tablets: tablets
                .iter()
                .map(|(tablet, rows)| (TabletId(*tablet), vec![piece(rows)]))
                .collect(),
            failures: BTreeMap::new(),
            rows,
        }
    }

    #[test]
    fn a_row_that_only_some_of_its_tablets_have_is_partly_done() {
        use ErrorKind::{DeadlineExceeded, NotLeader, UnknownOutcome};
        let (done, row) = (None, [0]);
        for (said, kind, reason) in [
            ([Some(NotLeader), Some(NotLeader)], NotLeader, "NOT_LEADER"),
            ([Some(NotLeader), done], UnknownOutcome, "PARTLY_DONE"),
            ([done, Some(NotLeader)], UnknownOutcome, "PARTLY_DONE"),
            ([done, Some(UnknownOutcome)], UnknownOutcome, "PARTLY_DONE"),
            ([Some(NotLeader), Some(DeadlineExceeded)], UnknownOutcome, "PARTLY_DONE"),
            (
                [Some(UnknownOutcome), Some(DeadlineExceeded)],
                UnknownOutcome,
                "UNKNOWN_OUTCOME",
            ),
        ] {
            let parts = said.iter().zip([2, 3]).map(|(kind, tablet)| match kind {
                Some(kind) => failed_part(tablet, &row, true, *kind),
                None => part(tablet, &[], false),
            });
            let response = merge(&split(1, &[(2, &row), (3, &row)]), parts.collect()).unwrap();
            let error = from_wire(response.failures[0].error.as_ref().unwrap());
            assert_eq!((error.kind(), error.reason()), (kind, reason), "{said:?}");
            if said[1].is_none() {
                assert_eq!(error.message(), "done in tablet-3; not done in tablet-2 (NOT_LEADER)");
            }
            assert_eq!(response.rows_written, 0);
        }
    }

    #[test]
    fn a_request_of_one_tablet_that_fails_whole_fails_as_a_request() {
        let request = split(2, &[(2, &[0, 1])]);
        let failure = merge(&request, vec![part(2, &[0, 1], true)]).unwrap_err();
        assert_eq!(failure.error.kind(), ErrorKind::NotLeader);
    }

    #[test]
    fn one_failed_tablet_fails_its_rows_only_and_a_row_counts_once() {
        let request = split(5, &[(2, &[0, 3]), (3, &[1, 2, 3, 4])]);
        let response = merge(&request, vec![part(2, &[0, 3], true), part(3, &[3], false)]).unwrap();
        assert_eq!(response.rows_written, 3);
        assert_eq!(response.failures.iter().map(|f| f.index).collect::<Vec<_>>(), [0, 3]);
        let mut request = split(2, &[(2, &[0])]);
        request.failures.insert(1, Error::invalid("FAMILY_UNKNOWN", "m"));
        let response = merge(&request, vec![part(2, &[0], true)]).unwrap();
        assert_eq!((response.rows_written, response.failures.len()), (0, 2));
        assert_eq!(response.failures[1].error.as_ref().unwrap().reason, "FAMILY_UNKNOWN");
    }

    #[tokio::test]
    async fn places_in_a_lane_come_one_after_the_other() {
        let mut lane = None;
        let (mut first, mut second, mut third) =
            (Place::next(&mut lane), Place::next(&mut lane), Place::next(&mut lane));
        first.wait().await;
        {
            let waiting = second.wait();
            tokio::pin!(waiting);
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            first.say_submitted();
            waiting.await;
        }
        drop(second);
        third.wait().await;
    }
}
