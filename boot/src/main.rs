//! Umbra, the ring-0 binary: takes the machine over from the boot loader, finds the guest, and runs it.
//!
//! The only crate that knows all others. Unsafe code is confined to the files that touch the machine: [`start`] and [`runtime`]
//! (entry and memory functions), [`smp`], [`host_cpu`] and [`stacks`] (the host's CPUs), [`loader`] (the boot loader's data), [`memory`], [`paging`], [`interrupts`], [`lapic`],
//! [`clock`], [`serial`], [`keyboard`], [`mouse`], [`tablet`], [`pci`], [`virtio`], [`msix`], [`disk`], [`net`], [`acpi_tables`], [`host`], [`amd`], [`intel`], [`ide`], [`screen`]
//! (frame buffer) and [`selftest`] (exceptions that are asked for). The guests' machines are put together in [`guest`] with [`media`] and [`setup`]; [`session`] runs them.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi_tables;
mod amd;
mod clock;
mod control;
mod disk;
mod entropy;
mod failure;
mod guest;
mod host;
mod host_cpu;
mod i8042;
mod ide;
mod intel;
mod interrupts;
mod keyboard;
mod lapic;
mod loader;
mod logger;
mod media;
mod memory;
mod mouse;
mod msix;
mod net;
mod paging;
mod pci;
mod runtime;
mod screen;
mod selftest;
mod serial;
mod session;
mod setup;
mod smp;
mod stacks;
mod start;
mod tablet;
mod virtio;

use alloc::string::{String, ToString};
use host::{Vendor, Virtualization};
use host_cpus::Local;
use loader::BootInfo;
use protocol::Event;
use protocol::options::{self, Options};

#[unsafe(no_mangle)]
extern "C" fn umbra_main(magic: u32, info: u64) -> ! {
    logger::init();
    // SAFETY: the start code passes what the boot loader passed.
    let boot = unsafe { BootInfo::read(magic, info) };
    memory::init(&boot, options::count(boot.cmdline));
    let mapped = paging::protect() && paging::map(0, memory::top(&boot), false);
    assert!(mapped, "there is no memory for Umbra's own page tables");
    smp::init();
    interrupts::init();
    log::info!("Umbra {}, an x86 hypervisor", env!("CARGO_PKG_VERSION"));
    log::info!("command line: {:?}", boot.cmdline);
    let mut unknown = |word: &str| log::info!("command line: {word} means nothing here");
    let options = match Options::parse(boot.cmdline, &mut unknown) {
        Ok(o) => o,
        Err(why) => {
            // The host tool waits for the sentence.
            options::control(boot.cmdline).map(control::open);
            refuse(&why.to_string())
        }
    };
    smp::audit();
    match options.control {
        Some(transport) => {
            if !control::open(transport) {
                log::warn!("there is no {transport:?} for the control channel");
            }
        }
        None => logger::listen(),
    }
    lapic::init();
    clock::init();
    if options.window {
        keyboard::init();
        tablet::init();
    }
    screen::init(&boot, options.window);
    let cpus = acpi_tables::survey(boot.rsdp);
    log::info!("memory: {} MiB free", memory::available() >> 20);
    match run(&boot, &options, &cpus) {
        Ok(()) => session::halt(),
        Err(why) => refuse(&why),
    }
}

fn run(boot: &BootInfo, options: &Options<'static>, cpus: &[Local]) -> Result<(), String> {
    match host::vendor()? {
        Vendor::Svm => {
            let amd = amd::enable()?;
            smp::start(cpus, options.host_cpus, amd::enable_further);
            run_on(boot, options, amd)
        }
        Vendor::Vmx => {
            let intel = intel::enable(options.check)?;
            smp::start(cpus, options.host_cpus, intel::enable_further);
            run_on(boot, options, intel)
        }
    }
}

fn run_on(
    boot: &BootInfo,
    options: &Options<'static>,
    virtualization: impl Virtualization,
) -> Result<(), String> {
    if let Some(test) = options.selftest {
        selftest::begin(test)?;
    }
    hv_core::emulate::warm_up();
    let mut session = session::Session::new(boot, options, virtualization)?;
    control::event(1, Event::Ready);
    session.run();
    Ok(())
}

/// Says in one sentence why Umbra cannot run here, and stops.
fn refuse(why: &str) -> ! {
    log::error!("Umbra cannot run: {why}");
    screen::message(&alloc::format!("Umbra cannot run: {why}."));
    control::event(1, Event::Refused(why));
    session::halt()
}
