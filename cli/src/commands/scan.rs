//! `tidemark scan`: rows in key order.

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::Printer;
use crate::select::Selection;
use crate::text::escape;
use crate::times::show;
use clap::Args;
use futures::TryStreamExt;
use std::io::Write;
use tidemark_client::Row;

/// Columns of answers that list cells; `export` writes and `import` reads the same.
pub(crate) const COLUMNS: [&str; 5] = ["row", "family", "qualifier", "version", "value"];

/// List cells, row by row
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark scan telemetry --prefix device- --since -15m --latest 1
  tidemark scan telemetry --start device-100 --end device-200 --column m:temperature
  tidemark scan telemetry --reverse --limit 10 --output json")]
pub(crate) struct Scan {
    /// The table
    table: String,
    #[command(flatten)]
    selection: Selection,
}

/// Runs it.
pub(crate) async fn run(scan: Scan, context: &Context) -> Result<()> {
    let request = scan.selection.request()?;
    let table = context.table(&scan.table).await?;
    let mut printer = Printer::stdout(context.form, &COLUMNS)?;
    let mut rows = table.scan(request);
    let (mut count, mut failed) = (0u64, None);
    loop {
        match rows.try_next().await {
            Ok(Some(row)) => push_row(&mut printer, &row)?,
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        count += 1;
    }
    // What was found stays valid, and says how far the scan came.
    printer.finish()?;
    context.say(&format!("{count} rows"));
    match failed {
        Some(error) => Err(Failure::from(error).doing(&format!("scan of {} after {count} rows", scan.table))),
        None => Ok(()),
    }
}

/// One record a cell.
pub(crate) fn push_row<W: Write>(printer: &mut Printer<W>, row: &Row) -> Result<()> {
    let key = escape(&row.key);
    for cell in &row.cells {
        printer.push(vec![
            key.clone().into(),
            (*cell.family).into(),
            escape(&cell.qualifier).into(),
            show(cell.version).into(),
            escape(&cell.value).into(),
        ])?;
    }
    Ok(())
}
