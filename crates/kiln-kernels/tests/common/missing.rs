//! Tables of instructions from which rows are missing.

use kiln_target::atoms::{AtomTable, CopyKind, MmaKind};

/// How the text of what goes begins, for other instructions of its kind may stand in the prelude; and the table without it.
type Step = (&'static str, fn(AtomTable) -> AtomTable);

const STEPS: [Step; 5] = [
    ("wgmma.mma", |atoms| atoms.keep_mma(|row| row.kind != MmaKind::Wgmma)),
    ("cp.async.bulk.tensor", |atoms| atoms.keep_copies(|row| !row.is_tensor())),
    ("cp.async.c", |atoms| atoms.keep_copies(|row| row.kind != CopyKind::Async)),
    ("ldmatrix", |atoms| atoms.keep_copies(|row| !matches!(row.kind, CopyKind::Matrix { .. }))),
    ("mma.sync", |atoms| atoms.keep_mma(|row| row.kind != MmaKind::Sync)),
];

/// The whole table, without wgmma, without TMA too, without cp.async, ldmatrix, mma.sync; with what kernels may not hold.
pub fn tables(all: AtomTable) -> Vec<(AtomTable, Vec<&'static str>)> {
    let mut tables = vec![(all, vec![])];
    for (name, remove) in STEPS {
        let (atoms, mut gone) = tables[tables.len() - 1].clone();
        gone.push(name);
        tables.push((remove(atoms), gone));
    }
    tables
}
