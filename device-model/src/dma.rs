//! The pair of Intel 8237A DMA controllers, registers only.
