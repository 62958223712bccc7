//! Cells into messages of a scan, and rows counted back out of them. Pure.
//!
//! A message is closed when it has about [`MESSAGE_BYTES`], and the cell that no longer fits decides how: if it begins a
//! row, every row so far is complete and `resume_after` is the last one; if not, `row_continues` and `resume_after` stays
//! at the row before.

use crate::convert::RowsBuilder;
use crate::read::FamilyNames;
use bytes::Bytes;
use std::time::Duration;
use tidemark_base::CellRef;
use tidemark_base::cells::{CellsBuilder, PackedCell, for_each_cell};
use tidemark_proto::v1;

/// A message's size, about; one cell more may be in it.
pub const MESSAGE_BYTES: usize = 256 << 10;
/// A message that is not full is sent after that long, so that what was found is seen while little matches.
const LINGER: Duration = Duration::from_millis(250);

/// Makes messages of one tablet's cells.
pub struct Assembler {
    form: Form,
    /// The row that the last cell belongs to.
    open_row: Option<Bytes>,
    /// The last complete row.
    resume_after: Bytes,
    /// When the open message got its first cell.
    since: Duration,
    rows: u64,
}

enum Form {
    Readable(RowsBuilder, FamilyNames),
    Packed(CellsBuilder),
}

impl Assembler {
    /// For packed cells, or for readable rows.
    pub fn new(packed: bool, names: FamilyNames) -> Assembler {
        Assembler {
            form: match packed {
                true => Form::Packed(CellsBuilder::new()),
                false => Form::Readable(RowsBuilder::default(), names),
            },
            open_row: None,
            resume_after: Bytes::new(),
            since: Duration::ZERO,
            rows: 0,
        }
    }

    /// Adds a cell at that moment; a message that it closes is returned and comes before it.
    pub fn push(&mut self, cell: &CellRef<'_>, is_row_start: bool, now: Duration) -> Option<v1::ScanResponse> {
        if is_row_start {
            self.rows += 1;
            if let Some(done) = self.open_row.take() {
                self.resume_after = done;
            }
        }
        let late = is_row_start && now.saturating_sub(self.since) >= LINGER;
        let ready = (self.bytes() >= MESSAGE_BYTES || late) && !self.is_empty();
        let message = ready.then(|| self.take(!is_row_start));
        if is_row_start {
            self.open_row = Some(Bytes::copy_from_slice(cell.row));
        }
        if self.is_empty() {
            self.since = now;
        }
        match &mut self.form {
            Form::Readable(rows, names) => {
                if let Some(family) = names.get(cell.family) {
                    rows.push(cell.row, family, cell.qualifier, cell.version, cell.value);
                }
            }
            Form::Packed(cells) => cells.push(PackedCell {
                row: cell.row,
                family: cell.family,
                qualifier: cell.qualifier,
                version: cell.version,
                value: cell.value,
            }),
        }
        message
    }

    /// The rest, after the last cell.
    pub fn finish(&mut self) -> Option<v1::ScanResponse> {
        if let Some(done) = self.open_row.take() {
            self.resume_after = done;
        }
        (!self.is_empty()).then(|| self.take(false))
    }

    /// Rows begun so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn take(&mut self, row_continues: bool) -> v1::ScanResponse {
        let (rows, packed) = match &mut self.form {
            Form::Readable(rows, _) => (rows.finish(), Bytes::new()),
            Form::Packed(cells) => (Vec::new(), cells.finish()),
        };
        v1::ScanResponse {
            rows,
            packed,
            row_continues,
            resume_after: self.resume_after.clone(),
            redirect: None,
        }
    }

    fn bytes(&self) -> usize {
        match &self.form {
            Form::Readable(rows, _) => rows.bytes_len(),
            Form::Packed(cells) => cells.bytes_len(),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.form {
            Form::Readable(rows, _) => rows.is_empty(),
            Form::Packed(cells) => cells.is_empty(),
        }
    }
}

/// Counts the rows of a stream of messages that another node made, for a limit that spans tablets.
#[derive(Debug, Default)]
pub struct RowCounter {
    rows: u64,
    last: Option<Bytes>,
}

impl RowCounter {
    /// Counts the rows that this message begins. Packed cells that cannot be read are the client's to refuse.
    pub fn add(&mut self, message: &v1::ScanResponse) {
        for row in &message.rows {
            self.see(&row.key);
        }
        if !message.packed.is_empty() {
            let _ = for_each_cell(&message.packed, |cell| self.see(cell.row));
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn see(&mut self, row: &[u8]) {
        if self.last.as_deref() != Some(row) {
            self.rows += 1;
            self.last = Some(Bytes::copy_from_slice(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_base::{FamilySettings, RegionId, Stamp, TableSchema};

    fn schema() -> TableSchema {
        TableSchema {
            families: vec![FamilySettings::new("m", 0)],
            ..TableSchema::new(RegionId(1))
        }
    }

    /// Rows as (key, value sizes) through an assembler.
    fn run(packed: bool, rows: &[(Vec<u8>, Vec<usize>)], step: Duration) -> Vec<v1::ScanResponse> {
        let schema = schema();
        let mut assembler = Assembler::new(packed, FamilyNames::of(&schema));
        let mut messages = Vec::new();
        let mut now = Duration::ZERO;
        for (row, sizes) in rows {
            for (at, size) in sizes.iter().enumerate() {
                let value = vec![7; *size];
                let cell = CellRef {
                    row,
                    family: schema.families[0].id,
                    qualifier: b"q",
                    version: at as i64,
                    stamp: Stamp::MIN,
                    value: &value,
                };
                messages.extend(assembler.push(&cell, at == 0, now));
                now += step;
            }
        }
        messages.extend(assembler.finish());
        assert_eq!(assembler.rows(), rows.len() as u64);
        messages
    }

    #[test]
    fn a_row_over_several_messages_is_marked_and_resumed_before() {
        let big = MESSAGE_BYTES / 2 + 1;
        let rows = vec![
            (b"a".to_vec(), vec![1]),
            (b"b".to_vec(), vec![big; 5]),
            (b"c".to_vec(), vec![1]),
        ];
        for packed in [false, true] {
            let messages = run(packed, &rows, Duration::ZERO);
            let shape: Vec<_> = messages
                .iter()
                .map(|m| (m.row_continues, m.resume_after.clone()))
                .collect();
            let expected = [(true, "a"), (true, "a"), (false, "c")].map(|(c, r)| (c, Bytes::from(r)));
            assert_eq!(shape, expected, "packed {packed}");
        }
    }

    #[test]
    fn little_that_matches_is_sent_before_the_message_is_full() {
        let rows: Vec<_> = (1..4u8).map(|row| (vec![row], vec![1])).collect();
        assert_eq!(run(false, &rows, Duration::ZERO).len(), 1);
        let messages = run(false, &rows, LINGER);
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[1].resume_after, Bytes::from_static(&[2]));
    }

    #[test]
    fn nothing_makes_no_message() {
        assert!(run(false, &[], Duration::ZERO).is_empty() && run(true, &[], Duration::ZERO).is_empty());
    }

    proptest! {
        #[test]
        fn rows_are_counted_as_they_were_made(
            rows in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 1..3),
                proptest::collection::vec(1usize..MESSAGE_BYTES, 1..4),
                0..12,
            ),
            packed in any::<bool>(),
        ) {
            let rows: Vec<_> = rows.into_iter().collect();
            let messages = run(packed, &rows, Duration::ZERO);
            let mut counter = RowCounter::default();
            messages.iter().for_each(|message| counter.add(message));
            prop_assert_eq!(counter.rows(), rows.len() as u64);
            if let Some(last) = messages.last() {
                prop_assert!(!last.row_continues);
                prop_assert_eq!(&last.resume_after[..], &rows.last().unwrap().0[..]);
            }
        }
    }
}
