//! Operands to rows of the register file. Constants, special registers and symbol addresses get rows of their own
//! that are filled when a warp starts.

use std::collections::HashMap;

use super::flatten::Flat;
use super::op::{Addr, Fill, Inst, Op, Program, Reg, Source};
use super::slots::Slots;
use super::undefined::Watched;
use crate::exec::AluFn;
use crate::ptx::{Arg, PtxFile, RegKind};

type R<T> = std::result::Result<T, String>;

/// Decoding state of one kernel.
pub(crate) struct Build<'a> {
    file: &'a PtxFile,
    flat: &'a Flat,
    slots: Slots,
    consts: HashMap<(u8, Source), u32>,
    fills: Vec<Fill>,
    /// The carry flag of `add.cc` and friends, a predicate row.
    carry: Option<u32>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(file: &'a PtxFile, flat: &'a Flat, slots: Slots) -> Self {
        Build { file, flat, slots, consts: HashMap::new(), fills: Vec::new(), carry: None }
    }

    pub(crate) fn slot(&self, reg: u32) -> u32 {
        self.slots.row[reg as usize]
    }

    pub(crate) fn kind(&self, reg: u32) -> RegKind {
        self.flat.regs[reg as usize]
    }

    pub(crate) fn carry(&mut self) -> u32 {
        *self.carry.get_or_insert_with(|| {
            self.slots.count[2] += 1;
            self.slots.count[2] - 1
        })
    }

    /// Row of a constant of the given file (0: 32 bits, 1: 64 bits, 2: predicate).
    fn constant(&mut self, file: u8, source: Source) -> u32 {
        if let Some(row) = self.consts.get(&(file, source.clone())) {
            return *row;
        }
        let count = &mut self.slots.count[file as usize];
        let row = *count;
        *count += 1;
        self.consts.insert((file, source.clone()), row);
        self.fills.push(Fill { file, row, source });
        row
    }

    fn source(&self, arg: &Arg) -> R<Source> {
        Ok(match arg {
            Arg::Int(v) => Source::Value(*v),
            Arg::F32(v) => Source::Value(u64::from(*v)),
            Arg::F64(v) => Source::Value(*v),
            Arg::Special(name) => Source::Special(super::op::Special::parse(name)?),
            Arg::KernelParam(off) => Source::Value(*off as u64),
            Arg::Sym(name, off) => {
                if let Some(at) = self.flat.shared_symbols.get(name) {
                    return Ok(Source::Value((i64::from(*at) + off) as u64));
                }
                let var = self.file.vars.iter().position(|v| v.name == *name);
                let var = var.ok_or_else(|| format!("unknown symbol `{name}`"))?;
                if self.file.vars[var].space == crate::ptx::Space::Shared {
                    Source::DynamicShared(*off)
                } else {
                    Source::Symbol(var as u32, *off)
                }
            }
            other => return Err(format!("operand {other:?} is not a value")),
        })
    }

    /// A 32-bit (or narrower) operand.
    pub(crate) fn r(&mut self, arg: &Arg) -> R<u32> {
        match arg {
            Arg::Reg(r) => match self.kind(*r) {
                RegKind::R32(_) => Ok(self.slot(*r)),
                other => Err(format!("expected a register of up to 32 bits, found {other:?}")),
            },
            Arg::F64(v) => Ok(self.constant(0, Source::Value(u64::from((f64::from_bits(*v) as f32).to_bits())))),
            _ => {
                let s = self.source(arg)?;
                Ok(self.constant(0, s))
            }
        }
    }

    /// A 64-bit operand.
    pub(crate) fn d(&mut self, arg: &Arg) -> R<u32> {
        match arg {
            Arg::Reg(r) => match self.kind(*r) {
                RegKind::R64 => Ok(self.slot(*r)),
                other => Err(format!("expected a 64-bit register, found {other:?}")),
            },
            Arg::F32(v) => Ok(self.constant(1, Source::Value(f64::from(f32::from_bits(*v)).to_bits()))),
            _ => {
                let s = self.source(arg)?;
                Ok(self.constant(1, s))
            }
        }
    }

    /// An operand of `bits` bits.
    pub(crate) fn value(&mut self, bits: u32, arg: &Arg) -> R<u32> {
        if bits == 64 { self.d(arg) } else { self.r(arg) }
    }

    /// A predicate operand and whether it is negated.
    pub(crate) fn p(&mut self, arg: &Arg) -> R<(u32, bool)> {
        match arg {
            Arg::Not(inner) => self.p(inner).map(|(row, neg)| (row, !neg)),
            Arg::Reg(r) if self.kind(*r) == RegKind::Pred => Ok((self.slot(*r), false)),
            Arg::Int(v) => Ok((self.constant(2, Source::Value(u64::from(*v != 0))), false)),
            Arg::Special(_) => {
                let s = self.source(arg)?;
                Ok((self.constant(2, s), false))
            }
            other => Err(format!("expected a predicate, found {other:?}")),
        }
    }

    /// A register of any file, as a destination or a source of data movement. A sink gets a row nobody reads.
    pub(crate) fn reg(&mut self, arg: &Arg, bits: u32) -> R<Reg> {
        Ok(match arg {
            Arg::Reg(r) => match self.kind(*r) {
                RegKind::R32(_) => Reg::R(self.slot(*r)),
                RegKind::R64 => Reg::D(self.slot(*r)),
                RegKind::R128 => Reg::Q(self.slot(*r)),
                RegKind::Pred => return Err("a predicate is not a data register".into()),
            },
            Arg::Sink => Reg::None,
            _ if bits == 64 => Reg::D(self.d(arg)?),
            _ if bits < 64 => Reg::R(self.r(arg)?),
            _ => return Err("expected a 128-bit register".into()),
        })
    }

    /// `[base + offset]`: the base may be a 32- or 64-bit register or a constant.
    pub(crate) fn addr(&mut self, arg: &Arg) -> R<Addr> {
        let Arg::Addr(base, off) = arg else { return Err("expected an address in brackets".into()) };
        self.addr_of(base, *off)
    }

    pub(crate) fn addr_of(&mut self, base: &Arg, off: i64) -> R<Addr> {
        Ok(match base {
            Arg::Reg(r) if matches!(self.kind(*r), RegKind::R32(_)) => Addr { wide: false, row: self.slot(*r), off },
            other => Addr { wide: true, row: self.d(other)?, off },
        })
    }

    pub(crate) fn label(&self, arg: &Arg) -> R<u32> {
        let Arg::Label(l) = arg else { return Err("expected a label of this function".into()) };
        let at = self.flat.labels.get(*l as usize).copied().unwrap_or(u32::MAX);
        if at as usize > self.flat.stmts.len() { Err("label is not defined".into()) } else { Ok(at) }
    }

    pub(crate) fn targets(&self, arg: &Arg) -> R<Vec<u32>> {
        let Arg::Sym(name, _) = arg else { return Err("expected a .branchtargets label".into()) };
        let list = self.flat.targets.iter().find(|(n, _)| n == name);
        let list = list.ok_or_else(|| format!("no .branchtargets named `{name}`"))?;
        list.1.iter().map(|l| self.label(&Arg::Label(*l))).collect()
    }

    pub(crate) fn finish(self, insts: Vec<Inst>, row_access: Vec<[Box<[u32]>; 2]>, watched: Watched) -> Program {
        let Build { slots, fills, flat, .. } = self;
        Program {
            name: flat.name.clone(),
            insts,
            row_access,
            watched,
            rows: slots.count,
            fills,
            frame: flat.frame.next_multiple_of(16),
            shared: flat.shared.next_multiple_of(flat.dynamic_align),
            params: flat.params.clone(),
            param_bytes: flat.param_bytes,
            max_threads: flat.max_threads,
            req_threads: flat.req_threads,
            req_cluster: flat.req_cluster,
            launch_registers: flat.launch_registers,
            opcodes: flat.stmts.iter().map(|s| s.op.clone()).collect(),
        }
    }
}

/// Shorthand of the decoders.
pub(crate) fn alu(f: AluFn) -> super::Decoded {
    Ok(Some(Op::Alu(f)))
}

/// Operand `i`, or an error.
pub(crate) fn arg(stmt: &crate::ptx::Stmt, i: usize) -> R<&Arg> {
    stmt.args.get(i).ok_or_else(|| format!("expected at least {} operands, found {}", i + 1, stmt.args.len()))
}

/// An immediate operand.
pub(crate) fn immediate(arg: &Arg) -> R<u64> {
    match arg {
        Arg::Int(v) => Ok(*v),
        other => Err(format!("expected an immediate, found {other:?}")),
    }
}

/// The items of a vector operand; a single operand is a vector of one.
pub(crate) fn items(arg: &Arg) -> &[Arg] {
    match arg {
        Arg::Vec(v) => v,
        other => std::slice::from_ref(other),
    }
}
