//! `cargo xtask image`.

use anyhow::Result;

use super::{Contents, Entry, make};
use crate::cli::ImageArgs;
use crate::guests::Guest;
use crate::media::{Boots, Kind, Medium};
use crate::outcome::refuse;
use crate::rig::parse_memory;
use crate::setup::{self, Purpose};
use crate::{kernel, paths};

/// The command.
///
/// # Errors
///
/// A guest cannot boot, or the image cannot be made.
pub fn image(args: &ImageArgs) -> Result<()> {
    let memory = parse_memory("--memory", &args.memory)?;
    let mut guests = Vec::new();
    for path in &args.guests {
        let medium = match path.to_str().and_then(Guest::named) {
            Some(guest) if !path.exists() => Medium::open(&guest.provide()?)?,
            _ => Medium::open(path)?.warned(),
        };
        if medium.kind != Kind::Cdrom {
            refuse!(
                "{} is not an ISO image; only those can go on the bootable image",
                path.display()
            );
        }
        guests.push(medium);
    }
    setup::require(Purpose::Image)?;
    if guests.is_empty() {
        guests.push(Medium::open(&Guest::usual().provide()?)?);
    }
    if guests.iter().any(|guest| guest.boots == Boots::Uefi) {
        setup::require(Purpose::Uefi)?;
    }
    let umbra = kernel::build()?;
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| paths::target().join("umbra.iso"));
    make(
        &output,
        &umbra,
        &Contents {
            entries: Entry::menu(&guests, memory),
            timeout: 5,
        },
    )?;
    println!("{}", output.display());
    Ok(())
}
