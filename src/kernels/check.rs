//! Holds a kernel of one's own to the function that it implements.

use crate::{Error, Result};
use bytes::Bytes;
use kiln_cuda::{CompileRequest, Compiler, CubinCache, Home, Nvrtc};
use kiln_engine::{Arguments, Device, KernelImage, Module, Place, SimDevice, open_device};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{Bindings, DType, Tensor};
use kiln_kernels::families::{self, Offer, Subject};
use kiln_kernels::own::{self, Case, Instance, Kernel};
use kiln_kernels::{Guard, Implementation};
use kiln_sim::Options;
use kiln_target::{Gpu, Target};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What memory holds that a kernel has to write.
const POISON: u8 = 0xcb;
/// Configs that are compiled, each for all the cases that it falls to.
const MOST_COMPILED: usize = 4;

/// Runs a kernel over random shapes and inputs, and compares it with its function: its tile programs on the tile interpreter, then what
/// they are compiled to on the simulator with all checks, or on a GPU.
///
/// Extents are 1, odd, around the edges of tiles, and whatever else the function declares; in every fourth case some inputs are infinite or NaN.
#[derive(Clone, Debug)]
pub struct Check {
    target: Option<Target>,
    dtype: Option<DType>,
    shapes: u64,
    seed: u64,
    device: Option<String>,
    home: Option<PathBuf>,
}

impl Default for Check {
    fn default() -> Check {
        Check { target: None, dtype: None, shapes: 30, seed: 0, device: None, home: None }
    }
}

/// On what a case ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The tile interpreter.
    Tile,
    /// The simulator or a GPU.
    Device(String),
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// The kernel.
    pub kernel: String,
    /// Each dtype and how many shapes it ran with.
    pub shapes: BTreeMap<String, u64>,
    /// The seed that all of it follows from.
    pub seed: u64,
    /// What ran the compiled kernels.
    pub device: String,
    /// Configs that were compiled, and ran on the device.
    pub compiled: usize,
    /// Configs that cannot be used on the target, and why.
    pub left_out: Vec<String>,
    /// The first thing that is wrong.
    pub failure: Option<Failure>,
}

/// Where a kernel is not its function.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// On what.
    pub level: Level,
    /// Of which dtype.
    pub dtype: String,
    /// The Config.
    pub config: String,
    /// The dims.
    pub dims: Bindings,
    /// Of the inputs; the case is drawn again by the check's seed.
    pub seed: u64,
    /// The first element that differs, or the error.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match &self.level {
            Level::Tile => "the tile interpreter",
            Level::Device(name) => name,
        };
        let dims: Vec<String> = self.dims.iter().map(|(name, n)| format!("{name}={n}")).collect();
        let (dims, Failure { dtype, config, what, seed, .. }) = (dims.join(" "), self);
        write!(f, "{dtype}, {config}, {dims} on {level}: {what} (inputs of seed {seed})")
    }
}

impl Check {
    /// 30 shapes of seed 0, in every dtype, on the simulator of `sm_80`.
    pub fn new() -> Check {
        Check::default()
    }

    /// For which architecture it is compiled.
    pub fn target(mut self, target: Target) -> Check {
        self.target = Some(target);
        self
    }

    /// Only the instance of this dtype.
    pub fn dtype(mut self, dtype: DType) -> Check {
        self.dtype = Some(dtype);
        self
    }

    /// How many shapes of each dtype.
    pub fn shapes(mut self, shapes: u64) -> Check {
        self.shapes = shapes;
        self
    }

    /// What shapes and inputs follow from.
    pub fn seed(mut self, seed: u64) -> Check {
        self.seed = seed;
        self
    }

    /// A device in the simulator's place, as `cuda:0`.
    pub fn device(mut self, device: &str) -> Check {
        self.device = Some(device.to_owned());
        self
    }

    /// Where NVRTC and the kernel cache are. Default: `$KILN_HOME`, or the user's cache folder.
    pub fn home(mut self, folder: impl Into<PathBuf>) -> Check {
        self.home = Some(folder.into());
        self
    }

    /// Checks one kernel.
    ///
    /// # Errors
    /// What keeps it from being tried: no NVRTC, no such device or dtype. What is wrong with the kernel is [`Checked::failure`].
    pub fn run(&self, kernel: &Kernel) -> Result<Checked> {
        let refused = |what: String| {
            Error::Kernels(kiln_kernels::Error::Own {
                kernel: kernel.name().to_owned(),
                what,
                help: "`kiln kernel list --kernels FILE` shows what there is".into(),
            })
        };
        let target = match &self.target {
            Some(target) => target.clone(),
            None => "sm_80".parse()?,
        };
        let Some(gpu) = target.arch().and_then(Gpu::typical) else {
            return Err(refused(format!("kernels are for GPUs, and not for `{target}`")));
        };
        let home = match &self.home {
            Some(folder) => Home::at(folder),
            None => Home::from_env()?,
        };
        let compiler = Compiler::new(&Nvrtc::discover(&home)?).with_cache(CubinCache::in_home(&home));
        let chosen = |instance: &&Instance| self.dtype.is_none_or(|dtype| instance.dtype() == Some(dtype));
        let instances: Vec<&Instance> = kernel.instances().iter().filter(chosen).collect();
        if instances.is_empty() || self.shapes == 0 {
            let dtype = self.dtype.map_or("any dtype".to_owned(), |dtype| dtype.to_string());
            return Err(refused(format!("there is nothing to check for {dtype} in {} shapes", self.shapes)));
        }
        let mut found = Checked {
            kernel: kernel.name().to_owned(),
            shapes: BTreeMap::new(),
            seed: self.seed,
            device: self.device.clone().unwrap_or_else(|| format!("sim:{}", gpu.arch)),
            compiled: 0,
            left_out: vec![],
            failure: None,
        };
        for instance in instances {
            let mut run = Run { check: self, gpu: &gpu, compiler: &compiler, instance, made: BTreeMap::new() };
            let dtype = instance.dtype().map_or("?", DType::name).to_owned();
            found.failure = run.cases(kernel, &dtype, &mut found)?;
            if found.failure.is_some() {
                break;
            }
        }
        Ok(found)
    }
}

/// The check of one instance.
struct Run<'c> {
    check: &'c Check,
    gpu: &'c Gpu,
    compiler: &'c Compiler,
    instance: &'c Instance,
    /// By the number of the Config; none where it cannot be used.
    made: BTreeMap<usize, Option<Made>>,
}

/// A compiled Config.
struct Made {
    guard: Guard,
    implementation: Implementation,
    images: Vec<kiln_cuda::Compiled>,
}

impl Run<'_> {
    fn cases(&mut self, kernel: &Kernel, dtype: &str, found: &mut Checked) -> Result<Option<Failure>> {
        let (check, gpu, graph) = (self.check, self.gpu, &self.instance.function);
        let region = Region {
            name: kernel.name().to_owned(),
            summary: format!("what `{}` implements", kernel.name()),
            anchor: Anchor::Kernel,
            graph: graph.clone(),
        };
        let subject = Arc::new(Subject::new(&region, &graph.symbols, &[], &Bindings::new()));
        let offers = own::alone(kernel, self.instance, &subject, self.gpu);
        for number in 0..self.check.shapes {
            let case = Case::draw(self.instance, self.check.seed, number)?;
            let candidate = &self.instance.candidates[case.candidate];
            let failed = |level: Level, what: String| Failure {
                level,
                dtype: dtype.to_owned(),
                config: own::describe(&candidate.config),
                dims: case.extents.clone(),
                seed: case.seed,
                what,
            };
            let inputs = own::inputs(self.instance, &case)?;
            let expected = own::reference(self.instance, &inputs)?;
            match own::interpreted(self.instance, candidate, &case, &inputs) {
                Ok(results) => {
                    if let Some(difference) = own::compare(&results, &expected) {
                        return Ok(Some(failed(Level::Tile, difference.to_string())));
                    }
                }
                Err(e) => return Ok(Some(failed(Level::Tile, e.to_string()))),
            }
            let offer = offers.iter().find(|offer| offer.config == candidate.config);
            if let Some(offer) = offer
                && let Some(made) = self.made(case.candidate, offer, found)?
                && made.guard.holds(&case.extents)?
            {
                let level = || Level::Device(found.device.clone());
                match on_device(check, gpu, &region, made, &case, &inputs) {
                    Ok(results) => {
                        if let Some(difference) = own::compare(&results, &expected) {
                            return Ok(Some(failed(level(), difference.to_string())));
                        }
                    }
                    Err(e) => return Ok(Some(failed(level(), e.to_string()))),
                }
            }
            *found.shapes.entry(dtype.to_owned()).or_default() += 1;
        }
        Ok(None)
    }

    /// The compiled Config of a case, if it is one of the few that are compiled and can be used.
    fn made(&mut self, candidate: usize, offer: &Offer, found: &mut Checked) -> Result<Option<&Made>> {
        let usable = self.made.values().flatten().count();
        if !self.made.contains_key(&candidate) {
            if usable >= MOST_COMPILED {
                return Ok(None);
            }
            let made = self.compile(offer)?;
            match &made {
                Ok(_) => found.compiled += 1,
                Err(why) => found.left_out.push(format!("{}: {why}", offer.text)),
            }
            self.made.insert(candidate, made.ok());
        }
        Ok(self.made.get(&candidate).and_then(Option::as_ref))
    }

    /// Compiles a Config; the inner error is why it cannot be used.
    fn compile(&self, offer: &Offer) -> Result<std::result::Result<Made, String>> {
        let arch = self.gpu.arch;
        let built = offer.build()?;
        let implementation = match families::implementation(offer, &built, arch, &mut |_, _, _| {}) {
            Ok(made) => made,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let mut images = vec![];
        for kernel in &implementation.kernels {
            let image = self.compiler.compile(&CompileRequest {
                name: kernel.entry.clone(),
                source: kernel.source.clone(),
                arch: arch.name().to_owned(),
                options: vec![],
                line_info: false,
            })?;
            let spilled = image.log.spill_stores() + image.log.spill_loads();
            if spilled > 0 {
                return Ok(Err(format!("it spills {spilled} bytes of registers")));
            }
            images.push(image);
        }
        Ok(Ok(Made { guard: built.guard, implementation, images }))
    }
}

/// What a compiled Config gives on the device, over poisoned outputs.
fn on_device(
    check: &Check,
    gpu: &Gpu,
    region: &Region,
    made: &Made,
    case: &Case,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    let mut device: Box<dyn Device> = match &check.device {
        Some(name) => open_device(name)?,
        None => {
            let options = Options { seed: Some(case.seed), ..Options::default() };
            Box::new(SimDevice::new(gpu.arch.name(), options).with_sms(gpu.sms))
        }
    };
    let kernels = made.implementation.kernels.iter().zip(&made.images);
    let module = Module {
        region,
        kernels: kernels
            .map(|(kernel, image)| KernelImage {
                kernel,
                cubin: Some(Bytes::from(image.cubin.clone())),
                ptx: Bytes::from(image.ptx.clone()),
            })
            .collect(),
        scratch_bytes: made.implementation.scratch_bytes.clone(),
        zeroed_bytes: made.implementation.zeroed_bytes.clone(),
    };
    let loaded = device.load(&module)?;
    let prepared = device.prepare(loaded, &case.extents)?;
    let place = |device: &mut dyn Device, bytes: usize| -> Result<Place> {
        let place = Place { mem: device.alloc(bytes)?, offset: 0, bytes };
        device.fill(place, POISON)?;
        Ok(place)
    };
    let mut held = vec![];
    for tensor in inputs {
        let at = place(&mut *device, tensor.data().len())?;
        device.upload(at, tensor.data())?;
        held.push(at);
    }
    let mut results = vec![];
    for (_, v) in &region.graph.outputs {
        let ty = region.graph.ty(*v);
        let shape = ty.concrete(&case.extents)?;
        let bytes = ty.dtype.bytes_for(shape.iter().product()).unwrap_or_default();
        results.push((ty.dtype, shape, place(&mut *device, bytes)?));
    }
    let outputs: Vec<Place> = results.iter().map(|(.., at)| *at).collect();
    let arguments = Arguments { inputs: &held, outputs: &outputs, scratch: None, zeroed: None, packed: &[] };
    device.launch(prepared.id, arguments)?;
    let download = |(dtype, shape, at): (DType, Vec<usize>, Place)| {
        let mut data = vec![0; at.bytes];
        device.download(at, &mut data)?;
        Ok(Tensor::new(dtype, shape, data.into())?)
    };
    results.into_iter().map(download).collect()
}
