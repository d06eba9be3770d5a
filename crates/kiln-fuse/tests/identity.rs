//! A region's identity: the same however its graph is written down, and another for whatever else it computes.

use kiln_fuse::{Anchor, Canonical, Region, RegionId};
use kiln_graph::{
    BinaryOp, Bindings, Builder, DType, Dim, EinsumSpec, Graph, Op, ReduceOp, Relation, Requirement, Rng, Tensor,
    TensorType, UnaryOp, ValueId, interpret, interpret_within,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn canonical(graph: &Graph) -> Canonical {
    Region::canonical(graph, Anchor::Map)
}

fn id(graph: &Graph) -> RegionId {
    canonical(graph).region.identity()
}

/// Symbols, what a rewritten graph calls them, and their values.
const SIZES: [(&str, &str, i64); 2] = [("N", "zeta", 3), ("M", "alpha", 2)];

/// Ops of many kinds over a few inputs of two symbols.
fn random(seed: u64) -> Graph {
    let mut rng = Rng::new(seed);
    let mut b = Builder::new("random");
    let (n, m) = (b.symbol("N", 1, 8), b.symbol("M", 1, 9));
    let shapes = [vec![n.clone(), m.clone()], vec![m.clone(), n.clone()], vec![n.clone(), 4.into()]];
    let mut values: Vec<ValueId> = Vec::new();
    for i in 0..rng.range(2, 5) {
        let shape = &shapes[rng.range(0, 2) as usize];
        values.push(b.input(&format!("in{i}"), DType::F32, shape).unwrap());
    }
    for _ in 0..rng.range(4, 14) {
        let any = |rng: &mut Rng, values: &[ValueId]| values[rng.range(0, values.len() as i64 - 1) as usize];
        let x = any(&mut rng, &values);
        let same: Vec<ValueId> = values.iter().copied().filter(|v| b.shape(*v) == b.shape(x)).collect();
        let y = any(&mut rng, &same);
        let made = match rng.range(0, 9) {
            0..=3 => {
                use BinaryOp::{Add, Max, Mul, Sub};
                b.binary([Add, Max, Mul, Sub][rng.range(0, 3) as usize], x, y)
            }
            4 => b.unary([UnaryOp::Tanh, UnaryOp::Neg][rng.range(0, 1) as usize], x),
            5 => b.mul_scalar(x, rng.range(2, 4) as f64),
            6 => {
                let sum = b.reduce(ReduceOp::Sum, x, &[1], true).unwrap();
                let shape = b.shape(x).to_vec();
                b.broadcast_to(sum, &shape)
            }
            7 => b.transpose(x, &[1, 0]),
            8 => {
                let less = b.compare(kiln_graph::CompareOp::Lt, x, y).unwrap();
                b.select(less, y, x)
            }
            _ => {
                let other = any(&mut rng, &values);
                if b.shape(x)[1] != b.shape(other)[0] {
                    continue;
                }
                b.matmul(x, other)
            }
        };
        values.push(made.unwrap());
    }
    let mut graph = {
        for (i, v) in values.iter().rev().take(rng.range(1, 3) as usize).enumerate() {
            b.output(format!("out{i}"), *v);
        }
        b.finish()
    };
    graph.require(Requirement::multiple(Dim::sym("M"), 2.into()), || "the model".into());
    graph
}

/// Another way to write a graph down, and where its inputs and outputs are in the first.
fn rewritten(graph: &Graph, rng: &mut Rng) -> (Graph, Vec<usize>, Vec<usize>) {
    let mut shuffle = |n: usize| {
        let mut order: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|i| order.swap(i, rng.range(0, i as i64) as usize));
        order
    };
    let (inputs, outputs) = (shuffle(graph.inputs.len()), shuffle(graph.outputs.len()));
    let priority = shuffle(graph.nodes.len());
    let by: BTreeMap<String, Dim> = SIZES.map(|(a, b, _)| (a.to_owned(), Dim::sym(b))).into();
    let renamed = |ty: &TensorType| TensorType::new(ty.dtype, ty.shape.iter().map(|d| d.substitute(&by)));
    let mut new = Graph::new("again");
    for (name, (low, high)) in graph.symbols.iter() {
        new.symbols.declare(if name == "N" { "zeta" } else { "alpha" }, low, high);
    }
    for c in &graph.constraints {
        let Requirement { left, relation, right } = &c.requirement;
        let requirement = Requirement { left: left.substitute(&by), relation: *relation, right: right.substitute(&by) };
        new.require(requirement, || "elsewhere".into());
    }
    // Every value may be there several times.
    let mut copies: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for (i, &old) in inputs.iter().enumerate() {
        let ty = renamed(graph.ty(graph.inputs[old]));
        let op = Op::Input { name: format!("operand{i}"), ty: ty.clone() };
        copies.insert(graph.inputs[old], new.push_node(op, &[], vec![ty], ""));
    }
    let mut left: Vec<usize> =
        (0..graph.nodes.len()).filter(|i| !matches!(graph.nodes[*i].op, Op::Input { .. })).collect();
    left.sort_by_key(|i| priority[*i]);
    while !left.is_empty() {
        let ready = left.iter().position(|&i| graph.nodes[i].inputs.iter().all(|v| copies.contains_key(v))).unwrap();
        let node = &graph.nodes[left.remove(ready)];
        for _ in 0..rng.range(1, 2) {
            let mut op = node.op.clone();
            op.dims_mut(&mut |d| *d = d.substitute(&by));
            if let Op::Contract { spec, .. } = &mut op {
                let EinsumSpec { lhs, rhs, out } = spec;
                [lhs, rhs, out].into_iter().flatten().for_each(|l| *l = char::from_u32(*l as u32 + 5).unwrap());
            }
            let mut operands: Vec<ValueId> =
                node.inputs.iter().map(|v| copies[v][rng.range(0, copies[v].len() as i64 - 1) as usize]).collect();
            if matches!(op, Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Max)) && rng.range(0, 1) == 0 {
                operands.reverse();
            }
            let types = node.outputs.iter().map(|v| renamed(graph.ty(*v))).collect();
            let made = new.push_node(op, &operands, types, "again");
            copies.entry(node.outputs[0]).or_default().extend(made);
        }
    }
    for (i, &old) in outputs.iter().enumerate() {
        new.outputs.push((format!("result{i}"), copies[&graph.outputs[old].1][0]));
    }
    (new, inputs, outputs)
}

/// The results of a canonical region on the inputs of the graph that it came from, in that graph's order.
fn run(canonical: &Canonical, inputs: &[Tensor]) -> Vec<Tensor> {
    let operands: Vec<Tensor> = canonical.inputs.iter().map(|i| inputs[*i].clone()).collect();
    let value = |outer: &str| SIZES.iter().find(|(s, other, _)| *s == outer || *other == outer).unwrap().2;
    let bindings = canonical.symbols.iter().map(|(own, outer)| (own.clone(), value(outer))).collect();
    let results = interpret_within(&canonical.region.graph, &operands, &bindings).unwrap();
    let place = |i: usize| canonical.outputs.iter().position(|o| *o == i).unwrap();
    (0..results.len()).map(|i| results[place(i)].clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_a_graph_is_written_down_does_not_count(seed in any::<u64>(), order in any::<u64>()) {
        let graph = random(seed);
        kiln_graph::verify(&graph).unwrap();
        let (again, inputs, outputs) = rewritten(&graph, &mut Rng::new(order));
        kiln_graph::verify(&again).unwrap();
        let (a, b) = (canonical(&graph), canonical(&again));
        prop_assert_eq!(&a.region, &b.region);
        prop_assert_eq!(a.region.identity(), b.region.identity());
        kiln_graph::verify(&a.region.graph).unwrap();
        // It is its own canonical form.
        prop_assert_eq!(&canonical(&a.region.graph).region, &a.region);
        // Operands and results are where it says.
        let sizes: Bindings = SIZES.map(|(s, _, n)| (s.to_owned(), n)).into();
        let data: Vec<Tensor> = graph.inputs.iter().zip(1..).map(|(v, seed)| {
            Tensor::random(DType::F32, &graph.ty(*v).concrete(&sizes).unwrap(), seed).unwrap()
        }).collect();
        let expected = interpret(&graph, &data).unwrap();
        let found = run(&a, &data);
        let moved: Vec<Tensor> = inputs.iter().map(|i| data[*i].clone()).collect();
        let other = run(&b, &moved);
        for (i, e) in expected.iter().enumerate() {
            let at = outputs.iter().position(|o| *o == i).unwrap();
            for f in [&found[i], &other[at]] {
                prop_assert_eq!(e.shape(), f.shape());
                for (x, y) in e.to_f64_vec().iter().zip(f.to_f64_vec()) {
                    prop_assert!((x - y).abs() <= 1e-4 * x.abs().max(1.0), "{} {}", x, y);
                }
            }
        }
    }

    #[test]
    fn what_a_graph_computes_counts(seed in any::<u64>()) {
        let graph = random(seed);
        let own = id(&graph);
        let form = canonical(&graph).region.graph;
        let mut changed: Vec<(&str, Graph)> = Vec::new();
        let mut change = |what, edit: &mut dyn FnMut(&mut Graph) -> bool| {
            let mut other = form.clone();
            if edit(&mut other) {
                changed.push((what, other));
            }
        };
        let first = |g: &Graph, of: &dyn Fn(&Op) -> bool| g.nodes.iter().position(|n| of(&n.op));
        change("an op", &mut |g| match first(g, &|op| matches!(op, Op::Binary(BinaryOp::Mul | BinaryOp::Sub))) {
            Some(i) => { g.nodes[i].op = Op::Binary(BinaryOp::Min); true }
            None => false,
        });
        change("a literal", &mut |g| match first(g, &|op| matches!(op, Op::Const { .. })) {
            Some(i) => { g.nodes[i].op = Op::Const { value: Tensor::scalar(9.5f32) }; true }
            None => false,
        });
        change("an attribute", &mut |g| match first(g, &|op| matches!(op, Op::Reduce { .. })) {
            Some(i) => { g.nodes[i].op = Op::Reduce { op: ReduceOp::Sum, axes: vec![0] }; true }
            None => false,
        });
        change("labels", &mut |g| match first(g, &|op| matches!(op, Op::Contract { .. })) {
            Some(i) => {
                if let Op::Contract { spec, .. } = &mut g.nodes[i].op { spec.out.reverse(); }
                true
            }
            None => false,
        });
        change("dtypes", &mut |g| { g.values.iter_mut().for_each(|v| v.ty.dtype = DType::F64); true });
        change("a range", &mut |g| {
            let symbol = g.symbols.iter().next().map(|(s, _)| s.to_owned());
            symbol.map(|s| g.symbols.declare(&s, 2, 7)).is_some()
        });
        change("a multiple", &mut |g| {
            let known = g.constraints.iter().position(|c| c.requirement.relation == Relation::Multiple);
            known.map(|i| g.constraints.remove(i)).is_some()
        });
        change("fewer results", &mut |g| g.outputs.len() > 1 && g.outputs.pop().is_some());
        change("an extent", &mut |g| match g.values.iter().position(|v| v.ty.shape.contains(&Dim::from(4))) {
            Some(_) => {
                let five = |d: &mut Dim| if d.is(4) { *d = 5.into() };
                g.values.iter_mut().flat_map(|v| &mut v.ty.shape).for_each(five);
                g.nodes.iter_mut().for_each(|n| n.op.dims_mut(&mut |d| five(d)));
                true
            }
            None => false,
        });
        prop_assert!(changed.len() >= 2);
        for (what, other) in changed {
            prop_assert_ne!(id(&other), own, "{}: {}", what, other);
        }
    }
}

fn elementwise(inputs: usize, write: impl Fn(&mut Builder, &[ValueId]) -> Vec<ValueId>) -> Graph {
    let mut b = Builder::new("g");
    let x: Vec<ValueId> = (0..inputs).map(|i| b.input(&format!("x{i}"), DType::F32, &[7.into()]).unwrap()).collect();
    for (i, v) in write(&mut b, &x).into_iter().enumerate() {
        b.output(format!("y{i}"), v);
    }
    b.finish()
}

#[test]
fn wiring_counts_and_which_input_is_which_does_not() {
    let with = |f: fn(&mut Builder, &[ValueId]) -> kiln_graph::Result<ValueId>| {
        id(&elementwise(2, |b, x| vec![f(b, x).unwrap()]))
    };
    assert_eq!(with(|b, x| b.sub(x[0], x[1])), with(|b, x| b.sub(x[1], x[0])));
    let left = with(|b, x| {
        let d = b.sub(x[0], x[1])?;
        b.mul(d, x[0])
    });
    let right = with(|b, x| {
        let d = b.sub(x[0], x[1])?;
        b.mul(d, x[1])
    });
    assert_ne!(left, right);
    assert_eq!(
        left,
        with(|b, x| {
            let d = b.sub(x[1], x[0])?;
            b.mul(x[1], d)
        })
    );
    // One input read twice is not two inputs.
    assert_ne!(with(|b, x| b.mul(x[0], x[1])), with(|b, x| b.mul(x[0], x[0])));
    // A result more is another region, and the order of results is none.
    let both = |swapped: bool| {
        elementwise(1, |b, x| {
            let (p, q) = (b.exp(x[0]).unwrap(), b.tanh(x[0]).unwrap());
            if swapped { vec![q, p] } else { vec![p, q] }
        })
    };
    assert_eq!(id(&both(false)), id(&both(true)));
    assert_eq!(
        canonical(&both(false)).outputs,
        canonical(&both(true)).outputs.iter().map(|o| 1 - o).collect::<Vec<_>>()
    );
}

/// `tanh(x[a] + x[b])` for each pair, each a result.
fn pairs(inputs: usize, pairs: &[(usize, usize)]) -> Graph {
    elementwise(inputs, |b, x| {
        pairs
            .iter()
            .map(|&(i, j)| {
                let s = b.plus(x[i], x[j]).unwrap();
                b.tanh(s).unwrap()
            })
            .collect()
    })
}

#[test]
fn structures_that_no_colouring_tells_apart() {
    // One ring of six and two of three: every input and sum has the same surroundings.
    let ring = |order: &[usize]| pairs(6, &(0..6).map(|i| (order[i], order[(i + 1) % 6])).collect::<Vec<_>>());
    let triangles =
        |o: &[usize]| pairs(6, &[(o[0], o[1]), (o[1], o[2]), (o[2], o[0]), (o[3], o[4]), (o[4], o[5]), (o[5], o[3])]);
    let orders = [[0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4], [5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 3, 5]];
    for order in &orders {
        assert_eq!(canonical(&ring(order)).region, canonical(&ring(&orders[0])).region);
        assert_eq!(canonical(&triangles(order)).region, canonical(&triangles(&orders[0])).region);
    }
    assert_ne!(id(&ring(&orders[0])), id(&triangles(&orders[0])));
}

#[test]
fn sums_of_many_alike_have_one_form() {
    // 24 inputs in a balanced tree: 2^23 symmetries.
    let tree = |seed: u64| {
        elementwise(24, |b, x| {
            let mut rng = Rng::new(seed);
            let mut level = x.to_vec();
            (1..level.len()).rev().for_each(|i| level.swap(i, rng.range(0, i as i64) as usize));
            while level.len() > 1 {
                level =
                    level.chunks(2).map(|c| if c.len() == 2 { b.plus(c[0], c[1]).unwrap() } else { c[0] }).collect();
            }
            level
        })
    };
    let first = canonical(&tree(0)).region;
    assert!((1..6).all(|seed| canonical(&tree(seed)).region == first));
}

#[test]
fn identities_are_written_and_read() {
    let region = canonical(&pairs(2, &[(0, 1)])).region;
    let id = region.identity();
    assert_eq!(region.name, format!("map_add_tanh_{}", &id.to_string()[..12]));
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(serde_json::from_str::<RegionId>(&json).unwrap(), id);
    assert!(serde_json::from_str::<RegionId>("\"12\"").unwrap_err().to_string().contains("identity"));
    // Kept in caches and engine files: a change of the bytes is a new version of their form.
    assert_eq!(id.to_string(), "097e9b255232c299668f6232163d0dbd33b740c8dcefd1bcd8039b74f530a6c7");
}
