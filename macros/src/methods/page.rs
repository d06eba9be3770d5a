//! `docs/methods.md`, made of the table. `UPDATE_EXPECT=1 cargo test -p kiln-macros` writes it.

use super::bind::signature;
use super::{FUNCTIONS, table};
use expect_test::expect_file;
use std::fmt::Write;

const HEAD: &str = "# Methods of tensors

What `#[kiln::model]` knows, made from the table that it uses (`macros/src/methods/table.rs`); `UPDATE_EXPECT=1 cargo test -p kiln-macros` writes it anew.

Arguments are given by place, or by name after those by place: `x.conv(w, pads = 1, groups = 4)`. What has a default may be left out. An axis counts from the end if
it is negative; `axes` is one axis or a list. A shape is a list of dims: integers, config values, symbols, and arithmetic of them. Numbers and flags are config values. An optional
tensor is a tensor, `None`, or an `Option<Tensor<..>>` of the model. Narrow floats are computed in f32 and rounded once where a method is a formula ([numerics](numerics.md)).
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut section = |title: &str, rows: &[(String, &str, &str)]| {
        write!(page, "\n## {title}\n\n| method | shapes | what it does |\n| --- | --- | --- |\n").unwrap();
        for (signature, shapes, about) in rows {
            let shapes = shapes.replace('|', "\\|");
            writeln!(page, "| `{signature}` | {shapes} | {} |", about.replace('|', "\\|")).unwrap();
        }
    };
    for group in table::GROUPS.iter() {
        let rows: Vec<_> = group.methods.iter().map(|m| (signature(m.name, m.params), m.shapes, m.about)).collect();
        section(group.title, &rows);
    }
    let rows: Vec<_> = FUNCTIONS.iter().map(|f| (signature(f.name, f.params), f.shapes, f.about)).collect();
    section("Functions", &rows);
    page
}

#[test]
fn the_page_of_methods_is_current() {
    expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/methods.md")].assert_eq(&page());
}

#[test]
fn every_method_is_listed_once_and_described() {
    let all: Vec<_> = table::GROUPS.iter().flat_map(|g| &g.methods).collect();
    for (i, method) in all.iter().enumerate() {
        assert!(method.about.ends_with('.') && !method.shapes.is_empty(), "{}", method.name);
        assert!(all[..i].iter().all(|m| m.name != method.name), "`{}` is listed twice", method.name);
        // Parameters with a default come last: arguments by place fill those without one.
        let optional = method.params.iter().map(|p| p.default.is_some());
        assert!(optional.is_sorted(), "{}", method.name);
        for default in method.params.iter().filter_map(|p| p.default) {
            assert!(syn::parse_str::<syn::Expr>(default).is_ok(), "{}: {default}", method.name);
        }
    }
}
