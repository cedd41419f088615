//! The signature (JWT-20 to JWT-27).

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::{Algorithm, VerifyingKey};

use crate::fixtures::{E3_FORGED, E3_MODULUS, PS256_SIGNED, PSS_MODULUS, PSS_SIGNATURES};
use crate::gate::{Gate, verifier};
use crate::object::Object;
use crate::signer::{Signer, algorithms, base64url, der, octets};

const BAD_SIGNATURE: VerifyErrorKind = VerifyErrorKind::BadSignature;
const UNSUPPORTED: VerifyErrorKind = VerifyErrorKind::UnsupportedAlgorithm;

/// The part of a good token that is signed.
fn signed_part(algorithm: Algorithm) -> String {
    signed_part_with(algorithm, 0)
}

/// The same, for one of many tokens.
fn signed_part_with(algorithm: Algorithm, number: u32) -> String {
    let header = Object::header(algorithm.as_str()).to_string();
    let claims = Object::claims().with("number", number).to_string();
    format!("{}.{}", base64url(header), base64url(claims))
}

fn token(signed: &str, signature: impl AsRef<[u8]>) -> String {
    format!("{signed}.{}", base64url(signature))
}

// Every algorithm.

#[test]
fn every_algorithm_opens_the_gate_with_its_jwk_and_its_pem() {
    for algorithm in algorithms() {
        let signer = Signer::new(algorithm);
        let principal = Gate::of(signer.key()).accepts(&signer.good(), &format!("{algorithm}"));
        assert_eq!(principal.subject(), "user-1", "JWT-43: {algorithm}");
        if !algorithm.as_str().starts_with("HS") {
            let key = VerifyingKey::from_pem(algorithm, signer.public_pem().as_bytes()).unwrap();
            Gate::of(key).accepts(&signer.good(), &format!("{algorithm}"));
        }
    }
}

#[test]
fn a_signature_of_another_key_or_another_text_is_refused() {
    for algorithm in algorithms() {
        let (signer, other) = (Signer::new(algorithm), Signer::other(algorithm));
        let gate = Gate::of(signer.key());
        let signed = signed_part(algorithm);
        let other_text = signer.sign(format!("{signed}A").as_bytes());
        for (token, why) in [
            (other.good(), "another key"),
            (token(&signed, other_text), "another text"),
            (token(&signed, signer.sign(b"")), "no text"),
        ] {
            gate.refuses(&token, BAD_SIGNATURE, &format!("{algorithm}: {why}"));
        }
    }
}

#[test]
fn a_signature_has_every_bit_and_every_byte_or_is_none() {
    for algorithm in algorithms() {
        let signer = Signer::new(algorithm);
        let gate = Gate::of(signer.key());
        let signed = signed_part(algorithm);
        let good = signer.sign(signed.as_bytes());
        let flipped = [0, 1, good.len() / 2, good.len() - 1].into_iter().flat_map(|at| {
            [0, 7].map(|bit| {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                flipped
            })
        });
        let other_bytes = [
            vec![],
            vec![0],
            vec![0; good.len()],
            vec![0xFF; good.len()],
            good[..good.len() - 1].to_vec(),
            good[1..].to_vec(),
            good[..good.len() / 2].to_vec(),
            [&[0], &good[..]].concat(),
            [&good[..], &[0]].concat(),
            good.repeat(2),
        ];
        for signature in flipped.chain(other_bytes) {
            let why = format!("{algorithm}: {signature:02x?}");
            gate.refuses(&token(&signed, &signature), BAD_SIGNATURE, &why);
        }
        gate.accepts(&token(&signed, &good), &format!("{algorithm}"));
    }
}

#[test]
fn a_key_checks_signatures_of_its_one_algorithm() {
    for of_key in algorithms() {
        let gate = Gate::of(Signer::new(of_key).key());
        for of_token in algorithms().filter(|&of_token| of_token != of_key) {
            // The two RSA keys are the same number, and an algorithm is what tells them apart.
            let signer = Signer::new(of_token);
            let why = format!("JWT-12: {of_token} token, {of_key} key");
            gate.refuses(&signer.good(), UNSUPPORTED, &why);
            let lying = signer.token(Object::header(of_key.as_str()), Object::claims());
            gate.refuses(&lying, BAD_SIGNATURE, &format!("{why}, and says {of_key}"));
        }
    }
}

#[test]
fn keys_of_two_algorithms_stand_side_by_side() {
    let pair = [Algorithm::RS256, Algorithm::PS256].map(Signer::new);
    let keys = verifier().with_key(pair[0].key()).with_key(pair[1].key());
    let gate = Gate::new(keys);
    for signer in &pair {
        gate.accepts(&signer.good(), "JWT-12: one modulus, two keys");
    }
}

/// Whoever changes one letter of a token has another token, which nobody signed.
#[test]
fn no_other_text_is_as_good_as_a_token() {
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signer = Signer::new(algorithm);
        let (gate, good) = (Gate::of(signer.key()), signer.good());
        let letter = || (b'!'..=b'~').prop_map(char::from);
        let changes = (any::<Index>(), letter(), 0..3);
        let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
        let checked = TestRunner::new(config).run(&changes, |(at, letter, change)| {
            let at = at.index(good.len());
            let mut token = good.clone();
            match change {
                0 => token.replace_range(at..=at, letter.encode_utf8(&mut [0; 4])),
                1 => token.insert(at, letter),
                _ => drop(token.remove(at)),
            }
            let answer = gate.ask(&token);
            if token == good {
                prop_assert_eq!(answer.status.as_u16(), 200, "{}", token);
            } else {
                // A letter that no token has makes a broken header of it.
                prop_assert!([400, 401].contains(&answer.status.as_u16()), "{}", token);
                prop_assert_eq!(answer.calls, 0, "{}", token);
            }
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
    }
}

// HMAC.

#[test]
fn a_public_key_is_no_secret() {
    for algorithm in [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signer = Signer::new(algorithm);
        let of_jwk = Gate::of(signer.key().with_kid("k1"));
        let pem = signer.public_pem();
        let of_pem = VerifyingKey::from_pem(algorithm, pem.as_bytes()).unwrap();
        let of_pem = Gate::of(of_pem.with_kid("k1"));
        let secret = Signer::new(Algorithm::HS256);
        let keys = verifier().with_key(secret.key()).with_key(signer.key().with_kid("k1"));
        let beside_a_secret = Gate::new(keys);
        let [jwk, bare] = [signer.jwk(), signer.bare_jwk()].map(|jwk| jwk.to_string());
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let texts: [&[u8]; 9] = [
            pem.as_bytes(),
            pem.trim_end().as_bytes(),
            &[pem.as_bytes(), b"\n "].concat(),
            &["\u{feff}".as_bytes(), pem.as_bytes()].concat(),
            body.as_bytes(),
            &signer.public_der(),
            jwk.as_bytes(),
            bare.as_bytes(),
            b"",
        ];
        for text in texts {
            for hs in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let forger = Signer::of_secret(hs, text);
                let header = Object::header(hs.as_str());
                let named = header.clone().text("kid", "k1");
                let why = format!("JWT-12, attack 2, attack 4: {algorithm} as {hs}");
                for token in [header, named].map(|header| forger.token(header, Object::claims())) {
                    of_jwk.refuses(&token, UNSUPPORTED, &why);
                    of_pem.refuses(&token, UNSUPPORTED, &why);
                }
                if hs == Algorithm::HS256 {
                    beside_a_secret.refuses(&forger.good(), BAD_SIGNATURE, &why);
                }
            }
        }
        beside_a_secret.accepts(&secret.good(), "JWT-12");
        beside_a_secret.accepts(&signer.good(), "JWT-12");
    }
}

#[test]
fn a_shortened_mac_is_refused() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let signer = Signer::new(algorithm);
        let gate = Gate::of(signer.key());
        let signed = signed_part(algorithm);
        let mac = signer.sign(signed.as_bytes());
        for len in 0..mac.len() {
            let why = format!("JWT-20: {algorithm}, {len} bytes");
            gate.refuses(&token(&signed, &mac[..len]), BAD_SIGNATURE, &why);
        }
    }
}

#[test]
fn a_mac_of_a_guessable_secret_is_refused() {
    let signer = Signer::new(Algorithm::HS256);
    let gate = Gate::of(signer.key());
    for secret in [&b""[..], b"\0", b"secret", &[0; 32], &[0xFF; 32], b"HS256", b"null"] {
        let forged = Signer::of_secret(Algorithm::HS256, secret).good();
        gate.refuses(&forged, BAD_SIGNATURE, "JWT-20, attack 4");
    }
}

// RSA.

#[test]
fn a_pss_salt_is_as_long_as_the_hash_and_so_is_the_mask() {
    let jwk = Object::new().text("kty", "RSA").text("alg", "PS256").text("e", "AQAB");
    let jwk = jwk.text("n", PSS_MODULUS).to_string();
    let gate = Gate::of(VerifyingKey::from_jwk(&jwk).unwrap());
    let [good, others @ ..] = PSS_SIGNATURES.map(|signature| format!("{PS256_SIGNED}.{signature}"));
    gate.accepts(&good, "JWT-22");
    for (token, what) in others.iter().zip(["20", "0", "64", "the longest", "SHA-1"]) {
        gate.refuses(token, BAD_SIGNATURE, &format!("JWT-22: {what}"));
    }
}

#[test]
fn a_cube_root_is_no_signature() {
    let jwk = Object::new().text("kty", "RSA").text("n", E3_MODULUS).text("e", "Aw").to_string();
    let gate = Gate::of(VerifyingKey::from_jwk(&jwk).unwrap());
    gate.refuses(E3_FORGED, BAD_SIGNATURE, "padding must fill the modulus");
}

#[test]
fn an_rsa_signature_is_less_than_the_modulus() {
    for algorithm in [Algorithm::RS256, Algorithm::PS256] {
        let signer = Signer::new(algorithm);
        let gate = Gate::of(signer.key());
        let signed = signed_part(algorithm);
        let jwk: serde_json::Value = serde_json::from_str(&signer.jwk().to_string()).unwrap();
        let modulus = octets(jwk["n"].as_str().unwrap());
        // The same residue beyond the modulus, of a signature small enough to leave room for it.
        let twin = (0..)
            .find_map(|n| {
                let signed = signed_part_with(signer.algorithm, n);
                let twin = sum(&signer.sign(signed.as_bytes()), &modulus)?;
                Some(token(&signed, twin))
            })
            .unwrap();
        gate.refuses(&twin, BAD_SIGNATURE, "RFC 8017 §5.2.2");
        for signature in [modulus.clone(), difference(&modulus, &[1])] {
            gate.refuses(&token(&signed, &signature), BAD_SIGNATURE, "RFC 8017 §5.2.2");
        }
    }
}

// Elliptic curves.

/// A signer for each curve, and the order of the curve.
fn curves() -> Vec<(Signer, Vec<u8>)> {
    let orders = [
        (
            Algorithm::ES256,
            "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551".to_owned(),
        ),
        (
            Algorithm::ES384,
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf\
             581a0db248b0a77aecec196accc52973"
                .to_owned(),
        ),
        (
            Algorithm::ES512,
            format!(
                "01{}fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
                "ff".repeat(32)
            ),
        ),
    ];
    let known = |algorithm| algorithms().any(|known| known == algorithm);
    orders
        .into_iter()
        .filter(|(algorithm, _)| known(*algorithm))
        .map(|(algorithm, order)| (Signer::new(algorithm), hex(&order)))
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    let octet = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(octet).collect()
}

/// The difference of two big-endian numbers, the greater first, in the length of that.
fn difference(greater: &[u8], less: &[u8]) -> Vec<u8> {
    let less = less.iter().rev().chain(std::iter::repeat(&0));
    let mut borrow = false;
    let mut digits: Vec<u8> = greater
        .iter()
        .rev()
        .zip(less)
        .map(|(&a, &b)| {
            let (digit, under) = a.overflowing_sub(b);
            let (digit, under_again) = digit.overflowing_sub(u8::from(borrow));
            borrow = under || under_again;
            digit
        })
        .collect();
    digits.reverse();
    assert!(!borrow, "the first is the greater");
    digits
}

/// The sum of two big-endian numbers of one length, if it has that length too.
fn sum(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let complement: Vec<u8> = b.iter().map(|digit| !digit).collect();
    // a + b = a - (not b) - 1 + 2^n, which stays below 2^n exactly when a <= not b.
    (a <= &complement[..]).then(|| {
        let rest = difference(&complement, a);
        rest.iter().map(|digit| !digit).collect()
    })
}

#[test]
fn numbers_out_of_range_are_no_ecdsa_signature() {
    for (signer, order) in curves() {
        let gate = Gate::of(signer.key());
        let signed = signed_part(signer.algorithm);
        let good = signer.sign(signed.as_bytes());
        let len = order.len();
        let (r, s) = good.split_at(len);
        let mut one = vec![0; len];
        one[len - 1] = 1;
        let special = [
            vec![0; len],
            one.clone(),
            difference(&order, &one),
            order.clone(),
            sum(&order, &one).unwrap(),
            vec![0xFF; len],
        ];
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for number in &special {
            pairs.push((r.to_vec(), number.clone()));
            pairs.push((number.clone(), s.to_vec()));
            pairs.extend(special.iter().map(|other| (number.clone(), other.clone())));
        }
        // The same residues, where they fit into as many octets.
        pairs.extend(sum(r, &order).map(|r| (r, s.to_vec())));
        pairs.extend(sum(s, &order).map(|s| (r.to_vec(), s)));
        pairs.push((s.to_vec(), r.to_vec()));
        for (r, s) in pairs {
            let why = format!("JWT-23, attack 3: {} {r:02x?} {s:02x?}", signer.algorithm);
            gate.refuses(&token(&signed, [r, s].concat()), BAD_SIGNATURE, &why);
        }
    }
}

#[test]
fn an_ecdsa_signature_is_two_numbers_of_fixed_length() {
    for (signer, order) in curves() {
        let gate = Gate::of(signer.key());
        let signed = signed_part(signer.algorithm);
        let len = order.len();
        let good = signer.sign(signed.as_bytes());
        let (r, s) = good.split_at(len);
        let integer = |number: &[u8]| {
            let zeros = number.iter().take_while(|&&octet| octet == 0).count();
            let number = &number[zeros..];
            let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
            der(0x02, &[sign, number].concat())
        };
        for signature in [
            der(0x30, &[integer(r), integer(s)].concat()),
            [r, &[0], s].concat(),
            [&[0], r, &[0], s].concat(),
            [r, &s[1..]].concat(),
            [&[0; 4], r, &[0; 4], s].concat(),
        ] {
            let why = format!("JWT-23, attack 3: {}", signer.algorithm);
            gate.refuses(&token(&signed, &signature), BAD_SIGNATURE, &why);
        }
    }
}

#[test]
fn leading_zeros_of_an_ecdsa_signature_are_kept() {
    for (signer, order) in curves() {
        let gate = Gate::of(signer.key());
        let signed = signed_part(signer.algorithm);
        let len = order.len();
        // The first octet of P-521 holds one bit, so that its zero proves little.
        let zeros = if signer.algorithm == Algorithm::ES512 { 2 } else { 1 };
        for start in [0, len] {
            let signature = std::iter::repeat_with(|| signer.sign(signed.as_bytes()))
                .find(|signature| signature[start..start + zeros].iter().all(|&octet| octet == 0))
                .unwrap();
            let why = format!("JWT-23: {} {signature:02x?}", signer.algorithm);
            gate.accepts(&token(&signed, &signature), &why);
            let stripped = [&signature[..start], &signature[start + zeros..]].concat();
            gate.refuses(&token(&signed, stripped), BAD_SIGNATURE, &why);
        }
    }
}

#[test]
fn both_halves_of_an_ecdsa_signature_are_good_and_name_one_token() {
    for (signer, order) in curves() {
        let gate = Gate::of(signer.key());
        let signed = signed_part(signer.algorithm);
        let good = signer.sign(signed.as_bytes());
        let (r, s) = good.split_at(order.len());
        let twin = [r, &difference(&order, s)].concat();
        assert_ne!(good, twin);
        let [one, two] = [good.clone(), twin]
            .map(|signature| gate.accepts(&token(&signed, signature), "JWT-24"));
        assert_eq!(one.token_id(), Some("token-1"), "JWT-24");
        assert_eq!(one.token_id(), two.token_id(), "JWT-24");
    }
}

#[test]
fn a_token_of_one_curve_is_refused_by_a_key_of_another() {
    let (p256, p384) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES384));
    let gate = Gate::of(p384.key());
    gate.refuses(&p256.good(), UNSUPPORTED, "JWT-12: ES256 token, P-384 key");
    let lying = p256.token(Object::header("ES384"), Object::claims());
    gate.refuses(&lying, BAD_SIGNATURE, "JWT-12: P-256 signature that says ES384");
    let p384_signature = p384.token(Object::header("ES256"), Object::claims());
    gate.refuses(&p384_signature, BAD_SIGNATURE, "JWT-12: P-384 signature that says ES256");
}

// Ed25519.

#[test]
fn ed25519_has_two_names() {
    let signer = Signer::new(Algorithm::EdDSA);
    let gate = Gate::of(signer.key());
    for name in ["EdDSA", "Ed25519"] {
        gate.accepts(&signer.token(Object::header(name), Object::claims()), "JWT-25");
    }
    for name in ["Ed448", "eddsa", "EDDSA", "ed25519", "Ed25519ph", "Ed25519ctx"] {
        let token = signer.token(Object::header(name), Object::claims());
        gate.refuses(&token, UNSUPPORTED, &format!("JWT-25: {name}"));
    }
}

#[test]
fn an_ed25519_signature_has_one_spelling() {
    let signer = Signer::new(Algorithm::EdDSA);
    let gate = Gate::of(signer.key());
    let signed = signed_part(Algorithm::EdDSA);
    let good = signer.sign(signed.as_bytes());
    let (r, s) = good.split_at(32);
    // The order of the group; Ed25519 numbers are little-endian.
    let order = hex("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed");
    let mut s: Vec<u8> = s.to_vec();
    s.reverse();
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut residues = Vec::new();
    let mut next = sum(&s, &order);
    while let Some(residue) = next {
        next = sum(&residue, &order);
        residues.push(residue);
    }
    assert!(residues.len() > 10, "RFC 8032 §5.1.7 leaves room for {} more", residues.len());
    let reversed = residues.into_iter().map(|residue| residue.into_iter().rev().collect());
    for s in reversed.chain([vec![0; 32]]) {
        gate.refuses(
            &token(&signed, [r, &s].concat()),
            BAD_SIGNATURE,
            "JWT-25: s beyond the order",
        );
        gate.refuses(&token(&signed, [&identity, &s[..]].concat()), BAD_SIGNATURE, "JWT-25");
    }
}
