//! Everything that a region shows, cell by cell.

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use tidemark_client::{ScanRequest, Table};
use tidemark_harness::oracle::Coordinate;

/// All cells of a table, in the order of the scan.
pub async fn cells(table: &Table) -> Result<Vec<(Coordinate, Bytes)>> {
    scanned(table, ScanRequest::all()).await
}

/// All cells of a scan, in its order.
pub async fn scanned(table: &Table, request: ScanRequest) -> Result<Vec<(Coordinate, Bytes)>> {
    let mut out = Vec::new();
    let mut rows = std::pin::pin!(table.scan(request));
    while let Some(row) = rows.next().await {
        let row = row?;
        let cells = row.cells.into_iter();
        out.extend(cells.map(|c| ((row.key.clone(), c.family.to_string(), c.qualifier, c.version), c.value)));
    }
    Ok(out)
}

/// All cells of a table, for comparing.
pub async fn map(table: &Table) -> Result<BTreeMap<Coordinate, Bytes>> {
    Ok(cells(table).await?.into_iter().collect())
}
