//! Contractions as tiled matrix products, whatever the types and the orientation of their operands, with prologues and epilogues.
//!
//! A CTA has a tile of sums in registers and walks over the depth; operands come a few steps ahead, through shared memory, to tensor cores where
//! the types have them (Kerr et al., "CUTLASS: Fast Linear Algebra in CUDA C++"; Hopper's roles and boxes as in CUTLASS 3's warp-specialised
//! kernels and in "FlashAttention-3"). With few rows the product is made transposed, so that what is long fills the rows of instructions, or
//! operands meet in registers; with few tiles CTAs share the depth of each, and sums are added in one order. Rows may come in groups with a right
//! operand each. CTAs of a cluster share the columns, or the rows, that both read: each brings half of them to both, and where small tiles leave the
//! level-2 cache behind that is what they wait for. Two warpgroups with a tile each may take turns: one multiplies while the other stores
//! (CUTLASS 3's "ping-pong" kernel). Contractions that share an operand (the gate and the product beside it of SwiGLU) are one launch: a CTA has a
//! tile of sums of each, and brings the tiles of what they share once (CUTLASS's "dual GEMM" example).
//!
//! Operands may be views of parts of what lies in memory: boxes that begin and end there, of which no copy is made. What elementwise ops make of such a box (an
//! image times a factor for each channel, of squeeze-and-excite) is made between registers and shared memory, once for every tile of the other operand.
//!
//! State: the tile's sums in registers, operands of a few steps in shared memory. Floor: operands once, results once, the products.

mod config;
mod cost;
mod groups;
mod lanes;
mod product;
mod program;
mod shared;
mod space;
mod windows;

use super::{Built, KernelFamily, Subject};
use crate::value::Values;
use crate::value::dims::{multiple, numel};
use crate::value::dtype::register;
use crate::{Condition, Guard, Result};
use config::Feed;
pub use config::{Config, Depth};
pub(super) use cost::estimate;
use groups::Groups;
use kiln_fuse::{Anchor, Role};
use kiln_graph::{DType, EinsumSpec, NodeId, Op, ValueId};
use kiln_target::atoms::{MatrixType, MmaAtom, MmaKind};
use kiln_target::{Estimate, Gpu};
use kiln_tile::Round;
use kiln_tile::passes::Machine;
use kiln_tile::passes::machine::DotShape;
use product::Along;
pub(super) use product::{Group, Operand, Product, memory, pitch, stored, views};
pub(super) use space::{smallest, space};
use std::sync::Arc;
pub(super) use windows::Windows;

/// The family.
pub struct Gemm;

/// A product, and how it can be made.
pub struct Problem {
    subject: Arc<Subject>,
    product: Product,
    /// Types of the operands of dots, and of their sums.
    types: [DType; 2],
    sums: DType,
    /// How operands that are f32 are rounded to TF32, if they are.
    tf32: Option<Round>,
    /// The best instructions that take them.
    best: MmaKind,
    feeds: [Feed; 2],
    /// Whether each operand has the depth dense in shared memory.
    deep: [bool; 2],
    /// Bytes of an element of all results that are boxes.
    stored_bytes: u32,
    /// Whether any of these results has less than 32 bits.
    narrow: bool,
    /// Whether the epilogue reads anything, and how many operands of it are as large as the results.
    reads: bool,
    tiles_read: u32,
    /// The groups that rows come in, if each has a right operand of its own.
    groups: Option<Groups>,
}

impl KernelFamily for Gemm {
    type Config = Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "gemm"
    }

    fn accept(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        let anchors = region.anchors();
        let (Anchor::Contract, [anchor, ..]) = (region.anchor, &anchors[..]) else { return Ok(None) };
        let node = region.graph.node(*anchor);
        let grouped = |transposed: bool| EinsumSpec {
            lhs: vec!['t', 'k'],
            rhs: if transposed { vec!['g', 'n', 'k'] } else { vec!['g', 'k', 'n'] },
            out: vec!['t', 'n'],
        };
        let (spec, acc, out, groups) = match (&node.op, &node.inputs[..]) {
            (Op::Contract { spec, acc, out }, _) => (spec.clone(), acc, out, None),
            (Op::GroupedMatmul { transposed, acc, out }, [_, w, ends]) => {
                let count = region.graph.ty(*w).shape.first().cloned().unwrap_or_default();
                (grouped(*transposed), acc, out, Some(Groups { ends: *ends, count }))
            }
            _ => return Ok(None),
        };
        // Sums of the unsigned type have the same bits.
        let sums = if acc.compute() == DType::U32 { DType::I32 } else { acc.compute() };
        let values = Values::new(region, &subject.symbols)?;
        if !matches!(sums, DType::F32 | DType::F64 | DType::I32) {
            // Sums of other types are the loop nest's.
            let what = || format!("groups of rows whose products are summed as {acc}");
            let help = "cast the operands to i32 or to a float";
            return if groups.is_some() { values.unsupported(what(), help) } else { Ok(None) };
        }
        let mut product = Product::of(&values, &anchors, &spec, [*acc, *out])?;
        if groups.is_some() {
            // A tile ends where its group does: what is stored is no box.
            product.boxes.iter_mut().for_each(|axes| *axes = None);
        }
        let problem = Problem::of(subject, product, sums, groups, gpu);
        // What one Config can express all can.
        build(&problem, &smallest(&problem))?;
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, gpu: &Gpu) -> Vec<Config> {
        space(problem, gpu)
    }

    fn estimate(&self, problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
        estimate(problem, config, gpu)
    }

    fn build(&self, problem: &Problem, config: &Config) -> Result<Built> {
        build(problem, config)
    }
}

/// The tile programs of a product.
pub fn build(problem: &Problem, config: &Config) -> Result<Built> {
    let mut launches = vec![program::product(problem, config)?];
    if matches!(config.depth, Depth::Parts(_)) {
        launches.push(program::combination(problem, config)?);
    }
    // The right operand gives the rows where there are few of the left one's; every row has registers of its own where operands meet there.
    let few = problem.product.extent(Along::Outer(if config.lanes > 0 { config.sides()[0] } else { 0 }));
    let most = match config.lanes {
        0 => config::FEW_ROWS as i64,
        _ => config.bm.into(),
    };
    let guard = match few.as_const() {
        None if (config.swap || config.lanes > 0) && problem.groups.is_none() => {
            Guard(vec![Condition::AtMost(few, most)])
        }
        _ => Guard::always(),
    };
    Ok(Built {
        launches,
        guard,
        scratch_bytes: program::scratch_bytes(problem, config),
        zeroed_bytes: program::counter_bytes(problem, config),
        packed: vec![],
    })
}

/// What dots multiply, and by which instructions at best: the operands as they are where an instruction does, else as the type of the sums.
fn types(product: &Product, sums: DType, machine: &Machine) -> ([DType; 2], MmaKind) {
    let types = [0, 1].map(|side| register(product.operands[side].dtype));
    let kind = |types: [DType; 2]| {
        let [a, b, acc] = [types[0], types[1], sums].map(MatrixType::of);
        machine.atoms.mma_atoms(a?, b?, acc?).first().map(|atom| atom.kind)
    };
    let bytes = |is: fn(DType) -> bool| types.iter().all(|dtype| dtype.bits() == 8 && is(*dtype));
    let alike = types[0] == types[1] || bytes(DType::is_int) || bytes(DType::is_f8);
    let taken = if alike && types[0].compute() == sums { kind(types) } else { None };
    match taken {
        Some(kind) => (types, kind),
        None => ([sums; 2], kind([sums; 2]).unwrap_or(MmaKind::Fma)),
    }
}

/// How f32 are rounded to TF32 before they are multiplied, and by which instructions then at best; `None` where they are multiplied as they are.
fn rounding(subject: &Subject, types: [DType; 2], sums: DType, machine: &Machine) -> Option<(Round, MmaKind)> {
    let round = machine.atoms.tf32_roundings().first().filter(|_| subject.tf32 && types == [sums; 2])?;
    let best = machine.atoms.mma_atoms(MatrixType::Tf32, MatrixType::Tf32, MatrixType::of(sums)?).first()?.kind;
    (best > MmaKind::Fma).then_some((*round, best))
}

impl Problem {
    /// A product, and how a GPU makes it.
    pub fn of(subject: &Arc<Subject>, product: Product, sums: DType, groups: Option<Groups>, gpu: &Gpu) -> Problem {
        let graph = &subject.region.graph;
        let machine = Machine::new(gpu.arch);
        let (types, best) = types(&product, sums, &machine);
        let (tf32, best) =
            rounding(subject, types, sums, &machine).map_or((None, best), |(round, kind)| (Some(round), kind));
        let feed = |side: usize| {
            let operand = &product.operands[side];
            let plain = operand.dtype == types[side];
            if operand.is_made() && operand.lies.is_some() {
                return Feed::Registers;
            }
            let (dense, pitch) = match (&operand.windows, &operand.lies) {
                (Some(windows), _) if plain => (Some(windows.dense()), windows.pitch()),
                (None, Some((_, axes))) if plain => (axes.dense(), axes.pitch()),
                _ => return Feed::Computed,
            };
            let bits = pitch.saturating_mul(i64::from(operand.dtype.bits()));
            match bits {
                _ if matches!(dense, Some(Along::Grid(_)) | None) => Feed::Computed,
                // Groups begin at any row.
                _ if groups.is_some() && dense == Some(Along::Outer(0)) => Feed::Registers,
                bits if bits % 128 == 0 => Feed::Wide,
                bits if bits % 32 == 0 => Feed::Narrow,
                _ => Feed::Registers,
            }
        };
        let feeds = [feed(0), feed(1)];
        let deep = [0, 1].map(|side| {
            let operand = &product.operands[side];
            let lies = || operand.lies.as_ref().is_none_or(|(_, axes)| axes.dense() == Some(Along::Depth));
            match &operand.windows {
                _ if operand.is_made() => true,
                Some(windows) => windows.dense() == Along::Depth,
                None => feeds[side] == Feed::Computed || lies(),
            }
        });
        let outputs = graph.outputs.iter().zip(&product.boxes).filter(|(_, axes)| axes.is_some());
        let bits: Vec<u32> = outputs.map(|((_, v), _)| graph.ty(*v).dtype.bits()).collect();
        let stored_bytes = bits.iter().map(|bits| bits / 8).sum();
        let narrow = bits.iter().any(|bits| *bits < 32);
        let (roles, users) = (subject.region.roles(), graph.users());
        let behind = |node: &NodeId| matches!(roles[node.index()], Role::Epilogue | Role::Side);
        let read: Vec<ValueId> = graph.inputs.iter().filter(|v| users[v.index()].iter().any(behind)).copied().collect();
        let each = subject.count(&graph.ty(product.result).shape);
        let tiles_read = read.iter().filter(|v| subject.count(&graph.ty(**v).shape) >= each).count() as u32;
        let (reads, subject) = (!read.is_empty(), subject.clone());
        Problem {
            subject,
            product,
            types,
            sums,
            tf32,
            best,
            feeds,
            deep,
            stored_bytes,
            narrow,
            reads,
            tiles_read,
            groups,
        }
    }

    /// Whether all columns of a tile are of one group of channels, where windows see those of one.
    pub fn one_group(&self, config: &Config) -> bool {
        let columns = config.sides().into_iter().zip([config.bm, config.bn]).find(|(side, _)| *side == 1);
        let group = self.product.operands[0].windows.as_ref().and_then(|windows| windows.group.as_ref());
        group.is_none_or(|each| columns.is_none_or(|(_, tile)| multiple(each) % i64::from(tile) == 0))
    }

    /// Whether tensor cores take the types.
    fn tensor(&self) -> bool {
        self.best != MmaKind::Fma
    }

    /// Bytes of an element of the operand that has the greater ones.
    fn widest(&self) -> u32 {
        self.types.iter().map(|dtype| dtype.bits() / 8).max().map_or(4, |bytes| bytes.max(1))
    }

    /// The instruction that a Config's dots become.
    fn atom(&self, config: &Config, machine: &Machine) -> Option<MmaAtom> {
        let sides = config.sides();
        let [a, b] = sides.map(|side| self.types[side]);
        machine.dot_atom(&DotShape {
            extents: [config.bm, config.bn, config.bk],
            types: [a, b, self.sums],
            k_major: sides.map(|side| self.deep[side]),
            warps: config.warps,
            tf32: self.tf32.map(|round| [config.specialise && round == Round::Nearest; 2]),
        })
    }

    /// Typical extents of the outer dimensions; of a group's, where rows come in groups.
    fn outer_sizes(&self) -> [f64; 2] {
        let [rows, columns] = [0, 1].map(|side| self.subject.size(&self.product.extent(Along::Outer(side))));
        let groups = self.groups.as_ref().map_or(1.0, |groups| self.subject.size(&groups.count).max(1.0));
        [rows / groups, columns].map(|size| size.max(1.0))
    }

    fn depth_size(&self) -> f64 {
        self.subject.size(&self.product.extent(Along::Depth)).max(1.0)
    }

    /// Typical number of tiles.
    fn tiles(&self, config: &Config) -> f64 {
        let [m, n] = self.outer_sizes();
        let [rows, columns] = if config.swap { [n, m] } else { [m, n] };
        let grid = self.product.grid.iter().map(|(_, dim)| dim.clone()).collect::<Vec<_>>();
        let grid = self.subject.size(&numel(&grid)).max(1.0);
        // Clusters are whole: some of their tiles may be outside.
        let [rows, columns] =
            [(rows, config.bm), (columns, config.bn)].map(|(size, tile)| (size / f64::from(tile)).ceil());
        let whole = |tiles: f64, ctas: u32| (tiles / f64::from(ctas)).ceil() * f64::from(ctas);
        grid * whole(rows, config.cluster[0]) * whole(columns, config.cluster[1])
    }

    /// Whether elements of some result are stored by themselves.
    fn is_scattered(&self) -> bool {
        self.product.boxes.iter().any(Option::is_none)
    }

    /// Contractions that are made together.
    fn contractions(&self) -> u32 {
        1 + self.product.twins.len() as u32
    }

    /// Operands on a side; what contractions share counts once.
    fn operands(&self, side: usize) -> u32 {
        self.product.operands_of(side).count() as u32
    }

    /// Typical number of sums.
    fn results(&self) -> f64 {
        let each = self.subject.count(&self.subject.region.graph.ty(self.product.result).shape);
        f64::from(self.contractions()) * each
    }

    /// Typical operations of the product alone.
    fn operations(&self) -> f64 {
        2.0 * self.results() * self.depth_size()
    }
}
