//! Rows copied by index, or widened on the way where the table is stored as halves.

use crate::{
    kernel::{Context, CpuKernel, Out, View},
    prim::{pick, pick_widened},
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{Embedding, EmbeddingInputs};
use half::{bf16, f16};

const WEIGHT: usize = 0;

impl CpuKernel for Embedding {
    fn accept(&self, _: &EmbeddingInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn widens(&self, slot: usize) -> bool {
        slot == WEIGHT
    }

    fn run(
        &self,
        i: EmbeddingInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        match (i.weight.dtype(), out.spec().dtype) {
            (DType::F16, DType::F32) => pick_widened::<f16>(&i.weight, &i.ids, out, c),
            (DType::BF16, DType::F32) => pick_widened::<bf16>(&i.weight, &i.ids, out, c),
            _ => pick(0, &i.weight, &i.ids, out, c),
        }
    }
}
