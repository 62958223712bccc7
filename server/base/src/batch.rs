//! The packed batch: the one form in which mutations travel. The client encodes it once; the same bytes go through the
//! Raft log, apply, the feed and the wire to the peer region, behind small headers. It is decoded once per apply.
//!
//! ```text
//! batch    := 'T' 0x01 | flags u8 (bit 0: some version is SERVER_VERSION; other bits zero)
//!             | rows varint (1..=65,536) | families varint (0..=64), n x u32   little endian throughout
//!             | row{rows} | crc32c u32 over all bytes before it
//! row      := 0x00 | key slice | mutations varint | body length u32 | mutation*        a row mutation (atomic)
//!           | 0x01 | start slice | bounded u8 | [end slice] | from i64 | to i64         delete of a row range
//! mutation := 0x01 | family varint (index) | qualifier slice | version i64 | value slice       put
//!           | 0x02 | family varint | qualifier slice | from i64 | to i64                      delete in a column
//!           | 0x03 | family varint | from i64 | to i64                                        delete in a family
//!           | 0x04 | from i64 | to i64                                                        delete in a row
//! slice    := length varint | bytes
//! ```
//! Versions are fixed width, so that the leader can fill in a server-assigned one. The i-th row of a batch whose first
//! stamp is `s` has the stamp `s` with `hlc + i`; so a batch needs one stamp in its header and rows need none.
//! The worked example is the golden test at the bottom, drawn in docs/formats/packed-batch.md.

use crate::codec::{Malformed, Reader, put_slice, put_varint, varint_len};
use crate::error::{Error, Result};
use crate::fact::Scope;
use crate::ids::FamilyId;
use crate::limits;
use crate::range::{RowRange, VersionRange};
use bytes::{BufMut, Bytes, BytesMut};

/// In a put: the leader assigns the version, from its clock, before the log.
pub const SERVER_VERSION: i64 = -1;

const MAGIC: [u8; 2] = [b'T', 1];
const FLAG_SERVER_VERSIONS: u8 = 1;
const ROW_MUTATION: u8 = 0;
const ROW_RANGE_DELETE: u8 = 1;
const OP_PUT: u8 = 1;
const OP_DELETE_COLUMN: u8 = 2;
const OP_DELETE_FAMILY: u8 = 3;
const OP_DELETE_ROW: u8 = 4;
const CRC_BYTES: usize = 4;

/// One mutation of a row, borrowed from the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutationRef<'a> {
    /// Writes one cell.
    Put {
        /// Family.
        family: FamilyId,
        /// Qualifier.
        qualifier: &'a [u8],
        /// Version in microseconds, or [`SERVER_VERSION`].
        version: i64,
        /// Value.
        value: &'a [u8],
    },
    /// Writes one tombstone; never with [`Scope::RowRange`] inside a row mutation.
    Delete {
        /// What is deleted.
        scope: Scope<'a>,
        /// Which versions.
        versions: VersionRange,
    },
}

/// One row of a batch, borrowed from it.
#[derive(Clone, Debug)]
pub enum RowRef<'a> {
    /// Mutations of one row, atomic.
    Mutation {
        /// Row key.
        row: &'a [u8],
        /// Its mutations in order.
        mutations: Mutations<'a>,
    },
    /// A tombstone over a range of rows.
    RangeDelete {
        /// First row.
        start: &'a [u8],
        /// First row not covered; `None` = to the end of the table.
        end: Option<&'a [u8]>,
        /// Which versions.
        versions: VersionRange,
    },
}

impl<'a> RowRef<'a> {
    /// The row key, or the first row of a range: what routes this row to a tablet.
    pub fn key(&self) -> &'a [u8] {
        match self {
            RowRef::Mutation { row, .. } => row,
            RowRef::RangeDelete { start, .. } => start,
        }
    }
}

/// The mutations of one row; an iterator that borrows the batch.
#[derive(Clone, Debug)]
pub struct Mutations<'a> {
    reader: Reader<'a>,
    families: &'a [FamilyId],
    left: usize,
}

impl<'a> Iterator for Mutations<'a> {
    type Item = MutationRef<'a>;

    fn next(&mut self) -> Option<MutationRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        // The batch was walked whole when it was parsed, so this cannot fail; if it does, the row just ends.
        read_mutation(&mut self.reader, self.families).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// A batch whose bytes have been checked: checksum, grammar and limits.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    bytes: Bytes,
    families: Vec<FamilyId>,
    rows: usize,
    body: usize,
    server_versions: bool,
    shape: Shape,
}

/// What every row of a batch has in common, seen in the walk that checked it, so that nobody has to walk it again for that.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Only puts, and in each row in strictly ascending order of (family, qualifier, version).
    ascending_puts: bool,
    /// The greatest version of a put; [`SERVER_VERSION`] without one.
    version_max: i64,
}

impl PartialEq for PackedBatch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl Eq for PackedBatch {}

impl PackedBatch {
    /// Checks bytes from outside: checksum, grammar, every limit. Errors are [`crate::ErrorKind::InvalidArgument`] with
    /// the reasons `BATCH_MALFORMED`, `BATCH_TOO_LARGE`, `ROW_TOO_LARGE`, `VERSION_INVALID`, ….
    pub fn parse(bytes: Bytes) -> Result<PackedBatch> {
        if bytes.len() > limits::BATCH_BYTES_MAX {
            return Err(too_large(
                "BATCH_TOO_LARGE",
                "packed batch",
                bytes.len(),
                limits::BATCH_BYTES_MAX,
            ));
        }
        let body_end = bytes
            .len()
            .checked_sub(CRC_BYTES)
            .ok_or(malformed(Malformed("shorter than its checksum")))?;
        let (content, sum) = bytes.split_at(body_end);
        if crc32c::crc32c(content).to_le_bytes() != sum {
            return Err(
                Error::invalid("BATCH_CHECKSUM", "the packed batch's checksum does not match its bytes")
                    .action("it was damaged on its way or built wrongly: build it again and resend"),
            );
        }
        let mut r = Reader::new(content);
        let (families, rows, flags) = read_header(&mut r).map_err(malformed)?;
        let body = r.position();
        let mut server_versions = false;
        let mut shape = Shape {
            ascending_puts: true,
            version_max: SERVER_VERSION,
        };
        for _ in 0..rows {
            let from = r.position();
            let row = read_row(&mut r, &families).map_err(malformed)?;
            server_versions |= check_row(&row, r.position() - from, &mut shape)?;
        }
        if !r.is_empty() {
            return Err(malformed(Malformed("bytes after the last row")));
        }
        if server_versions != (flags & FLAG_SERVER_VERSIONS != 0) {
            return Err(malformed(Malformed("the server-version flag does not match the rows")));
        }
        Ok(PackedBatch {
            bytes,
            families,
            rows,
            body,
            server_versions,
            shape,
        })
    }

    /// The encoded bytes, checksum included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of rows; each takes one stamp.
    pub fn rows_len(&self) -> usize {
        self.rows
    }

    /// True if some put asks the leader for its version.
    pub fn has_server_versions(&self) -> bool {
        self.server_versions
    }

    /// True if it is known to have only puts, in each row in strictly ascending order of (family, qualifier, version): the
    /// form in which the client's writer builds rows of distinct cells. False says nothing.
    pub fn is_ascending_puts(&self) -> bool {
        self.shape.ascending_puts
    }

    /// No put of it has a greater version; [`SERVER_VERSION`] if it has no other.
    pub fn version_max(&self) -> i64 {
        self.shape.version_max
    }

    /// The families that the batch names.
    pub fn families(&self) -> &[FamilyId] {
        &self.families
    }

    /// The rows in order.
    pub fn rows(&self) -> Rows<'_> {
        let end = self.bytes.len() - CRC_BYTES;
        Rows {
            reader: Reader::new(&self.bytes[self.body..end]),
            families: &self.families,
            left: self.rows,
        }
    }

    /// A batch of those rows of this one for which `keep(index)` holds, their bytes copied as they are; `None` if that
    /// is no row.
    pub fn subset(&self, mut keep: impl FnMut(usize) -> bool) -> Option<PackedBatch> {
        let mut rows = self.rows();
        let mut body = Vec::new();
        let mut kept = 0;
        let mut server_versions = false;
        for index in 0..self.rows {
            let from = rows.reader.position();
            let row = rows.next()?;
            if keep(index) {
                let start = self.body + from;
                body.extend_from_slice(&self.bytes[start..self.body + rows.reader.position()]);
                server_versions |= asks_for_version(&row);
                kept += 1;
            }
        }
        (kept > 0).then(|| assemble(&self.families, kept, server_versions, self.shape, &body))
    }
}

/// Iterator over the rows of a batch.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    reader: Reader<'a>,
    families: &'a [FamilyId],
    left: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = RowRef<'a>;

    fn next(&mut self) -> Option<RowRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        read_row(&mut self.reader, self.families).ok()
    }
}

fn read_header(r: &mut Reader<'_>) -> std::result::Result<(Vec<FamilyId>, usize, u8), Malformed> {
    if r.take(2)? != MAGIC {
        return Err(Malformed("not a packed batch of format 1"));
    }
    let flags = r.u8()?;
    if flags & !FLAG_SERVER_VERSIONS != 0 {
        return Err(Malformed("unknown flags"));
    }
    let rows = r.length(limits::BATCH_ROWS_MAX, "too many rows in the batch")?;
    if rows == 0 {
        return Err(Malformed("a batch has at least one row"));
    }
    let count = r.length(limits::FAMILIES_MAX, "too many families in the batch")?;
    let mut families = Vec::with_capacity(count);
    for _ in 0..count {
        families.push(FamilyId(r.u32()?));
    }
    Ok((families, rows, flags))
}

fn read_row<'a>(r: &mut Reader<'a>, families: &'a [FamilyId]) -> std::result::Result<RowRef<'a>, Malformed> {
    match r.u8()? {
        ROW_MUTATION => {
            let row = r.slice(limits::ROW_BYTES_MAX, "row key too long")?;
            let left = r.length(limits::ROW_MUTATIONS_MAX, "too many mutations in a row")?;
            let length = r.u32()? as usize;
            let body = r.take(length)?;
            Ok(RowRef::Mutation {
                row,
                mutations: Mutations {
                    reader: Reader::new(body),
                    families,
                    left,
                },
            })
        }
        ROW_RANGE_DELETE => {
            let start = r.slice(limits::ROW_BYTES_MAX, "row key too long")?;
            let end = match r.u8()? {
                0 => None,
                1 => Some(r.slice(limits::ROW_BYTES_MAX, "row key too long")?),
                _ => return Err(Malformed("bounded is 0 or 1")),
            };
            Ok(RowRef::RangeDelete {
                start,
                end,
                versions: read_versions(r)?,
            })
        }
        _ => Err(Malformed("unknown kind of row")),
    }
}

fn read_mutation<'a>(r: &mut Reader<'a>, families: &[FamilyId]) -> std::result::Result<MutationRef<'a>, Malformed> {
    let op = r.u8()?;
    if op == OP_DELETE_ROW {
        return Ok(MutationRef::Delete {
            scope: Scope::Row,
            versions: read_versions(r)?,
        });
    }
    let index = r.length(limits::FAMILIES_MAX, "family index out of range")?;
    let family = *families.get(index).ok_or(Malformed("family index out of range"))?;
    if op == OP_DELETE_FAMILY {
        return Ok(MutationRef::Delete {
            scope: Scope::Family { family },
            versions: read_versions(r)?,
        });
    }
    let qualifier = r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?;
    match op {
        OP_PUT => {
            let version = r.i64()?;
            let value = r.slice(limits::VALUE_BYTES_MAX, "value too long")?;
            Ok(MutationRef::Put {
                family,
                qualifier,
                version,
                value,
            })
        }
        OP_DELETE_COLUMN => Ok(MutationRef::Delete {
            scope: Scope::Column { family, qualifier },
            versions: read_versions(r)?,
        }),
        _ => Err(Malformed("unknown mutation")),
    }
}

fn read_versions(r: &mut Reader<'_>) -> std::result::Result<VersionRange, Malformed> {
    let versions = VersionRange {
        from: r.i64()?,
        to: r.i64()?,
    };
    if versions.from > versions.to {
        Err(Malformed("empty version range"))
    } else {
        Ok(versions)
    }
}

/// Walks one row's mutations, checks what the grammar does not, brings the shape up to date, and says whether a put asks for
/// a server version.
fn check_row(row: &RowRef<'_>, encoded_bytes: usize, shape: &mut Shape) -> Result<bool> {
    if encoded_bytes > limits::ROW_MUTATION_BYTES_MAX {
        return Err(too_large(
            "ROW_TOO_LARGE",
            "row mutation",
            encoded_bytes,
            limits::ROW_MUTATION_BYTES_MAX,
        ));
    }
    let RowRef::Mutation { row, mutations } = row else {
        shape.ascending_puts = false;
        return Ok(false);
    };
    if row.is_empty() {
        return Err(Error::invalid("ROW_EMPTY", "a row key has at least one byte"));
    }
    if mutations.left == 0 {
        return Err(malformed(Malformed("a row mutation has at least one mutation")));
    }
    let mut server_versions = false;
    let Mutations {
        mut reader,
        families,
        left,
    } = mutations.clone();
    let mut last: Option<(FamilyId, &[u8], i64)> = None;
    for _ in 0..left {
        if let MutationRef::Put {
            family,
            qualifier,
            version,
            ..
        } = read_mutation(&mut reader, families).map_err(malformed)?
        {
            if version < SERVER_VERSION {
                return Err(
                    Error::invalid("VERSION_INVALID", format!("version {version} is negative"))
                        .action("versions are microseconds since 1970, or -1 to let the server assign one"),
                );
            }
            server_versions |= version == SERVER_VERSION;
            let at = (family, qualifier, version);
            shape.ascending_puts &= last.is_none_or(|last| last < at);
            shape.version_max = shape.version_max.max(version);
            last = Some(at);
        } else {
            shape.ascending_puts = false;
        }
    }
    if !reader.is_empty() {
        return Err(malformed(Malformed("bytes after a row's last mutation")));
    }
    Ok(server_versions)
}

fn asks_for_version(row: &RowRef<'_>) -> bool {
    match row {
        RowRef::Mutation { mutations, .. } => mutations.clone().any(|m| {
            matches!(
                m,
                MutationRef::Put {
                    version: SERVER_VERSION,
                    ..
                }
            )
        }),
        RowRef::RangeDelete { .. } => false,
    }
}

fn assemble(families: &[FamilyId], rows: usize, server_versions: bool, shape: Shape, body: &[u8]) -> PackedBatch {
    let mut head = MAGIC.to_vec();
    head.push(if server_versions { FLAG_SERVER_VERSIONS } else { 0 });
    put_varint(&mut head, rows as u64);
    put_varint(&mut head, families.len() as u64);
    for family in families {
        head.extend_from_slice(&family.0.to_le_bytes());
    }
    let mut out = BytesMut::with_capacity(head.len() + body.len() + CRC_BYTES);
    out.put_slice(&head);
    out.put_slice(body);
    let sum = crc32c::crc32c(&out);
    out.put_u32_le(sum);
    PackedBatch {
        bytes: out.freeze(),
        families: families.to_vec(),
        rows,
        body: head.len(),
        server_versions,
        shape,
    }
}

fn malformed(error: Malformed) -> Error {
    Error::invalid("BATCH_MALFORMED", format!("the packed batch is malformed: {}", error.0))
}

fn too_large(reason: &'static str, what: &str, bytes: usize, max: usize) -> Error {
    Error::invalid(reason, format!("a {what} of {bytes} bytes is over the limit of {max}"))
        .action("split it into smaller ones")
}

/// Builds a packed batch. Mutations of a row are added between [`BatchBuilder::begin_row`] and
/// [`BatchBuilder::end_row`]; a row that breaks a limit is refused whole and leaves the batch as it was.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    families: Vec<FamilyId>,
    body: Vec<u8>,
    rows: usize,
    server_versions: bool,
    /// The row under construction, if `is_open`; its memory serves one row after the other.
    row: OpenRow,
    is_open: bool,
}

#[derive(Debug, Default)]
struct OpenRow {
    key: Vec<u8>,
    mutations: usize,
    body: Vec<u8>,
    server_versions: bool,
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Rows finished so far.
    pub fn rows_len(&self) -> usize {
        self.rows
    }

    /// Bytes that the batch would have now, without an open row.
    pub fn bytes_len(&self) -> usize {
        self.body.len() + self.families.len() * 4 + 16 + CRC_BYTES
    }

    /// Opens a row mutation; an unfinished one is dropped.
    pub fn begin_row(&mut self, row: &[u8]) -> Result<()> {
        self.is_open = false;
        if row.is_empty() {
            return Err(Error::invalid("ROW_EMPTY", "a row key has at least one byte"));
        }
        check_len("ROW_KEY_TOO_LARGE", "row key", row.len(), limits::ROW_BYTES_MAX)?;
        if self.rows >= limits::BATCH_ROWS_MAX {
            return Err(too_large(
                "BATCH_TOO_LARGE",
                "batch (rows)",
                self.rows + 1,
                limits::BATCH_ROWS_MAX,
            ));
        }
        let open = &mut self.row;
        open.key.clear();
        open.key.extend_from_slice(row);
        open.body.clear();
        open.mutations = 0;
        open.server_versions = false;
        self.is_open = true;
        Ok(())
    }

    /// Adds one mutation to the open row.
    pub fn push(&mut self, mutation: MutationRef<'_>) -> Result<()> {
        match mutation {
            MutationRef::Put {
                family,
                qualifier,
                version,
                value,
            } => self.put(family, qualifier, version, value),
            MutationRef::Delete { scope, versions } => self.delete(scope, versions),
        }
    }

    /// Adds a put. `version` in microseconds, or [`SERVER_VERSION`].
    pub fn put(&mut self, family: FamilyId, qualifier: &[u8], version: i64, value: &[u8]) -> Result<()> {
        check_len(
            "QUALIFIER_TOO_LARGE",
            "qualifier",
            qualifier.len(),
            limits::QUALIFIER_BYTES_MAX,
        )?;
        check_len("VALUE_TOO_LARGE", "value", value.len(), limits::VALUE_BYTES_MAX)?;
        if version < SERVER_VERSION {
            return Err(
                Error::invalid("VERSION_INVALID", format!("version {version} is negative"))
                    .action("versions are microseconds since 1970, or -1 to let the server assign one"),
            );
        }
        let index = self.family_index(family)?;
        let row = self.open_row()?;
        row.body.push(OP_PUT);
        put_varint(&mut row.body, index as u64);
        put_slice(&mut row.body, qualifier);
        row.body.extend_from_slice(&version.to_le_bytes());
        put_slice(&mut row.body, value);
        row.server_versions |= version == SERVER_VERSION;
        row.mutations += 1;
        Ok(())
    }

    /// Adds a tombstone. A row range is not a mutation of a row: see [`BatchBuilder::push_range_delete`].
    pub fn delete(&mut self, scope: Scope<'_>, versions: VersionRange) -> Result<()> {
        if versions.from > versions.to {
            return Err(Error::invalid(
                "VERSION_INVALID",
                "an empty version range deletes nothing",
            ));
        }
        let (op, family, qualifier) = match scope {
            Scope::Column { family, qualifier } => (OP_DELETE_COLUMN, Some(family), Some(qualifier)),
            Scope::Family { family } => (OP_DELETE_FAMILY, Some(family), None),
            Scope::Row => (OP_DELETE_ROW, None, None),
            Scope::RowRange { .. } => {
                return Err(Error::invalid(
                    "SCOPE_INVALID",
                    "a row range cannot be deleted inside a row mutation",
                ));
            }
        };
        if let Some(qualifier) = qualifier {
            check_len(
                "QUALIFIER_TOO_LARGE",
                "qualifier",
                qualifier.len(),
                limits::QUALIFIER_BYTES_MAX,
            )?;
        }
        let index = family.map(|f| self.family_index(f)).transpose()?;
        let row = self.open_row()?;
        row.body.push(op);
        if let Some(index) = index {
            put_varint(&mut row.body, index as u64);
        }
        if let Some(qualifier) = qualifier {
            put_slice(&mut row.body, qualifier);
        }
        row.body.extend_from_slice(&versions.from.to_le_bytes());
        row.body.extend_from_slice(&versions.to.to_le_bytes());
        row.mutations += 1;
        Ok(())
    }

    /// Closes the open row. A row without a mutation is refused.
    pub fn end_row(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_open) {
            return Err(no_open_row());
        }
        let row = &self.row;
        if row.mutations == 0 {
            return Err(Error::invalid(
                "ROW_WITHOUT_MUTATIONS",
                "a row mutation has at least one mutation",
            ));
        }
        check_len(
            "ROW_TOO_MANY_MUTATIONS",
            "row (mutations)",
            row.mutations,
            limits::ROW_MUTATIONS_MAX,
        )?;
        let lengths = varint_len(row.key.len() as u64) + varint_len(row.mutations as u64);
        let size = 1 + lengths + row.key.len() + 4 + row.body.len();
        check_len("ROW_TOO_LARGE", "row mutation", size, limits::ROW_MUTATION_BYTES_MAX)?;
        check_len(
            "BATCH_TOO_LARGE",
            "packed batch",
            self.bytes_len() + size,
            limits::BATCH_BYTES_MAX,
        )?;
        self.body.push(ROW_MUTATION);
        put_slice(&mut self.body, &row.key);
        put_varint(&mut self.body, row.mutations as u64);
        self.body.extend_from_slice(&(row.body.len() as u32).to_le_bytes());
        self.body.extend_from_slice(&row.body);
        self.server_versions |= row.server_versions;
        self.rows += 1;
        Ok(())
    }

    /// Adds the delete of a row range as a row of its own.
    pub fn push_range_delete(&mut self, range: &RowRange, versions: VersionRange) -> Result<()> {
        check_len("ROW_KEY_TOO_LARGE", "row key", range.start.len(), limits::ROW_BYTES_MAX)?;
        check_len(
            "ROW_KEY_TOO_LARGE",
            "row key",
            range.end.as_ref().map_or(0, |e| e.len()),
            limits::ROW_BYTES_MAX,
        )?;
        if range.is_empty() || versions.from > versions.to {
            return Err(Error::invalid("RANGE_EMPTY", "an empty range deletes nothing"));
        }
        check_len("BATCH_TOO_LARGE", "batch (rows)", self.rows + 1, limits::BATCH_ROWS_MAX)?;
        self.body.push(ROW_RANGE_DELETE);
        put_slice(&mut self.body, &range.start);
        self.body.push(u8::from(range.end.is_some()));
        if let Some(end) = &range.end {
            put_slice(&mut self.body, end);
        }
        self.body.extend_from_slice(&versions.from.to_le_bytes());
        self.body.extend_from_slice(&versions.to.to_le_bytes());
        self.rows += 1;
        Ok(())
    }

    /// The finished batch; `None` if no row was finished. The builder is empty afterwards.
    pub fn finish(&mut self) -> Option<PackedBatch> {
        let this = std::mem::take(self);
        // What was built here is walked by whoever takes it in; nothing is claimed of it that was not looked at.
        let unknown = Shape {
            ascending_puts: false,
            version_max: i64::MAX,
        };
        (this.rows > 0).then(|| assemble(&this.families, this.rows, this.server_versions, unknown, &this.body))
    }

    fn open_row(&mut self) -> Result<&mut OpenRow> {
        match self.is_open {
            true => Ok(&mut self.row),
            false => Err(no_open_row()),
        }
    }

    /// At most 64 of them, and nearly always one: a walk is as fast as a table.
    fn family_index(&mut self, family: FamilyId) -> Result<usize> {
        if let Some(index) = self.families.iter().position(|known| *known == family) {
            return Ok(index);
        }
        check_len(
            "FAMILIES_TOO_MANY",
            "batch (families)",
            self.families.len() + 1,
            limits::FAMILIES_MAX,
        )?;
        self.families.push(family);
        Ok(self.families.len() - 1)
    }
}

fn no_open_row() -> Error {
    Error::internal("a mutation was added to a batch without an open row")
}

fn check_len(reason: &'static str, what: &str, len: usize, max: usize) -> Result<()> {
    if len > max {
        Err(too_large(reason, what, len, max))
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
