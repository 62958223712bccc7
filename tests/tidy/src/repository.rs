//! The files of a repository, real or planted.

use crate::source::Source;
use std::fmt;
use std::fs;
use std::path::Path;

/// A file with its path from the root, `/` between parts.
#[derive(Debug)]
pub struct File {
    /// Path from the root of the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What a check found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub say: String,
}

/// Text files of a repository, sorted by path.
#[derive(Debug)]
pub struct Repository {
    files: Vec<File>,
}

/// Build products, version control, and what editors leave; never ours.
const SKIPPED: &[&str] = &["target", ".git", ".idea", ".vscode"];

/// Larger files are data, not text that somebody wrote.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Repository {
    /// The repository that this crate stands in.
    pub fn here() -> Repository {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        walk(&root, "", &mut files);
        assert!(
            files.iter().any(|file| file.path == "Cargo.toml"),
            "no Cargo.toml in {}",
            root.display()
        );
        Repository::new(files)
    }

    /// A planted repository: paths and texts.
    pub fn planted(files: &[(&str, &str)]) -> Repository {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        Repository::new(files.iter().map(file).collect())
    }

    fn new(mut files: Vec<File>) -> Repository {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Repository { files }
    }

    /// All text files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The text of one file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }

    /// All Rust files, read as source.
    pub fn sources(&self) -> impl Iterator<Item = (&File, Source)> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with(".rs"))
            .map(|file| (file, Source::read(file)))
    }
}

impl Breach {
    /// A breach in a line of a file.
    pub fn at(path: &str, line: usize, say: impl Into<String>) -> Breach {
        Breach {
            path: path.to_owned(),
            line,
            say: say.into(),
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.say)
    }
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    // Something may vanish while we look (an editor's temporary file): what cannot be read is not ours to judge.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), files);
            }
        } else if kind.is_file()
            // In a worktree of its own the repository's `.git` is a file that names a place on this machine.
            && name != ".git"
            && entry.metadata().is_ok_and(|data| data.len() <= FILE_BYTES_MAX)
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(File { path, text });
        }
    }
}
