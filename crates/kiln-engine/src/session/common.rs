//! What sessions that were forked from one another have in common: the plan, and the code and weights that are loaded.

use super::stream::{self, Streams};
use super::{Updates, internal};
use crate::choose::Code;
use crate::device::{Device, Fetch, KernelImage, Module, Place};
use crate::engine::{Compiled, Engine, Settings, TargetImage, Variant};
use crate::schedule::{LoadedPlan, LoadedVariant, STREAMED, WeightPlaces};
use crate::{Result, packed};
use kiln_fuse::{Plan, RegionId, Step};
use kiln_graph::{Dim, Graph};
use kiln_kernels::Guard;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// One engine on one device.
pub struct Common {
    /// What runs.
    pub plan: Plan,
    /// Its inputs, symbols and constraints.
    pub signature: Graph,
    /// Of which build it is.
    pub graph_hash: String,
    /// How that was built.
    pub settings: Settings,
    /// Bytes that weights may take on the device.
    pub budget: Option<usize>,
    news: Mutex<News>,
}

/// What sessions look at between two runs.
pub struct News {
    /// What each is to take.
    pub newest: Arc<Loaded>,
    /// Where other kernels come from.
    pub updates: Option<Updates>,
}

/// Code and weights on the device. Nothing of it changes; a session that takes other kernels takes another one.
pub struct Loaded {
    /// What of the engine it is.
    pub code: Code,
    /// The kernels of the plan.
    pub plan: LoadedPlan,
    known: Known,
    /// Where weights lie. Those that two of these have in common are the same memory.
    pub weights: WeightPlaces,
    /// The weights that do not stay there: pinned on the host.
    pinned: BTreeMap<String, Arc<Place>>,
    /// When those are copied.
    pub streams: Streams,
}

/// Loaded kernels, and what of, by region. On the CPU of nothing.
type Known = BTreeMap<RegionId, (Compiled, Vec<LoadedVariant>)>;

impl Common {
    /// An engine that was loaded.
    pub fn new(engine: &Engine, plan: Plan, budget: Option<usize>, loaded: Arc<Loaded>) -> Common {
        let signature = crate::schedule::signature(&plan);
        let (graph_hash, settings) = (engine.graph_hash.clone(), engine.settings.clone());
        Common {
            plan,
            signature,
            graph_hash,
            settings,
            budget,
            news: Mutex::new(News { newest: loaded, updates: None }),
        }
    }

    /// What is new, once no other session is at it.
    pub fn news(&self) -> MutexGuard<'_, News> {
        // Both fields are replaced whole.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is new; none while another session is at it, which may take as long as loading kernels does.
    pub fn try_news(&self) -> Option<MutexGuard<'_, News>> {
        match self.news.try_lock() {
            Ok(news) => Some(news),
            Err(TryLockError::Poisoned(news)) => Some(news.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Loaded {
    /// Loads the code and weights of an image, but what `before` has of them. Weights take at most so many bytes on the device.
    ///
    /// # Errors
    /// A budget that is too small, and what the device refuses. Code that was loaded until then stays on the device.
    pub fn new(
        engine: &Engine,
        image: &TargetImage,
        code: Code,
        (budget, before): (Option<usize>, Option<&Loaded>),
        device: &mut dyn Device,
    ) -> Result<Loaded> {
        let mut known = before.map(|before| before.known(image, &code)).unwrap_or_default();
        let plan = load(&image.plan, image, &code, &mut known, device)?;
        let (weights, pinned, streams) = Default::default();
        let mut loaded = Loaded { code, plan, known, weights, pinned, streams };
        match loaded.place_weights(engine, image, (budget, before), device) {
            Ok(()) => Ok(loaded),
            Err(e) => {
                loaded.free(device);
                Err(e)
            }
        }
    }

    /// Its kernels that an image has too.
    fn known(&self, image: &TargetImage, code: &Code) -> Known {
        let same = |(id, (compiled, _)): &(&RegionId, &(Compiled, _))| {
            *code == self.code && image.kernels.get(id) == Some(compiled)
        };
        self.known.iter().filter(same).map(|(id, known)| (*id, known.clone())).collect()
    }

    /// Bytes of its weights that stay on the device.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().flatten().filter(|place| place.mem != STREAMED).map(|place| place.bytes).sum()
    }

    /// Lets go of it. Weights that nothing else has are freed; code stays as long as the device and its forks.
    pub fn release(self: Arc<Loaded>, device: &mut dyn Device) {
        if let Some(last) = Arc::into_inner(self) {
            last.free(device);
        }
    }

    /// Frees the weights that are in no other [`Loaded`].
    fn free(self, device: &mut dyn Device) {
        let weights = self.weights.into_values().flatten().chain(self.pinned.into_values());
        for place in weights.filter_map(Arc::into_inner).filter(|place| place.mem != STREAMED) {
            // It is of no more use, whatever the device says.
            let _ = device.free(place.mem);
        }
    }

    /// Makes the weights readable that the kernels of an image read; the others have no place.
    fn place_weights(
        &mut self,
        engine: &Engine,
        image: &TargetImage,
        (budget, before): (Option<usize>, Option<&Loaded>),
        device: &mut dyn Device,
    ) -> Result<()> {
        let packed = packed::uses(&image.plan, &image.kernels).map_err(|e| internal(&e))?;
        let plain = packed::plain(&image.plan, &image.kernels);
        let names = crate::validate::weight_names(&image.plan);
        let all: BTreeSet<&str> = names.into_iter().chain(packed.keys().map(String::as_str)).collect();
        let read = |name: &str| plain.contains(name) || packed.contains_key(name);
        let streamed = match budget.filter(|_| !device.shares_host()) {
            Some(budget) => {
                let readers = packed::only_readers(&image.plan, &image.kernels).map_err(|e| internal(&e))?;
                let bytes = |name: &str| engine.weights.get(name).map(|tensor| tensor.data().len());
                let read = all.iter().filter(|name| read(name));
                let sizes = read.filter_map(|&name| Some((name, (bytes(name)?, readers.get(name).copied()))));
                stream::lay_out(&sizes.collect(), budget)?
            }
            None => Default::default(),
        };
        self.streams.bytes = streamed.1;
        for name in all {
            // A missing one is reported by the schedule, with its name.
            let Some(data) = engine.weights.get(name).map(|tensor| tensor.data()) else { continue };
            let bytes = data.len();
            let place = self.weights.entry(name.to_owned()).or_default();
            if let Some(&(step, offset)) = streamed.0.get(name) {
                let pinned = match before.and_then(|before| before.pinned.get(name)) {
                    Some(pinned) => pinned.clone(),
                    None => Arc::new(Place { mem: device.pin(data.clone())?, offset: 0, bytes }),
                };
                self.streams.add(step, Fetch { from: pinned.mem, offset, bytes });
                self.pinned.insert(name.to_owned(), pinned);
                *place = Some(Arc::new(Place { mem: STREAMED, offset, bytes }));
            } else if read(name) {
                let same = before.and_then(|before| before.weights.get(name)?.clone());
                *place = match same.filter(|place| place.mem != STREAMED) {
                    Some(same) => Some(same),
                    None => Some(Arc::new(Place { mem: device.map(data.clone())?, offset: 0, bytes })),
                };
            }
        }
        Ok(())
    }
}

/// Loads the kernels of every region of a plan and its nested plans, each distinct region once.
fn load(
    plan: &Plan,
    image: &TargetImage,
    code: &Code,
    known: &mut Known,
    device: &mut dyn Device,
) -> Result<LoadedPlan> {
    let own = matches!(code, Code::Own(_));
    let mut loaded = LoadedPlan::default();
    for region in &plan.regions {
        let id = region.identity();
        if let Some((_, variants)) = known.get(&id) {
            loaded.regions.push(variants.clone());
            continue;
        }
        let load = |Variant { guard, implementation: made, images }: &Variant| {
            let images = made.kernels.iter().zip(images);
            let kernels = images.map(|(kernel, i)| KernelImage {
                kernel,
                cubin: own.then(|| i.cubin.clone()),
                ptx: i.ptx.clone(),
            });
            let (scratch_bytes, zeroed_bytes) = (made.scratch_bytes.clone(), made.zeroed_bytes.clone());
            let module = Module { region, kernels: kernels.collect(), scratch_bytes, zeroed_bytes };
            let (guard, packed) = (guard.clone(), made.packed.clone());
            Ok(LoadedVariant { guard, kernel: device.load(&module)?, packed })
        };
        let (compiled, variants) = match image.kernels.get(&id) {
            Some(compiled) => (compiled.clone(), compiled.variants.iter().map(load).collect::<Result<Vec<_>>>()?),
            None => {
                let [scratch_bytes, zeroed_bytes] = [Dim::from(0), Dim::from(0)];
                let module = Module { region, kernels: Vec::new(), scratch_bytes, zeroed_bytes };
                let kernel = device.load(&module)?;
                let variants = vec![LoadedVariant { guard: Guard::always(), kernel, packed: Vec::new() }];
                (Compiled { variants: vec![] }, variants)
            }
        };
        loaded.regions.push(variants.clone());
        known.insert(id, (compiled, variants));
    }
    for (_, inner) in plan.steps.iter().flat_map(Step::nested) {
        loaded.nested.push(load(inner, image, code, known, device)?);
    }
    Ok(loaded)
}
