//! What is forgotten inside of series records. The judge is the one of cells (`reap`); here its verdicts find their records.
//!
//! ```text
//! sweep        entries of `source`           Edits: by record, what becomes of which fact; then, one record after the other
//!                                            and under the writer's lock:  get -> rewrite -> put or delete
//! ```
//! The sweep reads a record again before it changes it, because ticks may have been merged into it since it was judged: only
//! facts that were judged are forgotten, whatever else stands there by then.

use super::block::Merger;
use super::facts::{Facts, Fate, Tick, digest};
use super::slot::{Arena, Slot};
use super::source::{group_len, push_entry, record_place};
use crate::ops::Edit;
use std::collections::{BTreeMap, HashMap};
use tidemark_base::codec::Malformed;

/// What becomes of a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it.
    All,
    /// This.
    Some(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// Changes of a sweep, by the place of the record (a prefix of its key) and the entry.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    records: BTreeMap<Vec<u8>, HashMap<Vec<u8>, Fate>>,
}

impl Edits {
    /// Notes a change of an entry of a family with time blocks of that length. A fact that should stand elsewhere stays: it
    /// is moved with its record.
    pub(crate) fn push(&mut self, edit: Edit, length: i64) -> Result<(), Malformed> {
        let (key, fate) = match edit {
            Edit::Delete(key) => (key, Fate::Drop),
            Edit::Strip(key) => (key, Fate::Strip),
            Edit::Move(..) => return Ok(()),
        };
        let place = record_place(&key, length)?;
        self.records.entry(place).or_default().insert(key, fate);
        Ok(())
    }

    /// The places of records that change: every record whose key begins with one is to be rewritten.
    pub(crate) fn places(&self) -> impl Iterator<Item = &[u8]> {
        self.records.keys().map(Vec::as_slice)
    }

    /// What a record at a place becomes.
    pub(crate) fn rewrite(
        &self,
        merger: &mut Merger,
        place: &[u8],
        key: &[u8],
        value: &[u8],
    ) -> Result<Left, Malformed> {
        let Some(fates) = self.records.get(place) else {
            return Ok(Left::All);
        };
        let mut entry = Vec::new();
        change(merger, key, value, |group, qualifier, tick, slot, arena| {
            let digest = slot.dead_digest().unwrap_or_else(|| slot.with_bytes(arena, digest));
            push_entry(&mut entry, group, qualifier, tick, digest);
            fates.get(&entry).copied().unwrap_or(Fate::Keep)
        })
    }
}

fn change(
    merger: &mut Merger,
    key: &[u8],
    value: &[u8],
    mut fate: impl FnMut(&[u8], &[u8], Tick, Slot, &Arena) -> Fate,
) -> Result<Left, Malformed> {
    let group = &key[..group_len(key)?];
    let mut facts: Facts = merger.union([value])?;
    let changed = facts.judge(|qualifier, tick, slot, arena| fate(group, qualifier, tick, slot, arena));
    Ok(match changed {
        false => Left::All,
        true if facts.is_empty() => Left::Nothing,
        true => Left::Some(merger.encode(&facts)),
    })
}
