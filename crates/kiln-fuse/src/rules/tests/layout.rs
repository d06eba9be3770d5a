//! Nets with channels last compute what they did, and only what follows axis by axis has a twin.

use super::super::{Saturation, all, layout, merge, repeat, saturate};
use super::{agree, options};
use crate::egraph::{ClassIx, Dag, build, settle};
use kiln_graph::{Builder, ConvSpec, DType, Dim, Graph, Op, Pool, ReduceOp, Result, Rng, Tensor, ValueId, WindowSpec};

/// What the pass makes of a graph, all of whose twins are kept if so: how many, and the dag.
fn twinned(graph: &Graph, keep: bool) -> (usize, Dag, Vec<ClassIx>) {
    let built = build(graph).unwrap();
    let (mut egraph, mut done): (_, Saturation) = saturate(built.egraph, all().unwrap(), &options()).unwrap();
    repeat(&mut egraph, &mut done);
    merge(&mut egraph, &mut done, true);
    let roots: Vec<_> = graph.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
    layout::twin(&mut egraph, &mut done, &roots, |layout, _| if keep { layout.all() } else { Default::default() });
    settle(&mut egraph);
    let dag = Dag::new(&egraph, &roots);
    assert_eq!(egraph.analysis.unsound, Vec::<String>::new());
    let roots = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
    (done.fired.get("channels-last").copied().unwrap_or(0), dag, roots)
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.range(0, of.len() as i64 - 1) as usize]
}

/// A net of random layers: 1 to 3 spatial axes of any size, groups, dilations, strides; what stands between convolutions in models.
struct Net<'a> {
    b: Builder,
    rng: &'a mut Rng,
    inputs: Vec<Tensor>,
    weights: usize,
    axes: usize,
}

impl Net<'_> {
    fn weight(&mut self, shape: &[usize]) -> Result<ValueId> {
        self.weights += 1;
        let data = Tensor::generate(DType::F64, shape, |_| self.rng.signed())?;
        self.b.weight_data(&format!("w{}", self.weights), data)
    }

    fn input(&mut self, shape: &[Dim], sizes: &[usize]) -> Result<ValueId> {
        self.inputs.push(Tensor::generate(DType::F64, sizes, |_| 2.0 * self.rng.signed())?);
        self.b.input(&format!("x{}", self.inputs.len()), DType::F64, shape)
    }

    fn channels(&self, x: ValueId) -> usize {
        self.b.shape(x)[1].as_const().unwrap() as usize
    }

    fn space(&self, x: ValueId) -> Vec<i64> {
        self.b.shape(x)[2..].iter().map(|d| d.as_const().unwrap()).collect()
    }

    fn conv(&mut self, x: ValueId, to: usize) -> Result<ValueId> {
        let (from, axes) = (self.channels(x), self.axes);
        let groups = pick(self.rng, &[1, 1, 2, from]);
        let groups = if from.is_multiple_of(groups) && to.is_multiple_of(groups) { groups } else { 1 };
        let mut spec = ConvSpec { strides: vec![], pads: vec![], dilations: vec![], groups };
        let mut shape = vec![to, from / groups];
        for _ in 0..axes {
            let taps = pick(self.rng, &[1, 1, 3, 2]);
            shape.push(taps);
            spec.strides.push(if taps > 1 { pick(self.rng, &[1, 1, 2]) } else { 1 });
            spec.dilations.push(pick(self.rng, &[1, 1, 2]));
            let before = pick(self.rng, &[0, 1]);
            // No window is longer than what it is of.
            spec.pads.push(if taps > 1 { (2 + before, 2) } else { (0, 0) });
        }
        // A filter may be computed too.
        let w = match self.rng.range(0, 9) {
            0 => {
                let dims: Vec<Dim> = shape.iter().map(|n| Dim::from(*n)).collect();
                self.input(&dims, &shape)?
            }
            _ => self.weight(&shape)?,
        };
        let bias = if self.rng.range(0, 1) == 0 { Some(self.weight(&[to])?) } else { None };
        self.b.conv(x, w, bias, spec)
    }

    fn layer(&mut self, x: ValueId) -> Result<ValueId> {
        let (channels, axes) = (self.channels(x), self.axes);
        let spatial: Vec<i64> = (2..2 + axes as i64).collect();
        match self.rng.range(0, 15) {
            0 => {
                let v = [(); 3].map(|()| self.weight(&[channels]));
                let [scale, shift, mean] = v;
                let var = Tensor::generate(DType::F64, &[channels], |_| 0.5 + self.rng.unit())?;
                let var = self.b.weight_data(&format!("var{}", self.weights), var)?;
                self.b.batch_norm(x, scale?, shift?, mean?, var, 1e-3)
            }
            1 => self.b.hard_swish(x),
            2 => {
                let spec = WindowSpec {
                    window: vec![2; axes],
                    strides: vec![pick(self.rng, &[1, 2]); axes],
                    pads: vec![(1, 1); axes],
                    dilations: vec![1; axes],
                };
                let op = pick(self.rng, &[ReduceOp::Max, ReduceOp::Sum]);
                match op {
                    ReduceOp::Max => self.b.max_pool(x, &Pool { spec, ceil_mode: false }),
                    op => self.b.window(op, x, spec),
                }
            }
            // Squeezed and excited.
            3 => {
                let s = self.b.global_avg_pool(x)?;
                let mut shape = vec![1; axes];
                shape.splice(0..0, [channels, channels]);
                let w = self.weight(&shape)?;
                let ones = vec![1; axes];
                let spec = ConvSpec { strides: ones.clone(), pads: vec![(0, 0); axes], dilations: ones, groups: 1 };
                let s = self.b.conv(s, w, None, spec)?;
                let s = self.b.sigmoid(s)?;
                self.b.mul(x, s)
            }
            // Each pixel of an axis twice.
            4 => {
                let shape = self.b.shape(x).to_vec();
                let axis = 2 + self.rng.range(0, axes as i64 - 1) as usize;
                let mut wide = shape.clone();
                wide.insert(axis + 1, 1.into());
                let y = self.b.reshape(x, &wide)?;
                wide[axis + 1] = 2.into();
                let y = self.b.broadcast_to(y, &wide)?;
                let mut to = shape;
                to[axis] = to[axis].clone() * Dim::from(2);
                self.b.reshape(y, &to)
            }
            5 => {
                let y = self.conv(x, channels)?;
                let same = self.b.shape(y) == self.b.shape(x);
                if same { self.b.concat(&[x, y], 1) } else { Ok(y) }
            }
            6 if channels > 1 => {
                let size = Dim::from(channels - 1);
                let y = self.b.slice_axis(x, 1, &Dim::from(1), &size, 1)?;
                self.b.relu(y)
            }
            7 => {
                let value = self.b.scalar(DType::F64, 0.5)?;
                let mut low = vec![Dim::from(0); 2 + axes];
                low[2] = 1.into();
                let high = vec![Dim::from(0); 2 + axes];
                self.b.pad_with(x, value, &low, &high, &vec![0; 2 + axes])
            }
            // A norm over channels, and one over groups of them; beside the value, or rounding might be all there is.
            8 => {
                let mean = self.b.mean(x, &[1], true)?;
                let y = self.b.sub(x, mean)?;
                self.b.plus(x, y)
            }
            9 if channels % 2 == 0 => {
                let y = self.b.group_norm(x, 2, None, None, 1e-3)?;
                self.b.plus(x, y)
            }
            // Tokens and back.
            10 => {
                let shape = self.b.shape(x).to_vec();
                let flat: Dim = shape[2..].iter().cloned().fold(Dim::from(1), |n, d| n * d);
                let y = self.b.reshape(x, &[shape[0].clone(), shape[1].clone(), flat])?;
                let y = self.b.transpose(y, &[0, 2, 1])?;
                let w = self.weight(&[channels, channels])?;
                let y = self.b.matmul(y, w)?;
                let y = self.b.transpose(y, &[0, 2, 1])?;
                let y = self.b.reshape(y, &shape)?;
                self.b.plus(x, y)
            }
            11 => {
                let places: Vec<i64> = self.space(x);
                let count = pick(self.rng, &[1, 3]);
                let data: Vec<i128> = (0..count).map(|_| self.rng.range(0, places[0] - 1).into()).collect();
                let idx = self.b.constant(Tensor::from_i128(DType::I64, &[count], &data)?)?;
                self.b.gather(x, idx, 2)
            }
            12 => {
                let y = self.b.flip(x, 2)?;
                self.b.plus(x, y)
            }
            13 => {
                let m = self.b.reduce_max(x, &spatial, true)?;
                self.b.div(x, m)
            }
            _ => {
                let to = pick(self.rng, &[1, 2, 3, 4]);
                self.conv(x, to)
            }
        }
    }
}

fn net(rng: &mut Rng, symbolic: bool) -> Result<(Graph, Vec<Tensor>)> {
    let axes = pick(rng, &[1, 2, 2, 3]);
    let mut net = Net { b: Builder::new("net"), rng, inputs: vec![], weights: 0, axes };
    let batch = pick(net.rng, &[1, 2]);
    let n = if symbolic { net.b.symbol("N", 1, 4) } else { Dim::from(batch) };
    let channels = pick(net.rng, &[1, 2, 3, 4]);
    let sides: Vec<usize> = (0..axes).map(|_| pick(net.rng, &[1, 2, 3, 5])).collect();
    let sizes = [&[batch, channels], &sides[..]].concat();
    let mut shape: Vec<Dim> = sizes.iter().map(|n| Dim::from(*n)).collect();
    shape[0] = n;
    let x = net.input(&shape, &sizes)?;
    let to = pick(net.rng, &[2, 4]);
    let mut y = net.conv(x, to)?;
    let mut between = vec![y];
    for _ in 0..net.rng.range(1, 5) {
        y = net.layer(y)?;
        between.push(y);
    }
    // Something beside the last result, as it is in the middle or in another form.
    match net.rng.range(0, 3) {
        0 => {
            let z = between[between.len() / 2];
            net.b.output("z", z);
        }
        1 => {
            let z = net.b.flatten(y, 1)?;
            let z = net.b.softmax(z, -1)?;
            net.b.output("z", z);
        }
        2 => {
            let z = net.b.global_avg_pool(y)?;
            net.b.output("z", z);
        }
        _ => {}
    }
    net.b.output("y", y);
    Ok((net.b.finish(), net.inputs))
}

#[test]
fn nets_with_channels_last_keep_values() {
    let mut rng = Rng::new(271);
    let (mut twins, mut wide) = (0, 0);
    for case in 0..200 {
        let (graph, inputs) = net(&mut rng, case % 3 == 0).unwrap();
        let (found, dag, roots) = twinned(&graph, true);
        let what = format!("case {case}");
        assert!(found > 0, "{what}: no twins in\n{:?}", graph.nodes);
        twins += found;
        wide += usize::from(found > 4);
        agree((&graph, &inputs), (&dag, &roots), &mut rng, if case < 20 { 50 } else { 4 }, 1e-10, &what);
    }
    assert!(twins > 600 && wide > 50, "{twins}, {wide}");
}

/// Whether convolutions read permutes, and how many permutes of values that are no weights stand before anything else.
fn permutes(dag: &Dag) -> (usize, usize) {
    let node = |c: &ClassIx, is: fn(&Op) -> bool| dag.class(*c).nodes.iter().any(|n| n.op.as_ref().is_some_and(is));
    let permutes = |op: &Op| matches!(op, Op::Permute { .. });
    let read = dag.indices().flat_map(|c| &dag.class(c).nodes).filter(|n| matches!(n.op, Some(Op::Conv { .. })));
    let read: Vec<ClassIx> = read.map(|n| n.operands[0]).collect();
    let convolves = |c: &ClassIx| node(c, |op| matches!(op, Op::Conv { .. }));
    let others = dag.indices().filter(|c| node(c, permutes) && !dag.class(*c).weight_only && !read.contains(c));
    let moved = others.filter(|c| {
        !dag.class(*c).nodes.iter().any(|n| n.op.as_ref().is_some_and(permutes) && convolves(&n.operands[0]))
    });
    (read.iter().filter(|c| node(c, permutes)).count(), moved.count())
}

fn one(make: impl FnOnce(&mut Builder) -> Result<Vec<ValueId>>) -> Graph {
    let mut b = Builder::new("one");
    for (i, y) in make(&mut b).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), y);
    }
    b.finish()
}

fn filter(b: &mut Builder, name: &str, shape: &[usize]) -> Result<ValueId> {
    b.weight_data(name, Tensor::random(DType::F64, shape, 3)?)
}

fn same(axes: usize, pad: usize) -> ConvSpec {
    ConvSpec { strides: vec![1; axes], pads: vec![(pad, pad); axes], dilations: vec![1; axes], groups: 1 }
}

#[test]
fn nothing_is_laid_out_between_convolutions() {
    let graph = one(|b| {
        let mut x = b.input("x", DType::F64, &[2, 3, 5, 4].map(Dim::from))?;
        for i in 0..3 {
            let from = b.shape(x)[1].as_const().unwrap() as usize;
            let w = filter(b, &format!("w{i}"), &[6, from, 3, 3])?;
            let y = b.conv(x, w, None, same(2, 1))?;
            let y = b.relu(y)?;
            x = if from == 6 { b.plus(x, y)? } else { y };
        }
        Ok(vec![x])
    });
    let (found, dag, _) = twinned(&graph, true);
    let (read, moved) = permutes(&dag);
    // The first reads what it is given; the result is in the model's order behind the last.
    assert!(found >= 8 && read == 2 && moved <= 1, "{found} twins, {read} images, {moved} moved");
    assert_eq!(twinned(&graph, false).0, 0);
}

/// What has no convolution has no twins, and what mixes axes ends them.
#[test]
fn twins_end_where_axes_are_mixed() {
    let plain = one(|b| {
        let x = b.input("x", DType::F64, &[2, 3, 5, 4].map(Dim::from))?;
        let y = b.relu(x)?;
        Ok(vec![b.global_avg_pool(y)?])
    });
    assert_eq!(twinned(&plain, true).0, 0);
    let count = |end: fn(&mut Builder, ValueId) -> Result<ValueId>| {
        let graph = one(|b| {
            let x = b.input("x", DType::F64, &[2, 3, 5, 4].map(Dim::from))?;
            let w = filter(b, "w", &[4, 3, 3, 3])?;
            let y = b.conv(x, w, None, same(2, 1))?;
            let z = end(b, y)?;
            let z = b.exp(z)?;
            Ok(vec![z])
        });
        let (found, ..) = twinned(&graph, true);
        found
    };
    // The convolution, and what follows: both, or the first alone.
    assert_eq!(count(|b, y| b.exp(y)), 3);
    assert_eq!(count(|b, y| b.reshape(y, &[2, 2, 2, 20].map(Dim::from))), 3, "space and groups of channels");
    assert_eq!(count(|b, y| b.reshape(y, &[2, 80].map(Dim::from))), 1, "channels and space");
    assert_eq!(count(|b, y| b.reshape(y, &[8, 20].map(Dim::from))), 1, "batch and channels");
    assert_eq!(count(|b, y| b.reshape(y, &[2, 20, 4].map(Dim::from))), 1, "channels and rows");
    assert_eq!(count(|b, y| b.cumsum(y, 1, false, false)), 1, "a scan");
    // A greatest of space is what it was.
    assert_eq!(count(|b, y| b.reduce_max(y, &[2, 3], false)), 1);
    assert_eq!(count(|b, y| b.reduce_max(y, &[0], false)), 3);
}
