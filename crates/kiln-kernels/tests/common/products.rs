//! Matrix products.

use super::{Case, case, d, ints, random, spec, spoilt};
use kiln_fuse::Anchor;
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, Op, QuantAxes, Tensor};

/// An einsum of inputs of one type, with extents by label.
pub fn einsum(name: &str, text: &str, dtype: DType, extent: &dyn Fn(char) -> usize) -> Case {
    let spec = spec(text);
    let shapes = [&spec.lhs, &spec.rhs].map(|labels| labels.iter().map(|l| extent(*l)).collect::<Vec<usize>>());
    let dims = shapes.clone().map(|s| s.into_iter().map(Dim::from).collect::<Vec<_>>());
    let tensor = |shape: &[usize], seed| match dtype {
        DType::I8 | DType::U8 => ints(dtype, shape, 0, 100, seed),
        _ => random(dtype, shape, seed),
    };
    let inputs = vec![tensor(&shapes[0], 1), tensor(&shapes[1], 2)];
    let (acc, out) = match dtype {
        DType::I8 | DType::U8 => (DType::I32, DType::I32),
        _ if dtype.is_f8() => (DType::F32, DType::F32),
        _ => (dtype.accumulator(), dtype),
    };
    case(name, Anchor::Contract, 64.0, inputs, |b| {
        let (x, y) = (b.input("x", dtype, &dims[0])?, b.input("y", dtype, &dims[1])?);
        Ok(vec![b.contract(spec.clone(), x, y, acc, out)?])
    })
}

/// A linear layer with a bias, a gate, a residual and a factor a row, which ends in heads.
pub fn epilogue(dtype: DType, [m, k, columns]: [usize; 3]) -> Case {
    let shape = [columns, k];
    let inputs = vec![
        random(dtype, &[2, m, k], 1),
        random(dtype, &shape, 2),
        random(dtype, &[columns], 3),
        random(dtype, &[2, m, columns], 4),
        random(dtype, &[2, m, 1], 5),
    ];
    case(&format!("epilogue_{m}x{k}x{columns}_{dtype}"), Anchor::Contract, 128.0, inputs, |b| {
        let x = b.input("x", dtype, &["B".into(), Dim::sym("S"), Dim::from(k)])?;
        let w = b.input("w", dtype, &shape.map(Dim::from))?;
        let bias = b.input("bias", dtype, &[Dim::from(columns)])?;
        let full = ["B".into(), Dim::sym("S"), Dim::from(columns)];
        let residual = b.input("residual", dtype, &full)?;
        let of_row = b.input("row", dtype, &["B".into(), Dim::sym("S"), Dim::from(1)])?;
        let y = b.contract(spec("bsk,nk->bsn"), x, w, dtype.accumulator(), dtype)?;
        let y = b.plus(y, bias)?;
        let gate = b.sigmoid(y)?;
        let gated = b.mul(y, gate)?;
        let sum = b.plus(gated, residual)?;
        let of_row = b.broadcast_to(of_row, &full)?;
        let scaled = b.mul(sum, of_row)?;
        let heads = b.reshape(scaled, &["B".into(), Dim::sym("S"), Dim::from(4), Dim::from(columns / 4)])?;
        Ok(vec![b.transpose(heads, &[0, 2, 1, 3])?])
    })
}

/// Products with what may stand before and behind them.
pub fn composed() -> Vec<Case> {
    vec![epilogue(DType::F16, [70, 64, 72]), epilogue(DType::F32, [9, 20, 36]), packed_weights(), signs(), scaled()]
}

/// Bytes of floats with a factor a row and a factor a column.
pub fn scaled() -> Case {
    let (f8, f32) = (DType::F8E4M3, DType::F32);
    let inputs =
        vec![random(f8, &[72, 256], 1), random(f8, &[96, 256], 2), random(f32, &[72, 1], 3), random(f32, &[96], 4)];
    case("scaled_f8e4m3", Anchor::Contract, 4.0, inputs, |b| {
        let (x, w) = (b.input("x", f8, &d(&["M", "256"]))?, b.input("w", f8, &d(&["96", "256"]))?);
        let (of_row, of_column) = (b.input("row", f32, &d(&["M", "1"]))?, b.input("column", f32, &d(&["96"]))?);
        let y = b.contract(spec("mk,nk->mn"), x, w, f32, f32)?;
        let of_row = b.broadcast_to(of_row, &d(&["M", "96"]))?;
        let of_column = b.broadcast_to(of_column, &d(&["M", "96"]))?;
        let scaled = b.mul(y, of_row)?;
        let scaled = b.mul(scaled, of_column)?;
        Ok(vec![b.cast(scaled, DType::BF16)?])
    })
}

/// A product whose left operand is a part of a longer one along an axis, from a place on; what is beside that must not be read.
pub fn part(text: &str, dtype: DType, extent: &dyn Fn(char) -> usize, label: char, [start, after]: [usize; 2]) -> Case {
    let spec = spec(text);
    let axis = spec.lhs.iter().position(|l| *l == label).unwrap();
    let shapes = [&spec.lhs, &spec.rhs].map(|labels| labels.iter().map(|l| extent(*l)).collect::<Vec<usize>>());
    let mut longer = shapes[0].clone();
    longer[axis] += start + after;
    let tensor = |shape: &[usize], seed| match dtype.is_int() {
        true => ints(dtype, shape, -9, 9, seed),
        false => random(dtype, shape, seed),
    };
    let len = shapes[0][axis];
    let inputs = vec![spoilt(&tensor(&longer, 1), axis, start..start + len), tensor(&shapes[1], 2)];
    let sums = if dtype.is_int() { DType::I32 } else { dtype.accumulator() };
    let out = if dtype.is_int() { DType::I32 } else { dtype };
    // Rows that are known to be aligned, and others.
    let dim = |l: &char| match extent(*l) {
        n if n.is_multiple_of(8) => Dim::from(n),
        _ => Dim::sym(l.to_uppercase().to_string()),
    };
    case(&format!("part_{text}_{dtype}_{label}_{len}_{start}_{after}"), Anchor::Contract, 64.0, inputs, |b| {
        let mut own: Vec<Dim> = spec.lhs.iter().map(dim).collect();
        own[axis] = own[axis].clone() + Dim::from(start + after);
        let x = b.input("x", dtype, &own)?;
        let w = b.input("w", dtype, &spec.rhs.iter().map(dim).collect::<Vec<_>>())?;
        let x = b.slice_axis(x, axis as i64, &Dim::from(start), &dim(&label), 1)?;
        Ok(vec![b.contract(spec.clone(), x, w, sums, out)?])
    })
}

/// The middle third of a row by a matrix that is one of several.
pub fn thirds(dtype: DType, [rows, depth, columns]: [usize; 3]) -> Case {
    let inputs = vec![
        spoilt(&random(dtype, &[2, rows, 3 * depth], 1), 2, depth..2 * depth),
        spoilt(&random(dtype, &[3, columns, depth], 2), 0, 2..3),
        random(dtype, &[columns], 3),
    ];
    case(&format!("thirds_{dtype}_{rows}x{depth}x{columns}"), Anchor::Contract, 64.0, inputs, |b| {
        let x = b.input("x", dtype, &["B".into(), Dim::sym("S"), (3 * depth).into()])?;
        let w = b.input("w", dtype, &[3.into(), columns.into(), depth.into()])?;
        let bias = b.input("bias", dtype, &[columns.into()])?;
        let x = b.slice_axis(x, 2, &Dim::from(depth), &Dim::from(depth), 1)?;
        let w = b.slice_axis(w, 0, &Dim::from(2), &Dim::from(1), 1)?;
        let w = b.reshape(w, &[columns.into(), depth.into()])?;
        let y = b.contract(spec("bsk,nk->bsn"), x, w, dtype.accumulator(), dtype)?;
        Ok(vec![b.plus(y, bias)?])
    })
}

/// Weights of 4 bits with scales, by rows of bytes.
pub fn packed_weights() -> Case {
    let f = DType::F16;
    let inputs = vec![
        random(DType::U8, &[2, 19, 40], 1),
        random(DType::I4, &[40, 24], 2),
        random(f, &[2, 24], 3),
        random(DType::I4, &[2, 24], 4),
    ];
    case("packed_weights", Anchor::Contract, 128.0, inputs, |b| {
        let x = b.input("x", DType::U8, &d(&["2", "S", "40"]))?;
        let (w, scale) = (b.input("w", DType::I4, &d(&["40", "24"]))?, b.input("scale", f, &d(&["2", "24"]))?);
        let x = b.cast(x, f)?;
        let zero = b.input("zero", DType::I4, &d(&["2", "24"]))?;
        let w = b.dequantize(w, scale, zero, QuantAxes::Block { axis: 0, block: 20 })?;
        Ok(vec![b.contract(spec("bsk,kn->bsn"), x, w, DType::F32, f)?])
    })
}

/// Bytes without a sign by bytes with one, seen through casts.
pub fn signs() -> Case {
    let inputs = vec![ints(DType::U8, &[9, 32], 0, 255, 1), ints(DType::I8, &[32, 12], -128, 127, 2)];
    case("u8_by_i8", Anchor::Contract, 1.0, inputs, |b| {
        let (x, w) = (b.input("x", DType::U8, &d(&["M", "32"]))?, b.input("w", DType::I8, &d(&["32", "12"]))?);
        let (x, w) = (b.cast(x, DType::I32)?, b.cast(w, DType::I32)?);
        Ok(vec![b.contract(spec("mk,kn->mn"), x, w, DType::I32, DType::I32)?])
    })
}

/// Two products that share an operand.
#[derive(Clone, Copy)]
pub struct Twins {
    pub text: &'static str,
    pub dtype: DType,
    /// Whether they share the right operand, not the left one.
    pub mirrored: bool,
    /// Whether each has a bias.
    pub bias: bool,
    /// Whether one of them is a result, too.
    pub several: bool,
}

/// One product gates the other: by GELU where both are results, else by SiLU; of integers the positive ones are added.
pub fn twins(form: Twins, extent: &dyn Fn(char) -> usize) -> Case {
    let Twins { text, dtype, mirrored, bias, several } = form;
    let spec = spec(text);
    let tensor = |labels: &[char], seed| {
        let shape: Vec<usize> = labels.iter().map(|l| extent(*l)).collect();
        if dtype.is_int() { ints(dtype, &shape, -9, 9, seed) } else { random(dtype, &shape, seed) }
    };
    let (one, two) = if mirrored { (&spec.rhs, &spec.lhs) } else { (&spec.lhs, &spec.rhs) };
    let mut inputs = vec![tensor(one, 1), tensor(two, 2), tensor(two, 3)];
    let out = if dtype.is_int() { DType::I32 } else { dtype };
    let last = *spec.out.last().unwrap();
    if bias {
        inputs.extend([4, 5].map(|seed| random(out, &[extent(last)], seed)));
    }
    let sizes: Vec<String> = "mnk".chars().map(|l| extent(l).to_string()).collect();
    let name = format!("twins_{text}_{dtype}_{}{}", sizes.join("x"), if mirrored { "_mirrored" } else { "" });
    // Sums in another order, whose errors the other product's values, of the order of ten, multiply.
    let roundings = if dtype == DType::F32 { 2.0 * extent('k') as f64 } else { 64.0 };
    case(&name, Anchor::Contract, roundings, inputs, |b| {
        let dims = |labels: &[char]| -> Vec<Dim> {
            labels.iter().map(|l| if *l == 'm' { Dim::sym("M") } else { Dim::from(extent(*l)) }).collect()
        };
        let x = b.input("x", dtype, &dims(one))?;
        let mut products = vec![];
        let weights = [b.input("gate", dtype, &dims(two))?, b.input("up", dtype, &dims(two))?];
        for w in weights {
            let (left, right) = if mirrored { (w, x) } else { (x, w) };
            products.push(b.contract(spec.clone(), left, right, dtype.accumulator(), out)?);
        }
        for y in products.iter_mut().filter(|_| bias) {
            let beside = b.input("bias", out, &dims(&[last]))?;
            *y = b.plus(*y, beside)?;
        }
        let [gate, up] = products[..] else { unreachable!() };
        let y = match (dtype.is_int(), several) {
            (true, _) => b.relu(gate).and_then(|gate| b.plus(gate, up))?,
            (false, true) => b.gelu(gate).and_then(|gate| b.mul(gate, up))?,
            (false, false) => b.silu(gate).and_then(|gate| b.mul(gate, up))?,
        };
        Ok(if several { vec![y, up] } else { vec![y] })
    })
}

/// Heads of which pairs of elements are turned by an angle a token.
#[derive(Clone, Copy)]
pub struct Rotary {
    pub dtype: DType,
    /// Whether a pair is neighbours, not an element of each half.
    pub interleaved: bool,
    /// Whether results are the heads from 0, from 1 and from where none are turned, not all in one.
    pub parts: bool,
    pub bias: bool,
}

/// Projections to `heads` heads of `size` elements, of which the first `turned` are turned: the elements of pairs are two products of one operand.
pub fn rotary(form: Rotary, [tokens, heads, turned, size, depth]: [usize; 5]) -> Case {
    let Rotary { dtype, interleaved, parts, bias } = form;
    let (half, f) = (size / 2, dtype.accumulator());
    let mut inputs = vec![random(dtype, &[tokens, depth], 1)];
    inputs.extend([2, 3].map(|seed| random(dtype, &[heads * half, depth], seed)));
    inputs.extend([4, 5].map(|seed| random(dtype, &[tokens, half], seed)));
    inputs.extend([6, 7].iter().filter(|_| bias).map(|seed| random(dtype, &[heads * half], *seed)));
    let name = format!("rotary_{dtype}_{tokens}x{heads}x{size}x{depth}_{interleaved}_{parts}");
    let roundings = if dtype == DType::F32 { 2.0 * depth as f64 } else { 64.0 };
    case(&name, Anchor::Contract, roundings, inputs, |b| {
        let m = Dim::sym("M");
        let x = b.input("x", dtype, &[m.clone(), depth.into()])?;
        let weights = ["first", "second"].map(|name| b.input(name, dtype, &[(heads * half).into(), depth.into()]));
        let [cos, sin] = ["cos", "sin"].map(|name| b.input(name, dtype, &[m.clone(), half.into()]));
        let (cos, sin) = (cos?, sin?);
        let (cos, sin) = (b.cast(cos, f)?, b.cast(sin, f)?);
        let mut pairs = vec![];
        for w in weights {
            let mut y = b.contract(spec("mk,nk->mn"), x, w?, f, dtype)?;
            if bias {
                let beside = b.input("bias", dtype, &[(heads * half).into()])?;
                y = b.plus(y, beside)?;
            }
            let y = b.reshape(y, &[m.clone(), heads.into(), half.into()])?;
            pairs.push(b.transpose(y, &[1, 0, 2])?);
        }
        let (first, second) = (b.cast(pairs[0], f)?, b.cast(pairs[1], f)?);
        let (a, c) = (b.mul(cos, first)?, b.mul(sin, second)?);
        let real = b.sub(a, c)?;
        let (a, c) = (b.mul(sin, first)?, b.mul(cos, second)?);
        let imaginary = b.plus(a, c)?;
        let index = b.iota(DType::I32, &[heads.into(), 1.into(), 1.into()], 0)?;
        let wanted = b.compare_scalar(CompareOp::Lt, index, turned as f64)?;
        let mut sides = vec![];
        for (turned, left) in [(real, pairs[0]), (imaginary, pairs[1])] {
            let turned = b.cast(turned, dtype)?;
            sides.push(b.select(wanted, turned, left)?);
        }
        let y = match interleaved {
            false => b.concat(&sides, 2)?,
            true => {
                let y = b.stack(&sides, 3)?;
                b.reshape(y, &[heads.into(), m, size.into()])?
            }
        };
        let bounds = [0, 1, turned, heads];
        match parts {
            false => Ok(vec![y]),
            true => {
                bounds.windows(2).map(|w| b.slice_axis(y, 0, &Dim::from(w[0]), &Dim::from(w[1] - w[0]), 1)).collect()
            }
        }
    })
}

/// An image whose channels are scaled before they are multiplied.
#[derive(Clone, Copy)]
pub struct Excited {
    pub dtype: DType,
    /// Whether the image is the left operand.
    pub left: bool,
    /// Whether two products read it.
    pub twins: bool,
    /// Whether more than the scaling is before the product: a function that is not 0 at 0.
    pub function: bool,
}

/// Images with a factor a channel of each, by a matrix, of `[images, rows, columns, channels, results]`; the scaled image is added to no result.
pub fn excited(form: Excited, [n, h, w, c, o]: [usize; 5]) -> Case {
    let Excited { dtype, left, twins, function } = form;
    let inputs = vec![
        random(dtype, &[n, h, w, c], 1),
        random(dtype, &[n, 1, 1, c], 2),
        random(dtype, &[o, c], 3),
        random(dtype, &[o, c], 4),
    ];
    let inputs = inputs.into_iter().take(if twins { 4 } else { 3 }).collect();
    let name = format!("excited_{dtype}_{n}x{h}x{w}x{c}x{o}_{left}_{twins}_{function}");
    let roundings = if dtype.accumulator() == dtype { 4.0 * c as f64 + 16.0 } else { 64.0 };
    case(&name, Anchor::Contract, roundings, inputs, |b| {
        let image = ["N".into(), "H".into(), Dim::from(w), Dim::from(c)];
        let x = b.input("x", dtype, &image)?;
        let s = b.input("s", dtype, &["N".into(), 1.into(), 1.into(), c.into()])?;
        let s = b.broadcast_to(s, &image)?;
        let mut x = b.mul(x, s)?;
        if function {
            x = b.exp(x)?;
        }
        let product = |b: &mut kiln_graph::Builder, name: &str| {
            let w = b.input(name, dtype, &[o.into(), c.into()])?;
            let (text, pair) = if left { ("nhwc,oc->nhwo", [x, w]) } else { ("oc,nhwc->nhwo", [w, x]) };
            b.contract(spec(text), pair[0], pair[1], dtype.accumulator(), dtype)
        };
        let y = product(b, "w")?;
        if !twins {
            return Ok(vec![y]);
        }
        let (y, other) = (b.sigmoid(y)?, product(b, "v")?);
        Ok(vec![b.mul(y, other)?])
    })
}

/// What rows in groups are multiplied by.
#[derive(Clone, Copy)]
pub struct Groups {
    pub dtype: DType,
    pub depth: usize,
    pub columns: usize,
    pub transposed: bool,
    /// Whether a factor, a bias, an activation and a residual follow.
    pub behind: bool,
}

/// Rows in groups that end at `ends`; how many there are of both is known when it runs.
pub fn grouped(form: Groups, rows: usize, ends: &[i64], at: DType) -> Case {
    let Groups { dtype, depth, columns, transposed, behind } = form;
    let groups = ends.len();
    let right = if transposed { [groups, columns, depth] } else { [groups, depth, columns] };
    let tensor = |shape: &[usize], seed| {
        if dtype.is_int() { ints(dtype, shape, -9, 9, seed) } else { random(dtype, shape, seed) }
    };
    let values: Vec<i128> = ends.iter().map(|end| i128::from(*end)).collect();
    let mut inputs =
        vec![tensor(&[rows, depth], 1), tensor(&right, 2), Tensor::from_i128(at, &[groups], &values).unwrap()];
    if behind {
        inputs.extend([tensor(&[columns], 3), tensor(&[rows, columns], 4)]);
    }
    let sum = dtype.accumulator();
    let out = if dtype.bits() > 8 && !dtype.is_int() { dtype } else { sum };
    case(&format!("grouped_{dtype}_{rows}x{depth}x{columns}_{groups}"), Anchor::Contract, 64.0, inputs, |b| {
        let [depth, columns] = [depth, columns].map(Dim::from);
        let right = right.map(Dim::from);
        let count = b.symbol("G", 1, 9);
        let x = b.input("x", dtype, &["T".into(), depth])?;
        let w = b.input("w", dtype, &[count.clone(), right[1].clone(), right[2].clone()])?;
        let ends = b.input("ends", at, &[count])?;
        let op = Op::GroupedMatmul { transposed, acc: sum, out };
        let y = b.add1(op, &[x, w, ends])?;
        if !behind {
            return Ok(vec![y]);
        }
        let bias = b.input("bias", dtype, std::slice::from_ref(&columns))?;
        let residual = b.input("residual", dtype, &["T".into(), columns])?;
        let y = b.binary_scalar(BinaryOp::Mul, y, 0.5)?;
        let y = b.plus(y, bias)?;
        let y = b.silu(y)?;
        Ok(vec![b.plus(y, residual)?])
    })
}
