//! Other kernels for a session that runs: all at once, between two runs.

use super::{Session, load, place_weights};
use crate::choose::for_device;
use crate::device::Place;
use crate::engine::Engine;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// What a session asks before each run: an engine of the same model whose kernels it is to take from now on, if there is a new one.
pub type Updates = Box<dyn FnMut() -> Option<Engine> + Send>;

impl Session {
    /// Takes the kernels of another engine of the same build: the next run is the first that runs them, and runs no others. Inputs that are bound stay bound,
    /// and outputs of the last run can be read. Code that nothing runs any more stays loaded as long as the session.
    ///
    /// # Errors
    /// An engine of another plan, and what the device refuses. The session then goes on with what it has.
    pub fn swap(&mut self, engine: &Engine) -> Result<()> {
        let _span = tracing::info_span!("swap", model = engine.model).entered();
        // What is queued still runs the old ones.
        self.device.synchronize()?;
        let (image, code) = for_device(engine, self.device.as_ref())?;
        engine.check(&self.graph_hash, &self.settings, &image.target)?;
        if image.plan != self.plan {
            let (expected, found) = ("the plan that the session runs".to_owned(), "another".to_owned());
            let fix = "take an engine of the same build".to_owned();
            return Err(Error::Mismatch { path: engine.path.clone(), field: "plan", expected, found, fix });
        }
        let mut known = BTreeMap::new();
        for (id, (compiled, loaded)) in &self.known {
            if code == self.code && image.kernels.get(id) == Some(compiled) {
                known.insert(*id, (compiled.clone(), loaded.clone()));
            }
        }
        let loaded = load(&self.plan, image, &code, &mut known, self.device.as_mut())?;
        let (before, bytes_before) = (self.weights.clone(), self.weight_bytes);
        if let Err(e) = place_weights(engine, image, self.device.as_mut(), &mut self.weights) {
            let new = std::mem::replace(&mut self.weights, before.clone());
            self.let_go(new.into_values().flatten().filter(|place| !before.values().flatten().any(|p| p == place)));
            self.weight_bytes = bytes_before;
            return Err(e);
        }
        // Nothing fails from here on that would leave some of both.
        self.shapes.clear(self.device.as_mut());
        (self.loaded, self.known, self.code, self.fresh) = (loaded, known, code, false);
        let kept: Vec<Place> = self.weights.values().flatten().copied().collect();
        self.weight_bytes = kept.iter().map(|place| place.bytes).sum();
        self.let_go(before.into_values().flatten().filter(|place| !kept.contains(place)));
        self.swaps += 1;
        Ok(())
    }

    /// From now on asks before each run whether there are other kernels, and takes them: see [`Session::swap`]. What cannot be taken is left, with a warning
    /// in the log.
    pub fn follow(&mut self, updates: Updates) {
        self.updates = Some(updates);
    }

    /// How often its kernels were replaced.
    pub fn swaps(&self) -> usize {
        self.swaps
    }

    /// Takes what has come since the last run.
    pub(super) fn update(&mut self) {
        let Some(mut updates) = self.updates.take() else { return };
        if let Some(engine) = updates()
            && let Err(e) = self.swap(&engine)
        {
            tracing::warn!("other kernels are not used: {e}");
        }
        self.updates = Some(updates);
    }

    fn let_go(&mut self, places: impl Iterator<Item = Place>) {
        for place in places {
            // It is of no more use, whatever the device says.
            let _ = self.device.free(place.mem);
        }
    }
}
