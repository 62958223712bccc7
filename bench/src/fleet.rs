//! Devices and their readings, the same from the same seed.
//!
//! ```text
//! device-0000017   tick 0   metric_00=49.9  metric_01=50.12  metric_02=49.987  …  at start + phase + jitter
//!                  tick 1   …                                                     one interval later, other jitter
//! ```
//! Each metric is a random walk around 50 with one, two or three decimals, which most sensors and exporters give, as an
//! 8-byte float: steps are about normal, of 1, 2, 4 or 8 units of the last decimal, with a weak pull back to the middle.
//! Real readings come a little late: each tick has its own jitter, in whole milliseconds, because stores that are compared
//! keep no more.

use crate::noise::Noise;
use clap::Args;
use serde::Serialize;

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in an hour.
pub const HOUR: i64 = 3_600 * SECOND;

/// 2025-10-09T08:53:20Z: a moment in the past, so that no clock refuses the versions, and the same for every run.
const START_MICROS: i64 = 1_760_000_000 * SECOND;
const MIDDLE: i32 = 50;
const SCALES: [i32; 3] = [10, 100, 1_000];
const STEPS: [i32; 4] = [1, 2, 4, 8];
/// Of the sum of four bytes, whose mean is 510.
const DEVIATION: i32 = 148;

/// Which devices there are and how often they are read. Loading and reading workloads must be given the same.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Fleet {
    /// Devices; each is a row
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub devices: u64,
    /// Ticks of each device
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub ticks: u64,
    /// Metrics of a tick; each is a column
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub metrics: u64,
    /// Milliseconds between two ticks of a device
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub interval_ms: u64,
    /// How late a tick is at most, milliseconds; less than the interval
    #[arg(long, default_value_t = 20)]
    pub jitter_ms: u64,
    /// Another seed, other readings
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Fleet {
    /// A fleet with the usual metrics, interval and seed.
    pub fn of(devices: u64, ticks: u64) -> Fleet {
        Fleet {
            devices,
            ticks,
            metrics: 10,
            interval_ms: 10_000,
            jitter_ms: 20,
            seed: 1,
        }
    }

    /// An error if no such fleet can be.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.jitter_ms < self.interval_ms,
            "--jitter-ms {} must be less than --interval-ms {}",
            self.jitter_ms,
            self.interval_ms
        );
        Ok(())
    }

    /// Values of the whole fleet.
    pub fn samples(&self) -> u64 {
        self.devices * self.ticks * self.metrics
    }

    /// Between two ticks, microseconds.
    pub fn interval_micros(&self) -> i64 {
        self.interval_ms as i64 * 1_000
    }

    /// The earliest moment of a device's tick; it comes at most its jitter later. Devices are not read all at once: each
    /// has its phase within the interval.
    pub fn due(&self, device: u64, tick: u64) -> i64 {
        let phase = Noise::at(&[self.seed, device]).below(self.interval_ms - self.jitter_ms) as i64 * 1_000;
        START_MICROS + phase + tick as i64 * self.interval_micros()
    }

    /// Ticks of one hour, or all there are.
    pub fn ticks_of_an_hour(&self) -> u64 {
        (HOUR / self.interval_micros()).clamp(1, self.ticks as i64) as u64
    }

    /// The names of the metrics, in order.
    pub fn metric_names(&self) -> Vec<String> {
        (0..self.metrics).map(|m| format!("metric_{m:02}")).collect()
    }

    /// The devices `first..end`, from their first tick on.
    pub fn part(&self, first: u64, end: u64) -> Part {
        let metrics = self.metrics as usize;
        let levels = (0..metrics).map(|m| MIDDLE * SCALES[m % SCALES.len()]);
        Part {
            fleet: self.clone(),
            first,
            end,
            device: first,
            tick: 0,
            levels: levels.cycle().take((end - first) as usize * metrics).collect(),
            values: vec![0.0; metrics],
        }
    }

    /// The fleet in `parts` runs of neighbouring devices, as even as can be.
    pub fn parts(&self, parts: u64) -> Vec<Part> {
        let bound = |n: u64| self.devices * n / parts;
        (0..parts).map(|n| self.part(bound(n), bound(n + 1))).collect()
    }

    /// First rows of the second and later of `tablets` parts of equal size.
    pub fn splits(&self, tablets: u64) -> Vec<Vec<u8>> {
        let first = (1..tablets).map(|n| self.devices * n / tablets);
        let mut splits: Vec<Vec<u8>> = first.map(|d| row(d).into_bytes()).collect();
        splits.dedup();
        splits
    }
}

/// A device's row.
pub fn row(device: u64) -> String {
    format!("device-{device:07}")
}

/// One device's readings at one moment.
#[derive(Debug)]
pub struct Tick<'a> {
    /// Which device.
    pub device: u64,
    /// Microseconds since 1970.
    pub version: i64,
    /// One a metric.
    pub values: &'a [f64],
}

/// Neighbouring devices, read in turn: all of them at tick 0, then all at tick 1. It remembers where each walk is: four
/// bytes a metric.
#[derive(Debug)]
pub struct Part {
    fleet: Fleet,
    first: u64,
    end: u64,
    device: u64,
    tick: u64,
    levels: Vec<i32>,
    values: Vec<f64>,
}

impl Part {
    /// Ticks that are still to come.
    pub fn left(&self) -> u64 {
        let devices = self.end - self.first;
        (self.fleet.ticks - self.tick) * devices - (self.device - self.first)
    }

    /// The next reading, or `None` after the last.
    pub fn tick(&mut self) -> Option<Tick<'_>> {
        if self.left() == 0 {
            return None;
        }
        let (device, tick) = (self.device, self.tick);
        self.device += 1;
        if self.device == self.end {
            self.device = self.first;
            self.tick += 1;
        }
        let mut noise = Noise::at(&[self.fleet.seed, device, tick]);
        let jitter = noise.below(self.fleet.jitter_ms + 1) as i64 * 1_000;
        let at = (device - self.first) as usize * self.values.len();
        let levels = &mut self.levels[at..at + self.values.len()];
        let mut bits = 0;
        for (m, (level, value)) in levels.iter_mut().zip(&mut self.values).enumerate() {
            bits = if m % 2 == 0 { noise.bits() } else { bits >> 32 };
            let sum = (bits as u32).to_le_bytes().iter().map(|b| i32::from(*b)).sum::<i32>();
            let scale = SCALES[m % SCALES.len()];
            let push = (sum - 510) * STEPS[m % STEPS.len()];
            // A thousandth of the way back to the middle, before the rounding, or it would be lost in it.
            let pull = (MIDDLE * scale - *level) * DEVIATION / 1_000;
            *level += (push + pull + DEVIATION / 2).div_euclid(DEVIATION);
            *value = f64::from(*level) / f64::from(scale);
        }
        Some(Tick {
            device,
            version: self.fleet.due(device, tick) + jitter,
            values: &self.values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut part: Part) -> Vec<(u64, i64, Vec<f64>)> {
        let mut ticks = Vec::new();
        while let Some(tick) = part.tick() {
            ticks.push((tick.device, tick.version, tick.values.to_vec()));
        }
        ticks
    }

    #[test]
    fn the_same_seed_gives_the_same_readings_however_the_fleet_is_cut() {
        let fleet = Fleet::of(10, 50);
        let sorted = |mut ticks: Vec<(u64, i64, Vec<f64>)>| {
            ticks.sort_by_key(|t| (t.0, t.1));
            ticks
        };
        let whole = sorted(all(fleet.part(0, 10)));
        let cut = sorted(fleet.parts(3).into_iter().flat_map(all).collect());
        assert_eq!(whole.len() as u64 * fleet.metrics, fleet.samples());
        assert_eq!(whole, cut);
        let other = Fleet {
            seed: 2,
            ..fleet.clone()
        };
        assert_ne!(whole, sorted(all(other.part(0, 10))));
    }

    /// Golden: a run of today can be compared with one of next year.
    #[test]
    fn readings_never_change() {
        let ticks = all(Fleet::of(2, 3).part(0, 2));
        let (device, version, values) = &ticks[5];
        let values: Vec<String> = values.iter().map(f64::to_string).collect();
        assert_eq!((*device, *version), (1, GOLDEN_VERSION));
        assert_eq!(values.join(" "), GOLDEN_VALUES);
    }
    const GOLDEN_VERSION: i64 = 1_760_000_029_371_000;
    const GOLDEN_VALUES: &str = "50 50 50.007 50.6 49.99 50.002 48.4 49.9 50.002 50";

    #[test]
    fn values_are_short_decimals_that_walk() {
        let mut part = Fleet::of(1, 5_000).part(0, 1);
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        while let Some(tick) = part.tick() {
            for (m, value) in tick.values.iter().enumerate() {
                let text = value.to_string();
                let decimals = text.split_once('.').map_or(0, |(_, d)| d.len());
                assert!(decimals <= m % 3 + 1, "metric {m}: {text}");
            }
            least = least.min(tick.values[0]);
            most = most.max(tick.values[0]);
        }
        assert!(
            least < 49.0 && most > 51.0 && least > 0.0 && most < 100.0,
            "{least}..{most}"
        );
    }

    #[test]
    fn an_hour_of_a_device_has_exactly_its_ticks() {
        let fleet = Fleet::of(3, 1_000);
        let hour = fleet.ticks_of_an_hour();
        assert_eq!(hour, 360);
        let ticks = all(fleet.part(0, 3));
        for device in 0..3 {
            for first in [0, 17, 640] {
                let from = fleet.due(device, first);
                let to = from + hour as i64 * fleet.interval_micros();
                let inside = ticks
                    .iter()
                    .filter(|t| t.0 == device && (from..to).contains(&t.1))
                    .count();
                assert_eq!(inside as u64, hour, "device {device} from tick {first}");
            }
        }
    }

    #[test]
    fn splits_cut_the_rows_evenly_and_are_never_equal() {
        assert_eq!(
            Fleet::of(2_000, 1).splits(4),
            [&b"device-0000500"[..], b"device-0001000", b"device-0001500"]
        );
        assert_eq!(Fleet::of(2, 1).splits(8).len(), 2);
    }
}
