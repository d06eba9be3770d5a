//! Regions of every family.

use super::{Case, case, d, ints, random, spec, wild};
use kiln_fuse::Anchor;
use kiln_graph::{
    ArgOp, BinaryOp, Builder, CompareOp, ConvSpec, DType, Dim, PadMode, QuantAxes, ReduceOp, Result, Rng, ScanOp,
    ScatterOp, Tensor, UnaryOp, ValueId, WindowSpec,
};

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const INTS: [DType; 8] = [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::U32, DType::I64, DType::U64];

/// Every unary function of every float type, in regions of at most ten functions.
pub fn unary_functions() -> Vec<Case> {
    let mut cases = vec![];
    let functions: Vec<UnaryOp> = UnaryOp::ALL.iter().copied().filter(|op| op.domain().holds(DType::F32)).collect();
    for dtype in FLOATS {
        for (n, functions) in functions.chunks(10).enumerate() {
            cases.push(case(&format!("unary_{dtype}_{n}"), Anchor::Map, 16.0, vec![wild(dtype, &[3, 67], 7)], |b| {
                let x = b.input("x", dtype, &d(&["3", "N"]))?;
                functions.iter().map(|&f| b.unary(f, x)).collect()
            }));
        }
    }
    for dtype in INTS {
        cases.push(case(&format!("unary_{dtype}"), Anchor::Map, 1.0, vec![wild(dtype, &[41], 3)], |b| {
            let x = b.input("x", dtype, &d(&["N"]))?;
            [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Not].iter().map(|&f| b.unary(f, x)).collect()
        }));
    }
    cases
}

/// Every function of two values, and comparisons.
pub fn binary_functions() -> Vec<Case> {
    use BinaryOp::*;
    let mut cases = vec![];
    for dtype in FLOATS {
        let inputs = vec![wild(dtype, &[5, 31], 1), wild(dtype, &[5, 31], 2)];
        cases.push(case(&format!("binary_{dtype}"), Anchor::Map, 4.0, inputs, |b| {
            let (x, y) = (b.input("x", dtype, &d(&["5", "N"]))?, b.input("y", dtype, &d(&["5", "N"]))?);
            [Add, Sub, Mul, Div, Mod, Rem, Pow, Min, Max, Atan2].iter().map(|&f| b.binary(f, x, y)).collect()
        }));
        let inputs = vec![wild(dtype, &[155], 1), wild(dtype, &[155], 2)];
        cases.push(case(&format!("compare_{dtype}"), Anchor::Map, 1.0, inputs, |b| {
            let (x, y) = (b.input("x", dtype, &d(&["155"]))?, b.input("y", dtype, &d(&["155"]))?);
            use CompareOp::*;
            let mut all: Vec<ValueId> =
                [Eq, Ne, Lt, Le, Gt, Ge].iter().map(|&f| b.compare(f, x, y)).collect::<Result<_>>()?;
            all.push(b.select(all[2], x, y)?);
            Ok(all)
        }));
    }
    for dtype in INTS {
        let nonzero: Vec<i128> =
            wild(dtype, &[97], 5).to_i128_vec().unwrap().into_iter().map(|v| if v == 0 { 3 } else { v }).collect();
        let divisor = Tensor::from_i128(dtype, &[97], &nonzero).unwrap();
        cases.push(case(&format!("binary_{dtype}"), Anchor::Map, 1.0, vec![wild(dtype, &[97], 4), divisor], |b| {
            let (x, y) = (b.input("x", dtype, &d(&["N"]))?, b.input("y", dtype, &d(&["N"]))?);
            [Add, Sub, Mul, Div, Mod, Rem, Min, Max, And, Or, Xor, Shl, Shr]
                .iter()
                .map(|&f| b.binary(f, x, y))
                .collect()
        }));
        let exponent = ints(dtype, &[64], if dtype.is_signed() { -3 } else { 0 }, 40, 6);
        cases.push(case(&format!("pow_{dtype}"), Anchor::Map, 1.0, vec![wild(dtype, &[64], 8), exponent], |b| {
            let (x, y) = (b.input("x", dtype, &d(&["64"]))?, b.input("y", dtype, &d(&["64"]))?);
            let cubed = b.binary_scalar(Pow, x, 3.0)?;
            Ok(vec![b.binary(Pow, x, y)?, cubed])
        }));
    }
    let inputs = vec![random(DType::Bool, &[50], 1), random(DType::Bool, &[50], 2)];
    cases.push(case("logic", Anchor::Map, 1.0, inputs, |b| {
        let (x, y) = (b.input("x", DType::Bool, &d(&["50"]))?, b.input("y", DType::Bool, &d(&["50"]))?);
        let not = b.unary(UnaryOp::Not, x)?;
        let equal = b.compare(CompareOp::Eq, x, y)?;
        Ok(vec![b.binary(And, x, y)?, b.binary(Or, x, y)?, b.binary(Xor, x, y)?, not, equal, b.select(x, y, not)?])
    }));
    cases
}

/// Casts between all stored types.
pub fn casts() -> Vec<Case> {
    let mut cases = vec![];
    for from in DType::ALL {
        cases.push(case(&format!("cast_{from}"), Anchor::Map, 2.0, vec![wild(from, &[120], 9)], |b| {
            let x = b.input("x", from, &d(&["120"]))?;
            let to = DType::ALL.into_iter().filter(|to| *to != from && to.bits() >= 8);
            to.map(|to| if to == DType::F8E5M2 { b.cast_saturating(x, to) } else { b.cast(x, to) }).collect()
        }));
    }
    cases
}

/// Views one on another, at sizes that do not divide.
pub fn views() -> Vec<Case> {
    let f = DType::F32;
    let mut cases = vec![];
    cases.push(case("split_heads", Anchor::Map, 1.0, vec![random(DType::F16, &[2, 5, 24], 1)], |b| {
        let x = b.input("x", DType::F16, &d(&["B", "S", "24"]))?;
        let x = b.reshape(x, &d(&["B", "S", "3", "8"]))?;
        Ok(vec![b.transpose(x, &[0, 2, 1, 3])?])
    }));
    cases.push(case("merge_heads", Anchor::Map, 1.0, vec![random(f, &[2, 3, 5, 8], 1)], |b| {
        let x = b.input("x", f, &d(&["B", "3", "S", "8"]))?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        Ok(vec![b.reshape(x, &d(&["B*S", "24"]))?])
    }));
    cases.push(case("reshape_across", Anchor::Map, 1.0, vec![wild(f, &[6, 1, 10], 1)], |b| {
        let x = b.input("x", f, &d(&["6", "1", "10"]))?;
        let x = b.reshape(x, &d(&["4", "15", "1"]))?;
        Ok(vec![b.neg(x)?])
    }));
    cases.push(case("bias_gelu", Anchor::Map, 8.0, vec![random(f, &[3, 7, 40], 1), random(f, &[40], 2)], |b| {
        let x = b.input("x", f, &d(&["B", "S", "40"]))?;
        let bias = b.input("bias", f, &d(&["40"]))?;
        let sum = b.plus(x, bias)?;
        Ok(vec![b.gelu(sum)?, sum])
    }));
    cases.push(case("slices", Anchor::Map, 1.0, vec![random(f, &[9, 11], 1)], |b| {
        let x = b.input("x", f, &d(&["9", "N"]))?;
        let back = b.slice(x, &d(&["8", "1"]), &d(&["4", "5"]), &[-2, 2])?;
        let front = b.slice(x, &d(&["1", "N - 5"]), &d(&["4", "5"]), &[1, 1])?;
        Ok(vec![b.sub(back, front)?])
    }));
    cases.push(case("pads", Anchor::Map, 2.0, vec![random(f, &[3, 4], 1)], |b| {
        let x = b.input("x", f, &d(&["3", "N"]))?;
        let e = b.exp(x)?;
        let fill = b.scalar(f, -1.0)?;
        let padded = b.pad_with(e, fill, &d(&["2", "0"]), &d(&["1", "3"]), &[1, 2])?;
        Ok(vec![padded])
    }));
    cases.push(case("heavy_pad", Anchor::Map, 40.0, vec![random(f, &[3, 4], 1), random(f, &[4], 2)], |b| {
        b.symbol("N", 1, 100);
        let x = b.input("x", f, &d(&["3", "N"]))?;
        let y = b.input("y", f, &d(&["N"]))?;
        let (g, s) = (b.gelu(x)?, b.silu(y)?);
        let sum = b.plus(g, s)?;
        let product = b.mul(sum, g)?;
        let t = b.gelu_tanh(product)?;
        b.pad(t, &d(&["1", "1"]), &d(&["1", "2"]), PadMode::Constant(0.5)).map(|v| vec![v])
    }));
    cases.push(case("concat", Anchor::Map, 2.0, vec![random(f, &[2, 3], 1), random(f, &[2, 4], 2)], |b| {
        let (x, y) = (b.input("x", f, &d(&["2", "N"]))?, b.input("y", f, &d(&["2", "M"]))?);
        let n = b.neg(y)?;
        let all = b.concat(&[x, n, y, x], 1)?;
        Ok(vec![b.exp(all)?])
    }));
    cases.push(case(
        "rotate_half",
        Anchor::Map,
        3.0,
        vec![random(DType::BF16, &[2, 3, 16], 1), random(f, &[3, 16], 2)],
        |b| {
            let x = b.input("x", DType::BF16, &d(&["2", "S", "16"]))?;
            let sin = b.input("sin", f, &d(&["S", "16"]))?;
            let low = b.slice_axis(x, 2, &Dim::from(0), &Dim::from(8), 1)?;
            let high = b.slice_axis(x, 2, &Dim::from(8), &Dim::from(8), 1)?;
            let minus = b.neg(high)?;
            let rotated = b.concat(&[minus, low], 2)?;
            let wide = b.cast(rotated, f)?;
            let turned = b.mul(wide, sin)?;
            Ok(vec![b.cast(turned, DType::BF16)?])
        },
    ));
    cases.push(case("causal_mask", Anchor::Map, 1.0, vec![random(f, &[5, 7], 1)], |b| {
        let x = b.input("x", f, &d(&["S", "T"]))?;
        let mask = b.causal_mask(&d(&["S"])[0], &d(&["T"])[0], &d(&["T - S"])[0])?;
        let low = b.scalar(f, f64::NEG_INFINITY)?;
        let low = b.broadcast_to(low, &d(&["S", "T"]))?;
        let n = b.dim_value(&d(&["S*T"])[0], f)?;
        let n = b.broadcast_to(n, &d(&["S", "T"]))?;
        Ok(vec![b.select(mask, x, low)?, n])
    }));
    let inputs = vec![random(DType::F16, &[2, 7, 4], 1), random(DType::F16, &[2, 7, 4], 2), random(DType::F16, &[], 3)];
    cases.push(case("one_long_axis", Anchor::Map, 4.0, inputs, |b| {
        let shape = d(&["B", "7", "4"]);
        let (x, y) = (b.input("x", DType::F16, &shape)?, b.input("y", DType::F16, &shape)?);
        let scale = b.input("scale", DType::F16, &[])?;
        let sum = b.plus(x, y)?;
        let scaled = b.mul(sum, scale)?;
        Ok(vec![b.relu(scaled)?, sum])
    }));
    cases.push(case("rank_zero", Anchor::Map, 2.0, vec![random(f, &[], 1)], |b| {
        let x = b.input("x", f, &[])?;
        Ok(vec![b.exp(x)?, x])
    }));
    cases.push(case("size_one", Anchor::Map, 1.0, vec![random(f, &[1, 6, 1], 1), random(f, &[6, 1, 1], 2)], |b| {
        let x = b.input("x", f, &d(&["1", "6", "1"]))?;
        let y = b.input("y", f, &d(&["6", "1", "1"]))?;
        Ok(vec![b.plus(x, y)?])
    }));
    cases.push(case("empty", Anchor::Map, 1.0, vec![random(f, &[0, 3], 1)], |b| {
        let x = b.input("x", f, &d(&["N", "3"]))?;
        Ok(vec![b.neg(x)?])
    }));
    cases
}

/// Gathers, with negative indices.
pub fn gathers() -> Vec<Case> {
    let f = DType::F32;
    let mut cases = vec![];
    let inputs =
        vec![random(DType::F16, &[11, 16], 1), ints(DType::I64, &[2, 3], -11, 10, 2), random(DType::F16, &[3, 16], 3)];
    cases.push(case("embedding", Anchor::Index, 2.0, inputs, |b| {
        let table = b.input("table", DType::F16, &d(&["11", "16"]))?;
        let ids = b.input("ids", DType::I64, &d(&["B", "S"]))?;
        let places = b.input("places", DType::F16, &d(&["S", "16"]))?;
        let words = b.embedding(table, ids)?;
        Ok(vec![b.plus(words, places)?])
    }));
    let inputs = vec![random(f, &[4, 5, 3], 1), ints(DType::I32, &[2, 2], -5, 4, 2)];
    cases.push(case("gather_middle", Anchor::Index, 1.0, inputs, |b| {
        let x = b.input("x", f, &d(&["4", "N", "3"]))?;
        let ids = b.input("ids", DType::I32, &d(&["2", "2"]))?;
        Ok(vec![b.gather(x, ids, 1)?])
    }));
    let inputs = vec![random(f, &[4, 5], 1), ints(DType::I64, &[3, 5], -4, 3, 2)];
    cases.push(case("gather_elements", Anchor::Index, 1.0, inputs, |b| {
        let x = b.input("x", f, &d(&["4", "5"]))?;
        let ids = b.input("ids", DType::I64, &d(&["N", "5"]))?;
        Ok(vec![b.gather_elements(x, ids, 0)?])
    }));
    let inputs = vec![random(f, &[2, 4, 5, 3], 1), ints(DType::I64, &[2, 6, 2], -4, 3, 2)];
    cases.push(case("gather_nd", Anchor::Index, 1.0, inputs, |b| {
        let x = b.input("x", f, &d(&["2", "4", "5", "3"]))?;
        let ids = b.input("ids", DType::I64, &d(&["2", "N", "2"]))?;
        Ok(vec![b.gather_nd(x, ids, 1)?])
    }));
    cases
}

/// Scatters with repeated indices.
pub fn scatters() -> Vec<Case> {
    let mut cases = vec![];
    for op in [ScatterOp::Set, ScatterOp::Add, ScatterOp::Mul, ScatterOp::Max, ScatterOp::Min] {
        for dtype in [DType::F32, DType::I32, DType::F16, DType::U8] {
            let inputs =
                vec![random(dtype, &[6, 5], 1), ints(DType::I64, &[4, 3], -6, 5, 2), random(dtype, &[4, 3], 3)];
            cases.push(case(&format!("scatter_elements_{op:?}_{dtype}"), Anchor::Index, 6.0, inputs, |b| {
                let x = b.input("x", dtype, &d(&["6", "5"]))?;
                let ids = b.input("ids", DType::I64, &d(&["N", "3"]))?;
                let updates = b.input("updates", dtype, &d(&["N", "3"]))?;
                Ok(vec![b.scatter_elements(x, ids, updates, 0, op)?])
            }));
            let inputs = vec![
                random(dtype, &[4, 3, 5], 1),
                ints(DType::I64, &[2, 4, 2], -3, 2, 2),
                random(dtype, &[2, 4, 5], 3),
            ];
            cases.push(case(&format!("scatter_nd_{op:?}_{dtype}"), Anchor::Index, 8.0, inputs, |b| {
                let x = b.input("x", dtype, &d(&["4", "3", "5"]))?;
                let ids = b.input("ids", DType::I64, &d(&["2", "N", "2"]))?;
                let updates = b.input("updates", dtype, &d(&["2", "N", "5"]))?;
                Ok(vec![b.scatter_nd(x, ids, updates, op)?])
            }));
        }
    }
    // At a place that is counted on from: rows of a cache.
    for (dtype, rows, at) in [(DType::F16, 1, 8), (DType::F32, 4, 2), (DType::BF16, 1, -9), (DType::F32, 9, 0)] {
        let place = Tensor::from_i128(DType::I64, &[], &[at]).unwrap();
        let inputs = vec![random(dtype, &[3, 9, 5], 1), place, random(dtype, &[3, rows, 5], 3)];
        cases.push(case(&format!("update_{rows}_{dtype}"), Anchor::Index, 1.0, inputs, |b| {
            let x = b.input("x", dtype, &d(&["3", "9", "5"]))?;
            let at = b.input("at", DType::I64, &[])?;
            let rows = b.input("rows", dtype, &[3.into(), rows.into(), 5.into()])?;
            Ok(vec![b.update_at(x, 1, at, rows)?])
        }));
    }
    // Places that are one, whatever they are.
    let inputs = vec![random(DType::F32, &[7], 1), ints(DType::I32, &[40], 0, 6, 2), random(DType::F32, &[40], 3)];
    cases.push(case("scatter_many", Anchor::Index, 1.0, inputs, |b| {
        let x = b.input("x", DType::F32, &d(&["7"]))?;
        let ids = b.input("ids", DType::I32, &d(&["N"]))?;
        let updates = b.input("updates", DType::F32, &d(&["N"]))?;
        let half = b.scalar_int(DType::I32, 2)?;
        let ids = b.div(ids, half)?;
        Ok(vec![b.scatter_elements(x, ids, updates, 0, ScatterOp::Set)?])
    }));
    cases
}

/// Softmax, norms and plain reductions over all kinds of rows.
pub fn reductions() -> Vec<Case> {
    let f = DType::F32;
    let mut cases = vec![];
    for (name, axis, shape) in [
        ("softmax_warp", 2, vec![2, 3, 37]),
        ("softmax_block", 2, vec![1, 2, 1500]),
        ("softmax_short", 2, vec![5, 4, 6]),
        ("softmax_middle", 1, vec![2, 9, 5]),
        ("softmax_first", 0, vec![130, 1, 3]),
    ] {
        for dtype in [f, DType::F16, DType::BF16] {
            let dims: Vec<Dim> = shape.iter().map(|&n| Dim::from(n)).collect();
            let inputs = vec![random(dtype, &shape, 4)];
            cases.push(case(&format!("{name}_{dtype}"), Anchor::Reduce, 8.0, inputs, |b| {
                let x = b.input("x", dtype, &dims)?;
                Ok(vec![b.softmax(x, axis)?])
            }));
        }
    }
    cases.push(case("softmax_symbolic", Anchor::Reduce, 8.0, vec![random(f, &[3, 70], 4)], |b| {
        b.symbol("S", 1, 4096);
        let x = b.input("x", f, &d(&["R", "S"]))?;
        Ok(vec![b.softmax(x, 1)?])
    }));
    let inputs = vec![
        random(DType::F16, &[4, 48], 1),
        random(DType::F16, &[4, 48], 2),
        random(DType::F16, &[48], 3),
        random(DType::F16, &[48], 4),
    ];
    cases.push(case("residual_layer_norm", Anchor::Reduce, 8.0, inputs, |b| {
        let x = b.input("x", DType::F16, &d(&["R", "48"]))?;
        let residual = b.input("residual", DType::F16, &d(&["R", "48"]))?;
        let (scale, bias) = (b.input("scale", DType::F16, &d(&["48"]))?, b.input("bias", DType::F16, &d(&["48"]))?);
        let sum = b.plus(x, residual)?;
        let y = b.layer_norm(sum, -1, Some(scale), Some(bias), 1e-5)?;
        Ok(vec![y, sum])
    }));
    cases.push(case("rms_norm", Anchor::Reduce, 16.0, vec![random(f, &[3, 100], 1), random(f, &[100], 3)], |b| {
        let x = b.input("x", f, &d(&["R", "100"]))?;
        let scale = b.input("scale", f, &d(&["100"]))?;
        Ok(vec![b.rms_norm(x, -1, Some(scale), 1e-6)?])
    }));
    for (name, axes, keep) in [
        ("last", vec![3], false),
        ("spatial", vec![2, 3], true),
        ("all", vec![0, 1, 2, 3], false),
        ("channels", vec![1], true),
        ("mixed", vec![0, 2], false),
    ] {
        for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
            cases.push(case(&format!("{op:?}_{name}"), Anchor::Reduce, 60.0, vec![random(f, &[2, 3, 4, 5], 1)], |b| {
                let x = b.input("x", f, &d(&["2", "C", "4", "5"]))?;
                let e = b.exp(x)?;
                let total = b.reduce(op, e, &axes, keep)?;
                Ok(vec![b.plus_scalar(total, 1.0)?])
            }));
        }
    }
    for dtype in [DType::I8, DType::U8, DType::I16, DType::I32, DType::I64, DType::U64, DType::F64, DType::BF16] {
        let inputs = vec![if dtype.is_float() { random(dtype, &[3, 20], 5) } else { wild(dtype, &[3, 20], 5) }];
        cases.push(case(&format!("reduce_{dtype}"), Anchor::Reduce, 40.0, inputs, |b| {
            let x = b.input("x", dtype, &d(&["3", "N"]))?;
            [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod]
                .iter()
                .map(|&op| b.reduce(op, x, &[1], false))
                .collect()
        }));
    }
    cases.push(case("extremes_of_nothing", Anchor::Reduce, 1.0, vec![random(DType::I8, &[3, 0], 5)], |b| {
        let x = b.input("x", DType::I8, &d(&["3", "N"]))?;
        [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod]
            .iter()
            .map(|&op| b.reduce(op, x, &[1], false))
            .collect()
    }));
    cases.push(case("nan_spreads", Anchor::Reduce, 40.0, vec![wild(f, &[9, 12], 5)], |b| {
        let x = b.input("x", f, &d(&["9", "12"]))?;
        let (max, min) = (b.reduce(ReduceOp::Max, x, &[1], true)?, b.reduce(ReduceOp::Min, x, &[1], false)?);
        Ok(vec![max, min, b.softmax(x, 1)?])
    }));
    cases.push(case("logic_of_rows", Anchor::Reduce, 1.0, vec![random(DType::Bool, &[40, 3], 5)], |b| {
        let x = b.input("x", DType::Bool, &d(&["40", "3"]))?;
        Ok(vec![b.reduce(ReduceOp::All, x, &[1], false)?, b.reduce(ReduceOp::Any, x, &[1], false)?])
    }));
    for (axis, shape) in [(1, [4, 33]), (0, [33, 4])] {
        for dtype in [f, DType::I16] {
            cases.push(case(&format!("arg_{axis}_{dtype}"), Anchor::Reduce, 1.0, vec![wild(dtype, &shape, 6)], |b| {
                let x = b.input("x", dtype, &[Dim::from(shape[0]), Dim::from(shape[1])])?;
                let mut all = vec![];
                for op in [ArgOp::Max, ArgOp::Min] {
                    for last in [false, true] {
                        all.push(b.arg_reduce(op, x, axis, last, false)?);
                    }
                }
                Ok(all)
            }));
        }
    }
    cases
}

/// Contractions of every label pattern.
pub fn contractions() -> Vec<Case> {
    let mut cases = vec![];
    for (n, text) in
        ["mk,kn->mn", "bmk,bnk->bmn", "bhmd,bhnd->bhmn", "bmk,kn->bmn", "m,n->mn", "mk,k->m", "k,k->", "kbm,nk->nbm"]
            .into_iter()
            .enumerate()
    {
        for dtype in [DType::F32, DType::F16, DType::I32] {
            let spec = spec(text);
            let extent = |l: &char| match l {
                'b' => 2,
                'h' => 3,
                'm' => 5,
                'n' => 4,
                _ => 7usize,
            };
            let shapes = [&spec.lhs, &spec.rhs].map(|labels| labels.iter().map(extent).collect::<Vec<_>>());
            let dims = shapes.clone().map(|s| s.into_iter().map(Dim::from).collect::<Vec<_>>());
            let inputs = vec![random(dtype, &shapes[0], 1), random(dtype, &shapes[1], 2)];
            cases.push(case(&format!("contract_{n}_{dtype}"), Anchor::Contract, 16.0, inputs, |b| {
                let (x, y) = (b.input("x", dtype, &dims[0])?, b.input("y", dtype, &dims[1])?);
                Ok(vec![b.contract(spec.clone(), x, y, dtype.accumulator(), dtype)?])
            }));
        }
    }
    let f = DType::F32;
    let inputs = vec![random(f, &[2, 3, 8], 1), random(f, &[8, 12], 2), random(f, &[12], 3)];
    cases.push(case("linear_gelu_heads", Anchor::Contract, 40.0, inputs, |b| {
        let (x, w) = (b.input("x", f, &d(&["B", "S", "8"]))?, b.input("w", f, &d(&["8", "12"]))?);
        let bias = b.input("bias", f, &d(&["12"]))?;
        let y = b.contract(spec("bsk,kn->bsn"), x, w, f, f)?;
        let y = b.plus(y, bias)?;
        let y = b.gelu(y)?;
        let y = b.reshape(y, &d(&["B", "S", "3", "4"]))?;
        Ok(vec![b.transpose(y, &[0, 2, 1, 3])?])
    }));
    let inputs = vec![
        random(DType::U8, &[3, 8], 1),
        random(DType::I8, &[8, 6], 2),
        random(f, &[6], 3),
        ints(DType::I8, &[6], 0, 0, 4),
    ];
    cases.push(case("integer_products", Anchor::Contract, 4.0, inputs, |b| {
        let (x, w) = (b.input("x", DType::U8, &d(&["M", "8"]))?, b.input("w", DType::I8, &d(&["8", "6"]))?);
        let scale = b.input("scale", f, &d(&["6"]))?;
        let _ = b.input("unused", DType::I8, &d(&["6"]))?;
        let (x, w) = (b.cast(x, DType::I32)?, b.cast(w, DType::I32)?);
        let y = b.contract(spec("mk,kn->mn"), x, w, DType::I32, DType::I32)?;
        let y = b.cast(y, f)?;
        let scale = b.broadcast_to(scale, &d(&["M", "6"]))?;
        Ok(vec![b.mul(y, scale)?])
    }));
    let inputs = vec![
        random(f, &[3, 8], 1),
        random(DType::I4, &[8, 6], 2),
        random(f, &[2, 6], 3),
        random(DType::I4, &[2, 6], 4),
    ];
    cases.push(case("int4_weights", Anchor::Contract, 16.0, inputs, |b| {
        let (x, w) = (b.input("x", f, &d(&["M", "8"]))?, b.input("w", DType::I4, &d(&["8", "6"]))?);
        let (scale, zero) = (b.input("scale", f, &d(&["2", "6"]))?, b.input("zero", DType::I4, &d(&["2", "6"]))?);
        let w = b.dequantize(w, scale, zero, QuantAxes::Block { axis: 0, block: 4 })?;
        Ok(vec![b.contract(spec("mk,kn->mn"), x, w, f, f)?])
    }));
    cases
}

/// Convolutions with groups, strides, dilations and epilogues.
pub fn convolutions() -> Vec<Case> {
    let f = DType::F32;
    let mut cases = vec![];
    let spec = |stride, pad: (usize, usize), dilation, groups| ConvSpec {
        strides: vec![stride; 2],
        pads: vec![pad; 2],
        dilations: vec![dilation; 2],
        groups,
    };
    for (name, x, w, spec) in [
        ("plain", [1, 3, 9, 8], [4, 3, 3, 3], spec(1, (1, 1), 1, 1)),
        ("strided", [2, 3, 9, 8], [4, 3, 3, 3], spec(2, (0, 1), 1, 1)),
        ("dilated", [1, 2, 9, 9], [3, 2, 3, 3], spec(1, (2, 2), 2, 1)),
        ("grouped", [1, 4, 6, 7], [6, 2, 3, 3], spec(1, (1, 0), 1, 2)),
        ("depthwise", [1, 5, 7, 6], [5, 1, 5, 5], spec(1, (2, 2), 1, 5)),
        ("pointwise", [2, 6, 4, 5], [7, 6, 1, 1], spec(1, (0, 0), 1, 1)),
        ("product", [2, 4, 9, 8], [17, 4, 3, 3], spec(1, (1, 1), 1, 1)),
        ("strided_product", [1, 8, 17, 15], [40, 8, 3, 2], spec(2, (0, 1), 1, 1)),
    ] {
        for dtype in [f, DType::F16] {
            let inputs = vec![random(dtype, &x, 1), random(dtype, &w, 2), random(dtype, &[w[0]], 3)];
            cases.push(case(&format!("conv_{name}_{dtype}"), Anchor::Conv, 40.0, inputs, |b| {
                let x = b.input("x", dtype, &[Dim::from(x[0]), Dim::from(x[1]), Dim::sym("H"), Dim::sym("W")])?;
                let w = b.input("w", dtype, &w.map(Dim::from))?;
                let bias = b.input("bias", dtype, &[b.shape(w)[0].clone()])?;
                b.symbol("H", 4, 1000);
                b.symbol("W", 5, 1000);
                let y = b.conv(x, w, Some(bias), spec.clone())?;
                Ok(vec![b.relu(y)?])
            }));
        }
    }
    // Channels last on both sides, with what is added to the result; the filter's channels are neighbours too.
    for (name, x, w, spec) in [
        ("plain", [1, 3, 9, 8], [4, 3, 3, 3], spec(1, (1, 1), 1, 1)),
        ("product", [2, 8, 9, 7], [24, 8, 3, 3], spec(2, (1, 1), 1, 1)),
        ("depthwise", [1, 5, 7, 6], [5, 1, 5, 5], spec(1, (2, 2), 1, 5)),
        ("pointwise", [2, 6, 5, 3], [7, 6, 1, 1], spec(2, (0, 0), 1, 1)),
    ] {
        for dtype in [f, DType::F16] {
            let last = |s: &[usize]| [s[0], s[2], s[3], s[1]];
            let out = |i: usize| (x[i] + 2 * spec.pads[0].0 - w[i]) / spec.strides[0] + 1;
            let to = [x[0], w[0], out(2), out(3)];
            let inputs = vec![
                random(dtype, &last(&x), 1),
                random(dtype, &last(&w), 2),
                random(dtype, &[w[0]], 3),
                random(dtype, &last(&to), 4),
            ];
            cases.push(case(&format!("conv_last_{name}_{dtype}"), Anchor::Conv, 40.0, inputs, |b| {
                let n = b.symbol("N", 1, 8);
                let mut image = last(&x).map(Dim::from);
                image[0] = n.clone();
                let x = b.input("x", dtype, &image)?;
                let w = b.input("w", dtype, &last(&w).map(Dim::from))?;
                let bias = b.input("bias", dtype, &[b.shape(w)[0].clone()])?;
                let mut around = last(&to).map(Dim::from);
                around[0] = n;
                let around = b.input("around", dtype, &around)?;
                let (x, w) = (b.transpose(x, &[0, 3, 1, 2])?, b.transpose(w, &[0, 3, 1, 2])?);
                let y = b.conv(x, w, Some(bias), spec.clone())?;
                let y = b.transpose(y, &[0, 2, 3, 1])?;
                let y = b.plus(y, around)?;
                Ok(vec![b.relu(y)?])
            }));
        }
    }
    let line = ConvSpec { strides: vec![2], pads: vec![(1, 1)], dilations: vec![1], groups: 1 };
    cases.push(case("conv_1d", Anchor::Conv, 40.0, vec![random(f, &[2, 3, 11], 1), random(f, &[4, 3, 4], 2)], |b| {
        let (x, w) = (b.input("x", f, &d(&["2", "3", "11"]))?, b.input("w", f, &d(&["4", "3", "4"]))?);
        Ok(vec![b.conv(x, w, None, line)?])
    }));
    let cube = ConvSpec { strides: vec![1; 3], pads: vec![(1, 0); 3], dilations: vec![1; 3], groups: 1 };
    let inputs = vec![random(DType::U8, &[1, 2, 4, 3, 4], 1), random(DType::I8, &[2, 2, 2, 2, 2], 2)];
    cases.push(case("conv_3d_integers", Anchor::Conv, 1.0, inputs, |b| {
        let x = b.input("x", DType::U8, &d(&["1", "2", "4", "3", "4"]))?;
        let w = b.input("w", DType::I8, &d(&["2", "2", "2", "2", "2"]))?;
        Ok(vec![b.conv_as(x, w, cube, DType::I32, DType::I32)?])
    }));
    cases
}

/// Poolings.
pub fn windows() -> Vec<Case> {
    let mut cases = vec![];
    for op in [ReduceOp::Max, ReduceOp::Sum, ReduceOp::Min, ReduceOp::Prod] {
        for dtype in [DType::F32, DType::F16, DType::I8] {
            for (n, spec) in [
                WindowSpec {
                    window: vec![3, 3],
                    strides: vec![2, 1],
                    pads: vec![(1, 1), (0, 2)],
                    dilations: vec![1, 1],
                },
                WindowSpec {
                    window: vec![2, 5],
                    strides: vec![1, 2],
                    pads: vec![(0, 0), (0, 0)],
                    dilations: vec![2, 1],
                },
                WindowSpec { window: vec![4], strides: vec![4], pads: vec![(3, 0)], dilations: vec![1] },
            ]
            .into_iter()
            .enumerate()
            {
                let input = if op == ReduceOp::Max { wild(dtype, &[2, 7, 9], 1) } else { random(dtype, &[2, 7, 9], 1) };
                cases.push(case(&format!("window_{op:?}_{dtype}_{n}"), Anchor::Window, 20.0, vec![input], |b| {
                    let x = b.input("x", dtype, &d(&["2", "7", "N"]))?;
                    b.symbol("N", 6, 5000);
                    let y = b.window(op, x, spec)?;
                    Ok(vec![b.neg(y)?])
                }));
            }
        }
    }
    cases
}

/// Running reductions.
pub fn scans() -> Vec<Case> {
    let mut cases = vec![];
    for op in [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min] {
        for (exclusive, reverse, axis) in [(false, false, 1), (true, false, 0), (false, true, 2), (true, true, 1)] {
            for dtype in [DType::F32, DType::F16, DType::I8] {
                let name = format!("scan_{op:?}_{dtype}_{axis}_{}", usize::from(exclusive) * 2 + usize::from(reverse));
                cases.push(case(&name, Anchor::Sink, 20.0, vec![random(dtype, &[3, 5, 4], 1)], |b| {
                    let x = b.input("x", dtype, &d(&["3", "N", "4"]))?;
                    let x = b.neg(x)?;
                    Ok(vec![b.scan(op, x, axis, exclusive, reverse)?])
                }));
            }
        }
    }
    cases
}

/// Top-k, with ties and NaN.
pub fn top_k() -> Vec<Case> {
    let mut cases = vec![];
    for (axis, shape) in [(1, [3, 17]), (0, [17, 3])] {
        for k in [1, 5, 17] {
            for largest in [true, false] {
                for dtype in [DType::F32, DType::U8] {
                    let name = format!("top_{k}_{axis}_{largest}_{dtype}");
                    cases.push(case(&name, Anchor::Alone, 1.0, vec![wild(dtype, &shape, 1)], |b| {
                        let x = b.input("x", dtype, &[Dim::from(shape[0]), Dim::from(shape[1])])?;
                        let (values, places) = b.topk(x, axis, &Dim::from(k), largest)?;
                        Ok(vec![places, values])
                    }));
                }
            }
        }
    }
    cases
}

/// Quantization and back.
pub fn quantization() -> Vec<Case> {
    let f = DType::F32;
    let mut cases = vec![];
    for to in [DType::I8, DType::U8, DType::I16, DType::F8E4M3] {
        for (n, axes) in
            [QuantAxes::Tensor, QuantAxes::Axis(1), QuantAxes::Block { axis: 1, block: 4 }].into_iter().enumerate()
        {
            let shape: &[usize] = match n {
                0 => &[],
                1 => &[10],
                _ => &[3, 3],
            };
            let dims: Vec<Dim> = shape.iter().map(|&n| Dim::from(n)).collect();
            let mut rng = Rng::new(3);
            let scale = Tensor::generate(f, shape, |_| 0.02 + rng.unit() * 0.1).unwrap();
            let inputs = vec![wild(f, &[3, 10], 1), scale, random(to, shape, 4)];
            cases.push(case(&format!("quantize_{to}_{n}"), Anchor::Map, 2.0, inputs, |b| {
                let x = b.input("x", f, &d(&["3", "10"]))?;
                let (scale, zero) = (b.input("scale", f, &dims)?, b.input("zero", to, &dims)?);
                let q = b.quantize(x, scale, zero, axes.clone())?;
                Ok(vec![q, b.dequantize(q, scale, zero, axes)?])
            }));
        }
    }
    cases
}

/// Random chains of elementwise ops and views over symbolic shapes.
pub fn random_maps(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let dtype = [DType::F32, DType::F16, DType::BF16][rng.range(0, 2) as usize];
    let shape: Vec<usize> = (0..rng.range(1, 4)).map(|_| [1, 2, 3, 4, 6, 8][rng.range(0, 5) as usize]).collect();
    let dims: Vec<Dim> = shape
        .iter()
        .enumerate()
        .map(|(i, &n)| if rng.range(0, 2) == 0 { Dim::sym(format!("D{i}")) } else { Dim::from(n) })
        .collect();
    let inputs = vec![wild(dtype, &shape, seed), random(dtype, &shape, seed + 1)];
    case(&format!("random_{seed}"), Anchor::Map, 400.0, inputs, |b: &mut Builder| {
        for d in &dims {
            if d.as_const().is_none() {
                b.symbol(&d.to_string(), 1, 100);
            }
        }
        let mut live = vec![b.input("x", dtype, &dims)?, b.input("y", dtype, &dims)?];
        for _ in 0..rng.range(2, 9) {
            let pick = |rng: &mut Rng, live: &[ValueId]| live[rng.range(0, live.len() as i64 - 1) as usize];
            let x = pick(&mut rng, &live);
            let next = match rng.range(0, 9) {
                0 => {
                    b.unary([UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Floor, UnaryOp::Tanh][rng.range(0, 3) as usize], x)?
                }
                1 | 2 => {
                    let y = pick(&mut rng, &live);
                    let op = [BinaryOp::Min, BinaryOp::Max, BinaryOp::Add][rng.range(0, 2) as usize];
                    if b.shape(x) == b.shape(y) { b.binary(op, x, y)? } else { b.neg(x)? }
                }
                3 => {
                    let mut perm: Vec<usize> = (0..b.rank(x)).collect();
                    perm.rotate_left(rng.range(0, b.rank(x) as i64 - 1) as usize);
                    b.transpose(x, &perm)?
                }
                4 => {
                    let all = b.shape(x).iter().fold(Dim::from(1), |n, d| n * d.clone());
                    let one = Dim::from(1);
                    if rng.range(0, 1) == 0 { b.reshape(x, &[all])? } else { b.reshape(x, &[one, all])? }
                }
                5 => {
                    let axis = rng.range(0, b.rank(x) as i64 - 1);
                    b.flip(x, axis)?
                }
                6 => {
                    let axis = rng.range(0, b.rank(x) as i64 - 1);
                    let y = b.neg(x)?;
                    b.concat(&[x, y, x], axis)?
                }
                7 => {
                    let mut low = vec![Dim::from(0); b.rank(x)];
                    let axis = rng.range(0, b.rank(x) as i64 - 1) as usize;
                    low[axis] = Dim::from(rng.range(0, 2));
                    let high = low.iter().rev().cloned().collect::<Vec<_>>();
                    let interior: Vec<i64> = low.iter().map(|_| rng.range(0, 1)).collect();
                    let fill = b.scalar(dtype, 0.25)?;
                    b.pad_with(x, fill, &low, &high, &interior)?
                }
                8 => {
                    let c = b.compare_scalar(CompareOp::Lt, x, 0.5)?;
                    let y = b.mul_scalar(x, 0.5)?;
                    b.select(c, x, y)?
                }
                _ => {
                    let up = b.unsqueeze(x, &[0])?;
                    let mut wide = b.shape(up).to_vec();
                    wide[0] = Dim::from(2);
                    b.broadcast_to(up, &wide)?
                }
            };
            // Keep what is small enough to run.
            if b.rank(next) <= 6 {
                live.push(next);
            }
        }
        Ok(vec![live[live.len() - 1]])
    })
}
