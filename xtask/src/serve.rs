//! A server of files by HTTP on this machine's loopback interface, for guests that fetch something in the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use tiny_http::{Response, Server as Http};

/// A running server, until it is dropped.
pub struct Server {
    http: Arc<Http>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the files that are in `directory` itself.
    ///
    /// # Errors
    ///
    /// No port can be had.
    pub fn start(directory: &Path) -> Result<Server> {
        let http = Http::http("127.0.0.1:0").map_err(|error| anyhow!("no HTTP server: {error}"))?;
        let http = Arc::new(http);
        let answered = Arc::new(AtomicUsize::new(0));
        let (served, count) = (Arc::clone(&http), Arc::clone(&answered));
        let directory = directory.to_owned();
        let thread = thread::spawn(move || {
            for request in served.incoming_requests() {
                // Whoever asked may have gone.
                let _ = match file(&directory, request.url()).and_then(|path| fs::read(path).ok()) {
                    Some(bytes) => request.respond(Response::from_data(bytes)),
                    None => request.respond(Response::empty(404)),
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Server {
            http,
            answered,
            thread: Some(thread),
        })
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.http.server_addr().to_ip().map_or(0, |at| at.port())
    }
}

impl Server {
    /// How many requests have been answered to the end, counted on when the server is gone too.
    pub fn answered(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.answered)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.http.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file that `url` names, if it names one in `directory` itself.
fn file(directory: &Path, url: &str) -> Option<PathBuf> {
    let name = url.strip_prefix('/')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    (!name.starts_with('.') && name.chars().all(plain)).then(|| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn get(port: u16, url: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {url} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn files_are_served_and_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("served");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("a.txt"), "inside").unwrap();
        fs::write(directory.path().join("b.txt"), "outside").unwrap();
        let server = Server::start(&inside).unwrap();
        assert!(get(server.port(), "/a.txt").ends_with("inside"));
        for url in ["/b.txt", "/../b.txt", "/..", "/"] {
            assert!(get(server.port(), url).contains(" 404 "), "{url}");
        }
    }
}
