//! Declares parameters and the buffers on the chip.

use super::expr::small_float;
use super::{Lower, lanes};
use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::pass::layout::FragmentLayout;
use crate::pass::layout::tiled::Tiled;
use crate::program::{Access, Buffer, Param, Scope, Stmt, Worker};
use crate::thread::{CExpr, CStmt, CType};

/// Most static shared memory of one block, leaving room for what reductions use.
const STATIC_SHARED: u64 = 47 * 1024;

impl Lower<'_> {
    pub fn buffer_name(&self, buffer: &Buffer) -> String {
        self.buffers.get(&buffer.id).cloned().unwrap_or_else(|| buffer.name.clone())
    }

    pub fn element_type(&mut self, dtype: DType) -> &'static str {
        self.helpers.extend(small_float(dtype));
        match dtype {
            // Packed elements are read through their bytes.
            DType::I4 | DType::U4 => "unsigned char",
            dtype => CType::of(dtype, false).name(),
        }
    }

    pub fn params(&mut self) -> Vec<String> {
        let program = self.program;
        let mut params = vec![];
        for param in &program.params {
            params.push(match param {
                Param::Scalar { var, .. } => {
                    let ty = self.index_type(var);
                    format!("{} {}", ty.name(), self.name(var, ty))
                }
                Param::Buffer { buffer, access } => {
                    let element = self.element_type(buffer.dtype);
                    let name = self.names.fresh(&buffer.name);
                    self.buffers.insert(buffer.id, name.clone());
                    let constant = if *access == Access::Read { "const " } else { "" };
                    format!("{constant}{element}* __restrict__ {name}")
                }
            });
        }
        params
    }

    /// Declares fragments and shared tiles; returns the bytes of dynamic shared memory.
    pub fn locals(&mut self) -> Result<u32> {
        let program = self.program;
        let mut shared = vec![];
        for buffer in &program.buffers {
            let name = self.names.fresh(&buffer.name);
            self.buffers.insert(buffer.id, name.clone());
            let ty = self.element_type(buffer.dtype).to_owned();
            match buffer.scope {
                Scope::Shared => shared.push((buffer, name, ty, self.shared_elements(buffer))),
                _ => {
                    let dims = self.register_extents(buffer);
                    self.push(CStmt::Array { ty, name, dims, shared: false });
                    self.place_thread(buffer);
                }
            }
        }
        let bytes = |buffer: &Buffer, elements: u64| elements * u64::from(buffer.dtype.bits() / 8);
        let total: u64 = shared.iter().map(|(buffer, _, _, elements)| bytes(buffer, *elements)).sum();
        let limit = self.arch.max_shared_per_block();
        if total > limit.into() {
            return Err(TileError::Unsupported {
                kernel: program.name.clone(),
                arch: self.arch,
                what: format!("it needs {total} bytes of shared memory a block, {limit} exist"),
                help: "use fewer stages or smaller tiles".to_owned(),
            });
        }
        if total <= STATIC_SHARED {
            for (_, name, ty, elements) in shared {
                self.push(CStmt::Array { ty, name, dims: vec![elements], shared: true });
            }
            return Ok(0);
        }
        let pool = self.names.fresh("shared_memory");
        self.push(CStmt::DynamicShared(pool.clone()));
        let mut offset = 0;
        for (buffer, name, ty, elements) in shared {
            let start = CExpr::name(pool.clone()).op("+", CExpr::int(offset.into()));
            let value = CExpr::call(format!("reinterpret_cast<{ty}*>"), [start]);
            self.push(CStmt::Declare { ty: format!("{ty}* const"), name, value: Some(value), constant: false });
            offset += bytes(buffer, elements).next_multiple_of(16);
        }
        Ok(u32::try_from(offset).unwrap_or(u32::MAX))
    }

    /// Elements of a shared tile, all copies that a pipeline keeps of it counted.
    fn shared_elements(&self, buffer: &Buffer) -> u64 {
        let mut slots = 1;
        for stmt in &self.program.body {
            stmt.walk(&mut |s| {
                if let Stmt::Pipelined { var, body, .. } = s
                    && body.iter().any(|s| matches!(s, Stmt::Copy { dst, .. } if dst.id == buffer.id))
                {
                    slots = slots.max(self.layouts.slots(var));
                }
            });
        }
        u64::from(slots) * self.slot_elements(buffer)
    }

    /// Elements of one copy of a shared tile.
    pub fn slot_elements(&self, buffer: &Buffer) -> u64 {
        match self.layouts.shared(buffer) {
            Some(layout) => layout.elements(buffer),
            None => buffer.const_len().unwrap_or(0).next_multiple_of(u64::from(128 / buffer.dtype.bits())),
        }
    }

    /// Extents of a thread's part of a fragment.
    pub fn register_extents(&self, buffer: &Buffer) -> Vec<u64> {
        match self.layouts.fragment(buffer) {
            FragmentLayout::ThreadLocal => vec![buffer.const_len().unwrap_or(0)],
            FragmentLayout::Blocked => vec![self.blocked_registers(buffer).into()],
            FragmentLayout::Tiled(tiled) => tiled.registers().to_vec(),
            FragmentLayout::Slice(rows) => vec![rows.mi.into(), rows.halves.into()],
        }
    }

    /// Declares where this thread's part of a tiled fragment begins.
    fn place_thread(&mut self, buffer: &Buffer) {
        let FragmentLayout::Tiled(tiled) = self.layouts.fragment(buffer) else { return };
        if self.tiles.iter().any(|(known, _, _)| *known == tiled) {
            return;
        }
        let row = self.names.fresh(&format!("{}_row", buffer.name));
        let col = self.names.fresh(&format!("{}_col", buffer.name));
        let thread = CExpr::name("threadIdx.x");
        let int = |x: u32| CExpr::int(x.into());
        match tiled {
            Tiled::Mma { warps_n, mi, ni } => {
                let warp = thread.op("/", int(32));
                let across = if warps_n == 1 { int(0) } else { warp.clone().op("%", int(warps_n)) };
                self.push(CStmt::constant(&row, warp.op("/", int(warps_n)).op("*", int(mi * 16))));
                self.push(CStmt::constant(&col, across.op("*", int(ni * 8))));
            }
            Tiled::Simt { threads_n, run, .. } => {
                self.push(CStmt::constant(&row, thread.clone().op("/", int(threads_n))));
                self.push(CStmt::constant(&col, thread.op("%", int(threads_n)).op("*", int(run))));
            }
        }
        self.tiles.push((tiled, row, col));
    }

    /// Threads that share the loops of one worker.
    pub fn worker_threads(&self) -> u32 {
        if self.program.domain.worker == Worker::Block { self.program.threads } else { 32 }
    }

    /// Registers that each thread needs for its part of a blocked fragment.
    fn blocked_registers(&self, buffer: &Buffer) -> u32 {
        let len = buffer.const_len().unwrap_or(0);
        let mut width = 1;
        for stmt in &self.program.body {
            stmt.walk(&mut |s| {
                if let Stmt::Parallel { axes, .. } | Stmt::Reduce { axes, .. } = s
                    && lanes::touches(s, buffer)
                {
                    width = self.layouts.width(axes);
                }
            });
        }
        let stride = u64::from(self.worker_threads() * width);
        u32::try_from(len.div_ceil(stride)).unwrap_or(u32::MAX / width) * width
    }
}
