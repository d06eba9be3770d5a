//! Data that a region is timed on, and what it should make of it.

use crate::Result;
use bytes::Bytes;
use kiln_engine::{Arguments, CpuDevice, Device, Module, Place, Tolerance};
use kiln_fuse::Anchor;
use kiln_graph::{DType, Dim, Graph, Op, Rng, Tensor, ValueId};
use kiln_kernels::families::Subject;
use std::collections::BTreeSet;

/// Elements after which random data repeats: drawing gigabytes would take longer than timing them. Even, for types that share bytes.
const PERIOD: usize = 1_000_018;
/// Share of results that may be no finite numbers before other data is drawn.
const MOST_SPECIAL: f64 = 0.5;
/// Arithmetic that is repeated on the CPU: a second of it, where it is a product.
const MOST_FLOPS: f64 = 1.5e11;
/// How much longer the CPU takes for that of attention, which it streams.
const STREAMED: f64 = 8.0;

/// Random inputs for a region at its typical sizes: floats with full mantissas, in [-1, 1) or [0, 1); indices that exist; ends that grow.
///
/// # Errors
/// Sizes that do not fit each other, or that no memory holds.
pub fn draw(subject: &Subject, positive: bool) -> Result<Vec<Tensor>> {
    let graph = &subject.region.graph;
    let mut inputs = vec![];
    for (i, &input) in graph.inputs.iter().enumerate() {
        let ty = graph.ty(input);
        let shape = ty.concrete(&subject.sizes)?;
        let range = subject.ranges.get(i).copied().flatten().or_else(|| indexed(subject, input));
        inputs.push(match ends(subject, input) {
            Some(rows) => {
                let groups = shape.iter().product::<usize>();
                Tensor::generate(ty.dtype, &shape, |g| (rows * (g as i64 + 1) / groups.max(1) as i64) as f64)?
            }
            None => random(ty.dtype, &shape, 17 + i as u64, range, positive)?,
        });
    }
    Ok(inputs)
}

fn random(dtype: DType, shape: &[usize], seed: u64, range: Option<(i64, i64)>, positive: bool) -> Result<Tensor> {
    let n = shape.iter().product::<usize>();
    let mut rng = Rng::new(seed);
    let (low, high) = range.unwrap_or(match (dtype, dtype.is_signed()) {
        (DType::Bool, _) => (0, 1),
        (dtype, true) if dtype.bits() < 8 => (-7, 7),
        (_, true) => (-127, 127),
        (dtype, false) if dtype.bits() < 8 => (0, 15),
        (_, false) => (0, 255),
    });
    let some = Tensor::generate(dtype, &[n.min(PERIOD)], |_| match dtype.is_float() {
        true if positive => rng.unit(),
        true => rng.signed(),
        false => rng.range(low, high) as f64,
    })?;
    let bytes = dtype.bytes_for(n).unwrap_or(usize::MAX);
    let mut data = kiln_host::reserve(bytes).map_err(|e| kiln_graph::Error::Verify(e.to_string()))?;
    while data.len() < bytes {
        data.extend_from_slice(&some.data()[..some.data().len().min(bytes - data.len())]);
    }
    Ok(Tensor::new(dtype, shape.to_vec(), Bytes::from(data))?)
}

/// The rows of a grouped product, if the input says where its groups end.
fn ends(subject: &Subject, input: ValueId) -> Option<i64> {
    let graph = &subject.region.graph;
    let of = |op: &Op| matches!(op, Op::GroupedMatmul { .. });
    let product = graph.nodes.iter().find(|node| of(&node.op) && node.inputs.get(2) == Some(&input))?;
    graph.ty(product.inputs[0]).shape.first()?.eval(&subject.sizes).ok()
}

/// Which integers of an input address elements that exist.
fn indexed(subject: &Subject, input: ValueId) -> Option<(i64, i64)> {
    let graph = &subject.region.graph;
    let mut least: Option<i64> = None;
    for node in &graph.nodes {
        let (Some(&x), Some(&idx)) = (node.inputs.first(), node.inputs.get(1)) else { continue };
        let shape = &graph.ty(x).shape;
        let axes: &[Dim] = match &node.op {
            Op::Gather { axis } | Op::GatherElements { axis } | Op::ScatterElements { axis, .. } => {
                shape.get(*axis..*axis + 1).unwrap_or_default()
            }
            Op::GatherNd { batch_dims } => shape.get(*batch_dims..).unwrap_or_default(),
            Op::ScatterNd { .. } => shape,
            _ => continue,
        };
        if reaches(graph, input, idx) {
            let extents = axes.iter().filter_map(|dim| dim.eval(&subject.sizes).ok());
            least = extents.chain(least).min();
        }
    }
    Some((0, (least? - 1).max(0)))
}

/// Whether a value is made of another.
fn reaches(graph: &Graph, from: ValueId, to: ValueId) -> bool {
    let (mut next, mut seen) = (vec![to], BTreeSet::new());
    while let Some(value) = next.pop() {
        if value == from {
            return true;
        }
        if seen.insert(value) {
            next.extend(graph.producer(value).inputs.iter().copied());
        }
    }
    false
}

/// Inputs, and what the CPU makes of them: nothing where that would take long.
///
/// # Errors
/// Sizes that do not fit each other, or that no memory holds.
pub fn with_results(subject: &Subject, flops: f64) -> Result<(Vec<Tensor>, Option<Vec<Tensor>>)> {
    let inputs = draw(subject, false)?;
    let streamed = subject.region.anchor == Anchor::Attention;
    if flops * if streamed { STREAMED } else { 1.0 } > MOST_FLOPS {
        return Ok((inputs, None));
    }
    let expected = on_cpu(subject, &inputs)?;
    let special = |tensor: &Tensor| {
        let some = sampled(tensor).0;
        some.iter().filter(|v| !v.is_finite()).count() as f64 > MOST_SPECIAL * some.len() as f64
    };
    if !expected.iter().any(special) {
        return Ok((inputs, Some(expected)));
    }
    // Roots and logarithms.
    let inputs = draw(subject, true)?;
    let expected = on_cpu(subject, &inputs)?;
    Ok((inputs, Some(expected)))
}

fn on_cpu(subject: &Subject, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let region = &subject.region;
    let mut device = CpuDevice::new(None)?;
    let (scratch_bytes, zeroed_bytes) = (Dim::from(0), Dim::from(0));
    let kernel = device.load(&Module { region, kernels: vec![], scratch_bytes, zeroed_bytes })?;
    let prepared = device.prepare(kernel, &subject.sizes)?;
    let mut places = vec![];
    for tensor in inputs {
        let mem = device.map(tensor.data().clone())?;
        places.push(Place { mem, offset: 0, bytes: tensor.data().len() });
    }
    let block = |device: &mut CpuDevice, bytes: usize| -> Result<Place> {
        Ok(Place { mem: device.alloc(bytes)?, offset: 0, bytes })
    };
    let mut outputs = vec![];
    for bytes in result_bytes(subject)? {
        outputs.push(block(&mut device, bytes)?);
    }
    let scratch = match prepared.scratch_bytes {
        0 => None,
        bytes => Some(block(&mut device, bytes)?),
    };
    let arguments = Arguments { inputs: &places, outputs: &outputs, scratch, zeroed: None, packed: &[] };
    device.launch(prepared.id, arguments)?;
    device.synchronize()?;
    results(subject, &mut device, &outputs)
}

/// Bytes of each result.
pub fn result_bytes(subject: &Subject) -> Result<Vec<usize>> {
    let graph = &subject.region.graph;
    let bytes = |(_, value): &(String, ValueId)| {
        let ty = graph.ty(*value);
        let elements = ty.concrete(&subject.sizes)?.into_iter().product();
        let too_large = || kiln_graph::Error::Verify(format!("a result of {ty} leaves 64 bits"));
        Ok(ty.dtype.bytes_for(elements).ok_or_else(too_large)?)
    };
    graph.outputs.iter().map(bytes).collect()
}

/// The results of a region that lie there.
pub fn results(subject: &Subject, device: &mut dyn Device, places: &[Place]) -> Result<Vec<Tensor>> {
    let graph = &subject.region.graph;
    let result = |((_, value), place): (&(String, ValueId), &Place)| {
        let mut data = vec![0; place.bytes];
        device.download(*place, &mut data)?;
        let ty = graph.ty(*value);
        Ok(Tensor::new(ty.dtype, ty.concrete(&subject.sizes)?, Bytes::from(data))?)
    };
    graph.outputs.iter().zip(places).map(result).collect()
}

/// Elements that are compared, in runs of so many: all of them, or some of every tile.
const MOST_COMPARED: usize = 1 << 18;
const RUN: usize = 64;

/// Some elements, and the tensor of them.
fn sampled(tensor: &Tensor) -> (Vec<f64>, Tensor) {
    let (n, bits) = (tensor.len(), tensor.dtype().bits() as usize);
    let some = match n > MOST_COMPARED && bits >= 8 {
        false => tensor.clone(),
        true => {
            let (run, runs) = (RUN * bits / 8, MOST_COMPARED / RUN);
            // Odd, so that runs fall on all columns of any power of two.
            let step = (n / RUN / runs).max(1) | 1;
            let starts = (0..n / RUN).step_by(step).map(|i| i * run);
            let data: Vec<u8> = starts.flat_map(|start| tensor.data()[start..start + run].iter().copied()).collect();
            let shape = vec![data.len() / (bits / 8)];
            Tensor::new(tensor.dtype(), shape, Bytes::from(data)).unwrap_or_else(|_| tensor.clone())
        }
    };
    (some.to_f64_vec(), some)
}

/// Roundings that results may differ by: sums in another order, each then rounded once or twice more.
const ROUNDINGS: f64 = 16.0;
/// Least and most relative difference that is allowed.
const LEAST: f64 = 1e-4;
const MOST: f64 = 0.2;
/// Elements of which one may differ: near a step or a pole of a function any rounding shows.
const OUTLIERS: usize = 100_000;

/// Whether a result is what was expected; else what is wrong. Differences are relative to an element and to the size of all of them, by the coarsest
/// type that the region rounds to.
pub fn agrees(subject: &Subject, expected: &Tensor, found: &Tensor) -> std::result::Result<(), String> {
    if (expected.shape(), expected.data()) == (found.shape(), found.data()) {
        return Ok(());
    }
    let graph = &subject.region.graph;
    let produced = graph.nodes.iter().filter(|node| !matches!(node.op, Op::Input { .. })).flat_map(|n| &n.outputs);
    // TF32 has the mantissa of f16.
    let bits = |dtype: DType| dtype.mantissa_bits().map_or(0, |bits| if subject.tf32 { bits.min(10) } else { bits });
    let unit = |dtype: DType| 0.5 * 2f64.powi(-(bits(dtype) as i32));
    let floats: Vec<DType> = produced.map(|v| graph.ty(*v).dtype).filter(|dtype| dtype.is_float()).collect();
    let coarsest = floats.iter().map(|dtype| unit(*dtype)).fold(0.0, f64::max);
    let (values, some) = sampled(expected);
    let finite: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    let size = (finite.iter().map(|v| v * v).sum::<f64>() / finite.len().max(1) as f64).sqrt();
    let relative = (ROUNDINGS * coarsest).clamp(LEAST, MOST);
    let tolerance = match (expected.dtype().is_float(), floats.is_empty()) {
        (true, _) => Tolerance { rtol: relative, atol: relative * size },
        // Rounded to an integer.
        (false, false) => Tolerance { rtol: 0.0, atol: 1.0 },
        (false, true) => Tolerance { rtol: 0.0, atol: 0.0 },
    };
    let difference = tolerance.compare(&some, &sampled(found).1);
    let most = if floats.is_empty() { 0 } else { difference.elements / OUTLIERS };
    match difference.shape_error.is_none() && difference.mismatches <= most {
        true => Ok(()),
        false => Err(format!("it computes something else: {difference}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_fuse::Region;
    use kiln_graph::{BinaryOp, Builder};

    fn subject(graph: Graph) -> Subject {
        Subject::of(&Region { name: "r".into(), summary: "r".into(), anchor: Anchor::Map, graph })
    }

    #[test]
    fn a_tile_that_is_missing_or_off_shows_in_any_result() {
        let mut b = Builder::new("g");
        let x = b.input("x", DType::F16, &[Dim::from(2048), Dim::from(2048)]).unwrap();
        let y = b.binary(BinaryOp::Add, x, x).unwrap();
        b.output("y", y);
        let subject = subject(b.finish());
        let inputs = draw(&subject, false).unwrap();
        let expected = &on_cpu(&subject, &inputs).unwrap()[0];
        assert_eq!(agrees(&subject, expected, expected), Ok(()));
        let changed = |change: &dyn Fn(&mut [u8])| {
            let mut data = expected.data().to_vec();
            // 64 rows of 64 columns of f16, in the middle.
            (0..64).for_each(|row| {
                let at = 2 * ((1000 + row) * 2048 + 1030);
                change(&mut data[at..at + 128]);
            });
            Tensor::new(DType::F16, vec![2048, 2048], Bytes::from(data)).unwrap()
        };
        assert!(agrees(&subject, expected, &changed(&|tile| tile.fill(0xcb))).is_err());
        assert!(agrees(&subject, expected, &changed(&|tile| tile.fill(0))).is_err());
        assert!(agrees(&subject, expected, &changed(&|tile| tile.rotate_left(2))).is_err());
        // The last bit of each.
        let rounded = |tile: &mut [u8]| tile.iter_mut().step_by(2).for_each(|low| *low ^= 1);
        assert_eq!(agrees(&subject, expected, &changed(&rounded)), Ok(()));
        assert!(agrees(&subject, expected, &Tensor::zeros(DType::F16, &[2048, 1024]).unwrap()).is_err());
    }

    #[test]
    fn integers_are_equal_and_indices_exist() {
        let mut b = Builder::new("g");
        let x = b.input("x", DType::I32, &[Dim::from(9), Dim::from(4)]).unwrap();
        let at = b.input("at", DType::I64, &[Dim::from(1000)]).unwrap();
        let y = b.gather(x, at, 0).unwrap();
        b.output("y", y);
        let subject = subject(b.finish());
        let inputs = draw(&subject, false).unwrap();
        let drawn = inputs[1].to_i128_vec().unwrap();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&0), Some(&8)));
        let expected = &on_cpu(&subject, &inputs).unwrap()[0];
        let mut data = expected.data().to_vec();
        data[4000] ^= 1;
        let other = Tensor::new(DType::I32, expected.shape().to_vec(), Bytes::from(data)).unwrap();
        assert!(agrees(&subject, expected, expected).is_ok() && agrees(&subject, expected, &other).is_err());
    }

    #[test]
    fn roots_get_data_that_has_them() {
        let mut b = Builder::new("g");
        let x = b.input("x", DType::F32, &[Dim::from(300)]).unwrap();
        let y = b.log(x).unwrap();
        let y = b.sqrt(y).unwrap();
        let z = b.sqrt(x).unwrap();
        b.output("y", y);
        b.output("z", z);
        let subject = subject(b.finish());
        let (inputs, expected) = with_results(&subject, 1.0).unwrap();
        assert!(inputs[0].to_f64_vec().iter().all(|v| *v >= 0.0));
        assert!(expected.unwrap()[1].to_f64_vec().iter().all(|v| v.is_finite()));
        assert!(with_results(&subject, 1e15).unwrap().1.is_none());
    }
}
