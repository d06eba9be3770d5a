//! What stands before a contraction: an operand that elementwise ops make is part of its kernel where a GPU runs it.

use crate::common::nets::{Net, Taps, mobile, mobile_block};
use crate::common::{check, dims, kernels, options};
use kiln_fuse::{Anchor, Fused, Numerics, Region};
use kiln_graph::{Builder, ConvSpec, DType, EinsumSpec, Op, Result, Tensor, ValueId};

const GPUS: [&str; 3] = ["sm_75", "sm_80", "sm_90a"];

fn spec(text: &str) -> EinsumSpec {
    let labels = |text: &str| text.chars().collect();
    let (left, out) = text.split_once("->").unwrap();
    let (lhs, rhs) = left.split_once(',').unwrap();
    EinsumSpec { lhs: labels(lhs), rhs: labels(rhs), out: labels(out) }
}

/// Whether what `make` makes of inputs of these shapes may be one region.
fn legal(anchor: Anchor, shapes: &[&[usize]], make: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId>) -> bool {
    let mut b = Builder::new("region");
    let input =
        |b: &mut Builder, (i, shape): (usize, &&[usize])| b.input(&format!("x{i}"), DType::F32, &dims(shape)).unwrap();
    let inputs: Vec<ValueId> = shapes.iter().enumerate().map(|at| input(&mut b, at)).collect();
    let y = make(&mut b, &inputs).unwrap();
    b.output("y", y);
    Region { name: "region".into(), summary: String::new(), anchor, graph: b.finish() }.verify().is_ok()
}

fn product(b: &mut Builder, text: &str, x: ValueId, w: ValueId) -> Result<ValueId> {
    b.contract(spec(text), x, w, DType::F32, DType::F32)
}

/// `x * s`, with `s` broadcast.
fn scaled(b: &mut Builder, x: ValueId, s: ValueId) -> Result<ValueId> {
    let shape = b.shape(x).to_vec();
    let s = b.broadcast_to(s, &shape)?;
    b.mul(x, s)
}

#[test]
fn one_operand_may_be_made_of_a_leaf_and_of_what_is_broadcast_along_kept_axes() {
    let contract =
        |shapes: &[&[usize]], text: &'static str, make: fn(&mut Builder, &[ValueId]) -> Result<[ValueId; 2]>| {
            legal(Anchor::Contract, shapes, |b, x| {
                let [x, w] = make(b, x)?;
                product(b, text, x, w)
            })
        };
    let image: &[&[usize]] = &[&[2, 5, 7, 8], &[3, 8], &[2, 1, 1, 8]];
    // A factor a channel of each image, on either side, with more ops and views below.
    assert!(contract(image, "bhwc,oc->bhwo", |b, x| Ok([scaled(b, x[0], x[2])?, x[1]])));
    assert!(contract(image, "oc,bhwc->bhwo", |b, x| Ok([x[1], scaled(b, x[0], x[2])?])));
    assert!(contract(image, "bhwc,oc->bhwo", |b, x| {
        let y = scaled(b, x[0], x[2])?;
        Ok([b.hard_swish(y)?, x[1]])
    }));
    assert!(contract(&[&[2, 8, 5], &[3, 8], &[8]], "bhc,oc->bho", |b, x| {
        let y = b.transpose(x[0], &[0, 2, 1])?;
        Ok([scaled(b, y, x[2])?, x[1]])
    }));
    // A factor a row changes along what is summed over alone.
    assert!(!contract(&[&[9, 8], &[3, 8], &[9, 1]], "mk,nk->mn", |b, x| Ok([scaled(b, x[0], x[2])?, x[1]])));
    // Two leaves of full size; two operands that are made; ops between views.
    assert!(!contract(&[&[9, 8], &[3, 8], &[9, 8]], "mk,nk->mn", |b, x| Ok([b.mul(x[0], x[2])?, x[1]])));
    assert!(!contract(&[&[9, 8], &[3, 8]], "mk,nk->mn", |b, x| Ok([b.relu(x[0])?, b.relu(x[1])?])));
    assert!(!contract(&[&[8, 9], &[3, 8]], "mk,nk->mn", |b, x| {
        let y = b.relu(x[0])?;
        Ok([b.transpose(y, &[1, 0])?, x[1]])
    }));
}

#[test]
fn what_several_contractions_share_may_be_made_and_what_each_has_not() {
    let twins = |shared: bool| {
        legal(Anchor::Contract, &[&[9, 8], &[3, 8], &[3, 8]], |b, x| {
            let [left, first, second] = match shared {
                true => [b.relu(x[0])?, x[1], x[2]],
                false => [x[0], b.relu(x[1])?, b.relu(x[2])?],
            };
            let (first, second) = (product(b, "mk,nk->mn", left, first)?, product(b, "mk,nk->mn", left, second)?);
            b.mul(first, second)
        })
    };
    assert_eq!((twins(true), twins(false)), (true, false));
}

#[test]
fn convolutions_and_rows_in_groups_read_what_is_in_memory() {
    let conv = legal(Anchor::Conv, &[&[1, 4, 6, 6], &[5, 4, 3, 3]], |b, x| {
        let y = b.relu(x[0])?;
        let (one, pads) = (vec![1; 2], vec![(1, 1); 2]);
        b.conv(y, x[1], None, ConvSpec { strides: one.clone(), pads, dilations: one, groups: 1 })
    });
    let mut b = Builder::new("grouped");
    let x = b.input("x", DType::F32, &dims(&[9, 8])).unwrap();
    let w = b.input("w", DType::F32, &dims(&[2, 8, 5])).unwrap();
    let ends = b.input("ends", DType::I32, &dims(&[2])).unwrap();
    let x = b.relu(x).unwrap();
    let op = Op::GroupedMatmul { transposed: false, acc: DType::F32, out: DType::F32 };
    let y = b.add1(op, &[x, w, ends]).unwrap();
    b.output("y", y);
    let grouped = Region { name: "g".into(), summary: String::new(), anchor: Anchor::Contract, graph: b.finish() };
    assert!(!conv && grouped.verify().is_err());
}

fn maps(fused: &Fused) -> usize {
    fused.plan.regions.iter().filter(|region| region.anchor == Anchor::Map).count()
}

/// Squeeze-and-excite is a mean, two small products, and nothing between what it scales and the product that reads that.
#[test]
fn what_is_squeezed_and_excited_is_scaled_where_it_is_multiplied() {
    let graph = mobile(DType::F32);
    let image = Tensor::random(DType::F32, &[1, 3, 112, 112], 5).unwrap();
    for target in GPUS {
        let fused = check(&graph, std::slice::from_ref(&image), &options(target, Numerics::Reassoc), 1e-4);
        // A stem, and two blocks of six.
        assert_eq!((maps(&fused), fused.report.kernels), (0, 13), "{target}: {:#?}", kernels(&fused));
    }
}

/// What is scaled so is read by a product and added to another's result: both scale it.
#[test]
fn what_is_scaled_may_be_a_residual_too() {
    let mut net = Net::new("residual", DType::F32);
    let n = net.b.symbol("N", 1, 8);
    let mut x = net.image(&[n, 16.into(), 56.into(), 56.into()]);
    for _ in 0..2 {
        let y = net.conv_norm(x, Taps { groups: 16, ..Taps::plain(16, 3) }).unwrap();
        let s = net.b.global_avg_pool(y).unwrap();
        let s = net.conv(s, Taps::plain(4, 1)).unwrap();
        let s = net.b.relu(s).unwrap();
        let s = net.conv(s, Taps::plain(16, 1)).unwrap();
        let s = net.b.hard_sigmoid(s, 0.2, 0.5).unwrap();
        let y = net.b.mul(y, s).unwrap();
        let z = net.conv_norm(y, Taps::plain(32, 1)).unwrap();
        let z = net.b.gelu(z).unwrap();
        let z = net.conv_norm(z, Taps::plain(16, 1)).unwrap();
        x = net.b.plus(y, z).unwrap();
    }
    let graph = net.finish(x);
    let image = Tensor::random(DType::F32, &[2, 16, 56, 56], 6).unwrap();
    for target in GPUS {
        let fused = check(&graph, std::slice::from_ref(&image), &options(target, Numerics::Reassoc), 1e-4);
        assert_eq!((maps(&fused), fused.report.kernels), (0, 12), "{target}: {:#?}", kernels(&fused));
    }
}

/// A CPU packs operands either way: there the scaling stays a kernel.
#[test]
fn on_the_cpu_operands_are_read() {
    let mut net = Net::new("block", DType::F32);
    let x = net.image(&dims(&[1, 8, 10, 10]));
    let y = mobile_block(&mut net, x, 8, 1).unwrap();
    let graph = net.finish(y);
    let image = Tensor::random(DType::F32, &[1, 8, 10, 10], 7).unwrap();
    let fused = check(&graph, &[image], &options("cpu", Numerics::Reassoc), 1e-4);
    let made = |region: &&Region| {
        let before = |v: &ValueId| region.made_of(*v).is_some();
        region.anchor == Anchor::Contract
            && region.anchors().iter().any(|a| region.graph.node(*a).inputs.iter().any(before))
    };
    assert_eq!(fused.plan.regions.iter().filter(made).count(), 0, "{:#?}", kernels(&fused));
}
