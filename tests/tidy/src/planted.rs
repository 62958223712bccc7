//! Planted bugs: each one that is named is planted in the product, and no build for use can have them.
//!
//! A bug that is listed and planted nowhere would be "caught" by nothing or by chance, and nobody would notice when the
//! line that it stood at is rewritten. That each has evidence is seen to by the compiler, in `tests/mutants`.

use crate::{Breach, Repository};

const PAGE: &str = "server/runtime/src/planted.rs";
const FEATURE: &str = "planted-bugs";

/// Every variant of `Bug` is asked for by product code outside `runtime`, in a file that asks `planted(`.
pub fn everywhere(repository: &Repository) -> Vec<Breach> {
    let Some(page) = repository.text(PAGE) else {
        return vec![Breach::at(PAGE, 0, "the list of planted bugs is missing")];
    };
    let bugs = variants(page);
    if bugs.is_empty() {
        return vec![Breach::at(PAGE, 0, "there is no `pub enum Bug` with variants")];
    }
    let mut missing = bugs;
    let product = repository.sources().filter(|(file, _)| {
        file.path.starts_with("server/") && !file.path.starts_with("server/runtime/") && file.path.contains("/src/")
    });
    for (_, source) in product {
        let outside_tests = |at: &usize| !source.is_test(*at);
        if source.find("planted(").any(|at| outside_tests(&at)) {
            missing.retain(|(_, bug)| !source.find(&format!("Bug::{bug}")).any(|at| outside_tests(&at)));
        }
    }
    let say = |bug: &str| format!("`{bug}` is planted nowhere: ask `planted(Bug::{bug})` at the line of that mistake");
    let breach = |(line, bug): (usize, String)| Breach::at(PAGE, line, say(&bug));
    missing.into_iter().map(breach).collect()
}

/// The feature is nobody's default and asked for by no dependency; a build without debug assertions refuses it, and the
/// release profile has none.
pub fn never_in_use(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let page = repository.text(PAGE).unwrap_or_default();
    let refusal = page.find("#[cfg(not(debug_assertions))]").map(|at| &page[at..]);
    if !refusal.is_some_and(|rest| rest.lines().nth(1).is_some_and(|line| line.contains("compile_error!"))) {
        let say = "`#[cfg(not(debug_assertions))] compile_error!(…)` must refuse the feature in builds for use";
        breaches.push(Breach::at(PAGE, 0, say));
    }
    for file in repository.files().filter(|file| file.path.ends_with("Cargo.toml")) {
        let Ok(manifest) = file.text.parse::<toml::Table>() else {
            continue;
        };
        let profile = |name: &str| manifest.get("profile")?.get(name)?.get("debug-assertions")?.as_bool();
        if profile("release") == Some(true) {
            breaches.push(Breach::at(&file.path, 0, "the release profile has no debug assertions"));
        }
        for (at, line) in file.text.lines().enumerate().filter(|(_, line)| line.contains(FEATURE)) {
            let declared = line.starts_with("planted-bugs = [") || line.trim_start().starts_with('#');
            if !declared {
                let say = format!("`{FEATURE}` is only asked for on the command line, by `./x mutants`");
                breaches.push(Breach::at(&file.path, at + 1, say));
            }
        }
    }
    breaches
}

/// The variants of `pub enum Bug`, with their lines.
fn variants(page: &str) -> Vec<(usize, String)> {
    let inside = page
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with("pub enum Bug"));
    let body = inside.skip(1).take_while(|(_, line)| !line.starts_with('}'));
    body.filter_map(|(at, line)| {
        let name: String = line.trim().chars().take_while(char::is_ascii_alphanumeric).collect();
        name.starts_with(|c: char| c.is_ascii_uppercase())
            .then_some((at + 1, name))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "//! Doc.\n/// Doc.\npub enum Bug {\n    /// One.\n    One = 1,\n    /// Two.\n    TwoOfThem,\n}\n#[cfg(not(debug_assertions))]\ncompile_error!(\"no\");\n";
    const BOTH: &str = "//! Doc.\nfn f() { if planted(Bug::One) || planted(Bug::TwoOfThem) {} }\n";

    fn say(breaches: Vec<Breach>) -> Vec<String> {
        breaches.iter().map(Breach::to_string).collect()
    }

    #[test]
    fn a_bug_that_is_planted_nowhere_is_found() {
        let planted = |code: &str| everywhere(&Repository::planted(&[(PAGE, LIST), ("server/x/src/a.rs", code)]));
        assert_eq!(planted(BOTH), Vec::new());
        let one = "//! Doc.\n// planted(Bug::TwoOfThem)\nfn f() { if planted(Bug::One) {} }\n";
        let said = say(planted(one));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains(&format!("{PAGE}:7: `TwoOfThem` is planted nowhere")),
            "{said:?}"
        );
        let only_tests =
            "//! Doc.\n#[cfg(test)]\nmod tests { fn f() { planted(Bug::One); planted(Bug::TwoOfThem); } }\n";
        assert_eq!(planted(only_tests).len(), 2);
        let elsewhere = [
            (PAGE, LIST),
            ("server/runtime/src/a.rs", BOTH),
            ("tests/x/src/a.rs", BOTH),
        ];
        assert_eq!(everywhere(&Repository::planted(&elsewhere)).len(), 2);
        assert_eq!(everywhere(&Repository::planted(&[])).len(), 1);
    }

    #[test]
    fn a_build_for_use_cannot_have_them() {
        let with = |manifest: &str, list: &str| {
            never_in_use(&Repository::planted(&[(PAGE, list), ("server/x/Cargo.toml", manifest)]))
        };
        let fine = "[features]\n# For tests: planted-bugs.\nplanted-bugs = [\"runtime/planted-bugs\"]\n";
        assert_eq!(with(fine, LIST), Vec::new());
        for bad in [
            "[features]\ndefault = [\"planted-bugs\"]\n",
            "[dependencies]\nruntime = { workspace = true, features = [\"planted-bugs\"] }\n",
            "[profile.release]\ndebug-assertions = true\n",
        ] {
            assert_eq!(with(bad, LIST).len(), 1, "{bad}");
        }
        let unguarded = LIST.replace("compile_error!", "println!");
        assert_eq!(with(fine, &unguarded).len(), 1);
    }
}
