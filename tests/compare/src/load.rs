//! Clients that send batches of ticks, each the next when the last is answered, and note how long each took.

use anyhow::{Context, Result, anyhow};
use std::time::{Duration, Instant};
use tidemark_bench::fleet::{Fleet, Part};
use tidemark_bench::latency::{Latencies, Summary};

/// Ticks in the order in which they were read.
#[derive(Debug, Default)]
pub struct Batch {
    /// Device and version (microseconds) of each tick.
    pub ticks: Vec<(u64, i64)>,
    /// Values of all ticks, one after the other, as many a tick as the fleet has metrics.
    pub values: Vec<f64>,
}

impl Batch {
    fn fill(&mut self, part: &mut Part, ticks: usize) {
        self.ticks.clear();
        self.values.clear();
        while self.ticks.len() < ticks {
            let Some(tick) = part.tick() else { break };
            self.ticks.push((tick.device, tick.version));
            self.values.extend_from_slice(tick.values);
        }
    }

    /// Device, version and values of each tick.
    pub fn iter(&self) -> impl Iterator<Item = (u64, i64, &[f64])> {
        let metrics = self.values.len() / self.ticks.len().max(1);
        let values = self.values.chunks(metrics.max(1));
        self.ticks
            .iter()
            .zip(values)
            .map(|((device, version), values)| (*device, *version, values))
    }
}

/// One client's connection to a peer.
pub trait Sender: Send {
    /// Sends a batch and returns when the peer has answered that it has all of it.
    fn send(&mut self, batch: &Batch) -> Result<()>;
}

/// How a load went.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Values sent and answered.
    pub samples: u64,
    /// From the first batch to the last answer.
    pub elapsed: Duration,
    /// Of a batch, milliseconds.
    pub latency: Summary,
}

/// Sends the whole fleet, one thread a sender. The first error ends the load.
pub fn run(fleet: &Fleet, ticks_a_batch: usize, senders: Vec<Box<dyn Sender>>) -> Result<Loaded> {
    let parts = fleet.parts(senders.len() as u64);
    let began = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let clients: Vec<_> = senders
            .into_iter()
            .zip(parts)
            .map(|(sender, part)| scope.spawn(move || send_all(sender, part, ticks_a_batch)))
            .collect();
        let mut all = Latencies::default();
        for client in clients {
            all.merge(&client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    Ok(Loaded {
        samples: fleet.samples(),
        elapsed: began.elapsed(),
        latency: latencies.summary(),
    })
}

fn send_all(mut sender: Box<dyn Sender>, mut part: Part, ticks_a_batch: usize) -> Result<Latencies> {
    let (mut batch, mut latencies) = (Batch::default(), Latencies::default());
    let mut sent = 0;
    loop {
        batch.fill(&mut part, ticks_a_batch);
        if batch.ticks.is_empty() {
            return Ok(latencies);
        }
        let began = Instant::now();
        sender.send(&batch).with_context(|| format!("after {sent} ticks"))?;
        latencies.record(began.elapsed());
        sent += batch.ticks.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    static SENT: AtomicU64 = AtomicU64::new(0);

    struct Counts;

    impl Sender for Counts {
        fn send(&mut self, batch: &Batch) -> Result<()> {
            let values: usize = batch.iter().map(|(_, _, values)| values.len()).sum();
            SENT.fetch_add(values as u64, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn every_sample_is_sent_once() {
        let fleet = Fleet::of(7, 11);
        let senders: Vec<Box<dyn Sender>> = vec![Box::new(Counts), Box::new(Counts), Box::new(Counts)];
        let loaded = run(&fleet, 10, senders).unwrap();
        assert_eq!((loaded.samples, SENT.load(Ordering::Relaxed)), (770, 770));
    }
}
