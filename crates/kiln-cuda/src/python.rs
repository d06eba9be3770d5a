//! The python3 on `PATH`, used only to fetch wheels with pip and to look into site-packages.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{CudaError, Result};

/// A Python interpreter that runs.
#[derive(Debug, Clone)]
pub struct Python {
    path: PathBuf,
    version: String,
}

impl Python {
    /// The first of `python3` and `python` on `PATH` that is Python 3.8 or newer.
    ///
    /// # Errors
    /// [`CudaError::NoPython`] naming what was tried.
    pub fn find() -> Result<Self> {
        let mut tried = Vec::new();
        let path = std::env::var_os("PATH").unwrap_or_default();
        for name in ["python3", "python"] {
            match std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()) {
                None => tried.push(format!("no {name}")),
                Some(file) => match Self::at(&file) {
                    Ok(python) => return Ok(python),
                    Err(CudaError::NoPython { detail }) => tried.push(detail),
                    Err(other) => return Err(other),
                },
            }
        }
        Err(CudaError::NoPython { detail: tried.join(", ") })
    }

    /// The interpreter at `path`.
    ///
    /// # Errors
    /// [`CudaError::NoPython`] if it does not run or is too old.
    pub fn at(path: &Path) -> Result<Self> {
        let unusable = |why: String| CudaError::NoPython { detail: format!("{}: {why}", path.display()) };
        let output = Command::new(path)
            .args(["-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| unusable(e.to_string()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if !output.status.success() || (major, minor) < (3, 8) {
            return Err(unusable(format!("version `{version}`, {}", output.status)));
        }
        Ok(Self { path: path.to_owned(), version })
    }

    /// Path of the interpreter.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, as in `3.12.4`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The version of its pip module, or `None` without one.
    pub fn pip_version(&self) -> Option<String> {
        let output = Command::new(&self.path)
            .args(["-c", "import pip; print(pip.__version__)"])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The folders it imports from (`sys.path`), existing ones only.
    pub fn import_folders(&self) -> Vec<PathBuf> {
        let output = Command::new(&self.path)
            .args(["-c", "import sys; print('\\n'.join(p for p in sys.path if p))"])
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else { return Vec::new() };
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).filter(|folder| folder.is_dir()).collect()
    }

    /// Downloads exactly one wheel (no dependencies) into the empty folder `into`, and returns its path.
    ///
    /// Which index serves it is pip's own configuration. pip works in `scratch`, keeps no cache, and `on_bytes` is told
    /// now and then how many bytes have arrived.
    ///
    /// # Errors
    /// [`CudaError::NoPip`], [`CudaError::Network`], [`CudaError::DiskFull`] or [`CudaError::PipFailed`].
    pub(crate) fn download_wheel(
        &self,
        wheel: &WheelRequest<'_>,
        into: &Path,
        scratch: &Path,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<PathBuf> {
        let log_path = scratch.join("pip.log");
        let log = File::create(&log_path).map_err(|e| CudaError::io("create", &log_path, e))?;
        let log_too = log.try_clone().map_err(|e| CudaError::io("create", &log_path, e))?;
        let mut command = Command::new(&self.path);
        command
            .args(["-m", "pip", "--no-input", "--disable-pip-version-check", "download"])
            .args(["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar", "off"])
            .args(wheel.platforms.iter().flat_map(|platform| ["--platform", platform]))
            .arg("--dest")
            .arg(into)
            .arg(wheel.requirement)
            .env("TMPDIR", scratch)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too);
        let mut child = command.spawn().map_err(|e| CudaError::io("run", &self.path, e))?;
        let status = loop {
            match child.try_wait().map_err(|e| CudaError::io("run", &self.path, e))? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(100)),
            }
            on_bytes(folder_size(scratch) + folder_size(into));
        };
        if !status.success() {
            let printed = fs::read(&log_path).unwrap_or_default();
            return Err(self.pip_failure(wheel, into, &status.to_string(), &String::from_utf8_lossy(&printed)));
        }
        let wheels: Vec<PathBuf> = fs::read_dir(into)
            .map_err(|e| CudaError::io("list", into, e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "whl"))
            .collect();
        match wheels.as_slice() {
            [one] => Ok(one.clone()),
            other => Err(CudaError::PipFailed {
                package: wheel.requirement.to_owned(),
                status: "success".to_owned(),
                detail: format!("  expected one wheel, found {}", other.len()),
            }),
        }
    }

    fn pip_failure(&self, wheel: &WheelRequest<'_>, into: &Path, status: &str, printed: &str) -> CudaError {
        const UNREACHABLE: [&str; 7] = [
            "NewConnectionError",
            "ConnectTimeout",
            "ReadTimeout",
            "name resolution",
            "ProxyError",
            "Connection refused",
            "Max retries exceeded",
        ];
        let package = wheel.requirement.to_owned();
        let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(6)..];
        let detail = tail.iter().map(|line| format!("  {}", line.trim())).collect::<Vec<_>>().join("\n");
        if printed.contains("No module named pip") {
            CudaError::NoPip { python: self.path.clone() }
        } else if printed.contains("No space left on device") {
            CudaError::DiskFull { path: into.to_owned(), needed: wheel.disk }
        } else if UNREACHABLE.iter().any(|sign| printed.contains(sign)) {
            CudaError::Network { package, detail }
        } else {
            CudaError::PipFailed { package, status: status.to_owned(), detail }
        }
    }
}

/// A wheel to download.
pub(crate) struct WheelRequest<'a> {
    /// pip requirement with an exact version.
    pub requirement: &'a str,
    /// pip platform tags, any of which will do.
    pub platforms: &'a [&'a str],
    /// Bytes of disk that fetching and unpacking it takes.
    pub disk: u64,
}

/// Bytes in the files below `folder`; what cannot be read counts nothing, for it is only shown as progress.
fn folder_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
