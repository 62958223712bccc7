//! `tidemark count`: rows and cells, without their values.

use crate::connect::Context;
use crate::failure::Result;
use crate::output::one;
use crate::select::Selection;
use clap::Args;

/// Count rows and cells
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark count telemetry
  tidemark count telemetry --prefix device- --since -1h")]
pub(crate) struct Count {
    /// The table
    table: String,
    #[command(flatten)]
    selection: Selection,
}

/// Runs it.
pub(crate) async fn run(count: Count, context: &Context) -> Result<()> {
    let request = count.selection.request()?;
    let table = context.table(&count.table).await?;
    let found = table.count(request).await?;
    one(
        context.form,
        &[("rows", found.rows.into()), ("cells", found.cells.into())],
    )
}
