//! Two stores of facts shown as one: cell records and series records.

use crate::api::EngineError;
use crate::key;
use crate::source::{FactSource, Place};
use std::cmp::Ordering;
use tidemark_base::{FamilyId, Stamp};

/// Two stores of facts shown as one. What stands in both is shown once, as the first has it.
pub(crate) struct Merged<A, B> {
    a: A,
    b: B,
    /// Which of them the entry is in.
    at: At,
    /// Only the one at the entry stands where it should: the source was moved backwards.
    alone: bool,
    /// The one has come to its end, without an error; the other has. Asking for that at each step would cost a call.
    ended: [bool; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    End,
    A,
    B,
    Both,
}

impl<A: FactSource, B: FactSource> Merged<A, B> {
    /// Of two stores, from one moment.
    pub(crate) fn new(a: A, b: B) -> Merged<A, B> {
        Merged {
            a,
            b,
            at: At::End,
            alone: false,
            ended: [false; 2],
        }
    }

    /// True if one of them shows nothing because it has failed.
    fn has_failed(&mut self) -> bool {
        let ends = [self.a.entry().is_none(), self.b.entry().is_none()];
        if ends == self.ended {
            return false;
        }
        let failed = (ends[0] && self.a.status().is_err()) || (ends[1] && self.b.status().is_err());
        self.ended = if failed { [false; 2] } else { ends };
        failed
    }

    fn select(&mut self, forward: bool) {
        self.alone = !forward;
        // What a store with an error would have shown is not known, so nothing more is.
        if self.has_failed() {
            self.at = At::End;
            return;
        }
        self.at = match (self.a.entry(), self.b.entry()) {
            (None, None) => At::End,
            (Some(_), None) => At::A,
            (None, Some(_)) => At::B,
            (Some((a, _)), Some((b, _))) => match a.cmp(b) {
                Ordering::Equal => At::Both,
                Ordering::Less if forward => At::A,
                Ordering::Greater if !forward => At::A,
                Ordering::Less | Ordering::Greater => At::B,
            },
        };
    }
}

/// True if `other` stands in the column of a cell's entry.
fn shares_column(cell: Option<(&[u8], &[u8])>, other: Option<(&[u8], &[u8])>) -> bool {
    match (cell, other) {
        (Some((cell, _)), Some((other, _))) => other.starts_with(key::column_of(cell)),
        _ => false,
    }
}

impl<A: FactSource, B: FactSource> FactSource for Merged<A, B> {
    fn seek(&mut self, key: &[u8]) {
        self.ended = [false; 2];
        self.a.seek(key);
        self.b.seek(key);
        self.select(true);
    }

    fn seek_before(&mut self, key: &[u8]) {
        self.ended = [false; 2];
        self.a.seek_before(key);
        self.b.seek_before(key);
        self.select(false);
    }

    fn seek_last(&mut self) {
        self.ended = [false; 2];
        self.a.seek_last();
        self.b.seek_last();
        self.select(false);
    }

    fn next(&mut self) {
        if self.alone {
            let Some(key) = self.entry().map(|(key, _)| key.to_vec()) else {
                return;
            };
            self.ended = [false; 2];
            match self.at {
                At::A => self.b.seek(&key),
                At::B => self.a.seek(&key),
                At::Both | At::End => {}
            }
        }
        if matches!(self.at, At::A | At::Both) {
            self.a.next();
        }
        if matches!(self.at, At::B | At::Both) {
            self.b.next();
        }
        if self.at != At::End {
            self.select(true);
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        match self.at {
            At::End => None,
            At::A | At::Both => self.a.entry(),
            At::B => self.b.entry(),
        }
    }

    fn status(&self) -> Result<(), EngineError> {
        self.a.status().and_then(|()| self.b.status())
    }

    fn corruption(&self, what: String) -> EngineError {
        self.a.corruption(what)
    }

    fn run(&mut self) -> usize {
        if self.alone {
            return 0;
        }
        // The other's entry is the greater one: outside of the column it is behind all of it.
        match self.at {
            At::End | At::Both => 0,
            At::A if shares_column(self.a.entry(), self.b.entry()) => 0,
            At::A => self.a.run(),
            At::B if shares_column(self.b.entry(), self.a.entry()) => 0,
            At::B => self.b.run(),
        }
    }

    fn run_cell(&self, n: usize, value: &mut Vec<u8>) -> Option<(i64, Stamp)> {
        match self.at {
            At::End | At::Both => None,
            At::A => self.a.run_cell(n, value),
            At::B => self.b.run_cell(n, value),
        }
    }

    fn pass_run(&mut self, n: usize) {
        match self.at {
            At::End | At::Both => return,
            At::A => self.a.pass_run(n),
            At::B => self.b.pass_run(n),
        }
        self.select(true);
    }

    fn pass_column(&mut self) {
        match self.at {
            At::End | At::Both => return,
            At::A => self.a.pass_column(),
            At::B => self.b.pass_column(),
        }
        self.select(true);
    }

    fn place(&self) -> Place {
        let (a, b) = (self.a.place(), self.b.place());
        match self.at {
            At::End | At::A => a,
            At::B => b,
            At::Both => Place {
                cell: a.cell || b.cell,
                series: a.series || b.series,
            },
        }
    }

    fn misplaced(&self, family: FamilyId) -> bool {
        match self.at {
            At::End => false,
            At::A | At::Both => self.a.misplaced(family),
            At::B => self.b.misplaced(family),
        }
    }
}
