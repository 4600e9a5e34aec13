//! Whole-VM tests.
