//! Pieces of AML that several tables are made of.

use acpi_tables::aml::Path;
use acpi_tables::{Aml, AmlSink};
use alloc::vec::Vec;

/// AML that has been encoded already.
pub(super) struct Raw(pub(super) Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

pub(super) fn path(name: &str) -> Path {
    Path::new(name)
}

/// Encodes anything, so that it may outlive what it was made from.
pub(super) trait Bytes: Aml {
    fn bytes(&self) -> Raw {
        let mut aml = Vec::new();
        self.to_aml_bytes(&mut aml);
        Raw(aml)
    }
}

impl<T: Aml> Bytes for T {}
