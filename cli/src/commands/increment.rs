//! `tidemark increment`: counters.

use super::scan::{COLUMNS, push_row};
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output::one;
use crate::text::{column, escape, unescape};
use clap::Args;
use tidemark_client::Rule;

/// Add to a counter (a 64-bit big-endian integer) and show it
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark increment telemetry device-17 meta:restarts
  tidemark increment telemetry device-17 meta:credit -5")]
pub(crate) struct Increment {
    /// The table
    table: String,
    /// The row
    row: String,
    /// The column
    #[arg(value_name = "FAMILY:QUALIFIER")]
    column: String,
    /// What to add
    #[arg(default_value_t = 1, allow_hyphen_values = true)]
    by: i64,
}

/// Runs it.
pub(crate) async fn run(increment: Increment, context: &Context) -> Result<()> {
    let (family, Some(qualifier)) = column(&increment.column)? else {
        return Err(Failure::usage(format!(
            "{:?} is not FAMILY:QUALIFIER",
            increment.column
        )));
    };
    let rule = Rule::Increment {
        family,
        qualifier: qualifier.into(),
        by: increment.by,
    };
    let table = context.table(&increment.table).await?;
    let row = table.read_modify_write(unescape(&increment.row)?, vec![rule]).await?;
    match row.cells.first().map(|cell| <[u8; 8]>::try_from(&cell.value[..])) {
        Some(Ok(bytes)) => one(
            context.form,
            &[
                ("row", escape(&row.key).into()),
                ("column", increment.column.into()),
                ("value", i64::from_be_bytes(bytes).into()),
            ],
        ),
        _ => {
            let mut printer = crate::output::Printer::stdout(context.form, &COLUMNS)?;
            push_row(&mut printer, &row)?;
            printer.finish()
        }
    }
}
