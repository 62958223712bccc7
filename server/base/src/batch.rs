//! The packed batch: the one form in which mutations travel. The client encodes it once; the same bytes go through the
//! Raft log, apply, the feed and the wire to the peer region, behind small headers. It is decoded once per apply.
//!
//! ```text
//! batch    := 'T' 0x02 | flags u8 (bit 0: some version is SERVER_VERSION; other bits zero)
//!             | rows varint (1..=65,536) | families varint (0..=64), n x u32   little endian throughout
//!             | columns varint (0..=128), n x (family varint (index), qualifier slice)
//!             | row{rows} | crc32c u32 over all bytes before it
//! row      := 0x00 | key slice | mutations varint | body length u32 | mutation*        a row mutation (atomic)
//!           | 0x01 | start slice | bounded u8 | [end slice] | from i64 | to i64         delete of a row range
//! mutation := 0x01 | family varint (index) | qualifier slice | version i64 | value slice       put
//!           | 0x02 | family varint | qualifier slice | from i64 | to i64                      delete in a column
//!           | 0x03 | family varint | from i64 | to i64                                        delete in a family
//!           | 0x04 | from i64 | to i64                                                        delete in a row
//!           | 0x05 | column varint (index) | version i64 | value slice                         put in a listed column
//!           | 0x80 + column (index) | value slice            the same, with the version of the put before it in the row
//! slice    := length varint | bytes
//! ```
//! Readings name the same columns in every row and one version for all cells of a tick, so that a cell of them is little
//! more than its value. Format 1 (`'T' 0x01`) has no list of columns and is still read.
//!
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

const MAGIC: [u8; 2] = [b'T', 2];
const MAGIC_WITHOUT_COLUMNS: [u8; 2] = [b'T', 1];
const FLAG_SERVER_VERSIONS: u8 = 1;
const ROW_MUTATION: u8 = 0;
const ROW_RANGE_DELETE: u8 = 1;
const OP_PUT: u8 = 1;
const OP_DELETE_COLUMN: u8 = 2;
const OP_DELETE_FAMILY: u8 = 3;
const OP_DELETE_ROW: u8 = 4;
const OP_PUT_LISTED: u8 = 5;
/// And the index of a listed column.
const OP_PUT_SAME_VERSION: u8 = 0x80;
/// Columns that a batch lists: as many as fit beside [`OP_PUT_SAME_VERSION`].
const COLUMNS_MAX: usize = 128;
/// A longer qualifier is hardly a column that comes again, and a put of two bytes must not stand for much more.
const LISTED_QUALIFIER_BYTES_MAX: usize = 64;
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
    names: &'a Names,
    left: usize,
    /// Of the last put.
    version: Option<i64>,
}

impl<'a> Iterator for Mutations<'a> {
    type Item = MutationRef<'a>;

    fn next(&mut self) -> Option<MutationRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        // The batch was walked whole when it was parsed, so this cannot fail; if it does, the row just ends.
        read_mutation(&mut self.reader, self.names, &mut self.version).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// A batch whose bytes have been checked: checksum, grammar and limits.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    bytes: Bytes,
    names: Names,
    /// Where families and columns begin, and behind them the rows.
    names_at: usize,
    rows: usize,
    body: usize,
    server_versions: bool,
    shape: Shape,
}

/// What the rows of a batch name by numbers.
#[derive(Clone, Debug, Default)]
struct Names {
    families: Vec<FamilyId>,
    columns: Vec<(FamilyId, Bytes)>,
}

/// What every row of a batch has in common, seen in the walk that checked it, so that nobody has to walk it again for that.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Only puts, and in each row in strictly ascending order of (family, qualifier, version).
    ascending_puts: bool,
    /// The greatest version of a put; [`SERVER_VERSION`] without one.
    version_max: i64,
    /// Bytes of all cells written out, each with its row and its column.
    expanded_bytes: usize,
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
        let (lists_columns, rows, flags) = read_header(&mut r).map_err(malformed)?;
        let names_at = r.position();
        let names = read_names(&mut r, &bytes, lists_columns).map_err(malformed)?;
        let body = r.position();
        let mut server_versions = false;
        let mut shape = Shape {
            ascending_puts: true,
            version_max: SERVER_VERSION,
            expanded_bytes: 0,
        };
        for _ in 0..rows {
            let from = r.position();
            let row = read_row(&mut r, &names).map_err(malformed)?;
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
            names,
            names_at,
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
        &self.names.families
    }

    /// The rows in order.
    pub fn rows(&self) -> Rows<'_> {
        let end = self.bytes.len() - CRC_BYTES;
        Rows {
            reader: Reader::new(&self.bytes[self.body..end]),
            names: &self.names,
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
        let mut names = self.bytes[self.names_at..self.body].to_vec();
        if self.bytes.starts_with(&MAGIC_WITHOUT_COLUMNS) {
            put_varint(&mut names, 0);
        }
        (kept > 0).then(|| assemble(&names, kept, server_versions, self.shape, &body))
    }
}

/// Iterator over the rows of a batch.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    reader: Reader<'a>,
    names: &'a Names,
    left: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = RowRef<'a>;

    fn next(&mut self) -> Option<RowRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        read_row(&mut self.reader, self.names).ok()
    }
}

/// Everything before the names: whether columns are among them, how many rows there are, the flags.
fn read_header(r: &mut Reader<'_>) -> std::result::Result<(bool, usize, u8), Malformed> {
    let lists_columns = match r.array::<2>()? {
        MAGIC => true,
        MAGIC_WITHOUT_COLUMNS => false,
        _ => return Err(Malformed("not a packed batch of format 1 or 2")),
    };
    let flags = r.u8()?;
    if flags & !FLAG_SERVER_VERSIONS != 0 {
        return Err(Malformed("unknown flags"));
    }
    let rows = r.length(limits::BATCH_ROWS_MAX, "too many rows in the batch")?;
    if rows == 0 {
        return Err(Malformed("a batch has at least one row"));
    }
    Ok((lists_columns, rows, flags))
}

/// `batch` is all of the bytes that are read from: what is named stays in it.
fn read_names(r: &mut Reader<'_>, batch: &Bytes, lists_columns: bool) -> std::result::Result<Names, Malformed> {
    let count = r.length(limits::FAMILIES_MAX, "too many families in the batch")?;
    let mut families = Vec::with_capacity(count);
    for _ in 0..count {
        families.push(FamilyId(r.u32()?));
    }
    let count = match lists_columns {
        true => r.length(COLUMNS_MAX, "too many columns in the batch")?,
        false => 0,
    };
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let family = read_family(r, &families)?;
        let qualifier = r.slice(LISTED_QUALIFIER_BYTES_MAX, "listed qualifier too long")?;
        columns.push((family, batch.slice_ref(qualifier)));
    }
    Ok(Names { families, columns })
}

fn read_family(r: &mut Reader<'_>, families: &[FamilyId]) -> std::result::Result<FamilyId, Malformed> {
    let index = r.length(limits::FAMILIES_MAX, "family index out of range")?;
    families
        .get(index)
        .copied()
        .ok_or(Malformed("family index out of range"))
}

fn read_row<'a>(r: &mut Reader<'a>, names: &'a Names) -> std::result::Result<RowRef<'a>, Malformed> {
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
                    names,
                    left,
                    version: None,
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

/// `version`: of the put before it in the row, then its own.
#[inline]
fn read_mutation<'a>(
    r: &mut Reader<'a>,
    names: &'a Names,
    version: &mut Option<i64>,
) -> std::result::Result<MutationRef<'a>, Malformed> {
    let op = r.u8()?;
    if op >= OP_PUT_SAME_VERSION {
        let version = version.ok_or(Malformed("no put before it whose version it could have"))?;
        return read_listed(r, names, usize::from(op - OP_PUT_SAME_VERSION), version);
    }
    match op {
        OP_PUT_LISTED => {
            let column = r.length(COLUMNS_MAX, "column index out of range")?;
            let own = r.i64()?;
            *version = Some(own);
            read_listed(r, names, column, own)
        }
        OP_PUT => {
            let family = read_family(r, &names.families)?;
            let qualifier = r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?;
            let own = r.i64()?;
            *version = Some(own);
            Ok(MutationRef::Put {
                family,
                qualifier,
                version: own,
                value: r.slice(limits::VALUE_BYTES_MAX, "value too long")?,
            })
        }
        OP_DELETE_COLUMN | OP_DELETE_FAMILY | OP_DELETE_ROW => read_delete(r, names, op),
        _ => Err(Malformed("unknown mutation")),
    }
}

#[inline]
fn read_listed<'a>(
    r: &mut Reader<'a>,
    names: &'a Names,
    column: usize,
    version: i64,
) -> std::result::Result<MutationRef<'a>, Malformed> {
    let (family, qualifier) = names
        .columns
        .get(column)
        .ok_or(Malformed("column index out of range"))?;
    Ok(MutationRef::Put {
        family: *family,
        qualifier,
        version,
        value: r.slice(limits::VALUE_BYTES_MAX, "value too long")?,
    })
}

fn read_delete<'a>(r: &mut Reader<'a>, names: &Names, op: u8) -> std::result::Result<MutationRef<'a>, Malformed> {
    let family = match op {
        OP_DELETE_ROW => None,
        _ => Some(read_family(r, &names.families)?),
    };
    let scope = match (op, family) {
        (OP_DELETE_COLUMN, Some(family)) => Scope::Column {
            family,
            qualifier: r.slice(limits::QUALIFIER_BYTES_MAX, "qualifier too long")?,
        },
        (_, Some(family)) => Scope::Family { family },
        (_, None) => Scope::Row,
    };
    let versions = read_versions(r)?;
    Ok(MutationRef::Delete { scope, versions })
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
        names,
        left,
        version: mut last_version,
    } = mutations.clone();
    let mut last: Option<(FamilyId, &[u8], i64)> = None;
    for _ in 0..left {
        if let MutationRef::Put {
            family,
            qualifier,
            version,
            value,
        } = read_mutation(&mut reader, names, &mut last_version).map_err(malformed)?
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
            shape.expanded_bytes += expanded_bytes(row, qualifier, value);
            last = Some(at);
        } else {
            shape.ascending_puts = false;
        }
    }
    if !reader.is_empty() {
        return Err(malformed(Malformed("bytes after a row's last mutation")));
    }
    check_expanded(shape.expanded_bytes)?;
    Ok(server_versions)
}

/// What a put takes where it is written out: a name of two bytes may stand for a long row and column.
fn expanded_bytes(row: &[u8], qualifier: &[u8], value: &[u8]) -> usize {
    row.len() + qualifier.len() + value.len() + 16
}

fn check_expanded(bytes: usize) -> Result<()> {
    let max = limits::BATCH_EXPANDED_BYTES_MAX;
    check_len(
        "BATCH_TOO_LARGE",
        "batch (cells with their rows and columns)",
        bytes,
        max,
    )
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

/// `names`: families and columns, encoded.
fn assemble(names: &[u8], rows: usize, server_versions: bool, shape: Shape, body: &[u8]) -> PackedBatch {
    let mut head = MAGIC.to_vec();
    head.push(if server_versions { FLAG_SERVER_VERSIONS } else { 0 });
    put_varint(&mut head, rows as u64);
    let names_at = head.len();
    let mut out = BytesMut::with_capacity(head.len() + names.len() + body.len() + CRC_BYTES);
    out.put_slice(&head);
    out.put_slice(names);
    out.put_slice(body);
    let sum = crc32c::crc32c(&out);
    out.put_u32_le(sum);
    let bytes = out.freeze();
    let body = names_at + names.len();
    // Encoded by this module; a batch whose names could not be read again would have no rows.
    let names = read_names(&mut Reader::new(&bytes[names_at..body]), &bytes, true).unwrap_or_default();
    PackedBatch {
        bytes,
        names,
        names_at,
        rows,
        body,
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
    columns: Columns,
    expanded_bytes: usize,
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
    /// Of the last put.
    version: Option<i64>,
    expanded_bytes: usize,
}

/// The list of columns of a batch that is built.
#[derive(Debug, Default)]
struct Columns {
    /// As in the batch.
    encoded: Vec<u8>,
    /// Each one's family (index) and where its qualifier is in `encoded`.
    listed: Vec<(usize, std::ops::Range<usize>)>,
    /// Rows mostly name the same columns in the same order: the one behind the last.
    expected: usize,
    /// How many searches found nothing.
    missed: usize,
}

impl Columns {
    /// A batch that names a different column with every put gains nothing from a list: after so many it is not searched.
    const MISSED_MAX: usize = 256;

    /// The column's place in the list, which it enters if there is room.
    fn place(&mut self, family: usize, qualifier: &[u8]) -> Option<usize> {
        let expected = if self.expected < self.listed.len() {
            self.expected
        } else {
            0
        };
        let is = |(listed, at): &(usize, std::ops::Range<usize>)| {
            *listed == family && self.encoded.get(at.clone()) == Some(qualifier)
        };
        let found = match self.listed.get(expected).is_some_and(is) {
            true => Some(expected),
            false if self.missed > Columns::MISSED_MAX => None,
            false => self.listed.iter().position(is),
        };
        let place = match found {
            Some(place) => place,
            None => {
                self.missed += 1;
                let searched = self.missed <= Columns::MISSED_MAX;
                let full = self.listed.len() == COLUMNS_MAX;
                if !searched || full || qualifier.len() > LISTED_QUALIFIER_BYTES_MAX {
                    return None;
                }
                put_varint(&mut self.encoded, family as u64);
                put_slice(&mut self.encoded, qualifier);
                let end = self.encoded.len();
                self.listed.push((family, end - qualifier.len()..end));
                self.listed.len() - 1
            }
        };
        self.expected = place + 1;
        Some(place)
    }
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
        self.body.len() + self.families.len() * 4 + self.columns.encoded.len() + 16 + CRC_BYTES
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
        open.version = None;
        open.expanded_bytes = 0;
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
        let column = self.columns.place(index, qualifier);
        let row = self.open_row()?;
        match column {
            Some(column) if row.version == Some(version) => row.body.push(OP_PUT_SAME_VERSION + column as u8),
            Some(column) => {
                row.body.push(OP_PUT_LISTED);
                put_varint(&mut row.body, column as u64);
                row.body.extend_from_slice(&version.to_le_bytes());
            }
            None => {
                row.body.push(OP_PUT);
                put_varint(&mut row.body, index as u64);
                put_slice(&mut row.body, qualifier);
                row.body.extend_from_slice(&version.to_le_bytes());
            }
        }
        row.version = Some(version);
        row.expanded_bytes += expanded_bytes(&row.key, qualifier, value);
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
        check_expanded(self.expanded_bytes + row.expanded_bytes)?;
        self.expanded_bytes += row.expanded_bytes;
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
            expanded_bytes: this.expanded_bytes,
        };
        let mut names = Vec::new();
        put_varint(&mut names, this.families.len() as u64);
        for family in &this.families {
            names.extend_from_slice(&family.0.to_le_bytes());
        }
        put_varint(&mut names, this.columns.listed.len() as u64);
        names.extend_from_slice(&this.columns.encoded);
        (this.rows > 0).then(|| assemble(&names, this.rows, this.server_versions, unknown, &this.body))
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
