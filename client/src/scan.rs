//! Streaming scans that survive a lost node.
//!
//! ```text
//! while ranges are left and the limit is not reached:
//!   tablet := the first of the routing view that has a part of the ranges (the last, in reverse)
//!   stream := Scan of that tablet's part, at its leader
//!   message -> complete rows go out; an open row is kept until it is complete
//!   end     -> the tablet's part is behind us
//!   failure -> the open row is dropped, the routing refreshed, and the rest of the ranges asked for again
//! ```
//! `ranges` shrink as rows come in, so that after any failure they are exactly what is still missing: no row twice, none
//! lost. Between two tablets, or before and after a failure, other writes may come in between; rows are atomic, scans
//! are not.

use crate::call::{Blame, Safety, Verdict, blames_routing, chance, judge, no_tablet, pause_after};
use crate::client::Target;
use crate::error::{ClientError, Failure, Result};
use crate::filter::{Filter, wire_range};
use crate::routing::{RoutingView, ranges_after};
use crate::row::{Row, unpack};
use crate::table::Table;
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tidemark_base::RowRange;
use tidemark_proto::v1;
use tokio::time::Instant;

/// Which replicas may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the scan of a tablet began.
    #[default]
    Linearizable,
    /// Whatever the answering replica has applied.
    Local,
}

/// What to scan.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    pub(crate) ranges: Vec<RowRange>,
    pub(crate) filter: Filter,
    pub(crate) limit: u64,
    pub(crate) reverse: bool,
    pub(crate) consistency: Consistency,
    pub(crate) failover: bool,
}

impl ScanRequest {
    /// The whole table, ascending.
    pub fn all() -> ScanRequest {
        ScanRequest::ranges([RowRange::all()])
    }

    /// The rows that begin with a prefix.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> ScanRequest {
        ScanRequest::ranges([RowRange::prefix(prefix.as_ref())])
    }

    /// The rows of one range.
    pub fn range(range: RowRange) -> ScanRequest {
        ScanRequest::ranges([range])
    }

    /// The rows of several ranges, each row once, in key order. No range, no row.
    pub fn ranges(ranges: impl IntoIterator<Item = RowRange>) -> ScanRequest {
        ScanRequest {
            ranges: sorted(ranges.into_iter().collect()),
            filter: Filter::new(),
            limit: 0,
            reverse: false,
            consistency: Consistency::default(),
            failover: false,
        }
    }

    /// What to let through.
    pub fn filter(mut self, filter: Filter) -> ScanRequest {
        self.filter = filter;
        self
    }

    /// At most that many rows; 0 = all.
    pub fn limit(mut self, rows: u64) -> ScanRequest {
        self.limit = rows;
        self
    }

    /// In descending order of keys.
    pub fn reverse(mut self, reverse: bool) -> ScanRequest {
        self.reverse = reverse;
        self
    }

    /// Which replicas may answer.
    pub fn consistency(mut self, consistency: Consistency) -> ScanRequest {
        self.consistency = consistency;
        self
    }

    /// Whether a scan that began in one region may go on in another when the region is lost. Off by default: the other
    /// region may be some moments behind, so that the answer would be from two moments.
    pub fn failover(mut self, failover: bool) -> ScanRequest {
        self.failover = failover;
        self
    }
}

/// Sorts and joins, so that every row comes once.
fn sorted(mut ranges: Vec<RowRange>) -> Vec<RowRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let mut joined: Vec<RowRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end.as_ref().is_none_or(|end| *end >= range.start) => {
                last.end = match (last.end.take(), range.end) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    _ => None,
                };
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// A running scan: a stream of rows. An error is its last item.
pub struct Scan {
    rows: BoxStream<'static, Result<Row>>,
}

impl Scan {
    pub(crate) fn start(table: Table, request: ScanRequest) -> Scan {
        let walk = Walk::new(table, request);
        let rows = futures::stream::unfold(Some(walk), |walk| async move {
            let mut walk = walk?;
            match walk.next().await {
                Ok(Some(row)) => Some((Ok(row), Some(walk))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Scan { rows: Box::pin(rows) }
    }
}

impl Stream for Scan {
    type Item = Result<Row>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Row>>> {
        self.rows.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scan")
    }
}

/// A tablet's part under way.
struct Part {
    target: Target,
    view: Arc<RoutingView>,
    tablet: usize,
    stream: tonic::Streaming<v1::ScanResponse>,
}

/// Where a scan stands.
struct Walk {
    table: Table,
    request: ScanRequest,
    /// What is still missing.
    ranges: Vec<RowRange>,
    rows_left: u64,
    part: Option<Part>,
    /// Complete rows that were not yet handed out.
    ready: VecDeque<Row>,
    /// A row of which more cells may come.
    open: Option<Row>,
    /// The region that the scan is bound to.
    region: Option<usize>,
    /// The routing view in use, and the one that failed.
    generation: Option<(usize, u64)>,
    stale: Option<u64>,
    blame: Blame,
    failures: u32,
    /// When to give up; moves on with every message that came.
    deadline: Instant,
}

impl Walk {
    fn new(table: Table, request: ScanRequest) -> Walk {
        Walk {
            ranges: request.ranges.clone(),
            rows_left: if request.limit == 0 { u64::MAX } else { request.limit },
            part: None,
            ready: VecDeque::new(),
            open: None,
            region: table.region,
            generation: None,
            stale: None,
            blame: Blame::default(),
            failures: 0,
            deadline: Instant::now() + table.shared.options.retry.deadline,
            table,
            request,
        }
    }

    async fn next(&mut self) -> Result<Option<Row>> {
        loop {
            if self.rows_left == 0 {
                return Ok(None);
            }
            if let Some(row) = self.ready.pop_front() {
                self.rows_left -= 1;
                return Ok(Some(row));
            }
            if self.ranges.is_empty() {
                return Ok(None);
            }
            if let Err(failure) = self.step().await {
                self.recover(failure).await?;
            }
        }
    }

    /// Opens the next part, or takes one message of the part under way.
    async fn step(&mut self) -> std::result::Result<(), Failure> {
        let Some(part) = &mut self.part else {
            let opened = self.open_part().await?;
            self.part = opened;
            return Ok(());
        };
        let bound = self.request.failover && self.table.region.is_none();
        let rpc = async { Ok(part.stream.message().await?) };
        let message = self.table.shared.watched(&part.target, bound, rpc).await?;
        self.failures = 0;
        self.blame = Blame::default();
        self.deadline = Instant::now() + self.table.shared.options.retry.deadline;
        match message {
            Some(message) => self.take(message),
            None => {
                self.end_part();
                Ok(())
            }
        }
    }

    /// `None` if there is nothing to ask for any more.
    async fn open_part(&mut self) -> std::result::Result<Option<Part>, Failure> {
        let shared = &self.table.shared;
        let region = self.region.unwrap_or_else(|| shared.active());
        if !self.request.failover {
            self.region = Some(region);
        }
        let view = shared.routing(region, &self.table.name, self.stale).await?;
        self.generation = Some((region, view.generation));
        let with_a_part = |at: &usize| !view.cut(*at, &self.ranges).is_empty();
        let tablets = 0..view.tablets.len();
        let tablet = if self.request.reverse {
            tablets.rev().find(with_a_part)
        } else {
            tablets.into_iter().find(with_a_part)
        };
        let Some(tablet) = tablet else {
            return Err(no_tablet(&self.table.name));
        };
        let timeout = shared.options.request_timeout;
        let target = shared.target_of(region, Some(view.clone()), Some(tablet), timeout)?;
        let request = v1::ScanRequest {
            table: self.table.name.to_string(),
            ranges: view.cut(tablet, &self.ranges).iter().map(wire_range).collect(),
            filter: Some(self.request.filter.to_wire()),
            rows_limit: if self.rows_left == u64::MAX { 0 } else { self.rows_left },
            reverse: self.request.reverse,
            consistency: match self.request.consistency {
                Consistency::Linearizable => v1::Consistency::Linearizable.into(),
                Consistency::Local => v1::Consistency::Local.into(),
            },
            packed: true,
            tablet: view.tablets[tablet].id,
        };
        // No time limit in the request itself: it would end the stream, however well it runs. Silence is found by the
        // limit on each message.
        let rpc = async { Ok(target.data().scan(request).await?.into_inner()) };
        let stream = shared.watched(&target, self.request.failover, rpc).await?;
        Ok(Some(Part {
            target,
            view,
            tablet,
            stream,
        }))
    }

    fn take(&mut self, message: v1::ScanResponse) -> std::result::Result<(), Failure> {
        let Some(part) = &self.part else { return Ok(()) };
        part.target.learn(message.redirect);
        // Where a message says that everything up to the open row has been sent, that row is complete.
        let reverse = self.request.reverse;
        let reached = |open: &Row| match reverse {
            _ if message.resume_after.is_empty() => false,
            true => message.resume_after <= open.key,
            false => message.resume_after >= open.key,
        };
        let mut rows: Vec<Row> = message.rows.into_iter().map(Row::from).collect();
        if !message.packed.is_empty() {
            rows.extend(unpack(&message.packed, &part.view.family_names).map_err(Failure::local)?);
        }
        // A sign of life between two messages says nothing about the row that is open.
        let mut complete = !rows.is_empty() && !message.row_continues;
        for row in rows {
            match &mut self.open {
                Some(open) if open.key == row.key => open.cells.extend(row.cells),
                _ => {
                    self.close_row();
                    self.open = Some(row);
                }
            }
        }
        complete |= self.open.as_ref().is_some_and(reached);
        if complete {
            self.close_row();
        }
        if !message.resume_after.is_empty() {
            self.leave_behind(&message.resume_after);
        }
        Ok(())
    }

    /// The open row is complete: it may be handed out and need not be asked for again.
    fn close_row(&mut self) {
        if let Some(row) = self.open.take() {
            let key: Bytes = row.key.clone();
            self.ready.push_back(row);
            self.leave_behind(&key);
        }
    }

    fn leave_behind(&mut self, row: &[u8]) {
        ranges_after(&mut self.ranges, row, self.request.reverse);
    }

    /// The tablet has no more: what lies in it is behind us.
    fn end_part(&mut self) {
        self.close_row();
        let Some(part) = self.part.take() else { return };
        // A tablet that ended at its limit has more rows, but then the limit ends the scan as well.
        let behind = &part.view.tablets[part.tablet].range;
        if self.request.reverse {
            let rest = RowRange {
                start: Bytes::new(),
                end: Some(behind.start.clone()),
            };
            self.keep(rest);
        } else {
            match &behind.end {
                Some(end) => self.keep(RowRange {
                    start: end.clone(),
                    end: None,
                }),
                None => self.ranges.clear(),
            }
        }
    }

    fn keep(&mut self, rest: RowRange) {
        for range in &mut self.ranges {
            *range = range.intersect(&rest);
        }
        self.ranges.retain(|range| !range.is_empty());
    }

    /// Pauses before another try, or gives the scan up.
    async fn recover(&mut self, failure: Failure) -> Result<()> {
        self.open = None;
        self.part = None;
        self.failures += 1;
        let error: ClientError = failure.error.clone().after_attempts(self.failures);
        if judge(Safety::Read, &failure, &mut self.blame, self.generation) != Verdict::Retry {
            return Err(error);
        }
        if blames_routing(&failure) {
            self.stale = self.generation.map(|(_, generation)| generation);
        }
        let shared = &self.table.shared;
        let pause = pause_after(self.failures, &shared.options.retry, error.retry_after(), chance());
        if Instant::now() + pause >= self.deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_joined_so_that_no_row_comes_twice() {
        let range = |start: &str, end: Option<&str>| RowRange {
            start: start.to_owned().into(),
            end: end.map(|e| e.to_owned().into()),
        };
        let request = ScanRequest::ranges([
            range("m", Some("p")),
            range("a", Some("c")),
            range("b", Some("d")),
            range("x", Some("x")),
            range("o", None),
            range("q", Some("r")),
        ]);
        assert_eq!(request.ranges, [range("a", Some("d")), range("m", None)]);
    }
}
