//! Inlines device functions and lays out the variables of a kernel.
//!
//! Every call is expanded in place, so a kernel is one list of instructions with one local frame. Recursion
//! and calls through pointers are refused.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::ptx::{Arg, Func, PtxFile, RegKind, Space, Stmt};

/// A kernel after inlining.
pub(crate) struct Flat {
    pub name: String,
    pub regs: Vec<RegKind>,
    pub stmts: Vec<Stmt>,
    /// Label number to statement index.
    pub labels: Vec<u32>,
    pub targets: Vec<(String, Vec<u32>)>,
    /// Bytes of local memory a thread.
    pub frame: u32,
    /// Bytes of statically allocated shared memory.
    pub shared: u32,
    /// Alignment of the dynamic part of shared memory.
    pub dynamic_align: u32,
    /// Module-scope shared variables by name.
    pub shared_symbols: HashMap<String, u32>,
    /// Byte offset, size and alignment of each kernel parameter.
    pub params: Vec<(u32, u32, u32)>,
    pub param_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub req_threads: Option<[u32; 3]>,
    pub req_cluster: Option<[u32; 3]>,
    /// Registers of a thread at launch, if the directives say.
    pub launch_registers: Option<u32>,
}

/// Stops exponential growth through nested calls.
const MAX_STMTS: usize = 1_000_000;
const MAX_FRAME: u64 = 1 << 20;
const MAX_SHARED: u64 = 1 << 20;

/// Where a variable of a function instance lives.
#[derive(Clone, Copy)]
enum Place {
    /// Local memory, also used for the parameters of inlined calls.
    Frame(u32),
    Shared(u32),
    KernelParam(u32),
}

struct Inliner<'a> {
    file: &'a PtxFile,
    flat: Flat,
    /// Static shared variables by (function, variable index): one copy however often a function is inlined.
    shared_vars: HashMap<(String, usize), u32>,
    stack: Vec<String>,
}

fn syntax(line: u32, message: String) -> Error {
    Error::Syntax { line, message }
}

/// Registers that a thread has at launch: what `.maxnreg` says, or all that fit when `.minnctapersm` CTAs of `.maxntid` threads share an SM.
/// Without either `ptxas` ignores setmaxnreg (C7508).
fn launch_registers(kernel: &Func) -> Option<u32> {
    const REGISTERS: u64 = 65536;
    const MOST: u32 = 256;
    if let Some(most) = kernel.max_registers {
        return Some(most.min(MOST));
    }
    let threads = kernel.max_threads.or(kernel.req_threads)?;
    let threads = threads.iter().fold(u64::from(kernel.min_ctas?), |n, t| n.saturating_mul((*t).into()));
    Some((REGISTERS.checked_div(threads)? / 8 * 8).min(MOST.into()) as u32)
}

pub(crate) fn flatten(file: &PtxFile, name: &str) -> Result<Flat> {
    let kernel =
        file.funcs.iter().find(|f| f.entry && f.name == name && f.body.is_some()).ok_or_else(|| Error::NoEntry {
            name: name.to_string(),
            known: file.funcs.iter().filter(|f| f.entry).map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
    let flat = Flat {
        name: name.to_string(),
        regs: Vec::new(),
        stmts: Vec::new(),
        labels: Vec::new(),
        targets: Vec::new(),
        frame: 0,
        shared: 0,
        dynamic_align: 16,
        shared_symbols: HashMap::new(),
        params: Vec::new(),
        param_bytes: 0,
        max_threads: kernel.max_threads,
        req_threads: kernel.req_threads,
        req_cluster: kernel.req_cluster,
        launch_registers: launch_registers(kernel),
    };
    let mut inliner = Inliner { file, flat, shared_vars: HashMap::new(), stack: Vec::new() };
    let mut formals = Vec::new();
    for v in &kernel.formals {
        let at = u64::from(inliner.flat.param_bytes).next_multiple_of(u64::from(v.align));
        if at + v.size > 32764 {
            return Err(syntax(kernel.line, format!("parameters of `{name}` exceed 32764 bytes")));
        }
        inliner.flat.params.push((at as u32, v.size as u32, v.align));
        inliner.flat.param_bytes = (at + v.size) as u32;
        formals.push(Place::KernelParam(at as u32));
    }
    for v in file.vars.iter().filter(|v| v.space == Space::Shared) {
        if v.external || v.size == 0 {
            inliner.flat.dynamic_align = inliner.flat.dynamic_align.max(v.align);
        } else {
            let at = inliner.alloc_shared(v.size, v.align, kernel.line)?;
            inliner.flat.shared_symbols.insert(v.name.clone(), at);
        }
    }
    inliner.expand(kernel, &formals, None)?;
    Ok(inliner.flat)
}

impl Inliner<'_> {
    fn alloc_shared(&mut self, size: u64, align: u32, line: u32) -> Result<u32> {
        let at = u64::from(self.flat.shared).next_multiple_of(u64::from(align));
        if at + size > MAX_SHARED {
            return Err(syntax(
                line,
                format!("static shared memory of `{}` exceeds {MAX_SHARED} bytes", self.flat.name),
            ));
        }
        self.flat.shared = (at + size) as u32;
        Ok(at as u32)
    }

    fn alloc_frame(&mut self, size: u64, align: u32, line: u32) -> Result<u32> {
        let at = u64::from(self.flat.frame).next_multiple_of(u64::from(align.max(4)));
        if at + size > MAX_FRAME {
            return Err(syntax(
                line,
                format!("local memory of `{}` exceeds {MAX_FRAME} bytes a thread", self.flat.name),
            ));
        }
        self.flat.frame = (at + size) as u32;
        Ok(at as u32)
    }

    /// Appends the body of `f`; a `ret` of an inlined function jumps to label `end`.
    fn expand(&mut self, f: &Func, formals: &[Place], end: Option<u32>) -> Result<()> {
        let Some(body) = &f.body else {
            return Err(syntax(f.line, format!("function `{}` is called but not defined", f.name)));
        };
        // Calls of empty functions have no statements, but labels and registers.
        let size = self.flat.stmts.len().max(self.flat.labels.len()).max(self.flat.regs.len());
        if size > MAX_STMTS {
            return Err(syntax(f.line, format!("kernel `{}` is too long after inlining", self.flat.name)));
        }
        if self.stack.contains(&f.name) {
            return Err(syntax(f.line, format!("function `{}` is recursive, which is not supported", f.name)));
        }
        self.stack.push(f.name.clone());
        let reg_base = self.flat.regs.len() as u32;
        self.flat.regs.extend_from_slice(&body.regs);
        let mut places = formals.to_vec();
        for (i, v) in body.vars.iter().enumerate().skip(places.len()) {
            places.push(match v.space {
                Space::Shared => {
                    let key = (f.name.clone(), i);
                    let at = match self.shared_vars.get(&key) {
                        Some(at) => *at,
                        None => self.alloc_shared(v.size, v.align, f.line)?,
                    };
                    self.shared_vars.insert(key, at);
                    Place::Shared(at)
                }
                Space::Local | Space::Param => Place::Frame(self.alloc_frame(v.size, v.align, f.line)?),
                _ => {
                    return Err(syntax(
                        f.line,
                        format!("variable `{}`: state space not supported in a function", v.name),
                    ));
                }
            });
        }
        let label_base = self.flat.labels.len() as u32;
        self.flat.labels.resize(self.flat.labels.len() + body.labels.len(), u32::MAX);
        let rename = Rename { reg_base, label_base, places: &places };
        for (name, list) in &body.targets {
            self.flat.targets.push((name.clone(), list.iter().map(|l| l + label_base).collect()));
        }
        // Labels by the statement they precede.
        let mut at: Vec<(u32, u32)> =
            body.labels.iter().enumerate().map(|(l, s)| (*s, l as u32 + label_base)).collect();
        at.sort_unstable();
        let mut next = at.iter().peekable();
        for (i, stmt) in body.stmts.iter().enumerate() {
            while let Some((_, label)) = next.next_if(|(s, _)| *s as usize <= i) {
                self.flat.labels[*label as usize] = self.flat.stmts.len() as u32;
            }
            if stmt.op.starts_with("call") {
                self.call(stmt, &rename)?;
                continue;
            }
            let mut s = stmt.clone();
            s.guard = s.guard.map(|(r, n)| (r + reg_base, n));
            for a in &mut s.args {
                rename.arg(a).map_err(|m| syntax(stmt.line, m))?;
            }
            if let (Some(end), "ret" | "ret.uni") = (end, s.op.as_str()) {
                s.op = "bra".into();
                s.args = vec![Arg::Label(end)];
            }
            self.flat.stmts.push(s);
        }
        for (_, label) in next {
            self.flat.labels[*label as usize] = self.flat.stmts.len() as u32;
        }
        self.stack.pop();
        Ok(())
    }

    /// `call{.uni} (results), function, (arguments)`, all three as `.param` variables.
    fn call(&mut self, stmt: &Stmt, rename: &Rename<'_>) -> Result<()> {
        let fail = |m: String| syntax(stmt.line, m);
        if stmt.guard.is_some() {
            return Err(fail("a guarded call is not supported".into()));
        }
        let name = stmt.args.iter().find_map(|a| match a {
            Arg::Sym(s, _) => Some(s.clone()),
            _ => None,
        });
        let name = name.ok_or_else(|| fail("a call through a pointer is not supported".into()))?;
        let mut actuals = Vec::new();
        for arg in &stmt.args {
            let Arg::List(items) = arg else { continue };
            for item in items {
                match item {
                    Arg::Var(v, 0) => actuals.push(rename.places[*v as usize]),
                    _ => return Err(fail(format!("call of `{name}`: an argument is not a .param variable"))),
                }
            }
        }
        // The two library calls that kernels make: output is dropped, an assertion stops the kernel.
        if name == "vprintf" {
            return Ok(());
        }
        if name == "__assertfail" {
            self.flat.stmts.push(Stmt { op: "trap".into(), args: Vec::new(), ..stmt.clone() });
            return Ok(());
        }
        let file = self.file;
        let f = file.funcs.iter().find(|f| f.name == name && !f.entry);
        let f = f.ok_or_else(|| fail(format!("function `{name}` is called but not defined")))?;
        if f.formals.len() != actuals.len() {
            return Err(fail(format!(
                "call of `{name}` with {} arguments, expected {}",
                actuals.len(),
                f.formals.len()
            )));
        }
        self.flat.labels.push(u32::MAX);
        let end = (self.flat.labels.len() - 1) as u32;
        self.expand(f, &actuals, Some(end))?;
        self.flat.labels[end as usize] = self.flat.stmts.len() as u32;
        Ok(())
    }
}

struct Rename<'a> {
    reg_base: u32,
    label_base: u32,
    places: &'a [Place],
}

impl Rename<'_> {
    fn arg(&self, a: &mut Arg) -> std::result::Result<(), String> {
        match a {
            Arg::Reg(r) => *r += self.reg_base,
            Arg::Label(l) => *l += self.label_base,
            Arg::Var(v, off) => {
                let place = self.places.get(*v as usize).ok_or("variable out of scope")?;
                *a = match place {
                    Place::Frame(at) | Place::Shared(at) => Arg::Int((i64::from(*at) + *off) as u64),
                    Place::KernelParam(at) => Arg::KernelParam(i64::from(*at) + *off),
                };
            }
            Arg::Addr(inner, _) | Arg::Not(inner) => self.arg(inner)?,
            Arg::Pair(x, y) => {
                self.arg(x)?;
                self.arg(y)?;
            }
            Arg::Vec(items) | Arg::List(items) => {
                for item in items {
                    self.arg(item)?;
                }
            }
            Arg::Tensor(base, items) => {
                self.arg(base)?;
                for item in items {
                    self.arg(item)?;
                }
            }
            Arg::Int(_)
            | Arg::F32(_)
            | Arg::F64(_)
            | Arg::Sym(..)
            | Arg::Special(_)
            | Arg::Sink
            | Arg::KernelParam(_) => {}
        }
        Ok(())
    }
}
