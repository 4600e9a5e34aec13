//! What the boot loader told us, in one form for Multiboot 1, Multiboot 2 and PVH.

use crate::start;
use host_memory::Range;
use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};
use protocol::options;

/// A file that the boot loader has loaded.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Where it is.
    pub range: Range,
    /// Its role, from its command line.
    pub role: &'static str,
}

impl Module {
    /// Its contents.
    pub fn bytes(&self) -> &'static [u8] {
        let Range { start, end } = self.range;
        // SAFETY: modules are never given to the allocator, never written, and stay mapped.
        unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
    }
}

/// A linear framebuffer with 32 bits a pixel.
#[derive(Clone, Copy, Debug)]
pub struct Framebuffer {
    /// Physical address.
    pub address: u64,
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from line to line.
    pub pitch: u32,
}

const RANGES: usize = 64;
const MODULES: usize = 64;

/// What the boot loader told us.
pub struct BootInfo {
    usable: [Range; RANGES],
    usable_len: usize,
    modules: [Option<Module>; MODULES],
    /// The command line.
    pub cmdline: &'static str,
    /// The ACPI root pointer, if the loader knows it.
    pub rsdp: Option<u64>,
    /// The screen, if the loader has set up a graphics mode.
    pub framebuffer: Option<Framebuffer>,
    /// Where the loader's own data lie, which must not be overwritten.
    pub info: Range,
}

/// A zero-terminated string in loader memory.
///
/// # Safety
/// `at` must point at a string that stays unchanged.
unsafe fn string(at: u64) -> &'static str {
    if at == 0 {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { core::ffi::CStr::from_ptr(at as *const _) }
        .to_str()
        .unwrap_or("")
}

/// The role in a module's command line: the second word, after the file's name; or the only one.
fn role(line: &'static str) -> &'static str {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or("");
    words.next().unwrap_or(first)
}

impl BootInfo {
    fn empty() -> Self {
        Self {
            usable: [Range::default(); RANGES],
            usable_len: 0,
            modules: [None; MODULES],
            cmdline: "",
            rsdp: None,
            framebuffer: None,
            info: Range::default(),
        }
    }

    fn add_usable(&mut self, start: u64, len: u64) {
        if let Some(r) = self.usable.get_mut(self.usable_len) {
            *r = Range {
                start,
                end: start.saturating_add(len),
            };
            self.usable_len += 1;
        }
    }

    fn add_module(&mut self, start: u64, end: u64, line: &'static str) {
        if let Some(m) = self.modules.iter_mut().find(|m| m.is_none()) {
            *m = Some(Module {
                range: Range { start, end },
                role: role(line),
            });
        }
    }

    /// The ranges of RAM that the firmware leaves to us.
    pub fn usable(&self) -> &[Range] {
        &self.usable[..self.usable_len]
    }

    /// The loaded files.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().flatten()
    }

    /// The file with this role in the VM of this number: the first VM's are known by their roles, the second's by `vm2-` and their roles.
    pub fn module(&self, vm: usize, role: &str) -> Option<&Module> {
        let prefix = options::prefix(vm);
        self.modules()
            .find(|m| m.role.strip_prefix(prefix.as_str()) == Some(role))
    }

    /// Reads what the loader left.
    ///
    /// # Safety
    /// `magic` and `info` are what the loader passed in EAX and EBX, and its data are intact.
    pub unsafe fn read(magic: u32, info: u64) -> Self {
        let mut b = Self::empty();
        match magic {
            // SAFETY: the caller's promise, for each.
            start::MULTIBOOT1 => unsafe { b.multiboot1(info) },
            // SAFETY: as above.
            start::MULTIBOOT2 => unsafe { b.multiboot2(info) },
            // SAFETY: as above.
            start::PVH => unsafe { b.pvh(info) },
            _ => panic!(
                "started by an unknown boot loader (EAX = {magic:#x}); use Multiboot 1, Multiboot 2 or PVH"
            ),
        }
        b
    }

    /// Multiboot Specification 0.6.96, 3.3 "Boot information format".
    ///
    /// # Safety
    /// As [`read`](Self::read).
    unsafe fn multiboot1(&mut self, info: u64) {
        // SAFETY: the structure has at least 52 bytes; each part is read only if its flag is set.
        let word = |offset: u64| unsafe { ((info + offset) as *const u32).read_unaligned() };
        let flags = word(0);
        self.info = Range {
            start: info,
            end: info + 128,
        };
        if flags & 1 << 2 != 0 {
            // SAFETY: flag 2: a string.
            let line = unsafe { string(word(16).into()) };
            // QEMU puts the image's file name in front.
            self.cmdline = line.split_once(' ').map_or("", |(_, rest)| rest);
        }
        if flags & 1 << 3 != 0 {
            for i in 0..u64::from(word(20)) {
                let at = u64::from(word(24)) + 16 * i;
                // SAFETY: flag 3: an array of 16-byte entries.
                let m = unsafe { (at as *const [u32; 4]).read_unaligned() };
                // SAFETY: the third word is a string.
                self.add_module(m[0].into(), m[1].into(), unsafe { string(m[2].into()) });
            }
        }
        if flags & 1 << 6 != 0 {
            let (mut at, end) = (
                u64::from(word(48)),
                u64::from(word(48)) + u64::from(word(44)),
            );
            while at < end {
                // SAFETY: flag 6: entries that begin with their own size.
                let (size, start, len, kind) = unsafe {
                    let p = at as *const u32;
                    let q = |n: usize| u64::from(p.add(n).read_unaligned());
                    (q(0), q(1) | q(2) << 32, q(3) | q(4) << 32, q(5))
                };
                if kind == 1 {
                    self.add_usable(start, len);
                }
                at += size + 4;
            }
        }
    }

    /// # Safety
    /// As [`read`](Self::read).
    unsafe fn multiboot2(&mut self, info: u64) {
        // SAFETY: the loader's promise by the magic number; the data stay in place (`self.info` is never allocated).
        let Ok(mbi) = (unsafe { BootInformation::load(info as *const BootInformationHeader) })
        else {
            panic!("the Multiboot 2 information is malformed");
        };
        self.info = Range {
            start: info,
            end: info + mbi.total_size() as u64,
        };
        let keep = |s: &str| -> &'static str {
            // SAFETY: the string lies in the loader's data, which are kept (see above).
            unsafe {
                core::str::from_utf8_unchecked(core::slice::from_raw_parts(s.as_ptr(), s.len()))
            }
        };
        if let Some(line) = mbi.command_line_tag().and_then(|t| t.cmdline().ok()) {
            self.cmdline = keep(line);
        }
        for m in mbi.module_tags() {
            self.add_module(
                m.start_address().into(),
                m.end_address().into(),
                keep(m.cmdline().unwrap_or("")),
            );
        }
        if let Some(map) = mbi.memory_map_tag() {
            for area in map
                .memory_areas()
                .iter()
                .filter(|a| a.typ() == MemoryAreaType::Available)
            {
                self.add_usable(area.start_address(), area.size());
            }
        }
        // The tags hold copies of the RSDP: the tables' addresses in them are what counts.
        self.rsdp = mbi
            .rsdp_v2_tag()
            .map(|t| core::ptr::from_ref(t) as u64 + 8)
            .or(mbi.rsdp_v1_tag().map(|t| core::ptr::from_ref(t) as u64 + 8));
        if let Some(Ok(f)) = mbi.framebuffer_tag() {
            let rgb = matches!(f.buffer_type(), Ok(multiboot2::FramebufferType::RGB { .. }));
            if rgb && f.bpp() == 32 {
                self.framebuffer = Some(Framebuffer {
                    address: f.address(),
                    width: f.width(),
                    height: f.height(),
                    pitch: f.pitch(),
                });
            }
        }
    }

    /// The PVH start information (Xen's `hvm_start_info`, version 1).
    ///
    /// # Safety
    /// As [`read`](Self::read).
    unsafe fn pvh(&mut self, info: u64) {
        // SAFETY: the structure has 56 bytes in version 1.
        let long = |offset: u64| unsafe { ((info + offset) as *const u64).read_unaligned() };
        self.info = Range {
            start: info,
            end: info + 56,
        };
        // SAFETY: a string or 0.
        self.cmdline = unsafe { string(long(24)) };
        self.rsdp = Some(long(32)).filter(|&r| r != 0);
        let modules = long(8) >> 32;
        for i in 0..modules {
            let at = long(16) + 32 * i;
            // SAFETY: an array of 32-byte entries.
            let m = unsafe { (at as *const [u64; 4]).read_unaligned() };
            // SAFETY: the third word is a string or 0.
            self.add_module(m[0], m[0] + m[1], unsafe { string(m[2]) });
        }
        for i in 0..long(48) & 0xffff_ffff {
            let at = long(40) + 24 * i;
            // SAFETY: an array of 24-byte entries.
            let (start, len, kind) = unsafe {
                let p = at as *const u64;
                (
                    p.read_unaligned(),
                    p.add(1).read_unaligned(),
                    p.add(2).read_unaligned() as u32,
                )
            };
            if kind == 1 {
                self.add_usable(start, len);
            }
        }
    }
}
