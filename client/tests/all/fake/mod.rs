//! A region in memory behind real sockets: enough of the public API to see what a client does, and to do it harm.
//!
//! Each node runs on a runtime of its own, so that killing one closes its sockets at once, as SIGKILL does.
// Each test binary uses a part of it, and all of it is test code.
#![allow(dead_code, clippy::unwrap_used)]

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_base::cells::{CellsBuilder, PackedCell};
use tidemark_base::{FamilyId, MutationRef, PackedBatch, RowRange, RowRef};
use tidemark_client::{ClientOptions, ClientOptionsBuilder};
use tidemark_proto::v1;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What happens to a request instead of being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with that kind, nothing done.
    Refuse(&'static str),
    /// Done, but the answer is lost.
    Lost,
    /// Served.
    None,
}

/// One tablet of the fake table.
#[derive(Clone, Debug)]
pub struct FakeTablet {
    pub id: u64,
    pub start: Vec<u8>,
    pub end: Option<Vec<u8>>,
    /// Index of the node that leads.
    pub leader: usize,
    /// What the routing says, if it is behind.
    pub leader_told: Option<usize>,
}

type Columns = BTreeMap<(FamilyId, Vec<u8>, i64), Vec<u8>>;

/// What the nodes of a region share.
#[derive(Debug, Default)]
pub struct State {
    pub region: String,
    pub tablets: Vec<FakeTablet>,
    pub families: Vec<String>,
    /// How often the table was dropped and made anew: goes into the ids of its families.
    pub era: u32,
    /// The kind with which requests for the routing are refused.
    pub routing_refused: Option<&'static str>,
    /// Scans send a sign of life after each message.
    pub scan_quiet: bool,
    pub addresses: Vec<String>,
    pub rows: BTreeMap<Vec<u8>, Columns>,
    /// Every put as it was applied: row and value.
    pub log: Vec<(Vec<u8>, Vec<u8>)>,
    /// Faults of the next writes.
    pub faults: VecDeque<Fault>,
    /// Write requests by node.
    pub writes: HashMap<usize, usize>,
    pub routings: usize,
    /// Bytes of batches under way, and the most there were.
    pub bytes_now: usize,
    pub bytes_most: usize,
    /// After how many messages the next scans break, each once.
    pub scan_breaks: VecDeque<usize>,
    /// A node that does not lead answers NOT_LEADER instead of forwarding.
    pub refuse_forwarding: bool,
    pub tokens: Vec<Vec<u8>>,
    /// Faults of the next read-modify-writes.
    pub token_faults: VecDeque<Fault>,
    pub healthy: bool,
    /// Row keys (exact) whose mutations fail for good.
    pub poison: Vec<Vec<u8>>,
}

/// A region of a few nodes.
pub struct FakeRegion {
    pub state: Arc<Mutex<State>>,
    /// Writes wait while it is false.
    pub gate: watch::Sender<bool>,
    nodes: Vec<Option<(Runtime, JoinHandle<()>)>>,
    addresses: Vec<SocketAddr>,
}

#[derive(Clone)]
struct Node {
    at: usize,
    state: Arc<Mutex<State>>,
    gate: watch::Receiver<bool>,
}

impl FakeRegion {
    /// Nodes on free ports, one table with the family `m`, tablets cut at `splits` and led by the nodes in turn.
    pub fn start(region: &str, nodes: usize, splits: &[&str]) -> FakeRegion {
        let mut starts: Vec<Vec<u8>> = vec![Vec::new()];
        starts.extend(splits.iter().map(|s| s.as_bytes().to_vec()));
        let tablet = |at: usize| FakeTablet {
            id: at as u64 + 2,
            start: starts[at].clone(),
            end: starts.get(at + 1).cloned(),
            leader: at % nodes,
            leader_told: None,
        };
        let state = State {
            region: region.to_owned(),
            tablets: (0..starts.len()).map(tablet).collect(),
            families: vec!["m".to_owned()],
            healthy: true,
            ..State::default()
        };
        let mut this = FakeRegion {
            state: Arc::new(Mutex::new(state)),
            gate: watch::Sender::new(true),
            nodes: (0..nodes).map(|_| None).collect(),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0)); nodes],
        };
        for at in 0..nodes {
            this.revive(at);
        }
        this.state.lock().addresses = this.addresses();
        this
    }

    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(SocketAddr::to_string).collect()
    }

    /// Starts a node on its port.
    pub fn revive(&mut self, at: usize) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _guard = runtime.enter();
            let listener = std::net::TcpListener::bind(self.addresses[at]).unwrap();
            listener.set_nonblocking(true).unwrap();
            tokio::net::TcpListener::from_std(listener).unwrap()
        };
        self.addresses[at] = listener.local_addr().unwrap();
        let node = Node {
            at,
            state: self.state.clone(),
            gate: self.gate.subscribe(),
        };
        let accepting = runtime.spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(v1::data_server::DataServer::new(node.clone()).max_decoding_message_size(24 << 20))
                .add_service(v1::tables_server::TablesServer::new(node.clone()))
                .add_service(v1::cluster_server::ClusterServer::new(node))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await;
            served.unwrap();
        });
        self.nodes[at] = Some((runtime, accepting));
    }

    /// The table is dropped and made anew: other tablets, other family ids, no rows.
    pub fn recreate(&self) {
        let mut state = self.state.lock();
        state.era += 1;
        state.rows.clear();
        for tablet in &mut state.tablets {
            tablet.id += 1_000;
        }
    }

    /// Closes all of a node's sockets.
    pub fn kill(&mut self, at: usize) {
        let Some((runtime, accepting)) = self.nodes[at].take() else {
            return;
        };
        // The listener goes before the connections, as in a process that dies all at once: otherwise a client could
        // connect again to what is about to vanish, and a write would be sent that should find nobody.
        accepting.abort();
        let until = Instant::now() + Duration::from_secs(10);
        while !accepting.is_finished() {
            assert!(Instant::now() < until, "in vain: the listener closes");
            std::thread::yield_now();
        }
        runtime.shutdown_background();
    }

    pub fn kill_all(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.kill(at));
    }

    pub fn revive_all(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.revive(at));
    }

    pub fn value(&self, row: &str, qualifier: &str, version: i64) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let columns = state.rows.get(row.as_bytes())?;
        columns
            .get(&(FamilyId::derive("m", state.era), qualifier.as_bytes().to_vec(), version))
            .cloned()
    }

    /// Fills rows `row-000`.. with three cells each.
    pub fn fill(&self, rows: usize) {
        let mut state = self.state.lock();
        let family = FamilyId::derive("m", state.era);
        for row in 0..rows {
            let columns = state.rows.entry(format!("row-{row:03}").into_bytes()).or_default();
            for cell in 0..3 {
                let value = format!("{row}/{cell}").into_bytes();
                columns.insert((family, format!("q{cell}").into_bytes(), 7), value);
            }
        }
    }
}

impl Drop for FakeRegion {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Options of a client of those regions, quick enough for tests.
pub fn options(regions: &[&FakeRegion]) -> ClientOptionsBuilder {
    let mut options = ClientOptions::builder();
    for region in regions {
        let name = region.state.lock().region.clone();
        options = options.region(name, region.addresses());
    }
    options
}

/// Waits until the condition holds; fails after ten seconds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A refusal as the servers make it.
pub fn refusal(kind: &str, leader: Option<&str>) -> Status {
    refusal_because(kind, &format!("{kind}_HERE"), leader)
}

/// The same with its reason.
pub fn refusal_because(kind: &str, reason: &str, leader: Option<&str>) -> Status {
    let mut metadata = HashMap::from([("kind".to_owned(), kind.to_owned())]);
    if let Some(leader) = leader {
        metadata.insert("leader_address".to_owned(), leader.to_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "tidemark", metadata);
    let code = match kind {
        "INVALID_ARGUMENT" => tonic::Code::InvalidArgument,
        "NOT_FOUND" => tonic::Code::NotFound,
        "UNKNOWN_OUTCOME" => tonic::Code::Unknown,
        _ => tonic::Code::Unavailable,
    };
    Status::with_error_details(code, format!("refused as {kind}"), details)
}

impl Node {
    /// The tablet of a row, and a redirect if another node leads it.
    fn route(&self, row: &[u8]) -> Result<Option<v1::Redirect>, Status> {
        let state = self.state.lock();
        let tablet = state.tablets.iter().rev().find(|t| t.start[..] <= *row).unwrap();
        if tablet.leader == self.at {
            return Ok(None);
        }
        if state.refuse_forwarding {
            return Err(refusal("NOT_LEADER", None));
        }
        Ok(Some(v1::Redirect {
            tablet: tablet.id,
            node: tablet.leader as u64 + 1,
            address: state.addresses[tablet.leader].clone(),
        }))
    }

    fn apply(&self, batch: &PackedBatch) -> Vec<v1::RowFailure> {
        let mut state = self.state.lock();
        let mut failures = Vec::new();
        for (index, row) in batch.rows().enumerate() {
            let RowRef::Mutation { row, mutations } = row else {
                continue;
            };
            if state.poison.iter().any(|poison| poison == row) {
                failures.push(v1::RowFailure {
                    index: index as u32,
                    error: Some(v1::Error {
                        kind: "INVALID_ARGUMENT".into(),
                        reason: "POISON".into(),
                        message: "this row cannot be written".into(),
                        ..v1::Error::default()
                    }),
                });
                continue;
            }
            let known: Vec<FamilyId> = state.families.iter().map(|f| FamilyId::derive(f, state.era)).collect();
            let unknown = |mutation| matches!(mutation, MutationRef::Put { family, .. } if !known.contains(&family));
            if mutations.clone().any(unknown) {
                failures.push(v1::RowFailure {
                    index: index as u32,
                    error: Some(v1::Error {
                        kind: "INVALID_ARGUMENT".into(),
                        reason: "FAMILY_UNKNOWN".into(),
                        message: "the family is not known here".into(),
                        ..v1::Error::default()
                    }),
                });
                continue;
            }
            for mutation in mutations {
                if let MutationRef::Put {
                    family,
                    qualifier,
                    version,
                    value,
                } = mutation
                {
                    state.log.push((row.to_vec(), value.to_vec()));
                    let columns = state.rows.entry(row.to_vec()).or_default();
                    columns.insert((family, qualifier.to_vec(), version), value.to_vec());
                }
            }
        }
        failures
    }
}

#[tonic::async_trait]
impl v1::data_server::Data for Node {
    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let request = request.into_inner();
        let batch = PackedBatch::parse(request.packed).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let fault = {
            let mut state = self.state.lock();
            *state.writes.entry(self.at).or_default() += 1;
            state.bytes_now += batch.bytes().len();
            state.bytes_most = state.bytes_most.max(state.bytes_now);
            state.faults.pop_front().unwrap_or(Fault::None)
        };
        let first = batch.rows().next().map(|row| row.key().to_vec()).unwrap_or_default();
        let mut gate = self.gate.clone();
        let open = gate.wait_for(|open| *open).await.map(|_| ());
        self.state.lock().bytes_now -= batch.bytes().len();
        open.map_err(|_| Status::unavailable("gone"))?;
        let redirect = self.route(&first)?;
        if let Fault::Refuse(kind) = fault {
            return Err(refusal(kind, None));
        }
        let failures = self.apply(&batch);
        if fault == Fault::Lost {
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(v1::WriteResponse {
            rows_written: (batch.rows_len() - failures.len()) as u32,
            failures,
            redirect,
        }))
    }

    type WriteStreamStream = tokio_stream::Empty<Result<v1::WriteStreamResponse, Status>>;

    async fn write_stream(
        &self,
        _: Request<tonic::Streaming<v1::WriteStreamRequest>>,
    ) -> Result<Response<Self::WriteStreamStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        let request = request.into_inner();
        let state = self.state.lock();
        let rows = request.rows.iter().filter_map(|key| {
            let columns = state.rows.get(&key[..])?;
            let cell = |((_, qualifier, version), value): (&(FamilyId, Vec<u8>, i64), &Vec<u8>)| v1::Cell {
                family: "m".into(),
                qualifier: qualifier.clone().into(),
                version: *version,
                value: value.clone().into(),
            };
            Some(v1::Row {
                key: key.clone(),
                cells: columns.iter().map(cell).collect(),
            })
        });
        Ok(Response::new(v1::ReadResponse {
            rows: rows.collect(),
            ..v1::ReadResponse::default()
        }))
    }

    type ScanStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::ScanResponse, Status>>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        if !state.tablets.iter().any(|tablet| tablet.id == request.tablet) {
            return Err(refusal_because("NOT_FOUND", "TABLET_UNKNOWN", None));
        }
        let breaks_after = state.scan_breaks.pop_front();
        let mut messages: Vec<Result<v1::ScanResponse, Status>> =
            scan_messages(&state, &request).into_iter().map(Ok).collect();
        if let Some(after) = breaks_after.filter(|after| *after < messages.len()) {
            messages.truncate(after);
            messages.push(Err(Status::unavailable("the connection broke")));
        }
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn check_and_mutate(
        &self,
        _: Request<v1::CheckAndMutateRequest>,
    ) -> Result<Response<v1::CheckAndMutateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn read_modify_write(
        &self,
        request: Request<v1::ReadModifyWriteRequest>,
    ) -> Result<Response<v1::ReadModifyWriteResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        state.tokens.push(request.token.to_vec());
        match state.token_faults.pop_front().unwrap_or(Fault::None) {
            Fault::Refuse(kind) => Err(refusal(kind, None)),
            Fault::Lost => Err(Status::unavailable("the connection broke")),
            Fault::None => Ok(Response::new(v1::ReadModifyWriteResponse::default())),
        }
    }

    async fn aggregate(&self, _: Request<v1::AggregateRequest>) -> Result<Response<v1::AggregateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn digest(&self, _: Request<v1::DigestRequest>) -> Result<Response<v1::DigestResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Messages of a few cells each; rows are cut in the middle where it happens.
fn scan_messages(state: &State, request: &v1::ScanRequest) -> Vec<v1::ScanResponse> {
    let tablet = state.tablets.iter().find(|t| t.id == request.tablet).unwrap();
    let tablet = RowRange {
        start: tablet.start.clone().into(),
        end: tablet.end.clone().map(Into::into),
    };
    let ranges: Vec<RowRange> = request
        .ranges
        .iter()
        .map(|r| RowRange {
            start: r.start.clone(),
            end: r.end.clone(),
        })
        .collect();
    let wanted = |row: &[u8]| tablet.contains(row) && ranges.iter().any(|range| range.contains(row));
    let mut keys: Vec<&Vec<u8>> = state.rows.keys().filter(|row| wanted(row)).collect();
    if request.reverse {
        keys.reverse();
    }
    if request.rows_limit > 0 {
        keys.truncate(request.rows_limit as usize);
    }
    let mut cells = Vec::new();
    for key in keys {
        for ((family, qualifier, version), value) in &state.rows[key] {
            cells.push((key, *family, qualifier, *version, value));
        }
    }
    let mut messages = Vec::new();
    let mut complete: Vec<u8> = Vec::new();
    for (at, chunk) in cells.chunks(7).enumerate() {
        let mut builder = CellsBuilder::new();
        for (row, family, qualifier, version, value) in chunk {
            builder.push(PackedCell {
                row,
                family: *family,
                qualifier,
                version: *version,
                value,
            });
        }
        let last = chunk.last().unwrap().0;
        let row_continues = cells.get((at + 1) * 7).is_some_and(|next| next.0 == last);
        let closed = chunk
            .iter()
            .rev()
            .map(|cell| cell.0)
            .find(|row| !row_continues || *row != last);
        complete = closed.cloned().unwrap_or(complete);
        messages.push(v1::ScanResponse {
            packed: builder.finish(),
            row_continues,
            resume_after: complete.clone().into(),
            ..v1::ScanResponse::default()
        });
        if state.scan_quiet {
            messages.push(v1::ScanResponse {
                resume_after: complete.clone().into(),
                ..v1::ScanResponse::default()
            });
        }
    }
    messages
}

#[tonic::async_trait]
impl v1::tables_server::Tables for Node {
    async fn create_table(&self, _: Request<v1::CreateTableRequest>) -> Result<Response<v1::Table>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn list_tables(&self, _: Request<v1::ListTablesRequest>) -> Result<Response<v1::ListTablesResponse>, Status> {
        Ok(Response::new(v1::ListTablesResponse::default()))
    }
    async fn get_table(&self, _: Request<v1::GetTableRequest>) -> Result<Response<v1::Table>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn alter_table(&self, _: Request<v1::AlterTableRequest>) -> Result<Response<v1::Table>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn drop_table(&self, _: Request<v1::DropTableRequest>) -> Result<Response<v1::DropTableResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_routing(&self, request: Request<v1::GetRoutingRequest>) -> Result<Response<v1::Routing>, Status> {
        let table = request.into_inner().table;
        let mut state = self.state.lock();
        state.routings += 1;
        if let Some(kind) = state.routing_refused.filter(|_| table == "t") {
            return Err(refusal(kind, None));
        }
        if table != "t" {
            return Err(refusal("NOT_FOUND", None));
        }
        let family = |name: &String| v1::Family {
            name: name.clone(),
            id: FamilyId::derive(name, state.era).0,
            ..v1::Family::default()
        };
        let tablet = |t: &FakeTablet| v1::TabletRoute {
            tablet: t.id,
            range: Some(v1::RowRange {
                start: t.start.clone().into(),
                end: t.end.clone().map(Into::into),
            }),
            replicas: (1..=state.addresses.len() as u64).collect(),
            leader: t.leader_told.unwrap_or(t.leader) as u64 + 1,
        };
        let node = |(at, address): (usize, &String)| v1::Node {
            id: at as u64 + 1,
            address: address.clone(),
            zone: String::new(),
        };
        Ok(Response::new(v1::Routing {
            table,
            revision: 1,
            families: state.families.iter().map(family).collect(),
            tablets: state.tablets.iter().map(tablet).collect(),
            nodes: state.addresses.iter().enumerate().map(node).collect(),
        }))
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Node {
    async fn cluster_status(
        &self,
        _: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let state = self.state.lock();
        Ok(Response::new(v1::ClusterStatusResponse {
            region: state.region.clone(),
            catalog_leader: u64::from(state.healthy),
            ..v1::ClusterStatusResponse::default()
        }))
    }
}
