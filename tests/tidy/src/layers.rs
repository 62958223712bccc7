//! Which crate may use which, and which crate alone may use a heavy library.
//!
//! The table of allowed edges is the one that people read: docs/ARCHITECTURE.md, the rows under "## Layers".
//!
//! ```text
//! | Crate | Path | May use | Tests may also use | May not know |
//! |---|---|---|---|---|
//! | `engine` | `server/engine` | `base`, `runtime` | | Raft, peers, "now" |
//! ```

use crate::{Breach, Repository};
use std::collections::BTreeMap;

/// Where the table stands.
pub const PAGE: &str = "docs/ARCHITECTURE.md";

const HEADING: &str = "## Layers";
const PREFIX: &str = "tidemark-";

/// A library that only the named crates may depend on, so that replacing it stays a job of days.
struct Address {
    /// The library's name, and the prefix of its companions (`tonic-health`).
    library: &'static str,
    crates: &'static [&'static str],
}

const ADDRESSES: &[Address] = &[
    Address {
        library: "rocksdb",
        // `compare` measures it raw: there it is a peer, not ours to replace.
        crates: &["engine", "compare"],
    },
    Address {
        library: "openraft",
        crates: &["consensus"],
    },
    Address {
        library: "tonic",
        // `compare` speaks to etcd by it.
        crates: &["proto", "services", "client", "compare"],
    },
    Address {
        library: "axum",
        crates: &["ops"],
    },
];

/// One row of the table.
#[derive(Debug, Default)]
struct Row {
    line: usize,
    path: String,
    uses: Vec<String>,
    tests_use: Vec<String>,
}

/// Every edge between workspace crates stands in the table, and every crate has its row.
pub fn edges(repository: &Repository) -> Vec<Breach> {
    let rows = match table(repository) {
        Ok(rows) => rows,
        Err(breach) => return vec![breach],
    };
    let mut breaches = Vec::new();
    let mut met = Vec::new();
    for manifest in manifests(repository, &mut breaches) {
        let short = manifest.short();
        let Some(row) = rows.get(short) else {
            let say = format!(
                "`{short}` has no row in the table under \"{HEADING}\" of {PAGE}: add it, with what it may not know"
            );
            breaches.push(Breach::at(&manifest.path, 0, say));
            continue;
        };
        met.push(short.to_owned());
        if format!("{}/Cargo.toml", row.path) != manifest.path {
            let say = format!(
                "`{short}` stands in {}, the table says `{}`: correct the table",
                manifest.path, row.path
            );
            breaches.push(Breach::at(PAGE, row.line, say));
        }
        for (dependency, kind) in &manifest.uses {
            let Some(used) = dependency.strip_prefix(PREFIX) else {
                continue;
            };
            let allowed =
                row.uses.iter().any(|u| u == used) || (*kind == Kind::Tests && row.tests_use.iter().any(|u| u == used));
            if !allowed {
                let say = format!(
                    "`{short}` may not use `{used}`: move the code to the layer that may, pass it in through a trait, \
                     or (with an ADR) change the table in {PAGE}"
                );
                breaches.push(Breach::at(&manifest.path, manifest.line_of(dependency), say));
            }
        }
    }
    for (short, row) in rows.iter().filter(|(short, _)| !met.contains(short)) {
        breaches.push(Breach::at(
            PAGE,
            row.line,
            format!("there is no crate `{PREFIX}{short}`: take its row away"),
        ));
    }
    breaches
}

/// Heavy libraries stand in the manifests of their addresses only, tests included.
pub fn addresses(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for manifest in manifests(repository, &mut breaches) {
        for (dependency, _) in &manifest.uses {
            let belongs = |a: &&Address| {
                dependency
                    .strip_prefix(a.library)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            };
            let Some(address) = ADDRESSES.iter().find(belongs) else {
                continue;
            };
            if !address.crates.contains(&manifest.short()) {
                let say = format!(
                    "`{dependency}` has one address, {:?}: use what that crate offers, or let it offer more",
                    address.crates
                );
                breaches.push(Breach::at(&manifest.path, manifest.line_of(dependency), say));
            }
        }
    }
    breaches
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Product,
    Tests,
}

struct Manifest<'a> {
    path: String,
    text: &'a str,
    name: String,
    uses: Vec<(String, Kind)>,
}

impl Manifest<'_> {
    fn short(&self) -> &str {
        self.name.strip_prefix(PREFIX).unwrap_or(&self.name)
    }

    fn line_of(&self, dependency: &str) -> usize {
        self.text
            .lines()
            .position(|line| line.contains(dependency))
            .map_or(0, |n| n + 1)
    }
}

/// The manifests of all packages; those that cannot be read are breaches.
fn manifests<'a>(repository: &'a Repository, breaches: &mut Vec<Breach>) -> Vec<Manifest<'a>> {
    let mut found = Vec::new();
    for file in repository.files().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let table: toml::Table = match file.text.parse() {
            Ok(table) => table,
            Err(error) => {
                breaches.push(Breach::at(&file.path, 0, format!("not a manifest: {error}")));
                continue;
            }
        };
        let name = table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(|name| name.as_str());
        let Some(name) = name else { continue };
        let mut uses = Vec::new();
        collect(&table, &mut uses);
        if let Some(targets) = table.get("target").and_then(|target| target.as_table()) {
            targets
                .values()
                .filter_map(|target| target.as_table())
                .for_each(|target| collect(target, &mut uses));
        }
        found.push(Manifest {
            path: file.path.clone(),
            text: &file.text,
            name: name.to_owned(),
            uses,
        });
    }
    found
}

fn collect(table: &toml::Table, uses: &mut Vec<(String, Kind)>) {
    let kinds = [
        ("dependencies", Kind::Product),
        ("build-dependencies", Kind::Product),
        ("dev-dependencies", Kind::Tests),
    ];
    for (section, kind) in kinds {
        let Some(dependencies) = table.get(section).and_then(|section| section.as_table()) else {
            continue;
        };
        for (key, value) in dependencies {
            // A renamed dependency is still what it was.
            let name = value.get("package").and_then(|package| package.as_str()).unwrap_or(key);
            uses.push((name.to_owned(), kind));
        }
    }
}

fn table(repository: &Repository) -> Result<BTreeMap<String, Row>, Breach> {
    let missing = || Breach::at(PAGE, 0, format!("there must be a table of crates under \"{HEADING}\""));
    let text = repository.text(PAGE).ok_or_else(missing)?;
    let start = text
        .lines()
        .position(|line| line.trim() == HEADING)
        .ok_or_else(missing)?;
    let section = text
        .lines()
        .enumerate()
        .skip(start + 1)
        .take_while(|(_, line)| !line.starts_with("## "));
    let mut rows = BTreeMap::new();
    for (at, line) in section.filter(|(_, line)| line.starts_with("| `")) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, path, uses, tests_use, ..] = columns[..] else {
            return Err(Breach::at(
                PAGE,
                at + 1,
                "a row needs: crate, path, may use, tests may also use, may not know",
            ));
        };
        let row = Row {
            line: at + 1,
            path: quoted(path).concat(),
            uses: quoted(uses),
            tests_use: quoted(tests_use),
        };
        rows.insert(quoted(name).concat(), row);
    }
    if rows.is_empty() { Err(missing()) } else { Ok(rows) }
}

/// What stands between back-quotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# A\n\n## Layers\n\n| Crate | Path | May use | Tests may also use | May not know |\n|---|---|---|---|---|\n| `base` | `server/base` | | | |\n| `engine` | `server/engine` | `base` | `rig` | |\n| `rig` | `tests/rig` | `base` | | |\n\n## More\n| `no` | `no` | | | |\n";
    const BASE: &str = "[package]\nname = \"tidemark-base\"\n";
    const RIG: &str = "[package]\nname = \"tidemark-rig\"\n[dependencies]\ntidemark-base = {}\n";

    fn say(engine: &str) -> Vec<String> {
        let engine = format!("[package]\nname = \"tidemark-engine\"\n{engine}");
        let planted = Repository::planted(&[
            (PAGE, TABLE),
            ("server/base/Cargo.toml", BASE),
            ("server/engine/Cargo.toml", &engine),
            ("tests/rig/Cargo.toml", RIG),
        ]);
        edges(&planted)
            .iter()
            .chain(&addresses(&planted))
            .map(|b| b.to_string())
            .collect()
    }

    #[test]
    fn allowed_edges_pass() {
        let fine =
            "[dependencies]\ntidemark-base.workspace = true\nrocksdb = \"1\"\n[dev-dependencies]\ntidemark-rig = {}\n";
        assert_eq!(say(fine), Vec::<String>::new());
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found_however_it_is_written() {
        for bad in [
            "[dependencies]\ntidemark-rig.workspace = true\n",
            "[build-dependencies]\ntidemark-rig = { path = \"../rig\" }\n",
            "[dependencies]\ninnocent = { package = \"tidemark-rig\", path = \"../rig\" }\n",
            "[target.'cfg(unix)'.dependencies]\ntidemark-rig = {}\n",
            "[dependencies.tidemark-rig]\npath = \"../rig\"\n",
        ] {
            let said = say(bad);
            assert_eq!(said.len(), 1, "{bad}: {said:?}");
            assert!(said[0].contains("`engine` may not use `rig`"), "{}", said[0]);
        }
        let tests_too = "[dev-dependencies]\ntidemark-node = {}\n";
        assert!(say(tests_too)[0].contains("may not use `node`"));
    }

    #[test]
    fn a_library_away_from_its_address_is_found() {
        for bad in [
            "openraft = \"1\"\n",
            "tonic-health = \"1\"\n",
            "db = { package = \"axum\", version = \"1\" }\n",
        ] {
            let said = say(&format!("[dependencies]\n{bad}"));
            assert_eq!(said.len(), 1, "{bad}: {said:?}");
            assert!(said[0].contains("one address"), "{}", said[0]);
        }
        assert_eq!(say("[dependencies]\nrocksdbish = \"1\"\n"), Vec::<String>::new());
    }

    #[test]
    fn table_and_crates_must_be_the_same_set() {
        let planted = Repository::planted(&[(PAGE, TABLE), ("server/base/Cargo.toml", BASE), ("x/Cargo.toml", RIG)]);
        let said: Vec<String> = edges(&planted).iter().map(|b| b.to_string()).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("`rig` stands in x/Cargo.toml"), "{}", said[0]);
        assert!(said[1].contains("no crate `tidemark-engine`"), "{}", said[1]);
        let rowless = Repository::planted(&[(PAGE, TABLE), ("y/Cargo.toml", "[package]\nname = \"tidemark-y\"\n")]);
        assert!(edges(&rowless)[0].say.contains("`y` has no row"));
        assert_eq!(edges(&Repository::planted(&[])).len(), 1);
        assert_eq!(edges(&Repository::planted(&[(PAGE, "# A\n")])).len(), 1);
    }
}
