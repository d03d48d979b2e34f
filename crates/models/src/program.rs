//! What is kept of a compiled program, and a pass before it is compiled.

use frit_graph::{Graph, Params, Program, RewriteReport, Value};
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

/// A pass as a graph of plain layers, before any rule, with all that it takes to run it.
pub struct Traced {
    /// The graph.
    pub graph: Graph,
    /// The weights by the names that the graph has.
    pub params: Params,
    /// The inputs in order.
    pub inputs: Vec<Value>,
}
