//! A region's kernels on a device: run once over poisoned memory, or over and over for their time.

use kiln_engine::{Action, Arguments, Device, Error, Module, Place, Prepared, Result};
use kiln_fuse::Region;
use kiln_graph::{Bindings, Tensor};
use kiln_kernels::Packing;
use kiln_tune::Rotating;

/// Samples, of which the median counts.
const SAMPLES: usize = 21;
/// What memory holds that a kernel has to write.
const POISON: u8 = 0xcb;

/// Kernels that are ready to be launched.
pub struct Loaded {
    prepared: Prepared,
    zeroed: Option<Place>,
}

impl Loaded {
    /// Loads kernels for a region whose shapes are known.
    pub fn new(device: &mut dyn Device, module: &Module<'_>) -> Result<Loaded> {
        let kernel = device.load(module)?;
        let prepared = device.prepare(kernel, &Bindings::new())?;
        let zeroed = filled(device, prepared.zeroed_bytes, 0)?;
        Ok(Loaded { prepared, zeroed: Some(zeroed) })
    }
}

/// Memory of one launch.
pub struct Set {
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    scratch: Option<Place>,
    packed: Vec<Place>,
}

impl Set {
    /// Inputs, and poisoned memory for results.
    pub fn new(
        device: &mut dyn Device,
        loaded: &Loaded,
        region: &Region,
        packings: &[Packing],
        inputs: &[Tensor],
    ) -> Result<Set> {
        let packed = packings.iter().map(|packing| {
            let input =
                inputs.get(packing.input).ok_or_else(|| defect(format!("there is no input {}", packing.input)))?;
            uploaded(device, &packing.apply(input).map_err(defect)?)
        });
        let packed = packed.collect::<Result<_>>()?;
        let inputs = inputs.iter().map(|tensor| uploaded(device, tensor)).collect::<Result<_>>()?;
        let outputs = region.graph.outputs.iter().map(|(_, v)| {
            let ty = region.graph.ty(*v);
            let elements = ty.const_shape().map(|shape| shape.iter().product());
            let bytes = elements.and_then(|elements| ty.dtype.bytes_for(elements));
            filled(device, bytes.ok_or_else(|| defect(format!("the size of {ty} is not known")))?, POISON)
        });
        let outputs = outputs.collect::<Result<_>>()?;
        let scratch = Some(filled(device, loaded.prepared.scratch_bytes, POISON)?);
        Ok(Set { inputs, outputs, scratch, packed })
    }

    /// Launches it once; the results.
    pub fn run(&self, device: &mut dyn Device, loaded: &Loaded, region: &Region) -> Result<Vec<Tensor>> {
        let Set { inputs, outputs, scratch, packed } = self;
        let arguments = Arguments { inputs, outputs, scratch: *scratch, zeroed: loaded.zeroed, packed };
        device.launch(loaded.prepared.id, arguments)?;
        let results = region.graph.outputs.iter().zip(outputs).map(|((_, v), place)| {
            let ty = region.graph.ty(*v);
            let mut data = vec![0; place.bytes];
            device.download(*place, &mut data)?;
            Tensor::new(ty.dtype, ty.const_shape().unwrap_or_default(), data.into()).map_err(|e| defect(e.to_string()))
        });
        results.collect()
    }

    /// The median time of a launch, over copies of this memory that no cache holds.
    pub fn seconds(&self, timer: &Rotating, loaded: &Loaded) -> Result<f64> {
        let timed = timer.ready(&[self.action(loaded)])?;
        let mut samples = (0..SAMPLES).map(|_| timer.sample_of(timed)).collect::<Result<Vec<f64>>>()?;
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
    }

    fn action(&self, loaded: &Loaded) -> Action {
        Action::Launch {
            prepared: loaded.prepared.id,
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            scratch: self.scratch,
            zeroed: loaded.zeroed,
            packed: self.packed.clone(),
        }
    }
}

fn filled(device: &mut dyn Device, bytes: usize, byte: u8) -> Result<Place> {
    let place = Place { mem: device.alloc(bytes)?, offset: 0, bytes };
    device.fill(place, byte)?;
    Ok(place)
}

fn uploaded(device: &mut dyn Device, tensor: &Tensor) -> Result<Place> {
    let bytes = tensor.data().len();
    let place = Place { mem: device.alloc(bytes)?, offset: 0, bytes };
    device.upload(place, tensor.data())?;
    Ok(place)
}

fn defect(message: String) -> Error {
    Error::Internal { place: "a kernel alone".into(), message }
}
