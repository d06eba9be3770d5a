//! The decoded program.

use crate::exec::AluFn;
use crate::ptx::Space;

use super::Ty;

/// A kernel ready to run.
pub(crate) struct Program {
    pub name: String,
    pub insts: Vec<Inst>,
    /// Rows read and rows overwritten by each instruction, in kernels with wgmma.
    pub row_access: Vec<[Box<[u32]>; 2]>,
    /// Registers that may be read before they are written.
    pub watched: super::Watched,
    /// Rows of the 32-bit, 64-bit and predicate files.
    pub rows: [u32; 3],
    pub fills: Vec<Fill>,
    /// Bytes of local memory a thread.
    pub frame: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Offset, size and alignment of each parameter.
    pub params: Vec<(u32, u32, u32)>,
    pub param_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub req_threads: Option<[u32; 3]>,
    pub req_cluster: Option<[u32; 3]>,
    /// Registers of a thread at launch, if the directives say.
    pub launch_registers: Option<u32>,
    /// The instructions as they are written.
    pub opcodes: Vec<String>,
}

/// One instruction.
pub(crate) struct Inst {
    pub op: Op,
    /// Row of the guard predicate, or [`Inst::NO_GUARD`].
    pub guard: u32,
    pub negate: bool,
    /// Line of the PTX text.
    pub line: u32,
    /// Source file and line.
    pub loc: (u32, u32),
}

impl Inst {
    pub(crate) const NO_GUARD: u32 = u32::MAX;
}

/// A row that holds a constant of the launch.
pub(crate) struct Fill {
    /// 0: 32 bits, 1: 64 bits, 2: predicate.
    pub file: u8,
    pub row: u32,
    pub source: Source,
}

/// Where the value of a constant row comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Value(u64),
    /// Address of a module variable plus an offset.
    Symbol(u32, i64),
    /// Address of dynamic shared memory plus an offset.
    DynamicShared(i64),
    Special(Special),
}

/// Special registers that do not change while a warp runs ("Special Registers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LaneMask(MaskKind),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    TotalSmem,
    DynamicSmem,
    WarpSize,
}

/// Which lanes a `%lanemask` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MaskKind {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Special {
    pub(crate) fn parse(name: &str) -> Result<Special, String> {
        let (base, axis) = match name.rsplit_once('.') {
            Some((base, "x")) => (base, 0),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            Some((base, "w")) => (base, 3),
            _ => (name, 0),
        };
        Ok(match base {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::NwarpId,
            "%smid" => Special::SmId,
            "%nsmid" => Special::NsmId,
            "%gridid" => Special::GridId,
            "%lanemask_eq" => Special::LaneMask(MaskKind::Eq),
            "%lanemask_lt" => Special::LaneMask(MaskKind::Lt),
            "%lanemask_le" => Special::LaneMask(MaskKind::Le),
            "%lanemask_gt" => Special::LaneMask(MaskKind::Gt),
            "%lanemask_ge" => Special::LaneMask(MaskKind::Ge),
            "%clusterid" => Special::ClusterId(axis),
            "%nclusterid" => Special::NclusterId(axis),
            "%cluster_ctaid" => Special::ClusterCtaid(axis),
            "%cluster_nctaid" => Special::ClusterNctaid(axis),
            "%cluster_ctarank" => Special::ClusterCtarank,
            "%cluster_nctarank" => Special::ClusterNctarank,
            "%is_explicit_cluster" => Special::IsExplicitCluster,
            "%total_smem_size" => Special::TotalSmem,
            "%dynamic_smem_size" => Special::DynamicSmem,
            "WARP_SZ" => Special::WarpSize,
            other => {
                return Err(format!("special register `{other}` is not supported, or the register is not declared"));
            }
        })
    }
}

/// A data register of any width.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reg {
    R(u32),
    D(u32),
    /// Two consecutive 64-bit rows.
    Q(u32),
    None,
}

/// A base row (32- or 64-bit) plus an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub wide: bool,
    pub row: u32,
    pub off: i64,
}

/// A load or a store.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub space: Space,
    /// Bytes of one element: 1, 2, 4, 8 or 16.
    pub size: u32,
    /// Bytes of the whole access: `size` times the elements.
    pub total: u32,
    pub signed: bool,
    pub regs: Vec<Reg>,
    pub addr: Addr,
}

/// An atomic operation on memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomOp {
    Add,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Min,
    Max,
    Inc,
    Dec,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub space: Space,
    pub op: AtomOp,
    pub ty: Ty,
    /// Destinations (none for `red`) and operands, one a vector element.
    pub dst: Vec<Reg>,
    pub a: Vec<Reg>,
    pub b: Option<Reg>,
    pub addr: Addr,
    /// `.release`, `.acq_rel` or `.acquire` rather than relaxed.
    pub ordered: bool,
}

/// The lane-exchange pattern of `shfl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// The reduction of `redux.sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReduxOp {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    MinS,
    MaxS,
}

/// The mode of `vote.sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// What a barrier does beside synchronising.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BarMode {
    Sync,
    Arrive,
    /// Destination row, source predicate and its negation.
    Popc(u32, (u32, bool)),
    And(u32, (u32, bool)),
    Or(u32, (u32, bool)),
}

/// Element type of an mma operand.
pub(crate) type Elem = Ty;

/// `mma.sync`.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a_ty: Elem,
    pub b_ty: Elem,
    pub c_ty: Elem,
    pub d_ty: Elem,
    pub satfinite: bool,
    /// `.xor.popc` or `.and.popc` for `b1`.
    pub b1_and: bool,
    pub d: Vec<Reg>,
    pub a: Vec<Reg>,
    pub b: Vec<Reg>,
    pub c: Vec<Reg>,
}

/// Where a wgmma operand A comes from.
#[derive(Clone, Debug)]
pub(crate) enum WgmmaA {
    Desc(u32),
    Regs(Vec<Reg>),
}

/// `wgmma.mma_async`.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: u32,
    pub k: u32,
    pub a_ty: Elem,
    pub b_ty: Elem,
    pub d_ty: Elem,
    pub d: Vec<Reg>,
    pub a: WgmmaA,
    pub b: u32,
    pub scale_d: (u32, bool),
    pub neg_a: bool,
    pub neg_b: bool,
    pub trans_a: bool,
    pub trans_b: bool,
    pub satfinite: bool,
}

/// What `mbarrier.*` does.
#[derive(Clone, Debug)]
pub(crate) enum Mbar {
    Init {
        count: u32,
    },
    Inval,
    /// `arrive` or `arrive_drop`, with the count row and the bytes row of `.expect_tx`.
    Arrive {
        state: Reg,
        count: Option<u32>,
        expect: Option<u32>,
        drop: bool,
    },
    ExpectTx {
        bytes: u32,
    },
    CompleteTx {
        bytes: u32,
    },
    /// Wait for the phase of a state or of a parity; `block` for `try_wait`.
    Wait {
        dst: u32,
        state: Option<Reg>,
        parity: Option<u32>,
        block: bool,
    },
    PendingCount {
        dst: u32,
        state: u32,
    },
}

/// Direction of a bulk copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BulkDir {
    /// Global or (by generic address) anything to shared memory of the cluster.
    ToShared,
    /// Shared to global.
    ToGlobal,
    /// Shared of this CTA to shared of the cluster.
    SharedToCluster,
    Prefetch,
}

/// `cp.async.bulk`, `cp.async.bulk.tensor` and their reductions.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub dir: BulkDir,
    pub dst: Addr,
    pub src: Addr,
    /// Row of the byte count (not for tensor copies).
    pub bytes: u32,
    /// Completion mbarrier; `None` means a bulk group.
    pub mbar: Option<Addr>,
    /// Tensor map and coordinates.
    pub tensor: Option<Tensor>,
    /// Row of the mask of CTAs.
    pub multicast: Option<u32>,
    pub reduce: Option<(AtomOp, Ty)>,
}

/// The tensor operand of a bulk copy.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub map: Addr,
    /// Rows of the coordinates.
    pub coords: Vec<u32>,
    /// Rows of the offsets of an im2col copy (none for a store).
    pub im2col: Option<Vec<u32>>,
}

/// A field of a tensor map that `tensormap.replace` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapField {
    GlobalAddress,
    Rank,
    BoxDim,
    GlobalDim,
    GlobalStride,
    ElementStride,
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

/// Instructions about tensor maps in memory ("tensormap.replace", "tensormap.cp_fenceproxy", "fence.proxy.tensormap").
#[derive(Clone, Debug)]
pub(crate) enum Tensormap {
    /// Dimension `ord` of a field; the value is in a 32- or 64-bit row.
    Replace { addr: Addr, space: Space, field: MapField, ord: Option<u32>, value: Reg },
    /// Copies a map from shared to global memory and releases it to whoever acquires it.
    CopyRelease { dst: Addr, src: Addr },
    /// Releases the maps that the executing thread has changed.
    Release,
    /// Acquires a map that was changed.
    Acquire { addr: Addr },
}

/// The scope and proxy of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FenceKind {
    /// `membar.cta`, `fence.*.cta`.
    Cta,
    /// `membar.gl`, `fence.*.gpu`, `.sys`, `.cluster`.
    Gpu,
    /// `fence.proxy.async*`.
    ProxyAsync,
    /// Other proxies and `fence.mbarrier_init`.
    Other,
}

/// A clock-like special register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clock {
    Lo,
    Hi,
    Full,
}

/// Which part of an instruction stream a counter charges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MatrixCopy {
    /// `ldmatrix`.
    Load,
    /// `stmatrix`.
    Store,
}

/// The executed operations. Anything that only maps registers of a lane to registers of that lane is `Alu`.
pub(crate) enum Op {
    Alu(AluFn),
    Nop,
    Bra(u32),
    BraIdx {
        index: u32,
        targets: Vec<u32>,
    },
    Exit,
    Trap,
    Clock {
        dst: Reg,
        kind: Clock,
    },
    Ld(Move),
    St(Move),
    Atom(Box<Atom>),
    Shfl {
        mode: ShflMode,
        dst: u32,
        pred: Option<u32>,
        src: u32,
        b: u32,
        c: u32,
        mask: u32,
    },
    Vote {
        mode: VoteMode,
        dst: u32,
        src: (u32, bool),
        mask: u32,
    },
    Match {
        all: bool,
        dst: u32,
        pred: Option<u32>,
        src: Reg,
        mask: u32,
    },
    Redux {
        op: ReduxOp,
        dst: u32,
        src: u32,
        mask: u32,
    },
    ActiveMask {
        dst: u32,
    },
    Elect {
        dst: Option<u32>,
        pred: u32,
        mask: u32,
    },
    BarWarp {
        mask: u32,
    },
    Bar {
        mode: BarMode,
        id: u32,
        count: Option<u32>,
        aligned: bool,
    },
    ClusterArrive {
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    Fence(FenceKind),
    Matrix {
        copy: MatrixCopy,
        regs: Vec<u32>,
        trans: bool,
        addr: Addr,
        space: Space,
    },
    Movmatrix {
        dst: u32,
        src: u32,
    },
    Mma(Box<Mma>),
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait(u32),
    CpAsync {
        dst: Addr,
        src: Addr,
        size: u32,
        src_size: Option<u32>,
        ignore: Option<(u32, bool)>,
    },
    CpCommit,
    /// Wait until at most this many groups are pending.
    CpWait(u32),
    CpWaitAll,
    CpMbarArrive {
        addr: Addr,
        noinc: bool,
    },
    Mbar {
        op: Box<Mbar>,
        addr: Addr,
    },
    Bulk(Box<Bulk>),
    Tensormap(Box<Tensormap>),
    /// `setmaxnreg`: registers of a thread from now on.
    SetMaxNReg {
        increase: bool,
        count: u32,
    },
    /// `griddepcontrol.launch_dependents`.
    LaunchDependents,
    BulkCommit,
    BulkWait {
        left: u32,
        read: bool,
    },
}
