//! Small pieces that several of this crate's formats share: stamps, ranges, options, errors.
//!
//! ```text
//! stamp  := 14 bytes, as tidemark_base::stamp draws it
//! slice  := length varint | bytes
//! range  := start slice | bounded u8 (0, 1) | [end slice]
//! error  := kind name slice | reason slice | object slice | message slice | action slice | delay u8 (0, 1) | [ms u64]
//! ```
//! Integers are little endian except inside a stamp. Error kinds travel by name: tokens keep responses on disk, and a
//! number that changed its meaning would change an answer already given.

use bytes::Bytes;
use std::time::Duration;
use tidemark_base::codec::{Malformed, Reader, put_slice};
use tidemark_base::stamp::STAMP_BYTES;
use tidemark_base::{Error, ErrorKind, PackedBatch, RowRange, Stamp, limits};

/// Longest text of an error that is kept.
const TEXT_BYTES_MAX: usize = 64 << 10;

pub(crate) fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    out.extend_from_slice(&stamp.encode());
}

pub(crate) fn get_stamp(r: &mut Reader<'_>) -> Result<Stamp, Malformed> {
    Ok(Stamp::decode(&r.array::<STAMP_BYTES>()?))
}

pub(crate) fn put_range(out: &mut Vec<u8>, range: &RowRange) {
    put_slice(out, &range.start);
    out.push(u8::from(range.end.is_some()));
    if let Some(end) = &range.end {
        put_slice(out, end);
    }
}

pub(crate) fn get_range(r: &mut Reader<'_>) -> Result<RowRange, Malformed> {
    let row = |r: &mut Reader<'_>| {
        r.slice(limits::ROW_BYTES_MAX + 1, "row key too long")
            .map(Bytes::copy_from_slice)
    };
    let start = row(r)?;
    let end = match r.u8()? {
        0 => None,
        1 => Some(row(r)?),
        _ => return Err(Malformed("bounded is 0 or 1")),
    };
    Ok(RowRange { start, end })
}

/// A slice of `whole` that shares its memory. `part` must be what a reader over `whole` returned.
pub(crate) fn share(whole: &Bytes, part: &[u8]) -> Bytes {
    whole.slice_ref(part)
}

/// Reads a slice that holds a packed batch and checks it. Zero copy.
pub(crate) fn get_batch(whole: &Bytes, r: &mut Reader<'_>) -> Result<PackedBatch, Malformed> {
    let bytes = r.slice(limits::BATCH_BYTES_MAX, "packed batch too long")?;
    PackedBatch::parse(share(whole, bytes)).map_err(|_| Malformed("packed batch does not parse"))
}

pub(crate) fn put_error(out: &mut Vec<u8>, error: &Error) {
    let texts = [
        error.kind().name(),
        error.reason(),
        error.object_name(),
        error.message(),
        error.next_action(),
    ];
    for text in texts {
        put_slice(out, cut(text).as_bytes());
    }
    let delay_ms = error.delay().map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    out.push(u8::from(delay_ms.is_some()));
    if let Some(ms) = delay_ms {
        out.extend_from_slice(&ms.to_le_bytes());
    }
}

pub(crate) fn get_error(r: &mut Reader<'_>) -> Result<Error, Malformed> {
    let kind = ErrorKind::from_name(get_text(r)?).ok_or(Malformed("unknown kind of error"))?;
    let reason = get_text(r)?.to_owned();
    let object = get_text(r)?;
    let message = get_text(r)?;
    let action = get_text(r)?;
    let mut error = Error::new(kind, reason, message).object(object).action(action);
    if r.u8()? != 0 {
        error = error.retry_after(Duration::from_millis(r.u64()?));
    }
    Ok(error)
}

pub(crate) fn get_text<'a>(r: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let bytes = r.slice(TEXT_BYTES_MAX, "text too long")?;
    std::str::from_utf8(bytes).map_err(|_| Malformed("text is not UTF-8"))
}

/// The longest prefix of a text that fits.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(crate) fn done(r: &Reader<'_>) -> Result<(), Malformed> {
    if r.is_empty() {
        Ok(())
    } else {
        Err(Malformed("bytes after the end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_back_as_they_went() {
        let error = Error::unavailable("STREAM_WINDOW", "too far ahead", Duration::from_millis(50))
            .object("stream r2/tablet-7")
            .action("wait");
        let mut out = Vec::new();
        put_error(&mut out, &error);
        let mut r = Reader::new(&out);
        assert_eq!(get_error(&mut r).unwrap(), error);
        done(&r).unwrap();
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = "é".repeat(TEXT_BYTES_MAX);
        let mut out = Vec::new();
        put_error(&mut out, &Error::internal(text));
        let error = get_error(&mut Reader::new(&out)).unwrap();
        assert_eq!(error.message().len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn ranges_come_back_as_they_went() {
        for range in [RowRange::all(), RowRange::row(b"a"), RowRange::prefix(b"x")] {
            let mut out = Vec::new();
            put_range(&mut out, &range);
            let mut r = Reader::new(&out);
            assert_eq!(get_range(&mut r).unwrap(), range);
            done(&r).unwrap();
        }
    }
}
