//! What all tablets of a node share: block cache, memtable budget, background threads, rate limiter; and the options
//! that are made of them.
//!
//! ```text
//! column family   holds                                        tuned for
//! default         state records, row ranges                    small point reads (bloom filter)
//! facts           facts of rows, and of families with lz4       scans; compaction filter
//! facts.zstd      facts of families with zstd                   the same
//! facts.none      facts of families without compression         the same
//! series          series families: ticks and blocks            merge operator; compaction filter; zstd
//! feed            feed records by sequence                     append and trim at the front
//! ```
//! RocksDB insists on a column family called `default`, so the state lives there. It compresses by column family, so facts
//! have one for each kind of compression; one that holds nothing costs a line in the manifest and is never opened by a read.
//! What lives outside of families (state, feed, a row's tombstones) is compressed with LZ4.

use super::error;
use super::filter::{FilterFactory, FilterState};
use super::series;
use crate::api::EngineError;
use crate::kept::KeptBudget;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ChecksumType, ColumnFamilyDescriptor, DBCompressionType, Env,
    LogLevel, Options, WriteBufferManager,
};
use std::path::Path;
use std::sync::Arc;
use tidemark_base::schema::Compression;

/// The column families of cells and tombstones. Names on disk: they never change meaning.
pub(super) const FACTS: [(&str, Compression); LAYERS] = [
    ("facts", Compression::Lz4),
    ("facts.zstd", Compression::Zstd),
    ("facts.none", Compression::None),
];
/// How many there are.
pub(super) const LAYERS: usize = 3;
/// The column family of series records, and its number among the layers: behind those of [`FACTS`].
pub(super) const SERIES: &str = "series";
pub(super) const SERIES_LAYER: usize = LAYERS;
/// Higher levels cost several times the time for a few per cent.
const ZSTD_LEVEL: i32 = 1;
/// The column family of feed records.
pub(super) const FEED: &str = "feed";
/// The column family of state records.
pub(super) const STATE: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// Bounds of what a node's storage takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksSettings {
    /// Cache of uncompressed blocks, indexes and filters, for all tablets together.
    pub block_cache_bytes: usize,
    /// Memtables of all tablets together; beyond it the tablet that is written to is flushed.
    pub memtables_bytes: usize,
    /// One memtable of facts. A tablet is flushed at the latest when its memtable is full.
    pub memtable_bytes: usize,
    /// Threads for compaction; flushes have half as many of their own, at least one.
    pub background_threads: i32,
    /// Bytes a second that flushes and compactions of all tablets may write; 0 = no limit.
    pub write_rate_bytes: i64,
    /// Files that one tablet keeps open.
    pub files_open_max: i32,
    /// Uncompressed bytes of a block on disk. Keys are long and repetitive, so a bigger block compresses better; scans
    /// are what matters.
    pub block_bytes: usize,
    /// Rows whose newest cells are kept ready, of all tablets together; 0 = none.
    pub kept_rows_bytes: u64,
}

impl Default for RocksSettings {
    fn default() -> RocksSettings {
        RocksSettings {
            block_cache_bytes: 256 << 20,
            memtables_bytes: 256 << 20,
            memtable_bytes: 32 << 20,
            background_threads: 2,
            write_rate_bytes: 0,
            files_open_max: 512,
            block_bytes: 16 << 10,
            kept_rows_bytes: 64 << 20,
        }
    }
}

/// The node-wide resources; created once.
pub struct RocksShared {
    template: Options,
    cache: Cache,
    write_buffers: WriteBufferManager,
    kept_rows: Arc<KeptBudget>,
    settings: RocksSettings,
}

impl RocksShared {
    /// Creates them. Fails only if RocksDB refuses an option.
    pub fn new(settings: RocksSettings) -> Result<Arc<RocksShared>, EngineError> {
        let refused = |e: rocksdb::Error| error::map(Path::new("options"), &e);
        let mut env = Env::new().map_err(refused)?;
        env.set_background_threads(settings.background_threads.max(1));
        env.set_high_priority_background_threads((settings.background_threads / 2).max(1));
        let cache = Cache::new_lru_cache(settings.block_cache_bytes);
        let write_buffers = WriteBufferManager::new_write_buffer_manager(settings.memtables_bytes, false);
        // Closing must not write: what was not flushed is in the Raft log, and a poisoned store must not make its doubt
        // durable. The C interface has no setter for it.
        // Neither has it one for the hint: where the last fact went in, the search for the next one's place begins there and
        // not at the top of the memtable. What one command writes is sorted or nearly so, and the search was the largest
        // part of apply. One hint a first byte of the key.
        let mut options = Options::default()
            .get_options_from_string(
                "avoid_flush_during_shutdown=true;memtable_insert_with_hint_prefix_extractor=capped:1",
            )
            .map_err(refused)?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // INV-11: one cut over all column families.
        options.set_atomic_flush(true);
        options.set_env(&env);
        options.set_write_buffer_manager(&write_buffers);
        if settings.write_rate_bytes > 0 {
            options.set_ratelimiter(settings.write_rate_bytes, 100_000, 10);
        }
        options.set_max_background_jobs((settings.background_threads + settings.background_threads / 2).max(2));
        // The judge of compactions needs a row in one piece and in order.
        options.set_max_subcompactions(1);
        options.set_max_open_files(settings.files_open_max);
        options.set_paranoid_checks(true);
        options.set_bytes_per_sync(1 << 20);
        options.set_skip_stats_update_on_db_open(true);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_max_manifest_file_size(8 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        Ok(Arc::new(RocksShared {
            template: options,
            cache,
            write_buffers,
            kept_rows: KeptBudget::new(settings.kept_rows_bytes),
            settings,
        }))
    }

    /// Bytes held by the memtables of all tablets.
    pub fn memtables_bytes(&self) -> u64 {
        self.write_buffers.get_usage() as u64
    }

    /// Bytes held by rows that are kept ready.
    pub fn kept_rows_bytes(&self) -> u64 {
        self.kept_rows.used_bytes()
    }

    pub(super) fn kept_rows(&self) -> &Arc<KeptBudget> {
        &self.kept_rows
    }

    /// Bytes held by the block cache.
    pub fn block_cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    pub(super) fn database(&self) -> &Options {
        &self.template
    }

    pub(super) fn column_families(&self, filter: &Arc<FilterState>) -> Vec<ColumnFamilyDescriptor> {
        let mut state_blocks = self.blocks();
        state_blocks.set_bloom_filter(10.0, false);
        let lz4 = Compression::Lz4;
        let feed = self.column_family(self.settings.memtable_bytes, self.blocks(), lz4);
        let mut all = vec![
            ColumnFamilyDescriptor::new(STATE, self.column_family(4 << 20, state_blocks, lz4)),
            ColumnFamilyDescriptor::new(FEED, feed),
        ];
        all.extend(FACTS.map(|(name, compression)| {
            let mut facts = self.column_family(self.settings.memtable_bytes, self.blocks(), compression);
            facts.set_compaction_filter_factory(FilterFactory(filter.clone()));
            ColumnFamilyDescriptor::new(name, facts)
        }));
        // Blocks are packed; what they have in common with their neighbours, names above all, only Zstandard finds.
        let mut series = self.column_family(self.settings.memtable_bytes, self.blocks(), Compression::Zstd);
        series::configure(&mut series, filter);
        all.push(ColumnFamilyDescriptor::new(SERIES, series));
        all
    }

    /// Indexes are partitioned and live in the cache, so that many tablets do not pin memory by merely being open.
    fn blocks(&self) -> BlockBasedOptions {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_block_size(self.settings.block_bytes);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        blocks.set_checksum_type(ChecksumType::XXH3);
        blocks
    }

    fn column_family(&self, memtable_bytes: usize, blocks: BlockBasedOptions, compression: Compression) -> Options {
        let mut options = self.template.clone();
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_size(memtable_bytes);
        options.set_max_write_buffer_number(3);
        options.set_target_file_size_base(64 << 20);
        options.set_compression_type(match compression {
            Compression::None => DBCompressionType::None,
            Compression::Lz4 => DBCompressionType::Lz4,
            Compression::Zstd => DBCompressionType::Zstd,
        });
        if compression == Compression::Zstd {
            // Window and strategy as RocksDB has them by default; no dictionary.
            options.set_compression_options(-14, ZSTD_LEVEL, 0, 0);
        }
        options
    }
}
