//! Wire to domain and back, by hand, in this one place: below it nobody sees a message, above it nobody sees a domain
//! type. Everything from outside is checked here against the limits of the data model, before anything is started.

mod filter;
mod mutation;
pub mod region;
pub mod table;

pub use filter::filter;
pub use mutation::{Encoded, encode_row, mutations, rmw_rule};
pub use table::{
    compression_code, compression_from_code, family_spec, family_specs, max_future_micros, node, peer, peer_record,
    region_id, table, wire_family,
};

use bytes::Bytes;
use tidemark_base::{Error, Result, RowRange, TableSchema, VersionRange, limits};
use tidemark_proto::v1;

/// A row key: 1 to [`limits::ROW_BYTES_MAX`] bytes.
pub fn row_key(row: &[u8]) -> Result<()> {
    if row.is_empty() {
        return Err(Error::invalid("ROW_EMPTY", "a row key has at least one byte"));
    }
    at_most("ROW_KEY_TOO_LARGE", "row key", row.len(), limits::ROW_BYTES_MAX)
}

/// A range of rows. One that ends before it starts is empty, which is legal: a scan that is resumed after its last row
/// asks for it.
pub fn row_range(range: &v1::RowRange) -> Result<RowRange> {
    let end = range.end.clone();
    for key in std::iter::once(&range.start).chain(&end) {
        // One byte longer than a key, for "after the greatest key".
        at_most("ROW_KEY_TOO_LARGE", "row key", key.len(), limits::ROW_BYTES_MAX + 1)?;
    }
    Ok(RowRange {
        start: range.start.clone(),
        end,
    })
}

/// Ranges of rows, at most [`limits::READ_RANGES_MAX`].
pub fn row_ranges(ranges: &[v1::RowRange]) -> Result<Vec<RowRange>> {
    at_most(
        "RANGES_TOO_MANY",
        "list of row ranges",
        ranges.len(),
        limits::READ_RANGES_MAX,
    )?;
    ranges.iter().map(row_range).collect()
}

/// A range on the wire.
pub fn wire_range(range: &RowRange) -> v1::RowRange {
    v1::RowRange {
        start: range.start.clone(),
        end: range.end.clone(),
    }
}

/// Versions, closed at both ends; absent means all.
pub fn versions(range: Option<&v1::VersionRange>) -> Result<VersionRange> {
    let Some(range) = range else {
        return Ok(VersionRange::ALL);
    };
    let range = VersionRange {
        from: range.from.unwrap_or(i64::MIN),
        to: range.to.unwrap_or(i64::MAX),
    };
    if range.from > range.to {
        return Err(Error::invalid(
            "VERSION_INVALID",
            format!("the version range {}..={} is empty", range.from, range.to),
        )
        .action("give `from` at or below `to`; both are part of the range"));
    }
    Ok(range)
}

/// An idempotency token: [`limits::TOKEN_BYTES`] bytes, or none.
pub fn token(bytes: &[u8]) -> Result<Option<[u8; limits::TOKEN_BYTES]>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    <[u8; limits::TOKEN_BYTES]>::try_from(bytes).map(Some).map_err(|_| {
        Error::invalid(
            "TOKEN_INVALID",
            format!("an idempotency token of {} bytes", bytes.len()),
        )
        .action(format!(
            "give exactly {} random bytes, or none to let the server make one",
            limits::TOKEN_BYTES
        ))
    })
}

/// The error for a family that the table does not have.
pub fn family_unknown(schema: &TableSchema, table: &str, name: &str) -> Error {
    let known: Vec<&str> = schema.families.iter().map(|f| f.name.as_str()).take(8).collect();
    Error::invalid(
        "FAMILY_UNKNOWN",
        format!(
            "table {table} has no family {name:?}; it has: {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ),
    )
    .object(format!("family {name}"))
    .action(format!("tidemark table alter {table} --add-family {name}"))
}

/// Collects cells that come in order into rows.
#[derive(Debug, Default)]
pub struct RowsBuilder {
    rows: Vec<v1::Row>,
    bytes: usize,
}

impl RowsBuilder {
    /// Adds one cell. A row whose last cells went into an earlier message begins anew.
    pub fn push(&mut self, row: &[u8], family: &str, qualifier: &[u8], version: i64, value: &[u8]) {
        let cell = v1::Cell {
            family: family.to_owned(),
            qualifier: Bytes::copy_from_slice(qualifier),
            version,
            value: Bytes::copy_from_slice(value),
        };
        // Field tags and lengths of a cell take about 16 bytes.
        self.bytes += family.len() + qualifier.len() + value.len() + 24;
        match self.rows.last_mut() {
            Some(last) if last.key == row => last.cells.push(cell),
            _ => {
                self.bytes += row.len() + 8;
                self.rows.push(v1::Row {
                    key: Bytes::copy_from_slice(row),
                    cells: vec![cell],
                });
            }
        }
    }

    /// Bytes so far, about as on the wire.
    pub fn bytes_len(&self) -> usize {
        self.bytes
    }

    /// True without a cell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What was collected; the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<v1::Row> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}

/// `len` must not exceed `max`; `what` is the noun of the message.
pub(crate) fn at_most(reason: &'static str, what: &str, len: usize, max: usize) -> Result<()> {
    if len <= max {
        return Ok(());
    }
    Err(Error::invalid(
        reason,
        format!("a {what} of {len} is over the limit of {max}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_at_their_bounds() {
        assert_eq!(row_key(b"").unwrap_err().reason(), "ROW_EMPTY");
        assert!(row_key(&vec![1; limits::ROW_BYTES_MAX]).is_ok());
        assert_eq!(
            row_key(&vec![1; limits::ROW_BYTES_MAX + 1]).unwrap_err().reason(),
            "ROW_KEY_TOO_LARGE"
        );
        let range = |len| v1::RowRange {
            start: vec![1; len].into(),
            end: None,
        };
        assert!(row_range(&range(limits::ROW_BYTES_MAX + 1)).is_ok());
        assert!(row_range(&range(limits::ROW_BYTES_MAX + 2)).is_err());
    }

    #[test]
    fn versions_are_open_where_nothing_is_said() {
        assert_eq!(versions(None).unwrap(), VersionRange::ALL);
        let range = |from, to| v1::VersionRange { from, to };
        assert_eq!(versions(Some(&range(Some(5), None))).unwrap().to, i64::MAX);
        assert_eq!(versions(Some(&range(Some(5), Some(5)))).unwrap(), VersionRange::one(5));
        assert_eq!(
            versions(Some(&range(Some(6), Some(5)))).unwrap_err().reason(),
            "VERSION_INVALID"
        );
    }

    #[test]
    fn tokens_have_one_length() {
        assert_eq!(token(b"").unwrap(), None);
        assert_eq!(token(&[7; 16]).unwrap(), Some([7; 16]));
        assert!(token(&[7; 15]).is_err() && token(&[7; 17]).is_err());
    }

    #[test]
    fn cells_become_rows() {
        let mut rows = RowsBuilder::default();
        rows.push(b"a", "m", b"q", 1, b"x");
        rows.push(b"a", "m", b"q", 0, b"y");
        rows.push(b"b", "m", b"q", 1, b"z");
        assert!(!rows.is_empty() && rows.bytes_len() > 0);
        let done = rows.finish();
        assert_eq!(done.iter().map(|r| r.cells.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(rows.is_empty() && rows.bytes_len() == 0);
    }
}
