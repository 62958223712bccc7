//! Raw RocksDB in this process: what the storage engine alone does, without network, copies, schema or time-series layout.

use super::{About, Peer, Site};
use crate::load::{Batch, Sender};
use crate::process::disk_bytes;
use anyhow::Result;
use rocksdb::{CompactOptions, DB, DBCompressionType, IteratorMode, Options, WriteBatch, WriteOptions};
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_bench::fleet::{self, Fleet};

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// One value: device, metric and time in its key.
    Cell,
    /// All values of a tick: device and time in its key.
    Tick,
}

pub(super) struct Rocks {
    store: Arc<DB>,
    dir: PathBuf,
    record: Record,
    fleet: Fleet,
}

pub(super) fn start(site: &Site, record: Record) -> Result<Rocks> {
    let dir = site.dir.join("data");
    let mut options = Options::default();
    options.create_if_missing(true);
    // The library's own default, Snappy, is not compiled in.
    options.set_compression_type(DBCompressionType::Lz4);
    options.increase_parallelism(std::thread::available_parallelism().map_or(2, |n| n.get() as i32));
    Ok(Rocks {
        store: Arc::new(DB::open(&options, &dir)?),
        dir,
        record,
        fleet: site.fleet.clone(),
    })
}

impl Peer for Rocks {
    fn about(&self) -> About {
        About {
            version: "11.8, as in Tidemark".to_owned(),
            copies: 1,
            durability: "one fsync of its log a batch",
            how: match self.record {
                Record::Cell => "in this process; a record a cell, a write batch a batch, sync; LZ4, a thread a core",
                Record::Tick => "in this process; a record a tick with its values packed, else the same",
            },
        }
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        Ok(Box::new(BatchSender {
            store: self.store.clone(),
            record: self.record,
            names: self.fleet.metric_names(),
        }))
    }

    fn settle(&mut self) -> Result<()> {
        self.store.flush()?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.store.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.dir)
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let mut records = 0;
        for record in self.store.iterator(IteratorMode::Start) {
            record?;
            records += 1;
        }
        Ok(Some(match self.record {
            Record::Cell => records,
            Record::Tick => records * self.fleet.metrics,
        }))
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct BatchSender {
    store: Arc<DB>,
    record: Record,
    names: Vec<String>,
}

impl Sender for BatchSender {
    fn send(&mut self, batch: &Batch) -> Result<()> {
        let mut records = WriteBatch::default();
        let (mut key, mut packed) = (Vec::new(), Vec::new());
        for (device, version, values) in batch.iter() {
            let row = fleet::row(device);
            if self.record == Record::Tick {
                packed.clear();
                values.iter().for_each(|value| packed.extend(value.to_be_bytes()));
                key.clear();
                key.extend(row.bytes().chain(version.to_be_bytes()));
                records.put(&key, &packed);
                continue;
            }
            for (name, value) in self.names.iter().zip(values) {
                key.clear();
                key.extend(row.bytes().chain(name.bytes()).chain(version.to_be_bytes()));
                records.put(&key, value.to_be_bytes());
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.store.write_opt(records, &options)?;
        Ok(())
    }
}
