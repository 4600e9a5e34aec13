//! The host tool behind `cargo xtask`: set-up, building, running, testing and measuring.
//!
//! One file per concern. [`run`] is the heart: it checks the options ([`media`], [`rig`]), starts the outer machine
//! ([`emulator`]) and follows the guest ([`session`]) over the control channel ([`control`]).

#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links)]

mod attack;
mod bare;
mod bench;
mod boot_entry;
mod cases;
mod cdrom;
mod cli;
mod command;
mod compare;
mod control;
mod count;
mod cpio;
mod deb;
mod debugger;
mod disk;
mod efi;
mod emulator;
mod events;
mod exits;
mod firmware;
mod fuzz;
mod gfxmenu;
mod guests;
mod image;
mod initrd;
mod install;
mod kernel;
mod kexec;
mod keys;
mod largest;
mod litmus;
mod media;
mod module;
mod monitor;
mod mouse;
mod network;
mod outcome;
mod package;
mod paging;
pub mod parsers;
mod paths;
mod pcap;
mod peer;
mod profile;
mod programs;
mod progress;
mod registers;
mod rfb;
mod rig;
mod run;
mod screen;
mod screens;
mod script;
mod serve;
mod session;
mod setup;
mod size;
mod smp;
mod speedup;
mod storage;
mod stress;
mod symbols;
mod tablet;
mod terminal;
mod test;
mod trace;
mod vm;
mod work;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Bench, Cli, Command};

/// The program: the exit code is [`outcome`]'s.
pub fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<outcome::Told>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(outcome::exit_code(&error))
        }
    }
}

fn command() -> Result<()> {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches)?;
    outcome::watch_signals()?;
    match &cli.command {
        Command::Run(args) => {
            let places = |name: &str| {
                let indices = matches
                    .subcommand_matches("run")
                    .and_then(|run| run.indices_of(name));
                indices.map(Iterator::collect).unwrap_or_default()
            };
            run::run(args, places)
        }
        Command::Trace(args) => trace::trace(args),
        Command::Symbols(args) => symbols::symbols(args),
        Command::Fuzz(args) => fuzz::fuzz(args),
        Command::Guests(args) => guests::provide(&args.names, args.list),
        Command::Setup => rig::require_for_tests(),
        Command::Install(args) => install::install(args),
        Command::Test(args) => test::test(args),
        Command::Image(args) => image::command::image(args),
        Command::Bench(args) => match &args.what {
            Bench::Boot(args) => bench::boot(args),
            Bench::Paging(args) => paging::paging(args),
            Bench::Exits(args) => exits::exits(args),
            Bench::Smp(args) => smp::smp(args),
            Bench::Disk(args) => storage::bench::disk(args),
            Bench::Net(args) => network::net(args),
            Bench::Crash(args) => storage::crash::crash(args),
        },
    }
}
