//! System packages.

/// A system package, and a file of it that shows that it is there.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// The name in Debian and Ubuntu.
    pub name: &'static str,
    /// The file.
    pub file: &'static str,
}

/// The package `name`, which is there if `file` is.
pub const fn package(name: &'static str, file: &'static str) -> Package {
    Package { name, file }
}
