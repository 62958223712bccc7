//! The device fleet: who measures what, decided by a seed alone.
//!
//! Each device has ten metrics that walk at random inside bounds, one step a tick. Values are hundredths in an `i32` and
//! are stored as decimal text (`21.37`): exact to compare, and readable with `tidemark scan`. A device's row is
//! `dev-000123`, so that devices are ordered by number and the table splits into even tablets.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Metrics of one device, and cells of one tick.
pub const METRICS: usize = 10;

/// One kind of measurement; values in hundredths of its unit.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The qualifier.
    pub name: &'static str,
    low: i32,
    high: i32,
    step: i32,
}

const fn metric(name: &'static str, low: i32, high: i32, step: i32) -> Metric {
    Metric { name, low, high, step }
}

/// What every device measures, in the order of a tick's values and of the qualifiers' bytes.
pub const KINDS: [Metric; METRICS] = [
    metric("battery_percent", 0, 10_000, 3),
    metric("co2_ppm", 35_000, 200_000, 900),
    metric("current_ampere", 0, 3_200, 25),
    metric("humidity_percent", 1_500, 9_800, 40),
    metric("power_watt", 0, 735_000, 4_000),
    metric("pressure_hpa", 95_000, 105_000, 12),
    metric("signal_dbm", -12_000, -4_000, 150),
    metric("temperature_celsius", -2_500, 4_800, 20),
    metric("vibration_mm_s", 0, 1_800, 35),
    metric("voltage_volt", 21_500, 24_500, 30),
];

/// One device's reading of all its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Which device, from 0.
    pub device: u32,
    /// One value for each of [`KINDS`], in hundredths.
    pub values: [i32; METRICS],
}

/// All devices and their state.
#[derive(Debug)]
pub struct Fleet {
    rng: ChaCha8Rng,
    devices: Vec<[i32; METRICS]>,
}

impl Fleet {
    /// A fleet of `devices` (at least 1), each metric somewhere inside its bounds.
    pub fn new(seed: u64, devices: u32) -> Fleet {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let devices = (0..devices.max(1))
            .map(|_| KINDS.map(|k| rng.random_range(k.low..=k.high)))
            .collect();
        Fleet { rng, devices }
    }

    /// The next tick: some device's metrics, one step on.
    pub fn tick(&mut self) -> Tick {
        let device = self.rng.random_range(0..self.devices.len());
        let values = &mut self.devices[device];
        for (value, kind) in values.iter_mut().zip(KINDS) {
            let step = self.rng.random_range(-kind.step..=kind.step);
            *value = (*value + step).clamp(kind.low, kind.high);
        }
        Tick {
            device: u32::try_from(device).expect("built from a u32 count"),
            values: *values,
        }
    }
}

/// The row of a device.
pub fn device_row(device: u32) -> String {
    format!("dev-{device:06}")
}

/// The device of a row, if the row is a device's.
pub fn device_of(row: &[u8]) -> Option<u32> {
    let digits = row.strip_prefix(b"dev-")?;
    if digits.len() != 6 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// First rows of the second and later of `tablets` tablets, so that each has about as many devices.
pub fn split_rows(devices: u32, tablets: u32) -> Vec<String> {
    (1..tablets)
        .map(|n| device_row(u32::try_from(u64::from(devices) * u64::from(n) / u64::from(tablets)).unwrap_or(0)))
        .collect()
}

/// A value as it is stored: decimal text with two places.
pub fn value_text(hundredths: i32) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    let size = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", size / 100, size % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let run = |seed| {
            let mut fleet = Fleet::new(seed, 50);
            (0..200).map(|_| fleet.tick()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn walks_stay_inside_their_bounds() {
        let mut fleet = Fleet::new(3, 4);
        for _ in 0..20_000 {
            let tick = fleet.tick();
            for (value, kind) in tick.values.iter().zip(KINDS) {
                assert!((kind.low..=kind.high).contains(value), "{}: {value}", kind.name);
            }
        }
    }

    #[test]
    fn qualifiers_are_sorted() {
        assert!(KINDS.windows(2).all(|w| w[0].name < w[1].name));
    }

    #[test]
    fn values_read_like_decimals() {
        let texts = [0, 5, 2137, -5, -12_000, i32::MIN].map(value_text);
        assert_eq!(texts, ["0.00", "0.05", "21.37", "-0.05", "-120.00", "-21474836.48"]);
    }

    #[test]
    fn rows_are_read_back_and_splits_are_even() {
        assert_eq!(device_of(device_row(123).as_bytes()), Some(123));
        for other in ["dev-12", "dev-00012x", "dev-0000123", "sensor/a", "dev-000001~beat"] {
            assert_eq!(device_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(split_rows(10_000, 4), ["dev-002500", "dev-005000", "dev-007500"]);
    }
}
