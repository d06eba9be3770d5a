//! Convolution, its transpose and pooling against loops written out.

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
    interpret(&b.finish(), inputs).unwrap().remove(0)
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-12 * e.abs().max(1.0) || (f.is_nan() && e.is_nan()), "element {i}: {f} is not {e}");
    }
}

/// Geometry of one spatial axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    n: usize,
    k: usize,
    stride: usize,
    pads: (usize, usize),
    dilation: usize,
}

impl Axis {
    fn random(rng: &mut Rng) -> Axis {
        let mut r = |low, high| rng.range(low, high) as usize;
        let (k, dilation) = (r(1, 3), r(1, 2));
        Axis {
            n: dilation * (k - 1) + r(1, 6),
            k,
            stride: r(1, 3),
            pads: (r(0, k as i64 - 1), r(0, k as i64 - 1)),
            dilation,
        }
    }

    fn out(self) -> usize {
        (self.n + self.pads.0 + self.pads.1 - self.dilation * (self.k - 1) - 1) / self.stride + 1
    }

    /// The element of the axis under tap `t` of window `o`, if it is not padding.
    fn at(self, o: usize, t: usize) -> Option<usize> {
        (o * self.stride + t * self.dilation).checked_sub(self.pads.0).filter(|i| *i < self.n)
    }
}

#[test]
fn conv_is_grouped_cross_correlation() {
    let mut rng = Rng::new(17);
    for round in 0..40 {
        let (h, w) = (Axis::random(&mut rng), Axis::random(&mut rng));
        let (batch, groups, ci, co) = (2, rng.range(1, 3) as usize, rng.range(1, 3) as usize, rng.range(1, 2) as usize);
        let x = Tensor::random(DType::F64, &[batch, groups * ci, h.n, w.n], round).unwrap();
        let k = Tensor::random(DType::F64, &[groups * co, ci, h.k, w.k], round + 1000).unwrap();
        let spec = ConvSpec {
            strides: vec![h.stride, w.stride],
            pads: vec![h.pads, w.pads],
            dilations: vec![h.dilation, w.dilation],
            groups,
        };
        let y = run_on(&[x.clone(), k.clone()], |b, v| b.conv(v[0], v[1], None, spec));
        let (xs, ks) = (x.to_f64_vec(), k.to_f64_vec());
        let mut expected = Vec::new();
        for n in 0..batch {
            for o in 0..groups * co {
                for (oy, ox) in (0..h.out()).flat_map(|y| (0..w.out()).map(move |x| (y, x))) {
                    let mut sum = 0.0;
                    for (c, ty, tx) in
                        (0..ci).flat_map(|c| (0..h.k).flat_map(move |y| (0..w.k).map(move |x| (c, y, x))))
                    {
                        if let (Some(iy), Some(ix)) = (h.at(oy, ty), w.at(ox, tx)) {
                            let channel = o / co * ci + c;
                            sum += xs[((n * groups * ci + channel) * h.n + iy) * w.n + ix]
                                * ks[((o * ci + c) * h.k + ty) * w.k + tx];
                        }
                    }
                    expected.push(sum);
                }
            }
        }
        assert_eq!(y.shape(), [batch, groups * co, h.out(), w.out()]);
        close(&y.to_f64_vec(), &expected);
    }
}

#[test]
fn conv_transpose_scatters_each_input_element() {
    let mut rng = Rng::new(23);
    for round in 0..60 {
        let a = Axis::random(&mut rng);
        // Padding up to beyond the kernel's reach crops the spread input itself.
        let pads = (rng.range(0, 4) as usize, rng.range(0, 4) as usize);
        let extra = rng.range(0, a.stride as i64 - 1) as usize;
        let full = (a.n - 1) * a.stride + a.dilation * (a.k - 1) + 1 + extra;
        let Some(out) = full.checked_sub(pads.0 + pads.1).filter(|n| *n > 0) else { continue };
        let (groups, ci, co) = (rng.range(1, 2) as usize, 2, 3);
        let x = Tensor::random(DType::F64, &[2, groups * ci, a.n], round).unwrap();
        let k = Tensor::random(DType::F64, &[groups * ci, co, a.k], round + 1000).unwrap();
        let spec = ConvSpec { strides: vec![a.stride], pads: vec![pads], dilations: vec![a.dilation], groups };
        let y = run_on(&[x.clone(), k.clone()], |b, v| b.conv_transpose(v[0], v[1], None, spec, &[extra]));
        let (xs, ks) = (x.to_f64_vec(), k.to_f64_vec());
        let mut expected = vec![0.0; 2 * groups * co * out];
        for n in 0..2 {
            for c in 0..groups * ci {
                for (i, o, t) in (0..a.n).flat_map(|i| (0..co).flat_map(move |o| (0..a.k).map(move |t| (i, o, t)))) {
                    let at = (i * a.stride + t * a.dilation).checked_sub(pads.0).filter(|p| *p < out);
                    if let Some(at) = at {
                        let channel = c / ci * co + o;
                        expected[(n * groups * co + channel) * out + at] +=
                            xs[(n * groups * ci + c) * a.n + i] * ks[(c * co + o) * a.k + t];
                    }
                }
            }
        }
        assert_eq!(y.shape(), [2, groups * co, out], "{a:?} {pads:?}");
        close(&y.to_f64_vec(), &expected);
    }
}

/// Number of windows and the windows' elements under ceil mode, as the ONNX operator's text has it.
fn pooled(a: Axis, ceil: bool) -> usize {
    let room = a.n + a.pads.0 + a.pads.1 - a.dilation * (a.k - 1) - 1;
    if !ceil {
        return room / a.stride + 1;
    }
    let count = room.div_ceil(a.stride) + 1;
    if (count - 1) * a.stride >= a.n + a.pads.0 { count - 1 } else { count }
}

#[test]
fn pools_round_and_count_as_documented() {
    let mut rng = Rng::new(31);
    for round in 0..120 {
        let a = Axis::random(&mut rng);
        let (ceil_mode, include, symbolic) = (round % 2 == 0, round % 4 < 2, round % 8 < 4);
        let x = Tensor::random(DType::F64, &[2, a.n], round).unwrap();
        let spec =
            WindowSpec { window: vec![a.k], strides: vec![a.stride], pads: vec![a.pads], dilations: vec![a.dilation] };
        let pool = Pool { spec, ceil_mode };
        let build = |average: bool| -> Result<Tensor> {
            let mut b = Builder::new("pool");
            let n = if symbolic { b.symbol("N", a.n as i64, 99) } else { Dim::from(a.n) };
            let v = b.input("x", DType::F64, &[2i64.into(), n])?;
            let y = if average { b.avg_pool(v, &pool, include)? } else { b.max_pool(v, &pool)? };
            b.output("y", y);
            Ok(interpret(&b.finish(), std::slice::from_ref(&x))?.remove(0))
        };
        let span = a.dilation * (a.k - 1) + 1;
        let (max, avg) = match (build(false), build(true)) {
            (Ok(max), Ok(avg)) => (max, avg),
            (e, _) => {
                assert!(symbolic && ceil_mode && a.stride + a.pads.1 > span, "{a:?} {e:?}");
                continue;
            }
        };
        let xs = x.to_f64_vec();
        let (mut tops, mut means) = (Vec::new(), Vec::new());
        for row in xs.chunks(a.n) {
            for o in 0..pooled(a, ceil_mode) {
                let seen: Vec<f64> = (0..a.k).filter_map(|t| a.at(o, t)).map(|i| row[i]).collect();
                let padded = (0..a.k).filter(|t| o * a.stride + t * a.dilation < a.n + a.pads.0 + a.pads.1).count();
                tops.push(seen.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                means.push(seen.iter().sum::<f64>() / if include { padded } else { seen.len() } as f64);
            }
        }
        close(&max.to_f64_vec(), &tops);
        close(&avg.to_f64_vec(), &means);
    }
}

#[test]
fn global_pools_keep_the_axes() {
    let x = Tensor::from_slice(&[1, 2, 1, 2], &[1.0, 3.0, -4.0, -8.0]).unwrap();
    let mean = run_on(std::slice::from_ref(&x), |b, v| b.global_avg_pool(v[0]));
    assert_eq!((mean.shape(), mean.to_f64_vec()), (&[1, 2, 1, 1][..], vec![2.0, -6.0]));
    assert_eq!(run_on(&[x], |b, v| b.global_max_pool(v[0])).to_f64_vec(), [3.0, -4.0]);
}

#[test]
fn absurd_geometry_is_refused() {
    let huge = [usize::MAX, usize::MAX / 2, 1 << 40];
    for big in huge {
        let mut b = Builder::new("huge");
        let n = b.symbol("N", 1, 64);
        for extent in [n, Dim::from(8)] {
            let x = b.input(&format!("x{extent}{big}"), DType::F32, &[1i64.into(), 2i64.into(), extent]).unwrap();
            let w = b.constant(Tensor::random(DType::F32, &[2, 2, 3], 1).unwrap()).unwrap();
            for field in 0..4 {
                let pick = |at: usize, usual: usize| if at == field { big } else { usual };
                let (strides, pads, dilations) = (vec![pick(0, 1)], vec![(pick(1, 0), pick(2, 0))], vec![pick(3, 1)]);
                let spec =
                    ConvSpec { strides: strides.clone(), pads: pads.clone(), dilations: dilations.clone(), groups: 1 };
                assert!(b.conv(x, w, None, spec.clone()).is_err());
                let window = WindowSpec { window: vec![2], strides, pads, dilations };
                for ceil_mode in [false, true] {
                    assert!(b.max_pool(x, &Pool { spec: window.clone(), ceil_mode }).is_err());
                    assert!(b.avg_pool(x, &Pool { spec: window.clone(), ceil_mode }, true).is_err());
                }
                // Whatever it makes of it, it must not panic.
                let _ = b.conv_transpose(x, w, None, spec, &[big]);
            }
        }
    }
}
