//! The syntax tree. Registers, labels and variables of a function are already numbered; module-scope
//! symbols are still names.

/// Width class of a virtual register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum RegKind {
    /// A predicate.
    Pred,
    /// 8, 16 or 32 bits; kept zero-extended in a 32-bit slot. The number is the declared width.
    R32(u8),
    /// 64 bits.
    R64,
    /// 128 bits.
    R128,
}

/// A PTX state space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    /// `.shared::cluster`: a shared address of any CTA of the cluster.
    SharedCluster,
    Local,
    Param,
    Const,
}

/// A variable: at module scope, in a function body, or a formal parameter.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: u32,
    pub size: u64,
    /// Initial bytes (may be shorter than `size`).
    pub init: Vec<u8>,
    /// 64-bit words of `init` that hold the address of a symbol: (byte offset, symbol, addend).
    pub relocs: Vec<(usize, String, i64)>,
    /// `.extern`, or an array without a length.
    pub external: bool,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Reg(u32),
    /// A special register such as `%tid.x`.
    Special(String),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A module-scope symbol plus a byte offset.
    Sym(String, i64),
    /// A body variable or formal parameter (index into `Body::vars`) plus a byte offset.
    Var(u32, i64),
    /// A kernel parameter by byte offset (after inlining).
    KernelParam(i64),
    Label(u32),
    /// `[base + offset]`.
    Addr(Box<Arg>, i64),
    /// `[map, {coordinates}]`, optionally with im2col offsets.
    Tensor(Box<Arg>, Vec<Arg>),
    Vec(Vec<Arg>),
    /// `a|b`.
    Pair(Box<Arg>, Box<Arg>),
    Not(Box<Arg>),
    /// `_`.
    Sink,
    /// A parenthesised list of a call.
    List(Vec<Arg>),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Stmt {
    /// Guard predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub op: String,
    pub args: Vec<Arg>,
    /// Source file number and line from `.loc` (0, 0 before the first).
    pub loc: (u32, u32),
    /// Line of the PTX text.
    pub line: u32,
}

/// A function body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub regs: Vec<RegKind>,
    pub vars: Vec<Var>,
    pub stmts: Vec<Stmt>,
    /// Label number to the index of the statement it precedes.
    pub labels: Vec<u32>,
    /// `.branchtargets` lists: name to labels.
    pub targets: Vec<(String, Vec<u32>)>,
}

/// A function or a kernel. The formals (results, then parameters) are the first variables of the body.
#[derive(Clone, Debug)]
pub(crate) struct Func {
    pub name: String,
    pub entry: bool,
    pub formals: Vec<Var>,
    pub body: Option<Body>,
    pub max_threads: Option<[u32; 3]>,
    pub req_threads: Option<[u32; 3]>,
    pub req_cluster: Option<[u32; 3]>,
    pub max_registers: Option<u32>,
    pub min_ctas: Option<u32>,
    pub line: u32,
}

/// A whole module.
#[derive(Clone, Debug, Default)]
pub(crate) struct PtxFile {
    pub version: String,
    pub target: String,
    pub files: Vec<(u32, String)>,
    pub vars: Vec<Var>,
    pub funcs: Vec<Func>,
}
