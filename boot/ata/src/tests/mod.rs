//! The driver at work on the IDE controller of the virtual PC.

mod faults;
mod rig;
mod transfers;
