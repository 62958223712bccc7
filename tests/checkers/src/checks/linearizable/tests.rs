//! Histories by hand, and random ones against the definition itself: all orders tried.

use super::model::{Input, Model};
use super::search::{Verdict, search};
use super::*;
use crate::history::{Action, Cell, Column, Mutation, Predicate, Record, Run, Seen, Table, Versions};
use crate::writes::Writes;
use crate::{History, Plan};
use proptest::prelude::*;

pub(super) fn history(operations: Vec<Operation>) -> History {
    let run = Run {
        format: 1,
        regions: vec!["east".to_owned()],
        tables: vec![Table {
            name: "t".to_owned(),
            regions: vec!["east".to_owned()],
            families: Vec::new(),
        }],
        ..Run::default()
    };
    let history = History::of(
        [Record::Run(run)]
            .into_iter()
            .chain(operations.into_iter().map(Record::Op)),
    );
    assert_eq!(history.problems, Vec::<String>::new());
    history
}

/// The verdict over a history's rows: true if all are linearizable.
fn linearizable(operations: Vec<Operation>) -> bool {
    let history = history(operations);
    let plan = Plan::default();
    let evidence = Evidence {
        history: &history,
        finals: &[],
        logs: &[],
        plan: &plan,
        writes: Writes::of(&history, 0),
    };
    let mut report = Report::default();
    check(&evidence, &mut report);
    assert!(report.counted("rows searched for a linear order") > 0, "{report}");
    report.passed()
}

fn operation(id: u64, action: Action, times: (u64, u64)) -> Operation {
    let mut operation = Operation::begun(id, id, "east", "t", b"r", action, times.0);
    operation.returned = Some(times.1);
    operation.outcome = Outcome::Ok;
    operation
}

fn put(id: u64, qualifier: &str, version: i64, times: (u64, u64)) -> Operation {
    let mutations = vec![Mutation::put("m", qualifier, version, format!("v{id}"))];
    operation(id, Action::Write { mutations }, times)
}

fn cell(qualifier: &str, version: i64, value: &str) -> Cell {
    Cell {
        family: "m".to_owned(),
        qualifier: qualifier.into(),
        version,
        value: value.into(),
        stamp: None,
    }
}

fn read(id: u64, cells: &[(&str, i64, &str)], times: (u64, u64)) -> Operation {
    let mut read = operation(
        id,
        Action::Read {
            latest: None,
            column: None,
        },
        times,
    );
    read.seen = Some(Seen::Cells(
        cells.iter().map(|(q, v, value)| cell(q, *v, value)).collect(),
    ));
    read
}

fn unknown(mut operation: Operation) -> Operation {
    operation.outcome = Outcome::Unknown;
    operation.returned = None;
    operation
}

fn column(qualifier: &str) -> Column {
    Column {
        family: "m".to_owned(),
        qualifier: qualifier.into(),
    }
}

fn increment(id: u64, by: i64, seen: i64, times: (u64, u64)) -> Operation {
    let mut operation = operation(
        id,
        Action::Increment {
            column: column("n"),
            by,
        },
        times,
    );
    let mut cell = cell("n", id as i64, "");
    cell.value = seen.to_be_bytes().into();
    operation.seen = Some(Seen::Cells(vec![cell]));
    operation
}

#[test]
fn overlapping_writes_may_come_in_either_order_and_reads_agree_on_one() {
    let writes = || vec![put(1, "a", 1, (0, 10)), put(2, "a", 1, (5, 15))];
    let with = |reads: Vec<Operation>| writes().into_iter().chain(reads).collect::<Vec<_>>();
    assert!(linearizable(with(vec![read(3, &[("a", 1, "v1")], (20, 21))])));
    assert!(linearizable(with(vec![read(3, &[("a", 1, "v2")], (20, 21))])));
    let both = |first: &str, second: &str| {
        vec![
            read(3, &[("a", 1, first)], (20, 21)),
            read(4, &[("a", 1, second)], (30, 31)),
        ]
    };
    assert!(linearizable(with(both("v2", "v2"))));
    assert!(
        !linearizable(with(both("v1", "v2"))),
        "nothing was written between the reads"
    );
}

#[test]
fn a_stale_read_is_caught() {
    assert!(!linearizable(vec![put(1, "a", 1, (0, 10)), read(2, &[], (11, 12))]));
    assert!(
        linearizable(vec![put(1, "a", 1, (0, 10)), read(2, &[], (10, 12))]),
        "they overlap"
    );
    let seen_then_not = vec![
        put(1, "a", 1, (0, 100)),
        read(2, &[("a", 1, "v1")], (10, 20)),
        read(3, &[], (30, 40)),
    ];
    assert!(!linearizable(seen_then_not));
}

#[test]
fn a_value_of_nowhere_and_a_lost_cell_are_caught() {
    assert!(!linearizable(vec![
        put(1, "a", 1, (0, 10)),
        read(2, &[("a", 1, "v9")], (11, 12))
    ]));
    let two = || vec![put(1, "a", 1, (0, 1)), put(2, "a", 2, (2, 3))];
    let with = |cells: &[(&str, i64, &str)]| two().into_iter().chain([read(3, cells, (4, 5))]).collect::<Vec<_>>();
    assert!(linearizable(with(&[("a", 2, "v2"), ("a", 1, "v1")])));
    assert!(
        !linearizable(with(&[("a", 2, "v2")])),
        "the older version is still there"
    );
}

#[test]
fn an_unknown_write_may_come_late_or_never_but_does_not_go_again() {
    let write = || unknown(put(1, "a", 1, (0, 1)));
    assert!(linearizable(vec![write(), read(2, &[], (10, 11))]));
    assert!(linearizable(vec![
        write(),
        read(2, &[], (10, 11)),
        read(3, &[("a", 1, "v1")], (20, 21))
    ]));
    let gone = vec![write(), read(2, &[("a", 1, "v1")], (10, 11)), read(3, &[], (20, 21))];
    assert!(!linearizable(gone));
    let early = vec![unknown(put(1, "a", 1, (50, 51))), read(2, &[("a", 1, "v1")], (10, 11))];
    assert!(!linearizable(early), "it was seen before it was asked for");
}

#[test]
fn deletes_hide_and_a_put_after_them_shows() {
    let delete = |id, times| {
        let mutations = vec![Mutation::DeleteRow {
            versions: Versions::ALL,
        }];
        operation(id, Action::Write { mutations }, times)
    };
    let ops = |cells: &[(&str, i64, &str)]| {
        vec![
            put(1, "a", 9, (0, 1)),
            delete(2, (2, 3)),
            put(3, "a", 1, (4, 5)),
            read(4, cells, (6, 7)),
        ]
    };
    assert!(linearizable(ops(&[("a", 1, "v3")])));
    assert!(
        !linearizable(ops(&[("a", 9, "v1"), ("a", 1, "v3")])),
        "a deleted cell came back"
    );
    assert!(!linearizable(ops(&[])), "the put came after the delete");
}

#[test]
fn conditional_writes_say_what_was_there() {
    let check = |id, value: &str, matched, times| {
        let predicate = Predicate::Newest {
            column: column("a"),
            value: value.into(),
        };
        let on_match = vec![Mutation::put("m", "a", id as i64, format!("v{id}"))];
        let mut op = operation(
            id,
            Action::CheckAndMutate {
                predicate,
                on_match,
                on_mismatch: vec![],
            },
            times,
        );
        op.seen = Some(Seen::Matched(matched));
        op
    };
    let first = || put(1, "a", 1, (0, 1));
    assert!(linearizable(vec![
        first(),
        check(2, "v1", true, (2, 9)),
        check(3, "v1", false, (2, 9))
    ]));
    assert!(
        !linearizable(vec![
            first(),
            check(2, "v1", true, (2, 9)),
            check(3, "v1", true, (2, 9))
        ]),
        "one of them only"
    );
    assert!(!linearizable(vec![first(), check(2, "v0", true, (2, 9))]));
}

#[test]
fn counters_count_every_increment_once() {
    let ops = |second| vec![increment(1, 2, 2, (0, 1)), increment(2, 3, second, (2, 3))];
    assert!(linearizable(ops(5)));
    assert!(!linearizable(ops(3)), "the first was lost");
    assert!(!linearizable(ops(7)), "the first was applied twice");
    let retried = vec![
        unknown(increment(1, 2, 0, (0, 1))),
        increment(2, 1, 3, (5, 6)),
        increment(3, 1, 4, (7, 8)),
    ];
    assert!(linearizable(retried));
    let twice = vec![unknown(increment(1, 2, 0, (0, 1))), increment(2, 1, 5, (5, 6))];
    assert!(!linearizable(twice));
}

#[test]
fn rows_that_cannot_be_searched_are_counted_not_passed() {
    let mut west = put(2, "a", 1, (5, 6));
    west.region = "west".to_owned();
    let history = history(vec![put(1, "a", 1, (0, 1)), west]);
    let plan = Plan {
        linearizable_rows_min: 1,
        finals: 0,
        ..Plan::default()
    };
    let report = crate::check(&history, &[], &[], &plan);
    assert_eq!(report.counted("rows not searched: written in several regions"), 1);
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.property == "vacuity" && f.what.contains("linear order")),
        "{report}"
    );
}

#[test]
fn the_bound_ends_a_search_and_says_so() {
    // Unknown writes of one coordinate, and a read of a value that no order explains: every subset would be tried.
    let mut operations: Vec<Operation> = (1..=16)
        .map(|id| unknown(put(id, &format!("q{id}"), 1, (0, 1))))
        .collect();
    let cells: Vec<(String, String)> = (1..=16).map(|id| (format!("q{id:02}"), format!("v{id}"))).collect();
    let cells: Vec<(&str, i64, &str)> = cells.iter().map(|(q, v)| (&**q, 1, &**v)).collect();
    operations.push(read(90, &cells, (5, 6)));
    let history = history(operations);
    let plan = Plan {
        search_steps_max: 1_000,
        ..Plan::default()
    };
    let report = crate::check(&history, &[], &[], &plan);
    assert!(report.findings.iter().any(|f| f.property == "linearizable"), "{report}");
}

/// A few operations on one row, answered by a real execution and then perhaps spoilt.
pub(super) fn any_history() -> impl Strategy<Value = Vec<Operation>> {
    let kind = 0u8..8;
    let one = (
        kind,
        0u8..2,
        1i64..3,
        0u64..30,
        1u64..12,
        0u64..12,
        any::<bool>(),
        0u8..12,
    );
    proptest::collection::vec(one, 1..7).prop_map(|specs| {
        let mut planned: Vec<(u64, Operation, u8)> = Vec::new();
        for (index, (kind, q, version, call, length, point, is_unknown, spoil)) in specs.into_iter().enumerate() {
            let id = index as u64 + 1;
            let q = ["a", "b"][usize::from(q)];
            let times = (call, call + length);
            let mut op = match kind {
                0..=2 => put(id, q, version, times),
                3 => operation(
                    id,
                    Action::Write {
                        mutations: vec![Mutation::DeleteColumn {
                            family: "m".to_owned(),
                            qualifier: q.into(),
                            versions: Versions::ALL,
                        }],
                    },
                    times,
                ),
                4 => {
                    let predicate = Predicate::Newest {
                        column: column(q),
                        value: format!("v{}", id - 1).as_str().into(),
                    };
                    let on_match = vec![Mutation::put("m", q, version, format!("v{id}"))];
                    let on_mismatch = vec![Mutation::put("m", q, version, format!("w{id}"))];
                    operation(
                        id,
                        Action::CheckAndMutate {
                            predicate,
                            on_match,
                            on_mismatch,
                        },
                        times,
                    )
                }
                5 => increment(id, version, 0, times),
                _ => read(id, &[], times),
            };
            if is_unknown && spoil % 2 == 0 && kind < 6 {
                op = unknown(op);
            }
            planned.push((call + point.min(length), op, spoil));
        }
        answer(planned)
    })
}

/// Runs the operations at their points in time, fills in what they saw, and spoils some answers.
fn answer(mut planned: Vec<(u64, Operation, u8)>) -> Vec<Operation> {
    planned.sort_by_key(|(point, op, _)| (*point, op.id));
    let mut cells: std::collections::BTreeMap<(String, std::cmp::Reverse<i64>), Octets> = Default::default();
    let mut out = Vec::new();
    for (_, mut op, spoil) in planned {
        let newest = |cells: &std::collections::BTreeMap<(String, std::cmp::Reverse<i64>), Octets>, q: &Octets| {
            let q = q.text();
            cells.iter().find(|((c, _), _)| *c == q).map(|(_, v)| v.clone())
        };
        let happens = op.outcome == Outcome::Ok || spoil > 5;
        let mut run = |mutations: &[Mutation]| {
            for mutation in mutations {
                match mutation {
                    Mutation::Put {
                        qualifier,
                        version,
                        value,
                        ..
                    } => {
                        cells.insert((qualifier.text(), std::cmp::Reverse(*version)), value.clone());
                    }
                    Mutation::DeleteColumn { qualifier, .. } => cells.retain(|(q, _), _| *q != qualifier.text()),
                    _ => {}
                }
            }
        };
        let mut seen = None;
        match op.action.clone() {
            Action::Write { mutations } if happens => run(&mutations),
            Action::CheckAndMutate {
                predicate: Predicate::Newest { column, value },
                on_match,
                on_mismatch,
            } if happens => {
                let matched = newest(&cells, &column.qualifier) == Some(value);
                let mut run = |mutations: &[Mutation]| {
                    for mutation in mutations {
                        if let Mutation::Put {
                            qualifier,
                            version,
                            value,
                            ..
                        } = mutation
                        {
                            cells.insert((qualifier.text(), std::cmp::Reverse(*version)), value.clone());
                        }
                    }
                };
                run(if matched { &on_match } else { &on_mismatch });
                seen = Some(Seen::Matched(matched != (spoil == 1)));
            }
            Action::Increment { column, by } if happens => {
                let old = newest(&cells, &column.qualifier)
                    .map_or(0, |v| i64::from_be_bytes(v.0.try_into().unwrap_or_default()));
                let new = old + by + i64::from(spoil == 1);
                let mut shown = cell("n", op.id as i64, "");
                shown.value = new.to_be_bytes().into();
                cells.retain(|(q, _), _| q != "n");
                cells.insert(("n".to_owned(), std::cmp::Reverse(op.id as i64)), shown.value.clone());
                seen = Some(Seen::Cells(vec![shown]));
            }
            Action::Read { .. } => {
                let mut shown: Vec<Cell> = cells
                    .iter()
                    .map(|((q, v), value)| {
                        let mut cell = cell(q, v.0, "");
                        cell.value = value.clone();
                        cell
                    })
                    .collect();
                if spoil == 1 {
                    shown.pop();
                }
                seen = Some(Seen::Cells(shown));
            }
            _ => {}
        }
        if op.outcome == Outcome::Ok {
            op.seen = seen;
        }
        out.push(op);
    }
    out
}

/// The definition: some order of all certain and some unknown operations keeps real time and explains every answer.
fn by_definition(inputs: &[Input<'_>]) -> bool {
    fn place<'a>(model: &mut Model<'a>, state: &mut model::State, left: &[Input<'a>]) -> bool {
        if left.iter().all(|input| !input.is_certain()) {
            return true;
        }
        (0..left.len()).any(|at| {
            let first = left[at];
            let must_follow = left
                .iter()
                .any(|other| other.is_certain() && other.returned < first.call);
            let step = if must_follow { None } else { model.step(state, &first) };
            step.is_some_and(|undo| {
                let rest: Vec<Input<'a>> = left
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| *n != at)
                    .map(|(_, i)| *i)
                    .collect();
                let found = place(model, state, &rest);
                state.undo(undo);
                found
            })
        })
    }
    place(&mut Model::new(inputs), &mut model::State::default(), inputs)
}

/// Long rows take memory for their operations, not for all the states on the way.
#[test]
fn a_long_row_is_searched_quickly() {
    let version = |id: u64| i64::try_from(id).unwrap();
    let mut operations: Vec<Operation> = (1..=4_000)
        .map(|id| put(id, "a", version(id), (10 * id, 10 * id + 25)))
        .collect();
    let newest: Vec<(String, i64)> = (1..=4_000).rev().map(|id| (format!("v{id}"), version(id))).collect();
    let all: Vec<(&str, i64, &str)> = newest
        .iter()
        .map(|(value, version)| ("a", *version, &**value))
        .collect();
    operations.push(read(5_000, &all, (50_000, 50_001)));
    assert!(linearizable(operations.clone()));
    operations.push(read(5_001, &all[1..], (50_002, 50_003)));
    let history = history(operations);
    let plan = Plan {
        search_steps_max: 20_000,
        ..Plan::default()
    };
    let report = crate::check(&history, &[], &[], &plan);
    assert!(report.findings.iter().any(|f| f.property == "linearizable"), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_finds_what_the_definition_says(operations in any_history()) {
        let history = history(operations);
        let plan = Plan::default();
        let evidence =
            Evidence { history: &history, finals: &[], logs: &[], plan: &plan, writes: Writes::of(&history, 0) };
        for problem in problems(&evidence, &mut Report::default()) {
            let found = search(&mut Model::new(&problem.inputs), &problem.inputs, 1_000_000);
            let expected = by_definition(&problem.inputs);
            prop_assert_eq!(found == Verdict::Linearizable, expected, "{:?}", found);
        }
    }
}
