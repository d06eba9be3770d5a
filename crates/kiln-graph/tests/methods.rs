//! What tensors have as methods, against formulas written out in f64: random values, odd and single extents, symbols.

use kiln_graph::*;

/// A graph of inputs whose extents of 0 are symbols `S0`, `S1`, .. in order, run on random data of the given shapes.
struct Case {
    inputs: Vec<Tensor>,
    graph: Graph,
}

impl Case {
    /// Extents that `symbolic` lists as (input, axis) are symbols.
    fn new(
        inputs: Vec<Tensor>,
        symbolic: &[(usize, usize)],
        f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId>,
    ) -> Result<Case> {
        let mut b = Builder::new("case");
        let mut ids = Vec::new();
        for (i, t) in inputs.iter().enumerate() {
            let mut shape = Vec::new();
            for (a, &n) in t.shape().iter().enumerate() {
                shape.push(match symbolic.contains(&(i, a)) {
                    true => b.symbol(&format!("S{i}_{a}"), 1, 64),
                    false => Dim::from(n),
                });
            }
            ids.push(b.input(&format!("x{i}"), t.dtype(), &shape)?);
        }
        let y = f(&mut b, &ids)?;
        b.output("y", y);
        let graph = b.finish();
        verify(&graph)?;
        Ok(Case { inputs, graph })
    }

    fn run(&self) -> Tensor {
        interpret(&self.graph, &self.inputs).unwrap().remove(0)
    }
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(DType::F64, shape, seed).unwrap()
}

fn close(found: &Tensor, shape: &[usize], expected: &[f64], tolerance: f64) {
    assert_eq!(found.shape(), shape);
    assert_eq!(found.to_f64_vec().len(), expected.len());
    for (i, (f, e)) in found.to_f64_vec().iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: expected {e}, found {f}");
    }
}

/// Every index of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for &n in shape {
        all = all.into_iter().flat_map(|i: Vec<usize>| (0..n).map(move |k| [&i[..], &[k]].concat())).collect();
    }
    all
}

/// The element of a tensor at an index.
fn at(t: &Tensor, index: &[usize]) -> f64 {
    let place = index.iter().zip(t.shape()).fold(0, |p, (i, n)| p * n + i);
    t.to_f64_vec()[place]
}

fn of(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Vec<f64> {
    indices(shape).iter().map(|i| f(i)).collect()
}

#[test]
fn roll_moves_by_any_amount_round_any_extent() {
    for n in [1usize, 2, 5, 7] {
        for shift in [0i64, 1, -1, 3, -4, 7, 12, -23] {
            let x = random(&[2, n, 3], n as u64);
            let turn = |j: usize| (j as i64 - shift).rem_euclid(n as i64) as usize;
            let expected = of(&[2, n, 3], |i| at(&x, &[i[0], turn(i[1]), i[2]]));
            for symbolic in [&[][..], &[(0, 1)]] {
                let case = Case::new(vec![x.clone()], symbolic, |b, v| b.roll(v[0], 1, &Dim::from(shift))).unwrap();
                close(&case.run(), &[2, n, 3], &expected, 0.0);
            }
        }
    }
}

#[test]
fn splits_are_equal_or_as_listed() {
    let x = random(&[2, 6, 3], 1);
    for symbolic in [&[][..], &[(0, 1)]] {
        let second = |b: &mut Builder, v: &[ValueId]| Ok(b.split_evenly(v[0], 1, 3)?[1]);
        let case = Case::new(vec![x.clone()], symbolic, second).unwrap();
        close(&case.run(), &[2, 2, 3], &of(&[2, 2, 3], |i| at(&x, &[i[0], i[1] + 2, i[2]])), 0.0);
    }
    // 7 is no multiple of 3: an error at once, or where the shape is bound.
    let second = |b: &mut Builder, v: &[ValueId]| Ok(b.split_evenly(v[0], 1, 3)?[1]);
    assert!(Case::new(vec![random(&[2, 7, 3], 1)], &[], second).is_err());
    let case = Case::new(vec![random(&[2, 7, 3], 1)], &[(0, 1)], second).unwrap();
    assert!(interpret(&case.graph, &case.inputs).unwrap_err().to_string().contains("found"));
}

#[test]
fn expand_and_repeat_follow_their_lists() {
    let x = random(&[3, 1, 5], 2);
    let dims = |list: &[i64]| list.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>();
    for symbolic in [&[][..], &[(0, 2)]] {
        let case =
            Case::new(vec![x.clone()], symbolic, |b, v| method::expand(b, v[0], &dims(&[2, -1, 4, -1]))).unwrap();
        close(&case.run(), &[2, 3, 4, 5], &of(&[2, 3, 4, 5], |i| at(&x, &[i[1], 0, i[3]])), 0.0);
        for (times, shape) in [(&[2, 3, 2][..], &[6, 3, 10][..]), (&[2], &[3, 1, 10]), (&[2, 1, 1, 1], &[2, 3, 1, 5])] {
            let case = Case::new(vec![x.clone()], symbolic, |b, v| method::repeat(b, v[0], &dims(times))).unwrap();
            let own = |i: &[usize]| {
                let i = &i[i.len() - 3..];
                at(&x, &[i[0] % 3, 0, i[2] % 5])
            };
            close(&case.run(), shape, &of(shape, own), 0.0);
        }
        let case = Case::new(vec![x.clone()], symbolic, |b, v| b.repeat_interleave(v[0], 2, &Dim::from(3))).unwrap();
        close(&case.run(), &[3, 1, 15], &of(&[3, 1, 15], |i| at(&x, &[i[0], 0, i[2] / 3])), 0.0);
    }
    let wrong = Case::new(vec![x], &[], |b, v| method::expand(b, v[0], &dims(&[-1, 3, 4, 5])));
    assert!(wrong.err().unwrap().to_string().contains("keeps an extent"));
}

#[test]
fn spread_has_a_correction_and_rounds_once() {
    for (shape, correction) in [([4, 7], 0), ([4, 7], 1), ([1, 3], 0)] {
        let x = random(&shape, 3);
        let mean = |r: usize| (0..shape[1]).map(|c| at(&x, &[r, c])).sum::<f64>() / shape[1] as f64;
        let var = |r: usize| {
            let squares = (0..shape[1]).map(|c| (at(&x, &[r, c]) - mean(r)).powi(2)).sum::<f64>();
            squares / (shape[1] - correction as usize) as f64
        };
        for symbolic in [&[][..], &[(0, 1)]] {
            let case = Case::new(vec![x.clone()], symbolic, |b, v| b.std(v[0], &[1], correction, false)).unwrap();
            close(&case.run(), &[shape[0]], &of(&shape[..1], |i| var(i[0]).sqrt()), 1e-12);
        }
    }
    // In f16 the result is the root of the wide variance, rounded once.
    let x = Tensor::random(DType::F16, &[3, 33], 5).unwrap();
    let case = Case::new(vec![x.clone()], &[], |b, v| b.std(v[0], &[1], 1, true)).unwrap();
    let expected = of(&[3, 1], |i| {
        let row: Vec<f64> = (0..33).map(|c| at(&x, &[i[0], c])).collect();
        let mean = row.iter().sum::<f64>() / 33.0;
        (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 32.0).sqrt()
    });
    close(&case.run(), &[3, 1], &expected, 2f64.powi(-11) * 1.01);
}

#[test]
fn padding_is_per_side_of_the_trailing_axes() {
    let x = random(&[2, 4, 5], 4);
    let pads = [(Dim::from(1), Dim::from(3)), (Dim::from(2), Dim::from(0))];
    for (mode, source) in [
        ("constant", (|i, n| usize::try_from(i).ok().filter(|i| i < &n)) as fn(i64, usize) -> Option<usize>),
        ("reflect", |i, n| Some((if i < 0 { -i } else { i.min(2 * (n as i64 - 1) - i) }) as usize)),
        ("edge", |i, n| Some(i.clamp(0, n as i64 - 1) as usize)),
        ("wrap", |i, n| Some(i.rem_euclid(n as i64) as usize)),
    ] {
        let expected = of(&[2, 8, 7], |i| match (source(i[1] as i64 - 1, 4), source(i[2] as i64 - 2, 5)) {
            (Some(r), Some(c)) => at(&x, &[i[0], r, c]),
            _ => 7.5,
        });
        for symbolic in [&[][..], &[(0, 0), (0, 1), (0, 2)]] {
            let case = Case::new(vec![x.clone()], symbolic, |b, v| method::pad(b, v[0], &pads, mode, 7.5)).unwrap();
            close(&case.run(), &[2, 8, 7], &expected, 0.0);
        }
    }
    let wrong = Case::new(vec![x], &[], |b, v| method::pad(b, v[0], &pads, "mirror", 0.0)).err().unwrap().to_string();
    assert!(wrong.contains("expected one of constant, reflect, edge, wrap, found `mirror`"), "{wrong}");
}

#[test]
fn scatters_write_rows_and_updates_write_runs() {
    let (x, rows) = (random(&[2, 5, 3], 6), random(&[2, 2, 3], 7));
    let places = Tensor::from_slice(&[2], &[3i64, 0]).unwrap();
    for (reduce, f) in
        [("set", (|_, u| u) as fn(f64, f64) -> f64), ("add", |a, u| a + u), ("mul", |a, u| a * u), ("max", f64::max)]
    {
        let expected = of(&[2, 5, 3], |i| match [3, 0].iter().position(|&p| p == i[1]) {
            Some(n) => f(at(&x, i), at(&rows, &[i[0], n, i[2]])),
            None => at(&x, i),
        });
        for symbolic in [&[][..], &[(0, 1)]] {
            let inputs = vec![x.clone(), places.clone(), rows.clone()];
            let case = Case::new(inputs, symbolic, |b, v| method::scatter(b, v[0], v[1], v[2], 1, reduce)).unwrap();
            close(&case.run(), &[2, 5, 3], &expected, 0.0);
        }
    }

    let written = |start: fn(usize) -> usize| {
        of(&[2, 5, 3], |i| match i[1].checked_sub(start(i[0])) {
            Some(n) if n < 2 => at(&rows, &[i[0], n, i[2]]),
            _ => at(&x, i),
        })
    };
    // At a dim, at a tensor, and at one for each index of the leading axis.
    let dim = |b: &mut Builder, v: &[ValueId]| {
        let at = b.shape(v[0])[1].clone() - Dim::from(2);
        b.update(v[0], 1, &at, v[1])
    };
    let case = Case::new(vec![x.clone(), rows.clone()], &[(0, 1)], dim).unwrap();
    close(&case.run(), &[2, 5, 3], &written(|_| 3), 0.0);
    let one = Tensor::scalar(2i32);
    let case = Case::new(vec![x.clone(), one, rows.clone()], &[], |b, v| b.update_at(v[0], 1, v[1], v[2])).unwrap();
    close(&case.run(), &[2, 5, 3], &written(|_| 2), 0.0);
    let each = Tensor::from_slice(&[2], &[3i64, 1]).unwrap();
    let case = Case::new(vec![x.clone(), each, rows.clone()], &[], |b, v| b.update_at(v[0], 1, v[1], v[2])).unwrap();
    close(&case.run(), &[2, 5, 3], &written(|i| [3, 1][i]), 0.0);

    // Outside: at once, when shapes are bound, when it runs.
    let beyond = |b: &mut Builder, v: &[ValueId]| b.update(v[0], 1, &Dim::from(4), v[1]);
    let message = Case::new(vec![x.clone(), rows.clone()], &[], beyond).err().unwrap().to_string();
    assert!(message.contains("lie outside axis 1 of extent 5"), "{message}");
    let case = Case::new(vec![x.clone(), rows.clone()], &[(0, 1)], beyond).unwrap();
    let message = interpret(&case.graph, &case.inputs).unwrap_err().to_string();
    assert!(message.contains("written to axis 1") && message.contains("found 6 and 5"), "{message}");
    let far = Tensor::scalar(4i64);
    let case = Case::new(vec![x, far, rows], &[], |b, v| b.update_at(v[0], 1, v[1], v[2])).unwrap();
    assert!(interpret(&case.graph, &case.inputs).is_err());
}

#[test]
fn rope_turns_pairs_of_either_layout() {
    for (heads, len, size, turned) in [(2, 3, 8, 8), (1, 1, 6, 4), (3, 5, 2, 2)] {
        let x = random(&[2, heads, len, size], 8);
        let (cos, sin) = (random(&[len, turned / 2], 9), random(&[len, turned / 2], 10));
        for interleaved in [false, true] {
            let expected = of(&[2, heads, len, size], |i| {
                let d = i[3];
                if d >= turned {
                    return at(&x, i);
                }
                let half = turned / 2;
                let (pair, second) = if interleaved { (d / 2, d % 2 == 1) } else { (d % half, d >= half) };
                let places = if interleaved { [2 * pair, 2 * pair + 1] } else { [pair, pair + half] };
                let [a, b] = places.map(|d| at(&x, &[i[0], i[1], i[2], d]));
                let (c, s) = (at(&cos, &[i[2], pair]), at(&sin, &[i[2], pair]));
                if second { s * a + c * b } else { c * a - s * b }
            });
            for symbolic in [&[][..], &[(0, 0), (0, 1)]] {
                let dim = (turned != size).then(|| Dim::from(turned));
                let inputs = vec![x.clone(), cos.clone(), sin.clone()];
                let case =
                    Case::new(inputs, symbolic, |b, v| method::rope(b, v[0], v[1], v[2], interleaved, dim)).unwrap();
                close(&case.run(), &[2, heads, len, size], &expected, 1e-12);
            }
        }
    }
    let odd = vec![random(&[2, 5], 1), random(&[2, 2], 2), random(&[2, 2], 3)];
    let message = Case::new(odd, &[], |b, v| b.rope(v[0], v[1], v[2], false, None)).err().unwrap().to_string();
    assert!(message.contains("twice the pairs"), "{message}");
}

/// Attention by its definition: `mask` is added, `seen` hides.
fn attended(
    [q, k, v]: [&Tensor; 3],
    added: &dyn Fn(usize, usize, usize, usize) -> f64,
    seen: &dyn Fn(usize, usize) -> bool,
) -> Vec<f64> {
    let (heads, groups) = (q.shape()[1], q.shape()[1] / k.shape()[1]);
    let (size, keys) = (q.shape()[3], k.shape()[2]);
    of(&[q.shape()[0], heads, q.shape()[2], v.shape()[3]], |i| {
        let (b, h, s, shared) = (i[0], i[1], i[2], i[1] / groups);
        let score = |t: usize| {
            let dot: f64 = (0..size).map(|d| at(q, &[b, h, s, d]) * at(k, &[b, shared, t, d])).sum();
            if seen(s, t) { dot / (size as f64).sqrt() + added(b, h, s, t) } else { f64::NEG_INFINITY }
        };
        let e: Vec<f64> = (0..keys).map(|t| score(t).exp()).collect();
        let total: f64 = e.iter().sum();
        (0..keys).map(|t| e[t] / total * at(v, &[b, shared, t, i[3]])).sum()
    })
}

#[test]
fn attention_shares_key_heads_without_copies() {
    for (heads, kv, s, t) in [(4, 2, 3, 5), (6, 1, 1, 4), (3, 3, 5, 5), (4, 2, 1, 1)] {
        let (q, k) = (random(&[2, heads, s, 4], 11), random(&[2, kv, t, 4], 12));
        let v = random(&[2, kv, t, 3], 13);
        let offset = t as i64 - s as i64;
        for mask in
            [None, Some(vec![s, t]), Some(vec![2, 1, 1, t]), Some(vec![2, heads, s, t]), Some(vec![heads, 1, t])]
        {
            let mask = mask.map(|shape| random(&shape, 14));
            let added = |b: usize, h: usize, i: usize, j: usize| {
                mask.as_ref().map_or(0.0, |m| {
                    let index = [b, h, i, j];
                    let tail = &index[4 - m.shape().len()..];
                    at(m, &tail.iter().zip(m.shape()).map(|(i, n)| i % n).collect::<Vec<_>>())
                })
            };
            for causal in [false, true] {
                let expected = attended([&q, &k, &v], &added, &|i, j| !causal || j as i64 <= i as i64 + offset);
                for symbolic in [&[][..], &[(0, 0), (0, 2)]] {
                    let mut inputs = vec![q.clone(), k.clone(), v.clone()];
                    inputs.extend(mask.clone());
                    let case = Case::new(inputs, symbolic, |b, v| {
                        let mask = v.get(3).copied();
                        method::attention(b, v[0], v[1], v[2], mask, None, causal, &Dim::from(offset), None, None, None)
                    })
                    .unwrap();
                    close(&case.run(), &[2, heads, s, 3], &expected, 1e-12);
                    // Keys and values go into the products as they are.
                    let operands: Vec<_> = case.graph.nodes.iter().filter(|n| n.op.name() == "contract").collect();
                    let views = |id: ValueId| {
                        let mut id = id;
                        while let Op::Permute { .. } | Op::Reshape { .. } = case.graph.producer(id).op {
                            id = case.graph.producer(id).inputs[0];
                        }
                        id
                    };
                    let right: Vec<ValueId> = operands.iter().map(|n| views(n.inputs[1])).collect();
                    if heads != kv {
                        assert_eq!(right, [case.graph.inputs[1], case.graph.inputs[2]]);
                    }
                }
            }
        }
    }
    let uneven = vec![random(&[2, 5, 3, 4], 1), random(&[2, 2, 3, 4], 2), random(&[2, 2, 3, 4], 3)];
    let message = Case::new(uneven, &[], |b, v| b.attention(v[0], v[1], v[2], None, None, None));
    assert!(message.err().unwrap().to_string().contains("5 query heads, which share 2 key heads evenly"));
}

#[test]
fn quantization_is_of_the_whole_an_axis_or_blocks() {
    let x = random(&[3, 4, 5], 15);
    let scale = |shape: &[usize]| {
        let values: Vec<f64> = random(shape, 16).to_f64_vec().iter().map(|v| 0.01 + v.abs() / 50.0).collect();
        Tensor::from_f64(DType::F64, shape, &values).unwrap()
    };
    for (shape, axis, block, place) in [
        (vec![], 1, 0, (|_: &[usize]| vec![]) as fn(&[usize]) -> Vec<usize>),
        (vec![4], 1, 0, |i| vec![i[1]]),
        (vec![5], -1, 0, |i| vec![i[2]]),
        (vec![3, 2, 5], 1, 3, |i| vec![i[0], i[1] / 3, i[2]]),
    ] {
        let scale = scale(&shape);
        let expected = of(&[3, 4, 5], |i| {
            let s = at(&scale, &place(i));
            (at(&x, i) / s).round_ties_even().clamp(-128.0, 127.0) * s
        });
        let case = Case::new(vec![x.clone(), scale.clone()], &[(0, 0)][..usize::from(block == 0)], |b, v| {
            let q = method::quantize(b, v[0], v[1], None, axis, block, Some(DType::I8))?;
            method::dequantize(b, q, v[1], None, axis, block)
        })
        .unwrap();
        close(&case.run(), &[3, 4, 5], &expected, 1e-6);
    }
}

#[test]
fn convolutions_and_pools_take_one_number_or_one_an_axis() {
    let (x, w, bias) = (random(&[2, 4, 7, 6], 17), random(&[6, 2, 3, 2], 18), random(&[6], 19));
    let (strides, pads, dilations) = ([2, 1], [(2, 0), (1, 3)], [2, 1]);
    let extent =
        |n: usize, a: usize, taps: usize| (n + pads[a].0 + pads[a].1 - dilations[a] * (taps - 1) - 1) / strides[a] + 1;
    let shape = [2, 6, extent(7, 0, 3), extent(6, 1, 2)];
    let pixel = |n: usize, c: usize, i: i64, j: i64| match (usize::try_from(i), usize::try_from(j)) {
        (Ok(i), Ok(j)) if i < 7 && j < 6 => at(&x, &[n, c, i, j]),
        _ => 0.0,
    };
    let place = |o: usize, tap: usize, a: usize| (o * strides[a] + tap * dilations[a]) as i64 - pads[a].0 as i64;
    let expected = of(&shape, |i| {
        let taps = indices(&[2, 3, 2]);
        let sum: f64 = taps
            .iter()
            .map(|t| {
                let c = i[1] / 3 * 2 + t[0];
                at(&w, &[i[1], t[0], t[1], t[2]]) * pixel(i[0], c, place(i[2], t[1], 0), place(i[3], t[2], 1))
            })
            .sum();
        sum + at(&bias, &[i[1]])
    });
    for symbolic in [&[][..], &[(0, 0), (0, 2), (0, 3)]] {
        let case = Case::new(vec![x.clone(), w.clone(), bias.clone()], symbolic, |b, v| {
            method::conv(b, v[0], v[1], &strides, &pads, &dilations, 2, Some(v[2]))
        })
        .unwrap();
        close(&case.run(), &shape, &expected, 1e-12);
    }
    let message =
        Case::new(vec![x.clone(), w], &[], |b, v| method::conv(b, v[0], v[1], &[1, 1, 1], &[(0, 0)], &[1], 2, None));
    assert!(message.err().unwrap().to_string().contains("`strides` has 3 entries for 2 spatial axes"));

    // Windows of 3 by 3 at every second place of 7 by 6, padded by 1: ceil keeps a fourth column that hangs over.
    let seen = |o: usize, n: usize, ceil: bool| {
        let start = 2 * o as i64 - 1;
        let (low, high) = (start.max(0), (start + 3).min(n as i64));
        // What counts as padding ends at the padding that is asked for, not where ceil hangs over.
        (low, high, if ceil { (start + 3).min(n as i64 + 1) - start } else { 3 })
    };
    for ceil in [false, true] {
        let shape = [2, 4, 4, if ceil { 4 } else { 3 }];
        for include in [false, true] {
            let expected = of(&shape, |i| {
                let ((r0, r1, rows), (c0, c1, columns)) = (seen(i[2], 7, ceil), seen(i[3], 6, ceil));
                let all = (r0..r1).flat_map(|r| (c0..c1).map(move |c| (r as usize, c as usize)));
                let sum: f64 = all.map(|(r, c)| at(&x, &[i[0], i[1], r, c])).sum();
                sum / if include { rows * columns } else { (r1 - r0) * (c1 - c0) } as f64
            });
            let case = Case::new(vec![x.clone()], &[(0, 0)], |b, v| {
                method::avg_pool(b, v[0], &[3], &[2], &[(1, 1)], &[1], ceil, include)
            })
            .unwrap();
            close(&case.run(), &shape, &expected, 1e-12);
        }
        let case = Case::new(vec![x.clone()], &[], |b, v| method::max_pool(b, v[0], &[3], &[2], &[(1, 1)], &[1], ceil))
            .unwrap();
        let expected = of(&shape, |i| {
            let ((r0, r1, _), (c0, c1, _)) = (seen(i[2], 7, ceil), seen(i[3], 6, ceil));
            let all = (r0..r1).flat_map(|r| (c0..c1).map(move |c| (r as usize, c as usize)));
            all.map(|(r, c)| at(&x, &[i[0], i[1], r, c])).fold(f64::NEG_INFINITY, f64::max)
        });
        close(&case.run(), &shape, &expected, 0.0);
    }
    // No strides: those of the window.
    let case = Case::new(vec![x], &[], |b, v| method::max_pool(b, v[0], &[3, 2], &[], &[(0, 0)], &[1], false)).unwrap();
    assert_eq!(case.run().shape(), [2, 4, 2, 3]);
}

#[test]
fn a_transposed_convolution_spreads_each_element() {
    let (x, w, bias) = (random(&[2, 4, 3, 2], 20), random(&[4, 3, 3, 2], 21), random(&[6], 22));
    let (strides, pads, extra, dilations) = ([2, 3], [(1, 0), (0, 1)], [1, 2], [1, 2]);
    let extent = |n: usize, a: usize, taps: usize| {
        (n - 1) * strides[a] + dilations[a] * (taps - 1) + 1 + extra[a] - pads[a].0 - pads[a].1
    };
    let shape = [2, 6, extent(3, 0, 3), extent(2, 1, 2)];
    let mut expected = of(&shape, |i| at(&bias, &[i[1]]));
    for i in indices(&[2, 4, 3, 2]) {
        for t in indices(&[3, 3, 2]) {
            let o = i[1] / 2 * 3 + t[0];
            let place = |a: usize, n: usize, tap: usize| (n * strides[a] + tap * dilations[a]).checked_sub(pads[a].0);
            if let (Some(r), Some(c)) = (place(0, i[2], t[1]), place(1, i[3], t[2]))
                && r < shape[2]
                && c < shape[3]
            {
                expected[((i[0] * 6 + o) * shape[2] + r) * shape[3] + c] +=
                    at(&x, &i) * at(&w, &[i[1], t[0], t[1], t[2]]);
            }
        }
    }
    for symbolic in [&[][..], &[(0, 0), (0, 2)]] {
        let case = Case::new(vec![x.clone(), w.clone(), bias.clone()], symbolic, |b, v| {
            method::conv_transpose(b, v[0], v[1], &strides, &pads, &extra, &dilations, 2, Some(v[2]))
        })
        .unwrap();
        close(&case.run(), &shape, &expected, 1e-12);
    }
}

#[test]
fn resizing_interpolates_by_sizes_and_scales() {
    let x = random(&[2, 5, 4], 23);
    let linear = |place: f64, n: usize| {
        let low = place.floor();
        let clamp = |p: f64| p.clamp(0.0, n as f64 - 1.0) as usize;
        [(clamp(low), 1.0 - (place - low)), (clamp(low + 1.0), place - low)].to_vec()
    };
    let cubic = |place: f64, n: usize| {
        let a = -0.75;
        let weight = |d: f64| match d.abs() {
            d if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            d if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            _ => 0.0,
        };
        let low = place.floor();
        let tap = |o: i64| low + o as f64;
        (-1..3).map(|o| (tap(o).clamp(0.0, n as f64 - 1.0) as usize, weight(place - tap(o)))).collect::<Vec<_>>()
    };
    let nearest = |place: f64, n: usize| vec![((place - 0.5).ceil().clamp(0.0, n as f64 - 1.0) as usize, 1.0)];
    type Taps<'a> = &'a dyn Fn(f64, usize) -> Vec<(usize, f64)>;
    for (mode, taps) in [("linear", &linear as Taps), ("cubic", &cubic), ("nearest", &nearest)] {
        for (rows, columns) in [(8, 3), (5, 9), (1, 4)] {
            let (ry, rx) = (rows as f64 / 5.0, columns as f64 / 4.0);
            let expected = of(&[2, rows, columns], |i| {
                let (y, c) = ((i[1] as f64 + 0.5) / ry - 0.5, (i[2] as f64 + 0.5) / rx - 0.5);
                let mut sum = 0.0;
                for (r, wr) in taps(y, 5) {
                    for (c, wc) in taps(c, 4) {
                        sum += wr * wc * at(&x, &[i[0], r, c]);
                    }
                }
                sum
            });
            let sizes = [Dim::from(rows), Dim::from(columns)];
            for symbolic in [&[][..], &[(0, 1), (0, 2)]] {
                let case = Case::new(vec![x.clone()], symbolic, |b, v| {
                    method::resize(b, v[0], &sizes, &[], mode, "half_pixel", "round_prefer_floor", false)
                })
                .unwrap();
                // Places are computed in f32, as ONNX has them.
                close(&case.run(), &[2, rows, columns], &expected, 1e-5);
            }
        }
    }
    let case = Case::new(vec![x.clone()], &[(0, 1)], |b, v| {
        method::resize(b, v[0], &[], &[2.0, 3.0], "nearest", "asymmetric", "floor", false)
    })
    .unwrap();
    close(&case.run(), &[2, 10, 12], &of(&[2, 10, 12], |i| at(&x, &[i[0], i[1] / 2, i[2] / 3])), 0.0);
    let neither =
        Case::new(vec![x], &[], |b, v| method::resize(b, v[0], &[], &[], "linear", "half_pixel", "floor", false));
    assert!(neither.err().unwrap().to_string().contains("give `sizes` or `scales`"));
}

#[test]
fn what_is_known_to_be_a_multiple_divides_and_is_checked_when_bound() {
    let mut b = Builder::new("multiples");
    let s = b.symbol("S", 1, 1 << 20);
    let x = b.input("x", DType::F32, &[s.clone(), Dim::from(3)]).unwrap();
    b.multiple(&s, &Dim::from(4), "S % 4 == 0").unwrap();
    b.multiple(&s, &Dim::from(6), "S % 6 == 0").unwrap();
    let (four, twelve) = (Dim::from(4), Dim::from(12));
    let y = b.reshape(x, &[s.floor_div(&twelve), twelve.clone(), Dim::from(3)]).unwrap();
    let y = b.reshape(y, &[s.floor_div(&four) * four.clone(), Dim::from(3)]).unwrap();
    let parts = b.split_evenly(y, 0, 3).unwrap();
    let y = b.concat(&parts, 0).unwrap();
    let y = b.plus(y, x).unwrap();
    b.output("y", y);
    // Nothing but the two facts is left to be checked, and text keeps them.
    let graph = b.finish();
    assert_eq!(graph.constraints.len(), 2, "{:?}", graph.constraints);
    verify(&graph).unwrap();
    let again: Graph = graph.to_string().parse().unwrap();
    assert_eq!(again.constraints, graph.constraints);

    let data = |n: usize| Tensor::random(DType::F32, &[n, 3], 1).unwrap();
    let x = data(24);
    let doubled: Vec<f64> = x.to_f64_vec().iter().map(|v| 2.0 * v).collect();
    assert_eq!(interpret(&graph, &[x]).unwrap()[0].to_f64_vec(), doubled);
    let error = interpret(&graph, &[data(10)]).unwrap_err().to_string();
    assert!(error.contains("S % 4 == 0") && error.contains("needs `S` to be a multiple of 4, found 10"), "{error}");
    assert!(interpret(&graph, &[data(8)]).unwrap_err().to_string().contains("multiple of 6"));

    // Without the fact the same is left to the run.
    let mut b = Builder::new("open");
    let s = b.symbol("S", 1, 64);
    let x = b.input("x", DType::F32, std::slice::from_ref(&s)).unwrap();
    b.reshape(x, &[s.floor_div(&four), four.clone()]).unwrap();
    assert_eq!(b.graph().constraints.len(), 1);
    assert!(b.multiple(&Dim::from(6), &four, "six").unwrap_err().to_string().contains("found 6"));
    assert!(b.multiple(&s, &Dim::from(0), "none").is_err());
}
