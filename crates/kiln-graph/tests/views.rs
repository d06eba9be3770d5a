//! Data movement of the builder and the interpreter against indexing written out.

use kiln_graph::*;

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

fn run_on(inputs: &[Tensor], f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId>) -> Tensor {
    let mut b = Builder::new("test");
    let ids: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| b.input(&format!("x{i}"), t.dtype(), &dims(t.shape())).unwrap())
        .collect();
    let y = f(&mut b, &ids).unwrap();
    b.output("y", y);
    let g = b.finish();
    verify(&g).unwrap();
    interpret(&g, inputs).unwrap().remove(0)
}

fn ramp(n: usize) -> Tensor {
    Tensor::from_slice(&[n], &(0..n as i64).map(|i| i * 10 + 1).collect::<Vec<_>>()).unwrap()
}

fn ints(t: &Tensor) -> Vec<i64> {
    t.to_i64_vec().unwrap()
}

/// Python's slice indices.
fn python_slice(n: i64, start: i64, end: i64, step: i64) -> Vec<i64> {
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |v: i64| if v < 0 { (v + n).max(low) } else { v.min(high) };
    let (mut at, end) = (place(start), place(end));
    let mut out = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        out.push(at);
        at += step;
    }
    out
}

#[test]
fn slices_follow_python_for_constant_and_symbolic_extents() {
    for n in [1usize, 2, 5] {
        let x = ramp(n);
        for start in -7..=7 {
            for end in -7..=7 {
                for step in [1, 2, 3, -1, -2] {
                    let expected: Vec<i64> =
                        python_slice(n as i64, start, end, step).iter().map(|i| i * 10 + 1).collect();
                    let slice =
                        |b: &mut Builder, v: ValueId| b.slice_range(v, 0, &Dim::from(start), &Dim::from(end), step);
                    let y = run_on(std::slice::from_ref(&x), |b, v| slice(b, v[0]));
                    assert_eq!(ints(&y), expected, "[{start}:{end}:{step}] of {n}");
                    let mut b = Builder::new("symbolic");
                    let d = b.symbol("N", 1, 100);
                    let v = b.input("x", DType::I64, &[d]).unwrap();
                    let y = slice(&mut b, v).unwrap();
                    b.output("y", y);
                    let y = interpret(&b.finish(), std::slice::from_ref(&x)).unwrap().remove(0);
                    assert_eq!(ints(&y), expected, "[{start}:{end}:{step}] of N = {n}");
                }
            }
        }
    }
}

#[test]
fn every_pad_mode() {
    let x = ramp(4); // 1 11 21 31
    let pad = |low: i64, high: i64, mode| {
        ints(&run_on(std::slice::from_ref(&x), |b, v| b.pad(v[0], &[low.into()], &[high.into()], mode)))
    };
    assert_eq!(pad(2, 1, PadMode::Constant(-5.0)), [-5, -5, 1, 11, 21, 31, -5]);
    assert_eq!(pad(2, 3, PadMode::Reflect), [21, 11, 1, 11, 21, 31, 21, 11, 1]);
    assert_eq!(pad(1, 2, PadMode::Edge), [1, 1, 11, 21, 31, 31, 31]);
    assert_eq!(pad(2, 1, PadMode::Wrap), [21, 31, 1, 11, 21, 31, 1]);
    assert_eq!(pad(-1, 2, PadMode::Constant(7.0)), [11, 21, 31, 7, 7]);
    let y = run_on(std::slice::from_ref(&x), |b, v| {
        let zero = b.scalar(DType::I64, 0.0)?;
        b.pad_with(v[0], zero, &[1i64.into()], &[0i64.into()], &[2])
    });
    assert_eq!(ints(&y), [0, 1, 0, 0, 11, 0, 0, 21, 0, 0, 31]);
}

#[test]
fn reshapes_infer_what_is_left() {
    let mut b = Builder::new("r");
    let (n, s) = (b.symbol("N", 1, 9), b.symbol("S", 1, 9));
    let odd = s.clone() * Dim::from(2) + Dim::from(1);
    let x = b.input("x", DType::F32, &[n.clone(), odd.clone(), 12i64.into()]).unwrap();
    let y = b.reshape_infer(x, &[0i64.into(), 0i64.into(), 3i64.into(), (-1i64).into()]).unwrap();
    assert_eq!(b.shape(y), [n.clone(), odd.clone(), 3i64.into(), 4i64.into()]);
    let y = b.reshape_infer(x, &[(-1i64).into(), odd.clone()]).unwrap();
    assert_eq!(b.shape(y), [n.clone() * Dim::from(12), odd]);
    assert!(b.graph().constraints.is_empty());
    let y = b.reshape_infer(x, &[5i64.into(), (-1i64).into()]).unwrap();
    assert_eq!(b.graph().constraints.len(), 1, "{}", b.ty(y));
    assert!(b.reshape_infer(x, &[(-1i64).into(), (-1i64).into()]).is_err());
    let c = b.input("c", DType::F32, &[6i64.into()]).unwrap();
    let e = b.reshape(c, &[4i64.into(), 2i64.into()]).unwrap_err().to_string();
    assert!(e.contains("expected 6, found 8"), "{e}");
}

#[test]
fn tile_split_stack_flip_and_triangles() {
    let x = Tensor::from_slice(&[2, 3], &[1i64, 2, 3, 4, 5, 6]).unwrap();
    let on = |f: &dyn Fn(&mut Builder, ValueId) -> Result<ValueId>| {
        let y = run_on(std::slice::from_ref(&x), |b, v| f(b, v[0]));
        (y.shape().to_vec(), ints(&y))
    };
    let (shape, y) = on(&|b, v| b.tile(v, &[2i64.into(), 2i64.into()]));
    assert_eq!(shape, [4, 6]);
    assert_eq!(y[..12], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
    assert_eq!(y[..12], y[12..]);
    let (_, y) = on(&|b, v| {
        let parts = b.split(v, 1, &[1i64.into(), 2i64.into()])?;
        b.concat(&[parts[1], parts[0]], 1)
    });
    assert_eq!(y, [2, 3, 1, 5, 6, 4]);
    let (shape, y) = on(&|b, v| {
        let f = b.flip(v, 0)?;
        b.stack(&[v, f], -1)
    });
    assert_eq!(shape, [2, 3, 2]);
    assert_eq!(y, [1, 4, 2, 5, 3, 6, 4, 1, 5, 2, 6, 3]);
    assert_eq!(on(&|b, v| b.tril(v, 0)).1, [1, 0, 0, 4, 5, 0]);
    assert_eq!(on(&|b, v| b.triu(v, 1)).1, [0, 2, 3, 0, 0, 6]);
    assert_eq!(on(&|b, v| b.transpose(v, &[1, 0])).1, [1, 4, 2, 5, 3, 6]);
    assert_eq!(on(&|b, v| b.index_axis(v, 1, -1)), (vec![2], vec![3, 6]));
    assert!(Builder::new("e").concat(&[], 0).is_err());
}

#[test]
fn gathers_and_scatters() {
    let x = Tensor::from_slice(&[3, 2], &[1i64, 2, 3, 4, 5, 6]).unwrap();
    let idx = |shape: &[usize], v: &[i64]| Tensor::from_slice(shape, v).unwrap();
    let y = run_on(&[x.clone(), idx(&[2, 2], &[2, -3, 1, 1])], |b, v| b.gather(v[0], v[1], 0));
    assert_eq!((y.shape(), ints(&y)), (&[2, 2, 2][..], vec![5, 6, 1, 2, 3, 4, 3, 4]));
    let y = run_on(&[x.clone(), idx(&[2], &[-1, 0])], |b, v| b.gather(v[0], v[1], 1));
    assert_eq!(ints(&y), [2, 1, 4, 3, 6, 5]);
    let y = run_on(&[x.clone(), idx(&[2, 2], &[1, 0, 2, -1])], |b, v| b.gather_elements(v[0], v[1], 0));
    assert_eq!(ints(&y), [3, 2, 5, 6]);
    let y = run_on(&[x.clone(), idx(&[2, 2], &[0, 1, -1, 0])], |b, v| b.gather_nd(v[0], v[1], 0));
    assert_eq!(ints(&y), [2, 5]);
    let y = run_on(&[x.clone(), idx(&[3, 1], &[1, 0, 1])], |b, v| b.gather_nd(v[0], v[1], 1));
    assert_eq!(ints(&y), [2, 3, 6]);
    let scatter = |op| {
        let inputs = [x.clone(), idx(&[2, 1], &[0, 0]), idx(&[2, 1], &[10, 20])];
        ints(&run_on(&inputs, |b, v| b.scatter_elements(v[0], v[1], v[2], 0, op)))
    };
    assert_eq!(scatter(ScatterOp::Set), [20, 2, 3, 4, 5, 6]);
    assert_eq!(scatter(ScatterOp::Add), [31, 2, 3, 4, 5, 6]);
    assert_eq!(scatter(ScatterOp::Mul), [200, 2, 3, 4, 5, 6]);
    assert_eq!(scatter(ScatterOp::Max), [20, 2, 3, 4, 5, 6]);
    assert_eq!(scatter(ScatterOp::Min), [1, 2, 3, 4, 5, 6]);
    let inputs = [x.clone(), idx(&[2, 1], &[2, 0]), idx(&[2, 2], &[7, 8, 9, 10])];
    let y = run_on(&inputs, |b, v| b.scatter_nd(v[0], v[1], v[2], ScatterOp::Set));
    assert_eq!(ints(&y), [9, 10, 3, 4, 7, 8]);
    let y = run_on(&[idx(&[3], &[1, -1, 9])], |b, v| {
        let (on, off) = (b.scalar(DType::I64, 5.0)?, b.scalar(DType::I64, 2.0)?);
        b.one_hot(v[0], &Dim::from(3), -1, on, off)
    });
    assert_eq!(ints(&y), [2, 5, 2, 2, 2, 5, 2, 2, 2]);
}

#[test]
fn an_index_outside_its_axis_names_node_and_index() {
    let mut b = Builder::new("g");
    let x = b.input("x", DType::F32, &[3i64.into()]).unwrap();
    let i = b.constant(Tensor::scalar(3i64)).unwrap();
    let y = b.scoped("decoder.embed", |b| b.gather(x, i, 0)).unwrap();
    b.output("y", y);
    let e = interpret(&b.finish(), &[Tensor::random(DType::F32, &[3], 1).unwrap()]).unwrap_err().to_string();
    assert_eq!(e, "node gather `decoder.embed`: index 3 is outside axis 0 of extent 3");
}

#[test]
fn extremes_ties_and_nan() {
    let nan = f64::NAN;
    let x = Tensor::from_slice(&[6], &[2.0, 5.0, 1.0, 5.0, 1.0, 2.0]).unwrap();
    let with_nan = Tensor::from_slice(&[4], &[1.0, nan, f64::INFINITY, nan]).unwrap();
    let arg =
        |t: &Tensor, op, last| ints(&run_on(std::slice::from_ref(t), |b, v| b.arg_reduce(op, v[0], 0, last, false)))[0];
    assert_eq!([arg(&x, ArgOp::Max, false), arg(&x, ArgOp::Max, true)], [1, 3]);
    assert_eq!([arg(&x, ArgOp::Min, false), arg(&x, ArgOp::Min, true)], [2, 4]);
    assert_eq!([arg(&with_nan, ArgOp::Max, false), arg(&with_nan, ArgOp::Max, true)], [1, 3]);
    assert_eq!([arg(&with_nan, ArgOp::Min, false), arg(&with_nan, ArgOp::Min, true)], [1, 3]);
    let top = |t: &Tensor, largest| {
        ints(&run_on(std::slice::from_ref(t), |b, v| Ok(b.topk(v[0], 0, &Dim::from(3), largest)?.1)))
    };
    assert_eq!(top(&x, true), [1, 3, 0]);
    assert_eq!(top(&x, false), [2, 4, 0]);
    assert_eq!(top(&with_nan, true), [1, 3, 2]);
    assert_eq!(top(&with_nan, false), [0, 2, 1]);
    let max = run_on(&[with_nan], |b, v| b.reduce_max(v[0], &[0], false));
    assert!(max.to_f64_vec()[0].is_nan());
    let scan = |exclusive, reverse| run_on(&[ramp(4)], |b, v| b.cumsum(v[0], 0, exclusive, reverse));
    assert_eq!(ints(&scan(false, false)), [1, 12, 33, 64]);
    assert_eq!(ints(&scan(true, false)), [0, 1, 12, 33]);
    assert_eq!(ints(&scan(false, true)), [64, 63, 52, 31]);
    assert_eq!(ints(&scan(true, true)), [63, 52, 31, 0]);
}

#[test]
fn empty_reductions_give_the_identity() {
    let x = Tensor::from_slice::<f32>(&[0, 2], &[]).unwrap();
    let y = |op| run_on(std::slice::from_ref(&x), |b, v| b.reduce(op, v[0], &[0], false)).to_f64_vec();
    assert_eq!(y(ReduceOp::Sum), [0.0; 2]);
    assert_eq!(y(ReduceOp::Prod), [1.0; 2]);
    assert_eq!(y(ReduceOp::Max), [f64::NEG_INFINITY; 2]);
    assert_eq!(y(ReduceOp::Min), [f64::INFINITY; 2]);
}

#[test]
fn extents_that_may_be_one_broadcast_by_value() {
    let (n, m) = (Dim::sym("N"), Dim::sym("M"));
    for (low, cases) in [(1, vec![[1, 1], [1, 4], [4, 1], [4, 4]]), (0, vec![[0, 1], [1, 0], [0, 0], [3, 1]])] {
        let mut b = Builder::new("t");
        b.symbol("N", low, 9);
        b.symbol("M", low, 9);
        let x = b.input("x", DType::F64, &[n.clone(), Dim::from(2)]).unwrap();
        let y = b.input("y", DType::F64, &[m.clone(), Dim::from(2)]).unwrap();
        let z = b.mul(x, y).unwrap();
        b.output("z", z);
        let wide = b.expand(x, &[m.clone(), Dim::from(1)]).unwrap();
        b.output("wide", wide);
        let g = b.finish();
        verify(&g).unwrap();
        assert_eq!(g.to_string().parse::<Graph>().unwrap(), g);
        for [n, m] in cases {
            let inputs = [n, m].map(|d| Tensor::random(DType::F64, &[d, 2], d as u64 + 7).unwrap());
            let found = interpret(&g, &inputs).unwrap();
            let (a, b) = (inputs[0].to_f64_vec(), inputs[1].to_f64_vec());
            let rows = if n == 1 { m } else { n };
            let at = |v: &[f64], d: usize, i: usize| if d == 1 { v[i % 2] } else { v[i] };
            let products: Vec<f64> = (0..rows * 2).map(|i| at(&a, n, i) * at(&b, m, i)).collect();
            assert_eq!((found[0].shape(), found[0].to_f64_vec()), (&[rows, 2][..], products), "{n} and {m}");
            let copies: Vec<f64> = (0..rows * 2).map(|i| at(&a, n, i)).collect();
            assert_eq!((found[1].shape(), found[1].to_f64_vec()), (&[rows, 2][..], copies), "{n} and {m}");
        }
        let error = bind_symbols(&g, &[vec![3, 2], vec![4, 2]]).unwrap_err().to_string();
        assert!(error.starts_with("broadcast: needs `") && error.contains("to be 1 or"), "{error}");
    }
}

#[test]
fn batches_and_labels_broadcast_by_value() {
    let mut b = Builder::new("t");
    let [n, m, k] = ["N", "M", "K"].map(|s| b.symbol(s, 1, 9));
    let x = b.input("x", DType::F64, &[n.clone(), Dim::from(2), k.clone()]).unwrap();
    let y = b.input("y", DType::F64, &[m.clone(), k, Dim::from(3)]).unwrap();
    let z = b.matmul(x, y).unwrap();
    b.output("z", z);
    let e = b.einsum("bik,bkj->bij", &[x, y]).unwrap();
    b.output("e", e);
    let g = b.finish();
    verify(&g).unwrap();
    for [n, m, k] in [[1, 1, 1], [4, 1, 3], [1, 4, 5], [4, 4, 2]] {
        let inputs = [[n, 2, k], [m, k, 3]].map(|s| Tensor::random(DType::F64, &s, s[0] as u64).unwrap());
        let (a, b) = (inputs[0].to_f64_vec(), inputs[1].to_f64_vec());
        let rows = n.max(m);
        let mut expected = Vec::new();
        for (r, i, j) in (0..rows * 6).map(|at| (at / 6, at / 3 % 2, at % 3)) {
            let (p, q) = (r.min(n - 1), r.min(m - 1));
            expected.push((0..k).map(|l| a[(p * 2 + i) * k + l] * b[(q * k + l) * 3 + j]).sum::<f64>());
        }
        for found in interpret(&g, &inputs).unwrap() {
            assert_eq!(found.shape(), [rows, 2, 3]);
            let close = found.to_f64_vec().iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close, "{n} {m} {k}: {found:?} is not {expected:?}");
        }
    }
    let error = bind_symbols(&g, &[vec![2, 2, 5], vec![3, 5, 3]]).unwrap_err().to_string();
    assert!(error.contains("to be 1 or"), "{error}");
}

#[test]
fn what_a_run_would_read_past_is_refused_when_shapes_are_bound() {
    let refused = |make: &dyn Fn(&mut Builder, ValueId) -> ValueId, bad: usize, good: usize, says: &str| {
        let mut b = Builder::new("t");
        let n = b.symbol("N", 1, 99);
        let x = b.input("x", DType::F64, &[n, Dim::from(4)]).unwrap();
        let y = make(&mut b, x);
        b.output("y", y);
        let g = b.finish();
        verify(&g).unwrap();
        let error = bind_symbols(&g, &[vec![bad, 4]]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        bind_symbols(&g, &[vec![good, 4]]).unwrap();
    };
    let zero = Dim::from(0);
    refused(
        &|b, x| {
            let op = Op::Slice { starts: vec![3.into(), 0.into()], sizes: vec![2.into(), 4.into()], steps: vec![1, 1] };
            b.add1(op, &[x]).unwrap()
        },
        4,
        5,
        "needs `4` <= `N - 1`, found 4 and 3",
    );
    refused(
        &|b, x| {
            let high = [Dim::from(6) - Dim::sym("N"), zero.clone()];
            b.pad(x, &[zero.clone(), zero.clone()], &high, PadMode::Constant(1.0)).unwrap()
        },
        7,
        6,
        "needs `0` <= `-N + 6`, found 0 and -1",
    );
    refused(&|b, x| b.topk(x, 0, &Dim::from(3), true).unwrap().0, 2, 3, "needs `3` <= `N`");
    refused(&|b, x| b.einsum("ii->i", &[x]).unwrap(), 3, 4, "axes 0 and 1 of a diagonal");
}
