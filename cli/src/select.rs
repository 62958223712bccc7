//! Which rows and cells: the flags that scan, count and export share.

use crate::failure::{Failure, Result};
use crate::text::{column, unescape};
use crate::times::moment;
use clap::Args;
use tidemark_client::{CompareOp, Filter, RowRange, ScanRequest, VersionRange, now_micros};

/// Flags that choose rows and cells.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct Selection {
    /// Rows that begin with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: Option<String>,
    /// First row
    #[arg(long)]
    pub(crate) start: Option<String>,
    /// First row not included
    #[arg(long)]
    pub(crate) end: Option<String>,
    /// Rows whose key matches as a whole
    #[arg(long, value_name = "REGEX")]
    pub(crate) row_regex: Option<String>,
    #[command(flatten)]
    pub(crate) cells: CellSelection,
    /// At most so many rows
    #[arg(long, value_name = "ROWS")]
    pub(crate) limit: Option<u64>,
    /// In descending order of keys
    #[arg(long)]
    pub(crate) reverse: bool,
}

/// Flags that choose cells of rows.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection")]
pub(crate) struct CellSelection {
    /// Only this family, or this column (FAMILY:QUALIFIER); repeatable
    #[arg(long = "column", alias = "family", value_name = "FAMILY[:QUALIFIER]")]
    pub(crate) columns: Vec<String>,
    /// Only qualifiers that begin with this
    #[arg(long, value_name = "PREFIX", conflicts_with = "qualifier_regex")]
    pub(crate) qualifier_prefix: Option<String>,
    /// Only qualifiers that match as a whole
    #[arg(long, value_name = "REGEX")]
    pub(crate) qualifier_regex: Option<String>,
    /// Only versions from this time on
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Only versions up to and including this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// Only the newest N versions of each column
    #[arg(long, value_name = "N")]
    pub(crate) latest: Option<u32>,
    /// Only values that compare so, byte by byte: '=x' '!=x' '<x' '<=x' '>x' '>=x'
    #[arg(
        long,
        value_name = "OP VALUE",
        conflicts_with = "value_regex",
        allow_hyphen_values = true
    )]
    pub(crate) value: Option<String>,
    /// Only values that match as a whole
    #[arg(long, value_name = "REGEX")]
    pub(crate) value_regex: Option<String>,
}

impl Selection {
    /// The scan that was asked for.
    pub(crate) fn request(&self) -> Result<ScanRequest> {
        let mut filter = self.cells.filter()?;
        if let Some(regex) = &self.row_regex {
            filter = filter.row_regex(regex);
        }
        let request = ScanRequest::range(self.range()?);
        Ok(request
            .filter(filter)
            .limit(self.limit.unwrap_or(0))
            .reverse(self.reverse))
    }

    /// The rows that were asked for.
    pub(crate) fn range(&self) -> Result<RowRange> {
        if let Some(prefix) = &self.prefix {
            return Ok(RowRange::prefix(&unescape(prefix)?));
        }
        let start = self.start.as_deref().map(unescape).transpose()?.unwrap_or_default();
        let end = self.end.as_deref().map(unescape).transpose()?;
        let range = RowRange {
            start: start.into(),
            end: end.map(Into::into),
        };
        if range.is_empty() {
            return Err(Failure::usage(
                "--end is not after --start, so that no row lies between them",
            ));
        }
        Ok(range)
    }

    /// True if the rows are restricted.
    pub(crate) fn names_rows(&self) -> bool {
        self.prefix.is_some() || self.start.is_some() || self.end.is_some()
    }
}

impl CellSelection {
    /// The filter that was asked for.
    pub(crate) fn filter(&self) -> Result<Filter> {
        let mut filter = self.columns_filter()?;
        if let Some(prefix) = &self.qualifier_prefix {
            filter = filter.qualifier_prefix(unescape(prefix)?);
        }
        if let Some(regex) = &self.qualifier_regex {
            filter = filter.qualifier_regex(regex);
        }
        filter = filter.versions(self.versions()?);
        if let Some(latest) = self.latest {
            filter = filter.latest(latest);
        }
        if let Some(compare) = &self.value {
            let (op, operand) = comparison(compare)?;
            filter = filter.value(op, operand);
        }
        if let Some(regex) = &self.value_regex {
            filter = filter.value_regex(regex);
        }
        Ok(filter)
    }

    /// Families and exact qualifiers. The server filters families and qualifiers apart from each other, so that columns
    /// of several families must agree in their qualifiers.
    fn columns_filter(&self) -> Result<Filter> {
        let mut families: Vec<String> = Vec::new();
        let mut qualifiers: Vec<Vec<u8>> = Vec::new();
        let mut whole = false;
        for text in &self.columns {
            let (family, qualifier) = column(text)?;
            if !families.contains(&family) {
                families.push(family);
            }
            match qualifier {
                Some(qualifier) => qualifiers.push(qualifier),
                None => whole = true,
            }
        }
        if qualifiers.is_empty() {
            return Ok(Filter::new().families(families));
        }
        if families.len() > 1 || whole {
            return Err(
                Failure::usage("--column FAMILY:QUALIFIER can be repeated within one family only")
                    .next("ask for the families one after the other"),
            );
        }
        if self.qualifier_prefix.is_some() || self.qualifier_regex.is_some() {
            return Err(Failure::usage(
                "--column FAMILY:QUALIFIER goes with no other choice of qualifiers",
            ));
        }
        Ok(Filter::new().families(families).qualifiers(qualifiers))
    }

    /// The versions that were asked for.
    pub(crate) fn versions(&self) -> Result<VersionRange> {
        let now = now_micros();
        let at = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
        let versions = VersionRange {
            from: at(&self.since)?.unwrap_or(i64::MIN),
            to: at(&self.until)?.unwrap_or(i64::MAX),
        };
        if versions.from > versions.to {
            return Err(Failure::usage(
                "--until is before --since, so that no version lies between them",
            ));
        }
        Ok(versions)
    }
}

fn comparison(text: &str) -> Result<(CompareOp, Vec<u8>)> {
    let ops = [
        ("!=", CompareOp::NotEqual),
        ("<=", CompareOp::LessOrEqual),
        (">=", CompareOp::GreaterOrEqual),
        ("=", CompareOp::Equal),
        ("<", CompareOp::Less),
        (">", CompareOp::Greater),
    ];
    for (sign, op) in ops {
        if let Some(operand) = text.strip_prefix(sign) {
            return Ok((op, unescape(operand)?));
        }
    }
    Err(
        Failure::usage(format!("--value {text:?} begins with none of = != < <= > >="))
            .next("for example: --value '>=20'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons() {
        assert_eq!(comparison("<=20").unwrap(), (CompareOp::LessOrEqual, b"20".to_vec()));
        assert_eq!(comparison("=").unwrap(), (CompareOp::Equal, Vec::new()));
        assert_eq!(comparison("!=\\x00").unwrap(), (CompareOp::NotEqual, vec![0]));
        assert!(comparison("20").is_err());
    }

    #[test]
    fn empty_selections_are_refused_before_they_are_sent() {
        let rows = Selection {
            start: Some("b".into()),
            end: Some("a".into()),
            ..Selection::default()
        };
        assert!(rows.request().is_err());
        let versions = CellSelection {
            since: Some("now".into()),
            until: Some("-1h".into()),
            ..CellSelection::default()
        };
        assert!(versions.filter().is_err());
        let columns = CellSelection {
            columns: vec!["m:a".into(), "n:b".into()],
            ..CellSelection::default()
        };
        assert!(columns.filter().is_err());
    }
}
