//! Point reads: rows by their keys, from the leaders of their tablets, in one message.
//!
//! Rows whose newest cells were asked for before are kept ready, and answered at once, however many they are. The newest cells
//! of a few other rows are nearly always in memory. They are read on the thread that has the request: handing it to
//! a thread that may block, and back, costs more than such a read. Where the disk would be asked, or where it turns out to be
//! much, the read begins anew on a blocking thread.

use crate::call::Call;
use crate::context::{ServiceContext, TableView};
use crate::convert::{RowsBuilder, at_most, filter, row_key};
use crate::errors::Failure;
use crate::forward::{Answerer, Forwarding, at_leader, onward};
use crate::split::RowMap;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tidemark_base::cells::{CellsBuilder, PackedCell};
use tidemark_base::{
    CellRef, Error, ErrorKind, FamilyId, ReadFilter, ReadSpec, Result, RowRange, TableSchema, TabletId, limits,
};
use tidemark_proto::v1;
use tidemark_tablet::{ReadEnd, Tablet};

/// An answer, in bytes: one message. Larger ones are for Scan.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Tablets asked at one time for one request.
const TABLETS_AT_ONCE: usize = 16;
/// A read of more rows, or of more versions of a column, goes to a blocking thread at once.
const SHORT_ROWS_MAX: usize = 8;
const SHORT_VERSIONS_MAX: u32 = 4;
/// A read that has seen so much goes on there.
const SHORT_BYTES_MAX: u64 = 64 << 10;

/// Which replicas may answer a read.
pub fn answerer(consistency: i32) -> Result<Answerer> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Linearizable) => Ok(Answerer::Leader),
        Ok(v1::Consistency::Local) => Ok(Answerer::Any),
        Err(_) => Err(Error::invalid(
            "CONSISTENCY_UNKNOWN",
            format!("consistency {consistency} is not known"),
        )),
    }
}

/// Answers one Read.
pub async fn read(
    context: &ServiceContext,
    call: &Call,
    request: v1::ReadRequest,
) -> std::result::Result<v1::ReadResponse, Failure> {
    at_most(
        "ROWS_TOO_MANY",
        "list of rows",
        request.rows.len(),
        limits::READ_RANGES_MAX,
    )?;
    request.rows.iter().try_for_each(|row| row_key(row))?;
    let who = answerer(request.consistency)?;
    let mut rows = request.rows.clone();
    rows.sort();
    rows.dedup();
    let prepare = |table: &TableView| -> std::result::Result<_, Failure> {
        let filter = filter(request.filter.as_ref(), &table.schema, &table.name)?;
        Ok((table.clone(), filter, group(&rows, table)))
    };
    let (table, filter, groups) = context.with_table(&request.table, prepare).await?;
    let asked = groups.into_iter().map(|(tablet, rows)| {
        let part = Part {
            context,
            call,
            table: &table,
            request: &request,
            filter: &filter,
            who,
        };
        part.read(tablet, rows)
    });
    let answers: Vec<_> = stream::iter(asked).buffered(TABLETS_AT_ONCE).try_collect().await?;
    let mut response = v1::ReadResponse::default();
    let mut bytes = 0;
    for (rows, redirect) in answers {
        bytes += rows.bytes;
        if bytes > ANSWER_BYTES_MAX {
            return Err(too_large().into());
        }
        response.rows.extend(rows.rows);
        response.packed.extend(rows.packed);
        response.redirect = redirect.or(response.redirect);
    }
    Ok(response)
}

/// Sorted rows by tablet, in order.
fn group(rows: &[Bytes], map: &impl RowMap) -> Vec<(TabletId, Vec<Bytes>)> {
    let mut groups: Vec<(TabletId, Vec<Bytes>)> = Vec::new();
    let mut current: Option<(&RowRange, usize)> = None;
    for row in rows {
        if let Some((range, at)) = current
            && range.contains(row)
        {
            groups[at].1.push(row.clone());
        } else if let Some((tablet, range)) = map.route(row) {
            current = Some((range, groups.len()));
            groups.push((tablet, vec![row.clone()]));
        }
    }
    groups
}

/// Rows in one of both forms, and how large they are about.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<v1::Row>,
    packed: Vec<Bytes>,
    bytes: usize,
}

struct Part<'a> {
    context: &'a ServiceContext,
    call: &'a Call,
    table: &'a TableView,
    request: &'a v1::ReadRequest,
    filter: &'a ReadFilter,
    who: Answerer,
}

impl Part<'_> {
    async fn read(
        self,
        tablet: TabletId,
        rows: Vec<Bytes>,
    ) -> std::result::Result<(Found, Option<v1::Redirect>), Failure> {
        let record = self.table.view.tablets.get(&tablet);
        let record = record.ok_or_else(|| Error::internal("a tablet vanished from the catalog's view"))?;
        let local = |replica: Tablet| {
            let spec = ReadSpec {
                ranges: rows.iter().map(|row| RowRange::row(row)).collect(),
                filter: self.filter.clone(),
                ..ReadSpec::default()
            };
            self.read_here(replica, spec)
        };
        let remote = |mut client: v1::data_client::DataClient<_>, left| {
            let request = v1::ReadRequest {
                rows: rows.clone(),
                ..self.request.clone()
            };
            async move {
                let response = client.read(onward(request, left)).await?.into_inner();
                Ok(Found {
                    bytes: prost::Message::encoded_len(&response),
                    rows: response.rows,
                    packed: response.packed,
                })
            }
        };
        at_leader(
            self.context,
            self.call,
            record,
            Forwarding::read(self.who),
            local,
            remote,
        )
        .await
    }

    async fn read_here(&self, replica: Tablet, mut spec: ReadSpec) -> Result<Found> {
        spec.normalize()?;
        let turn = self.context.admission.read().await?;
        if self.who == Answerer::Leader {
            replica.read_barrier().await?;
        }
        let names = FamilyNames::of(replica.schema().as_deref().unwrap_or(&self.table.schema));
        let reading = Reading {
            replica,
            spec,
            names,
            packed: self.request.packed,
        };
        if let Some(found) = reading.try_kept() {
            return Ok(found);
        }
        if reading.is_short()
            && let Some(found) = reading.try_in_memory()?
        {
            return Ok(found);
        }
        blocking(move || {
            let _turn = turn;
            reading.collect()
        })
        .await
    }
}

/// One tablet's part of a read, ready to be done.
struct Reading {
    replica: Tablet,
    spec: ReadSpec,
    names: FamilyNames,
    packed: bool,
}

impl Reading {
    fn is_short(&self) -> bool {
        let versions = self.spec.filter.latest;
        self.spec.ranges.len() <= SHORT_ROWS_MAX && versions.is_some_and(|n| n <= SHORT_VERSIONS_MAX)
    }

    /// Reads all of it from rows that are kept ready; `None` if that cannot be, or is too large.
    fn try_kept(&self) -> Option<Found> {
        let mut answer = self.answer();
        let whole = self.replica.read_kept(&self.spec, |cell, _| {
            answer.push(cell, &self.names);
            answer.bytes_len() <= ANSWER_BYTES_MAX
        });
        whole.then(|| answer.finish())
    }

    fn answer(&self) -> Answer {
        match self.packed {
            true => Answer::Packed(CellsBuilder::new()),
            false => Answer::Readable(RowsBuilder::default()),
        }
    }

    /// Reads all of it from memory; `None` if that cannot be, or is much.
    fn try_in_memory(&self) -> Result<Option<Found>> {
        self.gather(true, SHORT_BYTES_MAX)
    }

    /// Reads all of it, on this thread.
    fn collect(&self) -> Result<Found> {
        let found = self.gather(false, u64::MAX)?;
        found.ok_or_else(|| Error::internal("a read without a bound came to one"))
    }

    fn gather(&self, in_memory: bool, visited_max: u64) -> Result<Option<Found>> {
        let mut answer = self.answer();
        let end = self.replica.read_cells(&self.spec, in_memory, |cell, visited| {
            answer.push(cell, &self.names);
            answer.bytes_len() <= ANSWER_BYTES_MAX && visited <= visited_max
        })?;
        match end {
            ReadEnd::All => Ok(Some(answer.finish())),
            _ if answer.bytes_len() > ANSWER_BYTES_MAX => Err(too_large()),
            ReadEnd::Stopped | ReadEnd::NotInMemory => Ok(None),
        }
    }
}

/// Cells in the form that was asked for.
enum Answer {
    Readable(RowsBuilder),
    Packed(CellsBuilder),
}

impl Answer {
    fn push(&mut self, cell: &CellRef<'_>, names: &FamilyNames) {
        let Some(family) = names.get(cell.family) else {
            return;
        };
        match self {
            Answer::Readable(rows) => rows.push(cell.row, family, cell.qualifier, cell.version, cell.value),
            Answer::Packed(cells) => cells.push(PackedCell {
                row: cell.row,
                family: cell.family,
                qualifier: cell.qualifier,
                version: cell.version,
                value: cell.value,
            }),
        }
    }

    fn bytes_len(&self) -> usize {
        match self {
            Answer::Readable(rows) => rows.bytes_len(),
            Answer::Packed(cells) => cells.bytes_len(),
        }
    }

    fn finish(self) -> Found {
        let bytes = self.bytes_len();
        match self {
            Answer::Readable(mut rows) => Found {
                rows: rows.finish(),
                packed: Vec::new(),
                bytes,
            },
            Answer::Packed(cells) if cells.is_empty() => Found::default(),
            Answer::Packed(mut cells) => Found {
                rows: Vec::new(),
                packed: vec![cells.finish()],
                bytes,
            },
        }
    }
}

/// Runs on a thread where blocking harms nobody.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tidemark_runtime::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(format!("a read failed on its thread: {error}"))),
    }
}

/// Names of a table's families by id, for answers.
#[derive(Clone, Debug)]
pub struct FamilyNames(Vec<(FamilyId, String)>);

impl FamilyNames {
    /// Those of a schema.
    pub fn of(schema: &TableSchema) -> FamilyNames {
        FamilyNames(schema.families.iter().map(|f| (f.id, f.name.clone())).collect())
    }

    /// The name of a family; none for one that was dropped a moment ago. At most 64, so a walk is as fast as a table.
    pub fn get(&self, id: FamilyId) -> Option<&str> {
        self.0
            .iter()
            .find(|(family, _)| *family == id)
            .map(|(_, name)| name.as_str())
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        "ANSWER_TOO_LARGE",
        format!("the rows together are over {ANSWER_BYTES_MAX} bytes"),
    )
    .action("use Scan, which streams, or ask for fewer rows")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Halves(RowRange, RowRange);

    impl RowMap for Halves {
        fn route(&self, row: &[u8]) -> Option<(TabletId, &RowRange)> {
            Some(if self.0.contains(row) {
                (TabletId(2), &self.0)
            } else {
                (TabletId(3), &self.1)
            })
        }
        fn overlapping(&self, _: &RowRange) -> Vec<(TabletId, &RowRange)> {
            Vec::new()
        }
    }

    #[test]
    fn rows_are_grouped_by_tablet_in_order() {
        let half = |start: &str, end: Option<&str>| RowRange {
            start: start.to_owned().into(),
            end: end.map(|e| e.to_owned().into()),
        };
        let map = Halves(half("", Some("m")), half("m", None));
        let rows: Vec<Bytes> = ["a", "b", "m", "z"].into_iter().map(Bytes::from).collect();
        let groups = group(&rows, &map);
        assert_eq!(
            groups,
            vec![(TabletId(2), rows[..2].to_vec()), (TabletId(3), rows[2..].to_vec())]
        );
        assert!(group(&[], &map).is_empty());
    }

    #[test]
    fn consistencies() {
        assert_eq!(answerer(0).unwrap(), Answerer::Leader);
        assert_eq!(answerer(1).unwrap(), Answerer::Any);
        assert!(answerer(2).is_err());
    }
}
