//! Every broken rule gives an error that names the place and the remedy.

use kiln_tile::{Array, Builder, DType, Expr, ReduceOp, TileError, Worker, interp};

fn n(value: i64) -> Expr {
    Expr::index(value)
}

/// Error of a program over `x: f32[8] -> y: f32[8]` whose body is `build`.
fn error(worker: Worker, build: impl FnOnce(&mut Builder, &kiln_tile::Buffer, &kiln_tile::Buffer, &Expr)) -> String {
    let mut k = Builder::new("k", "");
    let x = k.input("x", DType::F32, &[n(8)]);
    let y = k.output("y", DType::F32, &[n(8)]);
    k.for_each(worker, &[("i", n(8))], |k, ix| build(k, &x, &y, &ix[0]));
    k.finish().expect_err("accepted").to_string()
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is missing from: {message}");
    }
}

#[test]
fn types() {
    let mixed = error(Worker::Thread, |k, x, y, i| k.store(y, [i], x.at([i]) + Expr::int(DType::I32, 1)));
    says(&mixed, &["k", "Add", "i32", "f32", "cast"]);
    let small = error(Worker::Thread, |k, x, y, i| {
        let half = x.at([i]).cast(DType::F16);
        k.store(y, [i], half.clone() + half);
    });
    says(&small, &["f16", "compute type"]);
    let not_float = error(Worker::Thread, |k, _, y, i| k.store(y, [i], i.exp().cast(DType::F32)));
    says(&not_float, &["Exp", "index"]);
    let index = error(Worker::Thread, |k, x, y, i| k.store(y, [&x.at([i])], x.at([i])));
    says(&index, &["index 0", "`y`", "f32"]);
}

#[test]
fn scopes() {
    let into_input = error(Worker::Thread, |k, x, _, i| k.store(x, [i], x.at([i])));
    says(&into_input, &["input", "`", "output"]);
    let from_output = error(Worker::Thread, |k, _, y, i| k.store(y, [i], y.at([i])));
    says(&from_output, &["load from an output", "in_out"]);
    let bare = error(Worker::Block, |k, x, y, i| k.store(y, [i], x.at([i])));
    says(&bare, &["block level", "parallel"]);
    let spread_thread = error(Worker::Thread, |k, x, y, i| {
        k.parallel(&[("j", n(8))], |k, j| k.store(y, [i], x.at(j)));
    });
    says(&spread_thread, &["parallel", "Worker::Thread"]);
    let nested = error(Worker::Block, |k, x, y, _| {
        k.parallel(&[("j", n(8))], |k, _| k.parallel(&[("l", n(8))], |k, l| k.store(y, l, x.at(l))));
    });
    says(&nested, &["already spread"]);
    let shared = error(Worker::Warp, |k, x, y, _| {
        let tile = k.shared("tile", DType::F32, &[8]);
        k.parallel(&[("j", n(8))], |k, j| k.store(&tile, j, x.at(j)));
        k.parallel(&[("j", n(8))], |k, j| k.store(y, j, tile.at(j)));
    });
    says(&shared, &["tile", "Worker::Block"]);
    let race = error(Worker::Block, |k, x, _, _| {
        let tile = k.shared("tile", DType::F32, &[8]);
        k.parallel(&[("j", n(8))], |k, j| k.store(&tile, j, x.at(j) + tile.at([n(0)])));
    });
    says(&race, &["tile", "barrier"]);
}

#[test]
fn variables() {
    let escaped = error(Worker::Thread, |k, x, y, i| {
        let mut leaked = None;
        k.for_range("j", 0, 4, |k, j| leaked = Some(k.bind("inner", x.at([j]))));
        k.store(y, [i], leaked.unwrap());
    });
    says(&escaped, &["inner", "outside"]);
    let raced = error(Worker::Block, |k, x, _, _| {
        let sum = k.declare("sum", Expr::float(DType::F32, 0.0));
        k.parallel(&[("j", n(8))], |k, j| k.assign(&sum, Expr::var(&sum) + x.at(j)));
    });
    says(&raced, &["sum", "reduce"]);
}

#[test]
fn shapes() {
    let rank = error(Worker::Thread, |k, x, y, i| k.store(y, [i, i], x.at([i])));
    says(&rank, &["2 indices", "rank 1"]);
    let outside = error(Worker::Thread, |k, x, y, i| k.store(y, [i], x.at([n(8)])));
    says(&outside, &["index 8", "extent 8"]);
    let tiles = error(Worker::Block, |k, _, _, _| {
        let a = k.shared("a", DType::F32, &[64, 16]);
        let b = k.shared("b", DType::F32, &[32, 64]);
        let acc = k.fragment("acc", DType::F32, &[64, 64]);
        k.gemm(&acc, &a, &b, false, false);
    });
    says(&tiles, &["[64, 16]", "[32, 64]", "agree"]);
    let sum_of_bool = error(Worker::Warp, |k, x, _, _| {
        k.reduce("r", ReduceOp::Sum, &[("j", n(8))], |_, j| x.at(j).lt(0.0));
    });
    says(&sum_of_bool, &["bool", "r"]);
}

#[test]
fn rows_of_accumulators() {
    let square = || [("i", n(32)), ("j", n(16))];
    let rows = |rows: u32| {
        error(Worker::Block, |k, _, _, _| {
            let acc = k.fragment("acc", DType::F32, &[32, 16]);
            let peak = k.fragment("peak", DType::F32, &[rows]);
            k.reduce_rows(&peak, ReduceOp::Max, square(), |_, ix| acc.at(ix));
        })
    };
    says(&rows(16), &["peak", "an element a row"]);
    let plain = error(Worker::Block, |k, _, _, _| {
        let acc = k.fragment("acc", DType::F32, &[32, 16]);
        let weights = k.fragment("weights", DType::F32, &[32, 16]);
        let b = k.shared("b", DType::F32, &[16, 16]);
        k.gemm(&acc, &weights, &b, false, false);
    });
    says(&plain, &["weights", "f16 or bf16"]);
    let itself = error(Worker::Block, |k, _, _, _| {
        let acc = k.fragment("acc", DType::F32, &[32, 16]);
        let b = k.shared("b", DType::F16, &[16, 16]);
        k.gemm(&acc, &acc, &b, false, false);
    });
    says(&itself, &["acc", "its own operand"]);
    let running = error(Worker::Block, |k, _, _, _| {
        let acc = k.fragment("acc", DType::F32, &[32, 16]);
        let peak = k.fragment("peak", DType::F32, &[32]);
        k.reduce_rows(&peak, ReduceOp::Max, square(), |_, ix| acc.at(ix).max(peak.at([&ix[0]])));
    });
    says(&running, &["peak", "what their values read"]);
    // What the layouts cannot do.
    let compiled = |build: &dyn Fn(&mut Builder, [&kiln_tile::Buffer; 4])| {
        let mut k = Builder::new("k", "");
        let y = k.output("y", DType::F32, &[n(32), n(32)]);
        let [a, b] = ["a", "b"].map(|name| k.shared(name, DType::F16, &[32, 32]));
        let acc = k.fragment("acc", DType::F32, &[32, 32]);
        let peak = k.fragment("peak", DType::F32, &[32]);
        k.threads(64);
        k.for_each(Worker::Block, &[("z", n(1))], |k, _| {
            k.fill(&acc, 0);
            for tile in [&a, &b] {
                k.copy(tile, &["i", "j"], |_| Expr::bool(true), |_, _| Expr::float(DType::F16, 1.0));
            }
            build(k, [&acc, &a, &peak, &y]);
        });
        kiln_tile::compile(&k.finish().unwrap(), kiln_target::arch::Arch::Sm80).unwrap_err().to_string()
    };
    let square = || [("i", n(32)), ("j", n(32))];
    let peaks = |k: &mut Builder, acc: &kiln_tile::Buffer, peak: &kiln_tile::Buffer| {
        k.reduce_rows(peak, ReduceOp::Max, square(), |_, ix| acc.at(ix));
    };
    // Rows of what no product accumulates.
    says(&compiled(&|k, [acc, _, peak, _]| peaks(k, acc, peak)), &["peak", "not laid out alike"]);
    let product = |k: &mut Builder, [acc, a, peak, _]: [&kiln_tile::Buffer; 4]| {
        k.gemm(acc, a, a, false, false);
        peaks(k, acc, peak);
    };
    let by_column = compiled(&|k, all @ [acc, _, peak, y]| {
        product(k, all);
        k.parallel(&square(), |k, ix| k.store(y, ix, acc.at(ix) - peak.at([&ix[1]])));
    });
    says(&by_column, &["peak", "the loop's own variables"]);
    let alone = compiled(&|k, all @ [_, a, peak, y]| {
        product(k, all);
        k.parallel(&square(), |k, ix| k.store(y, ix, a.at(ix).cast(DType::F32) - peak.at([&ix[0]])));
    });
    says(&alone, &["peak", "no accumulator"]);
    let of_a_tile = compiled(&|k, all @ [_, a, peak, _]| {
        product(k, all);
        k.reduce_rows(peak, ReduceOp::Max, square(), |_, ix| a.at(ix).cast(DType::F32));
    });
    says(&of_a_tile, &["peak", "no accumulator"]);
    // Four threads have a part of each row: each would add it.
    let summed = compiled(&|k, all @ [_, _, peak, _]| {
        product(k, all);
        k.reduce("sum", ReduceOp::Sum, &[("i", n(32))], |_, ix| peak.at(ix));
    });
    says(&summed, &["more than change fragments"]);
    let stored = compiled(&|k, all @ [_, _, peak, y]| {
        product(k, all);
        k.parallel(&[("i", n(32))], |k, ix| k.store(y, [&ix[0], &n(0)], peak.at(ix)));
    });
    says(&stored, &["more than change fragments"]);
}

#[test]
fn the_interpreter_checks_accesses_and_arguments() {
    let mut k = Builder::new("shifted", "y[i] = x[i + 1]");
    let count = k.dim("count", 1..=8);
    let x = k.input("x", DType::I32, std::slice::from_ref(&count));
    let y = k.output("y", DType::I32, std::slice::from_ref(&count));
    k.for_each(Worker::Thread, &[("i", count)], |k, i| k.store(&y, i, x.at([&i[0] + 1])));
    let program = k.finish().unwrap();
    let array = || interp::Arg::Array(Array::zeros(DType::I32, 4));
    let found = interp::run(&program, &mut [interp::Arg::dim(4), array(), array()]).unwrap_err();
    assert!(
        matches!(&found, TileError::OutOfBounds { buffer, index, .. } if buffer == "x" && index == &[4]),
        "{found}"
    );
    let found = interp::run(&program, &mut [interp::Arg::dim(9), array(), array()]).unwrap_err().to_string();
    says(&found, &["count", "9", "8"]);
    let found = interp::run(&program, &mut [interp::Arg::dim(4), array()]).unwrap_err().to_string();
    says(&found, &["2 arguments for 3"]);
}
