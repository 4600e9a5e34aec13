//! Guests on a network.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Case, What, case, keys, until};
use crate::guests::Guest;
use crate::rig::{Net, Network};
use crate::run::Options;
use crate::serve::Server;

/// A script for iPXE, which says the address that the network has given it.
const FETCHED: &str = "#!ipxe\necho fetched by ${net0/ip}\n";

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![case(
        "ipxe-fetches-by-http",
        What::Own(&[Guest::Ipxe], fetch),
        128,
        240,
        &[],
        &[],
    )]
}

/// iPXE's CD, on a network where a script is to be had by HTTP.
fn fetch(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let served = scratch.join("served");
    fs::create_dir(&served)?;
    fs::write(served.join("script"), FETCHED)?;
    let server = Server::start(&served)?;
    let chain = format!("dhcp && chain http://10.0.2.2:{}/script\\n", server.port());
    let options = Options {
        network: Network {
            net: Net::User,
            ..Network::default()
        },
        script: vec![
            until("Ctrl-B"),
            keys("\\{ctrl-b}"),
            until("iPXE>"),
            keys(&chain),
            until("fetched by 10.0.2.15"),
        ],
        ..Options::headless(&Guest::Ipxe.provide()?)?
    };
    case.run_once(&options, umbra, scratch)
}
