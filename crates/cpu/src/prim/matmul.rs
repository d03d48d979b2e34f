//! Batched matrix products over strided views.

use super::{Primitive, no_loop, walk::address};
use crate::{
    gemm::{self, BatchAxis},
    kernel::{Context, Out, View},
    plan::Layout,
};
use frit_graph::{DType, Error};
use half::{bf16, f16};

/// `[.., m, k] x [.., k, n]` with this many leading axes.
pub(crate) struct Product {
    pub(crate) batch: usize,
}

impl Product {
    fn describe(&self, a: &Layout, b: &Layout) -> gemm::Product {
        let n = self.batch;
        let (m, k) = (a.shape()[n], a.shape()[n + 1]);
        let columns = b.shape()[n + 1];
        let mut dense = (m * columns) as isize;
        let mut batch: Vec<BatchAxis> = Vec::new();
        for i in (0..n).rev() {
            let count = a.shape()[i];
            batch.push(BatchAxis { count, a: a.strides[i], b: b.strides[i], c: dense });
            dense *= count as isize;
        }
        batch.reverse();
        gemm::Product {
            m,
            n: columns,
            k,
            a: [a.strides[n], a.strides[n + 1]],
            b: [b.strides[n], b.strides[n + 1]],
            c: [columns as isize, 1],
            batch,
        }
    }
}

impl Primitive for Product {
    fn scratch(&self, x: &[&Layout], _: usize) -> usize {
        let p = self.describe(x[0], x[1]);
        match x[0].dtype() {
            DType::F32 => gemm::matmul_scratch_bytes::<f32>(&p),
            DType::F16 => gemm::matmul_scratch_bytes::<f16>(&p),
            DType::BF16 => gemm::matmul_scratch_bytes::<bf16>(&p),
            _ => 0,
        }
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let p = self.describe(x[0].layout, x[1].layout);
        macro_rules! product {
            ($T:ty, $f:path $(, $scratch:expr)?) => {{
                let (a, b) = (address::<$T>(&x[0], out), address::<$T>(&x[1], out));
                let y = out.bytes.as_mut_ptr().cast::<$T>();
                // SAFETY: the strides are those of the views, and the output is dense and apart.
                unsafe { $f(c.pool, &p, a, b, y $(, $scratch)?) }
            }};
        }
        match out.spec.dtype {
            DType::F32 => product!(f32, gemm::matmul::<f32>, c.scratch),
            DType::F16 => product!(f16, gemm::matmul::<f16>, c.scratch),
            DType::BF16 => product!(bf16, gemm::matmul::<bf16>, c.scratch),
            DType::F64 => product!(f64, gemm::matmul_f64),
            DType::I32 => product!(i32, gemm::matmul_i32),
            other => return Err(no_loop("matmul", other)),
        }
        Ok(())
    }
}
