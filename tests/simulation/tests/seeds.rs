//! The simulation on pinned seeds, which every change meets again, and on fresh ones, which find something new.

use std::io::Write;
use std::process::{Command, Output};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tidemark_simulation::site::regions;

/// Seeds that every run repeats.
const PINNED: u64 = 40;
/// Fresh ones that have found something: see "Found so far" in docs/TESTING.md.
const FOUND: [u64; 1] = [913_535_871_271];
/// Says how many seeds to run that no commit has had before; 0 = none.
const FRESH: &str = "TIDEMARK_FRESH_SEEDS";
/// If it is not said.
const FRESH_DEFAULT: u64 = 20;

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark-simulate"));
    command.args(arguments).output().expect("the simulation starts")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Also where a test that passes shows nothing: which seeds were fresh must be known after any run.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// Each commit has fresh seeds of its own: a change is not judged by chance, and what its seeds found they find again. By
/// the clock where there is no commit.
fn first_fresh() -> u64 {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let commit = git.output().ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    let number = commit.and_then(|commit| u64::from_str_radix(commit.get(..10)?, 16).ok());
    number.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        now.as_secs() << 8
    })
}

#[test]
fn two_runs_of_one_seed_end_in_the_same_trace() {
    let trace = |seed: &str| {
        let output = simulate(&["--seed", seed, "--fault-seconds", "5"]);
        let text = text(&output);
        let trace = text.split("trace ").nth(1).and_then(|rest| rest.split(' ').next());
        trace.unwrap_or_else(|| panic!("no trace in {text}")).to_owned()
    };
    assert_eq!(trace("3"), trace("3"));
    assert_ne!(trace("3"), trace("4"));
    let of_three = (1..=PINNED)
        .find(|seed| regions(*seed) == 3)
        .map(|seed| seed.to_string());
    let of_three = of_three.expect("some pinned seeds have three regions");
    assert_eq!(trace(&of_three), trace(&of_three));
}

#[test]
fn pinned_seeds_have_two_regions_and_three() {
    let of_three = (1..=PINNED).filter(|seed| regions(*seed) == 3).count() as u64;
    assert!((4..=PINNED / 2).contains(&of_three), "{of_three}");
}

#[test]
fn seeds_are_clean() {
    let fresh = std::env::var(FRESH).map_or(FRESH_DEFAULT, |count| count.parse().expect("a number"));
    let found = FOUND.map(|seed| (seed, 1));
    let runs = [(1, PINNED), (first_fresh(), fresh)].into_iter().chain(found);
    for (first, seeds) in runs.filter(|(_, seeds)| *seeds > 0) {
        let began = Instant::now();
        let again = format!("./x simulate --seed {first} --seeds {seeds}");
        say(&format!("{seeds} seeds: {again}"));
        let output = simulate(&["--seed", &first.to_string(), "--seeds", &seeds.to_string()]);
        let text = text(&output);
        say(&format!(
            "{seeds} seeds from {first}: {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        assert!(output.status.success(), "{text}\nall of them again: {again}");
    }
}
