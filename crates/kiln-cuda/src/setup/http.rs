//! One file from a package index over HTTP: found on its project's page, bounded in size, resumed where the connection breaks.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy, ResponseExt};

use super::Pin;
use super::index::{Index, address_of};
use crate::{CudaError, Result};

/// Connections in all; each goes on where the one before broke off.
const CONNECTIONS: usize = 4;
/// No project's page comes near this many bytes.
const PAGE_LIMIT: u64 = 32 << 20;
/// Either format of the simple API, JSON first.
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// Downloads the pinned file into the folder `into`. Its hash is for the caller to check.
///
/// # Errors
/// [`CudaError::Index`], [`CudaError::Io`] and [`CudaError::DiskFull`].
pub(super) fn download(index: &Index, pin: &Pin<'_>, into: &Path, on_bytes: &mut dyn FnMut(u64)) -> Result<PathBuf> {
    let refused = |reason: String| CudaError::Index { url: index.shown(), package: pin.requirement(), reason };
    let agent = agent(index).map_err(refused)?;
    let page = format!("{}/{}/", index.url, pin.project);
    let mut response = agent.get(&page).header(header::ACCEPT, ACCEPT).call().map_err(|e| refused(e.to_string()))?;
    // References are relative to where redirections led.
    let page = response.get_uri().to_string();
    let body = response.body_mut().with_config().limit(PAGE_LIMIT).read_to_string();
    let body = body.map_err(|e| refused(format!("its page of {}: {e}", pin.project)))?;
    let address = address_of(&pin.file(), &body, &page).map_err(refused)?;

    let path = into.join(pin.file());
    let mut file = File::create_new(&path).map_err(|e| CudaError::io("create", &path, e))?;
    let mut here = 0;
    let mut broken = String::new();
    for _ in 0..CONNECTIONS {
        let request = agent.get(&address);
        let request = if here > 0 { request.header(header::RANGE, format!("bytes={here}-")) } else { request };
        let response = match request.call() {
            Ok(response) => response,
            Err(error @ ureq::Error::StatusCode(_)) => return Err(refused(format!("{}: {error}", pin.file()))),
            Err(error) => {
                broken = error.to_string();
                continue;
            }
        };
        if here > 0 && !goes_on(&response, here) {
            here = 0;
            file.set_len(0).and_then(|()| file.rewind()).map_err(|e| CudaError::io("write", &path, e))?;
        }
        // One byte past the end tells a file that is too long.
        let mut reader = response.into_body().into_reader().take(pin.bytes + 1 - here);
        let mut block = vec![0; 1 << 16];
        loop {
            match reader.read(&mut block) {
                Ok(0) => {
                    broken = "the connection ended".to_owned();
                    break;
                }
                Ok(n) => {
                    file.write_all(&block[..n]).map_err(|e| CudaError::io_needing("write", &path, e, pin.bytes))?;
                    here += n as u64;
                    on_bytes(here);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    broken = e.to_string();
                    break;
                }
            }
        }
        match here.cmp(&pin.bytes) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Ok(path),
            std::cmp::Ordering::Greater => {
                return Err(refused(format!("{} is longer than the pinned file's {} bytes", pin.file(), pin.bytes)));
            }
        }
    }
    Err(refused(format!("{here} of {} bytes arrived over {CONNECTIONS} connections; the last: {broken}", pin.bytes)))
}

/// Whether a response continues at byte `here`, rather than from the start.
fn goes_on(response: &Response<Body>, here: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    response.status() == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {here}-")))
}

fn agent(index: &Index) -> Result<Agent, String> {
    let certificates: Vec<Certificate<'_>> = match &index.cert {
        // Also those of SSL_CERT_FILE and SSL_CERT_DIR. One that cannot be read is missed where it is needed.
        None => {
            rustls_native_certs::load_native_certs().certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect()
        }
        Some(file) => {
            let pem = fs::read(file).map_err(|e| format!("the certificates in {}: {e}", file.display()))?;
            let certificate = |item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            };
            parse_pem(&pem).filter_map(certificate).collect()
        }
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let mut config = Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    if let Some(proxy) = &index.proxy {
        config = config.proxy(Some(Proxy::new(proxy).map_err(|e| format!("pip's `proxy` setting: {e}"))?));
    }
    Ok(config.build().new_agent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tests::{fake_python, pin, wheel_with};
    use crate::setup::{SetupStep, Way, install, with_pip};
    use crate::{Home, Python};
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;

    const FILE: &str = "nvidia_cuda_nvrtc-13.0.88-py3-none-any.whl";

    /// An index on this machine. For each request of the file, `answer` is given how many there were before and the byte that is asked
    /// for, and writes the response.
    struct Server {
        index: Index,
        /// Method, path and range of each request.
        seen: Arc<Mutex<Vec<String>>>,
    }

    fn serve(html: bool, answer: impl Fn(usize, usize, &mut TcpStream) + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut asked = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines: Vec<String> =
                    BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let range = lines
                    .iter()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                log.lock().unwrap().push(format!("{} {}", lines[0], range.clone().unwrap_or_default()));
                if lines[0].starts_with(&format!("GET /files/{FILE}")) {
                    let from = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
                    answer(asked, from, &mut stream);
                    asked += 1;
                } else {
                    assert!(lines[0].starts_with("GET /simple/nvidia-cuda-nvrtc/ "), "{}", lines[0]);
                    let body = match html {
                        true => format!("<html><a href=\"../../files/{FILE}#sha256=00\">{FILE}</a></html>"),
                        false => format!("{{\"files\": [{{\"url\": \"/files/{FILE}\"}}]}}"),
                    };
                    reply(&mut stream, "200 OK", "", body.len(), body.as_bytes());
                }
            }
        });
        Server { index: Index { url, ..Index::default() }, seen }
    }

    fn reply(stream: &mut TcpStream, status: &str, headers: &str, length: usize, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        // A client that has seen enough hangs up.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    }

    fn wheel() -> (Vec<u8>, String) {
        let (file, hash) = wheel_with(&[("nvidia/cu13/lib/libnvrtc.so.13", &b"library ".repeat(4000))]);
        (fs::read(file.path()).unwrap(), hash)
    }

    /// Installs from the server, then from pip if there is one; returns the steps too.
    fn run(server: &Server, pip: Option<Python>, hash: &str, bytes: usize) -> (Result<Vec<u8>>, Vec<SetupStep>) {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let mut steps = Vec::new();
        let mut ways: Vec<Way<'_>> = vec![Box::new(|pin, into, on_bytes| download(&server.index, pin, into, on_bytes))];
        ways.extend(pip.map(|python| with_pip(move || Ok(python.clone()))));
        let result = install(&home, &pin(hash, bytes as u64), &ways, |step| steps.push(step));
        let left: Vec<_> = fs::read_dir(home.nvrtc()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == ".lock" || name == "13.0.88"), "{left:?}");
        assert_eq!(left.len() == 2, result.is_ok(), "{left:?}");
        (result.map(|folder| fs::read(folder.join("libnvrtc.so.13")).unwrap()), steps)
    }

    #[test]
    fn a_listed_file_is_fetched_checked_and_unpacked() {
        for html in [false, true] {
            let (bytes, hash) = wheel();
            let len = bytes.len();
            let server = serve(html, move |_, _, stream| reply(stream, "200 OK", "", bytes.len(), &bytes));
            let (result, steps) = run(&server, None, &hash, len);
            assert_eq!(result.unwrap(), b"library ".repeat(4000));
            let total = len as u64;
            assert!(steps.contains(&SetupStep::Downloading { bytes: total, total }), "{steps:?}");
            assert_eq!(server.seen.lock().unwrap().len(), 2);
        }
    }

    #[test]
    fn a_file_of_another_hash_is_refused_and_pip_is_not_asked_for_it() {
        let (bytes, _) = wheel();
        let len = bytes.len();
        let server = serve(false, move |_, _, stream| reply(stream, "200 OK", "", bytes.len(), &bytes));
        let folder = tempfile::tempdir().unwrap();
        let python = fake_python(folder.path(), "exit 7");
        let (result, steps) = run(&server, Some(python), &"0".repeat(64), len);
        let error = result.unwrap_err();
        assert!(matches!(error, CudaError::HashMismatch { .. }), "{error}");
        assert!(!steps.iter().any(|step| matches!(step, SetupStep::FallingBack(_))));
    }

    #[test]
    fn a_broken_connection_is_resumed() {
        let (bytes, hash) = wheel();
        let (len, half) = (bytes.len(), bytes.len() / 2);
        let server = serve(false, move |asked, from, stream| match asked {
            0 => reply(stream, "200 OK", "", len, &bytes[..half]),
            _ => {
                let range = format!("Content-Range: bytes {from}-{}/{len}\r\n", len - 1);
                reply(stream, "206 Partial Content", &range, len - from, &bytes[from..]);
            }
        });
        assert_eq!(run(&server, None, &hash, len).0.unwrap(), b"library ".repeat(4000));
        assert!(server.seen.lock().unwrap()[2].ends_with(&format!(" {half}-")), "{:?}", server.seen);
    }

    #[test]
    fn a_server_without_ranges_begins_again() {
        let (bytes, hash) = wheel();
        let len = bytes.len();
        let server = serve(false, move |asked, _, stream| {
            let sent = if asked < 2 { len / 3 } else { len };
            reply(stream, "200 OK", "", len, &bytes[..sent]);
        });
        assert_eq!(run(&server, None, &hash, len).0.unwrap(), b"library ".repeat(4000));
    }

    #[test]
    fn what_stays_truncated_or_is_too_long_is_an_error() {
        let (bytes, hash) = wheel();
        let len = bytes.len();
        let short = bytes.clone();
        let server = serve(false, move |_, _, stream| reply(stream, "200 OK", "", len, &short[..100]));
        let error = run(&server, None, &hash, len).0.unwrap_err().to_string();
        assert!(error.contains(&format!("100 of {len} bytes")), "{error}");
        assert_eq!(server.seen.lock().unwrap().len(), 1 + CONNECTIONS);

        let long = [&bytes[..], &[7; 1 << 20]].concat();
        let server = serve(false, move |_, _, stream| reply(stream, "200 OK", "", long.len(), &long));
        let error = run(&server, None, &hash, len).0.unwrap_err().to_string();
        assert!(error.contains("longer than the pinned file"), "{error}");
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let (file, hash) = wheel_with(&[("../../nvidia/lib/libnvrtc.so.13", b"evil")]);
        let bytes = fs::read(file.path()).unwrap();
        let len = bytes.len();
        let server = serve(false, move |_, _, stream| reply(stream, "200 OK", "", bytes.len(), &bytes));
        let error = run(&server, None, &hash, len).0.unwrap_err().to_string();
        assert!(error.contains("outside the archive"), "{error}");
    }

    #[test]
    fn pip_is_the_fallback() {
        let (bytes, hash) = wheel();
        let len = bytes.len();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept.whl"), &bytes).unwrap();
        let missing = || serve(true, |_, _, stream| reply(stream, "404 Not Found", "", 0, b""));
        let copies = format!("cp '{}' $dest/x.whl", folder.path().join("kept.whl").display());
        let (result, steps) = run(&missing(), Some(fake_python(folder.path(), &copies)), &hash, len);
        assert_eq!(result.unwrap(), b"library ".repeat(4000));
        let said = |step: &SetupStep| matches!(step, SetupStep::FallingBack(reason) if reason.contains("404"));
        assert!(steps.iter().any(said), "{steps:?}");

        let python = fake_python(folder.path(), "echo 'NewConnectionError: refused' >&2; exit 1");
        let error = run(&missing(), Some(python), &hash, len).0.unwrap_err().to_string();
        for part in ["nvidia-cuda-nvrtc==13.0.88", "KILN_NVRTC", "404", "pip could not reach"] {
            assert!(error.contains(part), "{part} missing from: {error}");
        }
    }

    #[test]
    fn nothing_listening_is_an_error_with_the_address() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let index = Index { url: format!("http://me:secret@{closed}/simple"), ..Index::default() };
        let into = tempfile::tempdir().unwrap();
        let error = download(&index, &pin("00", 1), into.path(), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(&closed.to_string()) && !error.contains("secret"), "{error}");
    }
}
