//! Real servers for tests, which end with the test program whatever becomes of it.

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
