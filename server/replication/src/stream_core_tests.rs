//! The stream's decisions, with lists of events.

use super::*;
use crate::link::{RegionIdentity, ShipCodec};
use bytes::Bytes;
use tidemark_base::{ErrorKind, RegionId, RowRange, TableId, TabletId};

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
    let start = StreamStart {
        acked_seq: acked,
        linked_at_ms: NOW_MS - 600_000,
        ..StreamStart::default()
    };
    began(settings, start)
}

fn began(settings: ReplicationSettings, start: StreamStart) -> StreamCore {
    let mut core = StreamCore::new(Arc::new(settings), start, Duration::ZERO);
    core.set_schema_known(true);
    // The stream looks once before there is anything.
    feed(&mut core, start.acked_seq.unwrap_or(0), 0, Duration::ZERO);
    core
}

fn lag(core: &StreamCore, now_ms: u64, now: Duration) -> (u64, bool) {
    let lag = core.lag(now_ms, now);
    (lag.ms, lag.known)
}

fn held(rows: u64, complete_ms: u64) -> PeerQuarantine {
    PeerQuarantine {
        rows,
        complete_hlc: hlc(complete_ms),
    }
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
            from_table: TableId(1),
            to_table: TableId(2),
            tablet: TabletId(2),
            range: RowRange::all(),
            first_seq,
            last_seq,
            codec: ShipCodec::None,
            records: Bytes::new(),
            records_bytes: 0,
            lag_ms: 0,
            lag_known: true,
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
            Step::Ack(seq, _) => core.ack_done(Some(seq), now),
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
    assert!(matches!(core.next(secs(2)), Step::Ack(14, _)));
    assert!(waits(&mut core, secs(9)), "one position at a time");
    core.ack_done(Some(14), secs(9));
    assert!(waits(&mut core, secs(99)));
    assert_eq!((core.oldest(), lag(&core, NOW_MS + 5_000, secs(9))), (None, (0, true)));
}

#[test]
fn an_idle_stream_has_no_lag_though_close_markers_are_under_way() {
    let mut core = core(Some(10));
    feed(&mut core, 12, 9, secs(1));
    assert_eq!(lag(&core, NOW_MS, secs(1)), (0, true));
    read(&mut core, 12, 0, secs(1));
    assert_eq!(lag(&core, NOW_MS + 60_000, secs(61)), (0, true));
}

#[test]
fn the_lag_of_a_stuck_stream_grows_and_no_clock_makes_it_small() {
    let mut core = core(Some(0));
    feed(&mut core, 1, 1, secs(1));
    let ship = read(&mut core, 1, 1, secs(1));
    assert_eq!(ship.lag_ms, 0);
    for failure in 0..5 {
        core.sent_failed(1, unreachable(), secs(2 + failure));
        assert_eq!(lag(&core, NOW_MS + 30_000, secs(31)), (30_000, true));
        match core.next(secs(2 + failure)) {
            Step::Send(_) => {}
            Step::Read { from_seq: 1, .. } => _ = core.read_done(message(1, 1, 1, secs(1)), true, NOW_MS, secs(1)),
            step => panic!("{step:?}"),
        }
    }
    let clock_set_back = NOW_MS - 3_600_000;
    assert_eq!(lag(&core, clock_set_back, secs(31)), (30_000, true));
    assert!(core.cause().is_some_and(|cause| cause.blocks()));
    core.sent_ok(1, &applied(1), secs(40));
    assert_eq!((lag(&core, NOW_MS + 99_000, secs(99)), core.cause()), ((0, true), None));
}

#[test]
fn a_paused_stream_ships_nothing_and_looks_how_old_its_oldest_write_is() {
    let mut core = core(Some(0));
    core.set_paused(true);
    feed(&mut core, 9, 8, secs(1));
    assert_eq!(
        lag(&core, NOW_MS, secs(4)),
        (3_000, true),
        "rows came into sight three seconds ago"
    );
    assert!(matches!(core.next(secs(4)), Step::Peek { from_seq: 1 }));
    core.peeked(None, 5, secs(4));
    assert!(waits(&mut core, secs(4)), "not without rest");
    assert!(matches!(core.next(secs(5)), Step::Peek { from_seq: 6 }));
    core.peeked(Some((7, hlc(NOW_MS - 7_000))), 7, secs(5));
    assert_eq!(lag(&core, NOW_MS, secs(5)), (7_000, true));
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
        lag(&core, NOW_MS + 1_000, secs(9)) == (601_000, false),
        "what it lacks is not known"
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
    assert_eq!(lag(&core, NOW_MS, secs(0)), (4_000, true));
    assert_eq!(core.cause(), Some(Cause::Quarantined(3)));
    feed(&mut core, 2, 1, secs(1));
    read(&mut core, 2, 0, secs(1));
    core.sent_ok(2, &applied(2), secs(1));
    assert_eq!((lag(&core, NOW_MS, secs(1)), core.cause()), ((0, true), None));
}

/// INV-43: the peer cannot say how old what it holds is, while it is complete through nothing.
#[test]
fn a_quarantine_of_unknown_age_makes_the_lag_unknown_and_not_zero() {
    let mut core = core(Some(0));
    feed(&mut core, 1, 1, secs(0));
    read(&mut core, 1, 1, secs(0));
    let answer = Shipped {
        applied_seq: 1,
        rows_quarantined: 3,
        ..Shipped::default()
    };
    core.sent_ok(1, &answer, secs(0));
    assert_eq!(lag(&core, NOW_MS, secs(0)), (600_000, false), "not older than the link");
    assert_eq!(core.acknowledged_hlc(1, hlc(NOW_MS)), 0);
}

/// INV-43: a leader that comes knows from the log what the peer held; until it has heard the peer that is a bound.
#[test]
fn what_a_peer_holds_survives_a_change_of_leaders() {
    let mut old = core(Some(0));
    feed(&mut old, 1, 1, secs(0));
    read(&mut old, 1, 1, secs(0));
    let holds = Shipped {
        applied_seq: 1,
        rows_quarantined: 3,
        complete_hlc: hlc(NOW_MS - 4_000),
        ..Shipped::default()
    };
    old.sent_ok(1, &holds, secs(0));
    let Step::Ack(1, written) = old.next(secs(5)) else {
        panic!("the position is due");
    };
    assert_eq!(written, held(3, NOW_MS - 4_000));
    let start = StreamStart {
        acked_seq: Some(1),
        acked_hlc: hlc(NOW_MS),
        held: written,
        linked_at_ms: NOW_MS - 600_000,
    };
    let mut new = began(ReplicationSettings::default(), start);
    assert_eq!(lag(&new, NOW_MS, secs(0)), (4_000, false));
    assert_eq!(new.cause(), Some(Cause::Quarantined(3)));
    feed(&mut new, 2, 1, secs(1));
    read(&mut new, 2, 0, secs(1));
    new.sent_ok(
        2,
        &Shipped {
            applied_seq: 2,
            ..holds.clone()
        },
        secs(1),
    );
    assert_eq!(lag(&new, NOW_MS, secs(1)), (4_000, true), "now it is heard");
    assert_eq!(new.acknowledged_hlc(2, hlc(NOW_MS)), hlc(NOW_MS - 4_000));
    let nothing = StreamStart {
        held: PeerQuarantine::default(),
        ..start
    };
    let new = began(ReplicationSettings::default(), nothing);
    assert_eq!(
        lag(&new, NOW_MS, secs(0)),
        (0, true),
        "and where nothing was held nothing is"
    );
}

/// INV-43: a leader that comes finds rows that may have waited for hours.
#[test]
fn what_lay_unread_before_a_stream_began_has_no_age_until_it_was_looked_at() {
    let settings = Arc::new(ReplicationSettings::default());
    let start = StreamStart {
        acked_seq: Some(10),
        linked_at_ms: NOW_MS - 600_000,
        ..StreamStart::default()
    };
    let mut core = StreamCore::new(settings, start, secs(0));
    core.set_paused(true);
    assert_eq!(
        lag(&core, NOW_MS, secs(0)),
        (600_000, false),
        "the schema was not seen yet"
    );
    core.set_schema_known(true);
    feed(&mut core, 90, 80, secs(0));
    assert_eq!(lag(&core, NOW_MS, secs(0)), (600_000, false), "not older than the link");
    let acked = StreamStart {
        acked_hlc: hlc(NOW_MS - 800),
        ..start
    };
    let mut bounded = StreamCore::new(Arc::new(ReplicationSettings::default()), acked, secs(0));
    bounded.set_schema_known(true);
    feed(&mut bounded, 90, 80, secs(0));
    assert_eq!(
        lag(&bounded, NOW_MS, secs(0)),
        (800, false),
        "nor than what the peer has"
    );
    assert!(matches!(core.next(secs(0)), Step::Peek { from_seq: 11 }));
    core.peeked(Some((70, hlc(NOW_MS - 9_000))), 70, secs(0));
    assert_eq!(lag(&core, NOW_MS, secs(0)), (9_000, true));
    // A record that cannot be read has no time: it is not older than what was read, or than the link.
    core.peeked(Some((70, 0)), 70, secs(0));
    assert_eq!(lag(&core, NOW_MS, secs(0)), (600_000, true));
}

/// Behind a run that was read and taken lies more of the backlog, about as old: the lag does not fall to zero between two.
#[test]
fn a_backlog_stays_as_old_as_it_is_while_it_is_shipped() {
    let mut core = core(Some(0));
    feed(&mut core, 50, 50, secs(1));
    let mut first = message(1, 5, 5, secs(1));
    first.oldest_rows_hlc = Some(hlc(NOW_MS - 60_000));
    first.closed_hlc = hlc(NOW_MS - 59_000);
    assert!(matches!(core.next(secs(1)), Step::Read { .. }));
    let ship = core.read_done(first, true, NOW_MS, secs(1));
    assert_eq!((ship.lag_ms, ship.lag_known), (60_000, true));
    core.sent_ok(1, &applied(5), secs(2));
    assert_eq!(lag(&core, NOW_MS, secs(2)), (59_000, true));
}

/// Answers come in any order; one that speaks of less must not hide what another said.
#[test]
fn an_answer_that_was_overtaken_does_not_empty_the_peers_quarantine() {
    let mut core = core(Some(0));
    feed(&mut core, 9, 9, secs(0));
    read(&mut core, 4, 4, secs(0));
    read(&mut core, 9, 5, secs(0));
    let holds = |applied_seq: u64, rows_quarantined: u64, ms: u64| Shipped {
        applied_seq,
        rows_quarantined,
        complete_hlc: hlc(ms),
        ..Shipped::default()
    };
    // The second message was put aside, in part, before the first was taken everywhere.
    core.sent_ok(5, &holds(0, 2, NOW_MS - 3_000), secs(0));
    core.sent_ok(1, &holds(4, 0, NOW_MS), secs(0));
    assert_eq!(core.window().acked_seq(), 9);
    assert_eq!(lag(&core, NOW_MS, secs(0)), (3_000, true));
    assert!(matches!(core.next(secs(9)), Step::Ack(9, held) if held.rows == 2));
    core.ack_done(Some(9), secs(9));
    // One that speaks of all of it ends it.
    feed(&mut core, 10, 9, secs(9));
    read(&mut core, 10, 0, secs(9));
    core.sent_ok(10, &holds(10, 0, NOW_MS), secs(9));
    assert_eq!(lag(&core, NOW_MS, secs(9)), (0, true));
}

/// What passes within a moment is asked for again soon: a pause of seconds would be lag, and RPO if this region is lost.
#[test]
fn a_change_of_leaders_at_the_peer_never_makes_a_stream_wait_for_long() {
    let mut core = core(Some(0));
    feed(&mut core, 1, 1, secs(0));
    read(&mut core, 1, 1, secs(0));
    let no_leader = Error::unavailable("NO_LEADER", "m", Duration::from_millis(100));
    let away = Error::unavailable("PEER_UNREACHABLE", "m", Duration::from_millis(500));
    for failure in 0..20 {
        let (cause, delay) = core.judge(&no_leader);
        assert!(delay <= Duration::from_millis(200), "failure {failure}: {delay:?}");
        core.sent_failed(1, cause, secs(failure));
        match core.next(secs(failure)) {
            Step::Send(_) => {}
            Step::Read { .. } => _ = core.read_done(message(1, 1, 1, secs(0)), true, NOW_MS, secs(0)),
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(
        core.judge(&away).1,
        Duration::from_secs(3),
        "who does not answer is asked rarely"
    );
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
