//! Lowers tile products: to `mma.sync` fed by `ldmatrix`, or to multiply-adds of each thread.
//!
//! Fragment layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".

use super::Lower;
use crate::dtype::DType;
use crate::error::Result;
use crate::expr::Expr;
use crate::pass::layout::FragmentLayout;
use crate::pass::layout::tiled::{SharedLayout, Tiled};
use crate::print::expr as text;
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
        let (helper, function, pack_helper, pack) = if b.0.dtype == DType::F16 {
            (Helper::MmaF16, "mma_f16", Helper::PackF16, "pack_f16")
        } else {
            (Helper::MmaBf16, "mma_bf16", Helper::PackBf16, "pack_bf16")
        };
        self.helpers.insert(helper);
        let (row, col) = self.tile_start(tiled)?;
        let (row, col) = (text(&row), text(&col));
        let [kk, m, n, a_frag, b_frag] = ["kk", "mi", "ni", "a_frag", "b_frag"].map(|name| self.names.fresh(name));
        let lane = "threadIdx.x % 32";
        // Each lane names the row of one of the four 8x8 matrices that ldmatrix brings.
        let (a_at, a_load) = if a.1 {
            let k = format!("{kk} + {lane} / 16 * 8 + threadIdx.x % 8");
            ((k, format!("{row} + {m} * 16 + {lane} / 8 % 2 * 8")), "load_matrix_transposed")
        } else {
            let k = format!("{kk} + {lane} / 16 * 8");
            ((format!("{row} + {m} * 16 + threadIdx.x % 16"), k), "load_matrix")
        };
        let (b_at, b_load) = if b.1 {
            let n = format!("{col} + {n} * 16 + {lane} / 16 * 8 + threadIdx.x % 8");
            ((n, format!("{kk} + {lane} / 8 % 2 * 8")), "load_matrix")
        } else {
            let k = format!("{kk} + threadIdx.x % 16");
            ((k, format!("{col} + {n} * 16 + {lane} / 16 * 8")), "load_matrix_transposed")
        };
        let load = |function: &str, fragment: &str, number: &str, tile: String, cols: u32, at: (String, String)| {
            let address = format!("{tile} + swizzled<{cols}>({}, {})", at.0, at.1);
            let target = CExpr::name(fragment).at(CExpr::name(number));
            CStmt::Expr(CExpr::call(function, [target, CExpr::name(address)]))
        };
        let a_body = if a.0.scope == Scope::Fragment {
            // Two n8 blocks of an accumulator lie in the threads as a k16 block of an operand does.
            self.helpers.insert(pack_helper);
            let from = self.buffer_name(a.0);
            let register = |r: u32| {
                let block = if r < 2 { "" } else { " + 1" };
                let element = |half: u32| format!("{from}[{m}][{kk} / 8{block}][{}]", r % 2 * 2 + half);
                let value = CExpr::call(pack, [CExpr::name(element(0)), CExpr::name(element(1))]);
                CStmt::Assign(CExpr::name(format!("{a_frag}[{m}][{r}]")), value)
            };
            (0..4).map(register).collect()
        } else {
            vec![load(a_load, &a_frag, &m, self.buffer_name(a.0), self.columns(a.0), a_at)]
        };
        let b_body = load(b_load, &b_frag, &n, self.buffer_name(b.0), self.columns(b.0), b_at);
        let product = CStmt::Expr(CExpr::call(
            function,
            [
                CExpr::name(format!("{}[{m}][{n}]", self.buffer_name(acc))),
                CExpr::name(format!("{a_frag}[{m}]")),
                CExpr::name(format!("{b_frag}[{n} / 2][{n} % 2 * 2]")),
                CExpr::name(format!("{b_frag}[{n} / 2][{n} % 2 * 2 + 1]")),
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
        let (row, col) = (text(&row), text(&col));
        let [kk, m, n, r, a_frag, b_frag, vector] =
            ["kk", "mi", "ni", "r", "a_frag", "b_frag", "b_run"].map(|name| self.names.fresh(name));
        let threads_m = self.program.threads / threads_n;
        let (a_tile, b_tile) = (self.buffer_name(a.0), self.buffer_name(b.0));
        let (a_stride, b_stride) = (self.columns(a.0), self.columns(b.0));
        let a_row = format!("{row} + {m} * {threads_m}");
        let b_col = format!("{col} + {n} * {}", threads_n * run);
        let a_element = if a.1 {
            format!("{a_tile}[{kk} * {a_stride} + {a_row}]")
        } else {
            format!("{a_tile}[({a_row}) * {a_stride} + {kk}]")
        };
        let compute = acc.dtype;
        let ty = CType::of(compute, false).name().to_owned();
        let mut convert = |element: String, dtype: DType| -> Result<CExpr> {
            let own = CType::of(dtype, false);
            Ok(self.cast((CExpr::name(element), own), dtype, compute)?.0)
        };
        let a_value = convert(a_element, a.0.dtype)?;
        let b_registers = CExpr::name(b_frag.clone()).at(CExpr::name(n.clone()));
        let b_body = if run == 1 {
            let element = format!("{b_tile}[({b_col}) * {b_stride} + {kk}]");
            let element = if b.1 { element } else { format!("{b_tile}[{kk} * {b_stride} + {b_col}]") };
            vec![CStmt::Assign(b_registers.at(CExpr::int(0)), convert(element, b.0.dtype)?)]
        } else {
            let value = convert(format!("{vector}[{r}]"), b.0.dtype)?;
            let element = self.element_type(b.0.dtype);
            self.helpers.insert(Helper::Vec);
            let address = CExpr::name(format!("{b_tile} + {kk} * {b_stride} + {b_col}"));
            let assign = CStmt::Assign(b_registers.at(CExpr::name(r.clone())), value);
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
        let a_registers = CExpr::name(a_frag.clone()).at(CExpr::name(m.clone()));
        let target = CExpr::name(format!("{}[{m}][{n}][{r}]", self.buffer_name(acc)));
        let product = a_registers.clone().infix("*", CExpr::name(format!("{b_frag}[{n}][{r}]")));
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
