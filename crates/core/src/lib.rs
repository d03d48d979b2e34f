//! The graph of Frit and its laws: lazy tensors, closed primitives, open Blocks, named passes,
//! lowering with a report, and a slow reference backend that says what everything means.
//!
//! Read in this order: [`DType`] and [`Spec`], [`Prim`], [`Block`], [`Tensor`], [`Graph`],
//! [`rewrite`], [`compile`], [`Backend`], [`Reference`].
//!
//! ```
//! use frit_graph::{DType, Graph, Spec};
//!
//! // A shape error neither panics nor needs a `?`: it poisons the tensor and names the line.
//! let graph = Graph::trace(
//!     &[Spec::new(DType::F32, [2, 8]), Spec::new(DType::F32, [7])],
//!     |x| vec![&x[0] * &x[1]],
//! );
//! let message = graph.unwrap_err().to_string();
//! assert!(message.starts_with("[mul] f32[2, 8] and f32[7] do not broadcast --> "));
//! ```
//!
//! What was settled: a Block has one output; state is a value in and a value out; Blocks compare
//! by `PartialEq` and numbers inside primitives by their bits ([`Real`]); shapes that change per
//! call are bucketed by the caller over one traced function ([`Jit`]).
#![forbid(unsafe_code)]

mod backend;
mod block;
mod dtype;
mod error;
mod graph;
mod jit;
mod lower;
mod memory;
mod methods;
mod operators;
mod params;
pub mod pattern;
mod prim;
pub mod reference;
mod report;
mod rewrite;
mod spec;
mod tensor;
mod value;

pub use backend::{Backend, Executable, Program};
pub use block::{Block, DynBlock, Many, Operands, Slot};
pub use dtype::{DType, Element};
pub use error::{Error, ShapeError};
pub use graph::Graph;
pub use jit::Jit;
pub use lower::{Policy, compile, lower};
pub use memory::{ALIGN, Memory};
pub use params::Params;
pub use prim::{Binary, Compare, Prim, Real, Reduce, Unary};
pub use reference::Reference;
pub use report::{Decline, Line, Outcome, Report};
pub use rewrite::{Rewrite, RewriteReport, Rule, RuleReport, Site, recognise, rewrite};
pub use spec::{Spec, broadcast_shapes, row_major};
pub use tensor::{Node, Op, Tensor};
pub use value::Value;
