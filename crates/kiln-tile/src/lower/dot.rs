//! Products of tiles by the instructions of the atom table.

use super::Lower;
use crate::error::Result;
use crate::expr::{BinaryOp, Expr};
use crate::ir::{Operand, Slot, ValueId};
use crate::passes::machine::DotLayouts;
use crate::threads::{self as t, Atom, Binary, Function, Instruction, Place, Scalar, Stmt, Ty};
use kiln_layout::{Major, MatrixAccess, Mode, RegisterLayout, SharedLayout};
use kiln_num::Round;
use kiln_target::atoms::{CopyKind, MmaAtom, MmaKind, Source, Space};

impl Lower<'_> {
    /// Writes `result = acc + a * b`; the result has the registers of `acc`.
    pub(super) fn dot(
        &mut self,
        [a, b]: [&Operand; 2],
        acc: ValueId,
        tf32: Option<Round>,
        atom: Option<&str>,
    ) -> Result<()> {
        let Operand::Shared(right) = b else { return Err(self.internal("a right operand in registers")) };
        let atom = atom.and_then(|name| MmaAtom::ALL.iter().find(|row| row.name() == name));
        match atom {
            Some(atom) if atom.kind == MmaKind::Wgmma => self.wgmma(atom, a, right, acc, tf32),
            Some(atom) if atom.kind == MmaKind::Sync => self.mma(atom, a, right, acc, tf32),
            Some(_) => self.fma(a, right, acc, tf32),
            None => Err(self.internal("a product without an instruction")),
        }
    }

    /// The bits of a descriptor of what lies at `bytes`.
    fn descriptor(&mut self, name: &str, bits: u64, bytes: t::Expr) -> Result<t::Var> {
        let address = t::Expr::SharedAddress(Box::new(bytes));
        let units =
            address.op(Binary::And, t::Expr::Int(0x3ffff, Scalar::U32)).op(Binary::Shr, t::Expr::Int(4, Scalar::U32));
        let value = units.cast(Scalar::U64).op(Binary::Or, t::Expr::Int(bits.into(), Scalar::U64));
        let named = self.var(name, Ty::Scalar(Scalar::U64));
        self.push(Stmt::constant(&named, value));
        Ok(named)
    }

    fn wgmma(&mut self, atom: &MmaAtom, a: &Operand, b: &Slot, acc: ValueId, tf32: Option<Round>) -> Result<()> {
        let n = self.program.value(acc).shape[1];
        let accumulator = self.layout(acc)?;
        let parts = DotLayouts::of(atom, n, accumulator);
        let Some([repeats, _]) = parts.map(|parts| parts.repeats(atom, n)) else {
            return Err(self.internal("an accumulator that its instruction does not tile"));
        };
        let right = self.shared_layout(b.buffer)?.wgmma_descriptor(1, 0, n).ok_or_else(|| self.unfit(b))?;
        let bytes = self.slot(b)?;
        let b_first = self.descriptor("b_tile", right.bits(), bytes)?;
        let step =
            |first: &t::Var, bytes: u32| t::Expr::from(first).plus(t::Expr::Int((bytes >> 4).into(), Scalar::U64));
        let sums = self.array(acc)?;
        let each = n * atom.m / 128;
        let source = |major: Major| Source::Shared { mn_major: major == Major::Mn };
        let adds = !self.overwritten.contains(&acc);
        let product = |k: usize, repeat: u32, from: Source, operands: Vec<t::Expr>| {
            Stmt::Instruction(Instruction {
                atom: Atom::Mma { row: *atom, width: n, a: from, b: source(right.major) },
                accumulators: (0..each).map(|i| sums.place(t::Expr::int(repeat * each + i))).collect(),
                accumulate: adds || k > 0,
                results: vec![],
                operands,
            })
        };
        match a {
            Operand::Shared(slot) => {
                let left =
                    self.shared_layout(slot.buffer)?.wgmma_descriptor(0, 1, atom.m).ok_or_else(|| self.unfit(slot))?;
                let mut bytes = self.slot(slot)?;
                if self.threads()?.count > 128 {
                    let own = left.mn_offsets.get(repeats as usize).copied().unwrap_or(0);
                    let group = self.thread()? / 128 * i64::from(own);
                    let group = self.of_thread("group_rows", group)?;
                    bytes = bytes.plus(self.expr(&group)?);
                }
                let a_first = self.descriptor("a_tile", left.bits(), bytes)?;
                for (k, (deep_a, deep_b)) in left.k_offsets.iter().zip(&right.k_offsets).enumerate() {
                    for repeat in 0..repeats {
                        let rows = left.mn_offsets.get(repeat as usize).copied().unwrap_or(0);
                        let operands = vec![step(&a_first, deep_a + rows), step(&b_first, *deep_b)];
                        self.push(product(k, repeat, source(left.major), operands));
                    }
                }
            }
            Operand::Tile(value) => {
                let left = self.array(*value)?;
                let (word, words) = (atom.a.per_word(), atom.a_layout().registers() / atom.a.per_word());
                let steps = right.k_offsets.len() as u32;
                for (k, deep_b) in right.k_offsets.iter().enumerate() {
                    for repeat in 0..repeats {
                        let first = (repeat * steps + k as u32) * words * word;
                        let mut operands: Vec<t::Expr> =
                            (0..words).map(|i| rounded(tf32, packed(&left, first + word * i, word))).collect();
                        operands.push(step(&b_first, *deep_b));
                        self.push(product(k, repeat, Source::Registers, operands));
                    }
                }
            }
        }
        Ok(())
    }

    fn unfit(&self, slot: &Slot) -> crate::error::TileError {
        let name = &self.program.shared(slot.buffer).name;
        self.internal(format!("the instruction cannot read `{name}` as it lies in shared memory"))
    }

    fn mma(&mut self, atom: &MmaAtom, a: &Operand, b: &Slot, acc: ValueId, tf32: Option<Round>) -> Result<()> {
        let [m, n] = [0, 1].map(|axis| self.program.value(acc).shape[axis]);
        let depth = self.program.shared(b.buffer).shape[0];
        let width = atom.widths[0];
        let accumulator = self.layout(acc)?;
        let parts = DotLayouts::of(atom, width, accumulator);
        let (Some(parts), Some(b_part)) = (parts, atom.b_layout()) else {
            return Err(self.internal("an accumulator that its instruction does not tile"));
        };
        let [rows, columns] = parts.repeats(atom, width);
        let left = parts.left([m, depth]).map_err(|e| self.internal(e.to_string()))?;
        let right = parts.right([depth, n]).map_err(|e| self.internal(e.to_string()))?.unwrap_or(left.clone());
        let words = [atom.a_layout().registers() / atom.a.per_word(), b_part.registers() / atom.b.per_word()];
        let steps = depth / atom.k;
        let b_from = self.fragments("b", b, &right, (columns * words[1], atom.b.per_word()))?;
        let a_from = match a {
            // A run of instructions reads the steps of one row.
            Operand::Shared(slot) => Some(self.fragments("a", slot, &left, (steps * words[0], atom.a.per_word()))?),
            Operand::Tile(_) => None,
        };
        let together = a_from.as_ref().map_or(1, |from| (from.count() / words[0]).max(1));
        let word_type = |bytes: u32| if bytes == 8 { Scalar::F64 } else { Scalar::U32 };
        let a_words = self.var("a_words", Ty::Array(word_type(atom.a.bytes()), rows * together * words[0]));
        // As many columns at a time as their words stay in registers beside long rows of sums.
        let most = (MOST_FETCHED / words[1] / atom.b.bytes().div_ceil(4)).clamp(1, columns);
        let b_words = self.var("b_words", Ty::Array(word_type(atom.b.bytes()), most * words[1]));
        self.push(Stmt::declare(&a_words));
        self.push(Stmt::declare(&b_words));
        let sums = self.array(acc)?;
        let each = parts_registers(atom, width);
        let int = |x: u32| t::Expr::int(x);
        for k in 0..steps {
            if k.is_multiple_of(together) {
                for row in 0..rows {
                    let first = (row * steps + k) * words[0];
                    let to = |i: u32| a_words.place(int(row * together * words[0] + i));
                    match (a, &a_from) {
                        (Operand::Tile(value), _) => {
                            let from = self.array(*value)?;
                            let per = atom.a.per_word();
                            for i in 0..words[0] {
                                let word = packed(&from, (first + i) * per, per);
                                self.push(Stmt::Assign(to(i), rounded(tf32, word)));
                            }
                        }
                        (_, Some(from)) => {
                            let places = (0..together * words[0]).map(to).collect();
                            self.load_fragments(from, first, places, tf32)?;
                        }
                        _ => return Err(self.internal("a left operand that is nowhere")),
                    }
                }
            }
            for start in (0..columns).step_by(most as usize) {
                let here = most.min(columns - start);
                let places = (0..here * words[1]).map(|i| b_words.place(int(i))).collect();
                self.load_fragments(&b_from, (k * columns + start) * words[1], places, tf32)?;
                for row in 0..rows {
                    for column in 0..here {
                        let first = (row * columns + start + column) * each;
                        let at = (row * together + k % together) * words[0];
                        let mut operands: Vec<t::Expr> = (0..words[0]).map(|i| a_words.at(int(at + i))).collect();
                        operands.extend((0..words[1]).map(|i| b_words.at(int(column * words[1] + i))));
                        self.push(Stmt::Instruction(Instruction {
                            atom: Atom::Mma { row: *atom, width, a: Source::Registers, b: Source::Registers },
                            accumulators: (0..each).map(|i| sums.place(int(first + i))).collect(),
                            accumulate: true,
                            results: vec![],
                            operands,
                        }));
                    }
                }
            }
        }
        Ok(())
    }

    /// Gets ready to load an operand's fragments, in runs of so many words of so many elements: by `ldmatrix` where it reads the buffer as it
    /// lies, else an element at a time.
    fn fragments(
        &mut self,
        name: &str,
        slot: &Slot,
        registers: &RegisterLayout,
        (run, word): (u32, u32),
    ) -> Result<Fragments> {
        let layout = self.shared_layout(slot.buffer)?.clone();
        let base = self.slot(slot)?;
        let counts = [4, 2, 1].into_iter().filter(|count| run.is_multiple_of(*count));
        let there = |access: &MatrixAccess| self.atoms.copy(matrix_copy(access), Space::Registers).is_some();
        let access = counts.filter_map(|count| layout.matrix_access(registers, count)).find(there);
        let own = match &access {
            Some(access) => self.thread_bytes(&layout, &access.rows, Some(access))?,
            None => self.thread_bytes(&layout, registers, None)?,
        };
        let of = Scalar::of(self.program.shared(slot.buffer).dtype, false);
        Ok(Fragments { name: name.to_owned(), layout, registers: registers.clone(), access, own, base, of, word })
    }

    /// Loads the words from `first` on, in the order of the layout's registers, and rounds them.
    fn load_fragments(&mut self, from: &Fragments, first: u32, results: Vec<Place>, tf32: Option<Round>) -> Result<()> {
        let Some(access) = &from.access else {
            for (i, place) in results.into_iter().enumerate() {
                let number = first + i as u32;
                let mut elements = vec![];
                for register in number * from.word..(number + 1) * from.word {
                    let constant = from.layout.linear(&from.registers.coordinate(register, 0));
                    let own = self.swizzled(&from.name, &from.layout, &from.own, constant)?;
                    let bytes = Box::new(from.base.clone().plus(self.expr(&own)?));
                    elements.push(t::Expr::load(t::Expr::SharedPointer { to: from.of, bytes }, t::Expr::int(0)));
                }
                self.push(Stmt::Assign(place, rounded(tf32, word(from.of, elements))));
            }
            return Ok(());
        };
        let count = access.count;
        let row = self.atoms.copy(matrix_copy(access), Space::Registers).copied();
        let Some(row) = row else { return Err(self.internal("no such ldmatrix")) };
        for (instruction, places) in (first / count..).zip(results.chunks(count as usize)) {
            let constant = from.layout.linear(&access.row(instruction, 0));
            let own = self.swizzled(&from.name, &from.layout, &from.own, constant)?;
            let address = t::Expr::SharedAddress(Box::new(from.base.clone().plus(self.expr(&own)?)));
            let atom = Atom::Copy(row);
            let operands = vec![address];
            self.push(Stmt::Instruction(Instruction {
                atom,
                accumulators: vec![],
                accumulate: false,
                results: places.to_vec(),
                operands,
            }));
        }
        if tf32.is_some() {
            for place in results {
                let word = rounded(tf32, place.value());
                self.push(Stmt::Assign(place, word));
            }
        }
        Ok(())
    }

    /// The bytes, before the swizzle, of what a thread holds, or of the row that it points to, as far as they depend on the thread.
    pub(super) fn thread_bytes(
        &mut self,
        layout: &SharedLayout,
        registers: &RegisterLayout,
        rows: Option<&MatrixAccess>,
    ) -> Result<Expr> {
        let thread = self.thread()?;
        let mut sum = Expr::index(0);
        let mut weight = 1;
        for mode in registers.thread_modes() {
            if !mode.is_copies() {
                let unit = rows.filter(|rows| rows.axis == mode.axis).map_or(1, |rows| rows.elements);
                let scaled = Mode { stride: mode.stride * unit, ..*mode };
                for (divide, extent, bytes) in steps(layout, scaled) {
                    let digit = self.thread_digit(&thread, i64::from(weight * divide), extent)?;
                    sum = sum + digit * i64::from(bytes);
                }
            }
            weight *= mode.extent;
        }
        Ok(sum)
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

    /// Multiply-adds of threads, on runs of neighbours in shared memory.
    fn fma(&mut self, a: &Operand, b: &Slot, acc: ValueId, tf32: Option<Round>) -> Result<()> {
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
        let along = [unique(0), unique(1)];
        // How many neighbours one access takes, and whether they lie along the depth: then so many steps are taken at a time.
        let mut runs = [(1, false); 2];
        for (side, slot) in [a, b].into_iter().enumerate() {
            let shared = self.shared_layout(slot.buffer)?;
            let (deep, most) = (1 - side, (16 / shared.element_bytes()).min(MOST_RUN));
            let fits = |axis: usize, run: u32| match axis == deep {
                true => depth.is_multiple_of(run),
                false => dealt_in_runs(&layout, side, &along[side], run),
            };
            if let Some(axis) = shared.fastest() {
                let lies = shared.contiguous(axis);
                let widths = [4, 2, 1].into_iter().filter(|run| *run <= most && lies.is_multiple_of(*run));
                runs[side] = (widths.into_iter().find(|run| fits(axis, *run)).unwrap_or(1), axis == deep);
            }
        }
        let together = runs.iter().map(|(run, deep)| if *deep { *run } else { 1 }).max().unwrap_or(1);
        let step = self.counter("deep", depth / together, false);
        let own = self.thread_at(&layout)?;
        let counter = self.declare(&step);
        let body = self.nested(|lower| {
            let first = Expr::var(&step) * i64::from(together);
            let mut fetched = vec![];
            for (side, (slot, name)) in [(a, "a_column"), (b, "b_row")].into_iter().enumerate() {
                let shared = lower.shared_layout(slot.buffer)?.clone();
                let of = Scalar::of(lower.program.shared(slot.buffer).dtype, false);
                let array = lower.var(name, Ty::Array(total, along[side].len() as u32 * together));
                lower.push(Stmt::declare(&array));
                let base = lower.slot(slot)?;
                let (run, deep) = runs[side];
                let (across, down) = if deep { (1, run) } else { (run, 1) };
                for (i, places) in along[side].chunks(across as usize).enumerate() {
                    for k in (0..together).step_by(down as usize) {
                        let (place, at) = (&own[side] + i64::from(places[0]), &first + i64::from(k));
                        let at = if side == 0 { [place, at] } else { [at, place] };
                        let bytes = Box::new(base.clone().plus(lower.shared_bytes(&at, &shared)?));
                        let pointer = t::Expr::SharedPointer { to: of, bytes };
                        let loaded = t::Expr::load_lanes(pointer, t::Expr::int(0), run);
                        let lanes: Vec<t::Expr> = if run == 1 {
                            vec![loaded]
                        } else {
                            let vector = lower.var(&format!("{name}_v"), Ty::Vector(of, run));
                            lower.push(Stmt::constant(&vector, loaded));
                            (0..run).map(|lane| vector.at(t::Expr::int(lane))).collect()
                        };
                        for (lane, element) in (0..).zip(lanes) {
                            let narrow = of.is_small_float();
                            let element = match tf32 {
                                _ if narrow => t::Expr::call(Function::ToF32, [element]),
                                None => element,
                                tf32 => t::Expr::call(Function::FromBits(of), [rounded(tf32, bits(element))]),
                            };
                            let (place, k) = if deep { (i as u32, k + lane) } else { (i as u32 * across + lane, k) };
                            let to = array.place(t::Expr::int(place * together + k));
                            lower.push(Stmt::Assign(to, element.cast(total)));
                        }
                    }
                }
                fetched.push(array);
            }
            let find = |side: usize, place: u32| along[side].iter().position(|x| *x == place).unwrap_or(0) as u32;
            for k in 0..together {
                for (register, [row, column]) in places.iter().enumerate() {
                    let at = |side: usize, place: u32| fetched[side].at(t::Expr::int(find(side, place) * together + k));
                    let (x, y) = (at(0, *row), at(1, *column));
                    let sum = sums.at(t::Expr::int(register as u32));
                    let next = match total.is_float() {
                        true => t::Expr::call(Function::Fma, [x, y, sum]),
                        false => sum.plus(x.times(y)),
                    };
                    lower.push(Stmt::Assign(sums.place(t::Expr::int(register as u32)), next));
                }
            }
            Ok(())
        })?;
        let (start, end, one) = (t::Expr::int(0), t::Expr::int(depth / together), t::Expr::int(1));
        self.push(Stmt::For { var: counter, start, end, step: one, unroll: false, body });
        Ok(())
    }
}

/// Most registers for words of a right operand.
const MOST_FETCHED: u32 = 32;

/// Most neighbours that a thread which multiplies loads at once: all are in registers, of both operands, for each of its rows and columns.
const MOST_RUN: u32 = 4;

/// Whether every thread has places along an axis in aligned runs of so many neighbours.
fn dealt_in_runs(layout: &RegisterLayout, axis: usize, places: &[u32], run: u32) -> bool {
    let aligned = |mode: &Mode| mode.axis != axis || mode.is_copies() || mode.stride.is_multiple_of(run);
    let neighbours = |run: &[u32]| run.iter().zip(run[0]..).all(|(place, expected)| *place == expected);
    places.len().is_multiple_of(run as usize)
        && layout.thread_modes().iter().all(aligned)
        && places.chunks(run as usize).all(|chunk| chunk[0].is_multiple_of(run) && neighbours(chunk))
}

/// Fragments in shared memory, ready to be loaded.
struct Fragments {
    name: String,
    layout: SharedLayout,
    registers: RegisterLayout,
    /// How `ldmatrix` reads them, if it does.
    access: Option<MatrixAccess>,
    /// Bytes that depend on the thread.
    own: Expr,
    /// First byte of the slot.
    base: t::Expr,
    of: Scalar,
    /// Elements of a word.
    word: u32,
}

impl Fragments {
    /// Words that one instruction loads.
    fn count(&self) -> u32 {
        self.access.as_ref().map_or(1, |access| access.count)
    }
}

/// The instruction of an access.
pub(super) fn matrix_copy(access: &MatrixAccess) -> CopyKind {
    CopyKind::Matrix { count: access.count, trans: access.trans }
}

/// Registers of one instruction's sums.
fn parts_registers(atom: &MmaAtom, width: u32) -> u32 {
    atom.acc_layout(width).map_or(0, |layout| layout.registers())
}

/// The bits of a number.
fn bits(element: t::Expr) -> t::Expr {
    t::Expr::call(Function::Bits, [element])
}

/// A word that holds an f32, rounded to TF32 where that is said.
fn rounded(tf32: Option<Round>, word: t::Expr) -> t::Expr {
    tf32.map_or(word.clone(), |round| t::Expr::call(Function::RoundTf32(round), [word]))
}

/// `count` neighbouring registers of an array in one word, which it may hold already.
pub(super) fn packed(from: &t::Var, first: u32, count: u32) -> t::Expr {
    if count > 1 && from.ty().element() == Scalar::U32 {
        return from.at(t::Expr::int(first / count));
    }
    word(from.ty().element(), (0..count).map(|i| from.at(t::Expr::int(first + i))).collect())
}

/// Elements as an instruction takes them: f64 as it is, others in words of bits.
fn word(of: Scalar, mut elements: Vec<t::Expr>) -> t::Expr {
    match elements.len() {
        1 if of == Scalar::F64 => elements.remove(0),
        1 => bits(elements.remove(0)),
        _ => t::Expr::call(Function::Pack, elements),
    }
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
        let even =
            |extent: &u32| left.is_multiple_of(*extent) && (0..*extent).all(|digit| at(digit * divide) == digit * unit);
        let extent = (2..=left).rev().find(even).unwrap_or(left);
        out.push((divide, extent, unit));
        divide *= extent;
    }
    out
}
