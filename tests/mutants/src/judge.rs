//! What a process that ran evidence has said: pure, over its exit code and its output.

/// How one process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code; `None` is a signal.
    Exit(Option<i32>),
    /// It was stopped when its time was over.
    TimedOut,
}

/// What its end means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The evidence ran and found nothing.
    Passed,
    /// The evidence ran and failed; these are its words.
    Failed(String),
    /// It says nothing, and why.
    Nothing(String),
}

/// The verdict of a test binary that was asked for exactly one test.
pub fn of_test(name: &str, ended: &Ended, output: &str) -> Verdict {
    let code = match ended {
        Ended::TimedOut => return Verdict::Nothing("it did not end in time".to_owned()),
        Ended::Exit(None) => return Verdict::Nothing("a signal ended it".to_owned()),
        Ended::Exit(Some(code)) => *code,
    };
    if !output.lines().any(|line| line == "running 1 test") {
        return Verdict::Nothing("no test of that name was run".to_owned());
    }
    let ran = format!("test {name} ... ");
    let said = |what: &str| output.lines().any(|line| line.strip_prefix(&ran) == Some(what));
    match (code, said("ok"), said("FAILED")) {
        (0, true, false) => Verdict::Passed,
        (101, false, true) => Verdict::Failed(words(output)),
        _ => Verdict::Nothing(format!("exit code {code} without a result of the test")),
    }
}

/// The verdict of one seed of the simulation: its last line is its outcome as JSON.
pub fn of_seed(ended: &Ended, output: &str) -> Verdict {
    match ended {
        Ended::TimedOut => return Verdict::Nothing("it did not end in time".to_owned()),
        Ended::Exit(None) => return Verdict::Nothing("a signal ended it".to_owned()),
        Ended::Exit(Some(_)) => {}
    }
    let last = output.lines().last().unwrap_or_default();
    let Ok(outcome) = serde_json::from_str::<serde_json::Value>(last) else {
        return Verdict::Nothing(format!("it ended without an outcome: {last:?}"));
    };
    match outcome.get("failure").and_then(|failure| failure.as_str()) {
        Some("") => Verdict::Passed,
        Some(failure) => Verdict::Failed(failure.to_owned()),
        None => Verdict::Nothing("its outcome does not say whether it failed".to_owned()),
    }
}

/// The verdict of a run of real servers: its last line, and what it said before.
pub fn of_servers(ended: &Ended, output: &str) -> Verdict {
    let code = match ended {
        Ended::TimedOut => return Verdict::Nothing("it did not end in time".to_owned()),
        Ended::Exit(None) => return Verdict::Nothing("a signal ended it".to_owned()),
        Ended::Exit(Some(code)) => *code,
    };
    let last = output
        .lines()
        .rfind(|line| line.starts_with("nemesis: "))
        .unwrap_or_default();
    match code {
        0 if last.starts_with("nemesis: ok ") => Verdict::Passed,
        1 if last.starts_with("nemesis: FAILED profile=") => Verdict::Failed(output.to_owned()),
        _ => Verdict::Nothing(format!("exit code {code}: {last:?}")),
    }
}

/// What stands between the test's own heading and the list of failures.
fn words(output: &str) -> String {
    let from = output.find("---- ").unwrap_or(0);
    let to = output[from..].find("\nfailures:").map_or(output.len(), |at| from + at);
    output[from..to].trim().to_owned()
}

/// Whether a verdict with the bug and one without it say that the bug is caught; the reason if not.
pub fn caught(with: &Verdict, without: &Verdict, says: &[&str]) -> Result<(), String> {
    match without {
        Verdict::Passed => {}
        Verdict::Failed(words) => return Err(format!("it fails without the bug too: {}", short(words))),
        Verdict::Nothing(why) => return Err(format!("without the bug: {why}")),
    }
    match with {
        Verdict::Passed => Err("it passes with the bug".to_owned()),
        Verdict::Nothing(why) => Err(format!("with the bug: {why}")),
        Verdict::Failed(words) if says.iter().any(|part| words.contains(part)) => Ok(()),
        Verdict::Failed(words) => Err(format!("it fails with other words: {}", short(words))),
    }
}

fn short(words: &str) -> String {
    const CHARACTERS: usize = 300;
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "\nrunning 1 test\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\nthread panicked at x.rs:1:2:\nentry 3 is lost\n\n\nfailures:\n    a::b\n\ntest result: FAILED. 0 passed; 1 failed\n";
    const PASSED: &str = "\nrunning 1 test\ntest a::b ... ok\n\ntest result: ok. 1 passed; 0 failed\n";

    fn exit(code: i32) -> Ended {
        Ended::Exit(Some(code))
    }

    #[test]
    fn a_test_that_ran_has_a_verdict() {
        assert_eq!(of_test("a::b", &exit(0), PASSED), Verdict::Passed);
        let Verdict::Failed(words) = of_test("a::b", &exit(101), FAILED) else {
            panic!("it failed");
        };
        assert!(
            words.contains("entry 3 is lost") && !words.contains("test result"),
            "{words}"
        );
    }

    #[test]
    fn whatever_did_not_run_to_its_end_says_nothing() {
        let none = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed\n";
        for (ended, output) in [
            (exit(0), none),
            (exit(0), ""),
            (exit(101), none),
            (exit(101), PASSED),
            (exit(0), FAILED),
            (exit(134), "\nrunning 1 test\n"),
            (Ended::Exit(None), FAILED),
            (Ended::TimedOut, FAILED),
        ] {
            let verdict = of_test("a::b", &ended, output);
            assert!(
                matches!(verdict, Verdict::Nothing(_)),
                "{ended:?} {output:?}: {verdict:?}"
            );
        }
        assert!(
            matches!(of_test("a::c", &exit(101), FAILED), Verdict::Nothing(_)),
            "another test"
        );
    }

    #[test]
    fn a_seed_has_the_verdict_of_its_last_line() {
        assert_eq!(of_seed(&exit(0), "log\n{\"failure\":\"\"}\n"), Verdict::Passed);
        let failed = of_seed(&exit(1), "{\"failure\":\"O6: w7 is gone\"}\n");
        assert_eq!(failed, Verdict::Failed("O6: w7 is gone".to_owned()));
        for (ended, output) in [(exit(101), "thread panicked"), (exit(0), "{}"), (exit(0), "")] {
            assert!(matches!(of_seed(&ended, output), Verdict::Nothing(_)), "{output:?}");
        }
        assert!(matches!(
            of_seed(&Ended::TimedOut, "{\"failure\":\"O6\"}"),
            Verdict::Nothing(_)
        ));
    }

    #[test]
    fn a_run_of_servers_has_a_verdict_only_if_it_could_run() {
        assert_eq!(of_servers(&exit(0), "x\nnemesis: ok profile=kill\n"), Verdict::Passed);
        let failed = "  O6: w7 is gone\nnemesis: FAILED profile=kill seed=1\n";
        assert_eq!(of_servers(&exit(1), failed), Verdict::Failed(failed.to_owned()));
        for (code, output) in [
            (1, "nemesis: FAILED could not run; again: x"),
            (0, failed),
            (1, "nemesis: ok profile=kill"),
            (101, "panicked"),
        ] {
            assert!(
                matches!(of_servers(&exit(code), output), Verdict::Nothing(_)),
                "{output:?}"
            );
        }
        assert!(matches!(of_servers(&Ended::TimedOut, failed), Verdict::Nothing(_)));
    }

    #[test]
    fn only_the_right_words_with_the_bug_and_none_without_it_count() {
        let lost = Verdict::Failed("entry 3 is lost".to_owned());
        let nothing = Verdict::Nothing("a signal ended it".to_owned());
        assert_eq!(caught(&lost, &Verdict::Passed, &["is lost"]), Ok(()));
        for (with, without, says) in [
            (&lost, &Verdict::Passed, "is torn"),
            (&lost, &lost, "is lost"),
            (&lost, &nothing, "is lost"),
            (&nothing, &Verdict::Passed, "is lost"),
            (&Verdict::Passed, &Verdict::Passed, "is lost"),
        ] {
            assert!(caught(with, without, &[says]).is_err(), "{with:?} {without:?} {says}");
        }
    }
}
