//! Programs that misuse a home do not compile, each with the error beside it. The texts are the compiler's, of the version
//! that `tests/run` uses; after an update of it, `TRYBUILD=overwrite cargo test --test compile_fail` writes them anew, to be
//! read before they are committed.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
