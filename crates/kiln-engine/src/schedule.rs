//! A plan under concrete shapes: every buffer has a place, every step its prepared kernel.

use crate::device::{Arguments, Device, KernelId, MemId, Place};
use crate::memory::{self, Lifetime};
use crate::packed;
use crate::{Error, Result};
use kiln_fuse::{BufferId, BufferKind, Plan, Step};
use kiln_graph::{Bindings, DType, Graph};
use kiln_kernels::{Guard, Packing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The loaded kernels of a plan and, in step order, of its nested plans.
#[derive(Clone, Debug, Default)]
pub struct LoadedPlan {
    /// One a region.
    pub regions: Vec<Vec<LoadedVariant>>,
    /// One a nested plan, in the order [`Step::nested`] yields them.
    pub nested: Vec<LoadedPlan>,
}

/// A loaded way to run a region.
#[derive(Clone, Debug)]
pub struct LoadedVariant {
    /// When it may run.
    pub guard: Guard,
    /// Its code.
    pub kernel: KernelId,
    /// The constants that it reads in another form.
    pub packed: Vec<Packing>,
}

/// One executable step.
#[derive(Clone, Debug)]
pub enum Action {
    /// Launch a prepared region.
    Launch {
        /// From [`Device::prepare`].
        prepared: usize,
        /// Operands.
        inputs: Vec<Place>,
        /// Results.
        outputs: Vec<Place>,
        /// Scratch.
        scratch: Option<Place>,
        /// Memory that is zero.
        zeroed: Option<Place>,
        /// Constants in another form.
        packed: Vec<Place>,
    },
    /// Branch.
    If {
        /// One byte: bool.
        cond: Place,
        /// The two branches, which read captures where they are. One whose shapes do not agree is an error only if it is taken.
        branches: Box<[Schedule; 2]>,
        /// The outputs of each branch.
        results: [Vec<Place>; 2],
        /// Copied from the branch's outputs.
        outputs: Vec<Place>,
    },
    /// Repetition.
    Loop {
        /// i64.
        trip: Place,
        /// The body, which reads captures where they are.
        body: Box<Schedule>,
        /// Where the body finds the iteration's number: i64.
        index: Place,
        /// Initial condition (bool) and carried values.
        start: Vec<Place>,
        /// Where the body finds them.
        state: Vec<Place>,
        /// Where the body leaves the next ones, which is never where it finds any.
        next: Vec<Place>,
        /// Results of an iteration, and where those of all iterations lie one after the other.
        scans: Vec<(Place, Place)>,
        /// Final carried values.
        outputs: Vec<Place>,
    },
    /// All that there is of a branch or body whose shapes do not agree: an error once it is to run.
    Unfit(kiln_graph::Error),
}

impl Action {
    /// What is launched, if this is a launch.
    pub fn launch(&self) -> Option<(usize, Arguments<'_>)> {
        match self {
            Action::Launch { prepared, inputs, outputs, scratch, zeroed, packed } => {
                Some((*prepared, Arguments { inputs, outputs, scratch: *scratch, zeroed: *zeroed, packed }))
            }
            _ => None,
        }
    }
}

/// A session's own blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Activations.
    pub arena: MemId,
    /// What is zero between launches.
    pub zeroed: Option<MemId>,
    /// Weights that are copied ahead of their step.
    pub streamed: Option<MemId>,
}

/// A plan with concrete shapes and places.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Executable steps, one a plan step.
    pub actions: Vec<Action>,
    /// The place of every buffer.
    pub places: Vec<Place>,
    /// Extents of every buffer.
    pub shapes: Vec<Vec<usize>>,
    /// Arena bytes this schedule uses.
    pub arena_bytes: usize,
    /// No layout of the same lifetimes can use less.
    pub lower_bound: usize,
    /// Bytes that are zero between launches.
    pub zeroed_bytes: usize,
}

impl Schedule {
    /// A nested plan whose shapes do not agree.
    fn unfit(why: kiln_graph::Error) -> Schedule {
        let (places, shapes) = (Vec::new(), Vec::new());
        Schedule { actions: vec![Action::Unfit(why)], places, shapes, arena_bytes: 0, lower_bound: 0, zeroed_bytes: 0 }
    }

    /// An error if this cannot run.
    pub fn check(&self) -> Result<()> {
        match self.actions.as_slice() {
            [Action::Unfit(why)] => Err(why.clone().into()),
            _ => Ok(()),
        }
    }
}

/// The arena of a schedule before it is allocated; [`Schedule::placed`] replaces it.
const ARENA: MemId = MemId(usize::MAX);

/// The memory that is zero, likewise.
const ZEROED: MemId = MemId(usize::MAX - 1);

/// The block that weights are copied to ahead of their step, likewise.
pub const STREAMED: MemId = MemId(usize::MAX - 2);

/// Capture `i` of a nested schedule until what is around it has places.
fn capture(i: usize) -> MemId {
    MemId(usize::MAX - 3 - i)
}

/// Where weights lie: name to place. None for those that no kernel reads as they are.
pub type WeightPlaces = BTreeMap<String, Option<Arc<Place>>>;

/// Concrete sizes of a plan's buffers, and how long each must live.
struct Lifetimes {
    shapes: Vec<Vec<usize>>,
    bytes: Vec<usize>,
    /// Of each buffer that whose place it has.
    homes: Vec<BufferId>,
    /// For each buffer that needs arena memory of its own, its index in `lifetimes`; else `usize::MAX`.
    slot: Vec<usize>,
    lifetimes: Vec<Lifetime>,
}

/// What of a plan lies outside its arena.
#[derive(Clone, Copy)]
struct Outside<'a> {
    /// The first inputs, this many, stay in the arena to the end. The rest are captures, which lie elsewhere.
    kept: usize,
    /// Buffers that lie where the captures after those of the inputs are.
    buffers: &'a [BufferId],
}

impl Outside<'_> {
    /// The number of the capture that a buffer is.
    fn capture(self, plan: &Plan, at: usize) -> Option<usize> {
        let captured = plan.inputs.get(self.kept..).unwrap_or_default();
        captured.iter().chain(self.buffers).position(|id| id.index() == at)
    }
}

fn lifetimes(plan: &Plan, bindings: &Bindings, outside: Outside<'_>) -> Result<Lifetimes> {
    let shapes = plan.buffers.iter().map(|b| b.ty.concrete(bindings)).collect::<kiln_graph::Result<Vec<_>>>()?;
    let bytes =
        plan.buffers.iter().zip(&shapes).map(|(b, shape)| byte_size(b.ty.dtype, shape)).collect::<Result<Vec<_>>>()?;
    let (end, homes) = (plan.steps.len(), plan.homes());
    let mut live: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
    let mut touch = |id: BufferId, at: usize| {
        let l = live[homes[id.index()].index()].get_or_insert((at, at));
        *l = (l.0.min(at), l.1.max(at));
    };
    for &input in &plan.inputs {
        touch(input, 0);
        touch(input, end);
    }
    for (_, output) in &plan.outputs {
        touch(*output, end);
    }
    for (i, step) in plan.steps.iter().enumerate() {
        for id in step.operands().into_iter().chain(step.results().iter().copied()) {
            touch(id, i);
        }
    }
    let mut lifetimes = Vec::new();
    let mut slot = vec![usize::MAX; plan.buffers.len()];
    for (i, buffer) in plan.buffers.iter().enumerate() {
        if homes[i].index() == i
            && !matches!(buffer.kind, BufferKind::Weight(_))
            && outside.capture(plan, i).is_none()
            && let Some((first, last)) = live[i]
        {
            slot[i] = lifetimes.len();
            lifetimes.push(Lifetime { bytes: bytes[i], first, last });
        }
    }
    Ok(Lifetimes { shapes, bytes, homes, slot, lifetimes })
}

/// Arena bytes of a plan's own buffers, without kernels' scratch, nested plans and what is bound from outside.
pub fn activation_bytes(plan: &Plan, bindings: &Bindings) -> Result<usize> {
    Ok(memory::plan(&lifetimes(plan, bindings, Outside { kept: 0, buffers: &[] })?.lifetimes).arena_bytes)
}

/// A buffer in the activation arena, from the first step that needs its place to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The buffer; others may be aliases of it, or what it updates in their place.
    pub buffer: BufferId,
    /// Bytes from the start of the arena.
    pub offset: usize,
    /// Its size.
    pub bytes: usize,
    /// The first step.
    pub first: usize,
    /// The last step; the number of steps for a result of the plan.
    pub last: usize,
}

/// What `activation_bytes` adds up: where each buffer lies and when, the size of the arena, and the most that is alive at one step.
pub fn activations(plan: &Plan, bindings: &Bindings) -> Result<(Vec<Activation>, usize, usize)> {
    let Lifetimes { slot, lifetimes, .. } = lifetimes(plan, bindings, Outside { kept: 0, buffers: &[] })?;
    let layout = memory::plan(&lifetimes);
    let placed = |(i, &slot): (usize, &usize)| {
        let Lifetime { bytes, first, last } = *lifetimes.get(slot)?;
        Some(Activation { buffer: BufferId(i as u32), offset: layout.offsets[slot], bytes, first, last })
    };
    let all = slot.iter().enumerate().filter_map(placed).collect();
    Ok((all, layout.arena_bytes, layout.lower_bound))
}

/// Lays out `plan` under `bindings`. Its inputs, and `outside`, which are the roots of some outputs, are not in its arena; where all of them and
/// the arena are is said by [`Schedule::placed`].
pub fn schedule(
    plan: &Plan,
    loaded: &LoadedPlan,
    bindings: &Bindings,
    weights: &WeightPlaces,
    device: &mut dyn Device,
    outside: &[BufferId],
) -> Result<Schedule> {
    lay_out(plan, loaded, bindings, weights, device, Outside { kept: 0, buffers: outside })
}

fn lay_out(
    plan: &Plan,
    loaded: &LoadedPlan,
    bindings: &Bindings,
    weights: &WeightPlaces,
    device: &mut dyn Device,
    outside: Outside<'_>,
) -> Result<Schedule> {
    for constraint in &plan.constraints {
        constraint.check(bindings)?;
    }
    let Lifetimes { shapes, bytes, homes, slot, mut lifetimes } = lifetimes(plan, bindings, outside)?;
    enum Pending {
        Launch { prepared: usize, scratch: Option<usize>, zeroed: Option<Place>, packed: Vec<Place> },
        Nested(Vec<std::result::Result<(Schedule, usize), kiln_graph::Error>>),
    }
    let mut pending = Vec::with_capacity(plan.steps.len());
    let mut nested_plans = loaded.nested.iter();
    let mut zeroed_bytes = 0;
    for (i, step) in plan.steps.iter().enumerate() {
        let mut reserve = |bytes: usize| {
            lifetimes.push(Lifetime { bytes, first: i, last: i });
            lifetimes.len() - 1
        };
        pending.push(match step {
            Step::Run { region, inputs, outputs, .. } => {
                let bindings = step.bindings(bindings);
                addressable(&plan.regions[*region].graph, &bindings)?;
                fits(&plan.regions[*region], inputs.iter().chain(outputs), &bytes, &bindings)?;
                let variant = choose(&loaded.regions[*region], &bindings)?;
                let prepared = device.prepare(variant.kernel, &bindings)?;
                let scratch = (prepared.scratch_bytes > 0).then(|| reserve(prepared.scratch_bytes));
                let bytes = prepared.zeroed_bytes;
                zeroed_bytes = zeroed_bytes.max(bytes);
                let zeroed = (bytes > 0).then_some(Place { mem: ZEROED, offset: 0, bytes });
                let packed = packed::places(plan, inputs, &variant.packed, weights).map_err(|e| internal(&e))?;
                Pending::Launch { prepared: prepared.id, scratch, zeroed, packed }
            }
            Step::If { .. } | Step::Loop { .. } => {
                let kept = if let Step::Loop { carried, .. } = step { 2 + carried.len() } else { 0 };
                let mut schedules = Vec::new();
                for (_, inner) in step.nested() {
                    let loaded = nested_plans.next().ok_or_else(|| internal("a nested plan is not loaded"))?;
                    let outside = Outside { kept, buffers: &[] };
                    schedules.push(match lay_out(inner, loaded, bindings, weights, device, outside) {
                        Ok(s) => {
                            let at = reserve(s.arena_bytes);
                            zeroed_bytes = zeroed_bytes.max(s.zeroed_bytes);
                            Ok((s, at))
                        }
                        Err(Error::Graph(unfit)) => Err(unfit),
                        Err(other) => return Err(other),
                    });
                }
                Pending::Nested(schedules)
            }
        });
    }
    let layout = memory::plan(&lifetimes);
    if isize::try_from(layout.arena_bytes).is_err() {
        return Err(Error::OutOfMemory { device: device.name(), bytes: layout.arena_bytes });
    }
    let arena = |slot: usize, bytes: usize| Place { mem: ARENA, offset: layout.offsets[slot], bytes };
    let places = (0..plan.buffers.len())
        .map(|i| {
            let at = homes[i].index();
            if let Some(number) = outside.capture(plan, at) {
                return Ok(Place { mem: capture(number), offset: 0, bytes: bytes[i] });
            }
            Ok(match &plan.buffers[at].kind {
                BufferKind::Weight(name) => {
                    let place = weights.get(name).ok_or_else(|| internal(&format!("weight `{name}` is not loaded")))?;
                    match place {
                        Some(place) if place.bytes != bytes[i] => {
                            let found = place.bytes;
                            return Err(internal(&format!("weight `{name}` has {found} bytes, not {}", bytes[i])));
                        }
                        Some(place) => **place,
                        None => Place { mem: ARENA, offset: 0, bytes: 0 },
                    }
                }
                _ if slot[at] == usize::MAX => Place { mem: ARENA, offset: 0, bytes: 0 },
                _ => arena(slot[at], bytes[i]),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let at = |ids: &[BufferId]| ids.iter().map(|id| places[id.index()]).collect::<Vec<_>>();
    let actions = plan
        .steps
        .iter()
        .zip(pending)
        .map(|(step, pending)| {
            Ok(match (step, pending) {
                (Step::Run { inputs, outputs, .. }, Pending::Launch { prepared, scratch, zeroed, packed }) => {
                    let (inputs, outputs) = (at(inputs), at(outputs));
                    let scratch = scratch.map(|s| arena(s, lifetimes[s].bytes));
                    Action::Launch { prepared, inputs, outputs, scratch, zeroed, packed }
                }
                (Step::If { cond, captures, outputs, then_plan, else_plan }, Pending::Nested(schedules)) => {
                    let captures = at(captures);
                    let plans = [then_plan, else_plan];
                    let branches = schedules.into_iter().zip(plans).map(|(branch, plan)| match branch {
                        Ok((s, slot)) => s.within(layout.offsets[slot], &captures).map(|s| (s.results(plan), s)),
                        Err(unfit) => Ok((Vec::new(), Schedule::unfit(unfit))),
                    });
                    let mut branches = branches.collect::<Result<Vec<_>>>()?.into_iter();
                    let (Some((then, a)), Some((otherwise, b))) = (branches.next(), branches.next()) else {
                        return Err(internal("an If has two branches"));
                    };
                    let (branches, results) = (Box::new([a, b]), [then, otherwise]);
                    Action::If { cond: places[cond.index()], branches, results, outputs: at(outputs) }
                }
                (Step::Loop { trip, cond, carried, captures, outputs, body: plan }, Pending::Nested(mut schedules)) => {
                    let start: Vec<Place> = std::iter::once(places[cond.index()]).chain(at(carried)).collect();
                    let (trip, mut outputs) = (places[trip.index()], at(outputs));
                    let stacked = outputs.split_off(carried.len());
                    let Some(body) = schedules.pop() else { return Err(internal("a Loop has a body")) };
                    let (body, slot) = match body {
                        Ok(body) => body,
                        // Where nothing iterates, the carried values are the first ones.
                        Err(unfit) => {
                            let body = Box::new(Schedule::unfit(unfit));
                            let (index, state, start) = (trip, start, Vec::new());
                            let (next, scans) = (Vec::new(), Vec::new());
                            return Ok(Action::Loop { trip, body, index, start, state, next, scans, outputs });
                        }
                    };
                    let body = body.within(layout.offsets[slot], &at(captures))?;
                    let inputs: Vec<Place> = plan.inputs.iter().map(|id| body.places[id.index()]).collect();
                    let mut next = body.results(plan);
                    let results = next.split_off(1 + carried.len());
                    let state = inputs[1..2 + carried.len()].to_vec();
                    if next.iter().any(|n| state.iter().any(|s| n.overlaps(s))) {
                        return Err(internal("the body of a Loop hands an input straight on"));
                    }
                    Action::Loop {
                        trip,
                        body: Box::new(body),
                        index: inputs[0],
                        start,
                        state,
                        next,
                        scans: results.into_iter().zip(stacked).collect(),
                        outputs,
                    }
                }
                _ => return Err(internal("a step changed its kind")),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let (arena_bytes, lower_bound) = (layout.arena_bytes, layout.lower_bound);
    Ok(Schedule { actions, places, shapes, arena_bytes, lower_bound, zeroed_bytes })
}

/// The variant of a region that runs where its symbols have these values.
fn choose<'v>(variants: &'v [LoadedVariant], bindings: &Bindings) -> Result<&'v LoadedVariant> {
    for variant in variants {
        if variant.guard.holds(bindings)? {
            return Ok(variant);
        }
    }
    Err(internal("a region has no variant that always runs"))
}

/// Checks the extents of values that a region computes without storing them: kernels count their elements too.
fn addressable(graph: &Graph, bindings: &Bindings) -> Result<()> {
    graph.values.iter().try_for_each(|value| byte_size(value.ty.dtype, &value.ty.concrete(bindings)?).map(|_| ()))
}

/// Kernels rely on their operands being as large as the region says.
fn fits<'a>(
    region: &kiln_fuse::Region,
    buffers: impl Iterator<Item = &'a BufferId>,
    bytes: &[usize],
    bindings: &Bindings,
) -> Result<()> {
    let graph = &region.graph;
    for (&value, id) in graph.inputs.iter().chain(graph.outputs.iter().map(|(_, id)| id)).zip(buffers) {
        let ty = graph.ty(value);
        let (expected, found) = (byte_size(ty.dtype, &ty.concrete(bindings)?)?, bytes[id.index()]);
        if expected != found {
            return Err(internal(&format!(
                "region `{}` works on {ty}, {expected} bytes here, and buffer {} has {found}",
                region.name, id.0
            )));
        }
    }
    Ok(())
}

fn byte_size(dtype: DType, shape: &[usize]) -> Result<usize> {
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    // Offsets and element counts are signed.
    let bytes = numel.filter(|&n| isize::try_from(n).is_ok()).and_then(|n| dtype.bytes_for(n));
    bytes.ok_or_else(|| kiln_graph::Error::TooLarge { dtype, shape: shape.to_vec() }.into())
}

fn internal(message: &str) -> Error {
    Error::Internal { place: "the scheduler".into(), message: message.into() }
}

impl Schedule {
    fn each_place(&mut self, f: &mut dyn FnMut(&mut Place)) {
        self.places.iter_mut().for_each(&mut *f);
        for action in &mut self.actions {
            match action {
                Action::Launch { inputs, outputs, scratch, zeroed, packed, .. } => {
                    inputs.iter_mut().chain(outputs).chain(scratch).chain(zeroed).chain(packed).for_each(&mut *f);
                }
                Action::Unfit(_) => {}
                Action::If { cond, branches, results, outputs } => {
                    f(cond);
                    results.iter_mut().flatten().chain(outputs).for_each(&mut *f);
                    branches.iter_mut().for_each(|b| b.each_place(f));
                }
                Action::Loop { trip, body, index, start, state, next, scans, outputs } => {
                    f(trip);
                    f(index);
                    start.iter_mut().chain(state).chain(next).chain(outputs).for_each(&mut *f);
                    scans.iter_mut().flat_map(|(one, all)| [one, all]).for_each(&mut *f);
                    body.each_place(f);
                }
            }
        }
    }

    /// This nested schedule at an offset of the arena around it, with its captures where they are there.
    fn within(mut self, offset: usize, captures: &[Place]) -> Result<Schedule> {
        let mut fits = true;
        self.each_place(&mut |p| {
            if p.mem == ARENA {
                p.offset += offset;
            } else if let Some(i) = (0..captures.len()).find(|&i| p.mem == capture(i)) {
                fits &= p.bytes == captures[i].bytes;
                *p = captures[i];
            }
        });
        if fits { Ok(self) } else { Err(internal("a capture differs in size from what it is outside")) }
    }

    /// Where the outputs of its plan lie.
    fn results(&self, plan: &Plan) -> Vec<Place> {
        plan.outputs.iter().map(|(_, id)| self.places[id.index()]).collect()
    }

    /// This schedule with its arena, the memory that is zero and that of streamed weights each at the start of a block, and what is outside where it is.
    pub fn placed(&self, blocks: Blocks, outside: &[Place]) -> Result<Schedule> {
        let mut placed = self.clone().within(0, outside)?;
        placed.each_place(&mut |p| match (p.mem, blocks) {
            (ARENA, Blocks { arena, .. }) => p.mem = arena,
            (ZEROED, Blocks { zeroed: Some(zeroed), .. }) => p.mem = zeroed,
            (STREAMED, Blocks { streamed: Some(streamed), .. }) => p.mem = streamed,
            _ => {}
        });
        Ok(placed)
    }

    /// Lets go of what was prepared for it.
    pub fn release(&self, device: &mut dyn Device) {
        for action in &self.actions {
            match action {
                Action::Launch { prepared, .. } => device.release(*prepared),
                Action::If { branches, .. } => branches.iter().for_each(|b| b.release(device)),
                Action::Loop { body, .. } => body.release(device),
                Action::Unfit(_) => {}
            }
        }
    }
}

/// The inputs, symbols and constraints of a plan as a graph without computation: what binding needs.
pub fn signature(plan: &Plan) -> Graph {
    let mut graph = Graph::new(plan.name.clone());
    for &id in &plan.inputs {
        let buffer = &plan.buffers[id.index()];
        if let BufferKind::Input(name) = &buffer.kind {
            graph.push_node(
                kiln_graph::Op::Input { name: name.clone(), ty: buffer.ty.clone() },
                &[],
                vec![buffer.ty.clone()],
                name,
            );
        }
    }
    graph.symbols = plan.symbols.clone();
    graph.constraints = plan.constraints.clone();
    graph
}
