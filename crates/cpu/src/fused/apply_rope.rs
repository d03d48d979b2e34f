//! One pass over the heads, which reads the tables as they are.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::rope,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{ApplyRope, ApplyRopeInputs, RopeLayout, SequenceAxis};

/// The shape of x as the kernel sees it.
pub(super) fn geometry(
    shape: &[usize],
    dims: usize,
    layout: RopeLayout,
    sequence: SequenceAxis,
) -> rope::RopeShape {
    let rank = shape.len();
    let (inner, axis) = match sequence {
        SequenceAxis::SecondLast => (1, rank - 2),
        SequenceAxis::ThirdLast => (shape[rank - 2], rank - 3),
    };
    rope::RopeShape {
        batch: shape[0],
        outer: shape[1..axis].iter().product(),
        tokens: shape[axis],
        inner,
        size: shape[rank - 1],
        dims,
        interleaved: layout == RopeLayout::Interleaved,
    }
}

impl CpuKernel for ApplyRope {
    fn accept(&self, _: &ApplyRopeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn run(
        &self,
        i: ApplyRopeInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let dims = 2 * i.cos.shape().last().copied().unwrap_or(0);
        let shape = geometry(i.x.shape(), dims, self.layout, self.sequence_axis);
        for_float!(i.x.dtype(), T => {
            let x = in_out::<T>(&i.x, out)?;
            for_float!(i.cos.dtype(), C => {
                rope::rope(c.pool(), x, shape, i.cos.slice::<C>()?, i.sin.slice::<C>()?);
            });
        });
        Ok(())
    }
}
