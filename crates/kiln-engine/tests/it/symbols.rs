//! Random graphs whose extents are symbols that may be 1 when it runs, with branches and loops: devices agree with the interpreter, in
//! results and in what they refuse.

use crate::models::engine_at;
use kiln_cuda::{Home, setup};
use kiln_engine::{Session, Tolerance, open_device};
use kiln_graph::{
    BinaryOp, Builder, CompareOp, DType, Dim, Graph, Op, ReduceOp, Result, Rng, Tensor, ValueId, interpret, verify,
};

const SYMBOLS: [&str; 5] = ["A", "B", "C", "D", "E"];
const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I64];

struct Grower {
    rng: Rng,
    b: Builder,
    dtype: DType,
    values: Vec<ValueId>,
}

impl Grower {
    fn pick(&mut self) -> ValueId {
        self.values[self.rng.range(0, self.values.len() as i64 - 1) as usize]
    }

    fn dim(&mut self) -> Dim {
        match self.rng.range(0, 7) {
            0 => Dim::from(1),
            1 => Dim::from(3),
            n => Dim::sym(SYMBOLS[(n as usize - 2).min(4)]),
        }
    }

    fn pair(&mut self, b: &mut Builder, x: ValueId, y: ValueId) -> Result<ValueId> {
        use BinaryOp::{Add, Max, Min, Mul, Sub};
        b.binary([Add, Sub, Mul, Max, Min][self.rng.range(0, 4) as usize], x, y)
    }

    /// A graph that broadcasts its two arguments, of the types of `x` and `y`, after those that `first` adds.
    fn inner(&mut self, x: ValueId, y: ValueId, in_loop: bool) -> Result<Box<Graph>> {
        let mut b = Builder::new("inner");
        let head = if in_loop {
            b.input("i", DType::I64, &[])?;
            Some(b.input("go", DType::Bool, &[])?)
        } else {
            None
        };
        let types = [x, y].map(|v| self.b.ty(v).clone());
        b.graph_mut().symbols = self.b.graph().symbols.clone();
        let x = b.input("x", types[0].dtype, &types[0].shape)?;
        let y = b.input("y", types[1].dtype, &types[1].shape)?;
        let z = self.pair(&mut b, x, y)?;
        if let Some(go) = head {
            b.output("go", go);
        }
        b.output("z", z);
        if in_loop {
            b.output("each", z);
        }
        Ok(Box::new(b.finish()))
    }

    fn grow(&mut self) -> Result<ValueId> {
        let (x, y) = (self.pick(), self.pick());
        match self.rng.range(0, 13) {
            0..=2 => {
                let mut b = std::mem::take(&mut self.b);
                let z = self.pair(&mut b, x, y);
                self.b = b;
                z
            }
            3 => {
                let (c, z) = (self.b.compare(CompareOp::Lt, x, y)?, self.pick());
                self.b.select(c, z, y)
            }
            4 => {
                let shape: Vec<Dim> = (0..self.rng.range(1, 3)).map(|_| self.dim()).collect();
                self.b.expand(x, &shape)
            }
            5 => self.b.matmul(x, y),
            6 => {
                let (x, y) = (self.b.unsqueeze(x, &[0])?, self.b.unsqueeze(y, &[-1])?);
                self.b.plus(x, y)
            }
            7 => {
                let op = [ReduceOp::Sum, ReduceOp::Max][self.rng.range(0, 1) as usize];
                let keep = self.rng.range(0, 1) == 0;
                self.b.reduce(op, x, &[-1], keep)
            }
            8 => self.b.swap_axes(x, 0, -1),
            9 => {
                let most = |b: &Builder, v: ValueId| b.shape(v).split_last().map(|(_, rest)| rest.to_vec());
                let other = if most(&self.b, x) == most(&self.b, y) { y } else { x };
                self.b.concat(&[x, other], -1)
            }
            10 => {
                let size = self.dim();
                self.b.slice_axis(x, -1, &Dim::from(0), &size, 1)
            }
            11 => self.b.reshape_infer(x, &[Dim::from(-1), Dim::from(1)]),
            12 => {
                let sum = self.b.reduce(ReduceOp::Sum, x, &(0..self.b.rank(x) as i64).collect::<Vec<_>>(), false)?;
                let cond = self.b.compare_scalar(CompareOp::Gt, sum, 0.0)?;
                let (then_graph, else_graph) = (self.inner(x, y, false)?, self.inner(x, y, false)?);
                self.b.add1(Op::If { then_graph, else_graph }, &[cond, x, y])
            }
            _ => {
                let body = self.inner(x, y, true)?;
                let trips = self.rng.range(0, 3);
                let trip = self.b.scalar_int(DType::I64, i128::from(trips))?;
                let go = self.b.scalar_int(DType::Bool, 1)?;
                let op = Op::Loop { body, carried: 1, trip: Some(Dim::from(trips)) };
                Ok(self.b.add(op, &[trip, go, x, y])?[self.rng.range(0, 1) as usize])
            }
        }
    }
}

fn random_graph(seed: u64) -> Graph {
    let mut b = Builder::new(format!("symbols_{seed}"));
    let mut rng = Rng::new(seed);
    for (i, s) in SYMBOLS.iter().enumerate() {
        // The last may be nothing at all; of the first it is known that it is more than 1.
        b.symbol(s, [2, 1, 1, 1, 0][i], 9);
    }
    let dtype = DTYPES[rng.range(0, 5) as usize];
    let mut g = Grower { rng, b, dtype, values: Vec::new() };
    for i in 0..4 {
        let shape: Vec<Dim> = match i {
            // Binds every symbol.
            0 => SYMBOLS[..3].iter().map(|s| Dim::sym(*s)).collect(),
            1 => SYMBOLS[2..].iter().map(|s| Dim::sym(*s)).collect(),
            _ => (0..g.rng.range(1, 3)).map(|_| g.dim()).collect(),
        };
        let v = g.b.input(&format!("x{i}"), g.dtype, &shape).unwrap();
        g.values.push(v);
    }
    for _ in 0..30 {
        if g.values.len() == 9 {
            break;
        }
        if let Ok(v) = g.grow()
            && g.b.rank(v) <= 4
        {
            g.values.push(v);
        }
    }
    // Every value, because the interpreter runs also what nobody reads.
    for (i, v) in g.values.clone().into_iter().enumerate().skip(4) {
        g.b.output(format!("y{i}"), v);
    }
    g.b.finish()
}

/// Inputs under values of the symbols that are 1 and `n`, and sometimes another: then some graphs have to refuse.
fn inputs(graph: &Graph, rng: &mut Rng) -> Vec<Tensor> {
    let n = rng.range(2, 5);
    let mut bindings = kiln_graph::Bindings::new();
    for (i, s) in SYMBOLS.iter().enumerate() {
        let low = [2, 1, 1, 1, 0][i];
        let value = match rng.range(0, 11) {
            0..=4 => 1.max(low),
            5..=9 => n,
            10 => 3,
            _ => low,
        };
        bindings.insert((*s).to_owned(), value);
    }
    let tensor = |(i, id): (usize, &ValueId)| {
        let ty = graph.ty(*id);
        let mut values = Rng::new(rng.next_u64() + i as u64);
        Tensor::generate(ty.dtype, &ty.concrete(&bindings).unwrap(), |_| {
            if ty.dtype.is_float() { values.signed() } else { values.range(-8, 7) as f64 }
        })
        .unwrap()
    };
    graph.inputs.iter().enumerate().map(tensor).collect()
}

/// Rounding to the type a few times over, of sums of a few values of order 1.
fn tolerance(dtype: DType) -> Tolerance {
    let bound = match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 => 1e-2,
        DType::BF16 => 6e-2,
        _ => 0.0,
    };
    Tolerance { rtol: bound, atol: bound }
}

/// Runs graphs of these seeds at three shapes each; how many runs gave results, and how many were refused.
fn agree(seeds: std::ops::Range<u64>, device: &str, home: &Home) -> (usize, usize) {
    let (mut ran, mut refused) = (0, 0);
    let target = device.trim_start_matches("sim:").split(':').next().unwrap();
    for seed in seeds {
        let graph = random_graph(seed);
        verify(&graph).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        let engine = engine_at(&graph, &[target], home.clone());
        let mut session = Session::new(&engine, open_device(device).unwrap()).unwrap();
        let mut rng = Rng::new(seed ^ 0xabcdef);
        for round in 0..3 {
            let fits = |x: &Vec<Tensor>| {
                let shapes: Vec<Vec<usize>> = x.iter().map(|t| t.shape().to_vec()).collect();
                round == 0 || kiln_graph::bind_symbols(&graph, &shapes).is_ok()
            };
            // Few shapes fit a graph with many requirements.
            let found = (0..20).map(|_| inputs(&graph, &mut rng)).find(fits);
            let inputs = found.unwrap_or_else(|| inputs(&graph, &mut rng));
            let names: Vec<String> = (0..4).map(|i| format!("x{i}")).collect();
            let named: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(&inputs).collect();
            session.poison(0xcb).unwrap();
            let found = session.run(&named);
            let shapes: Vec<&[usize]> = inputs.iter().map(Tensor::shape).collect();
            let what = || format!("seed {seed} on {device}, {shapes:?}\n{graph}");
            match (interpret(&graph, &inputs), found) {
                (Ok(expected), Ok(found)) => {
                    ran += 1;
                    for (e, (name, f)) in expected.iter().zip(&found) {
                        let d = tolerance(e.dtype()).compare(e, f);
                        assert!(d.agrees(), "{name}: {d}: {}", what());
                    }
                }
                (Err(_), Err(_)) => refused += 1,
                (Err(e), Ok(_)) => panic!("should refuse: {e}: {}", what()),
                (Ok(_), Err(e)) => panic!("refuses: {e}: {}", what()),
            }
        }
    }
    (ran, refused)
}

#[test]
fn the_cpu_broadcasts_by_value() {
    let dir = tempfile::tempdir().unwrap();
    let (ran, refused) = agree(0..2000, "cpu:1", &Home::at(dir.path()));
    assert!(ran > 3000 && refused > 300, "{ran} runs, {refused} refusals");
}

fn on_simulated_gpus(seeds: std::ops::Range<u64>, device: &str) {
    let home = Home::from_env().unwrap();
    setup::setup(&home, |_| {}).unwrap();
    let graphs = seeds.end - seeds.start;
    let (ran, refused) = agree(seeds, device, &home);
    assert!(ran as u64 > graphs && refused as u64 > graphs / 10, "{ran} runs, {refused} refusals");
}

#[test]
fn gpu_kernels_broadcast_by_value() {
    on_simulated_gpus(0..250, "sim:sm_80");
}

#[test]
fn gpu_kernels_broadcast_by_value_elsewhere() {
    on_simulated_gpus(1000..1250, "sim:sm_90a");
}

#[test]
fn indices_into_what_is_repeated_count_its_copies() {
    let mut b = Builder::new("repeated");
    let [n, m] = ["N", "M"].map(|s| b.symbol(s, 1, 9));
    let x = b.input("x", DType::F32, std::slice::from_ref(&n)).unwrap();
    let y = b.input("y", DType::F32, std::slice::from_ref(&m)).unwrap();
    let at = b.input("at", DType::I64, &[2.into()]).unwrap();
    let wide = b.broadcast_to(x, &[m]).unwrap();
    let one = b.gather(wide, at, 0).unwrap();
    let both = b.plus(x, y).unwrap();
    let both = b.gather(both, at, 0).unwrap();
    b.output("one", one);
    b.output("both", both);
    let graph = b.finish();
    let home = Home::from_env().unwrap();
    setup::setup(&home, |_| {}).unwrap();
    let engine = engine_at(&graph, &["cpu", "sm_80"], home);
    for device in ["cpu", "sim:sm_80"] {
        let mut session = Session::new(&engine, open_device(device).unwrap()).unwrap();
        for (n, m, at) in [(1, 4, [3, -4]), (4, 4, [2, -1]), (1, 1, [0, -1]), (1, 4, [4, 0]), (4, 4, [0, -5])] {
            let inputs = [n, m].map(|d| Tensor::random(DType::F32, &[d], 5 + d as u64).unwrap());
            let at = Tensor::from_slice(&[2], &at.map(i64::from)).unwrap();
            let found = session.run(&[("x", &inputs[0]), ("y", &inputs[1]), ("at", &at)]);
            match (interpret(&graph, &[inputs[0].clone(), inputs[1].clone(), at.clone()]), found) {
                (Ok(expected), Ok(found)) => {
                    let found: Vec<Tensor> = found.into_iter().map(|(_, t)| t).collect();
                    assert_eq!(found, expected, "{device} {n} {m} {at:?}");
                }
                (Err(_), Err(e)) => assert!(e.to_string().contains("axis 0"), "{e}"),
                (expected, found) => panic!("{device} {n} {m} {at:?}: expected {expected:?}, found {found:?}"),
            }
        }
    }
}
