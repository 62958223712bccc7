//! `tidemark export`: a table's cells as CSV or JSON lines, in the form that `import` reads.

use super::scan::{COLUMNS, push_row};
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::{Form, Printer};
use crate::select::Selection;
use crate::text::escape;
use crate::times::show;
use clap::Args;
use futures::TryStreamExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;
use tidemark_client::{Filter, Row, ScanRequest, Table};

/// Columns of a wide file.
const WIDE_COLUMNS_MAX: usize = 4_096;

/// Export cells as CSV or JSON lines
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  tidemark export telemetry > telemetry.csv
  tidemark export telemetry --prefix device- --since -1d --output jsonl --to device.jsonl
  tidemark export telemetry --wide --column m:temperature --column m:humidity",
    after_help = "\
By default one record a cell (row,family,qualifier,version,value), which import reads back as it was. With --wide one
record a row and version, with a column for each column of the table; the table is then read twice."
)]
pub(crate) struct Export {
    /// The table
    table: String,
    #[command(flatten)]
    selection: Selection,
    /// One record a row and version
    #[arg(long)]
    wide: bool,
    /// Write to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(export: Export, context: &Context) -> Result<()> {
    let form = context.global.output.unwrap_or(Form::Csv);
    let request = export.selection.request()?;
    let table = context.table(&export.table).await?;
    let out: Box<dyn Write> = match &export.to {
        Some(path) => Box::new(File::create(path).map_err(|e| Failure::from(e).doing(&path.display().to_string()))?),
        None => Box::new(stdout()),
    };
    let out = BufWriter::new(out);
    let rows = if export.wide {
        wide(&table, request, export.selection.cells.filter()?, form, out).await?
    } else {
        let columns = COLUMNS.map(str::to_owned).to_vec();
        cells(&table, request, Printer::new(form, columns, out)?).await?
    };
    context.say(&format!("{rows} rows"));
    Ok(())
}

async fn cells<W: Write>(table: &Table, request: ScanRequest, mut printer: Printer<W>) -> Result<u64> {
    let mut scan = table.scan(request);
    let mut rows = 0;
    while let Some(row) = scan.try_next().await? {
        push_row(&mut printer, &row)?;
        rows += 1;
    }
    printer.finish()?;
    Ok(rows)
}

async fn wide<W: Write>(table: &Table, request: ScanRequest, filter: Filter, form: Form, out: W) -> Result<u64> {
    let mut columns: BTreeSet<String> = BTreeSet::new();
    let mut scan = table.scan(request.clone().filter(filter.strip_values()));
    while let Some(row) = scan.try_next().await? {
        for cell in &row.cells {
            columns.insert(column(cell));
        }
        if columns.len() > WIDE_COLUMNS_MAX {
            let what = format!(
                "{} has more than {WIDE_COLUMNS_MAX} columns, too many for one wide file",
                table.name()
            );
            return Err(Failure::usage(what).next("choose some with --column, or leave --wide away"));
        }
    }
    let header = ["row".to_owned(), "version".to_owned()]
        .into_iter()
        .chain(columns.iter().cloned());
    let mut printer = Printer::new(form, header.collect(), out)?;
    let mut scan = table.scan(request);
    let mut rows = 0;
    while let Some(row) = scan.try_next().await? {
        for record in wide_records(&row, &columns) {
            printer.push(record)?;
        }
        rows += 1;
    }
    printer.finish()?;
    Ok(rows)
}

fn column(cell: &tidemark_client::Cell) -> String {
    format!("{}:{}", cell.family, escape(&cell.qualifier))
}

/// One record a version, ascending. A column that came into being between the two readings of the table is left out.
fn wide_records(row: &Row, columns: &BTreeSet<String>) -> Vec<Vec<Value>> {
    let key = escape(&row.key);
    let mut versions: BTreeMap<i64, BTreeMap<String, String>> = BTreeMap::new();
    for cell in &row.cells {
        versions
            .entry(cell.version)
            .or_default()
            .insert(column(cell), escape(&cell.value));
    }
    let record = |(version, cells): (i64, BTreeMap<String, String>)| {
        let fields = columns
            .iter()
            .map(|c| cells.get(c).map_or(Value::Null, |v| v.as_str().into()));
        [key.as_str().into(), show(version).into()]
            .into_iter()
            .chain(fields)
            .collect()
    };
    versions.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_client::Cell;

    #[test]
    fn wide_records_are_by_version() {
        let cell = |qualifier: &'static str, version, value: &'static str| Cell {
            family: "m".into(),
            qualifier: qualifier.into(),
            version,
            value: value.into(),
        };
        let row = Row {
            key: "r".into(),
            cells: vec![
                cell("a", 2_000_000, "1"),
                cell("a", 1_000_000, "2"),
                cell("b", 2_000_000, "3"),
            ],
        };
        let columns = BTreeSet::from(["m:a".to_owned(), "m:b".to_owned()]);
        let expected = [
            ["r".into(), "1970-01-01T00:00:01Z".into(), "2".into(), Value::Null],
            ["r".into(), "1970-01-01T00:00:02Z".into(), "1".into(), "3".into()],
        ];
        assert_eq!(wide_records(&row, &columns), expected);
    }
}
