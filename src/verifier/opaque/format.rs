use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use zeroize::Zeroizing;

/// The look of a token: `prefix_`, 43 letters and digits, and six that check what stands before them.
#[derive(Clone, Debug)]
pub(super) struct Format {
    /// The prefix with its underscore.
    start: Box<str>,
}

/// More than 256 bits: each letter is one of 62.
const RANDOM: usize = 43;
/// Enough for 32 bits.
const CHECKSUM: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A text that cannot stand before tokens.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{prefix:?} cannot be the prefix of tokens: use 1 to 32 ASCII letters, digits and underscores, \
     a letter first and no underscore last"
)]
pub struct InvalidPrefix {
    prefix: String,
}

/// The text of a token that was just made: to be shown to its holder, once.
///
/// It is nowhere else. The text has no `Display`, no `PartialEq` and no `Serialize`, its `Debug`
/// shows nothing, and its memory is wiped when it is dropped.
///
/// ```compile_fail
/// # fn show(token: tower_gate::verifier::opaque::FreshToken) {
/// println!("{token}");
/// # }
/// ```
pub struct FreshToken(Zeroizing<String>);

impl FreshToken {
    /// The text, for the answer to its holder and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshToken(..)")
    }
}

impl Format {
    pub(super) fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let allowed = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let begins = prefix.starts_with(|first: char| first.is_ascii_alphabetic());
        if prefix.len() > 32 || !allowed || !begins || prefix.ends_with('_') {
            return Err(InvalidPrefix { prefix: prefix.to_owned() });
        }
        Ok(Self { start: format!("{prefix}_").into() })
    }

    /// Whether the text could be a token. Anybody can make one that could: this keeps typing errors
    /// and garbage from the store, and is no proof of anything (OPAQUE-4).
    pub(super) fn fits(&self, token: &str) -> bool {
        let Some(rest) = token.strip_prefix(&*self.start) else {
            return false;
        };
        let sound =
            rest.len() == RANDOM + CHECKSUM && rest.bytes().all(|b| b.is_ascii_alphanumeric());
        sound && {
            let (checked, checksum) = token.split_at(token.len() - CHECKSUM);
            checksum.as_bytes() == checksum_of(checked.as_bytes())
        }
    }

    /// A token that nobody can guess (OPAQUE-1).
    pub(super) fn fresh(&self) -> Result<FreshToken, getrandom::Error> {
        // What is never moved for want of room leaves no copy behind.
        let length = self.start.len() + RANDOM + CHECKSUM;
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(&self.start);
        let mut bytes = Zeroizing::new([0; 64]);
        while text.len() < self.start.len() + RANDOM {
            getrandom::fill(&mut *bytes)?;
            // Six bits choose one of 64: the two that are no letter are thrown away, so that all
            // letters are as likely.
            let letters = bytes.iter().filter_map(|byte| BASE62.get(usize::from(byte & 63)));
            let missing = self.start.len() + RANDOM - text.len();
            text.extend(letters.take(missing).map(|&letter| char::from(letter)));
        }
        let checksum = checksum_of(text.as_bytes());
        text.extend(checksum.map(char::from));
        Ok(FreshToken(text))
    }
}

fn checksum_of(text: &[u8]) -> [u8; CHECKSUM] {
    let mut rest = crc32(text) as usize;
    let mut digits = [0; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

/// CRC-32 as zip and Ethernet have it.
fn crc32(text: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte: u32 = 0;
        while byte < 256 {
            let mut crc = byte;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
                bit += 1;
            }
            table[byte as usize] = crc;
            byte += 1;
        }
        table
    };
    !text.iter().fold(!0, |crc: u32, &byte| {
        let [low, ..] = crc.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

/// The public name of a token made now: 48 bits of time, so that names sort by it, and 80 of chance.
pub(super) fn fresh_id(now: SystemTime) -> Result<String, getrandom::Error> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut chance = [0; 16];
    getrandom::fill(&mut chance[6..])?;
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() << 80;
    let number = millis | u128::from_be_bytes(chance);
    let digits = (0..ID).rev().map(|place| DIGITS[(number >> (5 * place)) as usize & 31]);
    Ok(digits.map(char::from).collect())
}

/// Enough for 128 bits.
const ID: usize = 26;

/// Whether a text could be a public name.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn format() -> Format {
        Format::new("acme_live").unwrap()
    }

    #[test]
    fn a_checksum_is_that_of_crc_32_in_six_digits() {
        // The check value of the catalogues of CRCs.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(&checksum_of(b""), b"000000", "OPAQUE-3: of fixed width");
        // 0xCBF43926 in base 62.
        assert_eq!(&checksum_of(b"123456789"), b"3jZRME", "OPAQUE-3");
    }

    #[test]
    fn of_a_million_tokens_no_two_are_alike_and_every_letter_is_as_likely() {
        const MILLION: usize = 1_000_000;
        let (format, mut all, mut letters) =
            (format(), Vec::with_capacity(MILLION), [0_usize; 128]);
        for _ in 0..MILLION {
            let token = format.fresh().unwrap();
            let text = token.expose();
            assert!(format.fits(text) && text.len() == 10 + 43 + 6, "OPAQUE-2, 3: {text}");
            let random: [u8; RANDOM] = text.as_bytes()[10..53].try_into().unwrap();
            for letter in random {
                letters[usize::from(letter)] += 1;
            }
            all.push(random);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MILLION, "OPAQUE-1");
        let letters = BASE62.map(|letter| letters[usize::from(letter)]);
        // 693 548 of each are expected; five standard deviations are under 4150.
        let is_fair = |count: &usize| count.abs_diff(MILLION * RANDOM / 62) < 4150;
        assert!(letters.iter().all(is_fair), "OPAQUE-1: {letters:?}");
    }

    #[test]
    fn a_text_with_one_letter_changed_added_or_missing_is_no_token() {
        let format = format();
        let text = format.fresh().unwrap().expose().to_owned();
        for index in 0..text.len() {
            for other in ['a', 'B', '7', '_', '-', 'é'] {
                let mut changed: Vec<char> = text.chars().collect();
                if changed[index] != other {
                    changed[index] = other;
                    let changed: String = changed.into_iter().collect();
                    assert!(!format.fits(&changed), "OPAQUE-3: {changed}");
                }
            }
            let mut shorter = text.clone();
            let letter = shorter.remove(index);
            assert!(!format.fits(&shorter), "OPAQUE-3: {shorter}");
            shorter.insert_str(index, &format!("{letter}{letter}"));
            assert!(!format.fits(&shorter), "OPAQUE-3: {shorter}");
        }
        for other in ["acme", "acme_live_", "acme_test", "acme_liv"] {
            let other = text.replacen("acme_live", other, 1);
            assert!(!format.fits(&other), "OPAQUE-5: {other}");
        }
        assert!(format.fits(&text) && !format.fits("") && !format.fits("acme_live_"));
    }

    #[test]
    fn a_prefix_is_a_plain_word() {
        for prefix in ["t", "acme", "acme_live", "A1_b", &"x".repeat(32)] {
            assert!(Format::new(prefix).is_ok(), "{prefix}");
        }
        for prefix in ["", "_a", "a_", "1a", "a.b", "a-b", "a b", "é", &"x".repeat(33)] {
            let error = Format::new(prefix).unwrap_err().to_string();
            assert!(error.contains(&format!("{prefix:?}")), "OPAQUE-2: {error}");
        }
    }

    #[test]
    fn ids_sort_by_time_and_differ_within_it() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let [early, late] = [1_700_000_000, 1_800_000_000].map(|at_| fresh_id(at(at_)).unwrap());
        assert!(early < late && is_id(&early) && is_id(&late), "{early} {late}");
        let same: HashSet<_> = (0..1000).map(|_| fresh_id(at(1)).unwrap()).collect();
        assert_eq!(same.len(), 1000);
        for text in ["", "1", &early.to_uppercase(), &early.replace('0', "\0")] {
            assert!(!is_id(text), "{text:?}");
        }
    }

    #[test]
    fn a_fresh_token_shows_itself_only_when_asked() {
        let token = format().fresh().unwrap();
        assert_eq!(format!("{token:?}"), "FreshToken(..)", "OPAQUE-12");
    }
}
