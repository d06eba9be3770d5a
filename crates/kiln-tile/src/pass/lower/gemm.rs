//! Lowers tile products: to `mma.sync` fed by `ldmatrix`, or to multiply-adds of each thread.
//!
//! Fragment layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".

use super::Lower;
use crate::dtype::DType;
use crate::error::Result;
use crate::expr::Expr;
use crate::pass::layout::FragmentLayout;
use crate::pass::layout::tiled::{SharedLayout, Tiled};
use crate::print::prelude::Helper;
use crate::program::{Buffer, Scope};
use crate::thread::{CExpr, CStmt, CType};

/// A shared tile, or an accumulator as left operand, and whether it is transposed.
type Operand<'b> = (&'b Buffer, bool);

impl Lower<'_> {
    /// Writes `acc += a * b`.
    pub fn gemm(&mut self, acc: &Buffer, a: Operand, b: Operand) -> Result<()> {
        let FragmentLayout::Tiled(tiled) = self.layouts.fragment(acc) else {
            return Err(self.internal(format!("`{}` has no layout of a product", acc.name)));
        };
        let depth = a.0.shape.get(usize::from(!a.1)).and_then(Expr::as_const).unwrap_or(0);
        match tiled {
            Tiled::Mma { mi, ni, .. } => self.mma(acc, a, b, tiled, (mi, ni), depth),
            Tiled::Simt { threads_n, mi, ni, run } => {
                self.multiply_add(acc, a, b, tiled, (threads_n, mi, ni, run), depth)
            }
        }
    }

    fn mma(
        &mut self,
        acc: &Buffer,
        a: Operand,
        b: Operand,
        tiled: Tiled,
        (mi, ni): (u32, u32),
        depth: i128,
    ) -> Result<()> {
        self.helpers.extend([Helper::LoadMatrix, Helper::Swizzle]);
        let (helper, function, pack_helper, pack) = match b.0.dtype {
            DType::F16 => (Helper::MmaF16, "mma_f16", Helper::PackF16, "pack_f16"),
            DType::BF16 => (Helper::MmaBf16, "mma_bf16", Helper::PackBf16, "pack_bf16"),
            other => return Err(self.internal(format!("the prelude has no matrix product of {other}"))),
        };
        self.helpers.insert(helper);
        let (row, col) = self.tile_start(tiled)?;
        let [kk, m, n, a_frag, b_frag] = ["kk", "mi", "ni", "a_frag", "b_frag"].map(|name| self.names.fresh(name));
        let [k, i, j] = [&kk, &m, &n].map(CExpr::name);
        let int = |x: u32| CExpr::int(x.into());
        let thread = || CExpr::name("threadIdx.x");
        let lane = || thread().infix("%", int(32));
        // Each lane names the row of one of the four 8x8 matrices that ldmatrix brings: of two halves of a k16 block by the upper lanes,
        // of two eights of rows by every other eight lanes.
        let half = || lane().infix("/", int(16)).infix("*", int(8));
        let eight = || lane().infix("/", int(8)).infix("%", int(2)).infix("*", int(8));
        let within = |lanes: u32| thread().infix("%", int(lanes));
        let a_row = row.infix("+", i.clone().infix("*", int(16)));
        let b_col = col.infix("+", j.clone().infix("*", int(16)));
        let (a_at, a_load) = if a.1 {
            ([k.clone().infix("+", half()).infix("+", within(8)), a_row.infix("+", eight())], "load_matrix_transposed")
        } else {
            ([a_row.infix("+", within(16)), k.clone().infix("+", half())], "load_matrix")
        };
        let (b_at, b_load) = if b.1 {
            ([b_col.infix("+", half()).infix("+", within(8)), k.clone().infix("+", eight())], "load_matrix")
        } else {
            ([k.clone().infix("+", within(16)), b_col.infix("+", half())], "load_matrix_transposed")
        };
        let load = |function: &str, fragment: CExpr, tile: String, cols: u32, at: [CExpr; 2]| {
            let address = CExpr::name(tile).infix("+", CExpr::call(format!("swizzled<{cols}>"), at));
            CStmt::Expr(CExpr::call(function, [fragment, address]))
        };
        let (a_regs, b_regs) = (CExpr::name(&a_frag), CExpr::name(&b_frag));
        let a_body = if a.0.scope == Scope::Fragment {
            // Two n8 blocks of an accumulator lie in the threads as a k16 block of an operand does.
            self.helpers.insert(pack_helper);
            let from = CExpr::name(self.buffer_name(a.0)).at(i.clone());
            let register = |r: u32| {
                let block = k.clone().infix("/", int(8));
                let block = from.clone().at(if r < 2 { block } else { block.infix("+", int(1)) });
                let element = |half: u32| block.clone().at(int(r % 2 * 2 + half));
                let value = CExpr::call(pack, [element(0), element(1)]);
                CStmt::Assign(a_regs.clone().at(i.clone()).at(int(r)), value)
            };
            (0..4).map(register).collect()
        } else {
            vec![load(a_load, a_regs.clone().at(i.clone()), self.buffer_name(a.0), self.columns(a.0), a_at)]
        };
        let b_body = load(b_load, b_regs.clone().at(j.clone()), self.buffer_name(b.0), self.columns(b.0), b_at);
        let b_pair = b_regs.at(j.clone().infix("/", int(2)));
        let b_first = j.clone().infix("%", int(2)).infix("*", int(2));
        let product = CStmt::Expr(CExpr::call(
            function,
            [
                CExpr::name(self.buffer_name(acc)).at(i.clone()).at(j),
                a_regs.at(i),
                b_pair.clone().at(b_first.clone()),
                b_pair.at(b_first.infix("+", int(1))),
            ],
        ));
        let array = |name: &str, count: u32| CStmt::Array {
            ty: "unsigned".to_owned(),
            name: name.to_owned(),
            dims: vec![count.into(), 4],
            shared: false,
        };
        let inner = CStmt::unrolled(n.clone(), ni.into(), vec![product]);
        let body = vec![
            array(&a_frag, mi),
            array(&b_frag, ni / 2),
            CStmt::unrolled(m.clone(), mi.into(), a_body),
            CStmt::unrolled(n.clone(), u64::from(ni / 2), vec![b_body]),
            CStmt::unrolled(m, mi.into(), vec![inner]),
        ];
        let (start, end, step) = (CExpr::int(0), CExpr::int(depth), CExpr::int(16));
        self.push(CStmt::For { ty: CType::Int, var: kk, start, end, step, unroll: true, body });
        Ok(())
    }

    fn columns(&self, tile: &Buffer) -> u32 {
        match self.layouts.shared(tile) {
            Some(SharedLayout::Swizzled { cols }) => cols,
            Some(SharedLayout::Padded { stride }) => stride,
            None => 0,
        }
    }

    fn multiply_add(
        &mut self,
        acc: &Buffer,
        a: Operand,
        b: Operand,
        tiled: Tiled,
        (threads_n, mi, ni, run): (u32, u32, u32, u32),
        depth: i128,
    ) -> Result<()> {
        let (row, col) = self.tile_start(tiled)?;
        let [kk, m, n, r, a_frag, b_frag, vector] =
            ["kk", "mi", "ni", "r", "a_frag", "b_frag", "b_run"].map(|name| self.names.fresh(name));
        let [k, i, j, e] = [&kk, &m, &n, &r].map(CExpr::name);
        let int = |x: u32| CExpr::int(x.into());
        let threads_m = self.program.threads / threads_n;
        let (a_tile, b_tile) = (CExpr::name(self.buffer_name(a.0)), CExpr::name(self.buffer_name(b.0)));
        let (a_stride, b_stride) = (int(self.columns(a.0)), int(self.columns(b.0)));
        let a_row = row.infix("+", i.clone().infix("*", int(threads_m)));
        let b_col = col.infix("+", j.clone().infix("*", int(threads_n * run)));
        let a_element = a_tile.at(if a.1 {
            k.clone().infix("*", a_stride).offset(a_row)
        } else {
            a_row.infix("*", a_stride).infix("+", k.clone())
        });
        let compute = acc.dtype;
        let ty = CType::of(compute, false).name().to_owned();
        let mut convert = |element: CExpr, dtype: DType| -> Result<CExpr> {
            let own = CType::of(dtype, false);
            Ok(self.cast((element, own), dtype, compute)?.0)
        };
        let a_value = convert(a_element, a.0.dtype)?;
        let b_registers = CExpr::name(&b_frag).at(j.clone());
        let b_body = if run == 1 {
            let element = b_tile.at(if b.1 {
                b_col.infix("*", b_stride).infix("+", k)
            } else {
                k.infix("*", b_stride).offset(b_col)
            });
            vec![CStmt::Assign(b_registers.clone().at(int(0)), convert(element, b.0.dtype)?)]
        } else {
            let value = convert(CExpr::name(&vector).at(e.clone()), b.0.dtype)?;
            let element = self.element_type(b.0.dtype);
            self.helpers.insert(Helper::Vec);
            let address = b_tile.infix("+", k.infix("*", b_stride)).offset(b_col);
            let assign = CStmt::Assign(b_registers.clone().at(e.clone()), value);
            vec![
                CStmt::Declare {
                    ty: format!("Vec<{element}, {run}>"),
                    name: vector,
                    value: Some(CExpr::call(format!("load<{run}>"), [address])),
                    constant: true,
                },
                CStmt::unrolled(r.clone(), run.into(), vec![assign]),
            ]
        };
        let a_registers = CExpr::name(&a_frag).at(i.clone());
        let target = CExpr::name(self.buffer_name(acc)).at(i).at(j).at(e.clone());
        let product = a_registers.clone().infix("*", b_registers.at(e));
        let update = CStmt::Assign(target.clone(), target.infix("+", product));
        let over_r = CStmt::unrolled(r, run.into(), vec![update]);
        let over_n = CStmt::unrolled(n.clone(), ni.into(), vec![over_r]);
        let array =
            |name: &str, dims: Vec<u64>| CStmt::Array { ty: ty.clone(), name: name.to_owned(), dims, shared: false };
        let body = vec![
            array(&a_frag, vec![mi.into()]),
            array(&b_frag, vec![ni.into(), run.into()]),
            CStmt::unrolled(m.clone(), mi.into(), vec![CStmt::Assign(a_registers, a_value)]),
            CStmt::unrolled(n, ni.into(), b_body),
            CStmt::unrolled(m, mi.into(), vec![over_n]),
        ];
        let (start, end, step) = (CExpr::int(0), CExpr::int(depth), CExpr::int(1));
        self.push(CStmt::For { ty: CType::Int, var: kk, start, end, step, unroll: false, body });
        Ok(())
    }
}
