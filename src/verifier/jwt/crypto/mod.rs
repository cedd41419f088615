//! The two implementations of signature checks. Both make the same decisions; what they do not
//! check alike, such as sizes, `key.rs` checks before a key gets here.

#[cfg(feature = "jwt")]
mod aws_lc;
#[cfg(all(feature = "rust-crypto", not(feature = "jwt")))]
mod rust_crypto;

#[cfg(feature = "jwt")]
pub(super) use self::aws_lc::{MAX_RSA_BITS, SignatureKey, sha256};
#[cfg(all(feature = "rust-crypto", not(feature = "jwt")))]
pub(super) use self::rust_crypto::{MAX_RSA_BITS, SignatureKey, sha256};
