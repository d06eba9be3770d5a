//! The tile IR: SSA values that are tiles, in structured control flow, at five levels of one language.
//!
//! | level | a program says | made by |
//! | --- | --- | --- |
//! | [`Level::Tile`] (T0) | what is computed: loads, maps, reductions, dots; silent about threads | families, `#[kiln::kernel]` |
//! | [`Level::Scheduled`] (T1) | persistence, roles, stages, in which order tiles are taken | [`crate::passes`], from the [`Schedule`] |
//! | [`Level::Selected`] (T2) | which instruction every copy and every dot is; shared buffers, channels between roles | the atom table |
//! | [`Level::LaidOut`] (T3) | where every element is: registers of threads, bytes of shared memory | layout inference |
//! | [`Level::Async`] (T4) | barriers, phases, groups, fences | the async pass |
//!
//! Scalars are [`Expr`]s over [`Var`]s: the grid's, loops', and parameters. Every scalar at the level of statements is uniform: the same in
//! all threads of the role. Elements of tiles appear as scalars only inside of [`Op::Map`] and [`Place::Elements`].

mod builder;
mod fixed;
pub mod interp;
mod text;
mod verify;
mod view;
mod visit;

pub use builder::{Builder, MapBuilder, Tile, row_major};
pub(crate) use text::statement;
pub use verify::verify;
pub use view::{Part, View, Walk};
pub use visit::Renaming;

use crate::dtype::{DType, Type};
use crate::expr::{Expr, Var};
use crate::program::{AtomicOp, Axis, Buffer, Param, ReduceOp};
use kiln_layout::{RegisterLayout, SharedLayout};
use kiln_num::Round;
use std::sync::Arc;

/// How far a program has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// T0: values.
    Tile,
    /// T1: persistence, roles, stages.
    Scheduled,
    /// T2: copies and dots name an instruction.
    Selected,
    /// T3: everything has a layout.
    LaidOut,
    /// T4: barriers, phases, groups, fences.
    Async,
}

/// A tile value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// A buffer in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedId(pub u32);

/// A channel between the copies that fill slots of shared buffers and the code that reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// A ring of mbarriers; from T4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarrierId(pub u32);

/// Declaration of a tile value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// What the author called it.
    pub name: Arc<str>,
    /// Element type.
    pub dtype: DType,
    /// Extents, constants; a scalar that threads agree on is a tile of no axes.
    pub shape: Vec<u32>,
    /// Which thread holds which element; from T3.
    pub layout: Option<RegisterLayout>,
}

/// Elements of global memory that a tile is loaded from or stored to.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A box.
    View(View),
    /// The element at `index` for the coordinates `axes` of the tile, where `mask` holds.
    Elements {
        /// The tensor.
        tensor: Buffer,
        /// One coordinate for each axis of the tile.
        axes: Vec<Var>,
        /// Names used below.
        body: Vec<Scalar>,
        /// Where the element is.
        index: Vec<Expr>,
        /// Whether it exists.
        mask: Expr,
    },
}

/// A statement on scalars inside of a map.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Names a value.
    Bind {
        /// The name.
        var: Var,
        /// The value.
        value: Expr,
    },
    /// Notes a fault: where `violated` holds, the first element of `fault` becomes the greater of what it is and `code`.
    Check {
        /// The condition that must not hold.
        violated: Expr,
        /// One `i32` in global memory.
        fault: Buffer,
        /// What is noted.
        code: Expr,
    },
}

/// An operand of a dot.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A tile in registers.
    Tile(ValueId),
    /// A slot of a shared buffer.
    Shared(Slot),
}

/// One copy of a shared buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The buffer.
    pub buffer: SharedId,
    /// Which of its stages.
    pub stage: Stage,
}

/// Which stage of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// The one at a channel's cursor in this role: the producer's between [`Op::Acquire`] and [`Op::Publish`], the consumer's between
    /// [`Op::Receive`] and [`Op::Release`].
    Cursor(ChannelId),
    /// A number; from T4.
    Index(Expr),
}

/// How a copy travels; rows of the atom table say what each may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyKind {
    /// Loads to registers and stores to shared memory.
    Registers,
    /// `cp.async` of this many bytes a thread.
    CpAsync(u32),
    /// A box by the tensor memory accelerator; one thread asks for it.
    Tma,
    /// A box that is the same for all CTAs of the cluster, by the tensor memory accelerator: each asks for a part of it, for all.
    Multicast,
}

/// A statement: what it defines, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Stmt {
    /// The tiles that it defines.
    pub results: Vec<ValueId>,
    /// What it does.
    pub op: Op,
}

/// A list of statements.
pub type Block = Vec<Stmt>;

/// What a statement does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    // ---- T0: values -------------------------------------------------------------------------------------------------
    /// Names a uniform scalar.
    Bind {
        /// The name.
        var: Var,
        /// The value.
        value: Expr,
        /// What it is known to be below, besides not negative: a coordinate of the domain, computed.
        below: Option<Expr>,
    },
    /// A tile whose elements are all this scalar.
    Full {
        /// The element; of a compute type or the result's type.
        value: Expr,
    },
    /// Elements from global memory; of the tensor's type.
    Load {
        /// From where.
        from: Place,
        /// What elements are that do not exist; of the tensor's type.
        fill: Expr,
    },
    /// Elements computed from those of other tiles at the same coordinates; an operand's axis of extent 1 is repeated.
    Map {
        /// Coordinates in the result.
        axes: Vec<Var>,
        /// The operands, and what their elements are called.
        args: Vec<(Var, ValueId)>,
        /// Names used by the results.
        body: Vec<Scalar>,
        /// One for each result of the statement, of its type.
        results: Vec<Expr>,
    },
    /// Combines the elements along an axis that are a multiple of its extent in the result apart: all where that is 1, else it divides the
    /// operand's. In no order that is promised.
    Reduce {
        /// How.
        op: ReduceOp,
        /// Of what.
        value: ValueId,
        /// Along which axis.
        axis: usize,
    },
    /// Combines each element of some tiles with those at its place in the other CTAs of the cluster, as each of [`Op::Reduce`]'s; all CTAs get
    /// the same. Every CTA of the cluster comes to it.
    ClusterReduce {
        /// How, and of what; one for each result.
        of: Vec<(ReduceOp, ValueId)>,
    },
    /// The same elements with axes in another order: axis `i` of the result is axis `perm[i]` of the operand.
    Transpose {
        /// Of what.
        value: ValueId,
        /// The order.
        perm: Vec<usize>,
    },
    /// `acc[m, n] + a[m, k] * b[k, n]`, summed in the type of `acc`. The result is no longer `acc`'s: that value is not used again.
    Dot {
        /// `[M, K]`
        a: Operand,
        /// `[K, N]`, of the type of `a`; bytes may differ in sign, 8-bit floats in format.
        b: Operand,
        /// `[M, N]`
        acc: ValueId,
        /// How the operands, which are f32, are rounded to TF32 before they are multiplied; `None`: they are multiplied as they are.
        tf32: Option<Round>,
        /// The instruction, by its name in the atom table; from T2.
        atom: Option<Arc<str>>,
    },
    /// Stores a tile; of the tensor's type.
    Store {
        /// Where.
        to: Place,
        /// What.
        value: ValueId,
    },
    /// Updates elements of global memory atomically.
    Atomic {
        /// How.
        op: AtomicOp,
        /// Where.
        to: Place,
        /// The operands.
        value: ValueId,
    },
    /// Waits until an element of global memory is `value`, and takes it: CTAs that share a result hold such a counter in turn. What those that held
    /// it before have stored is seen from here on. They come earlier in the grid, so that no CTA waits for one that has not started.
    Await {
        /// The counters: an `i32` tensor that is zero before the launch and left zero.
        counter: Buffer,
        /// Which of them.
        index: Vec<Expr>,
        /// What it is waited to be.
        value: Expr,
    },
    /// Gives a counter back as `value`, after everything that the CTA has stored; the first to hold one need not have awaited it.
    Signal {
        /// The counters.
        counter: Buffer,
        /// Which of them.
        index: Vec<Expr>,
        /// What it becomes.
        value: Expr,
    },
    /// Runs `body` for `var` from `start` up to `end`, excluded.
    For {
        /// The loop variable.
        var: Var,
        /// First value.
        start: Expr,
        /// Bound, excluded.
        end: Expr,
        /// Increment, positive.
        step: Expr,
        /// What passes from one iteration to the next: the value inside, and the first.
        carried: Vec<(ValueId, ValueId)>,
        /// The statements.
        body: Block,
        /// What the next iteration gets, one for each of `carried`; after the last they are the results of the statement.
        yields: Vec<ValueId>,
        /// How many tiles the loads that feed its dots are ahead; `None`: not pipelined.
        stages: Option<u32>,
    },
    /// Runs one of two blocks.
    If {
        /// The uniform condition.
        cond: Expr,
        /// If it holds, and the results' values.
        then: (Block, Vec<ValueId>),
        /// If not, and the results' values.
        otherwise: (Block, Vec<ValueId>),
    },

    // ---- T1: schedule -----------------------------------------------------------------------------------------------
    /// Blocks that groups of warps run at the same time; in order of their threads.
    Roles(Vec<Role>),

    // ---- T2: shared memory, channels, instructions --------------------------------------------------------------------
    /// Producer: waits until the slot at its cursor is free.
    Acquire(ChannelId),
    /// Producer: starts a copy into a slot.
    Copy {
        /// From where.
        from: View,
        /// To where.
        to: Slot,
        /// How.
        kind: CopyKind,
        /// The mbarrier that it completes on; from T4.
        barrier: Option<(BarrierId, Expr)>,
    },
    /// Producer: the slot's copies are all started; moves its cursor on.
    Publish(ChannelId),
    /// Consumer: waits until the slot at its cursor is full.
    Receive(ChannelId),
    /// Consumer: has read the slot at its cursor; moves its cursor on.
    Release(ChannelId),
    /// Consumer: leaves so many slots to another consumer; moves its cursor past them.
    Skip {
        /// The channel.
        channel: ChannelId,
        /// How many.
        slots: Expr,
    },
    /// A tile from a slot.
    SharedLoad {
        /// From where.
        from: Slot,
    },
    /// A tile to a slot.
    SharedStore {
        /// To where.
        to: Slot,
        /// What.
        value: ValueId,
    },
    /// A slot to global memory, by the tensor memory accelerator.
    CopyOut {
        /// From where.
        from: Slot,
        /// To where.
        to: View,
    },
    /// The threads of the role wait for each other.
    Sync,

    // ---- T3: layouts --------------------------------------------------------------------------------------------------
    /// The same tile in another layout.
    Convert {
        /// Of what.
        value: ValueId,
    },

    // ---- T4: barriers ---------------------------------------------------------------------------------------------------
    /// Sets a mutable index (cursor, phase); declared by its first assignment.
    Assign {
        /// The variable.
        var: Var,
        /// Its new value.
        value: Expr,
        /// What it is always below; it is never negative.
        below: u32,
    },
    /// One thread of the role runs this.
    Elected(Block),
    /// Adds `bytes` to what the phase expects, and arrives.
    Expect {
        /// The ring.
        barrier: BarrierId,
        /// Which of the ring.
        index: Expr,
        /// Bytes that copies will bring.
        bytes: u32,
    },
    /// Arrives, as the barrier's [`Arriver`] says.
    Arrive {
        /// The ring.
        barrier: BarrierId,
        /// Which of the ring.
        index: Expr,
        /// Whether at that of every CTA of the cluster, or of this one.
        everywhere: bool,
    },
    /// Waits until the phase of this parity has ended.
    Wait {
        /// The ring.
        barrier: BarrierId,
        /// Which of the ring.
        index: Expr,
        /// 0 or 1.
        parity: Expr,
    },
    /// Closes a group of asynchronous operations.
    Commit(Group),
    /// Waits until at most `pending` groups are unfinished.
    WaitGroup {
        /// Of which kind.
        group: Group,
        /// How many may be.
        pending: u32,
    },
    /// Orders accesses.
    Fence(Fence),
    /// A named barrier: `threads` threads arrive, those that `wait` go on when all have.
    NamedBarrier {
        /// 1 to 15; 0 is the CTA's own.
        id: Expr,
        /// How many threads take part.
        threads: u32,
        /// Whether the role waits, or only arrives.
        wait: bool,
    },
    /// The two warpgroups of the role take turns at issuing products.
    Turn(Turn),
    /// Gives up or takes registers (`setmaxnreg`).
    SetRegisters {
        /// Registers a thread.
        count: u32,
        /// Whether it takes more.
        increase: bool,
    },
    /// All threads of the cluster wait for each other.
    ClusterSync,
    /// Arrives at the cluster's barrier; [`Op::ClusterWait`] comes later.
    ClusterArrive,
    /// Waits until all threads of the cluster have arrived.
    ClusterWait,
    /// What a slot holds in every CTA of the cluster, combined element by element in the order of the CTAs.
    ClusterLoad {
        /// How.
        op: ReduceOp,
        /// From where, in each.
        from: Slot,
    },
}

/// Kinds of asynchronous operations that are waited for in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// `cp.async`.
    CpAsync,
    /// `wgmma.mma_async`.
    Wgmma,
    /// Bulk stores; waits for what they read.
    BulkRead,
    /// Bulk stores; waits until they are written.
    Bulk,
}

/// How two warpgroups take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// The first has the first turn.
    Start,
    /// Waits for the own turn.
    Wait,
    /// Hands the turn to the other.
    Pass,
    /// Takes back the turn that nobody waits for.
    End,
}

/// What a fence orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fence {
    /// Ordinary writes to shared memory before asynchronous reads of it.
    ProxyAsync,
    /// Registers and shared memory before `wgmma`.
    Wgmma,
    /// Initialised mbarriers before their use in the cluster.
    BarrierInit,
}

/// A group of warps with a block of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// `producer`, `consumer`...
    pub name: Arc<str>,
    /// Warps that run it together, a multiple of 4.
    pub warps: u32,
    /// How many groups of so many warps run it, each for itself, and what tells a group its number, from 0. `None`: one.
    pub groups: Option<(Var, u32)>,
    /// Registers of its threads, if they change hands.
    pub registers: Option<u32>,
    /// What it runs.
    pub body: Block,
}

impl Role {
    /// How many groups run it.
    pub fn group_count(&self) -> u32 {
        self.groups.as_ref().map_or(1, |(_, count)| *count)
    }

    /// Warps of all its groups.
    pub fn all_warps(&self) -> u32 {
        self.warps.saturating_mul(self.group_count())
    }
}

/// Declaration of a buffer in shared memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// What it is called.
    pub name: Arc<str>,
    /// Element type.
    pub dtype: DType,
    /// Extents of one stage.
    pub shape: Vec<u32>,
    /// Copies of it.
    pub stages: u32,
    /// Where elements lie in one stage; from T3.
    pub layout: Option<SharedLayout>,
    /// Byte offset of stage 0 in the CTA's shared memory; from T4.
    pub offset: Option<u32>,
}

/// Declaration of a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// What it is called.
    pub name: Arc<str>,
    /// The buffers whose slots travel together.
    pub buffers: Vec<SharedId>,
    /// Slots.
    pub stages: u32,
    /// How its copies travel; all alike.
    pub kind: CopyKind,
}

/// Declaration of a ring of mbarriers; from T4.
#[derive(Clone, Debug, PartialEq)]
pub struct Barrier {
    /// What it is called.
    pub name: Arc<str>,
    /// How many are in the ring.
    pub stages: u32,
    /// Arrivals that end a phase.
    pub count: u32,
    /// Which threads of a role arrive.
    pub by: Arriver,
}

/// Which threads of a role arrive on a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arriver {
    /// The one that runs.
    Thread,
    /// One of each warp.
    Warp,
    /// One of each warpgroup.
    Warpgroup,
}

/// What a Config decides about a program; passes carry it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Warps that compute.
    pub warps: u32,
    /// Whether copies have a role of their own, where the target can.
    pub specialise: bool,
    /// Registers of a thread that copies and of one that computes, where they change hands.
    pub registers: Option<(u32, u32)>,
    /// Whether a CTA takes tile after tile.
    pub persistent: bool,
    /// Tiles along the first axis that are taken before the second axis moves on; 0: all.
    pub raster: u32,
    /// Most threads that share a row of a tile that no dot lays out; 0: all.
    pub row_threads: u32,
    /// Whether results go through shared memory to whole boxes, where the target can.
    pub staged_epilogue: bool,
    /// Whether the last dot of a loop with two is delayed by an iteration, so that what stands between them runs under products.
    pub overlap: bool,
    /// Whether those who multiply take turns at the tensor cores: warpgroups of a tile whose loop has two dots, else two groups of a role that have tiles of
    /// their own.
    pub ping_pong: bool,
    /// CTAs of a cluster, which run together and reach each other's shared memory; 1: each for itself. They have neighbouring points along an axis of
    /// the domain. For [`Op::ClusterReduce`] that is the last, which has a multiple of them; else clusters are for multicast where the target has
    /// it, and the axis is filled up with points outside of it: what those access has to be masked.
    pub cluster: u32,
    /// Whether CTAs of a cluster are neighbours along the last axis, or along the one before where there are two.
    pub across: bool,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            warps: 4,
            specialise: false,
            registers: None,
            persistent: false,
            raster: 0,
            row_threads: 0,
            staged_epilogue: false,
            overlap: false,
            ping_pong: false,
            cluster: 1,
            across: false,
        }
    }
}

/// How many CTAs are launched.
#[derive(Clone, Debug, PartialEq)]
pub enum Grid {
    /// One for each point of the domain.
    Points,
    /// At most so many for each SM, each of which takes points in turn: the domain is then the CTAs.
    Persistent {
        /// CTAs an SM.
        per_sm: u32,
        /// How many CTAs there are.
        count: Var,
        /// How many points they share.
        points: Expr,
    },
}

/// One kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What it computes, in one line.
    pub comment: String,
    /// How far it has come.
    pub level: Level,
    /// Launch arguments.
    pub params: Vec<Param>,
    /// Every point of the product of these axes is executed once, by one CTA. Outermost first.
    pub domain: Vec<Axis>,
    /// How CTAs share the points.
    pub grid: Grid,
    /// What the Config decided.
    pub schedule: Schedule,
    /// The tiles, by [`ValueId`].
    pub values: Vec<Value>,
    /// The shared buffers, by [`SharedId`].
    pub shared: Vec<Shared>,
    /// The channels, by [`ChannelId`].
    pub channels: Vec<Channel>,
    /// The rings of mbarriers, by [`BarrierId`].
    pub barriers: Vec<Barrier>,
    /// The statements.
    pub body: Block,
    /// The next number that no variable or tensor has.
    pub next_id: u32,
}

impl Program {
    /// The declaration of a tile value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The declaration of a tile value, to be changed.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// The declaration of a shared buffer.
    pub fn shared(&self, id: SharedId) -> &Shared {
        &self.shared[id.0 as usize]
    }

    /// The declaration of a channel.
    pub fn channel(&self, id: ChannelId) -> &Channel {
        &self.channels[id.0 as usize]
    }

    /// The declaration of a ring of mbarriers.
    pub fn barrier(&self, id: BarrierId) -> &Barrier {
        &self.barriers[id.0 as usize]
    }

    /// A new tile value.
    pub fn add_value(&mut self, name: &str, dtype: DType, shape: &[u32]) -> ValueId {
        self.values.push(Value { name: name.into(), dtype, shape: shape.to_vec(), layout: None });
        ValueId(self.values.len() as u32 - 1)
    }

    /// A new value like another.
    pub fn add_like(&mut self, id: ValueId) -> ValueId {
        self.values.push(self.value(id).clone());
        ValueId(self.values.len() as u32 - 1)
    }

    /// A new variable.
    pub fn add_var(&mut self, name: &str, ty: impl Into<Type>) -> Var {
        self.next_id += 1;
        Var { id: self.next_id - 1, name: name.into(), ty: ty.into() }
    }

    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        let roles = self.body.iter().find_map(|stmt| match &stmt.op {
            Op::Roles(roles) => Some(roles.iter().map(Role::all_warps).sum()),
            _ => None,
        });
        32 * roles.unwrap_or(self.schedule.warps)
    }
}

impl Place {
    /// The tensor.
    pub fn tensor(&self) -> &Buffer {
        match self {
            Place::View(view) => &view.tensor,
            Place::Elements { tensor, .. } => tensor,
        }
    }
}

impl Stmt {
    /// A statement that defines nothing.
    pub fn effect(op: Op) -> Stmt {
        Stmt { results: vec![], op }
    }
}
