//! Before and after: the tables and links that clients need, and what must be there in the end.

use crate::run::{Control, Stage};
use crate::site::{NODES, REGIONS, Site, address};
use crate::workload::{FAMILY, LATER_FAMILY, SHARED, connect, own_table, rows};
use crate::{chance, time, workload};
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tidemark_base::fact::Fact;
use tidemark_checkers::history::{
    Action, Family as FamilyRecord, FinalState, Mutation, Operation, Outcome, Table as TableRecord, TableState,
};
use tidemark_client::{Client, ClientError, ErrorKind, Family, Peer, TableChange, TableSpec};
use tidemark_runtime::{Mark, mark};

/// Pause between two tries of what has to succeed some time.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows at which the shared table is cut: differently in each region, as tables are that were made apart.
const SPLITS: [&[&str]; 2] = [&["r-06"], &["r-04"]];

/// The tables, for the history.
pub fn tables() -> Vec<TableRecord> {
    let family = |name: &str| FamilyRecord {
        name: name.into(),
        ..FamilyRecord::default()
    };
    let families = vec![family(FAMILY)];
    let own = (0..REGIONS.len()).map(|region| TableRecord {
        name: own_table(region),
        regions: vec![REGIONS[region].to_owned()],
        families: families.clone(),
    });
    let shared = TableRecord {
        name: SHARED.into(),
        regions: REGIONS.map(str::to_owned).to_vec(),
        families: vec![family(FAMILY), family(LATER_FAMILY)],
    };
    own.chain([shared]).collect()
}

/// Makes tables and links, then lets clients begin.
pub async fn setup(control: Control) -> turmoil::Result {
    let clients = connect_all("setup").await;
    for (region, client) in clients.iter().enumerate() {
        let admin = client.admin();
        let other = 1 - region;
        let peer = Peer {
            name: REGIONS[other].to_owned(),
            region: other as u32 + 1,
            addresses: (1..=NODES).map(|node| address(other, node)).collect(),
        };
        until_done("peer add", || admin.add_peer(peer.clone())).await?;
        for (name, split_at) in [(own_table(region), &[][..]), (SHARED.to_owned(), SPLITS[region])] {
            let spec = TableSpec {
                split_at: split_at.iter().map(|row| row.as_bytes().to_vec()).collect(),
                if_not_exists: true,
                ..TableSpec::new(name, [Family::new(FAMILY)])
            };
            until_done("table create", || admin.create_table(spec.clone())).await?;
        }
    }
    let admin = clients[0].admin();
    until_done("replication enable", || admin.enable_replication(SHARED, REGIONS[1])).await?;
    control.enter(Stage::Begin);
    Ok(())
}

async fn connect_all(who: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for region in 0..REGIONS.len() {
        loop {
            if let Ok(client) = connect(who, region, Duration::from_secs(2)).await {
                clients.push(client);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    clients
}

/// Repeats what may fail while leaders are being elected. The driver bounds the whole.
async fn until_done<T, F>(what: &str, attempt: impl Fn() -> F) -> turmoil::Result
where
    F: Future<Output = Result<T, ClientError>>,
{
    loop {
        match attempt().await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::InvalidArgument => return Err(format!("{what}: {error}").into()),
            Err(error) => tracing::debug!(what, %error, "again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives the shared table a family in one region while faults come and go, writes to it there, and gives it to the other
/// region after the heal.
pub async fn change_schema(seed: u64, control: Control) -> turmoil::Result {
    control.reached(Stage::Begin).await;
    control.join();
    let mut rng = chance::stream(seed, "schema");
    let first = rng.random_range(0..REGIONS.len());
    tokio::time::sleep(Duration::from_millis(rng.random_range(200..3_000))).await;
    let clients = connect_all("schema").await;
    add_family(&clients[first]).await?;
    let table = clients[first].table(SHARED);
    let id = u64::MAX / 2;
    for n in 0..10 {
        let (row, value) = (format!("r-{n:02}"), format!("later-{n}"));
        let mutations = vec![Mutation::put(LATER_FAMILY, "q", 1, &value)];
        let action = Action::Write { mutations };
        let call = time::nanos();
        let (client, region) = (u64::MAX, REGIONS[first]);
        control
            .recorder
            .begin(Operation::begun(id + n, client, region, SHARED, &row, action, call));
        let answer = table.put(&row, LATER_FAMILY, "q", 1, &value).await;
        let outcome = match &answer {
            Ok(_) => Outcome::Ok,
            Err(error) if error.is_unknown_outcome() => Outcome::Unknown,
            Err(_) => Outcome::Fail,
        };
        let error = answer.err().map(|error| error.to_string());
        control.recorder.end(id + n, time::nanos(), outcome, None, error);
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..200))).await;
    }
    control.reached(Stage::Healed).await;
    add_family(&clients[1 - first]).await?;
    control.leave();
    Ok(())
}

/// Adds the family where it is missing. An answer may be lost, so what counts is what is there.
async fn add_family(client: &Client) -> turmoil::Result {
    let admin = client.admin();
    loop {
        if let Ok(table) = admin.get_table(SHARED).await
            && table.families.iter().any(|family| family.name == LATER_FAMILY)
        {
            return Ok(());
        }
        let change = TableChange {
            add_families: vec![Family::new(LATER_FAMILY)],
            ..TableChange::default()
        };
        if let Err(error) = admin.alter_table(SHARED, change).await {
            tracing::debug!(%error, "again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until the regions are equal, then takes down what each shows.
pub async fn audit(control: Control, sites: Vec<Arc<Site>>) -> turmoil::Result {
    while control.clients() > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    let clients = connect_all("audit").await;
    loop {
        let now = Some(time::wall_micros());
        let east = clients[0].table(SHARED).digest(Vec::new(), now).await;
        let west = clients[1].table(SHARED).digest(Vec::new(), now).await;
        match (east, west) {
            (Ok(east), Ok(west)) if east == west => break,
            (east, west) => tracing::debug!(?east, ?west, "not equal yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let mut finals = Vec::new();
    for (region, client) in clients.iter().enumerate() {
        let mut tables = Vec::new();
        for name in [own_table(region), workload::SHARED.to_owned()] {
            let table = client.table(&name);
            let shown = loop {
                match rows(&table).await {
                    Ok(shown) => break shown,
                    Err(error) => tracing::debug!(%error, "again"),
                }
                tokio::time::sleep(PAUSE).await;
            };
            tables.push(TableState {
                table: name,
                rows: shown,
                ..TableState::default()
            });
        }
        finals.push(FinalState {
            region: REGIONS[region].to_owned(),
            now_micros: time::wall_micros(),
            tables,
            links: Vec::new(),
        });
    }
    note_conflicts(&sites);
    control.trace.event("audit", format!("{finals:?}").as_bytes());
    control.finish(finals);
    control.enter(Stage::End);
    Ok(())
}

/// Marks the run if both regions wrote a coordinate.
fn note_conflicts(sites: &[Arc<Site>]) {
    for tablet in sites.iter().flat_map(|site| site.tablets()) {
        let Ok(facts) = tablet.engine().facts() else { continue };
        let mut last: Option<(Vec<u8>, u16)> = None;
        let mut cells: Vec<(Vec<u8>, u16)> = facts.iter().filter_map(coordinate).collect();
        cells.sort();
        for (coordinate, region) in cells {
            if last
                .as_ref()
                .is_some_and(|(same, other)| *same == coordinate && *other != region)
            {
                mark(Mark::ConflictSeen);
                return;
            }
            last = Some((coordinate, region));
        }
    }
}

fn coordinate(fact: &Fact) -> Option<(Vec<u8>, u16)> {
    match fact {
        Fact::Cell {
            row,
            qualifier,
            version,
            stamp,
            ..
        } => {
            let coordinate = [&row[..], b"/", &qualifier[..], &version.to_be_bytes()].concat();
            Some((coordinate, stamp.region.0))
        }
        Fact::Tombstone { .. } => None,
    }
}
