//! Python packages: pinned, installed under `$KILN_HOME/python`, never elsewhere.

use crate::Outcome;
use kiln_cuda::{Home, Python};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package at one version.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Name on the package index.
    pub name: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// Whether its dependencies come with it (into its own folder).
    pub dependencies: bool,
}

/// The ONNX reference: schema, backend tests.
pub const ONNX: Package = Package { name: "onnx", version: "1.23.2", dependencies: true };
/// The oracle of the public models.
pub const ONNXRUNTIME: Package = Package { name: "onnxruntime", version: "1.32.0", dependencies: true };
/// The disassembler with which tests look at machine code. A newer one reads what older compilers wrote.
pub const NVDISASM: Package = Package { name: "nvidia-cuda-nvdisasm", version: "13.5.37", dependencies: false };

impl Package {
    /// Installs the package unless it is there, and returns its folder: the `PYTHONPATH` that makes it importable.
    pub fn install(&self, home: &Home) -> Outcome<PathBuf> {
        self.install_into(&home.python())
    }

    /// [`Package::install`] into a folder of `parent`.
    pub fn install_into(&self, parent: &Path) -> Outcome<PathBuf> {
        let Package { name, version, .. } = self;
        let folder = parent.join(format!("{name}-{version}"));
        if folder.is_dir() {
            return Ok(folder);
        }
        eprintln!("getting {name} {version}");
        fs::create_dir_all(parent)?;
        // A folder appears under its name only when it is complete.
        let partial = parent.join(format!(".{name}-{version}.{}", std::process::id()));
        let python = Python::find()?;
        let mut pip = Command::new(python.path());
        pip.args([
            "-m",
            "pip",
            "--no-input",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--no-warn-script-location",
        ])
        .args(["--root-user-action=ignore", "--only-binary=:all:", "--no-compile"])
        .args((!self.dependencies).then_some("--no-deps"))
        .arg("--target")
        .arg(&partial)
        .arg(format!("{name}=={version}"));
        let output = pip.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let _ = fs::remove_dir_all(&partial);
            return Err(
                format!("pip cannot install {name}=={version}:\n{}", String::from_utf8_lossy(&output.stderr)).into()
            );
        }
        if let Err(e) = fs::rename(&partial, &folder) {
            let _ = fs::remove_dir_all(&partial);
            // Another run may have been first.
            if !folder.is_dir() {
                return Err(format!("cannot move {} to {}: {e}", partial.display(), folder.display()).into());
            }
        }
        Ok(folder)
    }
}

/// Runs a script of `xtask/python` with one package importable.
pub fn run<S: AsRef<OsStr>>(script: &str, package: &Path, args: impl IntoIterator<Item = S>) -> Outcome<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let status = Command::new(Python::find()?.path())
        .arg("-B")
        .arg(path)
        .args(args)
        .env("PYTHONPATH", package)
        .stdin(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("{script} failed: {status}").into()) }
}

/// Checks the SHA-256 of a file.
pub fn check_sha256(path: &Path, expected: &str) -> Outcome<()> {
    let content = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let found = sha256(&content);
    if found == expected {
        Ok(())
    } else {
        Err(format!("{} has SHA-256 {found}, expected {expected}; delete its folder and try again", path.display())
            .into())
    }
}

/// A SHA-256 in hexadecimal digits.
pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}
