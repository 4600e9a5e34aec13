//! The limits that both ends keep.

/// Virtual machines at most: Umbra's memory, its network switch and the serial numbers of drives have room for as many.
pub const MAX_VMS: u8 = 8;

/// Bytes of a frame behind its header at most. Two rows of the widest picture would not fit, but one does even if each pixel is another
/// ([`Bands`](crate::Bands)); and Umbra keeps such a buffer for each direction.
pub const MAX_PAYLOAD: usize = 8192;

/// Pixels of a picture's row at most: the widest mode of the display interface that Umbra gives to guests.
pub const MAX_WIDTH: u16 = 2560;

/// Rows of a picture at most: the highest mode of that interface. The VGA's own modes have 1,024 lines at most.
pub const MAX_HEIGHT: u16 = 1600;

/// Characters of a text screen's row at most: the CRT controller's "horizontal display enable end" has 8 bits.
pub const MAX_COLUMNS: u16 = 256;

/// Rows of a text screen at most: "vertical display enable end" has 10 bits, and a row may be one line high.
pub const MAX_ROWS: u16 = 1024;

/// Bytes of a report at most: the counters take some 20 KiB, each of [`MAX_RECORD`] recorded exits a line of less than 800.
pub const MAX_REPORT: usize = 8 << 20;

/// Exits that can be recorded at most: Umbra keeps them on its heap.
pub const MAX_RECORD: u32 = 10_000;

/// Bytes of an event's sentence at most; longer ones are cut.
pub const MAX_SENTENCE: usize = 1024;
