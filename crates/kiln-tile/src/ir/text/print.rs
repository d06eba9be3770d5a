//! Writes programs. Names are given in the order of the text, so that what is read back is written alike.

use super::super::{
    Block, CopyKind, Grid, Op, Operand, Part, Place, Program, Role, Scalar, Schedule, Slot, Stage, Stmt, ValueId, View,
};
use super::{ACCESSES, ATOMICS, FENCES, GROUPS, REDUCTIONS, ROUNDINGS, word};
use crate::builder::identifier;
use crate::dtype::Type;
use crate::expr::{Expr, Var};
use crate::print::expr::{Names, list, special, text};
use crate::program::{Axis, Buffer, Param};
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut printer = Printer::new(self);
        printer.program();
        f.write_str(&printer.out)
    }
}

/// The first line of a statement of `program`, without layouts.
pub(crate) fn statement<'a>(program: &'a Program, stmt: &'a Stmt) -> String {
    let mut printer = Printer { marked: Some(stmt), ..Printer::new(program) };
    printer.program();
    let line = printer.out[printer.mark..].lines().next().unwrap_or_default().trim();
    // Layouts are quoted.
    let mut parts = line.split(" layout \"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('"').map_or("", |(_, rest)| rest))
}

/// The names that were given so far.
#[derive(Default)]
struct Given {
    /// Of variables and tensors, by number.
    scalars: HashMap<u32, String>,
    tiles: HashMap<ValueId, String>,
    shared: Vec<String>,
    channels: Vec<String>,
    barriers: Vec<String>,
    /// How many have each name, tiles apart.
    taken: HashMap<String, u32>,
    taken_tiles: HashMap<String, u32>,
}

/// A name that none before has.
fn unique(taken: &mut HashMap<String, u32>, name: &str) -> String {
    let name = identifier(name);
    let count = taken.entry(name.clone()).or_insert(0);
    *count += 1;
    if *count == 1 { name } else { format!("{name}.{}", *count - 1) }
}

impl Given {
    fn scalar(&mut self, name: &str) -> String {
        // Words that are literals.
        if special(name).is_some() || name == "true" || name == "false" {
            self.taken.entry(name.to_owned()).or_insert(1);
        }
        unique(&mut self.taken, name)
    }

    fn declare(&mut self, id: u32, name: &str) -> String {
        let name = self.scalar(name);
        self.scalars.insert(id, name.clone());
        name
    }
}

impl Names for Given {
    fn var(&self, var: &Var) -> String {
        self.scalars.get(&var.id).cloned().unwrap_or_else(|| format!("{}?{}", var.name, var.id))
    }

    fn tensor(&self, buffer: &Buffer) -> String {
        self.scalars.get(&buffer.id).cloned().unwrap_or_else(|| format!("{}?{}", buffer.name, buffer.id))
    }
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

struct Printer<'a> {
    program: &'a Program,
    out: String,
    depth: usize,
    names: Given,
    /// A statement of interest, and where its text begins.
    marked: Option<&'a Stmt>,
    mark: usize,
}

impl<'a> Printer<'a> {
    fn new(program: &'a Program) -> Printer<'a> {
        Printer { program, out: String::new(), depth: 0, names: Given::default(), marked: None, mark: 0 }
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{}{text}", "  ".repeat(self.depth));
    }

    fn expr(&self, e: &Expr) -> String {
        text(e, &self.names)
    }

    fn list(&self, exprs: &[Expr]) -> String {
        list(exprs, &self.names)
    }

    /// Declares a variable; says its type where it is not what one expects there.
    fn declare(&mut self, var: &Var, expected: impl Into<Type>) -> String {
        let name = self.names.declare(var.id, &var.name);
        if var.ty == expected.into() { name } else { format!("{name}: {}", var.ty) }
    }

    fn tile(&self, id: ValueId) -> String {
        format!("%{}", self.names.tiles.get(&id).cloned().unwrap_or_else(|| format!("?{}", id.0)))
    }

    fn tiles(&self, ids: &[ValueId]) -> String {
        joined(ids.iter().map(|id| self.tile(*id)))
    }

    /// Declares a tile, with its type unless that is the type of `like`.
    fn define(&mut self, id: ValueId, like: Option<ValueId>) -> String {
        let values = &self.program.values;
        let value = values.get(id.0 as usize);
        let name = unique(&mut self.names.taken_tiles, value.map_or("tile", |value| &value.name));
        self.names.tiles.insert(id, name.clone());
        let Some(value) = value else { return format!("%{name}: ?") };
        let like = like.and_then(|like| values.get(like.0 as usize));
        if like
            .is_some_and(|like| (like.dtype, &like.shape, &like.layout) == (value.dtype, &value.shape, &value.layout))
        {
            return format!("%{name}");
        }
        let layout = value.layout.as_ref().map_or(String::new(), |layout| format!(" layout \"{layout}\""));
        format!("%{name}: {}[{}]{layout}", value.dtype, joined(&value.shape))
    }

    fn program(&mut self) {
        let program = self.program;
        self.line(&format!(
            "kernel {} {} level {}",
            identifier(&program.name),
            quoted(&program.comment),
            program.level.name()
        ));
        self.params(&program.params);
        self.schedule(&program.schedule);
        self.grid(&program.domain, &program.grid);
        for shared in &program.shared {
            let name = self.names.scalar(&shared.name);
            self.names.shared.push(name.clone());
            let layout = shared.layout.as_ref().map_or(String::new(), |layout| format!(" layout \"{layout}\""));
            let offset = shared.offset.map_or(String::new(), |offset| format!(" offset {offset}"));
            let (dtype, shape, stages) = (shared.dtype, joined(&shared.shape), shared.stages);
            self.line(&format!("shared {name}: {dtype}[{shape}] stages {stages}{layout}{offset}"));
        }
        for channel in &program.channels {
            let name = self.names.scalar(&channel.name);
            self.names.channels.push(name.clone());
            let buffers = joined(channel.buffers.iter().map(|id| named(&self.names.shared, id.0)));
            self.line(&format!("channel {name} ({buffers}) stages {} by {}", channel.stages, copy_kind(channel.kind)));
        }
        for barrier in &program.barriers {
            let name = self.names.scalar(&barrier.name);
            self.names.barriers.push(name.clone());
            let by = super::word(&super::ARRIVERS, &barrier.by);
            self.line(&format!("barrier {name} stages {} count {} by {by}", barrier.stages, barrier.count));
        }
        self.block("", &program.body, &[]);
    }

    fn params(&mut self, params: &[Param]) {
        // An extent may be a parameter that comes later.
        for param in params {
            match param {
                Param::Buffer { buffer, .. } => self.names.declare(buffer.id, &buffer.name),
                Param::Scalar { var, .. } => self.names.declare(var.id, &var.name),
            };
        }
        for param in params {
            let line = match param {
                Param::Buffer { buffer, access } => format!(
                    "param {}: {}[{}] strides [{}] {}",
                    self.names.tensor(buffer),
                    buffer.dtype,
                    self.list(&buffer.shape),
                    self.list(&buffer.strides),
                    word(&ACCESSES, access)
                ),
                Param::Scalar { var, range: (low, high), multiple_of } => {
                    let any = (*low, *high) == (i64::MIN, i64::MAX);
                    let range = if any { String::new() } else { format!(" in {low}..={high}") };
                    let multiple = if *multiple_of == 1 { String::new() } else { format!(" multiple {multiple_of}") };
                    format!("param {}: {}{range}{multiple}", self.names.var(var), var.ty)
                }
            };
            self.line(&line);
        }
    }

    fn schedule(&mut self, schedule: &Schedule) {
        let Schedule {
            warps,
            specialise,
            registers,
            persistent,
            raster,
            row_threads,
            staged_epilogue,
            overlap,
            ping_pong,
            cluster,
            across,
        } = schedule;
        let mut line = format!("schedule warps {warps}");
        let mut add = |on: bool, text: &str| {
            if on {
                line.push(' ');
                line.push_str(text);
            }
        };
        add(*specialise, "specialise");
        if let Some((copying, computing)) = registers {
            add(true, &format!("registers {copying} {computing}"));
        }
        add(*persistent, "persistent");
        add(*raster != 0, &format!("raster {raster}"));
        add(*row_threads != 0, &format!("row_threads {row_threads}"));
        add(*staged_epilogue, "staged_epilogue");
        add(*overlap, "overlap");
        add(*ping_pong, "ping_pong");
        add(*cluster != 1, &format!("cluster {cluster}"));
        add(*across, "across");
        self.line(&line);
    }

    fn grid(&mut self, domain: &[Axis], grid: &Grid) {
        // A persistent grid's count is what the domain is made of.
        if let Grid::Persistent { per_sm, count, points } = grid {
            let points = self.expr(points);
            let count = self.declare(count, Type::Index);
            self.line(&format!("persistent {per_sm} count {count} points {points}"));
        }
        let axes: Vec<String> = domain
            .iter()
            .map(|axis| {
                let extent = self.expr(&axis.extent);
                format!("{} = {extent}", self.declare(&axis.var, Type::Index))
            })
            .collect();
        self.line(format!("grid {}", axes.join(", ")).trim_end());
    }

    /// A block in braces, which hands over `yields`.
    fn block(&mut self, head: &str, block: &'a Block, yields: &[ValueId]) {
        self.line(format!("{head} {{").trim_start());
        self.inside(block, yields);
        self.line("}");
    }

    fn inside(&mut self, block: &'a Block, yields: &[ValueId]) {
        self.depth += 1;
        block.iter().for_each(|stmt| self.stmt(stmt));
        if !yields.is_empty() {
            let yields = self.tiles(yields);
            self.line(&format!("yield {yields}"));
        }
        self.depth -= 1;
    }

    /// Scalar statements and what they lead to, in braces.
    fn scalars(&mut self, body: &[Scalar], last: impl FnOnce(&Self) -> String) -> String {
        let pad = "  ".repeat(self.depth);
        let mut lines = String::new();
        for scalar in body {
            let line = match scalar {
                Scalar::Bind { var, value } => {
                    let value = self.expr(value);
                    format!("let {}: {} = {value}", self.names.declare(var.id, &var.name), var.ty)
                }
                Scalar::Check { violated, fault, code } => {
                    let (violated, code) = (self.expr(violated), self.expr(code));
                    format!("check {violated} fault {} code {code}", self.names.tensor(fault))
                }
            };
            let _ = writeln!(lines, "{pad}  {line}");
        }
        let last = last(self);
        if body.is_empty() { format!("{{ {last} }}") } else { format!("{{\n{lines}{pad}  {last}\n{pad}}}") }
    }

    /// A box; its extents are said where they are not those of `tile`.
    fn view(&self, view: &View, tile: Option<&[u32]>) -> String {
        let mut walking = 0;
        let along = |(origin, axis): (&Expr, &Option<usize>)| {
            let origin = self.expr(origin);
            let Some(axis) = axis else { return origin };
            walking += 1;
            if *axis == walking - 1 { format!("{origin}..") } else { format!("{origin}..@{axis}") }
        };
        let axes = joined(view.origin.iter().zip(&view.axes).map(along));
        let mut out = format!("{}[{axes}]", self.names.tensor(&view.tensor));
        if tile != Some(&view.shape[..]) {
            let _ = write!(out, " box [{}]", joined(&view.shape));
        }
        let masked: Vec<usize> = (0..view.masked.len()).filter(|&axis| view.masked[axis]).collect();
        if !masked.is_empty() {
            let _ = write!(out, " masked [{}]", joined(masked));
        }
        for walk in &view.walks {
            let part = |part: &Part| {
                let Part { axis, extent, base, step, last } = part;
                format!("{axis} of {} base {base} step {step} last {last}", self.expr(extent))
            };
            let (first, end) = (self.expr(&walk.first), self.expr(&walk.end));
            let parts = joined(walk.parts.iter().map(part));
            let _ = write!(out, " walk @{} from {first} until {end} along [{parts}]", walk.axis);
        }
        out
    }

    fn place(&mut self, place: &Place, tile: ValueId) -> String {
        let program = self.program;
        match place {
            Place::View(view) => self.view(view, program.values.get(tile.0 as usize).map(|value| &value.shape[..])),
            Place::Elements { tensor, axes, body, index, mask } => {
                let tensor = self.names.tensor(tensor);
                let axes = joined(axes.iter().map(|var| self.declare(var, Type::Index)).collect::<Vec<_>>());
                let last = |p: &Self| format!("yield [{}] where {}", p.list(index), p.expr(mask));
                format!("{tensor} at [{axes}] {}", self.scalars(body, last))
            }
        }
    }

    fn slot(&self, slot: &Slot) -> String {
        let buffer = named(&self.names.shared, slot.buffer.0);
        match &slot.stage {
            Stage::Cursor(channel) => format!("{buffer}@{}", named(&self.names.channels, channel.0)),
            Stage::Index(index) => format!("{buffer}[{}]", self.expr(index)),
        }
    }

    fn slot_shape(&self, slot: &Slot) -> Option<&'a [u32]> {
        self.program.shared.get(slot.buffer.0 as usize).map(|shared| &shared.shape[..])
    }

    fn operand(&self, operand: &Operand) -> String {
        match operand {
            Operand::Tile(value) => self.tile(*value),
            Operand::Shared(slot) => self.slot(slot),
        }
    }

    fn stmt(&mut self, stmt: &'a Stmt) {
        if self.marked.is_some_and(|marked| std::ptr::eq(marked, stmt)) {
            self.mark = self.out.len();
        }
        // What an operation uses is named before what it defines, but for loops, whose text begins with their results.
        let word = stmt.op.name();
        let op = match &stmt.op {
            Op::For { .. } | Op::If { .. } => return self.nested(stmt),
            Op::Roles(roles) => return self.roles(roles),
            Op::Elected(block) => return self.block(word, block, &[]),
            Op::Bind { var, value, below } => {
                let value = self.expr(value);
                let below = below.as_ref().map_or(String::new(), |below| format!(" below {}", self.expr(below)));
                format!("{word} {}: {} = {value}{below}", self.names.declare(var.id, &var.name), var.ty)
            }
            Op::Assign { var, value, below } => {
                let value = format!("{} below {below}", self.expr(value));
                match self.names.scalars.get(&var.id) {
                    Some(name) => format!("{word} {name} = {value}"),
                    None => format!("var {}: {} = {value}", self.names.declare(var.id, &var.name), var.ty),
                }
            }
            Op::Full { value } => format!("{word} {}", self.expr(value)),
            Op::Load { from, fill } => {
                let tile = stmt.results.first().copied().unwrap_or(ValueId(u32::MAX));
                let place = self.place(from, tile);
                format!("{word} {place} fill {}", self.expr(fill))
            }
            Op::Map { axes, args, body, results } => {
                let axes = joined(axes.iter().map(|var| self.declare(var, Type::Index)).collect::<Vec<_>>());
                let arg = |(var, value): &(Var, ValueId)| {
                    let expected = self.program.values.get(value.0 as usize).map_or(Type::Index, |v| v.dtype.into());
                    format!("{} = {}", self.declare(var, expected), self.tile(*value))
                };
                let args = joined(args.iter().map(arg).collect::<Vec<_>>());
                let body = self.scalars(body, |p| format!("yield {}", p.list(results)));
                format!("{word} [{axes}] ({args}) {body}")
            }
            Op::Reduce { op, value, axis } => {
                format!("{word} {} {} axis {axis}", super::word(&REDUCTIONS, op), self.tile(*value))
            }
            Op::ClusterReduce { of } => {
                let part = |(op, value): &(_, _)| format!("{} {}", super::word(&REDUCTIONS, op), self.tile(*value));
                format!("{word} {}", joined(of.iter().map(part)))
            }
            Op::Transpose { value, perm } => format!("{word} {} [{}]", self.tile(*value), joined(perm)),
            Op::Dot { a, b, acc, tf32, atom } => {
                let tf32 = tf32.map_or(String::new(), |round| format!(" tf32 {}", super::word(&ROUNDINGS, &round)));
                let atom = atom.as_ref().map_or(String::new(), |atom| format!(" by {}", quoted(atom)));
                format!("{word} {}, {}, {}{tf32}{atom}", self.operand(a), self.operand(b), self.tile(*acc))
            }
            Op::Store { to, value } => format!("{word} {} = {}", self.place(to, *value), self.tile(*value)),
            Op::Atomic { op, to, value } => {
                let place = self.place(to, *value);
                format!("{word} {} {place} = {}", super::word(&ATOMICS, op), self.tile(*value))
            }
            Op::Await { counter, index, value } | Op::Signal { counter, index, value } => {
                format!("{word} {}[{}] = {}", self.names.tensor(counter), self.list(index), self.expr(value))
            }
            Op::Acquire(channel) | Op::Publish(channel) | Op::Receive(channel) | Op::Release(channel) => {
                format!("{word} {}", named(&self.names.channels, channel.0))
            }
            Op::Skip { channel, slots } => {
                format!("{word} {} slots {}", named(&self.names.channels, channel.0), self.expr(slots))
            }
            Op::Copy { from, to, kind, barrier } => {
                let from = self.view(from, self.slot_shape(to));
                let on = barrier.as_ref().map(|(barrier, index)| {
                    format!(" on {}[{}]", named(&self.names.barriers, barrier.0), self.expr(index))
                });
                format!("{word} {} = {from} by {}{}", self.slot(to), copy_kind(*kind), on.unwrap_or_default())
            }
            Op::SharedLoad { from } => format!("{word} {}", self.slot(from)),
            Op::SharedStore { to, value } => format!("{word} {} = {}", self.slot(to), self.tile(*value)),
            Op::CopyOut { from, to } => {
                format!("{word} {} = {}", self.view(to, self.slot_shape(from)), self.slot(from))
            }
            Op::Convert { value } => format!("{word} {}", self.tile(*value)),
            Op::Turn(turn) => format!("{word} {}", super::word(&super::TURNS, turn)),
            Op::Sync | Op::ClusterSync | Op::ClusterArrive | Op::ClusterWait => word.to_owned(),
            Op::ClusterLoad { op, from } => format!("{word} {} {}", super::word(&REDUCTIONS, op), self.slot(from)),
            Op::Expect { barrier, index, bytes } => {
                format!("{word} {}[{}] bytes {bytes}", named(&self.names.barriers, barrier.0), self.expr(index))
            }
            Op::Arrive { barrier, index, everywhere } => {
                let everywhere = if *everywhere { " everywhere" } else { "" };
                format!("{word} {}[{}]{everywhere}", named(&self.names.barriers, barrier.0), self.expr(index))
            }
            Op::Wait { barrier, index, parity } => {
                let barrier = named(&self.names.barriers, barrier.0);
                format!("{word} {barrier}[{}] parity {}", self.expr(index), self.expr(parity))
            }
            Op::Commit(group) => format!("{word} {}", super::word(&GROUPS, group)),
            Op::WaitGroup { group, pending } => format!("{word} {} pending {pending}", super::word(&GROUPS, group)),
            Op::Fence(fence) => format!("{word} {}", super::word(&FENCES, fence)),
            Op::NamedBarrier { id, threads, wait } => {
                let wait = if *wait { "wait" } else { "arrive" };
                format!("{word} {} threads {threads} {wait}", self.expr(id))
            }
            Op::SetRegisters { count, increase } => {
                format!("{word} {count} {}", if *increase { "increase" } else { "decrease" })
            }
        };
        let results = self.results(stmt);
        self.line(&format!("{results}{op}"));
    }

    fn results(&mut self, stmt: &Stmt) -> String {
        let results: Vec<String> = stmt.results.iter().map(|id| self.define(*id, None)).collect();
        if results.is_empty() { String::new() } else { format!("{} = ", results.join(", ")) }
    }

    fn nested(&mut self, stmt: &'a Stmt) {
        match &stmt.op {
            Op::For { var, start, end, step, carried, body, yields, stages } => {
                let (start, end, step) = (self.expr(start), self.expr(end), self.expr(step));
                let first: Vec<String> = carried.iter().map(|(_, first)| self.tile(*first)).collect();
                let results = self.results(stmt);
                let var = self.declare(var, Type::Index);
                let step = if step == "1" { String::new() } else { format!(" step {step}") };
                let stages = stages.map_or(String::new(), |stages| format!(" stages {stages}"));
                let inside = |((inside, like), first): (&(ValueId, ValueId), String)| {
                    format!("{} = {first}", self.define(*inside, Some(*like)))
                };
                let carried: Vec<String> = carried.iter().zip(first).map(inside).collect();
                let carried =
                    if carried.is_empty() { String::new() } else { format!(" carry ({})", carried.join(", ")) };
                self.block(&format!("{results}for {var} in {start}..{end}{step}{stages}{carried}"), body, yields);
            }
            Op::If { cond, then, otherwise } => {
                let cond = self.expr(cond);
                let results = self.results(stmt);
                self.line(&format!("{results}if {cond} {{"));
                self.inside(&then.0, &then.1);
                if !otherwise.0.is_empty() || !otherwise.1.is_empty() {
                    self.line("} else {");
                    self.inside(&otherwise.0, &otherwise.1);
                }
                self.line("}");
            }
            _ => {}
        }
    }

    fn roles(&mut self, roles: &'a [Role]) {
        self.line("roles {");
        self.depth += 1;
        for role in roles {
            let groups = role.groups.as_ref();
            let groups = groups
                .map_or(String::new(), |(var, n)| format!(" groups {} below {n}", self.declare(var, Type::Index)));
            let registers = role.registers.map_or(String::new(), |count| format!(" registers {count}"));
            let head = format!("{} warps {}{groups}{registers}", identifier(&role.name), role.warps);
            self.block(&head, &role.body, &[]);
        }
        self.depth -= 1;
        self.line("}");
    }
}

fn named(names: &[String], id: u32) -> String {
    names.get(id as usize).cloned().unwrap_or_else(|| format!("?{id}"))
}

fn copy_kind(kind: CopyKind) -> String {
    match kind {
        CopyKind::Registers => "registers".to_owned(),
        CopyKind::CpAsync(bytes) => format!("cp_async {bytes}"),
        CopyKind::Tma => "tma".to_owned(),
        CopyKind::Multicast => "multicast".to_owned(),
    }
}
