//! Each contraction is one strided product, written where its result belongs.

use super::for_float;
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::einsum::Plan,
    simd::Element,
};
use frit_graph::{DType, Decline, Error, Many, ShapeError, Spec};
use frit_ops::Einsum;
use std::{any::Any, cell::RefCell, rc::Rc};

/// Plans that a thread remembers: trying all orders of five operands takes longer than small
/// products do.
const REMEMBERED: usize = 32;

/// An equation over shapes, and its plan for operands of one type.
type Known = (Einsum, Vec<Vec<usize>>, Rc<dyn Any>);

thread_local! {
    static PLANS: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

fn plan<T: Element>(block: &Einsum, shapes: &[&[usize]]) -> Result<Rc<Plan<T>>, ShapeError> {
    PLANS.with_borrow_mut(|plans| {
        let mut same = plans.iter().filter(|(b, s, _)| b == block && s == shapes);
        if let Some(plan) = same.find_map(|p| p.2.clone().downcast::<Plan<T>>().ok()) {
            return Ok(plan);
        }
        let plan = Rc::new(Plan::<T>::new(&block.bind(shapes)?, shapes));
        if plans.len() == REMEMBERED {
            plans.remove(0);
        }
        plans.push((block.clone(), shapes.iter().map(|s| s.to_vec()).collect(), plan.clone()));
        Ok(plan)
    })
}

impl CpuKernel for Einsum {
    fn accept(&self, _: &Many<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &Many<&Spec>, _: usize) -> usize {
        let shapes: Vec<&[usize]> = i.0.iter().map(|s| &s.shape[..]).collect();
        let dtype = i.0.first().map_or(DType::F32, |s| s.dtype);
        for_float!(dtype, T => {
            plan::<T>(self, &shapes).map_or(0, |p| p.scratch_bytes())
        })
    }

    fn run(&self, i: Many<View<'_>>, out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let shapes: Vec<&[usize]> = i.0.iter().map(View::shape).collect();
        let pool = c.pool();
        for_float!(out.spec().dtype, T => {
            let operands: Vec<&[T]> = i.0.iter().map(View::slice::<T>).collect::<Result<_, _>>()?;
            let plan = plan::<T>(self, &shapes);
            let plan = plan.map_err(|e| Error::Run(format!("[einsum] {}", e.0)))?;
            plan.run(pool, &operands, out.slice_mut::<T>()?, c.scratch());
        });
        Ok(())
    }
}
