//! Other kernels for sessions that run: all at once, between two runs.

use super::Session;
use super::common::{Common, Loaded, News};
use crate::choose::for_device;
use crate::device::Device;
use crate::engine::Engine;
use crate::{Error, Result};
use std::sync::Arc;

/// What is asked before each run: an engine of the same model whose kernels are to be taken from now on, if there is a new one.
pub type Updates = Box<dyn FnMut() -> Option<Engine> + Send>;

impl Session {
    /// Takes the kernels of another engine of the same build: the next run is the first that runs them, and runs no others. Inputs that are bound stay bound,
    /// and outputs of the last run can be read. Code that nothing runs any more stays loaded as long as the session. Sessions that share the code take the
    /// new kernels too, each before its next run, and until then run the old ones.
    ///
    /// # Errors
    /// An engine of another plan, and what the device refuses. The sessions then go on with what they have.
    pub fn swap(&mut self, engine: &Engine) -> Result<()> {
        self.synchronize()?;
        let newest = {
            let mut news = self.common.news();
            renew(&self.common, &mut news, self.device.as_mut(), engine)?;
            news.newest.clone()
        };
        self.take(newest)
    }

    /// From now on asks before each run whether there are other kernels, and takes them: see [`Session::swap`]. What cannot be taken is left, with a warning
    /// in the log. Of sessions that share the code whichever runs first asks, for all of them; `updates` must not use one of them itself.
    pub fn follow(&mut self, updates: Updates) {
        let before = self.common.news().updates.replace(updates);
        // It may wait for threads of its own: not while other sessions wait for the lock.
        drop(before);
    }

    /// How often its kernels were replaced.
    pub fn swaps(&self) -> usize {
        self.swaps
    }

    /// Takes what has come since the last run, to this session or to one that shares the code.
    pub(super) fn update(&mut self) -> Result<()> {
        let newest = {
            // While another session loads kernels, this one runs those that it has.
            let Some(mut news) = self.common.try_news() else { return Ok(()) };
            if let Some(engine) = news.updates.as_mut().and_then(|updates| updates())
                && let Err(e) = renew(&self.common, &mut news, self.device.as_mut(), &engine)
            {
                tracing::warn!("other kernels are not used: {e}");
            }
            if Arc::ptr_eq(&news.newest, &self.loaded) {
                return Ok(());
            }
            news.newest.clone()
        };
        self.take(newest)
    }

    /// Runs other code from now on, and over other weights.
    fn take(&mut self, newest: Arc<Loaded>) -> Result<()> {
        // What is queued still runs the old ones.
        self.synchronize()?;
        self.shapes.clear(self.device.as_mut());
        self.fresh = false;
        self.swaps += 1;
        std::mem::replace(&mut self.loaded, newest).release(self.device.as_mut());
        Ok(())
    }
}

/// Loads the kernels of an engine of the same build for all sessions to take.
fn renew(common: &Common, news: &mut News, device: &mut dyn Device, engine: &Engine) -> Result<()> {
    let _span = tracing::info_span!("swap", model = engine.model).entered();
    let (image, code) = for_device(engine, device)?;
    engine.check(&common.graph_hash, &common.settings, &image.target)?;
    if image.plan != common.plan {
        let (expected, found) = ("the plan that the session runs".to_owned(), "another".to_owned());
        let fix = "take an engine of the same build".to_owned();
        return Err(Error::Mismatch { path: engine.path.clone(), field: "plan", expected, found, fix });
    }
    let newest = Arc::new(Loaded::new(engine, image, code, (common.budget, Some(&news.newest)), device)?);
    std::mem::replace(&mut news.newest, newest).release(device);
    Ok(())
}

impl Drop for Session {
    /// Frees the weights of kernels that no other session runs any more.
    fn drop(&mut self) {
        let newest = self.common.news().newest.clone();
        std::mem::replace(&mut self.loaded, newest).release(self.device.as_mut());
    }
}
