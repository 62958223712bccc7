//! Filters: names to ids, limits, and whether the regular expressions compile, before a read starts anywhere.

use super::{at_most, family_unknown, versions};
use bytes::Bytes;
use regex::bytes::RegexBuilder;
use tidemark_base::read::{CompareOp, QualifierFilter, ValueFilter};
use tidemark_base::{Error, ReadFilter, Result, TableSchema, limits};
use tidemark_proto::v1;

/// A filter of that table. Absent means everything.
pub fn filter(filter: Option<&v1::Filter>, schema: &TableSchema, table: &str) -> Result<ReadFilter> {
    let Some(filter) = filter else {
        return Ok(ReadFilter::default());
    };
    at_most(
        "FAMILIES_TOO_MANY",
        "list of families",
        filter.families.len(),
        limits::FAMILIES_MAX,
    )?;
    let mut families = Vec::with_capacity(filter.families.len());
    for name in &filter.families {
        let family = schema.family_named(name);
        families.push(family.ok_or_else(|| family_unknown(schema, table, name))?.id);
    }
    if !filter.row_regex.is_empty() {
        regex("row", &filter.row_regex)?;
    }
    let sample = filter.row_sample_per_million;
    if sample.is_some_and(|n| n > 1_000_000) {
        return Err(invalid("row_sample_per_million is over 1,000,000"));
    }
    if filter.latest == Some(0) || filter.cells_per_row == Some(0) {
        return Err(invalid("a limit of zero asks for nothing").action("give at least 1, or leave the limit out"));
    }
    Ok(ReadFilter {
        families: (!families.is_empty()).then_some(families),
        qualifier: qualifier(filter.qualifier.as_ref())?,
        versions: versions(filter.versions.as_ref())?,
        latest: filter.latest,
        value: value(filter.value.as_ref())?,
        row_regex: (!filter.row_regex.is_empty()).then(|| filter.row_regex.clone()),
        row_sample_per_million: sample,
        cells_per_row: filter.cells_per_row,
        strip_values: filter.strip_values,
    })
}

fn qualifier(filter: Option<&v1::QualifierFilter>) -> Result<QualifierFilter> {
    use v1::qualifier_filter::Filter;
    Ok(match filter.and_then(|f| f.filter.as_ref()) {
        None => QualifierFilter::Any,
        Some(Filter::Exact(list)) => {
            let list = &list.qualifiers;
            at_most(
                "QUALIFIERS_TOO_MANY",
                "list of qualifiers",
                list.len(),
                limits::READ_RANGES_MAX,
            )?;
            if list.is_empty() {
                return Err(invalid("an empty list of qualifiers matches nothing"));
            }
            QualifierFilter::Exact(list.iter().map(qualifier_bytes).collect::<Result<_>>()?)
        }
        Some(Filter::Prefix(prefix)) => QualifierFilter::Prefix(qualifier_bytes(prefix)?),
        Some(Filter::Range(range)) => QualifierFilter::Range {
            start: qualifier_bytes(&range.start)?,
            end: range.end.as_ref().map(qualifier_bytes).transpose()?,
        },
        Some(Filter::Regex(source)) => QualifierFilter::Regex(regex("qualifier", source)?),
    })
}

fn qualifier_bytes(bytes: &Bytes) -> Result<Bytes> {
    at_most(
        "QUALIFIER_TOO_LARGE",
        "qualifier",
        bytes.len(),
        limits::QUALIFIER_BYTES_MAX,
    )?;
    Ok(bytes.clone())
}

fn value(filter: Option<&v1::ValueFilter>) -> Result<ValueFilter> {
    use v1::value_filter::Filter;
    Ok(match filter.and_then(|f| f.filter.as_ref()) {
        None => ValueFilter::Any,
        Some(Filter::Compare(compare)) => {
            at_most(
                "VALUE_TOO_LARGE",
                "operand",
                compare.operand.len(),
                limits::VALUE_BYTES_MAX,
            )?;
            ValueFilter::Compare(compare_op(compare.op)?, compare.operand.clone())
        }
        Some(Filter::Regex(source)) => ValueFilter::Regex(regex("value", source)?),
    })
}

fn compare_op(code: i32) -> Result<CompareOp> {
    use v1::compare::Op;
    let op = Op::try_from(code).map_err(|_| invalid(format!("comparison {code} is not known")))?;
    Ok(match op {
        Op::Equal => CompareOp::Equal,
        Op::NotEqual => CompareOp::NotEqual,
        Op::Less => CompareOp::Less,
        Op::LessOrEqual => CompareOp::LessOrEqual,
        Op::Greater => CompareOp::Greater,
        Op::GreaterOrEqual => CompareOp::GreaterOrEqual,
    })
}

/// Checks that the expression compiles as the storage compiles it: raw bytes, the whole string, `.` matches everything.
fn regex(what: &str, source: &str) -> Result<String> {
    at_most(
        "REGEX_TOO_LARGE",
        "regular expression",
        source.len(),
        limits::REGEX_BYTES_MAX,
    )?;
    // Alone as well: `a)|(b` would compile inside the brackets that anchor it, and mean something else.
    for form in [source.to_owned(), format!("^(?s-u:{source})$")] {
        RegexBuilder::new(&form)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(limits::REGEX_COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| {
                Error::invalid(
                    "REGEX_INVALID",
                    format!("the {what} regular expression does not compile: {error}"),
                )
                .object(format!("regular expression {source:?}"))
                .action("the syntax is that of the Rust regex crate, on raw bytes: \\xFF stands for a byte")
            })?;
    }
    Ok(source.to_owned())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("FILTER_INVALID", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_base::{FamilySettings, RegionId, VersionRange};

    fn schema() -> TableSchema {
        TableSchema {
            families: vec![FamilySettings::new("m", 0), FamilySettings::new("s", 0)],
            ..TableSchema::new(RegionId(1))
        }
    }

    fn check(f: v1::Filter) -> Result<ReadFilter> {
        filter(Some(&f), &schema(), "telemetry")
    }

    fn reason(f: v1::Filter) -> String {
        check(f).unwrap_err().reason().to_owned()
    }

    #[test]
    fn everything_comes_through() {
        use v1::{compare, qualifier_filter, value_filter};
        let wire = v1::Filter {
            families: vec!["s".into()],
            qualifier: Some(v1::QualifierFilter {
                filter: Some(qualifier_filter::Filter::Range(v1::QualifierRange {
                    start: "a".into(),
                    end: Some("b".into()),
                })),
            }),
            versions: Some(v1::VersionRange {
                from: Some(1),
                to: None,
            }),
            latest: Some(3),
            value: Some(v1::ValueFilter {
                filter: Some(value_filter::Filter::Compare(v1::Compare {
                    op: compare::Op::Less as i32,
                    operand: "x".into(),
                })),
            }),
            row_regex: "d.*".into(),
            row_sample_per_million: Some(5),
            cells_per_row: Some(9),
            strip_values: true,
        };
        let expected = ReadFilter {
            families: Some(vec![schema().families[1].id]),
            qualifier: QualifierFilter::Range {
                start: "a".into(),
                end: Some("b".into()),
            },
            versions: VersionRange { from: 1, to: i64::MAX },
            latest: Some(3),
            value: ValueFilter::Compare(CompareOp::Less, "x".into()),
            row_regex: Some("d.*".into()),
            row_sample_per_million: Some(5),
            cells_per_row: Some(9),
            strip_values: true,
        };
        assert_eq!(check(wire).unwrap(), expected);
        assert_eq!(filter(None, &schema(), "t").unwrap(), ReadFilter::default());
        assert_eq!(check(v1::Filter::default()).unwrap(), ReadFilter::default());
    }

    #[test]
    fn bad_filters_are_refused_with_their_reason() {
        let base = v1::Filter::default;
        let unknown = check(v1::Filter {
            families: vec!["zz".into()],
            ..base()
        })
        .unwrap_err();
        assert_eq!(unknown.reason(), "FAMILY_UNKNOWN");
        assert!(unknown.next_action().contains("tidemark table alter telemetry"));
        for (source, ok) in [
            ("a.*", true),
            ("a)|(b", false),
            ("(", false),
            (r"\xFF", true),
            (r"\pL{1000}{1000}", false),
        ] {
            let f = v1::Filter {
                row_regex: source.into(),
                ..base()
            };
            assert_eq!(check(f).is_ok(), ok, "{source}");
        }
        assert_eq!(
            reason(v1::Filter {
                row_regex: "a".repeat(limits::REGEX_BYTES_MAX + 1),
                ..base()
            }),
            "REGEX_TOO_LARGE"
        );
        assert_eq!(
            reason(v1::Filter {
                latest: Some(0),
                ..base()
            }),
            "FILTER_INVALID"
        );
        assert_eq!(
            reason(v1::Filter {
                row_sample_per_million: Some(1_000_001),
                ..base()
            }),
            "FILTER_INVALID"
        );
        assert_eq!(
            reason(v1::Filter {
                families: vec!["m".into(); limits::FAMILIES_MAX + 1],
                ..base()
            }),
            "FAMILIES_TOO_MANY"
        );
    }
}
