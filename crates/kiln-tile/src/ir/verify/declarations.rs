//! What stands before the statements.

use super::super::{CopyKind, Grid, Level, Op};
use super::{Verifier, size};
use crate::builder::identifier;
use crate::dtype::Type;
use crate::error::Result;
use crate::program::{Axis, Param, Scope};
use std::collections::HashSet;

/// Most threads of a CTA, and most bytes of shared memory that any architecture has.
const THREADS: u32 = 1024;
const SHARED: u32 = 227 << 10;
/// Most CTAs of a cluster on every GPU that has clusters.
const CLUSTER: u32 = 8;

impl Verifier<'_> {
    pub(super) fn declarations(&mut self) -> Result<()> {
        let program = self.program;
        self.place = "kernel".to_owned();
        self.rule(
            identifier(&program.name) == program.name,
            || format!("the name `{}`", program.name),
            "give a C identifier",
        )?;
        self.params()?;
        self.schedule()?;
        self.grid(&program.grid, &program.domain)?;
        self.shared()?;
        self.place = "channels".to_owned();
        let scheduled = program.level >= Level::Scheduled;
        self.rule(
            scheduled || program.channels.is_empty(),
            || "channels at level tile".to_owned(),
            "the schedule makes them",
        )?;
        let mut taken = HashSet::new();
        for channel in &program.channels {
            self.place = format!("channel `{}`", channel.name);
            self.rule(
                !channel.buffers.is_empty() && channel.buffers.iter().all(|buffer| taken.insert(*buffer)),
                || "no buffers, or one that another channel has".to_owned(),
                "give every channel buffers of its own",
            )?;
            for id in &channel.buffers {
                let stages = program.shared.get(id.0 as usize).map(|shared| shared.stages);
                self.rule(
                    stages == Some(channel.stages),
                    || format!("{} stages, and a buffer of {stages:?}", channel.stages),
                    "make the stages of a channel and of its buffers equal",
                )?;
            }
            self.copy_kind(channel.kind)?;
        }
        self.barriers()
    }

    fn params(&mut self) -> Result<()> {
        let program = self.program;
        for param in &program.params {
            match param {
                Param::Scalar { var, range: (low, high), multiple_of } => {
                    self.place = format!("parameter `{}`", var.name);
                    self.rule(
                        low <= high && *multiple_of >= 1,
                        || format!("range {low}..={high}, multiple of {multiple_of}"),
                        "give a range that is not empty and a positive divisor",
                    )?;
                    self.types(var.ty.is_compute(), var.ty, "a scalar parameter", "a compute type")?;
                    self.variable(var)?;
                }
                Param::Buffer { buffer, access } => {
                    self.place = format!("parameter `{}`", buffer.name);
                    let fresh = buffer.id < program.next_id && self.declared.insert(buffer.id);
                    self.rule(
                        fresh,
                        || format!("the number {} is not given yet, or given twice", buffer.id),
                        "make tensors with Builder::tensor",
                    )?;
                    self.access.insert(buffer.id, *access);
                }
            }
        }
        for param in &program.params {
            let Param::Buffer { buffer, .. } = param else { continue };
            self.place = format!("parameter `{}`", buffer.name);
            self.rule(
                buffer.scope == Scope::Global && buffer.shape.len() == buffer.strides.len(),
                || format!("{:?} memory, rank {}, {} strides", buffer.scope, buffer.shape.len(), buffer.strides.len()),
                "give a tensor in global memory a stride for each axis",
            )?;
            for e in buffer.shape.iter().chain(&buffer.strides) {
                self.scalar(e, "an extent or a stride", Type::Index)?;
            }
        }
        Ok(())
    }

    fn schedule(&mut self) -> Result<()> {
        let schedule = &self.program.schedule;
        self.place = "schedule".to_owned();
        self.rule((1..=THREADS / 32).contains(&schedule.warps), || format!("{} warps", schedule.warps), "use 1 to 32")?;
        self.threads = 32 * schedule.warps;
        self.rule(
            (1..=CLUSTER).contains(&schedule.cluster) && schedule.cluster.is_power_of_two(),
            || format!("clusters of {} CTAs", schedule.cluster),
            "use 1, 2, 4 or 8, which every GPU with clusters runs",
        )?;
        for stmt in &self.program.body {
            let Op::Roles(roles) = &stmt.op else { continue };
            let total = roles.iter().map(|role| u64::from(role.all_warps())).sum::<u64>();
            let what = || format!("roles of {total} warps together");
            self.rule(total * 32 <= THREADS.into(), what, "a CTA has up to 32 warps")?;
        }
        let registers = schedule.registers.map_or(vec![], |(copying, computing)| vec![copying, computing]);
        registers.into_iter().try_for_each(|count| self.registers(count))
    }

    /// A count that `setmaxnreg` takes.
    pub(super) fn registers(&self, count: u32) -> Result<()> {
        self.rule(
            (24..=256).contains(&count) && count.is_multiple_of(8),
            || format!("{count} registers a thread"),
            "use a multiple of 8 from 24 to 256",
        )
    }

    fn grid(&mut self, grid: &Grid, domain: &[Axis]) -> Result<()> {
        self.place = "grid".to_owned();
        if let Grid::Persistent { per_sm, count, points } = grid {
            self.rule(
                self.program.level >= Level::Scheduled && *per_sm >= 1,
                || format!("a persistent grid of {per_sm} an SM at level {}", self.program.level.name()),
                "the raster pass makes it, of at least one CTA an SM",
            )?;
            self.scalar(points, "the number of points", Type::Index)?;
            self.index_variable(count)?;
        }
        for axis in domain {
            self.scalar(&axis.extent, &format!("the extent of `{}`", axis.var.name), Type::Index)?;
        }
        domain.iter().try_for_each(|axis| self.index_variable(&axis.var))
    }

    fn shared(&mut self) -> Result<()> {
        let level = self.program.level;
        for shared in &self.program.shared {
            self.place = format!("shared `{}`", shared.name);
            self.rule(
                level >= Level::Scheduled,
                || "a shared buffer at level tile".to_owned(),
                "the schedule makes them",
            )?;
            self.rule(
                shared.dtype.bits() >= 8,
                || format!("{} elements share a byte", shared.dtype),
                "widen them before they are stored",
            )?;
            let bytes = size(&shared.shape)
                .and_then(|elements| elements.checked_mul(shared.dtype.bits() / 8)?.checked_mul(shared.stages))
                .filter(|bytes| (1..=SHARED).contains(bytes));
            self.rule(
                bytes.is_some(),
                || format!("{} stages of {:?}", shared.stages, shared.shape),
                "keep shared buffers within 227 KiB, and not empty",
            )?;
            let laid_out = level >= Level::LaidOut;
            self.rule(
                shared.layout.is_some() == laid_out,
                || format!("{} layout at level {}", if laid_out { "no" } else { "a" }, level.name()),
                "from level laid_out on every shared buffer has one",
            )?;
            if let Some(layout) = &shared.layout {
                self.rule(
                    layout.shape() == shared.shape
                        && u64::from(layout.element_bytes()) * 8 == shared.dtype.bits().into(),
                    || format!("{}{:?} with the layout {layout}", shared.dtype, shared.shape),
                    "lay out the buffer's own extents and element size",
                )?;
            }
            let end = shared.offset.map(|offset| offset.checked_add(bytes.unwrap_or(0)));
            self.rule(
                shared.offset.is_none() || level == Level::Async && end.flatten().is_some_and(|end| end <= SHARED),
                || format!("offset {:?} at level {}", shared.offset, level.name()),
                "places are given at level async, within 227 KiB",
            )?;
        }
        Ok(())
    }

    pub(super) fn copy_kind(&self, kind: CopyKind) -> Result<()> {
        let CopyKind::CpAsync(bytes) = kind else { return Ok(()) };
        self.rule(matches!(bytes, 4 | 8 | 16), || format!("cp.async of {bytes} bytes"), "use 4, 8 or 16")
    }

    fn barriers(&mut self) -> Result<()> {
        for barrier in &self.program.barriers {
            self.place = format!("barrier `{}`", barrier.name);
            self.rule(
                self.program.level == Level::Async,
                || format!("a barrier at level {}", self.program.level.name()),
                "the async pass makes them",
            )?;
            self.rule(
                barrier.stages >= 1 && (1..=THREADS).contains(&barrier.count),
                || format!("{} stages, {} arrivals", barrier.stages, barrier.count),
                "give at least one of each, and as many arrivals as there are threads at most",
            )?;
        }
        Ok(())
    }
}
