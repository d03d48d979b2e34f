//! frit-cpu
