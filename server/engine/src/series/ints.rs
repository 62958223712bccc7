//! Sequences of integers: a prediction, and what is left of it in chunks that choose their own width.
//!
//! ```text
//! ints   := kind u8 | parameters | chunk*           how many there are is known from outside; none: nothing at all
//! kind   := 0 level    middle zz                    rest = x - middle
//!         | 1 delta    first zz | step zz           rest = x - (the one before) - step
//!         | 2 delta²   first zz | step zz           rest = x - (the one before) - (the step before)
//!         | 3 line     start zz | slope zz          rest = x - start - (i * slope >> 16)
//!         | + 8        unit varint | base zz | ...  x = base + unit * y, and the rest of the kind is about y
//! chunk  := form u8 | bits, to a whole byte         128 rests in zigzag form; the last chunk holds what is left
//! form   := w in 0..=64                             each in w bits
//!         | 65 + k, k in 0..=32                     Rice: q ones, a zero, k bits, q = rest >> k; 24 ones: 64 bits follow
//! zz     := varint of the zigzag form
//! ```
//! Sums wrap at 64 bits in both directions, so that every sequence has a form. The first of a sequence of deltas is a
//! parameter and has no rest; of delta² neither has the second.
//!
//! *Unit* is for clocks that tick in milliseconds, seconds or minutes, and counters in pages. *Line* is what a clock with
//! jitter leaves when deltas would count each jitter twice. Rice comes within a tenth of a bit of the entropy of
//! bell-shaped rests, where a common width wastes most of a bit; for even noise it is the reverse.

use super::bits::{BitWriter, bits_of, field, mask, unzigzag, window, zigzag};
use tidemark_base::codec::{Malformed, Reader, put_varint};

/// Rests in a chunk.
const CHUNK: usize = 128;
/// In a kind: there is a unit.
const UNIT: u8 = 8;
const RICE: u8 = 65;
const RICE_BITS_MAX: u32 = 32;
/// So many ones say that the rest follows as it is.
const RICE_ONES_MAX: u32 = 24;
/// Another kind must save so much a number: the plainer ones are quicker to read, and a sample says no more.
const GAIN_BITS: f32 = 0.06;
/// Up to so many numbers all are looked at to choose a kind; of more, three stretches of a third each.
const SAMPLE: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Level,
    Delta,
    Delta2,
    Line,
}

/// How a sequence will be written.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    /// Start of a line, else the first number.
    first: i64,
    /// Middle, step or slope.
    parameter: i64,
    /// Bits that a number takes, estimated, its share of the parameters included.
    bits: f32,
}

/// Chooses the kind from a sample, by the same rule for the same numbers.
fn plan(xs: &[i64]) -> Plan {
    let stretches = sample(xs.len());
    let share = |number: i64| (bits_of(zigzag(number)).div_ceil(7).max(1) * 8) as f32 / xs.len() as f32;
    let first = xs.first().copied().unwrap_or(0);
    let middle = median(&stretches, 0, |i| xs[i]);
    let mut best = Plan {
        kind: Kind::Level,
        first,
        parameter: middle,
        bits: cost(&stretches, 0, |i| xs[i].wrapping_sub(middle)) + share(middle),
    };
    if xs.len() < 2 {
        return best;
    }
    let mut consider = |kind, first, parameter, bits| {
        let bits = bits + share(parameter) + share(first);
        if bits + GAIN_BITS < best.bits {
            best = Plan {
                kind,
                first,
                parameter,
                bits,
            };
        }
    };
    let delta = |i: usize| xs[i].wrapping_sub(xs[i - 1]);
    let step = median(&stretches, 1, delta);
    let bits = cost(&stretches, 1, |i| delta(i).wrapping_sub(step));
    consider(Kind::Delta, first, step, bits);
    if xs.len() > 2 {
        let bits = cost(&stretches, 2, |i| delta(i).wrapping_sub(delta(i - 1)));
        consider(Kind::Delta2, first, delta(1), bits);
        if let Some(slope) = slope(xs) {
            let start = median(&stretches, 0, |i| xs[i].wrapping_sub(on_line(0, slope, i)));
            let bits = cost(&stretches, 0, |i| xs[i].wrapping_sub(on_line(start, slope, i)));
            consider(Kind::Line, start, slope, bits);
        }
    }
    best
}

/// The rise from number to number times 2^16, between the middles of both ends; `None` where it is too steep.
fn slope(xs: &[i64]) -> Option<i64> {
    let end = (xs.len() / 3).clamp(1, SAMPLE / 3);
    let middle = |from: usize| median(&[from..from + end, 0..0, 0..0], 0, |i| xs[i]);
    let behind = xs.len() - end;
    let span = middle(behind)
        .checked_sub(middle(0))
        .filter(|span| span.unsigned_abs() < 1 << 46)?;
    Some((span << 16) / behind as i64)
}

/// Bits that a number of the sequence will take, estimated.
pub(super) fn bits_estimate(xs: &[i64]) -> f32 {
    plan(xs).bits
}

/// The greatest number that divides every distance from the first one; 1 where there is none, or it is not worth a byte.
fn unit(xs: &[i64]) -> i64 {
    let Some((first, rest)) = xs.split_first() else {
        return 1;
    };
    let mut unit = 0u64;
    for x in rest {
        let Some(distance) = x.checked_sub(*first) else {
            return 1;
        };
        let (mut a, mut b) = (distance.unsigned_abs(), unit);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        unit = a;
        if unit == 1 {
            return 1;
        }
    }
    i64::try_from(unit).unwrap_or(1).max(1)
}

fn on_line(start: i64, slope: i64, i: usize) -> i64 {
    start.wrapping_add(slope.wrapping_mul(i as i64) >> 16)
}

fn sample(n: usize) -> [std::ops::Range<usize>; 3] {
    if n <= SAMPLE {
        return [0..n, 0..0, 0..0];
    }
    let third = SAMPLE / 3;
    [0..third, n / 2..n / 2 + third, n - third..n]
}

fn median(stretches: &[std::ops::Range<usize>], from: usize, x: impl Fn(usize) -> i64) -> i64 {
    let mut sampled = [0; SAMPLE];
    let mut n = 0;
    for i in stretches.iter().cloned().flatten().filter(|i| *i >= from) {
        sampled[n] = x(i);
        n += 1;
    }
    match n {
        0 => 0,
        _ => *sampled[..n].select_nth_unstable(n / 2).1,
    }
}

/// Bits of a rest on average, about as a Rice code takes them.
fn cost(stretches: &[std::ops::Range<usize>], from: usize, rest: impl Fn(usize) -> i64) -> f32 {
    let (mut bits, mut n) = (0, 0);
    for i in stretches.iter().cloned().flatten().filter(|i| *i >= from) {
        bits += log2(zigzag(rest(i)));
        n += 1;
    }
    bits as f32 / (n.max(1) << LOG2_SHIFT) as f32
}

/// Where the fraction begins in what [`log2`] returns.
const LOG2_SHIFT: u32 = 8;

/// The logarithm of `x + 1` in 256ths, straight between powers of two: exponent and mantissa of a float are just that.
fn log2(x: u64) -> u32 {
    let float = (x >> 1) as i64 as f32 * 2.0 + (x & 1) as i64 as f32 + 1.0;
    (float.to_bits() - 1f32.to_bits()) >> (23 - LOG2_SHIFT)
}

/// Appends a sequence.
pub(super) fn encode(out: &mut Vec<u8>, xs: &[i64]) {
    let Some(&base) = xs.first() else {
        return;
    };
    match unit(xs) {
        1 => encode_as(out, xs, 0, &[]),
        unit => {
            let mut head = Vec::with_capacity(20);
            put_varint(&mut head, unit as u64);
            put_varint(&mut head, zigzag(base));
            let scaled: Vec<i64> = xs.iter().map(|x| (x - base) / unit).collect();
            encode_as(out, &scaled, UNIT, &head);
        }
    }
}

fn encode_as(out: &mut Vec<u8>, xs: &[i64], flags: u8, head: &[u8]) {
    let Plan {
        kind,
        first,
        parameter: p,
        ..
    } = plan(xs);
    out.push(kind as u8 | flags);
    out.extend_from_slice(head);
    if kind != Kind::Level {
        put_varint(out, zigzag(first));
    }
    put_varint(out, zigzag(p));
    match kind {
        Kind::Level => chunks(out, xs, 0, |i| xs[i].wrapping_sub(p)),
        Kind::Delta => chunks(out, xs, 1, |i| xs[i].wrapping_sub(xs[i - 1]).wrapping_sub(p)),
        Kind::Delta2 => {
            let delta = |i: usize| xs[i].wrapping_sub(xs[i - 1]);
            chunks(out, xs, 2, |i| delta(i).wrapping_sub(delta(i - 1)));
        }
        Kind::Line => chunks(out, xs, 0, |i| xs[i].wrapping_sub(on_line(first, p, i))),
    }
}

fn chunks(out: &mut Vec<u8>, xs: &[i64], from: usize, rest: impl Fn(usize) -> i64) {
    let mut chunk = [0u64; CHUNK];
    let mut at = from;
    while at < xs.len() {
        let n = CHUNK.min(xs.len() - at);
        for (offset, slot) in chunk[..n].iter_mut().enumerate() {
            *slot = zigzag(rest(at + offset));
        }
        encode_chunk(out, &chunk[..n]);
        at += n;
    }
}

fn encode_chunk(out: &mut Vec<u8>, rests: &[u64]) {
    let all = rests.iter().fold(0, |all, rest| all | rest);
    let width = bits_of(all);
    let sum: u32 = rests.iter().map(|rest| bits_of(*rest)).sum();
    let middle = (sum / rests.len() as u32).min(RICE_BITS_MAX);
    let (mut best, mut form) = (u64::from(width) * rests.len() as u64, width as u8);
    for k in middle.saturating_sub(1)..=middle {
        let bits = rice_bits(rests, k);
        if bits < best {
            (best, form) = (bits, RICE + k as u8);
        }
    }
    out.push(form);
    let mut bits = BitWriter::new(out);
    if form < RICE {
        rests.iter().for_each(|rest| bits.put(*rest, width));
    } else {
        let k = u32::from(form - RICE);
        for &rest in rests {
            let ones = rest >> k;
            if ones >= u64::from(RICE_ONES_MAX) {
                bits.put(mask(RICE_ONES_MAX), RICE_ONES_MAX);
                bits.put(rest, 64);
            } else {
                let ones = ones as u32;
                bits.put(mask(ones) | (rest & mask(k)) << (ones + 1), ones + 1 + k);
            }
        }
    }
    bits.finish();
}

fn rice_bits(rests: &[u64], k: u32) -> u64 {
    let escape = u64::from(RICE_ONES_MAX);
    rests
        .iter()
        .map(|rest| {
            let ones = rest >> k;
            if ones >= escape {
                escape + 64
            } else {
                ones + 1 + u64::from(k)
            }
        })
        .sum()
}

/// Replaces `out` by the `n` numbers of a sequence. The caller has bounded `n`.
pub(super) fn decode(r: &mut Reader<'_>, n: usize, out: &mut Vec<i64>) -> Result<(), Malformed> {
    out.clear();
    if n == 0 {
        return Ok(());
    }
    let flags = r.u8()?;
    let kind = flags & !UNIT;
    if kind > Kind::Line as u8 {
        return Err(Malformed("unknown kind of integers"));
    }
    let unit = match flags & UNIT {
        0 => None,
        _ => Some((r.varint()? as i64, unzigzag(r.varint()?))),
    };
    let first = if kind > 0 { unzigzag(r.varint()?) } else { 0 };
    let p = unzigzag(r.varint()?);
    match kind {
        1 => out.push(first),
        2 => out.extend([first, first.wrapping_add(p)].iter().take(n)),
        _ => {}
    }
    if r.remaining() < (n - out.len()).div_ceil(CHUNK) {
        return Err(Malformed("fewer chunks than numbers"));
    }
    out.reserve(n);
    while out.len() < n {
        let rests = CHUNK.min(n - out.len());
        decode_chunk(r, rests, out)?;
    }
    restore(kind, first, p, out);
    if let Some((unit, base)) = unit {
        out.iter_mut()
            .for_each(|x| *x = x.wrapping_mul(unit).wrapping_add(base));
    }
    Ok(())
}

/// Rests become numbers.
fn restore(kind: u8, first: i64, p: i64, out: &mut [i64]) {
    match kind {
        0 => out.iter_mut().for_each(|x| *x = x.wrapping_add(p)),
        1 => {
            let mut last = out[0];
            for x in &mut out[1..] {
                last = last.wrapping_add(*x).wrapping_add(p);
                *x = last;
            }
        }
        2 if out.len() > 1 => {
            let (mut last, mut step) = (out[1], p);
            for x in &mut out[2..] {
                step = step.wrapping_add(*x);
                last = last.wrapping_add(step);
                *x = last;
            }
        }
        3 => {
            for (i, x) in out.iter_mut().enumerate() {
                *x = x.wrapping_add(on_line(first, p, i));
            }
        }
        _ => {}
    }
}

fn decode_chunk(r: &mut Reader<'_>, n: usize, out: &mut Vec<i64>) -> Result<(), Malformed> {
    let form = r.u8()?;
    if form < RICE {
        let width = u32::from(form);
        let bytes = r.take((n * width as usize).div_ceil(8))?;
        match width {
            0 => out.extend(std::iter::repeat_n(0, n)),
            1..=56 => out.extend((0..n).map(|i| unzigzag(window(bytes, i * width as usize) & mask(width)))),
            _ => out.extend((0..n).map(|i| unzigzag(field(bytes, i * width as usize, width)))),
        }
        return Ok(());
    }
    let k = u32::from(form - RICE);
    if k > RICE_BITS_MAX {
        return Err(Malformed("unknown form of a chunk"));
    }
    let mut ahead = *r;
    let bytes = ahead.take(ahead.remaining())?;
    let (low, mut at) = (mask(k), 0usize);
    out.extend((0..n).map(|_| {
        let word = window(bytes, at);
        let ones = word.trailing_ones();
        if ones < RICE_ONES_MAX {
            at += (ones + 1 + k) as usize;
            unzigzag(u64::from(ones) << k | (word >> (ones + 1) & low))
        } else {
            at += RICE_ONES_MAX as usize + 64;
            unzigzag(field(bytes, at - 64, 64))
        }
    }));
    // Zeros were read behind the end; here that is noticed.
    r.take(at.div_ceil(8)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(xs: &[i64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, xs);
        let mut r = Reader::new(&out);
        let mut back = Vec::new();
        decode(&mut r, xs.len(), &mut back).unwrap();
        assert_eq!(back, xs);
        assert!(r.is_empty());
        out
    }

    #[test]
    fn each_kind_is_chosen_where_it_is_best() {
        // Scattered, the same in every run.
        let mut state = 1u32;
        let mut noise = |_: i64| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i64::from(state >> 16) % 50
        };
        let line: Vec<i64> = (0..5_000).map(|i| 7 + i * 1_000 + noise(i)).collect();
        assert_eq!(there_and_back(&line)[0], Kind::Line as u8);
        let mut sum = 0;
        let walk: Vec<i64> = (0..500)
            .map(|i| {
                sum += noise(i) - 24;
                sum
            })
            .collect();
        assert_eq!(there_and_back(&walk)[0], Kind::Delta as u8);
        let square: Vec<i64> = (0..500).map(|i| i * i).collect();
        assert_eq!(there_and_back(&square)[0], Kind::Delta2 as u8);
        let minutes: Vec<i64> = line.iter().map(|x| x * 60_000_000).collect();
        assert_eq!(there_and_back(&minutes)[0], Kind::Line as u8 | UNIT);
        assert!(there_and_back(&minutes).len() <= there_and_back(&line).len() + 12);
        let level: Vec<i64> = (0..500).map(|i| 100 + noise(i)).collect();
        assert_eq!(there_and_back(&level)[0], Kind::Level as u8);
    }

    #[test]
    fn what_is_regular_takes_next_to_nothing() {
        let clock: Vec<i64> = (0..1_000).map(|i| 1_700_000_000_000_000 + i * 10_000_000).collect();
        assert!(there_and_back(&clock).len() < 24);
        assert!(there_and_back(&[5; 1_000]).len() < 12);
    }

    #[test]
    fn golden() {
        let mut out = Vec::new();
        encode(&mut out, &[100, 103, 106, 110, 112]);
        // Delta, first 100, step 3; a chunk of Rice codes with k = 0: 0, 0, 1, -1 in zigzag form 0, 0, 2, 1
        assert_eq!(out, [1, 200, 1, 6, 65, 0b0010_1100]);
    }

    proptest! {
        #[test]
        fn any_numbers(xs in proptest::collection::vec(any::<i64>(), 0..300)) {
            there_and_back(&xs);
        }

        #[test]
        fn any_unit(xs in proptest::collection::vec(-9i64..9, 0..300), unit in 1i64..i64::MAX / 20, base in any::<i64>()) {
            there_and_back(&xs.iter().map(|x| base.wrapping_add(x * unit)).collect::<Vec<_>>());
        }

        #[test]
        fn small_numbers_with_outliers(xs in proptest::collection::vec(
            prop_oneof![9 => -20i64..20, 1 => any::<i64>()], 0..400)) {
            there_and_back(&xs);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), n in 0usize..300) {
            let mut out = Vec::new();
            let _ = decode(&mut Reader::new(&bytes), n, &mut out);
            prop_assert!(out.capacity() <= 1_024);
        }
    }
}
