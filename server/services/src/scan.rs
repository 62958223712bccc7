//! Scans: the tablets of the ranges one after the other, each from its leader, as one stream of messages.
//!
//! ```text
//! legs:    tablet by tablet, in the scan's direction
//! here:    read barrier -> a blocking thread reads the engine -> a short channel -> the stream
//! there:   the same Scan with `tablet` set, at the leader -> its messages, as they are
//! quiet:   a leg that finds nothing for half a second sends an empty message with the place to resume after
//! ```
//! Every tablet is read at one moment of its own. The stream ends early where the client goes away, where it does not
//! read for a minute, or with the first error: the client resumes after the last complete row.

use crate::admission::Turn;
use crate::call::{Call, DATA_LIMIT, STALL};
use crate::context::{ServiceContext, TableView};
use crate::convert::{filter, row_ranges};
use crate::errors::{Failure, from_status};
use crate::forward::{Answerer, Forwarding, at_leader, onward};
use crate::read::{FamilyNames, answerer, blocking};
use crate::scan_message::{Assembler, RowCounter};
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::{Error, ErrorKind, ReadSpec, Result, RowRange, TabletId};
use tidemark_proto::v1;
use tidemark_runtime::SharedClock;
use tidemark_runtime::blocking::{HandoverSender, handover};
use tidemark_tablet::Tablet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Messages between the reader and the client, about 256 KiB each.
const MESSAGES_AHEAD: usize = 4;
/// After that long without a message an empty one is sent.
const QUIET: Duration = Duration::from_millis(500);

type Message = std::result::Result<v1::ScanResponse, Status>;

/// Answers one Scan: checks it, opens its first tablet, and leaves the rest to a task.
pub async fn scan(
    context: &ServiceContext,
    call: &Call,
    request: v1::ScanRequest,
) -> std::result::Result<ReceiverStream<Message>, Failure> {
    let turn = Arc::new(context.admission.scan()?);
    let mut scan = Scan::plan(context.clone(), call.clone(), request, turn).await?;
    // Before the answer begins, so that the commonest errors are a plain status.
    let first = match scan.legs.next() {
        Some(leg) => Some((scan.open(&leg, call).await?, leg)),
        None => None,
    };
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    crate::call::spawn_stream("scan", sender.clone(), async move {
        let outcome = scan.run(first, &sender).await;
        // Its turn is free before the client is told.
        drop(scan);
        if let Err(failure) = outcome {
            tracing::debug!(error = %failure.error, "scan ended");
            // The client may be the one that left, or that does not read.
            let _ = sender.send_timeout(Err(failure.into()), STALL).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// One tablet's part of a scan.
#[derive(Clone, Debug)]
struct Leg {
    tablet: TabletId,
    ranges: Vec<RowRange>,
}

/// Where a leg is read.
enum Opened {
    Here(Tablet),
    There(Box<Streaming<v1::ScanResponse>>, Option<v1::Redirect>),
}

struct Scan {
    context: ServiceContext,
    call: Call,
    request: v1::ScanRequest,
    table: TableView,
    spec: ReadSpec,
    who: Answerer,
    legs: std::vec::IntoIter<Leg>,
    turn: Arc<Turn>,
    /// Rows still wanted.
    left: Option<u64>,
}

impl Scan {
    async fn plan(
        context: ServiceContext,
        call: Call,
        request: v1::ScanRequest,
        turn: Arc<Turn>,
    ) -> std::result::Result<Scan, Failure> {
        let who = answerer(request.consistency)?;
        let mut spec = ReadSpec {
            ranges: row_ranges(&request.ranges)?,
            reverse: request.reverse,
            ..ReadSpec::default()
        };
        spec.normalize()?;
        let prepare = |table: &TableView| -> std::result::Result<_, Failure> {
            let filter = filter(request.filter.as_ref(), &table.schema, &table.name)?;
            Ok((table.clone(), filter, legs(table, &spec, request.tablet)?))
        };
        let (table, filter, legs) = context.with_table(&request.table, prepare).await?;
        spec.filter = filter;
        Ok(Scan {
            left: (request.rows_limit > 0).then_some(request.rows_limit),
            legs: legs.into_iter(),
            context,
            call,
            request,
            table,
            spec,
            who,
            turn,
        })
    }

    async fn run(
        &mut self,
        first: Option<(Opened, Leg)>,
        out: &mpsc::Sender<Message>,
    ) -> std::result::Result<(), Failure> {
        let mut next = first;
        while let Some((opened, leg)) = next {
            let rows = match opened {
                Opened::Here(tablet) => self.read_here(tablet, &leg, out).await?,
                Opened::There(stream, redirect) => self.read_there(*stream, redirect, out).await?,
            };
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(rows);
                if *left == 0 {
                    return Ok(());
                }
            }
            next = match self.legs.next() {
                Some(leg) => {
                    let call = self.call.renewed(DATA_LIMIT);
                    Some((self.open(&leg, &call).await?, leg))
                }
                None => None,
            };
        }
        Ok(())
    }

    /// Finds who reads a leg; a leader has confirmed its leadership afterwards.
    async fn open(&self, leg: &Leg, call: &Call) -> std::result::Result<Opened, Failure> {
        let record = self.table.view.tablets.get(&leg.tablet);
        let record = record.ok_or_else(|| Error::internal("a tablet vanished from the catalog's view"))?;
        let who = self.who;
        let local = |replica: Tablet| async move {
            if who == Answerer::Leader {
                replica.read_barrier().await?;
            }
            Ok(Opened::Here(replica))
        };
        let remote = |mut client: v1::data_client::DataClient<_>, left| {
            let request = v1::ScanRequest {
                ranges: leg.ranges.iter().map(crate::convert::wire_range).collect(),
                rows_limit: self.left.unwrap_or(0),
                tablet: leg.tablet.0,
                ..self.request.clone()
            };
            async move {
                let stream = client.scan(onward(request, left)).await?.into_inner();
                Ok(Opened::There(Box::new(stream), None))
            }
        };
        let how = Forwarding::read(who);
        let (opened, redirect) = at_leader(&self.context, call, record, how, local, remote).await?;
        Ok(match opened {
            Opened::There(stream, _) => Opened::There(stream, redirect),
            here => here,
        })
    }

    /// Reads a leg on a blocking thread; returns the rows it had.
    async fn read_here(
        &self,
        tablet: Tablet,
        leg: &Leg,
        out: &mpsc::Sender<Message>,
    ) -> std::result::Result<u64, Failure> {
        let (sender, receiver) = handover(2);
        let reader = Reader {
            spec: ReadSpec {
                ranges: leg.ranges.clone(),
                rows_limit: self.left,
                ..self.spec.clone()
            },
            names: FamilyNames::of(tablet.schema().as_deref().unwrap_or(&self.table.schema)),
            packed: self.request.packed,
            clock: self.context.clock.clone(),
            tablet,
        };
        let turn = self.turn.clone();
        let reading = tokio::spawn(blocking(move || {
            // The thread counts as a scan until it ends, also when the client left before.
            let _turn = turn;
            reader.run(&sender)
        }));
        relay(receiver, out).await?;
        let rows = reading
            .await
            .map_err(|error| Error::internal(format!("a scan failed on its thread: {error}")))?;
        Ok(rows?)
    }

    /// Passes on what the leader of a leg sends; returns the rows it had.
    async fn read_there(
        &self,
        mut stream: Streaming<v1::ScanResponse>,
        mut redirect: Option<v1::Redirect>,
        out: &mpsc::Sender<Message>,
    ) -> std::result::Result<u64, Failure> {
        let mut counter = RowCounter::default();
        loop {
            let message = stream.message().await.map_err(|status| broken(&status))?;
            let Some(mut message) = message else {
                return Ok(counter.rows());
            };
            if self.left.is_some() {
                counter.add(&message);
            }
            message.redirect = redirect.take();
            send(out, message).await?;
        }
    }
}

/// The tablets that a scan visits, in its direction, each with its part of the ranges.
fn legs(table: &TableView, spec: &ReadSpec, only: u64) -> std::result::Result<Vec<Leg>, Failure> {
    let mut legs = Vec::new();
    let mut known = only == 0;
    for tablet in table
        .view
        .tablets_of(table.id)
        .filter(|tablet| only == 0 || tablet.id.0 == only)
    {
        known = true;
        let ranges = cut(&spec.ranges, &tablet.range);
        if !ranges.is_empty() {
            legs.push(Leg {
                tablet: tablet.id,
                ranges,
            });
        }
    }
    if !known {
        let message = format!("table {} has no tablet {only}", table.name);
        let error = Error::new(ErrorKind::NotFound, "TABLET_UNKNOWN", message);
        return Err(error
            .action("ask for the table's routing again, or leave the tablet out")
            .into());
    }
    if spec.reverse {
        legs.reverse();
    }
    Ok(legs)
}

/// The part of normalised ranges inside a tablet's. No range at all is every row.
fn cut(ranges: &[RowRange], tablet: &RowRange) -> Vec<RowRange> {
    if ranges.is_empty() {
        return vec![tablet.clone()];
    }
    let parts = ranges.iter().map(|range| range.intersect(tablet));
    parts.filter(|range| !range.is_empty()).collect()
}

/// Passes on what the reader makes; while it makes nothing, says so. A quiet message repeats where the last one left the
/// scan: a row that is open stays open.
async fn relay(mut receiver: mpsc::Receiver<v1::ScanResponse>, out: &mpsc::Sender<Message>) -> Result<()> {
    let mut quiet = v1::ScanResponse::default();
    loop {
        match tokio::time::timeout(QUIET, receiver.recv()).await {
            Ok(Some(message)) => {
                quiet.row_continues = message.row_continues;
                quiet.resume_after.clone_from(&message.resume_after);
                send(out, message).await?;
            }
            Ok(None) => return Ok(()),
            Err(_) => send(out, quiet.clone()).await?,
        }
    }
}

async fn send(out: &mpsc::Sender<Message>, message: v1::ScanResponse) -> Result<()> {
    out.send_timeout(Ok(message), STALL).await.map_err(|_| {
        Error::unavailable(
            "SCAN_STALLED",
            "the client took nothing for too long, or left",
            Duration::from_millis(100),
        )
        .action("scan again from after the last complete row")
    })
}

/// A leg that broke under way: nothing but reading was done, so the scan may be resumed.
fn broken(status: &Status) -> Failure {
    let failure = from_status(status);
    match failure.error.kind() {
        ErrorKind::UnknownOutcome => {
            let message = format!("the connection to a tablet's leader broke: {}", failure.error.message());
            Error::unavailable("SCAN_INTERRUPTED", message, Duration::from_millis(100))
                .action("scan again from after the last complete row")
                .into()
        }
        _ => failure,
    }
}

/// What the blocking thread has.
struct Reader {
    tablet: Tablet,
    spec: ReadSpec,
    names: FamilyNames,
    packed: bool,
    clock: SharedClock,
}

impl Reader {
    fn run(self, out: &HandoverSender<v1::ScanResponse>) -> Result<u64> {
        let engine = self.tablet.engine();
        let error = tidemark_tablet::engine_error;
        let mut cursor = engine.read(&self.spec, self.tablet.now_micros()).map_err(error)?;
        let mut assembler = Assembler::new(self.packed, self.names);
        while cursor.advance().map_err(error)? {
            let start = cursor.is_row_start();
            let message = assembler.push(&cursor.cell(), start, self.clock.monotonic());
            if let Some(message) = message
                && out.send(message).is_err()
            {
                return Ok(assembler.rows());
            }
        }
        if let Some(message) = assembler.finish() {
            // The other end went away: so did the client.
            let _ = out.send(message);
        }
        Ok(assembler.rows())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn range(start: &str, end: Option<&str>) -> RowRange {
        RowRange {
            start: start.to_owned().into(),
            end: end.map(|end| end.to_owned().into()),
        }
    }

    #[test]
    fn ranges_are_cut_to_the_tablet() {
        let tablet = range("f", Some("p"));
        assert_eq!(cut(&[], &tablet), vec![tablet.clone()]);
        let ranges = [range("a", Some("c")), range("d", Some("g")), range("o", None)];
        assert_eq!(
            cut(&ranges, &tablet),
            vec![range("f", Some("g")), range("o", Some("p"))]
        );
        assert!(cut(&[range("", Some(""))], &tablet).is_empty());
    }

    #[tokio::test]
    async fn a_quiet_message_leaves_an_open_row_open() {
        let (reader, receiver) = mpsc::channel(1);
        let (out, mut client) = mpsc::channel(MESSAGES_AHEAD);
        let relaying = tokio::spawn(async move { relay(receiver, &out).await });
        for row_continues in [true, false] {
            let message = v1::ScanResponse {
                packed: "cells".into(),
                row_continues,
                resume_after: "a".into(),
                ..v1::ScanResponse::default()
            };
            reader.send(message.clone()).await.unwrap();
            assert_eq!(client.recv().await.unwrap().unwrap(), message);
            let quiet = v1::ScanResponse {
                packed: Bytes::new(),
                ..message
            };
            assert_eq!(client.recv().await.unwrap().unwrap(), quiet);
        }
        drop(reader);
        relaying.await.unwrap().unwrap();
    }

    #[test]
    fn an_interrupted_scan_may_be_resumed() {
        let failure = broken(&Status::unavailable("reset"));
        assert_eq!(
            (failure.error.kind(), failure.error.reason()),
            (ErrorKind::Unavailable, "SCAN_INTERRUPTED")
        );
    }
}
