//! State in PostgreSQL, for services of several nodes.

mod revocation;

pub use self::revocation::PostgresRevocations;
