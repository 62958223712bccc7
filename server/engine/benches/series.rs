//! Measures the blocks of series families: bytes and nanoseconds of CPU a sample. Not a test: run it on a quiet machine.
//!
//! `cargo bench -p tidemark-engine --bench series -- [DIR]`; DIR holds CSV files of `time,value` to be packed as well.

use std::path::Path;
use tidemark_base::{RegionId, Stamp};
use tidemark_engine::series::{ByteOrder, DecodeScratch, Encoder, Facts, Merger, Tick, TickBuilder, for_each_segment};

const HOUR: i64 = 3_600_000_000;
const INTERVAL: i64 = 10_000_000;

/// Repeatable noise.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// About normal, of deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| self.below(1 << 30) as f64 / (1u64 << 30) as f64)
            .sum::<f64>()
            - 6.0
    }
}

/// What a load looks like.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    devices: i64,
    ticks: i64,
    metrics: usize,
    jitter_micros: u64,
    /// Written as it is made; else in batches of 1,000 ticks of one device.
    live: bool,
    text: bool,
    block_micros: i64,
}

impl Load {
    /// For each device and time block its ticks as they are stored: random walks around a level, with 1 to 3 decimals.
    fn make(&self) -> Vec<Vec<Vec<u8>>> {
        let names: Vec<String> = (0..self.metrics).map(|m| format!("metric_{m:02}")).collect();
        let mut noise = Noise(88_172_645_463_325_252);
        let mut blocks: Vec<Vec<Vec<u8>>> = Vec::new();
        for device in 0..self.devices {
            let mut levels = vec![50.0f64; self.metrics];
            let mut last = None;
            for t in 0..self.ticks {
                let jitter = noise.below(self.jitter_micros.max(1)) as i64;
                let version = 1_760_000_000_000_000 + device * 7_919 + t * INTERVAL + jitter;
                let hlc = match self.live {
                    true => ((version as u64 / 1_000 + 5 + noise.below(20)) << 16) + device as u64 % 1_000,
                    false => ((1_770_000_000_000 + t as u64 / 1_000 * 37) << 16) + t as u64 % 1_000,
                };
                let mut tick = TickBuilder::new(Vec::new(), version, stamp(hlc));
                for (m, name) in names.iter().enumerate() {
                    let scale = [10.0, 100.0, 1_000.0][m % 3];
                    levels[m] += noise.normal() * [1.0, 2.0, 4.0, 8.0][m % 4] / scale + (50.0 - levels[m]) * 0.001;
                    let value = (levels[m] * scale).round() / scale;
                    match self.text {
                        true => tick.push(name.as_bytes(), value.to_string().as_bytes()),
                        false => tick.push(name.as_bytes(), &value.to_be_bytes()),
                    }
                }
                let block = version.div_euclid(self.block_micros);
                if last != Some(block) {
                    blocks.push(Vec::new());
                    last = Some(block);
                }
                blocks.last_mut().expect("just pushed").push(tick.finish());
            }
        }
        blocks
    }

    fn run(&self) {
        let slots = self.make();
        let samples = slots.iter().map(Vec::len).sum::<usize>() * self.metrics;
        let mut merger = Merger::new();
        let mut merge = |ticks: &[Vec<u8>]| {
            let merged = merger.merge(ticks.iter().map(|v| &v[..]));
            merged.expect("what was just written is whole")
        };
        let blocks: Vec<Vec<u8>> = slots.iter().map(|s| merge(s)).collect();
        let halves: Vec<[Vec<u8>; 2]> = slots
            .iter()
            .map(|s| {
                let (a, b) = s.split_at(s.len() / 2);
                [merge(a), merge(b)]
            })
            .collect();
        let bytes: usize = blocks.iter().map(Vec::len).sum();
        let pack = least(samples, || slots.iter().map(|s| merge(s).len()).sum());
        let join = least(samples, || halves.iter().map(|h| merge(h).len()).sum());
        let mut merger = Merger::new();
        let unpack = least(samples, || {
            let facts = blocks
                .iter()
                .map(|b| merger.union([&b[..]]).map(|f| f.len()).unwrap_or(0));
            facts.sum()
        });
        let sum = least(samples, || aggregate(&blocks));
        println!(
            "{:32} {:6.3} bytes   ticks to block {pack:6.1}   block to set {unpack:5.1}   two halves {join:6.1}   aggregate {sum:5.1} ns a sample",
            self.name,
            bytes as f64 / samples as f64,
        );
    }
}

fn stamp(hlc: u64) -> Stamp {
    Stamp {
        epoch: 0,
        hlc,
        region: RegionId(1),
    }
}

/// Count of all cells; their versions, sum, least and greatest are looked at.
fn aggregate(blocks: &[Vec<u8>]) -> usize {
    let mut scratch = DecodeScratch::default();
    let (mut floats, mut versions) = (Vec::new(), Vec::new());
    let (mut cells, mut sum, mut least, mut greatest) = (0, 0.0, f64::MAX, f64::MIN);
    for block in blocks {
        let read = for_each_segment(block, |segment| {
            segment.versions(&mut versions)?;
            for column in segment.columns() {
                if column.floats(ByteOrder::Big, &mut floats, &mut scratch)?
                    || column.texts(&mut floats, &mut scratch)?
                {
                    cells += floats.len();
                    for float in &floats {
                        sum += float;
                        least = if *float < least { *float } else { least };
                        greatest = if *float > greatest { *float } else { greatest };
                    }
                }
            }
            Ok(())
        });
        read.expect("what was just written is whole");
    }
    std::hint::black_box((sum, least, greatest));
    cells
}

/// Nanoseconds of this thread's CPU for each of `n`, the least of five runs.
fn least(n: usize, mut run: impl FnMut() -> usize) -> f64 {
    let cpu = || -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let first = text.split_whitespace().next();
        first.and_then(|field| field.parse().ok()).unwrap_or(0.0)
    };
    let runs = (0..5).map(|_| {
        let before = cpu();
        std::hint::black_box(run());
        (cpu() - before) / n as f64
    });
    runs.fold(f64::MAX, f64::min)
}

/// Microseconds of `2014-02-14 14:30:00`.
fn micros(time: &str) -> Option<i64> {
    let mut fields = time.split(['-', ' ', ':']).map(|field| field.parse::<f64>().ok());
    let mut next = || Some(fields.next()?? as i64);
    let (year, month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let (y, m) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719_469;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000)
}

fn files(dir: &Path, text: bool) {
    let (mut samples, mut bytes) = (0, 0);
    for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let content = std::fs::read_to_string(file.path()).unwrap_or_default();
        let mut facts = Facts::new();
        for (at, (time, value)) in content.lines().filter_map(|line| line.split_once(',')).enumerate() {
            let (Some(version), Ok(number)) = (micros(time), value.parse::<f64>()) else {
                continue;
            };
            let tick = Tick {
                version,
                stamp: stamp((1_770_000_000_000 << 16) + at as u64 % 1_000),
            };
            match text {
                true => facts.push(b"value", tick, value.as_bytes()),
                false => facts.push(b"value", tick, &number.to_be_bytes()),
            }
        }
        facts.settle();
        samples += facts.len();
        bytes += Encoder::new().encode(&facts).len();
    }
    println!(
        "files, text {text}: {samples} samples, {:.3} bytes each",
        bytes as f64 / samples.max(1) as f64
    );
}

fn main() {
    let deep = Load {
        name: "deep, live, 1 ms jitter",
        devices: 100,
        ticks: 5_000,
        metrics: 10,
        jitter_micros: 1_000,
        live: true,
        text: false,
        block_micros: HOUR,
    };
    let wide = Load {
        name: "wide, 20 points of 10 metrics",
        devices: 5_000,
        ticks: 20,
        ..deep
    };
    let of = |name, change: fn(&mut Load)| {
        let mut load = Load { name, ..deep };
        change(&mut load);
        load
    };
    let loads = [
        deep,
        of("deep, live, exact", |load| load.jitter_micros = 0),
        of("deep, live, 100 ms jitter", |load| load.jitter_micros = 100_000),
        of("deep, batches, 1 ms jitter", |load| load.live = false),
        of("deep, live, 1 ms jitter, text", |load| load.text = true),
        of("deep, live, 1 ms jitter, 24 h", |load| load.block_micros = 24 * HOUR),
        wide,
        Load {
            name: "wide, 20 points of 1 metric",
            devices: 20_000,
            metrics: 1,
            ..wide
        },
    ];
    loads.iter().for_each(Load::run);
    if let Some(dir) = std::env::args().skip(1).find(|arg| Path::new(arg).is_dir()) {
        files(Path::new(&dir), false);
        files(Path::new(&dir), true);
    }
}
