#![no_main]

use arbitrary::Arbitrary;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_gate_fuzz::{TOKENS, only_the_originals_are_accepted};

/// Parts of valid tokens, put together and edited.
#[derive(Arbitrary, Debug)]
struct Forgery<'a> {
    /// Which token each part comes from.
    parts: [u8; 3],
    edits: Vec<Edit<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Edit<'a> {
    /// In the text of a part.
    Text { part: u8, splice: Splice<'a> },
    /// In what a part stands for.
    Decoded { part: u8, splice: Splice<'a> },
    /// A member of the header.
    Header { name: u8, value: u8 },
}

#[derive(Arbitrary, Debug)]
struct Splice<'a> {
    at: u16,
    cut: u8,
    put: &'a [u8],
}

const NAMES: [&str; 8] = ["alg", "kid", "typ", "cty", "crit", "b64", "jwk", "zip"];
const VALUES: [&str; 17] = [
    "HS256", "HS384", "RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
    "none", "hs256", "rs256", "es256", "eddsa", "at+jwt", "",
];

impl Splice<'_> {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = usize::from(self.at) % (bytes.len() + 1);
        let end = (at + usize::from(self.cut)).min(bytes.len());
        bytes.splice(at..end, self.put.iter().copied());
    }
}

impl Edit<'_> {
    fn apply(&self, parts: &mut [Vec<u8>; 3]) {
        match self {
            Edit::Text { part, splice } => splice.apply(&mut parts[usize::from(*part) % 3]),
            Edit::Decoded { part, splice } => {
                let part = &mut parts[usize::from(*part) % 3];
                if let Ok(mut decoded) = URL_SAFE_NO_PAD.decode(&*part) {
                    splice.apply(&mut decoded);
                    *part = URL_SAFE_NO_PAD.encode(decoded).into();
                }
            }
            Edit::Header { name, value } => {
                let decoded = URL_SAFE_NO_PAD.decode(&parts[0]).unwrap_or_default();
                if let Ok(Value::Object(mut header)) = serde_json::from_slice(&decoded) {
                    let value = VALUES[usize::from(*value) % VALUES.len()];
                    header.insert(NAMES[usize::from(*name) % NAMES.len()].into(), value.into());
                    parts[0] = URL_SAFE_NO_PAD.encode(Value::Object(header).to_string()).into();
                }
            }
        }
    }
}

fuzz_target!(|forgery: Forgery| {
    let mut parts = [0, 1, 2].map(|index| {
        let token = TOKENS[usize::from(forgery.parts[index]) % TOKENS.len()];
        token.split('.').nth(index).unwrap().as_bytes().to_vec()
    });
    forgery.edits.iter().for_each(|edit| edit.apply(&mut parts));
    if let Ok(token) = String::from_utf8(parts.join(&b'.')) {
        only_the_originals_are_accepted(&token);
    }
});
