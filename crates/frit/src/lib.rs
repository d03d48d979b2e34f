//! frit
