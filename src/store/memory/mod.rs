//! State in the process's own memory.

mod rate_limit;

pub use self::rate_limit::MemoryStore;
