//! Contractions to batched matrix products.

use super::affine::{Affine, dense_strides};
use super::pull::{Domain, Pull, Stop};
use super::{Lowering, Nest};
use crate::error::Result;
use crate::program::{Access, Class, Kind, Level, Program};
use crate::stage::{Arithmetic, Form, Grouped, MatMul, Stage, Strided};
use kiln_graph::{DType, EinsumSpec, ValueId};
use std::sync::OnceLock;

/// Runs of a result shorter than this are put in place by a nest rather than by the product.
const SHORT: usize = 16;

/// A strided view of a slot with one stride an axis.
pub(super) struct Viewed {
    pub(super) slot: usize,
    pub(super) offset: isize,
    pub(super) strides: Vec<isize>,
}

/// A loop of a contraction: extent and strides of lhs, rhs and result.
#[derive(Clone, Copy, Debug)]
struct Loop {
    extent: usize,
    strides: [isize; 3],
}

impl<'g> Lowering<'g> {
    /// `v` as a strided view of a slot, when only views lie between.
    pub(super) fn view(&self, v: ValueId) -> Option<Viewed> {
        let shape = self.shape(v);
        let domain = Domain::new(shape, shape.len());
        let coords: Vec<Affine> = (0..shape.len()).map(|a| domain.coord(a)).collect();
        let mut pull = Pull::new(self, &domain, None);
        let id = pull.value(v, &coords).ok()?;
        let [instr] = pull.program.instrs.as_slice() else { return None };
        let Kind::Load(access) = instr.kind else { return None };
        let access = &pull.program.accesses[access];
        (id == 0 && access.dtype == self.dtype(v)).then(|| Viewed {
            slot: access.slot,
            offset: access.offset,
            strides: access.strides.clone(),
        })
    }

    /// Stores `v` as `dtype` with its axes in `order`, with everything elementwise before it fused in.
    pub(super) fn pack(&mut self, v: ValueId, order: &[usize], dtype: DType) -> Result<Viewed> {
        let shape: Vec<usize> = order.iter().map(|&a| self.shape(v)[a]).collect();
        let slot = self.temp(dtype, shape.iter().product());
        let mut domain = Domain::new(&shape, shape.len());
        loop {
            let mut coords = vec![Affine::default(); order.len()];
            for (i, &a) in order.iter().enumerate() {
                coords[a] = domain.coord(i);
            }
            let ordered: Vec<Affine> = order.iter().map(|&a| coords[a].clone()).collect();
            let to = super::affine::linear(&ordered, &shape);
            let mut pull = Pull::new(self, &domain, None);
            let stop = match pull.store_as(v, &coords, slot, &to, Level::Full, dtype) {
                Ok(()) => {
                    let dims = domain.dims();
                    let (program, kept) = (pull.program, dims.len());
                    self.stages.push(Stage::Nest(Box::new(Nest::new(program, dims, kept, self.threads))));
                    break;
                }
                Err(stop) => stop,
            };
            match stop {
                Stop::Refine { dim, inner } => domain.refine(dim, inner),
                Stop::Materialise(u) => {
                    self.materialise(u)?;
                }
                Stop::Fail(e) => return Err(e),
            }
        }
        let mut strides = vec![0; order.len()];
        for (&a, s) in order.iter().zip(dense_strides(&shape)) {
            strides[a] = s;
        }
        Ok(Viewed { slot, offset: 0, strides })
    }

    /// An operand in memory as `dtype`: a view where it is one, else packed in `order`.
    pub(super) fn operand_as(&mut self, v: ValueId, order: &[usize], dtype: DType) -> Result<Viewed> {
        loop {
            if self.dtype(v) == dtype
                && let Some(view) = self.view(v)
            {
                return Ok(view);
            }
            // What computes the operand may be a stage of its own, whose result is then viewed.
            match self.anchor_below(v) {
                Some(u) => {
                    self.materialise(u)?;
                }
                None => return self.pack(v, order, dtype),
            }
        }
    }

    pub(super) fn contract(&mut self, v: ValueId, spec: &EinsumSpec, acc: DType, out: DType) -> Result<()> {
        let node = self.graph.producer(v);
        let [lhs, rhs] = node.inputs[..] else {
            return Err(self.unsupported(node, "takes two operands".into()));
        };
        let class = Class::of(acc);
        let (arithmetic, operand) = Arithmetic::of(class, [self.dtype(lhs), self.dtype(rhs)]);
        let at = |labels: &[char], l: char| labels.iter().position(|&x| x == l);
        let in_l = |l: &char| spec.lhs.contains(l);
        let in_r = |l: &char| spec.rhs.contains(l);
        let batch: Vec<char> = spec.out.iter().copied().filter(|l| in_l(l) && in_r(l)).collect();
        let rows: Vec<char> = spec.out.iter().copied().filter(|l| in_l(l) && !in_r(l)).collect();
        let cols: Vec<char> = spec.out.iter().copied().filter(|l| !in_l(l) && in_r(l)).collect();
        let summed: Vec<char> = spec.lhs.iter().copied().filter(|l| !spec.out.contains(l)).collect();
        let axes = |labels: &[char], groups: [&[char]; 3]| -> Vec<usize> {
            groups.iter().flat_map(|g| g.iter()).filter_map(|&l| at(labels, l)).collect()
        };
        let float = matches!(arithmetic, Arithmetic::F32 | Arithmetic::F64);
        let (order_l, order_r) = (
            axes(&spec.lhs, [&batch, &rows, &summed]),
            axes(&spec.rhs, if float { [&batch, &summed, &cols] } else { [&batch, &cols, &summed] }),
        );
        let (mut a, mut b) = if float {
            (self.operand_as(lhs, &order_l, operand)?, self.operand_as(rhs, &order_r, operand)?)
        } else {
            (self.pack(lhs, &order_l, operand)?, self.pack(rhs, &order_r, operand)?)
        };

        let out_shape = self.shape(v).to_vec();
        let mut out_strides = dense_strides(&out_shape);
        let extent = |l: char| -> usize {
            at(&spec.lhs, l)
                .map(|i| self.shape(lhs)[i])
                .or_else(|| at(&spec.rhs, l).map(|i| self.shape(rhs)[i]))
                .unwrap_or(1)
        };
        let extents: Vec<(char, usize)> = spec.lhs.iter().chain(&spec.rhs).map(|&l| (l, extent(l))).collect();
        let loops = |labels: &[char], a: &Viewed, b: &Viewed, out: &[isize]| -> Vec<Loop> {
            let list = labels
                .iter()
                .map(|&l| Loop {
                    extent: extents.iter().find(|e| e.0 == l).map_or(1, |e| e.1),
                    strides: [
                        at(&spec.lhs, l).map_or(0, |i| a.strides[i]),
                        at(&spec.rhs, l).map_or(0, |i| b.strides[i]),
                        at(&spec.out, l).map_or(0, |i| out[i]),
                    ],
                })
                .collect();
            merge(list)
        };
        let mut k = loops(&summed, &a, &b, &out_strides);
        if k.len() > 1 {
            (a, b) = (self.pack(lhs, &order_l, operand)?, self.pack(rhs, &order_r, operand)?);
            k = loops(&summed, &a, &b, &out_strides);
        }
        let unit = Loop { extent: 1, strides: [0; 3] };
        let k = k.first().copied().unwrap_or(unit);
        // The matrix's rows and columns, and the loops around it: of several that do not merge, the longest is the matrix's.
        let matrix = |out: &[isize]| {
            let mut outer = loops(&batch, &a, &b, out);
            let mut take = |labels: &[char]| {
                let mut list = loops(labels, &a, &b, out);
                let longest = (0..list.len()).max_by_key(|&i| list[i].extent);
                let chosen = longest.map_or(unit, |i| list.remove(i));
                outer.append(&mut list);
                chosen
            };
            let (m, n) = (take(&rows), take(&cols));
            (m, n, outer)
        };
        let along = |m: &Loop, n: &Loop| [m, n].into_iter().filter(|l| l.strides[2] == 1).map(|l| l.extent).max();
        let (mut m, mut n, mut outer) = matrix(&out_strides);
        // A product that would write short runs only is stored by rows and columns first.
        let order = axes(&spec.out, [&batch, &rows, &cols]);
        let mut packed = vec![0; order.len()];
        for (&a, s) in order.iter().zip(dense_strides(&order.iter().map(|&a| out_shape[a]).collect::<Vec<_>>())) {
            packed[a] = s;
        }
        let other = matrix(&packed);
        let short = along(&m, &n);
        let scattered = float && short < Some(SHORT) && along(&other.0, &other.1) > short;
        if scattered {
            ((m, n, outer), out_strides) = (other, packed);
        }

        // The product lands in the result when it has the accumulator's type.
        let acc_dtype = class.dtype();
        let direct = acc == out && (acc == acc_dtype || acc == DType::U64) && !scattered;
        let to = if direct { self.assign(v) } else { self.temp(acc_dtype, out_shape.iter().product()) };
        let mut product = MatMul {
            arithmetic,
            m: m.extent,
            n: n.extent,
            k: k.extent,
            a: Strided { slot: a.slot, offset: a.offset, row: m.strides[0], col: k.strides[0] },
            b: Strided { slot: b.slot, offset: b.offset, row: k.strides[1], col: n.strides[1] },
            form: Form::Strided,
            out: Strided { slot: to, offset: 0, row: m.strides[2], col: n.strides[2] },
            batch: outer.iter().map(|l| (l.extent, l.strides)).collect(),
            tail: None,
            threads: self.threads,
            tasks: OnceLock::new(),
        };
        if float && product.out.col != 1 && product.out.row == 1 {
            product.transpose();
        }
        self.keep_columns(&mut product, operand);
        self.stages.push(Stage::MatMul(Box::new(product)));
        if !direct {
            self.convert_from((to, acc_dtype, out_strides), v, acc, out);
        }
        Ok(())
    }

    pub(super) fn grouped(&mut self, v: ValueId, transposed: bool, acc: DType, out: DType) -> Result<()> {
        let node = self.graph.producer(v);
        let [x, w, ends] = node.inputs[..] else {
            return Err(self.unsupported(node, "takes three operands".into()));
        };
        let class = Class::of(acc);
        let (arithmetic, operand) = Arithmetic::of(class, [self.dtype(x), self.dtype(w)]);
        let [deep, wide] = if transposed { [2, 1] } else { [1, 2] };
        let (a, b) = if matches!(arithmetic, Arithmetic::F32 | Arithmetic::F64) {
            (self.operand_as(x, &[0, 1], operand)?, self.operand_as(w, &[0, deep, wide], operand)?)
        } else {
            (self.pack(x, &[0, 1], operand)?, self.pack(w, &[0, wide, deep], operand)?)
        };
        let ends = self.dense_as(ends, DType::I64)?;
        let &[m, k] = self.shape(x) else { return Err(self.unsupported(node, "takes rows of one axis".into())) };
        let n = self.shape(w)[wide];
        // The product lands in the result when it has the accumulator's type.
        let held = class.dtype();
        let direct = acc == out && (acc == held || acc == DType::U64);
        let to = if direct { self.assign(v) } else { self.temp(held, m * n) };
        let product = MatMul {
            arithmetic,
            m,
            n,
            k,
            a: Strided { slot: a.slot, offset: a.offset, row: a.strides[0], col: a.strides[1] },
            b: Strided { slot: b.slot, offset: b.offset, row: b.strides[deep], col: b.strides[wide] },
            form: Form::Strided,
            out: Strided { slot: to, offset: 0, row: n as isize, col: 1 },
            batch: vec![],
            tail: None,
            threads: self.threads,
            tasks: OnceLock::new(),
        };
        self.stages.push(Stage::Grouped(Box::new(Grouped { product, stride: b.strides[0], ends })));
        if !direct {
            self.convert(to, held, v, acc, out);
        }
        Ok(())
    }

    /// A nest that rounds `from` to the accumulator's dtype and then to the result's.
    pub(crate) fn convert(&mut self, from: usize, from_dtype: DType, v: ValueId, acc: DType, out: DType) {
        self.convert_from((from, from_dtype, dense_strides(self.shape(v))), v, acc, out);
    }

    /// [`Lowering::convert`] of a slot whose elements lie at these strides.
    fn convert_from(&mut self, (from, dtype, strides): (usize, DType, Vec<isize>), v: ValueId, acc: DType, out: DType) {
        let to = self.assign(v);
        let dims = self.shape(v).to_vec();
        let access = |slot, dtype, strides| Access { slot, dtype, offset: 0, strides };
        let accesses = vec![access(from, dtype, strides), access(to, out, dense_strides(&dims))];
        let (program, kept) = (Program::cast(accesses, acc), dims.len());
        self.stages.push(Stage::Nest(Box::new(Nest::new(program, dims, kept, self.threads))));
    }
}

/// Merges neighbouring loops that all three operands walk as one, and drops those of extent 1.
fn merge(list: Vec<Loop>) -> Vec<Loop> {
    let mut merged: Vec<Loop> = Vec::new();
    for l in list {
        if l.extent == 1 {
            continue;
        }
        match merged.last_mut() {
            Some(last) if (0..3).all(|i| last.strides[i] == l.strides[i] * l.extent as isize) => {
                *last = Loop { extent: last.extent * l.extent, strides: l.strides };
            }
            _ => merged.push(l),
        }
    }
    merged
}
