//! Bytes as text, one form everywhere: keys, qualifiers and values, on arguments, in files and in answers.
//!
//! ```text
//! printable UTF-8 stands for itself, except the backslash
//! \\    a backslash
//! \xNN  one byte, two hexadecimal digits
//! ```
//! Control characters (line breaks included) and bytes that are no UTF-8 are escaped; nothing else is.

use crate::failure::{Failure, Result};
use std::fmt::Write;

/// Bytes as text.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push_str("\\\\");
            } else if c.is_control() {
                let mut buffer = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut buffer).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("writing to a string cannot fail");
    }
}

/// Text as bytes; the inverse of [`escape`].
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
            continue;
        }
        // The standard parser would take a sign for a digit.
        let digits = tail.get(1..3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let hex = digits.and_then(|hex| std::str::from_utf8(hex).ok());
        match (tail.first(), hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (Some(b'\\'), _) => {
                out.push(b'\\');
                rest = &tail[1..];
            }
            (Some(b'x'), Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                let what = format!("{text:?}: a backslash is followed by another one or by xNN");
                return Err(Failure::usage(what).next("write a backslash as \\\\ and a byte as \\x0a"));
            }
        }
    }
    Ok(out)
}

/// `FAMILY:QUALIFIER=VALUE`, the last two escaped. A qualifier that holds `=` writes it as `\x3d`.
pub(crate) fn assignment(text: &str) -> Result<(String, Vec<u8>, Vec<u8>)> {
    let wrong = || Failure::usage(format!("{text:?} is not FAMILY:QUALIFIER=VALUE"));
    let (column, value) = text.split_once('=').ok_or_else(wrong)?;
    let (family, qualifier) = column.split_once(':').ok_or_else(wrong)?;
    if family.is_empty() {
        return Err(wrong());
    }
    Ok((family.to_owned(), unescape(qualifier)?, unescape(value)?))
}

/// `FAMILY` or `FAMILY:QUALIFIER`, the qualifier escaped.
pub(crate) fn column(text: &str) -> Result<(String, Option<Vec<u8>>)> {
    let (family, qualifier) = match text.split_once(':') {
        Some((family, qualifier)) => (family, Some(unescape(qualifier)?)),
        None => (text, None),
    };
    if family.is_empty() {
        return Err(Failure::usage(format!("{text:?} is not FAMILY or FAMILY:QUALIFIER")));
    }
    Ok((family.to_owned(), qualifier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_each_others_inverse() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain 21.5", "plain 21.5"),
            ("grad °C".as_bytes(), "grad °C"),
            (b"a\\b", "a\\\\b"),
            (b"a\nb\0", "a\\x0ab\\x00"),
            (b"\xff\xfeok", "\\xff\\xfeok"),
            (b"", ""),
        ];
        for (bytes, text) in cases {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text).unwrap(), bytes);
        }
        for byte in 0..=255 {
            let bytes = [byte, b'x', byte];
            assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
        }
        for bad in ["\\", "\\x", "\\x1", "\\xzz", "\\n", "a\\x+1"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn assignments_and_columns() {
        let (family, qualifier, value) = assignment("m:temp=a=b").unwrap();
        assert_eq!(
            (family.as_str(), &qualifier[..], &value[..]),
            ("m", &b"temp"[..], &b"a=b"[..])
        );
        let (_, qualifier, _) = assignment("m:a\\x3db=").unwrap();
        assert_eq!(qualifier, b"a=b");
        for bad in ["m", "m:temp", "=x", ":q=v"] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
        assert_eq!(column("m").unwrap(), ("m".to_owned(), None));
        assert_eq!(column("m:a:b").unwrap(), ("m".to_owned(), Some(b"a:b".to_vec())));
    }
}
