//! What can go wrong: one small enum, every message naming the operation, what it wanted and got.

use crate::{Report, Spec};
use std::panic::Location;

/// A shape, type or option that an operation does not take. It becomes the poison of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

impl From<String> for ShapeError {
    fn from(message: String) -> Self {
        ShapeError(message)
    }
}

impl From<&str> for ShapeError {
    fn from(message: &str) -> Self {
        ShapeError(message.to_string())
    }
}

/// Every error of the graph and its backends.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation was given what it cannot take; `at` is the caller's line.
    #[error("{message} --> {at}")]
    Shape {
        /// `[operation] what it wanted, what it got`.
        message: String,
        /// Where the operation was called.
        at: &'static Location<'static>,
    },
    /// A program was run on inputs it was not compiled for.
    #[error("program wants {wanted} inputs, got {got}")]
    InputCount {
        /// Inputs the program has.
        wanted: usize,
        /// Inputs it was given.
        got: usize,
    },
    /// One input has the wrong type or shape.
    #[error("input {index} must be {wanted}, got {got}")]
    InputSpec {
        /// Position of the input.
        index: usize,
        /// What the program was compiled for.
        wanted: Spec,
        /// What it was given.
        got: Spec,
    },
    /// A parameter that the graph names is not among the weights.
    #[error("missing tensor `{name}` ({wanted})")]
    MissingParam {
        /// Its name.
        name: String,
        /// What the graph wants.
        wanted: Spec,
    },
    /// A parameter has another type or shape than the graph wants.
    #[error("tensor `{name}` must be {wanted}, got {got}")]
    ParamSpec {
        /// Its name.
        name: String,
        /// What the graph wants.
        wanted: Spec,
        /// What the weights hold.
        got: Spec,
    },
    /// The policy forbids composed Blocks, and some were.
    #[error("composed Blocks are denied:\n{0}")]
    Denied(Box<Report>),
    /// A value that does not fit its spec.
    #[error("{0}")]
    Value(String),
    /// Met while running: an index out of range, a cache that is full.
    #[error("{0}")]
    Run(String),
    /// The backend cannot do what was asked of it.
    #[error("backend {backend}: {message}")]
    Backend {
        /// Its name.
        backend: String,
        /// Why.
        message: String,
    },
}
