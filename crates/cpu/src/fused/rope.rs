//! A table of cosines and sines in f64, one row a position, then one pass over the heads. Rotations
//! by the same angles share the table (`plan/angles.rs`).

use super::{apply_rope::geometry, for_float};
use crate::{
    Pool,
    kernel::{Context, CpuKernel, Kernel, Out, View, Wants},
    kernels::rope,
    plan::Layout,
};
use frit_graph::{DType, Decline, DynBlock, Error, Spec};
use frit_ops::{ApplyRope, Rope, RopeInputs};

/// The cosines of some angles and then their sines, `[2, 1 or B, T, dims / 2]`. Operands: those of
/// the rotation but for x.
#[derive(PartialEq)]
pub(crate) struct AngleTable {
    dims: usize,
    base: f64,
    scale: f64,
    amplitude: f64,
    /// Rows of positions: one where those of the batch are the same.
    rows: usize,
    tokens: usize,
}

impl AngleTable {
    /// Of heads of a shape, at positions that begin at an offset of some rank or are given.
    fn new(rope: &Rope, x: &[usize], offset: Option<usize>, given: bool) -> AngleTable {
        let &Rope { dims, base, scale, amplitude, .. } = rope;
        let shape = geometry(x, dims, rope.layout, rope.sequence_axis);
        let rows = if given || offset == Some(1) { shape.batch } else { 1 };
        AngleTable { dims, base, scale, amplitude, rows, tokens: shape.tokens }
    }

    /// The angles of a rotation, and what is left of it once they are known.
    pub(crate) fn of(
        block: &dyn DynBlock,
        inputs: &[Option<Layout>],
    ) -> Option<(AngleTable, ApplyRope)> {
        let rope = block.downcast::<Rope>()?;
        let [Some(x), offset, position_ids, _] = inputs else { return None };
        let offset = offset.as_ref().map(|o| o.shape().len());
        let angles = AngleTable::new(rope, x.shape(), offset, position_ids.is_some());
        let &Rope { layout, sequence_axis, .. } = rope;
        Some((angles, ApplyRope { layout, sequence_axis }))
    }

    /// Type and shape of the cosines alone, as of the sines.
    pub(crate) fn half(&self) -> Spec {
        Spec::new(DType::F32, [self.rows, self.tokens, self.dims / 2])
    }

    fn fill(
        &self,
        pool: &Pool,
        offset: Option<View<'_>>,
        position_ids: Option<View<'_>>,
        inv_freqs: Option<View<'_>>,
        table: &mut [f32],
    ) -> Result<(), Error> {
        let positions: Vec<i64> = match (position_ids, offset) {
            (Some(p), _) => p.integers()?,
            (None, offset) => {
                let starts = offset.map_or(Ok(vec![0]), |o| o.integers())?;
                let tokens = 0..self.tokens as i64;
                starts.iter().flat_map(|s| tokens.clone().map(move |t| s + t)).collect()
            }
        };
        let inverse: Vec<f64> = match inv_freqs {
            Some(f) => f.floats()?.into_iter().map(f64::from).collect(),
            None => Rope { base: self.base, ..Rope::new(self.dims) }.inverse_frequencies(),
        };
        let (cos, sin) = table.split_at_mut(positions.len() * inverse.len());
        rope::rope_table(pool, &positions, (self.scale, self.amplitude), &inverse, cos, sin);
        Ok(())
    }
}

impl Kernel for AngleTable {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn in_place(&self) -> Vec<usize> {
        Vec::new()
    }

    fn scratch(&self, _: &[Option<&Layout>], _: usize) -> usize {
        0
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let operand = |n: usize| inputs.get(n).copied().flatten();
        let table = out.slice_mut::<f32>()?;
        self.fill(c.pool(), operand(0), operand(1), operand(2), table)
    }
}

impl CpuKernel for Rope {
    fn accept(&self, _: &RopeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &RopeInputs<&Spec>, _: usize) -> usize {
        let offset = i.offset.map(Spec::rank);
        2 * AngleTable::new(self, &i.x.shape, offset, i.position_ids.is_some()).half().bytes()
    }

    fn run(
        &self,
        i: RopeInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let shape = geometry(i.x.shape(), self.dims, self.layout, self.sequence_axis);
        let offset = i.offset.map(|o| o.shape().len());
        let angles = AngleTable::new(self, i.x.shape(), offset, i.position_ids.is_some());
        let pool = c.pool();
        let table: &mut [f32] = bytemuck::cast_slice_mut(c.scratch());
        angles.fill(pool, i.offset, i.position_ids, i.inv_freqs, table)?;
        let (cos, sin) = table.split_at(table.len() / 2);
        for_float!(i.x.dtype(), T => {
            let (x, y) = (i.x.slice::<T>()?, out.slice_mut::<T>()?);
            rope::rope(pool, super::InOut::new(x, y), shape, cos, sin);
        });
        Ok(())
    }
}
