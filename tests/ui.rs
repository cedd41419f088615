//! Mistakes that must not compile, and what the compiler says of them.
//!
//! Compilers word this differently, and name the adapters that there are. With a new compiler or a
//! new adapter, read what it says now, and keep it by
//! `TRYBUILD=overwrite cargo test --all-features --test ui`.

#[test]
fn mistakes_do_not_compile_and_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
