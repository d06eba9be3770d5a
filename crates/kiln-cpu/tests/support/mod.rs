//! Runs a graph as a region on the CPU device and compares it with the reference interpreter.
#![allow(dead_code, reason = "each test file uses a part")]

use kiln_cpu::{BoundKernel, Kernel};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{Bindings, DType, Dim, Graph, Rng, Tensor, bind_symbols, interpret};

pub fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

pub fn region(graph: Graph) -> Region {
    Region { name: graph.name.clone(), summary: String::new(), anchor: Anchor::Map, graph }
}

/// Unit roundoff of a dtype.
pub fn epsilon(dtype: DType) -> f64 {
    dtype.mantissa_bits().map_or(0.0, |bits| 0.5 * 2f64.powi(-(bits as i32)))
}

/// Random values that include infinities, NaN and zeros when `special`.
pub fn random(dtype: DType, shape: &[usize], rng: &mut Rng, special: bool) -> Tensor {
    let t = Tensor::random(dtype, shape, rng.next_u64()).unwrap();
    if !special || !dtype.is_float() {
        return t;
    }
    let mut values = t.to_f64_vec();
    for v in &mut values {
        match rng.range(0, 40) {
            0 => *v = f64::NAN,
            1 => *v = f64::INFINITY,
            2 => *v = f64::NEG_INFINITY,
            3 => *v = 0.0,
            4 => *v *= 100.0,
            _ => {}
        }
    }
    Tensor::from_f64(dtype, shape, &values).unwrap()
}

pub fn bind(graph: &Graph, inputs: &[Tensor]) -> BoundKernel {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let bindings: Bindings = bind_symbols(graph, &shapes).unwrap();
    Kernel::compile(&region(graph.clone())).unwrap().bind(&bindings).unwrap()
}

/// Runs with poisoned outputs and scratch, on buffers shifted by `shift` bytes from alignment.
pub fn execute(bound: &BoundKernel, graph: &Graph, inputs: &[Tensor], shift: usize) -> kiln_cpu::Result<Vec<Vec<u8>>> {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let bindings = bind_symbols(graph, &shapes).unwrap();
    let moved: Vec<Vec<u8>> = inputs
        .iter()
        .map(|t| {
            let mut v = vec![0u8; shift];
            v.extend_from_slice(t.data());
            v
        })
        .collect();
    let views: Vec<&[u8]> = moved.iter().map(|v| &v[shift..]).collect();
    let mut outputs: Vec<Vec<u8>> = graph
        .outputs
        .iter()
        .map(|(_, v)| {
            let ty = graph.ty(*v);
            let n = ty.concrete(&bindings).unwrap().iter().product();
            vec![0xCB; ty.dtype.bytes_for(n).unwrap() + shift]
        })
        .collect();
    let mut out_views: Vec<&mut [u8]> = outputs.iter_mut().map(|v| &mut v[shift..]).collect();
    let mut scratch = vec![0xCB; bound.scratch_bytes()];
    bound.run(&views, &mut out_views, &mut scratch)?;
    Ok(outputs.into_iter().map(|v| v[shift..].to_vec()).collect())
}

/// Compares a graph's results with the interpreter's: floats within `roundoffs` units of roundoff of the larger of the value and `scale`,
/// integers exactly.
pub fn check(graph: &Graph, inputs: &[Tensor], roundoffs: f64, scale: f64) -> BoundKernel {
    let expected = interpret(graph, inputs).unwrap();
    let bound = bind(graph, inputs);
    for shift in [0, 1] {
        let found = execute(&bound, graph, inputs, shift).unwrap();
        for (o, (expected, found)) in expected.iter().zip(found).enumerate() {
            compare(graph, &bound, o, expected, found, roundoffs, scale);
        }
    }
    bound
}

fn compare(g: &Graph, bound: &BoundKernel, o: usize, expected: &Tensor, found: Vec<u8>, roundoffs: f64, scale: f64) {
    let dtype = expected.dtype();
    let found = Tensor::new(dtype, expected.shape().to_vec(), found.into()).unwrap();
    let how = bound.implementation();
    if !dtype.is_float() {
        let (e, f) = (expected.to_i128_vec().unwrap(), found.to_i128_vec().unwrap());
        for (i, (e, f)) in e.iter().zip(&f).enumerate() {
            assert_eq!(e, f, "`{}` [{how}] output {o} element {i} of {:?}", g.name, expected.shape());
        }
        if dtype == DType::Bool {
            assert!(found.data().iter().all(|b| *b <= 1));
        }
        return;
    }
    let (e, f) = (expected.to_f64_vec(), found.to_f64_vec());
    for (i, (&e, &f)) in e.iter().zip(&f).enumerate() {
        let near = (e - f).abs() <= roundoffs * epsilon(dtype) * e.abs().max(scale);
        let same = e == f || e.is_nan() && f.is_nan();
        assert!(
            same || near,
            "`{}` [{how}] output {o} ({dtype}{:?}) element {i}: expected {e}, found {f}, {} roundoffs",
            g.name,
            expected.shape(),
            (e - f).abs() / epsilon(dtype) / e.abs().max(scale)
        );
    }
}
