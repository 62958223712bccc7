//! The link between the regions: packets are taken from one region's TUN device and put into the other's, later, or never.
//! In place of the kernel's own emulation, which many kernels lack.
//!
//! ```text
//! east hub                                                     west hub
//!   wan0 ──read──> loss? blackhole? ──> line (due times rise) ──write──> wan0
//!   wan0 <─write── line <── loss? blackhole? <────────────────read────── wan0
//! ```
//! A line keeps the order of packets: reordering is a fault of its own, and what jitter alone does to TCP would be
//! mostly that. A line is bounded; what does not fit is dropped, as in a router.

use crate::tun;
use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Packets under way in one direction; some 100 ms of a fast link.
const LINE_PACKETS_MAX: usize = 8 << 10;
/// Larger than any packet of the devices.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// How often an idle thread looks whether the link is being taken down.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One way over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first region to the second.
    There = 0,
    /// From the second region to the first.
    Back = 1,
}

/// What one way does to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long each packet is under way.
    pub delay: Duration,
    /// Up to that much more, by chance.
    pub jitter: Duration,
    /// Of a million packets, that many are lost.
    pub loss_per_million: u32,
    /// Nothing arrives.
    pub blackhole: bool,
}

/// What one way did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets delivered.
    pub delivered: u64,
    /// Bytes of those, IP headers included.
    pub bytes: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets that fell into the blackhole.
    pub swallowed: u64,
    /// Packets for which the line was too long.
    pub overflowed: u64,
}

#[derive(Debug, Default)]
struct Direction {
    weather: Mutex<Weather>,
    line: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    arrived: Condvar,
    delivered: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    swallowed: AtomicU64,
    overflowed: AtomicU64,
}

/// The running link. Dropping it lets its threads end.
#[derive(Debug)]
pub struct Wan {
    ways: [Arc<Direction>; 2],
    stop: Arc<AtomicBool>,
}

impl Wan {
    /// Forwards between two attached devices from now on.
    pub fn start(first: File, second: File, seed: u64, weather: Weather) -> Result<Wan> {
        let wan = Wan {
            ways: [Arc::default(), Arc::default()],
            stop: Arc::default(),
        };
        for (way, from, to) in [(Way::There, &first, &second), (Way::Back, &second, &first)] {
            wan.set(way, weather);
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let chance = ChaCha8Rng::seed_from_u64(seed ^ way as u64);
            wan.spawn(way, "take", move |direction, stop| take(from, direction, stop, chance))?;
            wan.spawn(way, "give", move |direction, stop| give(to, direction, stop))?;
        }
        Ok(wan)
    }

    fn spawn(
        &self,
        way: Way,
        role: &str,
        work: impl FnOnce(&Direction, &AtomicBool) -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let (direction, stop) = (self.ways[way as usize].clone(), self.stop.clone());
        std::thread::Builder::new()
            .name(format!("wan-{role}-{}", way as usize))
            .spawn(move || {
                let ended = work(&direction, &stop);
                // A device that goes away while the run goes on would look like a cut that nobody planned.
                if let Err(error) = ended
                    && !stop.load(Ordering::Relaxed)
                {
                    eprintln!("the link between the regions broke: {error}");
                }
            })
            .context("cannot start a thread of the link")?;
        Ok(())
    }

    /// Lets the threads end; the devices may go from now on.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Changes the weather of one way.
    pub fn set(&self, way: Way, weather: Weather) {
        *self.ways[way as usize].weather.lock() = weather;
    }

    /// The weather of one way.
    pub fn weather(&self, way: Way) -> Weather {
        *self.ways[way as usize].weather.lock()
    }

    /// What one way did so far.
    pub fn traffic(&self, way: Way) -> Traffic {
        let d = &self.ways[way as usize];
        Traffic {
            delivered: d.delivered.load(Ordering::Relaxed),
            bytes: d.bytes.load(Ordering::Relaxed),
            lost: d.lost.load(Ordering::Relaxed),
            swallowed: d.swallowed.load(Ordering::Relaxed),
            overflowed: d.overflowed.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Takes packets from a device into the line.
fn take(mut device: File, direction: &Direction, stop: &AtomicBool, mut chance: ChaCha8Rng) -> std::io::Result<()> {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut last_due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let bytes = device.read(&mut buffer)?;
        let weather = *direction.weather.lock();
        if weather.blackhole {
            direction.swallowed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if weather.loss_per_million > 0 && chance.random_range(0..1_000_000) < weather.loss_per_million {
            direction.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let jitter = weather.jitter.mul_f64(chance.random_range(0.0..1.0));
        last_due = last_due.max(Instant::now() + weather.delay + jitter);
        let mut line = direction.line.lock();
        if line.len() >= LINE_PACKETS_MAX {
            direction.overflowed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        line.push_back((last_due, buffer[..bytes].to_vec()));
        direction.arrived.notify_one();
    }
    Ok(())
}

/// Puts packets from the line into a device when they are due.
fn give(mut device: File, direction: &Direction, stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let packet = {
            let mut line = direction.line.lock();
            let now = Instant::now();
            match line.front() {
                Some((due, _)) if *due <= now => line.pop_front().map(|(_, packet)| packet),
                Some((due, _)) => {
                    let due = *due;
                    direction.arrived.wait_until(&mut line, due);
                    None
                }
                None => {
                    direction.arrived.wait_for(&mut line, LOOK_EVERY);
                    None
                }
            }
        };
        let Some(packet) = packet else { continue };
        if direction.weather.lock().blackhole {
            // A cut link loses what is under way, too.
            direction.swallowed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        device.write_all(&packet)?;
        direction.delivered.fetch_add(1, Ordering::Relaxed);
        direction.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Attaches to both devices, which must be in this thread's network namespace.
pub fn attach_both(first: &str, second: &str) -> Result<(File, File)> {
    Ok((tun::attach(first)?, tun::attach(second)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    /// A socket keeps packets apart as a device does, and needs no root: the near end is the link's.
    fn device() -> (UnixDatagram, File) {
        let (far, near) = UnixDatagram::pair().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (far, File::from(OwnedFd::from(near)))
    }

    fn arrives(at: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let bytes = at.recv(&mut buffer).unwrap();
        buffer[..bytes].to_vec()
    }

    #[test]
    fn packets_keep_their_order_and_take_their_time() {
        let ((east, first), (west, second)) = (device(), device());
        let weather = Weather {
            delay: Duration::from_millis(30),
            jitter: Duration::from_millis(20),
            ..Weather::default()
        };
        let wan = Wan::start(first, second, 1, weather).unwrap();
        let began = Instant::now();
        for n in 0..20u8 {
            east.send(&[n]).unwrap();
        }
        let order: Vec<Vec<u8>> = (0..20).map(|_| arrives(&west)).collect();
        assert!(began.elapsed() >= weather.delay);
        assert!(order.iter().enumerate().all(|(n, packet)| packet[..] == [n as u8]));
        west.send(b"back").unwrap();
        assert_eq!(arrives(&east), b"back");
        assert_eq!(
            (wan.traffic(Way::There).delivered, wan.traffic(Way::There).bytes),
            (20, 20)
        );
    }

    #[test]
    fn a_cut_way_swallows_and_the_other_does_not() {
        let ((east, first), (west, second)) = (device(), device());
        let wan = Wan::start(first, second, 1, Weather::default()).unwrap();
        let cut = Weather {
            blackhole: true,
            ..Weather::default()
        };
        let lossy = Weather {
            loss_per_million: 1_000_000,
            ..Weather::default()
        };
        for (weather, counted) in [(cut, (1, 0)), (lossy, (1, 1))] {
            wan.set(Way::There, weather);
            east.send(b"lost").unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let seen = || (wan.traffic(Way::There).swallowed, wan.traffic(Way::There).lost);
            while seen() != counted && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(seen(), counted);
        }
        west.send(b"back").unwrap();
        assert_eq!(arrives(&east), b"back");
        wan.set(Way::There, Weather::default());
        east.send(b"again").unwrap();
        assert_eq!(arrives(&west), b"again", "what was lost never comes");
    }
}
