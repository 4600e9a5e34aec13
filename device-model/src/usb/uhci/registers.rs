//! The registers (UHCI Design Guide 2.1, "Host Controller I/O Registers"), and what writes do to those that do nothing by themselves.

use bitflags::bitflags;

/// Offsets.
pub(super) const USBCMD: u8 = 0x00;
pub(super) const USBSTS: u8 = 0x02;
pub(super) const USBINTR: u8 = 0x04;
pub(super) const FRNUM: u8 = 0x06;
pub(super) const FLBASEADD: u8 = 0x08;
pub(super) const SOFMOD: u8 = 0x0c;
pub(super) const PORTSC: [u8; 2] = [0x10, 0x12];

bitflags! {
    /// USBCMD (2.1.1, "USB Command Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Command: u16 {
        /// Run.
        const RUN = 1 << 0;
        /// Host controller reset. It is over at once.
        const RESET = 1 << 1;
        /// Global reset, until it is cleared.
        const GLOBAL_RESET = 1 << 2;
        /// Enter global suspend mode.
        const GLOBAL_SUSPEND = 1 << 3;
        /// Force global resume.
        const GLOBAL_RESUME = 1 << 4;
        /// Software debug. Only kept.
        const DEBUG = 1 << 5;
        /// A note of the driver's: configured.
        const CONFIGURED = 1 << 6;
        /// Packets of 64 bytes at the end of a frame. Only kept.
        const MAX_PACKET = 1 << 7;
    }

    /// USBSTS (2.1.2, "USB Status Register"). All but the last are cleared by writing 1.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Status: u16 {
        /// A transfer has completed with its interrupt bit set, or a short packet has come.
        const INTERRUPT = 1 << 0;
        /// A transfer has failed.
        const ERROR = 1 << 1;
        /// Resume detected while the bus is suspended.
        const RESUME = 1 << 2;
        /// Memory did not answer.
        const SYSTEM_ERROR = 1 << 3;
        /// A descriptor is not consistent.
        const PROCESS_ERROR = 1 << 4;
        /// The controller has halted. It says how things are, on real ones too, whatever the guide says.
        const HALTED = 1 << 5;
    }

    /// USBINTR (2.1.3, "USB Interrupt Enable Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Enable: u16 {
        /// Of [`Status::ERROR`].
        const ERROR = 1 << 0;
        /// Of [`Status::RESUME`].
        const RESUME = 1 << 1;
        /// Of [`Causes::COMPLETE`].
        const COMPLETE = 1 << 2;
        /// Of [`Causes::SHORT`].
        const SHORT = 1 << 3;
    }

    /// What has happened to transfers. The first two are one bit of the status register, and are enabled apart.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Causes: u8 {
        /// A transfer has completed with its interrupt bit set.
        const COMPLETE = 1 << 0;
        /// A short packet has come where a longer one was wanted.
        const SHORT = 1 << 1;
        /// A transfer has failed.
        const ERROR = 1 << 2;
    }

    /// PORTSC (2.1.7, "Port Status and Control Register").
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct PortStatus: u16 {
        /// A device is there.
        const CONNECTED = 1 << 0;
        /// It has come or gone. Cleared by writing 1.
        const CONNECT_CHANGE = 1 << 1;
        /// Enabled.
        const ENABLED = 1 << 2;
        /// It was disabled by what happened to it. Cleared by writing 1.
        const ENABLE_CHANGE = 1 << 3;
        /// The line D+: a full-speed device that is idle pulls it up.
        const D_PLUS = 1 << 4;
        /// Resume is detected or driven.
        const RESUME = 1 << 6;
        /// Always set: there is a port.
        const ALWAYS = 1 << 7;
        /// In reset.
        const RESET = 1 << 9;
        /// Suspended.
        const SUSPENDED = 1 << 12;
    }
}

/// The modification of the frame's length that is none.
pub(super) const SOF_DEFAULT: u8 = 0x40;

impl PortStatus {
    const CHANGES: Self = Self::CONNECT_CHANGE.union(Self::ENABLE_CHANGE);

    /// A port after power-on, with a device in it or without.
    pub(super) fn power_on(device: bool) -> Self {
        let mut port = Self::ALWAYS;
        port.set(
            Self::CONNECTED | Self::CONNECT_CHANGE | Self::D_PLUS,
            device,
        );
        port
    }

    /// Host controller reset: the port sees its device leave and come, and is disabled. Reset, suspend and resume stay.
    pub(super) fn reconnect(&mut self) {
        if self.contains(Self::CONNECTED) {
            self.insert(Self::CONNECT_CHANGE);
        }
        if self.contains(Self::ENABLED) {
            self.remove(Self::ENABLED);
            self.insert(Self::ENABLE_CHANGE);
        }
    }

    /// The driver writes `value`. Whether a reset of the device begins by it.
    pub(super) fn write(&mut self, value: u16) -> bool {
        let value = Self::from_bits_truncate(value);
        let was_in_reset = self.contains(Self::RESET);
        self.remove(value & Self::CHANGES);
        self.set(Self::RESET, value.contains(Self::RESET));
        let is_open = self.contains(Self::CONNECTED) && !self.contains(Self::RESET);
        self.set(Self::ENABLED, is_open && value.contains(Self::ENABLED));
        self.set(Self::D_PLUS, is_open);
        for bit in [Self::SUSPENDED, Self::RESUME] {
            self.set(bit, self.contains(Self::ENABLED) && value.contains(bit));
        }
        self.contains(Self::RESET) && !was_in_reset
    }

    /// Whether transactions reach the device.
    pub(super) const fn lets_through(self) -> bool {
        self.contains(Self::ENABLED) && !self.intersects(Self::SUSPENDED.union(Self::RESUME))
    }
}
