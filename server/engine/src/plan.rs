//! A read filter made ready: families resolved and sorted, regular expressions compiled, hints for seeking.

use crate::api::EngineError;
use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use tidemark_base::range::prefix_end;
use tidemark_base::read::{QualifierFilter, ReadFilter, ValueFilter};
use tidemark_base::{FamilyId, FamilySettings, TableSchema, VersionRange, limits};
use xxhash_rust::xxh3::xxh3_64;

/// A compiled [`ReadFilter`], with the schema's families that it selects.
pub(crate) struct Plan {
    /// Selected families in key order.
    pub(crate) families: Vec<FamilySettings>,
    pub(crate) qualifiers: Qualifiers,
    pub(crate) versions: VersionRange,
    pub(crate) latest: Option<u32>,
    pub(crate) values: Values,
    row_regex: Option<Regex>,
    row_sample_per_million: Option<u32>,
    pub(crate) cells_per_row: Option<u32>,
    pub(crate) strip_values: bool,
}

/// Which qualifiers are wanted.
pub(crate) enum Qualifiers {
    Any,
    /// Sorted, each once.
    Exact(Vec<Bytes>),
    /// `[start, end)`; a prefix is one too.
    Range {
        start: Bytes,
        end: Option<Bytes>,
    },
    Regex(Box<Regex>),
}

/// What to do with a column.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Column<'a> {
    /// Read it.
    Wanted,
    /// Not wanted, nor is any before this qualifier, which is greater.
    SkipTo(&'a [u8]),
    /// Not wanted; look at the next.
    Next,
    /// Not wanted, nor is any behind it.
    Done,
}

/// Which values are wanted.
pub(crate) enum Values {
    Any,
    Compare(tidemark_base::read::CompareOp, Bytes),
    Regex(Box<Regex>),
}

impl Plan {
    /// Compiles a filter. Fails with [`EngineError::Invalid`] if a regular expression is malformed or too large.
    pub(crate) fn new(filter: &ReadFilter, schema: Option<&TableSchema>) -> Result<Plan, EngineError> {
        let wanted = |id: FamilyId| filter.families.as_ref().is_none_or(|list| list.contains(&id));
        let mut families: Vec<FamilySettings> = schema
            .map(|schema| schema.families.iter().filter(|f| wanted(f.id)).cloned().collect())
            .unwrap_or_default();
        families.sort_by_key(|f| f.id);
        Ok(Plan {
            families,
            qualifiers: Qualifiers::new(&filter.qualifier)?,
            versions: filter.versions,
            latest: filter.latest,
            values: match &filter.value {
                ValueFilter::Any => Values::Any,
                ValueFilter::Compare(op, operand) => Values::Compare(*op, operand.clone()),
                ValueFilter::Regex(source) => Values::Regex(Box::new(whole_regex(source)?)),
            },
            row_regex: filter.row_regex.as_deref().map(whole_regex).transpose()?,
            row_sample_per_million: filter.row_sample_per_million,
            cells_per_row: filter.cells_per_row,
            strip_values: filter.strip_values,
        })
    }

    /// True if cells of that row may be returned.
    pub(crate) fn wants_row(&self, row: &[u8]) -> bool {
        self.row_sample_per_million.is_none_or(|n| in_sample(row, n))
            && self.row_regex.as_ref().is_none_or(|regex| regex.is_match(row))
    }

    /// True if no cell at all can be returned.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.families.is_empty() || self.latest == Some(0) || self.cells_per_row == Some(0)
    }
}

impl Qualifiers {
    fn new(filter: &QualifierFilter) -> Result<Qualifiers, EngineError> {
        Ok(match filter {
            QualifierFilter::Any => Qualifiers::Any,
            QualifierFilter::Exact(list) => {
                let mut list = list.clone();
                list.sort();
                list.dedup();
                Qualifiers::Exact(list)
            }
            QualifierFilter::Prefix(prefix) => Qualifiers::Range {
                start: prefix.clone(),
                end: prefix_end(prefix).map(Bytes::from),
            },
            QualifierFilter::Range { start, end } => Qualifiers::Range {
                start: start.clone(),
                end: end.clone(),
            },
            QualifierFilter::Regex(source) => Qualifiers::Regex(Box::new(whole_regex(source)?)),
        })
    }

    /// What to do with the column of that qualifier.
    pub(crate) fn judge(&self, qualifier: &[u8]) -> Column<'_> {
        match self {
            Qualifiers::Any => Column::Wanted,
            Qualifiers::Exact(list) => match list.binary_search_by(|q| q[..].cmp(qualifier)) {
                Ok(_) => Column::Wanted,
                Err(at) => list.get(at).map_or(Column::Done, |next| Column::SkipTo(next)),
            },
            Qualifiers::Range { start, end } => {
                if qualifier < &start[..] {
                    Column::SkipTo(start)
                } else if end.as_ref().is_some_and(|end| qualifier >= &end[..]) {
                    Column::Done
                } else {
                    Column::Wanted
                }
            }
            Qualifiers::Regex(regex) if regex.is_match(qualifier) => Column::Wanted,
            Qualifiers::Regex(_) => Column::Next,
        }
    }
}

impl Values {
    /// True if a cell of that value may be returned.
    pub(crate) fn wants(&self, value: &[u8]) -> bool {
        match self {
            Values::Any => true,
            Values::Compare(op, operand) => op.holds(value, operand),
            Values::Regex(regex) => regex.is_match(value),
        }
    }
}

/// True if the row is in a sample of that many rows of a million: a function of the row alone.
pub fn in_sample(row: &[u8], per_million: u32) -> bool {
    xxh3_64(row) % 1_000_000 < u64::from(per_million)
}

/// Compiles a regular expression over raw bytes that must match a whole string: `.` matches every byte.
///
/// Fails with [`EngineError::Invalid`] if it is malformed, longer than [`limits::REGEX_BYTES_MAX`] or compiles to more
/// than [`limits::REGEX_COMPILED_BYTES_MAX`].
pub fn whole_regex(source: &str) -> Result<Regex, EngineError> {
    if source.len() > limits::REGEX_BYTES_MAX {
        return Err(EngineError::Invalid(format!(
            "a regular expression of {} bytes; at most {} are allowed",
            source.len(),
            limits::REGEX_BYTES_MAX
        )));
    }
    let compile = |source: &str| {
        RegexBuilder::new(source)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(limits::REGEX_COMPILED_BYTES_MAX)
            .dfa_size_limit(limits::REGEX_COMPILED_BYTES_MAX)
            .build()
    };
    // By itself first: `a)|(b` must not become legal by the parentheses around it.
    compile(source)
        .and_then(|_| compile(&format!(r"\A(?:{source})\z")))
        // In verbose mode a comment at the end would swallow the closing parenthesis.
        .or_else(|e| compile(source).and_then(|_| compile(&format!("\\A(?:{source}\n)\\z")).map_err(|_| e)))
        .map_err(|e| EngineError::Invalid(format!("the regular expression {source:?} does not compile: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regexes_match_whole_strings_of_raw_bytes() {
        let regex = |source: &str| whole_regex(source).unwrap();
        assert!(regex("a|ab").is_match(b"ab") && !regex("a").is_match(b"ab"));
        assert!(regex("a.c").is_match(b"a\nc") && regex(r"\xff.").is_match(b"\xff\x00"));
        assert!(regex("é").is_match("é".as_bytes()));
        assert!(regex("(?x) a b # and nothing else").is_match(b"ab"));
        assert!(!regex("(?m)^a$").is_match(b"a\nb"));
        for bad in ["a)|(b", "(", "a{1000}{1000}{1000}"] {
            assert!(matches!(whole_regex(bad), Err(EngineError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn regex_length_at_its_bound() {
        for (length, good) in [(-1, true), (0, true), (1, false)] {
            let length = limits::REGEX_BYTES_MAX.saturating_add_signed(length);
            assert_eq!(whole_regex(&"a".repeat(length)).is_ok(), good, "{length}");
        }
    }

    #[test]
    fn exact_and_range_qualifiers_say_where_to_go_on() {
        let exact = Qualifiers::new(&QualifierFilter::Exact(vec!["m".into(), "b".into()])).unwrap();
        assert_eq!(exact.judge(b"a"), Column::SkipTo(b"b"));
        assert_eq!(exact.judge(b"b"), Column::Wanted);
        assert_eq!(exact.judge(b"c"), Column::SkipTo(b"m"));
        assert_eq!(exact.judge(b"n"), Column::Done);
        let prefix = Qualifiers::new(&QualifierFilter::Prefix("ab".into())).unwrap();
        assert_eq!(prefix.judge(b"aa"), Column::SkipTo(b"ab"));
        assert_eq!(prefix.judge(b"abz"), Column::Wanted);
        assert_eq!(prefix.judge(b"ac"), Column::Done);
    }
}
