//! `tidemark digest`: is the content of two regions equal?

use crate::connect::Context;
use crate::failure::Result;
use crate::output::one;
use crate::times::moment;
use clap::Args;
use std::fmt::Write;
use tidemark_client::now_micros;

/// Hash a table's visible cells: equal hashes, equal content
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  tidemark digest telemetry --now 2026-01-01T00:00:00Z --address 127.0.0.1:7311
  tidemark digest telemetry --now 2026-01-01T00:00:00Z --address 127.0.0.1:8311")]
pub(crate) struct Digest {
    /// The table
    table: String,
    /// The moment that decides what has expired; give the same to both regions [default: the server's now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    now: Option<String>,
}

/// Runs it.
pub(crate) async fn run(digest: Digest, context: &Context) -> Result<()> {
    let now = digest
        .now
        .as_deref()
        .map(|text| moment(text, now_micros()))
        .transpose()?;
    let table = context.table(&digest.table).await?;
    let found = table.digest(Vec::new(), now).await?;
    let fields = [
        ("table", digest.table.into()),
        ("rows", found.rows.into()),
        ("cells", found.cells.into()),
        ("content_hash", hex(&found.content_hash).into()),
        ("stamps_hash", hex(&found.stamps_hash).into()),
    ];
    one(context.form, &fields)
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a string cannot fail");
    }
    out
}
