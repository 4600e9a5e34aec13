//! VGA with the Bochs VBE extensions, and its picture.
