//! What the servers say of themselves while the run goes on: who leads what, what troubles them, which marks they left.
//!
//! Status pages are asked several times a second. A mark that is left between the last question and a kill -9 is not
//! seen; a run is long enough for that not to matter.

use crate::arena::{Arena, At};
use crate::plan::{NODES, Target};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_harness::ready::http_get;

/// Between two questions to one server.
const EVERY: Duration = Duration::from_millis(150);
/// A page that takes longer is no answer.
const ANSWER_MAX: Duration = Duration::from_millis(700);

/// A status page, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Page {
    /// What is wrong with the node; empty = nothing.
    #[serde(default)]
    pub trouble: String,
    /// Writes are refused.
    #[serde(default)]
    pub disk_low: bool,
    /// Replicas.
    #[serde(default)]
    pub tablets: Vec<TabletPage>,
    /// Marks of the process, by name.
    #[serde(default)]
    pub marks: BTreeMap<String, u64>,
}

/// A replica on a status page.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TabletPage {
    /// Its tablet.
    pub tablet: u64,
    /// `Leader`, `Follower`, ….
    pub role: String,
    /// In that term.
    pub term: u64,
}

/// Who led a tablet, in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The node.
    pub node: u64,
}

/// Leaders of a region's tablets.
pub type Leaders = BTreeMap<u64, Leadership>;

#[derive(Debug, Default)]
struct Seen {
    pages: BTreeMap<At, (Instant, Page)>,
    /// The newest leadership of each tablet of each region that its own leader reported.
    leaders: BTreeMap<usize, Leaders>,
    /// Marks of processes that ended, and of those that run.
    marks_before: BTreeMap<String, u64>,
    marks_now: BTreeMap<At, BTreeMap<String, u64>>,
    changes: u64,
}

/// The watcher.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    /// Asks every server again and again. Ends when it is dropped.
    pub async fn run(self, arena: Arc<Arena>) {
        let asking = arena.all().into_iter().map(|at| {
            let (arena, watch) = (arena.clone(), self.clone());
            async move {
                loop {
                    let asked = http_get(arena.admin(at), "/status");
                    if let Ok(Ok((200, body))) = tokio::time::timeout(ANSWER_MAX, asked).await
                        && let Ok(page) = serde_json::from_str(&body)
                    {
                        watch.note(at, page);
                    }
                    tokio::time::sleep(EVERY).await;
                }
            }
        });
        futures::future::join_all(asking).await;
    }

    fn note(&self, at: At, page: Page) {
        let mut guard = self.seen.lock();
        let seen = &mut *guard;
        for tablet in page.tablets.iter().filter(|t| t.role == "Leader") {
            let new = Leadership {
                term: tablet.term,
                node: at.node,
            };
            let old = seen
                .leaders
                .entry(at.region)
                .or_default()
                .entry(tablet.tablet)
                .or_insert(new);
            if new.term > old.term {
                seen.changes += u64::from(new.node != old.node);
                *old = new;
            }
        }
        // Marks only rise, so fewer of one means another process.
        let before = seen.marks_now.insert(at, page.marks.clone()).unwrap_or_default();
        if before
            .iter()
            .any(|(name, count)| page.marks.get(name).unwrap_or(&0) < count)
        {
            for (name, count) in before {
                *seen.marks_before.entry(name).or_default() += count;
            }
        }
        seen.pages.insert(at, (Instant::now(), page));
    }

    /// The last page of a server, if it is not older than `age`.
    pub fn page(&self, at: At, age: Duration) -> Option<Page> {
        let seen = self.seen.lock();
        let (when, page) = seen.pages.get(&at)?;
        (when.elapsed() <= age).then(|| page.clone())
    }

    /// A page that was asked for after this call.
    pub fn page_since(&self, at: At, since: Instant) -> Option<Page> {
        let seen = self.seen.lock();
        let (when, page) = seen.pages.get(&at)?;
        (*when > since).then(|| page.clone())
    }

    /// Leaders of a region's tablets, as last reported by themselves.
    pub fn leaders(&self, region: usize) -> Leaders {
        self.seen.lock().leaders.get(&region).cloned().unwrap_or_default()
    }

    /// How often a tablet was seen to have another leader than before.
    pub fn leader_changes(&self) -> u64 {
        self.seen.lock().changes
    }

    /// All marks of all processes, by name.
    pub fn marks(&self) -> BTreeMap<String, u64> {
        let seen = self.seen.lock();
        let mut all = seen.marks_before.clone();
        for (name, count) in seen.marks_now.values().flatten() {
            *all.entry(name.clone()).or_default() += count;
        }
        all
    }

    /// The node that a target is now.
    pub fn who(&self, target: Target) -> Result<At> {
        let region = target.region();
        let leaders = self.leaders(region);
        let led = |node: u64| leaders.values().filter(|l| l.node == node).count();
        let node = match target {
            Target::Leader(_) => (1..=NODES).max_by_key(|n| led(*n)),
            Target::Follower(_) => (1..=NODES).min_by_key(|n| led(*n)),
        };
        let node = node.context("a region has nodes")?;
        Ok(At { region, node })
    }

    /// Waits until a tablet that `old` led has another leader in a later term than in `before`; says which went where.
    pub async fn successor(&self, old: At, before: &Leaders, limit: Duration) -> Option<String> {
        let began = Instant::now();
        loop {
            if let Some(said) = self.succeeded(old, before) {
                return Some(said);
            }
            if began.elapsed() >= limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same without waiting.
    pub fn succeeded(&self, old: At, before: &Leaders) -> Option<String> {
        let now = self.leaders(old.region);
        before
            .iter()
            .filter(|(_, l)| l.node == old.node)
            .find_map(|(tablet, was)| {
                let is = now.get(tablet)?;
                (is.term > was.term && is.node != was.node).then(|| {
                    format!(
                        "tablet {tablet}: leader n{} in term {}, then n{} in term {}",
                        was.node, was.term, is.node, is.term
                    )
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tablet: u64, role: &str, term: u64, tails: u64) -> Page {
        Page {
            tablets: vec![TabletPage {
                tablet,
                role: role.into(),
                term,
            }],
            marks: BTreeMap::from([("tail torn".to_owned(), tails)]),
            ..Page::default()
        }
    }

    #[test]
    fn leaders_follow_terms_and_not_the_order_of_answers() {
        let watch = Watch::default();
        let at = |node| At { region: 0, node };
        watch.note(at(1), page(7, "Leader", 3, 0));
        let before = watch.leaders(0);
        assert_eq!(watch.who(Target::Leader(0)).unwrap(), at(1));
        assert_ne!(watch.who(Target::Follower(0)).unwrap(), at(1));
        watch.note(at(2), page(7, "Leader", 5, 0));
        watch.note(at(1), page(7, "Leader", 3, 0));
        assert_eq!(watch.who(Target::Leader(0)).unwrap(), at(2));
        assert!(watch.succeeded(at(1), &before).is_some_and(|s| s.contains("term 5")));
        assert!(watch.succeeded(at(3), &before).is_none());
        assert_eq!(watch.leader_changes(), 1);
    }

    #[test]
    fn marks_of_processes_that_ended_still_count() {
        let watch = Watch::default();
        let at = At { region: 0, node: 1 };
        watch.note(at, page(1, "Follower", 1, 2));
        watch.note(at, page(1, "Follower", 1, 3));
        watch.note(at, page(1, "Follower", 1, 1));
        assert_eq!(watch.marks()["tail torn"], 4);
    }
}
