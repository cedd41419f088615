//! State in Redis or Valkey, for services of several nodes.

mod revocation;

pub use self::revocation::RedisRevocations;
