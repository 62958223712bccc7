//! From a run of one stream to a batch for each tablet of this region (R16): pure.
//!
//! ```text
//!   origin's tablet      [a ─────────────────────── p)      records first..=last
//!   tablets here     [.. ── c)[c ─────── k)[k ──────── z)
//!                        │         │          │
//!                       batch     batch      batch          each covers first..=last, also without a row in it
//! ```
//! Every tablet that shares rows with the stream gets the whole sequence range, because each keeps its own cursor and
//! watermark of the stream; without the empty ones a tablet that gets no rows would hold everybody's watermark back.
//!
//! A row mutation is never cut: all of it goes to the one tablet that holds its row (O12). The delete of a row range is
//! clipped to each tablet that it reaches; its stamp stays, so the pieces are together what the whole was. Stamps are
//! kept as offsets from the batch's first stamp, so rows may be left out.
//!
//! A record that cannot be taken apart may hold rows of every tablet that shares rows with the stream. So each of them
//! gets it as unreadable and holds its `complete`, and with it its garbage, for it (R12, R17); to pin only one would let
//! the others' watermarks pass a row that they may lack (INV-40). Its bytes go to the first alone: they are evidence, and
//! once is enough.

use crate::run::RunRecord;
use bytes::Bytes;
use tidemark_base::{BatchBuilder, PackedBatch, Result, RowRange, RowRef, Stamp, TabletId};
use tidemark_tablet::{FeedEntry, RemoteBatch, RemotePart, StreamId, UnreadableRecord};

/// A record as the receiver understands it.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// Local facts of the origin.
    Write {
        /// Position in the stream.
        seq: u64,
        /// Stamp of the first row.
        first: Stamp,
        /// Offset of each row's stamp from it.
        offsets: Vec<u32>,
        /// The rows.
        batch: PackedBatch,
        /// The record as it came, should it turn out not to fit.
        body: Bytes,
    },
    /// Nothing at or below that stamp will follow.
    Close {
        /// Position in the stream.
        seq: u64,
        /// The stamp.
        stamp: Stamp,
    },
    /// To be kept for an operator.
    Unreadable(UnreadableRecord),
}

/// What a run says, before it is cut.
#[derive(Clone, Debug, Default)]
pub struct DecodedRun {
    /// Its records, in order.
    pub records: Vec<Decoded>,
    /// The greatest stamp's time in it; 0 if none could be read. What R8 compares with the local clock.
    pub hlc_max: u64,
    /// The origin is complete up to here at the run's last record. It falls behind, never ahead, if the last records
    /// cannot be read: closed times rise along a feed.
    pub closed_hlc: u64,
    /// Row mutations.
    pub rows: u64,
    /// Time of the first record that carries rows.
    pub oldest_rows_hlc: Option<u64>,
}

/// Takes a run's records apart. Nothing fails: what cannot be read becomes [`Decoded::Unreadable`].
pub fn decode_records(records: Vec<RunRecord>) -> DecodedRun {
    let mut run = DecodedRun::default();
    for record in records {
        let decoded = decode_record(record);
        match &decoded {
            Decoded::Write {
                first, offsets, batch, ..
            } => {
                let last = first
                    .hlc
                    .saturating_add(offsets.iter().copied().max().unwrap_or(0).into());
                run.hlc_max = run.hlc_max.max(last);
                run.closed_hlc = run.closed_hlc.max(last);
                run.rows += batch.rows_len() as u64;
                run.oldest_rows_hlc.get_or_insert(first.hlc);
            }
            Decoded::Close { stamp, .. } => {
                run.hlc_max = run.hlc_max.max(stamp.hlc);
                run.closed_hlc = run.closed_hlc.max(stamp.hlc);
            }
            // Nobody knows its time, but it may be a write: it counts as one, as old as what was complete before it.
            Decoded::Unreadable(_) => {
                run.oldest_rows_hlc.get_or_insert(run.closed_hlc);
            }
        }
        run.records.push(decoded);
    }
    run
}

fn decode_record(record: RunRecord) -> Decoded {
    let RunRecord { seq, body, unreadable } = record;
    if let Some(cause) = unreadable {
        return unreadable_record(seq, cause, body);
    }
    match FeedEntry::decode(&body) {
        Ok(FeedEntry::Write { first, offsets, batch }) => {
            let offsets = offsets.unwrap_or_else(|| (0..batch.rows_len() as u32).collect());
            if offsets.len() != batch.rows_len() {
                return unreadable_record(seq, "stamps and rows differ in number".to_owned(), body);
            }
            if batch.has_server_versions() {
                return unreadable_record(seq, "a put whose version was never assigned".to_owned(), body);
            }
            Decoded::Write {
                seq,
                first,
                offsets,
                batch,
                body,
            }
        }
        Ok(FeedEntry::Close { stamp }) => Decoded::Close { seq, stamp },
        Err(error) => unreadable_record(seq, error.to_string(), body),
    }
}

fn unreadable_record(seq: u64, cause: String, bytes: Bytes) -> Decoded {
    Decoded::Unreadable(UnreadableRecord {
        seq,
        cause,
        bytes: Some(bytes),
    })
}

/// What is cut: one stream's records `first_seq..=last_seq`.
#[derive(Clone, Debug)]
pub struct Run {
    /// The stream.
    pub stream: StreamId,
    /// By which link it was let in, as this region's schema numbers it.
    pub link: u64,
    /// The rows of the stream's tablet.
    pub range: RowRange,
    /// First sequence covered.
    pub first_seq: u64,
    /// Last sequence covered.
    pub last_seq: u64,
    /// The records.
    pub decoded: DecodedRun,
}

/// One batch for each of `tablets`, which are those that share rows with the run's range, in range order; not empty.
pub fn cut(run: Run, tablets: &[(TabletId, RowRange)]) -> Vec<(TabletId, RemoteBatch)> {
    let mut batches: Vec<(TabletId, RemoteBatch)> = tablets
        .iter()
        .map(|(tablet, _)| {
            let batch = RemoteBatch {
                stream: run.stream,
                link: run.link,
                range: run.range.clone(),
                first_seq: run.first_seq,
                last_seq: run.last_seq,
                closed_hlc: run.decoded.closed_hlc,
                parts: Vec::new(),
                unreadable: Vec::new(),
            };
            (*tablet, batch)
        })
        .collect();
    for record in run.decoded.records {
        let misfit = match record {
            Decoded::Close { .. } => None,
            Decoded::Unreadable(record) => Some(record),
            Decoded::Write {
                seq,
                first,
                offsets,
                batch,
                body,
            } => match cut_write(seq, first, &offsets, &batch, &run.range, tablets) {
                Ok(parts) => {
                    for (at, part) in parts {
                        batches[at].1.parts.push(part);
                    }
                    None
                }
                Err(cause) => Some(UnreadableRecord {
                    seq,
                    cause,
                    bytes: Some(body),
                }),
            },
        };
        if let Some(record) = misfit {
            pin_all(&mut batches, record);
        }
    }
    batches
}

/// Puts a record that may concern every tablet into each batch, its bytes into the first.
fn pin_all(batches: &mut [(TabletId, RemoteBatch)], record: UnreadableRecord) {
    let Some(((keeper, first), others)) = batches.split_first_mut() else {
        return;
    };
    for (_, batch) in others {
        batch.unreadable.push(UnreadableRecord {
            seq: record.seq,
            cause: format!("kept in {keeper}: {}", record.cause),
            bytes: None,
        });
    }
    first.unreadable.push(record);
}

/// The parts of one write, each with the index of its tablet. Fails if a row lies outside the stream's range or outside
/// every tablet: then the whole record is kept for an operator, because a part of it would not be all of it.
fn cut_write(
    seq: u64,
    first: Stamp,
    offsets: &[u32],
    batch: &PackedBatch,
    range: &RowRange,
    tablets: &[(TabletId, RowRange)],
) -> std::result::Result<Vec<(usize, RemotePart)>, String> {
    let mut routes = Vec::with_capacity(offsets.len());
    for row in batch.rows() {
        routes.push(route(&row, range, tablets)?);
    }
    let only = routes.first().cloned().unwrap_or(Route::None);
    if let Route::Whole(at) = only
        && routes.iter().all(|route| *route == only)
    {
        let part = RemotePart {
            first,
            offsets: offsets.to_vec(),
            batch: batch.clone(),
            seq,
        };
        return Ok(vec![(at, part)]);
    }
    let mut parts = Vec::new();
    for (at, (_, tablet_range)) in tablets.iter().enumerate() {
        let kept: Vec<u32> = routes
            .iter()
            .zip(offsets)
            .filter(|(route, _)| route.reaches(at))
            .map(|(_, offset)| *offset)
            .collect();
        let clipped = routes
            .iter()
            .any(|route| route.reaches(at) && matches!(route, Route::Clipped(..)));
        let share = match clipped {
            true => clip(batch, &routes, at, tablet_range).map_err(|error| error.to_string())?,
            false => batch.subset(|row| routes[row].reaches(at)),
        };
        if let Some(share) = share {
            parts.push((
                at,
                RemotePart {
                    first,
                    offsets: kept,
                    batch: share,
                    seq,
                },
            ));
        }
    }
    Ok(parts)
}

/// Where a row goes, as indexes into the list of tablets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// To one tablet, as it is.
    Whole(usize),
    /// A range delete that reaches tablets `from..to`, clipped to each.
    Clipped(usize, usize),
    /// There is no row.
    None,
}

impl Route {
    fn reaches(&self, at: usize) -> bool {
        match self {
            Route::Whole(tablet) => *tablet == at,
            Route::Clipped(from, to) => (*from..*to).contains(&at),
            Route::None => false,
        }
    }
}

fn route(row: &RowRef<'_>, range: &RowRange, tablets: &[(TabletId, RowRange)]) -> std::result::Result<Route, String> {
    match row {
        RowRef::Mutation { row, .. } => {
            if !range.contains(row) {
                return Err("a row lies outside the range of its stream".to_owned());
            }
            let after = tablets.partition_point(|(_, range)| range.start[..] <= **row);
            let at = after
                .checked_sub(1)
                .filter(|at| tablets[*at].1.contains(row))
                .ok_or("no tablet here holds the row")?;
            Ok(Route::Whole(at))
        }
        RowRef::RangeDelete { start, end, .. } => {
            let deleted = RowRange {
                start: Bytes::copy_from_slice(start),
                end: end.map(Bytes::copy_from_slice),
            };
            if deleted.intersect(range) != deleted {
                return Err("a deleted range reaches outside the range of its stream".to_owned());
            }
            let reached: Vec<usize> = (0..tablets.len())
                .filter(|at| tablets[*at].1.overlaps(&deleted))
                .collect();
            match (reached.first(), reached.last()) {
                (Some(only), Some(last)) if only == last && tablets[*only].1.intersect(&deleted) == deleted => {
                    Ok(Route::Whole(*only))
                }
                (Some(first), Some(last)) => Ok(Route::Clipped(*first, last + 1)),
                _ => Err("no tablet here holds a row of the deleted range".to_owned()),
            }
        }
    }
}

/// The rows of a batch that reach one tablet, range deletes clipped to it.
fn clip(batch: &PackedBatch, routes: &[Route], at: usize, tablet: &RowRange) -> Result<Option<PackedBatch>> {
    let mut builder = BatchBuilder::new();
    for (row, route) in batch.rows().zip(routes) {
        if !route.reaches(at) {
            continue;
        }
        match row {
            RowRef::Mutation { row, mutations } => {
                builder.begin_row(row)?;
                for mutation in mutations {
                    builder.push(mutation)?;
                }
                builder.end_row()?;
            }
            RowRef::RangeDelete { start, end, versions } => {
                let deleted = RowRange {
                    start: Bytes::copy_from_slice(start),
                    end: end.map(Bytes::copy_from_slice),
                };
                builder.push_range_delete(&deleted.intersect(tablet), versions)?;
            }
        }
    }
    Ok(builder.finish())
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
