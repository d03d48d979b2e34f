//! Llama and its relatives: text models with a decoder alone.
//!
//! One configuration, one network and one session serve Llama, Mistral, Qwen 2 and 3, Gemma 3,
//! SmolLM 3 and Phi 3; what differs among them are numbers and switches of [`LlamaConfig`].
//!
//! ```no_run
//! use frit_graph::{Backend, Reference};
//! use frit_models::llama::{Llama, LoadOptions};
//! use std::{path::Path, sync::Arc};
//!
//! let backend: Arc<dyn Backend> = Arc::new(Reference);
//! let mut model = Llama::open(Path::new("SmolLM2-135M"), backend, LoadOptions::default())?;
//! let logits = model.prefill(&[vec![504, 3575, 282, 4649, 314]], 256)?;
//! let best = (0..logits[0].len()).max_by(|&a, &b| logits[0][a].total_cmp(&logits[0][b]));
//! let next = model.step(&[best.map_or(0, |t| t as u32)])?;
//! # assert_eq!(next.len(), 1);
//! # Ok::<(), frit_models::Error>(())
//! ```

pub mod config;
mod gguf;
pub mod model;
pub mod names;
pub mod network;
pub mod weights;

pub use config::LlamaConfig;
pub use model::{Llama, LoadOptions};
