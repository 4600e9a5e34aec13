//! The run loop's rules, on a machine whose guest is a script.

mod breakpoints;
mod control;
mod debugger;
mod events;
mod halt;
mod hyperv;
mod length;
mod locked;
mod lockless;
mod memory;
mod outside;
mod ports;
mod random;
mod registers;
mod smp;
mod software;
mod trace;
