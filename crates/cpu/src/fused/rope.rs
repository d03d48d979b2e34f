//! A table of cosines and sines in f64, one row a position, then one pass over the heads.

use super::{apply_rope::geometry, for_float};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::rope,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Rope, RopeInputs};

/// Rows of the table: one for all of the batch where every row has the same positions.
fn rows(i: &RopeInputs<&Spec>, batch: usize) -> usize {
    let per_row = i.position_ids.is_some() || i.offset.is_some_and(|o| o.rank() == 1);
    if per_row { batch } else { 1 }
}

impl CpuKernel for Rope {
    fn accept(&self, _: &RopeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &RopeInputs<&Spec>, _: usize) -> usize {
        let shape = geometry(&i.x.shape, self.dims, self.layout, self.sequence_axis);
        2 * 4 * rows(i, shape.batch) * shape.tokens * (self.dims / 2)
    }

    fn run(
        &self,
        i: RopeInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let shape = geometry(i.x.shape(), self.dims, self.layout, self.sequence_axis);
        let positions: Vec<i64> = match (i.position_ids, i.offset) {
            (Some(p), _) => p.integers()?,
            (None, offset) => {
                let starts = offset.map_or(Ok(vec![0]), |o| o.integers())?;
                let tokens = 0..shape.tokens as i64;
                starts.iter().flat_map(|s| tokens.clone().map(move |t| s + t)).collect()
            }
        };
        let inverse: Vec<f64> = match i.inv_freqs {
            Some(f) => f.floats()?.into_iter().map(f64::from).collect(),
            None => self.inverse_frequencies(),
        };
        let pool = c.pool();
        let table: &mut [f32] = bytemuck::cast_slice_mut(c.scratch());
        let (cos, sin) = table.split_at_mut(positions.len() * inverse.len());
        let factors = (self.scale, self.amplitude);
        rope::rope_table(pool, &positions, factors, &inverse, cos, sin);
        for_float!(i.x.dtype(), T => {
            let (x, y) = (i.x.slice::<T>()?, out.slice_mut::<T>()?);
            rope::rope(pool, super::InOut::new(x, y), shape, cos, sin);
        });
        Ok(())
    }
}
