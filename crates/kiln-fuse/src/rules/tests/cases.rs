//! Random instances of each rule's left-hand side.

use kiln_graph::{
    BinaryOp, Builder, CompareOp, ConvSpec, DType, Dim, EinsumSpec, Graph, Op, ReduceOp, Rng, Tensor, UnaryOp, ValueId,
};

/// A graph under construction with random shapes and data.
pub(super) struct Case<'a> {
    pub b: Builder,
    pub rng: &'a mut Rng,
    /// Infinities, NaN and zeros among the data.
    special: bool,
    inputs: Vec<Tensor>,
}

/// A graph that the rule matches, and inputs for it.
pub(super) fn instance(rule: &str, rng: &mut Rng, special: bool) -> (Graph, Vec<Tensor>) {
    let mut c = Case { b: Builder::new(rule), rng, special, inputs: Vec::new() };
    let y = c.left_hand_side(rule);
    c.b.output("y", y);
    (c.b.finish(), c.inputs)
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

impl Case<'_> {
    fn extent(&mut self) -> usize {
        [1, 2, 3, 5][self.rng.range(0, 3) as usize]
    }

    fn shape(&mut self, low: i64, high: i64) -> Vec<usize> {
        (0..self.rng.range(low, high)).map(|_| self.extent()).collect()
    }

    fn data(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let special = self.special && dtype.is_float();
        let rng = &mut *self.rng;
        let value = |_| match rng.range(0, 9) {
            _ if dtype == DType::Bool => rng.range(0, 1) as f64,
            0 if special => f64::NEG_INFINITY,
            1 if special => f64::INFINITY,
            2 if special => f64::NAN,
            3 if special => 0.0,
            _ if dtype.is_float() => 4.0 * rng.signed(),
            _ if dtype.is_signed() => rng.range(-9, 9) as f64,
            _ => rng.range(0, 9) as f64,
        };
        Tensor::generate(dtype, shape, value).unwrap()
    }

    fn input(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let data = self.data(dtype, shape);
        let name = format!("x{}", self.inputs.len());
        self.inputs.push(data);
        self.b.input(&name, dtype, &dims(shape)).unwrap()
    }

    fn x(&mut self, shape: &[usize]) -> ValueId {
        self.input(DType::F64, shape)
    }

    /// Positive values.
    fn positive(&mut self, shape: &[usize]) -> ValueId {
        let x = self.x(shape);
        let x = self.b.abs(x).unwrap();
        self.b.plus_scalar(x, 0.25).unwrap()
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let data = Tensor::generate(DType::F64, shape, |_| 0.25 + self.rng.unit()).unwrap();
        let name = format!("w{}", self.b.graph().weights.len());
        self.b.weight_data(&name, data).unwrap()
    }

    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            p.swap(i, self.rng.range(0, i as i64) as usize);
        }
        p
    }

    fn permute(&mut self, x: ValueId, perm: Vec<usize>) -> ValueId {
        self.b.add1(Op::Permute { perm }, &[x]).unwrap()
    }

    fn broadcast(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.b.add1(Op::Broadcast { shape: dims(shape) }, &[x]).unwrap()
    }

    fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.b.add1(Op::Reshape { shape: dims(shape) }, &[x]).unwrap()
    }

    /// Start, size and step of each axis.
    fn slice<const N: usize>(&mut self, x: ValueId, axes: [(usize, usize, i64); N]) -> ValueId {
        let op = Op::Slice {
            starts: dims(&axes.map(|a| a.0)),
            sizes: dims(&axes.map(|a| a.1)),
            steps: axes.map(|a| a.2).to_vec(),
        };
        self.b.add1(op, &[x]).unwrap()
    }

    /// A shape that broadcasts to `full`: some axes 1, some leading ones dropped.
    fn narrower(&mut self, full: &[usize]) -> Vec<usize> {
        let from = self.rng.range(0, full.len() as i64) as usize;
        full[from..].iter().map(|&d| if self.rng.range(0, 1) == 0 { 1 } else { d }).collect()
    }

    fn binary_case(&mut self, op: BinaryOp, constant: f64) -> ValueId {
        let shape = self.shape(0, 3);
        let x = self.x(&shape);
        self.b.binary_scalar(op, x, constant).unwrap()
    }

    /// An op of halves side by side and of something else.
    fn concat_last(&mut self, op: &str) -> ValueId {
        let mut shape = self.shape(1, 3);
        let axis = self.rng.range(0, shape.len() as i64 - 1) as usize;
        let half = shape.clone();
        shape[axis] *= 2;
        let y = self.x(&shape);
        let [mut first, mut second] = [0, 1].map(|which| {
            let extent = half[axis];
            self.b.slice_axis(y, axis as i64, &Dim::from(which * extent), &Dim::from(extent), 1).unwrap()
        });
        second = self.b.unary(UnaryOp::Neg, second).unwrap();
        if self.rng.range(0, 1) == 0 {
            let factor = self.x(&half);
            first = self.b.mul(first, factor).unwrap();
        }
        let joined = self.b.concat(&[second, first], axis as i64).unwrap();
        if op == "cast" {
            return self.b.cast(joined, DType::F32).unwrap();
        }
        let beside = match self.rng.range(0, 4) {
            0 => self.x(&shape),
            1 => self.b.abs(y).unwrap(),
            2 => {
                let parts = [self.x(&half), self.x(&half)];
                self.b.concat(&parts, axis as i64).unwrap()
            }
            3 => {
                let narrow = self.narrower(&shape);
                let x = self.x(&narrow);
                let x = self.broadcast(x, &shape);
                self.b.mul(y, x).unwrap()
            }
            _ => {
                let narrow = self.narrower(&shape);
                let x = self.x(&narrow);
                self.broadcast(x, &shape)
            }
        };
        let (name, right) = op.split_once('-').unwrap_or((op, ""));
        let (a, b) = if right.is_empty() { (joined, beside) } else { (beside, joined) };
        self.b.binary(BinaryOp::from_name(name).unwrap(), a, b).unwrap()
    }

    fn left_hand_side(&mut self, rule: &str) -> ValueId {
        let shape = self.shape(1, 4);
        if let Some(op) = rule.strip_prefix("broadcast-last-") {
            return self.broadcast_last(op);
        }
        if let Some(op) = rule.strip_prefix("concat-last-") {
            return self.concat_last(op);
        }
        if let Some(name) = rule.strip_suffix("-of-units").filter(|n| n.starts_with("reduce_")) {
            let mut shape = shape;
            let axis = self.rng.range(0, shape.len() as i64 - 1);
            shape[axis as usize] = 1;
            let (op, x) = self.reducible(name, &shape);
            return self.b.reduce(op, x, &[axis], false).unwrap();
        }
        if let Some(name) = rule.strip_suffix("-twice").filter(|n| n.starts_with("reduce_")) {
            let shape = self.shape(2, 4);
            let (op, x) = self.reducible(name, &shape);
            let inner = self.rng.range(0, shape.len() as i64 - 1);
            let y = self.b.reduce(op, x, &[inner], false).unwrap();
            let outer = self.rng.range(0, shape.len() as i64 - 2);
            return self.b.reduce(op, y, &[outer], false).unwrap();
        }
        if rule == "sum-of-broadcast" {
            let wide = self.shape(1, 4);
            let narrow: Vec<usize> = wide.iter().map(|&d| if self.rng.range(0, 1) == 0 { 1 } else { d }).collect();
            let lead = self.rng.range(0, wide.len() as i64) as usize;
            let spread = |axis: &i64| (*axis as usize) < lead || narrow[*axis as usize] == 1;
            let mut axes: Vec<i64> = (0..wide.len() as i64).filter(spread).collect();
            if axes.is_empty() {
                return self.left_hand_side(rule);
            }
            axes.truncate(self.rng.range(1, axes.len() as i64) as usize);
            let x = self.x(&narrow[lead..]);
            let x = self.b.add1(Op::Broadcast { shape: dims(&wide) }, &[x]).unwrap();
            return self.b.reduce(ReduceOp::Sum, x, &axes, false).unwrap();
        }
        if let Some(op) = rule.strip_prefix("reshape-last-") {
            return self.reshape_last(op);
        }
        if let Some((op, _)) = rule.split_once("-associates-") {
            let op = BinaryOp::from_name(op).unwrap();
            let [x, y, z] = [(); 3].map(|()| self.x(&shape));
            let pair = self.b.binary(op, x, y).unwrap();
            let (a, b) = if rule.contains("left") { (pair, z) } else { (z, pair) };
            return self.b.binary(op, a, b).unwrap();
        }
        match rule {
            "quotient-is-product" => {
                let (x, y) = (self.x(&shape), self.positive(&shape));
                self.b.div(x, y).unwrap()
            }
            "recip-is-quotient" | "recip-is-quotient-left" => {
                let (x, y) = (self.x(&shape), self.positive(&shape));
                let r = self.b.recip(y).unwrap();
                let (a, b) = if rule == "recip-is-quotient" { (x, r) } else { (r, x) };
                self.b.mul(a, b).unwrap()
            }
            "recip-of-rows-is-quotient" => {
                let narrow = self.narrower(&shape);
                let (x, y) = (self.x(&shape), self.positive(&narrow));
                let r = self.b.recip(y).unwrap();
                let r = self.broadcast(r, &shape);
                self.b.binary(BinaryOp::Mul, x, r).unwrap()
            }
            "rsqrt-is-recip" => {
                let x = self.positive(&shape);
                self.b.rsqrt(x).unwrap()
            }
            "mul-one" => self.binary_case(BinaryOp::Mul, 1.0),
            "div-one" => self.binary_case(BinaryOp::Div, 1.0),
            "add-zero" => self.binary_case(BinaryOp::Add, 0.0),
            "sub-zero" => self.binary_case(BinaryOp::Sub, 0.0),
            "pow-one" => self.binary_case(BinaryOp::Pow, 1.0),
            "square" => self.binary_case(BinaryOp::Pow, 2.0),
            "cube" => self.binary_case(BinaryOp::Pow, 3.0),
            "pow-half" => {
                let x = self.positive(&shape);
                self.b.binary_scalar(BinaryOp::Pow, x, 0.5).unwrap()
            }
            "neg-neg" => {
                let dtype = [DType::F64, DType::I32, DType::F16][self.rng.range(0, 2) as usize];
                let x = self.input(dtype, &shape);
                let y = self.b.unary(UnaryOp::Neg, x).unwrap();
                self.b.unary(UnaryOp::Neg, y).unwrap()
            }
            "not-not" => {
                let dtype = [DType::Bool, DType::I32, DType::U8][self.rng.range(0, 2) as usize];
                let x = self.input(dtype, &shape);
                let y = self.b.unary(UnaryOp::Not, x).unwrap();
                self.b.unary(UnaryOp::Not, y).unwrap()
            }
            "abs-neg" => {
                let x = self.x(&shape);
                let y = self.b.unary(UnaryOp::Neg, x).unwrap();
                self.b.abs(y).unwrap()
            }
            "max-self" | "min-self" => {
                let x = self.x(&shape);
                let op = if rule == "max-self" { BinaryOp::Max } else { BinaryOp::Min };
                self.b.binary(op, x, x).unwrap()
            }
            "select-same" => {
                let (c, x) = (self.input(DType::Bool, &shape), self.x(&shape));
                self.b.select(c, x, x).unwrap()
            }
            "select-known" => {
                let (x, y) = (self.x(&shape), self.x(&shape));
                let known = f64::from(self.rng.range(0, 1) as i32);
                let c = self.b.scalar(DType::Bool, known).unwrap();
                let c = self.broadcast(c, &shape);
                self.b.select(c, x, y).unwrap()
            }
            "add-neg" => {
                let (x, y) = (self.x(&shape), self.x(&shape));
                let y = self.b.unary(UnaryOp::Neg, y).unwrap();
                self.b.plus(x, y).unwrap()
            }
            "cast-same" => {
                let x = self.x(&shape);
                self.b.add1(Op::Cast { to: DType::F64, saturate: false }, &[x]).unwrap()
            }
            "cast-cast" => {
                use DType::{BF16, Bool, F8E4M3, F8E5M2, F16, F32, F64, I8, I16, I32, I64, U8};
                let pairs = [(F16, F32), (BF16, F32), (F8E4M3, F16), (F8E5M2, BF16), (F32, F64), (I8, I32), (U8, I16)];
                let more = [(I32, F64), (I16, F32), (U8, F16), (I8, BF16), (I64, I64), (Bool, F32)];
                let all = [pairs.as_slice(), more.as_slice()].concat();
                let (from, middle) = all[self.rng.range(0, all.len() as i64 - 1) as usize];
                let to = [F16, F32, F64, I8, I32, U8, Bool, F8E4M3][self.rng.range(0, 7) as usize];
                let x = self.input(from, &shape);
                let y = self.b.add1(Op::Cast { to: middle, saturate: false }, &[x]).unwrap();
                self.b.add1(Op::Cast { to, saturate: true }, &[y]).unwrap()
            }
            "recip-sqrt" => {
                let x = self.positive(&shape);
                let y = self.b.unary(UnaryOp::Sqrt, x).unwrap();
                self.b.unary(UnaryOp::Recip, y).unwrap()
            }
            "div-sqrt" => {
                let (a, x) = (self.x(&shape), self.positive(&shape));
                let y = self.b.unary(UnaryOp::Sqrt, x).unwrap();
                self.b.div(a, y).unwrap()
            }
            "div-sqrt-of-rows" => {
                let a = self.x(&shape);
                let narrow = self.narrower(&shape);
                let x = self.positive(&narrow);
                let y = self.b.unary(UnaryOp::Sqrt, x).unwrap();
                let y = self.broadcast(y, &shape);
                self.b.binary(BinaryOp::Div, a, y).unwrap()
            }
            _ => match rule.split('-').next() {
                Some("contract" | "permuted" | "pointwise") => self.contraction(rule),
                Some("grouped") => self.groups(),
                Some("exponentials" | "scale" | "div" | "distribute" | "gather") => self.scale(rule),
                _ => self.view(rule, shape),
            },
        }
    }

    fn reducible(&mut self, name: &str, shape: &[usize]) -> (ReduceOp, ValueId) {
        let op = ReduceOp::from_name(name.trim_start_matches("reduce_")).unwrap();
        let dtype = if matches!(op, ReduceOp::All | ReduceOp::Any) { DType::Bool } else { DType::F64 };
        (op, self.input(dtype, shape))
    }

    fn broadcast_last(&mut self, op: &str) -> ValueId {
        let full = self.shape(1, 4);
        let narrow = self.narrower(&full);
        if op == "cast" {
            let x = self.x(&narrow);
            let y = self.broadcast(x, &full);
            return self.b.add1(Op::Cast { to: DType::F16, saturate: false }, &[y]).unwrap();
        }
        if let Some(u) = UnaryOp::from_name(op) {
            let dtype = if u == UnaryOp::Not { DType::Bool } else { DType::F64 };
            let x = self.input(dtype, &narrow);
            let y = self.broadcast(x, &full);
            return self.b.unary(u, y).unwrap();
        }
        // One axis is narrow in both operands, or there would be nothing to gain and the rule stays away.
        let mut full = full;
        full[0] = 3;
        let shorter = |case: &mut Self| {
            let mut s = case.narrower(&full);
            if s.len() == full.len() {
                s[0] = 1;
            }
            s
        };
        let (a, b) = (shorter(self), shorter(self));
        let compare = CompareOp::from_name(op);
        let bits = ["and", "or", "xor", "shl", "shr"].contains(&op);
        let dtype = if bits { DType::U8 } else { DType::F64 };
        let (x, y) = (self.input(dtype, &a), self.input(dtype, &b));
        let (x, y) = (self.broadcast(x, &full), self.broadcast(y, &full));
        match compare {
            Some(c) => self.b.compare(c, x, y).unwrap(),
            None => self.b.binary(BinaryOp::from_name(op).unwrap(), x, y).unwrap(),
        }
    }

    fn reshape_last(&mut self, op: &str) -> ValueId {
        let (a, b, c) = (self.extent(), self.extent(), self.extent());
        let (inner, outer) = ([a, b, c], [a * b, c]);
        let cast = Op::Cast { to: DType::F16, saturate: false };
        let unary = if op == "cast" { Some(cast) } else { UnaryOp::from_name(op).map(Op::Unary) };
        if let Some(unary) = unary {
            let x = self.input(if op == "not" { DType::Bool } else { DType::F64 }, &inner);
            let x = self.reshape(x, &outer);
            return self.b.add1(unary, &[x]).unwrap();
        }
        let (side, op) = op.split_once('-').unwrap();
        let dtype = if ["and", "or", "xor", "shl", "shr"].contains(&op) { DType::U8 } else { DType::F64 };
        let x = self.input(dtype, &inner);
        let x = self.reshape(x, &outer);
        let y = if side == "both" {
            let y = self.input(dtype, &inner);
            self.reshape(y, &outer)
        } else {
            let narrow = [vec![], vec![1], vec![c]][self.rng.range(0, 2) as usize].clone();
            let y = self.input(dtype, &narrow);
            self.broadcast(y, &outer)
        };
        let (x, y) = if side == "right" { (y, x) } else { (x, y) };
        self.b.binary(BinaryOp::from_name(op).unwrap(), x, y).unwrap()
    }

    fn view(&mut self, rule: &str, shape: Vec<usize>) -> ValueId {
        let rank = shape.len();
        match rule {
            "permute-permute" => {
                let x = self.x(&shape);
                let (p, q) = (self.permutation(rank), self.permutation(rank));
                let y = self.permute(x, p);
                self.permute(y, q)
            }
            "permute-identity" => {
                let x = self.x(&shape);
                self.permute(x, (0..rank).collect())
            }
            "permute-of-units" => {
                // Ones among longer axes, which keep their order.
                let x = self.x(&[1, shape[0], 1, rank]);
                self.permute(x, vec![1, 0, 3, 2])
            }
            "reshape-reshape" => {
                let x = self.x(&shape);
                let n = shape.iter().product();
                let y = self.reshape(x, &[n]);
                self.reshape(y, &[1, n, 1])
            }
            "reshape-identity" => {
                let x = self.x(&shape);
                self.reshape(x, &shape)
            }
            "broadcast-broadcast" => {
                let middle = self.narrower(&shape);
                let narrow = self.narrower(&middle);
                let x = self.x(&narrow);
                let y = self.broadcast(x, &middle);
                self.broadcast(y, &shape)
            }
            "broadcast-identity" => {
                let x = self.x(&shape);
                self.broadcast(x, &shape)
            }
            "broadcast-of-units" => {
                let x = self.x(&shape);
                self.broadcast(x, &[&[1, 1], shape.as_slice()].concat())
            }
            "broadcast-of-leading-units" => {
                let narrow = self.narrower(&shape);
                let narrow = [&[1][..], &narrow[narrow.len().min(1)..]].concat();
                let x = self.x(&narrow);
                let mut shape = shape;
                shape[0] = shape[0].max(2);
                self.broadcast(x, &[&[2][..], &shape].concat())
            }
            "broadcast-of-reshape" => {
                let narrow = self.narrower(&shape);
                let x = self.x(&narrow);
                let mut middle = vec![1; shape.len() - narrow.len()];
                middle.extend(&narrow);
                let y = self.reshape(x, &middle);
                self.broadcast(y, &[&[2], shape.as_slice()].concat())
            }
            "slice-identity" => {
                let x = self.x(&shape);
                let op = Op::Slice { starts: vec![Dim::from(0); rank], sizes: dims(&shape), steps: vec![1; rank] };
                self.b.add1(op, &[x]).unwrap()
            }
            "slice-slice" => {
                let x = self.x(&[7, 5]);
                let y = self.slice(x, [(6, 3, -2), (1, 4, 1)]);
                let (start, step) = if self.rng.range(0, 1) == 0 { (2, -1) } else { (0, 2) };
                self.slice(y, [(start, 2, step), (3, 2, -3)])
            }
            "slice-of-concat" => {
                let axis = self.rng.range(0, rank as i64 - 1) as usize;
                let mut parts = Vec::new();
                let mut starts = vec![0];
                let mut shapes = Vec::new();
                for _ in 0..3 {
                    let mut s = shape.clone();
                    s[axis] = self.extent();
                    parts.push(self.x(&s));
                    starts.push(starts[starts.len() - 1] + s[axis]);
                    shapes.push(s);
                }
                let y = self.b.concat(&parts, axis as i64).unwrap();
                let i = self.rng.range(0, 2) as usize;
                let mut at = vec![0; rank];
                at[axis] = starts[i];
                let op = Op::Slice { starts: dims(&at), sizes: dims(&shapes[i]), steps: vec![1; rank] };
                self.b.add1(op, &[y]).unwrap()
            }
            "concat-of-one" => {
                let x = self.x(&shape);
                self.b.add1(Op::Concat { axis: 0 }, &[x]).unwrap()
            }
            "pad-nothing" => {
                let x = self.x(&shape);
                let none = vec![Dim::from(0); rank];
                let op = Op::Pad { low: none.clone(), high: none, interior: vec![0; rank] };
                let value = self.x(&[]);
                self.b.add1(op, &[x, value]).unwrap()
            }
            other => panic!("no case for rule `{other}`"),
        }
    }

    /// A random einsum of up to one batch, two free and one contracted label, in random orders.
    fn spec(&mut self) -> (EinsumSpec, impl Fn(char) -> usize + use<>) {
        let extents: Vec<usize> = (0..4).map(|_| self.extent()).collect();
        let shuffle = |case: &mut Self, mut labels: Vec<char>| {
            labels = case.permutation(labels.len()).into_iter().map(|i| labels[i]).collect();
            labels
        };
        let lhs = shuffle(self, vec!['b', 'm', 'k']);
        let rhs = shuffle(self, vec!['b', 'k', 'n']);
        let out = shuffle(self, vec!['b', 'm', 'n']);
        (EinsumSpec { lhs, rhs, out }, move |l| extents["bmkn".find(l).unwrap()])
    }

    fn contract(&mut self, spec: EinsumSpec, a: ValueId, b: ValueId) -> ValueId {
        self.b.contract(spec, a, b, DType::F64, DType::F64).unwrap()
    }

    /// Seven rows in three groups, whose matrices lie the other way.
    fn groups(&mut self) -> ValueId {
        let [n, k] = [2, 5].map(|most| self.rng.range(1, most) as usize);
        let transposed = self.rng.range(0, 1) == 1;
        let (x, w) = (self.x(&[7, k]), self.x(&if transposed { [3, k, n] } else { [3, n, k] }));
        let w = self.permute(w, vec![0, 2, 1]);
        let ends: [i64; 3] = [self.rng.range(0, 3), 3, self.rng.range(3, 7)];
        let ends = self.b.constant(Tensor::from_slice(&[3], &ends).unwrap()).unwrap();
        self.b.grouped_matmul(x, w, ends, transposed).unwrap()
    }

    fn contraction(&mut self, rule: &str) -> ValueId {
        let (spec, extent) = self.spec();
        let shape = |labels: &[char]| labels.iter().map(|l| extent(*l)).collect::<Vec<_>>();
        match rule {
            "contract-permuted-left" | "contract-permuted-right" => {
                let left = rule.ends_with("left");
                let labels = if left { spec.lhs.clone() } else { spec.rhs.clone() };
                let perm = self.permutation(3);
                let mut own = labels.clone();
                perm.iter().zip(&labels).for_each(|(&p, l)| own[p] = *l);
                let x = self.x(&shape(&own));
                let x = self.permute(x, perm);
                let y = self.x(&shape(if left { &spec.rhs } else { &spec.lhs }));
                if left { self.contract(spec, x, y) } else { self.contract(spec, y, x) }
            }
            "permuted-contract" => {
                let (x, y) = (self.x(&shape(&spec.lhs)), self.x(&shape(&spec.rhs)));
                let z = self.contract(spec, x, y);
                let p = self.permutation(3);
                self.permute(z, p)
            }
            "contract-broadcast-left" | "contract-broadcast-right" => {
                let left = rule.ends_with("left");
                let labels = if left { &spec.lhs } else { &spec.rhs };
                let full = shape(labels);
                let narrow: Vec<usize> = labels.iter().map(|l| if *l == 'b' { 1 } else { extent(*l) }).collect();
                // The contracted and free axes must not be 1, where the rule cannot tell them from repeated ones.
                let grown = |s: &[usize]| {
                    labels.iter().zip(s).map(|(l, d)| if *l == 'b' { *d } else { d + 1 }).collect::<Vec<_>>()
                };
                let (full, narrow) = (grown(&full), grown(&narrow));
                let x = self.x(&narrow);
                let x = self.broadcast(x, &full);
                let other = if left { &spec.rhs } else { &spec.lhs };
                let other: Vec<usize> = other.iter().map(|l| extent(*l) + usize::from(*l != 'b')).collect();
                let y = self.x(&other);
                if left { self.contract(spec, x, y) } else { self.contract(spec, y, x) }
            }
            "pointwise-conv" => {
                let spatial = self.rng.range(0, 3) as usize;
                let (n, c, o) = (self.extent(), self.extent(), self.extent());
                let mut xs = vec![n, c];
                xs.extend((0..spatial).map(|_| self.extent()));
                let x = self.x(&xs);
                let w = self.x(&[&[o, c], vec![1; spatial].as_slice()].concat());
                let spec = ConvSpec {
                    strides: vec![1; spatial],
                    pads: vec![(0, 0); spatial],
                    dilations: vec![2; spatial],
                    groups: 1,
                };
                self.b.conv(x, w, None, spec).unwrap()
            }
            other => panic!("no case for rule `{other}`"),
        }
    }

    fn scale(&mut self, rule: &str) -> ValueId {
        let shape = self.shape(1, 3);
        match rule {
            "scale-into-conv" => {
                let y = self.conv();
                let channels = self.b.shape(y)[1].as_const().unwrap() as usize;
                let s = self.weight(&[channels, 1]);
                let full: Vec<usize> = self.b.shape(y).iter().map(|d| d.as_const().unwrap() as usize).collect();
                let s = self.broadcast(s, &full);
                self.b.mul(y, s).unwrap()
            }
            "scale-into-contract-left" | "scale-into-contract-right" => {
                let (spec, extent) = self.spec();
                let left = rule.ends_with("left");
                let grown = |labels: &[char]| labels.iter().map(|l| extent(*l) + 1).collect::<Vec<_>>();
                let own = if left { 'm' } else { 'n' };
                let scale: Vec<usize> =
                    spec.out.iter().map(|l| if *l == own || *l == 'b' { extent(*l) + 1 } else { 1 }).collect();
                let full = grown(&spec.out);
                let (x, w) = if left {
                    (self.weight(&grown(&spec.lhs)), self.x(&grown(&spec.rhs)))
                } else {
                    (self.x(&grown(&spec.lhs)), self.weight(&grown(&spec.rhs)))
                };
                let y = self.contract(spec, x, w);
                let s = self.weight(&scale);
                let s = self.broadcast(s, &full);
                self.b.mul(y, s).unwrap()
            }
            "exponentials-div-left" | "exponentials-div-right" | "exponentials-mul-left" | "exponentials-mul-right" => {
                let (spec, extent) = self.spec();
                let left = rule.ends_with("left");
                let grown = |labels: &[char]| labels.iter().map(|l| extent(*l) + 1).collect::<Vec<_>>();
                let (x, y) = (self.x(&grown(&spec.lhs)), self.x(&grown(&spec.rhs)));
                let own = if left { 'm' } else { 'n' };
                let weights = self.b.exp(if left { x } else { y }).unwrap();
                let sums: Vec<usize> =
                    spec.out.iter().map(|l| if *l == own || *l == 'b' { extent(*l) + 1 } else { 1 }).collect();
                let full = grown(&spec.out);
                let product = if left { self.contract(spec, weights, y) } else { self.contract(spec, x, weights) };
                // Far from 0, as totals are.
                let s = self.x(&sums);
                let s = self.b.exp(s).unwrap();
                let s = self.broadcast(s, &full);
                let op = if rule.contains("div") { BinaryOp::Div } else { BinaryOp::Mul };
                self.b.binary(op, product, s).unwrap()
            }
            "div-by-weight" => {
                let (x, w) = (self.x(&shape), self.weight(&shape));
                self.b.div(x, w).unwrap()
            }
            "distribute-add" | "distribute-sub" => {
                let y = self.conv();
                let full: Vec<usize> = self.b.shape(y).iter().map(|d| d.as_const().unwrap() as usize).collect();
                let (m, s) = (self.weight(&full), self.weight(&full));
                let op = if rule.ends_with("add") { BinaryOp::Add } else { BinaryOp::Sub };
                let y = self.b.binary(op, y, m).unwrap();
                self.b.mul(y, s).unwrap()
            }
            _ => {
                let ops: Vec<BinaryOp> = rule.split('-').filter_map(BinaryOp::from_name).collect();
                let (x, m, n) = (self.x(&shape), self.weight(&shape), self.weight(&shape));
                let y = self.b.binary(ops[0], x, m).unwrap();
                self.b.binary(ops[1], y, n).unwrap()
            }
        }
    }

    /// A random small convolution of an input with a weight.
    fn conv(&mut self) -> ValueId {
        let groups = self.rng.range(1, 2) as usize;
        let (n, c, o) = (self.extent(), groups * self.extent(), groups * (1 + self.extent()));
        let x = self.x(&[n, c, 5]);
        let taps = self.rng.range(1, 3) as usize;
        let w = self.weight(&[o, c / groups, taps]);
        let stride = self.rng.range(1, 2) as usize;
        let spec = ConvSpec { strides: vec![stride], pads: vec![(1, 0)], dilations: vec![2], groups };
        self.b.conv(x, w, None, spec).unwrap()
    }
}
