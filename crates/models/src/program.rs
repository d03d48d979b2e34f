//! What is kept of a compiled program.

use frit_graph::{Program, RewriteReport};
use std::collections::BTreeMap;

/// A program with what is to be told of it.
#[derive(Clone)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// What the rules did.
    pub rewrites: RewriteReport,
    /// How often each operation occurs in the traced graph, before the rules.
    pub traced: BTreeMap<&'static str, usize>,
}
