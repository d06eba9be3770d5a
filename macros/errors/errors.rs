//! Mistakes in a model are compile errors at the expression that made them. After an intended change, run with `TRYBUILD=overwrite`.

#[test]
fn mistakes_are_compile_errors_in_place() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
