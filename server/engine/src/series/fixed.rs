//! Columns of 8-byte values: floats as scaled decimals or as XOR with the one before, integers.
//!
//! A client's byte order is not known, so both are tried. All forms take and give values as words: the eight bytes read
//! big endian.
//!
//! ```text
//! decimal := digits u8 (0..=14) | nudged u8 | exceptions varint | mantissas ints of n | [nudged 1: nudges ints of n]
//!            | positions ints of the exceptions | word u64 each
//!            value = the float that comes nudge floats behind mantissa / 10^digits
//! xor     := first u64 | bits to a whole byte:   0                                as the one before
//!                                                10 | window                      differs inside the window before
//!                                                11 | zeros in front, 6 bits | width - 1, 6 bits | window
//! ```
//! A float is taken as a decimal only if that gives its bits back, so nothing is lost: NaN, -0.0 and what has more digits
//! than the column are exceptions, whose mantissa repeats the one before. A quotient of two integers that a float holds
//! exactly is the float nearest to the decimal, which is what a parser made of a sensor's text. Readings that somebody has
//! averaged or scaled (51.846000000000004) are a few floats beside it: the nudge.

use super::bits::{BitWriter, bits_of, field, mask};
use super::ints;
use tidemark_base::codec::{Malformed, Reader, put_varint};

const POWERS: [f64; 15] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
];
/// Added and taken off again, it rounds a float of at most 51 bits to an integer.
const ROUND: f64 = 6_755_399_441_055_744.0;
const MANTISSA_MAX: f64 = (1u64 << 51) as f64;
/// Values that are looked at to choose digits.
const SAMPLE: usize = 32;
/// About what an exception costs beyond its mantissa, in bits.
const EXCEPTION_BITS: u32 = 72;
/// How many floats beside the decimal's own a value may be.
const NUDGE_MAX: u64 = 16;

/// Which byte of a value comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant one.
    Big,
    /// The least significant one.
    Little,
}

impl ByteOrder {
    /// From a word (bytes read big endian) to the number's bits, and back.
    #[inline]
    pub(super) fn turn(self, word: u64) -> u64 {
        match self {
            ByteOrder::Big => word,
            ByteOrder::Little => word.swap_bytes(),
        }
    }
}

/// What 8-byte values look like in one byte order.
pub(super) struct Looks {
    /// Share of the sample with an everyday magnitude as a float.
    pub(super) float: f32,
    /// Share with an everyday magnitude as an integer.
    pub(super) integer: f32,
}

fn sample(words: &[u64]) -> impl Iterator<Item = u64> + '_ {
    words.iter().step_by(words.len().div_ceil(SAMPLE).max(1)).copied()
}

pub(super) fn looks(words: &[u64], order: ByteOrder) -> Looks {
    let (mut floats, mut integers, mut n) = (0, 0, 0);
    for word in sample(words) {
        let bits = order.turn(word);
        let float = f64::from_bits(bits);
        floats += u32::from(float == 0.0 || float.is_nan() || (1e-12..1e18).contains(&float.abs()));
        integers += u32::from((bits as i64).unsigned_abs() < 1 << 50);
        n += 1;
    }
    let share = |count: u32| count as f32 / n.max(1) as f32;
    Looks {
        float: share(floats),
        integer: share(integers),
    }
}

/// A float as a decimal: its mantissa and its nudge.
#[inline]
fn decimal(float: f64, power: f64) -> Option<(i64, i64)> {
    let rounded = (float * power + ROUND) - ROUND;
    let nudge = float.to_bits().wrapping_sub((rounded / power).to_bits()) as i64;
    let fits = rounded.abs() < MANTISSA_MAX && nudge.unsigned_abs() <= NUDGE_MAX;
    fits.then_some((rounded as i64, nudge))
}

/// How many digits behind the point to keep; `None` where decimals do not help.
fn digits(words: &[u64], order: ByteOrder) -> Option<u8> {
    let mut best: Option<(u32, u8)> = None;
    for (digits, power) in POWERS.iter().enumerate() {
        let (mut cost, mut exceptions, mut nudges, mut last, mut n) = (0, 0u32, 0, None, 0u32);
        for word in sample(words) {
            n += 1;
            match decimal(f64::from_bits(order.turn(word)), *power) {
                Some((mantissa, nudge)) => {
                    let rest = mantissa.wrapping_sub(last.unwrap_or(mantissa)).unsigned_abs();
                    cost += bits_of(rest) + 1;
                    nudges += u32::from(nudge != 0);
                    last = Some(mantissa);
                }
                None => exceptions += 1,
            }
        }
        cost += exceptions * EXCEPTION_BITS + if nudges > 0 { n + 2 * nudges } else { 0 };
        if exceptions * 2 <= n && best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, digits as u8));
        }
        if exceptions + nudges == 0 {
            break;
        }
    }
    best.map(|(_, digits)| digits)
}

/// Appends the values as decimals; false, and nothing appended, where they are none.
pub(super) fn encode_decimals(out: &mut Vec<u8>, words: &[u64], order: ByteOrder) -> bool {
    let Some(digits) = digits(words, order) else {
        return false;
    };
    let power = POWERS[usize::from(digits)];
    let mut mantissas = Vec::with_capacity(words.len());
    let (mut nudges, mut exceptions) = (Vec::new(), Vec::new());
    let mut last = 0;
    for (position, word) in words.iter().enumerate() {
        let nudge = match decimal(f64::from_bits(order.turn(*word)), power) {
            Some((mantissa, nudge)) => {
                last = mantissa;
                nudge
            }
            None => {
                exceptions.push(position as i64);
                0
            }
        };
        mantissas.push(last);
        if nudge != 0 {
            nudges.resize(position, 0);
            nudges.push(nudge);
        }
    }
    out.extend([digits, u8::from(!nudges.is_empty())]);
    put_varint(out, exceptions.len() as u64);
    ints::encode(out, &mantissas);
    if !nudges.is_empty() {
        nudges.resize(words.len(), 0);
        ints::encode(out, &nudges);
    }
    ints::encode(out, &exceptions);
    for position in exceptions {
        out.extend_from_slice(&words[position as usize].to_le_bytes());
    }
    true
}

/// Replaces `out` by `n` decimals: `make` takes the number, `raw` an exception's word.
pub(super) fn decode_decimals<T>(
    r: &mut Reader<'_>,
    n: usize,
    scratch: &mut Vec<i64>,
    out: &mut Vec<T>,
    make: impl Fn(f64) -> T,
    raw: impl Fn(u64) -> T,
) -> Result<(), Malformed> {
    let digits = r.u8()?;
    let power = *POWERS.get(usize::from(digits)).ok_or(Malformed("too many digits"))?;
    let nudged = match r.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("nudged is 0 or 1")),
    };
    let exceptions = r.length(n, "more exceptions than values")?;
    ints::decode(r, n, scratch)?;
    out.clear();
    if nudged {
        let mut nudges = Vec::new();
        ints::decode(r, n, &mut nudges)?;
        let nudge = |float: f64, by: i64| f64::from_bits(float.to_bits().wrapping_add(by as u64));
        out.extend(
            scratch
                .iter()
                .zip(nudges)
                .map(|(m, by)| make(nudge(*m as f64 / power, by))),
        );
    } else if digits == 0 {
        out.extend(scratch.iter().map(|m| make(*m as f64)));
    } else {
        out.extend(scratch.iter().map(|m| make(*m as f64 / power)));
    }
    ints::decode(r, exceptions, scratch)?;
    for position in scratch.iter() {
        let word = r.u64()?;
        let slot = usize::try_from(*position).ok().and_then(|at| out.get_mut(at));
        *slot.ok_or(Malformed("an exception's position"))? = raw(word);
    }
    Ok(())
}

/// Appends the values as XORs.
pub(super) fn encode_xor(out: &mut Vec<u8>, words: &[u64], order: ByteOrder) {
    let Some(first) = words.first() else {
        return;
    };
    let mut last = order.turn(*first);
    out.extend_from_slice(&last.to_le_bytes());
    let mut bits = BitWriter::new(out);
    let (mut front, mut width) = (0, 64);
    for word in &words[1..] {
        let now = order.turn(*word);
        let xor = now ^ last;
        last = now;
        if xor == 0 {
            bits.put(0, 1);
            continue;
        }
        let back = 64 - front - width;
        let (zeros_front, zeros_back) = (xor.leading_zeros(), xor.trailing_zeros());
        let own = 64 - zeros_front - zeros_back;
        // A window of its own costs 12 bits.
        if zeros_front >= front && zeros_back >= back && width <= own + 12 {
            bits.put(0b01, 2);
        } else {
            (front, width) = (zeros_front, own);
            bits.put(0b11, 2);
            bits.put(u64::from(front), 6);
            bits.put(u64::from(width - 1), 6);
        }
        bits.put(xor >> (64 - front - width), width);
    }
    bits.finish();
}

/// Replaces `words` by `n` values that were written as XORs.
pub(super) fn decode_xor(
    r: &mut Reader<'_>,
    n: usize,
    order: ByteOrder,
    words: &mut Vec<u64>,
) -> Result<(), Malformed> {
    words.clear();
    if n == 0 {
        return Ok(());
    }
    let mut last = r.u64()?;
    let mut ahead = *r;
    let bytes = ahead.take(ahead.remaining())?;
    if bytes.len() < (n - 1).div_ceil(8) {
        return Err(Malformed("fewer bits than values"));
    }
    words.reserve(n);
    words.push(order.turn(last));
    let (mut at, mut front, mut width) = (0usize, 0u32, 64u32);
    for _ in 1..n {
        let control = field(bytes, at, 14);
        if control & 1 == 0 {
            at += 1;
        } else {
            at += 2;
            if control & 2 != 0 {
                front = (control >> 2 & mask(6)) as u32;
                width = (control >> 8 & mask(6)) as u32 + 1;
                at += 12;
            }
            if front + width > 64 {
                return Err(Malformed("a window wider than a word"));
            }
            last ^= field(bytes, at, width) << (64 - front - width);
            at += width as usize;
        }
        words.push(order.turn(last));
    }
    r.take(at.div_ceil(8)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(floats: &[f64]) -> Vec<u64> {
        floats.iter().map(|f| f.to_bits()).collect()
    }

    fn decimals(words: &[u64], order: ByteOrder) -> Option<usize> {
        let mut out = Vec::new();
        if !encode_decimals(&mut out, words, order) {
            return None;
        }
        let (mut r, mut back) = (Reader::new(&out), Vec::new());
        let make = |float: f64| order.turn(float.to_bits());
        decode_decimals(&mut r, words.len(), &mut Vec::new(), &mut back, make, |word| word).unwrap();
        assert!(r.is_empty());
        assert_eq!(back, words);
        Some(out.len())
    }

    fn xors(words: &[u64], order: ByteOrder) -> usize {
        let mut out = Vec::new();
        encode_xor(&mut out, words, order);
        let (mut r, mut back) = (Reader::new(&out), Vec::new());
        decode_xor(&mut r, words.len(), order, &mut back).unwrap();
        assert!(r.is_empty());
        assert_eq!(back, words);
        out.len()
    }

    #[test]
    fn sensor_readings_are_decimals() {
        let readings: Vec<f64> = (0..1_000).map(|i| f64::from(200 + i * 7919 % 40) / 10.0).collect();
        let taken = decimals(&words(&readings), ByteOrder::Big).unwrap();
        assert!(taken < 1_000, "under a byte a value: {taken}");
        assert!(taken * 4 < xors(&words(&readings), ByteOrder::Big));
    }

    #[test]
    fn odd_floats_are_kept_exactly() {
        let mut odd = vec![0.1; 40];
        odd.extend([
            -0.0,
            f64::NAN,
            f64::INFINITY,
            1e300,
            5e-324,
            51.846000000000004,
            -17.3,
            0.0,
        ]);
        odd.extend([0.1 + 0.2, 1.1 * 1.1, -0.1 - 0.2, 0.30000000000000016]);
        assert!(decimals(&words(&odd), ByteOrder::Big).is_some());
        assert!(decimals(&[f64::NAN.to_bits(); 3], ByteOrder::Big).is_none());
    }

    proptest! {
        #[test]
        fn any_words(words in proptest::collection::vec(any::<u64>(), 1..200), big in any::<bool>()) {
            let order = if big { ByteOrder::Big } else { ByteOrder::Little };
            xors(&words, order);
            decimals(&words, order);
        }

        #[test]
        fn decimals_with_odd_ones(mut floats in proptest::collection::vec(
            prop_oneof![8 => (-2_000i32..2_000).prop_map(|m| f64::from(m) / 100.0),
                3 => (-2_000i32..2_000).prop_map(|m| f64::from(m) * 0.01), 1 => any::<f64>()], 1..200)) {
            floats.push(1.25);
            xors(&words(&floats), ByteOrder::Big);
            decimals(&words(&floats), ByteOrder::Big);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), n in 0usize..300) {
            let (mut scratch, mut words) = (Vec::new(), Vec::new());
            let _ = decode_xor(&mut Reader::new(&bytes), n, ByteOrder::Big, &mut words);
            let _ = decode_decimals(&mut Reader::new(&bytes), n, &mut scratch, &mut words, f64::to_bits, |word| word);
        }
    }
}
