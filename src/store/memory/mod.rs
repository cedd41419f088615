//! State in the process's own memory.

mod rate_limit;
#[cfg(feature = "revocation")]
mod revocation;
mod table;
#[cfg(feature = "opaque")]
mod token;

pub use self::rate_limit::MemoryStore;
#[cfg(feature = "revocation")]
pub use self::revocation::MemoryRevocations;
#[cfg(feature = "opaque")]
pub use self::token::MemoryTokenStore;
