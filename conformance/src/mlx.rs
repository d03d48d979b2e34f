//! What the tests of MLX share.

use frit_graph::{DType, Graph, Params, Policy, Program, Spec, Tensor, Value, compile};
use frit_mlx::{Device, Mlx};
use frit_ops::{Activation, Rope, ScaledDotProductAttention, fast};

/// MLX on the CPU. `None` is said aloud, and only where the environment allows it.
///
/// # Panics
/// When there is no MLX and nobody said `FRIT_WITHOUT_MLX=1`.
pub fn mlx() -> Option<Mlx> {
    match Mlx::on(Device::Cpu) {
        Ok(mlx) => Some(mlx),
        Err(e) if std::env::var_os("FRIT_WITHOUT_MLX").is_some_and(|v| v == "1") => {
            eprintln!("not run: {e}");
            None
        }
        Err(e) => panic!("these tests want MLX (FRIT_WITHOUT_MLX=1 goes without): {e}"),
    }
}

/// A small block: a norm, a product, a turn, attention, a lookup that can fail.
///
/// # Panics
/// When it does not compile.
pub fn block(mlx: &Mlx) -> Program {
    let specs = [Spec::new(DType::F32, [1, 6, 32]), Spec::new(DType::I64, [1])];
    let graph = Graph::trace(&specs, |x| {
        let w = Tensor::param("w", Spec::new(DType::F32, [32, 32]));
        let h = fast::rms_norm(&x[0], None, 1e-6);
        let h = fast::linear(&h, &w, None, Activation::Silu);
        let q = h.reshape(&[1, 6, 2, 16]).transpose(&[0, 2, 1, 3]);
        let q = fast::rope(&q, None, Rope::new(16));
        let causal = ScaledDotProductAttention { causal: true, ..Default::default() };
        let y = fast::scaled_dot_product_attention(&q, &q, &q, None, causal);
        vec![y.transpose(&[0, 2, 1, 3]).reshape(&[1, 6, 32]).gather(1, &x[1])]
    })
    .expect("a graph");
    let w = (0..32 * 32).map(|i| ((i * 37) % 101) as f32 / 400.0 - 0.12).collect();
    let mut params = Params::new();
    params.insert("w", Value::new([32, 32], w).expect("a value"));
    compile(&graph, mlx, &params, Policy::Deny).expect("by MLX's own calls")
}

/// Inputs of [`block`]: the `k`-th numbers, and which row is looked up of six.
///
/// # Panics
/// Never: the numbers fit.
pub fn inputs(k: usize, at: i64) -> Vec<Value> {
    let x = (0..6 * 32).map(|i| ((i * 29 + k * 7) % 53) as f32 / 9.0 - 2.0).collect();
    vec![Value::new([1, 6, 32], x).expect("it"), Value::new([1], vec![at]).expect("it")]
}
