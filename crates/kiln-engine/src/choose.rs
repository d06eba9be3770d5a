//! Which of an engine's images a device runs: its own, or the PTX of an older architecture, which the driver assembles.

use crate::device::{Device, GpuInfo};
use crate::engine::{Engine, TargetImage};
use crate::{Error, Result};
use kiln_cuda::{cubin_refused, ptx_refused};
use kiln_target::Target;
use kiln_target::arch::Arch;
use serde::Serialize;
use std::fmt;

/// What of an engine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What was built for the very device: `cpu`, or `sm_80` on a GPU of that architecture, `sm_90a:h200` on that GPU.
    Own(String),
    /// PTX of an older architecture, assembled by the driver as it is loaded: the engine has nothing for this GPU's own, which would be faster.
    Portable(String),
}

impl Code {
    /// The label of the image that it is of.
    pub fn target(&self) -> &str {
        let (Code::Own(target) | Code::Portable(target)) = self;
        target
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Code::Own(target) => f.write_str(target),
            Code::Portable(target) => write!(f, "PTX of {target}, assembled by the driver"),
        }
    }
}

/// What bears on the choice of one image.
struct Offer<'a> {
    target: &'a str,
    /// The GPU that its kernels were chosen for.
    gpu: Option<&'a str>,
    /// NVRTC release.
    nvrtc: &'a str,
    /// Of one kernel; all are of one compilation.
    ptx: &'a str,
    /// The most shared memory of a kernel.
    shared_bytes: u32,
}

impl<'a> Offer<'a> {
    fn of(image: &'a TargetImage) -> Offer<'a> {
        let images = || image.kernels.values().flat_map(|c| &c.variants).flat_map(|v| &v.images);
        Offer {
            target: &image.target,
            gpu: image.gpu.as_deref(),
            nvrtc: image.toolchain.as_ref().map_or("", |toolchain| &toolchain.nvrtc),
            ptx: images().next().and_then(|i| std::str::from_utf8(&i.ptx).ok()).unwrap_or_default(),
            shared_bytes: images().map(|i| i.resources.shared_bytes).max().unwrap_or(0),
        }
    }

    /// Why the GPU cannot run this image's PTX, if it cannot.
    fn ptx_refused(&self, gpu: &GpuInfo) -> Option<String> {
        let arch = self.target.parse::<Arch>().ok()?;
        if !arch.ptx_runs_on(gpu.capability) {
            let older = if arch.capability() > gpu.capability { "newer GPUs" } else { "that architecture alone" };
            return Some(format!("its code is for {older}"));
        }
        if self.shared_bytes > gpu.shared_bytes {
            let (needed, most) = (self.shared_bytes, gpu.shared_bytes);
            return Some(format!("a kernel takes {needed} bytes of shared memory, and this GPU has {most} a block"));
        }
        // A model may have no kernel.
        (!self.ptx.is_empty()).then(|| ptx_refused(self.ptx, gpu.cuda))?
    }
}

/// Why a GPU runs none of an engine's images.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// `driver` where there is code for the GPU, and its driver does not take it; else `target`.
    field: &'static str,
    /// What each image lacks; nothing for an engine without a GPU's code.
    why: String,
}

/// Index of the image that the GPU runs, and whether that is of its own architecture. Of several for one architecture that of the GPU's own `name` is taken, else that of the typical GPU, else the first.
fn choose(offers: &[Offer<'_>], gpu: &GpuInfo, name: &str) -> std::result::Result<(usize, bool), Refusal> {
    let capability = |offer: &Offer<'_>| offer.target.parse::<Arch>().ok().map(Arch::capability);
    let strange =
        |offer: &Offer<'_>| (offer.gpu != Some(name), kiln_target::label(offer.target, offer.gpu) != offer.target);
    let own = (0..offers.len()).filter(|&i| capability(&offers[i]) == Some(gpu.capability));
    if let Some(own) = own.min_by_key(|&i| strange(&offers[i])) {
        return match cubin_refused(offers[own].nvrtc, gpu.cuda) {
            Some(why) => Err(Refusal { field: "driver", why }),
            None => Ok((own, true)),
        };
    }
    let mut newest: Vec<usize> = (0..offers.len()).filter(|&i| capability(&offers[i]).is_some()).collect();
    newest.sort_by_key(|&i| (std::cmp::Reverse(capability(&offers[i])), strange(&offers[i])));
    let mut refusals = Vec::new();
    for i in newest {
        match offers[i].ptx_refused(gpu) {
            None => return Ok((i, false)),
            Some(refused) => {
                refusals.push(format!("{}: {refused}", kiln_target::label(offers[i].target, offers[i].gpu)))
            }
        }
    }
    Err(Refusal { field: "target", why: refusals.join("; ") })
}

/// The image of an engine that a device runs.
///
/// # Errors
/// [`Error::Mismatch`], which says what each image of the engine lacks.
pub(crate) fn for_device<'e>(engine: &'e Engine, device: &dyn Device) -> Result<(&'e TargetImage, Code)> {
    let target = device.target();
    let Some(gpu) = device.gpu() else {
        let image = engine.target(&target)?;
        return Ok((image, Code::Own(image.label())));
    };
    let offers: Vec<Offer<'_>> = engine.targets.iter().map(Offer::of).collect();
    // A GPU that Kiln has no target for has no name among those of targets.
    let name = match device.processor() {
        Ok(Target::Gpu(gpu)) => gpu.key(),
        _ => String::new(),
    };
    match choose(&offers, &gpu, &name) {
        Ok((i, true)) => Ok((&engine.targets[i], Code::Own(engine.targets[i].label()))),
        Ok((i, false)) => Ok((&engine.targets[i], Code::Portable(engine.targets[i].label()))),
        // It has no GPU's code at all.
        Err(Refusal { why, .. }) if why.is_empty() => Ok((engine.target(&target)?, Code::Own(target))),
        Err(Refusal { field, why }) => {
            let present: Vec<String> = engine.targets.iter().map(TargetImage::label).collect();
            let (major, minor) = (gpu.capability / 10, gpu.capability % 10);
            Err(Error::Mismatch {
                path: engine.path.clone(),
                field,
                expected: format!("code for compute capability {major}.{minor} under a driver for CUDA {}", gpu.cuda),
                found: present.join(", "),
                fix: format!("{why}; or build the model again with `--target {target}`"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_cuda::CudaVersion;

    fn offer<'a>(target: &'a str, nvrtc: &'a str, ptx: &'a str) -> Offer<'a> {
        Offer { target, gpu: None, nvrtc, ptx, shared_bytes: 90_000 }
    }

    fn gpu(capability: u32, major: u32, minor: u32) -> GpuInfo {
        GpuInfo { capability, shared_bytes: 101_376, cuda: CudaVersion::new(major, minor) }
    }

    /// On a GPU without a name.
    fn choose(offers: &[Offer<'_>], gpu: &GpuInfo) -> std::result::Result<(usize, bool), Refusal> {
        super::choose(offers, gpu, "")
    }

    const PTX_13: &str = "//\n.version 9.0\n.target sm_80\n";
    const PTX_12: &str = "//\n.version 8.8\n.target sm_80\n";

    #[test]
    fn a_gpu_runs_its_own_image_or_the_newest_ptx_that_it_can() {
        let engine = ["cpu", "sm_80", "sm_90a", "sm_75", "sm_120"].map(|target| offer(target, "13.0.88", PTX_13));
        for (capability, expected) in [
            (75, (3, true)),
            (80, (1, true)),
            (90, (2, true)),
            (120, (4, true)),
            // sm_80's PTX on Ada and data centre Blackwell, never sm_90a's.
            (89, (1, false)),
            (100, (1, false)),
            (110, (1, false)),
            (121, (4, false)),
        ] {
            assert_eq!(choose(&engine, &gpu(capability, 13, 0)), Ok(expected), "{capability}");
        }
        let refused = |offers: &[Offer<'_>], gpu: &GpuInfo| choose(offers, gpu).unwrap_err();
        let Refusal { field: "target", why: text } = refused(&engine[2..3], &gpu(100, 13, 0)) else {
            panic!("the target")
        };
        assert!(text.contains("sm_90a: its code is for that architecture alone"), "{text}");
        assert_eq!(refused(&engine[..2], &gpu(75, 13, 0)).why, "sm_80: its code is for newer GPUs");
        assert_eq!(refused(&engine[..1], &gpu(75, 13, 0)).why, "");
    }

    #[test]
    fn of_gpus_of_one_architecture_each_runs_its_own_image() {
        let of = |target, gpu| Offer { gpu: Some(gpu), ..offer(target, "13.0.88", PTX_13) };
        let engine = [
            of("sm_90a", "h200"),
            of("sm_80", "a100"),
            of("sm_90a", "h100"),
            of("sm_89", "l40s"),
            of("sm_89", "rtx4090"),
        ];
        let chosen = |capability, name| super::choose(&engine, &gpu(capability, 13, 0), name).unwrap();
        assert_eq!([chosen(90, "h200"), chosen(90, "h100")], [(0, true), (2, true)]);
        // One that none was built for: the typical GPU's, else the first; of PTX too.
        assert_eq!([chosen(90, "h20"), chosen(89, "l4")], [(2, true), (3, true)]);
        assert_eq!([chosen(89, "rtx4090"), chosen(100, "b200")], [(4, true), (3, false)]);
    }

    #[test]
    fn the_driver_must_take_the_cubin_or_the_ptx() {
        // A cubin runs under every driver of its major version; PTX needs the minor version too.
        let engine = [offer("sm_80", "12.9.86", PTX_12)];
        assert_eq!(choose(&engine, &gpu(80, 12, 0)), Ok((0, true)));
        assert_eq!(choose(&engine, &gpu(89, 12, 9)), Ok((0, false)));
        let text = choose(&engine, &gpu(89, 12, 8)).unwrap_err().why;
        assert!(text.contains("sm_80: PTX 8.8") && text.contains("CUDA 12.9 (r575)"), "{text}");
        let engine = [offer("sm_80", "13.0.88", PTX_13)];
        let Refusal { field: "driver", why: text } = choose(&engine, &gpu(80, 12, 9)).unwrap_err() else {
            panic!("there is code for it")
        };
        assert!(text.contains("NVRTC 13.0.88") && text.contains("r580") && text.contains("--nvrtc 12"), "{text}");
    }

    #[test]
    fn shared_memory_must_suffice() {
        let large = |target| Offer { shared_bytes: 163 << 10, ..offer(target, "13.0.88", PTX_13) };
        assert_eq!(choose(&[large("sm_80")], &gpu(80, 13, 0)), Ok((0, true)));
        let text = choose(&[large("sm_80")], &gpu(121, 13, 0)).unwrap_err().why;
        assert!(text.contains("166912 bytes of shared memory") && text.contains("101376"), "{text}");
        assert_eq!(choose(&[offer("sm_75", "13.0.88", PTX_13), large("sm_80")], &gpu(121, 13, 0)), Ok((0, false)));
    }
}
