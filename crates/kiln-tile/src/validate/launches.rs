//! Which launches are tried: parameters that make loops run from not at all to more often than their stages wrap twice, and give a CTA several
//! tiles.

use super::Scene;
use super::trace::is_inert;
use crate::dtype::{Scalar, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::interp::State;
use crate::ir::{Block, Grid, Op, Program};
use crate::program::{Access, Param};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Most values of one parameter that are tried.
const MOST_VALUES: usize = 32;

/// Values of parameters and of the grid's variables. Elements of a tensor of integers that control depends on all have one value, which goes by a variable
/// of the tensor's number.
pub(super) struct Launch {
    pub values: Vec<(Var, Scalar)>,
}

impl Launch {
    /// A finding, with the parameters that it was found for.
    pub fn noted(&self, program: &Program, mut error: TileError) -> TileError {
        if let TileError::Schedule { what, .. } = &mut error {
            let is_shown = |var: &Var| {
                program.params.iter().any(|param| match param {
                    Param::Scalar { var: own, .. } => own == var && var.ty == Type::Index,
                    Param::Buffer { buffer, .. } => buffer.id == var.id,
                })
            };
            let shown = self.values.iter().filter(|(var, _)| is_shown(var));
            let shown: Vec<String> = shown.map(|(var, value)| format!("{} = {}", var.name, value.as_i128())).collect();
            if !shown.is_empty() {
                what.push_str(&format!(", for {}", shown.join(", ")));
            }
        }
        error
    }

    /// What the CTA knows that has this place in its cluster.
    pub fn cta(&self, scene: Scene<'_>, rank: u32) -> Result<State> {
        let mut state = scene.state();
        self.values.iter().for_each(|(var, value)| state.set(var, *value));
        let (domain, cluster) = (&scene.program.domain, i128::from(scene.program.schedule.cluster));
        if cluster == 1 {
            return Ok(state);
        }
        let extents: Vec<i128> = domain.iter().map(|axis| state.index(&axis.extent)).collect::<Result<_>>()?;
        let mut point = 0;
        for (axis, extent) in domain.iter().zip(&extents) {
            point = point * extent + state.index(&Expr::var(&axis.var))?;
        }
        point = point / cluster * cluster + i128::from(rank);
        for (axis, extent) in domain.iter().zip(&extents).rev() {
            state.set(&axis.var, Scalar::Int(point % extent.max(&1)));
            point /= extent.max(&1);
        }
        Ok(state)
    }
}

/// The launches to try.
pub(super) fn launches(program: &Program) -> Result<Vec<Launch>> {
    let mut control = Control::default();
    control.block(&program.body, false);
    for axis in &program.domain {
        control.divisors(&axis.extent);
    }
    if let Grid::Persistent { points, .. } = &program.grid {
        control.divisors(points);
        control.roots.push(points.clone());
    }
    let depth = program.shared.iter().map(|shared| shared.stages).max().unwrap_or(1).max(2);
    let trips = i128::from(2 * depth + 2);
    let reached = control.reached();
    let mut choices: Vec<(Var, Vec<i128>, i128)> = vec![];
    let mut fixed: Vec<(Var, Scalar)> = vec![];
    for param in &program.params {
        let (var, range, multiple_of) = match param {
            Param::Scalar { var, range, multiple_of } => (var.clone(), *range, *multiple_of),
            Param::Buffer { buffer, access: Access::Read } if buffer.dtype.is_int() && reached.contains(&buffer.id) => {
                let var = Var { id: buffer.id, name: buffer.name.as_str().into(), ty: buffer.dtype.into() };
                (var, (0, i32::MAX.into()), 1)
            }
            Param::Buffer { .. } => continue,
        };
        let var = &var;
        if var.ty.is_float() {
            fixed.push((var.clone(), Scalar::Float(1.0)));
            continue;
        }
        let multiple = i128::from(multiple_of.max(1));
        let least = i128::from(range.0).max(0);
        let fit = |value: i128| {
            let value = value.max(least);
            let value = (value + multiple - 1) / multiple * multiple;
            value.min(i128::from(range.1) / multiple * multiple)
        };
        let loops: Vec<i128> = control.steps(&control.loop_steps, var);
        let grids: Vec<i128> = control.steps(&control.grid_steps, var);
        let mut values = BTreeSet::from([fit(least)]);
        for step in &loops {
            values.extend((0..=trips).map(|trip| fit(step * trip)));
            values.insert(fit(step * 2 - 1));
        }
        for step in &grids {
            values.extend((1..=3).map(|trip| fit(step * trip)));
        }
        if loops.is_empty() && grids.is_empty() {
            values.insert(fit(least + 1));
        }
        let base = loops.iter().chain(&grids).max().map_or(fit(least.max(1) + 1), |step| fit(step * 2));
        let values = values.into_iter().take(MOST_VALUES).collect();
        if reached.contains(&var.id) {
            choices.push((var.clone(), values, base));
        } else {
            fixed.push((var.clone(), Scalar::Int(base)));
        }
    }
    let mut all: BTreeSet<Vec<i128>> = BTreeSet::new();
    all.insert(choices.iter().map(|(_, values, _)| values[0]).collect());
    let base: Vec<i128> = choices.iter().map(|(_, _, base)| *base).collect();
    all.insert(base.clone());
    for (i, (_, values, _)) in choices.iter().enumerate() {
        for value in values {
            let mut point = base.clone();
            point[i] = *value;
            all.insert(point);
        }
    }
    let mut launches = vec![];
    for point in all {
        let mut values = fixed.clone();
        values.extend(choices.iter().zip(point).map(|((var, ..), value)| (var.clone(), Scalar::Int(value))));
        grid(program, &reached, values, &mut launches)?;
    }
    Ok(launches)
}

/// Adds a launch for the first CTA, and for the last where control depends on which it is: [`Launch::cta`] tells those of its cluster.
fn grid(
    program: &Program,
    reached: &HashSet<u32>,
    mut values: Vec<(Var, Scalar)>,
    launches: &mut Vec<Launch>,
) -> Result<()> {
    let mut state = State::new(&program.name);
    values.iter().for_each(|(var, value)| state.set(var, *value));
    let ctas = i128::from(program.schedule.cluster);
    if let Grid::Persistent { count, points, .. } = &program.grid {
        // So few CTAs, in whole clusters, that each has three points or more, if there are as many.
        let few = Scalar::Int((state.index(points)? / 3 / ctas).max(1) * ctas);
        state.set(count, few);
        values.push((count.clone(), few));
    }
    let extents: Vec<i128> = program.domain.iter().map(|axis| state.index(&axis.extent)).collect::<Result<_>>()?;
    let persistent = matches!(program.grid, Grid::Persistent { .. });
    let several = !persistent && program.domain.iter().any(|axis| reached.contains(&axis.var.id));
    let mut add = |last: bool| {
        let at = |extent: &i128| Scalar::Int(if last { (extent - 1).max(0) } else { 0 });
        let mut values = values.clone();
        values.extend(program.domain.iter().zip(&extents).map(|(axis, extent)| (axis.var.clone(), at(extent))));
        launches.push(Launch { values });
    };
    add(false);
    if several && extents.iter().any(|extent| *extent > 1) {
        add(true);
    }
    Ok(())
}

/// What control depends on.
#[derive(Default)]
struct Control {
    roots: Vec<Expr>,
    /// What variables are made of.
    definitions: HashMap<u32, Vec<Expr>>,
    /// Variables of loop bounds with the step, and of quotients with the divisor.
    loop_steps: Vec<(Expr, i128)>,
    grid_steps: Vec<(Expr, i128)>,
}

impl Control {
    fn block(&mut self, block: &Block, inert: bool) {
        for stmt in block {
            match &stmt.op {
                Op::Bind { var, value, .. } | Op::Assign { var, value, .. } => {
                    self.divisors(value);
                    self.definitions.entry(var.id).or_default().push(value.clone());
                }
                Op::For { var, start, end, step, body, .. } => {
                    let bounds = [start.clone(), end.clone(), step.clone()];
                    bounds.iter().for_each(|e| self.divisors(e));
                    self.definitions.entry(var.id).or_default().extend(bounds.clone());
                    if !inert && !is_inert(body) {
                        let constant = step.as_const().filter(|step| *step > 0);
                        self.loop_steps.extend(constant.map(|step| (end - start, step)));
                        self.roots.extend(bounds);
                    }
                }
                Op::If { cond, then, otherwise } if !(inert || is_inert(&then.0) && is_inert(&otherwise.0)) => {
                    self.roots.push(cond.clone());
                }
                Op::Copy { to, .. } => {
                    if let crate::ir::Stage::Index(stage) = &to.stage {
                        self.roots.push(stage.clone());
                    }
                }
                _ => {}
            }
            stmt.op.blocks().into_iter().for_each(|block| self.block(block, inert));
        }
    }

    /// Notes what is divided by constants.
    fn divisors(&mut self, e: &Expr) {
        e.walk(&mut |e| {
            if let ExprKind::Binary(BinaryOp::Div, of, by) = e.kind()
                && let Some(by) = by.as_const().filter(|by| *by > 0)
            {
                self.grid_steps.push((of.clone(), by));
            }
        });
    }

    /// The variables, and the tensors, that an expression is made of in the end.
    fn variables(&self, e: &Expr, found: &mut HashSet<u32>) {
        e.walk(&mut |e| {
            let id = match e.kind() {
                ExprKind::Var(var) => var.id,
                ExprKind::Load(buffer, _) => buffer.id,
                _ => return,
            };
            if found.insert(id) {
                self.definitions.get(&id).into_iter().flatten().for_each(|e| self.variables(e, found));
            }
        });
    }

    fn reached(&self) -> HashSet<u32> {
        let mut found = HashSet::new();
        self.roots.iter().for_each(|e| self.variables(e, &mut found));
        found
    }

    fn steps(&self, of: &[(Expr, i128)], var: &Var) -> Vec<i128> {
        let holds = |e: &Expr| {
            let mut found = HashSet::new();
            self.variables(e, &mut found);
            found.contains(&var.id)
        };
        let steps: BTreeSet<i128> = of.iter().filter(|(e, _)| holds(e)).map(|(_, step)| *step).collect();
        steps.into_iter().collect()
    }
}
