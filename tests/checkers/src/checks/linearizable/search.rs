//! The search for a linear order (Wing and Gong, "Testing and verifying concurrent objects", 1993), with the memory of
//! configurations of Lowe, "Testing for linearizability" (2017).
//!
//! ```text
//! events, by time:   call and return of every certain operation, call alone of every unknown one
//! at an event
//!   call     the operation may come next: if the state allows its answer, and this set of done operations with the new
//!            state is new, take its events out, remember the way, and begin again at the front
//!   return   it must have come before here, and did not: take back the last step and try the next event
//!   the end  every certain operation is done: a linear order exists
//! ```
//! An unknown operation has no return, so it is never missed: it may come at any place, or none.

use super::model::{Input, Model, State, Undo, fingerprint};
use std::collections::HashSet;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. `stuck`: in the longest attempt this operation could not be placed before its return; `beside`: the
    /// operations that were under way then.
    Violated {
        /// An operation's id.
        stuck: u64,
        /// Operations' ids.
        beside: Vec<u64>,
    },
    /// The bound was reached first.
    Undecided,
}

/// One place in time. `u32::MAX` = none.
#[derive(Clone, Copy)]
struct Event {
    input: u32,
    is_call: bool,
    /// Of a call: the place of its return.
    partner: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;
/// The place before the first event.
const HEAD: u32 = 0;

/// Looks for a linear order of a row's operations.
pub fn search<'a>(model: &mut Model<'a>, inputs: &[Input<'a>], steps_max: u64) -> Verdict {
    let mut events = events(inputs);
    // Which operations are done, as a sum without carries of their fingerprints; and with which state that was tried.
    let mut done = 0u128;
    let mut tried: HashSet<(u128, u128)> = HashSet::new();
    let mut way: Vec<(u32, Undo)> = Vec::new();
    let mut state = State::default();
    let mut at = events[HEAD as usize].next;
    let (mut deepest, mut stuck) = (0, NONE);
    for _ in 0..steps_max {
        if at == NONE {
            return Verdict::Linearizable;
        }
        let event = events[at as usize];
        if event.is_call {
            let with = done ^ fingerprint(&[event.input.into()]);
            match model.step(&mut state, &inputs[event.input as usize]) {
                Some(undo) if tried.insert((with, state.fingerprint())) => {
                    way.push((at, undo));
                    done = with;
                    lift(&mut events, at);
                    at = events[HEAD as usize].next;
                }
                Some(undo) => {
                    state.undo(undo);
                    at = event.next;
                }
                None => at = event.next,
            }
            continue;
        }
        if way.len() >= deepest || stuck == NONE {
            (deepest, stuck) = (way.len(), event.input);
        }
        let Some((back, undo)) = way.pop() else {
            return violated(inputs, stuck);
        };
        state.undo(undo);
        done ^= fingerprint(&[events[back as usize].input.into()]);
        unlift(&mut events, back);
        at = events[back as usize].next;
    }
    Verdict::Undecided
}

/// The events by time, behind a head. Calls come before returns of the same moment: then the two overlap.
fn events(inputs: &[Input<'_>]) -> Vec<Event> {
    let mut order: Vec<(u64, bool, u32)> = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        let number = u32::try_from(number).expect("a row of a test has fewer operations");
        order.push((input.call, false, number));
        if input.is_certain() {
            order.push((input.returned, true, number));
        }
    }
    order.sort_unstable();
    let head = Event {
        input: NONE,
        is_call: false,
        partner: NONE,
        previous: NONE,
        next: NONE,
    };
    let mut events = vec![head];
    let mut calls = vec![NONE; inputs.len()];
    for (_, is_return, input) in order {
        let at = events.len() as u32;
        events[at as usize - 1].next = at;
        events.push(Event {
            input,
            is_call: !is_return,
            partner: NONE,
            previous: at - 1,
            next: NONE,
        });
        if is_return {
            events[calls[input as usize] as usize].partner = at;
        } else {
            calls[input as usize] = at;
        }
    }
    events
}

fn lift(events: &mut [Event], call: u32) {
    take_out(events, call);
    if events[call as usize].partner != NONE {
        take_out(events, events[call as usize].partner);
    }
}

/// In the reverse order of [`lift`], so that each finds its old neighbours.
fn unlift(events: &mut [Event], call: u32) {
    if events[call as usize].partner != NONE {
        put_back(events, events[call as usize].partner);
    }
    put_back(events, call);
}

fn take_out(events: &mut [Event], at: u32) {
    let Event { previous, next, .. } = events[at as usize];
    events[previous as usize].next = next;
    if next != NONE {
        events[next as usize].previous = previous;
    }
}

fn put_back(events: &mut [Event], at: u32) {
    let Event { previous, next, .. } = events[at as usize];
    events[previous as usize].next = at;
    if next != NONE {
        events[next as usize].previous = at;
    }
}

fn violated(inputs: &[Input<'_>], stuck: u32) -> Verdict {
    let Some(stuck) = inputs.get(stuck as usize) else {
        return Verdict::Violated {
            stuck: 0,
            beside: Vec::new(),
        };
    };
    let overlaps =
        |other: &&Input<'_>| other.id != stuck.id && other.call <= stuck.returned && stuck.call <= other.returned;
    Verdict::Violated {
        stuck: stuck.id,
        beside: inputs.iter().filter(overlaps).map(|input| input.id).take(8).collect(),
    }
}
