//! What an operator does before and after a run: tables, peers, replication; waiting until both regions are equal.

use crate::load::{FAMILY, PULSE, PULSE_SPLITS, Patience, REGISTERS, TELEMETRY, TELEMETRY_SPLIT, connect};
use crate::plan::REGIONS;
use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use std::time::Duration;
use tidemark_checkers::history::{self, FinalState, SeenRow, TableState};
use tidemark_client::{Client, Digest, Family, Peer, Row, ScanRequest, TableSpec, now_micros};
use tidemark_harness::ready::wait_for;

/// Tables that both regions have.
pub const REPLICATED: [&str; 2] = [REGISTERS, TELEMETRY];

/// Links run within this after they were made.
const LINKED_MAX: Duration = Duration::from_secs(60);

/// One client a region, for an operator.
#[derive(Debug)]
pub struct Stage {
    clients: Vec<Client>,
}

impl Stage {
    /// Connects, introduces the regions to each other and makes the tables; returns when the links run.
    pub async fn set_up(addresses: &[Vec<String>]) -> Result<Stage> {
        let mut clients = Vec::new();
        for (region, of_region) in addresses.iter().enumerate() {
            clients.push(connect(region, of_region, Patience::Steady).await?);
        }
        let stage = Stage { clients };
        for (here, there) in [(0, 1), (1, 0)] {
            let peer = Peer {
                name: REGIONS[there].to_owned(),
                region: there as u32 + 1,
                addresses: addresses[there].clone(),
            };
            let added = stage.clients[here].admin().add_peer(peer).await;
            added.with_context(|| format!("peer add in {}", REGIONS[here]))?;
        }
        for (name, splits) in [(REGISTERS, vec![]), (TELEMETRY, vec![TELEMETRY_SPLIT])] {
            stage.create(0, name, &splits, Family::new(FAMILY)).await?;
            let admin = stage.clients[0].admin();
            admin
                .enable_replication(name, REGIONS[1])
                .await
                .context("replication enable")?;
        }
        for region in 0..REGIONS.len() {
            let newest = Family {
                max_versions: Some(1),
                ..Family::new(FAMILY)
            };
            stage.create(region, PULSE, &PULSE_SPLITS, newest).await?;
        }
        wait_for("both links to run", LINKED_MAX, || stage.at_rest()).await?;
        Ok(stage)
    }

    async fn create(&self, region: usize, name: &str, splits: &[&str], family: Family) -> Result<()> {
        let spec = TableSpec {
            split_at: splits.iter().map(|s| s.as_bytes().to_vec()).collect(),
            // So that a lost answer can be asked again.
            if_not_exists: true,
            ..TableSpec::new(name, [family])
        };
        let created = self.clients[region].admin().create_table(spec).await;
        created.with_context(|| format!("table create {name} in {}", REGIONS[region]))?;
        Ok(())
    }

    /// `Some` if nothing is under way between the regions.
    async fn at_rest(&self) -> Result<Option<()>> {
        for (client, name) in self.clients.iter().zip(REGIONS) {
            let links = client.admin().replication_status(None, false).await?;
            ensure!(links.len() == REPLICATED.len(), "{name} has {} links", links.len());
            for link in links {
                ensure!(
                    link.lag_ms == 0 && link.state == "STREAMING" && link.rows_quarantined == 0,
                    "{name}'s {} is {} {}: lag {} ms, {} rows in quarantine",
                    link.table,
                    link.state,
                    link.cause,
                    link.lag_ms,
                    link.rows_quarantined
                );
            }
        }
        Ok(Some(()))
    }

    /// Waits until nothing is under way and both regions say that they have the same content (O14).
    pub async fn converge(&self, limit: Duration) -> Result<()> {
        wait_for("both regions to be equal", limit, || async {
            self.at_rest().await?;
            for table in REPLICATED {
                let [east, west] = self.digests(table, now_micros()).await?;
                ensure!(
                    east == west,
                    "digests of {table} differ: east {} rows {} cells, west {} rows {} cells",
                    east.rows,
                    east.cells,
                    west.rows,
                    west.cells
                );
            }
            Ok(Some(()))
        })
        .await
    }

    async fn digests(&self, table: &str, now_micros: i64) -> Result<[Digest; 2]> {
        let [east, west] = [0, 1].map(|region| self.clients[region].table(table));
        let (east, west) = tokio::join!(
            east.digest(Vec::new(), Some(now_micros)),
            west.digest(Vec::new(), Some(now_micros))
        );
        Ok([east?, west?])
    }

    /// Everything that each region shows.
    pub async fn final_states(&self) -> Result<Vec<FinalState>> {
        let now_micros = now_micros();
        let mut states: Vec<FinalState> = REGIONS
            .iter()
            .map(|region| FinalState {
                region: (*region).to_owned(),
                now_micros,
                ..FinalState::default()
            })
            .collect();
        for table in REPLICATED {
            let digests = self.digests(table, now_micros).await?;
            for ((state, client), digest) in states.iter_mut().zip(&self.clients).zip(digests) {
                let scanned = client
                    .table(table)
                    .scan(ScanRequest::all())
                    .try_collect::<Vec<Row>>()
                    .await;
                let rows = scanned.with_context(|| format!("the scan of {table} in {} broke off", state.region))?;
                state.tables.push(TableState {
                    table: table.to_owned(),
                    rows: rows.iter().map(seen).collect(),
                    content_hash: Some(hex(&digest.content_hash)),
                    stamps_hash: Some(hex(&digest.stamps_hash)),
                });
            }
        }
        Ok(states)
    }

    /// The tables as the history names them.
    pub fn tables() -> Vec<history::Table> {
        let table = |name: &&str| history::Table {
            name: (*name).to_owned(),
            regions: REGIONS.map(str::to_owned).to_vec(),
            families: vec![history::Family {
                name: FAMILY.to_owned(),
                ..history::Family::default()
            }],
        };
        REPLICATED.iter().map(table).collect()
    }
}

fn seen(row: &Row) -> SeenRow {
    SeenRow {
        row: (&row.key).into(),
        cells: crate::load::cells(row),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
