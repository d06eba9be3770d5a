//! What attentions of models do beside weighing values, as a model or an export writes it: one kernel each, right on every kind of device.

use crate::models::{engine_at, home};
use kiln_engine::{Session, Tolerance, open_device};
use kiln_fuse::Anchor;
use kiln_graph::{Attending, BinaryOp, Builder, CompareOp, DType, Dim, Graph, Result, Tensor, ValueId, interpret};

/// Extents of queries and keys: `[B, H, S, D]`, `[B, K, T, D]`, `[B, K, T, E]`.
#[derive(Clone, Copy)]
struct Heads {
    dtype: DType,
    queries: i64,
    keys: i64,
    depth: i64,
    columns: i64,
}

const PLAIN: Heads = Heads { dtype: DType::F16, queries: 2, keys: 2, depth: 64, columns: 64 };

/// A graph of one attention; `make` has the queries, keys and values, and may declare further inputs.
fn graph(name: &str, heads: Heads, make: impl FnOnce(&mut Builder, [ValueId; 3]) -> Result<ValueId>) -> Graph {
    graph_of(name, heads, |b, operands| Ok(vec![make(b, operands)?]))
}

/// [`graph`] of several results.
fn graph_of(name: &str, heads: Heads, make: impl FnOnce(&mut Builder, [ValueId; 3]) -> Result<Vec<ValueId>>) -> Graph {
    let mut b = Builder::new(name);
    let [batch, rows, keys] = [("B", 8), ("S", 1024), ("T", 1024)].map(|(symbol, most)| b.symbol(symbol, 1, most));
    let Heads { dtype, queries, keys: shared, depth, columns } = heads;
    let mut input = |name: &str, heads: i64, rows: &Dim, wide: i64| {
        b.input(name, dtype, &[batch.clone(), heads.into(), rows.clone(), wide.into()]).unwrap()
    };
    let operands =
        [input("q", queries, &rows, depth), input("k", shared, &keys, depth), input("v", shared, &keys, columns)];
    let results = make(&mut b, operands).unwrap_or_else(|e| panic!("{name}: {e}"));
    results.into_iter().enumerate().for_each(|(i, y)| b.output(format!("y{i}"), y));
    b.finish()
}

/// Random queries, keys and values.
fn operands(heads: Heads, [batch, rows, keys]: [usize; 3]) -> Vec<Tensor> {
    let Heads { dtype, queries, keys: shared, depth, columns } = heads;
    let tensor = |heads: i64, rows: usize, wide: i64, seed| {
        Tensor::random(dtype, &[batch, heads as usize, rows, wide as usize], seed).unwrap()
    };
    vec![tensor(queries, rows, depth, 1), tensor(shared, keys, depth, 2), tensor(shared, keys, columns, 3)]
}

/// Runs an engine of the graph on all kinds of devices. With other inputs beside a run's, the reference makes of those what is expected, on GPUs.
fn check(graph: &Graph, dtype: DType, runs: &[(Vec<Tensor>, Option<Vec<Tensor>>)]) {
    let targets: &[&str] = match dtype {
        DType::F16 => &["cpu", "sm_75", "sm_80", "sm_90a"],
        DType::F32 => &["cpu", "sm_75", "sm_90a"],
        _ => &["cpu", "sm_80", "sm_90a"],
    };
    let engine = engine_at(graph, targets, home());
    let names: Vec<String> = graph.inputs.iter().map(|v| graph.input_name(*v)).collect();
    // Products of values of order 1, rounded to a part in 2^24, 2^11 or 2^8 a few times in a row.
    let bound = match dtype {
        DType::F32 => 4e-6,
        DType::F16 => 8e-3,
        _ => 4e-2,
    };
    let reference = |(inputs, other): &(Vec<Tensor>, Option<Vec<Tensor>>)| {
        interpret(graph, other.as_ref().unwrap_or(inputs)).unwrap()
    };
    let expected: Vec<Vec<Tensor>> = runs.iter().map(reference).collect();
    for image in &engine.targets {
        let regions: Vec<&str> = image.plan.regions.iter().map(|r| r.summary.as_str()).collect();
        let streamed = image.plan.regions.iter().filter(|r| r.anchor == Anchor::Attention).count();
        let cpu = image.target == "cpu";
        assert!(cpu || (streamed, regions.len()) == (1, 1), "{} {}: {regions:#?}", graph.name, image.target);
        let device = if cpu { "cpu".to_owned() } else { format!("sim:{}", image.target) };
        let mut session = Session::new(&engine, open_device(&device).unwrap()).unwrap();
        for ((inputs, _), expected) in runs.iter().zip(&expected).filter(|((_, other), _)| !cpu || other.is_none()) {
            session.poison(0xcb).unwrap();
            let named: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(inputs).collect();
            // A finding of any check is an error here.
            let found = session.run(&named).unwrap_or_else(|e| panic!("{} on {device}: {e}", graph.name));
            for (expected, (name, found)) in expected.iter().zip(found) {
                let d = Tolerance { rtol: bound, atol: bound }.compare(expected, &found);
                assert!(d.agrees(), "{} {name} on {device}, {:?}: {d}", graph.name, inputs[0].shape());
            }
        }
    }
}

/// [`check`] of inputs that are as the reference has them.
fn right(graph: &Graph, dtype: DType, runs: Vec<Vec<Tensor>>) {
    check(graph, dtype, &runs.into_iter().map(|inputs| (inputs, None)).collect::<Vec<_>>());
}

/// Sizes within one tile and beyond it, odd, and 1.
const SIZES: [[usize; 3]; 3] = [[2, 37, 53], [1, 1, 1], [1, 150, 131]];

fn ints(shape: &[usize], of: impl Fn(usize) -> i64) -> Tensor {
    Tensor::generate(DType::I64, shape, |i| of(i) as f64).unwrap()
}

/// A bool mask `[S, T]` of the places of queries and keys.
fn places(b: &mut Builder, seen: impl FnOnce(&mut Builder, ValueId, ValueId) -> Result<ValueId>) -> Result<ValueId> {
    let shape = [Dim::sym("S"), Dim::sym("T")];
    let (row, key) = (b.iota(DType::I64, &shape, 0)?, b.iota(DType::I64, &shape, 1)?);
    seen(b, row, key)
}

/// The keys of each sequence end at its length.
#[test]
fn lengths_of_sequences() {
    for dtype in [DType::BF16, DType::F32] {
        let heads = Heads { dtype, ..PLAIN };
        let graph = graph(&format!("lengths_{dtype}"), heads, |b, [q, k, v]| {
            let lengths = b.input("lengths", DType::I64, &[Dim::sym("B")])?;
            let lengths = b.unsqueeze(lengths, &[1, 2, 3])?;
            let key = b.iota(DType::I64, &[1.into(), 1.into(), 1.into(), Dim::sym("T")], 3)?;
            let seen = b.compare(CompareOp::Lt, key, lengths)?;
            b.attention(q, k, v, Some(seen), None, None)
        });
        let run = |sizes: [usize; 3]| {
            let mut inputs = operands(heads, sizes);
            inputs.push(ints(&[sizes[0]], |i| [sizes[2] as i64 / 2 + 1, sizes[2] as i64][i % 2]));
            inputs
        };
        right(&graph, heads.dtype, SIZES.map(run).into());
    }
}

/// Several sequences in one: a query sees the keys of its own segment up to its place.
#[test]
fn packed_sequences() {
    let graph = graph("packed", PLAIN, |b, [q, k, v]| {
        let [own, theirs] = [("own", "S"), ("theirs", "T")]
            .map(|(name, rows)| b.input(name, DType::I32, &[Dim::sym("B"), Dim::sym(rows)]));
        let own = b.unsqueeze(own?, &[1, 3])?;
        let theirs = b.unsqueeze(theirs?, &[1, 2])?;
        let mask = b.compare(CompareOp::Eq, own, theirs)?;
        b.attention(q, k, v, Some(mask), None, Some(&0.into()))
    });
    let run = |[batch, rows, keys]: [usize; 3]| {
        let mut inputs = operands(PLAIN, [batch, rows, keys]);
        let segment = |shape: &[usize]| {
            let of = |i: usize| (i % shape[1] / 20) as f64;
            Tensor::generate(DType::I32, shape, of).unwrap()
        };
        inputs.extend([segment(&[batch, rows]), segment(&[batch, keys])]);
        inputs
    };
    right(&graph, PLAIN.dtype, [[2, 37, 37], [1, 1, 1], [1, 131, 131]].map(run).into());
}

/// Capped scores, causal; every query head with keys of its own, and all with the same ones, of which a logit beside the keys takes a share.
#[test]
fn caps_and_sinks_of_shared_heads() {
    let capped = graph("capped", PLAIN, |b, [q, k, v]| {
        b.attention_with(q, k, v, &Attending { cap: Some(0.5), causal: true, ..Attending::default() })
    });
    right(&capped, PLAIN.dtype, SIZES.map(|sizes| operands(PLAIN, sizes)).into());
    for (name, shared, capped) in [("sinks_of_one", 1, None), ("sinks", 4, None), ("sinks_capped", 2, Some(2.0))] {
        let heads = Heads { queries: 4, keys: shared, depth: 32, columns: 48, ..PLAIN };
        let graph = graph(name, heads, |b, [q, k, v]| {
            let sinks = Some(b.input("sinks", DType::F32, &[4.into()])?);
            b.attention_with(q, k, v, &Attending { sinks, cap: capped, causal: true, ..Attending::default() })
        });
        let run = |sizes: [usize; 3]| {
            let mut inputs = operands(heads, sizes);
            let logits = [-1.0, f64::NEG_INFINITY, 3.0, 0.25];
            inputs.push(Tensor::generate(DType::F32, &[4], |i| logits[i]).unwrap());
            inputs
        };
        right(&graph, heads.dtype, SIZES[..2].iter().map(|sizes| run(*sizes)).collect());
    }
}

/// Keys and values repeated for the heads that share them, as exports write it, with what masks exports have.
#[test]
fn repeated_heads() {
    let spread = |b: &mut Builder, x: ValueId, times: i64| {
        let mut shape = b.shape(x).to_vec();
        let x = b.unsqueeze(x, &[2])?;
        shape.insert(2, times.into());
        let x = b.broadcast_to(x, &shape)?;
        let heads = shape.remove(1) * shape[1].clone();
        shape[1] = heads;
        b.reshape(x, &shape)
    };
    for (name, dtype, shared, masked, causal) in [
        ("repeated_causal", DType::F16, 2, None, true),
        ("repeated_masked", DType::BF16, 2, Some(["1", "1", "S", "T"]), false),
        ("repeated_biased", DType::F32, 2, Some(["1", "4", "S", "T"]), false),
        ("repeated_of_one", DType::F16, 1, Some(["B", "1", "1", "T"]), true),
    ] {
        let heads = Heads { dtype, queries: 4, keys: shared, depth: 32, columns: 32 };
        let graph = graph(name, heads, |b, [q, k, v]| {
            let (k, v) = (spread(b, k, 4 / shared)?, spread(b, v, 4 / shared)?);
            let mask = masked.map(|shape| {
                let shape = shape.map(|d| d.parse().unwrap_or(Dim::sym(d)));
                b.input("mask", dtype, &shape)
            });
            b.attention_with(q, k, v, &Attending { mask: mask.transpose()?, causal, ..Attending::default() })
        });
        let run = |sizes: [usize; 3]| {
            let mut inputs = operands(heads, sizes);
            let extent = |d: &str| match d {
                "B" => sizes[0],
                "S" => sizes[1],
                "T" => sizes[2],
                d => d.parse().unwrap(),
            };
            inputs.extend(masked.map(|shape| Tensor::random(dtype, &shape.map(extent), 9).unwrap()));
            inputs
        };
        right(&graph, dtype, SIZES.map(run).into());
    }
}

/// A penalty that grows with the distance, of a slope for each head.
#[test]
fn slopes_of_distances() {
    let graph = graph("alibi", PLAIN, |b, [q, k, v]| {
        let slopes = b.input("slopes", DType::F32, &[2.into()])?;
        let slopes = b.unsqueeze(slopes, &[1, 2])?;
        let distance = places(b, |b, row, key| b.sub(key, row))?;
        let distance = b.cast(distance, DType::F32)?;
        let bias = b.mul(slopes, distance)?;
        b.attention(q, k, v, Some(bias), None, Some(&0.into()))
    });
    let run = |sizes: [usize; 3]| {
        let mut inputs = operands(PLAIN, sizes);
        inputs.push(Tensor::generate(DType::F32, &[2], |i| [0.5, 0.0625][i]).unwrap());
        inputs
    };
    right(&graph, PLAIN.dtype, SIZES.map(run).into());
}

/// Masks that are inputs, alike for all heads, for all queries, for all of a batch.
#[test]
fn masks_of_every_shape() {
    for (name, dtype, shape) in [
        ("added", DType::F16, ["B", "2", "S", "T"]),
        ("kept", DType::Bool, ["B", "1", "1", "T"]),
        ("added_alike", DType::F32, ["1", "1", "S", "T"]),
    ] {
        let dim = |d: &str| d.parse::<i64>().map_or_else(|_| Dim::sym(d), Dim::from);
        let graph = graph(name, PLAIN, |b, [q, k, v]| {
            let mask = b.input("mask", dtype, &shape.map(dim))?;
            b.attention(q, k, v, Some(mask), None, None)
        });
        let run = |sizes: [usize; 3]| {
            let mut inputs = operands(PLAIN, sizes);
            let of = |d: &str| match d {
                "B" => sizes[0],
                "S" => sizes[1],
                "T" => sizes[2],
                d => d.parse().unwrap(),
            };
            let mask = Tensor::generate(dtype, &shape.map(of), |i| match dtype {
                DType::Bool => f64::from(u8::from(i % 3 != 1)),
                _ if i % 7 == 3 => f64::NEG_INFINITY,
                _ => 0.125 * (i % 5) as f64,
            });
            inputs.push(mask.unwrap());
            inputs
        };
        right(&graph, PLAIN.dtype, SIZES[..2].iter().map(|sizes| run(*sizes)).collect());
    }
}

/// Heads of every extent, queries other than keys, and columns other than the depth.
#[test]
fn heads_of_every_extent() {
    let halves = [(32, 40), (40, 32), (80, 96), (96, 80), (128, 160), (160, 64), (192, 192), (256, 256)];
    let halves = halves.map(|(depth, columns)| (depth, columns, if depth == 40 { DType::F16 } else { DType::BF16 }));
    let singles = [(40, 32), (96, 80), (256, 256)].map(|(depth, columns)| (depth, columns, DType::F32));
    for (depth, columns, dtype) in halves.into_iter().chain(singles) {
        let heads = Heads { dtype, depth, columns, ..PLAIN };
        let graph = graph(&format!("heads_{dtype}_{depth}_{columns}"), heads, |b, [q, k, v]| {
            b.attention(q, k, v, None, None, None)
        });
        right(&graph, dtype, vec![operands(heads, [1, 19, 70])]);
    }
}

/// Masks of positions: what no query sees is not read, for it is not finite, and the rest is right.
#[test]
fn keys_that_no_query_sees_are_not_read() {
    type Mask = fn(&mut Builder, [ValueId; 3]) -> Result<ValueId>;
    let window: Mask = |b, [q, k, v]| {
        let offset = Dim::sym("T") - Dim::sym("S");
        let how = Attending { offset, causal: true, window: Some(30.into()), ..Attending::default() };
        b.attention_with(q, k, v, &how)
    };
    let back: Mask = |b, [q, k, v]| {
        let offset = Dim::sym("T") - Dim::sym("S");
        b.attention_with(q, k, v, &Attending { offset, window: Some(30.into()), ..Attending::default() })
    };
    let causal: Mask = |b, [q, k, v]| b.attention(q, k, v, None, None, Some(&0.into()));
    // As exports have it: differences of places, and what is added is made of them.
    let added: Mask = |b, [q, k, v]| {
        let seen = places(b, |b, row, key| {
            let offset = b.dim_value(&(Dim::sym("T") - Dim::sym("S")), DType::I64)?;
            let row = b.plus(row, offset)?;
            let behind = b.sub(row, key)?;
            let near = b.compare_scalar(CompareOp::Lt, behind, 30.0)?;
            let past = b.compare_scalar(CompareOp::Lt, behind, 0.0)?;
            let past = b.not(past)?;
            b.binary(BinaryOp::And, near, past)
        })?;
        let zero = b.scalar(DType::F32, 0.0)?;
        let hidden = b.scalar(DType::F32, f64::NEG_INFINITY)?;
        let mask = b.select(seen, zero, hidden)?;
        b.attention(q, k, v, Some(mask), None, None)
    };
    // The keys that some query sees of 500, for 20 queries, with a tile to spare.
    let (ends, starts) = (256..500, 0..212);
    for (name, shared, mask, seen, dtype) in [
        ("window", 2, window, ends.clone(), DType::F16),
        ("window_shared", 1, window, ends.clone(), DType::F16),
        ("window_single", 1, window, ends.clone(), DType::F32),
        ("back", 2, back, ends.clone(), DType::F16),
        ("causal", 2, causal, starts.clone(), DType::F16),
        ("causal_shared", 1, causal, starts, DType::F16),
        ("added", 2, added, ends, DType::F16),
    ] {
        let heads = Heads { keys: shared, dtype, ..PLAIN };
        let graph = graph(name, heads, mask);
        let whole = operands(heads, [1, 20, 500]);
        let with = |hidden: f64| {
            let mut inputs = whole.clone();
            for tensor in &mut inputs[1..] {
                let (values, wide) = (tensor.to_f64_vec(), tensor.shape()[3]);
                let of = |i: usize| if seen.contains(&(i / wide % 500)) { values[i] } else { hidden };
                *tensor = Tensor::generate(heads.dtype, tensor.shape(), of).unwrap();
            }
            inputs
        };
        let mut runs = vec![(with(f64::NAN), Some(with(0.0)))];
        runs.extend([[1, 150, 170], [2, 7, 9]].map(|sizes| (operands(heads, sizes), None)));
        check(&graph, heads.dtype, &runs);
    }
}

/// The logarithm of each row's sum beside the result, of plain scores and of masked and capped ones with a logit beside them; for parts of the keys, as
/// where they are put together again.
#[test]
fn logarithms_of_sums() {
    let plain =
        graph_of("lse", PLAIN, |b, [q, k, v]| Ok(b.attention_and_lse(q, k, v, &Attending::default())?.to_vec()));
    right(&plain, PLAIN.dtype, SIZES.map(|sizes| operands(PLAIN, sizes)).into());
    for dtype in [DType::BF16, DType::F32] {
        let heads = Heads { dtype, queries: 4, keys: 2, depth: 32, ..PLAIN };
        let rich = graph_of(&format!("lse_rich_{dtype}"), heads, |b, [q, k, v]| {
            let sinks = Some(b.input("sinks", DType::F32, &[4.into()])?);
            let how = Attending { sinks, causal: true, window: Some(9.into()), cap: Some(2.0), ..Attending::default() };
            Ok(b.attention_and_lse(q, k, v, &how)?.to_vec())
        });
        let run = |sizes: [usize; 3]| {
            let mut inputs = operands(heads, sizes);
            inputs.push(Tensor::generate(DType::F32, &[4], |i| [-1.0, 0.5, 3.0, 0.25][i]).unwrap());
            inputs
        };
        right(&rich, heads.dtype, [[2, 37, 53], [1, 1, 1]].map(run).into());
    }
}
