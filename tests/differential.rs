//! Every token is judged twice: by `JwtVerifier`, and by jwt-compact, which reads tokens in its own way
//! and checks signatures with RustCrypto where this crate uses aws-lc. It is lent the curves that it
//! does not know, P-384 and P-521.
//!
//! What jwt-compact finds badly signed, or signed with another algorithm, must be refused here too.
//! What it finds well signed may be refused only for a reason in [`STRICTER`] that the token gives.
//! It knows no fractions of seconds, which are left out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_compact::alg::{Ed25519, Es256, Hs256, Hs384, Hs512, Rsa, RsaSignature};
use jwt_compact::jwk::{JsonWebKey, JwkError};
use jwt_compact::{AlgorithmExt, AlgorithmSignature, UntrustedToken};
use p384::ecdsa::signature::Verifier;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use tower_gate::verifier::jwt::{Algorithm, JwtVerifier, VerifyingKey};
use tower_gate::verifier::{VerifyErrorKind, VerifyRequest};
use tower_gate::{BearerToken, TokenVerifier};

const NOW: u64 = 1_700_000_000;
const TOKENS: u32 = 5_000;

const ALGORITHMS: [Algorithm; 13] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::EdDSA,
];

/// Why a token with a good signature may be refused all the same.
const STRICTER: [&str; 7] = [
    "a type other than at+jwt (JWT-15)",
    "an extension that must be understood (JWT-13, JWT-14)",
    "two members of one name (JWT-6)",
    "a key id without end (JWT-8)",
    "a required claim that is missing (JWT-30)",
    "claims that are not for us, or not for now",
    "a token that is bound to a key of its holder",
];

#[test]
fn a_second_implementation_agrees_on_every_signature() {
    let config = Config { cases: TOKENS, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let outcomes = RefCell::new(BTreeMap::<(&str, &str), u32>::new());
    let judged = TestRunner::new_with_rng(config, rng).run(&recipe(), |recipe| {
        let outcome = judge(&recipe);
        *outcomes.borrow_mut().entry((outcome, recipe.algorithm.as_str())).or_default() += 1;
        Ok(())
    });
    judged.unwrap_or_else(|error| panic!("{error}"));

    // A property of tokens that are never made would hold as well.
    let outcomes = outcomes.into_inner();
    for algorithm in ALGORITHMS.map(Algorithm::as_str) {
        for outcome in ["accepted", "refused"] {
            assert!(outcomes[&(outcome, algorithm)] > 50, "{outcomes:?}");
        }
    }
    for reason in STRICTER {
        let named = outcomes.keys().any(|(outcome, _)| *outcome == reason);
        assert!(named, "no token was refused for {reason}: {outcomes:?}");
    }
}

/// Has both judge one token, and says what came of it.
fn judge(recipe: &Recipe) -> &'static str {
    let party = &parties(recipe.algorithm)[0];
    let token = recipe.token();
    let theirs = (party.theirs)(&token);
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    // What no header can carry, the layer refuses.
    let ours = BearerToken::parse(&token)
        .ok()
        .map(|token| party.ours.try_verify(&VerifyRequest::new(token, now)).unwrap());
    match (theirs, ours) {
        (false, Some(Ok(_))) => panic!("accepted against the other's judgement: {token}"),
        (false, _) => "refused",
        (true, Some(Ok(principal))) => {
            assert_eq!(principal.subject(), recipe.subject, "{token}");
            "accepted"
        }
        (true, Some(Err(error))) => {
            let allowed = recipe.stricter();
            let reason = allowed.iter().find(|(_, kind)| *kind == error.kind());
            reason.unwrap_or_else(|| panic!("{error:?} is no reason to refuse {token}")).0
        }
        (true, None) => panic!("a token that no header can carry was found good: {token}"),
    }
}

/// How a token is made.
#[derive(Clone, Debug)]
struct Recipe {
    /// The algorithm of the key that both sides have.
    algorithm: Algorithm,
    subject: String,
    signer: Signer,
    header: Vec<Edit>,
    claims: Vec<Edit>,
    damage: Vec<Damage>,
}

#[derive(Clone, Debug)]
enum Signer {
    Right,
    /// Another key for the same algorithm, which the header brings along (JWT-16).
    Stranger,
    /// A key for another algorithm, which the header names or not (attack 3).
    Other(Algorithm, bool),
    /// An HMAC whose secret is the public key (attack 2).
    PublicKeyAsSecret,
}

/// A change that is signed.
#[derive(Clone, Debug)]
enum Edit {
    Set(&'static str, Value),
    Remove(&'static str),
    /// More text before the first member.
    Front(&'static str),
}

/// A change that is not signed, in the part of this number.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, Index),
    Cut(usize),
    Append(usize, u8),
    Reverse(usize),
    Zero(usize),
    Text(usize, Index, char),
    More(usize, &'static str),
    Empty(usize),
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let signer = prop_oneof![
        6 => Just(Signer::Right),
        1 => Just(Signer::Stranger),
        2 => (select(&ALGORITHMS[..]), any::<bool>()).prop_map(|(name, it)| Signer::Other(name, it)),
        1 => Just(Signer::PublicKeyAsSecret),
    ];
    let few = |edits: Vec<Edit>| {
        prop_oneof![2 => Just(Vec::new()), 1 => vec(select(edits), 1..3)].boxed()
    };
    let parts = (select(&ALGORITHMS[..]), "\\PC{1,12}", signer, few(header_edits()));
    (parts, few(claim_edits()), prop_oneof![2 => Just(Vec::new()), 1 => vec(damage(), 1..3)])
        .prop_map(|((algorithm, subject, signer, header), claims, damage)| Recipe {
            algorithm,
            subject,
            signer,
            header,
            claims,
            damage,
        })
}

fn header_edits() -> Vec<Edit> {
    let names = ["none", "None", "", "rs256", "HS256 ", "ES256K", "Ed25519", "RSA-OAEP"];
    let names = names.map(|name| Edit::Set("alg", name.into()));
    let algorithms = ALGORITHMS.map(|name| Edit::Set("alg", name.as_str().into()));
    let others = [
        Edit::Remove("alg"),
        Edit::Set("alg", json!(["RS256"])),
        Edit::Set("typ", "AT+JWT".into()),
        Edit::Set("typ", "JWT".into()),
        Edit::Set("typ", "dpop+jwt".into()),
        Edit::Remove("typ"),
        Edit::Set("kid", "no such key".into()),
        Edit::Set("kid", "k".repeat(257).into()),
        Edit::Set("kid", 1.into()),
        Edit::Remove("kid"),
        Edit::Set("crit", json!(["exp"])),
        Edit::Set("crit", json!([])),
        Edit::Set("b64", false.into()),
        Edit::Set("cty", "JWT".into()),
        Edit::Set("jku", "https://evil.example".into()),
        Edit::Set("x", json!({ "y": [1, null] })),
        Edit::Front(r#""x":1,"x":1,"#),
        Edit::Front(r#""alg":"none","#),
        Edit::Front(" \n"),
    ];
    names.into_iter().chain(algorithms).chain(others).collect()
}

fn claim_edits() -> Vec<Edit> {
    vec![
        Edit::Set("iss", "https://evil.example".into()),
        Edit::Set("aud", json!(["https://other.example"])),
        Edit::Set("exp", (NOW - 31).into()),
        Edit::Set("nbf", (NOW + 31).into()),
        Edit::Set("cnf", json!({ "jkt": "x" })),
        Edit::Set("scope", "read:reports".into()),
        Edit::Set("x", json!({ "y": [1, null] })),
        Edit::Remove("iss"),
        Edit::Remove("sub"),
        Edit::Remove("aud"),
        Edit::Remove("exp"),
        Edit::Remove("iat"),
        Edit::Remove("client_id"),
        Edit::Remove("jti"),
        Edit::Front(r#""sub":"root","sub":"root","#),
        Edit::Front(r#""x":{"y":1,"y":1},"#),
        Edit::Front(" \n"),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    let part = || prop_oneof![1 => 0..2_usize, 2 => Just(2_usize)];
    prop_oneof![
        3 => (part(), any::<Index>()).prop_map(|(part, at)| Damage::Flip(part, at)),
        1 => part().prop_map(Damage::Cut),
        1 => (part(), select(&[0, 1, b' ', 0xFF][..])).prop_map(|(part, byte)| Damage::Append(part, byte)),
        1 => part().prop_map(Damage::Reverse),
        1 => part().prop_map(Damage::Zero),
        2 => (part(), any::<Index>(), select(&['A', 'B', '-', '+', '/', '.', '='][..]))
            .prop_map(|(part, at, character)| Damage::Text(part, at, character)),
        1 => (part(), select(&["=", ".", "..", "A", ".e30"][..]))
            .prop_map(|(part, text)| Damage::More(part, text)),
        1 => part().prop_map(Damage::Empty),
    ]
}

impl Recipe {
    fn token(&self) -> String {
        let [right, stranger] = parties(self.algorithm);
        let mut header = json!({ "typ": "at+jwt", "alg": self.algorithm.as_str(), "kid": "1" });
        let claims = json!({
            "iss": "https://issuer.example",
            "aud": "https://api.example",
            "sub": self.subject,
            "client_id": "web",
            "iat": NOW,
            "exp": NOW + 60,
            "jti": "1",
        });
        let sign: Sign = match self.signer {
            Signer::Right => right.sign.clone(),
            Signer::Stranger => {
                header["jwk"] = stranger.jwk.clone();
                stranger.sign.clone()
            }
            Signer::Other(algorithm, named) => {
                let named = if named { algorithm } else { self.algorithm };
                header["alg"] = named.as_str().into();
                parties(algorithm)[0].sign.clone()
            }
            Signer::PublicKeyAsSecret => {
                header["alg"] = "HS256".into();
                let public = right.jwk.get("n").or(right.jwk.get("x")).unwrap_or(&right.jwk);
                hmac_with(hmac::HMAC_SHA256, public.to_string().as_bytes())
            }
        };
        let header = URL_SAFE_NO_PAD.encode(edited(header, &self.header));
        let claims = URL_SAFE_NO_PAD.encode(edited(claims, &self.claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(format!("{header}.{claims}").as_bytes()));
        let mut parts = [header, claims, signature];
        self.damage.iter().for_each(|damage| damage.apply(&mut parts));
        parts.join(".")
    }

    /// The reasons that it gives, each with the word that the refusal must then have.
    fn stricter(&self) -> Vec<(&'static str, VerifyErrorKind)> {
        use VerifyErrorKind as Kind;
        let [typ, extension, twice, long, missing, not_for_us, bound] = STRICTER;
        let header = self.header.iter().filter_map(|edit| match edit {
            Edit::Set("typ", value) if value != "AT+JWT" => Some((typ, Kind::WrongType)),
            Edit::Remove("typ") => Some((typ, Kind::WrongType)),
            Edit::Set("crit" | "b64", _) => Some((extension, Kind::Malformed)),
            Edit::Set("kid", kid) if kid.as_str()?.len() > 256 => Some((long, Kind::Malformed)),
            Edit::Front(r#""x":1,"x":1,"#) => Some((twice, Kind::Malformed)),
            _ => None,
        });
        let claims = self.claims.iter().filter_map(|edit| match edit {
            Edit::Set("iss", _) => Some((not_for_us, Kind::WrongIssuer)),
            Edit::Set("aud", _) => Some((not_for_us, Kind::WrongAudience)),
            Edit::Set("exp", _) => Some((not_for_us, Kind::Expired)),
            Edit::Set("nbf", _) => Some((not_for_us, Kind::NotActive)),
            Edit::Set("cnf", _) => Some((bound, Kind::SenderConstrained)),
            Edit::Remove(_) => Some((missing, Kind::MissingClaim)),
            Edit::Front(text) if text.starts_with('"') => Some((twice, Kind::InvalidClaims)),
            _ => None,
        });
        header.chain(claims).collect()
    }
}

fn edited(mut object: Value, edits: &[Edit]) -> String {
    let members = object.as_object_mut().unwrap();
    let mut front = String::from("{");
    for edit in edits {
        match edit {
            Edit::Set(name, value) => _ = members.insert((*name).to_owned(), value.clone()),
            Edit::Remove(name) => _ = members.remove(*name),
            Edit::Front(text) => front += text,
        }
    }
    object.to_string().replacen('{', &front, 1)
}

impl Damage {
    fn apply(&self, parts: &mut [String; 3]) {
        let mut in_bytes = |part: usize, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = URL_SAFE_NO_PAD.decode(&parts[part]).unwrap_or_default();
            change(&mut bytes);
            parts[part] = URL_SAFE_NO_PAD.encode(bytes);
        };
        match *self {
            Self::Flip(part, at) => in_bytes(part, &|bytes| {
                if !bytes.is_empty() {
                    let bit = at.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }),
            Self::Cut(part) => in_bytes(part, &|bytes| _ = bytes.pop()),
            Self::Append(part, byte) => in_bytes(part, &|bytes| bytes.push(byte)),
            Self::Reverse(part) => in_bytes(part, &|bytes| bytes.reverse()),
            Self::Zero(part) => in_bytes(part, &|bytes| bytes.fill(0)),
            Self::Text(part, at, character) if !parts[part].is_empty() => {
                let at = at.index(parts[part].len());
                parts[part].replace_range(at..=at, character.encode_utf8(&mut [0; 4]));
            }
            Self::Text(..) => {}
            Self::More(part, text) => parts[part] += text,
            Self::Empty(part) => parts[part].clear(),
        }
    }
}

type Sign = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A key, and the two that judge its signatures.
struct Party {
    jwk: Value,
    sign: Sign,
    ours: JwtVerifier,
    /// Whether the form, the algorithm and the signature are right.
    theirs: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// Two keys for each algorithm. Those for RSA are the same two for all six.
fn parties(algorithm: Algorithm) -> &'static [Party; 2] {
    static RSA: LazyLock<[RsaKeyPair; 2]> =
        LazyLock::new(|| [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
    static PARTIES: LazyLock<[[Party; 2]; 13]> = LazyLock::new(|| {
        ALGORITHMS.map(|algorithm| [0, 1].map(|n| Party::new(algorithm, &RSA[n])))
    });
    &PARTIES[ALGORITHMS.iter().position(|&other| other == algorithm).unwrap()]
}

impl Party {
    fn new(algorithm: Algorithm, rsa: &'static RsaKeyPair) -> Self {
        let (mut jwk, sign) = match algorithm {
            Algorithm::HS256 => secret(hmac::HMAC_SHA256),
            Algorithm::HS384 => secret(hmac::HMAC_SHA384),
            Algorithm::HS512 => secret(hmac::HMAC_SHA512),
            Algorithm::RS256 => rsa_with(rsa, &RSA_PKCS1_SHA256),
            Algorithm::RS384 => rsa_with(rsa, &RSA_PKCS1_SHA384),
            Algorithm::RS512 => rsa_with(rsa, &RSA_PKCS1_SHA512),
            Algorithm::PS256 => rsa_with(rsa, &RSA_PSS_SHA256),
            Algorithm::PS384 => rsa_with(rsa, &RSA_PSS_SHA384),
            Algorithm::PS512 => rsa_with(rsa, &RSA_PSS_SHA512),
            Algorithm::ES256 => ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::ES512 => ec("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
            _ => ed25519(),
        };
        let theirs = judge_of(algorithm, &jwk);
        jwk["alg"] = algorithm.as_str().into();
        // No `kid`: a token's own may be anything, and its signature decides.
        let ours = JwtVerifier::builder()
            .issuer("https://issuer.example")
            .audience("https://api.example")
            .with_key(VerifyingKey::from_jwk(&jwk.to_string()).unwrap())
            .build()
            .unwrap();
        Self { jwk, sign, ours, theirs }
    }
}

fn judge_of(algorithm: Algorithm, jwk: &Value) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
    match algorithm {
        Algorithm::HS256 => judge_with(Hs256, jwk),
        Algorithm::HS384 => judge_with(Hs384, jwk),
        Algorithm::HS512 => judge_with(Hs512, jwk),
        Algorithm::ES256 => judge_with(Es256, jwk),
        Algorithm::ES384 => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&point(jwk)).unwrap();
            judge_on_curve("ES384", move |message, signature| {
                let signature = p384::ecdsa::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
            })
        }
        Algorithm::ES512 => {
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&point(jwk)).unwrap();
            judge_on_curve("ES512", move |message, signature| {
                let signature = p521::ecdsa::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
            })
        }
        Algorithm::EdDSA => {
            // The name of RFC 9864 for the same thing.
            let (old, new) =
                (judge_with(Ed25519, jwk), judge_with(Ed25519::with_specific_name(), jwk));
            Box::new(move |token| old(token) || new(token))
        }
        rsa => judge_with(Rsa::with_name(rsa.as_str()), jwk),
    }
}

fn judge_with<A>(algorithm: A, jwk: &Value) -> Box<dyn Fn(&str) -> bool + Send + Sync>
where
    A: jwt_compact::Algorithm + Send + Sync + 'static,
    A::VerifyingKey: for<'a> TryFrom<&'a JsonWebKey<'a>, Error = JwkError> + Send + Sync,
{
    let text = jwk.to_string();
    let key: JsonWebKey<'_> = serde_json::from_str(&text).unwrap();
    let key = A::VerifyingKey::try_from(&key).unwrap();
    Box::new(move |token| {
        let Ok(token) = UntrustedToken::new(token) else {
            return false;
        };
        algorithm.validator::<Value>(&key).validate(&token).is_ok()
    })
}

fn secret(hash: hmac::Algorithm) -> (Value, Sign) {
    let mut bytes = [0; 64];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    (json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(bytes) }), hmac_with(hash, &bytes))
}

fn hmac_with(hash: hmac::Algorithm, secret: &[u8]) -> Sign {
    let key = hmac::Key::new(hash, secret);
    Arc::new(move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec())
}

fn rsa_with(pair: &'static RsaKeyPair, encoding: &'static dyn RsaEncoding) -> (Value, Sign) {
    let public = pair.public_key();
    let [n, e] = [public.modulus(), public.exponent()]
        .map(|number| URL_SAFE_NO_PAD.encode(number.big_endian_without_leading_zero()));
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    (json!({ "kty": "RSA", "n": n, "e": e }), Arc::new(sign))
}

fn ec(curve: &str, algorithm: &'static EcdsaSigningAlgorithm) -> (Value, Sign) {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    let sign =
        move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    (json!({ "kty": "EC", "crv": curve, "x": x, "y": y }), Arc::new(sign))
}

/// The uncompressed point (SEC 1 §2.3.3).
fn point(jwk: &Value) -> Vec<u8> {
    let [x, y] =
        ["x", "y"].map(|name| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap());
    [vec![4], x, y].concat()
}

fn judge_on_curve(
    name: &'static str,
    verify: impl Fn(&[u8], &[u8]) -> bool + Send + Sync + 'static,
) -> Box<dyn Fn(&str) -> bool + Send + Sync> {
    let algorithm = OnCurve { name, verify };
    Box::new(move |token| {
        let Ok(token) = UntrustedToken::new(token) else {
            return false;
        };
        algorithm.validator::<Value>(&()).validate(&token).is_ok()
    })
}

/// An algorithm for jwt-compact, which knows the key.
struct OnCurve<V> {
    name: &'static str,
    verify: V,
}

impl<V: Fn(&[u8], &[u8]) -> bool> jwt_compact::Algorithm for OnCurve<V> {
    type SigningKey = ();
    type VerifyingKey = ();
    /// Any bytes.
    type Signature = RsaSignature;

    fn name(&self) -> Cow<'static, str> {
        self.name.into()
    }

    fn sign(&self, (): &(), _: &[u8]) -> RsaSignature {
        unreachable!("a judge does not sign")
    }

    fn verify_signature(&self, signature: &RsaSignature, (): &(), message: &[u8]) -> bool {
        (self.verify)(message, &signature.as_bytes())
    }
}

fn ed25519() -> (Value, Sign) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let sign = move |message: &[u8]| pair.sign(message).as_ref().to_vec();
    (json!({ "kty": "OKP", "crv": "Ed25519", "x": x }), Arc::new(sign))
}
