//! Writes against a region that misbehaves: order, memory, results, and what the client learns.

use crate::fake::{FakeRegion, Fault, eventually, options};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tidemark_client::{Client, ErrorKind, RetryPolicy, RowMutation, Rule, SERVER_VERSION, WriterOptions};

fn quick() -> RetryPolicy {
    RetryPolicy {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(50),
        ..RetryPolicy::default()
    }
}

async fn client(region: &FakeRegion) -> Client {
    Client::connect(options(&[region]).retry(quick()).build().expect("legal options"))
        .await
        .expect("the region answers")
}

#[tokio::test]
async fn a_batch_goes_to_its_tablets_and_again_after_failures() {
    let region = FakeRegion::start("east", 2, &["row-2"]);
    let faults = [
        Fault::Refuse("BUSY"),
        Fault::Lost,
        Fault::None,
        Fault::Refuse("UNAVAILABLE"),
    ];
    region.state.lock().faults = faults.into_iter().collect();
    let table = client(&region).await.table("t");
    let put = |n: usize, value: &str| RowMutation::new(format!("row-{n}")).put("m", "q", 7, value);
    let rows: Vec<RowMutation> = (0..4)
        .map(|n| put(n, "old"))
        .chain((0..4).map(|n| put(n, "new")))
        .collect();
    table.mutate_rows(&rows).await.unwrap();
    for n in 0..4 {
        assert_eq!(
            region.value(&format!("row-{n}"), "q", 7),
            Some(b"new".to_vec()),
            "row-{n}"
        );
    }
    table.mutate_rows(&[]).await.unwrap();
    let unsafe_one = [
        put(0, "x"),
        RowMutation::new("row-0").put("m", "q", SERVER_VERSION, "y"),
    ];
    let error = table.mutate_rows(&unsafe_one).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::InvalidArgument, "NOT_REPEATABLE")
    );
    assert_eq!(
        region.value("row-0", "q", 7),
        Some(b"new".to_vec()),
        "nothing of it was sent"
    );
}

#[tokio::test]
async fn a_rows_mutations_take_effect_in_order_whatever_fails() {
    let region = FakeRegion::start("east", 2, &["row-2"]);
    let faults = (0..400).map(|n| match n % 5 {
        0 => Fault::Refuse("BUSY"),
        2 => Fault::Lost,
        3 => Fault::Refuse("UNAVAILABLE"),
        _ => Fault::None,
    });
    region.state.lock().faults = faults.collect();
    let writer = client(&region).await.table("t").writer(WriterOptions {
        batch_rows: 3,
        linger: Duration::from_millis(1),
        ..WriterOptions::default()
    });
    let mut tickets = Vec::new();
    for n in 0..200 {
        for row in 0..4 {
            let put = RowMutation::new(format!("row-{row}")).put("m", "q", 7, n.to_string());
            tickets.push(writer.write(put).await.unwrap());
        }
    }
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap().region, "east");
    }
    writer.close().await.unwrap();
    let mut next: HashMap<Vec<u8>, usize> = HashMap::new();
    for (row, value) in &region.state.lock().log {
        let value: usize = String::from_utf8(value.clone()).unwrap().parse().unwrap();
        let next = next.entry(row.clone()).or_default();
        assert!(value <= *next, "{value} came while {next} had not");
        *next = (*next).max(value + 1);
    }
    for row in 0..4 {
        assert_eq!(region.value(&format!("row-{row}"), "q", 7), Some(b"199".to_vec()));
    }
}

#[tokio::test]
async fn a_writer_waits_when_its_memory_is_used_up() {
    const BYTES_MAX: usize = 64 << 10;
    let region = FakeRegion::start("east", 1, &[]);
    region.gate.send_replace(false);
    let writer = client(&region).await.table("t").writer(WriterOptions {
        buffer_bytes_max: BYTES_MAX,
        batch_bytes: 8 << 10,
        ..WriterOptions::default()
    });
    let task = {
        let writer = writer.clone();
        tokio::spawn(async move {
            let mut tickets = Vec::new();
            for n in 0..500 {
                let put = RowMutation::new(format!("row-{n}")).put("m", "q", 7, vec![b'x'; 1_000]);
                tickets.push(writer.write(put).await.unwrap());
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        })
    };
    eventually("the buffer fills up", || writer.buffered_bytes() > BYTES_MAX - 1_100).await;
    assert!(writer.buffered_bytes() <= BYTES_MAX);
    assert!(!task.is_finished());
    region.gate.send_replace(true);
    task.await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(writer.buffered_bytes(), 0);
    let state = region.state.lock();
    assert_eq!(state.rows.len(), 500);
    assert!(
        state.bytes_most <= BYTES_MAX,
        "{} bytes were under way",
        state.bytes_most
    );
}

#[tokio::test]
async fn redirects_are_learnt() {
    let region = FakeRegion::start("east", 2, &[]);
    region.state.lock().tablets[0].leader_told = Some(1);
    let table = client(&region).await.table("t");
    for n in 0..10 {
        table.put(format!("row-{n}"), "m", "q", 7, "v").await.unwrap();
    }
    let writes = region.state.lock().writes.clone();
    assert_eq!(
        (writes.get(&1), writes.get(&0)),
        (Some(&1), Some(&9)),
        "one détour, then straight"
    );
}

#[tokio::test]
async fn a_refusal_without_a_hint_refreshes_the_routing() {
    let region = FakeRegion::start("east", 2, &[]);
    let table = client(&region).await.table("t");
    table.put("a", "m", "q", 7, "v").await.unwrap();
    let before = {
        let mut state = region.state.lock();
        state.refuse_forwarding = true;
        state.tablets[0].leader = 1;
        state.routings
    };
    table.put("b", "m", "q", 7, "v").await.unwrap();
    let writer = table.writer(WriterOptions::default());
    region.state.lock().tablets[0].leader = 0;
    writer
        .write(RowMutation::new("c").put("m", "q", 7, "v"))
        .await
        .unwrap()
        .await
        .unwrap();
    let state = region.state.lock();
    assert!(state.routings >= before + 2, "{} look-ups", state.routings);
    assert_eq!(state.rows.len(), 3);
}

#[tokio::test]
async fn an_unknown_family_is_looked_up_once_and_then_an_error() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("t");
    let writer = table.writer(WriterOptions::default());
    table.put("a", "m", "q", 7, "v").await.unwrap();
    let routings = region.state.lock().routings;
    let error = table.put("a", "late", "q", 7, "v").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::InvalidArgument, "FAMILY_UNKNOWN")
    );
    assert_eq!(region.state.lock().routings, routings + 1);
    let ticket = writer
        .write(RowMutation::new("a").put("late", "q", 7, "v"))
        .await
        .unwrap();
    let error = ticket.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::InvalidArgument, "FAMILY_UNKNOWN")
    );
    assert!(error.action().contains("table alter"), "{error}");
    region.state.lock().families.push("late".to_owned());
    table.put("a", "late", "q", 7, "v").await.unwrap();
    writer
        .write(RowMutation::new("b").put("late", "q", 7, "v"))
        .await
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test]
async fn writes_find_a_table_that_was_made_anew() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("t");
    let writer = table.writer(WriterOptions::default());
    let row = |row: &str| RowMutation::new(row).put("m", "q", 7, "v");
    table.mutate_row(row("a")).await.unwrap();
    region.recreate();
    table.mutate_row(row("b")).await.unwrap();
    writer.write(row("c")).await.unwrap().await.unwrap();
    region.recreate();
    writer.write(row("d")).await.unwrap().await.unwrap();
    assert_eq!(region.value("d", "q", 7), Some(b"v".to_vec()));
}

#[tokio::test]
async fn a_lost_answer_is_an_unknown_outcome_only_where_a_repeat_does_harm() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("t");
    let writer = table.writer(WriterOptions::default());
    let once = || RowMutation::new("a").put("m", "q", SERVER_VERSION, "v");
    let facts = || RowMutation::new("a").put("m", "q", 7, "v");
    let next = |fault| region.state.lock().faults.push_back(fault);

    next(Fault::Lost);
    let error = table.mutate_row(once()).await.unwrap_err();
    assert!(
        error.is_unknown_outcome() && error.node() == region.addresses()[0],
        "{error:?}"
    );
    assert!(std::error::Error::source(&error).is_some(), "the cause is kept");
    next(Fault::Lost);
    let error = writer.write(once()).await.unwrap().await.unwrap_err();
    assert!(error.is_unknown_outcome(), "{error:?}");
    assert!(writer.flush().await.is_err(), "a flush reports it too");
    next(Fault::Lost);
    assert!(
        table
            .mutate_row(RowMutation::new("a").delete_column("m", "q"))
            .await
            .unwrap_err()
            .is_unknown_outcome()
    );

    for fault in [Fault::Lost, Fault::Refuse("BUSY"), Fault::Refuse("UNKNOWN_OUTCOME")] {
        next(fault);
        table.mutate_row(facts()).await.unwrap();
        next(fault);
        writer.write(facts()).await.unwrap().await.unwrap();
    }
    for fault in [Fault::Refuse("BUSY"), Fault::Refuse("NOT_LEADER")] {
        next(fault);
        table.mutate_row(once()).await.unwrap();
        next(fault);
        writer.write(once()).await.unwrap().await.unwrap();
    }
    writer.flush().await.unwrap();
}

#[tokio::test]
async fn one_bad_row_does_not_hurt_its_batch() {
    let region = FakeRegion::start("east", 1, &[]);
    region.state.lock().poison.push(b"bad".to_vec());
    let writer = client(&region).await.table("t").writer(WriterOptions::default());
    let write = |row: &str| writer.write(RowMutation::new(row).put("m", "q", 7, "v"));
    let (good, bad, empty, later) = (
        write("a").await.unwrap(),
        write("bad").await.unwrap(),
        write("").await.unwrap(),
        write("bad").await.unwrap(),
    );
    good.await.unwrap();
    assert_eq!(bad.await.unwrap_err().reason(), "POISON");
    assert_eq!(later.await.unwrap_err().reason(), "POISON");
    assert_eq!(empty.await.unwrap_err().reason(), "ROW_EMPTY");
    assert!(writer.close().await.is_err());
}

#[tokio::test]
async fn a_missing_table_is_an_error_and_nothing_hangs() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("missing");
    assert_eq!(
        table.put("a", "m", "q", 7, "v").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let writer = table.writer(WriterOptions::default());
    for row in ["a", "a", "b"] {
        let ticket = writer.write(RowMutation::new(row).put("m", "q", 7, "v")).await.unwrap();
        assert_eq!(ticket.await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(writer.close().await.is_err());
}

#[tokio::test]
async fn a_token_is_kept_over_retries() {
    let region = FakeRegion::start("east", 1, &[]);
    let table = client(&region).await.table("t");
    region
        .state
        .lock()
        .token_faults
        .extend([Fault::Lost, Fault::Refuse("BUSY"), Fault::Lost]);
    let rule = || {
        vec![Rule::Increment {
            family: "m".into(),
            qualifier: "n".into(),
            by: 1,
        }]
    };
    table.read_modify_write("a", rule()).await.unwrap();
    table.read_modify_write("a", rule()).await.unwrap();
    let tokens = region.state.lock().tokens.clone();
    assert_eq!(tokens.len(), 5);
    assert!(tokens[..4].iter().all(|token| *token == tokens[0] && token.len() == 16));
    assert_ne!(tokens[4], tokens[0], "another call, another token");
}

#[tokio::test]
async fn writes_end_by_their_deadline_and_a_dropped_writer_finishes() {
    let mut region = FakeRegion::start("east", 1, &[]);
    let retry = RetryPolicy {
        deadline: Duration::from_millis(300),
        ..quick()
    };
    let client = Client::connect(options(&[&region]).retry(retry).build().unwrap())
        .await
        .unwrap();
    let table = client.table("t");
    let writer = table.writer(WriterOptions::default());
    let kept = writer.write(RowMutation::new("a").put("m", "q", 7, "v")).await.unwrap();
    drop(writer);
    kept.await.unwrap();
    region.kill(0);
    let began = Instant::now();
    let error = table.put("a", "m", "q", 7, "v").await.unwrap_err();
    // The first attempt may have met the connection while it broke.
    assert!(
        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::UnknownOutcome),
        "{error:?}"
    );
    assert!(error.attempts() > 1, "{error:?}");
    let writer = table.writer(WriterOptions::default());
    let ticket = writer.write(RowMutation::new("a").put("m", "q", 7, "v")).await.unwrap();
    assert!(ticket.await.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
}
