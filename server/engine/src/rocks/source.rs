//! Facts in key order, out of the column families that hold them ("layers").
//!
//! A tablet whose families are all compressed alike has its facts in one column family, and reading it is one iterator and
//! nothing around it. Otherwise the iterators are merged: a row's tombstones stand in the first column family, its cells in
//! those of their families.
//!
//! ```text
//! facts       r1/tomb   r1/a/x      r2/a/x          entry() = the least key over all iterators
//! facts.zstd       r1/b/x   r1/b/y       r2/b/x     next()  = moves every iterator that stands on that key
//! ```
//! One fact may stand in two of them for a while: written twice, with another compression set in between. Keys and meaning
//! are equal then, so one of them is shown, always of the same column family.

use super::engine::RocksEngine;
use crate::api::EngineError;
use crate::source::FactSource;
use rocksdb::DBRawIterator;

/// See the module. All iterators are from one moment.
pub(super) struct RocksSource<'a> {
    engine: &'a RocksEngine,
    /// At least one; in the order of the layers.
    iterators: Vec<DBRawIterator<'a>>,
    /// The layer of each.
    layers: Vec<usize>,
    /// Which iterator holds the entry; none at the end or after an error.
    at: Option<usize>,
    /// Bit `n`: iterator `n` has come to its end, without an error. Asking it for that each time would cost a call.
    ended: u8,
    /// Only the iterator at the entry stands where it should: the source was moved backwards.
    alone: bool,
}

impl<'a> RocksSource<'a> {
    /// Of iterators with their layers, ascending.
    pub(super) fn new(
        engine: &'a RocksEngine,
        iterators: impl Iterator<Item = (usize, DBRawIterator<'a>)>,
    ) -> RocksSource<'a> {
        let (layers, iterators) = iterators.unzip();
        RocksSource {
            engine,
            iterators,
            layers,
            at: None,
            ended: 0,
            alone: false,
        }
    }

    fn select(&mut self, better: fn(&[u8], &[u8]) -> bool) {
        self.at = None;
        let mut best: Option<&[u8]> = None;
        for (index, iterator) in self.iterators.iter().enumerate() {
            if self.ended >> index & 1 == 1 {
                continue;
            }
            match iterator.key() {
                Some(key) if best.is_none_or(|best| better(key, best)) => {
                    best = Some(key);
                    self.at = Some(index);
                }
                Some(_) => {}
                // What an iterator with an error would have shown is not known, so nothing more is.
                None if iterator.status().is_err() => {
                    self.at = None;
                    return;
                }
                None => self.ended |= 1 << index,
            }
        }
    }

    fn select_least(&mut self) {
        self.alone = false;
        self.select(|key, best| key < best);
    }

    fn select_greatest(&mut self) {
        self.ended = 0;
        self.alone = self.iterators.len() > 1;
        self.select(|key, best| key > best);
    }
}

impl FactSource for RocksSource<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.iterators.iter_mut().for_each(|iterator| iterator.seek(key));
        self.ended = 0;
        self.select_least();
    }

    fn seek_before(&mut self, key: &[u8]) {
        // At or before; no entry's whole key is a row's prefix.
        self.iterators
            .iter_mut()
            .for_each(|iterator| iterator.seek_for_prev(key));
        self.select_greatest();
    }

    fn seek_last(&mut self) {
        self.iterators.iter_mut().for_each(|iterator| iterator.seek_to_last());
        self.select_greatest();
    }

    fn next(&mut self) {
        let Some(at) = self.at else { return };
        if let [only] = &mut self.iterators[..] {
            only.next();
            self.at = only.valid().then_some(0);
            return;
        }
        if self.alone {
            let key = self.iterators[at].key().map(<[u8]>::to_vec).unwrap_or_default();
            self.ended = 0;
            let others = self.iterators.iter_mut().enumerate().filter(|(index, _)| *index != at);
            others.for_each(|(_, iterator)| iterator.seek(&key));
        }
        for index in (0..self.iterators.len()).filter(|index| *index != at) {
            if self.iterators[index].key() == self.iterators[at].key() {
                self.iterators[index].next();
            }
        }
        self.iterators[at].next();
        self.select_least();
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterators[self.at?].item()
    }

    fn status(&self) -> Result<(), EngineError> {
        let failed = self.iterators.iter().find_map(|iterator| iterator.status().err());
        failed.map_or(Ok(()), |e| Err(self.engine.error(&e)))
    }

    fn corruption(&self, what: String) -> EngineError {
        self.engine.corruption(what)
    }

    fn misplaced(&self, family: tidemark_base::FamilyId) -> bool {
        let Some(at) = self.at else { return false };
        // A second copy in another layer is shadowed, but takes its bytes until it is moved onto the first.
        let key = self.iterators[at].key();
        let copies = self.iterators.iter().filter(|iterator| iterator.key() == key).count();
        copies > 1 || self.layers[at] != self.engine.layer_of(family)
    }
}
