//! The interrupt chips: 8259A pair, I/O APIC, local APIC.
