//! The debug ports 402h (SeaBIOS) and E9h (Bochs).
