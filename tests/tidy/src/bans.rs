//! What may not stand in code, each ban with its replacement.
//!
//! Comments and strings are free to mention any of it; code that is compiled is not.

use crate::source::Source;
use crate::{Breach, File, Repository};

/// Where a ban holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The server, except its runtime crate and tests. Client and command line run in other people's processes, which
    /// no seed reproduces, and may not use the server's runtime crate.
    Server,
    /// Everything that is shipped: server, client, command line; not tests.
    Shipped,
    /// Everything, tests too.
    Everywhere,
}

struct Ban {
    code: &'static str,
    scope: Scope,
    instead: &'static str,
}

const TIME: &str = "take a tidemark_runtime::SharedClock: one seed must reproduce a run";
const CHANCE: &str = "take a tidemark_runtime::Entropy: one seed must reproduce a run";
const BOUND: &str = "nothing grows without a bound: use a channel with a capacity and let the sender wait";

const BANS: &[Ban] = &[
    Ban {
        code: "Instant::now",
        scope: Scope::Server,
        instead: TIME,
    },
    Ban {
        code: "SystemTime::now",
        scope: Scope::Server,
        instead: TIME,
    },
    Ban {
        code: "Timestamp::now",
        scope: Scope::Server,
        instead: TIME,
    },
    Ban {
        code: "thread_rng",
        scope: Scope::Server,
        instead: CHANCE,
    },
    Ban {
        code: "rand::rng",
        scope: Scope::Server,
        instead: CHANCE,
    },
    Ban {
        code: "rand::random",
        scope: Scope::Server,
        instead: CHANCE,
    },
    Ban {
        code: "from_os_rng",
        scope: Scope::Server,
        instead: CHANCE,
    },
    Ban {
        code: "OsRng",
        scope: Scope::Server,
        instead: CHANCE,
    },
    Ban {
        code: "thread::sleep",
        scope: Scope::Shipped,
        instead: "wait for the event itself, or use tokio::time::sleep at the async rim",
    },
    Ban {
        code: "task::spawn_blocking",
        scope: Scope::Server,
        instead: "use tidemark_runtime::spawn_blocking: a simulation runs it in its turn",
    },
    Ban {
        code: "unbounded_channel",
        scope: Scope::Everywhere,
        instead: BOUND,
    },
    Ban {
        code: "UnboundedSender",
        scope: Scope::Everywhere,
        instead: BOUND,
    },
    Ban {
        code: "UnboundedReceiver",
        scope: Scope::Everywhere,
        instead: BOUND,
    },
    Ban {
        code: "mpsc::unbounded",
        scope: Scope::Everywhere,
        instead: BOUND,
    },
    Ban {
        code: "todo!",
        scope: Scope::Everywhere,
        instead: "write it, or return an error that says what is missing",
    },
    Ban {
        code: "unimplemented!",
        scope: Scope::Everywhere,
        instead: "write it, or return an error that says so",
    },
    Ban {
        code: "#[ignore]",
        scope: Scope::Everywhere,
        instead: "a test runs or is deleted",
    },
    Ban {
        code: "#[ignore =",
        scope: Scope::Everywhere,
        instead: "a test runs or is deleted",
    },
    Ban {
        code: "#[should_panic",
        scope: Scope::Everywhere,
        instead: "return an error and assert on it; a panic anywhere else would pass such a test",
    },
];

/// No banned code where its ban holds.
pub fn bans(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (file, source) in repository.sources() {
        for ban in BANS {
            for at in source
                .find(ban.code)
                .filter(|at| applies(ban.scope, file, &source, *at))
            {
                let say = format!("`{}` may not be used here: {}", ban.code, ban.instead);
                breaches.push(Breach::at(&file.path, source.line(at), say));
            }
        }
        for at in std_channels(&source) {
            let say = format!("`mpsc::channel()` without a capacity: {BOUND} (std has sync_channel)");
            breaches.push(Breach::at(&file.path, source.line(at), say));
        }
        for at in glob_exports(&source) {
            let say = "no glob re-exports: name what you export, so that a reader can find where it comes from";
            breaches.push(Breach::at(&file.path, source.line(at), say));
        }
    }
    breaches
}

fn applies(scope: Scope, file: &File, source: &Source, at: usize) -> bool {
    let server = file.path.starts_with("server/");
    let shipped = server
        || ["client/", "cli/", "proto/"]
            .iter()
            .any(|part| file.path.starts_with(part));
    match scope {
        Scope::Server => server && !file.path.starts_with("server/runtime/") && !source.is_test(at),
        Scope::Shipped => shipped && !file.path.starts_with("server/runtime/") && !source.is_test(at),
        Scope::Everywhere => true,
    }
}

/// `mpsc::channel` called with nothing between its parentheses: the unbounded one of the standard library.
fn std_channels(source: &Source) -> Vec<usize> {
    let call = |at: &usize| {
        let mut rest = source.code[at + "mpsc::channel".len()..].trim_start();
        if let Some(generic) = rest.strip_prefix("::<") {
            let Some(close) = closing_angle(generic) else {
                return false;
            };
            rest = generic[close + 1..].trim_start();
        }
        rest.strip_prefix('(')
            .is_some_and(|arguments| arguments.trim_start().starts_with(')'))
    };
    source.find("mpsc::channel").filter(call).collect()
}

fn closing_angle(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn glob_exports(source: &Source) -> Vec<usize> {
    let glob = |at: &usize| {
        let statement = &source.code[*at..];
        statement
            .split(';')
            .next()
            .is_some_and(|path| path.trim_end().ends_with("::*"))
    };
    source.find("pub use").filter(glob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        bans(&Repository::planted(&[(path, text)]))
            .iter()
            .map(|breach| breach.line)
            .collect()
    }

    #[test]
    fn every_ban_is_found_in_the_server() {
        for ban in BANS {
            let found = lines(
                "server/x/src/a.rs",
                &format!("//! Doc.\nfn f() {{ {}(); }}\n", ban.code),
            );
            assert_eq!(found, [2], "{}", ban.code);
        }
    }

    #[test]
    fn clocks_and_chance_are_free_in_tests_runtime_and_clients_only() {
        let code = "let t = Instant::now(); thread_rng();";
        let in_tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n fn g() {{ {code} }}\n}}\n");
        assert_eq!(lines("server/x/src/a.rs", &in_tests), [0usize; 0]);
        for path in [
            "server/runtime/src/a.rs",
            "server/x/src/a_tests.rs",
            "cli/src/a.rs",
            "tests/demo/src/a.rs",
        ] {
            assert_eq!(lines(path, code), [0usize; 0], "{path}");
        }
        assert_eq!(lines("server/x/src/a.rs", code), [1, 1]);
        assert_eq!(lines("client/src/a.rs", "thread::sleep(d)"), [1]);
    }

    #[test]
    fn comments_strings_and_longer_names_are_free() {
        let text = "// Instant::now\nlet a = \"thread_rng\"; my_thread_rng(); MyInstant::now();\n";
        assert_eq!(lines("server/x/src/a.rs", text), [0usize; 0]);
    }

    #[test]
    fn a_channel_needs_a_capacity() {
        for bad in [
            "mpsc::channel()",
            "std::sync::mpsc::channel::<Vec<u8>>()",
            "mpsc::channel( )",
        ] {
            assert_eq!(lines("tests/x/src/a.rs", bad), [1], "{bad}");
        }
        for good in [
            "mpsc::channel(8)",
            "mpsc::channel::<Vec<u8>>(LIMIT)",
            "mpsc::sync_channel(1)",
        ] {
            assert_eq!(lines("tests/x/src/a.rs", good), [0usize; 0], "{good}");
        }
    }

    #[test]
    fn exports_are_named() {
        assert_eq!(
            lines(
                "server/x/src/lib.rs",
                "pub mod a;\npub use a::*;\nuse b::*;\npub use c::{D, E};\n"
            ),
            [2]
        );
    }
}
