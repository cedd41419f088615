//! State in Redis or Valkey, which any number of nodes share.
//!
//! One server, a server with replicas, or a cluster, version 5 and up; no modules are needed. The
//! adapters take the connection that the application has: any that can be cloned and used from many
//! tasks at once. A `ConnectionManager` and a `ClusterConnection` connect again after an outage; a
//! bare `MultiplexedConnection` does not.

mod known;
mod rate_limit;
mod revocation;
mod script;
mod settling;

pub use self::rate_limit::RedisStore;
pub use self::revocation::RedisRevocations;
