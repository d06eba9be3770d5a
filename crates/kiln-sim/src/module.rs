//! Modules and kernels.

use std::sync::Arc;

use crate::decode::{Program, decode};
use crate::error::{Error, Result};
use crate::ptx::{PtxFile, parse};

/// A parsed PTX module.
#[derive(Clone)]
pub struct Module {
    pub(crate) file: Arc<PtxFile>,
}

/// What a module says about one of its kernels.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Name in the module.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// `.maxntid`: most threads a CTA may have along x, y, z.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: threads a CTA must have.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`: CTAs of a cluster.
    pub cluster: Option<[u32; 3]>,
}

/// One kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes.
    pub align: u32,
}

impl Module {
    /// Parses PTX text. Instructions are checked when a kernel is decoded.
    pub fn parse(ptx: &str) -> Result<Module> {
        Ok(Module { file: Arc::new(parse(ptx)?) })
    }

    /// The `.target`, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.file.target
    }

    /// The PTX ISA version.
    pub fn version(&self) -> &str {
        &self.file.version
    }

    /// The kernels of the module.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.file.funcs.iter().filter(|f| f.entry && f.body.is_some());
        entries
            .map(|f| Entry {
                name: f.name.clone(),
                params: f
                    .formals
                    .iter()
                    .map(|v| Param { name: v.name.clone(), size: v.size, align: v.align })
                    .collect(),
                max_threads: f.max_threads,
                required_threads: f.req_threads,
                cluster: f.req_cluster,
            })
            .collect()
    }

    /// Decodes a kernel; an instruction that the simulator does not execute is an error that names it and its line.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let program = decode(&self.file, name)?;
        Ok(Kernel { file: self.file.clone(), program: Arc::new(program) })
    }
}

/// A decoded kernel.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) file: Arc<PtxFile>,
    pub(crate) program: Arc<Program>,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Bytes of static shared memory.
    pub fn static_shared(&self) -> u32 {
        self.program.shared
    }

    /// Bytes of local memory a thread.
    pub fn local_bytes(&self) -> u32 {
        self.program.frame
    }

    /// Instructions after inlining.
    pub fn instructions(&self) -> usize {
        self.program.insts.len()
    }

    /// Offset and size of each parameter in the parameter block.
    pub fn params(&self) -> Vec<(u32, u32)> {
        self.program.params.iter().map(|(at, size, _)| (*at, *size)).collect()
    }

    /// Source file and line of instruction `pc`.
    pub(crate) fn source(&self, loc: (u32, u32)) -> (String, u32) {
        let file = self.file.files.iter().find(|(n, _)| *n == loc.0).map_or(String::new(), |(_, f)| f.clone());
        (file, loc.1)
    }

    pub(crate) fn launch_error(&self, message: String) -> Error {
        Error::Launch { kernel: self.program.name.clone(), message }
    }
}
