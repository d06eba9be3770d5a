//! Which tiles share registers. What must: an accumulator and the product added to it, what a loop carries and what it results in. What
//! may: a value that is made where another one of the same layout dies, element by element.

use crate::error::{Result, TileError};
use crate::ir::{Block, Op, Operand, Program, Stmt, ValueId};
use std::collections::HashMap;

/// A point in time: twice the number of a statement where it reads, one more where it writes or reads while it writes.
type Time = usize;

/// Where a value is made and used.
#[derive(Clone, Debug)]
struct Life {
    /// When it is written first.
    from: Time,
    /// When it is read last.
    until: Time,
    /// The blocks around, outermost first: the statement that holds each, and which of its blocks it is.
    path: Vec<(usize, usize)>,
    /// The statement that makes it.
    statement: usize,
}

/// Classes of values that share an array.
pub(super) struct Storage {
    parent: Vec<usize>,
    first: HashMap<usize, ValueId>,
    declared: HashMap<usize, Vec<usize>>,
}

struct Scan<'a> {
    program: &'a Program,
    lives: Vec<Option<Life>>,
    parent: Vec<usize>,
    /// Values of each class.
    members: Vec<Vec<usize>>,
    /// Pairs that had better share, in order of preference.
    wanted: Vec<(ValueId, ValueId)>,
    position: usize,
    path: Vec<(usize, usize)>,
    /// When the loops around start, and what they use of what is outside.
    loops: Vec<(Time, Vec<ValueId>)>,
}

impl Storage {
    /// Assigns arrays to the tiles of a program.
    pub fn of(program: &Program) -> Result<Storage> {
        let count = program.values.len();
        let mut scan = Scan {
            program,
            lives: vec![None; count],
            parent: (0..count).collect(),
            members: (0..count).map(|value| vec![value]).collect(),
            wanted: vec![],
            position: 0,
            path: vec![],
            loops: vec![],
        };
        scan.block(&program.body, (0, 0))?;
        for (a, b) in std::mem::take(&mut scan.wanted) {
            scan.join_if_free(a, b);
        }
        Ok(scan.finish())
    }

    /// The class of a tile.
    pub fn class(&self, id: ValueId) -> usize {
        find(&self.parent, id.0 as usize)
    }

    /// The classes whose arrays are declared before a statement.
    pub fn declared_at(&self, position: usize) -> Vec<usize> {
        self.declared.get(&position).cloned().unwrap_or_default()
    }

    /// The tile that a class is named after.
    pub fn first(&self, class: usize) -> ValueId {
        self.first.get(&class).copied().unwrap_or(ValueId(class as u32))
    }
}

fn find(parent: &[usize], mut value: usize) -> usize {
    while parent[value] != value {
        value = parent[value];
    }
    value
}

impl Scan<'_> {
    fn error(&self, id: ValueId, what: &str) -> TileError {
        TileError::Invalid {
            kernel: self.program.name.clone(),
            what: format!("the tile `{}` {what}", self.program.value(id).name),
            place: "sharing of registers".to_owned(),
            help: "this is a bug of the tile compiler".to_owned(),
        }
    }

    fn defined(&mut self, id: ValueId, statement: usize, from: Time) {
        self.lives[id.0 as usize] = Some(Life { from, until: from, path: self.path.clone(), statement });
    }

    /// Notes a use; what a loop uses of what is outside lives until its end, which is noted there.
    fn used(&mut self, id: ValueId, at: Time) -> Result<()> {
        let Some(life) = &mut self.lives[id.0 as usize] else {
            return Err(self.error(id, "is used before it is made"));
        };
        life.until = life.until.max(at);
        let from = life.from;
        for (start, outside) in &mut self.loops {
            if from < *start {
                outside.push(id);
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &Block, held: (usize, usize)) -> Result<()> {
        self.path.push(held);
        let result = block.iter().try_for_each(|stmt| self.stmt(stmt));
        self.path.pop();
        result
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        let statement = self.position;
        self.position += 1;
        let (read, write) = (2 * statement, 2 * statement + 1);
        match &stmt.op {
            Op::For { carried, body, yields, .. } => {
                for (_, first) in carried {
                    self.used(*first, read)?;
                }
                for ((inside, first), result) in carried.iter().zip(&stmt.results) {
                    self.defined(*inside, statement, write);
                    self.join(*inside, *result);
                    self.want(*inside, *first);
                }
                self.loops.push((write, vec![]));
                self.block(body, (statement, 0))?;
                let end = self.position;
                self.position += 1;
                for (value, (inside, _)) in yields.iter().zip(carried) {
                    self.used(*value, 2 * end)?;
                    self.want(*inside, *value);
                }
                let outside = self.loops.pop().map(|(_, outside)| outside).unwrap_or_default();
                for id in outside {
                    self.used(id, 2 * end + 1)?;
                }
                for result in &stmt.results {
                    self.defined(*result, statement, 2 * end + 1);
                }
            }
            Op::If { then, otherwise, .. } => {
                for (branch, (block, yields)) in [then, otherwise].into_iter().enumerate() {
                    self.block(block, (statement, branch))?;
                    let end = self.position;
                    self.position += 1;
                    for (value, result) in yields.iter().zip(&stmt.results) {
                        self.used(*value, 2 * end)?;
                        self.want(*result, *value);
                    }
                }
                for result in &stmt.results {
                    self.defined(*result, statement, 2 * self.position - 1);
                }
            }
            op => {
                for value in op.uses() {
                    let in_place = self.in_place(stmt, value);
                    self.used(value, if in_place { read } else { write })?;
                    if let (true, Some(result)) = (in_place, stmt.results.first()) {
                        self.wanted.push((value, *result));
                    }
                }
                for result in &stmt.results {
                    self.defined(*result, statement, write);
                }
                if let (Op::Dot { acc, .. }, Some(result)) = (op, stmt.results.first()) {
                    self.join(*acc, *result);
                }
                for (i, block) in op.blocks().into_iter().enumerate() {
                    self.block(block, (statement, i))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the statement makes each element of its only result after it has read the operand's element in the same register, and
    /// reads it nowhere else.
    fn in_place(&self, stmt: &Stmt, value: ValueId) -> bool {
        let [result] = stmt.results[..] else { return false };
        let alike = self.alike(value, result);
        match &stmt.op {
            Op::Map { .. } | Op::Convert { .. } => alike,
            Op::Transpose { perm, .. } => {
                let layout = |id: ValueId| self.program.value(id).layout.as_ref();
                let relabelled = layout(value).and_then(|layout| layout.transpose(perm).ok());
                relabelled.is_some() && relabelled.as_ref() == layout(result)
            }
            Op::Dot { a, b, acc, .. } => {
                let is = |operand: &Operand| matches!(operand, Operand::Tile(tile) if *tile == value);
                value == *acc && !is(a) && !is(b)
            }
            _ => false,
        }
    }

    /// Whether two values have the same type in the same registers.
    fn alike(&self, a: ValueId, b: ValueId) -> bool {
        let (a, b) = (self.program.value(a), self.program.value(b));
        a.dtype == b.dtype && a.layout == b.layout
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (find(&self.parent, a.0 as usize), find(&self.parent, b.0 as usize));
        if a != b {
            self.parent[b] = a;
            let moved = std::mem::take(&mut self.members[b]);
            self.members[a].extend(moved);
        }
    }

    /// Notes that two values had better share, if they can.
    fn want(&mut self, a: ValueId, b: ValueId) {
        if self.alike(a, b) {
            self.wanted.push((a, b));
        }
    }

    /// Lets two values share if no two values of what would be one class live at the same time.
    fn join_if_free(&mut self, a: ValueId, b: ValueId) {
        let (x, y) = (find(&self.parent, a.0 as usize), find(&self.parent, b.0 as usize));
        let apart = |p: &usize, q: &usize| match (&self.lives[*p], &self.lives[*q]) {
            (Some(p), Some(q)) => p.until < q.from || q.until < p.from,
            _ => true,
        };
        if x != y && self.members[x].iter().all(|p| self.members[y].iter().all(|q| apart(p, q))) {
            self.join(a, b);
        }
    }

    fn finish(self) -> Storage {
        let mut storage = Storage { parent: self.parent, first: HashMap::new(), declared: HashMap::new() };
        let mut starts: HashMap<usize, Life> = HashMap::new();
        for (value, life) in self.lives.iter().enumerate() {
            let Some(life) = life else { continue };
            let class = find(&storage.parent, value);
            let Some(start) = starts.get_mut(&class) else {
                starts.insert(class, life.clone());
                storage.first.insert(class, ValueId(value as u32));
                continue;
            };
            // The innermost block around both; if that is around the first one's, the array stands before the statement that holds it.
            let common = start.path.iter().zip(&life.path).take_while(|(a, b)| a == b).count();
            let holds = |path: &[(usize, usize)], statement: usize| path.get(common).map_or(statement, |block| block.0);
            start.statement = holds(&start.path, start.statement).min(holds(&life.path, life.statement));
            start.path.truncate(common);
            if life.from < start.from {
                start.from = life.from;
                storage.first.insert(class, ValueId(value as u32));
            }
        }
        for (class, start) in starts {
            storage.declared.entry(start.statement).or_default().push(class);
        }
        storage.declared.values_mut().for_each(|classes| classes.sort_unstable());
        storage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::expr::Expr;
    use crate::ir::{Builder, Place, Tile};
    use crate::program::ReduceOp;
    use kiln_layout::RegisterLayout;

    const SHAPE: [u32; 2] = [16, 16];

    /// The classes of a program whose tiles have the same blocked layout, slices where an axis has gone.
    fn classes(k: Builder) -> Storage {
        let mut program = k.finish().unwrap();
        for value in &mut program.values {
            let layout = RegisterLayout::blocked(&SHAPE, 128, 2, &[1, 0]).unwrap();
            value.layout = Some(if value.shape == SHAPE { layout } else { layout.slice(1).unwrap() });
        }
        Storage::of(&program).unwrap()
    }

    fn builder() -> (Builder, Tile) {
        let mut k = Builder::new("k", "");
        let zero = k.full("zero", DType::F32, &SHAPE, Expr::float(DType::F32, 0.0));
        (k, zero)
    }

    fn plus_one(k: &mut Builder, x: &Tile) -> Tile {
        k.map("plus_one", &SHAPE, &[x], |_, x, _| &x[0] + 1.0)
    }

    fn store(k: &mut Builder, x: &Tile) {
        let y = k.output("y", DType::F32, &SHAPE.map(|n| Expr::index(n.into())));
        let view = k.view(&y, &[Expr::index(0), Expr::index(0)], &SHAPE);
        k.store(Place::View(view), x);
    }

    #[test]
    fn a_chain_of_maps_has_one_array_and_a_value_that_lives_on_another() {
        let (mut k, zero) = builder();
        let one = plus_one(&mut k, &zero);
        let two = plus_one(&mut k, &one);
        let three = plus_one(&mut k, &two);
        let sum = k.map("sum", &SHAPE, &[&two, &three], |_, x, _| &x[0] + &x[1]);
        store(&mut k, &sum);
        let storage = classes(k);
        let class = |tile: &Tile| storage.class(tile.id);
        assert!(class(&zero) == class(&one) && class(&one) == class(&two));
        assert_ne!(class(&two), class(&three));
        assert!(class(&sum) == class(&two) || class(&sum) == class(&three));
    }

    /// An accumulator is not copied: first value, product, what the loop hands over and what it results in.
    #[test]
    fn what_a_loop_sums_has_one_array() {
        let (mut k, zero) = builder();
        let mut inside = vec![];
        let range = (Expr::index(0), Expr::index(9), 1);
        let last = k.for_range("i", range, None, std::slice::from_ref(&zero), |k, _, carried| {
            let scaled = k.map("scaled", &SHAPE, &[&carried[0]], |_, x, _| &x[0] * 2.0);
            let a = k.full("a", DType::F32, &SHAPE, Expr::float(DType::F32, 1.0));
            let product = k.dot(&a, &a, &scaled);
            inside = vec![carried[0].clone(), scaled, product.clone()];
            assert_ne!(a.id, product.id);
            vec![product]
        });
        store(&mut k, &last[0]);
        let storage = classes(k);
        assert!(inside.iter().chain(&last).all(|tile| storage.class(tile.id) == storage.class(zero.id)));
        assert_eq!(storage.declared_at(0), [storage.class(zero.id)]);
    }

    /// What is read after the next value is made keeps its array; so does what a later iteration reads.
    #[test]
    fn values_that_are_needed_later_are_not_overwritten() {
        let (mut k, zero) = builder();
        let outside = plus_one(&mut k, &zero);
        let mut parts = vec![];
        let range = (Expr::index(0), Expr::index(9), 1);
        let last = k.for_range("i", range, None, std::slice::from_ref(&outside), |k, _, carried| {
            let next = k.map("next", &SHAPE, &[&carried[0], &outside], |_, x, _| &x[0] + &x[1]);
            let both = k.map("both", &SHAPE, &[&next, &carried[0]], |_, x, _| &x[0] * &x[1]);
            let row = k.reduce("row", ReduceOp::Sum, &both, 1);
            let done = k.map("done", &SHAPE, &[&next, &row], |_, x, _| &x[0] + &x[1]);
            parts = vec![carried[0].clone(), next, row, done.clone()];
            vec![done]
        });
        store(&mut k, &last[0]);
        let storage = classes(k);
        let class = |tile: &Tile| storage.class(tile.id);
        let [carried, next, row, done] = &parts[..] else { panic!("four tiles") };
        assert_ne!(class(&outside), class(carried), "every iteration reads it");
        assert_ne!(class(carried), class(next), "it is read once more");
        assert_ne!(class(row), class(done));
        assert_eq!(class(carried), class(&last[0]));
    }
}
