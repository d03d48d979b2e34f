//! frit-ops
