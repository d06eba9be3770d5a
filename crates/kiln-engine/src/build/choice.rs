//! Kernels of one's own in the place of generated ones: those that bind win, as long as nothing measures which is faster.

use super::{BuildOptions, request};
use crate::Result;
use kiln_cuda::Compiler;
use kiln_kernels::families::{self, Offer, Subject};
use kiln_kernels::own::{self, Kernel};
use kiln_kernels::{Guard, Implementation, Variants, Watch};
use kiln_target::Gpu;
use std::sync::Arc;

/// Chooses between one's own kernels and generated ones.
pub(super) struct Choice<'b> {
    pub compiler: &'b Compiler,
    pub kernels: &'b [Arc<Kernel>],
    pub gpu: &'b Gpu,
    pub build: &'b BuildOptions,
    /// What was left out.
    pub refused: Vec<Refusal>,
}

/// Something of one's own that is not used.
pub(super) struct Refusal {
    /// The kernel, if nothing of it can be used on this target.
    pub kernel: Option<String>,
    /// Which and why.
    pub what: String,
}

impl Choice<'_> {
    /// The kernels of a region. Where a kernel that binds cannot be used at all, that is in [`Choice::refused`], and the result does not count.
    pub fn lower(&mut self, subject: &Arc<Subject>, watch: &mut Watch<'_>) -> Result<Variants> {
        let gpu = self.gpu;
        let offers = own::offers(self.kernels, subject, gpu);
        let generated = |watch: &mut Watch<'_>| kiln_kernels::lower_watched(subject, gpu, watch);
        if offers.is_empty() {
            return Ok(generated(watch)?);
        }
        let Some((guard, made)) = self.usable(&offers, watch) else { return Ok(vec![]) };
        if guard.is_always() {
            return Ok(vec![(guard, made)]);
        }
        // For other sizes, what Kiln generates.
        match generated(watch) {
            Ok(rest) => Ok([vec![(guard, made)], rest].concat()),
            Err(e) => {
                let what =
                    format!("{} is not used on {}: it is for {guard} alone, and {e}", offers[0].family, self.gpu.arch);
                self.refuse(&offers, what);
                Ok(vec![])
            }
        }
    }

    /// The cheapest that can be compiled and does not spill; says what is left out on the way.
    fn usable(&mut self, offers: &[Offer], watch: &mut Watch<'_>) -> Option<(Guard, Implementation)> {
        for offer in offers {
            match self.compiled(offer, watch) {
                Ok(found) => return Some(found),
                Err(why) => {
                    let what =
                        format!("{}: its Config {} is left out on {}: {why}", offer.family, offer.text, self.gpu.arch);
                    self.refused.push(Refusal { kernel: None, what });
                }
            }
        }
        let what = format!("{} is not used on {}: none of its Configs can be", offers[0].family, self.gpu.arch);
        self.refuse(offers, what);
        None
    }

    fn refuse(&mut self, offers: &[Offer], what: String) {
        for kernel in self.kernels {
            if offers.iter().any(|offer| own::family(kernel.name()) == offer.family) {
                self.refused.push(Refusal { kernel: Some(kernel.name().to_owned()), what: what.clone() });
            }
        }
    }

    /// What an offer becomes, if it is of use. What is compiled here is in the compiler's cache when the engine is.
    fn compiled(&self, offer: &Offer, watch: &mut Watch<'_>) -> std::result::Result<(Guard, Implementation), String> {
        let built = offer.build().map_err(|e| e.to_string())?;
        let made = families::implementation(offer, &built, self.gpu.arch, watch).map_err(|e| e.to_string())?;
        for kernel in &made.kernels {
            let image = self
                .compiler
                .compile(&request(kernel, self.gpu.arch.name(), self.build.numerics, self.build.line_info))
                .map_err(|e| e.to_string())?;
            let spilled = image.log.spill_stores() + image.log.spill_loads();
            if spilled > 0 {
                return Err(format!("it spills {spilled} bytes of registers"));
            }
        }
        Ok((built.guard, made))
    }
}
