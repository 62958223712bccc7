//! Before and after: the tables and links that clients need, and what must be there in the end.

use crate::control::{Control, Stage};
use crate::site::{NODES, REGIONS, Site, address, pairs};
use crate::workload::{FAMILY, LATER_FAMILY, SHARED, connect, own_table, rows};
use crate::{chance, time};
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::history::{
    Action, Family as FamilyRecord, FinalState, LinkCount, Mutation, Operation, Outcome, SeenRow, Table as TableRecord,
    TableState,
};
use tidemark_client::{Client, ClientError, Digest, ErrorKind, Family, Peer, TableChange, TableSpec};
use tidemark_tablet::{ReplicationState, Tablet};

/// Pause between two tries of what has to succeed some time.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows at which the shared table is cut: differently in each region, as tables are that were made apart.
const SPLITS: [&[&str]; 3] = [&["r-06"], &["r-04"], &["gone", "r-08"]];
/// Tries after which links that do not count alike, or regions that differ although they do, are a finding.
const COUNT_TRIES: u64 = 50;

/// The tables, for the history.
pub fn tables(regions: usize) -> Vec<TableRecord> {
    let family = |name: &str| FamilyRecord {
        name: name.into(),
        ..FamilyRecord::default()
    };
    let families = vec![family(FAMILY)];
    let own = (0..regions).map(|region| TableRecord {
        name: own_table(region),
        regions: vec![REGIONS[region].to_owned()],
        families: families.clone(),
    });
    let shared = TableRecord {
        name: SHARED.into(),
        regions: REGIONS[..regions].iter().map(|name| (*name).to_owned()).collect(),
        families: vec![family(FAMILY), family(LATER_FAMILY)],
    };
    own.chain([shared]).collect()
}

/// Makes tables and links, then lets clients begin.
pub async fn setup(regions: usize, control: Control) -> turmoil::Result {
    let clients = connect_all("setup", regions).await;
    for (region, client) in clients.iter().enumerate() {
        let admin = client.admin();
        for other in (0..regions).filter(|other| *other != region) {
            let peer = Peer {
                name: REGIONS[other].to_owned(),
                region: other as u32 + 1,
                addresses: (1..=NODES).map(|node| address(other, node)).collect(),
            };
            until_done("peer add", || admin.add_peer(peer.clone())).await?;
        }
        for (name, split_at) in [(own_table(region), &[][..]), (SHARED.to_owned(), SPLITS[region])] {
            let spec = TableSpec {
                split_at: split_at.iter().map(|row| row.as_bytes().to_vec()).collect(),
                if_not_exists: true,
                ..TableSpec::new(name, [Family::new(FAMILY)])
            };
            until_done("table create", || admin.create_table(spec.clone())).await?;
        }
    }
    for (here, there) in pairs(regions) {
        let admin = clients[here].admin();
        until_done("replication enable", || {
            admin.enable_replication(SHARED, REGIONS[there])
        })
        .await?;
    }
    control.enter(Stage::Begin);
    Ok(())
}

async fn connect_all(who: &str, regions: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for region in 0..regions {
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
/// regions after the heal.
pub async fn change_schema(seed: u64, regions: usize, control: Control) -> turmoil::Result {
    control.reached(Stage::Begin).await;
    control.join();
    let mut rng = chance::stream(seed, "schema");
    let first = rng.random_range(0..regions);
    tokio::time::sleep(Duration::from_millis(rng.random_range(200..3_000))).await;
    let clients = connect_all("schema", regions).await;
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
    for (_, client) in clients.iter().enumerate().filter(|(region, _)| *region != first) {
        add_family(client).await?;
    }
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
pub async fn audit(regions: usize, control: Control, sites: Vec<Arc<Site>>) -> turmoil::Result {
    while control.clients() > 0 {
        control.awaits(format!("{} clients have not ended", control.clients()));
        tokio::time::sleep(PAUSE).await;
    }
    let clients = connect_all("audit", regions).await;
    let digests = settle(&clients, &control, &sites).await;
    let mut finals = Vec::new();
    for ((region, client), digest) in clients.iter().enumerate().zip(digests) {
        let mut tables = Vec::new();
        for name in [own_table(region), SHARED.to_owned()] {
            control.awaits(format!("{} does not answer a scan of {name}", REGIONS[region]));
            let digest = (name == SHARED).then_some(&digest);
            tables.push(TableState {
                rows: shown(client, &name).await,
                table: name,
                content_hash: digest.map(|digest| format!("{:032x}", u128::from_be_bytes(digest.content_hash))),
                stamps_hash: digest.map(|digest| format!("{:032x}", u128::from_be_bytes(digest.stamps_hash))),
            });
        }
        finals.push(FinalState {
            region: REGIONS[region].to_owned(),
            now_micros: time::wall_micros(),
            tables,
            links: Vec::new(),
        });
    }
    count_links(&mut finals, &sites).await;
    control.trace.event("audit", format!("{finals:?}").as_bytes());
    control.finish(finals);
    control.enter(Stage::End);
    Ok(())
}

/// Returns each region's digest when they are equal; or when everything that was made has been applied everywhere for a
/// while, and they still are not: then they never will be, which the checkers say in their own words.
async fn settle(clients: &[Client], control: &Control, sites: &[Arc<Site>]) -> Vec<Digest> {
    let mut applied = 0;
    loop {
        if let Some(digests) = digests(clients, control).await {
            if digests.windows(2).all(|pair| pair[0] == pair[1]) || applied >= COUNT_TRIES {
                return digests;
            }
            let counted = (0..clients.len()).flat_map(|region| links(region, sites));
            let waiting = counted.filter(|link| link.applied != link.originated).count();
            control.awaits(format!(
                "digests differ, and {waiting} links have not applied what was made"
            ));
            applied = if waiting == 0 { applied + 1 } else { 0 };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// None while a region does not answer.
async fn digests(clients: &[Client], control: &Control) -> Option<Vec<Digest>> {
    let now = Some(time::wall_micros());
    let mut digests = Vec::new();
    for (region, client) in clients.iter().enumerate() {
        match client.table(SHARED).digest(Vec::new(), now).await {
            Ok(digest) => digests.push(digest),
            Err(error) => {
                control.awaits(format!("{} does not answer a digest: {error}", REGIONS[region]));
                return None;
            }
        }
    }
    Some(digests)
}

async fn shown(client: &Client, table: &str) -> Vec<SeenRow> {
    loop {
        match rows(&client.table(table)).await {
            Ok(shown) => return shown,
            Err(error) => tracing::debug!(%error, "again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes down what crossed each link (O13). Equal digests do not say that every node has applied what came last, and what
/// a client gave up may still arrive: so the counts are given time.
async fn count_links(finals: &mut [FinalState], sites: &[Arc<Site>]) {
    for _ in 0..COUNT_TRIES {
        for (region, state) in finals.iter_mut().enumerate() {
            state.links = links(region, sites);
        }
        let mut all = finals.iter().flat_map(|state| &state.links);
        if all.all(|link| link.applied == link.originated) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The incoming links of a region.
fn links(region: usize, sites: &[Arc<Site>]) -> Vec<LinkCount> {
    let regions = sites.iter().map(|site| site.region + 1).max().unwrap_or(0);
    let here = states(region, sites);
    let origins = (0..regions).filter(|origin| *origin != region);
    let count = |origin: usize| LinkCount {
        table: SHARED.to_owned(),
        origin: REGIONS[origin].to_owned(),
        peer: REGIONS[region].to_owned(),
        originated: states(origin, sites)
            .iter()
            .map(|state| state.facts.saturating_sub(remote(state, None)))
            .sum(),
        applied: here.iter().map(|state| remote(state, Some(origin))).sum(),
        foreign: 0,
    };
    origins.map(count).collect()
}

/// Rows that a tablet has applied from that region, or from all of its peers.
fn remote(state: &ReplicationState, origin: Option<usize>) -> u64 {
    let streams = state.streams.iter();
    let of_origin = streams.filter(|(stream, _)| origin.is_none_or(|origin| stream.region.0 == origin as u16 + 1));
    of_origin.map(|(_, at)| at.rows_applied).sum()
}

/// The replicated tablets of a region: of each the replica that has applied most.
fn states(region: usize, sites: &[Arc<Site>]) -> Vec<Arc<ReplicationState>> {
    let mut most: BTreeMap<u64, (Option<u64>, Arc<ReplicationState>)> = BTreeMap::new();
    let tablets = sites
        .iter()
        .filter(|site| site.region == region)
        .flat_map(|site| site.tablets());
    let replicated = |tablet: &Tablet| tablet.schema().is_some_and(|schema| !schema.peers.is_empty());
    for tablet in tablets.filter(replicated) {
        let applied = tablet.group().status().applied_index;
        let known = most.get(&tablet.descriptor().tablet.0);
        if known.is_none_or(|(known, _)| applied > *known) {
            most.insert(tablet.descriptor().tablet.0, (applied, tablet.replication_state()));
        }
    }
    most.into_values().map(|(_, state)| state).collect()
}
