//! Files and functions that one can still read, and modules that say what they are for.

use crate::{Breach, Repository};

/// Lines of a file, at most. Split long before: 500 is the soft limit.
pub const FILE_LINES_MAX: usize = 1_000;

/// Lines of a function, at most. About 70 is the aim.
pub const FUNCTION_LINES_MAX: usize = 100;

/// Functions that are longer than they should be: file, name, lines. This list only shrinks.
pub const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// No file has more than `FILE_LINES_MAX` lines.
pub fn files(repository: &Repository) -> Vec<Breach> {
    let code = |path: &str| path.ends_with(".rs") || path.ends_with(".proto");
    let long = repository.files().filter(|file| code(&file.path)).filter_map(|file| {
        let lines = file.text.lines().count();
        let say = format!("{lines} lines, at most {FILE_LINES_MAX}: split the file by what its parts are about");
        (lines > FILE_LINES_MAX).then(|| Breach::at(&file.path, FILE_LINES_MAX + 1, say))
    });
    long.collect()
}

/// No function has more than `FUNCTION_LINES_MAX` lines, except those listed, which must not grow and leave the list
/// when they are short.
pub fn functions(repository: &Repository, listed: &[(&str, &str, usize)]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (file, source) in repository.sources() {
        for function in source.functions() {
            let name = &function.name;
            let allowed = listed
                .iter()
                .find(|(path, listed, _)| *path == file.path && *listed == name.as_str());
            let (lines, at) = (function.lines, function.line);
            match allowed {
                None if lines > FUNCTION_LINES_MAX => breaches.push(Breach::at(
                    &file.path,
                    at,
                    format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}: name its parts and split it"),
                )),
                Some(entry) => {
                    seen.push(*entry);
                    breaches.extend(listed_function(&file.path, name, at, lines, entry.2));
                }
                None => {}
            }
        }
    }
    for (path, name, _) in listed.iter().filter(|entry| !seen.contains(entry)) {
        breaches.push(Breach::at(
            path,
            0,
            format!("`{name}` is gone: take it off LONG_FUNCTIONS in tests/tidy"),
        ));
    }
    breaches
}

fn listed_function(path: &str, name: &str, at: usize, lines: usize, allowed: usize) -> Option<Breach> {
    let say = if lines > allowed {
        format!("`{name}` grew from {allowed} to {lines} lines: listed functions only shrink, split it")
    } else if lines <= FUNCTION_LINES_MAX {
        format!("`{name}` is short enough now ({lines} lines): take it off LONG_FUNCTIONS in tests/tidy")
    } else if lines < allowed {
        format!("`{name}` shrank to {lines} lines: lower its number in LONG_FUNCTIONS in tests/tidy")
    } else {
        return None;
    };
    Some(Breach::at(path, at, say))
}

/// Every Rust file begins with `//!`: what it is, why, what it may not do.
pub fn module_docs(repository: &Repository) -> Vec<Breach> {
    let rust = repository.files().filter(|file| file.path.ends_with(".rs"));
    let bare = rust.filter(|file| !file.text.starts_with("//! "));
    bare.map(|file| {
        Breach::at(
            &file.path,
            1,
            "begin the file with `//! ` and a sentence: what is here, why, what it may not do",
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("//! Doc.\nfn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_file_is_found() {
        let fits = "// x\n".repeat(FILE_LINES_MAX);
        let over = "// x\n".repeat(FILE_LINES_MAX + 1);
        let planted = Repository::planted(&[("a.rs", &fits), ("b.rs", &over), ("c.proto", &over), ("d.csv", &over)]);
        let found = files(&planted);
        assert_eq!(
            found.iter().map(|b| b.path.as_str()).collect::<Vec<_>>(),
            ["b.rs", "c.proto"]
        );
    }

    #[test]
    fn a_long_function_is_found() {
        let (fits, over) = (function_of(FUNCTION_LINES_MAX), function_of(FUNCTION_LINES_MAX + 1));
        let planted = Repository::planted(&[("a.rs", &fits), ("b.rs", &over)]);
        let found = functions(&planted, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("b.rs", 2));
        assert!(found[0].say.contains("`long` has 101 lines"), "{}", found[0].say);
    }

    #[test]
    fn a_listed_function_only_shrinks() {
        let say = |lines: usize, listed: usize| {
            let planted = Repository::planted(&[("a.rs", &function_of(lines))]);
            functions(&planted, &[("a.rs", "long", listed)])
                .first()
                .map(|breach| breach.say.clone())
        };
        assert_eq!(say(120, 120), None);
        assert!(say(121, 120).expect("a breach").contains("grew"));
        assert!(say(110, 120).expect("a breach").contains("lower its number"));
        assert!(say(100, 120).expect("a breach").contains("short enough"));
        let gone = functions(
            &Repository::planted(&[("a.rs", "//! Doc.\n")]),
            &[("a.rs", "long", 120)],
        );
        assert!(gone[0].say.contains("gone"));
    }

    #[test]
    fn a_file_without_module_docs_is_found() {
        let planted = Repository::planted(&[("a.rs", "//! Doc.\n"), ("b.rs", "use std::fmt;\n"), ("c.rs", "")]);
        let found = module_docs(&planted);
        assert_eq!(
            found.iter().map(|b| b.path.as_str()).collect::<Vec<_>>(),
            ["b.rs", "c.rs"]
        );
    }
}
