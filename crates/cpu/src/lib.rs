//! The CPU backend of Frit.
//!
//! A program is a list of steps over one planned block of memory. To read: [`Cpu`] (what the
//! backend has), `plan/` (graph to steps, views, places in memory), `prim/` (the primitives),
//! `fused/` (the catalogue's kernels, thin: they unpack operands), `kernels/` and `gemm/` (what
//! they call), `quant/` (packed weights), `simd/` (vectors chosen at run time), [`Pool`] (threads).
//! A kernel for a Block of your own: [`CpuKernel`].
//!
//! Results are the same bits on any number of threads: work is cut by shapes, never by threads.

mod backend;
pub mod floor;
mod fused;
mod gemm;
mod kernel;
mod kernels;
mod plan;
mod prepacked;
mod prim;
mod profile;
mod quant;
mod simd;
mod slab;
mod threads;

pub use backend::Cpu;
pub use kernel::{Combine, Context, CpuKernel, Out, View, Wants};
pub use profile::{Event, EventKind, Profile};
pub use simd::{Isa, isa};
pub use threads::{GlobalPoolStarted, Pool};
