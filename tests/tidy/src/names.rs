//! Names that say nothing, generations that live side by side, words that do not belong here.

use crate::source::{Source, is_word, line_at};
use crate::{Breach, Repository};

/// Drawers into which anything fits, so that everything ends there.
const DRAWERS: &[&str] = &[
    "util", "utils", "common", "commons", "helper", "helpers", "misc", "manager", "managers", "stuff",
];

/// The same at the end of a type's name.
const TYPE_ENDS: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

/// Keywords that introduce a name of ours.
const ITEMS: &[&str] = &["struct", "enum", "trait", "type", "mod", "fn", "const", "static"];

/// How the repository came about, and where: neither is the product's business. Written in two halves, so that this
/// file may stand in the repository.
const FOREIGN: &[&str] = &[
    concat!("cla", "ude"),
    concat!("chat", "gpt"),
    concat!("anth", "ropic"),
    concat!("open", "ai"),
    concat!("ai ", "agent"),
    concat!("l", "lm"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
];

/// Files, folders and modules have names that say what is inside, and no numbers that say which generation.
pub fn paths(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in repository.files() {
        for part in file.path.split('/') {
            let stem = part.split('.').next().unwrap_or(part);
            if let Some(say) = judge(stem) {
                breaches.push(Breach::at(&file.path, 0, say));
            }
        }
    }
    breaches
}

/// Items have such names too.
pub fn items(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (file, source) in repository.sources() {
        for (at, name) in named(&source) {
            let ends = TYPE_ENDS.iter().find(|end| name.ends_with(**end));
            let say = match ends {
                Some(end) => Some(format!("`{name}`: a {end} does anything; name what it decides or owns")),
                None => judge(&name),
            };
            breaches.extend(say.map(|say| Breach::at(&file.path, source.line(at), say)));
        }
    }
    breaches
}

/// No words about how or where the repository was made.
pub fn words(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    // The lock file is written by cargo and names what the world has named.
    for file in repository.files().filter(|file| file.path != "Cargo.lock") {
        let lower = file.text.to_ascii_lowercase();
        for word in FOREIGN {
            for (at, _) in lower.match_indices(word).filter(|(at, _)| is_whole(&lower, *at, word)) {
                let say = format!("`{word}` does not belong here: the repository speaks of Tidemark alone");
                breaches.push(Breach::at(&file.path, line_at(&lower, at), say));
            }
        }
    }
    breaches
}

fn judge(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some(drawer) = lower.split(['_', '-']).find(|part| DRAWERS.contains(part)) {
        return Some(format!("`{name}`: anything fits into a {drawer}; name what is inside"));
    }
    let number = lower.rsplit(['_', '-']).next().and_then(|last| last.strip_prefix('v'));
    let generation = lower != number.map_or(String::new(), |n| format!("v{n}"))
        && number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let second = lower
        .strip_suffix('2')
        .is_some_and(|rest| rest.len() > 4 && rest.bytes().all(|b| b.is_ascii_lowercase()));
    let camel = name.ends_with("V2");
    (generation || second || camel)
        .then(|| format!("`{name}`: two generations never live side by side; replace the old one and delete it"))
}

fn named(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for keyword in ITEMS {
        for at in source.find(keyword) {
            let rest = source.code[at + keyword.len()..].trim_start();
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            if !name.is_empty() {
                found.push((at, name));
            }
        }
    }
    found
}

fn is_whole(text: &str, at: usize, word: &str) -> bool {
    let joins = |edge: Option<char>, own: Option<char>| edge.is_some_and(is_word) && own.is_some_and(is_word);
    !joins(text[..at].chars().next_back(), word.chars().next())
        && !joins(text[at + word.len()..].chars().next(), word.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawers_and_generations_are_found_in_paths() {
        let bad = [
            "server/x/src/utils.rs",
            "tests/common/mod.rs",
            "a/row_helper.rs",
            "a/feed_v2.rs",
            "a/server2.rs",
        ];
        for path in bad {
            assert_eq!(paths(&Repository::planted(&[(path, "")])).len(), 1, "{path}");
        }
        let good = ["proto/tidemark/v1/data.proto", "a/crc32.rs", "x", ".ci/run", "a/h2.rs"];
        for path in good {
            assert_eq!(paths(&Repository::planted(&[(path, "")])), [], "{path}");
        }
    }

    #[test]
    fn drawers_and_generations_are_found_in_items() {
        for bad in [
            "struct TabletManager;",
            "fn apply_v2() {}",
            "mod util {}",
            "enum FeedV2 {}",
            "fn row_helper() {}",
        ] {
            assert_eq!(items(&Repository::planted(&[("a.rs", bad)])).len(), 1, "{bad}");
        }
        for good in [
            "struct Tablet;",
            "fn version() {}",
            "// struct TabletManager",
            "fn xxh3() {}",
            "const V1: u8 = 1;",
        ] {
            assert_eq!(items(&Repository::planted(&[("a.rs", good)])), [], "{good}");
        }
    }

    #[test]
    fn foreign_words_are_found_whole_and_in_any_case() {
        for word in FOREIGN {
            let text = format!("one\ntwo {} x\n", word.to_ascii_uppercase());
            let found = words(&Repository::planted(&[("README.md", &text)]));
            assert_eq!(found.iter().map(|b| b.line).collect::<Vec<_>>(), [2], "{word}");
        }
        let inside = format!("x{}x", concat!("l", "lm"));
        assert_eq!(words(&Repository::planted(&[("README.md", &inside)])), []);
    }
}
