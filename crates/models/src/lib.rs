//! frit-models
