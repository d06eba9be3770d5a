//! Opening an engine where it is to run, and what to do if it does not fit there.

use crate::choose::for_device;
use crate::device::Device;
use crate::file::{map, model, parse};
use crate::{BuildOptions, Engine, Error, Kept, PublicKey, Result, build};
use bytes::Bytes;
use kiln_cuda::Home;
use kiln_graph::Graph;
use std::path::Path;

/// What to do with an engine of another version of Kiln, or without code that the device takes.
#[derive(Clone, Debug)]
pub enum OnMismatch {
    /// It is an error.
    Error,
    /// The model that it keeps is built for the device, with NVRTC and the caches of this home: once, for the engine is kept there.
    Rebuild(Home),
}

impl Engine {
    /// Keeps the model's weights in the file, so that every version of Kiln can build it anew ([`Engine::open`]). They cost room where constants are made of them: equal bytes
    /// are stored once.
    ///
    /// # Errors
    /// A graph that is not the engine's.
    pub fn keep_model(&mut self, model: &Graph) -> Result<()> {
        let found = crate::graph_hash(model);
        if found != self.graph_hash {
            let (path, expected) = (self.path.clone(), self.graph_hash.clone());
            let fix = "give the graph that the engine was built from".to_owned();
            return Err(Error::Mismatch { path, field: "graph hash", expected, found, fix });
        }
        self.sources.clone_from(&model.weights);
        Ok(())
    }

    /// Loads an engine that is to run on a device, signed by `key` if one is given, and builds it anew where it does not fit and that is wanted.
    ///
    /// # Errors
    /// What loading reports; what does not fit, if the engine keeps no model; what a build reports.
    pub fn open(
        path: impl AsRef<Path>,
        device: &dyn Device,
        key: Option<&PublicKey>,
        on: &OnMismatch,
    ) -> Result<Engine> {
        let path = path.as_ref();
        let file = map(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        if let Some(key) = key {
            key.verify(&file, path)?;
        }
        let fitting = parse(&file, path).and_then(|engine| {
            engine.expect_weights()?;
            for_device(&engine, device)?;
            Ok(engine)
        });
        match (fitting, on) {
            (Err(why @ Error::Mismatch { .. }), OnMismatch::Rebuild(home)) => rebuilt(&file, path, device, home, why),
            (fitting, _) => fitting,
        }
    }
}

fn rebuilt(file: &Bytes, path: &Path, device: &dyn Device, home: &Home, why: Error) -> Result<Engine> {
    let (graph, settings) = match (model(file, path)?, why) {
        (Some(found), _) => found,
        (None, Error::Mismatch { path, field, expected, found, fix }) => {
            let fix =
                format!("{fix}; it cannot be built again from what it keeps: that takes `kiln build --keep-model`");
            return Err(Error::Mismatch { path, field, expected, found, fix });
        }
        (None, why) => return Err(why),
    };
    if !settings.kernels.is_empty() {
        let what = "building an engine again whose kernels of one's own it does not keep".to_owned();
        return Err(Error::Unsupported { device: device.name(), what });
    }
    let target = device.processor()?;
    let (numerics, tf32, line_info, sizes) =
        (settings.numerics, settings.tf32, settings.line_info, settings.sizes.clone());
    let (targets, extent) = (vec![target.clone()], settings.extent);
    let options = BuildOptions { targets, numerics, tf32, line_info, sizes, extent, ..BuildOptions::new(home.clone()) };
    let kept = Kept::new(&graph, &target, &options)?;
    // What cannot be used is built again, what cannot be kept costs time alone.
    if let Ok(Some(engine)) = kept.find() {
        return Ok(engine);
    }
    tracing::info!(path = %path.display(), %target, "building an engine again");
    let (engine, _) = build(&graph, &options, &|_| {})?;
    let _ = kept.store(&engine);
    Ok(engine)
}
