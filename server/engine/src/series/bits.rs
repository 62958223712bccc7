//! Bits in little-endian order: the first bit of a stream is the lowest bit of its first byte.

/// Appends bit fields to bytes.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    word: u64,
    used: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> BitWriter<'a> {
        BitWriter { out, word: 0, used: 0 }
    }

    /// Appends the lower `bits` (at most 64) of `value`, whose other bits are zero.
    #[inline]
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        if bits == 0 {
            return;
        }
        debug_assert!(bits == 64 || value >> bits == 0, "a field is as wide as it says");
        self.word |= value << self.used;
        let end = self.used + bits;
        if end >= 64 {
            self.out.extend_from_slice(&self.word.to_le_bytes());
            let written = 64 - self.used;
            self.word = if written == 64 { 0 } else { value >> written };
            self.used = end - 64;
        } else {
            self.used = end;
        }
    }

    /// Writes what is left, filled up with zeros to a whole byte.
    pub(super) fn finish(self) {
        let bytes = self.word.to_le_bytes();
        self.out.extend_from_slice(&bytes[..self.used.div_ceil(8) as usize]);
    }
}

/// The bits from `bit` on: 57 of them at least; zeros behind the end.
#[inline]
pub(super) fn window(bytes: &[u8], bit: usize) -> u64 {
    let at = bit >> 3;
    let word = match bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => tail(bytes, at),
    };
    word >> (bit & 7)
}

#[cold]
fn tail(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    word[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(word)
}

/// The lower `bits` bits.
#[inline]
pub(super) fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// A field of at most 64 bits.
#[inline]
pub(super) fn field(bytes: &[u8], bit: usize, bits: u32) -> u64 {
    if bits <= 56 {
        return window(bytes, bit) & mask(bits);
    }
    let low = window(bytes, bit) & mask(32);
    low | (window(bytes, bit + 32) & mask(bits - 32)) << 32
}

/// How many bits a number needs; 0 for 0.
#[inline]
pub(super) fn bits_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Small numbers of either sign become small numbers.
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_come_back(fields in proptest::collection::vec((any::<u64>(), 0u32..=64), 0..50)) {
            let mut out = Vec::new();
            let mut writer = BitWriter::new(&mut out);
            for (value, bits) in &fields {
                writer.put(value & mask(*bits), *bits);
            }
            writer.finish();
            let mut at = 0;
            for (value, bits) in &fields {
                prop_assert_eq!(field(&out, at, *bits), value & mask(*bits));
                at += *bits as usize;
            }
            prop_assert_eq!(out.len(), at.div_ceil(8));
        }

        #[test]
        fn zigzag_comes_back(v in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(v)), v);
        }
    }
}
