//! The merge: a report that does not come never makes a link look better than it is.

use super::*;

const NOW: Now = Now {
    ms: 1_000_000,
    monotonic: Duration::from_secs(100),
};

fn link() -> LinkFacts {
    LinkFacts {
        table: "t".into(),
        peer: "west".into(),
        state: LinkState::Enabled,
        paused: false,
        linked_at_ms: 400_000,
        tablets: vec![TabletId(2), TabletId(3)],
    }
}

fn stream(tablet: u64, term: u64, state: StreamState, lag_ms: u64) -> StreamReport {
    StreamReport {
        table: "t".into(),
        peer: "west".into(),
        tablet,
        term,
        state,
        cause: String::new(),
        action: String::new(),
        lag_ms,
        lag_known: true,
        backlog_records: 1,
        backlog_bytes: 10,
        acked_seq: 0,
        last_seq: 0,
        acknowledged_micros: 5,
        rows_quarantined: 0,
    }
}

fn node(streams: Vec<StreamReport>) -> NodeReport {
    NodeReport {
        streams,
        ..NodeReport::default()
    }
}

fn merged(links: &[LinkFacts], reports: &[NodeReport], known: &mut LastKnown, now: Now) -> LinkReport {
    merge(links, None, reports, known, now, true).remove(0)
}

#[test]
fn the_worst_stream_speaks_for_the_link_and_the_later_term_for_a_stream() {
    let reports = [
        node(vec![
            stream(2, 1, StreamState::Blocked, 99_000),
            stream(3, 4, StreamState::Streaming, 7),
        ]),
        node(vec![stream(2, 2, StreamState::Lagging, 20_000)]),
    ];
    let merged = merged(&[link()], &reports, &mut LastKnown::default(), NOW);
    assert_eq!((merged.state, merged.outgoing.lag_ms), (StreamState::Lagging, 20_000));
    assert!(merged.outgoing.lag_known);
    assert_eq!((merged.outgoing.backlog_records, merged.streams.len()), (2, 2));
}

#[test]
fn a_tablet_that_nobody_reports_is_blocked_with_an_upper_bound() {
    let mut known = LastKnown::default();
    let all = [node(vec![
        stream(2, 1, StreamState::Streaming, 0),
        stream(3, 1, StreamState::Streaming, 50),
    ])];
    let one = [node(vec![stream(2, 1, StreamState::Streaming, 0)])];
    let never = merged(&[link()], &one, &mut known, NOW);
    assert_eq!((never.state, never.outgoing.lag_ms), (StreamState::Blocked, 600_000));
    assert!(!never.outgoing.lag_known && never.cause.contains("leads"));
    assert!(merged(&[link()], &all, &mut known, NOW).outgoing.lag_known);
    let later = Now {
        ms: NOW.ms + 30_000,
        monotonic: NOW.monotonic + Duration::from_secs(30),
    };
    assert_eq!(merged(&[link()], &one, &mut known, later).outgoing.lag_ms, 30_050);
}

/// INV-43: what a stream says of itself while it does not know is a bound, which what was known before may tighten.
#[test]
fn a_stream_that_does_not_know_its_lag_is_shown_with_the_least_bound() {
    let unknown = |lag_ms: u64| StreamReport {
        lag_known: false,
        ..stream(2, 2, StreamState::Streaming, lag_ms)
    };
    let with = |first: StreamReport| [node(vec![first, stream(3, 1, StreamState::Streaming, 0)])];
    let mut known = LastKnown::default();
    let never = merged(&[link()], &with(unknown(600_000)), &mut known, NOW);
    assert_eq!((never.outgoing.lag_ms, never.outgoing.lag_known), (600_000, false));
    merged(
        &[link()],
        &with(stream(2, 1, StreamState::Streaming, 40)),
        &mut known,
        NOW,
    );
    let later = Now {
        ms: NOW.ms + 2_000,
        monotonic: NOW.monotonic + Duration::from_secs(2),
    };
    let again = merged(&[link()], &with(unknown(602_000)), &mut known, later);
    assert_eq!((again.outgoing.lag_ms, again.outgoing.lag_known), (2_040, false));
    // A bound is not learnt: later it would be taken for what was known.
    let third = merged(&[link()], &with(unknown(602_000)), &mut known, later);
    assert_eq!(third.outgoing.lag_ms, 2_040);
    assert!(!third.streams[0].lag_known && third.streams[1].lag_known);
}

#[test]
fn preparing_and_paused_links_say_so() {
    let reports = [node(vec![
        stream(2, 1, StreamState::Streaming, 0),
        stream(3, 1, StreamState::Streaming, 0),
    ])];
    let mut preparing = link();
    preparing.state = LinkState::Preparing;
    let merged_link = merged(&[preparing], &reports, &mut LastKnown::default(), NOW);
    assert_eq!(merged_link.state, StreamState::Blocked);
    assert!(merged_link.action.contains("replication enable t --peer west"));
    let mut paused = link();
    paused.paused = true;
    let merged_link = merged(&[paused], &reports, &mut LastKnown::default(), NOW);
    assert_eq!(merged_link.state, StreamState::Paused);
}

fn heard(tablet: u64, start: &str, end: Option<&str>, rpo_ms: u64) -> HeardReport {
    HeardReport {
        table: "t".into(),
        peer: "west".into(),
        tablet,
        start: start.as_bytes().to_vec(),
        end: end.map(|end| end.as_bytes().to_vec()),
        rpo_ms,
        rpo_known: true,
    }
}

#[test]
fn rpo_is_the_worst_stream_as_any_node_last_heard_it_and_unknown_with_a_gap() {
    let of = |streams: Vec<HeardReport>| rpo(streams.iter()).map(|lag| lag.ms);
    let (left, right) = (heard(7, "", Some("m"), 500), heard(8, "m", None, 90));
    assert_eq!(of(vec![left.clone(), right.clone()]), Some(500));
    assert_eq!(
        of(vec![right.clone(), left.clone(), heard(7, "", Some("m"), 100)]),
        Some(100)
    );
    assert_eq!(of(vec![left.clone()]), None);
    assert_eq!(of(vec![right.clone()]), None);
    assert_eq!(of(vec![]), None);
    let bound = HeardReport {
        rpo_known: false,
        ..right.clone()
    };
    let whole = |left: &HeardReport, right: &HeardReport| rpo([left, right].into_iter()).unwrap();
    assert!(whole(&left, &right).known);
    assert!(
        !whole(&left, &bound).known,
        "the peer did not know its lag when it was heard"
    );
    let report = NodeReport {
        heard: vec![left],
        ..NodeReport::default()
    };
    let merged = merged(&[link()], &[report], &mut LastKnown::default(), NOW);
    assert_eq!((merged.incoming.rpo_ms, merged.incoming.rpo_known), (600_000, false));
}

#[test]
fn watermarks_are_the_least_over_all_tablets_and_unknown_without_one() {
    let incoming = |tablet, covered, complete_ms: u64| IncomingReport {
        table: "t".into(),
        peer: "west".into(),
        tablet,
        term: 1,
        covered,
        applied_hlc: (complete_ms + 5) << 16,
        complete_hlc: complete_ms << 16,
        rows_quarantined: 1,
        rows_applied: 10,
    };
    let with = |incoming: Vec<IncomingReport>| {
        let report = NodeReport {
            incoming,
            ..NodeReport::default()
        };
        merged(&[link()], &[report], &mut LastKnown::default(), NOW).incoming
    };
    let both = with(vec![incoming(2, true, 70), incoming(3, true, 60)]);
    assert_eq!((both.applied_micros, both.complete_micros), (65_000, 60_000));
    assert_eq!((both.rows_quarantined, both.rows_applied), (2, 20));
    assert_eq!(with(vec![incoming(2, true, 70)]).complete_micros, 0);
    assert_eq!(
        with(vec![incoming(2, true, 70), incoming(3, false, 0)]).complete_micros,
        0
    );
}
