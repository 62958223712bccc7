//! The table that is measured.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::time::{Duration, Instant};
use tidemark_client::{Client, ErrorKind, Family, Table, TableSpec};

/// The family that everything is written to.
pub const FAMILY: &str = "m";
/// How long tablets may take to have their leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(30);

/// How a family's cells lie on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One record a cell
    #[default]
    Cells,
    /// The cells of a tick in one record, ticks of an hour in one block
    Series,
}

impl Layout {
    /// The name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Cells => "cells",
            Layout::Series => "series",
        }
    }
}

/// The one place where a layout becomes a family's setting.
fn family(layout: Layout) -> Family {
    let layout = match layout {
        Layout::Cells => tidemark_client::Layout::Cells,
        Layout::Series => tidemark_client::Layout::Series { block: None },
    };
    Family {
        layout: Some(layout),
        ..Family::new(FAMILY)
    }
}

/// Makes the table, empty if `fresh`, and waits until each of its tablets has a leader. One that exists stays as it is,
/// whatever its layout and tablets.
pub async fn create(client: &Client, name: &str, layout: Layout, split_at: Vec<Vec<u8>>, fresh: bool) -> Result<Table> {
    let admin = client.admin();
    if fresh {
        match admin.drop_table(name).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let spec = TableSpec {
        split_at,
        if_not_exists: true,
        ..TableSpec::new(name, [family(layout)])
    };
    admin.create_table(spec).await?;
    wait_for_leaders(client, name).await?;
    Ok(client.table(name))
}

/// The table, which must have been loaded before.
pub async fn existing(client: &Client, name: &str) -> Result<Table> {
    client.admin().get_table(name).await?;
    Ok(client.table(name))
}

async fn wait_for_leaders(client: &Client, name: &str) -> Result<()> {
    let deadline = Instant::now() + LEADERS_WITHIN;
    loop {
        let status = client.admin().cluster_status(true).await?;
        let mut own = status.tablets.iter().filter(|t| t.table == name).peekable();
        if own.peek().is_some() && own.all(|t| t.leader != 0) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "not every tablet of {name} has a leader after {LEADERS_WITHIN:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Bytes on the disks of the tablets' leaders: one copy of the table.
pub async fn disk_bytes(client: &Client, name: &str) -> Result<u64> {
    let status = client.admin().cluster_status(true).await?;
    let own = status.tablets.iter().filter(|t| t.table == name);
    Ok(own.map(|t| t.disk_bytes).sum())
}
