//! The text form: what is written reads back to what is written alike, and whatever else is read gives an error that says where.

use kiln_tile::expr::{BinaryOp, CompareOp, ExprKind, UnaryOp};
use kiln_tile::ir::{Builder, Op, Place, Program, verify};
use kiln_tile::program::Param;
use kiln_tile::{Access, DType, Expr, Scalar, TileError, Type};
use proptest::prelude::*;

/// Every statement, declaration and attribute once; it is no program of one level.
const EVERYTHING: &str = include_str!("texts/everything.tile");

fn read(text: &str) -> Program {
    text.parse().unwrap_or_else(|err| panic!("{err}\n{text}"))
}

#[test]
fn everything_reads_back() {
    let program = read(EVERYTHING);
    expect_test::expect_file!["texts/everything.tile"].assert_eq(&program.to_string());
    let mut words = std::collections::BTreeSet::new();
    program.body.iter().for_each(|stmt| stmt.walk(&mut |stmt| _ = words.insert(stmt.op.name())));
    assert_eq!(words.len(), 39, "the file lacks some of the statements: {words:?}");
}

#[test]
fn names_that_are_alike_are_told_apart() {
    let mut k = Builder::new("names", "says \"so\" \\ twice");
    let m = k.dim("x", 1..=64, 1);
    let x = k.tensor("x", DType::F32, &[m.clone(), m.clone()], Access::ReadWrite);
    k.tensor("inf", DType::F32, std::slice::from_ref(&m), Access::Read);
    let at = k.grid(&[("x", m.ceil_div(8)), ("true", m.ceil_div(8))]);
    let view = k.view(&x, &[&at[0] * 8, &at[1] * 8], &[8, 8]);
    let tile = k.load("a b", view.clone());
    let twice = k.map("a b", &[8, 8], &[&tile, &tile], |k, x, _| {
        let sum = k.bind("a_b", &x[0] + &x[1]);
        sum.max(0.0)
    });
    k.store(Place::View(view), &twice);
    let program = k.finish().unwrap();
    let text = program.to_string();
    expect_test::expect![[r#"
        kernel names "says \"so\" \\ twice" level tile
        param x: index in 1..=64
        param x.1: f32[x, x] strides [x, 1] read_write
        param inf.1: f32[x] strides [1] read
        schedule warps 4
        grid x.2 = (x + 7) / 8, true.1 = (x + 7) / 8
        {
          %a_b: f32[8, 8] = load x.1[x.2 * 8.., true.1 * 8..] masked [0, 1] fill 0.0
          %a_b.1: f32[8, 8] = map [i0, i1] (a_b = %a_b, a_b.1 = %a_b) {
            let a_b.2: f32 = a_b + a_b.1
            yield max(a_b.2, 0.0)
          }
          store x.1[x.2 * 8.., true.1 * 8..] masked [0, 1] = %a_b.1
        }
    "#]]
    .assert_eq(&text);
    assert_eq!(read(&text).to_string(), text);
    assert_eq!(read(&text).comment, program.comment);
}

/// Expressions of every kind over `n: index`, `v: f32` and `t: f16[n]`, right and wrong in their types.
fn random(rng: &mut fastrand::Rng, vars: &[Expr], load: &dyn Fn(Expr) -> Expr, depth: usize) -> Expr {
    if depth == 0 || rng.u8(..6) == 0 {
        let dtype = rng.choice(DType::ALL).unwrap_or(DType::F32);
        let wide = (i128::from(rng.u64(..)) << 64) | i128::from(rng.u64(..));
        return match rng.u8(..6) {
            0 | 1 => vars[rng.usize(..vars.len())].clone(),
            2 => Expr::index(rng.i64(..)),
            3 => Expr::float(DType::F32, f32::from_bits(rng.u32(..)).into()),
            _ if dtype.is_float() => {
                let special =
                    [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0, f64::from_bits(rng.u64(..)), 1e-9, 7.25];
                Expr::float(dtype, special[rng.usize(..special.len())])
            }
            _ => Expr::wide_int(dtype, wide),
        };
    }
    let mut next = || random(rng, vars, load, depth - 1);
    let (a, b, c) = (next(), next(), next());
    let binary = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Rem,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::Pow,
        BinaryOp::Atan2,
        BinaryOp::And,
        BinaryOp::Or,
        BinaryOp::Xor,
        BinaryOp::Shl,
        BinaryOp::Shr,
    ];
    let compare = [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge];
    match rng.u8(..12) {
        0..=4 => Expr::new(a.ty(), ExprKind::Binary(binary[rng.usize(..binary.len())], a, b)),
        5 | 6 => Expr::new(DType::Bool, ExprKind::Compare(compare[rng.usize(..compare.len())], a, b)),
        7 => a.unary(UnaryOp::ALL[rng.usize(..UnaryOp::ALL.len())]),
        8 => Expr::new(b.ty(), ExprKind::Select(a, b, c)),
        9 => Expr::new(a.ty(), ExprKind::Fma(a, b, c)),
        10 => load(a),
        _ => {
            let dtype = rng.choice(DType::ALL).unwrap_or(DType::F32);
            let ty = if rng.bool() { Type::Index } else { dtype.into() };
            Expr::new(ty, ExprKind::Cast(a))
        }
    }
}

/// The same but for the payloads of NaNs, of which the text keeps the sign.
fn quiet(e: &Expr) -> Expr {
    match e.kind() {
        ExprKind::Const(Scalar::Float(x)) if x.is_nan() => {
            let nan = if x.is_sign_negative() { -f64::NAN } else { f64::NAN };
            Expr::new(e.ty(), ExprKind::Const(Scalar::Float(nan)))
        }
        _ => e.clone(),
    }
}

#[test]
fn expressions_read_back_to_equal_ones() {
    for seed in 0..3000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut program = read(
            "kernel expressions \"\" level tile param n: index in 1..=64 param v: f32 param t: f16[n] strides [1] read
            schedule warps 4 grid { let e: index = 0 }",
        );
        let [Param::Scalar { var: n, .. }, Param::Scalar { var: v, .. }, Param::Buffer { buffer: t, .. }] =
            &program.params[..]
        else {
            panic!("{program}")
        };
        let e = random(&mut rng, &[Expr::var(n), Expr::var(v)], &|i| t.at([i]), 5);
        let Op::Bind { value, .. } = &mut program.body[0].op else { panic!("{program}") };
        *value = e.clone();
        let text = program.to_string();
        let back = read(&text);
        let Op::Bind { value, .. } = &back.body[0].op else { panic!("{text}") };
        // Variables have the same numbers, since they are declared in the same order.
        assert!(same(value, &e), "seed {seed}: {value}, not {e}\n{text}");
        assert_eq!(back.to_string(), text);
    }
}

/// Equality by structure, all NaNs of a sign being one.
fn same(a: &Expr, b: &Expr) -> bool {
    let nan = |e: &Expr| matches!(e.kind(), ExprKind::Const(Scalar::Float(x)) if x.is_nan());
    if a.operands().is_empty() || b.operands().is_empty() {
        return quiet(a) == quiet(b) && nan(a) == nan(b);
    }
    let alike = match (a.kind(), b.kind()) {
        (ExprKind::Binary(a, ..), ExprKind::Binary(b, ..)) => a == b,
        (ExprKind::Compare(a, ..), ExprKind::Compare(b, ..)) => a == b,
        (ExprKind::Unary(a, ..), ExprKind::Unary(b, ..)) => a == b,
        (ExprKind::Load(a, ..), ExprKind::Load(b, ..)) => a.id == b.id,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    };
    let (x, y) = (a.operands(), b.operands());
    alike && a.ty() == b.ty() && x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b))
}

#[track_caller]
fn refused(text: &str, place: (usize, usize), words: &[&str]) {
    match text.parse::<Program>() {
        Err(err @ TileError::Text { line, column, .. }) => {
            assert_eq!((line, column), place, "{err}");
            let message = err.to_string();
            words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is missing from: {message}"));
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn errors_say_where_and_what() {
    let body = |text: &str| {
        format!(
            "kernel k \"\" level tile\nparam n: index\nparam x: f32[n] strides [1] read\nschedule warps 4\ngrid\n{{\n{text}\n}}\n"
        )
    };
    refused("", (1, 1), &["`kernel`", "the end"]);
    refused("kernel k \"\" level deep", (1, 19), &["tile", "async", "`deep`"]);
    refused("kernel k \"\n", (1, 10), &["quote"]);
    refused("kernel k \u{e9}", (1, 10), &["`\u{e9}`"]);
    refused(&body("  let a: index = m"), (7, 18), &["a variable", "`m`"]);
    refused(&body("let n: index = 1"), (7, 5), &["not in use", "`n`"]);
    refused(&body("let a: i8 = 128i8"), (7, 13), &["literal", "`128i8`"]);
    refused(&body("let a: i8 = 1.5i8"), (7, 13), &["literal"]);
    refused(&body("let a: f16 = 1e9f16"), (7, 14), &["literal"]);
    refused(&body("let a: index = -n"), (7, 17), &["neg(x)", "`n`"]);
    refused(&body("let a: bool = n < n < n"), (7, 21), &["parentheses"]);
    refused(&body("let a: index = f(n)"), (7, 16), &["a function of 1", "`f`"]);
    refused(&body("let a: index = select(n)"), (7, 16), &["a function of 1"]);
    refused(&body("let a: index = (n"), (8, 1), &["`)`", "`}`"]);
    refused(&body("%a: f32[4] = full 1.0\n%a: f32[4] = full 1.0"), (8, 1), &["not in use", "`%a`"]);
    refused(&body("%a: f32[4] = reduce sum %b axis 0"), (7, 25), &["a tile that is defined", "`%b`"]);
    refused(&body("if true { %a: f32[4] = full 1.0 }\nstore x[0..] = %a"), (8, 16), &["a tile that is defined"]);
    refused(&body("%a: f32[4] = load x[0..] masked [1] fill 0.0"), (7, 34), &["an axis of the tensor"]);
    refused(&body("%a: f32[4] = load n[0..] fill 0.0"), (7, 19), &["a tensor", "`n`"]);
    refused(&body("load x[0..] fill 0.0"), (7, 1), &["a tile"]);
    refused(&body("set n = 1"), (7, 5), &["`var`"]);
    refused(&body("elected { yield }"), (7, 17), &["a tile"]);
    refused(&body("jump 3"), (7, 1), &["a statement", "`jump`"]);
    refused(&body("} }"), (7, 3), &["the end"]);
}

/// Nothing that is read can be so deep that a stack ends.
#[test]
fn depth_is_bounded() {
    let program = |text: &str| format!("kernel k \"\" level tile schedule warps 4 grid {{ let a: index = 1 {text} }}");
    for text in [
        format!("let b: index = {}1", "(".repeat(100_000)),
        format!("let b: index = {}1", "neg(".repeat(100_000)),
        format!("let b: index = a{}", " + a".repeat(100_000)),
        "if true { ".repeat(100_000),
        "roles { a warps 4 { ".repeat(100_000),
    ] {
        let message = program(&text).parse::<Program>().unwrap_err().to_string();
        assert!(message.contains("less nesting") || message.contains("a shorter expression"), "{message}");
    }
    let sum = program(&format!("let b: index = a{}", " + a".repeat(400)));
    assert_eq!(read(&sum).to_string(), read(&read(&sum).to_string()).to_string());
}

/// What takes the place of a piece of text.
const PIECES: [&str; 28] = [
    "4294967295",
    "%acc, ",
    "1",
    "64",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "..",
    "@",
    "%acc",
    "%",
    "x",
    "-",
    "1e400",
    "99999999999999999999",
    "0",
    "i8",
    "inf_f16",
    "yield",
    "let",
    "\"",
    "box",
    "[4, 4]",
    "\u{1f600}",
    "carry",
];

/// Texts that are changed: the file of everything, which breaks rules, and right programs of several levels.
fn texts() -> [&'static str; 5] {
    let after = |file: &'static str| file.split_once("\n; check:\n").map_or(file, |(_, after)| after);
    [
        EVERYTHING,
        after(include_str!("filetests/verify_product.tile")),
        after(include_str!("filetests/specialise.tile")),
        after(include_str!("filetests/pipeline_cp_async.tile")),
        after(include_str!("filetests/print_async.tile")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Changed texts are read or refused, what is read is written and read alike, and is right or refused.
    #[test]
    fn changed_texts_do_not_panic(
        text in 0..5usize,
        changes in prop::collection::vec((0..10_000usize, 0..40usize, 0..2 * PIECES.len()), 1..4),
    ) {
        let mut text: Vec<char> = texts()[text].chars().collect();
        for (at, length, piece) in changes {
            let at = at % text.len();
            let end = (at + length).min(text.len());
            let piece = PIECES.get(piece).copied().unwrap_or_default();
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        match text.parse::<Program>() {
            Ok(program) => {
                let printed = program.to_string();
                let again = printed.parse::<Program>();
                prop_assert!(again.is_ok(), "{:?}\n{printed}", again.err());
                let again = again.map(|again| {
                    assert_eq!(verify(&again).map_err(|e| e.to_string()), verify(&program).map_err(|e| e.to_string()));
                    again.to_string()
                });
                prop_assert_eq!(again, Ok(printed));
            }
            Err(err) => prop_assert!(matches!(err, TileError::Text { .. }), "{err}"),
        }
    }
}
