//! What can go wrong: one enum, every message naming the file, and the tensor where there is one.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Every error of reading and writing files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {cause}")]
    Io {
        /// What was tried: `open`, `map`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file as a whole is malformed.
    #[error("`{path}`: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        message: String,
    },
    /// One tensor is malformed.
    #[error("`{path}`: tensor `{}` {message}", shown(.name))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What does not hold.
        message: String,
    },
    /// A tensor is sound, but its elements are of a type that no [`frit_graph::DType`] is.
    #[error("`{path}`: tensor `{}` is stored as {dtype}; supported are {supported}", shown(.name))]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// The type as the format calls it.
        dtype: String,
        /// The types that could be read.
        supported: &'static str,
    },
    /// A tensor was asked for that the checkpoint does not hold.
    #[error("`{path}`: missing tensor `{}`{}", shown(.name), hint(.suggestion))]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The most similar name that there is.
        suggestion: Option<String>,
    },
    /// Operators that cannot be imported, each with the nodes that use it.
    #[error("`{path}`: unsupported operators: {}", .operators.join("; "))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// `Operator (nodes)`, and what of it where the operator itself is known.
        operators: Vec<String>,
    },
    /// A node of a graph that breaks the rules of its operator.
    #[error("`{path}`: node {node} ({operator}): {message}")]
    Node {
        /// The file.
        path: PathBuf,
        /// The operator.
        operator: String,
        /// The node, or what it makes where it has no name.
        node: String,
        /// What does not hold.
        message: String,
    },
    /// A folder or file that no reader fits.
    #[error("`{path}` holds no checkpoint; looked for {looked_for}")]
    NotFound {
        /// Where.
        path: PathBuf,
        /// The names of the files that would have been taken.
        looked_for: &'static str,
    },
}

impl LoadError {
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> LoadError {
        LoadError::Io { action, path: path.into(), cause }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> LoadError {
        LoadError::Format { path: path.into(), message: message.into() }
    }

    pub(crate) fn tensor(path: &Path, name: &str, message: impl Into<String>) -> LoadError {
        LoadError::Tensor { path: path.into(), name: name.into(), message: message.into() }
    }
}

/// A name from a file, fit for a terminal: no control characters, not endless.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 160;
    let mut out: String = name.chars().take(MOST).flat_map(char::escape_debug).collect();
    if name.chars().nth(MOST).is_some() {
        out.push_str("...");
    }
    out
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or(String::new(), |s| format!("; did you mean `{}`?", shown(s)))
}
