//! Where every element is. Dots and accesses to memory say what they need; the rest follows them; where two needs differ, a conversion stands
//! between.

use super::Machine;
use super::machine::walks_in_runs;
use super::select::dense_axes;
use crate::error::{Result, TileError};
use crate::expr::{Expr, ExprKind, Var};
use crate::ir::{Block, CopyKind, Op, Operand, Place, Program, Scalar, SharedId, Stmt, ValueId, View};
use crate::pass::facts::Facts;
use kiln_layout::{LayoutError, RegisterLayout, SharedLayout, Swizzle, SwizzleMode};
use kiln_target::atoms::MmaKind;
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn layouts(program: &mut Program, machine: &Machine) -> Result<()> {
    let mut facts = Facts::of(&program.params);
    for axis in &program.domain {
        facts.set_axis(&axis.var, &axis.extent);
    }
    let mut pass = Pass { machine, facts, layouts: HashMap::new(), wanted: vec![], warps: program.schedule.warps };
    let body = std::mem::take(&mut program.body);
    shared(program, &body, machine)?;
    pass.dots(program, &body, program.schedule.warps)?;
    pass.settle(program, &body)?;
    for (value, layout) in &pass.layouts {
        program.value_mut(*value).layout = Some(layout.clone());
    }
    program.body = pass.converted(program, body)?;
    Ok(())
}

fn error(program: &Program, what: String) -> TileError {
    let help = "choose another Config: tiles that the warps share evenly".to_owned();
    TileError::Invalid { kernel: program.name.clone(), what, place: "layouts".to_owned(), help }
}

/// Lays out shared buffers: rows of up to 128 bytes along the axis that is contiguous in memory, swizzled, as boxes, instructions on matrices
/// or threads that multiply want them (16 bytes wide, unswizzled, where they are that short and wgmma reads them); padded where none does.
fn shared(program: &mut Program, body: &Block, machine: &Machine) -> Result<()> {
    let mut dense = dense_axes(body);
    let (mut scalar, mut warpgroup, mut boxed, mut across) = (vec![], vec![], vec![], vec![]);
    for stmt in body {
        stmt.walk(&mut |stmt| {
            if let Op::Copy { to: slot, kind: CopyKind::Tma, .. } | Op::CopyOut { from: slot, .. } = &stmt.op {
                boxed.push(slot.buffer);
            }
            let Op::Dot { a, b, atom, .. } = &stmt.op else { return };
            for (operand, deep) in [(a, 1), (b, 0)] {
                if let Operand::Shared(slot) = operand {
                    dense.entry(slot.buffer).or_insert(deep);
                    let kind = atom.as_deref().and_then(|name| machine.atom(name)).map(|atom| atom.kind);
                    match kind {
                        Some(MmaKind::Fma) => scalar.push(slot.buffer),
                        Some(MmaKind::Wgmma) => warpgroup.push(slot.buffer),
                        _ if dense.get(&slot.buffer) != Some(&deep) => across.push(slot.buffer),
                        _ => {}
                    }
                }
            }
        });
    }
    for i in 0..program.shared.len() {
        let buffer = &program.shared[i];
        let bytes = buffer.dtype.bits() / 8;
        let id = SharedId(i as u32);
        let last = buffer.shape.len().saturating_sub(1);
        let fast = dense.get(&id).copied().unwrap_or(last);
        let mut order = vec![fast];
        order.extend((0..buffer.shape.len()).rev().filter(|axis| *axis != fast));
        let line = buffer.shape.get(fast).copied().unwrap_or(1) * bytes;
        let swizzled = [SwizzleMode::B128, SwizzleMode::B64, SwizzleMode::B32];
        let cores = warpgroup.contains(&id).then_some(SwizzleMode::None);
        let mode = swizzled.into_iter().chain(cores).find(|mode| line.is_multiple_of(mode.span()));
        let layout = match mode {
            Some(mode) => {
                let slabs = SharedLayout::slabs(&buffer.shape, &order, mode, bytes);
                let own = match bytes {
                    _ if boxed.contains(&id) => None,
                    // Neighbouring threads that multiply have every fourth row.
                    _ if scalar.contains(&id) => Some(Swizzle::new(3, 4, (4 * mode.span()).ilog2() - 4)),
                    // Fragments of 8 bytes an element are four rows of 32 bytes at a time; of 4 bytes, where those lie across the depth.
                    _ if bytes == 8 || bytes == 4 && across.contains(&id) => {
                        Some(Swizzle::new(mode.span().ilog2() - 5, 5, 2))
                    }
                    _ => None,
                };
                own.map_or(slabs.clone(), |own| slabs.and_then(|slabs| slabs.swizzled(own?)))
            }
            _ => SharedLayout::padded(&buffer.shape, &order, 16 / bytes.max(1), bytes),
        };
        let layout = layout.and_then(|layout| layout.staged(buffer.stages));
        let layout =
            layout.map_err(|e| error(program, format!("`{}` in shared memory: {e}", program.shared[i].name)))?;
        program.shared[i].layout = Some(layout);
    }
    Ok(())
}

struct Pass<'a> {
    machine: &'a Machine,
    facts: Facts,
    layouts: HashMap<ValueId, RegisterLayout>,
    /// What a statement needs of an operand, by the operand.
    wanted: Vec<(ValueId, RegisterLayout)>,
    warps: u32,
}

impl Pass<'_> {
    fn dots(&mut self, program: &Program, body: &Block, warps: u32) -> Result<()> {
        for stmt in body {
            match &stmt.op {
                Op::Dot { a, acc, atom: Some(atom), .. } => {
                    let shape = &program.value(*acc).shape;
                    let whole = self.rows_stay(program);
                    let Some(found) = self.machine.atom(atom) else {
                        return Err(error(program, format!("`{atom}` is no instruction")));
                    };
                    let found = self.machine.dot_layouts(&found, [shape[0], shape[1]], warps, whole);
                    let layouts = found
                        .map_err(|e| error(program, format!("the accumulator `{}`: {e}", program.value(*acc).name)))?;
                    self.layouts.insert(*acc, layouts.accumulator.clone());
                    self.layouts.insert(stmt.results[0], layouts.accumulator.clone());
                    if let Operand::Tile(value) = a {
                        let shape = &program.value(*value).shape;
                        let left = layouts.left([shape[0], shape[1]]);
                        let left =
                            left.map_err(|e| error(program, format!("`{}`: {e}", program.value(*value).name)))?;
                        self.wanted.push((*value, left));
                    }
                }
                Op::Roles(roles) => {
                    for role in roles {
                        self.dots(program, &role.body, role.warps)?;
                    }
                }
                op => {
                    for block in op.blocks() {
                        self.dots(program, block, warps)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether rows of accumulators should not be cut among warps: they are reduced, or multiplied again.
    fn rows_stay(&self, program: &Program) -> bool {
        program.values.iter().any(|value| value.shape.len() == 2 && value.shape[1] == 1 && value.shape[0] > 1)
    }

    /// Gives every value a layout.
    fn settle(&mut self, program: &Program, body: &Block) -> Result<()> {
        let flat = flatten(body);
        loop {
            while self.spread(program, &flat)? {}
            // A dot's left operand made by a map may be made where it is needed.
            let Some(next) = self.next(program, &flat)? else { return Ok(()) };
            self.layouts.insert(next.0, next.1);
        }
    }

    /// Follows what is known one step in every direction; whether anything was new.
    fn spread(&mut self, program: &Program, flat: &[&Stmt]) -> Result<bool> {
        let before = self.layouts.len();
        for stmt in flat {
            match &stmt.op {
                Op::For { carried, yields, .. } => {
                    for (i, (inside, first)) in carried.iter().enumerate() {
                        self.equal(&[*inside, *first, yields[i], stmt.results[i]]);
                    }
                }
                Op::If { then, otherwise, .. } => {
                    for (i, result) in stmt.results.iter().enumerate() {
                        self.equal(&[*result, then.1[i], otherwise.1[i]]);
                    }
                }
                Op::Map { args, .. } => {
                    let shape = &program.value(stmt.results[0]).shape;
                    let mut same = stmt.results.clone();
                    same.extend(args.iter().map(|(_, v)| *v).filter(|v| program.value(*v).shape == *shape));
                    self.equal(&same);
                    if let Some(layout) = self.layouts.get(&stmt.results[0]).cloned() {
                        for (_, value) in args {
                            let own = &program.value(*value).shape;
                            if own != shape && !self.layouts.contains_key(value) {
                                let sliced = sliced(&layout, own).map_err(|e| error(program, e.to_string()))?;
                                self.layouts.insert(*value, sliced);
                            }
                        }
                    }
                }
                Op::ClusterReduce { of } => {
                    of.iter().zip(&stmt.results).for_each(|((_, value), result)| self.equal(&[*value, *result]));
                }
                Op::Reduce { value, axis, .. } => {
                    if let (Some(layout), false) =
                        (self.layouts.get(value), self.layouts.contains_key(&stmt.results[0]))
                    {
                        let left = program.value(stmt.results[0]).shape[*axis];
                        let sliced = layout.residues(*axis, left).map_err(|e| error(program, e.to_string()))?;
                        self.layouts.insert(stmt.results[0], sliced);
                    }
                }
                Op::Transpose { value, perm } => {
                    if let (Some(layout), false) =
                        (self.layouts.get(value), self.layouts.contains_key(&stmt.results[0]))
                    {
                        let turned = layout.transpose(perm).map_err(|e| error(program, e.to_string()))?;
                        self.layouts.insert(stmt.results[0], turned);
                    }
                }
                _ => {}
            }
        }
        Ok(self.layouts.len() > before)
    }

    /// Gives the layout of one to those of the others that have none.
    fn equal(&mut self, values: &[ValueId]) {
        if let Some(layout) = values.iter().find_map(|value| self.layouts.get(value)).cloned() {
            for value in values {
                self.layouts.entry(*value).or_insert_with(|| layout.clone());
            }
        }
    }

    /// A value without layout, and one for it: of those with the most elements the first that touches memory.
    fn next(&self, program: &Program, flat: &[&Stmt]) -> Result<Option<(ValueId, RegisterLayout)>> {
        let elements = |value: ValueId| program.value(value).shape.iter().map(|e| u64::from(*e)).product::<u64>();
        let mut best: Option<(u64, bool, ValueId)> = None;
        let mut consider = |value: ValueId, memory: bool| {
            if self.layouts.contains_key(&value) {
                return;
            }
            let rank = (elements(value), memory);
            if best.is_none_or(|(count, known, _)| rank > (count, known)) {
                best = Some((rank.0, memory, value));
            }
        };
        for stmt in flat {
            match &stmt.op {
                Op::Store { value, .. } | Op::Atomic { value, .. } | Op::SharedStore { value, .. } => {
                    consider(*value, true)
                }
                _ => {}
            }
            let memory = matches!(stmt.op, Op::Load { .. } | Op::SharedLoad { .. });
            stmt.results.iter().for_each(|value| consider(*value, memory));
            if let Op::For { carried, .. } = &stmt.op {
                carried.iter().for_each(|(inside, _)| consider(*inside, false));
            }
        }
        let Some((.., value)) = best else { return Ok(None) };
        Ok(Some((value, self.blocked(program, flat, value)?)))
    }

    /// Neighbours in memory to one thread, 16 bytes of the widest type if that is provably aligned, neighbouring runs to neighbouring threads.
    fn blocked(&self, program: &Program, flat: &[&Stmt], value: ValueId) -> Result<RegisterLayout> {
        let shape = &program.value(value).shape;
        let fast = self.fastest(flat, value).unwrap_or(shape.len().saturating_sub(1));
        let mut order = vec![fast];
        order.extend((0..shape.len()).rev().filter(|axis| *axis != fast));
        let vector = self.vector(program, flat, value, fast);
        let threads = 32 * self.warps;
        let rows = program.schedule.row_threads;
        let layout = if rows > 0 && rows < threads && shape.len() == 2 {
            rows_layout(shape, threads, rows, vector, fast)
        } else {
            RegisterLayout::blocked(shape, threads, vector, &order)
        };
        layout.map_err(|e| error(program, format!("`{}`: {e}", program.value(value).name)))
    }

    /// The axis of a tile that is contiguous where it is loaded from or stored to.
    fn fastest(&self, flat: &[&Stmt], value: ValueId) -> Option<usize> {
        flat.iter().find_map(|stmt| match &stmt.op {
            Op::Load { from: Place::View(view), .. } if stmt.results[0] == value => view.inner(),
            Op::Store { to: Place::View(view), value: stored } if *stored == value => view.inner(),
            _ => None,
        })
    }

    /// Elements that every access to tiles of one layout can move at once: at most 16 bytes of the narrowest type and 32 of the widest.
    fn vector(&self, program: &Program, flat: &[&Stmt], value: ValueId, fast: usize) -> u32 {
        let mut found = Accesses {
            facts: self.facts.clone(),
            tiles: alike(program, flat, value),
            shape: program.value(value).shape.clone(),
            fast,
            widths: vec![],
            bits: vec![],
        };
        found.block(flat);
        let (Some(least), Some(most)) = (found.bits.iter().min(), found.bits.iter().max()) else { return 1 };
        let widest = found.widths.iter().copied().min().unwrap_or(1);
        [16, 8, 4, 2].into_iter().find(|w| w * least <= 128 && w * most <= 256 && *w <= widest).unwrap_or(1)
    }

    /// The program with a conversion wherever a layout is not the one that is needed.
    fn converted(&mut self, program: &mut Program, body: Block) -> Result<Block> {
        let mut out = vec![];
        for mut stmt in body {
            let mut wanted: Vec<(ValueId, RegisterLayout)> = vec![];
            match &stmt.op {
                Op::Dot { a: Operand::Tile(value), .. } => {
                    wanted.extend(self.wanted.iter().find(|(of, _)| of == value).cloned());
                }
                Op::Map { args, .. } => {
                    let layout = self.layouts[&stmt.results[0]].clone();
                    for (_, value) in args {
                        let shape = &program.value(*value).shape;
                        let need = sliced(&layout, shape).map_err(|e| error(program, e.to_string()))?;
                        wanted.push((*value, need));
                    }
                }
                Op::ClusterReduce { of } => {
                    let pairs = of.iter().zip(&stmt.results);
                    wanted.extend(pairs.map(|((_, value), result)| (*value, self.layouts[result].clone())));
                }
                Op::For { carried, .. } => {
                    wanted.extend(carried.iter().map(|(inside, first)| (*first, self.layouts[inside].clone())));
                }
                _ => {}
            }
            for (value, need) in wanted {
                if self.layouts.get(&value) != Some(&need) {
                    let converted = self.convert(program, value, need, &mut out);
                    stmt.op.uses_mut(&mut |used| {
                        if *used == value {
                            *used = converted;
                        }
                    });
                }
            }
            let carried: Vec<ValueId> = match &stmt.op {
                Op::For { carried, .. } => carried.iter().map(|(inside, _)| *inside).collect(),
                Op::If { .. } => stmt.results.clone(),
                _ => vec![],
            };
            for block in stmt.op.blocks_mut() {
                *block = self.converted(program, std::mem::take(block))?;
            }
            let ends: Vec<(&mut Block, &mut Vec<ValueId>)> = match &mut stmt.op {
                Op::For { body, yields, .. } => vec![(body, yields)],
                Op::If { then, otherwise, .. } => {
                    vec![(&mut then.0, &mut then.1), (&mut otherwise.0, &mut otherwise.1)]
                }
                _ => vec![],
            };
            for (block, yields) in ends {
                for (value, target) in yields.iter_mut().zip(&carried) {
                    let need = self.layouts[target].clone();
                    if self.layouts.get(value) != Some(&need) {
                        *value = self.convert(program, *value, need, block);
                    }
                }
            }
            out.push(stmt);
        }
        Ok(out)
    }

    fn convert(&mut self, program: &mut Program, value: ValueId, need: RegisterLayout, out: &mut Block) -> ValueId {
        let converted = program.add_like(value);
        program.value_mut(converted).layout = Some(need.clone());
        self.layouts.insert(converted, need);
        out.push(Stmt { results: vec![converted], op: Op::Convert { value } });
        converted
    }
}

/// The tiles that get the layout of one: elements at the same coordinates meet in maps, or pass through control flow.
fn alike(program: &Program, flat: &[&Stmt], value: ValueId) -> HashSet<ValueId> {
    let mut found = HashSet::from([value]);
    let mut groups: Vec<Vec<ValueId>> = vec![];
    for stmt in flat {
        match &stmt.op {
            Op::Map { args, .. } => {
                let shape = &program.value(stmt.results[0]).shape;
                let args = args.iter().map(|(_, v)| *v).filter(|v| program.value(*v).shape == *shape);
                groups.push(stmt.results.iter().copied().chain(args).collect());
            }
            Op::ClusterReduce { of } => {
                groups.extend(of.iter().zip(&stmt.results).map(|((_, value), result)| vec![*value, *result]));
            }
            Op::For { carried, yields, .. } => {
                let of = |(i, (inside, first)): (usize, &(ValueId, ValueId))| {
                    vec![*inside, *first, yields[i], stmt.results[i]]
                };
                groups.extend(carried.iter().enumerate().map(of));
            }
            Op::If { then, otherwise, .. } => {
                groups.extend(stmt.results.iter().enumerate().map(|(i, v)| vec![*v, then.1[i], otherwise.1[i]]));
            }
            _ => {}
        }
    }
    loop {
        let before = found.len();
        for group in groups.iter().filter(|group| group.iter().any(|v| found.contains(v))).cloned().collect::<Vec<_>>()
        {
            found.extend(group);
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The statements of a block and of all blocks inside, in order.
fn flatten(body: &Block) -> Vec<&Stmt> {
    let mut flat = vec![];
    body.iter().for_each(|stmt| stmt.walk(&mut |stmt| flat.push(stmt)));
    flat
}

/// What a tile with extents of 1 where `layout`'s differ needs to be combined with it.
fn sliced(layout: &RegisterLayout, shape: &[u32]) -> std::result::Result<RegisterLayout, LayoutError> {
    let mut layout = layout.clone();
    for (axis, extent) in shape.iter().enumerate() {
        if *extent == 1 && layout.shape()[axis] != 1 {
            layout = layout.slice(axis)?;
        }
    }
    Ok(layout)
}

/// Rows that `rows` threads share; what is left of a row is in registers.
fn rows_layout(
    shape: &[u32],
    threads: u32,
    rows: u32,
    vector: u32,
    fast: usize,
) -> std::result::Result<RegisterLayout, LayoutError> {
    let mut piece = shape.to_vec();
    piece[fast] = (vector * rows).min(shape[fast]);
    if !shape[fast].is_multiple_of(piece[fast]) {
        piece[fast] = shape[fast];
    }
    let order = [fast, 1 - fast];
    let mut line = piece.clone();
    line[1 - fast] = 1;
    let part = RegisterLayout::blocked(&line, rows, vector, &order)?;
    // Rows go to what threads are left, then to registers, as do the rest of the columns.
    let (count, teams) = (shape[1 - fast], threads / rows);
    let dealt = gcd(count, teams);
    let mut grid = [1; 2];
    grid[fast] = shape[fast] / piece[fast];
    grid[1 - fast] = count;
    use kiln_layout::Mode;
    let registers = [Mode::along(fast, grid[fast], 1), Mode::along(1 - fast, count / dealt, dealt)];
    let outer = [Mode::along(1 - fast, dealt, 1), Mode::copies(teams / dealt)];
    part.compose(&RegisterLayout::new(&grid, &registers, &outer)?)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How wide the accesses to memory can be that tiles of one layout make. A load that cannot be wide does not keep others from it.
struct Accesses {
    facts: Facts,
    tiles: HashSet<ValueId>,
    shape: Vec<u32>,
    fast: usize,
    /// The widest that each can be, in elements.
    widths: Vec<u32>,
    /// Bits of their elements.
    bits: Vec<u32>,
}

impl Accesses {
    fn block(&mut self, flat: &[&Stmt]) {
        for stmt in flat {
            match &stmt.op {
                Op::Bind { var, value, below } => {
                    self.facts.bind(var, value, 1);
                    if let Some(below) = below {
                        self.facts.bound(var, below);
                    }
                }
                Op::For { var, start, end, step, .. } => self.facts.set_loop(var, start, end, step),
                Op::Roles(roles) => {
                    let groups = roles.iter().filter_map(|role| role.groups.as_ref());
                    groups.for_each(|(var, count)| self.facts.set_axis(var, &Expr::index((*count).into())));
                }
                Op::Load { from, .. } if self.tiles.contains(&stmt.results[0]) => {
                    let width = self.place(from);
                    self.note(width, from.tensor().dtype.bits());
                }
                Op::Store { to, value } if self.tiles.contains(value) => {
                    let width = self.place(to);
                    self.note(Some(width.unwrap_or(1)), to.tensor().dtype.bits());
                }
                Op::Map { axes, args, body, results } if self.tiles.contains(&stmt.results[0]) => {
                    self.scalars(axes, args, body, results.iter());
                }
                _ => {}
            }
        }
    }

    /// The widest that an access to a place can be, if it can be wide.
    fn place(&self, place: &Place) -> Option<u32> {
        match place {
            Place::View(view) => self.view(view),
            Place::Elements { tensor, axes, body, index, mask } => {
                let offset = tensor.offset(index);
                [16, 8, 4, 2].into_iter().find(|&width| {
                    let facts = self.lanes(axes, &[], body, width);
                    wide(&facts, &offset, tensor.dtype.bits(), width) && facts.lane_step(mask, width) == Some(0)
                })
            }
        }
    }

    /// Loads inside of a map.
    fn scalars<'e>(
        &mut self,
        axes: &[Var],
        args: &[(Var, ValueId)],
        body: &[Scalar],
        results: impl Iterator<Item = &'e Expr>,
    ) {
        let mut loads = vec![];
        let mut collect = |e: &Expr| {
            e.walk(&mut |e| {
                if let ExprKind::Load(buffer, index) = e.kind() {
                    loads.push((buffer.clone(), index.clone()));
                }
            });
        };
        for scalar in body {
            if let Scalar::Bind { value, .. } = scalar {
                collect(value);
            }
        }
        results.for_each(collect);
        for (buffer, index) in loads {
            let offset = buffer.offset(&index);
            let bits = buffer.dtype.bits();
            let fits = |width: &u32| wide(&self.lanes(axes, args, body, *width), &offset, bits, *width);
            let width = [16, 8, 4, 2].into_iter().find(fits);
            self.note(width, bits);
        }
    }

    fn note(&mut self, width: Option<u32>, bits: u32) {
        if let Some(width) = width
            && bits >= 8
        {
            self.widths.push(width);
            self.bits.push(bits);
        }
    }

    /// The facts where the fast axis takes `width` neighbouring values.
    fn lanes(&self, axes: &[Var], args: &[(Var, ValueId)], body: &[Scalar], width: u32) -> Facts {
        let mut facts = self.facts.clone();
        args.iter().for_each(|(var, _)| facts.set_varied(var));
        for (axis, var) in axes.iter().enumerate() {
            let extent = Expr::index(self.shape[axis].into());
            if axis == self.fast {
                facts.set_lane_axis(var, &extent, width);
            } else {
                facts.set_axis(var, &extent);
            }
        }
        for scalar in body {
            if let Scalar::Bind { var, value } = scalar {
                facts.bind(var, value, width);
            }
        }
        facts
    }

    /// Elements that an aligned access to the box may have, if it can have several.
    fn view(&self, view: &View) -> Option<u32> {
        let inner = view.tensor.shape.len().saturating_sub(1);
        let unit = view.tensor.strides.last().and_then(Expr::as_const) == Some(1);
        if !unit || view.inner() != Some(self.fast) {
            return None;
        }
        let whole = |e: &Expr, width: u32| self.facts.multiple(e) % i128::from(width) == 0;
        let fits = |width: &u32| {
            let access = (width * view.tensor.dtype.bits()).min(128) / view.tensor.dtype.bits().max(1);
            self.shape[self.fast].is_multiple_of(*width)
                && view.tensor.strides[..inner].iter().all(|stride| whole(stride, access))
                && whole(&view.origin[inner], access)
                && (!view.masked[inner] || whole(&view.tensor.shape[inner], *width))
                && walks_in_runs(&self.facts, view, i128::from(*width))
        };
        [16, 8, 4, 2].into_iter().find(fits)
    }
}

/// Whether lanes access neighbours that aligned accesses of up to 16 bytes cover.
fn wide(facts: &Facts, offset: &Expr, bits: u32, width: u32) -> bool {
    let access = i128::from((width * bits).min(128) / bits.max(1)).max(1);
    facts.lane_step(offset, width) == Some(1) && facts.multiple(offset) % access == 0
}
