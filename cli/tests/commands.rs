//! The binary without a server: help, usage errors, exit codes, what goes to which stream.

use assert_cmd::Command;
use std::net::TcpListener;

/// Nobody listens there: the port was free a moment ago.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .to_string()
}

fn tidemark(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("tidemark").expect("the binary is built with its tests");
    command
        .args(arguments)
        .env_remove("TIDEMARK_ADDRESS")
        .env_remove("TIDEMARK_REGION_ADDRESSES");
    command
}

/// Runs it and gives exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = tidemark(arguments).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("answers are UTF-8");
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn help_begins_with_examples_and_names_every_command() {
    let (code, help, talk) = run(&["--help"]);
    assert_eq!((code, talk.as_str()), (0, ""));
    assert!(help.starts_with("Examples:\n  tidemark table create"), "{help}");
    let commands = [
        "table",
        "put",
        "get",
        "scan",
        "count",
        "delete",
        "increment",
        "check-put",
        "import",
        "export",
        "replication",
        "peer",
        "cluster",
        "digest",
        "bench",
        "completions",
    ];
    for command in commands {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} is missing:\n{help}"
        );
        assert_eq!(run(&[command, "--help"]).0, 0, "{command}");
    }
    let with_examples: [&[&str]; 14] = [
        &["table", "create"],
        &["table", "alter"],
        &["table", "drop"],
        &["put"],
        &["get"],
        &["scan"],
        &["count"],
        &["delete"],
        &["import"],
        &["export"],
        &["replication", "enable"],
        &["replication", "wait"],
        &["peer", "add"],
        &["cluster", "status"],
    ];
    for command in with_examples {
        let (code, help, _) = run(&[command, &["--help"]].concat());
        assert_eq!(code, 0, "{command:?}");
        assert!(help.starts_with("Examples:\n  tidemark "), "{command:?}:\n{help}");
    }
}

#[test]
fn usage_errors_are_found_before_a_server_is_asked() {
    let cases: [(&[&str], &str); 16] = [
        (&["bogus"], "bogus"),
        (&["table", "create", "t"], "--family"),
        (&["table", "create", "t", "--family", "m:ttl=30"], "not a duration"),
        (
            &[
                "table",
                "create",
                "t",
                "--family",
                "m",
                "--split-at",
                "b",
                "--split-at",
                "a",
            ],
            "ascending",
        ),
        (
            &["table", "create", "t", "--family", "m", "--splits", "5000"],
            "tablets",
        ),
        (&["table", "alter", "t"], "nothing to change"),
        (&["table", "drop", "t"], "--yes"),
        (
            &["replication", "quarantine", "discard", "t", "--peer", "west", "--all"],
            "--accept-loss",
        ),
        (
            &[
                "replication",
                "quarantine",
                "discard",
                "t",
                "--peer",
                "west",
                "--accept-loss",
            ],
            "--entry",
        ),
        (&["put", "t", "r", "temperature=1"], "FAMILY:QUALIFIER=VALUE"),
        (&["put", "t", "r", "m:q=\\q"], "backslash"),
        (&["scan", "t", "--since", "yesterday"], "not a time"),
        (&["scan", "t", "--prefix", "a", "--start", "b"], "--start"),
        (&["delete", "t", "--prefix", "a"], "--yes"),
        (&["check-put", "t", "r", "m:q=1"], "--if"),
        (&["scan", "t", "--address", "http://x"], "host:port"),
    ];
    for (arguments, said) in cases {
        let (code, answer, talk) = run(arguments);
        assert_eq!((code, answer.as_str()), (2, ""), "{arguments:?}: {talk}");
        assert!(talk.contains(said), "{arguments:?}: {talk}");
    }
}

#[test]
fn a_region_that_does_not_answer_is_exit_code_3_with_place_and_next_step() {
    let address = nobody();
    for arguments in [
        &["table", "list"][..],
        &["get", "t", "r"],
        &["scan", "t"],
        &["replication", "wait", "t"],
        &["cluster", "status"],
    ] {
        let (code, answer, talk) = run(&[arguments, &["--address", &address, "--timeout", "200ms"]].concat());
        assert_eq!((code, answer.as_str()), (3, ""), "{arguments:?}: {talk}");
        assert!(talk.starts_with("error: ") && talk.contains(&address), "{talk}");
        assert!(talk.contains("\nwhere: ") && talk.contains("\nnext:  "), "{talk}");
    }
}

#[test]
fn the_address_comes_from_the_environment_too() {
    let address = nobody();
    let output = tidemark(&["table", "list", "--timeout", "100ms"])
        .env("TIDEMARK_ADDRESS", &address)
        .output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
}

#[test]
fn imports_look_at_their_files_first() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("f.csv");
    let path = file.to_str().expect("temporary paths are UTF-8");
    let import = |more: &[&str]| run(&[&["import", path, "--table", "t"], more].concat());
    assert_eq!(import(&[]).0, 1, "no such file");
    std::fs::write(&file, "when,value\n1,2\n").expect("a file can be written");
    let (code, _, talk) = import(&["--family", "m"]);
    assert_eq!(code, 1);
    assert!(talk.contains("when, value") && talk.contains("--time-column"), "{talk}");
    let (code, _, talk) = import(&["--time-column", "when"]);
    assert_eq!(code, 2);
    assert!(talk.contains("--family"), "{talk}");
    let flags = [
        "--time-column",
        "when",
        "--family",
        "m",
        "--address",
        &nobody(),
        "--timeout",
        "100ms",
    ];
    assert_eq!(import(&flags).0, 3, "the file is fine, the region is not there");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("tidemark") && script.contains("replication"), "{shell}");
    }
}
