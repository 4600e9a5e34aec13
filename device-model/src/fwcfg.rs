//! The firmware configuration device (QEMU's `docs/specs/fw_cfg`): keyed blobs that SeaBIOS and OVMF read through ports
//! 510h and 511h, or by DMA through 514h to 51Bh.
//!
//! Items are little-endian inside; the directory and the DMA interface are big-endian. Not implemented: the obsolete write
//! channel of the data port and items that the guest can write by DMA (such a transfer ends with the error bit).
//!
//! A DMA transfer is finished before its port access is: firmware spins on it. Its work is bounded by the item's length, as
//! past the end of an item at most `ZERO_MAX` bytes are zero-filled.

use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::device::{AccessSize, DevCx, Device};

/// The selector port, 16 bits, write-only.
const SELECTOR: u16 = 0x510;
/// The data port, 8 bits.
const DATA: u16 = 0x511;
/// The upper half of the DMA address.
const DMA_HIGH: u16 = 0x514;
/// The lower half of the DMA address, whose write starts the transfer.
const DMA_LOW: u16 = 0x518;
/// The end of the DMA address register.
const DMA_END: u16 = 0x51c;

/// What the DMA address register reads as, in address order.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Key of the signature.
const KEY_SIGNATURE: u16 = 0x0000;
/// Key of the feature bits: 1 traditional interface, 2 DMA.
const KEY_FEATURES: u16 = 0x0001;
/// Key of the file directory.
const KEY_DIRECTORY: u16 = 0x0019;
/// Key of the first file.
const KEY_FILES: u16 = 0x0020;
/// The bit of a key that selects the obsolete write channel.
const WRITE_CHANNEL: u16 = 0x4000;

/// Longest file name, without its terminating zero.
const NAME_MAX: usize = 55;

/// How many bytes past the end of an item one DMA transfer may ask for. (Firmware reads what the directory says.)
const ZERO_MAX: usize = 1 << 20;
/// Granularity of zero-filling.
const ZEROES: [u8; 4096] = [0; 4096];

bitflags::bitflags! {
    /// The control word of a DMA transfer; its upper half is the key.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Control: u32 {
        const ERROR = 1 << 0;
        const READ = 1 << 1;
        const SKIP = 1 << 2;
        const SELECT = 1 << 3;
        const WRITE = 1 << 4;
    }
}

/// The firmware configuration device.
pub struct FwCfg {
    /// Sorted by key.
    items: Vec<(u16, Vec<u8>)>,
    /// Names of the files, by key from [`KEY_FILES`] on.
    names: Vec<[u8; NAME_MAX + 1]>,
    /// Index of the selected item, if the selected key has one.
    selected: Option<usize>,
    /// How far the selected item has been read.
    offset: usize,
    dma_high: u32,
}

impl FwCfg {
    /// A device that holds its signature, its features and an empty directory.
    #[must_use]
    pub fn new() -> Self {
        let mut fw_cfg = Self {
            items: Vec::new(),
            names: Vec::new(),
            selected: None,
            offset: 0,
            dma_high: 0,
        };
        fw_cfg.add_key(KEY_SIGNATURE, b"QEMU".to_vec());
        fw_cfg.add_key(KEY_FEATURES, 3_u32.to_le_bytes().to_vec());
        fw_cfg.publish();
        fw_cfg
    }

    /// Adds the item `key`, in place of one that is there.
    pub fn add_key(&mut self, key: u16, data: Vec<u8>) {
        let key = key & !WRITE_CHANNEL;
        match self.items.binary_search_by_key(&key, |(k, _)| *k) {
            Ok(at) => {
                if let Some(item) = self.items.get_mut(at) {
                    item.1 = data;
                }
            }
            Err(at) => self.items.insert(at, (key, data)),
        }
        self.select(KEY_SIGNATURE);
    }

    /// Adds file `name` to the directory, in place of one of that name.
    ///
    /// # Panics
    /// The name has more than 55 bytes, or there is no key left.
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) {
        assert!(
            name.len() <= NAME_MAX,
            "fw_cfg file name {name} is too long"
        );
        let mut padded = [0; NAME_MAX + 1];
        for (p, b) in padded.iter_mut().zip(name.bytes()) {
            *p = b;
        }
        let index = self
            .names
            .iter()
            .position(|n| *n == padded)
            .unwrap_or_else(|| {
                self.names.push(padded);
                self.names.len() - 1
            });
        let key = u16::try_from(index)
            .ok()
            .and_then(|i| KEY_FILES.checked_add(i));
        let key = key
            .filter(|&k| k < WRITE_CHANNEL)
            .expect("fw_cfg has keys left");
        self.add_key(key, data);
        self.publish();
    }

    /// Rebuilds the directory: a count, then size, key, 16 reserved bits and name of each file, sorted by name.
    fn publish(&mut self) {
        let mut files: Vec<(&[u8; NAME_MAX + 1], u16)> =
            self.names.iter().zip(KEY_FILES..).collect();
        files.sort_unstable();
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (name, key) in files {
            let len = self.item(key).map_or(0, <[u8]>::len) as u32;
            directory.extend(len.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name);
        }
        self.add_key(KEY_DIRECTORY, directory);
    }

    fn item(&self, key: u16) -> Option<&[u8]> {
        let at = self.items.binary_search_by_key(&key, |(k, _)| *k).ok()?;
        self.items.get(at).map(|(_, data)| data.as_slice())
    }

    fn select(&mut self, key: u16) {
        let key = key & !WRITE_CHANNEL;
        self.selected = self.items.binary_search_by_key(&key, |(k, _)| *k).ok();
        self.offset = 0;
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        let data = self.selected.and_then(|at| self.items.get(at));
        data.and_then(|(_, data)| data.get(self.offset..))
            .unwrap_or(&[])
    }

    fn next(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        if byte.is_some() {
            self.offset += 1;
        }
        byte.unwrap_or(0)
    }

    /// Carries out the transfer whose control block is at `block`.
    fn dma(&mut self, cx: &mut DevCx<'_>, block: Gpa) {
        let mut request = [0; 16];
        if cx.dma.read(block, &mut request).is_err() {
            return;
        }
        let [control, len, high, low] = words(request);
        let address = Gpa(u64::from(high) << 32 | u64::from(low));
        let done = self.transfer(cx, control, len as usize, address);
        let status = if done {
            Control::empty()
        } else {
            Control::ERROR
        };
        if cx.dma.write(block, &status.bits().to_be_bytes()).is_err() {
            log::debug!("fw_cfg: the DMA control block at {block:?} cannot be written");
        }
    }

    /// False: the transfer failed.
    fn transfer(&mut self, cx: &DevCx<'_>, control: u32, len: usize, address: Gpa) -> bool {
        let command = Control::from_bits_truncate(control);
        if command.contains(Control::SELECT) {
            self.select((control >> 16) as u16);
        }
        let available = self.rest().len();
        if command.contains(Control::READ) {
            let data = len.min(available);
            let past_end = len - data;
            let Some(source) = self.rest().get(..data) else {
                return false;
            };
            if past_end > ZERO_MAX
                || cx.dma.write(address, source).is_err()
                || zero(cx, address.add(data as u64), past_end).is_err()
            {
                return false;
            }
            self.offset += data;
            true
        } else if command.contains(Control::WRITE) {
            false
        } else {
            if command.contains(Control::SKIP) {
                self.offset += len.min(available);
            }
            true
        }
    }
}

fn zero(cx: &DevCx<'_>, mut at: Gpa, mut len: usize) -> Result<(), hv_core::mem::NotRam> {
    while len > 0 {
        let chunk = ZEROES.get(..len).unwrap_or(&ZEROES);
        cx.dma.write(at, chunk)?;
        at = at.add(chunk.len() as u64);
        len -= chunk.len();
    }
    Ok(())
}

/// Four big-endian words.
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let all = u128::from_be_bytes(bytes);
    [
        (all >> 96) as u32,
        (all >> 64) as u32,
        (all >> 32) as u32,
        all as u32,
    ]
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw_cfg"
    }

    fn reset(&mut self, _cx: &mut DevCx<'_>) {
        self.select(KEY_SIGNATURE);
        self.dma_high = 0;
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        match port {
            DATA if size == AccessSize::Byte => self.next().into(),
            DMA_HIGH..DMA_END => {
                let shift = 8 * u32::from(port - DMA_HIGH);
                (u64::from_le_bytes(DMA_SIGNATURE) >> shift) as u32 & size.ones()
            }
            _ => size.ones(),
        }
    }

    fn port_read_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &mut [u8]) {
        if port == DATA && size == AccessSize::Byte {
            let rest = self.rest();
            let data = rest.len().min(buf.len());
            let (head, tail) = buf.split_at_mut(data);
            for (to, from) in head.iter_mut().zip(rest) {
                *to = *from;
            }
            tail.fill(0);
            self.offset += data;
            return;
        }
        for chunk in buf.chunks_exact_mut(size.bytes()) {
            for (to, from) in chunk
                .iter_mut()
                .zip(self.port_read(cx, port, size).to_le_bytes())
            {
                *to = from;
            }
        }
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        match (port, size) {
            (SELECTOR, AccessSize::Word) => self.select(value as u16),
            (DMA_HIGH, AccessSize::Dword) => self.dma_high = value.swap_bytes(),
            (DMA_LOW, AccessSize::Dword) => {
                let high = core::mem::take(&mut self.dma_high);
                let block = u64::from(high) << 32 | u64::from(value.swap_bytes());
                self.dma(cx, Gpa(block));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FwCfg, ZERO_MAX};
    use hv_core::Gpa;
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::device::Device;
    use hv_core::mem::GuestMemory;
    use hv_core::testing::{Bench, Random};

    const BLOCK: u64 = 0x6f00;

    fn bytes(f: &mut FwCfg, b: &mut Bench, key: u16, n: usize) -> Vec<u8> {
        f.port_write(&mut b.cx(), 0x510, Word, key.into());
        (0..n)
            .map(|_| f.port_read(&mut b.cx(), 0x511, Byte) as u8)
            .collect()
    }

    /// As SeaBIOS's `qemu_cfg_dma_transfer`; returns the control word that it polls.
    fn dma(f: &mut FwCfg, b: &mut Bench, control: u32, len: u32, address: u64) -> u32 {
        let mut block = [0; 16];
        block[..4].copy_from_slice(&control.to_be_bytes());
        block[4..8].copy_from_slice(&len.to_be_bytes());
        block[8..].copy_from_slice(&address.to_be_bytes());
        b.mem.write(Gpa(BLOCK), &block).unwrap();
        f.port_write(&mut b.cx(), 0x514, Dword, 0);
        f.port_write(&mut b.cx(), 0x518, Dword, (BLOCK as u32).swap_bytes());
        b.mem.read_u32(Gpa(BLOCK)).unwrap().swap_bytes()
    }

    fn guest(b: &Bench, at: u64, n: usize) -> Vec<u8> {
        let mut v = vec![0; n];
        b.mem.read(Gpa(at), &mut v).unwrap();
        v
    }

    #[test]
    fn signature_and_features_are_found_as_seabios_looks_for_them() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        assert_eq!(bytes(&mut f, &mut b, 0, 4), b"QEMU");
        assert_eq!(bytes(&mut f, &mut b, 1, 4), [3, 0, 0, 0]);
        assert_eq!(
            f.port_read(&mut b.cx(), 0x514, Dword).to_le_bytes(),
            *b"QEMU"
        );
        assert_eq!(
            f.port_read(&mut b.cx(), 0x518, Dword).to_le_bytes(),
            *b" CFG"
        );
        assert_eq!(f.port_read(&mut b.cx(), 0x515, Byte), u32::from(b'E'));
    }

    #[test]
    fn reading_past_the_end_and_unknown_keys_gives_zeroes() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.add_key(0x0f, vec![1, 0]);
        assert_eq!(bytes(&mut f, &mut b, 0x0f, 4), [1, 0, 0, 0]);
        assert_eq!(bytes(&mut f, &mut b, 0x7777, 2), [0, 0]);
    }

    #[test]
    fn directory_lists_files_big_endian_and_sorted() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.add_file("etc/e820", vec![7; 20]);
        f.add_file("bootorder", vec![9; 3]);
        f.add_file("etc/e820", vec![8; 40]);
        let d = bytes(&mut f, &mut b, 0x19, 4 + 128);
        assert_eq!(d[..4], [0, 0, 0, 2]);
        assert_eq!(d[4..12], [0, 0, 0, 3, 0, 0x21, 0, 0]);
        assert_eq!(&d[12..22], b"bootorder\0");
        assert_eq!(d[68..76], [0, 0, 0, 40, 0, 0x20, 0, 0]);
        assert_eq!(bytes(&mut f, &mut b, 0x20, 1), [8]);
    }

    #[test]
    fn select_and_read_by_dma_copies_and_clears_the_control_word() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.add_file("etc/acpi/tables", (0..100).collect());
        assert_eq!(dma(&mut f, &mut b, 0x0020_000a, 60, 0x1000), 0);
        assert_eq!(guest(&b, 0x1000, 60), (0..60).collect::<Vec<u8>>());
        assert_eq!(dma(&mut f, &mut b, 0x4, 10, 0), 0, "skip");
        assert_eq!(dma(&mut f, &mut b, 0x2, 40, 0x2000), 0, "read on");
        let expected: Vec<u8> = (70..100).chain([0; 10]).collect();
        assert_eq!(guest(&b, 0x2000, 40), expected, "zeroes past the end");
    }

    #[test]
    fn select_alone_by_dma_is_legal() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        assert_eq!(dma(&mut f, &mut b, 0x0000_0008, 0, 0), 0);
        assert_eq!(f.port_read(&mut b.cx(), 0x511, Byte), u32::from(b'Q'));
    }

    #[test]
    fn dma_to_a_hole_a_write_and_an_endless_length_report_errors() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        assert_eq!(dma(&mut f, &mut b, 0x0000_000a, 4, u64::MAX - 1), 1);
        assert_eq!(dma(&mut f, &mut b, 0x0000_0018, 4, 0x1000), 1);
        assert_eq!(dma(&mut f, &mut b, 0x0000_000a, ZERO_MAX as u32 + 5, 0), 1);
        assert_eq!(dma(&mut f, &mut b, 0x0000_000a, u32::MAX, 0), 1);
    }

    #[test]
    fn control_block_outside_memory_is_ignored() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.port_write(&mut b.cx(), 0x514, Dword, !0);
        f.port_write(&mut b.cx(), 0x518, Dword, !0);
    }

    #[test]
    fn rep_insb_is_as_many_single_reads() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.add_key(0x11, (1..=10).collect());
        f.port_write(&mut b.cx(), 0x510, Word, 0x11);
        let mut buf = [0xff; 6];
        f.port_read_block(&mut b.cx(), 0x511, Byte, &mut buf);
        assert_eq!(buf, [1, 2, 3, 4, 5, 6]);
        f.port_read_block(&mut b.cx(), 0x511, Byte, &mut buf);
        assert_eq!(buf, [7, 8, 9, 10, 0, 0]);
    }

    #[test]
    fn reset_selects_the_signature() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        bytes(&mut f, &mut b, 1, 2);
        f.reset(&mut b.cx());
        assert_eq!(f.port_read(&mut b.cx(), 0x511, Byte), u32::from(b'Q'));
    }

    #[test]
    fn random_abuse_never_panics() {
        let (mut f, mut b) = (FwCfg::new(), Bench::new());
        f.add_file("etc/e820", vec![7; 20_000]);
        let mut random = Random::new(0x0123_4567_89ab_cdef);
        for _ in 0..20_000 {
            let x = random.next();
            let port = 0x510 + (x >> 8 & 0xf) as u16;
            let size = [Byte, Word, Dword, Byte][(x >> 16 & 3) as usize];
            match x & 7 {
                0 => f.port_write(&mut b.cx(), port, size, (x >> 32) as u32 & size.ones()),
                1 => assert_eq!(f.port_read(&mut b.cx(), port, size) & !size.ones(), 0),
                2 => {
                    let mut buf = [0; 64];
                    f.port_read_block(&mut b.cx(), port, size, &mut buf);
                }
                3 => {
                    bytes(&mut f, &mut b, (x >> 40 & 0x3f) as u16, 3);
                }
                _ => {
                    let len = (x >> 20 & 0xffff_ffff) as u32 >> (x >> 4 & 31);
                    dma(
                        &mut f,
                        &mut b,
                        (x >> 32) as u32 & 0x003f_001f,
                        len,
                        x >> 12 & 0x1f_ffff,
                    );
                }
            }
        }
    }
}
