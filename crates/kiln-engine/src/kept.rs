//! Engines that are kept, so that a model is built once on a machine.

use crate::{BuildOptions, Engine, Error, Result, Settings};
use kiln_graph::Graph;
use kiln_host::Cache;
use kiln_target::Target;
use std::path::PathBuf;

/// The place of one engine in `$KILN_HOME/engines`: what a graph becomes under some options, on one target.
pub struct Kept {
    cache: Cache,
    name: String,
    graph_hash: String,
    settings: Settings,
    target: String,
}

impl Kept {
    /// The place of the engine of `graph` for a target.
    ///
    /// # Errors
    /// Options that cannot be written as JSON.
    pub fn new(graph: &Graph, target: &Target, options: &BuildOptions) -> Result<Kept> {
        let (graph_hash, settings) = (crate::graph_hash(graph), options.settings());
        let key = serde_json::to_vec(&(&graph_hash, target, env!("CARGO_PKG_VERSION"), &settings))
            .map_err(|e| Error::Internal { place: "the engine cache".into(), message: e.to_string() })?;
        let hash = blake3::hash(&key).to_hex();
        // The hash tells models apart, the name is for people.
        let model: String = graph.name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).take(40).collect();
        let name = format!("{model}-{}.kiln", &hash[..24]);
        Ok(Kept { cache: options.home.engine_cache(), name, graph_hash, settings, target: target.to_string() })
    }

    /// The engine, if there is one.
    ///
    /// # Errors
    /// What is there cannot be read, or is not what its name says: building again mends it.
    pub fn find(&self) -> Result<Option<Engine>> {
        let path = self.cache.folder().join(&self.name);
        let found = self.cache.find(&self.name).map_err(|source| Error::Io { action: "read", path, source })?;
        let Some(path) = found else { return Ok(None) };
        let engine = Engine::load(path)?;
        engine.check(&self.graph_hash, &self.settings, &self.target)?;
        Ok(Some(engine))
    }

    /// Keeps an engine for the next time, and says where.
    ///
    /// # Errors
    /// It cannot be written, which costs the time of a build the next time.
    pub fn store(&self, engine: &Engine) -> Result<PathBuf> {
        engine.save_in(&self.cache, &self.name)
    }
}
