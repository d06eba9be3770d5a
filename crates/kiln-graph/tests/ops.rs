//! The table of ops: its names are unambiguous, ops are equal by structure, and the page about it says what it says.

use expect_test::expect_file;
use kiln_graph::*;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

#[test]
fn mnemonics_name_one_op_each() {
    let rows = ops();
    let mut seen: BTreeMap<&str, OpKind> = BTreeMap::new();
    for row in &rows {
        assert!(!row.mnemonics.is_empty() && !row.doc.trim().is_empty(), "{row:?}");
        for name in &row.mnemonics {
            let code = OpCode::from_name(name).unwrap_or_else(|| panic!("`{name}` does not parse"));
            assert_eq!((code.name(), code.kind()), (*name, row.kind));
            assert_eq!(code.without_attributes().map(|op| op.code()), row.attributes.is_empty().then_some(code));
            assert_eq!(seen.insert(name, row.kind), None, "`{name}` is two ops");
        }
    }
    assert!(seen.len() > 90 && ["scan_", "sum", ""].iter().all(|name| OpCode::from_name(name).is_none()));
    let mut codes: Vec<OpCode> = seen.keys().rev().filter_map(|name| OpCode::from_name(name)).collect();
    codes.sort();
    assert!(codes.iter().map(|code| code.name()).eq(seen.keys().copied()), "the order is that of the mnemonics");
}

#[test]
fn functions_have_one_name_a_world() {
    let methods = UnaryOp::ALL.iter().map(|op| op.method()).chain(BinaryOp::ALL.iter().map(|op| op.method()));
    let methods: Vec<&str> = methods.chain(CompareOp::ALL.iter().map(|op| op.name())).collect();
    assert_eq!(methods.iter().collect::<HashSet<_>>().len(), methods.len());
    let onnx: Vec<&str> = UnaryOp::ALL.iter().flat_map(|op| op.onnx().iter().copied()).collect();
    assert_eq!(onnx.iter().collect::<HashSet<_>>().len(), onnx.len());
    assert_eq!((UnaryOp::from_onnx("BitwiseNot"), UnaryOp::from_onnx("Relu")), (Some(UnaryOp::Not), None));
}

#[test]
fn ops_are_equal_by_structure() {
    let literal = |values: &[f64]| Op::Const { value: Tensor::from_f64(DType::F32, &[values.len()], values).unwrap() };
    let cast = |to, saturate| Op::Cast { to, saturate };
    let inner = |c: f64| {
        let mut b = Builder::new("body");
        let x = b.input("x", DType::F32, &[]).unwrap();
        let y = b.plus_scalar(x, c).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let branch = |a, b| Op::If { then_graph: inner(a), else_graph: inner(b) };
    // Floats count by their bits: the zeros differ, and a NaN is equal to itself.
    let different = || {
        [
            literal(&[0.0, 1.0]),
            literal(&[-0.0, 1.0]),
            literal(&[f64::NAN, 1.0]),
            literal(&[1.0]),
            cast(DType::F16, false),
            cast(DType::F16, true),
            cast(DType::BF16, false),
            Op::Reduce { op: ReduceOp::Sum, axes: vec![0, 1] },
            Op::Reduce { op: ReduceOp::Sum, axes: vec![1] },
            Op::Reduce { op: ReduceOp::Max, axes: vec![1] },
            Op::Unary(UnaryOp::Exp),
            Op::Select,
            branch(1.0, 2.0),
            branch(2.0, 1.0),
        ]
    };
    let set: HashSet<Op> = different().into_iter().collect();
    assert_eq!(set.len(), different().len());
    assert!(different().iter().all(|op| set.contains(op)));
}

#[test]
fn the_page_of_ops_is_the_table() {
    expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ops.md")].assert_eq(&page());
}

fn page() -> String {
    let mut out = String::from(
        "# Ops\n\nGenerated from the table of ops (`crates/kiln-graph/src/op`): `UPDATE_EXPECT=1 cargo test -p kiln-graph --test graph ops`.\n\n\
         ## Primitives\n\n| mnemonic | operands | attributes | kind | |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in ops() {
        let mnemonics = match &row.mnemonics[..] {
            names if row.mnemonics.len() <= 6 => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" "),
            _ => "functions, below".to_owned(),
        };
        let attributes: Vec<String> = row.attributes.iter().map(|(name, ty)| format!("`{name}: {ty}`")).collect();
        let doc = row.doc.trim().replace("\n ", " ").replace("[`", "`").replace("`]", "`").replace('|', "\\|");
        let (operands, attributes) = (row.operands, attributes.join(", "));
        writeln!(out, "| {mnemonics} | {operands} | {attributes} | {:?} | {doc} |", row.kind).unwrap();
    }
    out.push_str("\n## Functions of one operand\n\n| mnemonic | method | ONNX | dtypes |\n| --- | --- | --- | --- |\n");
    for op in UnaryOp::ALL {
        let onnx = op.onnx().join(", ");
        writeln!(out, "| `{op}` | `{}` | {onnx} | {:?} |", op.method(), op.domain()).unwrap();
    }
    out.push_str("\n## Functions of two operands\n\n| mnemonic | method | dtypes |\n| --- | --- | --- |\n");
    for op in BinaryOp::ALL {
        writeln!(out, "| `{op}` | `{}` | {:?} |", op.method(), op.domain()).unwrap();
    }
    out
}
