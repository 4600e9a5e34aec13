//! The National 16550A UART.
