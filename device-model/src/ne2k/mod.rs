//! The Realtek RTL8029AS (NE2000 PCI).
