//! One call: single attempts, repeated as long as that is safe, useful and allowed.
//!
//! ```text
//! until the deadline:
//!   region  := the active one (or the one asked for)          a call that moved there with an unsafe write stops here
//!   routing := the table's view, refreshed if the last attempt blamed it
//!   node    := the tablet's leader, else a replica, else any node (it forwards and says where to go next time)
//!   attempt := one RPC with its own time limit, given up when the region is lost
//!   judge   := done | repeat after a pause | fail | unknown outcome
//! ```

use crate::client::{Shared, Target};
use crate::error::{ClientError, Failure, Reach, Result};
use crate::options::RetryPolicy;
use rand::Rng;
use std::future::Future;
use std::time::Duration;
use tidemark_base::ErrorKind;
use tokio::time::Instant;

/// Longest pause that a server's hint may impose.
const HINT_MAX: Duration = Duration::from_secs(5);

/// What a second application of the request would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// Nothing: it only reads.
    Read,
    /// Nothing: it writes facts.
    Repeatable,
    /// Nothing inside one region, which remembers the request's token; harm in another.
    Token,
    /// Harm.
    Once,
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again.
    Retry,
    /// Report the error as it is.
    Fail,
    /// Report that nobody knows whether it took effect.
    Unknown,
}

/// The routing view by which a request was first refused: its region and generation. Kept over the attempts of one
/// request, so that a refusal which an old view would explain is tried again with a newer one, and only once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blame(Option<(usize, u64)>);

impl Blame {
    /// True while a refusal under that view may still be the fault of the first one.
    fn falls_on(&mut self, view: (usize, u64)) -> bool {
        let (region, generation) = *self.0.get_or_insert(view);
        if region != view.0 {
            // Generations of two regions cannot be compared; the other region's view gets its own second chance.
            self.0 = Some(view);
        }
        region != view.0 || view.1 <= generation
    }
}

/// Judges one failed attempt. `view` names region and generation of the routing view that it went by, if any.
pub(crate) fn judge(safety: Safety, failure: &Failure, blame: &mut Blame, view: Option<(usize, u64)>) -> Verdict {
    if !failure.may_have_effect() {
        let again = failure.reach == Reach::Unsent
            || failure.error.kind().is_retryable()
            || (is_outdated(failure) && view.is_some_and(|view| blame.falls_on(view)));
        return if again { Verdict::Retry } else { Verdict::Fail };
    }
    match safety {
        Safety::Once => Verdict::Unknown,
        Safety::Read | Safety::Repeatable | Safety::Token => Verdict::Retry,
    }
}

/// The pause after the `failed`-th failed attempt (from 1): growing, shortened by chance (`0.0..1.0`) so that clients do
/// not march in step, never below the server's hint.
pub(crate) fn pause_after(failed: u32, policy: &RetryPolicy, hint: Option<Duration>, chance: f64) -> Duration {
    let growth = policy.multiplier.powi(failed.saturating_sub(1).min(64) as i32);
    let most = policy.max.as_secs_f64();
    let full = (policy.initial.as_secs_f64() * growth).min(most);
    let pause = Duration::from_secs_f64(full * (1.0 - chance / 2.0));
    pause.max(hint.unwrap_or_default().min(HINT_MAX))
}

/// A number in `0.0..1.0`.
pub(crate) fn chance() -> f64 {
    rand::rng().random_range(0.0..1.0)
}

/// What a call is about.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    /// The table whose routing is needed, if any.
    pub(crate) table: Option<&'a str>,
    /// The row whose tablet's leader should be asked.
    pub(crate) row: Option<&'a [u8]>,
    pub(crate) safety: Safety,
    /// A region by index; `None` = whichever is active at each attempt.
    pub(crate) region: Option<usize>,
    /// Time limit of one attempt.
    pub(crate) timeout: Duration,
}

impl Shared {
    /// Runs a call to its end. `attempt` makes one RPC to the target it is given.
    pub(crate) async fn call<T, F, Fut>(&self, call: Call<'_>, attempt: F) -> Result<T>
    where
        F: Fn(Target) -> Fut,
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.options.retry.deadline;
        let mut attempts = 0;
        let mut effect_in = None;
        let mut stale = None;
        let mut blame = Blame::default();
        loop {
            let region = call.region.unwrap_or_else(|| self.active());
            attempts += 1;
            let failure = match self.one_attempt(&call, region, stale, deadline, &attempt).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            stale = failure.view.filter(|_| blames_routing(&failure.failure));
            let view = failure.view.map(|generation| (region, generation));
            let error = failure.failure.error.clone().after_attempts(attempts);
            if failure.failure.may_have_effect() {
                effect_in = Some(region);
            }
            let uncertain = effect_in.is_some() && call.safety != Safety::Read;
            match judge(call.safety, &failure.failure, &mut blame, view) {
                Verdict::Unknown => return Err(error.into_unknown_outcome()),
                Verdict::Fail if uncertain => return Err(error.into_unknown_outcome()),
                Verdict::Fail => return Err(error),
                Verdict::Retry => {}
            }
            let pause = pause_after(attempts, &self.options.retry, error.retry_after(), chance());
            if Instant::now() + pause >= deadline {
                return Err(if uncertain { error.into_unknown_outcome() } else { error });
            }
            self.pause(pause, region).await;
            let elsewhere = effect_in.is_some_and(|sent| sent != call.region.unwrap_or_else(|| self.active()));
            if call.safety == Safety::Token && elsewhere {
                return Err(error.into_unknown_outcome());
            }
        }
    }

    async fn one_attempt<T, F, Fut>(
        &self,
        call: &Call<'_>,
        region: usize,
        stale: Option<u64>,
        deadline: Instant,
        attempt: &F,
    ) -> std::result::Result<T, Failed>
    where
        F: Fn(Target) -> Fut,
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let blameless = |failure| Failed { failure, view: None };
        let view = match call.table {
            Some(table) => Some(self.routing(region, table, stale).await.map_err(blameless)?),
            None => None,
        };
        let timeout = call.timeout.min(deadline.saturating_duration_since(Instant::now()));
        let target = self.target(region, view, call.row, timeout).map_err(blameless)?;
        let outcome = self
            .watched(&target, call.region.is_none(), attempt(target.clone()))
            .await;
        outcome.map_err(|failure| {
            let view = target.view.as_ref().map(|view| view.generation);
            Failed { failure, view }
        })
    }

    /// One RPC with its time limit, given up when its region is lost (if `leave`), and its lesson for region, node and
    /// routing.
    pub(crate) async fn watched<T, Fut>(
        &self,
        target: &Target,
        leave: bool,
        rpc: Fut,
    ) -> std::result::Result<T, Failure>
    where
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(target.timeout, rpc) =>
                outcome.unwrap_or_else(|_| Err(Failure::timed_out(target.timeout))),
            () = self.lost(target.region), if leave => Err(Failure::region_left()),
        };
        match outcome {
            Ok(answer) => {
                self.note_answer(target);
                Ok(answer)
            }
            Err(mut failure) => {
                failure.error = failure.error.at(&self.regions[target.region].name, &target.address);
                self.note_failure(target, &failure);
                Err(failure)
            }
        }
    }

    /// Waits; but not for a region that has been left.
    pub(crate) async fn pause(&self, pause: Duration, region: usize) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.left(region) => {}
        }
    }
}

/// A failed attempt, and the generation of the routing view that it went by.
struct Failed {
    failure: Failure,
    view: Option<u64>,
}

/// True if a newer routing table may help.
pub(crate) fn blames_routing(failure: &Failure) -> bool {
    blames_leader(failure) || is_outdated(failure)
}

/// True if the node that was asked is perhaps not the one to ask.
pub(crate) fn blames_leader(failure: &Failure) -> bool {
    match failure.reach {
        Reach::Unsent | Reach::Lost => true,
        Reach::Local | Reach::Answered => {
            matches!(failure.error.kind(), ErrorKind::NotLeader | ErrorKind::Unavailable) && failure.leader.is_none()
        }
    }
}

/// True if the request names a tablet or a family that is not known there: the fault of the caller, or of a routing table
/// from before the table or the family was dropped and made anew. Nothing was done.
fn is_outdated(failure: &Failure) -> bool {
    matches!(failure.error.reason(), "TABLET_UNKNOWN" | "FAMILY_UNKNOWN")
}

/// The error of a call that its table does not exist any more or never did.
pub(crate) fn no_tablet(table: &str) -> Failure {
    Failure::local(ClientError::new(
        ErrorKind::Unavailable,
        "ROUTING_INCOMPLETE",
        format!("the region names no tablet for a row of table {table}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reach: Reach, kind: ErrorKind) -> Failure {
        Failure {
            error: ClientError::new(kind, "X", "x"),
            reach,
            leader: None,
        }
    }

    #[test]
    fn what_may_be_repeated_depends_on_how_far_it_got_and_on_what_it_does() {
        use ErrorKind::{Busy, InvalidArgument, NotLeader, Unavailable, UnknownOutcome};
        let judge = |safety, failure: &Failure| judge(safety, failure, &mut Blame::default(), Some((0, 1)));
        let all = [Safety::Read, Safety::Repeatable, Safety::Token, Safety::Once];
        for safety in all {
            assert_eq!(judge(safety, &failure(Reach::Unsent, Unavailable)), Verdict::Retry);
            assert_eq!(judge(safety, &failure(Reach::Answered, Busy)), Verdict::Retry);
            assert_eq!(judge(safety, &failure(Reach::Answered, NotLeader)), Verdict::Retry);
            assert_eq!(judge(safety, &failure(Reach::Answered, InvalidArgument)), Verdict::Fail);
            let expected = if safety == Safety::Once {
                Verdict::Unknown
            } else {
                Verdict::Retry
            };
            assert_eq!(judge(safety, &failure(Reach::Lost, Unavailable)), expected);
            assert_eq!(judge(safety, &failure(Reach::Answered, UnknownOutcome)), expected);
        }
    }

    #[test]
    fn a_refusal_is_blamed_on_the_routing_view_once_a_region() {
        for reason in ["TABLET_UNKNOWN", "FAMILY_UNKNOWN"] {
            let refused = Failure {
                error: ClientError::new(ErrorKind::NotFound, reason, "x"),
                ..failure(Reach::Answered, ErrorKind::NotFound)
            };
            assert!(blames_routing(&refused) && !blames_leader(&refused));
            let mut blame = Blame::default();
            let mut at = |view| judge(Safety::Once, &refused, &mut blame, view);
            assert_eq!(at(None), Verdict::Fail, "no view, no blame");
            assert_eq!(at(Some((0, 7))), Verdict::Retry);
            assert_eq!(at(Some((0, 7))), Verdict::Retry, "no newer one could be had");
            assert_eq!(at(Some((1, 3))), Verdict::Retry, "another region");
            assert_eq!(at(Some((1, 4))), Verdict::Fail);
        }
    }

    #[test]
    fn pauses_grow_to_their_bound_and_respect_the_hint() {
        let policy = RetryPolicy::default();
        let ms = |failed, hint: Option<u64>, chance| {
            pause_after(failed, &policy, hint.map(Duration::from_millis), chance).as_millis()
        };
        assert_eq!(ms(1, None, 0.0), 20);
        assert_eq!(ms(2, None, 1.0), 20);
        assert_eq!(ms(3, None, 0.0), 80);
        assert_eq!(ms(3, Some(700), 0.0), 700);
        assert_eq!(ms(1_000_000, None, 0.0), 200);
        assert_eq!(ms(1, Some(3_600_000), 0.0), 5_000);
    }
}
