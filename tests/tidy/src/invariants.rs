//! Invariants have numbers (`INV-` and two digits). Searching for a number finds its sentence in docs/INVARIANTS.md, the
//! assertions in the code, and the checker in the tests; this check keeps all three.

use crate::source::line_at;
use crate::{Breach, Repository};
use std::collections::BTreeMap;

const PAGE: &str = "docs/INVARIANTS.md";
const MARK: &str = "INV-";

/// Where a number stands.
#[derive(Default)]
struct Uses {
    listed: Option<usize>,
    code: Option<(String, usize)>,
    tests: Option<(String, usize)>,
}

/// Every number in code is listed, and every listed one stands in code and in tests.
pub fn invariants(repository: &Repository) -> Vec<Breach> {
    let mut all: BTreeMap<String, Uses> = BTreeMap::new();
    for (at, line) in repository.text(PAGE).unwrap_or("").lines().enumerate() {
        // A listing begins its line (heading, list item or table row); a mention elsewhere is only a reference.
        let start = line.trim_start_matches(['#', '|', '-', '*', '`', ' ']);
        if start.starts_with(MARK)
            && let Some((_, number)) = numbers(start).next()
        {
            all.entry(number).or_default().listed.get_or_insert(at + 1);
        }
    }
    // This crate's planted examples are not invariants of the product.
    for (file, source) in repository
        .sources()
        .filter(|(file, _)| !file.path.starts_with("tests/tidy/"))
    {
        for (at, number) in numbers(&file.text) {
            let uses = all.entry(number).or_default();
            let place = if source.is_test(at) {
                &mut uses.tests
            } else {
                &mut uses.code
            };
            place.get_or_insert_with(|| (file.path.clone(), line_at(&file.text, at)));
        }
    }
    all.iter().flat_map(|(number, uses)| judge(number, uses)).collect()
}

fn judge(number: &str, uses: &Uses) -> Vec<Breach> {
    let Some(line) = uses.listed else {
        let place = uses.code.as_ref().or(uses.tests.as_ref());
        let (path, line) = place.map_or((PAGE, 0), |(path, line)| (path.as_str(), *line));
        return vec![Breach::at(
            path,
            line,
            format!("{number} is not in {PAGE}: add its sentence there"),
        )];
    };
    let mut breaches = Vec::new();
    if uses.code.is_none() {
        let say = format!("{number} stands nowhere in the code: cite it where it could break, with an assertion");
        breaches.push(Breach::at(PAGE, line, say));
    }
    if uses.tests.is_none() {
        let say = format!("{number} stands in no test: cite it in the test that checks it");
        breaches.push(Breach::at(PAGE, line, say));
    }
    breaches
}

/// The numbers in a text, with their offsets.
fn numbers(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    text.match_indices(MARK).filter_map(|(at, _)| {
        let digits: String = text[at + MARK.len()..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        (!digits.is_empty()).then(|| (at, format!("{MARK}{digits}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "//! Doc.\nfn f() {} // INV-01\n#[cfg(test)]\nmod tests {\n // INV-01\n}\n";

    fn say(page: &str, code: &str) -> Vec<String> {
        let planted = Repository::planted(&[(PAGE, page), ("server/x/src/a.rs", code)]);
        invariants(&planted).iter().map(|b| b.to_string()).collect()
    }

    #[test]
    fn a_number_in_all_three_places_passes() {
        for page in [
            "## INV-01 One\n",
            "| INV-01 | One |\n",
            "- **INV-01** One, see INV-99.\n",
        ] {
            assert_eq!(say(page, CODE), Vec::<String>::new(), "{page}");
        }
    }

    #[test]
    fn a_number_that_is_missing_somewhere_is_found() {
        assert!(say("", CODE)[0].starts_with("server/x/src/a.rs:2: INV-01 is not in"));
        assert!(
            say("see INV-01\n", CODE)[0].contains("is not in"),
            "a reference is no listing"
        );
        let untested = say("# Page\n## INV-01\n", "//! Doc.\n// INV-01\n");
        assert_eq!(untested.len(), 1);
        assert!(
            untested[0].starts_with("docs/INVARIANTS.md:2: INV-01 stands in no test"),
            "{untested:?}"
        );
        assert_eq!(
            say("## INV-02\n## INV-01\n", CODE).len(),
            2,
            "INV-02 is neither in code nor in tests"
        );
    }
}
