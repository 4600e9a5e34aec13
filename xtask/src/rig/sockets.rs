//! Whose a TCP connection is, as Linux tells it in proc(5).
//!
//! Every process of this computer can connect to the loopback interface. Who has connected is told by the socket at the other end: its inode
//! is listed in `net/tcp` with its addresses, and in `fd` of the process that holds it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;

/// A state in `net/tcp`: the socket waits for connections.
const LISTEN: u8 = 0x0a;

/// A TCP socket over IPv4.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddrV4,
    remote: SocketAddrV4,
    state: u8,
    inode: u64,
}

/// The next connection to `listener`, which does not block, that the process `pid` or one of its children has made. Others are closed.
pub fn accept_from(listener: &TcpListener, pid: u32) -> Option<TcpStream> {
    loop {
        let (stream, peer) = listener.accept().ok()?;
        let here = stream.local_addr().ok()?;
        let ends = |socket: &Socket| {
            SocketAddr::from(socket.local) == peer && SocketAddr::from(socket.remote) == here
        };
        if sockets_of(pid).iter().any(ends) {
            return Some(stream);
        }
    }
}

/// The port at which the process `pid` or one of its children waits for connections.
pub fn listening_port(pid: u32) -> Option<u16> {
    let sockets = sockets_of(pid);
    let waits = sockets.iter().find(|socket| socket.state == LISTEN)?;
    Some(waits.local.port())
}

/// The sockets of a process and of its children.
fn sockets_of(pid: u32) -> Vec<Socket> {
    let inodes: BTreeSet<u64> = family(pid).into_iter().flat_map(inodes).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let sockets = table.lines().filter_map(socket);
    sockets.filter(|one| inodes.contains(&one.inode)).collect()
}

/// A process with its children and theirs.
fn family(pid: u32) -> BTreeSet<u32> {
    let numbers = names(Path::new("/proc")).into_iter();
    let parents: Vec<(u32, u32)> = numbers
        .filter_map(|name| Some((name.parse().ok()?, parent(&name)?)))
        .collect();
    let mut family = BTreeSet::from([pid]);
    loop {
        let size = family.len();
        for (child, parent) in &parents {
            if family.contains(parent) {
                family.insert(*child);
            }
        }
        if family.len() == size {
            return family;
        }
    }
}

/// The parent of the process with this number: the second field behind its name, which has brackets around it.
fn parent(number: &str) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The inodes of a process's sockets.
fn inodes(pid: u32) -> Vec<u64> {
    let directory = format!("/proc/{pid}/fd");
    let links = names(Path::new(&directory)).into_iter();
    let targets = links.filter_map(|name| fs::read_link(format!("{directory}/{name}")).ok());
    let inode = |target: &Path| {
        let number = target.to_str()?.strip_prefix("socket:[")?;
        number.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(|target| inode(&target)).collect()
}

/// The names in a directory: none, if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// A line of `net/tcp`; its heading is none.
fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    // Queues, timer, retransmissions, user, timeout.
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Socket {
        local,
        remote,
        state,
        inode,
    })
}

/// An address as `net/tcp` has it: the bytes of the address as the machine reads them as one number, and the port.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(address), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Child, Command};
    use std::thread::sleep;
    use std::time::Duration;

    /// A listener that does not block, and its port.
    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    fn bash(script: &str) -> Child {
        Command::new("bash").args(["-c", script]).spawn().unwrap()
    }

    fn wait<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(found) = attempt() {
                return found;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("it did not come");
    }

    #[test]
    fn only_the_process_that_was_started_and_its_children_are_let_in() {
        for script in ["", "bash -c '", "(exec bash -c '"] {
            let (listener, port) = listener();
            let mut before = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            before.write_all(b"intruder").unwrap();
            let end = match script {
                "" => "",
                "(exec bash -c '" => "'); true",
                _ => "'; true",
            };
            let talk = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo own >&3; read -r line <&3");
            let mut child = bash(&format!("{script}{talk}{end}"));
            let mut stream = wait(|| accept_from(&listener, child.id()));
            stream.set_nonblocking(false).unwrap();
            let mut after = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            after.write_all(b"intruder").unwrap();
            assert!(accept_from(&listener, child.id()).is_none());
            stream.write_all(b"secret\n").unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "own\n");
            for mut intruder in [before, after] {
                let mut heard = Vec::new();
                // What it has sent was not read: the connection is reset.
                let _ = intruder.read_to_end(&mut heard);
                assert_eq!(heard, b"");
            }
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_port_is_found_by_who_listens_there() {
        let mut other = bash("sleep 10");
        assert_eq!(listening_port(other.id()), None);
        other.kill().unwrap();
        other.wait().unwrap();
        let (_listener, port) = listener();
        let own = sockets_of(std::process::id());
        let listens = |one: &Socket| one.state == LISTEN && one.local.port() == port;
        assert!(own.iter().any(listens));
    }

    #[test]
    fn a_line_of_the_table_is_a_socket() {
        let line = "   1: 0100007F:170C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0";
        let expected = Socket {
            local: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5900),
            remote: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            state: LISTEN,
            inode: 4711,
        };
        assert_eq!(socket(line), Some(expected));
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(socket(heading), None);
    }
}
