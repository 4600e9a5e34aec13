//! Ports 92h, CF9h, B2h and B3h: fast A20, reset control, APM.
