//! Which stored facts may be forgotten: one judge for background compaction (which sees some files) and for garbage
//! collection (which sees everything). Both engines use it.
//!
//! ```text
//! for every fact, in key order:
//!   of a family that was dropped                                        drop, tombstones too
//! for every cell of a living family:
//!   expired for good (R10)                                              drop
//!   beyond a version limit for good                                     drop
//!   superseded at its coordinate, in the same era                       drop
//!   killed by a tombstone (R4)       where versions do not count        drop
//!                                    where they count (R11)             strip: a dead marker keeps the coordinate
//!   superseded by a later era's fact                                    strip: it still counts in its own era
//! a tombstone: only if everything was seen and its stamp is at or below the stable cut (R12)
//! ```
//! Why each of them is neutral to every later arrival (R6, INV-10):
//! - *Of a dropped family*: no reader shows it, now or ever, because ids are not used again (INV-30). Its tombstones hide
//!   nothing but such cells, so they need not wait for the stable cut.
//! - *Superseded*: a reader takes the greatest stamp. If the greater one is itself dropped, what drops it (a tombstone,
//!   expiry, a limit) holds for the smaller one as well.
//! - *Killed*: every later fact at the coordinate is killed by the same tombstone or has a greater stamp. The tombstone
//!   goes only when no older fact can arrive any more.
//! - *Expired*: by version alone, downwards; so what it takes from a rank stood below every unexpired version.
//! - *Beyond a limit*: limits are applied era by era (see `VersionRank`). A fact is beyond the limit of era `e` for good
//!   once `limit(e)` greater versions of its column have a fact **of that era**. Counting what earlier eras left over
//!   would be wrong: a fact that arrives late in an earlier era can push those out.
//!
//! Cells of families that are unknown (neither living nor dropped) are kept, and so are the tombstones that kill them: how
//! they count is known only once their family is.

use crate::cover::Cover;
use crate::key::{self, Level, QUALIFIER_AT, VALUE_LIVE, What};
use crate::view::{RangeTombstones, counted_era, tied};
use std::sync::Arc;
use tidemark_base::schema::Eras;
use tidemark_base::stamp::STAMP_BYTES;
use tidemark_base::{FamilyId, FamilySettings, Stamp, TableSchema, limits};
use tidemark_runtime::planted::{Bug, planted};

/// What becomes of a stored fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// A cell: replace its value by the dead marker.
    Strip,
    /// A cell; or a tombstone, once what it kills in its row is dropped too.
    Drop,
    /// Drop it at once: nobody sees it and nothing leans on it.
    Forget,
}

/// What the judge goes by; fixed for one pass.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) schema: Option<Arc<TableSchema>>,
    /// Expired cells go when `version + ttl + max_offset <= now`.
    pub(crate) now_micros: i64,
    pub(crate) range_tombstones: RangeTombstones,
    /// The pass sees every fact, and none with a stamp at or below this can arrive any more.
    pub(crate) stable: Option<Stamp>,
}

/// What a pass with a stable cut kept although it will go some day, without anything being written: see `due`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// The least stamp of a tombstone above the cut.
    pub(crate) first_tombstone: Option<Stamp>,
    /// When the first of the kept cells may be dropped as expired; microseconds.
    pub(crate) first_expiry_micros: Option<i64>,
}

impl Leftovers {
    /// Notes a tombstone that is above the cut.
    pub(crate) fn tombstone(&mut self, stamp: Stamp) {
        self.first_tombstone = Some(self.first_tombstone.map_or(stamp, |first| first.min(stamp)));
    }

    fn cell(&mut self, family: &FamilySettings, version: i64) {
        let end = family.ttl_micros.and_then(|ttl| version.checked_add(ttl));
        if let Some(end) = end.and_then(|end| end.checked_add(OFFSET_MICROS)) {
            self.first_expiry_micros = Some(self.first_expiry_micros.map_or(end, |first| first.min(end)));
        }
    }
}

/// Judges facts in key order.
pub(crate) struct Reaper {
    rules: Rules,
    row_prefix: Vec<u8>,
    row: Vec<u8>,
    row_cover: Cover,
    family: FamilyId,
    /// Index into the schema's families.
    settings: Option<usize>,
    /// The family was dropped.
    dropped: bool,
    family_cover: Cover,
    column: Vec<u8>,
    column_cover: Cover,
    /// For each era: how many versions above the current one are sure to stand in its input.
    counts: [u32; FamilySettings::PAST_LIMITS_MAX + 1],
    coordinate: Option<Coordinate>,
    /// A cell of an unknown family was seen that a tombstone kills.
    unknown_killed: bool,
    leftovers: Leftovers,
    alarms: Vec<String>,
}

#[derive(Clone, Copy)]
struct Coordinate {
    version: i64,
    /// Of the fact before.
    stamp: Stamp,
    /// Eras of the facts before that count.
    eras: Eras,
}

/// How far apart the clocks of readers may be (R8).
const OFFSET_MICROS: i64 = (limits::MAX_OFFSET_MS * 1_000) as i64;

/// Tied facts are reported once a pass and column; more would only repeat it.
const ALARMS_MAX: usize = 16;

impl Reaper {
    pub(crate) fn new(rules: Rules) -> Reaper {
        Reaper {
            rules,
            row_prefix: Vec::new(),
            row: Vec::new(),
            row_cover: Cover::default(),
            family: FamilyId(0),
            settings: None,
            dropped: false,
            family_cover: Cover::default(),
            column: Vec::new(),
            column_cover: Cover::default(),
            counts: Default::default(),
            coordinate: None,
            unknown_killed: false,
            leftovers: Leftovers::default(),
            alarms: Vec::new(),
        }
    }

    /// Judges the next fact of the pass. What it does not understand it keeps: reads will name it.
    pub(crate) fn judge(&mut self, key: &[u8], value: &[u8]) -> Verdict {
        if self.row_prefix.is_empty() || !key.starts_with(&self.row_prefix) {
            match key::escaped_len(key) {
                Ok(length) => self.enter_row(&key[..length]),
                Err(_) => return Verdict::Keep,
            }
        }
        let tail_at = self.row_prefix.len();
        let Ok(tail) = key::parse_tail(&key[tail_at..]) else {
            return Verdict::Keep;
        };
        if tail.level != Level::Row && tail.family != self.family {
            self.enter_family(tail.family);
        }
        if self.dropped && tail.level != Level::Row {
            return Verdict::Forget;
        }
        if tail.level == Level::Column {
            let column = &key[tail_at + QUALIFIER_AT..tail_at + tail.qualifier_end];
            if column != self.column {
                self.enter_column(column);
            }
        }
        match tail.what {
            What::Tombstone { versions, stamp } => {
                let cover = match tail.level {
                    Level::Row => &mut self.row_cover,
                    Level::Family => &mut self.family_cover,
                    Level::Column => &mut self.column_cover,
                };
                cover.add(versions, stamp);
                match self.rules.stable {
                    Some(stable) if stamp <= stable => Verdict::Drop,
                    // Planted: all files were seen, so what it covers is gone; what may still arrive is not thought of.
                    Some(_) if planted(Bug::TombstoneDroppedEarly) => Verdict::Drop,
                    _ => {
                        self.leftovers.tombstone(stamp);
                        Verdict::Keep
                    }
                }
            }
            What::Cell { version, stamp } => self.judge_cell(version, stamp, value.first() == Some(&VALUE_LIVE)),
        }
    }

    /// The key of a cell that this collection has judged, stamped a second behind the stable cut; for a planted bug.
    pub(crate) fn restamped(&self, key: &[u8]) -> Option<Vec<u8>> {
        let tail = key::parse_tail(&key[self.row_prefix.len()..]).ok()?;
        let (What::Cell { stamp, .. }, Some(stable)) = (tail.what, self.rules.stable) else {
            return None;
        };
        if stamp > stable {
            return None;
        }
        let stamp = Stamp {
            hlc: stable.hlc + (1_000 << 16),
            ..stamp
        };
        let at = key.len() - key::DIGEST_BYTES - STAMP_BYTES;
        let digest = &key[key.len() - key::DIGEST_BYTES..];
        Some([&key[..at], &stamp.encode().map(|byte| !byte), digest].concat())
    }

    /// True if, since it was asked last, a cell was kept that only a tombstone hides: that tombstone must stay.
    pub(crate) fn take_unknown_killed(&mut self) -> bool {
        std::mem::take(&mut self.unknown_killed)
    }

    /// The family of the fact judged last; `FamilyId(0)` at row level.
    pub(crate) fn family(&self) -> FamilyId {
        self.family
    }

    /// What was kept so far and will go some day.
    pub(crate) fn leftovers(&self) -> Leftovers {
        self.leftovers
    }

    /// Messages of R5's alarm, and forgets them.
    pub(crate) fn take_alarms(&mut self) -> Vec<String> {
        std::mem::take(&mut self.alarms)
    }

    fn enter_row(&mut self, prefix: &[u8]) {
        self.row_prefix.clear();
        self.row_prefix.extend_from_slice(prefix);
        key::unescape(prefix, &mut self.row);
        self.row_cover.clear();
        for tombstone in self.rules.range_tombstones.iter().filter(|t| t.covers_row(&self.row)) {
            self.row_cover.add(tombstone.versions, tombstone.stamp);
        }
        self.enter_family(FamilyId(0));
    }

    fn enter_family(&mut self, family: FamilyId) {
        self.family = family;
        let schema = self.rules.schema.as_ref();
        self.settings = schema.and_then(|schema| schema.families.iter().position(|f| f.id == family));
        self.dropped = schema.is_some_and(|schema| schema.is_dropped(family));
        self.family_cover.clear();
        self.enter_column(&[]);
    }

    fn enter_column(&mut self, escaped: &[u8]) {
        self.column.clear();
        self.column.extend_from_slice(escaped);
        self.column_cover.clear();
        self.counts = Default::default();
        self.coordinate = None;
    }

    fn judge_cell(&mut self, version: i64, stamp: Stamp, live: bool) -> Verdict {
        let before = match self.coordinate {
            Some(c) if c.version == version => Some(c),
            Some(c) => {
                self.count(c.eras);
                None
            }
            None => None,
        };
        // INV-10: what supersedes a fact comes before it; in another order the winner would be dropped.
        debug_assert!(before.is_none_or(|c| c.stamp >= stamp), "INV-10: facts out of order");
        let mut eras = before.map(|c| c.eras).unwrap_or_default();
        let schema = self.rules.schema.clone();
        let settings = self.settings.and_then(|at| schema.as_ref()?.families.get(at));
        let verdict = match (settings, before) {
            (_, Some(c)) if c.stamp == stamp => {
                self.alarm(version, stamp);
                Verdict::Keep
            }
            (None, _) => {
                self.unknown_killed |= self.killed(version, stamp, u64::MAX);
                Verdict::Keep
            }
            (Some(family), before) => self.verdict(family, version, stamp, live, before),
        };
        if let Some(family) = settings.filter(|_| matches!(verdict, Verdict::Keep | Verdict::Strip)) {
            self.leftovers.cell(family, version);
        }
        let era = settings.and_then(|f| counted_era(f, stamp, |hlc_max| self.killed(version, stamp, hlc_max)));
        if let Some(era) = era {
            eras.insert(era);
        }
        self.coordinate = Some(Coordinate { version, stamp, eras });
        verdict
    }

    fn verdict(
        &self,
        family: &FamilySettings,
        version: i64,
        stamp: Stamp,
        live: bool,
        before: Option<Coordinate>,
    ) -> Verdict {
        if expired_for_good(family, version, self.rules.now_micros) {
            return Verdict::Drop;
        }
        let killed = self.killed(version, stamp, u64::MAX);
        if !family.limits_versions() {
            let forget = before.is_some() || killed || !live;
            return if forget { Verdict::Drop } else { Verdict::Keep };
        }
        let era = family.era(stamp);
        let last = family.past_limits.len();
        let beyond = (era..=last).any(|e| family.era_limit(e).is_some_and(|limit| self.counts[e] >= limit));
        let superseded = before.is_some_and(|c| c.eras.contains(era));
        let uncounted = family.era_limit(era).is_none() && self.killed(version, stamp, family.era_until(era));
        if beyond || superseded || uncounted {
            Verdict::Drop
        } else if live && (killed || before.is_some()) {
            Verdict::Strip
        } else {
            Verdict::Keep
        }
    }

    /// A version was passed whose facts stand in these eras.
    fn count(&mut self, eras: Eras) {
        let schema = self.rules.schema.clone();
        let Some(family) = self.settings.and_then(|at| schema.as_ref()?.families.get(at)) else {
            return;
        };
        let mut carried = false;
        for era in 0..self.counts.len().min(family.past_limits.len() + 1) {
            let here = eras.contains(era) || carried;
            carried = false;
            match family.era_limit(era) {
                Some(_) if here => self.counts[era] = self.counts[era].saturating_add(1),
                Some(_) => {}
                // An era without a limit leaves everything to the next one. That is sure once no tombstone of the era
                // can arrive any more, and all that did were seen.
                None => carried = here && self.rules.stable.is_some_and(|s| s.hlc >= family.era_until(era)),
            }
        }
    }

    fn killed(&self, version: i64, stamp: Stamp, hlc_max: u64) -> bool {
        [&self.row_cover, &self.family_cover, &self.column_cover]
            .iter()
            .any(|cover| cover.kills(version, stamp, hlc_max))
    }

    fn alarm(&mut self, version: i64, stamp: Stamp) {
        if self.alarms.len() < ALARMS_MAX {
            let mut qualifier = Vec::new();
            key::unescape(&self.column, &mut qualifier);
            self.alarms
                .push(tied(&self.row, self.family, &qualifier, version, stamp));
        }
    }
}

/// True if no reader anywhere, whatever its clock within the bounds of R8, can still see that version.
fn expired_for_good(family: &FamilySettings, version: i64, now_micros: i64) -> bool {
    family.expired(version, now_micros.saturating_sub(OFFSET_MICROS))
}
