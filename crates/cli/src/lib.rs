//! frit-cli
