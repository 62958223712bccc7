//! The values of one column in one segment: the smallest of the forms that fit.
//!
//! ```text
//! coding 0 plain        lengths ints of n | bytes
//!        1 dictionary   entries varint (1..=256) | slice each, in order of appearance | indexes ints of n
//!        2, 3 integers  ints of n                    8-byte integers, big / little endian
//!        4, 5 decimals  see the module `fixed`       8-byte floats, big / little endian
//!        6, 7 xor       see the module `fixed`       8-byte floats, big / little endian
//!        8 text         see the module `text`        decimal numbers as text
//!        9 narrow       width u8 (1..=7) | order u8 (0 big, 1 little) | ints of n     integers, their sign extended
//! ```
//! There is no general compression here: records of neighbouring rows repeat each other's qualifiers and texts, and the
//! store's own compression, which sees many records at once, does that better.

use super::fixed::{self, ByteOrder};
use super::limits::VALUE_BYTES_MAX;
use super::slot::{Arena, Slot};
use super::{ints, text};
use std::collections::HashMap;
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};

/// How a column's values are written; see the module's drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    Dictionary,
    Integers(ByteOrder),
    Decimals(ByteOrder),
    Xor(ByteOrder),
    Text,
    Narrow,
}

use ByteOrder::{Big, Little};
use Coding::{Decimals, Dictionary, Integers, Narrow, Plain, Text, Xor};

/// In the order of their numbers.
const CODINGS: [Coding; 10] = [
    Plain,
    Dictionary,
    Integers(Big),
    Integers(Little),
    Decimals(Big),
    Decimals(Little),
    Xor(Big),
    Xor(Little),
    Text,
    Narrow,
];
const DICTIONARY_MAX: usize = 256;
/// A numeric form this good is taken without a look at others.
const GOOD_BITS: usize = 16;
/// Share of a sample that has to look like a number for the number's form to be tried.
const LOOKS_MIN: f32 = 0.75;

impl Coding {
    pub(super) fn number(self) -> u8 {
        let at = CODINGS.iter().position(|c| *c == self);
        at.expect("every coding is in the list") as u8
    }

    pub(super) fn from_number(number: u8) -> Result<Coding, Malformed> {
        let coding = CODINGS.get(usize::from(number));
        coding.copied().ok_or(Malformed("unknown coding of a column"))
    }
}

/// Reused buffers of encoding.
#[derive(Default)]
pub(super) struct Scratch {
    best: Vec<u8>,
    candidate: Vec<u8>,
    words: Vec<u64>,
    numbers: Vec<i64>,
}

/// The smallest form so far.
struct Best<'a> {
    coding: Option<Coding>,
    best: &'a mut Vec<u8>,
    candidate: &'a mut Vec<u8>,
}

impl Best<'_> {
    /// Takes what `encode` appends if it is smaller than what there is.
    fn offer(&mut self, coding: Coding, encode: impl FnOnce(&mut Vec<u8>) -> bool) {
        self.candidate.clear();
        if encode(self.candidate) && (self.coding.is_none() || self.candidate.len() < self.best.len()) {
            std::mem::swap(self.best, self.candidate);
            self.coding = Some(coding);
        }
    }

    fn is_good(&self, n: usize) -> bool {
        self.coding.is_some() && self.best.len() * 8 <= n * GOOD_BITS
    }
}

/// Appends live values; returns how. The same values always give the same bytes.
pub(super) fn encode(out: &mut Vec<u8>, values: &[Slot], arena: &Arena, scratch: &mut Scratch) -> Coding {
    let Scratch {
        best,
        candidate,
        words,
        numbers,
    } = scratch;
    best.clear();
    let mut best = Best {
        coding: None,
        best,
        candidate,
    };
    let n = values.len();
    let width = values.first().map_or(0, |v| v.len());
    let numeric = values.first().is_some_and(|v| {
        let digit = |bytes: &[u8]| bytes.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-');
        v.with_bytes(arena, digit)
    });
    if numeric {
        best.offer(Text, |out| text::encode(out, values, arena));
    }
    if !best.is_good(n) && (1..=8).contains(&width) && values.iter().all(|v| v.len() == width) {
        words.clear();
        if width == 8 {
            words.extend(values.iter().map(|v| v.as_word().unwrap_or_default()));
            eight(&mut best, words, numbers);
        } else {
            words.extend(values.iter().map(|v| v.with_bytes(arena, left_aligned)));
            narrow(&mut best, words, width, numbers);
        }
    }
    if !best.is_good(n) {
        best.offer(Dictionary, |out| encode_dictionary(out, values, arena, numbers));
        best.offer(Plain, |out| encode_plain(out, values, arena, numbers));
    }
    out.extend_from_slice(best.best);
    best.coding.expect("the plain form always fits")
}

fn left_aligned(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

fn eight(best: &mut Best<'_>, words: &[u64], numbers: &mut Vec<i64>) {
    let looks = [Big, Little].map(|order| (order, fixed::looks(words, order)));
    for (order, looks) in &looks {
        if looks.float >= LOOKS_MIN {
            best.offer(Decimals(*order), |out| fixed::encode_decimals(out, words, *order));
        }
    }
    if best.is_good(words.len()) {
        return;
    }
    for (order, looks) in &looks {
        if looks.integer >= LOOKS_MIN {
            best.offer(Integers(*order), |out| {
                numbers.clear();
                numbers.extend(words.iter().map(|word| order.turn(*word) as i64));
                ints::encode(out, numbers);
                true
            });
        }
    }
    if best.is_good(words.len()) {
        return;
    }
    let float = looks.iter().max_by(|a, b| a.1.float.total_cmp(&b.1.float));
    let order = float.map_or(Big, |(order, _)| *order);
    best.offer(Xor(order), |out| {
        fixed::encode_xor(out, words, order);
        true
    });
}

fn narrow(best: &mut Best<'_>, words: &[u64], width: usize, numbers: &mut Vec<i64>) {
    for order in [Big, Little] {
        best.offer(Narrow, |out| {
            numbers.clear();
            numbers.extend(words.iter().map(|word| extend(*word, width, order)));
            out.extend([width as u8, u8::from(order == Little)]);
            ints::encode(out, numbers);
            true
        });
    }
}

/// The number in the first `width` bytes of a word.
fn extend(word: u64, width: usize, order: ByteOrder) -> i64 {
    let unused = 64 - 8 * width as u32;
    let raised = match order {
        Big => word,
        Little => word.swap_bytes() << unused,
    };
    (raised as i64) >> unused
}

/// The inverse of [`extend`].
fn shrink(number: i64, width: usize, order: ByteOrder) -> [u8; 8] {
    let unused = 64 - 8 * width as u32;
    match order {
        Big => ((number as u64) << unused).to_be_bytes(),
        Little => (number as u64).to_le_bytes(),
    }
}

fn encode_plain(out: &mut Vec<u8>, values: &[Slot], arena: &Arena, numbers: &mut Vec<i64>) -> bool {
    numbers.clear();
    numbers.extend(values.iter().map(|v| v.len() as i64));
    ints::encode(out, numbers);
    for value in values {
        value.with_bytes(arena, |bytes| out.extend_from_slice(bytes));
    }
    true
}

fn encode_dictionary(out: &mut Vec<u8>, values: &[Slot], arena: &Arena, numbers: &mut Vec<i64>) -> bool {
    let mut entries: Vec<Slot> = Vec::new();
    let mut known: HashMap<Vec<u8>, i64> = HashMap::new();
    numbers.clear();
    for value in values {
        let index = value.with_bytes(arena, |bytes| known.get(bytes).copied());
        let index = index.unwrap_or_else(|| {
            let next = entries.len() as i64;
            known.insert(value.with_bytes(arena, <[u8]>::to_vec), next);
            entries.push(*value);
            next
        });
        if entries.len() > DICTIONARY_MAX || entries.len() > values.len() / 2 + 1 {
            return false;
        }
        numbers.push(index);
    }
    put_varint(out, entries.len() as u64);
    for entry in entries {
        entry.with_bytes(arena, |bytes| put_slice(out, bytes));
    }
    ints::encode(out, numbers);
    true
}

/// Reused buffers of decoding.
#[derive(Default)]
pub struct DecodeScratch {
    pub(super) numbers: Vec<i64>,
    pub(super) words: Vec<u64>,
}

/// Appends `n` values. The caller has bounded `n`.
pub(super) fn decode(
    r: &mut Reader<'_>,
    coding: Coding,
    n: usize,
    arena: &mut Arena,
    values: &mut Vec<Slot>,
    scratch: &mut DecodeScratch,
) -> Result<(), Malformed> {
    match coding {
        Plain => {
            ints::decode(r, n, &mut scratch.numbers)?;
            for length in &scratch.numbers {
                let length = usize::try_from(*length)
                    .ok()
                    .filter(|length| *length <= VALUE_BYTES_MAX);
                values.push(arena.slot(r.take(length.ok_or(Malformed("value too long"))?)?));
            }
        }
        Dictionary => {
            let count = r.length(DICTIONARY_MAX, "too many entries")?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                entries.push(arena.slot(r.slice(VALUE_BYTES_MAX, "value too long")?));
            }
            ints::decode(r, n, &mut scratch.numbers)?;
            for index in &scratch.numbers {
                let entry = usize::try_from(*index).ok().and_then(|at| entries.get(at));
                values.push(*entry.ok_or(Malformed("no such entry"))?);
            }
        }
        Text => text::decode(r, n, &mut scratch.numbers, arena, values)?,
        Narrow => {
            let (width, order) = narrow_head(r)?;
            ints::decode(r, n, &mut scratch.numbers)?;
            values.extend(scratch.numbers.iter().map(|number| {
                let bytes = shrink(*number, width, order);
                arena.slot(&bytes[..width])
            }));
        }
        Integers(_) | Decimals(_) | Xor(_) => {
            decode_words(r, coding, n, scratch)?;
            values.extend(scratch.words.iter().map(|word| Slot::word(*word)));
        }
    }
    Ok(())
}

fn narrow_head(r: &mut Reader<'_>) -> Result<(usize, ByteOrder), Malformed> {
    let width = usize::from(r.u8()?);
    let order = match r.u8()? {
        0 => Big,
        1 => Little,
        _ => return Err(Malformed("unknown byte order")),
    };
    if !(1..=7).contains(&width) {
        return Err(Malformed("narrow integers have 1 to 7 bytes"));
    }
    Ok((width, order))
}

/// Replaces the scratch words by `n` 8-byte values; only for the codings of such.
fn decode_words(r: &mut Reader<'_>, coding: Coding, n: usize, scratch: &mut DecodeScratch) -> Result<(), Malformed> {
    let DecodeScratch { numbers, words } = scratch;
    match coding {
        Integers(order) => {
            ints::decode(r, n, numbers)?;
            words.clear();
            words.extend(numbers.iter().map(|number| order.turn(*number as u64)));
            Ok(())
        }
        Decimals(order) => {
            fixed::decode_decimals(r, n, numbers, words, |float| order.turn(float.to_bits()), |word| word)
        }
        Xor(order) => fixed::decode_xor(r, n, order, words),
        Plain | Dictionary | Text | Narrow => Err(Malformed("not a coding of 8-byte values")),
    }
}

/// Replaces `out` by `n` values of 8 bytes in that order, read as floats. False where values of this coding may be
/// something else; then the caller looks at each value's bytes.
pub(super) fn decode_floats(
    r: &mut Reader<'_>,
    coding: Coding,
    n: usize,
    order: ByteOrder,
    scratch: &mut DecodeScratch,
    out: &mut Vec<f64>,
) -> Result<bool, Malformed> {
    match coding {
        Plain | Dictionary | Narrow | Text => return Ok(false),
        Decimals(written) if written == order => {
            let raw = |word| f64::from_bits(order.turn(word));
            fixed::decode_decimals(r, n, &mut scratch.numbers, out, |float| float, raw)?;
        }
        Integers(_) | Decimals(_) | Xor(_) => {
            decode_words(r, coding, n, scratch)?;
            out.clear();
            out.extend(scratch.words.iter().map(|word| f64::from_bits(order.turn(*word))));
        }
    }
    Ok(true)
}

/// As [`decode_floats`], for values that are numbers written as text; what is no number becomes NaN.
pub(super) fn decode_texts(
    r: &mut Reader<'_>,
    coding: Coding,
    n: usize,
    scratch: &mut DecodeScratch,
    out: &mut Vec<f64>,
) -> Result<bool, Malformed> {
    if coding == Text {
        text::decode_floats(r, n, &mut scratch.numbers, out)?;
    }
    Ok(coding == Text)
}

/// As [`decode_floats`], for 8-byte integers.
pub(super) fn decode_integers(
    r: &mut Reader<'_>,
    coding: Coding,
    n: usize,
    order: ByteOrder,
    scratch: &mut DecodeScratch,
    out: &mut Vec<i64>,
) -> Result<bool, Malformed> {
    match coding {
        Plain | Dictionary | Narrow | Text => return Ok(false),
        Integers(written) if written == order => ints::decode(r, n, out)?,
        Integers(_) | Decimals(_) | Xor(_) => {
            decode_words(r, coding, n, scratch)?;
            out.clear();
            out.extend(scratch.words.iter().map(|word| order.turn(*word) as i64));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(values: &[Vec<u8>]) -> (Coding, usize) {
        let mut arena = Arena::default();
        let slots: Vec<Slot> = values.iter().map(|v| arena.slot(v)).collect();
        let mut out = Vec::new();
        let coding = encode(&mut out, &slots, &arena, &mut Scratch::default());
        let (mut back, mut scratch) = (Vec::new(), DecodeScratch::default());
        let mut r = Reader::new(&out);
        decode(&mut r, coding, slots.len(), &mut arena, &mut back, &mut scratch).unwrap();
        assert!(r.is_empty());
        for (value, slot) in values.iter().zip(&back) {
            slot.with_bytes(&arena, |bytes| assert_eq!(bytes, value));
        }
        assert_eq!(back.len(), values.len());
        (coding, out.len())
    }

    fn coding(values: impl Iterator<Item = Vec<u8>>) -> Coding {
        there_and_back(&values.collect::<Vec<_>>()).0
    }

    #[test]
    fn what_values_are_is_found_out() {
        let reading = |i: u32| f64::from(200 + i * 7919 % 40) / 10.0;
        let wild = |i: u32| f64::from(200 + i).sqrt() * 1e-9;
        assert_eq!(coding((0..100).map(|i| reading(i).to_be_bytes().into())), Decimals(Big));
        assert_eq!(
            coding((0..100).map(|i| reading(i).to_le_bytes().into())),
            Decimals(Little)
        );
        assert_eq!(coding((0..900).map(|i| wild(i).to_le_bytes().into())), Xor(Little));
        assert_eq!(coding((0..100i64).map(|i| (i * i).to_be_bytes().into())), Integers(Big));
        assert_eq!(
            coding((0..100i64).map(|i| (i * i - 99).to_le_bytes().into())),
            Integers(Little)
        );
        assert_eq!(coding((0..100i32).map(|i| (i * i - 99).to_le_bytes().into())), Narrow);
        assert_eq!(coding((0..100).map(|i| reading(i).to_string().into())), Text);
        assert_eq!(coding((0..100).map(|i| ["open", "closed"][i % 2].into())), Dictionary);
        assert_eq!(coding((0..100u8).map(|i| vec![i; usize::from(i)])), Plain);
        assert_eq!(coding((0..0).map(|_| vec![])), Plain);
    }

    proptest! {
        #[test]
        fn any_values(values in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            any::<f64>().prop_map(|f| f.to_be_bytes().to_vec()),
            "[0-9]{1,3}".prop_map(String::into_bytes),
        ], 0..60)) {
            there_and_back(&values);
        }

        #[test]
        fn any_width(width in 1usize..9, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            there_and_back(&bytes.chunks_exact(width).map(<[u8]>::to_vec).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), n in 0usize..300, c in 0u8..10) {
            let coding = Coding::from_number(c).unwrap();
            let mut scratch = DecodeScratch::default();
            let _ = decode(&mut Reader::new(&bytes), coding, n, &mut Arena::default(), &mut Vec::new(), &mut scratch);
            let _ = decode_floats(&mut Reader::new(&bytes), coding, n, Big, &mut scratch, &mut Vec::new());
            let _ = decode_texts(&mut Reader::new(&bytes), coding, n, &mut scratch, &mut Vec::new());
            let _ = decode_integers(&mut Reader::new(&bytes), coding, n, Little, &mut scratch, &mut Vec::new());
        }
    }
}
