//! A feed is trimmed with every acknowledgement of a peer: what that costs must not grow with the trims before it.

use std::time::{Duration, Instant};
use tidemark_engine::{Engine, RocksEngine, RocksSettings, RocksShared};
use tidemark_runtime::SystemClock;

/// Commits with a feed record each, a trim with every second one, a read of the feed's end with each of the others.
const COMMITS: u64 = 4_000;

/// With one range deletion a trim this took 115 s where 20 ms were enough without trims: each read behind a range deletion
/// sorts all of the memtable's anew. The bound is far from both, so that only the shape of the cost decides.
#[test]
fn trimming_a_feed_costs_the_same_however_often_it_was_trimmed() {
    let temp = tempfile::tempdir().unwrap();
    let shared = RocksShared::new(RocksSettings::default()).unwrap();
    let engine = RocksEngine::open(&temp.path().join("t"), &shared, SystemClock::shared()).unwrap();
    let began = Instant::now();
    for seq in 1..=COMMITS {
        let mut batch = engine.write_batch();
        batch.put_feed(seq, &[7; 100]);
        if seq % 2 == 0 {
            batch.trim_feed(seq.saturating_sub(3));
        }
        batch.commit().unwrap();
        if seq % 2 == 1 {
            assert_eq!(engine.feed(seq, 1_000).unwrap().len(), 1);
        }
        assert!(
            began.elapsed() < Duration::from_secs(40),
            "{seq} commits took {:?}",
            began.elapsed()
        );
    }
    assert_eq!(engine.feed_bounds().unwrap(), Some((COMMITS - 3, COMMITS)));
    assert!(engine.feed(1, usize::MAX).unwrap().len() <= 4);
    // A long silence leaves much behind, which goes at once.
    for seq in COMMITS + 1..=COMMITS + 30_000 {
        let mut batch = engine.write_batch();
        batch.put_feed(seq, &[7; 10]);
        batch.commit().unwrap();
    }
    let last = COMMITS + 30_000;
    let mut batch = engine.write_batch();
    batch.trim_feed(last);
    batch.commit().unwrap();
    assert_eq!(engine.feed_bounds().unwrap(), Some((last, last)));
    assert_eq!(engine.feed(1, usize::MAX).unwrap().len(), 1);
}
