//! Each contraction is one strided product, written where its result belongs.

use super::for_float;
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::einsum::Plan,
};
use frit_graph::{DType, Decline, Error, Many, Spec};
use frit_ops::Einsum;

impl CpuKernel for Einsum {
    fn accept(&self, _: &Many<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &Many<&Spec>, _: usize) -> usize {
        let shapes: Vec<&[usize]> = i.0.iter().map(|s| &s.shape[..]).collect();
        let dtype = i.0.first().map_or(DType::F32, |s| s.dtype);
        for_float!(dtype, T => {
            self.bind(&shapes).map_or(0, |e| Plan::<T>::new(&e, &shapes).scratch_bytes())
        })
    }

    fn run(
        &self,
        i: Many<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let shapes: Vec<&[usize]> = i.0.iter().map(View::shape).collect();
        let equation = self.bind(&shapes).map_err(|e| Error::Run(format!("[einsum] {}", e.0)))?;
        let pool = c.pool();
        for_float!(out.spec().dtype, T => {
            let operands: Vec<&[T]> = i.0.iter().map(View::slice::<T>).collect::<Result<_, _>>()?;
            let plan = Plan::<T>::new(&equation, &shapes);
            plan.run(pool, &operands, out.slice_mut::<T>()?, c.scratch());
        });
        Ok(())
    }
}
