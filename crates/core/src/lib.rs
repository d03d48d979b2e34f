//! frit-graph
