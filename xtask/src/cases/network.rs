//! Guests on a network.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::{Console, Nic, Profile};

use super::{Case, by_hand, keys, own, until};
use crate::deb;
use crate::guests::Guest;
use crate::media;
use crate::rig::{Forward, Net, Network};
use crate::run::Options;
use crate::serve::Server;
use crate::vm::Vm;

/// A script for iPXE, which says the address that the network has given it.
const FETCHED: &str = "#!ipxe\necho fetched by ${net0/ip}\n";

/// Length in bytes of the file that a whole system fetches.
const FILE: usize = 16_000_000;
/// The page that it serves, in part.
const PAGE: &str = "from its card";

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            profile: Profile {
                nics: Nic::Ne2k.into(),
                ..Profile::default()
            },
            ..own("ipxe-fetches-by-http", &[Guest::Ipxe], fetch, 128, 240)
        },
        own(
            "ipxe-e1000-fetches-by-http",
            &[Guest::Ipxe],
            fetch,
            128,
            240,
        ),
        own(
            "ipxe-boots-memtest",
            &[Guest::Ipxe, Guest::MemtestX64],
            boot_memtest,
            64,
            240,
        ),
        by_hand(own(
            "ipxe-boots-linux",
            &[Guest::Ipxe, Guest::CloudKernel, Guest::CloudInitrd],
            boot_linux,
            512,
            900,
        )),
        own(
            "linux-ne2k-fetches-and-serves",
            &[Guest::I386Kernel, Guest::I386Initrd],
            ne2k,
            256,
            300,
        ),
        own(
            "linux-e1000-fetches-and-serves",
            &[Guest::I386Kernel, Guest::I386Initrd],
            e1000,
            256,
            300,
        ),
        own(
            "linux-virtio-fetches-and-serves",
            &[Guest::I386Kernel, Guest::I386Initrd],
            virtio,
            256,
            300,
        ),
    ]
}

fn ne2k(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    linux(Nic::Ne2k, case, umbra, scratch)
}

fn e1000(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    linux(Nic::E1000, case, umbra, scratch)
}

fn virtio(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    linux(Nic::Virtio, case, umbra, scratch)
}

/// Linux with its driver for the card: an address by DHCP, a file by HTTP, and a page that this machine fetches from it. With the
/// virtio card it has virtio's console and entropy device, too.
fn linux(nic: Nic, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let virtio = nic == Nic::Virtio;
    let case = &Case {
        profile: Profile {
            nics: nic.into(),
            console: if virtio {
                Console::Virtio
            } else {
                Console::Serial
            },
            rng: Some(virtio),
            ..Profile::default()
        },
        ..case.clone()
    };
    let served = scratch.join("served");
    fs::create_dir(&served)?;
    let file = served.join("random");
    fs::write(&file, random(FILE))?;
    let sum = md5(&file)?;
    let server = Server::start(&served)?;
    // A port that is free now, and that nobody is given soon.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let url = format!("http://10.0.2.2:{}/random", server.port());
    let mut script = vec![
        until("GUEST-NET 10.0.2.15"),
        until(&format!("GUEST-FETCHED {sum}")),
        until("GUEST-SERVES"),
        until("response:200"),
        // What is asked for when the page is there.
        until("response:404"),
    ];
    if virtio {
        // 16 KiB that do not become less by packing.
        let more = [
            until("GUEST-HVC 229:0"),
            until("GUEST-RNG virtio_rng.0 164"),
        ];
        script.splice(0..0, more);
    }
    let options = Options {
        network: Network {
            net: Net::User,
            forwards: vec![Forward {
                host: port,
                guest: 80,
            }],
            ..Network::default()
        },
        script,
        ..Options::headless(Vm {
            initrd: Some(media::open_initrd(&Guest::I386Initrd.provide()?)?),
            cmdline: format!("console=tty0 console=ttyS0 quiet umbra.then=net umbra.url={url}"),
            ..Vm::of(&Guest::I386Kernel.provide()?)?
        })
    };
    let (answered, end) = (server.answered(), AtomicBool::new(false));
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                // The guest serves when it has the file.
                if answered.load(Ordering::Relaxed) != 0
                    && let Ok(page) = visit(port, "/")
                    && page.contains(PAGE)
                {
                    // The run may end before this is answered.
                    let _ = visit(port, "/seen");
                    return true;
                }
                thread::sleep(Duration::from_millis(200));
            }
            false
        });
        let run = case.run_once(&options, umbra, scratch);
        end.store(true, Ordering::Relaxed);
        let visited = visitor.join().unwrap_or(false);
        run?;
        ensure!(visited, "the guest's page was not served");
        Ok(())
    })
}

/// The answer to a request for `path` on `port` of this machine.
fn visit(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Bytes without a pattern: Marsaglia's xorshift64, always the same.
fn random(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The MD5 sum of a file, in hexadecimal, by this machine's own program.
pub(super) fn md5(path: &Path) -> Result<String> {
    let output = Command::new("md5sum")
        .arg(path)
        .output()
        .context("cannot start md5sum")?;
    let text = String::from_utf8(output.stdout)?;
    let sum = text.split_whitespace().next().unwrap_or_default();
    ensure!(sum.len() == 32, "md5sum says {text:?}");
    Ok(sum.to_owned())
}

/// iPXE fetches the memory tester, which has a Linux kernel's format, and boots it: by HTTP, then by TFTP.
fn boot_memtest(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let served = scratch.join("served");
    fs::create_dir(&served)?;
    let program = deb::unpacked("memtest86+")?.join("boot/memtest86+x64.bin");
    fs::copy(program, served.join("memtest")).context("the package memtest86+ has no kernel")?;
    let server = Server::start(&served)?;
    let http = format!("http://10.0.2.2:{}", server.port());
    for from in [http.as_str(), "tftp://10.0.2.2"] {
        let line = format!("dhcp && kernel {from}/memtest && boot\\n");
        boot_by_ipxe(case, umbra, scratch, &served, &line, "Memtest86+")
            .with_context(|| format!("from {from}"))?;
    }
    Ok(())
}

/// iPXE fetches Linux and its RAM disk by HTTP, and boots them.
fn boot_linux(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let served = scratch.join("served");
    fs::create_dir(&served)?;
    fs::copy(Guest::CloudKernel.provide()?, served.join("kernel"))?;
    fs::copy(Guest::CloudInitrd.provide()?, served.join("initrd"))?;
    let server = Server::start(&served)?;
    let from = format!("http://10.0.2.2:{}", server.port());
    let line = format!(
        "dhcp && kernel {from}/kernel console=ttyS0 initrd=initrd && initrd {from}/initrd && boot\\n"
    );
    boot_by_ipxe(case, umbra, scratch, &served, &line, "GUEST-DONE")
}

/// iPXE's CD, with this line typed at its prompt, until `text` appears.
fn boot_by_ipxe(
    case: &Case,
    umbra: &Path,
    scratch: &Path,
    served: &Path,
    line: &str,
    text: &str,
) -> Result<()> {
    let options = Options {
        network: Network {
            net: Net::User,
            tftp: Some(served.to_owned()),
            ..Network::default()
        },
        script: vec![
            until("Ctrl-B"),
            keys("\\{ctrl-b}"),
            until("iPXE>"),
            keys(line),
            until(text),
        ],
        ..Options::headless(Vm::of(&Guest::Ipxe.provide()?)?)
    };
    case.run_once(&options, umbra, scratch)
}

/// iPXE's CD, on a network where a script is to be had by HTTP.
fn fetch(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let served = scratch.join("served");
    fs::create_dir(&served)?;
    fs::write(served.join("script"), FETCHED)?;
    let server = Server::start(&served)?;
    let chain = format!("dhcp && chain http://10.0.2.2:{}/script\\n", server.port());
    boot_by_ipxe(
        case,
        umbra,
        scratch,
        &served,
        &chain,
        "fetched by 10.0.2.15",
    )
}
