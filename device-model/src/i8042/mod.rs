//! The Intel 8042 keyboard controller with PS/2 keyboard and mouse.
