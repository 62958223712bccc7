//! Which names of tables, families, regions and peers are legal.

use crate::error::{Error, Result};
use crate::limits::NAME_BYTES_MAX;

/// Checks a name against `[A-Za-z_][A-Za-z0-9_.-]{0,63}`. `what` is the noun for the message (`table`).
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let head = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    let tail = bytes
        .iter()
        .skip(1)
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if head && tail && bytes.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_BYTES_MAX + 8).collect();
    Err(
        Error::invalid("NAME_INVALID", format!("{what} name {shown:?} is not legal"))
            .action("use a letter or _ first, then at most 63 letters, digits, _, . or -"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_their_bounds() {
        for good in ["a", "_", "Telemetry.v1-x_9", &"a".repeat(63), &"a".repeat(64)] {
            assert!(check_name("table", good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", ".a", "a b", "a/b", "é", "a\0", &"a".repeat(65)] {
            assert!(check_name("table", bad).is_err(), "{bad:?}");
        }
    }
}
