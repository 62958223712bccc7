//! Our search against a published one on the same histories: porcupine, a Go module, with a model of its own in
//! tests/checkers/porcupine. Runs where Go and the module are at hand, and says so where they are not.

use super::model::Model;
use super::search::{Verdict, search};
use super::tests::{any_history, history};
use super::*;
use crate::writes::Writes;
use crate::{History, Plan};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HISTORIES: usize = 1_500;

/// The built program, or why there is none.
fn build(into: &Path) -> Result<PathBuf, String> {
    let program = into.join("porcupine");
    let mut build = Command::new("go")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("porcupine"))
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .env("GOTOOLCHAIN", "local")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(into.join("stderr")).unwrap())
        .spawn()
        .map_err(|error| format!("go does not start: {error}"))?;
    let deadline = Instant::now() + Duration::from_secs(600);
    let status = loop {
        if let Some(status) = build.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            build.kill().unwrap();
            build.wait().unwrap();
            return Err("go build took longer than ten minutes".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.success() {
        return Ok(program);
    }
    let said = std::fs::read_to_string(into.join("stderr")).unwrap();
    // No network and no module on the machine is not our mistake; anything else is.
    let absent = [
        "dial tcp",
        "lookup",
        "connection refused",
        "module lookup disabled",
        "Forbidden",
        "i/o timeout",
    ];
    assert!(
        absent.iter().any(|words| said.contains(words)),
        "the porcupine model does not build: {said}"
    );
    Err(said)
}

/// Ours and theirs say the same of every history, and both verdicts occur often.
#[test]
fn porcupine_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let program = match build(dir.path()) {
        Ok(program) => program,
        Err(why) => {
            // Straight to the terminal: the test harness would swallow a print of a test that passes.
            let loud = format!("\n*** NOT CROSS-CHECKED with porcupine (install Go, or give it a network): {why}\n\n");
            std::io::stderr().write_all(loud.as_bytes()).unwrap();
            return;
        }
    };
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let histories: Vec<Vec<Operation>> = (0..HISTORIES)
        .map(|_| any_history().new_tree(&mut runner).unwrap().current())
        .collect();
    let (mut ours, mut asked) = (Vec::new(), String::new());
    for operations in &histories {
        let history = history(operations.clone());
        if let Some(verdict) = verdict(&history) {
            ours.push(verdict);
            asked.push_str(&serde_json::to_string(&operations).unwrap());
            asked.push('\n');
        }
    }
    let input = dir.path().join("histories");
    std::fs::write(&input, &asked).unwrap();
    let said = Command::new(&program)
        .stdin(std::fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let theirs: Vec<bool> = String::from_utf8(said.stdout)
        .unwrap()
        .lines()
        .map(|line| line == "true")
        .collect();
    assert_eq!(theirs.len(), ours.len());
    for ((ours, theirs), asked) in ours.iter().zip(&theirs).zip(asked.lines()) {
        assert_eq!(ours, theirs, "ours and porcupine's verdict on {asked}");
    }
    let good = ours.iter().filter(|verdict| **verdict).count();
    assert!(
        good > HISTORIES / 10 && ours.len() - good > HISTORIES / 20,
        "{good} of {} are linearizable",
        ours.len()
    );
}

/// Our verdict over a history of one row; `None` if it has no write, or cannot be searched.
fn verdict(history: &History) -> Option<bool> {
    let plan = Plan::default();
    let writes = Writes::of(history, 0);
    let evidence = Evidence {
        history,
        finals: &[],
        logs: &[],
        plan: &plan,
        writes,
    };
    let problems = problems(&evidence, &mut Report::default());
    let problem = problems.first()?;
    let found = search(&mut Model::new(&problem.inputs), &problem.inputs, 1_000_000);
    assert_ne!(found, Verdict::Undecided);
    Some(found == Verdict::Linearizable)
}
