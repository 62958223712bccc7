//! Idempotency tokens: an operation that carries one takes effect once, however often it is sent (O11).
//!
//! ```text
//! state key   := 't' | token(16)
//! state value := 0x01 | order u64 | expiry_ms u64 | kind u8 | response slice
//! ```
//! The oldest go first: those that expired by the time of the log, and those beyond the bound that the command carries.
//! `order` rises with each token of the tablet. The responses stay on disk; memory holds the tokens and their order.

use crate::codec::done;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use tidemark_base::codec::{Malformed, Reader, put_slice};
use tidemark_base::limits::TOKEN_BYTES;

pub(crate) const PREFIX: &[u8] = b"t";
/// Longest response: the cells of one row mutation.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Expired tokens that one command forgets, so that no entry takes long; more than one, because one is added at a time.
const EXPIRE_STEP: usize = 64;

/// An idempotency token.
pub type Token = [u8; TOKEN_BYTES];

/// What a command with a token brings along, so that every replica remembers and forgets alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenTerms {
    pub(crate) token: Token,
    /// When the token may be forgotten, milliseconds since 1970 by the stamps of the log.
    pub(crate) expiry_ms: u64,
    /// How many tokens the tablet remembers at most.
    pub(crate) tokens_max: u32,
}

impl TokenTerms {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.token);
        out.extend_from_slice(&self.expiry_ms.to_le_bytes());
        out.extend_from_slice(&self.tokens_max.to_le_bytes());
    }

    pub(crate) fn get(r: &mut Reader<'_>) -> Result<TokenTerms, Malformed> {
        Ok(TokenTerms {
            token: r.array()?,
            expiry_ms: r.u64()?,
            tokens_max: r.u32()?,
        })
    }
}

/// A remembered answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) order: u64,
    pub(crate) expiry_ms: u64,
    /// The kind of command that was answered: a token is not shared between kinds.
    pub(crate) kind: u8,
    pub(crate) response: Bytes,
}

impl Remembered {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.order.to_le_bytes());
        out.extend_from_slice(&self.expiry_ms.to_le_bytes());
        out.push(self.kind);
        put_slice(&mut out, &self.response);
        out
    }

    pub(crate) fn decode(value: &Bytes) -> Result<Remembered, Malformed> {
        let mut r = Reader::new(value);
        if r.u8()? != 1 {
            return Err(Malformed("not a token record of format 1"));
        }
        let remembered = Remembered {
            order: r.u64()?,
            expiry_ms: r.u64()?,
            kind: r.u8()?,
            response: value.slice_ref(r.slice(RESPONSE_BYTES_MAX, "response too long")?),
        };
        done(&r)?;
        Ok(remembered)
    }
}

pub(crate) fn key(token: &Token) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(token);
    key
}

pub(crate) fn parse_key(key: &[u8]) -> Result<Token, Malformed> {
    let mut r = Reader::new(key);
    if r.take(PREFIX.len())? != PREFIX {
        return Err(Malformed("not a key of a token"));
    }
    let token = r.array()?;
    done(&r)?;
    Ok(token)
}

/// Which tokens are remembered, and in which order they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    known: HashMap<Token, u64>,
    by_order: BTreeMap<u64, (Token, u64)>,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn contains(&self, token: &Token) -> bool {
        self.known.contains_key(token)
    }

    /// The order that the next token gets: above every remembered one. Starting anew once all are forgotten is harmless.
    pub(crate) fn next_order(&self) -> u64 {
        self.by_order.last_key_value().map_or(1, |(order, _)| order + 1)
    }

    pub(crate) fn insert(&mut self, token: Token, order: u64, expiry_ms: u64) {
        self.known.insert(token, order);
        self.by_order.insert(order, (token, expiry_ms));
    }

    /// Takes out what must go: expired ones from the oldest on, then the oldest beyond `tokens_max`.
    pub(crate) fn forget(&mut self, now_ms: u64, tokens_max: usize) -> Vec<Token> {
        let mut gone = Vec::new();
        while let Some(entry) = self.by_order.first_entry() {
            let expired = entry.get().1 <= now_ms && gone.len() < EXPIRE_STEP;
            if !expired && self.known.len() <= tokens_max {
                break;
            }
            let (token, _) = entry.remove();
            self.known.remove(&token);
            gone.push(token);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_record_has_the_documented_bytes() {
        let remembered = Remembered {
            order: 3,
            expiry_ms: 4,
            kind: 2,
            response: Bytes::from_static(b"ok"),
        };
        let golden = [1, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 2, b'o', b'k'];
        assert_eq!(remembered.encode(), golden);
        assert_eq!(
            Remembered::decode(&Bytes::copy_from_slice(&golden)).unwrap(),
            remembered
        );
        let token = [7; TOKEN_BYTES];
        assert_eq!(parse_key(&key(&token)).unwrap(), token);
        assert!(parse_key(b"t123").is_err());
    }

    #[test]
    fn the_oldest_go_first_by_time_and_by_number() {
        let mut tokens = Tokens::default();
        for i in 0..10u8 {
            let order = tokens.next_order();
            tokens.insert([i; TOKEN_BYTES], order, u64::from(i) * 10);
        }
        assert_eq!(
            tokens.forget(25, 100),
            [[0; TOKEN_BYTES], [1; TOKEN_BYTES], [2; TOKEN_BYTES]]
        );
        assert_eq!(tokens.forget(25, 5), [[3; TOKEN_BYTES], [4; TOKEN_BYTES]]);
        assert!(tokens.contains(&[5; TOKEN_BYTES]) && tokens.len() == 5);
    }
}
