//! Every decoder of this crate that reads bytes from outside (log, disk, other nodes), by name, for tests with arbitrary
//! bytes (tests/decoders, fuzz/). A new decoder gets a line here.

use crate::codec;

/// A decoder's name, and a function that decodes and says whether the bytes were what it decodes.
pub type Decoder = (&'static str, fn(&[u8]) -> bool);

/// What is decoded, and a function that decodes it and says whether it was that.
pub const DECODERS: &[Decoder] = &[("catalog-command", catalog_command), ("catalog-state", catalog_state)];

/// What is read is written back as the same command.
fn catalog_command(bytes: &[u8]) -> bool {
    let response = codec::decode_response(bytes).is_ok();
    let Ok(envelope) = codec::decode_envelope(bytes) else {
        return response;
    };
    let again = codec::decode_envelope(&codec::encode_envelope(&envelope));
    assert_eq!(again.ok(), Some(envelope));
    true
}

fn catalog_state(bytes: &[u8]) -> bool {
    codec::Stored::decode(bytes).is_ok()
}
