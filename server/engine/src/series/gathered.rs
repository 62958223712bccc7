//! The series records of one write batch, gathered so that each key gets one merge operand.
//!
//! ```text
//! push    device-2/T1  device-1/T1  device-2/T2      as apply comes by them
//! emit    device-1/T1  device-2/joined(T1 T2)        by key, each once
//! ```
//! The store pays for an operand, not for its bytes: a search for its place in the memtable, a node there, an entry of
//! every merge. A command often has several ticks of a row (a device that was offline, clients that write minutes at once, writes
//! that were coalesced), and the search is short where the last operand is a neighbour. Facts merge in any order (R3), so
//! that the records may be brought into the order of their keys.

use super::unite::join;
use std::ops::Range;

/// See the module.
#[derive(Default)]
pub(crate) struct Gathered {
    records: Vec<Record>,
    bytes: Vec<u8>,
}

/// A record, by where its parts lie.
struct Record {
    key: Range<usize>,
    value: Range<usize>,
}

impl Gathered {
    /// Adds a record.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        let middle = from + key.len();
        self.records.push(Record {
            key: from..middle,
            value: middle..self.bytes.len(),
        });
    }

    /// Gives each key with its operand to `merge`, in the order of keys, and forgets the records.
    pub(crate) fn emit(&mut self, mut merge: impl FnMut(&[u8], &[u8])) {
        let bytes = &self.bytes;
        let key = |record: &Record| &bytes[record.key.clone()];
        if !self.records.is_sorted_by_key(key) {
            // Stable, so that a batch has one form whatever the sort does with equals.
            self.records.sort_by(|a, b| key(a).cmp(key(b)));
        }
        let mut joined = Vec::new();
        for same in self.records.chunk_by(|a, b| key(a) == key(b)) {
            match same {
                [] => {}
                [only] => merge(key(only), &bytes[only.value.clone()]),
                [first, ..] => {
                    joined.clear();
                    join(&mut joined, same.iter().map(|record| &bytes[record.value.clone()]));
                    merge(key(first), &joined);
                }
            }
        }
        self.records.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::unite::for_each_value;
    use super::*;

    #[test]
    fn each_key_comes_once_in_order_with_all_its_values() {
        let mut gathered = Gathered::default();
        for (key, value) in [("b", "1"), ("a", "2"), ("b", "3"), ("ab", "4"), ("b", "5")] {
            gathered.push(key.as_bytes(), value.as_bytes());
        }
        let mut seen = Vec::new();
        gathered.emit(|key, value| {
            let mut values = Vec::new();
            for_each_value(value, |value| {
                values.push(String::from_utf8(value.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
            seen.push((String::from_utf8(key.to_vec()).unwrap(), values));
        });
        let expected = [("a", vec!["2"]), ("ab", vec!["4"]), ("b", vec!["1", "3", "5"])];
        let expected = expected.map(|(key, values)| (key.to_owned(), values.into_iter().map(str::to_owned).collect()));
        assert_eq!(seen, expected);
        gathered.emit(|_, _| panic!("nothing is left"));
    }
}
