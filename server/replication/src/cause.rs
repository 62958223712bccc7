//! Why a stream does not simply flow, in words for an operator, with the next step (R19).
//!
//! A new cause needs: its words and its action here, and its row in docs/operations/replication.md.

use crate::receiver::LINK_PREPARING;
use crate::verbs::LINK_STALE;
use tidemark_base::{Error, ErrorKind};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answer from the peer, or it is not able to serve.
    PeerUnreachable(String),
    /// The peer is reached, and tells us to wait.
    PeerBusy(String),
    /// The peer has no link with us for this table (yet, or any more).
    LinkMissing(String),
    /// The peer has begun to make its link with us and has not finished.
    LinkPreparing(String),
    /// The peer's link is with another table of that name than ours, or the other way round: one was created again.
    OtherTable(String),
    /// Our stamps are too far ahead of the peer's clock (R8).
    ClockQuarantine(String),
    /// The peer's quarantine for the table is full.
    QuarantineFull(String),
    /// Row mutations wait in the peer's quarantine; the rest flows.
    Quarantined(u64),
    /// The peer refuses what we ship, and a repeat will not help.
    Refused(String),
    /// The tablet has not yet learned that it has this peer.
    SchemaPending,
    /// Records that the peer needs are no longer in the feed.
    FeedTrimmed {
        /// What the peer needs.
        wanted_seq: u64,
        /// What is still there.
        first_seq: u64,
    },
    /// The feed cannot be read.
    FeedUnreadable(String),
    /// The peer says that it has more than was ever written here: this region lost data, or a number is used twice.
    PeerAhead {
        /// What the peer has.
        applied_seq: u64,
        /// What was written.
        last_seq: u64,
    },
    /// The peer no longer has what it acknowledged earlier.
    PeerBehind {
        /// What the peer has.
        applied_seq: u64,
        /// What it had acknowledged.
        acked_seq: u64,
    },
    /// No node reports that it leads the tablet.
    NoLeader,
    /// Switching on was begun and not finished.
    EnableUnfinished,
    /// An operator stopped shipping.
    Paused,
    /// The stream's task has not shown itself for that long.
    Stalled(u64),
}

/// How a stream asks again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The cause passes within a moment: soon, however often it failed.
    Soon,
    /// The peer has too much to do: not too often, and not so rarely that the pause is what one waits for.
    Gentle,
    /// Ever more rarely, up to the greatest delay.
    Rarer,
}

impl Cause {
    /// Reads the error that a message met.
    pub fn from_error(error: &Error) -> Cause {
        let message = error.to_string();
        match (error.reason(), error.kind()) {
            ("QUARANTINE_FULL", _) => Cause::QuarantineFull(message),
            ("CLOCK_QUARANTINE", _) => Cause::ClockQuarantine(message),
            (LINK_PREPARING, _) => Cause::LinkPreparing(message),
            (LINK_STALE, _) => Cause::OtherTable(message),
            ("LINK_MISSING" | "PEER_UNKNOWN" | "PEER_MISMATCH" | "TABLE_UNKNOWN", _) => Cause::LinkMissing(message),
            (_, ErrorKind::FailedPrecondition | ErrorKind::NotFound) => Cause::LinkMissing(message),
            (_, ErrorKind::Busy) | ("STREAM_WINDOW" | "PEER_NOT_LINKED", _) => Cause::PeerBusy(message),
            (
                _,
                ErrorKind::Unavailable
                | ErrorKind::NotLeader
                | ErrorKind::UnknownOutcome
                | ErrorKind::DeadlineExceeded
                | ErrorKind::StorageFull,
            ) => Cause::PeerUnreachable(message),
            _ => Cause::Refused(message),
        }
    }

    /// How soon to ask again what met this error.
    pub fn pace(&self, error: &Error) -> Pace {
        let moment = matches!(error.kind(), ErrorKind::NotLeader | ErrorKind::UnknownOutcome)
            || matches!(
                error.reason(),
                "NO_LEADER"
                    | "LEADER_MOVED"
                    | "TABLET_STOPPED"
                    | "SCHEMA_PENDING"
                    | "STREAM_WINDOW"
                    | "PEER_NOT_LINKED"
            );
        match self {
            Cause::LinkPreparing(_) => Pace::Soon,
            Cause::PeerUnreachable(_) | Cause::PeerBusy(_) if moment => Pace::Soon,
            Cause::PeerBusy(_) => Pace::Gentle,
            _ => Pace::Rarer,
        }
    }

    /// True if nothing flows because of it.
    pub fn blocks(&self) -> bool {
        !matches!(
            self,
            Cause::PeerBusy(_) | Cause::Quarantined(_) | Cause::SchemaPending | Cause::PeerBehind { .. }
        )
    }

    /// Why, in a sentence.
    pub fn words(&self, peer: &str) -> String {
        match self {
            Cause::PeerUnreachable(why) => format!("{peer} does not take what is shipped: {why}"),
            Cause::PeerBusy(why) => format!("{peer} asks to wait: {why}"),
            Cause::LinkMissing(why) => format!("{peer} has no link with this region for the table: {why}"),
            Cause::LinkPreparing(why) => format!("{peer} is switching replication on: {why}"),
            Cause::OtherTable(why) => format!("{peer} replicates another table of that name: {why}"),
            Cause::ClockQuarantine(why) => format!("clock quarantine: {peer} refuses stamps from its future: {why}"),
            Cause::QuarantineFull(why) => format!("the quarantine at {peer} is full: {why}"),
            Cause::Quarantined(rows) => format!("{rows} row mutations wait in the quarantine at {peer}"),
            Cause::Refused(why) => format!("{peer} refuses what is shipped: {why}"),
            Cause::SchemaPending => "the tablet has not yet taken over the schema that names the peer".to_owned(),
            Cause::FeedTrimmed { wanted_seq, first_seq } => {
                format!("{peer} needs feed record {wanted_seq}, but the feed begins at {first_seq}")
            }
            Cause::FeedUnreadable(why) => format!("the feed of this tablet cannot be read: {why}"),
            Cause::PeerAhead { applied_seq, last_seq } => format!(
                "{peer} says that it has record {applied_seq} of this stream, but only {last_seq} were written here"
            ),
            Cause::PeerBehind { applied_seq, acked_seq } => {
                format!("{peer} had acknowledged record {acked_seq} of this stream and now has only {applied_seq}")
            }
            Cause::NoLeader => "no node reports that it leads the tablet".to_owned(),
            Cause::EnableUnfinished => "switching replication on was begun and not finished".to_owned(),
            Cause::Paused => format!("shipping to {peer} was paused by an operator; the feed is kept"),
            Cause::Stalled(ms) => format!("the stream has not shown itself for {ms} ms"),
        }
    }

    /// What to do, in words; empty where waiting is all.
    pub fn action(&self, table: &str, peer: &str) -> String {
        match self {
            Cause::PeerUnreachable(_) => {
                format!("check {peer}'s nodes and the network; shipping resumes by itself, the feed is kept meanwhile")
            }
            Cause::PeerBusy(_) | Cause::SchemaPending => String::new(),
            Cause::OtherTable(_) => format!(
                "one of the two was dropped and created again; in both regions: tidemark replication disable {table} --peer \
                 NAME --local-only; then, with both tables empty, enable again"
            ),
            Cause::LinkMissing(_) | Cause::LinkPreparing(_) => format!(
                "if replication should be on, repeat: tidemark replication enable {table} --peer {peer}; otherwise: \
                 tidemark replication disable {table} --peer {peer}"
            ),
            Cause::ClockQuarantine(_) => {
                format!("set the clocks of both regions right (NTP); the stream to {peer} resumes by itself")
            }
            Cause::QuarantineFull(_) => format!(
                "create at {peer} the families that it lacks: tidemark table alter {table} --add-family NAME; the \
                 quarantine then drains by itself"
            ),
            Cause::Quarantined(_) => format!(
                "create at {peer} the families that it lacks (tidemark table alter {table} --add-family NAME); the \
                 rows are then applied by themselves"
            ),
            Cause::Refused(_) => format!("compare the releases of both regions; see the log of {peer}'s nodes"),
            Cause::FeedTrimmed { .. } | Cause::PeerBehind { .. } | Cause::PeerAhead { .. } => format!(
                "do not rely on {peer} for this table until it is built anew: disable replication, and see \
                 docs/operations/replication.md"
            ),
            Cause::FeedUnreadable(_) => {
                "check this node's disk and log; hand the tablet to another replica by restarting the node".to_owned()
            }
            Cause::NoLeader => "check that a majority of the tablet's nodes is up: tidemark cluster status".to_owned(),
            Cause::EnableUnfinished => format!(
                "repeat: tidemark replication enable {table} --peer {peer}, or undo: tidemark replication disable \
                 {table} --peer {peer}"
            ),
            Cause::Paused => format!("tidemark replication resume {table} --peer {peer}"),
            Cause::Stalled(_) => "look at the load of the node that leads the tablet".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn errors_are_read_by_reason_first() {
        let unavailable = |reason: &'static str| Error::unavailable(reason, "m", Duration::from_secs(1));
        assert!(matches!(
            Cause::from_error(&unavailable("QUARANTINE_FULL")),
            Cause::QuarantineFull(_)
        ));
        assert!(matches!(
            Cause::from_error(&unavailable("STREAM_WINDOW")),
            Cause::PeerBusy(_)
        ));
        let down = Cause::from_error(&unavailable("PEER_UNREACHABLE"));
        assert!(matches!(down, Cause::PeerUnreachable(_)) && down.blocks());
        let missing = Cause::from_error(&Error::new(ErrorKind::FailedPrecondition, "LINK_MISSING", "m"));
        assert!(missing.action("t", "west").contains("replication enable t --peer west"));
        assert!(matches!(
            Cause::from_error(&Error::invalid("RUN_DAMAGED", "m")),
            Cause::Refused(_)
        ));
        let stale = Cause::from_error(&Error::new(ErrorKind::FailedPrecondition, LINK_STALE, "m"));
        assert!(matches!(stale, Cause::OtherTable(_)) && stale.blocks());
    }

    #[test]
    fn what_passes_within_a_moment_is_asked_for_again_soon() {
        let pace = |kind, reason: &'static str| {
            let error = Error::new(kind, reason, "m");
            Cause::from_error(&error).pace(&error)
        };
        for (kind, reason) in [
            (ErrorKind::NotLeader, "NOT_LEADER"),
            (ErrorKind::Unavailable, "NO_LEADER"),
            (ErrorKind::UnknownOutcome, "OUTCOME_UNKNOWN"),
            (ErrorKind::Unavailable, "PEER_NOT_LINKED"),
            (ErrorKind::Unavailable, "STREAM_WINDOW"),
            (ErrorKind::FailedPrecondition, LINK_PREPARING),
        ] {
            assert_eq!(pace(kind, reason), Pace::Soon, "{reason}");
        }
        assert_eq!(pace(ErrorKind::Busy, "RECEIVER_BUSY"), Pace::Gentle);
        for (kind, reason) in [
            (ErrorKind::Unavailable, "PEER_UNREACHABLE"),
            (ErrorKind::DeadlineExceeded, "SHIP_TIMEOUT"),
            (ErrorKind::StorageFull, "DISK_FULL"),
            (ErrorKind::FailedPrecondition, "LINK_MISSING"),
            (ErrorKind::FailedPrecondition, LINK_STALE),
            (ErrorKind::Unavailable, "QUARANTINE_FULL"),
        ] {
            assert_eq!(pace(kind, reason), Pace::Rarer, "{reason}");
        }
    }
}
