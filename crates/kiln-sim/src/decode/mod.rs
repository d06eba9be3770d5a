//! From syntax tree to the form that is executed: calls inlined, registers given slots, operands turned into row
//! numbers, every instruction one [`Op`].

mod bulk;
mod compare;
mod convert;
mod flatten;
mod float;
mod integer;
mod logic;
mod matrix;
mod memory;
mod op;
mod operand;
mod packed;
mod slots;
mod sync;
mod types;
mod undefined;
mod warp;

pub(crate) use flatten::flatten;
pub(crate) use op::*;
pub(crate) use types::Ty;
pub(crate) use undefined::{Moves, Piece, Watch, Watched};

use crate::error::{Error, Result};
use crate::ptx::{PtxFile, Stmt};
use operand::Build;

/// The modifiers of an opcode: `ld.global.v4.f32` is `ld` with `global`, `v4`, `f32`.
pub(crate) struct Code<'a> {
    pub base: &'a str,
    pub mods: Vec<&'a str>,
}

impl<'a> Code<'a> {
    fn new(op: &'a str) -> Self {
        let mut parts = op.split('.');
        Code { base: parts.next().unwrap_or(""), mods: parts.collect() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.mods.contains(&name)
    }

    /// The type modifiers in order.
    pub(crate) fn types(&self) -> Vec<Ty> {
        self.mods.iter().filter_map(|m| Ty::parse(m)).collect()
    }
}

/// Decodes one kernel.
pub(crate) fn decode(file: &PtxFile, name: &str) -> Result<Program> {
    let flat = flatten(file, name)?;
    let slots = slots::allocate(&flat);
    let rows = slots::row_access(&flat, &slots);
    let watched = undefined::watched(&flat, &slots);
    let mut b = Build::new(file, &flat, slots);
    let mut insts = Vec::with_capacity(flat.stmts.len() + 1);
    for stmt in &flat.stmts {
        let op = instruction(&mut b, stmt)?;
        let (guard, negate) = match stmt.guard {
            Some((reg, negate)) => (b.slot(reg), negate),
            None => (Inst::NO_GUARD, false),
        };
        insts.push(Inst { op, guard, negate, line: stmt.line, loc: stmt.loc });
    }
    // Falling off the end is an exit, as in the ISA.
    insts.push(Inst { op: Op::Exit, guard: Inst::NO_GUARD, negate: false, line: 0, loc: (0, 0) });
    Ok(b.finish(insts, rows, watched))
}

fn instruction(b: &mut Build<'_>, stmt: &Stmt) -> Result<Op> {
    let code = Code::new(&stmt.op);
    let decoded = match code.base {
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "pmevent" | "bar" | "barrier" | "fence"
        | "membar" | "griddepcontrol" | "setmaxnreg" | "mbarrier" => sync::decode(b, &code, stmt),
        "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "discard" | "applypriority"
        | "createpolicy" => memory::decode(b, &code, stmt),
        "cp" => bulk::decode(b, &code, stmt),
        "tensormap" => bulk::tensormap(b, &code, stmt),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => warp::decode(b, &code, stmt),
        "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "wgmma" => matrix::decode(b, &code, stmt),
        "cvt" => convert::decode(b, &code, stmt),
        "mov" | "cvta" | "isspacep" | "mapa" | "getctarank" | "selp" | "slct" | "set" | "setp" | "and" | "or"
        | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "prmt" | "testp" | "copysign" => {
            logic::decode(b, &code, stmt)
        }
        _ => integer::decode(b, &code, stmt).and_then(|op| match op {
            Some(op) => Ok(Some(op)),
            None => match packed::decode(b, &code, stmt)? {
                Some(op) => Ok(Some(op)),
                None => float::decode(b, &code, stmt),
            },
        }),
    };
    match decoded {
        Ok(Some(op)) => Ok(op),
        Ok(None) => {
            Err(unsupported(stmt, "the simulator does not execute this instruction or combination of modifiers"))
        }
        Err(message) => Err(unsupported(stmt, &message)),
    }
}

fn unsupported(stmt: &Stmt, message: &str) -> Error {
    Error::Unsupported { line: stmt.line, instruction: stmt.op.clone(), message: message.to_string() }
}

/// Outcome of decoding one instruction: `None` where a decoder does not know the combination.
pub(crate) type Decoded = std::result::Result<Option<Op>, String>;
