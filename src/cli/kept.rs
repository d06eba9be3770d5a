//! Engines that `run`, `compare` and `bench` keep, so that a model is built once.

use super::model::identifier;
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Engine, Settings};
use kiln_graph::Graph;
use kiln_host::Cache;
use kiln_target::Target;

/// The place of one engine in `$KILN_HOME/engines`. What cannot be read or written there costs the time of a build; the user is told why.
pub struct Kept {
    cache: Cache,
    name: String,
    graph_hash: String,
    settings: Settings,
    target: String,
}

impl Kept {
    /// The place of the engine that a graph becomes under these options.
    pub fn new(home: &Home, graph: &Graph, target: &Target, options: &BuildOptions) -> Kept {
        let (graph_hash, settings) = (kiln_engine::graph_hash(graph), options.settings());
        let key = format!("{graph_hash}-{target}-{}-{settings:?}", env!("CARGO_PKG_VERSION"));
        let hash = blake3::hash(key.as_bytes()).to_hex();
        // The hash tells models apart, the name is for people.
        let model: String = identifier(&graph.name).chars().take(40).collect();
        let name = format!("{model}-{}.kiln", &hash[..24]);
        Kept { cache: home.engine_cache(), name, graph_hash, settings, target: target.to_string() }
    }

    /// The engine, if there is one and it is what its name says.
    pub fn find(&self) -> Option<Engine> {
        let found = match self.cache.find(&self.name) {
            Ok(None) => return None,
            Ok(Some(path)) => kiln_engine::load(&path)
                .and_then(|engine| engine.check(&self.graph_hash, self.settings, &self.target).map(|()| engine))
                .map_err(|e| e.to_string()),
            Err(e) => Err(format!("{}: {e}", self.cache.folder().join(&self.name).display())),
        };
        match &found {
            Ok(engine) => note!("using the engine built before: {}", engine.path.display()),
            Err(why) => note!("the engine built before cannot be used: {why}"),
        }
        found.ok()
    }

    /// Keeps an engine for the next time.
    pub fn store(&self, engine: &Engine) {
        match kiln_engine::save_in(engine, &self.cache, &self.name) {
            Ok(path) => note!("saved {}", path.display()),
            Err(e) => note!("the engine is not kept for the next time: {e}"),
        }
    }
}
