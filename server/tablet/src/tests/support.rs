//! A replica without its surroundings: a state, an engine, and a log to replay.

use crate::machine::{apply_entries, durable_index};
use crate::operation::check_and_mutate::{self, CheckAndMutateCommand};
use crate::operation::read_modify_write::{self, ReadModifyWriteCommand, RmwRule};
use crate::operation::{close, set_schema, write};
use crate::response::{self, Failures, OwnedCell};
use crate::state::State;
use crate::tokens::{Token, TokenTerms};
use bytes::Bytes;
use std::sync::Arc;
use tidemark_base::fact::Fact;
use tidemark_base::{
    BatchBuilder, FamilyId, FamilySettings, NodeId, PackedBatch, ReadFilter, ReadSpec, RegionId, Result, RowRange,
    Stamp, TableSchema,
};
use tidemark_consensus::{ApplyError, Entry, LogPosition, Payload};
use tidemark_engine::{Engine, MemoryEngine};

pub const HERE: RegionId = RegionId(1);
pub const THERE: RegionId = RegionId(2);
/// 2023-11-14, in microseconds.
pub const NOW: i64 = 1_700_000_000_000_000;

pub fn family(name: &str) -> FamilyId {
    FamilyId::derive(name, 0)
}

pub fn schema(revision: u64, peers: &[RegionId], families: &[&str]) -> TableSchema {
    let mut schema = TableSchema::new(HERE);
    schema.revision = revision;
    schema.peers = peers.to_vec();
    schema.families = families.iter().map(|name| FamilySettings::new(name, 0)).collect();
    schema
}

/// The stamp of the `step`-th millisecond of the test, by this region.
pub fn stamp(step: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc: ((NOW as u64 / 1_000) + step) << 16,
        region: HERE,
    }
}

/// A batch with one put per row: (row, family, value), version = [`NOW`].
pub fn puts(rows: &[(&str, &str, &str)]) -> PackedBatch {
    let mut builder = BatchBuilder::new();
    for (row, name, value) in rows {
        builder.begin_row(row.as_bytes()).unwrap();
        builder.put(family(name), b"q", NOW, value.as_bytes()).unwrap();
        builder.end_row().unwrap();
    }
    builder.finish().unwrap()
}

pub fn token(n: u8) -> Token {
    [n; 16]
}

pub fn terms(n: u8) -> TokenTerms {
    TokenTerms {
        token: token(n),
        expiry_ms: u64::MAX,
        tokens_max: 1_000,
    }
}

pub fn check(step: u64, n: u8, row: &str, on_match: Option<PackedBatch>, on_mismatch: Option<PackedBatch>) -> Bytes {
    check_and_mutate::encode(&CheckAndMutateCommand {
        stamp: stamp(step),
        terms: terms(n),
        row: Bytes::copy_from_slice(row.as_bytes()),
        predicate: ReadFilter::default(),
        on_match,
        on_mismatch,
    })
}

pub fn modify(step: u64, n: u8, row: &str, rules: Vec<RmwRule>) -> Bytes {
    read_modify_write::encode(&ReadModifyWriteCommand {
        stamp: stamp(step),
        terms: terms(n),
        now_micros: NOW + step as i64 * 1_000,
        row: Bytes::copy_from_slice(row.as_bytes()),
        rules,
    })
}

/// A visible cell: (row, family, qualifier, version, value).
pub type Seen = (Vec<u8>, FamilyId, Vec<u8>, i64, Vec<u8>);

/// Everything a replica holds, for comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub facts: Vec<Fact>,
    pub states: Vec<(Bytes, Bytes)>,
    pub feed: Vec<(u64, Bytes)>,
}

/// See the module.
pub struct Replica {
    pub engine: MemoryEngine,
    pub state: State,
    pub log: Vec<Bytes>,
}

impl Replica {
    pub fn new() -> Replica {
        Replica::of(RowRange::all())
    }

    pub fn of(range: RowRange) -> Replica {
        let engine = MemoryEngine::new();
        let state = State::load(&engine, range).unwrap();
        Replica {
            engine,
            state,
            log: Vec::new(),
        }
    }

    /// A replica whose first entry is a schema.
    pub fn with(peers: &[RegionId], families: &[&str]) -> Replica {
        let mut replica = Replica::new();
        replica.set_schema(schema(1, peers, families));
        replica
    }

    /// Appends commands to the log and applies them in one call.
    pub fn try_apply(&mut self, commands: Vec<Bytes>) -> std::result::Result<Vec<Bytes>, ApplyError> {
        let from = self.log.len();
        self.log.extend(commands);
        self.play(from, self.log.len())
    }

    pub fn apply(&mut self, command: Bytes) -> Result<Bytes> {
        let responses = self.try_apply(vec![command]).unwrap();
        response::body(&responses[0])
    }

    /// Applies a part of the log in one call.
    pub fn play(&mut self, from: usize, to: usize) -> std::result::Result<Vec<Bytes>, ApplyError> {
        let entries = (from..to).map(|index| Entry {
            position: LogPosition {
                term: 1,
                leader: NodeId(1),
                index: index as u64 + 1,
            },
            payload: Payload::Command(self.log[index].clone()),
        });
        apply_entries(&mut self.state, &self.engine, entries.collect())
    }

    /// Dies, comes back at the flushed cut, and replays the rest of the log.
    pub fn crash(&mut self) {
        self.engine.crash();
        self.state = State::load(&self.engine, self.state.range.clone()).unwrap();
        let applied = durable_index(&self.engine) as usize;
        assert_eq!(self.state.applied.position.map_or(0, |p| p.index), applied as u64);
        self.play(applied, self.log.len()).unwrap();
    }

    pub fn write(&mut self, step: u64, batch: PackedBatch) -> Failures {
        let body = self.apply(write::encode(&[(stamp(step), batch)])).unwrap();
        response::decode_write(&body).unwrap().remove(0)
    }

    pub fn set_schema(&mut self, schema: TableSchema) {
        self.apply(set_schema::encode(&schema, false)).unwrap();
    }

    pub fn close(&mut self, step: u64) {
        self.apply(close::encode(stamp(step))).unwrap();
    }

    pub fn cells(body: &Bytes) -> Vec<OwnedCell> {
        response::decode_cells(body).unwrap()
    }

    pub fn content(&self) -> Content {
        let mut facts = self.engine.facts().unwrap();
        facts.sort();
        let states = self.engine.state_scan(b"", b"", usize::MAX).unwrap();
        let feed = self.engine.feed(1, usize::MAX).unwrap();
        Content {
            facts,
            states,
            feed: feed.into_iter().map(|r| (r.seq, r.bytes)).collect(),
        }
    }

    /// What a reader sees.
    pub fn view(&self) -> Vec<Seen> {
        let spec = ReadSpec::default();
        let mut cursor = self.engine.read(&spec, NOW).unwrap();
        let mut out = Vec::new();
        while cursor.advance().unwrap() {
            let c = cursor.cell();
            out.push((
                c.row.to_vec(),
                c.family,
                c.qualifier.to_vec(),
                c.version,
                c.value.to_vec(),
            ));
        }
        out
    }

    /// The value at a row's column `q`, if visible.
    pub fn value(&self, row: &str, name: &str) -> Option<String> {
        let found = self
            .view()
            .into_iter()
            .find(|(r, f, ..)| r == row.as_bytes() && *f == family(name));
        found.map(|(.., value)| String::from_utf8(value).unwrap())
    }
}

pub fn shared_schema(replica: &Replica) -> Arc<TableSchema> {
    replica.state.schema.clone().unwrap()
}
