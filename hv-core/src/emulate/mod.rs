//! The instruction emulator.
