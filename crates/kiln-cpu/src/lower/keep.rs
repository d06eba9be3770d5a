//! What the iterations of a loop share: stages over operands that stay the same run once, before the first.

use super::{Home, Lowering, Nest, SlotSpec};
use crate::gemm::PANEL;
use crate::program::{Access, Instr, Kind, Level, Program};
use crate::stage::{Form, MatMul, Stage, Strided};
use kiln_graph::DType;

/// Which slots stay the same, given which inputs do: constants too, and what a nest computes from such slots alone.
fn steady(slots: &[SlotSpec], stages: &[Stage], inputs: &[bool]) -> Vec<bool> {
    let mut steady: Vec<bool> = slots
        .iter()
        .map(|s| match s.home {
            Home::Input(i) => inputs.get(i).copied().unwrap_or(false),
            Home::Constant(_) => true,
            _ => false,
        })
        .collect();
    for stage in stages {
        let Stage::Nest(nest) = stage else { continue };
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for instr in &nest.program.instrs {
            match instr.kind {
                Kind::Load(a) => reads.push(nest.program.accesses[a].slot),
                Kind::Store(_, a) => writes.push(nest.program.accesses[a].slot),
                _ => {}
            }
        }
        let scratch = |&w: &usize| matches!(slots[w].home, Home::Scratch(_));
        if reads.iter().all(|&r| steady[r]) && writes.iter().all(scratch) {
            writes.into_iter().for_each(|w| steady[w] = true);
        }
    }
    steady
}

/// Puts the stages whose results stay the same first, and those results where no other stage writes. How many there are.
pub(super) fn hoist(slots: &mut [SlotSpec], stages: &mut Vec<Stage>, inputs: &[bool]) -> usize {
    if inputs.is_empty() {
        return 0;
    }
    let steady = steady(slots, stages, inputs);
    let kept = |stage: &Stage| {
        let mut all = matches!(stage, Stage::Nest(_));
        stage.each_slot(&mut |s| all &= steady[s]);
        all
    };
    let (mut first, rest): (Vec<Stage>, Vec<Stage>) = stages.drain(..).partition(kept);
    for (slot, steady) in slots.iter_mut().zip(steady) {
        if let (true, Home::Scratch(_)) = (steady, &slot.home) {
            slot.home = Home::Kept(0);
        }
    }
    let count = first.len();
    first.extend(rest);
    *stages = first;
    count
}

impl Lowering<'_> {
    /// Lays the columns of a product out as panels, if they stay the same while the kernel is repeated.
    pub(super) fn keep_columns(&mut self, product: &mut MatMul, dtype: DType) {
        let (k, n) = (product.k, product.n);
        let batch: Vec<(usize, isize)> = product.batch.iter().map(|(extent, strides)| (*extent, strides[1])).collect();
        let batches: usize = batch.iter().filter(|b| b.1 != 0).map(|b| b.0).product();
        if self.steady_inputs.is_empty()
            || !product.is_float()
            || batches * k * n == 0
            || !steady(&self.slots, &self.stages, self.steady_inputs)[product.b.slot]
        {
            return;
        }
        let panels = n.div_ceil(PANEL);
        let slot = self.temp(dtype, batches * panels * k * PANEL);
        // The same loops over the panels' batch, which repeats where B does.
        let mut step = (panels * k * PANEL) as isize;
        let mut dims: Vec<(usize, isize, isize)> = Vec::new();
        for (at, &(extent, from)) in batch.iter().enumerate().rev() {
            let to = if from == 0 { 0 } else { step };
            product.batch[at].1[1] = to;
            if from != 0 {
                dims.insert(0, (extent, from, to));
                step *= extent as isize;
            }
        }
        let b = product.b;
        let whole = n / PANEL;
        for (first, count, width) in [(0, whole, PANEL), (whole, 1, n % PANEL)] {
            let own =
                [(count, b.col * PANEL as isize, (k * PANEL) as isize), (k, b.row, PANEL as isize), (width, b.col, 1)];
            let all: Vec<_> = dims.iter().copied().chain(own).collect();
            if count * width > 0 {
                let from = b.offset + b.col * (first * PANEL) as isize;
                let access = |slot, offset, strides| Access { slot, dtype, offset, strides };
                let accesses = vec![
                    access(b.slot, from, all.iter().map(|d| d.1).collect()),
                    access(slot, (first * k * PANEL) as isize, all.iter().map(|d| d.2).collect()),
                ];
                let instr = |kind| Instr { kind, level: Level::Full, dtype };
                let program = Program { instrs: vec![instr(Kind::Load(0)), instr(Kind::Store(0, 1))], accesses };
                let extents: Vec<usize> = all.iter().map(|d| d.0).collect();
                let kept = extents.len();
                self.stages.push(Stage::Nest(Box::new(Nest::new(program, extents, kept, self.threads))));
            }
        }
        product.b = Strided { slot, offset: 0, row: 0, col: 0 };
        product.form = Form::Panels;
    }
}
