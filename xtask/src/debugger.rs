//! The TCP ports at which debuggers come to the virtual machines: what they say goes to Umbra over the control channel, and what Umbra answers
//! goes to them. The tool understands none of it.
//!
//! A port is one of the loopback interface, for one debugger at a time. It is there from the moment when Umbra can answer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::control::Request;
use crate::emulator::Sender;

/// How long a debugger has to take what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// A virtual machine's number, and the port for its debugger.
pub type Port = (u8, u16);

/// The connections, by the number of the virtual machine.
type Connections = Arc<Mutex<BTreeMap<u8, TcpStream>>>;

/// Ports that debuggers can come to.
#[derive(Debug)]
pub struct Debuggers(Connections);

/// Opens a port of the loopback interface.
///
/// # Errors
///
/// It is in use.
pub fn open(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("no debugger can come to port {port}"))
}

impl Debuggers {
    /// Waits for debuggers at `ports`; what they say goes `to` Umbra.
    ///
    /// # Errors
    ///
    /// A port is in use.
    pub fn listen(ports: &[Port], to: &Sender) -> Result<Debuggers> {
        let connections = Connections::default();
        for &(vm, port) in ports {
            let listener = open(port)?;
            let (to, connections) = (to.clone(), connections.clone());
            // The thread ends with the tool.
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    serve(vm, stream, &to, &connections);
                }
            });
            eprintln!("umbra: for VM {vm}: gdb -ex 'target remote localhost:{port}'");
        }
        Ok(Debuggers(connections))
    }

    /// Umbra answers the debugger of virtual machine `vm`; with nothing it lets go of it.
    pub fn answer(&self, vm: u8, bytes: &[u8]) {
        let connections = self.0.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = connections.get_mut(&vm) else {
            return;
        };
        if bytes.is_empty() || stream.write_all(bytes).is_err() {
            // Whoever reads from it notices.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// One debugger, from its coming to its going.
fn serve(vm: u8, mut stream: TcpStream, to: &Sender, connections: &Connections) {
    let keep = |stream| {
        let connections = connections.lock();
        let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
        match stream {
            Some(stream) => connections.insert(vm, stream),
            None => connections.remove(&vm),
        };
    };
    let ready =
        stream.set_nodelay(true).is_ok() && stream.set_write_timeout(Some(PATIENCE)).is_ok();
    let Ok(other) = stream.try_clone() else {
        return;
    };
    let send = |request: &Request| to.send(&request.to_bytes()).is_ok();
    keep(Some(other));
    if ready && send(&Request::Attach(vm)) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if !send(&Request::Debugger(vm, bytes)) {
                break;
            }
        }
        send(&Request::Detach(vm));
    }
    keep(None);
}
