//! Files to named tensors.
//!
//! Every reader gives a [`Checkpoint`]: weights by name, the model's configuration, and what the
//! file says of itself. [`open`] takes a folder or a file and picks the reader; [`safetensors`],
//! [`gguf`] and [`ctranslate2`] are the readers on their own, and [`write()`] makes a safetensors
//! file. [`onnx`] makes whole graphs of ONNX files.
//!
//! Weights stay in the memory-mapped file where their elements are aligned, and are copied where
//! they are not. A mapped file must not be changed or cut while its weights are in use.
//!
//! Files are not trusted: every length, offset and count is checked against the file before it is
//! used, and what does not hold is a [`LoadError`] that names the file and the tensor.
//!
//! ```
//! use frit_graph::{DType, Value};
//! use std::collections::BTreeMap;
//!
//! let folder = std::env::temp_dir().join(format!("frit-load-doc-{}", std::process::id()));
//! std::fs::create_dir_all(&folder)?;
//! let norm = Value::new([2], vec![1.0f32, 2.0])?;
//! frit_load::write(folder.join("model.safetensors"), &[("norm.weight", &norm)], &BTreeMap::new())?;
//! std::fs::write(folder.join("config.json"), r#"{"hidden_size": 2}"#)?;
//!
//! let checkpoint = frit_load::open(&folder)?;
//! assert_eq!(checkpoint.tensor("norm.weight")?.slice::<f32>()?, [1.0, 2.0]);
//! assert_eq!(checkpoint.config["hidden_size"], 2);
//! let half = checkpoint.cast(DType::F16);
//! assert_eq!(half.get("norm.weight").map(|v| v.dtype()), Some(DType::F16));
//!
//! let error = checkpoint.tensor("norm.weigth").expect_err("misspelt").to_string();
//! assert!(error.ends_with("missing tensor `norm.weigth`; did you mean `norm.weight`?"));
//! std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod affine;
mod checkpoint;
pub mod ctranslate2;
mod error;
mod folder;
pub mod gguf;
mod json;
mod mapped;
pub mod onnx;
pub mod safetensors;
mod writer;

pub use checkpoint::{Checkpoint, Format};
pub use error::LoadError;
pub use folder::open;
pub use onnx::OnnxModel;
pub use writer::write;
