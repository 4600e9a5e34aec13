//! QEMU's firmware configuration device (fw_cfg).
