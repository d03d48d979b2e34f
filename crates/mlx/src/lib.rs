//! Frit's programs on MLX, Apple's array library: on the GPUs of Macs, on those of NVIDIA through
//! MLX's CUDA build, and on the CPU of Linux, where it is tested.
//!
//! A program becomes one lazy graph of MLX and one evaluation. Primitives go to MLX's operations,
//! and norms, rotary embeddings, attention, einsum and products with packed weights to MLX's own
//! fused calls; what those cannot say exactly is declined with the reason and composed.
//!
//! MLX is not linked. It is found when it is first used ([`find`]), a small bridge in C++ is
//! compiled against it once (`bridge`), and opened. So this crate builds without MLX, and on a
//! machine without it [`Mlx::new`] is an error that says what to do.
//!
//! How to read it: `ffi/` is all that is foreign and unsafe; `calls.rs` names MLX's operations;
//! `plan.rs` makes a program and `run.rs` runs it; `prim.rs` and `fused/` say what each operation becomes;
//! `known.rs` and `results.rs` keep weights and results in MLX's memory.

#![deny(unsafe_code)]

mod backend;
mod bridge;
mod calls;
mod error;
#[expect(unsafe_code, reason = "foreign functions; all that is unsafe stands in this folder")]
mod ffi;
pub mod find;
mod fused;
mod kernel;
mod known;
mod plan;
mod prim;
mod repack;
mod results;
mod run;

pub use backend::Mlx;
pub use error::MlxError;
pub use ffi::Device;
pub use find::VERSION;
