//! Every pass of a build, in order.

/// What a model goes through on its way to machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Reading or writing the model: the graph that the build is given.
    Import,
    /// Fusion, once a target.
    Fuse(kiln_fuse::Pass),
    /// The tile compiler, once a kernel.
    Tile(kiln_kernels::Pass),
    /// NVRTC: PTX.
    Ptx,
    /// NVRTC: registers, spills and shared memory.
    Resources,
}

impl Pass {
    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Pass> {
        let fuse = kiln_fuse::Pass::ALL.into_iter().map(Pass::Fuse);
        let tile = kiln_kernels::Pass::ALL.into_iter().map(Pass::Tile);
        [Pass::Import].into_iter().chain(fuse).chain(tile).chain([Pass::Ptx, Pass::Resources])
    }

    /// Its name, one word.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Import => "import",
            Pass::Fuse(pass) => pass.name(),
            Pass::Tile(pass) => pass.name(),
            Pass::Ptx => "ptx",
            Pass::Resources => "resources",
        }
    }

    /// The extension of a file that holds what it leaves behind.
    pub fn extension(self) -> &'static str {
        match self {
            Pass::Tile(kiln_kernels::Pass::Cuda) => "cu",
            Pass::Ptx => "ptx",
            _ => "txt",
        }
    }

    /// What it leaves behind.
    pub fn leaves(self) -> &'static str {
        match self {
            Pass::Import => "the graph of the model",
            Pass::Fuse(pass) => pass.leaves(),
            Pass::Tile(pass) => pass.leaves(),
            Pass::Ptx => "PTX, as NVRTC gives it",
            Pass::Resources => "registers, spills, shared memory, as the assembler reports them",
        }
    }
}
