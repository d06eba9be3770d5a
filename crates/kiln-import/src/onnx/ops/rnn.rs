//! RNN, GRU and LSTM: the input products of all steps in one contraction, then the recurrence.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use super::recurrence::recur;
use kiln_graph::{BinaryOp, Dim, EinsumSpec, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "RNN" | "GRU" | "LSTM" => recurrent,
        _ => return None,
    };
    Some(handler)
}

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm,
}

impl Cell {
    fn activations(self) -> &'static [&'static str] {
        match self {
            Cell::Rnn => &["Tanh"],
            Cell::Gru { .. } => &["Sigmoid", "Tanh"],
            Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// What one direction needs at every step. Values may be captured by the body of a loop.
struct Direction<'m> {
    cell: Cell,
    hidden: Dim,
    /// `[gates * hidden, hidden]`.
    recurrence: Val,
    /// Recurrent bias `[gates * hidden]`, where it cannot be added to the inputs.
    bias: Option<Val>,
    /// Peepholes `[3 * hidden]`.
    peepholes: Option<Val>,
    activations: Vec<&'m str>,
    clip: Option<f64>,
    input_forget: bool,
}

fn recurrent<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let cell = match n.op() {
        "RNN" => Cell::Rnn,
        "GRU" => Cell::Gru { linear_before_reset: n.flag("linear_before_reset", false)? },
        _ => Cell::Lstm,
    };
    let (backward, both) = match n.string("direction", "forward")? {
        "forward" => (false, false),
        "reverse" => (true, false),
        "bidirectional" => (false, true),
        other => return invalid(format!("direction is `{other}`")),
    };
    let directions = if both { 2 } else { 1 };
    let batch_first = n.flag("layout", false)?;
    let (mut x, w, r) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    if l.rank(x) != 3 || l.rank(w) != 3 || l.rank(r) != 3 {
        return invalid(format!("needs x, w and r of rank 3, found {}, {} and {}", l.ty(x), l.ty(w), l.ty(r)));
    }
    if batch_first {
        x = l.transpose(x, &[1, 0, 2])?;
    }
    let dtype = l.dtype(x);
    let (steps, batch, hidden) = (l.shape(x)[0].clone(), l.shape(x)[1].clone(), l.shape(r)[2].clone());
    full_sequences(l, n, &steps)?;
    let bias = l.maybe_arg(n, 3)?;
    let peepholes = if cell == Cell::Lstm { l.maybe_arg(n, 7)? } else { None };
    let activations = activations(n, cell, directions)?;
    let mut initial = Vec::new();
    for i in 5..if cell == Cell::Lstm { 7 } else { 6 } {
        let state = match l.maybe_arg(n, i)? {
            Some(state) if batch_first => l.transpose(state, &[1, 0, 2])?,
            Some(state) => state,
            None => {
                let zero = l.scalar(dtype, 0.0)?;
                l.broadcast_to(zero, &[Dim::from(directions), batch.clone(), hidden.clone()])?
            }
        };
        // The hidden state is an output, rounded at every step; the cell state stays wide.
        initial.push(if i == 6 { l.widen(state)? } else { state });
    }
    let mut sequences = Vec::new();
    let mut finals: Vec<Vec<ValueId>> = vec![Vec::new(); initial.len()];
    for d in 0..directions {
        let reversed = backward || d == 1;
        let sequence = if reversed { l.flip(x, 0)? } else { x };
        let at = |l: &mut Lower<'m>, v: ValueId| l.index_axis(v, 0, d);
        let (w, r) = (at(l, w)?, at(l, r)?);
        let bias = bias.map(|b| at(l, b)).transpose()?;
        let peepholes = peepholes.map(|p| at(l, p)).transpose()?;
        let (inputs, late) = input_products(l, cell, sequence, w, bias)?;
        let count = cell.activations().len();
        let direction = Direction {
            cell,
            hidden: hidden.clone(),
            recurrence: l.run(r),
            bias: late.map(|b| l.run(b)),
            peepholes: peepholes.map(|p| l.widen(p)).transpose()?.map(|p| l.run(p)),
            activations: activations[d as usize * count..][..count].to_vec(),
            clip: n.maybe_float("clip")?,
            input_forget: n.flag("input_forget", false)?,
        };
        let start = initial.iter().map(|&s| at(l, s)).collect::<Result<Vec<_>, _>>()?;
        let inputs = [l.run(inputs)];
        let (last, mut all) = recur(l, &steps, &inputs, start, &|l, x, states| {
            let states = step(l, &direction, x[0], states)?;
            let hidden = states[0];
            Ok((states, hidden))
        })?;
        if reversed {
            all = l.flip(all, 0)?;
        }
        sequences.push(l.unsqueeze(all, &[1])?);
        for (stack, state) in finals.iter_mut().zip(last) {
            stack.push(l.unsqueeze(state, &[0])?);
        }
    }
    let mut y = l.concat(&sequences, 1)?;
    if batch_first {
        y = l.transpose(y, &[2, 0, 1, 3])?;
    }
    let mut vals = vec![l.run(y)];
    for stack in finals {
        let state = l.concat(&stack, 0)?;
        let mut state = l.cast(state, dtype)?;
        if batch_first {
            state = l.transpose(state, &[1, 0, 2])?;
        }
        vals.push(l.run(state));
    }
    Ok(vals)
}

/// Accepts sequence lengths only when they say that every sequence is full.
fn full_sequences<'m>(l: &Lower<'m>, n: &Node<'m>, steps: &Dim) -> OpResult<()> {
    let Some(lens) = n.optional(4) else { return Ok(()) };
    match lens.as_const().and_then(|t| t.to_i64_vec()) {
        Some(lens) if lens.iter().all(|&len| steps.is(len)) => Ok(()),
        Some(_) => unsupported("sequences of different lengths"),
        None => Err(l.needs(lens, "the sequence lengths")),
    }
}

fn activations<'m>(n: &Node<'m>, cell: Cell, directions: i64) -> OpResult<Vec<&'m str>> {
    let defaults = cell.activations();
    let names = match n.strings("activations")? {
        Some(names) => names,
        None => defaults.iter().copied().cycle().take(defaults.len() * directions as usize).collect(),
    };
    if names.len() != defaults.len() * directions as usize {
        return invalid(format!("{} activations, expected {}", names.len(), defaults.len() * directions as usize));
    }
    let parameters = ["activation_alpha", "activation_beta"];
    if parameters.iter().any(|p| n.has(p)) && names.iter().any(|a| !matches!(*a, "Sigmoid" | "Tanh" | "Relu")) {
        return unsupported("activations with given alpha and beta");
    }
    Ok(names)
}

fn activate(l: &mut Lower<'_>, name: &str, x: ValueId) -> OpResult<ValueId> {
    Ok(match name {
        "Sigmoid" => l.sigmoid(x)?,
        "Tanh" => l.tanh(x)?,
        "Relu" => l.relu(x)?,
        "HardSigmoid" => l.hard_sigmoid(x, 0.2, 0.5)?,
        "LeakyRelu" => l.leaky_relu(x, 0.01)?,
        "Elu" => l.elu(x, 1.0)?,
        "Softplus" => l.softplus(x)?,
        other => return unsupported(format!("activation `{other}`")),
    })
}

/// `x W^T` of all steps plus the biases, in the accumulator's dtype; the recurrent bias comes back where it has to be added inside a product.
fn input_products(
    l: &mut Lower<'_>,
    cell: Cell,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
) -> OpResult<(ValueId, Option<ValueId>)> {
    let dtype = l.dtype(x);
    let spec = EinsumSpec { lhs: vec!['s', 'b', 'i'], rhs: vec!['g', 'i'], out: vec!['s', 'b', 'g'] };
    let wide = dtype.accumulator();
    let mut products = l.contract(spec, x, w, wide, wide)?;
    let Some(bias) = bias else { return Ok((products, None)) };
    let bias = l.cast(bias, wide)?;
    let halves = l.chunk(bias, 0, 2)?;
    products = l.plus(products, halves[0])?;
    if cell == (Cell::Gru { linear_before_reset: true }) {
        return Ok((products, Some(halves[1])));
    }
    Ok((l.plus(products, halves[1])?, None))
}

/// One step: the next states from the gates' inputs `[batch, gates * hidden]`, which are wide.
fn step(l: &mut Lower<'_>, d: &Direction<'_>, x: ValueId, states: &[ValueId]) -> OpResult<Vec<ValueId>> {
    let h = states[0];
    let dtype = l.dtype(h);
    let r = l.value(&d.recurrence)?;
    let gate = |l: &mut Lower<'_>, v: ValueId, axis: i64, g: usize| {
        l.slice_axis(v, axis, &(d.hidden.clone() * Dim::from(g)), &d.hidden, 1)
    };
    let act = |l: &mut Lower<'_>, v: ValueId, which: usize| {
        let v = match d.clip {
            Some(c) => l.clip(v, Some(-c), Some(c))?,
            None => v,
        };
        activate(l, d.activations[which], v)
    };
    if let Cell::Gru { linear_before_reset } = d.cell {
        let both = d.hidden.clone() * Dim::from(2);
        // Update and reset gates together, then the hidden gate, which sees the reset.
        let (xs, rs) = (l.slice_axis(x, 1, &Dim::from(0), &both, 1)?, l.slice_axis(r, 0, &Dim::from(0), &both, 1)?);
        let mut zr = product(l, h, rs)?;
        if let Some(bias) = &d.bias {
            let bias = l.value(bias)?;
            let bias = l.slice_axis(bias, 0, &Dim::from(0), &both, 1)?;
            zr = l.plus(zr, bias)?;
        }
        let zr = l.plus(zr, xs)?;
        let zr = act(l, zr, 0)?;
        let (z, reset) = (gate(l, zr, 1, 0)?, gate(l, zr, 1, 1)?);
        let (xh, rh) = (gate(l, x, 1, 2)?, gate(l, r, 0, 2)?);
        let inner = if linear_before_reset {
            let mut p = product(l, h, rh)?;
            if let Some(bias) = &d.bias {
                let bias = l.value(bias)?;
                let bias = gate(l, bias, 0, 2)?;
                p = l.plus(p, bias)?;
            }
            l.mul(reset, p)?
        } else {
            let (h, rh) = (l.widen(h)?, l.widen(rh)?);
            let kept = l.mul(reset, h)?;
            product(l, kept, rh)?
        };
        let sum = l.plus(xh, inner)?;
        let candidate = act(l, sum, 1)?;
        // (1 - z) * candidate + z * h
        let h = l.widen(h)?;
        let change = l.sub(h, candidate)?;
        let change = l.mul(z, change)?;
        let next = l.plus(candidate, change)?;
        return Ok(vec![l.cast(next, dtype)?]);
    }
    let p = product(l, h, r)?;
    let gates = l.plus(x, p)?;
    if d.cell == Cell::Rnn {
        let next = act(l, gates, 0)?;
        return Ok(vec![l.cast(next, dtype)?]);
    }
    let c = states[1];
    let peep = |l: &mut Lower<'_>, v: ValueId, cell: ValueId, which: usize| -> OpResult<ValueId> {
        let Some(p) = &d.peepholes else { return Ok(v) };
        let p = l.value(p)?;
        let p = gate(l, p, 0, which)?;
        let p = l.mul(p, cell)?;
        Ok(l.plus(v, p)?)
    };
    let i = gate(l, gates, 1, 0)?;
    let i = peep(l, i, c, 0)?;
    let i = act(l, i, 0)?;
    let f = if d.input_forget {
        let dtype = l.dtype(i);
        let one = l.scalar(dtype, 1.0)?;
        l.binary(BinaryOp::Sub, one, i)?
    } else {
        let f = gate(l, gates, 1, 2)?;
        let f = peep(l, f, c, 2)?;
        act(l, f, 0)?
    };
    let g = gate(l, gates, 1, 3)?;
    let g = act(l, g, 1)?;
    let (kept, added) = (l.mul(f, c)?, l.mul(i, g)?);
    let c = l.plus(kept, added)?;
    let o = gate(l, gates, 1, 1)?;
    let o = peep(l, o, c, 1)?;
    let o = act(l, o, 0)?;
    let shown = activate(l, d.activations[2], c)?;
    let next = l.mul(o, shown)?;
    Ok(vec![l.cast(next, dtype)?, c])
}

/// `h r^T`, wide.
fn product(l: &mut Lower<'_>, h: ValueId, r: ValueId) -> OpResult<ValueId> {
    let dtype = l.dtype(h);
    let spec = EinsumSpec { lhs: vec!['b', 'h'], rhs: vec!['g', 'h'], out: vec!['b', 'g'] };
    Ok(l.contract(spec, h, r, dtype.accumulator(), dtype.accumulator())?)
}
