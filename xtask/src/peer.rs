//! What a guest talks to by TCP when its network is measured: a port of this machine's loopback interface from which bytes come, and one
//! that takes them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// The two ports. They are there until the tool ends.
pub struct Peer {
    /// Gives so many bytes to whoever connects, and closes.
    pub source: u16,
    /// Takes what it is sent, and closes.
    pub sink: u16,
    taken: Arc<AtomicU64>,
}

impl Peer {
    /// Listens; the source gives `bytes`.
    ///
    /// # Errors
    ///
    /// No port can be had.
    pub fn start(bytes: u64) -> Result<Peer> {
        let taken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&taken);
        Ok(Peer {
            source: serve(move |mut stream| {
                io::copy(&mut io::repeat(0x55).take(bytes), &mut stream)?;
                stream.flush()?;
                stream.shutdown(Shutdown::Write)?;
                io::copy(&mut stream, &mut io::sink()).map(drop)
            })?,
            sink: serve(move |mut stream| {
                count.fetch_add(io::copy(&mut stream, &mut io::sink())?, Ordering::Relaxed);
                Ok(())
            })?,
            taken,
        })
    }

    /// How many bytes the sink has taken by connections that have ended.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Serves a port, one connection after the other; gives its number.
fn serve(mut one: impl FnMut(TcpStream) -> io::Result<()> + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever connected may have gone.
            let _ = one(stream);
        }
    });
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_gives_what_was_said_and_sink_counts() {
        let peer = Peer::start(100_000).unwrap();
        let mut got = Vec::new();
        let source = TcpStream::connect(("127.0.0.1", peer.source)).unwrap();
        source.shutdown(Shutdown::Write).unwrap();
        (&source).read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 100_000);
        let mut sink = TcpStream::connect(("127.0.0.1", peer.sink)).unwrap();
        sink.write_all(&got).unwrap();
        sink.shutdown(Shutdown::Write).unwrap();
        assert_eq!(sink.read(&mut [0]).unwrap(), 0);
        assert_eq!(peer.taken(), 100_000);
    }
}
