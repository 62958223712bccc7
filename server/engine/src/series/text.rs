//! Columns of decimal numbers written as text, the form in which files of readings arrive.
//!
//! ```text
//! text := digits u8 (0..=18) | trimmed u8 | exceptions varint | mantissas ints of n
//!         | positions ints of the exceptions | value slice each
//! ```
//! A mantissa is the number times 10^digits. Padded columns have that many digits behind the point in every value
//! (`21.50`), trimmed ones end with a digit other than 0 or have no point (`21.5`, `21`). What is not written just so is an
//! exception: nothing is ever written back in another form.

use super::ints;
use super::limits::VALUE_BYTES_MAX;
use super::slot::{Arena, Slot};
use tidemark_base::codec::{Malformed, Reader, put_slice, put_varint};

const DIGITS_MAX: usize = 18;
/// A sign, 18 digits, a zero and a point in front of them.
const TEXT_BYTES_MAX: usize = 21;
const SAMPLE: usize = 32;
const POWERS: [i64; DIGITS_MAX + 1] = {
    let mut powers = [1i64; DIGITS_MAX + 1];
    let mut i = 1;
    while i <= DIGITS_MAX {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// A number as it was written: its digits as an integer, and how many of them stand behind the point.
#[derive(Clone, Copy)]
struct Written {
    mantissa: i64,
    digits: usize,
}

fn read(text: &[u8]) -> Option<Written> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if text.is_empty() || text.len() > DIGITS_MAX + 1 || (text[0] == b'0' && text.len() > 1 && text[1] != b'.') {
        return None;
    }
    let (mut mantissa, mut digits, mut point) = (0i64, 0, None);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                if digits > DIGITS_MAX {
                    return None;
                }
                mantissa = mantissa * 10 + i64::from(byte - b'0');
            }
            b'.' if point.is_none() && at > 0 && at + 1 < text.len() => point = Some(at),
            _ => return None,
        }
    }
    // There is no integer for a zero with a sign.
    if negative && mantissa == 0 {
        return None;
    }
    Some(Written {
        mantissa: if negative { -mantissa } else { mantissa },
        digits: point.map_or(0, |at| text.len() - at - 1),
    })
}

impl Written {
    /// The mantissa with that many digits, if writing it back gives the same text.
    fn mantissa(self, digits: usize, trimmed: bool) -> Option<i64> {
        let same = if trimmed {
            self.digits <= digits && (self.digits == 0 || self.mantissa % 10 != 0)
        } else {
            self.digits == digits
        };
        let scaled = self.mantissa.checked_mul(POWERS[digits.checked_sub(self.digits)?])?;
        (same && scaled.unsigned_abs() < POWERS[DIGITS_MAX] as u64).then_some(scaled)
    }
}

/// Writes a number back; `buffer` holds it.
fn write(mantissa: i64, digits: usize, trimmed: bool, buffer: &mut [u8; TEXT_BYTES_MAX]) -> &[u8] {
    let (mut rest, mut left) = (mantissa.unsigned_abs(), digits);
    while trimmed && left > 0 && rest.is_multiple_of(10) {
        rest /= 10;
        left -= 1;
    }
    let mut at = TEXT_BYTES_MAX;
    let mut push = |byte: u8| {
        at -= 1;
        buffer[at] = byte;
    };
    if left > 0 {
        for _ in 0..left {
            push(b'0' + (rest % 10) as u8);
            rest /= 10;
        }
        push(b'.');
    }
    loop {
        push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if mantissa < 0 {
        push(b'-');
    }
    &buffer[at..]
}

/// Digits and form that fit most of the values; `None` where too few are numbers.
fn form(values: &[Slot], arena: &Arena) -> Option<(usize, bool)> {
    let step = values.len().div_ceil(SAMPLE).max(1);
    let mut counts = [0u32; DIGITS_MAX + 1];
    let (mut numbers, mut n) = (0, 0);
    for value in values.iter().step_by(step) {
        n += 1;
        if let Some(written) = value.with_bytes(arena, read) {
            counts[written.digits] += 1;
            numbers += 1;
        }
    }
    if numbers * 4 < n * 3 {
        return None;
    }
    let mut seen = 0;
    let digits = counts.iter().position(|count| {
        seen += count;
        seen * 8 >= numbers * 7
    })?;
    Some((digits, counts[digits] != numbers))
}

/// Appends the values; false, and nothing appended, where too few are numbers.
pub(super) fn encode(out: &mut Vec<u8>, values: &[Slot], arena: &Arena) -> bool {
    let Some((digits, trimmed)) = form(values, arena) else {
        return false;
    };
    let mut mantissas = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    let mut last = 0;
    for (position, value) in values.iter().enumerate() {
        match value.with_bytes(arena, |text| read(text)?.mantissa(digits, trimmed)) {
            Some(mantissa) => last = mantissa,
            None => exceptions.push(position as i64),
        }
        mantissas.push(last);
    }
    out.extend([digits as u8, u8::from(trimmed)]);
    put_varint(out, exceptions.len() as u64);
    ints::encode(out, &mantissas);
    ints::encode(out, &exceptions);
    for position in exceptions {
        values[position as usize].with_bytes(arena, |bytes| put_slice(out, bytes));
    }
    true
}

/// A decoded column before it becomes text again.
struct Numbers {
    digits: usize,
    trimmed: bool,
    exceptions: usize,
}

fn decode_head(r: &mut Reader<'_>, n: usize, mantissas: &mut Vec<i64>) -> Result<Numbers, Malformed> {
    let digits = usize::from(r.u8()?);
    let trimmed = match r.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("trimmed is 0 or 1")),
    };
    if digits > DIGITS_MAX {
        return Err(Malformed("too many digits"));
    }
    let exceptions = r.length(n, "more exceptions than values")?;
    ints::decode(r, n, mantissas)?;
    if mantissas.iter().any(|m| m.unsigned_abs() >= POWERS[DIGITS_MAX] as u64) {
        return Err(Malformed("a mantissa of more than 18 digits"));
    }
    Ok(Numbers {
        digits,
        trimmed,
        exceptions,
    })
}

/// Appends `n` values.
pub(super) fn decode(
    r: &mut Reader<'_>,
    n: usize,
    scratch: &mut Vec<i64>,
    arena: &mut Arena,
    values: &mut Vec<Slot>,
) -> Result<(), Malformed> {
    let numbers = decode_head(r, n, scratch)?;
    let first = values.len();
    let mut buffer = [0; TEXT_BYTES_MAX];
    for mantissa in scratch.iter() {
        values.push(arena.slot(write(*mantissa, numbers.digits, numbers.trimmed, &mut buffer)));
    }
    ints::decode(r, numbers.exceptions, scratch)?;
    for position in scratch.iter() {
        let bytes = r.slice(VALUE_BYTES_MAX, "value too long")?;
        let slot = usize::try_from(*position)
            .ok()
            .and_then(|at| values[first..].get_mut(at));
        *slot.ok_or(Malformed("an exception's position"))? = arena.slot(bytes);
    }
    Ok(())
}

/// Replaces `out` by `n` values as floats; an exception that is no number becomes NaN.
pub(super) fn decode_floats(
    r: &mut Reader<'_>,
    n: usize,
    scratch: &mut Vec<i64>,
    out: &mut Vec<f64>,
) -> Result<(), Malformed> {
    let numbers = decode_head(r, n, scratch)?;
    let power = POWERS[numbers.digits] as f64;
    let mut buffer = [0; TEXT_BYTES_MAX];
    out.clear();
    out.extend(scratch.iter().map(|m| {
        // Both are exact below 2^53, so the quotient is what a parser makes of the text; beyond, the parser is asked.
        if m.unsigned_abs() < 1 << 53 {
            *m as f64 / power
        } else {
            parse(write(*m, numbers.digits, numbers.trimmed, &mut buffer))
        }
    }));
    ints::decode(r, numbers.exceptions, scratch)?;
    for position in scratch.iter() {
        let bytes = r.slice(VALUE_BYTES_MAX, "value too long")?;
        let slot = usize::try_from(*position).ok().and_then(|at| out.get_mut(at));
        *slot.ok_or(Malformed("an exception's position"))? = parse(bytes);
    }
    Ok(())
}

/// A value's text as a float; NaN where it is none.
pub(super) fn parse(text: &[u8]) -> f64 {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(texts: &[&[u8]]) -> Option<usize> {
        let mut arena = Arena::default();
        let values: Vec<Slot> = texts.iter().map(|text| arena.slot(text)).collect();
        let mut out = Vec::new();
        if !encode(&mut out, &values, &arena) {
            return None;
        }
        let (mut r, mut back) = (Reader::new(&out), Vec::new());
        decode(&mut r, texts.len(), &mut Vec::new(), &mut arena, &mut back).unwrap();
        assert!(r.is_empty());
        for (text, slot) in texts.iter().zip(&back) {
            slot.with_bytes(&arena, |bytes| assert_eq!(bytes, *text));
        }
        let mut floats = Vec::new();
        decode_floats(&mut Reader::new(&out), texts.len(), &mut Vec::new(), &mut floats).unwrap();
        for (text, float) in texts.iter().zip(&floats) {
            let parsed = parse(text);
            assert!(
                parsed == *float || (parsed.is_nan() && float.is_nan()),
                "{parsed} {float}"
            );
        }
        Some(out.len())
    }

    #[test]
    fn readings_come_back_as_they_were_written() {
        assert!(there_and_back(&[b"21.5", b"21", b"-3.25", b"0", b"0.001", b"41.361999999999995"]).is_some());
        assert!(there_and_back(&[b"21.50", b"20.00", b"-0.01"]).is_some());
        let odd: &[&[u8]] = &[
            b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11", b"12", b"-0", b"00", b"1.", b".5",
            b"1e3", b"", b"-",
        ];
        there_and_back(odd);
        assert_eq!(there_and_back(&[b"open", b"shut"]), None);
    }

    proptest! {
        #[test]
        fn any_decimals(texts in proptest::collection::vec("-?[0-9]{1,12}(\\.[0-9]{1,8})?", 1..80)) {
            let texts: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
            there_and_back(&texts);
        }

        #[test]
        fn anything(texts in proptest::collection::vec("[-0-9.]{0,6}", 1..80)) {
            let texts: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
            there_and_back(&texts);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), n in 0usize..300) {
            let _ = decode(&mut Reader::new(&bytes), n, &mut Vec::new(), &mut Arena::default(), &mut Vec::new());
            let _ = decode_floats(&mut Reader::new(&bytes), n, &mut Vec::new(), &mut Vec::new());
        }
    }
}
