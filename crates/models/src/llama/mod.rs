//! Llama and its relatives: text models with a decoder alone.
//!
//! One configuration, one network and one session serve Llama, Mistral, Qwen 2 and 3, Gemma 3,
//! SmolLM 3 and Phi 3; what differs among them are numbers and switches of [`LlamaConfig`].

pub mod config;
mod gguf;
pub mod model;
pub mod names;
pub mod network;
pub mod weights;

pub use config::LlamaConfig;
pub use model::{Llama, LlamaError, LoadOptions};
