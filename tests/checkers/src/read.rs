//! Reads a history. Whatever the bytes, it returns: a line that is no record is kept as such, and fails the run.

use crate::history::{FORMAT, Fault, Mark, Operation, Outcome, Phase, PhaseName, Record, Run, Table, Watermark};
use std::collections::HashSet;
use std::io::{BufRead, Read};

/// A line, in bytes; longer ones are unreadable. A scan of a whole test table fits.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Unreadable lines that are kept with their text.
const BAD_MAX: usize = 20;

/// A history in memory.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Its first lines: one, if all is well.
    pub runs: Vec<Run>,
    /// Operations by call time.
    pub operations: Vec<Operation>,
    /// Faults.
    pub faults: Vec<Fault>,
    /// What was said about lag.
    pub watermarks: Vec<Watermark>,
    /// Marks.
    pub marks: Vec<Mark>,
    /// Phases by time.
    pub phases: Vec<Phase>,
    /// What is wrong with the history itself: unreadable lines, ids twice, returns before calls.
    pub problems: Vec<String>,
    /// Number of problems, also those that are not kept.
    pub problems_found: u64,
}

impl History {
    /// Reads lines. A torn last line is a problem too: the recorder closes what it has open.
    pub fn read(mut source: impl BufRead) -> History {
        let mut history = History::default();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            match source.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => history.take_line(number, &line),
                Err(error) => {
                    history.problem(format!("line {number}: {error}"));
                    break;
                }
            }
        }
        history.finish();
        history
    }

    /// A history of records, as if they had been read.
    pub fn of(records: impl IntoIterator<Item = Record>) -> History {
        let mut history = History::default();
        records.into_iter().for_each(|record| history.take(record));
        history.finish();
        history
    }

    /// What ran.
    pub fn run(&self) -> Option<&Run> {
        self.runs.first()
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.run()?.tables.iter().find(|table| table.name == name)
    }

    /// When a phase began first.
    pub fn phase(&self, name: PhaseName) -> Option<u64> {
        self.phases
            .iter()
            .find(|phase| phase.name == name)
            .map(|phase| phase.at)
    }

    fn take_line(&mut self, number: u64, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match serde_json::from_slice::<Record>(line) {
            Ok(record) => self.take(record),
            Err(error) => {
                let start: String = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                self.problem(format!("line {number} is no record: {error}: {}", start.trim_end()));
            }
        }
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Run(run) => self.runs.push(run),
            Record::Op(operation) => self.operations.push(operation),
            Record::Fault(fault) => self.faults.push(fault),
            Record::Watermark(watermark) => self.watermarks.push(watermark),
            Record::Mark(mark) => self.marks.push(mark),
            Record::Phase(phase) => self.phases.push(phase),
        }
    }

    fn finish(&mut self) {
        self.operations.sort_by_key(|operation| (operation.call, operation.id));
        self.phases.sort_by_key(|phase| phase.at);
        match self.runs.as_slice() {
            [run] if run.format == FORMAT => {}
            [run] => self.problem(format!("format {} instead of {FORMAT}", run.format)),
            runs => self.problem(format!("{} `run` records instead of one", runs.len())),
        }
        let mut ids = HashSet::new();
        let mut problems = Vec::new();
        for operation in &self.operations {
            if !ids.insert(operation.id) {
                problems.push(format!("operation {} stands there twice", operation.id));
            }
            match operation.returned {
                Some(returned) if returned < operation.call => {
                    problems.push(format!("operation {} returned before its call", operation.id));
                }
                None if operation.outcome == Outcome::Ok => {
                    problems.push(format!("operation {} succeeded without returning", operation.id));
                }
                _ => {}
            }
            if !self
                .runs
                .iter()
                .flat_map(|run| &run.tables)
                .any(|table| table.name == operation.table)
            {
                problems.push(format!(
                    "operation {} is of a table that `run` does not name",
                    operation.id
                ));
            }
        }
        problems.into_iter().for_each(|problem| self.problem(problem));
    }

    fn problem(&mut self, problem: String) {
        self.problems_found += 1;
        if self.problems.len() < BAD_MAX {
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Mutation, Octets, Recorder, Seen};
    use crate::history::{Cell, Column, Predicate, Stamp, Versions};
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn run() -> Record {
        Record::Run(Run {
            format: FORMAT,
            name: "test".to_owned(),
            tables: vec![Table {
                name: "t".to_owned(),
                ..Table::default()
            }],
            ..Run::default()
        })
    }

    /// The examples of docs/formats/history.md are this text.
    const GOLDEN: &str = include_str!("../../../docs/formats/history.md");

    #[test]
    fn golden_the_pages_examples_are_records_and_are_written_so() {
        let lines: Vec<&str> = GOLDEN.lines().filter(|line| line.starts_with("{\"record\"")).collect();
        assert!(lines.len() >= 10, "{}", lines.len());
        for line in &lines {
            let record: Record = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(serde_json::to_string(&record).unwrap(), **line);
        }
        let history = History::read(lines.join("\n").as_bytes());
        assert_eq!(history.problems, Vec::<String>::new());
        assert!(!history.faults.is_empty() && !history.watermarks.is_empty() && !history.marks.is_empty());
    }

    #[test]
    fn what_is_recorded_is_read_and_what_is_open_is_unknown() {
        let sink = Shared::default();
        let recorder = Recorder::new(sink.clone());
        recorder.write(&run());
        let write = Action::Write {
            mutations: vec![Mutation::put("m", b"q\xff%", 5, b"\0v")],
        };
        for _ in 0..2 {
            let id = recorder.next_id();
            recorder.begin(Operation::begun(id, 1, "east", "t", b"r", write.clone(), 10 * id));
        }
        recorder.end(1, 15, Outcome::Ok, None, None);
        recorder.close().unwrap();
        recorder.end(2, 99, Outcome::Ok, None, None);
        let history = History::read(&sink.0.lock()[..]);
        assert_eq!(history.problems, Vec::<String>::new());
        let outcomes: Vec<_> = history
            .operations
            .iter()
            .map(|o| (o.id, o.outcome, o.returned))
            .collect();
        assert_eq!(outcomes, [(1, Outcome::Ok, Some(15)), (2, Outcome::Unknown, None)]);
        assert_eq!(history.operations[0].action, write);
    }

    #[test]
    fn damage_is_a_problem_and_the_rest_is_read() {
        let line = serde_json::to_string(&run()).unwrap();
        let text = format!("{line}\nnot json\n{{\"record\":\"op\"}}\n{}", &line[..20]);
        let history = History::read(text.as_bytes());
        assert_eq!((history.runs.len(), history.problems_found), (1, 3));
        let mut operation = Operation::begun(1, 1, "r", "nowhere", b"", Action::Scan { end: None }, 9);
        operation.returned = Some(8);
        let history = History::of([Record::Op(operation.clone()), Record::Op(operation)]);
        assert_eq!(history.problems_found, 6, "{:?}", history.problems);
    }

    fn any_octets() -> impl Strategy<Value = Octets> {
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(Octets)
    }

    fn any_operation() -> impl Strategy<Value = Operation> {
        let mutation = (any_octets(), any::<i64>(), any_octets(), 0u8..4).prop_map(|(q, version, value, kind)| {
            let (family, versions) = ("m".to_owned(), Versions { from: 0, to: version });
            match kind {
                0 => Mutation::Put {
                    family,
                    qualifier: q,
                    version,
                    value,
                },
                1 => Mutation::DeleteColumn {
                    family,
                    qualifier: q,
                    versions,
                },
                2 => Mutation::DeleteFamily { family, versions },
                _ => Mutation::DeleteRow { versions },
            }
        });
        let mutations = proptest::collection::vec(mutation, 0..3);
        let action = (mutations, any_octets(), any::<i64>(), 0u8..7).prop_map(|(mutations, q, by, kind)| {
            let column = Column {
                family: "m".to_owned(),
                qualifier: q.clone(),
            };
            match kind {
                0 => Action::Write { mutations },
                1 => Action::Read {
                    latest: Some(by as u32),
                    column: Some(column),
                },
                2 => Action::CheckAndMutate {
                    predicate: Predicate::Newest { column, value: q },
                    on_match: mutations,
                    on_mismatch: vec![],
                },
                3 => Action::Increment { column, by },
                4 => Action::Append { column, value: q },
                5 => Action::Scan { end: Some(q) },
                _ => Action::DeleteRange {
                    end: None,
                    versions: Versions::ALL,
                },
            }
        });
        (action, any_octets(), any::<(u64, u64, u64)>()).prop_map(|(action, row, (id, call, hlc))| {
            let stamp = Some(Stamp {
                epoch: 1,
                hlc,
                region: 2,
            });
            let cell = Cell {
                family: "m".to_owned(),
                qualifier: row.clone(),
                version: -1,
                value: row.clone(),
                stamp,
            };
            let mut operation = Operation::begun(id, 1, "east", "t", &row.0, action, call);
            operation.seen = Some(Seen::Cells(vec![cell]));
            operation
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn records_round_trip(operation in any_operation()) {
            let record = Record::Op(operation);
            let line = serde_json::to_string(&record).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        }

        #[test]
        fn arbitrary_and_mutated_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            operation in any_operation(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            History::read(&bytes[..]);
            let mut line = serde_json::to_vec(&Record::Op(operation)).unwrap();
            for (at, byte) in flips {
                let at = at.index(line.len());
                line[at] = byte;
            }
            History::read(&line[..]);
        }
    }
}
