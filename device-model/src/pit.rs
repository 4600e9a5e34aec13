//! The Intel 8254 interval timer with port 61h.
