//! Compiling candidates on all cores, while the device measures what is ready.

use crate::task::TaskKey;
use crate::{Error, Result, Task};
use kiln_cuda::Compiler;
use kiln_engine::{Image, compile_single};
use kiln_kernels::{Guard, Implementation};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// A compiled candidate.
pub struct Made {
    /// For which sizes it may run.
    pub guard: Guard,
    /// Source and launches.
    pub implementation: Implementation,
    /// One a kernel.
    pub images: Vec<Image>,
    /// [`code`] of that.
    pub code: String,
}

/// A candidate that is made, or why it cannot be used.
pub type Outcome = std::result::Result<Arc<Made>, String>;

/// The deepest recursion of the tile compiler's passes is on large expressions; a thread's 2 MiB are tight.
const STACK_BYTES: usize = 32 << 20;

impl Made {
    /// Makes candidate `at` of a task.
    ///
    /// # Errors
    /// Why it cannot be used: it does not compile, is for other sizes, or spills.
    pub fn new(task: &Task, at: usize, compiler: &Compiler) -> std::result::Result<Made, String> {
        let way = task.ways.get(at).ok_or("there is no such candidate")?;
        let (guard, implementation) = way.make().map_err(|e| e.to_string())?;
        if !guard.holds(&task.subject.sizes).map_err(|e| e.to_string())? {
            return Err(format!("it is for {guard} alone"));
        }
        let images =
            compile_single(compiler, &implementation, &task.target, &task.settings).map_err(|e| e.to_string())?;
        let spilled: u32 = images.iter().map(|image| image.resources.spill_bytes).sum();
        if spilled > 0 {
            return Err(format!("it spills {spilled} bytes of registers"));
        }
        let code = code(&implementation);
        Ok(Made { guard, implementation, images, code })
    }
}

/// The start of the BLAKE3 hash of an implementation's source: [`Record::code`](crate::Record::code).
pub fn code(implementation: &Implementation) -> String {
    let mut hasher = blake3::Hasher::new();
    implementation.kernels.iter().for_each(|kernel| {
        hasher.update(kernel.source.as_bytes());
    });
    hasher.finalize().to_hex()[..16].to_owned()
}

type Key = (TaskKey, usize);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Arc<Task>, usize)>,
    /// None: being made.
    known: BTreeMap<Key, Option<Outcome>>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    compiler: Compiler,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            let Some((task, at)) = queue.waiting.pop_front() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.known.insert((task.key(), at), None);
            drop(queue);
            let made = catch_unwind(AssertUnwindSafe(|| Made::new(&task, at, &self.compiler)));
            let outcome = made.unwrap_or_else(|_| Err("the compiler failed, which is a bug in Kiln".into()));
            queue = self.queue();
            queue.known.insert((task.key(), at), Some(outcome.map(Arc::new)));
            self.changed.notify_all();
        }
    }
}

/// Threads that compile what is asked for, in order.
pub struct Compiling {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Compiling {
    /// One thread a core but the one that measures, if there are several.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(compiler: Compiler) -> Result<Compiling> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), compiler });
        let mut compiling = Compiling { shared, threads: vec![] };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(cores - 1).max(1) {
            let shared = compiling.shared.clone();
            let thread = Builder::new().name("kiln-tune".into()).stack_size(STACK_BYTES).spawn(move || shared.work());
            compiling.threads.push(thread.map_err(Error::Thread)?);
        }
        Ok(compiling)
    }

    /// Asks for candidates that are wanted later.
    pub fn ahead(&self, task: &Arc<Task>, candidates: &[usize]) {
        let mut queue = self.shared.queue();
        for &at in candidates {
            let waits = |(other, other_at): &(Arc<Task>, usize)| (other.key(), *other_at) == (task.key(), at);
            if !queue.known.contains_key(&(task.key(), at)) && !queue.waiting.iter().any(waits) {
                queue.waiting.push_back((task.clone(), at));
            }
        }
        self.shared.changed.notify_all();
    }

    /// Asks for candidates that are wanted now.
    pub fn urgent(&self, task: &Arc<Task>, candidates: &[usize]) {
        let mut queue = self.shared.queue();
        queue.waiting.retain(|(other, at)| other.key() != task.key() || !candidates.contains(at));
        for &at in candidates.iter().rev() {
            if !queue.known.contains_key(&(task.key(), at)) {
                queue.waiting.push_front((task.clone(), at));
            }
        }
        self.shared.changed.notify_all();
    }

    /// One of these candidates, as soon as one is made; all were asked for. None: it took longer than `patience`.
    pub fn next(&self, task: &Task, wanted: &[usize], patience: Duration) -> Option<(usize, Outcome)> {
        let end = Instant::now().checked_add(patience);
        let mut queue = self.shared.queue();
        loop {
            let ready = wanted.iter().find_map(|&at| Some((at, queue.known.get(&(task.key(), at))?.clone()?)));
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if ready.is_some() || wanted.is_empty() || left.is_zero() {
                return ready;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets go of everything of a task.
    pub fn forget(&self, task: &Task) {
        let mut queue = self.shared.queue();
        queue.waiting.retain(|(other, _)| other.key() != task.key());
        queue.known.retain(|(key, _), _| *key != task.key());
    }
}

impl Drop for Compiling {
    /// Waits for what is being compiled: a program must not end under NVRTC.
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.changed.notify_all();
        self.threads.drain(..).for_each(|thread| {
            let _ = thread.join();
        });
    }
}
