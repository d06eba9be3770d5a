//! Contractions of what is repeated compute what those of copies did, and only batch axes are split.

use super::super::{Saturation, all, repeat, saturate};
use super::{agree, options};
use crate::egraph::{ClassIx, Dag, build};
use kiln_graph::{Attending, Builder, DType, Dim, Graph, Op, Result, Rng, Tensor, ValueId};

/// What the pass makes of a graph: how many contractions, and the dag.
fn repeated(graph: &Graph) -> (usize, Dag, Vec<ClassIx>) {
    let built = build(graph).unwrap();
    let (mut egraph, mut done): (_, Saturation) = saturate(built.egraph, all().unwrap(), &options()).unwrap();
    repeat(&mut egraph, &mut done);
    let roots: Vec<_> = graph.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
    let dag = Dag::new(&egraph, &roots);
    let roots = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
    (done.fired.get("contract-repeated").copied().unwrap_or(0), dag, roots)
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|n| Dim::from(*n)).collect()
}

/// `[.., G, T, D]` as `[.., G * R, T, D]`: each head, or all heads, so often.
fn spread(b: &mut Builder, x: ValueId, times: usize, each: bool) -> Result<ValueId> {
    let shape = b.shape(x).to_vec();
    let heads = shape.len() - 3;
    let x = b.unsqueeze(x, &[heads as i64 + i64::from(each)])?;
    let mut wide = shape.clone();
    wide.insert(heads + usize::from(each), times.into());
    let x = b.broadcast_to(x, &wide)?;
    let mut flat = shape;
    flat[heads] = flat[heads].clone() * Dim::from(times);
    b.reshape(x, &flat)
}

/// Attention over repeated keys with what stands between scores and softmax in models.
fn attention(rng: &mut Rng) -> Result<(Graph, Vec<Tensor>)> {
    let mut b = Builder::new("repeated");
    let pick = |rng: &mut Rng, of: &[usize]| of[rng.range(0, of.len() as i64 - 1) as usize];
    let (groups, times) = (pick(rng, &[1, 2, 3]), pick(rng, &[2, 3, 4]));
    let (rows, keys, depth) = (pick(rng, &[1, 2, 5]), pick(rng, &[1, 3, 4]), pick(rng, &[1, 2, 4]));
    let lead: &[usize] = [&[][..], &[2], &[1]][rng.range(0, 2) as usize];
    let heads = groups * times;
    let mut inputs = vec![];
    let mut input = |b: &mut Builder, rng: &mut Rng, name: &str, shape: &[usize]| {
        let shape = [lead, shape].concat();
        inputs.push(Tensor::generate(DType::F64, &shape, |_| 2.0 * rng.signed())?);
        b.input(name, DType::F64, &dims(&shape))
    };
    let q = input(&mut b, rng, "q", &[heads, rows, depth])?;
    let each = rng.range(0, 3) > 0;
    let kv = ["k", "v"].map(|name| {
        let x = input(&mut b, rng, name, &[groups, keys, depth])?;
        spread(&mut b, x, times, each)
    });
    let [k, v] = kv;
    let mask = match rng.range(0, 4) {
        0 => Some(input(&mut b, rng, "mask", &[1, rows, keys])?),
        1 => Some(input(&mut b, rng, "mask", &[heads, rows, keys])?),
        // A slope a head.
        2 => {
            let slopes = input(&mut b, rng, "slopes", &[heads, 1, 1])?;
            let wide = [lead, &[1, rows, keys]].concat();
            let far = b.iota(DType::I64, &dims(&wide), wide.len() - 1)?;
            let far = b.cast(far, DType::F64)?;
            Some(b.mul(slopes, far)?)
        }
        _ => None,
    };
    let cap = (rng.range(0, 2) == 0).then_some(3.0);
    let how = Attending { mask, cap, causal: rng.range(0, 1) == 0, ..Attending::default() };
    let y = b.attention_with(q, k?, v?, &how)?;
    b.output("y", y);
    Ok((b.finish(), inputs))
}

#[test]
fn attention_over_what_is_repeated_keeps_values() {
    let mut rng = Rng::new(4711);
    let mut streamed = 0;
    for case in 0..200 {
        let (graph, inputs) = attention(&mut rng).unwrap();
        let (found, dag, roots) = repeated(&graph);
        let what = format!("case {case}");
        assert!(found >= 2, "{what}: {found} contractions were found in\n{:?}", graph.nodes);
        agree((&graph, &inputs), (&dag, &roots), &mut rng, if case < 20 { 50 } else { 4 }, 1e-12, &what);
        streamed += usize::from(joined(&dag));
    }
    assert!(streamed > 150, "{streamed} of 200");
}

/// Whether some contraction multiplies the weights of a softmax, and an input as it lies.
fn joined(dag: &Dag) -> bool {
    let has = |c: &ClassIx, op: fn(&Op) -> bool| dag.class(*c).nodes.iter().any(|n| n.op.as_ref().is_some_and(op));
    let weighs = |c: &ClassIx| has(c, |op| matches!(op, Op::Binary(_)));
    dag.indices().flat_map(|c| &dag.class(c).nodes).any(|node| {
        matches!(node.op, Some(Op::Contract { .. }))
            && node.operands.iter().any(weighs)
            && node.operands.iter().any(|c| shows_input(dag, *c))
    })
}

fn shows_input(dag: &Dag, c: ClassIx) -> bool {
    dag.class(c).nodes.iter().any(|node| match node.op {
        Some(Op::Input { .. }) => true,
        Some(Op::Reshape { .. }) => shows_input(dag, node.operands[0]),
        _ => false,
    })
}

fn one(make: impl FnOnce(&mut Builder) -> Result<ValueId>) -> Graph {
    let mut b = Builder::new("one");
    let y = make(&mut b).unwrap();
    b.output("y", y);
    b.finish()
}

fn product(
    spec: &'static str,
    x: &'static [usize],
    k: &'static [usize],
    wide: &'static [usize],
    to: &'static [usize],
) -> Graph {
    one(|b| {
        let x = b.input("x", DType::F64, &dims(x))?;
        let k = b.input("k", DType::F64, &dims(k))?;
        let k = b.broadcast_to(k, &dims(wide))?;
        let k = b.reshape(k, &dims(to))?;
        b.einsum(spec, &[x, k])
    })
}

#[test]
fn only_batch_axes_are_split() {
    let found = |graph: &Graph| repeated(graph).0;
    let batch = product("hsd,htd->hst", &[6, 5, 4], &[2, 1, 7, 4], &[2, 3, 7, 4], &[6, 7, 4]);
    assert_eq!(found(&batch), 1, "{:?}", batch.nodes);
    let beside = product("hsd,hd->hs", &[6, 5, 8], &[2, 1, 4, 2], &[2, 3, 4, 2], &[6, 8]);
    assert_eq!(found(&beside), 1, "{:?}", beside.nodes);
    // What nothing splits is read as it is.
    let whole = product("hsd,htd->hst", &[6, 5, 4], &[1, 1, 7, 4], &[1, 6, 7, 4], &[6, 7, 4]);
    assert!(found(&whole) >= 1, "{:?}", whole.nodes);
    for (what, graph) in [
        ("a sum", product("sh,ht->st", &[5, 6], &[2, 1, 7], &[2, 3, 7], &[6, 7])),
        ("an axis of its own", product("sd,hd->sh", &[5, 4], &[2, 1, 4], &[2, 3, 4], &[6, 4])),
        (
            "axes that are put together otherwise",
            product("hsd,htd->hst", &[4, 5, 4], &[2, 1, 6, 4], &[2, 3, 6, 4], &[4, 9, 4]),
        ),
        ("nothing repeated", product("hsd,htd->hst", &[6, 5, 4], &[2, 3, 7, 4], &[2, 3, 7, 4], &[6, 7, 4])),
    ] {
        assert_eq!(found(&graph), 0, "{what}: {:?}", graph.nodes);
    }
}
