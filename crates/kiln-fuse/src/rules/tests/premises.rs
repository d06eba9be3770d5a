//! Graphs that match a rule's pattern but break its premise.

use kiln_graph::{BinaryOp, Builder, ConvSpec, DType, Dim, EinsumSpec, Graph, Op, ReduceOp, Tensor, UnaryOp, ValueId};

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

fn graph(make: impl FnOnce(&mut Builder) -> kiln_graph::Result<ValueId>) -> Graph {
    let mut b = Builder::new("violation");
    let y = make(&mut b).unwrap();
    b.output("y", y);
    b.finish()
}

fn input(b: &mut Builder, name: &str, shape: &[usize]) -> kiln_graph::Result<ValueId> {
    b.input(name, DType::F64, &dims(shape))
}

fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> kiln_graph::Result<ValueId> {
    b.weight_data(name, Tensor::random(DType::F64, shape, 1)?)
}

fn scalar_case(op: BinaryOp, c: f64) -> Graph {
    graph(|b| {
        let x = input(b, "x", &[3])?;
        b.binary_scalar(op, x, c)
    })
}

/// Ops on integers, one after the other.
fn integers(ops: &[BinaryOp]) -> Graph {
    graph(|b| {
        let x = b.input("x", DType::I32, &dims(&[3]))?;
        ops.iter().zip(["y", "z"]).try_fold(x, |x, (op, name)| {
            let y = b.input(name, DType::I32, &dims(&[3]))?;
            b.binary(*op, x, y)
        })
    })
}

/// A sum of rows that had two axes with something of each row.
fn over_reshape(shape: &[usize]) -> Graph {
    graph(|b| {
        let x = input(b, "x", &[2, 3, 5])?;
        let x = b.add1(Op::Reshape { shape: dims(&[6, 5]) }, &[x])?;
        let y = input(b, "y", shape)?;
        let y = b.add1(Op::Broadcast { shape: dims(&[6, 5]) }, &[y])?;
        b.binary(BinaryOp::Add, x, y)
    })
}

fn broadcast(from: &[usize], to: &[usize]) -> Graph {
    graph(|b| {
        let x = input(b, "x", from)?;
        b.add1(Op::Broadcast { shape: dims(to) }, &[x])
    })
}

fn casts(from: DType, middle: DType, to: DType) -> Graph {
    graph(|b| {
        let x = b.input("x", from, &dims(&[3]))?;
        let y = b.cast(x, middle)?;
        b.cast(y, to)
    })
}

fn conv(b: &mut Builder, kernel: usize, spec: ConvSpec) -> kiln_graph::Result<ValueId> {
    let x = input(b, "x", &[2, 4, 6])?;
    let w = weight(b, "w", &[4, 4 / spec.groups, kernel])?;
    b.conv(x, w, None, spec)
}

fn plain() -> ConvSpec {
    ConvSpec { strides: vec![1], pads: vec![(0, 0)], dilations: vec![1], groups: 1 }
}

/// Rules and graphs on which they must not fire.
pub(super) fn violations() -> Vec<(&'static str, Graph)> {
    let mut all = vec![
        ("quotient-is-product", integers(&[BinaryOp::Div])),
        ("mul-associates-left", integers(&[BinaryOp::Mul, BinaryOp::Mul])),
        ("add-associates-left-exchanged", integers(&[BinaryOp::Add, BinaryOp::Add])),
        ("broadcast-of-leading-units", broadcast(&[3, 1], &[2, 3, 4])),
        ("reshape-last-left-add", over_reshape(&[6, 5])),
        ("reshape-last-left-add", over_reshape(&[6, 1])),
        ("mul-one", scalar_case(BinaryOp::Mul, 1.5)),
        ("div-one", scalar_case(BinaryOp::Div, 2.0)),
        ("add-zero", scalar_case(BinaryOp::Add, 1e-300)),
        ("sub-zero", scalar_case(BinaryOp::Sub, 1.0)),
        ("pow-one", scalar_case(BinaryOp::Pow, 0.0)),
        ("square", scalar_case(BinaryOp::Pow, 3.0)),
        ("cube", scalar_case(BinaryOp::Pow, 2.0)),
        ("pow-half", scalar_case(BinaryOp::Pow, -0.5)),
        ("cast-same", casts(DType::F64, DType::F32, DType::F64)),
        ("cast-cast", casts(DType::F64, DType::F32, DType::F64)),
        ("cast-cast", casts(DType::F32, DType::BF16, DType::F32)),
        ("cast-cast", casts(DType::F16, DType::BF16, DType::F32)),
        ("cast-cast", casts(DType::I32, DType::F32, DType::I32)),
        ("cast-cast", casts(DType::I8, DType::U8, DType::I32)),
        ("cast-cast", casts(DType::I16, DType::F16, DType::I32)),
        ("cast-cast", casts(DType::U8, DType::F8E4M3, DType::F32)),
        ("cast-cast", casts(DType::F32, DType::I32, DType::F32)),
        ("cast-cast", casts(DType::F8E4M3, DType::F8E5M2, DType::F32)),
    ];
    // An operand that is not known.
    all.push((
        "select-known",
        graph(|b| {
            let c = b.input("c", DType::Bool, &dims(&[3]))?;
            let (x, y) = (input(b, "x", &[3])?, input(b, "y", &[3])?);
            b.select(c, x, y)
        }),
    ));
    let permuted = |shape: &[usize], perm: &[usize]| {
        graph(|b| {
            let x = input(b, "x", shape)?;
            b.add1(Op::Permute { perm: perm.to_vec() }, &[x])
        })
    };
    all.push(("permute-identity", permuted(&[3, 3], &[1, 0])));
    all.push(("permute-of-units", permuted(&[3, 1, 3], &[2, 1, 0])));
    all.push((
        "reshape-identity",
        graph(|b| {
            let x = input(b, "x", &[2, 3])?;
            b.add1(Op::Reshape { shape: dims(&[3, 2]) }, &[x])
        }),
    ));
    let widened = || {
        graph(|b| {
            let x = input(b, "x", &[2, 1])?;
            b.add1(Op::Broadcast { shape: dims(&[1, 2, 2]) }, &[x])
        })
    };
    all.push(("broadcast-identity", widened()));
    all.push(("broadcast-of-units", widened()));
    all.push((
        "broadcast-of-reshape",
        graph(|b| {
            let x = input(b, "x", &[2])?;
            let y = b.add1(Op::Reshape { shape: dims(&[2, 1]) }, &[x])?;
            b.add1(Op::Broadcast { shape: dims(&[2, 2]) }, &[y])
        }),
    ));
    // Reversed, so not the whole of x though as large.
    all.push((
        "slice-identity",
        graph(|b| {
            let x = input(b, "x", &[3])?;
            b.add1(Op::Slice { starts: dims(&[2]), sizes: dims(&[3]), steps: vec![-1] }, &[x])
        }),
    ));
    for (start, size, step) in [(1, 2, 1), (1, 3, 1), (0, 2, 2)] {
        all.push((
            "slice-of-concat",
            graph(|b| {
                let (x, y) = (input(b, "x", &[2])?, input(b, "y", &[3])?);
                let c = b.concat(&[x, y], 0)?;
                b.add1(Op::Slice { starts: dims(&[start]), sizes: dims(&[size]), steps: vec![step] }, &[c])
            }),
        ));
    }
    // Parts that are no halves of anything: other values, thirds, every other element; of which one is longer.
    for (starts, sizes, step) in [([0, 0], [6, 6], 1), ([0, 2], [2, 2], 1), ([0, 1], [3, 3], 2), ([0, 2], [2, 4], 1)] {
        for rule in ["concat-last-mul", "concat-last-cast"] {
            all.push((
                rule,
                graph(|b| {
                    let x = input(b, "x", &[6])?;
                    let part = |b: &mut Builder, i: usize| {
                        b.slice_axis(x, 0, &Dim::from(starts[i]), &Dim::from(sizes[i]), step)
                    };
                    let parts = [part(b, 0)?, part(b, 1)?];
                    let c = b.concat(&parts, 0)?;
                    let shape = b.shape(c).to_vec();
                    if rule == "concat-last-cast" {
                        return b.cast(c, DType::F32);
                    }
                    let y = b.input("y", DType::F64, &shape)?;
                    b.mul(c, y)
                }),
            ));
        }
    }
    all.push((
        "pad-nothing",
        graph(|b| {
            let (x, v) = (input(b, "x", &[3])?, input(b, "v", &[])?);
            b.add1(Op::Pad { low: dims(&[0]), high: dims(&[0]), interior: vec![1] }, &[x, v])
        }),
    ));
    // Both operands are as wide as the result together.
    all.push((
        "broadcast-last-add",
        graph(|b| {
            let (x, y) = (input(b, "x", &[3, 1])?, input(b, "y", &[1, 2])?);
            let x = b.add1(Op::Broadcast { shape: dims(&[3, 2]) }, &[x])?;
            let y = b.add1(Op::Broadcast { shape: dims(&[3, 2]) }, &[y])?;
            b.plus(x, y)
        }),
    ));
    all.push((
        "reduce_sum-of-units",
        graph(|b| {
            let x = input(b, "x", &[2, 1])?;
            b.add1(Op::Reduce { op: ReduceOp::Sum, axes: vec![0, 1] }, &[x])
        }),
    ));
    // An axis that is not repeated is summed too; nothing is summed.
    for (narrow, wide) in [([3, 1], [3, 4]), ([1, 3], [0, 3])] {
        all.push((
            "sum-of-broadcast",
            graph(|b| {
                let x = input(b, "x", &narrow)?;
                let x = b.add1(Op::Broadcast { shape: dims(&wide) }, &[x])?;
                b.add1(Op::Reduce { op: ReduceOp::Sum, axes: vec![0] }, &[x])
            }),
        ));
    }
    // A repeated contracted axis would have to scale the result.
    all.push((
        "contract-broadcast-left",
        graph(|b| {
            let (x, y) = (input(b, "x", &[3, 1])?, input(b, "y", &[4, 2])?);
            let x = b.add1(Op::Broadcast { shape: dims(&[3, 4]) }, &[x])?;
            let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['k', 'n'], out: vec!['m', 'n'] };
            b.contract(spec, x, y, DType::F64, DType::F64)
        }),
    ));
    // A repeated free axis would leave the result.
    all.push((
        "contract-broadcast-right",
        graph(|b| {
            let (x, y) = (input(b, "x", &[3, 4])?, input(b, "y", &[4, 1])?);
            let y = b.add1(Op::Broadcast { shape: dims(&[4, 2]) }, &[y])?;
            let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['k', 'n'], out: vec!['m', 'n'] };
            b.contract(spec, x, y, DType::F64, DType::F64)
        }),
    ));
    // Groups that trade places are no other form of the op.
    all.push((
        "grouped-transposed",
        graph(|b| {
            let (x, w) = (input(b, "x", &[7, 4])?, input(b, "w", &[5, 4, 3])?);
            let w = b.transpose(w, &[2, 1, 0])?;
            let ends = b.input("ends", DType::I64, &dims(&[3]))?;
            b.grouped_matmul(x, w, ends, false)
        }),
    ));
    for (kernel, spec) in [
        (3, plain()),
        (1, ConvSpec { strides: vec![2], ..plain() }),
        (1, ConvSpec { pads: vec![(0, 1)], ..plain() }),
        (1, ConvSpec { groups: 2, ..plain() }),
    ] {
        all.push(("pointwise-conv", graph(|b| conv(b, kernel, spec))));
    }
    // A scale along a spatial axis; a scale that is data; an integer division.
    all.push((
        "scale-into-conv",
        graph(|b| {
            let y = conv(b, 1, plain())?;
            let s = weight(b, "s", &[6])?;
            let s = b.add1(Op::Broadcast { shape: dims(&[2, 4, 6]) }, &[s])?;
            b.mul(y, s)
        }),
    ));
    all.push((
        "scale-into-conv",
        graph(|b| {
            let y = conv(b, 1, plain())?;
            let s = input(b, "s", &[4, 1])?;
            let s = b.add1(Op::Broadcast { shape: dims(&[2, 4, 6]) }, &[s])?;
            b.mul(y, s)
        }),
    ));
    // What is summed are no exponentials; the factor is not one of a row; what a cast rounds could be any number.
    for (x, s, cast) in [(false, [3, 1], false), (true, [1, 2], false), (true, [3, 1], true)] {
        all.push((
            "exponentials-div-left",
            graph(|b| {
                let (w, v) = (input(b, "w", &[3, 4])?, input(b, "v", &[4, 2])?);
                let w = if x { b.exp(w)? } else { b.tanh(w)? };
                let [w, v] = if cast { [b.cast(w, DType::F32)?, b.cast(v, DType::F32)?] } else { [w, v] };
                let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['k', 'n'], out: vec!['m', 'n'] };
                let y = b.contract(spec, w, v, DType::F64, DType::F64)?;
                let s = input(b, "s", &s)?;
                let s = b.add1(Op::Broadcast { shape: dims(&[3, 2]) }, &[s])?;
                b.div(y, s)
            }),
        ));
    }
    for rule in ["scale-into-contract-left", "scale-into-contract-right"] {
        all.push((
            rule,
            graph(|b| {
                // A scale of rows and columns at once is on neither operand.
                let (x, w) = (weight(b, "x", &[3, 4])?, weight(b, "w", &[4, 2])?);
                let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['k', 'n'], out: vec!['m', 'n'] };
                let y = b.contract(spec, x, w, DType::F64, DType::F64)?;
                let s = weight(b, "s", &[3, 2])?;
                let s = b.add1(Op::Broadcast { shape: dims(&[3, 2]) }, &[s])?;
                b.mul(y, s)
            }),
        ));
    }
    all.push((
        "div-by-weight",
        graph(|b| {
            let x = b.input("x", DType::I32, &dims(&[3]))?;
            let w = b.weight_data("w", Tensor::full(DType::I32, &[3], 2.0)?)?;
            b.binary(BinaryOp::Div, x, w)
        }),
    ));
    all.push((
        "distribute-add",
        graph(|b| {
            let (x, m, s) = (input(b, "x", &[3])?, weight(b, "m", &[3])?, weight(b, "s", &[3])?);
            let y = b.plus(x, m)?;
            b.mul(y, s)
        }),
    ));
    all.push((
        "gather-add-add",
        graph(|b| {
            let (x, m, n) = (input(b, "x", &[3])?, input(b, "m", &[3])?, weight(b, "n", &[3])?);
            let y = b.plus(x, m)?;
            b.plus(y, n)
        }),
    ));

    all.push((
        "add-neg",
        graph(|b| {
            let (x, y) = (input(b, "x", &[3])?, input(b, "y", &[3])?);
            let y = b.unary(UnaryOp::Abs, y)?;
            b.plus(x, y)
        }),
    ));
    all
}
