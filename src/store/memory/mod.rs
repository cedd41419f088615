//! State in the process's own memory.

mod rate_limit;
#[cfg(feature = "opaque")]
mod token;

pub use self::rate_limit::MemoryStore;
#[cfg(feature = "opaque")]
pub use self::token::MemoryTokenStore;
