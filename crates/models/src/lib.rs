//! Models of Frit: real checkpoints from file to text.
//!
//! A model is a configuration, a forward written with the plain layers of [`nn`], and the names of
//! its weights. It knows neither a backend nor a fused kernel: [`fast_kernels`] are the rules that
//! rewrite its graph.

#![forbid(unsafe_code)]

pub mod chat;
mod config;
pub mod encoder;
mod fast;
pub mod generate;
pub mod llama;
pub mod nn;
mod program;
mod random;
pub mod rope;
mod row;
pub mod tokenizer;
pub mod whisper;

pub use config::ConfigError;
pub use fast::{fast_kernels, packed_linear};
pub use program::{Compiled, Error, Traced};
