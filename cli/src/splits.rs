//! Split points for `table create --splits N`: N tablets of about equal width, if keys spread evenly over the chosen
//! alphabet after the prefix.

use crate::failure::{Failure, Result};
use clap::ValueEnum;

/// What keys consist of after their common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitFormat {
    /// Any printable ASCII
    Printable,
    /// Digits 0-9 of fixed width (device-00017)
    Decimal,
    /// Digits 0-9a-f (hashes, UUIDs)
    Hex,
    /// All bytes
    Bytes,
}

impl SplitFormat {
    fn alphabet(self) -> Vec<u8> {
        match self {
            SplitFormat::Printable => (b'!'..=b'~').collect(),
            SplitFormat::Decimal => (b'0'..=b'9').collect(),
            SplitFormat::Hex => (b'0'..=b'9').chain(b'a'..=b'f').collect(),
            SplitFormat::Bytes => (0..=255).collect(),
        }
    }
}

/// First rows of the second and later of `tablets` tablets.
pub(crate) fn even(tablets: u32, prefix: &[u8], format: SplitFormat) -> Result<Vec<Vec<u8>>> {
    let most = tidemark_base::limits::TABLETS_AT_CREATE_MAX;
    if tablets == 0 || tablets as usize > most {
        return Err(Failure::usage(format!(
            "--splits {tablets}: a table has 1 to {most} tablets at creation"
        )));
    }
    let alphabet = format.alphabet();
    let base = alphabet.len() as u64;
    // Wide enough that neighbouring points differ by far more than the rounding.
    let mut width = 1;
    while base.pow(width) < u64::from(tablets) * 16 {
        width += 1;
    }
    let space = base.pow(width);
    let point = |i: u64| {
        let mut number = space * i / u64::from(tablets);
        let mut digits = vec![alphabet[0]; width as usize];
        for digit in digits.iter_mut().rev() {
            *digit = alphabet[(number % base) as usize];
            number /= base;
        }
        // What follows from order anyway is left away: `50` and not `5000`.
        while digits.len() > 1 && digits.last() == Some(&alphabet[0]) {
            digits.pop();
        }
        [prefix, &digits].concat()
    };
    Ok((1..u64::from(tablets)).map(point).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_even_and_ascending() {
        let text = |points: Vec<Vec<u8>>| points.iter().map(|p| crate::text::escape(p)).collect::<Vec<_>>();
        assert_eq!(
            text(even(4, b"device-", SplitFormat::Decimal).unwrap()),
            ["device-25", "device-5", "device-75"]
        );
        assert_eq!(text(even(2, b"", SplitFormat::Hex).unwrap()), ["8"]);
        assert_eq!(text(even(2, b"", SplitFormat::Bytes).unwrap()), ["\\x80"]);
        assert!(even(1, b"", SplitFormat::Hex).unwrap().is_empty());
        for format in [
            SplitFormat::Printable,
            SplitFormat::Decimal,
            SplitFormat::Hex,
            SplitFormat::Bytes,
        ] {
            for tablets in [2, 3, 7, 100, 1_024] {
                let points = even(tablets, b"p", format).unwrap();
                assert_eq!(points.len() as u32, tablets - 1);
                assert!(points.windows(2).all(|pair| pair[0] < pair[1]), "{format:?} {tablets}");
            }
        }
        assert!(even(0, b"", SplitFormat::Hex).is_err());
        assert!(even(1_025, b"", SplitFormat::Hex).is_err());
    }
}
