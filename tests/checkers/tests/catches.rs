//! Each checker passes a correct run and catches every minimally wrong one. A checker that has caught nothing proves nothing.

#![allow(clippy::unwrap_used)] // Everything here is a test.

use tidemark_checkers::history::*;
use tidemark_checkers::plan::{CONFLICT_SEEN, Plan};
use tidemark_checkers::{History, Report, check};

const MS: u64 = 1_000_000;

/// A run of two regions, in parts that a test can spoil.
struct Parts {
    run: Run,
    operations: Vec<Operation>,
    faults: Vec<Fault>,
    watermarks: Vec<Watermark>,
    marks: Vec<Mark>,
    phases: Vec<Phase>,
    finals: Vec<FinalState>,
    logs: Vec<NodeLog>,
    plan: Plan,
}

fn operation(id: u64, region: &str, table: &str, row: &str, action: Action, (call, end): (u64, u64)) -> Operation {
    let mut operation = Operation::begun(id, id, region, table, row, action, call * MS);
    operation.returned = Some(end * MS);
    operation.outcome = Outcome::Ok;
    operation
}

/// Puts `op<id>` at those qualifiers, all at version 1.
fn put(id: u64, region: &str, table: &str, row: &str, qualifiers: &[&str], times: (u64, u64)) -> Operation {
    let mutations = qualifiers
        .iter()
        .map(|q| Mutation::put("m", q, 1, format!("op{id}")))
        .collect();
    operation(id, region, table, row, Action::Write { mutations }, times)
}

fn delete_row() -> Action {
    let versions = Versions::ALL;
    Action::Write {
        mutations: vec![Mutation::DeleteRow { versions }],
    }
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

fn cells(shown: &[(&str, i64, &str)]) -> Vec<Cell> {
    shown
        .iter()
        .map(|(q, version, value)| cell(q, *version, value))
        .collect()
}

fn read(id: u64, region: &str, table: &str, row: &str, shown: &[(&str, i64, &str)], times: (u64, u64)) -> Operation {
    let mut read = operation(
        id,
        region,
        table,
        row,
        Action::Read {
            latest: None,
            column: None,
        },
        times,
    );
    read.seen = Some(Seen::Cells(cells(shown)));
    read
}

fn stamp(n: u64, region: u16) -> Option<Stamp> {
    Some(Stamp {
        epoch: 0,
        hlc: n,
        region,
    })
}

fn watermark(times: (u64, u64), lag_ms: Option<u64>) -> Watermark {
    let (table, origin, peer) = ("t".to_owned(), "east".to_owned(), "west".to_owned());
    Watermark {
        table,
        origin,
        peer,
        call: times.0 * MS,
        returned: times.1 * MS,
        lag_ms,
        complete_hlc: None,
    }
}

/// What both regions show of `t` when all is done.
fn final_rows() -> Vec<SeenRow> {
    let rows = [
        ("d", cells(&[("c", 6, "op8")])),
        ("r", cells(&[("a", 1, "op6"), ("b", 1, "op6")])),
        ("x", cells(&[("a", 1, "op10")])),
        ("y", cells(&[("a", 1, "op12")])),
    ];
    rows.into_iter()
        .map(|(row, cells)| SeenRow { row: row.into(), cells })
        .collect()
}

fn final_state(region: &str) -> FinalState {
    let table = |name: &str, rows| TableState {
        table: name.to_owned(),
        rows,
        content_hash: Some("ab".to_owned()),
        stamps_hash: None,
    };
    let mut tables = vec![table("t", final_rows())];
    if region == "east" {
        tables.push(table(
            "l",
            vec![SeenRow {
                row: "k".into(),
                cells: cells(&[("a", 1, "op21")]),
            }],
        ));
    }
    let origin = if region == "east" { "west" } else { "east" };
    let link = LinkCount {
        table: "t".to_owned(),
        origin: origin.to_owned(),
        peer: region.to_owned(),
        originated: 4,
        applied: 4,
        foreign: 0,
    };
    FinalState {
        region: region.to_owned(),
        now_micros: 1_000,
        tables,
        links: vec![link],
    }
}

fn operations() -> Vec<Operation> {
    let delete_and_put = Action::Write {
        mutations: vec![
            Mutation::DeleteRow {
                versions: Versions::ALL,
            },
            Mutation::put("m", "c", 6, "op8"),
        ],
    };
    let old = Action::Write {
        mutations: vec![Mutation::put("m", "c", 5, "op7")],
    };
    vec![
        put(1, "east", "t", "r", &["a", "b"], (0, 10)),
        read(2, "east", "t", "r", &[("a", 1, "op1"), ("b", 1, "op1")], (20, 22)),
        read(3, "west", "t", "r", &[], (23, 24)),
        put(4, "west", "t", "r", &["a", "b"], (30, 35)),
        read(5, "west", "t", "r", &[("a", 1, "op4"), ("b", 1, "op4")], (60, 61)),
        put(6, "west", "t", "r", &["a", "b"], (70, 75)),
        operation(7, "east", "t", "d", old, (80, 82)),
        operation(8, "east", "t", "d", delete_and_put, (83, 85)),
        read(9, "east", "t", "d", &[("c", 6, "op8")], (86, 87)),
        // After the heal.
        put(10, "east", "t", "x", &["a"], (110, 112)),
        read(11, "east", "t", "x", &[("a", 1, "op10")], (113, 114)),
        put(12, "west", "t", "y", &["a"], (110, 112)),
        read(13, "west", "t", "y", &[("a", 1, "op12")], (113, 114)),
        put(20, "east", "l", "k", &["a"], (40, 50)),
        put(21, "east", "l", "k", &["a"], (105, 115)),
        read(22, "east", "l", "k", &[("a", 1, "op21")], (118, 119)),
    ]
}

fn parts() -> Parts {
    let family = Family {
        name: "m".to_owned(),
        ttl_micros: None,
        max_versions: None,
    };
    let table = |name: &str, regions: &[&str]| Table {
        name: name.to_owned(),
        regions: regions.iter().map(|r| (*r).to_owned()).collect(),
        families: vec![family.clone()],
    };
    let phase = |name, at: u64| Phase { name, at: at * MS };
    Parts {
        run: Run {
            format: FORMAT,
            name: "test".to_owned(),
            seed: 7,
            regions: vec!["east".to_owned(), "west".to_owned()],
            tables: vec![table("t", &["east", "west"]), table("l", &["east"])],
            command: "./x simulate --seed 7".to_owned(),
        },
        operations: operations(),
        faults: vec![Fault {
            id: "kill-1".to_owned(),
            kind: "kill".to_owned(),
            target: "east/n2".to_owned(),
            began: 60 * MS,
            ended: Some(70 * MS),
            effect: Some("another node leads".to_owned()),
        }],
        watermarks: vec![watermark((50, 51), Some(5)), watermark((190, 191), Some(3))],
        marks: vec![Mark {
            name: "leader-changed".to_owned(),
            at: 65 * MS,
            count: 1,
        }],
        phases: vec![
            phase(PhaseName::Healed, 100),
            phase(PhaseName::Quiet, 200),
            phase(PhaseName::Converged, 210),
        ],
        finals: vec![final_state("east"), final_state("west")],
        logs: vec![NodeLog {
            node: "east/n1".to_owned(),
            text: "2026-01-01T00:00:00Z  INFO tidemarkd: started\n".to_owned(),
        }],
        plan: Plan {
            faults: vec!["kill-1".to_owned()],
            marks: vec!["leader-changed".to_owned()],
            links_counted: true,
            linearizable_rows_min: 1,
            serve_within: 40 * MS,
            converge_within: 50 * MS,
            lag_max_ms: 100,
            secrets: vec!["hunter2".to_owned()],
            errors_allowed: vec!["lost its connection".to_owned()],
            logs_needed: true,
            ..Plan::default()
        },
    }
}

fn judge(parts: Parts) -> Report {
    let records = [Record::Run(parts.run)]
        .into_iter()
        .chain(parts.operations.into_iter().map(Record::Op))
        .chain(parts.faults.into_iter().map(Record::Fault))
        .chain(parts.watermarks.into_iter().map(Record::Watermark))
        .chain(parts.marks.into_iter().map(Record::Mark))
        .chain(parts.phases.into_iter().map(Record::Phase));
    check(&History::of(records), &parts.finals, &parts.logs, &parts.plan)
}

/// Spoils one thing and expects that property to be found broken, with that in its words.
#[track_caller]
fn caught(property: &str, words: &str, spoil: impl FnOnce(&mut Parts)) {
    let mut parts = parts();
    spoil(&mut parts);
    let report = judge(parts);
    let found = report
        .findings
        .iter()
        .any(|f| f.property.starts_with(property) && f.what.contains(words));
    assert!(found, "not caught as {property}: {report}");
    assert!(!report.passed());
}

#[track_caller]
fn passes(change: impl FnOnce(&mut Parts)) -> Report {
    let mut parts = parts();
    change(&mut parts);
    let report = judge(parts);
    assert!(report.passed(), "{report}");
    report
}

impl Parts {
    fn op(&mut self, id: u64) -> &mut Operation {
        self.operations.iter_mut().find(|o| o.id == id).unwrap()
    }

    fn sees(&mut self, id: u64, shown: &[(&str, i64, &str)]) {
        self.op(id).seen = Some(Seen::Cells(cells(shown)));
    }

    /// Changes a row of `t` in every region's final state, so that they still agree.
    fn end_with(&mut self, row: &str, shown: &[(&str, i64, &str)]) {
        for state in &mut self.finals {
            state.tables[0].rows.retain(|r| r.row != row.into());
            state.tables[0].rows.push(SeenRow {
                row: row.into(),
                cells: cells(shown),
            });
        }
    }
}

#[test]
fn a_correct_run_passes_and_every_checker_had_something_to_look_at() {
    let report = passes(|_| {});
    for counted in [
        "operations",
        "rows searched for a linear order",
        "row reads compared with acknowledged writes",
        "coordinates of final states compared with acknowledged writes",
        "rows compared between regions",
        "promised writes looked for at a peer",
        "writes after a read of what they overwrite",
        "mutations of several cells seen by a read",
        "directed links counted",
        "lags looked at after the heal",
        "log lines",
        "faults",
    ] {
        assert!(report.counted(counted) > 0, "{counted}: {report}");
    }
    assert!(report.to_string().contains("test, seed 7: passed"));
    assert!(report.to_json().contains("\"findings\": []"));
}

#[test]
fn a_failure_is_reported_with_the_command_that_repeats_it() {
    let mut parts = parts();
    parts.end_with("x", &[]);
    let report = judge(parts);
    let text = report.to_string();
    assert!(
        text.contains("FAILED") && text.contains("again: ./x simulate --seed 7"),
        "{text}"
    );
    assert!(serde_json::from_str::<serde_json::Value>(&report.to_json()).is_ok());
}

#[test]
fn what_was_acknowledged_and_is_not_there_o6() {
    caught("O6", "shows nothing", |p| p.end_with("x", &[]));
    caught("O6", "at the end west", |p| {
        p.finals[1].tables[0].rows.retain(|r| r.row != "x".into())
    });
    caught("O6", "nobody wrote", |p| p.end_with("x", &[("a", 1, "op99")]));
    caught("O6", "nobody wrote", |p| {
        p.end_with("x", &[("a", 1, "op10"), ("z", 1, "op10")])
    });
    caught("O6", "nobody wrote", |p| p.end_with("stranger", &[("a", 1, "op10")]));
    caught("O6", "certainly beats", |p| {
        p.end_with("r", &[("a", 1, "op1"), ("b", 1, "op1")])
    });
    caught("O6", "certainly beats", |p| {
        p.end_with("d", &[("c", 6, "op8"), ("c", 5, "op7")])
    });
    caught("O6", "operation 9 in east", |p| p.sees(9, &[]));
    caught("O6", "operation 2 in east", |p| {
        p.sees(2, &[("a", 1, "op1"), ("b", 1, "op4")])
    });
}

#[test]
fn what_may_be_missing_or_there_is_not_reported_o6() {
    // An unknown write may be there or not.
    for there in [true, false] {
        passes(|p| {
            p.op(10).outcome = Outcome::Unknown;
            p.op(10).returned = None;
            // The region serves all the same.
            p.operations
                .push(operation(43, "east", "t", "none", delete_row(), (110, 112)));
            if !there {
                p.end_with("x", &[]);
                p.sees(11, &[]);
            }
        });
    }
    // What has expired or is beyond the limit of versions may be gone.
    passes(|p| {
        p.run.tables[0].families[0].ttl_micros = Some(500);
        p.end_with("x", &[]);
    });
    // Overlapping writes of two regions may win in either order.
    for winner in ["op1", "op4"] {
        passes(|p| {
            p.operations.retain(|o| ![5, 6].contains(&o.id));
            p.op(4).call = 5 * MS;
            p.watermarks.remove(0);
            p.end_with("r", &[("a", 1, winner), ("b", 1, winner)]);
            p.op(3).seen = Some(Seen::Cells(Vec::new()));
            p.op(3).call = MS;
            p.op(3).returned = Some(2 * MS);
            p.sees(2, &[("a", 1, "op1"), ("b", 1, "op1")]);
        });
    }
}

#[test]
fn regions_that_differ_o5() {
    let rows = |p: &mut Parts| std::mem::take(&mut p.finals[1].tables[0].rows);
    caught("O5", "\"x\" differs", |p| {
        let kept = rows(p).into_iter().filter(|r| r.row != "x".into()).collect();
        p.finals[1].tables[0].rows = kept;
    });
    caught("O5", "\"more\" differs", |p| {
        p.finals[1].tables[0].rows.push(SeenRow {
            row: "more".into(),
            cells: cells(&[("a", 1, "op1")]),
        });
    });
    caught("O5", "\"r\" differs", |p| {
        p.finals[0].tables[0].rows[1].cells[1].value = "op4".into()
    });
    caught("O5", "\"y\" differs", |p| {
        p.finals[0].tables[0].rows[3].cells[0].stamp = stamp(5, 2);
        p.finals[1].tables[0].rows[3].cells[0].stamp = stamp(6, 2);
    });
    caught("O5", "content digests", |p| {
        p.finals[1].tables[0].content_hash = Some("cd".to_owned())
    });
    caught("O5", "no final state of t", |p| p.finals[1].tables.clear());
}

#[test]
fn regions_that_agree_on_the_wrong_winner_o5() {
    let concurrent = |p: &mut Parts| {
        p.operations
            .retain(|o| o.table != "t" || !["r", "d"].contains(&o.row.text().as_str()));
        p.operations.push(put(30, "east", "t", "r", &["a"], (0, 10)));
        p.operations.push(put(31, "west", "t", "r", &["a"], (5, 9)));
        p.op(30).stamp = stamp(1_000, 1);
        p.op(31).stamp = stamp(1_000, 2);
        p.finals
            .iter_mut()
            .for_each(|state| state.tables[0].rows.retain(|r| r.row != "d".into()));
    };
    let report = passes(|p| {
        concurrent(p);
        p.end_with("r", &[("a", 1, "op31")]);
    });
    assert_eq!(report.counted("rows compared with the oracle"), 1);
    caught("O5", "the oracle", |p| {
        concurrent(p);
        p.end_with("r", &[("a", 1, "op30")]);
    });
}

#[test]
fn a_watermark_that_runs_ahead_o7() {
    caught("O7", "shows nothing", |p| {
        p.operations.retain(|o| ![4, 6].contains(&o.id));
        p.end_with("r", &[("a", 1, "op1"), ("b", 1, "op1")]);
        p.sees(5, &[]);
    });
    caught("O7", "shows nothing", |p| {
        p.operations.retain(|o| ![4, 6].contains(&o.id));
        p.end_with("r", &[("a", 1, "op1"), ("b", 1, "op1")]);
        p.sees(5, &[("a", 1, "op1")]);
    });
    // By the watermark itself, where stamps are known; the lag alone would allow it.
    let by_stamp = |complete: u64, parts: &mut Parts| {
        parts.operations.retain(|o| ![4, 6].contains(&o.id));
        parts.end_with("r", &[("a", 1, "op1"), ("b", 1, "op1")]);
        parts.sees(5, &[]);
        parts.op(1).stamp = stamp(77, 1);
        parts.watermarks[0].lag_ms = Some(45);
        parts.watermarks[0].complete_hlc = Some(complete);
    };
    caught("O7", "shows nothing", |p| by_stamp(77, p));
    passes(|p| by_stamp(76, p));
}

#[test]
fn what_was_read_before_it_was_overwritten_comes_back_o8() {
    caught("O8", "read before it wrote", |p| {
        p.end_with("r", &[("a", 1, "op4"), ("b", 1, "op4")])
    });
    caught("O8", "again after that of 6", |p| {
        let six: &[_] = &[("a", 1, "op6"), ("b", 1, "op6")];
        p.operations.push(read(40, "west", "t", "r", six, (120, 121)));
        p.operations.push(read(
            41,
            "west",
            "t",
            "r",
            &[("a", 1, "op4"), ("b", 1, "op4")],
            (122, 123),
        ));
    });
    // A delete is a write, too; and no clock is asked: it holds however far the regions' clocks are apart.
    caught("O8", "read before it wrote", |p| {
        p.plan.clock_margin = 10_000 * MS;
        p.op(6).action = Action::Write {
            mutations: vec![Mutation::DeleteRow {
                versions: Versions::ALL,
            }],
        };
        p.end_with("r", &[("a", 1, "op4"), ("b", 1, "op4")]);
    });
}

#[test]
fn a_row_that_is_torn_o12() {
    caught("O12", "shows 6 but not its m:\"b\"", |p| {
        p.operations.push(read(
            40,
            "east",
            "t",
            "r",
            &[("a", 1, "op6"), ("b", 1, "op4")],
            (120, 121),
        ));
    });
    caught("O12", "shows 6 but not its m:\"a\"", |p| {
        p.operations
            .push(read(40, "east", "t", "r", &[("b", 1, "op6")], (120, 121)));
    });
    caught("O12", "which it deletes", |p| {
        p.sees(9, &[("c", 6, "op8"), ("c", 5, "op7")])
    });
    // In a scan, too.
    caught("O12", "shows 6 but not its", |p| {
        let mut scan = operation(40, "east", "t", "", Action::Scan { end: None }, (84, 121));
        scan.seen = Some(Seen::Rows(vec![SeenRow {
            row: "r".into(),
            cells: cells(&[("a", 1, "op6")]),
        }]));
        p.operations.push(scan);
    });
    // Another write that overlaps it may have hidden a part.
    passes(|p| {
        p.operations.push(put(42, "east", "t", "r", &["b"], (72, 78)));
        p.operations.push(read(
            40,
            "east",
            "t",
            "r",
            &[("a", 1, "op6"), ("b", 1, "op42")],
            (120, 121),
        ));
        p.end_with("r", &[("a", 1, "op6"), ("b", 1, "op42")]);
    });
}

#[test]
fn stamps_that_fall_or_are_shared_o4() {
    caught("O4", "the stamp fell", |p| {
        p.op(20).stamp = stamp(9, 1);
        p.op(21).stamp = stamp(8, 1);
    });
    caught("O4", "two writes have the stamp", |p| {
        p.op(4).stamp = stamp(9, 2);
        p.op(6).stamp = stamp(9, 2);
    });
}

#[test]
fn a_link_that_is_crossed_twice_or_not_o13() {
    caught("O13", "4 mutations were made and 5 applied", |p| {
        p.finals[1].links[0].applied = 5
    });
    caught("O13", "4 mutations were made and 3 applied", |p| {
        p.finals[1].links[0].applied = 3
    });
    caught("O13", "a loop", |p| p.finals[1].links[0].foreign = 1);
    caught("O13", "0 counts instead of one", |p| p.finals[1].links.clear());
}

#[test]
fn a_region_that_does_not_come_back_o14() {
    caught("O14", "no write of t was served in west", |p| {
        p.operations.retain(|o| o.id != 12);
        p.finals
            .iter_mut()
            .for_each(|state| state.tables[0].rows.retain(|r| r.row != "y".into()));
        p.sees(13, &[]);
    });
    caught("O14", "no read of t was served in west", |p| {
        p.operations.retain(|o| o.id != 13)
    });
    caught("O14", "75 ms after the heal", |p| p.op(11).returned = Some(175 * MS));
    caught("O14", "regions were equal only", |p| p.phases[2].at = 300 * MS);
    caught("O14", "never became equal", |p| {
        p.phases.pop();
    });
    caught("O14", "the lag is unknown", |p| p.watermarks[1].lag_ms = None);
    caught("O14", "a lag of 150 ms", |p| p.watermarks[1].lag_ms = Some(150));
}

#[test]
fn lines_that_a_person_must_look_at() {
    let line = |p: &mut Parts, line: &str| p.logs[0].text.push_str(line);
    caught("logs", "a panic", |p| {
        line(p, "thread 'main' panicked at src/x.rs:1:2:\n")
    });
    caught("logs", "an unlisted error", |p| {
        line(p, "2026-01-01T00:00:00Z ERROR tablet: it broke\n")
    });
    caught("logs", "an unlisted error", |p| {
        line(
            p,
            "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m tablet: it broke\n",
        )
    });
    caught("logs", "an unlisted error", |p| {
        line(p, "{\"timestamp\":\"…\",\"level\":\"ERROR\",\"fields\":{}}\n")
    });
    caught("logs", "a secret", |p| {
        line(p, "2026-01-01T00:00:00Z  INFO token=hunter2\n")
    });
    caught("logs", "there are no logs", |p| p.logs.clear());
    passes(|p| {
        line(
            p,
            "2026-01-01T00:00:00Z ERROR peer: n2 lost its connection\n2026-01-01T00:00:00Z  INFO no ERROR here\n",
        )
    });
}

#[test]
fn a_stale_read_inside_a_region_is_not_linearizable() {
    caught("linearizable", "nothing explains what 22 saw", |p| {
        p.sees(22, &[("a", 1, "op20")])
    });
}

#[test]
fn a_run_that_did_nothing_fails() {
    caught("vacuity", "the planned fault kill-1 was not made", |p| p.faults.clear());
    caught("vacuity", "had no effect that anybody saw", |p| {
        p.faults[0].effect = None
    });
    caught("vacuity", "had no effect that anybody saw", |p| {
        p.faults[0].effect = Some(" ".to_owned())
    });
    caught("vacuity", "it never happened: leader-changed", |p| p.marks.clear());
    caught("vacuity", "it never happened: leader-changed", |p| p.marks[0].count = 0);
    let conflict = |p: &mut Parts| p.plan.marks.push(CONFLICT_SEEN.to_owned());
    caught("vacuity", "it never happened: conflict seen", conflict);
    passes(|p| {
        conflict(p);
        // Operation 4 begins in the other region a millisecond later: within the clocks' margin.
        p.op(1).returned = Some(29 * MS);
    });
    caught("vacuity", "reads succeeded", |p| p.plan.reads_min = 100);
    caught("vacuity", "writes succeeded", |p| p.plan.writes_min = 100);
    caught("vacuity", "operations succeeded", |p| {
        p.operations.iter_mut().for_each(|o| o.outcome = Outcome::Fail)
    });
    caught("vacuity", "rows were searched", |p| p.plan.linearizable_rows_min = 5);
    caught("vacuity", "final states", |p| {
        p.finals.pop();
    });
    let nothing = check(&History::default(), &[], &[], &Plan::default());
    assert!(!nothing.passed(), "an empty history proves nothing");
}

#[test]
fn a_history_that_is_not_whole_fails() {
    caught("history", "stands there twice", |p| {
        let twice = p.operations[0].clone();
        p.operations.push(twice);
    });
    let history = History::read(&b"{\"record\":\"run\"\n"[..]);
    assert!(!check(&history, &[], &[], &Plan::default()).passed());
}
