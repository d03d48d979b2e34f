//! Encoders: models that read a whole text or picture at once and give a vector for every token or
//! patch.
//!
//! One configuration and one network serve BERT, DistilBERT, ModernBERT and ViT; what differs among
//! them are switches of [`EncoderConfig`] and the names of the weights. [`TextEmbedder`] makes one
//! vector of a text, as sentence-transformers does: tokens, encoder, [`Pooling`], length 1.
//!
//! ```no_run
//! use frit_graph::{Backend, Reference};
//! use frit_models::encoder::{LoadOptions, TextEmbedder};
//! use std::{path::Path, sync::Arc};
//!
//! let backend: Arc<dyn Backend> = Arc::new(Reference);
//! let folder = Path::new("all-MiniLM-L6-v2");
//! let mut embedder = TextEmbedder::open(folder, backend, LoadOptions::default())?;
//! let texts = embedder.embed(&["A man is eating food.", "A man is eating a piece of bread."])?;
//! let cosine: f32 = texts[0].iter().zip(&texts[1]).map(|(a, b)| a * b).sum();
//! # assert!(cosine > 0.75);
//! # Ok::<(), frit_models::Error>(())
//! ```

pub mod config;
mod embed;
mod folder;
pub mod model;
mod names;
pub mod network;
mod pooling;

pub use config::EncoderConfig;
pub use embed::TextEmbedder;
pub use model::{Encoder, LoadOptions};
pub use pooling::{Pooling, normalise};
