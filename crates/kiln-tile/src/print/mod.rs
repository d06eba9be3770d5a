//! Writes tile programs as text, and the thread-level IR as CUDA C.

pub mod expr;
pub mod prelude;
mod program;

pub use program::{LaidOut, WithBody};

use crate::thread::{CExpr, CStmt, CType, Function};
use std::fmt::Write;

/// The kernel as CUDA C, without its prelude.
pub fn function(f: &Function) -> String {
    let mut out = String::new();
    if !f.comment.is_empty() {
        let _ = writeln!(out, "// {}", f.comment);
    }
    // One block an SM is enough for a large tile: more would make the compiler spill.
    let bounds = if f.large { format!("{}, 1", f.threads) } else { f.threads.to_string() };
    let head = format!("extern \"C\" __global__ void __launch_bounds__({bounds}) {}(", f.name);
    let one_line = f.params.join(", ");
    if head.len() + one_line.len() < 110 {
        let _ = writeln!(out, "{head}{one_line}) {{");
    } else {
        let _ = writeln!(out, "{head}\n    {}) {{", f.params.join(",\n    "));
    }
    body(&mut out, &f.body, 1);
    out.push_str("}\n");
    out
}

fn body(out: &mut String, stmts: &[CStmt], depth: usize) {
    for s in stmts {
        stmt(out, s, depth);
    }
}

fn stmt(out: &mut String, s: &CStmt, depth: usize) {
    let pad = "    ".repeat(depth);
    // Writing to a String cannot fail.
    let _ = match s {
        CStmt::Comment(text) => writeln!(out, "{pad}// {text}"),
        CStmt::Declare { ty, name, value, constant } => {
            let constant = if *constant { "const " } else { "" };
            match value {
                Some(value) => writeln!(out, "{pad}{constant}{ty} {name} = {};", expr(value)),
                None => writeln!(out, "{pad}{ty} {name};"),
            }
        }
        CStmt::Array { ty, name, dims, shared } => {
            let shared = if *shared { "__shared__ __align__(16) " } else { "" };
            let dims: String = dims.iter().map(|extent| format!("[{extent}]")).collect();
            writeln!(out, "{pad}{shared}{ty} {name}{dims};")
        }
        CStmt::DynamicShared(name) => {
            writeln!(out, "{pad}extern __shared__ __align__(16) unsigned char {name}[];")
        }
        CStmt::Lambda { name, param, body: inner } => {
            let _ = writeln!(out, "{pad}const auto {name} = [&]({param}) __attribute__((always_inline)) {{");
            body(out, inner, depth + 1);
            writeln!(out, "{pad}}};")
        }
        CStmt::Assign(target, value) => assign(out, &pad, target, value),
        CStmt::Expr(call) => call_statement(out, &pad, call),
        CStmt::For { ty, var, start, end, step, unroll, body: inner } => {
            if *unroll {
                let _ = writeln!(out, "{pad}#pragma unroll");
            }
            let advance = match step {
                CExpr::Int(1, _) => format!("++{var}"),
                step => format!("{var} += {}", expr(step)),
            };
            let (ty, start, end) = (ty.name(), expr(start), operand(end, 9));
            let _ = writeln!(out, "{pad}for ({ty} {var} = {start}; {var} < {end}; {advance}) {{");
            body(out, inner, depth + 1);
            writeln!(out, "{pad}}}")
        }
        CStmt::If { cond, then, otherwise } => {
            if let ([CStmt::Return], []) = (&then[..], &otherwise[..]) {
                let _ = writeln!(out, "{pad}if ({}) return;", expr(cond));
                return;
            }
            let _ = writeln!(out, "{pad}if ({}) {{", expr(cond));
            body(out, then, depth + 1);
            if !otherwise.is_empty() {
                let _ = writeln!(out, "{pad}}} else {{");
                body(out, otherwise, depth + 1);
            }
            writeln!(out, "{pad}}}")
        }
        CStmt::Return => writeln!(out, "{pad}return;"),
    };
}

/// `x = x + y` reads better as `x += y`.
fn assign(out: &mut String, pad: &str, target: &CExpr, value: &CExpr) -> std::fmt::Result {
    if let CExpr::Binary(op @ ("+" | "-" | "*" | "/" | "^"), left, right) = value
        && left.as_ref() == target
    {
        return writeln!(out, "{pad}{} {op}= {};", expr(target), expr(right));
    }
    writeln!(out, "{pad}{} = {};", expr(target), expr(value))
}

/// A call, its arguments on lines of their own if they do not fit one.
fn call_statement(out: &mut String, pad: &str, call: &CExpr) -> std::fmt::Result {
    match (call, expr(call)) {
        (CExpr::Call(function, args), line) if pad.len() + line.len() > 115 => {
            let args: Vec<String> = args.iter().map(|arg| format!("{pad}    {}", expr(arg))).collect();
            writeln!(out, "{pad}{function}(\n{});", args.join(",\n"))
        }
        (_, line) => writeln!(out, "{pad}{line};"),
    }
}

fn precedence(e: &CExpr) -> u8 {
    match e {
        CExpr::Int(x, _) if *x < 0 => 14,
        CExpr::Float(x, _) if x.is_sign_negative() => 14,
        CExpr::Binary(op, ..) => match *op {
            "*" | "/" | "%" => 13,
            "+" | "-" => 12,
            "<<" | ">>" => 11,
            "<" | "<=" | ">" | ">=" => 9,
            "==" | "!=" => 8,
            "&" => 7,
            "^" => 6,
            "|" => 5,
            "&&" => 4,
            _ => 3,
        },
        CExpr::Unary(..) | CExpr::Cast(..) => 14,
        CExpr::Ternary(..) => 2,
        _ => 16,
    }
}

/// `e` in parentheses if it binds less tightly than `least`.
fn operand(e: &CExpr, least: u8) -> String {
    if precedence(e) < least { format!("({})", expr(e)) } else { expr(e) }
}

/// A C expression.
fn expr(e: &CExpr) -> String {
    match e {
        CExpr::Int(x, ty) => integer(*x, *ty),
        CExpr::Float(x, ty) => float(*x, *ty),
        CExpr::Bool(x) => x.to_string(),
        CExpr::Name(name) => name.clone(),
        CExpr::Index(base, index) => format!("{}[{}]", operand(base, 15), expr(index)),
        CExpr::Binary(op, a, b) => {
            let own = precedence(e);
            // Mixed bitwise, shift and comparison operators are hard to read without parentheses.
            let inner = |x: &CExpr, least: u8| match (own, precedence(x)) {
                (3 | 5..=7 | 11, p) if p != own && p < 14 => format!("({})", expr(x)),
                _ => operand(x, least),
            };
            format!("{} {op} {}", inner(a, own), inner(b, own + 1))
        }
        CExpr::Unary(op, a) => format!("{op}{}", operand(a, 15)),
        CExpr::Ternary(c, a, b) => format!("{} ? {} : {}", operand(c, 3), operand(a, 3), operand(b, 2)),
        CExpr::Call(function, args) => {
            let args: Vec<String> = args.iter().map(expr).collect();
            format!("{function}({})", args.join(", "))
        }
        CExpr::Cast(ty, a) => format!("({}){}", ty.name(), operand(a, 14)),
    }
}

fn integer(x: i128, ty: CType) -> String {
    match ty {
        // The most negative literals have no direct form in C.
        CType::Int if x == i128::from(i32::MIN) => format!("({} - 1)", x + 1),
        CType::Long if x == i128::from(i64::MIN) => format!("({}ll - 1)", x + 1),
        CType::UInt => format!("{x}u"),
        CType::Long => format!("{x}ll"),
        CType::ULong => format!("{x}ull"),
        _ => x.to_string(),
    }
}

fn float(x: f64, ty: CType) -> String {
    if ty == CType::Float {
        let x = x as f32;
        if x.is_finite() { format!("{x:?}f") } else { format!("__int_as_float({:#x})", x.to_bits()) }
    } else if x.is_finite() {
        format!("{x:?}")
    } else {
        format!("__longlong_as_double({:#x}ll)", x.to_bits())
    }
}
