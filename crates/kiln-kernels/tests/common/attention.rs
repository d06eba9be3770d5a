//! Attention regions: layouts, masks, types, sizes.

use super::{Case, case, d, random, spec, spoilt, wild};
use kiln_fuse::Anchor;
use kiln_graph::{Builder, CompareOp, DType, Dim, Result, Tensor, ValueId};

/// Roundings that may separate two right answers, as for products of the same depth.
const ROUNDINGS: f64 = 64.0;

/// `softmax(score(q k)) v` with the products given as einsums; `score` writes what stands between.
fn stream(
    b: &mut Builder,
    [q, k, v]: [ValueId; 3],
    [first, second]: [&str; 2],
    scores: DType,
    score: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let dtype = b.dtype(v);
    let s = b.contract(spec(first), q, k, DType::F32, scores)?;
    let x = score(b, s)?;
    let x = b.cast(x, DType::F32)?;
    let weights = b.softmax(x, -1)?;
    let weights = b.cast(weights, dtype)?;
    b.contract(spec(second), weights, v, DType::F32, dtype)
}

/// A mask that lets through what is random, nothing in every eighth row, and only the last key in every eighth.
fn holes(shape: &[usize], seed: u64) -> Tensor {
    let keys = shape[shape.len() - 1];
    let random = random(DType::F32, shape, seed).to_f64_vec();
    Tensor::generate(DType::F32, shape, |i| match (i / keys % 8, i % keys) {
        (3, _) => f64::NEG_INFINITY,
        (5, key) if key + 1 < keys => f64::NEG_INFINITY,
        _ if random[i] < -0.5 => f64::NEG_INFINITY,
        _ => random[i],
    })
    .unwrap()
}

pub fn attentions() -> Vec<Case> {
    let mut cases = heads_beside_depth();
    cases.extend(heads_before_rows());
    cases.push(cached());
    cases.push(narrow_positions());
    cases.extend(finite_masks());
    cases.push(grouped(DType::BF16));
    cases.extend(transposed());
    cases.extend([DType::F16, DType::F32].into_iter().flat_map(weighings));
    cases.extend(streams());
    cases.extend(products_of_threads());
    cases.extend([DType::BF16, DType::F32].map(decoding));
    cases
}

/// Attention of f32, which threads multiply: rows that lie as a linear layer leaves them, keys of several tiles under the diagonal, greater heads,
/// groups that share keys.
fn products_of_threads() -> Vec<Case> {
    let masked = beside(DType::F32, 0, [19, 75, 64]);
    let odd = beside(DType::F32, 1, [20, 40, 100]);
    vec![masked, odd, stream_in(DType::F32, 256, true, "nhqd,nhkd->nhqk", 33, 40), grouped(DType::F32)]
}

/// Weights that are exponentials of scores times something of their row, but no plain softmax: by way of the logarithm of the sum, with more in the total,
/// with a value beside that may be the greatest, not divided at all. Some rows have no key that they see.
fn weighings(dtype: DType) -> Vec<Case> {
    type Weigh = fn(&mut Builder, ValueId, ValueId) -> Result<ValueId>;
    fn powers(b: &mut Builder, x: ValueId, peak: ValueId) -> Result<ValueId> {
        let x = b.sub(x, peak)?;
        b.exp(x)
    }
    let by_logarithm: Weigh = |b, x, _| {
        let x = b.log_softmax(x, -1)?;
        b.exp(x)
    };
    let more: Weigh = |b, x, beside| {
        let peak = b.reduce_max(x, &[-1], true)?;
        let e = powers(b, x, peak)?;
        let sum = b.sum(e, &[-1], true)?;
        let other = b.exp(beside)?;
        let sum = b.plus(sum, other)?;
        let p = b.div(e, sum)?;
        b.mul(p, beside)
    };
    let logit: Weigh = |b, x, beside| {
        let peak = b.reduce_max(x, &[-1], true)?;
        let peak = b.binary(kiln_graph::BinaryOp::Max, peak, beside)?;
        let e = powers(b, x, peak)?;
        let sum = b.sum(e, &[-1], true)?;
        let other = powers(b, beside, peak)?;
        let sum = b.plus(sum, other)?;
        let p = b.div(e, sum)?;
        b.mul_scalar(p, 0.5)
    };
    let bare: Weigh = |b, x, _| {
        let peak = b.reduce_max(x, &[-1], true)?;
        powers(b, x, peak)
    };
    let all = [("by_logarithm", by_logarithm), ("more", more), ("logit", logit), ("bare", bare)];
    let [heads, queries, keys, depth] = [2, 37, 75, 24];
    let weighed = all.into_iter().map(|(name, weigh)| {
        let shape = |rows: usize| [heads, rows, depth].map(Dim::from);
        let mask = [heads, queries, keys];
        let data = vec![
            random(dtype, &[heads, queries, depth], 1),
            random(dtype, &[heads, keys, depth], 2),
            random(dtype, &[heads, keys, depth], 3),
            holes(&mask, 4),
            random(DType::F32, &[heads, queries, 1], 5),
        ];
        case(&format!("attention_weighed_{name}_{dtype}"), Anchor::Attention, ROUNDINGS, data, |b| {
            let q = b.input("q", dtype, &shape(queries))?;
            let (k, v) = (b.input("k", dtype, &shape(keys))?, b.input("v", dtype, &shape(keys))?);
            let mask = b.input("mask", DType::F32, &mask.map(Dim::from))?;
            let beside = b.input("beside", DType::F32, &[heads, queries, 1].map(Dim::from))?;
            let x = b.contract(spec("nqd,nkd->nqk"), q, k, DType::F32, DType::F32)?;
            let x = b.mul_scalar(x, 0.2)?;
            let x = b.plus(x, mask)?;
            let p = weigh(b, x, beside)?;
            let p = b.cast(p, dtype)?;
            Ok(vec![b.contract(spec("nqk,nkd->nqd"), p, v, DType::F32, dtype)?])
        })
    });
    weighed.collect()
}

/// Several tiles along both axes, where no more than a factor and the diagonal stands between the products: heads beside rows and before them,
/// small and great, queries as long as keys and at the end of longer keys.
pub fn streams() -> Vec<Case> {
    let all = [(64, true, "nqhd,nkhd->nhqk", 200, 200), (128, false, "nqhd,nkhd->nhqk", 150, 333)];
    let more = [(128, true, "nhqd,nhkd->nhqk", 140, 300), (256, true, "nhqd,nhkd->nhqk", 100, 100)];
    all.into_iter()
        .chain(more)
        .map(|(depth, causal, first, queries, keys)| stream_of(depth, causal, first, queries, keys))
        .collect()
}

pub fn stream_of(depth: usize, causal: bool, first: &str, queries: usize, keys: usize) -> Case {
    stream_in(DType::F16, depth, causal, first, queries, keys)
}

/// [`stream_of`] in a type.
pub fn stream_in(dtype: DType, depth: usize, causal: bool, first: &str, queries: usize, keys: usize) -> Case {
    let beside = first.starts_with("nqhd");
    let shape = |rows: usize| if beside { [1, rows, 2, depth] } else { [1, 2, rows, depth] };
    let data = |rows, seed| random(dtype, &shape(rows), seed);
    let inputs = vec![data(queries, 1), data(keys, 2), data(keys, 3)];
    let of = if dtype == DType::F16 { String::new() } else { format!("_{dtype}") };
    let name = format!("attention_stream{of}_{depth}{}", if causal { "_causal" } else { "" });
    case(&name, Anchor::Attention, ROUNDINGS, inputs, |b| {
        let text = depth.to_string();
        let [q, k, v] = [("q", "M"), ("k", "K"), ("v", "K")].map(|(name, rows)| {
            let shape = if beside { ["N", rows, "2", &text] } else { ["N", "2", rows, &text] };
            b.input(name, dtype, &d(&shape))
        });
        let second = if beside { "nhqk,nkhd->nqhd" } else { "nhqk,nhkd->nqhd" };
        let offset = Dim::sym("K") - Dim::sym("M");
        let y = stream(b, [q?, k?, v?], [first, second], DType::F32, |b, s| {
            let s = b.mul_scalar(s, (depth as f64).powf(-0.5))?;
            if !causal {
                return Ok(s);
            }
            let seen = b.causal_mask(&Dim::sym("M"), &Dim::sym("K"), &offset)?;
            let hidden = b.scalar(DType::F32, f64::NEG_INFINITY)?;
            b.select(seen, s, hidden)
        })?;
        Ok(vec![y])
    })
}

/// `[N, S, H, D]`, as a linear layer leaves it; scaled and masked; the heads put side by side again.
fn heads_beside_depth() -> Vec<Case> {
    let mut cases = vec![];
    for (number, dtype) in [DType::F16, DType::BF16].into_iter().enumerate() {
        for sizes in [[1, 1, 64], [19, 75, 64], [70, 130, 24], [5, 33, 128], [20, 40, 100]] {
            cases.push(beside(dtype, number, sizes));
        }
    }
    cases
}

fn beside(dtype: DType, number: usize, [queries, keys, depth]: [usize; 3]) -> Case {
    let shape = |rows: usize| [2, rows, 3, depth];
    let [q, k, v] = [queries, keys, keys].map(|rows| random(dtype, &shape(rows), (rows + number) as u64));
    let inputs = vec![q, k, v, holes(&[2, 1, queries, keys], 9)];
    let name = format!("attention_beside_{dtype}_{queries}_{depth}");
    case(&name, Anchor::Attention, ROUNDINGS, inputs, |b| {
        let depth = depth.to_string();
        let [q, k, v] = [("q", "M"), ("k", "K"), ("v", "K")]
            .map(|(name, rows)| b.input(name, dtype, &d(&["N", rows, "3", &depth])));
        let mask = b.input("mask", DType::F32, &d(&["N", "1", "M", "K"]))?;
        let y = stream(b, [q?, k?, v?], ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd"], DType::F32, |b, s| {
            let s = b.mul_scalar(s, 0.125)?;
            b.plus(s, mask)
        })?;
        let [n, rows] = [0, 1].map(|axis| b.shape(y)[axis].clone());
        let width = b.shape(y)[2].clone() * b.shape(y)[3].clone();
        Ok(vec![b.reshape(y, &[n, rows, width])?])
    })
}

/// `[N, H, S, D]`; scores rounded to the operands' type; a causal mask from positions, or none.
fn heads_before_rows() -> Vec<Case> {
    let mut cases = vec![];
    for (dtype, causal) in [(DType::F16, true), (DType::BF16, false), (DType::BF16, true)] {
        let data = |seed| random(dtype, &[1, 2, 50, 40], seed);
        let inputs = if causal {
            vec![data(1), data(2), data(3)]
        } else {
            vec![wild(dtype, &[1, 2, 50, 40], 4), data(5), data(6)]
        };
        cases.push(case(
            &format!("attention_before_{dtype}{}", if causal { "_causal" } else { "" }),
            Anchor::Attention,
            ROUNDINGS,
            inputs,
            |b| {
                let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, dtype, &d(&["1", "2", "S", "40"])));
                let y = stream(b, [q?, k?, v?], ["nhqd,nhkd->nhqk", "nhqk,nhkd->nhqd"], dtype, |b, s| {
                    if !causal {
                        return b.tanh(s);
                    }
                    let shape = b.shape(s).to_vec();
                    let [row, col] = [2, 3].map(|axis| b.iota(DType::I32, &shape, axis));
                    let seen = b.compare(CompareOp::Ge, row?, col?)?;
                    let hidden = b.scalar(dtype, f64::NEG_INFINITY)?;
                    b.select(seen, s, hidden)
                })?;
                Ok(vec![b.relu(y)?])
            },
        ));
    }
    cases
}

/// The last queries of a longer sequence, whose keys were computed before: many tiles of keys are seen by no row of a tile.
fn cached() -> Case {
    let data = |rows: usize, seed| random(DType::F16, &[2, rows, 32], seed);
    case("attention_cached_causal", Anchor::Attention, ROUNDINGS, vec![data(150, 1), data(310, 2), data(310, 3)], |b| {
        let [q, k, v] =
            [("q", "M"), ("k", "K"), ("v", "K")].map(|(n, rows)| b.input(n, DType::F16, &d(&["2", rows, "32"])));
        let offset = Dim::sym("K") - Dim::sym("M");
        let y = stream(b, [q?, k?, v?], ["nqd,nkd->nqk", "nqk,nkd->nqd"], DType::F32, |b, s| {
            let seen = b.causal_mask(&Dim::sym("M"), &Dim::sym("K"), &offset)?;
            let hidden = b.scalar(DType::F32, f64::NEG_INFINITY)?;
            b.select(seen, s, hidden)
        })?;
        Ok(vec![y])
    })
}

/// Positions in a type that rounds them: what looks causal lets later keys through, so that no tile may be skipped.
fn narrow_positions() -> Case {
    let data = |rows: usize, seed| random(DType::F16, &[1, rows, 16], seed);
    case(
        "attention_narrow_positions",
        Anchor::Attention,
        ROUNDINGS,
        vec![data(260, 1), data(300, 2), data(300, 3)],
        |b| {
            let [q, k, v] =
                [("q", "M"), ("k", "K"), ("v", "K")].map(|(n, rows)| b.input(n, DType::F16, &d(&["1", rows, "16"])));
            let y = stream(b, [q?, k?, v?], ["nqd,nkd->nqk", "nqk,nkd->nqd"], DType::F32, |b, s| {
                let shape = b.shape(s).to_vec();
                let [row, col] = [1, 2].map(|axis| b.iota(DType::BF16, &shape, axis));
                let seen = b.compare(CompareOp::Le, col?, row?)?;
                let hidden = b.scalar(DType::F32, f64::NEG_INFINITY)?;
                b.select(seen, s, hidden)
            })?;
            Ok(vec![y])
        },
    )
}

/// Masks of great negative numbers, as models have them: padding on the left hides the first tiles, and in one sequence everything; scores of
/// the same magnitude in every tile weigh the same.
fn finite_masks() -> Vec<Case> {
    let hidden = [f64::from(f32::MIN), -1e9, -65504.0, -1e5];
    let masks = hidden.into_iter().flat_map(|hidden| [DType::F16, DType::BF16].map(|dtype| (dtype, hidden)));
    let make = |(dtype, hidden): (DType, f64)| {
        let data = |rows: usize, seed| random(dtype, &[3, rows, 16], seed);
        let seen = |i: usize| [i % 300 >= 260, false, i % 300 < 200][i / 300];
        let mask = Tensor::generate(DType::F32, &[3, 1, 300], |i| if seen(i) { 0.0 } else { hidden }).unwrap();
        let inputs = vec![data(20, 1), data(300, 2), data(300, 3), mask];
        case(&format!("attention_hidden_{dtype}_{hidden:e}"), Anchor::Attention, ROUNDINGS, inputs, |b| {
            let [q, k, v] =
                [("q", "M"), ("k", "K"), ("v", "K")].map(|(n, rows)| b.input(n, dtype, &d(&["3", rows, "16"])));
            let mask = b.input("mask", DType::F32, &d(&["3", "1", "K"]))?;
            let y = stream(b, [q?, k?, v?], ["nqd,nkd->nqk", "nqk,nkd->nqd"], DType::F32, |b, s| b.plus(s, mask))?;
            Ok(vec![y])
        })
    };
    masks.map(make).collect()
}

/// Queries, keys and values as parts of one projection, whose heads follow each other or whose parts are an axis; with fewer heads of keys.
pub fn parts_of_one(dtype: DType, form: &str, rows: usize, depth: usize) -> Case {
    let (heads, shared) = if form == "grouped" { (4, 2) } else { (3, 3) };
    let columns = (heads + 2 * shared) * depth;
    let inputs = vec![random(dtype, &[2, rows, columns], 1)];
    case(&format!("attention_of_parts_{form}_{dtype}_{rows}_{depth}"), Anchor::Attention, ROUNDINGS, inputs, |b| {
        let all = b.input("all", dtype, &["N".into(), Dim::sym("S"), columns.into()])?;
        let [n, s] = [Dim::sym("N"), Dim::sym("S")];
        let mut parts = vec![];
        for (start, count) in [(0, heads), (heads, shared), (heads + shared, shared)] {
            if form == "axis" {
                let apart = b.reshape(all, &[n.clone(), s.clone(), 3.into(), count.into(), depth.into()])?;
                let apart = b.transpose(apart, &[2, 0, 1, 3, 4])?;
                let part = b.slice_axis(apart, 0, &Dim::from(start / count), &Dim::from(1), 1)?;
                parts.push(b.reshape(part, &[n.clone(), s.clone(), count.into(), depth.into()])?);
                continue;
            }
            let part = b.slice_axis(all, 2, &Dim::from(start * depth), &Dim::from(count * depth), 1)?;
            let mut shape = vec![n.clone(), s.clone(), count.into(), depth.into()];
            if count != shared {
                shape.splice(2..3, [Dim::from(shared), Dim::from(count / shared)]);
            }
            parts.push(b.reshape(part, &shape)?);
        }
        let products = match form {
            "grouped" => ["nqhgd,nkhd->nhgqk", "nhgqk,nkhd->nqhgd"],
            _ => ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd"],
        };
        Ok(vec![stream(b, [parts[0], parts[1], parts[2]], products, DType::F32, |b, s| b.mul_scalar(s, 0.125))?])
    })
}

/// The keys and values of a longer cache that begin at a place of it; what is beside them must not be read.
pub fn part_of_a_cache(dtype: DType, [queries, keys, depth]: [usize; 3], start: usize, after: usize) -> Case {
    let cache = |seed| spoilt(&random(dtype, &[2, start + keys + after, 3, depth], seed), 1, start..start + keys);
    let inputs = vec![random(dtype, &[2, queries, 3, depth], 1), cache(2), cache(3)];
    let name = format!("attention_of_a_cache_{dtype}_{queries}_{keys}_{depth}_{start}_{after}");
    case(&name, Anchor::Attention, ROUNDINGS, inputs, |b| {
        let q = b.input("q", dtype, &["N".into(), Dim::sym("M"), 3.into(), depth.into()])?;
        let longer = Dim::sym("K") + Dim::from(start + after);
        let [k, v] = ["k", "v"].map(|name| b.input(name, dtype, &["N".into(), longer.clone(), 3.into(), depth.into()]));
        let part = |b: &mut Builder, x| b.slice_axis(x, 1, &Dim::from(start), &Dim::sym("K"), 1);
        let (k, v) = (part(b, k?)?, part(b, v?)?);
        let products = ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd"];
        Ok(vec![stream(b, [q, k, v], products, DType::F32, |b, s| b.mul_scalar(s, 0.125))?])
    })
}

/// Heads that are parts of longer ones, as positions split them: what is summed over ends within memory.
pub fn part_of_heads(dtype: DType, [depth, longer, start]: [usize; 3]) -> Case {
    let data = |rows, seed| spoilt(&random(dtype, &[2, 3, rows, longer], seed), 3, start..start + depth);
    let inputs = vec![data(37, 1), data(70, 2), data(70, 3)];
    let name = format!("attention_of_part_heads_{dtype}_{depth}_{longer}_{start}");
    case(&name, Anchor::Attention, ROUNDINGS, inputs, |b| {
        let [q, k, v] = [("q", "M"), ("k", "K"), ("v", "K")].map(|(name, rows)| {
            let x = b.input(name, dtype, &["N".into(), 3.into(), Dim::sym(rows), longer.into()])?;
            b.slice_axis(x, 3, &Dim::from(start), &Dim::from(depth), 1)
        });
        let products = ["nhqd,nhkd->nhqk", "nhqk,nhkd->nqhd"];
        Ok(vec![stream(b, [q?, k?, v?], products, DType::F32, |b, s| b.mul_scalar(s, 0.125))?])
    })
}

/// Groups of query heads that share keys and values: their rows are rows of one tile.
fn grouped(dtype: DType) -> Case {
    let inputs =
        vec![random(dtype, &[2, 9, 2, 4, 32], 1), random(dtype, &[2, 33, 2, 32], 2), random(dtype, &[2, 33, 2, 48], 3)];
    case(&format!("attention_grouped_{dtype}"), Anchor::Attention, ROUNDINGS, inputs, |b| {
        let q = b.input("q", dtype, &d(&["N", "M", "2", "4", "32"]))?;
        let k = b.input("k", dtype, &d(&["N", "K", "2", "32"]))?;
        let v = b.input("v", dtype, &d(&["N", "K", "2", "48"]))?;
        let y =
            stream(b, [q, k, v], ["nqhgd,nkhd->nhgqk", "nhgqk,nkhv->nqhgv"], DType::F32, |b, s| b.mul_scalar(s, 0.2))?;
        Ok(vec![y])
    })
}

/// One query a sequence over a longer cache of which no row sees all: heads that share keys are the rows.
pub fn decoding(dtype: DType) -> Case {
    let cache = |seed| random(dtype, &[2, 2, 300, 64], seed);
    let inputs = vec![random(dtype, &[2, 2, 4, 64], 1), cache(2), cache(3), holes(&[2, 1, 1, 300], 4)];
    case(&format!("attention_decoding_{dtype}"), Anchor::Attention, ROUNDINGS, inputs, |b| {
        let q = b.input("q", dtype, &d(&["N", "2", "4", "64"]))?;
        let [k, v] = ["k", "v"].map(|name| b.input(name, dtype, &d(&["N", "2", "K", "64"])));
        let mask = b.input("mask", DType::F32, &d(&["N", "1", "1", "K"]))?;
        let y = stream(b, [q, k?, v?], ["nhgd,nhkd->nhgk", "nhgk,nhkd->nhgd"], DType::F32, |b, s| {
            let s = b.mul_scalar(s, 0.125)?;
            b.plus(s, mask)
        })?;
        Ok(vec![y])
    })
}

/// Every operand with its rows last, and the products' operands exchanged; heads small and great.
fn transposed() -> Vec<Case> {
    [(16, 32), (64, 64), (128, 128)].into_iter().map(|(depth, columns)| rows_last(depth, columns)).collect()
}

fn rows_last(depth: usize, columns: usize) -> Case {
    let inputs = vec![
        random(DType::F16, &[2, depth, 21], 1),
        random(DType::F16, &[2, depth, 70], 2),
        random(DType::F16, &[2, columns, 70], 3),
    ];
    case(&format!("attention_transposed_{depth}"), Anchor::Attention, ROUNDINGS, inputs, |b| {
        let (depth, columns) = (depth.to_string(), columns.to_string());
        let q = b.input("q", DType::F16, &d(&["N", &depth, "M"]))?;
        let k = b.input("k", DType::F16, &d(&["N", &depth, "K"]))?;
        let v = b.input("v", DType::F16, &d(&["N", &columns, "K"]))?;
        let s = b.contract(spec("ndk,ndq->nqk"), k, q, DType::F32, DType::F32)?;
        let weights = b.softmax(s, -1)?;
        let weights = b.cast(weights, DType::F16)?;
        Ok(vec![b.contract(spec("nvk,nqk->nvq"), v, weights, DType::F32, DType::F16)?])
    })
}
