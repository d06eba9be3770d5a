//! What the CUDA device and the simulator share: launches with concrete geometry and arguments.

use crate::{Error, Result};
use kiln_graph::Bindings;
use kiln_kernels::{Kernel, Param};

/// A kernel argument once shapes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Address of a region input.
    Input(usize),
    /// Address of a region output.
    Output(usize),
    /// Address of the scratch.
    Scratch,
    /// Address of the word that faults are noted in.
    Fault,
    /// The code of the kernel's first check.
    FaultCode,
    /// A number.
    I32(i32),
    /// A number.
    I64(i64),
}

/// A launch once shapes are known.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Blocks on each axis, none zero.
    pub grid: [u32; 3],
    /// Arguments in order.
    pub values: Vec<Value>,
}

/// The checks of all kernels that are loaded: what a code that a kernel raised means.
#[derive(Default)]
pub struct Checks(Vec<(String, String)>);

/// Bytes of the word that faults are noted in.
pub const FAULT_BYTES: usize = 4;

impl Checks {
    /// Adds those of a kernel, and gives the code of the first. No code is 0, which is no fault.
    pub fn add(&mut self, kernel: &Kernel) -> i32 {
        let first = self.0.len() + 1;
        self.0.extend(kernel.checks.iter().map(|what| (kernel.entry.clone(), what.clone())));
        i32::try_from(first).unwrap_or(i32::MAX)
    }

    /// The fault that the word says; none if it is 0.
    pub fn fault(&self, device: String, word: [u8; FAULT_BYTES]) -> Result<()> {
        let code = i32::from_le_bytes(word);
        if code == 0 {
            return Ok(());
        }
        let (kernel, what) = match usize::try_from(code).ok().and_then(|code| self.0.get(code.checked_sub(1)?)) {
            Some(known) => known.clone(),
            None => ("?".to_owned(), format!("it raised the unknown fault {code}")),
        };
        Err(Error::OutOfRange { device, kernel, what })
    }
}

/// Largest grid on each axis (CUDA C++ Programming Guide, "Technical specifications per compute capability").
const MAX_GRID: [i64; 3] = [0x7fff_ffff, 65_535, 65_535];

/// Evaluates a kernel's launch. `None`: the grid is empty and there is nothing to do.
pub fn resolve(kernel: &Kernel, bindings: &Bindings) -> Result<Option<Resolved>> {
    let fail = |message: String| Error::Launch { kernel: kernel.entry.clone(), message };
    let mut grid = [0u32; 3];
    for (axis, dim) in kernel.launch.grid.iter().enumerate() {
        let blocks = dim.eval(bindings)?;
        if !(0..=MAX_GRID[axis]).contains(&blocks) {
            let name = ['x', 'y', 'z'][axis];
            return Err(fail(format!(
                "its grid has {blocks} blocks along {name} (`{dim}`), and GPUs take at most {}",
                MAX_GRID[axis]
            )));
        }
        grid[axis] = blocks as u32;
    }
    if grid.contains(&0) {
        return Ok(None);
    }
    let values = kernel
        .launch
        .params
        .iter()
        .map(|param| {
            Ok(match param {
                Param::Input(i) => Value::Input(*i),
                Param::Output(i) => Value::Output(*i),
                Param::Scratch => Value::Scratch,
                Param::Fault => Value::Fault,
                Param::FaultCode => Value::FaultCode,
                Param::I64(dim) => Value::I64(dim.eval(bindings)?),
                Param::I32(dim) => {
                    let v = dim.eval(bindings)?;
                    Value::I32(
                        i32::try_from(v)
                            .map_err(|_| fail(format!("`{dim}` is {v}, and the kernel counts it in 32 bits")))?,
                    )
                }
            })
        })
        .collect::<Result<_>>()?;
    Ok(Some(Resolved { grid, values }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Dim;
    use kiln_kernels::Launch;

    #[test]
    fn a_grid_too_large_is_refused_by_the_kernels_name() {
        let kernel = Kernel {
            entry: "wide".into(),
            source: String::new(),
            launch: Launch {
                grid: [Dim::from("N"), Dim::from("N"), 1.into()],
                block: [1; 3],
                dynamic_shared: 0,
                params: vec![Param::I32(Dim::from("N") * 40_000.into())],
            },
            checks: Vec::new(),
        };
        let bound = |n: i64| resolve(&kernel, &Bindings::from([("N".to_owned(), n)]));
        assert!(bound(50_000).unwrap().is_some() && bound(0).unwrap().is_none());
        for (n, why) in [(65_536, "65536 blocks along y (`N`)"), (-1, "-1 blocks along x"), (60_000, "32 bits")] {
            let error = bound(n).unwrap_err();
            assert!(matches!(error, Error::Launch { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("`wide`") && text.contains(why), "{text}");
        }
    }
}
