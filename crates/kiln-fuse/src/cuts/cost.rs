//! Modelled time of a candidate kernel: the target's roofline over its bytes and operations, which is asked of thousands, and what those who make it say or measured, which is asked of
//! few ([`super::prices`]).

use super::cut::{Inner, is_literal};
use super::prices::Prices;
use crate::egraph::{ClassIx, Dag, KernelPlace};
use crate::options::TYPICAL;
use crate::rules::neighbours;
use crate::{Anchor, Extent, Numerics, Options, Price, RegionId, typical_sizes};
use kiln_graph::{BinaryOp, Bindings, DType, Dim, Graph, Op, OpKind, UnaryOp};
use kiln_target::arch::Arch;
use kiln_target::{Target, Work};
use std::collections::BTreeMap;

/// Breaks ties in favour of fewer nodes.
const PER_NODE: f64 = 1e-12;
/// Memory and arithmetic overlap, but not perfectly: the faster of the two still adds this share of its time.
const OVERLAP_LOSS: f64 = 0.1;

/// Fewest scores that a block streams attention for, rows of an instruction by keys of a step: with fewer in all, most of the GPU idles.
const ATTENTION_SCORES: f64 = 16.0 * 64.0;
/// What a kernel that somebody wrote is thought to take of the time that a generated one would: until both are timed, it is there for a reason.
const WRITTEN: f64 = 0.5;
/// A convolution reaches less of the peak than a contraction of the same size.
const CONV_LOSS: f64 = 1.25;

/// Sizes of everything, evaluated once.
pub(crate) struct Costs<'a> {
    target: &'a Target,
    /// Whether products of f32 may round their operands to TF32.
    tf32: bool,
    /// Whether sums may be regrouped.
    regroup: bool,
    sizes: Bindings,
    /// Elements of each class.
    numel: Vec<f64>,
    /// Bytes of each class.
    bytes: Vec<f64>,
    prices: Prices<'a>,
    extent: Extent,
    perturb: Option<u64>,
}

/// Modelled bytes, operations and time of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub bytes: f64,
    pub ops: f64,
    pub seconds: f64,
    /// Seconds that moving the bytes takes alone, and doing the operations: the roofline is the longer.
    pub memory: f64,
    pub arithmetic: f64,
}

impl<'a> Costs<'a> {
    /// Of the classes of a model.
    pub fn new(dag: &Dag, model: &'a Graph, options: &'a Options) -> Costs<'a> {
        let dims = dag.classes.iter().flat_map(|class| class.types.iter().flat_map(|t| &t.shape));
        let sizes = typical_sizes(dims, &model.symbols, &options.sizes);
        let count = |shape: &[Dim]| shape.iter().map(|d| extent(d, &sizes)).product::<f64>();
        let numel: Vec<f64> = dag.classes.iter().map(|c| c.types.iter().map(|t| count(&t.shape)).sum()).collect();
        let bytes =
            dag.classes.iter().map(|c| c.types.iter().map(|t| count(&t.shape) * f64::from(t.dtype.bits()) / 8.0).sum());
        let bytes = bytes.collect();
        let regroup = options.numerics >= Numerics::Reassoc;
        let prices = Prices::new(model, options, sizes.clone());
        let (extent, perturb) = (options.extent, options.perturb);
        Costs { target: &options.target, tf32: options.tf32, regroup, sizes, numel, bytes, prices, extent, perturb }
    }

    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether a cone is no more than what may become one kernel.
    pub fn admits(&self, dag: &Dag, inner: &[Inner]) -> bool {
        let kinds = inner.iter().filter_map(|(class, node)| dag.class(*class).nodes[usize::from(*node)].op.as_ref());
        let mut work = kinds.map(Op::kind).filter(|kind| !matches!(kind, OpKind::View | OpKind::Nullary));
        match self.extent {
            Extent::Full => true,
            Extent::Single => work.nth(1).is_none(),
            Extent::Chains => {
                let first = work.next();
                let chain = first == Some(OpKind::Elementwise) && work.clone().all(|kind| kind == OpKind::Elementwise);
                chain || work.next().is_none()
            }
        }
    }

    /// Whether equal cones may have different costs.
    pub fn is_perturbed(&self) -> bool {
        self.perturb.is_some()
    }

    /// By what the seconds of a cone are multiplied: 1, unless costs are perturbed.
    fn factor(&self, inner: &[Inner]) -> f64 {
        let Some(seed) = self.perturb else { return 1.0 };
        let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = inner.iter().fold(seed, |hash, (c, node)| mix(mix(hash, c.index() as u64), u64::from(*node)));
        // Of four to the power of -1 to 1.
        4.0f64.powf((mix(hash, seed) >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    }

    pub fn numel(&self, class: ClassIx) -> f64 {
        self.numel[class.index()]
    }

    pub fn bytes(&self, class: ClassIx) -> f64 {
        self.bytes[class.index()]
    }

    pub fn launch(&self) -> f64 {
        self.target.launch_seconds()
    }

    /// Whether attention over values of this type may be one kernel: it regroups sums, and feeds tensor cores where they have the type.
    pub fn streams(&self, dtype: DType) -> bool {
        let taken = |arch: Arch| dtype == DType::F32 || arch.mma(dtype).is_some();
        self.regroup && self.target.arch().is_some_and(taken)
    }

    /// Whether contractions read views in place as fast as copies: boxes may lie anywhere, but what a CPU packs lies best in rows without gaps.
    pub fn sees_in_place(&self) -> bool {
        self.target.arch().is_some()
    }

    /// Whether the kernel of a contraction makes an operand on the way as fast as it reads one: a CPU packs it before either way, which is a kernel's work.
    pub fn makes(&self) -> bool {
        self.target.arch().is_some()
    }

    /// Whether contractions that share an operand may be one kernel: it brings that operand once. A CPU's kernels go from one product to the
    /// next, and would keep the first's result in memory as two of them do.
    pub fn twins(&self) -> bool {
        self.target.arch().is_some()
    }

    /// What computing an anchor once more is charged, in seconds: as much as a kernel of its own.
    pub fn again(&self, dag: &Dag, anchor: ClassIx) -> f64 {
        let nodes = dag.class(anchor).nodes.iter().enumerate();
        let alone = nodes.filter_map(|(i, node)| {
            let kind = Anchor::of(node.op.as_ref()?.kind())?;
            Some(self.model(dag, &[(anchor, i as u16)], &node.operands, &[anchor], kind).seconds)
        });
        alone.fold(self.launch(), f64::max)
    }

    /// Modelled time to move bytes, in seconds.
    pub fn transfer(&self, bytes: f64) -> f64 {
        self.target.seconds(&Work { bytes, scalar_ops: 0.0, matrix_ops: 0.0, operands: DType::F32, tf32: false })
    }

    /// Whether those who make kernels are asked.
    pub fn asks(&self) -> bool {
        self.prices.asks()
    }

    /// Seconds of a cone as one kernel as those who make it say; infinite where they cannot, none where they do not say.
    pub fn asked(&self, dag: &Dag, inner: &[Inner], outputs: &[ClassIx], anchor: Anchor) -> Option<f64> {
        let seconds = match self.prices.of(dag, inner, outputs, anchor) {
            Price::Known(known) => known.seconds,
            Price::Measured(seconds) => seconds,
            Price::Unmodelled => return None,
            Price::Refused => return Some(f64::INFINITY),
        };
        Some(self.factor(inner) * (seconds + PER_NODE * inner.len() as f64))
    }

    /// Whether what those who make a cone's kernel say of it was measured.
    pub fn is_measured(&self, dag: &Dag, inner: &[Inner], outputs: &[ClassIx], anchor: Anchor) -> bool {
        matches!(self.prices.of(dag, inner, outputs, anchor), Price::Measured(_))
    }

    /// The region that a cone would be; none if it has none.
    pub fn region(&self, dag: &Dag, inner: &[Inner], outputs: &[ClassIx], anchor: Anchor) -> Option<RegionId> {
        Some(self.prices.region(dag, inner, outputs, anchor)?.region.identity())
    }

    /// [`Costs::model`], with the seconds that those who make the kernel say.
    pub fn estimate(
        &self,
        dag: &Dag,
        inner: &[Inner],
        leaves: &[ClassIx],
        outputs: &[ClassIx],
        anchor: Anchor,
    ) -> Estimate {
        let model = self.model(dag, inner, leaves, outputs, anchor);
        let seconds = self.asked(dag, inner, outputs, anchor).unwrap_or(model.seconds);
        Estimate { seconds, ..model }
    }

    /// What the roofline makes of a cone as one kernel with these results, launch included.
    pub fn model(
        &self,
        dag: &Dag,
        inner: &[Inner],
        leaves: &[ClassIx],
        outputs: &[ClassIx],
        anchor: Anchor,
    ) -> Estimate {
        let Some(root) = inner.last().map(|i| i.0) else { return Estimate::default() };
        let mut domain = self.numel(root);
        let mut matrix_ops = 0.0;
        let mut operands = DType::F32;
        // Share of the device that has something to do.
        let mut busy = 1.0;
        let mut full: Vec<ClassIx> = Vec::new();
        let mut scatters = false;
        // By what the time is multiplied.
        let mut loss = 1.0;
        for (class, node) in inner {
            let node = &dag.class(*class).nodes[usize::from(*node)];
            let Some(op) = &node.op else { continue };
            let ty = |i: usize| dag.class(node.operands[i]).ty();
            match op {
                Op::Contract { spec, .. } => {
                    let contracted = spec.lhs.iter().zip(&ty(0).shape).filter(|(l, _)| !spec.out.contains(l));
                    let depth: f64 = contracted.map(|(_, d)| extent(d, &self.sizes)).product();
                    matrix_ops += 2.0 * self.numel(*class) * depth;
                    operands = ty(0).dtype;
                    (domain, full) = (self.numel(*class), node.operands.clone());
                }
                Op::GroupedMatmul { .. } => {
                    let depth = ty(0).shape.last().map_or(1.0, |d| extent(d, &self.sizes));
                    matrix_ops += 2.0 * self.numel(*class) * depth;
                    operands = ty(0).dtype;
                    (domain, full) = (self.numel(*class), node.operands.clone());
                }
                Op::Conv { spec, .. } => {
                    let taps: f64 = ty(1).shape[1..].iter().map(|d| extent(d, &self.sizes)).product();
                    matrix_ops += CONV_LOSS * 2.0 * self.numel(*class) * taps;
                    // Few channels a group do not fill a tensor core's tile.
                    operands = if spec.groups > 1 { DType::F32 } else { ty(0).dtype };
                    (domain, full) = (self.numel(*class), node.operands.clone());
                    loss = match channels_last(dag, inner, node.operands[0]) {
                        true => 1.0,
                        false => self.target.gather_loss(neighbours(spec, &ty(0).shape).as_const(), ty(0).dtype),
                    };
                }
                // It writes the updates to where what it scatters into lies.
                Op::ScatterElements { .. } | Op::ScatterNd { .. } => {
                    (domain, scatters) = (self.numel(node.operands[2]), true);
                }
                Op::WindowReduce { .. } => (domain, full) = (self.numel(*class), node.operands.clone()),
                Op::Reduce { .. } if anchor == Anchor::Attention => busy = self.busy(self.numel(node.operands[0])),
                Op::Reduce { .. } | Op::ArgReduce { .. } => domain = self.numel(node.operands[0]),
                _ => {}
            }
        }
        let mut scalar_ops = 0.0;
        for (class, node) in inner {
            let Some(op) = &dag.class(*class).nodes[usize::from(*node)].op else { continue };
            let times = match anchor {
                // What stands before a broadcast is computed again for every element that it reaches.
                Anchor::Map | Anchor::Index => domain,
                Anchor::Reduce => {
                    if op.kind() == OpKind::Reduce {
                        domain
                    } else {
                        self.numel(*class).max(1.0)
                    }
                }
                _ => self.numel(*class),
            };
            scalar_ops += times * weight(op, self.window(op));
        }
        let wanted = self.wanted(dag, inner);
        let read = |leaf: &ClassIx| {
            if is_literal(dag, *leaf) {
                return 0.0;
            }
            let width = self.bytes(*leaf) / self.numel(*leaf).max(1.0);
            let whole = full.contains(leaf) || !matches!(anchor, Anchor::Map | Anchor::Index);
            let elements = if whole { wanted.get(leaf).copied().unwrap_or(f64::INFINITY) } else { domain };
            self.bytes(*leaf).min(width * elements)
        };
        let written = |c: &ClassIx| match scatters {
            true => self.bytes(*c).min(self.bytes(*c) / self.numel(*c).max(1.0) * domain),
            false => self.bytes(*c),
        };
        let bytes = leaves.iter().map(read).sum::<f64>() + outputs.iter().map(written).sum::<f64>();
        let tf32 = self.tf32 && anchor == Anchor::Contract;
        let work = |bytes, scalar_ops, matrix_ops| {
            self.target.seconds(&Work { bytes, scalar_ops, matrix_ops, operands, tf32 })
        };
        let (memory, arithmetic) = (work(bytes, 0.0, 0.0), work(0.0, scalar_ops, matrix_ops));
        let seconds = loss * (memory.max(arithmetic) + OVERLAP_LOSS * memory.min(arithmetic)) / busy
            + self.launch()
            + PER_NODE * inner.len() as f64;
        let seconds = seconds * self.factor(inner);
        Estimate { bytes, ops: scalar_ops + matrix_ops, seconds, memory, arithmetic }
    }

    /// How many elements of each class a cone's nodes read at most: of what is sliced a part.
    fn wanted(&self, dag: &Dag, inner: &[Inner]) -> BTreeMap<ClassIx, f64> {
        let mut wanted: BTreeMap<ClassIx, f64> = BTreeMap::new();
        for (class, node) in inner.iter().rev() {
            let node = &dag.class(*class).nodes[usize::from(*node)];
            let own = wanted.get(class).copied().unwrap_or(f64::INFINITY);
            for operand in &node.operands {
                let elements = match &node.op {
                    Some(Op::Slice { .. }) => self.numel(*class),
                    Some(Op::Permute { .. } | Op::Reshape { .. }) => own,
                    _ => f64::INFINITY,
                };
                *wanted.entry(*operand).or_insert(0.0) += elements;
            }
        }
        wanted
    }

    /// Modelled seconds of a kernel that somebody wrote.
    pub fn written(&self, dag: &Dag, place: &KernelPlace, anchor: Anchor) -> f64 {
        WRITTEN * self.model(dag, &place.inner, &place.leaves, &place.outputs, anchor).seconds
    }

    /// Share of the multiprocessors that attention of this many scores keeps busy.
    fn busy(&self, scores: f64) -> f64 {
        match self.target {
            Target::Gpu(gpu) => (scores / ATTENTION_SCORES / f64::from(gpu.sms)).clamp(1e-3, 1.0),
            Target::Cpu(_) => 1.0,
        }
    }

    fn window(&self, op: &Op) -> f64 {
        match op {
            Op::WindowReduce { spec, .. } => spec.window.iter().map(|w| *w as f64).product(),
            _ => 1.0,
        }
    }
}

/// Whether a convolution reads an image in place whose channels are neighbours in memory.
fn channels_last(dag: &Dag, inner: &[Inner], image: ClassIx) -> bool {
    let node = inner.iter().find(|at| at.0 == image).map(|(class, node)| &dag.class(*class).nodes[usize::from(*node)]);
    let neighbours = |perm: &[usize]| perm.get(1).is_some_and(|axis| *axis + 1 == perm.len());
    matches!(node.and_then(|node| node.op.as_ref()), Some(Op::Permute { perm }) if neighbours(perm))
}

fn extent(d: &Dim, sizes: &Bindings) -> f64 {
    d.eval(sizes).map_or(TYPICAL as f64, |v| v.max(0) as f64)
}

/// Arithmetic operations of one element of an op's result, as the cost model counts them.
pub fn operations(op: &Op) -> f64 {
    weight(op, 1.0)
}

/// Arithmetic operations of one element: transcendental functions take a dozen.
pub(super) fn weight(op: &Op, window: f64) -> f64 {
    match op {
        Op::Unary(UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not | UnaryOp::IsNan | UnaryOp::IsInf | UnaryOp::Sign) => 1.0,
        Op::Unary(UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round) => 1.0,
        Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip) => 4.0,
        Op::Unary(_) => 12.0,
        Op::Binary(BinaryOp::Div | BinaryOp::Mod | BinaryOp::Rem) => 6.0,
        Op::Binary(BinaryOp::Pow | BinaryOp::Atan2) => 24.0,
        Op::WindowReduce { .. } => window,
        op if op.kind() == OpKind::View || op.kind() == OpKind::Nullary => 0.0,
        Op::Contract { .. } | Op::GroupedMatmul { .. } | Op::Conv { .. } => 0.0,
        _ => 1.0,
    }
}
