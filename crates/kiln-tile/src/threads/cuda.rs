//! Writes a kernel down as CUDA C that includes nothing, after the pieces of the prelude that it calls. This, the prelude and the atom
//! table are the only places that know the text of C and PTX.

use super::prelude::Piece;
use super::{
    Atom, Binary, Block, Effect, Expr, Function, Instruction, Kernel, Place, Scalar, Space, Special, Stmt, Ty, Unary,
    Var,
};
use crate::error::{Result, TileError};
use crate::expr::{CompareOp, UnaryOp};
use crate::ir::{Fence, Group};
use crate::pass::lower::names::Names;
use crate::print::prelude::Helper;
use crate::program::AtomicOp;
use kiln_num::{Round, float_to_bits};
use kiln_target::arch::Arch;
use kiln_target::atoms::Role;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

/// A kernel's text.
pub struct Source {
    /// The name of the entry point.
    pub entry: String,
    /// CUDA C.
    pub text: String,
}

/// A printed source without what stands before its kernel.
pub fn without_prelude(source: &str) -> &str {
    source.find("extern \"C\"").map_or("", |at| &source[at..])
}

/// Writes `kernel` for `arch`. Fails on an instruction that the atom table does not have.
pub fn print(kernel: &Kernel, arch: Arch) -> Result<Source> {
    let mut printer = Printer {
        kernel,
        arch,
        out: String::new(),
        names: Names::default(),
        known: HashMap::new(),
        helpers: BTreeSet::new(),
        pieces: BTreeSet::new(),
        shared: false,
        address: false,
    };
    let entry = printer.names.fresh(&kernel.name);
    printer.function(&entry)?;
    let mut text = String::new();
    let mut helpers = printer.helpers;
    for helper in helpers.clone() {
        helpers.extend(helper.needs());
    }
    helpers.iter().for_each(|helper| text += &format!("{}\n", helper.source(arch)));
    printer.pieces.iter().for_each(|piece| text += &format!("{}\n", piece.source()));
    Ok(Source { entry, text: text + &printer.out })
}

struct Printer<'a> {
    kernel: &'a Kernel,
    arch: Arch,
    out: String,
    names: Names,
    known: HashMap<Var, String>,
    helpers: BTreeSet<Helper>,
    pieces: BTreeSet<Piece>,
    /// Whether shared memory is named, as a pointer and as an address.
    shared: bool,
    address: bool,
}

const SHARED: &str = "shared_memory";
const ADDRESS: &str = "shared_address";

impl Printer<'_> {
    fn function(&mut self, entry: &str) -> Result<()> {
        let kernel = self.kernel;
        let params: Vec<String> = kernel.params.iter().map(|var| self.param(var)).collect();
        let mut body = std::mem::take(&mut self.out);
        self.block(&kernel.body, 1)?;
        std::mem::swap(&mut body, &mut self.out);
        if !kernel.comment.is_empty() {
            let _ = writeln!(self.out, "// {}", kernel.comment);
        }
        let bounds = match (kernel.max_registers, kernel.min_ctas) {
            (Some(registers), _) => format!("__maxnreg__({registers})"),
            (None, Some(ctas)) => format!("__launch_bounds__({}, {ctas})", kernel.threads),
            (None, None) => format!("__launch_bounds__({})", kernel.threads),
        };
        let cluster = match kernel.cluster {
            0 | 1 => String::new(),
            ctas => format!(" __cluster_dims__({ctas}, 1, 1)"),
        };
        let head = format!("extern \"C\" __global__ void {bounds}{cluster} {entry}(");
        let one_line = params.join(", ");
        let _ = if head.len() + one_line.len() < 110 {
            writeln!(self.out, "{head}{one_line}) {{")
        } else {
            writeln!(self.out, "{head}\n    {}) {{", params.join(",\n    "))
        };
        if self.shared || self.address {
            let _ = writeln!(self.out, "    extern __shared__ __align__(1024) unsigned char {SHARED}[];");
        }
        if self.address {
            let _ = writeln!(self.out, "    const unsigned {ADDRESS} = (unsigned)__cvta_generic_to_shared({SHARED});");
        }
        self.out += &body;
        self.out.push_str("}\n");
        Ok(())
    }

    fn param(&mut self, var: &Var) -> String {
        let name = self.name(var);
        match var.ty() {
            // What others store must not be read before it is waited for: the compiler may move loads of restricted pointers.
            Ty::Pointer { space: Space::Exchange, .. } => format!("{} {name}", self.ty(var.ty())),
            Ty::Pointer { .. } => format!("{} __restrict__ {name}", self.ty(var.ty())),
            Ty::TensorMap => format!("const __grid_constant__ {} {name}", self.ty(var.ty())),
            ty => format!("{} {name}", self.ty(ty)),
        }
    }

    /// The name of a variable, given when it is first met: at its declaration.
    fn name(&mut self, var: &Var) -> String {
        if let Some(name) = self.known.get(var) {
            return name.clone();
        }
        let name = self.names.fresh(var.name());
        self.known.insert(var.clone(), name.clone());
        name
    }

    fn scalar(&mut self, of: Scalar) -> &'static str {
        self.helpers.extend(match of {
            Scalar::F16 => Some(Helper::F16),
            Scalar::Bf16 => Some(Helper::Bf16),
            Scalar::E4m3 => Some(Helper::E4m3),
            Scalar::E5m2 => Some(Helper::E5m2),
            _ => None,
        });
        match of {
            Scalar::Bool => "bool",
            Scalar::I8 => "signed char",
            Scalar::U8 => "unsigned char",
            Scalar::I16 => "short",
            Scalar::U16 => "unsigned short",
            Scalar::I32 => "int",
            Scalar::U32 => "unsigned",
            Scalar::I64 => "long long",
            Scalar::U64 => "unsigned long long",
            Scalar::F16 => "f16",
            Scalar::Bf16 => "bf16",
            Scalar::E4m3 => "e4m3",
            Scalar::E5m2 => "e5m2",
            Scalar::F32 => "float",
            Scalar::F64 => "double",
        }
    }

    fn ty(&mut self, ty: Ty) -> String {
        match ty {
            Ty::Scalar(of) | Ty::Array(of, _) => self.scalar(of).to_owned(),
            Ty::Vector(of, lanes) => {
                self.helpers.insert(Helper::Vec);
                format!("Vec<{}, {lanes}>", self.scalar(of))
            }
            Ty::Pointer { to, constant, .. } => {
                format!("{}{}*", if constant { "const " } else { "" }, self.scalar(to))
            }
            Ty::TensorMap => {
                self.pieces.insert(Piece::TensorMap);
                "TensorMap".to_owned()
            }
        }
    }

    // ---- statements -------------------------------------------------------------------------------------------------

    fn block(&mut self, block: &Block, depth: usize) -> Result<()> {
        let names = self.names.open();
        let result = block.iter().try_for_each(|stmt| self.stmt(stmt, depth));
        self.names.close(names);
        result
    }

    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.out, "{}{text}", "    ".repeat(depth));
    }

    /// A call as a statement, its arguments on lines of their own if they do not fit one.
    fn call_line(&mut self, depth: usize, function: &str, args: &[String]) {
        let line = format!("{function}({});", args.join(", "));
        if depth * 4 + line.len() <= 115 {
            return self.line(depth, &line);
        }
        self.line(depth, &format!("{function}("));
        for (i, arg) in args.iter().enumerate() {
            self.line(depth + 1, &format!("{arg}{}", if i + 1 == args.len() { ");" } else { "," }));
        }
    }

    fn stmt(&mut self, stmt: &Stmt, depth: usize) -> Result<()> {
        match stmt {
            Stmt::Comment(text) => self.line(depth, &format!("// {text}")),
            Stmt::Declare { var, value, constant } => {
                // The value may use another variable of that name.
                let value = value.as_ref().map(|value| self.expr(value));
                let ty = self.ty(var.ty());
                let name = self.name(var);
                let constant = match var.ty() {
                    Ty::Pointer { .. } if *constant => format!("{ty} const {name}"),
                    _ if *constant => format!("const {ty} {name}"),
                    Ty::Array(_, len) => format!("{ty} {name}[{len}]"),
                    _ => format!("{ty} {name}"),
                };
                self.line(
                    depth,
                    &match value {
                        Some(value) => format!("{constant} = {value};"),
                        None => format!("{constant};"),
                    },
                );
            }
            Stmt::Assign(place, value) => {
                let target = self.place(place);
                let line = match value {
                    // `x = x + y` reads better as `x += y`.
                    Expr::Binary(op, left, right)
                        if **left == place.value() && compound(*op) && !place_is_small(place) =>
                    {
                        format!("{target} {}= {};", sign(*op), self.expr(right))
                    }
                    value => format!("{target} = {};", self.expr(value)),
                };
                self.line(depth, &line);
            }
            Stmt::Store { pointer, index, value } => {
                let (to, what) = (self.element(pointer, index), self.expr(value));
                match value.ty() {
                    Ty::Vector(..) => {
                        self.helpers.insert(Helper::Vec);
                        let to = self.address(pointer, index);
                        self.call_line(depth, "store", &[to, what]);
                    }
                    _ => self.line(depth, &format!("{to} = {what};")),
                }
            }
            Stmt::For { var, start, end, step, unroll, body } => {
                let names = self.names.open();
                // Where trips are known and told apart, the compiler does so too, and with sums that are in flight (ptxas C7514).
                let apart = body.iter().any(|s| matches!(s, Stmt::If { cond, .. } if cond.reads(var)));
                let hidden = stmt.known_trips() && apart && body.iter().any(Stmt::multiplies_asynchronously);
                let (mut start, end) = (self.expr(start), self.operand(end, 9));
                if hidden {
                    self.pieces.insert(Piece::Opaque);
                    start = format!("opaque({start})");
                }
                let (ty, name) = (self.ty(var.ty()), self.name(var));
                let advance = match step.as_int() {
                    Some(1) => format!("++{name}"),
                    _ => format!("{name} += {}", self.expr(step)),
                };
                self.line(depth, if *unroll { "#pragma unroll" } else { "#pragma unroll 1" });
                self.line(depth, &format!("for ({ty} {name} = {start}; {name} < {end}; {advance}) {{"));
                let result = self.block(body, depth + 1);
                self.names.close(names);
                result?;
                self.line(depth, "}");
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.expr(cond);
                if let ([Stmt::Return], []) = (&then[..], &otherwise[..]) {
                    self.line(depth, &format!("if ({cond}) return;"));
                    return Ok(());
                }
                self.line(depth, &format!("if ({cond}) {{"));
                self.block(then, depth + 1)?;
                if !otherwise.is_empty() {
                    self.line(depth, "} else {");
                    self.block(otherwise, depth + 1)?;
                }
                self.line(depth, "}");
            }
            Stmt::Effect(effect) => self.effect(effect, depth),
            Stmt::Instruction(instruction) => self.instruction(instruction, depth)?,
            Stmt::Return => self.line(depth, "return;"),
        }
        Ok(())
    }

    fn place(&mut self, place: &Place) -> String {
        self.expr(&place.value())
    }

    fn effect(&mut self, effect: &Effect, depth: usize) {
        let args: Vec<String> = match effect {
            Effect::Atomic { .. } => vec![],
            Effect::TmaLoad { to, map, origin, offsets, barrier, multicast } => {
                let mut args = vec![self.expr(to), self.name(map), self.expr(barrier)];
                args.extend(multicast.as_ref().map(|ctas| self.expr(ctas)));
                args.extend(origin.iter().chain(offsets).map(|x| self.expr(x)));
                args
            }
            Effect::TmaStore { from, map, origin } => {
                let mut args = vec![self.name(map), self.expr(from)];
                args.extend(origin.iter().map(|x| self.expr(x)));
                args
            }
            Effect::CounterWait { pointer, index, value } | Effect::CounterSet { pointer, index, value } => {
                vec![self.address(pointer, index), self.expr(value)]
            }
            Effect::Pin(place) => vec![self.place(place)],
            effect => effect.exprs().into_iter().map(|e| self.expr(e)).collect(),
        };
        let with = |number: u32| args.iter().cloned().chain([number.to_string()]).collect::<Vec<_>>();
        let (function, args, piece) = match effect {
            Effect::SyncThreads => ("__syncthreads".to_owned(), args, None),
            Effect::SyncWarp => ("__syncwarp".to_owned(), args, None),
            Effect::NamedBarrier { threads, wait, .. } => {
                let name = if *wait { "barrier_sync" } else { "barrier_pass" };
                (name.to_owned(), with(*threads), Some(Piece::NamedBarrier))
            }
            Effect::ClusterSync => ("cluster_sync".to_owned(), args, Some(Piece::ClusterSync)),
            Effect::ClusterArrive => ("cluster_arrive".to_owned(), args, Some(Piece::ClusterArrive)),
            Effect::ClusterWait => ("cluster_wait".to_owned(), args, Some(Piece::ClusterWait)),
            Effect::BarrierInit { count, .. } => ("barrier_init".to_owned(), with(*count), Some(Piece::BarrierInit)),
            Effect::BarrierExpect { bytes, .. } => {
                ("barrier_expect".to_owned(), with(*bytes), Some(Piece::BarrierExpect))
            }
            Effect::BarrierArrive { .. } => ("barrier_arrive".to_owned(), args, Some(Piece::BarrierArrive)),
            Effect::BarrierArriveRemote { .. } => {
                ("barrier_arrive_remote".to_owned(), args, Some(Piece::BarrierArriveRemote))
            }
            Effect::BarrierWait { .. } => ("barrier_wait".to_owned(), args, Some(Piece::BarrierWait)),
            Effect::CounterWait { .. } => ("counter_wait".to_owned(), args, Some(Piece::CounterWait)),
            Effect::CounterSet { .. } => ("counter_set".to_owned(), args, Some(Piece::CounterSet)),
            Effect::CopyAsync { bytes, .. } => (format!("copy_async<{bytes}>"), args, Some(Piece::CopyAsync)),
            Effect::TmaLoad { multicast, offsets, .. } => {
                self.pieces.insert(Piece::TensorMap);
                match multicast {
                    _ if !offsets.is_empty() => ("tma_load_im2col".to_owned(), args, Some(Piece::TmaLoadWindows)),
                    Some(_) => ("tma_load_multicast".to_owned(), args, Some(Piece::TmaLoadMulticast)),
                    None => ("tma_load".to_owned(), args, Some(Piece::TmaLoad)),
                }
            }
            Effect::TmaStore { .. } => {
                self.pieces.insert(Piece::TensorMap);
                ("tma_store".to_owned(), args, Some(Piece::TmaStore))
            }
            Effect::Commit(Group::Wgmma) => {
                return self.line(depth, r#"asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");"#);
            }
            Effect::Commit(Group::CpAsync) => ("commit_copies".to_owned(), args, Some(Piece::Commit)),
            Effect::Commit(Group::Bulk | Group::BulkRead) => ("commit_bulk".to_owned(), args, Some(Piece::Commit)),
            Effect::WaitGroup { group: Group::Wgmma, pending } => {
                let text = format!(r#"asm volatile("wgmma.wait_group.sync.aligned {pending};" ::: "memory");"#);
                return self.line(depth, &text);
            }
            Effect::WaitGroup { group, pending } => match group {
                Group::BulkRead => (format!("wait_bulk_read<{pending}>"), args, Some(Piece::WaitGroupRead)),
                Group::Bulk => (format!("wait_bulk<{pending}>"), args, Some(Piece::WaitGroup)),
                _ => (format!("wait_copies<{pending}>"), args, Some(Piece::WaitGroup)),
            },
            Effect::Fence(fence) => {
                let text = match fence {
                    Fence::ProxyAsync => "fence.proxy.async.shared::cta;",
                    Fence::Wgmma => "wgmma.fence.sync.aligned;",
                    Fence::BarrierInit => "fence.mbarrier_init.release.cluster;",
                };
                return self.line(depth, &format!(r#"asm volatile("{text}" ::: "memory");"#));
            }
            Effect::Pin(_) => ("pin".to_owned(), args, Some(Piece::Pin)),
            Effect::SetRegisters { count, increase } => {
                let name = if *increase { "take_registers" } else { "give_registers" };
                (format!("{name}<{count}>"), args, Some(Piece::SetRegisters))
            }
            Effect::Atomic { op, pointer, index, value } => return self.atomic(*op, (pointer, index), value, depth),
        };
        self.pieces.extend(piece);
        self.call_line(depth, &function, &args);
    }

    fn atomic(&mut self, op: AtomicOp, (pointer, index): (&Expr, &Expr), value: &Expr, depth: usize) {
        let (mut to, mut what) = (self.address(pointer, index), self.expr(value));
        if pointer.scalar() == Scalar::I64 && op == AtomicOp::Add {
            // There is no signed overload; the bits are the same.
            to = format!("reinterpret_cast<unsigned long long*>({to})");
            what = format!("(unsigned long long)({what})");
        }
        let name = match op {
            AtomicOp::Add => "atomicAdd",
            AtomicOp::Min => "atomicMin",
            AtomicOp::Max => "atomicMax",
        };
        self.call_line(depth, name, &[to, what]);
    }

    fn instruction(&mut self, instruction: &Instruction, depth: usize) -> Result<()> {
        let (asm, name) = match instruction.atom {
            Atom::Mma { row, width, a, b } => (row.asm(width, a, b), row.name()),
            Atom::Copy(row) => (row.asm(1), row.name.to_owned()),
        };
        let Some(asm) = asm else {
            return Err(TileError::Unsupported {
                kernel: self.kernel.name.clone(),
                arch: self.arch,
                what: format!("the instruction `{name}` in this form is not in the atom table"),
                help: "this is a bug of the tile compiler".to_owned(),
            });
        };
        let sums: Vec<String> = instruction.accumulators.iter().map(|place| self.place(place)).collect();
        let results: Vec<String> = instruction.results.iter().map(|place| self.place(place)).collect();
        let operands: Vec<String> = instruction.operands.iter().map(|e| self.expr(e)).collect();
        let left = asm.inputs.iter().filter(|slot| slot.role == Role::A).count();
        let statement = asm.statement(|role, i| {
            let i = i as usize;
            let found = match role {
                Role::Accumulator => sums.get(i),
                Role::A => operands.get(i),
                Role::B => operands.get(left + i),
                Role::Accumulate => return u8::from(instruction.accumulate).to_string(),
                Role::Value if results.is_empty() => operands.get(1 + i),
                Role::Value => results.get(i),
                _ => operands.first(),
            };
            found.cloned().unwrap_or_default()
        });
        self.line(depth, &statement);
        Ok(())
    }

    // ---- expressions ------------------------------------------------------------------------------------------------

    /// The lvalue `pointer[index]`.
    fn element(&mut self, pointer: &Expr, index: &Expr) -> String {
        format!("{}[{}]", self.operand(pointer, 15), self.expr(index))
    }

    /// `pointer + index`
    fn address(&mut self, pointer: &Expr, index: &Expr) -> String {
        match index.as_int() {
            Some(0) => self.expr(pointer),
            _ => format!("{} + {}", self.operand(pointer, 12), self.operand(index, 13)),
        }
    }

    /// `e` in parentheses if it binds less tightly than `least`.
    fn operand(&mut self, e: &Expr, least: u8) -> String {
        if precedence(e) < least { format!("({})", self.expr(e)) } else { self.expr(e) }
    }

    fn expr(&mut self, e: &Expr) -> String {
        match e {
            Expr::Int(x, of) => integer(*x, *of),
            Expr::Float(x, Scalar::F32) => {
                let x = *x as f32;
                if x.is_finite() { format!("{x:?}f") } else { format!("__int_as_float({:#x})", x.to_bits()) }
            }
            Expr::Float(x, Scalar::F64) => {
                if x.is_finite() {
                    format!("{x:?}")
                } else {
                    format!("__longlong_as_double({:#x}ll)", x.to_bits())
                }
            }
            // Brace initialisation of the prelude's struct.
            Expr::Float(x, of) => format!("{}{{{:#x}}}", self.scalar(*of), float_to_bits(of.dtype(), *x, true)),
            Expr::Var(var) => self.name(var),
            Expr::Element(var, index) => format!("{}[{}]", self.name(var), self.expr(index)),
            Expr::Special(special) => match special {
                Special::Thread => "threadIdx.x".to_owned(),
                Special::Block => "blockIdx.x".to_owned(),
                Special::Blocks => "gridDim.x".to_owned(),
                Special::ClusterRank => "__clusterRelativeBlockRank()".to_owned(),
                Special::Lane => "(threadIdx.x % 32)".to_owned(),
            },
            Expr::Unary(op, a) => {
                let sign = match op {
                    Unary::Neg => "-",
                    Unary::Not => "!",
                    Unary::BitNot => "~",
                };
                format!("{sign}{}", self.operand(a, 15))
            }
            Expr::Binary(op, a, b) => {
                let own = precedence(e);
                // Mixed bitwise, shift and comparison operators are hard to read without parentheses.
                let mut inner = |x: &Expr, least: u8| match (own, precedence(x)) {
                    (3 | 5..=7 | 11, p) if p != own && p < 14 => format!("({})", self.expr(x)),
                    _ => self.operand(x, least),
                };
                format!("{} {} {}", inner(a, own), sign(*op), inner(b, own + 1))
            }
            Expr::Compare(op, a, b) => {
                let own = precedence(e);
                let sign = match op {
                    CompareOp::Eq => "==",
                    CompareOp::Ne => "!=",
                    CompareOp::Lt => "<",
                    CompareOp::Le => "<=",
                    CompareOp::Gt => ">",
                    CompareOp::Ge => ">=",
                };
                format!("{} {sign} {}", self.operand(a, own), self.operand(b, own + 1))
            }
            Expr::Select(c, a, b) => {
                format!("{} ? {} : {}", self.operand(c, 3), self.operand(a, 3), self.operand(b, 2))
            }
            Expr::Cast(to, a) => format!("({}){}", self.scalar(*to), self.operand(a, 14)),
            Expr::Call(function, args) => self.call(*function, args),
            Expr::Load { pointer, index, lanes: 1 } => self.element(pointer, index),
            Expr::Load { pointer, index, lanes } => {
                self.helpers.insert(Helper::Vec);
                format!("load<{lanes}>({})", self.address(pointer, index))
            }
            Expr::LoadInt4 { pointer, index, signed } => {
                self.helpers.insert(Helper::Int4);
                let name = if *signed { "load_i4" } else { "load_u4" };
                format!("{name}({}, {})", self.expr(pointer), self.expr(index))
            }
            Expr::SharedPointer { to, bytes } => {
                self.shared = true;
                let start = match bytes.as_int() {
                    Some(0) => SHARED.to_owned(),
                    _ => format!("{SHARED} + {}", self.operand(bytes, 13)),
                };
                format!("reinterpret_cast<{}*>({start})", self.scalar(*to))
            }
            Expr::SharedAddress(bytes) => {
                self.address = true;
                match bytes.as_int() {
                    Some(0) => ADDRESS.to_owned(),
                    _ => format!("{ADDRESS} + {}", self.operand(bytes, 13)),
                }
            }
            Expr::GlobalAddress(pointer, index) => {
                format!("(unsigned long long)__cvta_generic_to_global({})", self.address(pointer, index))
            }
        }
    }

    fn call(&mut self, function: Function, args: &[Expr]) -> String {
        let of = args.first().map_or(Scalar::U32, Expr::scalar);
        let mut list = |args: &[Expr]| args.iter().map(|arg| self.expr(arg)).collect::<Vec<_>>().join(", ");
        let list = list(args);
        let single = |name: &str| format!("{name}{}({list})", if of == Scalar::F32 { "f" } else { "" });
        match function {
            Function::Math(UnaryOp::Abs) if !of.is_float() => match of {
                Scalar::U32 | Scalar::U64 => list,
                Scalar::I64 => format!("llabs({list})"),
                _ => format!("abs({list})"),
            },
            Function::Math(op @ UnaryOp::Exp2Approx) => {
                self.helpers.insert(Helper::Exp2Approx);
                format!("{}({list})", op.c_name())
            }
            // CUDA has these for both types under one name.
            Function::Math(op @ (UnaryOp::IsNan | UnaryOp::IsInf)) => format!("{}({list})", op.c_name()),
            Function::Math(op) => single(op.c_name()),
            Function::Min | Function::Max if of.is_float() => {
                self.helpers.insert(Helper::MinMax);
                format!("{}({list})", if function == Function::Min { "min_of" } else { "max_of" })
            }
            Function::Min => format!("min({list})"),
            Function::Max => format!("max({list})"),
            Function::Fmod => single("fmod"),
            Function::Pow => single("pow"),
            Function::Atan2 => single("atan2"),
            Function::Fma => single("fma"),
            Function::ToF32 => format!("to_f32({list})"),
            Function::OddF32 => {
                self.helpers.insert(Helper::OddF32);
                format!("odd_f32({list})")
            }
            Function::Round(to) => format!("to_{}({list})", self.scalar(to)),
            Function::RoundPair(to) => {
                self.helpers.insert(if to == Scalar::F16 { Helper::PackF16 } else { Helper::PackBf16 });
                format!("pack_{}({list})", self.scalar(to))
            }
            Function::RoundTf32(round) => {
                let away = round == Round::NearestAway;
                self.pieces.insert(if away { Piece::RoundTf32Away } else { Piece::RoundTf32 });
                format!("round_tf32{}({list})", if away { "_away" } else { "" })
            }
            Function::Bits => match args.first().map(Expr::ty) {
                Some(Ty::Vector(..)) => {
                    self.pieces.insert(Piece::Bits);
                    format!("bits_of({list})")
                }
                _ if of.is_small_float() => format!("{}.bits", args.first().map_or(list, |arg| self.operand(arg, 15))),
                _ if of == Scalar::F32 => format!("__float_as_uint({list})"),
                _ if of == Scalar::F64 => format!("(unsigned long long)__double_as_longlong({list})"),
                _ => {
                    let to = Expr::Call(function, args.to_vec()).scalar();
                    format!("({})({list})", self.scalar(to))
                }
            },
            Function::FromBits(to) if to.is_small_float() => format!("{}{{{list}}}", self.scalar(to)),
            Function::FromBits(Scalar::F32) => format!("__uint_as_float({list})"),
            Function::FromBits(Scalar::F64) => format!("__longlong_as_double((long long)({list}))"),
            Function::FromBits(to) => format!("({})({list})", self.scalar(to)),
            Function::Pack => {
                let wide = args.len() == 2;
                self.pieces.insert(if wide { Piece::Pack16 } else { Piece::Pack8 });
                let bits: Vec<String> =
                    args.iter().map(|arg| self.call(Function::Bits, std::slice::from_ref(arg))).collect();
                format!("pack({})", bits.join(", "))
            }
            Function::ShuffleXor(bits) => {
                self.pieces.insert(Piece::ShuffleXor);
                format!("shuffle_xor({list}, {bits})")
            }
            Function::ClusterLoad(to) => {
                self.pieces.insert(Piece::ClusterLoad);
                format!("cluster_load<{}>({list})", self.scalar(to))
            }
            Function::Shuffle => {
                self.pieces.insert(Piece::Shuffle);
                format!("shuffle({list})")
            }
        }
    }
}

fn place_is_small(place: &Place) -> bool {
    place.var().ty().element().is_small_float()
}

fn compound(op: Binary) -> bool {
    matches!(op, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Xor)
}

fn sign(op: Binary) -> &'static str {
    match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::Rem => "%",
        Binary::And => "&",
        Binary::Or => "|",
        Binary::Xor => "^",
        Binary::Shl => "<<",
        Binary::Shr => ">>",
        Binary::LogicalAnd => "&&",
        Binary::LogicalOr => "||",
    }
}

fn precedence(e: &Expr) -> u8 {
    match e {
        Expr::Int(x, _) if *x < 0 => 14,
        Expr::Float(x, _) if x.is_sign_negative() => 14,
        Expr::Binary(op, ..) => match op {
            Binary::Mul | Binary::Div | Binary::Rem => 13,
            Binary::Add | Binary::Sub => 12,
            Binary::Shl | Binary::Shr => 11,
            Binary::And => 7,
            Binary::Xor => 6,
            Binary::Or => 5,
            Binary::LogicalAnd => 4,
            Binary::LogicalOr => 3,
        },
        Expr::Compare(CompareOp::Eq | CompareOp::Ne, ..) => 8,
        Expr::Compare(..) => 9,
        Expr::Unary(..) | Expr::Cast(..) | Expr::GlobalAddress(..) => 14,
        Expr::Call(Function::Bits | Function::FromBits(_), _) => 14,
        // Absolute values of unsigned numbers are written as the numbers.
        Expr::Call(Function::Math(UnaryOp::Abs), args) => args.first().map_or(16, precedence),
        Expr::SharedAddress(bytes) if bytes.as_int() != Some(0) => 12,
        Expr::Select(..) => 2,
        _ => 16,
    }
}

fn integer(x: i128, of: Scalar) -> String {
    match of {
        Scalar::Bool => (x != 0).to_string(),
        // The most negative literals have no direct form in C.
        Scalar::I32 if x == i128::from(i32::MIN) => format!("({} - 1)", x + 1),
        Scalar::I64 if x == i128::from(i64::MIN) => format!("({}ll - 1)", x + 1),
        Scalar::U32 => format!("{x}u"),
        Scalar::I64 => format!("{x}ll"),
        Scalar::U64 => format!("{x}ull"),
        _ => x.to_string(),
    }
}
