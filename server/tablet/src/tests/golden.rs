//! The worked examples of docs/formats/commands.md, byte for byte.

use super::support::*;
use crate::command::Command;
use crate::operation::check_and_mutate::{self, CheckAndMutateCommand};
use crate::operation::read_modify_write::{self, ReadModifyWriteCommand};
use crate::operation::{acknowledge_feed, close, discard, drain, remote, set_schema, write};
use crate::remote::RemoteBatch;
use crate::stream::StreamId;
use crate::tokens::TokenTerms;
use crate::{PeerQuarantine, RmwChange, RmwRule};
use bytes::Bytes;
use tidemark_base::{FamilyId, PackedBatch, ReadFilter, RowRange, Stamp};

const FIRST: Stamp = Stamp {
    epoch: 0,
    hlc: 0x0102,
    region: HERE,
};
const FIRST_BYTES: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1];

fn batch() -> PackedBatch {
    puts(&[("a", "f", "v")])
}

/// The length as one byte, and the bytes.
fn slice(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(bytes.len()).unwrap()];
    assert!(bytes.len() < 128, "one byte of length");
    out.extend_from_slice(bytes);
    out
}

fn check(command: Bytes, golden: &[u8]) -> Command {
    assert_eq!(command, golden);
    Command::decode(&command).unwrap()
}

fn terms() -> TokenTerms {
    TokenTerms {
        token: [0xAB; 16],
        expiry_ms: 9,
        tokens_max: 3,
    }
}

fn terms_bytes() -> Vec<u8> {
    let mut out = vec![0xAB; 16];
    out.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    out
}

#[test]
fn write_has_the_documented_bytes() {
    let golden = [&[1, 1][..], &FIRST_BYTES, &slice(batch().bytes())].concat();
    let Command::Write(decoded) = check(write::encode(&[(FIRST, batch())]), &golden) else {
        panic!("another verb");
    };
    assert_eq!(decoded.batches, [(FIRST, batch())]);
}

#[test]
fn check_and_mutate_has_the_documented_bytes() {
    let command = CheckAndMutateCommand {
        stamp: FIRST,
        terms: terms(),
        row: Bytes::from_static(b"a"),
        predicate: ReadFilter::default(),
        on_match: None,
        on_mismatch: Some(batch()),
    };
    let mut filter = Vec::new();
    ReadFilter::default().encode(&mut filter);
    let golden = [
        &[2][..],
        &FIRST_BYTES,
        &terms_bytes(),
        &[1, b'a'],
        &filter,
        &[2],
        &slice(batch().bytes()),
    ]
    .concat();
    assert_eq!(
        check(check_and_mutate::encode(&command), &golden),
        Command::CheckAndMutate(Box::new(command))
    );
}

#[test]
fn read_modify_write_has_the_documented_bytes() {
    let rule = |qualifier: &'static [u8], change| RmwRule {
        family: FamilyId(0x8000_0001),
        qualifier: Bytes::from_static(qualifier),
        change,
    };
    let command = ReadModifyWriteCommand {
        stamp: FIRST,
        terms: terms(),
        now_micros: 5,
        row: Bytes::from_static(b"a"),
        rules: vec![
            rule(b"t", RmwChange::Append(Bytes::from_static(b"xy"))),
            rule(b"n", RmwChange::Increment(-1)),
        ],
    };
    let golden = [
        &[3][..],
        &FIRST_BYTES,
        &terms_bytes(),
        &[5, 0, 0, 0, 0, 0, 0, 0, 1, b'a', 2],
        &[1, 0, 0, 0x80, 1, b't', 1, 2, b'x', b'y'],
        &[1, 0, 0, 0x80, 1, b'n', 2, 255, 255, 255, 255, 255, 255, 255, 255],
    ]
    .concat();
    assert_eq!(
        check(read_modify_write::encode(&command), &golden),
        Command::ReadModifyWrite(command)
    );
}

#[test]
fn remote_has_the_documented_bytes() {
    let batch = RemoteBatch {
        stream: StreamId {
            region: THERE,
            tablet: 9,
        },
        link: 0,
        range: RowRange::all(),
        first_seq: 1,
        last_seq: 1,
        closed_hlc: 7,
        parts: Vec::new(),
        unreadable: Vec::new(),
    };
    let golden = [&[4, 0, 4, 0, 0, 0, 0, 0, 0][..], &batch.encode()].concat();
    let Command::Remote(decoded) = check(remote::encode(1_024, &batch.encode()), &golden) else {
        panic!("another verb");
    };
    assert_eq!((decoded.quarantine_bytes_max, decoded.batch), (1_024, batch));
}

#[test]
fn the_small_verbs_have_the_documented_bytes() {
    let schema = schema(3, &[], &[]);
    let golden = [&[5, 1][..], &slice(&schema.encode())].concat();
    check(set_schema::encode(&schema, true), &golden);
    check(close::encode(FIRST), &[&[6][..], &FIRST_BYTES].concat());
    let acknowledged = acknowledge_feed::AcknowledgeFeed {
        peer: THERE,
        link: 3,
        seq: 258,
        held: PeerQuarantine {
            rows: 4,
            complete_hlc: 5,
        },
    };
    let numbers: Vec<u8> = [3u64, 258, 4, 5].iter().flat_map(|n| n.to_le_bytes()).collect();
    let golden = [&[7, 2, 0][..], &numbers].concat();
    let Command::AcknowledgeFeed(decoded) = check(acknowledge_feed::encode(&acknowledged), &golden) else {
        panic!("another verb");
    };
    assert_eq!(decoded, acknowledged);
    check(drain::encode(258), &[8, 2, 1, 0, 0, 0, 0, 0, 0]);
    check(discard::encode(THERE, &[]), &[9, 2, 0, 0]);
    let stream = StreamId {
        region: THERE,
        tablet: 9,
    };
    let place = [9, 2, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 2, 1, 0, 0, 0, 0, 0, 0];
    let Command::Discard(decoded) = check(discard::encode(THERE, &[(stream, 258)]), &place) else {
        panic!("another verb");
    };
    assert_eq!((decoded.region, decoded.places), (THERE, vec![(stream, 258)]));
}
