//! Random graphs over every primitive, with symbolic dims.

use kiln_graph::*;

/// Extents of the symbols in a generated graph.
pub struct Generated {
    pub graph: Graph,
    pub inputs: Vec<Tensor>,
}

/// A graph of about `size` nodes. Recipes that do not fit the values picked are left out.
pub fn generate(seed: u64, size: usize) -> Generated {
    let mut g = Generator::new(seed);
    for _ in 0..size * 3 {
        if g.b.graph().nodes.len() >= size {
            break;
        }
        g.step();
    }
    g.finish()
}

struct Generator {
    rng: Rng,
    b: Builder,
    values: Vec<ValueId>,
    inputs: Vec<Tensor>,
    extents: [i64; 2],
}

impl Generator {
    fn new(seed: u64) -> Generator {
        let mut rng = Rng::new(seed);
        let mut b = Builder::new(format!("random {seed} \"quoted\"\n"));
        b.symbol("B", 1, 4);
        b.symbol("batch.S$1", 1, 9);
        let extents = [rng.range(1, 4), rng.range(1, 9)];
        let mut g = Generator { rng, b, values: Vec::new(), inputs: Vec::new(), extents };
        for i in 0..4 {
            let dtype = match i {
                0 => DType::F32,
                1 => DType::Bool,
                2 => DType::I64,
                _ => *g.pick(&DType::ALL),
            };
            let rank = g.rng.range(1, 4);
            // The first input binds both symbols.
            let shape: Vec<Dim> = match i {
                0 => vec!["B".into(), "batch.S$1".into(), 3i64.into()],
                _ => (0..rank).map(|_| g.dim()).collect(),
            };
            let id = g.b.input(&format!("x{i}"), dtype, &shape).unwrap();
            let shape: Vec<usize> = shape.iter().map(|d| g.value(d)).collect();
            let seed = g.rng.next_u64();
            g.inputs.push(Tensor::random(dtype, &shape, seed).unwrap());
            g.values.push(id);
        }
        g
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.rng.range(0, items.len() as i64 - 1) as usize]
    }

    fn dim(&mut self) -> Dim {
        match self.rng.range(0, 5) {
            0 => Dim::sym("B"),
            1 => Dim::sym("batch.S$1"),
            2 => Dim::sym("batch.S$1") * Dim::from(2) + Dim::from(1),
            n => Dim::from(n - 2),
        }
    }

    fn value(&self, d: &Dim) -> usize {
        let bindings = Bindings::from([("B".to_owned(), self.extents[0]), ("batch.S$1".to_owned(), self.extents[1])]);
        d.eval_extent(&bindings).unwrap()
    }

    fn any(&mut self) -> ValueId {
        let values = self.values.clone();
        *self.pick(&values)
    }

    /// A value whose dtype satisfies `accept`, made by a cast if need be.
    fn of(&mut self, accept: impl Fn(DType) -> bool) -> ValueId {
        let x = self.any();
        if accept(self.b.dtype(x)) {
            return x;
        }
        let fitting: Vec<DType> = DType::ALL.into_iter().filter(|d| accept(*d)).collect();
        let to = *self.pick(&fitting);
        self.b.cast(x, to).unwrap()
    }

    /// A value of the type of `x`: a literal or `x` itself.
    fn like(&mut self, x: ValueId) -> ValueId {
        let ty = self.b.ty(x).clone();
        if self.rng.range(0, 1) == 0 {
            return x;
        }
        let value = Tensor::random(ty.dtype, &[], self.rng.next_u64()).unwrap();
        let value = self.b.constant(value).unwrap();
        self.b.broadcast_to(value, &ty.shape).unwrap()
    }

    fn axis(&mut self, x: ValueId) -> usize {
        self.rng.range(0, self.b.rank(x) as i64 - 1).max(0) as usize
    }

    fn indices(&mut self, shape: &[usize], low: i64, high: i64) -> ValueId {
        let values: Vec<i64> = (0..shape.iter().product()).map(|_| self.rng.range(low, high)).collect();
        self.b.constant(Tensor::from_slice(shape, &values).unwrap()).unwrap()
    }

    fn step(&mut self) {
        let op = self.rng.range(0, 28);
        self.b.push_scope(format!("layer {op}"));
        if let Ok(made) = self.recipe(op) {
            let bounded =
                made.iter().filter(|v| self.b.ty(**v).shape.iter().map(|d| self.value(d)).product::<usize>() <= 4000);
            let bounded: Vec<ValueId> = bounded.copied().collect();
            for v in bounded {
                if self.rng.range(0, 3) == 0 {
                    self.b.set_name(v, format!("value\t{}", v.0));
                }
                self.values.push(v);
            }
        }
        self.b.pop_scope();
    }

    fn recipe(&mut self, op: i64) -> Result<Vec<ValueId>> {
        let number = |d: DType| d != DType::Bool;
        let one = |v: Result<ValueId>| v.map(|v| vec![v]);
        match op {
            0 => {
                let op = *self.pick(UnaryOp::ALL);
                let x = self.of(|d| op.domain().holds(d));
                one(self.b.unary(op, x))
            }
            1 => {
                let op = *self.pick(BinaryOp::ALL);
                let x = match op {
                    // Integers divide by zero, and powers of them grow long.
                    BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem | BinaryOp::Pow => self.of(DType::is_float),
                    _ => self.of(|d| op.domain().holds(d)),
                };
                let y = self.like(x);
                one(self.b.binary(op, x, y))
            }
            2 => {
                let op = *self.pick(CompareOp::ALL);
                let x = self.of(number);
                let y = self.like(x);
                one(self.b.compare(op, x, y))
            }
            3 => {
                let x = self.any();
                let y = self.like(x);
                let seed = self.rng.next_u64();
                let cond = self.b.constant(Tensor::random(DType::Bool, &[], seed)?)?;
                one(self.b.select(cond, x, y))
            }
            4 => {
                let x = self.any();
                let to = *self.pick(&DType::ALL);
                let saturate = self.rng.range(0, 1) == 0;
                one(self.b.add1(Op::Cast { to, saturate }, &[x]))
            }
            5 => {
                let op = *self.pick(ReduceOp::ALL);
                let logical = matches!(op, ReduceOp::All | ReduceOp::Any);
                let x = self.of(|d| (d == DType::Bool) == logical);
                let axes: Vec<usize> = (0..self.b.rank(x)).filter(|_| self.rng.range(0, 1) == 0).collect();
                one(self.b.add1(Op::Reduce { op, axes }, &[x]))
            }
            6 => {
                let op = *self.pick(ArgOp::ALL);
                let x = self.of(number);
                let (axis, last) = (self.axis(x), self.rng.range(0, 1) == 0);
                one(self.b.add1(Op::ArgReduce { op, axis, last }, &[x]))
            }
            7 => {
                let op = *self.pick(ScanOp::ALL);
                let x = self.of(number);
                let (exclusive, reverse) = (self.rng.range(0, 1) == 0, self.rng.range(0, 1) == 0);
                let axis = self.axis(x);
                one(self.b.add1(Op::Scan { op, axis, exclusive, reverse }, &[x]))
            }
            8 => {
                let x = self.of(number);
                let axis = self.axis(x);
                let k = self.b.ty(x).shape.get(axis).cloned().unwrap_or_default();
                self.b.add(Op::TopK { axis, k, largest: self.rng.range(0, 1) == 0 }, &[x])
            }
            9 => {
                let x = self.of(|d| d.is_float() || d.is_int());
                let labels: Vec<char> = ('a'..).take(self.b.rank(x)).collect();
                let n = self.rng.range(0, labels.len() as i64) as usize;
                let out = labels[n..].to_vec();
                let spec = EinsumSpec { lhs: labels.clone(), rhs: labels, out };
                let y = self.like(x);
                let dtype = self.b.dtype(x);
                one(self.b.contract(spec, x, y, dtype.accumulator(), dtype))
            }
            10 => self.conv(),
            11 => {
                let x = self.of(number);
                let op = *self.pick(&[ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min]);
                let n = self.rng.range(0, self.b.rank(x).min(2) as i64) as usize;
                let mut some = |low, high| (0..n).map(|_| self.rng.range(low, high) as usize).collect::<Vec<_>>();
                let spec = WindowSpec {
                    window: some(1, 3),
                    strides: some(1, 3),
                    pads: some(1, 3).into_iter().zip(some(1, 3)).collect(),
                    dilations: some(1, 1),
                };
                one(self.b.window(op, x, spec))
            }
            12 => {
                let x = self.any();
                let mut perm: Vec<usize> = (0..self.b.rank(x)).collect();
                for i in (1..perm.len()).rev() {
                    perm.swap(i, self.rng.range(0, i as i64) as usize);
                }
                one(self.b.add1(Op::Permute { perm }, &[x]))
            }
            13 => {
                let x = self.any();
                let axis = self.rng.range(0, self.b.rank(x) as i64);
                one(self.b.flatten(x, axis))
            }
            14 => {
                let x = self.any();
                let x = self.b.unsqueeze(x, &[0])?;
                let mut shape = self.b.shape(x).to_vec();
                shape[0] = self.dim();
                one(self.b.add1(Op::Broadcast { shape }, &[x]))
            }
            15 => {
                let x = self.any();
                let axis = self.axis(x) as i64;
                let [start, end] = [self.rng.range(-3, 3), self.rng.range(-3, 9)].map(Dim::from);
                let step = *self.pick(&[1, 2, -1, -2]);
                one(self.b.slice_range(x, axis, &start, &end, step))
            }
            16 => {
                let x = self.any();
                let rank = self.b.rank(x);
                let low: Vec<Dim> = (0..rank).map(|_| Dim::from(self.rng.range(0, 2))).collect();
                let high: Vec<Dim> = (0..rank).map(|_| self.dim()).collect();
                let interior: Vec<i64> = (0..rank).map(|_| self.rng.range(0, 2)).collect();
                let value = Tensor::random(self.b.dtype(x), &[], self.rng.next_u64())?;
                let value = self.b.constant(value)?;
                one(self.b.pad_with(x, value, &low, &high, &interior))
            }
            17 => {
                let x = self.any();
                let y = self.like(x);
                let axis = self.axis(x) as i64;
                one(self.b.concat(&[x, y, x], axis))
            }
            18 => {
                let x = self.any();
                let idx = self.indices(&[2, 1, 3], -1, 0);
                let axis = self.axis(x) as i64;
                one(self.b.gather(x, idx, axis))
            }
            19 => {
                let x = self.any();
                let idx = self.indices(&vec![1; self.b.rank(x)], -1, 0);
                let axis = self.axis(x) as i64;
                one(self.b.gather_elements(x, idx, axis))
            }
            20 => {
                let x = self.any();
                let k = self.rng.range(1, self.b.rank(x).max(1) as i64) as usize;
                let idx = self.indices(&[3, k], -1, 0);
                one(self.b.gather_nd(x, idx, 0))
            }
            21 => {
                let x = self.of(number);
                let op = *self.pick(ScatterOp::ALL);
                let shape = vec![1; self.b.rank(x)];
                let idx = self.indices(&shape, -1, 0);
                let updates = Tensor::random(self.b.dtype(x), &shape, self.rng.next_u64())?;
                let updates = self.b.constant(updates)?;
                let axis = self.axis(x) as i64;
                one(self.b.scatter_elements(x, idx, updates, axis, op))
            }
            22 => {
                let x = self.of(number);
                let op = *self.pick(ScatterOp::ALL);
                let idx = self.indices(&[2, 1], -1, 0);
                let row = self.b.gather_nd(x, idx, 0)?;
                one(self.b.scatter_nd(x, idx, row, op))
            }
            23 => {
                let x = self.of(DType::is_float);
                let to =
                    *self.pick(&[DType::I8, DType::U8, DType::I4, DType::U4, DType::F8E4M3, DType::F8E5M2, DType::I16]);
                let axis = self.axis(x);
                let whole = self.b.shape(x).get(axis).cloned().unwrap_or_default();
                let axes = match self.rng.range(0, 2) {
                    0 => QuantAxes::Tensor,
                    _ if self.b.rank(x) == 0 => QuantAxes::Tensor,
                    1 => QuantAxes::Axis(axis),
                    _ => QuantAxes::Block { axis, block: 2 },
                };
                let shape = match &axes {
                    QuantAxes::Tensor => Vec::new(),
                    QuantAxes::Axis(_) => vec![whole],
                    QuantAxes::Block { .. } => {
                        let mut shape = self.b.shape(x).to_vec();
                        shape[axis] = whole.ceil_div(&Dim::from(2));
                        shape
                    }
                };
                let scale = self.b.scalar(DType::F32, 0.07)?;
                let scale = self.b.broadcast_to(scale, &shape)?;
                let zero = self.b.scalar(to, 1.0)?;
                let zero = self.b.broadcast_to(zero, &shape)?;
                let q = self.b.quantize(x, scale, zero, axes.clone())?;
                let d = self.b.dequantize(q, scale, zero, axes)?;
                Ok(vec![q, d])
            }
            24 => {
                let dtype = *self.pick(&[DType::I32, DType::F16, DType::U8]);
                let shape = [self.dim(), self.dim()];
                one(self.b.iota(dtype, &shape, 1))
            }
            25 => {
                let d = self.dim() + Dim::sym("B");
                one(self.b.add1(Op::DimValue { dim: d }, &[]))
            }
            26 => self.branch(),
            27 => self.repeat(),
            _ => self.grouped(),
        }
    }

    fn conv(&mut self) -> Result<Vec<ValueId>> {
        let x = self.of(|d| d == DType::F32 || d == DType::I32);
        let dtype = self.b.dtype(x);
        let (groups, spatial) = (self.rng.range(1, 2) as usize, self.rng.range(1, 2) as usize);
        let axes: Vec<i64> = (0..self.b.rank(x) as i64).collect();
        let x = self.b.reduce(ReduceOp::Max, x, &axes, false)?;
        let mut shape = vec![self.dim(), Dim::from(2 * groups)];
        shape.extend((0..spatial).map(|_| self.dim() + Dim::from(3i64)));
        let ramp = self.b.iota(dtype, &shape, 1 + spatial)?;
        let x = self.b.plus(ramp, x)?;
        let w = [vec![groups * 3, 2], vec![3; spatial]].concat();
        let w = self.b.constant(Tensor::random(dtype, &w, self.rng.next_u64())?)?;
        let spec = ConvSpec {
            strides: vec![self.rng.range(1, 2) as usize; spatial],
            pads: vec![(self.rng.range(0, 1) as usize, 1); spatial],
            dilations: vec![1; spatial],
            groups,
        };
        Ok(vec![self.b.conv(x, w, None, spec)?])
    }

    fn grouped(&mut self) -> Result<Vec<ValueId>> {
        let x = self.of(|d| d == DType::F32 || d == DType::I32);
        let (dtype, x) = (self.b.dtype(x), self.b.flatten(x, 1)?);
        let (rows, depth) = (self.b.shape(x)[0].clone(), self.b.shape(x)[1].clone());
        // Symbols are no extents of constants.
        let w = self.b.constant(Tensor::random(dtype, &[3, 1, 2], self.rng.next_u64())?)?;
        let w = self.b.broadcast_to(w, &[3.into(), depth, 2.into()])?;
        let ends = [0, self.rng.range(0, 1), 1].map(|end| end.min(self.value(&rows) as i64));
        let ends = self.b.constant(Tensor::from_slice(&[3], &ends)?)?;
        Ok(vec![self.b.grouped_matmul(x, w, ends, false)?])
    }

    fn branch(&mut self) -> Result<Vec<ValueId>> {
        let x = self.any();
        let ty = self.b.ty(x).clone();
        let make = |name: &str, turned: bool| -> Result<Box<Graph>> {
            let mut b = Builder::new(name);
            let v = b.input("v", ty.dtype, &ty.shape)?;
            let v = if turned && ty.dtype != DType::Bool { b.neg(v)? } else { v };
            b.output("r", v);
            Ok(Box::new(b.finish()))
        };
        let seed = self.rng.next_u64();
        let cond = self.b.constant(Tensor::random(DType::Bool, &[], seed)?)?;
        self.b.add(Op::If { then_graph: make("then", false)?, else_graph: make("else", true)? }, &[cond, x])
    }

    fn repeat(&mut self) -> Result<Vec<ValueId>> {
        let x = self.of(|d| d != DType::Bool);
        let ty = self.b.ty(x).clone();
        let mut body = Builder::new("body");
        let i = body.input("i", DType::I64, &[])?;
        let cond = body.input("cond", DType::Bool, &[])?;
        let v = body.input("v", ty.dtype, &ty.shape)?;
        let step = body.cast(i, ty.dtype)?;
        let next = body.plus(v, step)?;
        body.output("cond", cond);
        body.output("v", next);
        body.output("scan", i);
        let n = self.dim();
        let trip = self.b.add1(Op::DimValue { dim: n.clone() }, &[])?;
        let on = self.b.constant(Tensor::scalar(true))?;
        self.b.add(Op::Loop { body: Box::new(body.finish()), carried: 1, trip: Some(n) }, &[trip, on, x])
    }

    fn finish(mut self) -> Generated {
        let count = self.values.len();
        for (i, v) in self.values.clone().into_iter().enumerate().skip(count.saturating_sub(6)) {
            self.b.output(format!("out {i}"), v);
        }
        Generated { graph: self.b.finish(), inputs: self.inputs }
    }
}
