//! The root manifest: every foreign dependency has a sentence above it that says why it is here, and every member takes
//! its dependencies from there, so that there is one version and one reason.

use crate::{Breach, Repository};

const ROOT: &str = "Cargo.toml";

/// Each dependency of the root manifest has a comment directly above it. Our own crates need none.
pub fn reasons(repository: &Repository) -> Vec<Breach> {
    let Some(text) = repository.text(ROOT) else {
        return vec![Breach::at(ROOT, 0, "there is no root manifest")];
    };
    let mut breaches = Vec::new();
    let (mut inside, mut commented) = (false, false);
    for (at, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        } else if inside && starts_entry(line) && !line.starts_with("tidemark-") && !commented {
            let name = line.split(['=', ' ', '.']).next().unwrap_or(line);
            let say = format!("`{name}`: put a comment directly above it that says why we depend on it");
            breaches.push(Breach::at(ROOT, at + 1, say));
        }
        commented = line.starts_with("# ");
    }
    breaches
}

/// Members write `name.workspace = true` or `{ workspace = true, … }`, never a version of their own.
pub fn versions(repository: &Repository) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in repository.files().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let mut inside = false;
        for (at, line) in file.text.lines().enumerate() {
            if line.starts_with('[') {
                inside = line.trim_end().ends_with("dependencies]");
            } else if inside && starts_entry(line) && !line.contains("workspace = true") {
                let say = "take the dependency from the root manifest: `name.workspace = true`";
                breaches.push(Breach::at(&file.path, at + 1, say));
            }
        }
    }
    breaches
}

/// A line that begins an entry: not a comment, not blank, not the rest of an array or a table.
fn starts_entry(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphanumeric()) && line.contains('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let text = "[package]\nname = \"x\"\n[workspace.dependencies]\ntidemark-a = { path = \"a\" }\n# Why.\nb = \"1\"\nc = \"1\"\n# Why.\n\nd = \"1\"\n[profile.dev]\ndebug = true\n";
        let found = reasons(&Repository::planted(&[(ROOT, text)]));
        assert_eq!(found.iter().map(|b| b.line).collect::<Vec<_>>(), [7, 10]);
        assert!(found[0].say.starts_with("`c`"), "{}", found[0].say);
        assert_eq!(reasons(&Repository::planted(&[])).len(), 1);
    }

    #[test]
    fn a_member_with_a_version_of_its_own_is_found() {
        let text = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { workspace = true }\nc = \"1\"\n[dev-dependencies]\nd = { path = \"../d\" }\n";
        let found = versions(&Repository::planted(&[("x/Cargo.toml", text)]));
        assert_eq!(found.iter().map(|b| b.line).collect::<Vec<_>>(), [6, 8]);
    }
}
