//! Frit runs transformer models, written as many small tensor operations, as few fused kernels,
//! with the same numbers.
//!
//! Call a fused operation in any traced function. It is one kernel on a backend that has it, and
//! its composed form everywhere else; the report says which.
//!
//! ```
//! use frit::prelude::*;
//!
//! let x = Spec::new(DType::F32, [1, 4]);
//! let graph = Graph::trace(&[x], |x| vec![fast::rms_norm(&x[0], None, 0.0) * 2.0])?;
//! let program = compile(&graph, &Cpu::default(), &Params::new(), Policy::Warn)?;
//! let y = program.run(vec![Value::new([1, 4], vec![3.0f32, -3.0, 3.0, -3.0])?])?;
//! assert_eq!(y[0].slice::<f32>()?, [2.0, -2.0, 2.0, -2.0]);
//! print!("{}", program.report()); // 1 x rms_norm   fused
//! # Ok::<(), frit::graph::Error>(())
//! ```
//!
//! Or load a model, which is written with plain layers and rewritten to the fused ones with the
//! same parameters: see [`models::whisper`], [`models::llama`] and [`models::generate`]. The parts
//! are crates of their own: [`graph`] (tensors, Blocks, rewriting, lowering), [`ops`] (the
//! catalogue), [`cpu`] (the backend; with the feature `mlx` Apple's MLX is another), [`load`] (files) and [`models`].
#![forbid(unsafe_code)]

#[cfg(feature = "cpu")]
pub use frit_cpu as cpu;
pub use frit_graph as graph;
pub use frit_load as load;
#[cfg(feature = "mlx")]
pub use frit_mlx as mlx;
pub use frit_models as models;
pub use frit_ops as ops;

/// What most programs use.
pub mod prelude {
    #[cfg(feature = "cpu")]
    pub use frit_cpu::{Cpu, CpuKernel, Pool};
    pub use frit_graph::{
        Backend, Block, DType, Graph, Jit, Params, Policy, Program, Reference, Rule, Spec, Tensor,
        Value, compile, operands, rewrite,
    };
    #[cfg(feature = "mlx")]
    pub use frit_mlx::Mlx;
    pub use frit_models::fast_kernels;
    pub use frit_ops::fast;
}

/// The example of the README runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
