//! Any text as a dimension of an engine: an error or a dimension that prints, evaluates and combines, never a panic and never more work than its length
//! explains.
#![no_main]

use kiln_graph::{Bindings, Dim, Symbols};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;

fuzz_target!(|text: &str| {
    let Ok(dim) = text.parse::<Dim>() else { return };
    assert_eq!(dim.to_string().parse::<Dim>().as_ref(), Ok(&dim));
    let mut names = BTreeSet::new();
    dim.symbols(&mut names);
    let mut symbols = Symbols::default();
    let bindings: Bindings = names.into_iter().zip([1, 0, i64::MAX, -1, 7].into_iter().cycle()).collect();
    bindings.keys().for_each(|name| symbols.declare(name, 0, 9));
    let _ = (dim.bounds(&symbols), dim.eval(&bindings), dim.eval_extent(&bindings));
    let _ = Dim::product([&dim, &dim, &dim]);
    let _ = (dim.ceil_div(&Dim::from(3)), dim.exact_div(&dim), dim.minimum(&Dim::from(2)));
});
