//! The text form of tile programs, for people. A name is followed by its id where a variable is meant: `i.3`.

use crate::expr::{Expr, Var};
use crate::pass::layout::Layouts;
use crate::program::{Axis, Buffer, Param, Program, Scope, Stmt};
use std::fmt::{self, Display, Formatter};

/// A program with a body that a pass has made of its own.
pub struct WithBody<'a>(pub &'a Program, pub &'a [Stmt]);

/// A program and the layouts of its tiles and loops.
pub struct LaidOut<'a>(pub &'a Program, pub &'a Layouts);

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        WithBody(self, &self.body).fmt(f)
    }
}

impl Display for WithBody<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let WithBody(program, body) = self;
        writeln!(f, "// {}\nkernel {}, {} threads a block", program.comment, program.name, program.threads)?;
        for param in &program.params {
            match param {
                Param::Buffer { buffer, access } => writeln!(f, "  {access:?} {}", declared(buffer))?,
                Param::Scalar { var, range: (low, high), multiple_of } => {
                    write!(f, "  {}: {low}..={high}", name(var))?;
                    writeln!(
                        f,
                        "{}",
                        if *multiple_of > 1 { format!(", a multiple of {multiple_of}") } else { String::new() }
                    )?;
                }
            }
        }
        program.buffers.iter().try_for_each(|b| writeln!(f, "  {:?} {}", b.scope, declared(b)))?;
        writeln!(f, "each {:?} of {} {{", program.domain.worker, axes(&program.domain.axes))?;
        stmts(f, body, 1)?;
        writeln!(f, "}}")
    }
}

impl Display for LaidOut<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let LaidOut(program, layouts) = self;
        writeln!(f, "{program}\nlayouts:")?;
        for buffer in &program.buffers {
            match (buffer.scope, layouts.shared(buffer)) {
                (Scope::Shared, Some(layout)) => writeln!(f, "  {}: {layout:?}", buffer.name)?,
                (Scope::Shared, None) => writeln!(f, "  {}: row-major", buffer.name)?,
                _ => writeln!(f, "  {}: {:?}", buffer.name, layouts.fragment(buffer))?,
            }
        }
        let mut lines = vec![format!(
            "the grid over {}: width {}",
            axes(&program.domain.axes),
            layouts.width(&program.domain.axes)
        )];
        let mut note = |stmt: &Stmt| match stmt {
            Stmt::Parallel { axes: over, .. } | Stmt::Reduce { axes: over, .. } | Stmt::Copy { axes: over, .. } => {
                lines.push(format!("the loop over {}: width {}", axes(over), layouts.width(over)));
            }
            Stmt::Pipelined { var, .. } => {
                lines.push(format!("the loop over {}: {:?}", name(var), layouts.pipeline(var)))
            }
            _ => {}
        };
        program.body.iter().for_each(|stmt| stmt.walk(&mut note));
        lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn name(var: &Var) -> String {
    format!("{}.{}", var.name, var.id)
}

fn declared(b: &Buffer) -> String {
    format!("{} {}[{}]", b.dtype, b.name, list(&b.shape))
}

fn list(exprs: &[Expr]) -> String {
    exprs.iter().map(Expr::to_string).collect::<Vec<_>>().join(", ")
}

fn axes(axes: &[Axis]) -> String {
    axes.iter().map(|axis| format!("{} < {}", name(&axis.var), axis.extent)).collect::<Vec<_>>().join(", ")
}

/// A nested body in braces.
fn block(f: &mut Formatter<'_>, head: String, body: &[Stmt], depth: usize) -> fmt::Result {
    ending(f, head, body, [], depth)
}

/// [`block`] whose last lines are what it computes.
fn ending(
    f: &mut Formatter<'_>,
    head: String,
    body: &[Stmt],
    last: impl IntoIterator<Item = String>,
    depth: usize,
) -> fmt::Result {
    let pad = "  ".repeat(depth);
    writeln!(f, "{pad}{head} {{")?;
    stmts(f, body, depth + 1)?;
    last.into_iter().try_for_each(|line| writeln!(f, "{pad}  {line}"))?;
    writeln!(f, "{pad}}}")
}

fn stmts(f: &mut Formatter<'_>, body: &[Stmt], depth: usize) -> fmt::Result {
    body.iter().try_for_each(|s| stmt(f, s, depth))
}

fn stmt(f: &mut Formatter<'_>, s: &Stmt, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    match s {
        Stmt::Bind { var, value } => writeln!(f, "{pad}let {} = {value}", name(var)),
        Stmt::Declare { var, value } => writeln!(f, "{pad}var {} = {value}", name(var)),
        Stmt::Assign { var, value } => writeln!(f, "{pad}{} = {value}", name(var)),
        Stmt::Store { buffer, index, value } => writeln!(f, "{pad}{}[{}] = {value}", buffer.name, list(index)),
        Stmt::Atomic { op, buffer, index, value } => {
            writeln!(f, "{pad}atomic {op:?} {}[{}], {value}", buffer.name, list(index))
        }
        Stmt::Check { violated, fault, code } => writeln!(f, "{pad}if {violated} fault {} = {code}", fault.name),
        Stmt::For { var, start, end, unroll, body } => {
            let unrolled = if *unroll { ", unrolled" } else { "" };
            block(f, format!("for {} in {start}..{end}{unrolled}", name(var)), body, depth)
        }
        Stmt::If { cond, then, otherwise } => {
            block(f, format!("if {cond}"), then, depth)?;
            if otherwise.is_empty() { Ok(()) } else { block(f, "else".to_owned(), otherwise, depth) }
        }
        Stmt::Parallel { axes: over, body } => block(f, format!("parallel {}", axes(over)), body, depth),
        Stmt::Reduce { axes: over, body, results } => {
            let last = results.iter().map(|r| format!("{} = {:?} of {}", name(&r.var), r.op, r.value));
            ending(f, format!("reduce {}", axes(over)), body, last, depth)
        }
        Stmt::ReduceRows { axes: over, body, op, value, into } => {
            let last = format!("{}[{}] = {op:?} of {value}", into.name, name(&over[0].var));
            ending(f, format!("reduce rows {}", axes(over)), body, [last], depth)
        }
        Stmt::Fill { buffer, value } => writeln!(f, "{pad}fill {} with {value}", buffer.name),
        Stmt::Copy { dst, axes: over, mask, body, value, fill } => {
            let last = format!("{value} where {mask}, else {fill}");
            ending(f, format!("copy to {}, {}", dst.name, axes(over)), body, [last], depth)
        }
        Stmt::Gemm { acc, a, b, transpose_a, transpose_b } => {
            let side = |x: &Buffer, turned: &bool| format!("{}{}", x.name, if *turned { "^T" } else { "" });
            writeln!(f, "{pad}{} += {} x {}", acc.name, side(a, transpose_a), side(b, transpose_b))
        }
        Stmt::Pipelined { var, extent, stages, body } => {
            block(f, format!("pipelined {} in 0..{extent}, {stages} stages", name(var)), body, depth)
        }
        Stmt::Barrier => writeln!(f, "{pad}barrier"),
    }
}
