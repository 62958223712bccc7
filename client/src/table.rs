//! [`Table`]: reads and writes of one table, one request at a time. For many writes use [`Table::writer`].

use crate::call::{Call, Safety};
use crate::client::{Shared, Target};
use crate::error::{ClientError, Failure, Reach, Result};
use crate::filter::{Filter, wire_range};
use crate::mutation::{RowMutation, Unencodable, family_unknown};
use crate::row::Row;
use crate::scan::{Scan, ScanRequest};
use crate::writer::{Writer, WriterOptions, Written};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use rand::RngCore;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_base::{BatchBuilder, ErrorKind, PackedBatch, RowRange, VersionRange, limits};
use tidemark_proto::v1;

/// Row keys in one read request.
const READ_KEYS_MAX: usize = 1_000;
/// Read requests under way at once.
const READS_AT_ONCE: usize = 8;

/// A handle of a table. Cheap to clone; follows the client's active region.
#[derive(Clone, Debug)]
pub struct Table {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Arc<str>,
    /// A region by index; `None` = the active one.
    pub(crate) region: Option<usize>,
}

/// How much a scan would return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Count {
    /// Rows with at least one visible cell that matches.
    pub rows: u64,
    /// Such cells.
    pub cells: u64,
}

/// A digest of a table's visible cells, independent of their order: equal hashes, equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Rows.
    pub rows: u64,
    /// Cells.
    pub cells: u64,
    /// Over the cells as readers see them.
    pub content_hash: [u8; 16],
    /// Over the cells with their stamps: equal in two regions only if every winner is the same write.
    pub stamps_hash: [u8; 16],
}

/// One step of [`Table::read_modify_write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Appends to the newest value of a column; an absent one counts as empty.
    Append {
        /// The family's name.
        family: String,
        /// The column.
        qualifier: Bytes,
        /// What is appended.
        value: Bytes,
    },
    /// Adds to the newest value of a column, read as a 64-bit big-endian integer; an absent one counts as 0.
    Increment {
        /// The family's name.
        family: String,
        /// The column.
        qualifier: Bytes,
        /// What is added.
        by: i64,
    },
}

impl Table {
    pub(crate) fn new(shared: Arc<Shared>, name: &str) -> Table {
        Table {
            shared,
            name: name.into(),
            region: None,
        }
    }

    /// The same table in the region of that name, whichever region is active. Nothing fails over from there.
    pub fn in_region(&self, region: &str) -> Result<Table> {
        Ok(Table {
            region: Some(self.shared.region_named(region)?),
            ..self.clone()
        })
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes one cell; see [`Table::mutate_row`].
    pub async fn put(
        &self,
        row: impl AsRef<[u8]>,
        family: &str,
        qualifier: impl AsRef<[u8]>,
        version: i64,
        value: impl AsRef<[u8]>,
    ) -> Result<Written> {
        self.mutate_row(RowMutation::new(row).put(family, qualifier, version, value))
            .await
    }

    /// Applies mutations to one row, atomically; returns when a quorum has them on disk.
    ///
    /// [`ErrorKind::UnknownOutcome`] if it was sent, no answer came, and it may not be repeated (or the deadline passed).
    pub async fn mutate_row(&self, mutation: RowMutation) -> Result<Written> {
        let safety = if mutation.may_repeat() {
            Safety::Repeatable
        } else {
            Safety::Once
        };
        let attempt = |target: Target| {
            let mutation = &mutation;
            async move {
                let batch = self.encode(&target, [mutation])?;
                let tablet = target.tablet_id();
                self.write_batch(&target, tablet, batch).await
            }
        };
        self.shared.call(self.call(Some(mutation.row()), safety), attempt).await
    }

    /// Writes a batch that the caller has made, in one request a tablet: each row atomically, rows of one key in their
    /// order. For loads that come in batches; a [`Writer`] makes batches of single writes.
    ///
    /// Every mutation must be one that may be repeated ([`RowMutation::may_repeat`]), because all of a tablet's are sent
    /// again when some of them failed. After an error each row may or may not be written. Two calls at the same time
    /// have no order between them.
    pub async fn mutate_rows(&self, rows: &[RowMutation]) -> Result<()> {
        if let Some(row) = rows.iter().find(|row| !row.may_repeat()) {
            let message = format!("the mutation of {:?} may not be sent twice", row.row());
            let error = ClientError::new(ErrorKind::InvalidArgument, "NOT_REPEATABLE", message);
            return Err(error.action_is("give its puts versions, or write it by mutate_row or a writer"));
        }
        let region = self.region.unwrap_or_else(|| self.shared.active());
        let view = self.shared.routing(region, &self.name, None).await.ok();
        let mut groups: BTreeMap<Option<usize>, Vec<&RowMutation>> = BTreeMap::new();
        for row in rows {
            let tablet = view.as_ref().and_then(|view| view.tablet_of(row.row()));
            groups.entry(tablet).or_default().push(row);
        }
        let writes = groups.values().map(|group| self.mutate_group(group));
        futures::future::try_join_all(writes).await.map(|_| ())
    }

    /// Rows that belong to one tablet, as far as that is known; should they not any more, the server cuts the batch.
    async fn mutate_group(&self, rows: &[&RowMutation]) -> Result<Written> {
        let attempt = |target: Target| async move {
            let batch = self.encode(&target, rows.iter().copied())?;
            let tablet = target.tablet_id();
            self.write_batch(&target, tablet, batch).await
        };
        let first = rows.first().map(|row| &row.row()[..]);
        self.shared.call(self.call(first, Safety::Repeatable), attempt).await
    }

    /// Deletes those versions of every row of a range. Not atomic over rows, and not repeated if its outcome is unknown.
    pub async fn delete_range(&self, range: RowRange, versions: VersionRange) -> Result<Written> {
        let mut batch = BatchBuilder::default();
        batch.push_range_delete(&range, versions)?;
        let batch = batch.finish().expect("one row was added just now");
        let attempt = |target: Target| {
            let batch = batch.clone();
            async move { self.write_batch(&target, 0, batch).await }
        };
        self.shared
            .call(self.call(Some(&range.start), Safety::Once), attempt)
            .await
    }

    /// The whole row, or `None` if it has no visible cell.
    pub async fn get(&self, row: impl AsRef<[u8]>) -> Result<Option<Row>> {
        self.get_filtered(row, Filter::new()).await
    }

    /// What the filter lets through of a row, or `None` if that is nothing.
    pub async fn get_filtered(&self, row: impl AsRef<[u8]>, filter: Filter) -> Result<Option<Row>> {
        Ok(self.read_rows([row], filter).await?.pop())
    }

    /// Those of the rows that have a cell which the filter lets through, in the order of their keys. For thousands of
    /// rows at most; see [`Table::scan`] for more.
    pub async fn read_rows<K: AsRef<[u8]>>(
        &self,
        rows: impl IntoIterator<Item = K>,
        filter: Filter,
    ) -> Result<Vec<Row>> {
        let mut keys: Vec<Bytes> = rows
            .into_iter()
            .map(|row| Bytes::copy_from_slice(row.as_ref()))
            .collect();
        keys.sort();
        keys.dedup();
        let requests = self.read_groups(keys).await.into_iter().map(|keys| {
            let request = v1::ReadRequest {
                table: self.name.to_string(),
                rows: keys.clone(),
                filter: Some(filter.to_wire()),
                consistency: v1::Consistency::Linearizable.into(),
                packed: false,
            };
            async move {
                let call = self.call(keys.first().map(|key| &key[..]), Safety::Read);
                let attempt = |target: Target| {
                    let mut request = request.clone();
                    async move {
                        // Packed cells name families by the ids that the routing table knows.
                        request.packed = target.view.is_some();
                        let answer = target.data().read(target.request(request)).await?.into_inner();
                        target.learn(answer.redirect);
                        let mut rows: Vec<Row> = answer.rows.into_iter().map(Row::from).collect();
                        for packed in &answer.packed {
                            rows.extend(target.unpack(packed)?);
                        }
                        Ok(rows)
                    }
                };
                self.shared.call(call, attempt).await
            }
        });
        let answers: Vec<Vec<Row>> = futures::stream::iter(requests)
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Keys by tablet, as far as that is known, and not too many at once.
    async fn read_groups(&self, keys: Vec<Bytes>) -> Vec<Vec<Bytes>> {
        let region = self.region.unwrap_or_else(|| self.shared.active());
        let view = self.shared.routing(region, &self.name, None).await.ok();
        let mut groups: Vec<(Option<usize>, Vec<Bytes>)> = Vec::new();
        for key in keys {
            let tablet = view.as_ref().and_then(|view| view.tablet_of(&key));
            match groups.last_mut() {
                Some((of, group)) if *of == tablet && group.len() < READ_KEYS_MAX => group.push(key),
                _ => groups.push((tablet, vec![key])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// Streams rows in key order. Nothing is asked before the stream is polled.
    ///
    /// ```no_run
    /// # async fn example(table: tidemark_client::Table) -> Result<(), tidemark_client::ClientError> {
    /// use futures::TryStreamExt;
    /// use tidemark_client::{Filter, ScanRequest};
    /// let newest = Filter::new().families(["m"]).latest(1);
    /// let mut rows = table.scan(ScanRequest::prefix("device-").filter(newest).limit(100));
    /// while let Some(row) = rows.try_next().await? {
    ///     println!("{:?} has {} cells", row.key, row.cells.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn scan(&self, request: ScanRequest) -> Scan {
        Scan::start(self.clone(), request)
    }

    /// How many rows and cells a scan would return. Values stay on the servers.
    pub async fn count(&self, mut request: ScanRequest) -> Result<Count> {
        request.filter = request.filter.strip_values();
        let mut scan = self.scan(request);
        let mut count = Count::default();
        while let Some(row) = scan.try_next().await? {
            count.rows += 1;
            count.cells += row.cells.len() as u64;
        }
        Ok(count)
    }

    /// A digest of ranges, or of the whole table if there are none. `now_micros` decides what has expired: give the
    /// same to both regions that are compared; `None` = the server's clock. May take as long as the retry deadline.
    pub async fn digest(&self, ranges: Vec<RowRange>, now_micros: Option<i64>) -> Result<Digest> {
        let request = v1::DigestRequest {
            table: self.name.to_string(),
            ranges: ranges.iter().map(wire_range).collect(),
            now_micros: now_micros.unwrap_or(0),
        };
        let call = Call {
            timeout: self.shared.options.retry.deadline,
            ..self.call(None, Safety::Read)
        };
        let attempt = |target: Target| {
            let request = request.clone();
            async move { Ok(target.data().digest(target.request(request)).await?.into_inner()) }
        };
        let answer = self.shared.call(call, attempt).await?;
        Ok(Digest {
            rows: answer.rows,
            cells: answer.cells,
            content_hash: hash(&answer.content_hash)?,
            stamps_hash: hash(&answer.stamps_hash)?,
        })
    }

    /// Applies `on_match` if the predicate lets a cell of the row through (without a predicate: if the row has any
    /// cell), else `on_mismatch`; atomically and linearizably inside the region. True if it matched. Both mutations
    /// must be of `row`; one without mutations does nothing.
    pub async fn check_and_mutate(
        &self,
        row: impl AsRef<[u8]>,
        predicate: Option<Filter>,
        on_match: RowMutation,
        on_mismatch: RowMutation,
    ) -> Result<bool> {
        let row = Bytes::copy_from_slice(row.as_ref());
        if on_match.row() != &row || on_mismatch.row() != &row {
            let message = "check_and_mutate changes only the row that it checks";
            return Err(ClientError::new(ErrorKind::InvalidArgument, "ROW_DIFFERS", message));
        }
        let request = v1::CheckAndMutateRequest {
            table: self.name.to_string(),
            row: row.clone(),
            predicate: predicate.map(|filter| filter.to_wire()),
            on_match: on_match.to_wire(),
            on_mismatch: on_mismatch.to_wire(),
            token: token(),
            epoch: 0,
        };
        let attempt = |target: Target| {
            let request = request.clone();
            async move {
                let answer = target
                    .data()
                    .check_and_mutate(target.request(request))
                    .await?
                    .into_inner();
                target.learn(answer.redirect);
                Ok(answer.matched)
            }
        };
        self.shared.call(self.call(Some(&row), Safety::Token), attempt).await
    }

    /// Appends to or increments cells of one row, atomically and linearizably inside the region; returns the cells as
    /// written. A repeat inside the region is applied once; after a move to another region the outcome is unknown.
    pub async fn read_modify_write(&self, row: impl AsRef<[u8]>, rules: Vec<Rule>) -> Result<Row> {
        let row = Bytes::copy_from_slice(row.as_ref());
        let request = v1::ReadModifyWriteRequest {
            table: self.name.to_string(),
            row: row.clone(),
            rules: rules.into_iter().map(wire_rule).collect(),
            token: token(),
            epoch: 0,
        };
        let attempt = |target: Target| {
            let request = request.clone();
            async move {
                let answer = target
                    .data()
                    .read_modify_write(target.request(request))
                    .await?
                    .into_inner();
                target.learn(answer.redirect);
                Ok(answer.row.unwrap_or_default())
            }
        };
        let written = self.shared.call(self.call(Some(&row), Safety::Token), attempt).await?;
        Ok(Row::from(written))
    }

    /// A writer that batches; see [`Writer`].
    pub fn writer(&self, options: WriterOptions) -> Writer {
        Writer::start(self.clone(), options)
    }

    pub(crate) fn call<'a>(&'a self, row: Option<&'a [u8]>, safety: Safety) -> Call<'a> {
        Call {
            table: Some(&self.name),
            row,
            safety,
            region: self.region,
            timeout: self.shared.options.request_timeout,
        }
    }

    /// At least one row.
    fn encode<'a>(
        &self,
        target: &Target,
        rows: impl IntoIterator<Item = &'a RowMutation>,
    ) -> std::result::Result<PackedBatch, Failure> {
        let view = target.view.as_ref().ok_or_else(|| crate::call::no_tablet(&self.name))?;
        let mut batch = BatchBuilder::default();
        for row in rows {
            let encoded = row.encode(&view.family_ids, &mut batch);
            encoded.map_err(|error| unencodable(&self.name, error))?;
        }
        Ok(batch.finish().expect("one row was added just now"))
    }

    async fn write_batch(
        &self,
        target: &Target,
        tablet: u64,
        batch: PackedBatch,
    ) -> std::result::Result<Written, Failure> {
        let answer = write(target, &self.name, tablet, &batch).await?;
        match answer.failures.into_iter().next().and_then(|failure| failure.error) {
            Some(error) => Err(Failure {
                error: ClientError::from_wire(error),
                reach: Reach::Answered,
                leader: None,
            }),
            None => Ok(Written {
                region: self.shared.regions[target.region].name.to_string(),
            }),
        }
    }
}

/// The failure of a row that cannot be encoded by the routing view at hand.
pub(crate) fn unencodable(table: &str, error: Unencodable) -> Failure {
    Failure::local(match error {
        Unencodable::Refused(error) => error.into(),
        Unencodable::FamilyUnknown(family) => family_unknown(table, &family),
    })
}

/// One write request of a packed batch.
pub(crate) async fn write(
    target: &Target,
    table: &str,
    tablet: u64,
    batch: &PackedBatch,
) -> std::result::Result<v1::WriteResponse, Failure> {
    let request = v1::WriteRequest {
        table: table.to_owned(),
        packed: batch.bytes().clone(),
        tablet,
        ..v1::WriteRequest::default()
    };
    let mut answer = target.data().write(target.request(request)).await?.into_inner();
    target.learn(answer.redirect.take());
    Ok(answer)
}

fn wire_rule(rule: Rule) -> v1::ReadModifyWriteRule {
    use v1::read_modify_write_rule::Rule as R;
    let (family, qualifier, rule) = match rule {
        Rule::Append {
            family,
            qualifier,
            value,
        } => (family, qualifier, R::Append(value)),
        Rule::Increment { family, qualifier, by } => (family, qualifier, R::Increment(by)),
    };
    v1::ReadModifyWriteRule {
        family,
        qualifier,
        rule: Some(rule),
    }
}

/// An idempotency token, kept over the retries of one call.
fn token() -> Bytes {
    let mut token = [0; limits::TOKEN_BYTES];
    rand::rng().fill_bytes(&mut token);
    Bytes::copy_from_slice(&token)
}

fn hash(bytes: &[u8]) -> Result<[u8; 16]> {
    bytes.try_into().map_err(|_| {
        let message = format!("a digest of {} bytes instead of 16", bytes.len());
        ClientError::new(ErrorKind::Internal, "DIGEST_MALFORMED", message)
    })
}
