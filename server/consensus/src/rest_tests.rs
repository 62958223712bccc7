//! The bytes of beats and requests, and when a group counts as quiet.

use super::*;
use crate::log::Vote;
use crate::raft::raft_vote;

fn sign(life: u64) -> Sign {
    Sign { node: NodeId(3), life }
}

fn heartbeat() -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: raft_vote(&Vote {
            term: 2,
            node: NodeId(3),
            committed: true,
        }),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    }
}

#[test]
fn a_beat_has_the_documented_bytes() {
    let mut body = Vec::new();
    sign(9).put(&mut body);
    #[rustfmt::skip]
    assert_eq!(body, [3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    let beats = Beats::new(NodeId(1), 5);
    beats.hear(body.clone().into()).unwrap();
    assert_eq!(beats.heard(NodeId(3)).unwrap().life, 9);
    assert_eq!(beats.heard(NodeId(1)), None, "it does not hear itself");
    for wrong in [&body[..15], &[&body[..], &[0]].concat()[..], &[]] {
        assert!(beats.hear(Bytes::copy_from_slice(wrong)).is_err());
    }
    assert_eq!(
        beats.sign(),
        Sign {
            node: NodeId(1),
            life: 5
        }
    );
    beats.begin_new_life();
    assert_ne!(beats.sign().life, 5);
}

#[test]
fn a_request_is_a_sign_and_a_heartbeat() {
    let request = |heartbeat: &AppendEntriesRequest<Types>| {
        let mut body = Vec::new();
        sign(9).put(&mut body);
        body.extend_from_slice(&wire::encode_append(heartbeat));
        Bytes::from(body)
    };
    let body = request(&heartbeat());
    let (from, back) = read_request(body.clone()).unwrap();
    assert_eq!((from, back.vote, back.prev_log_id), (sign(9), heartbeat().vote, None));
    for len in 0..body.len() {
        assert!(read_request(body.slice(..len)).is_err(), "cut at {len}");
    }
}

proptest::proptest! {
    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let _ = is_beat(bytes.clone().into());
        let _ = is_request(bytes.into());
    }
}

#[test]
fn quiet_is_so_many_rounds_without_a_touch() {
    let rest = Rest::new();
    assert_eq!([rest.quiet_for(2), rest.quiet_for(2)], [None, Some(0)]);
    assert_eq!(rest.quiet_for(2), None, "who was refused waits as long again");
    rest.touched.fetch_add(1, Ordering::SeqCst);
    assert_eq!(
        [rest.quiet_for(2), rest.quiet_for(2), rest.quiet_for(2)],
        [None, None, Some(1)]
    );
    assert!(!rest.passes_round(), "who is awake takes part in every round");
    rest.resting.store(true, Ordering::SeqCst);
    let passed = (0..2 * ROUNDS_AT_REST).filter(|_| rest.passes_round()).count();
    assert_eq!(passed, 2 * (ROUNDS_AT_REST as usize - 1));
}

/// Time is counted in looks, and a process that was stopped has not looked.
#[test]
fn silence_is_counted_in_looks() {
    let settings = ConsensusSettings::default();
    assert_eq!(period(&settings), Duration::from_millis(50));
    let (shortest, _) = settings.silence_range();
    assert_eq!(
        (looks(shortest, &settings), looks(settings.lease(), &settings)),
        (12, 8)
    );
    let beats = Beats::new(NodeId(1), 1);
    beats.look(&[], || 0.0);
    beats.note(sign(9));
    for _ in 0..5 {
        assert!(beats.look(&[], || 0.0).0.is_empty(), "nobody rests");
    }
    assert_eq!(beats.now() - beats.heard(NodeId(3)).unwrap().at, 5);
}
