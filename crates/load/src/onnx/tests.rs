//! Files that are written here, byte by byte.
