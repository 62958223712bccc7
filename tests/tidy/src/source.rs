//! One Rust file as the checks need it: code with comments and literals blanked out, which parts are tests, where each
//! function begins and ends.
//!
//! Not a parser: a scanner over code that rustfmt has been over, which is enough to count and to search. It errs
//! towards finding too little in macros, never towards crying over a word in a comment.

use crate::repository::File;
use std::ops::Range;

/// A Rust file, scanned.
#[derive(Debug)]
pub struct Source {
    /// The text with comments and the insides of literals replaced by spaces, byte for byte, so that offsets and
    /// lines are those of the file.
    pub code: String,
    tests: Vec<Range<usize>>,
    all_test: bool,
}

/// A function and its extent.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// Lines from its `fn` to its closing brace, both counted.
    pub lines: usize,
}

impl Source {
    /// Scans a file.
    pub fn read(file: &File) -> Source {
        let code = blank(&file.text);
        let tests = test_items(&code);
        Source {
            code,
            tests,
            all_test: is_test_path(&file.path),
        }
    }

    /// Whether the byte at `offset` belongs to tests.
    pub fn is_test(&self, offset: usize) -> bool {
        self.all_test || self.tests.iter().any(|range| range.contains(&offset))
    }

    /// The line of the byte at `offset`, from 1.
    pub fn line(&self, offset: usize) -> usize {
        line_at(&self.code, offset)
    }

    /// Where `words` stands in the code, not as a part of a longer identifier.
    pub fn find<'a>(&'a self, words: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.match_indices(words).map(|(at, _)| at).filter(move |at| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + words.len()..].chars().next();
            let joined = |edge: Option<char>, own: Option<char>| edge.is_some_and(is_word) && own.is_some_and(is_word);
            !joined(before, words.chars().next()) && !joined(after, words.chars().next_back())
        })
    }

    /// All functions with a body, in the order of their `fn`; nested ones too.
    pub fn functions(&self) -> Vec<Function> {
        self.find("fn").filter_map(|at| self.function(at)).collect()
    }

    fn function(&self, at: usize) -> Option<Function> {
        let rest = self.code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() {
            return None; // A function type: `fn(u64)`.
        }
        let end = item_end(&self.code, at);
        if !self.code[..end].ends_with('}') {
            return None; // A declaration in a trait.
        }
        let line = self.line(at);
        Some(Function {
            name,
            line,
            lines: self.line(end - 1) - line + 1,
        })
    }
}

/// The line of the byte at `offset` of `text`, from 1.
pub fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Whether a character may stand in an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_test_path(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "tests.rs"
        || name.ends_with("_tests.rs")
        || path.split('/').any(|part| part == "tests" || part == "benches")
}

/// The extents of items under `#[cfg(test)]` or `#[test]`-like attributes' modules.
fn test_items(code: &str) -> Vec<Range<usize>> {
    code.match_indices("#[cfg(test)]")
        .map(|(at, mark)| at..item_end(code, at + mark.len()))
        .collect()
}

/// The end of the item that begins at `start`: past its closing brace, or past its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0usize;
    let mut round = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round = round.saturating_sub(1),
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && round == 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 && round == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Replaces comments and the insides of literals by spaces. Line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !follows_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at + 1),
            b'b' | b'c' if !follows_word(bytes, at) && bytes.get(at + 1) == Some(&b'r') => {
                raw_string_end(bytes, at + 1).unwrap_or(at + 1)
            }
            b'\'' => char_end(bytes, at).unwrap_or(at + 1),
            _ => at + 1,
        };
        if end > at + 1 {
            for byte in out[at..end].iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b' ';
            }
            // A literal keeps one quote, so that `f("x")` does not look like `f()`.
            if bytes[at] != b'/' {
                out[at] = b'"';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole literals and comments were replaced, by ASCII")
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |n| at + n)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < bytes.len() && depth > 0 {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    at
}

/// Past the closing quote of a string whose text begins at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Past a raw string whose `r` is at `at`; None if it is no raw string (an identifier, `r#type`).
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let text = &bytes[open + 1..];
    let length = text
        .windows(close.len())
        .position(|window| window == close)
        .unwrap_or(text.len());
    Some((open + 1 + length + close.len()).min(bytes.len()))
}

/// Past a character literal whose quote is at `at`; None if it is a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes.get(at + 3..)?.iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character, up to four bytes.
    let close = bytes
        .get(at + 2..bytes.len().min(at + 6))?
        .iter()
        .position(|byte| *byte == b'\'')?;
    let inside = std::str::from_utf8(&bytes[at + 1..at + 2 + close]).ok()?;
    (inside.chars().count() == 1).then_some(at + 2 + close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::read(&File {
            path: path.to_owned(),
            text: text.to_owned(),
        })
    }

    #[test]
    fn comments_and_literals_are_blanked_and_nothing_else() {
        let text =
            "let a = \"x // y\"; // b()\n/* c() /* d */ */ e('\\'', 'f', '\"', b'g');\nlet h: &'i str = r#\"j\"k\"#;\n";
        let code = source("x.rs", text).code;
        assert_eq!(code.len(), text.len());
        for gone in ["x", "y", "b()", "c()", "d", "j", "k"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        for kept in ["let a =", " e(", "&'i str", "let h"] {
            assert!(code.contains(kept), "{kept} not in {code}");
        }
        assert_eq!(code.matches('\n').count(), 3);
    }

    #[test]
    fn characters_beyond_ascii_and_escapes_do_not_confuse() {
        let text = "let a = ['ß', '€', '\\u{1F30A}', '\\n', '\\\\'];\nlet b = \"ü\\\"€\"; fn seen() {}\n";
        let source = source("x.rs", text);
        assert_eq!(source.functions().len(), 1, "{}", source.code);
        assert!(!source.code.contains('€'));
    }

    #[test]
    fn functions_have_names_and_lengths() {
        let text = "fn one() {}\ntrait T {\n    fn declared(&self);\n}\npub async fn three<F: Fn([u8; 3])>(\n    f: fn(u8) -> u8,\n) {\n    fn inner() {\n    }\n}\n";
        let found = source("x.rs", text).functions();
        let short: Vec<(&str, usize, usize)> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(short, [("one", 1, 1), ("three", 5, 6), ("inner", 8, 2)]);
    }

    #[test]
    fn test_parts_are_known() {
        let text = "fn work() {}\n#[cfg(test)]\n#[path = \"far.rs\"]\nmod far;\nfn more() {}\n#[cfg(test)]\nmod tests {\n    fn check() {}\n}\n";
        let source_here = source("server/x/src/a.rs", text);
        let at = |word: &str| source_here.code.find(word).expect("it stands there");
        assert!(!source_here.is_test(at("work")) && !source_here.is_test(at("more")));
        assert!(source_here.is_test(at("mod far")) && source_here.is_test(at("check")));
        for path in [
            "tests/demo/src/main.rs",
            "server/x/src/a_tests.rs",
            "server/x/tests/y.rs",
            "server/x/src/tests.rs",
        ] {
            assert!(source(path, text).is_test(0), "{path}");
        }
    }

    #[test]
    fn words_are_found_whole() {
        let source = source(
            "x.rs",
            "thread_rng(); my_thread_rng(); thread_rng2(); rand::thread_rng()",
        );
        assert_eq!(source.find("thread_rng").count(), 2);
    }
}
