//! `kiln build --dump`: what passes leave behind, as text.

use kiln_engine::{Pass, Progress};
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

/// What to dump.
#[derive(Clone, Debug)]
pub enum Dump {
    /// What these passes leave behind.
    After(Vec<Pass>),
    /// Only the list of passes.
    Help,
}

impl FromStr for Dump {
    type Err = String;

    fn from_str(text: &str) -> Result<Dump, String> {
        if text == "help" {
            return Ok(Dump::Help);
        }
        let Some(names) = text.strip_prefix("after=") else {
            return Err(format!("expected after=PASS[,PASS..], after=all or help; the passes are\n{}", list()));
        };
        if names == "all" {
            return Ok(Dump::After(Pass::all().collect()));
        }
        let pass = |name: &str| {
            let found = Pass::all().find(|pass| pass.name() == name);
            found.ok_or_else(|| format!("no pass is called `{name}`; the passes are\n{}", list()))
        };
        names.split(',').map(pass).collect::<Result<_, _>>().map(Dump::After)
    }
}

/// Every pass, in order.
pub fn list() -> String {
    Pass::all().map(|pass| format!("  {:<10} {}\n", pass.name(), pass.leaves())).collect()
}

/// Writes what passes leave behind.
pub struct Dumper {
    passes: Vec<Pass>,
    /// Standard output if there is none.
    folder: Option<PathBuf>,
    /// The first that could not be written.
    failure: Mutex<Option<miette::Report>>,
}

impl Dumper {
    /// Of these passes, to files in `folder` or to standard output.
    pub fn new(passes: Vec<Pass>, folder: Option<PathBuf>) -> Dumper {
        Dumper { passes, folder, failure: Mutex::new(None) }
    }

    /// Takes news of a build.
    pub fn hear(&self, news: &Progress<'_>) {
        let Progress::Pass { pass, target, kernel, text } = news else { return };
        if !self.passes.contains(pass) {
            return;
        }
        if let Err(e) = self.write(*pass, target, kernel, text) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    }

    /// The first failure, once the build has ended.
    pub fn finish(self) -> Result<()> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn write(&self, pass: Pass, target: &str, kernel: &str, text: &dyn Display) -> Result<()> {
        let Some(folder) = &self.folder else {
            let of: Vec<&str> = [pass.name(), target, kernel].into_iter().filter(|part| !part.is_empty()).collect();
            return outln!("==== after {}\n{text}", of.join(", "));
        };
        let path = folder.join(target).join(kernel).join(file(pass));
        write(&path, text).into_diagnostic().wrap_err_with(|| format!("cannot write {}", path.display()))
    }
}

fn write(path: &Path, text: &dyn Display) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text.to_string())
}

/// Sorted as the passes are.
fn file(pass: Pass) -> String {
    let number = Pass::all().take_while(|other| *other != pass).count();
    format!("{number:02}-{}.{}", pass.name(), pass.extension())
}

/// An error if the text would be mixed with a report for programs.
pub fn check(folder: Option<&PathBuf>, json: bool) -> Result<()> {
    match folder {
        None if json => Err(miette!("`--dump` and `--json` both write to standard output: add `--dump-to FOLDER`")),
        _ => Ok(()),
    }
}
