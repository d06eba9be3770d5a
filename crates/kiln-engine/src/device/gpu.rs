//! What the CUDA device and the simulator share: launches with concrete geometry and arguments.

use super::{Arguments, Place};
use crate::{Error, Result};
use kiln_graph::Bindings;
use kiln_kernels::{Kernel, MAX_CLUSTER, Param, Pointer, TensorMap};
use std::sync::{PoisonError, RwLock};

/// A kernel argument once shapes are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An address.
    Pointer(Pointer),
    /// Address of the word that faults are noted in.
    Fault,
    /// The code of the kernel's first check.
    FaultCode,
    /// A number.
    I32(i32),
    /// A number.
    I64(i64),
    /// The bits of a number.
    F32(u32),
    /// A tensor map, encoded when its base is known.
    TensorMap(Box<TensorMap<u64>>),
}

/// A launch once shapes are known.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Blocks on each axis, none zero.
    pub grid: [u32; 3],
    /// Arguments in order.
    pub values: Vec<Value>,
}

/// The memory that a pointer of a kernel points to.
///
/// # Errors
/// It is given none.
pub fn place(kernel: &Kernel, args: &Arguments<'_>, pointer: Pointer) -> Result<Place> {
    args.place(pointer).ok_or_else(|| Error::Internal {
        place: "the device".into(),
        message: format!("kernel `{}` lacks {pointer:?}", kernel.entry),
    })
}

/// The memory of a tensor map, parameter `index` of a kernel, and the address of its first element where the memory starts at `base`.
///
/// # Errors
/// A tensor that leaves the memory, an address that is not aligned.
pub fn mapped(kernel: &Kernel, index: usize, map: &TensorMap<u64>, place: Place, base: u64) -> Result<u64> {
    let fail = |what: String| map_error(kernel, index, map.base, what);
    match map.end() {
        Some(end) if end <= place.bytes as u64 => {}
        end => {
            let end = end.map_or("beyond 64 bits".to_owned(), |end| format!("byte {end}"));
            return Err(fail(format!("end: expected at most byte {} of its memory, found {end}", place.bytes)));
        }
    }
    let address = base + map.offset;
    match address % 16 {
        0 => Ok(address),
        _ => Err(fail(format!("address: expected a multiple of 16, found {address:#x}"))),
    }
}

fn map_error(kernel: &Kernel, index: usize, base: Pointer, what: String) -> Error {
    let message = format!("parameter {index}, a tensor map of {base:?}: {what}");
    Error::Launch { kernel: kernel.entry.clone(), message }
}

/// The checks of all kernels that are loaded: what a code that a kernel raised means. Devices that share code share them.
#[derive(Default)]
pub struct Checks(RwLock<Vec<(String, String)>>);

/// Bytes of the word that faults are noted in.
pub const FAULT_BYTES: usize = 4;

impl Checks {
    /// Adds those of a kernel, and gives the code of the first. No code is 0, which is no fault.
    pub fn add(&self, kernel: &Kernel) -> i32 {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let first = all.len() + 1;
        all.extend(kernel.checks.iter().map(|what| (kernel.entry.clone(), what.clone())));
        i32::try_from(first).unwrap_or(i32::MAX)
    }

    /// The fault that the word says; none if it is 0.
    pub fn fault(&self, device: String, word: [u8; FAULT_BYTES]) -> Result<()> {
        let code = i32::from_le_bytes(word);
        if code == 0 {
            return Ok(());
        }
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (kernel, what) = match usize::try_from(code).ok().and_then(|code| all.get(code.checked_sub(1)?)) {
            Some(known) => known.clone(),
            None => ("?".to_owned(), format!("it raised the unknown fault {code}")),
        };
        Err(Error::OutOfRange { device, kernel, what })
    }
}

/// Largest grid on each axis (CUDA C++ Programming Guide, "Technical specifications per compute capability").
const MAX_GRID: [i64; 3] = [0x7fff_ffff, 65_535, 65_535];

/// Evaluates a kernel's launch on a GPU of `sms` SMs. `None`: the grid is empty and there is nothing to do.
pub fn resolve(kernel: &Kernel, bindings: &Bindings, sms: u32) -> Result<Option<Resolved>> {
    let fail = |message: String| Error::Launch { kernel: kernel.entry.clone(), message };
    let (launch, mut grid) = (&kernel.launch, [0u32; 3]);
    let cluster = launch.cluster;
    if !(1..=MAX_CLUSTER).contains(&cluster.iter().fold(1, |n: u32, &extent| n.saturating_mul(extent))) {
        return Err(fail(format!("its cluster is {cluster:?}; expected 1 to {MAX_CLUSTER} blocks")));
    }
    for (axis, blocks) in launch.grid.blocks(bindings, sms, cluster)?.into_iter().enumerate() {
        let name = ['x', 'y', 'z'][axis];
        if !(0..=MAX_GRID[axis]).contains(&blocks) {
            return Err(fail(format!(
                "its grid `{}` has {blocks} blocks along {name}, and GPUs take at most {}",
                launch.grid, MAX_GRID[axis]
            )));
        }
        if blocks % i64::from(cluster[axis]) != 0 {
            return Err(fail(format!(
                "its grid `{}` has {blocks} blocks along {name}; expected a multiple of its cluster's {}",
                launch.grid, cluster[axis]
            )));
        }
        grid[axis] = blocks as u32;
    }
    if grid.contains(&0) {
        return Ok(None);
    }
    let values = launch
        .params
        .iter()
        .enumerate()
        .map(|(index, param)| {
            Ok(match param {
                Param::Input(i) => Value::Pointer(Pointer::Input(*i)),
                Param::Output(i) => Value::Pointer(Pointer::Output(*i)),
                Param::Scratch => Value::Pointer(Pointer::Scratch),
                Param::Zeroed => Value::Pointer(Pointer::Zeroed),
                Param::Packed(i) => Value::Pointer(Pointer::Packed(*i)),
                Param::Fault => Value::Fault,
                Param::FaultCode => Value::FaultCode,
                Param::I64(dim) => Value::I64(dim.eval(bindings)?),
                Param::F32(bits) => Value::F32(*bits),
                Param::TensorMap(map) => {
                    let resolved = map.resolve(bindings)?;
                    Value::TensorMap(Box::new(resolved.map_err(|what| map_error(kernel, index, map.base, what))?))
                }
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
    use kiln_kernels::{Element, Grid, Launch, Promotion, Swizzle, Window};

    fn kernel(grid: Grid, cluster: [u32; 3], params: Vec<Param>) -> Kernel {
        let launch = Launch { grid, cluster, block: [1; 3], dynamic_shared: 0, params };
        Kernel { entry: "wide".into(), source: String::new(), launch, checks: Vec::new() }
    }

    fn bound(kernel: &Kernel, n: i64) -> Result<Option<Resolved>> {
        resolve(kernel, &Bindings::from([("N".to_owned(), n)]), 5)
    }

    #[test]
    fn a_grid_too_large_is_refused_by_the_kernels_name() {
        let square = Grid::Fixed([Dim::from("N"), Dim::from("N"), 1.into()]);
        let kernel = kernel(square, [1; 3], vec![Param::I32(Dim::from("N") * 40_000.into())]);
        assert!(bound(&kernel, 50_000).unwrap().is_some() && bound(&kernel, 0).unwrap().is_none());
        for (n, why) in [(65_536, "65536 blocks along y"), (-1, "-1 blocks along x"), (60_000, "32 bits")] {
            let error = bound(&kernel, n).unwrap_err();
            assert!(matches!(error, Error::Launch { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("`wide`") && text.contains(why), "{text}");
        }
    }

    #[test]
    fn grids_are_whole_clusters_and_persistent_ones_are_of_the_gpus_size() {
        let fixed = kernel(Grid::Fixed([Dim::from("N"), 4.into(), 1.into()]), [2, 2, 1], Vec::new());
        assert_eq!(bound(&fixed, 6).unwrap().unwrap().grid, [6, 4, 1]);
        let text = bound(&fixed, 7).unwrap_err().to_string();
        assert!(text.contains("7 blocks along x; expected a multiple of its cluster's 2"), "{text}");
        let persistent = kernel(Grid::Persistent { tiles: Dim::from("N"), per_sm: 2 }, [4, 1, 1], Vec::new());
        let grids = [1, 5, 100].map(|n| bound(&persistent, n).unwrap().unwrap().grid[0]);
        assert_eq!(grids, [4, 8, 8]);
        assert!(bound(&persistent, 0).unwrap().is_none());
        let large = kernel(Grid::Fixed([16.into(), 1.into(), 1.into()]), [16, 1, 1], Vec::new());
        let text = bound(&large, 1).unwrap_err().to_string();
        assert!(text.contains("cluster is [16, 1, 1]; expected 1 to 8 blocks"), "{text}");
    }

    #[test]
    fn a_tensor_map_that_breaks_a_rule_or_leaves_its_memory_is_named() {
        let n = Dim::from("N");
        let map = TensorMap {
            base: Pointer::Input(3),
            offset: Dim::from(16),
            element: Element::F16,
            extents: vec![n.clone(), 4.into()],
            strides: vec![n * 2.into()],
            window: Window::Tiled(vec![8, 4]),
            element_strides: Vec::new(),
            swizzle: Swizzle::None,
            promotion: Promotion::None,
        };
        let grid = Grid::Fixed([1.into(), 1.into(), 1.into()]);
        let kernel = kernel(grid, [1; 3], vec![Param::F32(7), Param::TensorMap(Box::new(map))]);
        let text = bound(&kernel, 9).unwrap_err().to_string();
        for word in
            ["`wide`", "parameter 1, a tensor map of Input(3)", "stride 1 (`2*N`)", "multiple of 16", "found 18"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
        let resolved = bound(&kernel, 8).unwrap().unwrap();
        let [Value::F32(7), Value::TensorMap(map)] = &resolved.values[..] else { panic!("{resolved:?}") };
        let at = |bytes, base| mapped(&kernel, 1, map, Place { mem: super::super::MemId(0), offset: 0, bytes }, base);
        assert_eq!(at(80, 0x100).unwrap(), 0x110);
        let text = at(79, 0x100).unwrap_err().to_string();
        assert!(text.contains("at most byte 79 of its memory, found byte 80"), "{text}");
        let text = at(80, 0x104).unwrap_err().to_string();
        assert!(text.contains("a multiple of 16, found 0x114"), "{text}");
    }
}
