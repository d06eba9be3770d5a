//! Reading and writing one file.

use std::fs::{self, File, FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// First characters of a temporary file's name.
pub(crate) const TEMPORARY: &str = ".new-";

/// Opens a regular file for reading; links are followed. A FIFO, device, socket or folder is an error that says which.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened, for opening a FIFO waits until somebody writes to it.
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    // And after: it may have been replaced in between.
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Writes a file whole or not at all: `fill` fills a new file in the same folder, which then takes the place of `path`. A link is followed: it stays,
/// and what it names is replaced. What is there and is no regular file is refused.
pub fn write(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let target = destination(path)?;
    replace(&target, fill)
}

/// The file that [`write()`] would write: `path`, or what it is a link to.
pub fn destination(path: &Path) -> io::Result<PathBuf> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(e) => return Err(e),
    };
    if !meta.is_symlink() {
        return regular(&meta).map(|()| path.to_owned());
    }
    let real =
        fs::canonicalize(path).map_err(|e| io::Error::new(e.kind(), format!("a link that leads nowhere: {e}")))?;
    regular(&fs::metadata(&real)?)?;
    Ok(real)
}

/// Whether two paths lead to one file.
pub fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Puts a new file in the place of whatever is at `path`, a link itself included; a folder is an error.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's mask takes away what it should.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    fill(file.as_file_mut())?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

pub(crate) fn regular(meta: &Metadata) -> io::Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let message = format!("it is {}, and a regular file is needed", describe(meta.file_type()));
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// What a file is, with its article: `a FIFO`.
pub fn describe(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a FIFO";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    match kind {
        k if k.is_dir() => "a folder",
        k if k.is_symlink() => "a link",
        k if k.is_file() => "a regular file",
        _ => "no file",
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::process::Command;

    fn put(path: &Path, text: &str) -> io::Result<()> {
        write(path, |f| f.write_all(text.as_bytes()))
    }

    #[test]
    fn links_are_followed_and_what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        put(&at("real"), "one").unwrap();
        symlink("real", at("link")).unwrap();
        put(&at("link"), "two").unwrap();
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(at("real")).unwrap(), "two");
        assert!(same(&at("link"), &at("real")) && !same(&at("link"), &at("none")));

        fs::create_dir(at("folder")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        let cases = [
            (at("folder"), "a folder"),
            (at("dangling"), "leads nowhere"),
            (at("fifo"), "a FIFO"),
            ("/dev/null".into(), "a device"),
        ];
        for (path, why) in cases {
            let text = put(&path, "lost").unwrap_err().to_string();
            assert!(text.contains(why), "{}: {text}", path.display());
            assert!(open(&path).is_err(), "{}", path.display());
        }
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        put(&path, "old").unwrap();
        let failed = write(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
