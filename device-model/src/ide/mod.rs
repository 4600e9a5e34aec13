//! The PIIX3 IDE controller with ATA and ATAPI drives.
