//! The stream's decisions, with lists of events.

use super::*;
use crate::link::{RegionIdentity, ShipCodec};
use bytes::Bytes;
use tidemark_base::{ErrorKind, RegionId, RowRange, TabletId};

const NOW_MS: u64 = 1_700_000_000_000;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn hlc(ms: u64) -> u64 {
    ms << 16
}

fn core(acked: Option<u64>) -> StreamCore {
    let settings = ReplicationSettings {
        ship_window: 2,
        ship_linger_ms: 0,
        ..ReplicationSettings::default()
    };
    let mut core = StreamCore::new(Arc::new(settings), acked, Duration::ZERO);
    core.set_schema_known(true);
    core
}

fn feed(core: &mut StreamCore, last_seq: u64, last_rows_seq: u64, now: Duration) {
    let end = FeedEnd {
        last_seq,
        last_rows_seq,
        persisted_seq: None,
    };
    core.feed_at(end, now);
}

fn message(first_seq: u64, last_seq: u64, rows: u64, now: Duration) -> Message {
    Message {
        ship: Ship {
            from: RegionIdentity {
                name: "east".into(),
                region: RegionId(1),
            },
            table: "t".into(),
            tablet: TabletId(2),
            range: RowRange::all(),
            first_seq,
            last_seq,
            codec: ShipCodec::None,
            records: Bytes::new(),
            records_bytes: 0,
            lag_ms: 0,
        },
        rows,
        oldest_rows_hlc: (rows > 0).then_some(hlc(NOW_MS)),
        closed_hlc: hlc(NOW_MS),
        read_at: now,
        memory: None,
    }
}

fn read(core: &mut StreamCore, last_seq: u64, rows: u64, now: Duration) -> Ship {
    let from_seq = loop {
        match core.next(now) {
            Step::Ack(seq) => core.ack_done(Some(seq), now),
            Step::Read { from_seq, .. } => break from_seq,
            step => panic!("a read was due, not {step:?}"),
        }
    };
    core.read_done(message(from_seq, last_seq, rows, now), true, NOW_MS, now)
}

fn waits(core: &mut StreamCore, now: Duration) -> bool {
    matches!(core.next(now), Step::Wait(_))
}

fn applied(seq: u64) -> Shipped {
    Shipped {
        applied_seq: seq,
        ..Shipped::default()
    }
}

fn unreachable() -> Cause {
    Cause::PeerUnreachable("down".into())
}

#[test]
fn a_fresh_stream_covers_from_the_first_sequence() {
    let mut core = core(None);
    assert!(waits(&mut core, secs(0)));
    feed(&mut core, 40, 40, secs(0));
    assert!(matches!(
        core.next(secs(0)),
        Step::Read {
            from_seq: 1,
            fresh: true
        }
    ));
}

#[test]
fn it_ships_acknowledges_and_writes_the_position_down() {
    let mut core = core(Some(10));
    feed(&mut core, 14, 14, secs(1));
    assert_eq!(read(&mut core, 12, 2, secs(1)).first_seq, 11);
    assert_eq!(read(&mut core, 14, 1, secs(1)).first_seq, 13);
    assert!(waits(&mut core, secs(1)), "the window is full");
    assert_eq!(core.sent_ok(13, &applied(10), secs(1)).rows, 0);
    assert_eq!(core.sent_ok(11, &applied(14), secs(1)).rows, 3);
    assert!(matches!(core.next(secs(2)), Step::Ack(14)));
    assert!(waits(&mut core, secs(9)), "one position at a time");
    core.ack_done(Some(14), secs(9));
    assert!(waits(&mut core, secs(99)));
    assert_eq!((core.oldest(), core.lag_ms(NOW_MS + 5_000, secs(9))), (None, 0));
}

#[test]
fn an_idle_stream_has_no_lag_though_close_markers_are_under_way() {
    let mut core = core(Some(10));
    feed(&mut core, 12, 9, secs(1));
    assert_eq!(core.lag_ms(NOW_MS, secs(1)), 0);
    read(&mut core, 12, 0, secs(1));
    assert_eq!(core.lag_ms(NOW_MS + 60_000, secs(61)), 0);
}

#[test]
fn the_lag_of_a_stuck_stream_grows_and_no_clock_makes_it_small() {
    let mut core = core(Some(0));
    feed(&mut core, 1, 1, secs(1));
    let ship = read(&mut core, 1, 1, secs(1));
    assert_eq!(ship.lag_ms, 0);
    for failure in 0..5 {
        core.sent_failed(1, unreachable(), secs(2 + failure));
        assert_eq!(core.lag_ms(NOW_MS + 30_000, secs(31)), 30_000);
        match core.next(secs(2 + failure)) {
            Step::Send(_) => {}
            Step::Read { from_seq: 1, .. } => _ = core.read_done(message(1, 1, 1, secs(1)), true, NOW_MS, secs(1)),
            step => panic!("{step:?}"),
        }
    }
    let clock_set_back = NOW_MS - 3_600_000;
    assert_eq!(core.lag_ms(clock_set_back, secs(31)), 30_000);
    assert!(core.cause().is_some_and(|cause| cause.blocks()));
    core.sent_ok(1, &applied(1), secs(40));
    assert_eq!((core.lag_ms(NOW_MS + 99_000, secs(99)), core.cause()), (0, None));
}

#[test]
fn a_paused_stream_ships_nothing_and_looks_how_old_its_oldest_write_is() {
    let mut core = core(Some(0));
    core.set_paused(true);
    feed(&mut core, 9, 8, secs(1));
    assert_eq!(
        core.lag_ms(NOW_MS, secs(4)),
        3_000,
        "rows came into sight three seconds ago"
    );
    assert!(matches!(core.next(secs(4)), Step::Peek { from_seq: 1 }));
    core.peeked(None, 5, secs(4));
    assert!(waits(&mut core, secs(4)), "not without rest");
    assert!(matches!(core.next(secs(5)), Step::Peek { from_seq: 6 }));
    core.peeked(Some((7, hlc(NOW_MS - 7_000))), 7, secs(5));
    assert_eq!(core.lag_ms(NOW_MS, secs(5)), 7_000);
    assert!(waits(&mut core, secs(50)));
    core.set_paused(false);
    assert!(matches!(core.next(secs(50)), Step::Read { from_seq: 1, .. }));
}

#[test]
fn a_paused_stream_retries_nothing_until_it_is_resumed() {
    let mut core = core(Some(0));
    feed(&mut core, 9, 9, secs(0));
    read(&mut core, 4, 1, secs(0));
    core.set_paused(true);
    core.sent_failed(1, unreachable(), secs(1));
    for at in [1, 2, 60, 3_600] {
        let next = core.next(secs(at));
        assert!(!matches!(next, Step::Send(_)), "sent again while paused: {next:?}");
        if matches!(next, Step::Peek { .. }) {
            core.peeked(None, 9, secs(at));
        }
    }
    core.set_paused(false);
    assert!(matches!(core.next(secs(3_600)), Step::Send(ship) if ship.first_seq == 1));
}

#[test]
fn messages_that_fail_together_are_one_failure_and_the_window_is_given_up_after_three() {
    let mut core = core(Some(0));
    feed(&mut core, 20, 20, secs(0));
    read(&mut core, 1, 1, secs(0));
    read(&mut core, 2, 1, secs(0));
    core.sent_failed(1, unreachable(), secs(1));
    core.sent_failed(2, unreachable(), secs(1));
    let unavailable = Error::unavailable("PEER_UNREACHABLE", "m", Duration::ZERO);
    assert_eq!(
        core.judge(&unavailable).1,
        Duration::from_millis(200),
        "the second failure"
    );
    for at in 1..=2 {
        assert!(matches!(core.next(secs(at)), Step::Send(ship) if ship.first_seq == 1));
        assert!(!matches!(core.next(secs(at)), Step::Send(_)), "one at a time");
        core.sent_failed(1, unreachable(), secs(at + 1));
    }
    assert!(
        core.window().message(1).is_none(),
        "nothing is held for a peer that is away"
    );
    assert_eq!(read(&mut core, 1, 1, secs(9)).first_seq, 1);
    core.sent_ok(1, &applied(1), secs(9));
    assert_eq!(read(&mut core, 2, 1, secs(9)).first_seq, 2);
}

#[test]
fn a_peer_that_has_more_than_was_written_stops_the_stream() {
    let mut core = core(Some(5));
    feed(&mut core, 6, 6, secs(0));
    read(&mut core, 6, 1, secs(0));
    assert_eq!(core.sent_ok(6, &applied(900), secs(0)), Advance::default());
    assert!(matches!(
        core.cause(),
        Some(Cause::PeerAhead {
            applied_seq: 900,
            last_seq: 6
        })
    ));
    assert!(core.window().acked_seq() == 5 && waits(&mut core, secs(9)));
    assert!(
        core.lag_ms(NOW_MS + 1_000, secs(9)) >= 1_000,
        "and its lag goes on growing"
    );
}

/// Reading sees what the engine has committed, before the tablet has published it.
#[test]
fn a_peer_that_took_what_was_read_before_it_was_published_is_not_ahead() {
    let mut core = core(Some(5));
    feed(&mut core, 6, 6, secs(0));
    read(&mut core, 9, 4, secs(0));
    assert_eq!(core.sent_ok(6, &applied(9), secs(0)).rows, 4);
    assert_eq!((core.cause(), core.last_seq()), (None, 9));
}

#[test]
fn a_peer_that_lost_what_it_had_acknowledged_is_shown() {
    let mut core = core(Some(5));
    feed(&mut core, 6, 6, secs(0));
    read(&mut core, 6, 1, secs(0));
    core.sent_ok(6, &applied(0), secs(0));
    assert!(matches!(
        core.cause(),
        Some(Cause::PeerBehind {
            applied_seq: 0,
            acked_seq: 5
        })
    ));
}

#[test]
fn a_feed_that_lacks_what_the_peer_needs_is_never_shipped_past() {
    let mut core = core(Some(5));
    feed(&mut core, 90, 90, secs(0));
    assert!(matches!(
        core.next(secs(0)),
        Step::Read {
            from_seq: 6,
            fresh: false
        }
    ));
    core.feed_trimmed(50);
    assert!(waits(&mut core, secs(0)) || matches!(core.next(secs(9)), Step::Wait(_)));
    assert!(core.cause().is_some_and(|cause| cause.blocks()));
}

#[test]
fn what_waits_in_the_peers_quarantine_is_lag() {
    let mut core = core(Some(0));
    feed(&mut core, 1, 1, secs(0));
    read(&mut core, 1, 1, secs(0));
    let answer = Shipped {
        applied_seq: 1,
        rows_quarantined: 3,
        complete_hlc: hlc(NOW_MS - 4_000),
        ..Shipped::default()
    };
    core.sent_ok(1, &answer, secs(0));
    assert_eq!(core.lag_ms(NOW_MS, secs(0)), 4_000);
    assert_eq!(core.cause(), Some(Cause::Quarantined(3)));
    feed(&mut core, 2, 1, secs(1));
    read(&mut core, 2, 0, secs(1));
    core.sent_ok(2, &applied(2), secs(1));
    assert_eq!((core.lag_ms(NOW_MS, secs(1)), core.cause()), (0, None));
}

#[test]
fn nothing_is_read_before_the_tablet_knows_the_peer() {
    let mut core = core(None);
    core.set_schema_known(false);
    feed(&mut core, 9, 0, secs(0));
    assert!(waits(&mut core, secs(0)));
    assert_eq!(core.cause(), Some(Cause::SchemaPending));
    core.set_schema_known(true);
    assert!(matches!(core.next(secs(0)), Step::Read { .. }));
    core.read_failed("disk".into(), secs(0));
    assert!(waits(&mut core, secs(1)) && core.cause().is_some_and(|cause| cause.blocks()));
    assert!(matches!(core.next(secs(4)), Step::Read { .. }));
    core.read_empty(secs(4));
    assert_eq!(
        core.judge(&Error::new(ErrorKind::Busy, "B", "m")).0,
        Cause::PeerBusy("B: m".into())
    );
}
