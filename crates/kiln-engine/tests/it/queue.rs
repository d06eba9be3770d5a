//! Runs that are queued, and what is said of those that fail.

use crate::models::{engine_at, home};
use bytes::Bytes;
use kiln_engine::{
    Action, Arguments, Device, Engine, Error, KernelId, MemId, Module, Place, Prepared, RecordingId, Result, Session,
    SimDevice, UserMemory, UserStream, open_device,
};
use kiln_graph::{Bindings, Builder, DType, Graph, Tensor, interpret};

/// A simulator that tells of faults when it is waited for, as a GPU does. It notes one at most.
struct Late {
    sim: SimDevice,
    fault: Option<Error>,
}

impl Late {
    fn new() -> Late {
        Late { sim: SimDevice::new("sm_80", kiln_sim::Options::default()), fault: None }
    }

    fn later(&mut self, done: Result<()>) -> Result<()> {
        match done {
            Err(fault @ Error::OutOfRange { .. }) => {
                self.fault = Some(fault);
                Ok(())
            }
            done => done,
        }
    }

    fn waited(&mut self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }
}

impl Device for Late {
    fn name(&self) -> String {
        self.sim.name()
    }
    fn target(&self) -> String {
        self.sim.target()
    }
    fn alloc(&mut self, bytes: usize) -> Result<MemId> {
        self.sim.alloc(bytes)
    }
    fn map(&mut self, bytes: Bytes) -> Result<MemId> {
        self.sim.map(bytes)
    }
    fn free(&mut self, mem: MemId) -> Result<()> {
        self.sim.free(mem)
    }
    fn upload(&mut self, to: Place, data: &[u8]) -> Result<()> {
        self.sim.upload(to, data)
    }
    fn download(&mut self, from: Place, data: &mut [u8]) -> Result<()> {
        self.sim.download(from, data)?;
        self.waited()
    }
    fn copy(&mut self, to: Place, from: Place) -> Result<()> {
        self.sim.copy(to, from)
    }
    fn fill(&mut self, place: Place, byte: u8) -> Result<()> {
        self.sim.fill(place, byte)
    }
    fn load(&mut self, module: &Module<'_>) -> Result<KernelId> {
        self.sim.load(module)
    }
    fn prepare(&mut self, kernel: KernelId, bindings: &Bindings) -> Result<Prepared> {
        self.sim.prepare(kernel, bindings)
    }
    fn release(&mut self, prepared: usize) {
        self.sim.release(prepared);
    }
    fn launch(&mut self, prepared: usize, args: Arguments<'_>) -> Result<()> {
        let done = self.sim.launch(prepared, args);
        self.later(done)
    }
    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
    fn check(&mut self) -> Result<()> {
        self.waited()
    }
    fn record(&mut self, actions: &[Action]) -> Result<Option<RecordingId>> {
        self.sim.record(actions)
    }
    fn replay(&mut self, recording: RecordingId) -> Result<()> {
        let done = self.sim.replay(recording);
        self.later(done)
    }
    fn forget(&mut self, recording: RecordingId) {
        self.sim.forget(recording);
    }
    fn implementation(&self, prepared: usize) -> String {
        self.sim.implementation(prepared)
    }
}

/// Rows of `x` by number.
fn lookup() -> Graph {
    let mut b = Builder::new("lookup");
    let x = b.input("x", DType::F32, &[9.into(), 33.into()]).unwrap();
    let at = b.input("at", DType::I64, &[2.into()]).unwrap();
    let y = b.gather(x, at, 0).unwrap();
    b.output("y", y);
    b.finish()
}

fn built() -> Engine {
    engine_at(&lookup(), &["cpu", "sm_80", "sm_90a"], home())
}

/// Runs once for each row, all queued before the first is waited for.
fn queue(session: &mut Session, rows: &[i64]) -> Result<()> {
    rows.iter().try_for_each(|&row| {
        session.bind("at", &[2], &[0, row])?;
        session.run_bound()
    })
}

fn faults(mut session: Session) {
    let x = Tensor::random(DType::F32, &[9, 33], std::process::id().into()).unwrap();
    session.bind_tensor("x", &x).unwrap();
    let right = |session: &mut Session, row: i64| {
        let expected = interpret(&lookup(), &[x.clone(), Tensor::from_slice(&[2], &[0, row]).unwrap()]).unwrap();
        assert_eq!(session.output("y").unwrap(), expected[0]);
    };
    let told = |e: Error, runs: (u64, u64), text: &str| {
        assert!(
            matches!(&e, Error::Run { first, last, source } if (*first, *last) == runs && matches!(**source, Error::OutOfRange { .. })),
            "{e:?}"
        );
        assert!(e.to_string().contains(text), "{e}");
    };
    queue(&mut session, &[8, -9]).unwrap();
    right(&mut session, -9);
    // One run since then; it has no outputs.
    queue(&mut session, &[9]).unwrap();
    told(session.synchronize().unwrap_err(), (3, 3), "run 3 of the session: ");
    assert!(session.output("y").unwrap_err().to_string().contains("before a run"));
    session.synchronize().unwrap();
    // Reading tells too; of several which one it was cannot be known.
    queue(&mut session, &[2, 9, 4]).unwrap();
    told(session.read("y", &mut [0f32; 66]).unwrap_err(), (4, 6), "one of the runs 4 to 6 of the session: ");
    // A run that is waited for says nothing of those before it as its own.
    queue(&mut session, &[1, -10]).unwrap();
    let at = Tensor::from_slice(&[2], &[0i64, 5]).unwrap();
    told(session.run(&[("x", &x), ("at", &at)]).unwrap_err(), (7, 8), "runs 7 to 8");
    session.run(&[("x", &x), ("at", &at)]).unwrap();
    right(&mut session, 5);
    let wrong = Tensor::from_slice(&[2], &[0i64, 9]).unwrap();
    let error = session.run(&[("x", &x), ("at", &wrong)]).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
    queue(&mut session, &[3]).unwrap();
    session.synchronize().unwrap();
    right(&mut session, 3);
    assert!(session.is_done().unwrap());
    assert_eq!(session.runs(), 11);
}

#[test]
fn faults_of_queued_runs_are_told_by_what_waits() {
    faults(Session::new(&built(), Box::new(Late::new())).unwrap());
    if let Ok(gpu) = open_device("cuda:0") {
        faults(Session::new(&built(), gpu).unwrap());
    }
}

#[test]
fn without_a_queue_a_run_is_done_when_it_returns() {
    let engine = built();
    for device in ["cpu:2", "sim:sm_80", "sim:sm_90a"] {
        let mut session = engine.session(device).unwrap();
        session.bind_tensor("x", &Tensor::random(DType::F32, &[9, 33], 4).unwrap()).unwrap();
        queue(&mut session, &[3]).unwrap();
        assert!(session.is_done().unwrap());
        let error = queue(&mut session, &[9]).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. } | Error::Cpu(kiln_cpu::Error::Index { .. })), "{error:?}");
        session.synchronize().unwrap();
        // SAFETY: no device here has streams.
        let stream = unsafe { UserStream::new(0) };
        for refused in [session.wait_for_stream(stream), session.hold_stream(stream)] {
            assert!(refused.unwrap_err().to_string().contains("stream is not supported"));
        }
    }
}

/// `y = x * 2` many times over, which takes a GPU a while.
fn long() -> Graph {
    let mut b = Builder::new("long");
    let x = b.input("x", DType::F32, &[2048.into(), 2048.into()]).unwrap();
    let mut y = x;
    for _ in 0..8 {
        y = b.matmul(y, x).unwrap();
        y = b.mul_scalar(y, 1.0 / 64.0).unwrap();
    }
    b.output("y", y);
    b.finish()
}

/// Inputs come on a stream of the user's, outputs are read there: nobody waits but the GPU.
#[test]
fn streams_of_the_user_wait_and_are_waited_for() {
    let (Ok(device), Ok(gpu)) = (open_device("cuda:0"), kiln_cuda::CudaDevice::new(0)) else {
        println!("skipped: no GPU");
        return;
    };
    let engine = engine_at(&long(), &[&device.target()], home());
    let mut session = Session::new(&engine, device).unwrap();
    let bytes = 2048 * 2048 * 4;
    let (source, x, y, copied) =
        (gpu.alloc(bytes).unwrap(), gpu.alloc(bytes).unwrap(), gpu.alloc(bytes).unwrap(), gpu.alloc(bytes).unwrap());
    let users = gpu.stream();
    // SAFETY: the buffers and the stream outlive the session's use of them, which the order of streams sees to.
    let (input, output, stream) = unsafe {
        let of = |buffer: &kiln_cuda::DeviceBuffer| UserMemory::new(buffer.ptr().address(), bytes);
        (of(&x), of(&y), UserStream::new(users.handle()))
    };
    session.bind_device("x", &[2048, 2048], input).unwrap();
    session.bind_output("y", output).unwrap();
    let mut results = Vec::new();
    for round in 0..6u64 {
        let data = Tensor::random(DType::F32, &[2048, 2048], round / 2).unwrap();
        users.upload(&source, 0, data.data()).unwrap();
        users.fill(&x, 0, bytes, 0).unwrap();
        users.copy(&x, 0, &source, 0, bytes).unwrap();
        session.wait_for_stream(stream).unwrap();
        session.run_bound().unwrap();
        session.hold_stream(stream).unwrap();
        users.copy(&copied, 0, &y, 0, bytes).unwrap();
        // What comes next on the user's stream is after the run too.
        users.fill(&x, 0, bytes, 0xff).unwrap();
        let mut found = vec![0; bytes];
        users.download(&copied, 0, &mut found).unwrap();
        assert!(session.is_done().unwrap());
        session.synchronize().unwrap();
        results.push(found);
    }
    for pair in results.chunks(2) {
        assert!(pair[0] == pair[1], "equal inputs, other outputs");
    }
    assert!(results[0] != results[2]);
    // The same, waited for at each step.
    let x = Tensor::random(DType::F32, &[2048, 2048], 0).unwrap();
    session.unbind_output("y").unwrap();
    assert!(session.run(&[("x", &x)]).unwrap()[0].1.data()[..] == results[0][..]);
}
