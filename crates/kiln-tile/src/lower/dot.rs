//! Products of tiles by the instructions of the atom table.

use super::Lower;
use crate::error::Result;
use crate::expr::{BinaryOp, Expr};
use crate::ir::{Operand, Slot, ValueId};
use crate::passes::Machine;
use crate::threads::{self as t, Binary, Function, Instruction, Place, Scalar, Stmt, Ty};
use kiln_layout::{MatrixAccess, Mode, RegisterLayout, SharedLayout};

/// Rows of a warpgroup's instruction.
const GROUP_ROWS: u32 = 64;

impl Lower<'_> {
    /// Writes `result = acc + a * b`; the result has the registers of `acc`.
    pub(super) fn dot(
        &mut self,
        _result: ValueId,
        a: &Operand,
        b: &Operand,
        acc: ValueId,
        atom: Option<&str>,
    ) -> Result<()> {
        let Operand::Shared(right) = b else { return Err(self.internal("a right operand in registers")) };
        match atom {
            Some("wgmma") => self.wgmma(a, right, acc),
            Some("mma") => self.mma(a, right, acc),
            Some("fma") => self.fma(a, right, acc),
            _ => Err(self.internal("a product without an instruction")),
        }
    }

    fn shared_layout(&self, slot: &Slot) -> Result<&SharedLayout> {
        let buffer = self.program.shared(slot.buffer);
        buffer.layout.as_ref().ok_or_else(|| self.internal(format!("`{}` has no layout", buffer.name)))
    }

    /// The bits of a descriptor of what lies at `bytes`.
    fn descriptor(&mut self, name: &str, bits: u64, bytes: &Expr) -> Result<t::Var> {
        let address = t::Expr::SharedAddress(Box::new(self.expr(bytes)?));
        let units = address.op(Binary::And, t::Expr::Int(0x3ffff, Scalar::U32)).op(Binary::Shr, t::Expr::Int(4, Scalar::U32));
        let value = units.cast(Scalar::U64).op(Binary::Or, t::Expr::Int(bits.into(), Scalar::U64));
        let named = self.var(name, Ty::Scalar(Scalar::U64));
        self.push(Stmt::constant(&named, value));
        Ok(named)
    }

    fn wgmma(&mut self, a: &Operand, b: &Slot, acc: ValueId) -> Result<()> {
        let [m, n] = [0, 1].map(|axis| self.program.value(acc).shape[axis]);
        let groups = self.threads()?.count / 128;
        let repeats = m / GROUP_ROWS / groups.max(1);
        let dtype = self.program.shared(b.buffer).dtype;
        let unfit = |what: &str| format!("wgmma cannot read `{what}` as it lies in shared memory");
        let right = self.shared_layout(b)?.wgmma_descriptor(1, 0, n);
        let right = right.ok_or_else(|| self.internal(unfit(&self.program.shared(b.buffer).name)))?;
        let bytes = self.slot_bytes(b)?;
        let b_first = self.descriptor("b_tile", right.bits(), &bytes)?;
        let step = |first: &t::Var, bytes: u32| t::Expr::from(first).plus(t::Expr::Int((bytes >> 4).into(), Scalar::U64));
        let sums = self.array(acc)?;
        let sum = |repeat: u32| -> Vec<Place> {
            (0..n / 2).map(|i| sums.place(t::Expr::int(repeat * n / 2 + i))).collect()
        };
        let transposed = |major: kiln_layout::Major| t::Expr::int(i128::from(major == kiln_layout::Major::Mn));
        match a {
            Operand::Shared(slot) => {
                let left = self.shared_layout(slot)?.wgmma_descriptor(0, 1, GROUP_ROWS);
                let left = left.ok_or_else(|| self.internal(unfit(&self.program.shared(slot.buffer).name)))?;
                let mut bytes = self.slot_bytes(slot)?;
                if groups > 1 {
                    let own = left.mn_offsets.get(repeats as usize).copied().unwrap_or(0);
                    let group = self.thread()? / 128 * i64::from(own);
                    bytes = bytes + self.of_thread("group_rows", group)?;
                }
                let a_first = self.descriptor("a_tile", left.bits(), &bytes)?;
                for (k, (deep_a, deep_b)) in left.k_offsets.iter().zip(&right.k_offsets).enumerate() {
                    let _ = k;
                    for repeat in 0..repeats {
                        let rows = left.mn_offsets.get(repeat as usize).copied().unwrap_or(0);
                        self.push(Stmt::Instruction(Instruction {
                            atom: wgmma_name(n, dtype, true).into(),
                            accumulators: sum(repeat),
                            results: vec![],
                            operands: vec![
                                step(&a_first, deep_a + rows),
                                step(&b_first, *deep_b),
                                transposed(left.major),
                                transposed(right.major),
                            ],
                        }));
                    }
                }
            }
            Operand::Tile(value) => {
                let left = self.array(*value)?;
                let per_row = self.program.value(*value).shape[1] / 2;
                for (k, deep_b) in right.k_offsets.iter().enumerate() {
                    for repeat in 0..repeats {
                        let first = repeat * per_row + 8 * k as u32;
                        let word = |i: u32| packed(&left, first + 2 * i, 2);
                        let mut operands: Vec<t::Expr> = (0..4).map(word).collect();
                        operands.extend([step(&b_first, *deep_b), transposed(right.major)]);
                        self.push(Stmt::Instruction(Instruction {
                            atom: wgmma_name(n, dtype, false).into(),
                            accumulators: sum(repeat),
                            results: vec![],
                            operands,
                        }));
                    }
                }
            }
        }
        Ok(())
    }

    fn mma(&mut self, a: &Operand, b: &Slot, acc: ValueId) -> Result<()> {
        let shape = [0, 1].map(|axis| self.program.value(acc).shape[axis]);
        let dtype = self.program.shared(b.buffer).dtype;
        let depth = self.program.shared(b.buffer).shape[0];
        let layout = self.layout(acc)?.clone();
        let parts = Machine { arch: self.arch }
            .mma_operands(&layout, [shape[0], shape[1], depth])
            .map_err(|e| self.internal(format!("the operands of a product: {e}")))?;
        let sums = self.array(acc)?;
        let (rows, columns) = (parts.rows, parts.columns);
        let right = self.matrices("b", b, &parts.right)?;
        let left = match a {
            Operand::Shared(slot) => Some(self.matrices("a", slot, &parts.left)?),
            Operand::Tile(_) => None,
        };
        let a_words = self.var("a_words", Ty::Array(Scalar::U32, rows * 4));
        let b_words = self.var("b_words", Ty::Array(Scalar::U32, columns * 2));
        self.push(Stmt::declare(&a_words));
        self.push(Stmt::declare(&b_words));
        let int = |x: u32| t::Expr::int(x);
        for k in 0..depth / 16 {
            match (a, &left) {
                (Operand::Shared(_), Some(left)) => {
                    for row in 0..rows {
                        let to = (0..4).map(|i| a_words.place(int(row * 4 + i))).collect();
                        self.load_matrices(left, row * (depth / 16) + k, to)?;
                    }
                }
                (Operand::Tile(value), _) => {
                    let from = self.array(*value)?;
                    for row in 0..rows {
                        for i in 0..4 {
                            let word = packed(&from, row * (depth / 2) + 8 * k + 2 * i, 2);
                            self.push(Stmt::Assign(a_words.place(int(row * 4 + i)), word));
                        }
                    }
                }
                _ => return Err(self.internal("a left operand that is nowhere")),
            }
            // Two n8 blocks an instruction, if there are two.
            let count = right.access.count / 2;
            for pair in 0..columns / count {
                let to = (0..2 * count).map(|i| b_words.place(int(pair * 2 * count + i))).collect();
                self.load_matrices(&right, k * (columns / count) + pair, to)?;
            }
            for row in 0..rows {
                for column in 0..columns {
                    let first = (row * columns + column) * 4;
                    let mut operands: Vec<t::Expr> = (0..4).map(|i| a_words.at(int(row * 4 + i))).collect();
                    operands.extend((0..2).map(|i| b_words.at(int(column * 2 + i))));
                    self.push(Stmt::Instruction(Instruction {
                        atom: mma_name(dtype).into(),
                        accumulators: (0..4).map(|i| sums.place(int(first + i))).collect(),
                        results: vec![],
                        operands,
                    }));
                }
            }
        }
        Ok(())
    }

    /// Gets ready to load an operand's fragments by `ldmatrix`.
    fn matrices(&mut self, name: &str, slot: &Slot, registers: &RegisterLayout) -> Result<Matrices> {
        let layout = self.shared_layout(slot)?.clone();
        let access = [4, 2].into_iter().find_map(|count| layout.matrix_access(registers, count));
        let Some(access) = access else {
            let buffer = self.program.shared(slot.buffer).name.clone();
            return Err(self.internal(format!("ldmatrix cannot read `{buffer}` as it lies in shared memory")));
        };
        let own = self.thread_bytes(&layout, &access)?;
        let base = self.slot_bytes(slot)?;
        Ok(Matrices { name: name.to_owned(), layout, access, own, base })
    }

    /// The bytes, before the swizzle, of the row that a thread points to, as far as that depends on the thread.
    fn thread_bytes(&mut self, layout: &SharedLayout, access: &MatrixAccess) -> Result<Expr> {
        let thread = self.thread()?;
        let mut sum = Expr::index(0);
        let mut weight = 1;
        for mode in access.rows.thread_modes() {
            if !mode.is_copies() {
                let unit = if mode.axis == access.axis { access.elements } else { 1 };
                let scaled = Mode { stride: mode.stride * unit, ..*mode };
                for (divide, extent, bytes) in steps(layout, scaled) {
                    let digit = &thread / i64::from(weight * divide) % i64::from(extent);
                    sum = sum + digit * i64::from(bytes);
                }
            }
            weight *= mode.extent;
        }
        Ok(sum)
    }

    fn load_matrices(&mut self, from: &Matrices, instruction: u32, results: Vec<Place>) -> Result<()> {
        let constant = from.layout.linear(&from.access.row(instruction, 0));
        let address = self.swizzled(&from.name, &from.layout, &from.own, constant)?;
        let bytes = &from.base + address;
        let address = t::Expr::SharedAddress(Box::new(self.expr(&bytes)?));
        let trans = if from.access.trans { ".trans" } else { "" };
        let atom = format!("ldmatrix.x{}{trans}", from.access.count).into();
        self.push(Stmt::Instruction(Instruction { atom, accumulators: vec![], results, operands: vec![address] }));
        Ok(())
    }

    /// The byte at `own + constant`, after the swizzle, of which what repeats beyond the swizzle's period is added last: the rest depends on the
    /// thread alone.
    pub(super) fn swizzled(&mut self, name: &str, layout: &SharedLayout, own: &Expr, constant: u32) -> Result<Expr> {
        let swizzle = layout.swizzle();
        if swizzle.bits() == 0 {
            let own = self.of_thread(&format!("{name}_row"), own.clone())?;
            return Ok(own + i64::from(constant));
        }
        let (high, low) = (constant / swizzle.period() * swizzle.period(), constant % swizzle.period());
        let linear = own + i64::from(low);
        let crossed = (&linear / (1i64 << swizzle.shift())).binary(BinaryOp::And, i64::from(swizzle.mask()));
        let place = self.of_thread(&format!("{name}_row"), linear.binary(BinaryOp::Xor, crossed))?;
        Ok(place + i64::from(high))
    }

    /// The first byte of a slot.
    pub(super) fn slot_bytes(&self, slot: &Slot) -> Result<Expr> {
        let buffer = self.program.shared(slot.buffer);
        let (Some(layout), Some(offset)) = (&buffer.layout, buffer.offset) else {
            return Err(self.internal(format!("`{}` has no place", buffer.name)));
        };
        let crate::ir::Stage::Index(stage) = &slot.stage else {
            return Err(self.internal(format!("a slot of `{}` is still a cursor", buffer.name)));
        };
        Ok(stage * i64::from(layout.stage_bytes()) + i64::from(offset))
    }

    /// Multiply-adds of threads.
    fn fma(&mut self, a: &Operand, b: &Slot, acc: ValueId) -> Result<()> {
        let Operand::Shared(a) = a else { return Err(self.internal("a left operand in registers")) };
        let layout = self.layout(acc)?.clone();
        let depth = self.program.shared(b.buffer).shape[0];
        let sums = self.array(acc)?;
        let total = Scalar::of(self.program.value(acc).dtype, false);
        let places: Vec<[u32; 2]> = (0..layout.registers())
            .map(|register| {
                let at = layout.coordinate(register, 0);
                [at[0], at[1]]
            })
            .collect();
        let unique = |axis: usize| {
            let mut all: Vec<u32> = places.iter().map(|at| at[axis]).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let (rows, columns) = (unique(0), unique(1));
        let step = self.counter("deep", depth, false);
        let own = [self.axis_part(&layout, 0)?, self.axis_part(&layout, 1)?];
        let counter = self.declare(&step);
        let body = self.nested(|lower| {
            let mut fetch = |slot: &Slot, name: &str, along: &[u32], own: &Expr, rows_first: bool| -> Result<t::Var> {
                let layout = lower.shared_layout(slot)?.clone();
                let dtype = lower.program.shared(slot.buffer).dtype;
                let of = Scalar::of(dtype, false);
                let array = lower.var(name, Ty::Array(total, along.len() as u32));
                lower.push(Stmt::declare(&array));
                let base = lower.slot_bytes(slot)?;
                for (i, place) in along.iter().enumerate() {
                    let place = own + i64::from(*place);
                    let at = if rows_first { [place, Expr::var(&step)] } else { [Expr::var(&step), place] };
                    let bytes = &base + layout_bytes(&layout, &at);
                    let bytes = Box::new(lower.expr(&bytes)?);
                    let pointer = t::Expr::SharedPointer { to: of, bytes };
                    let element = t::Expr::load(pointer, t::Expr::int(0));
                    let element = if of.is_small_float() { t::Expr::call(Function::ToF32, [element]) } else { element };
                    lower.push(Stmt::Assign(array.place(t::Expr::int(i as u32)), element.cast(total)));
                }
                Ok(array)
            };
            let left = fetch(a, "a_column", &rows, &own[0], true)?;
            let right = fetch(b, "b_row", &columns, &own[1], false)?;
            for (register, [row, column]) in places.iter().enumerate() {
                let find = |all: &[u32], place: &u32| t::Expr::int(all.iter().position(|x| x == place).unwrap_or(0) as u32);
                let (x, y) = (left.at(find(&rows, row)), right.at(find(&columns, column)));
                let sum = sums.at(t::Expr::int(register as u32));
                let next = if total.is_float() { t::Expr::call(Function::Fma, [x, y, sum]) } else { sum.plus(x.times(y)) };
                lower.push(Stmt::Assign(sums.place(t::Expr::int(register as u32)), next));
            }
            Ok(())
        })?;
        let (start, end, one) = (t::Expr::int(0), t::Expr::int(depth), t::Expr::int(1));
        self.push(Stmt::For { var: counter, start, end, step: one, unroll: false, body });
        Ok(())
    }

    /// What the thread adds to coordinates along an axis.
    fn axis_part(&mut self, layout: &RegisterLayout, axis: usize) -> Result<Expr> {
        let thread = self.thread()?;
        let mut sum = Expr::index(0);
        let mut weight = 1;
        for mode in layout.thread_modes() {
            if mode.axis == axis && !mode.is_copies() {
                sum = sum + &thread / i64::from(weight) % i64::from(mode.extent) * i64::from(mode.stride);
            }
            weight *= mode.extent;
        }
        self.of_thread("part", sum)
    }
}

/// Fragments in shared memory, ready to be loaded.
struct Matrices {
    name: String,
    layout: SharedLayout,
    access: MatrixAccess,
    /// Bytes that depend on the thread.
    own: Expr,
    /// First byte of the slot.
    base: Expr,
}

/// `count` neighbouring registers of an array in one word.
fn packed(from: &t::Var, first: u32, count: u32) -> t::Expr {
    t::Expr::call(Function::Pack, (0..count).map(|i| from.at(t::Expr::int(first + i))))
}

/// The digits of a mode by how far each goes in memory: what the index is divided by, the digit's extent, bytes a value.
fn steps(layout: &SharedLayout, mode: Mode) -> Vec<(u32, u32, u32)> {
    let at = |value: u32| {
        let mut coordinate = vec![0; layout.axes().len()];
        coordinate[mode.axis] = value * mode.stride;
        layout.linear(&coordinate)
    };
    let mut out = vec![];
    let mut divide = 1;
    while divide < mode.extent {
        let left = mode.extent / divide;
        let unit = at(divide);
        let even = |extent: &u32| left % extent == 0 && (0..*extent).all(|digit| at(digit * divide) == digit * unit);
        let extent = (2..=left).rev().find(even).unwrap_or(left);
        out.push((divide, extent, unit));
        divide *= extent;
    }
    out
}

/// The byte of an element, as an expression of its coordinates; layouts without swizzle.
fn layout_bytes(layout: &SharedLayout, at: &[Expr; 2]) -> Expr {
    let mut sum = Expr::index(0);
    for (steps, place) in layout.axes().iter().zip(at) {
        let mut rest = place.clone();
        for (i, step) in steps.iter().enumerate() {
            let digit = if i + 1 == steps.len() { rest.clone() } else { &rest % i64::from(step.extent) };
            sum = sum + digit * i64::from(step.stride * layout.element_bytes());
            rest = rest / i64::from(step.extent);
        }
    }
    sum
}

fn wgmma_name(n: u32, dtype: crate::dtype::DType, shared: bool) -> String {
    format!("wgmma.m64n{n}k16.f32.{dtype}.{}", if shared { "ss" } else { "rs" })
}

fn mma_name(dtype: crate::dtype::DType) -> String {
    format!("mma.m16n8k16.f32.{dtype}")
}
