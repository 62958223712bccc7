//! Clients that know both regions: they prefer one, and go to the other while it is lost.

use super::pace::Pace;
use super::{FAMILY, Shared, TELEMETRY, outcome_of, put, words};
use crate::plan::REGIONS;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;
use tidemark_checkers::history::{Action, Operation, Outcome, Record};
use tidemark_client::{Client, ClientOptions, RetryPolicy};

/// A client whose first region is `home`.
pub(super) async fn connect(home: usize, addresses: &[Vec<String>]) -> Result<Client> {
    let other = 1 - home;
    let options = ClientOptions::builder()
        .region(REGIONS[home], addresses[home].clone())
        .region(REGIONS[other], addresses[other].clone())
        .connect_timeout(Duration::from_millis(500))
        .failover_after(Duration::from_millis(500))
        .failback_after(Duration::from_secs(2))
        .first_answer_within(Duration::from_secs(30))
        .retry(RetryPolicy {
            max: Duration::from_millis(100),
            deadline: Duration::from_secs(25),
            ..RetryPolicy::default()
        })
        .build()?;
    Client::connect(options).await.context("no client of both regions")
}

/// Writes cells of their own versions, which may be repeated anywhere.
pub(super) async fn write(shared: Arc<Shared>, client: Client, home: usize, mut pace: Pace) {
    let table = client.table(TELEMETRY);
    let row = format!("roam-{}", REGIONS[home]);
    while pace.turn().await {
        let id = shared.recorder().next_id();
        let version = i64::try_from(id).expect("a run has fewer operations");
        let value = format!("m{id}");
        let action = Action::Write {
            mutations: vec![put("m", version, &value)],
        };
        let mut operation = Operation::begun(id, pace.client, REGIONS[home], TELEMETRY, &row, action, shared.now());
        let answer = table.put(&row, FAMILY, "m", version, &value).await;
        operation.returned = Some(shared.now());
        match answer {
            Ok(written) => {
                // Which region it was is known only now, and so the operation is written only now.
                operation.region = written.region;
                operation.outcome = Outcome::Ok;
                let by = REGIONS.iter().position(|r| *r == operation.region).unwrap_or(home);
                shared.note_roam(home, by);
            }
            Err(error) => {
                operation.outcome = outcome_of(&error);
                operation.error = Some(words(&error));
                shared.note_error(&error);
            }
        }
        shared.recorder().write(&Record::Op(operation));
    }
}

impl Shared {
    fn note_roam(&self, home: usize, by: usize) {
        let now = self.now();
        let mut seen = self.seen.lock();
        seen.ended += 1;
        seen.succeeded += 1;
        seen.acknowledged[by] += 1;
        seen.roams.push((now, home, by));
    }
}
