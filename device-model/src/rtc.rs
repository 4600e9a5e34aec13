//! The Motorola MC146818 real-time clock and CMOS memory.
