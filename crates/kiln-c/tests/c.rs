//! The interface from C, and from Rust with what C must not pass.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

use kiln_c::*;
use kiln_engine::{BuildOptions, Engine, Session, build, open_device};
use kiln_graph::{Builder, DType, Tensor};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::ptr::{null, null_mut};

/// `y = softmax(x @ w)` of any number of rows, and the sum of what `x` and `z` have.
fn saved(folder: &Path) -> PathBuf {
    let mut b = Builder::new("c");
    let rows = b.symbol("N", 1, 64);
    let x = b.input("x", DType::F32, &[rows, 5.into()]).unwrap();
    let z = b.input("z", DType::F32, &[5.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F32, &[5, 3], 3).unwrap()).unwrap();
    let y = b.matmul(x, w).and_then(|y| b.softmax(y, -1)).unwrap();
    let total = b.plus(x, z).unwrap();
    b.output("y", y);
    b.output("total", total);
    let path = folder.join("c.kiln");
    let options = BuildOptions::new(kiln_cuda::Home::at(folder));
    build(&b.finish(), &options, &|_| {}).unwrap().0.save(&path).unwrap();
    path
}

/// `examples/c/run.c` beside the library.
fn compiled(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Where cargo puts what the tests are linked with.
    let built = std::env::current_exe().unwrap().with_file_name("libkiln_c.so");
    std::os::unix::fs::symlink(built, folder.join("libkiln.so")).unwrap();
    let program = folder.join("run");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(root.join("include"));
    cc.arg(root.join("examples/c/run.c"))
        .arg("-L")
        .arg(folder)
        .args(["-lkiln", "-Wl,-rpath,$ORIGIN", "-o"])
        .arg(&program);
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn run(program: &Path, engine: &Path, device: &str) -> Output {
    Command::new(program).arg(engine).arg(device).output().unwrap()
}

#[test]
fn a_c_program_loads_an_engine_and_prints_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let (path, program) = (saved(folder.path()), compiled(folder.path()));
    let output = run(&program, &path, "cpu:1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let counting = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| 0.25 * i as f32).collect();
        Tensor::from_slice(shape, &values).unwrap()
    };
    let mut session = Session::new(&Engine::load(&path).unwrap(), open_device("cpu:1").unwrap()).unwrap();
    let expected = session.run(&[("x", &counting(&[2, 5])), ("z", &counting(&[5]))]).unwrap();
    assert_eq!(printed.lines().count(), 2, "{printed}");
    for ((name, tensor), line) in expected.iter().zip(printed.lines()) {
        let (head, values) = line.split_once(": ").unwrap();
        assert_eq!(head, format!("{name} {:?}", tensor.shape()));
        // Nine digits tell all f32 apart.
        let values: Vec<f64> = values.split(' ').map(|v| f64::from(v.parse::<f32>().unwrap())).collect();
        assert_eq!(values, tensor.to_f64_vec());
    }
    for (engine, device, why) in [
        (folder.path().join("none.kiln"), "cpu", "cannot load the engine: read"),
        (path.clone(), "tpu", "cannot use the device: `tpu` is not a device"),
        (path, "sim:sm_80", "target does not match: expected sm_80, found cpu"),
    ] {
        let output = run(&program, &engine, device);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains(why), "{text}");
    }
}

fn error() -> String {
    // SAFETY: a text of this thread.
    unsafe { CStr::from_ptr(kiln_error()) }.to_str().unwrap().to_owned()
}

/// The public key of RFC 8032's first example.
fn public_key() -> [u8; 32] {
    let text = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

#[test]
fn null_and_nonsense_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = c(saved(folder.path()).to_str().unwrap());
    let failed = |status: KilnStatus, why: &str| {
        assert_eq!(status, KILN_ERROR);
        assert!(error().contains(why), "expected `{why}`: {}", error());
    };
    // SAFETY: every pointer is null, or what it should be for the length that is said.
    unsafe {
        assert!(kiln_engine_load(null()).is_null());
        assert_eq!(error(), "`path` is null");
        assert!(kiln_engine_load(c"\xff.kiln".as_ptr()).is_null());
        assert!(error().contains("not UTF-8"), "{}", error());
        let key = c(folder.path().join("key").to_str().unwrap());
        std::fs::write(folder.path().join("key"), public_key()).unwrap();
        assert!(kiln_engine_load_signed(path.as_ptr(), key.as_ptr()).is_null());
        assert!(error().contains("signature: expected one at the end"), "{}", error());
        assert!(kiln_engine_load_signed(path.as_ptr(), null()).is_null());
        assert!(kiln_session_new(null(), c"cpu".as_ptr()).is_null());
        assert_eq!((error().as_str(), kiln_input_count(null())), ("`engine` is null", 0));
        let engine = kiln_engine_load(path.as_ptr());
        assert!(!engine.is_null(), "{}", error());
        assert_eq!((kiln_input_count(engine), kiln_output_count(engine)), (2, 2));
        let mut port = KilnPort { name: null(), dtype: 99, rank: 99, shape: null() };
        failed(kiln_input(engine, 2, &mut port), "there is no number 2: there are 2");
        failed(kiln_input(engine, 0, null_mut()), "`port` is null");
        assert_eq!(kiln_input(engine, 0, &mut port), KILN_OK);
        let shape = std::slice::from_raw_parts(port.shape, port.rank);
        assert_eq!((CStr::from_ptr(port.name), port.dtype, shape), (c"x", KILN_F32, &[KILN_SYMBOLIC, 5][..]));
        assert!(kiln_session_new(engine, null()).is_null());
        let session = kiln_session_new(engine, c"cpu:1".as_ptr());
        // It outlives its engine.
        kiln_engine_free(engine);
        let (x, z) = ([0.5f32; 10], [1f32; 5]);
        let bind = |name: &CStr, dtype, shape: &[i64], bytes| {
            kiln_bind(session, name.as_ptr(), dtype, shape.len(), shape.as_ptr(), x.as_ptr().cast(), bytes)
        };
        failed(kiln_run(session), "input `x`: missing");
        failed(bind(c"x", KILN_F32, &[2, 5], 36), "f32[2, 5] and 36 bytes do not go together");
        failed(bind(c"x", KILN_F64, &[1, 5], 40), "expected f32[N, 5], found f64[1, 5]");
        failed(bind(c"x", KILN_F32, &[10], 40), "expected f32[N, 5], found f32[10]");
        failed(bind(c"x", KILN_F32, &[-2, 5], 40), "-2 is no extent");
        failed(bind(c"x", KILN_F32, &[i64::MAX, i64::MAX], 40), "do not go together");
        failed(bind(c"w", KILN_F32, &[2, 5], 40), "the model has no such input");
        failed(bind(c"x", 17, &[2, 5], 40), "17 is no element type");
        failed(kiln_bind(session, c"x".as_ptr(), KILN_F32, 2, null(), x.as_ptr().cast(), 40), "`shape` is null");
        failed(kiln_bind(session, c"x".as_ptr(), KILN_F32, 2, [2, 5].as_ptr(), null(), 40), "`data` is null");
        failed(
            kiln_bind(session, c"x".as_ptr(), KILN_F32, usize::MAX, [2i64, 5].as_ptr(), null(), 0),
            "no memory holds",
        );
        assert_eq!(bind(c"x", KILN_F32, &[2, 5], 40), KILN_OK);
        assert_eq!(kiln_bind(session, c"z".as_ptr(), KILN_F32, 1, [5].as_ptr(), z.as_ptr().cast(), 20), KILN_OK);
        let mut total = [f32::NAN; 10];
        let mut read = |bytes| kiln_read(session, c"total".as_ptr(), total.as_mut_ptr().cast(), bytes);
        failed(read(40), "there is none before a run");
        assert_eq!(kiln_run(session), KILN_OK, "{}", error());
        failed(read(36), "takes 40 bytes; 36 were given");
        assert_eq!(read(40), KILN_OK);
        assert_eq!(total, [1.5; 10]);
        let mut shape = [0; 3];
        failed(kiln_output_shape(session, c"total".as_ptr(), 3, shape.as_mut_ptr()), "has 2 axes; there is room for 3");
        assert_eq!(kiln_output_shape(session, c"total".as_ptr(), 2, shape.as_mut_ptr()), KILN_OK);
        assert_eq!(shape, [2, 5, 0]);
        // Errors are a thread's own.
        std::thread::spawn(|| assert_eq!(error(), "")).join().unwrap();
        failed(kiln_run(null_mut()), "`session` is null");
        kiln_session_free(session);
        kiln_session_free(null_mut());
        kiln_engine_free(null_mut());
        assert_eq!(CStr::from_ptr(kiln_version()).to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    }
    let sizes = [(KILN_F64, 24), (KILN_BF16, 6), (KILN_I4, 2), (KILN_BOOL, 3), (17, 0)];
    assert!(sizes.iter().all(|&(dtype, bytes)| kiln_bytes(dtype, 3) == bytes));
    assert_eq!(kiln_bytes(KILN_F64, usize::MAX), 0);
}

/// Room at a multiple of 64 bytes.
#[repr(C, align(64))]
struct Room([f32; 16]);

#[test]
fn threads_share_an_engine_and_memory_is_the_caller_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = c(saved(folder.path()).to_str().unwrap());
    // SAFETY: every pointer is null, or what it should be for the length that is said; each session is one thread's at a time.
    unsafe {
        let engine = kiln_engine_load(path.as_ptr());
        let first = kiln_session_new(engine, c"cpu:1".as_ptr());
        kiln_engine_free(engine);
        assert!(kiln_session_fork(null()).is_null());
        assert_eq!(error(), "`session` is null");
        let sessions = [kiln_session_fork(first).expose_provenance(), first.expose_provenance()];
        std::thread::scope(|scope| {
            for (thread, session) in sessions.into_iter().enumerate() {
                scope.spawn(move || {
                    let session: *mut KilnSession = std::ptr::with_exposed_provenance_mut(session);
                    let mut rooms = [const { Room([0.0; 16]) }; 3];
                    let [x, z, total] = &mut rooms;
                    let values: Vec<f32> = (0..15).map(|i| (thread * 31 + i) as f32 * 0.5).collect();
                    x.0[..10].copy_from_slice(&values[..10]);
                    z.0[..5].copy_from_slice(&values[10..]);
                    let bind = |name: &CStr, shape: &[i64], at: *mut f32, bytes| {
                        kiln_bind_device(session, name.as_ptr(), shape.len(), shape.as_ptr(), at.cast(), bytes)
                    };
                    let failed =
                        |status, why: &str| assert!(status == KILN_ERROR && error().contains(why), "{}", error());
                    failed(bind(c"x", &[2, 5], null_mut(), 40), "address 0");
                    failed(bind(c"x", &[2, 5], x.0.as_mut_ptr().add(1), 40), "a multiple of 64");
                    failed(bind(c"x", &[-2, 5], x.0.as_mut_ptr(), 40), "-2 is no extent");
                    assert_eq!(bind(c"x", &[2, 5], x.0.as_mut_ptr(), 40), KILN_OK, "{}", error());
                    failed(bind(c"z", &[5], x.0.as_mut_ptr(), 40), "overlaps");
                    assert_eq!(bind(c"z", &[5], z.0.as_mut_ptr(), 20), KILN_OK, "{}", error());
                    let output = c"total".as_ptr();
                    assert_eq!(
                        kiln_bind_output(session, output, total.0.as_mut_ptr().cast(), 64),
                        KILN_OK,
                        "{}",
                        error()
                    );
                    assert_eq!((kiln_run(session), kiln_synchronize(session)), (KILN_OK, KILN_OK), "{}", error());
                    let mut done = 7;
                    assert_eq!((kiln_is_done(session, &mut done), done), (KILN_OK, 1));
                    failed(kiln_is_done(session, null_mut()), "`done` is null");
                    failed(kiln_wait_for_stream(session, null_mut()), "not supported");
                    failed(kiln_hold_stream(session, null_mut()), "not supported");
                    let expected = (0..10).map(|i| values[i] + values[10 + i % 5]).collect::<Vec<_>>();
                    assert_eq!(total.0[..10], expected);
                    assert_eq!(total.0[10..], [0.0; 6]);
                    assert_eq!(kiln_unbind_output(session, output), KILN_OK);
                    total.0 = [f32::NAN; 16];
                    assert_eq!(kiln_run(session), KILN_OK, "{}", error());
                    assert!(total.0.iter().all(|v| v.is_nan()));
                    kiln_session_free(session);
                });
            }
        });
    }
}
