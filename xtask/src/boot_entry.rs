//! What a boot loader's menu has.

/// One thing a CD can boot.
pub struct Entry<'a> {
    /// What is typed at the boot prompt.
    pub label: &'a str,
    /// The kernel's command line.
    pub cmdline: &'a str,
}
