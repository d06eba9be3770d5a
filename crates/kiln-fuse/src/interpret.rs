//! The reference run of a plan: every region through the graph interpreter. The oracle of every device.

use crate::plan::{BufferId, BufferKind, Plan, Step};
use crate::{Error, Result};
use kiln_graph::{Bindings, DType, Graph, Op, Tensor, bind_within, interpret_within};

/// Runs a graph inside the shape bindings of what surrounds it.
pub(crate) fn evaluate(graph: &Graph, inputs: &[Tensor], bindings: &Bindings) -> Result<Vec<Tensor>> {
    Ok(interpret_within(graph, inputs, bindings)?)
}

/// Runs a plan on inputs in the order of [`Plan::inputs`] and gives its outputs in order.
pub fn interpret_plan(plan: &Plan, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    run(plan, inputs, &Bindings::new())
}

fn run(plan: &Plan, inputs: &[Tensor], outer: &Bindings) -> Result<Vec<Tensor>> {
    let signature = signature(plan);
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let bindings = bind_within(&signature, &shapes, outer)?;
    let mut state = State { plan, bindings, buffers: vec![None; plan.buffers.len()] };
    for (id, tensor) in plan.inputs.iter().zip(inputs) {
        state.write(*id, tensor.clone())?;
    }
    for step in &plan.steps {
        state.step(step)?;
    }
    plan.outputs.iter().map(|(_, id)| state.read(*id)).collect()
}

/// The inputs of a plan as a graph: what symbols are bound from.
fn signature(plan: &Plan) -> Graph {
    let mut graph = Graph::new(plan.name.clone());
    for id in &plan.inputs {
        let buffer = &plan.buffers[id.index()];
        let BufferKind::Input(name) = &buffer.kind else { continue };
        let op = Op::Input { name: name.clone(), ty: buffer.ty.clone() };
        graph.push_node(op, &[], vec![buffer.ty.clone()], "");
    }
    graph.symbols = plan.symbols.clone();
    graph.constraints = plan.constraints.clone();
    graph
}

struct State<'a> {
    plan: &'a Plan,
    bindings: Bindings,
    buffers: Vec<Option<Tensor>>,
}

impl State<'_> {
    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::Plan { plan: self.plan.name.clone(), message })
    }

    /// The contents of a buffer. An alias is the same data under its own shape, whichever of the two was written.
    fn read(&self, id: BufferId) -> Result<Tensor> {
        let buffer = &self.plan.buffers[id.index()];
        let base = buffer.alias_of.unwrap_or(id);
        let data = match &self.plan.buffers[base.index()].kind {
            BufferKind::Weight(name) => self.plan.weights.get(name),
            _ => self.buffers[base.index()].as_ref(),
        };
        match data {
            Some(t) => Ok(t.reshaped(buffer.ty.concrete(&self.bindings)?)?),
            None => {
                self.fail(format!("buffer {} (`{}`, {}) is read before it is written", id.0, buffer.name, buffer.ty))
            }
        }
    }

    fn write(&mut self, id: BufferId, tensor: Tensor) -> Result<()> {
        let buffer = &self.plan.buffers[id.index()];
        let shape = buffer.ty.concrete(&self.bindings)?;
        if tensor.dtype() != buffer.ty.dtype || tensor.shape() != shape {
            let (name, ty) = (&buffer.name, &buffer.ty);
            return self.fail(format!("buffer {} (`{name}`) holds {ty}, here {shape:?}, but gets {tensor:?}", id.0));
        }
        let base = buffer.alias_of.unwrap_or(id);
        self.buffers[base.index()] = Some(tensor);
        Ok(())
    }

    fn read_all(&self, ids: &[BufferId]) -> Result<Vec<Tensor>> {
        ids.iter().map(|id| self.read(*id)).collect()
    }

    fn write_all(&mut self, ids: &[BufferId], values: Vec<Tensor>) -> Result<()> {
        if ids.len() != values.len() {
            return self.fail(format!("a step has {} results for {} buffers", values.len(), ids.len()));
        }
        ids.iter().zip(values).try_for_each(|(id, t)| self.write(*id, t))
    }

    fn truth(&self, tensor: &Tensor) -> bool {
        tensor.to_i128_vec().is_some_and(|v| v.first().is_some_and(|v| *v != 0))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Run { region, inputs, outputs, .. } => {
                let inputs = self.read_all(inputs)?;
                let results = evaluate(&self.plan.regions[*region].graph, &inputs, &step.bindings(&self.bindings))?;
                self.write_all(outputs, results)
            }
            Step::If { cond, then_plan, else_plan, captures, outputs } => {
                let taken = if self.truth(&self.read(*cond)?) { then_plan } else { else_plan };
                let results = run(taken, &self.read_all(captures)?, &self.bindings)?;
                self.write_all(outputs, results)
            }
            Step::Loop { trip, cond, body, carried, captures, outputs } => {
                let trip = self.read(*trip)?.to_i64_vec().and_then(|v| v.first().copied()).unwrap_or(0);
                let mut cond = self.read(*cond)?;
                let mut state = self.read_all(carried)?;
                let captures = self.read_all(captures)?;
                let mut scans: Vec<Vec<Tensor>> = vec![Vec::new(); outputs.len() - carried.len()];
                let mut i = 0;
                while i < trip && self.truth(&cond) {
                    let mut inputs = vec![Tensor::scalar(i), cond];
                    inputs.append(&mut state);
                    inputs.extend(captures.iter().cloned());
                    let mut results = run(body, &inputs, &self.bindings)?.into_iter();
                    cond = match results.next() {
                        Some(c) => c,
                        None => return self.fail("a loop body without condition".into()),
                    };
                    state.extend(results.by_ref().take(carried.len()));
                    scans.iter_mut().zip(results).for_each(|(scan, t)| scan.push(t));
                    i += 1;
                }
                for (scan, id) in scans.iter().zip(&outputs[carried.len()..]) {
                    state.push(self.stack(scan, *id)?);
                }
                self.write_all(outputs, state)
            }
        }
    }

    /// The values of every iteration on a new leading axis.
    fn stack(&self, parts: &[Tensor], id: BufferId) -> Result<Tensor> {
        let ty = &self.plan.buffers[id.index()].ty;
        let shape = ty.concrete(&self.bindings)?;
        if matches!(ty.dtype, DType::I4 | DType::U4) {
            return self.fail(format!("a scan of packed {} is not supported; cast to 8 bits in the body", ty.dtype));
        }
        let data: Vec<u8> = parts.iter().flat_map(|t| t.data().iter().copied()).collect();
        Ok(Tensor::new(ty.dtype, shape, data.into())?)
    }
}
