//! PCI configuration mechanism #1, i440FX and PIIX3 bridges.
