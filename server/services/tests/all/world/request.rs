//! Short forms of messages.

#![allow(dead_code)] // Each test file uses its part.

use tidemark_proto::v1;

/// A family with nothing set.
pub fn family(name: &str) -> v1::Family {
    v1::Family {
        name: name.into(),
        ..v1::Family::default()
    }
}

/// A table with family `m`, split at those rows.
pub fn create(name: &str, split_at: &[&str]) -> v1::CreateTableRequest {
    v1::CreateTableRequest {
        name: name.into(),
        families: vec![family("m")],
        split_at: split_at.iter().map(|row| (*row).to_owned().into()).collect(),
        max_future_ms: 0,
        if_not_exists: false,
    }
}

/// One put of one row.
pub fn put(row: &str, family: &str, qualifier: &str, version: i64, value: &str) -> v1::RowMutation {
    v1::RowMutation {
        row: row.to_owned().into(),
        mutations: vec![put_cell(family, qualifier, Some(version), value)],
        delete_range: None,
    }
}

/// A put without its row.
pub fn put_cell(family: &str, qualifier: &str, version: Option<i64>, value: &str) -> v1::Mutation {
    v1::Mutation {
        mutation: Some(v1::mutation::Mutation::Put(v1::Put {
            family: family.into(),
            qualifier: qualifier.to_owned().into(),
            version,
            value: value.to_owned().into(),
        })),
    }
}

/// The delete of a range of rows.
pub fn delete_range(start: &str, end: Option<&str>) -> v1::RowMutation {
    v1::RowMutation {
        delete_range: Some(v1::RangeDelete {
            range: Some(range(start, end)),
            versions: None,
        }),
        ..v1::RowMutation::default()
    }
}

/// A range of rows.
pub fn range(start: &str, end: Option<&str>) -> v1::RowRange {
    v1::RowRange {
        start: start.to_owned().into(),
        end: end.map(|end| end.to_owned().into()),
    }
}

/// Readable rows to write.
pub fn write(table: &str, rows: Vec<v1::RowMutation>) -> v1::WriteRequest {
    v1::WriteRequest {
        table: table.into(),
        rows,
        ..v1::WriteRequest::default()
    }
}

/// Everything of a table.
pub fn scan(table: &str) -> v1::ScanRequest {
    v1::ScanRequest {
        table: table.into(),
        ..v1::ScanRequest::default()
    }
}

/// Rows by key.
pub fn read(table: &str, rows: &[&str]) -> v1::ReadRequest {
    v1::ReadRequest {
        table: table.into(),
        rows: rows.iter().map(|row| (*row).to_owned().into()).collect(),
        ..v1::ReadRequest::default()
    }
}

/// `row=value` of each cell, in order.
pub fn shown(rows: &[v1::Row]) -> Vec<String> {
    let cell = |row: &v1::Row, cell: &v1::Cell| {
        format!(
            "{}={}",
            String::from_utf8_lossy(&row.key),
            String::from_utf8_lossy(&cell.value)
        )
    };
    rows.iter()
        .flat_map(|row| row.cells.iter().map(move |c| cell(row, c)))
        .collect()
}

/// Reads a scan to its end.
pub async fn drain(mut stream: tonic::Streaming<v1::ScanResponse>) -> Result<Vec<v1::ScanResponse>, tonic::Status> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

/// All rows of a scan's messages.
pub fn rows_of(messages: Vec<v1::ScanResponse>) -> Vec<v1::Row> {
    messages.into_iter().flat_map(|message| message.rows).collect()
}
