//! What all loaded models share: why one cannot be loaded or run, what is kept of a compiled program,
//! and a pass before it is compiled.

use crate::{config::ConfigError, tokenizer::TokenizerError};
use frit_graph::{Graph, Params, Program, RewriteReport, Value};
use frit_load::LoadError;
use std::{collections::BTreeMap, path::PathBuf};

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration.
    #[error("{path}: {source}")]
    Config {
        /// The checkpoint.
        path: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A file that says how texts become one vector.
    #[error("{}: {what}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The graph or the backend.
    #[error(transparent)]
    Graph(#[from] frit_graph::Error),
    /// A call that does not fit the model.
    #[error("{0}")]
    Call(String),
}

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
