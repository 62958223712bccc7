//! `tidemark get`: one row.

use super::scan::{COLUMNS, push_row};
use crate::connect::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::Printer;
use crate::select::CellSelection;
use crate::text::unescape;
use clap::Args;
use std::io::Write;

/// Show a row
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark get telemetry device-17
  tidemark get telemetry device-17 --column m:temperature --latest 1
  tidemark get telemetry device-17 --column m:image --latest 1 --raw > image.png")]
pub(crate) struct Get {
    /// The table
    table: String,
    /// The row
    row: String,
    #[command(flatten)]
    cells: CellSelection,
    /// Print the values' bytes and nothing else
    #[arg(long)]
    raw: bool,
}

/// Runs it.
pub(crate) async fn run(get: Get, context: &Context) -> Result<()> {
    let filter = get.cells.filter()?;
    let key = unescape(&get.row)?;
    let table = context.table(&get.table).await?;
    let row = table.get_filtered(key, filter).await?.ok_or_else(|| {
        Failure::new(
            Code::Refused,
            format!("row {} of {} has no cell that matches", get.row, get.table),
        )
        .next(format!("tidemark scan {} --limit 10", get.table))
    })?;
    if get.raw {
        let mut out = std::io::stdout().lock();
        for cell in &row.cells {
            out.write_all(&cell.value)?;
        }
        out.flush()?;
        return Ok(());
    }
    let mut printer = Printer::stdout(context.form, &COLUMNS)?;
    push_row(&mut printer, &row)?;
    printer.finish()
}
