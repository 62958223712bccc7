//! How the store unites what it finds under one key: the merge operator of series records, as a function.
//!
//! ```text
//! on a thread that writes files    union of the facts -> a block                             stored
//! on a thread that reads           joined := 0x03 | (length u32 | tick or block)*            for this read
//! ```
//! A write batch with several records for one key joins them too; that is an operand until the first flush unites it with
//! the others. What is joined has its own checksums, and stands inside of a memtable or of a block of RocksDB, which has
//! another.
//!
//! A reader unites what it gets by itself, and often needs one column or the newest ticks of it: packing hundreds of fresh ticks
//! for it first would cost five times the read. RocksDB calls the operator on the thread that reads, so the thread says
//! what it is.

use super::block::Merger;
use std::cell::{Cell, RefCell};
use tidemark_base::codec::{Malformed, Reader};

/// First byte of joined values.
pub(super) const JOINED: u8 = 3;

thread_local! {
    static READERS: Cell<u32> = const { Cell::new(0) };
    static MERGER: RefCell<Merger> = RefCell::new(Merger::new());
}

/// While it lives, its thread reads. Made around every call into the store that may unite, and nothing else.
#[derive(Debug)]
pub(crate) struct Reading {
    /// It must end on the thread where it began.
    _stays: std::marker::PhantomData<*const ()>,
}

impl Reading {
    /// Begins.
    pub(crate) fn begin() -> Reading {
        READERS.set(READERS.get() + 1);
        Reading {
            _stays: std::marker::PhantomData,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READERS.set(READERS.get() - 1);
    }
}

/// Unites stored values, in any order. `None` if one is damaged: the store must keep all of them and say so.
pub(crate) fn unite<'a>(values: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Vec<u8>> {
    if READERS.get() == 0 {
        return MERGER.with_borrow_mut(|merger| merger.merge(values).ok());
    }
    let bytes: usize = values.clone().map(|value| value.len() + 4).sum();
    let mut out = Vec::with_capacity(bytes + 1);
    join(&mut out, values);
    Some(out)
}

/// Appends values, joined. Each is shorter than 4 GiB, as all that the store takes.
pub(super) fn join<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]>) {
    out.push(JOINED);
    for value in values {
        // What was joined before may be joined again.
        if let Some((&JOINED, inner)) = value.split_first() {
            out.extend_from_slice(inner);
            continue;
        }
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// True for what is not united yet: a reader's, or one batch's.
pub(crate) fn is_joined(value: &[u8]) -> bool {
    value.first() == Some(&JOINED)
}

/// How many values are joined, if all are as long as the first; 1 for a stored value. A guess, to make room by.
pub(super) fn values_estimate(value: &[u8]) -> usize {
    match value.split_first() {
        Some((&JOINED, joined)) => Reader::new(joined)
            .u32()
            .map_or(0, |first| joined.len() / (first as usize + 4)),
        _ => 1,
    }
}

/// Calls `each` for what a stored value or joined values hold: ticks and blocks.
pub(super) fn for_each_value<'a>(
    value: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let Some((&JOINED, joined)) = value.split_first() else {
        return each(value);
    };
    let mut r = Reader::new(joined);
    while !r.is_empty() {
        let length = r.u32()? as usize;
        each(r.take(length)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::TickBuilder;
    use tidemark_base::Stamp;

    #[test]
    fn a_reader_gets_the_values_and_a_writer_their_union() {
        let tick = |version: i64| {
            let mut tick = TickBuilder::new(Vec::new(), version, Stamp::MIN);
            tick.push(b"q", b"v");
            tick.finish()
        };
        let ticks = [tick(1), tick(2), tick(3)];
        let values = || ticks.iter().map(|t| &t[..]);
        let block = unite(values()).unwrap();
        let joined = {
            let _reading = Reading::begin();
            let part = unite(values().take(2)).unwrap();
            unite([&part[..], &ticks[2]].into_iter()).unwrap()
        };
        let mut seen = Vec::new();
        for_each_value(&joined, |value| {
            seen.push(value.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ticks);
        let mut merger = Merger::new();
        assert_eq!(
            merger.merge([&joined[..]]).unwrap(),
            block,
            "joined values are read like the block"
        );
        assert_eq!(unite(values()).unwrap(), block, "the thread no longer reads");
        let mut damaged = ticks[0].clone();
        damaged[3] ^= 1;
        assert_eq!(unite([&damaged[..]].into_iter()), None);
        assert!(for_each_value(&[JOINED, 9, 0, 0, 0, 1], |_| Ok(())).is_err());
    }
}
