//! The product with bias and activation applied to each block of it while that is in the cache. A
//! weight is packed once for all programs, but for products of few rows, which read it as it is,
//! or as halves where it is made of them.

use super::for_float;
use crate::{
    gemm::{self, Halves, LinearShape, Packed},
    kernel::{Context, CpuKernel, Out, View},
    simd::Element,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Linear, LinearInputs};
use half::{bf16, f16};

fn geometry(x: &[usize], weight: &[usize]) -> LinearShape {
    let (n, k) = (weight[0], weight[1]);
    let m = x[..x.len() - 1].iter().product();
    LinearShape { m, n, k, x_row: k }
}

impl CpuKernel for Linear {
    fn accept(&self, _: &LinearInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
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
        let (bias, f, pool) = (bias.as_deref(), self.activation, c.pool());
        for_float!(i.x.dtype(), T => for_float!(i.weight.dtype(), W => {
            let (x, w) = (i.x.slice::<T>()?, i.weight.slice::<W>()?);
            let (y, scratch) = (out.slice_mut::<T>()?, c.scratch());
            let (few, known) = (shape.m <= gemm::FEW_PACKED, &i.weight);
            let halves = match few && W::IS_F32 {
                true => known.prepacked(|_| Halves::of(pool, bytemuck::cast_slice(w))),
                false => None,
            };
            let packed = match few {
                true => None,
                false => known.prepacked(|_| Packed::<W>::new(pool, w, shape.n, shape.k)),
            };
            match (packed, halves.as_deref()) {
                (Some(p), _) => {
                    gemm::linear_packed::<T, W>(pool, &shape, x, &p, bias, f, y, scratch);
                }
                (None, Some(Halves::F16(w))) => {
                    gemm::linear::<T, f16>(pool, &shape, x, w, bias, f, y, scratch);
                }
                (None, Some(Halves::BF16(w))) => {
                    gemm::linear::<T, bf16>(pool, &shape, x, w, bias, f, y, scratch);
                }
                (None, _) => gemm::linear::<T, W>(pool, &shape, x, w, bias, f, y, scratch),
            }
        }));
        Ok(())
    }
}
