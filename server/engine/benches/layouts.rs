//! What the two layouts cost, piece by piece: codecs, merging, applying, reading. `cargo bench -p tidemark-engine --bench layouts`
//! on a quiet machine; sizes on disk and whole servers are `--bench series` and `./x compare`.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tempfile::TempDir;
use tidemark_base::aggregate::{AggregateSpec, Aggregates};
use tidemark_base::read::ReadFilter;
use tidemark_base::schema::Layout;
use tidemark_base::{CellRef, FamilyId, FamilySettings, ReadSpec, RegionId, Stamp, TableSchema, VersionRange};
use tidemark_engine::series::{ByteOrder, DecodeScratch, Merger, TickBuilder, for_each_segment};
use tidemark_engine::{Engine, RocksEngine, RocksSettings, RocksShared};
use tidemark_runtime::ManualClock;

const HOUR_MICROS: i64 = 3_600_000_000;
const PERIOD_MICROS: i64 = 10_000_000;
const METRICS: usize = 10;
const DEVICES: usize = 200;
/// Two hours.
const TICKS: i64 = 720;
const BEGAN: i64 = 1_760_000_400_000_000 / HOUR_MICROS * HOUR_MICROS;

fn family() -> FamilyId {
    FamilyId::derive("m", 0)
}

fn stamp(n: i64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc: (n as u64) << 16,
        region: RegionId(1),
    }
}

fn names() -> Vec<Vec<u8>> {
    (0..METRICS).map(|m| format!("metric_{m:02}").into_bytes()).collect()
}

/// A walk with one decimal, the same in every run.
fn value(device: usize, tick: i64, metric: usize) -> [u8; 8] {
    let noise = (device as i64 * 31 + tick * 17 + metric as i64 * 7).wrapping_mul(0x9e37_79b9) >> 7 & 63;
    ((200 + tick / 5 % 90 + noise) as f64 / 10.0).to_be_bytes()
}

fn at(device: usize, tick: i64) -> i64 {
    BEGAN + tick * PERIOD_MICROS + device as i64 * 1_000
}

fn ticks_of_an_hour() -> Vec<Vec<u8>> {
    let names = names();
    let tick = |n: i64| {
        let mut tick = TickBuilder::new(Vec::new(), at(0, n), stamp(at(0, n) / 1_000));
        for (metric, name) in names.iter().enumerate() {
            tick.push(name, &value(0, n, metric));
        }
        tick.finish()
    };
    (0..HOUR_MICROS / PERIOD_MICROS).map(tick).collect()
}

fn codecs(c: &mut Criterion) {
    let ticks = ticks_of_an_hour();
    let cells = (ticks.len() * METRICS) as u64;
    let mut merger = Merger::new();
    let block = merger.merge(ticks.iter().map(Vec::as_slice)).expect("good ticks");
    let (early, late) = ticks.split_at(ticks.len() / 2);
    let halves = [early, late].map(|half| merger.merge(half.iter().map(Vec::as_slice)).expect("good ticks"));
    let mut group = c.benchmark_group("codec, an hour of 10 metrics");
    group.throughput(Throughput::Elements(cells));
    group.bench_function("ticks written", |b| b.iter(ticks_of_an_hour));
    group.bench_function("ticks to a block", |b| {
        b.iter(|| merger.merge(black_box(&ticks).iter().map(Vec::as_slice)))
    });
    group.bench_function("block to facts", |b| b.iter(|| merger.union([black_box(&block[..])])));
    group.bench_function("two half blocks merged", |b| {
        b.iter(|| merger.merge(black_box(&halves).iter().map(Vec::as_slice)))
    });
    let (mut scratch, mut numbers) = (DecodeScratch::default(), Vec::new());
    group.bench_function("block to floats", |b| {
        b.iter(|| {
            for_each_segment(black_box(&block), |segment| {
                for column in segment.columns() {
                    column.floats(ByteOrder::Big, &mut numbers, &mut scratch)?;
                }
                Ok(())
            })
        });
    });
    group.finish();
}

/// An open engine in a directory of its own.
struct Opened {
    engine: RocksEngine,
    _dir: TempDir,
}

fn open(layout: Layout) -> Opened {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let shared = RocksShared::new(RocksSettings::default()).expect("settings");
    let clock = ManualClock::new(BEGAN).shared();
    let engine = RocksEngine::open(&dir.path().join("t"), &shared, clock).expect("an empty directory");
    let mut schema = TableSchema::new(RegionId(1));
    schema.families = vec![FamilySettings {
        layout,
        ..FamilySettings::new("m", 0)
    }];
    engine.set_schema(Arc::new(schema));
    Opened { engine, _dir: dir }
}

fn put(engine: &RocksEngine, devices: std::ops::Range<usize>, tick: i64) {
    let names = names();
    let mut batch = engine.write_batch();
    for device in devices {
        let row = format!("device-{device:07}");
        for (metric, name) in names.iter().enumerate() {
            batch.put_cell(CellRef {
                row: row.as_bytes(),
                family: family(),
                qualifier: name,
                version: at(device, tick),
                stamp: stamp(at(device, tick) / 1_000 + device as i64),
                value: &value(device, tick, metric),
            });
        }
    }
    batch.commit().expect("room on the disk");
}

const LAYOUTS: [(&str, Layout); 2] = [
    ("cells", Layout::Cells),
    (
        "series",
        Layout::Series {
            block_micros: HOUR_MICROS,
        },
    ),
];

fn applying(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply, 1,000 ticks of 10 metrics");
    group.throughput(Throughput::Elements(1_000 * METRICS as u64));
    group.sample_size(20);
    for (name, layout) in LAYOUTS {
        let opened = open(layout);
        let mut tick = 0;
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_batched(
                || {
                    tick += 1;
                    tick
                },
                |tick| put(&opened.engine, 0..1_000, tick),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn count(engine: &RocksEngine, spec: &ReadSpec) -> u64 {
    let mut cursor = engine.read(spec, BEGAN).expect("a good spec");
    let mut cells = 0;
    while cursor.advance().expect("good files") {
        cells += 1;
    }
    cells
}

fn reading(c: &mut Criterion) {
    for (name, layout) in LAYOUTS {
        let opened = open(layout);
        for tick in 0..TICKS {
            put(&opened.engine, 0..DEVICES, tick);
        }
        opened.engine.flush().expect("room on the disk");
        opened.engine.compact();
        let engine = &opened.engine;
        let all = (DEVICES * METRICS) as u64 * TICKS as u64;
        let row = |device: usize| format!("device-{device:07}");
        let hour = VersionRange {
            from: BEGAN + HOUR_MICROS,
            to: BEGAN + 2 * HOUR_MICROS,
        };
        let of = |device: usize, filter: ReadFilter| ReadSpec {
            filter,
            ..ReadSpec::row(row(device).as_bytes())
        };
        let mut group = c.benchmark_group(format!("read, {name}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(all));
        group.bench_function("full scan", |b| {
            b.iter(|| assert_eq!(count(engine, &ReadSpec::default()), all));
        });
        group.bench_function("full aggregate by hour", |b| {
            b.iter(|| {
                let mut groups = Aggregates::new(AggregateSpec {
                    bucket_micros: Some(HOUR_MICROS),
                    ..AggregateSpec::default()
                });
                let spec = ReadSpec::default();
                engine.aggregate(&spec, BEGAN, &mut groups).expect("good files");
                assert_eq!(groups.groups().map(|(_, _, stats)| stats.count).sum::<u64>(), all);
            });
        });
        group.sample_size(100);
        let cells = (HOUR_MICROS / PERIOD_MICROS) as u64 * METRICS as u64;
        group.throughput(Throughput::Elements(cells));
        let mut device = 0;
        let mut next = || {
            device = (device + 61) % DEVICES;
            device
        };
        group.bench_function("an hour of a device", |b| {
            b.iter(|| {
                let filter = ReadFilter {
                    versions: hour,
                    ..ReadFilter::default()
                };
                assert!(count(engine, &of(next(), filter)) >= cells - METRICS as u64);
            });
        });
        group.throughput(Throughput::Elements(METRICS as u64));
        group.bench_function("the newest of a device", |b| {
            b.iter(|| {
                let filter = ReadFilter {
                    latest: Some(1),
                    ..ReadFilter::default()
                };
                assert_eq!(count(engine, &of(next(), filter)), METRICS as u64);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, codecs, applying, reading);
criterion_main!(benches);
