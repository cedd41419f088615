//! Keys, sets of keys and the verifier's configuration (JWT-20, JWT-21, JWT-26, JWT-36, JWT-50 to
//! JWT-55, JWT-57).

use std::time::Duration;

use tower_gate::verifier::VerifyErrorKind;
use tower_gate::verifier::jwt::{
    Algorithm, InvalidConfig, InvalidKey, JwtVerifier, JwtVerifierBuilder, KeySet, VerifyingKey,
};

use crate::fixtures::{CERTIFICATE_PEM, ED448_PEM, RSA_1024_PEM, SECP256K1_PEM, X25519_PEM};
use crate::gate::{AUDIENCE, Gate, ISSUER, verifier};
use crate::object::Object;
use crate::signer::{Signer, algorithms, base64url, pem};

/// The largest RSA key of the implementation that is tested.
const MAX_RSA_BITS: usize = if cfg!(feature = "jwt") { 8192 } else { 4096 };

fn from_jwk(jwk: &Object) -> Result<VerifyingKey, InvalidKey> {
    VerifyingKey::from_jwk(&jwk.to_string())
}

/// A JWK set of these keys.
fn jwks<'a>(keys: impl IntoIterator<Item = &'a Object>) -> String {
    let keys: Vec<_> = keys.into_iter().map(Object::to_string).collect();
    Object::new().with("keys", format!("[{}]", keys.join(","))).to_string()
}

#[track_caller]
fn assert_not_for_verifying(key: Result<VerifyingKey, InvalidKey>, why: &str) {
    let error = key.unwrap_err();
    assert!(matches!(error, InvalidKey::NotForVerifying(_)), "{why}: {error}");
}

// Secrets.

#[test]
fn a_secret_has_at_least_the_length_of_its_hash() {
    for (algorithm, at_least) in
        [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)]
    {
        let short = InvalidKey::ShortSecret { algorithm, at_least };
        for len in [0, 1, at_least - 1] {
            let secret = vec![b's'; len];
            let key = VerifyingKey::hmac(algorithm, &secret);
            assert_eq!(key.unwrap_err(), short, "JWT-20, attack 4: {len} bytes");
            let jwk = Signer::of_secret(algorithm, &secret).jwk();
            assert_eq!(from_jwk(&jwk).unwrap_err(), short, "JWT-20, attack 4: {len} bytes");
        }
        let signer = Signer::of_secret(algorithm, &vec![b's'; at_least]);
        Gate::of(signer.key()).accepts(&signer.good(), "JWT-20");
    }
}

#[test]
fn a_secret_is_for_hmac_alone() {
    for algorithm in algorithms().filter(|algorithm| !algorithm.as_str().starts_with("HS")) {
        let mismatch = InvalidKey::Mismatch(algorithm);
        assert_eq!(VerifyingKey::hmac(algorithm, &[7; 64]).unwrap_err(), mismatch, "JWT-12");
        let oct = Signer::new(Algorithm::HS512).bare_jwk().text("alg", algorithm.as_str());
        assert_eq!(from_jwk(&oct).unwrap_err(), mismatch, "JWT-12");
    }
}

#[test]
fn the_text_of_a_key_is_no_secret() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signer = Signer::new(algorithm);
        let (pem, jwk) = (signer.public_pem(), signer.jwk().to_string());
        let texts = [
            pem.clone(),
            pem.trim_end().to_owned(),
            format!("\n \t{pem}\n "),
            format!("\u{feff}{pem}"),
            pem.replace('\n', "\r\n"),
            jwk.clone(),
            format!("\u{feff} {jwk}"),
            format!("[{jwk}]"),
            jwks([&signer.jwk()]),
        ];
        for text in texts {
            let key = VerifyingKey::hmac(Algorithm::HS256, text.as_bytes());
            assert_eq!(key.unwrap_err(), InvalidKey::SecretIsAKey, "attack 2: {text:?}");
        }
    }
}

// RSA.

#[test]
fn an_rsa_modulus_is_neither_breakable_nor_slow() {
    let too_small = VerifyingKey::from_pem(Algorithm::RS256, RSA_1024_PEM.as_bytes());
    assert_eq!(too_small.unwrap_err(), InvalidKey::RsaSize, "JWT-21");
    let of_bits = |bits: usize| {
        let mut modulus = vec![0xFF; bits.div_ceil(8)];
        modulus[0] >>= modulus.len() * 8 - bits;
        from_jwk(&Object::new().text("kty", "RSA").text("n", &base64url(modulus)).text("e", "AQAB"))
    };
    for bits in [8, 1024, 2047, MAX_RSA_BITS + 1] {
        assert_eq!(of_bits(bits).unwrap_err(), InvalidKey::RsaSize, "JWT-21: {bits} bits");
    }
    for bits in [2048, 3072, MAX_RSA_BITS] {
        assert_eq!(of_bits(bits).unwrap().algorithm(), Algorithm::RS256, "JWT-21: {bits} bits");
    }
}

/// With an exponent of 1, every padded digest is its own signature.
#[test]
fn an_rsa_key_that_signs_nothing_is_refused() {
    let good = Signer::new(Algorithm::RS256).jwk();
    let broken = [
        ("e", vec![1]),
        ("e", vec![0, 1]),
        ("e", vec![]),
        ("e", vec![0]),
        ("e", vec![2]),
        ("e", vec![1, 0, 0]),
        ("e", vec![3, 0, 0, 0, 1]),
        ("n", vec![0xFE; 256]),
    ];
    for (name, number) in broken {
        let key = from_jwk(&good.clone().text(name, &base64url(&number)));
        assert_eq!(key.unwrap_err(), InvalidKey::Mismatch(Algorithm::RS256), "{name}: {number:?}");
    }
    for name in ["n", "e"] {
        assert!(from_jwk(&good.clone().without(name)).is_err(), "JWT-51: no `{name}`");
        assert!(from_jwk(&good.clone().text(name, "A+/=")).is_err(), "JWT-51: `{name}`");
    }
    let mut modulus_alone = vec![0x30, 0x82, 0x01, 0x05, 0x02, 0x82, 0x01, 0x01, 0x00];
    modulus_alone.extend([0xFF; 256]);
    let key =
        VerifyingKey::from_pem(Algorithm::RS256, pem("RSA PUBLIC KEY", &modulus_alone).as_bytes());
    assert_eq!(key.unwrap_err(), InvalidKey::Mismatch(Algorithm::RS256));
}

#[test]
fn numbers_of_an_rsa_key_may_begin_with_a_sign_octet() {
    let signer = Signer::new(Algorithm::RS256);
    let padded = |jwk: Object| {
        let json: serde_json::Value = serde_json::from_str(&jwk.to_string()).unwrap();
        // Four letters are three octets, so that "AAAA" stands for three zeros.
        let number = |name| format!("AAAA{}", json[name].as_str().unwrap());
        jwk.clone().text("n", &number("n")).text("e", &number("e"))
    };
    Gate::of(from_jwk(&padded(signer.jwk())).unwrap()).accepts(&signer.good(), "JWT-53");
}

// Elliptic curves.

/// A signer for each curve, and how long its coordinates are.
fn curves() -> Vec<(Signer, usize)> {
    [(Algorithm::ES256, 32), (Algorithm::ES384, 48), (Algorithm::ES512, 66)]
        .into_iter()
        .filter(|(algorithm, _)| algorithms().any(|known| known == *algorithm))
        .map(|(algorithm, len)| (Signer::new(algorithm), len))
        .collect()
}

#[test]
fn a_point_must_lie_on_its_curve() {
    for (signer, len) in curves() {
        let mismatch = InvalidKey::Mismatch(signer.algorithm);
        // A SubjectPublicKeyInfo ends with both coordinates.
        let der = signer.public_der();
        let (head, point) = der.split_at(der.len() - 2 * len);
        let mut beside = point.to_vec();
        beside[2 * len - 1] ^= 1;
        let (zeros, ones) = (vec![0; 2 * len], vec![0xFF; 2 * len]);
        for off in [beside, zeros, ones] {
            let (x, y) = off.split_at(len);
            let jwk = signer.jwk().text("x", &base64url(x)).text("y", &base64url(y));
            assert_eq!(from_jwk(&jwk).unwrap_err(), mismatch, "JWT-26: {off:?}");
            let pem = pem("PUBLIC KEY", &[head, &off].concat());
            let key = VerifyingKey::from_pem(signer.algorithm, pem.as_bytes());
            assert_eq!(key.unwrap_err(), mismatch, "JWT-26: {off:?}");
        }
    }
}

#[test]
fn coordinates_have_the_length_of_their_curve() {
    for (signer, len) in curves() {
        let good = signer.jwk();
        for name in ["x", "y"] {
            for len in [0, 1, len - 1, len + 1, 2 * len] {
                let jwk = good.clone().text(name, &base64url(vec![1; len]));
                let mismatch = InvalidKey::Mismatch(signer.algorithm);
                assert_eq!(from_jwk(&jwk).unwrap_err(), mismatch, "JWT-53: {name} of {len}");
            }
            assert!(from_jwk(&good.clone().without(name)).is_err(), "JWT-51: no `{name}`");
        }
        // Both in a row are the right point, and each is no coordinate.
        let der = signer.public_der();
        let (x, y) = der[der.len() - 2 * len..].split_at(len - 1);
        let jwk = good.text("x", &base64url(x)).text("y", &base64url(y));
        let mismatch = InvalidKey::Mismatch(signer.algorithm);
        assert_eq!(from_jwk(&jwk).unwrap_err(), mismatch, "JWT-53");
    }
}

#[test]
fn the_name_of_a_curve_is_case_sensitive_and_decides() {
    for (signer, _) in curves() {
        for curve in ["p-256", "P256", "secp256k1", "P-256K", "", "Ed25519"] {
            let named = signer.jwk().text("crv", curve);
            let mismatch = InvalidKey::Mismatch(signer.algorithm);
            assert_eq!(from_jwk(&named).unwrap_err(), mismatch, "JWT-53: {curve}");
        }
    }
    let jwk = Signer::new(Algorithm::ES384).bare_jwk();
    let mismatch = InvalidKey::Mismatch(Algorithm::ES256);
    assert_eq!(from_jwk(&jwk.text("alg", "ES256")).unwrap_err(), mismatch, "JWT-12");
    let k1 = VerifyingKey::from_pem(Algorithm::ES256, SECP256K1_PEM.as_bytes());
    assert_eq!(k1.unwrap_err(), mismatch, "JWT-26: a point of another curve");
}

#[test]
fn an_ed25519_key_of_small_order_is_refused() {
    let tail = |first: u8, fill: u8, last: u8| {
        let mut y = [fill; 32];
        (y[0], y[31]) = (first, last);
        y
    };
    let order_8 = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    let order_8 = order_8.map(|hex| {
        let octet = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(octet)
    });
    let mut points = vec![
        tail(0, 0, 0),
        tail(1, 0, 0),
        tail(0xEC, 0xFF, 0x7F),
        tail(0xED, 0xFF, 0x7F),
        tail(0xEE, 0xFF, 0x7F),
    ];
    points.extend::<[[u8; 32]; 2]>(order_8);
    for point in points {
        for sign in [0, 0x80] {
            let mut point = point;
            point[31] |= sign;
            let jwk = Signer::new(Algorithm::EdDSA).jwk().text("x", &base64url(point));
            assert_eq!(from_jwk(&jwk).unwrap_err(), InvalidKey::SmallOrder, "{point:02x?}");
            let der = Signer::new(Algorithm::EdDSA).public_der();
            let pem = pem("PUBLIC KEY", &[&der[..der.len() - 32], &point].concat());
            let key = VerifyingKey::from_pem(Algorithm::EdDSA, pem.as_bytes());
            assert_eq!(key.unwrap_err(), InvalidKey::SmallOrder, "{point:02x?}");
        }
    }
}

#[test]
fn only_ed25519_among_the_octet_key_pairs_verifies() {
    let mismatch = InvalidKey::Mismatch(Algorithm::EdDSA);
    let good = Signer::new(Algorithm::EdDSA).jwk();
    for curve in ["X25519", "Ed448", "X448", "ed25519", "P-256"] {
        let jwk = good.clone().text("crv", curve);
        assert_eq!(from_jwk(&jwk).unwrap_err(), mismatch, "JWT-25: {curve}");
        assert_not_for_verifying(from_jwk(&jwk.without("alg")), "JWT-25");
    }
    for x in ["", "AA", &base64url([9; 31]), &base64url([9; 33])] {
        assert_eq!(from_jwk(&good.clone().text("x", x)).unwrap_err(), mismatch, "JWT-25: {x}");
    }
    for pem in [X25519_PEM, ED448_PEM] {
        let key = VerifyingKey::from_pem(Algorithm::EdDSA, pem.as_bytes());
        assert_eq!(key.unwrap_err(), mismatch, "JWT-25");
    }
}

// PEM.

#[test]
fn a_pem_key_fits_only_algorithms_of_its_kind() {
    let kind = |algorithm: Algorithm| match algorithm.as_str() {
        name if name.starts_with(['R', 'P']) => "RSA",
        name => name,
    };
    let public = || algorithms().filter(|algorithm| !algorithm.as_str().starts_with("HS"));
    for of in public() {
        let pem = Signer::new(of).public_pem();
        for algorithm in algorithms() {
            let key = VerifyingKey::from_pem(algorithm, pem.as_bytes());
            if kind(of) == kind(algorithm) {
                assert_eq!(key.unwrap().algorithm(), algorithm);
            } else {
                let mismatch = InvalidKey::Mismatch(algorithm);
                assert_eq!(key.unwrap_err(), mismatch, "JWT-12: {algorithm} of {of}");
            }
        }
    }
}

#[test]
fn a_pem_file_is_one_public_key() {
    let private = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
    let public = Signer::new(Algorithm::ES256).public_pem();
    for label in private {
        let block = pem(label, &[0x30, 0]);
        for text in [block.clone(), format!("{public}{block}")] {
            let key = VerifyingKey::from_pem(Algorithm::ES256, text.as_bytes());
            assert_not_for_verifying(key, label);
        }
    }
    let certificate = VerifyingKey::from_pem(Algorithm::ES256, CERTIFICATE_PEM.as_bytes());
    assert_not_for_verifying(certificate, "a certificate");
    for text in ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        let key = VerifyingKey::from_pem(Algorithm::ES256, text.as_bytes());
        assert_eq!(key.unwrap_err(), InvalidKey::Mismatch(Algorithm::ES256), "{text:?}");
    }
}

// JSON Web Keys.

#[test]
fn a_text_that_is_no_jwk_is_refused() {
    let good = Signer::new(Algorithm::EdDSA).jwk();
    let texts = ["", "{", "[]", "\"x\"", "7", "null"].map(str::to_owned);
    let jwks = [good.clone().with("alg", "7"), good.clone().with("kid", "7")];
    for text in texts.into_iter().chain(jwks.map(|jwk| jwk.to_string())) {
        let error = VerifyingKey::from_jwk(&text).unwrap_err();
        assert!(matches!(error, InvalidKey::NotAJwk(_)), "{text}: {error:?}");
    }
    for jwk in [Object::new(), good.clone().without("kty"), good.clone().text("kty", "FOO")] {
        assert!(from_jwk(&jwk).is_err(), "JWT-51: {jwk}");
    }
}

#[test]
fn a_jwk_for_another_purpose_is_refused() {
    let good = Signer::new(Algorithm::EdDSA).jwk();
    let others = [
        ("use", r#""enc""#),
        ("use", r#""SIG""#),
        ("use", r#"["sig"]"#),
        ("key_ops", r#"["sign"]"#),
        ("key_ops", r#"["encrypt"]"#),
        ("key_ops", "[]"),
        ("key_ops", r#""verify""#),
        ("key_ops", r#"{"verify":1}"#),
        ("alg", r#""RSA-OAEP""#),
        ("alg", r#""none""#),
        ("alg", r#""eddsa""#),
        ("alg", r#""""#),
    ];
    for (name, json) in others {
        let jwk = good.clone().with(name, json);
        assert_not_for_verifying(from_jwk(&jwk), &format!("JWT-52: {jwk}"));
    }
    let disagreeing = good.clone().text("use", "sig").with("key_ops", r#"["verify","encrypt"]"#);
    assert_not_for_verifying(from_jwk(&disagreeing), "JWT-52");
}

#[test]
fn a_jwk_for_verifying_opens_the_gate_whatever_else_it_says() {
    let signer = Signer::new(Algorithm::EdDSA);
    for jwk in [
        signer.bare_jwk(),
        signer.bare_jwk().text("alg", "Ed25519"),
        signer.jwk().text("use", "sig"),
        signer.bare_jwk().with("use", "null").with("alg", "null").with("key_ops", "null"),
        signer.jwk().with("key_ops", r#"["verify"]"#),
        signer.jwk().with("key_ops", r#"["encrypt","verify"]"#),
        signer.jwk().text("use", "sig").with("key_ops", r#"["sign","verify"]"#),
        signer.jwk().text("x5t", "AAAA").with("exp", 1).with("y", r#"{"a":[null]}"#),
    ] {
        Gate::of(from_jwk(&jwk).unwrap()).accepts(&signer.good(), &format!("JWT-52: {jwk}"));
    }
}

#[test]
fn a_jwk_without_an_algorithm_is_bound_to_the_usual_one() {
    let usual = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    let es512 = algorithms().filter(|&algorithm| algorithm == Algorithm::ES512);
    for algorithm in usual.into_iter().chain(es512) {
        let key = from_jwk(&Signer::new(algorithm).bare_jwk()).unwrap();
        assert_eq!(key.algorithm(), algorithm, "JWT-12");
    }
    let secret = Signer::new(Algorithm::HS256).bare_jwk();
    assert_not_for_verifying(from_jwk(&secret), "JWT-12: a secret without `alg`");
}

/// The kind of an EC or an OKP key leaves no choice; that of an RSA key leaves six.
#[test]
fn an_rsa_key_of_a_set_that_names_no_algorithm_is_for_all_of_its_kind() {
    use Algorithm::*;
    let rsa = [RS256, RS384, RS512, PS256, PS384, PS512];
    let signer = Signer::new(RS256);
    let bare = || KeySet::from_jwks(&jwks([&signer.bare_jwk()])).unwrap();
    assert_eq!(bare().len(), 1, "JWT-52: it is one key");
    let gate = Gate::new(verifier().with_keys(bare()));
    let named: Vec<_> = rsa
        .iter()
        .map(|algorithm| signer.bare_jwk().text("alg", algorithm.as_str()))
        .map(|jwk| KeySet::from_jwks(&jwks([&jwk])).unwrap())
        .collect();
    for (algorithm, named) in rsa.into_iter().zip(&named) {
        gate.accepts(&Signer::new(algorithm).good(), &format!("JWT-52: {algorithm}"));
        let forged = Signer::other(algorithm).good();
        gate.refuses(&forged, VerifyErrorKind::BadSignature, &format!("JWT-52: {algorithm}"));
        // What is remembered of the one may be nothing to the other.
        assert!(named.is_part_of(&bare()), "attack 23: {algorithm}");
        assert!(!bare().is_part_of(named), "attack 23: {algorithm}");
    }
    assert!(bare().is_part_of(&bare()));
    for algorithm in [HS256, ES256, EdDSA] {
        let token = Signer::new(algorithm).good();
        gate.refuses(&token, VerifyErrorKind::UnsupportedAlgorithm, "JWT-12, attack 2");
    }
    let named = Gate::new(verifier().with_keys(named.into_iter().next().unwrap()));
    for algorithm in &rsa[1..] {
        let token = Signer::new(*algorithm).good();
        named.refuses(&token, VerifyErrorKind::UnsupportedAlgorithm, "JWT-52: it names its own");
    }
    let single = Gate::of(from_jwk(&signer.bare_jwk()).unwrap());
    single.accepts(&signer.good(), "JWT-12");
    let token = Signer::new(PS256).good();
    single.refuses(&token, VerifyErrorKind::UnsupportedAlgorithm, "JWT-12: a key that is given");
}

#[test]
fn a_private_jwk_is_refused() {
    for signer in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(Signer::new) {
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth"] {
            let jwk = signer.jwk().text(name, "AQAB");
            assert_not_for_verifying(from_jwk(&jwk), &format!("JWT-54: {name}"));
            let error = KeySet::from_jwks(&jwks([&jwk])).unwrap_err();
            assert!(matches!(error, InvalidKey::UselessSet(_)), "JWT-54: {name}: {error:?}");
        }
    }
}

// Sets.

#[test]
fn a_set_is_an_object_with_an_array_of_keys() {
    let key = Signer::new(Algorithm::EdDSA).jwk();
    for text in [
        String::new(),
        "null".to_owned(),
        "{}".to_owned(),
        "{\"keys\":{}}".to_owned(),
        "{\"keys\":null}".to_owned(),
        "{\"Keys\":[]}".to_owned(),
        format!("{{\"keys\":{key}}}"),
        format!("[{key}]"),
        format!("{{\"keys\":[{key}]"),
        format!("{{\"keys\":[{key}]}}x"),
        key.to_string(),
        "<!doctype html>".to_owned(),
    ] {
        assert_eq!(KeySet::from_jwks(&text).unwrap_err(), InvalidKey::NotASet, "JWT-50: {text}");
    }
    assert_eq!(KeySet::from_jwks(&jwks([])).unwrap_err(), InvalidKey::EmptySet, "JWT-50");
    let more = format!("{{\"issuer\":\"x\",\"keys\":[{key}],\"next\":null}}");
    assert_eq!(KeySet::from_jwks(&more).unwrap().len(), 1, "JWT-50: other members are ignored");
}

#[test]
fn a_set_has_at_most_64_keys() {
    let keys: Vec<_> = (0..65).map(|_| Signer::new(Algorithm::EdDSA).jwk()).collect();
    assert_eq!(KeySet::from_jwks(&jwks(&keys[..64])).unwrap().len(), 64);
    assert_eq!(KeySet::from_jwks(&jwks(&keys)).unwrap_err(), InvalidKey::TooManyKeys);
}

#[test]
fn a_bad_key_of_a_set_is_skipped_and_the_others_work() {
    let good = Signer::new(Algorithm::EdDSA);
    let ec = Signer::new(Algorithm::ES256).jwk();
    let rsa = Signer::new(Algorithm::RS256).jwk();
    let bad = [
        Object::new().text("kty", "FOO"),
        Object::new().text("kty", "AKP").text("alg", "ML-DSA-44").text("pub", "AAAA"),
        Object::new(),
        rsa.clone().without("n"),
        rsa.clone().text("n", &base64url([0xFF; 128])),
        rsa.clone().text("use", "enc"),
        rsa.clone().text("alg", "RSA-OAEP-256"),
        rsa.clone().with("key_ops", r#"["wrapKey"]"#),
        rsa.clone().with("kty", "7"),
        ec.clone().text("x", &base64url([1; 31])),
        ec.clone().text("crv", "P-384"),
        ec.clone().text("y", &base64url([1; 32])),
        ec.clone().text("d", "AAAA"),
        ec.clone().with("kid", "[]"),
        Signer::new(Algorithm::EdDSA).jwk().text("crv", "X25519"),
        Signer::new(Algorithm::EdDSA).jwk().text("x", &base64url([0; 32])),
        Signer::new(Algorithm::HS256).jwk(),
    ];
    for bad in &bad {
        for keys in [[bad, &good.jwk()], [&good.jwk(), bad]] {
            let set = KeySet::from_jwks(&jwks(keys)).unwrap();
            assert_eq!(set.len(), 1, "JWT-51, attack 20: {bad}");
            Gate::new(verifier().with_keys(set)).accepts(&good.good(), "JWT-51");
        }
        let error = KeySet::from_jwks(&jwks([bad])).unwrap_err();
        assert!(matches!(error, InvalidKey::UselessSet(_)), "{bad}: {error:?}");
    }
    let keys = format!("{{\"keys\":[null,7,\"x\",[],{}]}}", good.jwk());
    assert_eq!(KeySet::from_jwks(&keys).unwrap().len(), 1, "JWT-51");
}

#[test]
fn a_secret_in_a_set_never_verifies() {
    let (secret, good) = (Signer::new(Algorithm::HS256), Signer::new(Algorithm::EdDSA));
    let set = KeySet::from_jwks(&jwks([&secret.jwk().text("kid", "s"), &good.jwk()])).unwrap();
    let gate = Gate::new(verifier().with_keys(set));
    let unsupported = VerifyErrorKind::UnsupportedAlgorithm;
    gate.refuses(&secret.good(), unsupported, "JWT-54");
    let named = Object::header("HS256").text("kid", "s");
    gate.refuses(&secret.token(named, Object::claims()), unsupported, "JWT-54");
}

#[test]
fn a_key_of_a_set_goes_by_its_name() {
    let (one, two) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let keys = [one.jwk().text("kid", "1"), two.jwk().text("kid", "2")];
    let gate = Gate::new(verifier().with_keys(KeySet::from_jwks(&jwks(&keys)).unwrap()));
    let token = |signer: &Signer, kid| {
        signer.token(Object::header("ES256").text("kid", kid), Object::claims())
    };
    gate.accepts(&token(&one, "1"), "JWT-17");
    gate.accepts(&token(&two, "2"), "JWT-17");
    gate.refuses(&token(&one, "2"), VerifyErrorKind::BadSignature, "JWT-17");
    gate.refuses(&token(&one, "3"), VerifyErrorKind::UnknownKey, "JWT-17");
}

#[test]
fn keys_that_share_a_name_all_work() {
    let signers = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::EdDSA];
    let signers = signers.map(Signer::new);
    let keys = signers.each_ref().map(|signer| signer.jwk().text("kid", "shared"));
    let set = KeySet::from_jwks(&jwks(&keys)).unwrap();
    assert_eq!(set.len(), 4, "JWT-55");
    let gate = Gate::new(verifier().with_keys(set));
    for signer in &signers {
        let header = Object::header(signer.algorithm.as_str()).text("kid", "shared");
        gate.accepts(&signer.token(header, Object::claims()), "JWT-55");
    }
}

// The verifier's configuration.

#[test]
fn what_cannot_work_is_no_verifier() {
    fn with_key(verifier: JwtVerifierBuilder) -> JwtVerifierBuilder {
        verifier.with_key(Signer::new(Algorithm::EdDSA).key())
    }
    let named = |issuer, audience| JwtVerifier::builder().issuer(issuer).audience(audience);
    let many = (0..65).fold(verifier(), |verifier, _| with_key(verifier));
    let (zero, hour) = (Duration::ZERO, Duration::from_secs(3600));
    let cases = [
        (verifier(), InvalidConfig::NoKeys),
        (verifier().with_keys(KeySet::default()), InvalidConfig::NoKeys),
        (many, InvalidConfig::TooManyKeys),
        (with_key(named("", AUDIENCE)), InvalidConfig::EmptyName),
        (with_key(named(ISSUER, "")), InvalidConfig::EmptyName),
        (with_key(verifier().with_audience("")), InvalidConfig::EmptyName),
        (with_key(verifier().with_leeway(hour)), InvalidConfig::LeewayTooLong),
        (
            with_key(verifier().with_leeway(Duration::from_millis(300_001))),
            InvalidConfig::LeewayTooLong,
        ),
        (with_key(verifier().with_max_lifetime(zero)), InvalidConfig::ZeroTime),
        (with_key(verifier().with_max_age(zero)), InvalidConfig::ZeroTime),
    ];
    for (verifier, expected) in cases {
        assert_eq!(verifier.build().unwrap_err(), expected, "JWT-36");
    }
    assert!(with_key(verifier().with_leeway(Duration::from_secs(300))).build().is_ok(), "JWT-36");
}

#[test]
fn debug_shows_no_key() {
    let secret = b"a secret that must not reach any log";
    let key = VerifyingKey::hmac(Algorithm::HS256, secret).unwrap().with_kid("k1");
    let mut shown = format!("{key:?}");
    shown += &format!("{:?}", verifier().with_key(key).build().unwrap());
    assert!(shown.contains("HS256") && shown.contains("k1"), "{shown}");
    for form in [String::from_utf8_lossy(secret).into_owned(), format!("{secret:?}")] {
        assert!(!shown.contains(form.trim_matches(['[', ']'])), "{shown}");
    }
}

/// A claim that is read for something else would never be seen by whoever asks for it here.
#[test]
fn a_claim_serves_one_purpose() {
    let registered = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "client_id",
        "acr",
        "auth_time",
        "cnf",
        "nonce",
        "at_hash",
        "c_hash",
        "events",
    ];
    let built = || verifier().with_key(Signer::new(Algorithm::EdDSA).key());
    for name in registered.into_iter().chain(["azp", "scope", "roles", ""]) {
        let taken = Some(InvalidConfig::TakenClaim(name.into()));
        assert_eq!(built().with_required_claim(name, "x").build().err(), taken, "{name:?}");
        assert_eq!(built().with_roles_at([name, "x"]).build().err(), taken, "{name:?}");
        assert_eq!(built().with_client_at(name).build().err(), taken, "{name:?}");
    }
    for name in registered {
        let taken = Some(InvalidConfig::TakenClaim(name.into()));
        assert_eq!(built().with_scopes_at([name]).build().err(), taken, "{name:?}");
    }
    let free = built().with_scopes_at(["scp"]).with_roles_at(["groups"]).with_client_at("cid");
    assert!(free.with_required_claim("token_use", "access").build().is_ok());
}

/// The keys of RFC 7638 §3.1, RFC 9449 figure 4 and RFC 8037 §A.2.
const THUMBPRINTS: [(&str, &str); 3] = [
    (
        r#""kty":"RSA","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw""#,
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    ),
    (
        r#""kty":"EC","crv":"P-256","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA""#,
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
    ),
    (
        r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#,
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    ),
];

#[test]
fn a_key_is_known_by_its_thumbprint_whatever_else_it_says_of_itself() {
    for (members, thumbprint) in THUMBPRINTS {
        for more in ["", r#","kid":"k1""#, r#","use":"sig","key_ops":["verify"],"x5t":"AAAA""#] {
            let first = format!("{{{members}{more}}}");
            // The same members in another order.
            let mut turned: Vec<_> = members.split(',').collect();
            turned.reverse();
            for jwk in [first, format!("{{{}{more}}}", turned.join(","))] {
                let key = VerifyingKey::from_jwk(&jwk).unwrap();
                assert_eq!(key.thumbprint(), Some(thumbprint), "JWT-57: {jwk}");
            }
        }
    }
}

#[test]
fn a_key_has_one_thumbprint_in_jwk_and_pem_and_a_secret_has_none() {
    for algorithm in algorithms() {
        let signer = Signer::new(algorithm);
        let key = signer.key();
        if algorithm.as_str().starts_with("HS") {
            assert_eq!(key.thumbprint(), None, "JWT-57: {algorithm}");
            continue;
        }
        let thumbprint = key.thumbprint().unwrap_or_else(|| panic!("JWT-57: {algorithm}"));
        assert_eq!(thumbprint.len(), 43, "JWT-57: {algorithm}");
        let pem = VerifyingKey::from_pem(algorithm, signer.public_pem().as_bytes()).unwrap();
        assert_eq!(pem.thumbprint(), Some(thumbprint), "JWT-57: {algorithm}");
        let other = Signer::other(algorithm).key();
        assert_ne!(other.thumbprint(), Some(thumbprint), "JWT-57: {algorithm}");
    }
}
