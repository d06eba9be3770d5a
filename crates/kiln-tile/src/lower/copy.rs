//! Copies between global and shared memory.

use super::Lower;
use crate::error::Result;
use crate::expr::Expr;
use crate::ir::{BarrierId, CopyKind, Part, Place, Slot, View};
use crate::threads::{self as t, Effect, Scalar, Special, Stmt, Ty};
use kiln_layout::{RegisterLayout, SwizzleMode};

/// A tensor map that a kernel takes by value, after its other parameters.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TensorMap {
    /// Which of the program's parameters the tensor is.
    pub tensor: usize,
    /// Extents of a box, the fastest axis first; of windows channels and pixels.
    pub extents: Vec<u32>,
    /// How windows move over the image that the tensor is, if they do.
    pub windows: Option<Windows>,
    /// Bytes of the swizzle's span; 0: none.
    pub swizzle: u32,
    /// Whether copies round f32 to TF32.
    pub tf32: bool,
}

/// How windows move over an image, along each axis of space, the fastest first.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Windows {
    /// Their first place, from the image's first pixel.
    pub lower: Vec<i32>,
    /// Their last place at most, from the image's last pixel.
    pub upper: Vec<i32>,
    /// From one to the next.
    pub steps: Vec<u32>,
}

impl Windows {
    fn of(view: &View) -> Option<Windows> {
        let walk = view.walks.first()?;
        let along = |of: fn(&Part) -> i64| {
            let space = walk.parts[1..].iter().rev().map(of);
            space.map(|at| i32::try_from(at).ok()).collect::<Option<Vec<i32>>>()
        };
        let steps = along(|part| part.step)?.into_iter().map(i32::unsigned_abs).collect();
        Some(Windows { lower: along(|part| part.base)?, upper: along(|part| part.last)?, steps })
    }
}

/// Most copies of a thread that stand one after another: of more the compiler would keep all addresses, so that they are a loop of so many.
const MOST_COPIES: u32 = 8;

/// One box.
struct OneBox {
    map: t::Var,
    /// First element.
    origin: Vec<t::Expr>,
    /// Where in windows the pixels are, of 16 bits each; none of what is no window.
    offsets: Vec<t::Expr>,
    /// Shared address.
    address: t::Expr,
}

impl Lower<'_> {
    /// Starts a copy of a box into a slot.
    pub(super) fn copy(
        &mut self,
        from: &View,
        to: &Slot,
        kind: CopyKind,
        barrier: Option<&(BarrierId, Expr)>,
    ) -> Result<()> {
        match (kind, barrier) {
            (CopyKind::Tma | CopyKind::Multicast, Some((barrier, index))) => {
                let barrier = self.barrier_address(*barrier, index)?;
                let ctas = if kind == CopyKind::Multicast { self.program.schedule.cluster } else { 1 };
                self.boxes(from, to, ctas, &mut |lower, OneBox { map, origin, offsets, address: to }| {
                    let barrier = barrier.clone();
                    let multicast = (ctas > 1).then(|| t::Expr::Int((1 << ctas) - 1, Scalar::U16));
                    lower.push(Stmt::Effect(Effect::TmaLoad { to, map, origin, offsets, barrier, multicast }));
                })
            }
            (CopyKind::CpAsync(bytes), _) => self.copy_async(from, to, bytes),
            _ => Err(self.internal("a copy that has no instruction")),
        }
    }

    /// Starts a copy of a slot to a box.
    pub(super) fn copy_out(&mut self, from: &Slot, to: &View) -> Result<()> {
        self.boxes(to, from, 1, &mut |lower, OneBox { map, origin, address: from, .. }| {
            lower.push(Stmt::Effect(Effect::TmaStore { from, map, origin }));
        })
    }

    /// Calls `write` with tensor map, origin and shared address of each of the boxes that make up a slot, or of this CTA's part of each where
    /// `ctas` of a cluster have one.
    fn boxes(&mut self, view: &View, slot: &Slot, ctas: u32, write: &mut dyn FnMut(&mut Self, OneBox)) -> Result<()> {
        let name = self.program.shared(slot.buffer).name.clone();
        let boxes = self.shared_layout(slot.buffer)?.tma_box();
        let mut boxes = boxes.ok_or_else(|| self.internal(format!("`{name}` is not made of boxes")))?;
        let mut part = None;
        if ctas > 1 {
            let cut =
                boxes.cut(ctas).ok_or_else(|| self.internal(format!("boxes of `{name}` have no {ctas} parts")))?;
            let rank = t::Expr::Special(Special::ClusterRank).cast(Scalar::I32);
            let along = |each: u32| rank.clone().times(t::Expr::int(each));
            part = Some((cut.axis, along(cut.elements), along(cut.bytes)));
            boxes = cut.first;
        }
        let windows = view.walks.iter().map(|walk| walk.axis);
        let walked: Vec<usize> = view.axes.iter().rev().filter_map(|axis| *axis).chain(windows).collect();
        if walked != boxes.order {
            return Err(self.internal(format!("`{name}` lies otherwise than the tensor it is copied from or to")));
        }
        let extents = match &view.walks[..] {
            [] => view.axes.iter().rev().map(|axis| axis.map_or(1, |axis| boxes.extents[axis])).collect(),
            _ if ctas > 1 => return Err(self.internal(format!("windows of `{name}` have no {ctas} parts"))),
            _ => walked.iter().map(|axis| boxes.extents[*axis]).collect(),
        };
        let swizzle = if boxes.swizzle == SwizzleMode::None { 0 } else { boxes.swizzle.span() };
        let tf32 = self.rounded.contains(&slot.buffer);
        let map = self.tensor_map(view, (extents, swizzle, tf32))?;
        let start = self.slot(slot)?;
        for place in &boxes.boxes {
            let mut origin = vec![];
            let mut firsts = view.origin.clone();
            let mut offsets = vec![];
            if let [walk] = &view.walks[..] {
                let values = walk.values(&Expr::index(place.origin[walk.axis].into()));
                for (i, (part, value)) in walk.parts.iter().zip(values).enumerate() {
                    let moved = value * part.step + part.base;
                    if i == 0 {
                        firsts[part.axis] = &firsts[part.axis] + moved;
                    } else {
                        let offset = std::mem::replace(&mut firsts[part.axis], moved);
                        offsets.insert(0, self.expr(&offset)?.cast(Scalar::U16));
                    }
                }
            }
            for (first, axis) in firsts.iter().zip(&view.axes).rev() {
                let at = first + i64::from(axis.map_or(0, |axis| place.origin[axis]));
                let at = self.expr(&at)?.cast(Scalar::I32);
                origin.push(match &part {
                    Some((cut, along, _)) if Some(*cut) == *axis => at.plus(along.clone()),
                    _ => at,
                });
            }
            let mut bytes = start.clone().plus(t::Expr::int(place.offset));
            if let Some((_, _, along)) = &part {
                bytes = bytes.plus(along.clone());
            }
            let address = t::Expr::SharedAddress(Box::new(bytes));
            write(self, OneBox { map: map.clone(), origin, offsets, address });
        }
        Ok(())
    }

    /// The parameter for a tensor's boxes of these extents, swizzled and rounded so.
    fn tensor_map(&mut self, view: &View, (extents, swizzle, tf32): (Vec<u32>, u32, bool)) -> Result<t::Var> {
        let id = view.tensor.id;
        let position = self
            .program
            .params
            .iter()
            .position(|param| matches!(param, crate::program::Param::Buffer { buffer, .. } if buffer.id == id));
        let tensor = position.ok_or_else(|| self.internal(format!("`{}` is no parameter", view.tensor.name)))?;
        let map = TensorMap { tensor, extents, windows: Windows::of(view), swizzle, tf32 };
        if let Some((_, var)) = self.maps.iter().find(|(known, _)| *known == map) {
            return Ok(var.clone());
        }
        let var = self.var(&format!("{}_map", view.tensor.name), Ty::TensorMap);
        self.maps.push((map, var.clone()));
        Ok(var)
    }

    /// Each thread starts copies of so many bytes; what does not exist becomes zero.
    fn copy_async(&mut self, from: &View, to: &Slot, bytes: u32) -> Result<()> {
        let shared = self.shared_layout(to.buffer)?;
        let width = bytes / shared.element_bytes();
        let fast = from.inner().ok_or_else(|| self.internal("a copy that walks along no dense axis"))?;
        let order: Vec<usize> =
            std::iter::once(fast).chain((0..from.shape.len()).rev().filter(|axis| *axis != fast)).collect();
        let layout = RegisterLayout::blocked(&from.shape, self.threads()?.count, width, &order);
        let layout = layout.map_err(|e| self.internal(e.to_string()))?;
        let owner = self.owner(&layout)?;
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let digits = self.digits(&layout, &[])?;
        let vector = digits.iter().position(|digit| digit.axis == fast && digit.stride == 1);
        let lanes = vector.filter(|_| width > 1).map(|place| (place, width));
        let nest = self.nest(&layout, &digits, 0, lanes)?;
        let mut at: Vec<Expr> = nest.at.iter().map(|at| nest.first_lane(at)).collect();
        let (mut loops, mut around) = (nest.loops.clone(), None);
        let count: u32 = loops.iter().map(|(_, extent)| extent).product();
        if count > MOST_COPIES
            && let Some((var, extent)) = loops.first_mut()
        {
            let most = MOST_COPIES / (count / *extent);
            let part = (1..=most).rev().find(|part| extent.is_multiple_of(*part)).unwrap_or(1);
            let (outer, own) = (self.counter("piece", *extent / part, false), self.counter("part", part, false));
            let place = Expr::var(&outer) * i64::from(part) + Expr::var(&own);
            at.iter_mut().for_each(|e| *e = e.substitute(&|of| (of == var).then(|| place.clone())));
            around = Some((outer, *extent / part));
            (*var, *extent) = (own, part);
        }
        let inner: Vec<u32> = around.iter().chain(&loops).map(|(var, _)| var.id).collect();
        let start = self.slot(to)?;
        let block = self.nested(|lower| {
            let position = lower.position(&Place::View(from.clone()), &at)?;
            let source = lower.address(&from.tensor, &position.index, &inner)?;
            let mask = lower.condition(&position.mask, &inner)?;
            let counter = around.as_ref().map(|(var, extent)| (lower.declare(var), *extent));
            let body = lower.nested(|lower| {
                lower.in_loops(&loops, &mut |lower| {
                    let index = lower.expr(&source.inner)?;
                    let exists = lower.expr(&mask)?;
                    let bytes_in = lower.shared_bytes(&at, shared)?;
                    let to = t::Expr::SharedAddress(Box::new(start.clone().plus(bytes_in)));
                    let from = t::Expr::GlobalAddress(Box::new(source.pointer.clone()), Box::new(index));
                    lower.push(Stmt::Effect(Effect::CopyAsync { to, from, bytes, exists }));
                    Ok(())
                })
            })?;
            match counter {
                Some((var, extent)) => {
                    let (start, end, step) = (t::Expr::int(0), t::Expr::int(extent), t::Expr::int(1));
                    lower.push(Stmt::For { var, start, end, step, unroll: false, body });
                }
                None => body.into_iter().for_each(|stmt| lower.push(stmt)),
            }
            Ok(())
        })?;
        self.owned(owner, block);
        Ok(())
    }
}
