//! The product with bias and activation applied to each block of it while that is in the cache. A
//! weight is packed once for all programs, but for products of few rows, which read it as it is
//! stored: as halves where it is made of them, even if the graph widens them first.

use super::for_float;
use crate::{
    Pool,
    gemm::{self, Epilogue, LinearShape, Packed},
    kernel::{Combine, Context, CpuKernel, Out, View},
    simd::Element,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Activation, Linear, LinearInputs};
use std::sync::Arc;

const WEIGHT: usize = 1;

fn geometry(x: &[usize], weight: &[usize]) -> LinearShape {
    let (n, k) = (weight[0], weight[1]);
    let m = x[..x.len() - 1].iter().product();
    LinearShape { m, n, k, x_row: k }
}

/// The panels of a weight that all programs share, if it is one.
fn packed<W: Element, P: Element>(
    weight: &View<'_>,
    pool: &Pool,
    numbers: &[W],
    shape: &LinearShape,
) -> Option<Arc<Packed<P>>> {
    weight.prepacked(|_| Packed::<P>::new(pool, numbers, shape.n, shape.k))
}

impl CpuKernel for Linear {
    fn accept(&self, _: &LinearInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn widens(&self, slot: usize) -> bool {
        slot == WEIGHT
    }

    fn combines(&self, how: Combine) -> bool {
        how != Combine::Gate || self.activation == Activation::Identity
    }

    fn scratch(&self, i: &LinearInputs<&Spec>, _: usize) -> usize {
        let shape = geometry(&i.x.shape, &i.weight.shape);
        for_float!(i.x.dtype, T => for_float!(i.weight.dtype, W => {
            gemm::linear_scratch_bytes::<T, W>(&shape)
        }))
    }

    fn run(
        &self,
        i: LinearInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let shape = geometry(i.x.shape(), i.weight.shape());
        let bias = i.bias.as_ref().map(View::floats).transpose()?;
        let (activation, combine) = (self.activation, c.combine());
        let (then, pool) = (Epilogue { bias: bias.as_deref(), activation, combine }, c.pool());
        for_float!(i.x.dtype(), T => for_float!(i.weight.dtype(), W => {
            let (x, w) = (i.x.slice::<T>()?, i.weight.slice::<W>()?);
            let (y, scratch, known) = (out.slice_mut::<T>()?, c.scratch(), &i.weight);
            let many = shape.m > gemm::FEW_PACKED;
            if T::IS_F32 && many {
                // Panels of f32 need no conversion at every use.
                if let Some(p) = packed::<W, f32>(known, pool, w, &shape) {
                    gemm::linear_packed::<T, f32>(pool, &shape, x, &p, then, y, scratch);
                    return Ok(());
                }
            } else if many && let Some(p) = packed::<W, W>(known, pool, w, &shape) {
                gemm::linear_packed::<T, W>(pool, &shape, x, &p, then, y, scratch);
                return Ok(());
            }
            gemm::linear::<T, W>(pool, &shape, x, w, then, y, scratch);
        }));
        Ok(())
    }
}
