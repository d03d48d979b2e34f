//! Frit
pub use frit_cpu as cpu;
pub use frit_graph as graph;
pub use frit_load as load;
pub use frit_models as models;
pub use frit_ops as ops;
