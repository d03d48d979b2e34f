//! frit-load
