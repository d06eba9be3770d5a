//! Models that are compiled on their first run, tuned while they run, and warm the next time. What measures is made up; what runs are real kernels on the simulator.
#![cfg(unix)]

use kiln::prelude::*;
use kiln::target::Target;
use kiln::tune::{Job, Made, Measure, Measured, Outcome, Problem, Record, Report, Task, Timings, append, code};
use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{Kept, SimDevice};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const DEVICE: &str = "sim:sm_80:fast";

#[kiln::model]
fn rows<B>(x: Tensor<f16, B, 64>) -> Tensor<f16, B, 48> {
    x.matmul(weight!("w", f16, [64, 48])).softmax(-1)
}

fn model(seed: u64) -> Model {
    Model::from(rows::graph().unwrap()).with_random_weights(seed).unwrap()
}

/// A `$KILN_HOME` of its own, with the compiler of the user's.
fn home() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let users = Home::from_env().unwrap();
    for shared in ["nvrtc", "cubins"] {
        std::fs::create_dir_all(users.root().join(shared)).unwrap();
        std::os::unix::fs::symlink(users.root().join(shared), folder.path().join(shared)).unwrap();
    }
    folder
}

/// A door that measuring waits at.
#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
    samples: AtomicUsize,
}

impl Door {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn samples(&self) -> usize {
        self.samples.load(Ordering::SeqCst)
    }
}

/// Says that a candidate is the faster the later the cost model ranks it.
struct Device {
    door: Arc<Door>,
    compiler: Compiler,
    now: Duration,
}

impl Device {
    fn behind(door: &Arc<Door>) -> Box<Device> {
        let home = Home::from_env().unwrap();
        let compiler = Compiler::new(&Nvrtc::discover(&home).unwrap()).with_cache(CubinCache::in_home(&home));
        Box::new(Device { door: door.clone(), compiler, now: Duration::ZERO })
    }
}

impl Measure for Device {
    fn elapsed(&self) -> Duration {
        self.now
    }

    fn measure(&mut self, _task: &Arc<Task>, jobs: &[Job], _until: Duration) -> kiln::tune::Result<Vec<Report>> {
        self.door.samples.fetch_add(1, Ordering::SeqCst);
        let open = self.door.open.lock().unwrap();
        // Not for ever: who never opens it drops the session, which waits for this.
        drop(self.door.opened.wait_timeout_while(open, Duration::from_millis(500), |open| !*open).unwrap());
        self.now += Duration::from_millis(10);
        let times = |job: &Job| Measured::Times(vec![1e-3 / (2.0 + job.candidate as f64); job.samples]);
        let report =
            |job: &Job| Report { candidate: job.candidate, measured: times(job), code: "code".into(), lasting: true };
        Ok(jobs.iter().map(report).collect())
    }

    fn code(&mut self, task: &Arc<Task>, candidate: usize) -> Result<Arc<Made>, String> {
        Ok(Arc::new(Made { code: "code".into(), ..Made::new(task, candidate, &self.compiler)? }))
    }
}

/// The engine that is kept for a GPU.
fn kept(home: &Path) -> Engine {
    let mut engines = std::fs::read_dir(home.join("engines")).unwrap().map(|entry| entry.unwrap().path());
    let engine = Engine::load(engines.next().unwrap()).unwrap();
    assert!(engines.next().is_none());
    engine
}

/// How its kernels are made.
fn configs(engine: &Engine) -> Vec<String> {
    let kernels = engine.target("sm_80").unwrap().kernels.values();
    kernels.flat_map(|made| &made.variants).map(|variant| variant.implementation.config.to_string()).collect()
}

const LONG: Duration = Duration::from_secs(3600);

/// Runs some rows, and holds what comes of them to the reference.
fn right(session: &mut Session, model: &Model, rows: usize) {
    let x = Tensor::random(DType::F16, &[rows, 64], 7 + rows as u64).unwrap();
    let expected = kiln::graph::interpret(model.graph(), std::slice::from_ref(&x)).unwrap();
    session.poison(0xcb).unwrap();
    let given = session.run(&[("x", &x)]).unwrap();
    let pairs = expected[0].to_f64_vec().into_iter().zip(given[0].1.to_f64_vec());
    let apart = pairs.map(|(e, g)| (e - g).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-3, "{rows}: {apart}");
}

#[test]
fn winners_take_over_between_two_runs_and_are_there_at_the_next_start() {
    let (home, model, door) = (home(), model(1), Arc::new(Door::default()));
    let jit = || EngineBuilder::new(&model).home(home.path()).jit(DEVICE);
    let mut session = jit().measure(Device::behind(&door)).tune(LONG).background().load().unwrap();
    // It runs at once, with what the cost model ranks first.
    right(&mut session, &model, 5);
    let before = configs(&kept(home.path()));
    let x = Tensor::random(DType::F16, &[3, 64], 3).unwrap();
    session.bind_tensor("x", &x).unwrap();
    session.run_bound().unwrap();
    let bound = session.output("output").unwrap();
    assert_eq!(session.swaps(), 0);
    door.open();
    let mut runs = 0;
    while session.swaps() == 0 {
        right(&mut session, &model, 5 + runs % 3);
        runs += 1;
        assert!(runs < 3000, "nothing came");
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = configs(&kept(home.path()));
    assert_ne!(before, after);
    // Shapes that were seen before and new ones; what was bound is bound.
    for rows in [5, 6, 33, 1] {
        right(&mut session, &model, rows);
    }
    session.bind_tensor("x", &x).unwrap();
    session.run_bound().unwrap();
    let close = session.output("output").unwrap().to_f64_vec().into_iter().zip(bound.to_f64_vec());
    assert!(close.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) < 1e-3);
    assert_eq!(session.swaps(), 1);
    drop(session);

    // The next start has them, and needs no compiler; nor is anything measured again.
    let measured = door.samples();
    std::fs::remove_file(home.path().join("nvrtc")).unwrap();
    let mut warm = jit().load().unwrap();
    right(&mut warm, &model, 5);
    let mut tuned = jit().measure(Device::behind(&door)).tune(LONG).load().unwrap();
    right(&mut tuned, &model, 5);
    assert_eq!((door.samples(), configs(&kept(home.path()))), (measured, after));
}

#[kiln::model]
fn gated(x: Tensor<f16, 96, 320>) -> Tensor<f16, 96, 832> {
    let gate = x.matmul(weight!("gate", f16, [320, 832])).silu();
    gate * x.matmul(weight!("up", f16, [320, 832]))
}

#[test]
fn what_is_tuned_is_fused_by_what_was_measured() {
    let (home, door) = (home(), Arc::new(Door::default()));
    let model = Model::from(gated::graph().unwrap()).with_random_weights(3).unwrap();
    let builder = || EngineBuilder::new(&model).home(home.path());
    let plain = builder().target("sm_80").unwrap().build().unwrap();
    let Target::Gpu(gpu) = Target::from_str("sm_80").unwrap() else { panic!() };
    let toolchain = plain.target("sm_80").unwrap().toolchain.clone().unwrap();
    let [both] = &plain.subjects("sm_80").unwrap()[..] else { panic!("{}", plain.targets[0].plan) };
    let way = kiln_kernels::candidates(&both.subject, &gpu).unwrap().remove(0);
    let slow = Record {
        problem: Problem::of(both.id, &both.subject, &gpu, &toolchain),
        sizes: Default::default(),
        family: way.family.to_string(),
        config: way.config.clone(),
        code: code(&way.make().unwrap().1),
        outcome: Outcome::Ns(vec![(4e9 * way.estimate.unwrap().seconds) as u64]),
    };
    let timings = home.path().join("slow.jsonl");
    append(&timings, &[slow]).unwrap();
    let steps = |name: &str| {
        let jit = builder().jit(DEVICE).measure(Device::behind(&door)).timings(Timings::file(home.path().join(name)));
        let session = jit.tune(Duration::ZERO).load();
        drop(session.unwrap());
        let steps = kept(home.path()).target("sm_80").unwrap().plan.steps.len();
        std::fs::remove_dir_all(home.path().join("engines")).unwrap();
        steps
    };
    assert_eq!((steps("none.jsonl"), steps("slow.jsonl")), (1, 2));
}

#[test]
fn a_session_that_goes_ends_tuning_and_what_was_found_stays() {
    let (home, model, door) = (home(), model(1), Arc::new(Door::default()));
    let timings = Timings::file(home.path().join("times.jsonl"));
    let jit = EngineBuilder::new(&model).home(home.path()).jit(DEVICE).timings(timings.clone());
    let mut session = jit.measure(Device::behind(&door)).tune(LONG).background().load().unwrap();
    right(&mut session, &model, 5);
    let before = configs(&kept(home.path()));
    while door.samples() == 0 {
        std::thread::yield_now();
    }
    drop(session);
    // One step was on its way, and nothing came after it.
    let samples = door.samples();
    assert!(samples <= 2, "{samples}");
    let known = timings.load().unwrap();
    assert!(known.records().count() > 0 && known.records().count() <= 8, "{known:?}");
    let mut warm = EngineBuilder::new(&model).home(home.path()).jit(DEVICE).load().unwrap();
    right(&mut warm, &model, 5);
    assert_ne!(configs(&kept(home.path())), before);
}

#[test]
fn where_nothing_is_to_be_tuned_a_model_runs_and_is_warm_the_second_time() {
    let (home, model) = (home(), model(2));
    for device in ["cpu", DEVICE] {
        for start in 0..2 {
            let jit = EngineBuilder::new(&model).home(home.path()).jit(device).tune(LONG).background();
            let mut session = jit.load().unwrap();
            right(&mut session, &model, 4);
            assert_eq!(session.swaps(), 0);
            let engines = std::fs::read_dir(home.path().join("engines")).unwrap().count();
            assert_eq!(engines, if device == "cpu" { 1 } else { 2 }, "{start}");
        }
    }
}

#[test]
fn all_kernels_are_replaced_or_none() {
    let (home, own, other, door) = (home(), model(1), model(2), Arc::new(Door::default()));
    door.open();
    EngineBuilder::new(&own).home(home.path()).jit(DEVICE).measure(Device::behind(&door)).tune(LONG).load().unwrap();
    let tuned = kept(home.path());
    let build = |model: &Model| EngineBuilder::new(model).home(home.path()).target("sm_80").unwrap().build().unwrap();
    let (ranked, others) = (build(&own), build(&other));
    assert_ne!(configs(&ranked), configs(&tuned));
    // What the simulator counts tells kernels apart.
    let counted = |engine: &Engine| {
        let (sender, counters) = std::sync::mpsc::channel();
        let device = SimDevice::new("sm_80", kiln_sim::Options::fast()).with_counters(sender);
        (Session::new(engine, Box::new(device)).unwrap(), counters)
    };
    let counts = |session: &mut Session, counters: &Receiver<(String, kiln_sim::CounterReport)>| {
        right(session, &own, 9);
        counters.try_iter().map(|(_, report)| format!("{report:?}")).collect::<Vec<String>>()
    };
    let (mut session, counters) = counted(&ranked);
    let (mut fresh, of_fresh) = counted(&tuned);
    let (before, after) = (counts(&mut session, &counters), counts(&mut fresh, &of_fresh));
    assert_ne!(before, after);
    // Another model's; and one of which the last kernel cannot be loaded.
    let e = session.swap(&others).unwrap_err();
    assert!(e.to_string().contains("graph hash does not match"), "{e}");
    let mut damaged = tuned.clone();
    let last = damaged.targets[0].kernels.values_mut().next_back().unwrap();
    last.variants[0].images[0].ptx = "no code".into();
    session.swap(&damaged).unwrap_err();
    assert_eq!((session.swaps(), counts(&mut session, &counters)), (0, before.clone()));
    session.swap(&tuned).unwrap();
    assert_eq!((session.swaps(), counts(&mut session, &counters)), (1, after.clone()));
    // And back.
    session.swap(&ranked).unwrap();
    assert_eq!((session.swaps(), counts(&mut session, &counters)), (2, before.clone()));
    // Sessions that share the code take it too, each before its next run; new ones have it.
    let mut fork = session.fork().unwrap();
    assert_eq!((fork.swaps(), counts(&mut fork, &counters)), (0, before));
    fork.swap(&tuned).unwrap();
    drop(fork);
    assert_eq!((counts(&mut session, &counters), session.swaps()), (after.clone(), 3));
    let mut late = session.fork().unwrap();
    drop(session);
    assert_eq!((late.swaps(), counts(&mut late, &counters)), (0, after));
}

#[test]
fn kernels_change_while_other_sessions_run() {
    let (home, model, door) = (home(), model(3), Arc::new(Door::default()));
    door.open();
    EngineBuilder::new(&model).home(home.path()).jit(DEVICE).measure(Device::behind(&door)).tune(LONG).load().unwrap();
    let tuned = kept(home.path());
    let ranked = EngineBuilder::new(&model).home(home.path()).target("sm_80").unwrap().build().unwrap();
    let mut session = ranked.session(DEVICE).unwrap();
    let running: Vec<Session> = (0..2).map(|_| session.fork().unwrap()).collect();
    let over = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads = running.into_iter().map(|mut fork| {
            let (model, over) = (&model, &over);
            scope.spawn(move || {
                let mut runs = 0;
                while over.load(Ordering::SeqCst) == 0 {
                    right(&mut fork, model, 1 + runs % 7);
                    runs += 1;
                }
                right(&mut fork, model, 5);
                fork.swaps()
            })
        });
        let threads: Vec<_> = threads.collect();
        for engine in [&tuned, &ranked].into_iter().cycle().take(20) {
            session.swap(engine).unwrap();
            right(&mut session, &model, 3);
        }
        over.store(1, Ordering::SeqCst);
        for thread in threads {
            let swaps = thread.join().unwrap();
            assert!((1..=20).contains(&swaps), "{swaps}");
        }
    });
}

#[test]
fn one_session_that_follows_brings_kernels_to_all() {
    let (home, model, door) = (home(), model(4), Arc::new(Door::default()));
    let jit = EngineBuilder::new(&model).home(home.path()).jit(DEVICE).measure(Device::behind(&door));
    let session = jit.tune(LONG).background().load().unwrap();
    let mut forks: Vec<Session> = (0..3).map(|_| session.fork().unwrap()).collect();
    // Tuning goes on as long as one of them is there.
    drop(session);
    forks.iter_mut().for_each(|fork| right(fork, &model, 5));
    door.open();
    let mut runs = 0;
    while forks.iter().any(|fork| fork.swaps() == 0) {
        forks.iter_mut().for_each(|fork| right(fork, &model, 5 + runs % 3));
        runs += 1;
        assert!(runs < 3000, "nothing came");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(forks.iter().all(|fork| fork.swaps() == 1));
}

#[kiln::model]
fn large<B>(x: Tensor<f32, B, 1024>) -> Tensor<f32, B, 2048> {
    x.matmul(weight!("w", f32, [1024, 2048]))
}

fn large_model(seed: u64) -> Model {
    Model::from(large::graph().unwrap()).with_random_weights(seed).unwrap()
}

/// What a process of its own does until it is killed.
#[test]
#[ignore = "run by processes_that_are_killed_leave_caches_and_outputs_whole in a process of its own"]
fn build_in_this_process() {
    let home = std::path::PathBuf::from(std::env::var_os("KILN_TEST_HOME").unwrap());
    for seed in (0..2).cycle() {
        let model = large_model(seed);
        let options = kiln_engine::BuildOptions::new(Home::at(&home));
        let kept = Kept::new(model.graph(), &kiln::target::Target::cpu(), &options).unwrap();
        let engine = EngineBuilder::new(&model).home(&home).build().unwrap();
        kept.store(&engine).unwrap();
        engine.save(home.join("out.kiln")).unwrap();
    }
}

/// Every engine there is whole: loading one checks all of its bytes.
fn whole(home: &Path) -> usize {
    let kept = std::fs::read_dir(home.join("engines")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let hidden = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    let all = kept.filter(|path| !hidden(path)).chain([home.join("out.kiln")].into_iter().filter(|path| path.exists()));
    let mut count = 0;
    for path in all {
        Engine::load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        count += 1;
    }
    count
}

#[test]
fn processes_that_are_killed_leave_caches_and_outputs_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = kiln::graph::Rng::new(std::process::id().into());
    for kill in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "jit::build_in_this_process"])
            .env("KILN_TEST_HOME", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Once it is at it, at any moment of it.
        while whole(folder.path()) < kill.min(3) {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(rng.range(0, 60_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        whole(folder.path());
    }
    // What is there is used, and right.
    let model = large_model(0);
    let mut session = EngineBuilder::new(&model).home(folder.path()).jit("cpu").load().unwrap();
    let x = Tensor::random(DType::F32, &[1, 1024], 1).unwrap();
    let expected = kiln::graph::interpret(model.graph(), std::slice::from_ref(&x)).unwrap();
    let given = session.run(&[("x", &x)]).unwrap();
    assert!(kiln_engine::Tolerance { rtol: 1e-4, atol: 1e-4 }.compare(&expected[0], &given[0].1).agrees());
}
