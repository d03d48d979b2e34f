//! Rotations by angles that are positions times frequencies.
//!
//! A rotation is found by its formula (`rotation.rs`); its cosines and sines are then followed to
//! where the angles come from (`tables.rs`). What is no product of positions and frequencies is
//! refused: `apply_rope` takes any tables.

use super::{Rope, RopeInputs, SequenceAxis, rotation::{self, Rotation}, tables};
use frit_graph::{Block, DType, Rule, Tensor};

pub(super) fn rules() -> Vec<Rule> {
    vec![rotation::rule(Rope::NAME, block)]
}

fn block(turn: &Rotation) -> Result<Tensor, String> {
    let x = turn.x.clone();
    let half = turn.dims / 2;
    let found = tables::angles(&turn.cos, &turn.sin, x.shape(), half, turn.layout)?;
    let (rank, shape) = (x.rank(), x.shape().to_vec());
    let axis = found.axis.or_else(|| {
        // One token: any axis of one place is the sequence.
        [rank.checked_sub(2)?, rank.checked_sub(3)?].into_iter().find(|&a| a > 0 && shape[a] == 1)
    });
    let sequence_axis = match axis.map(|a| rank - a) {
        Some(2) if rank > 2 => SequenceAxis::SecondLast,
        Some(3) if rank > 3 => SequenceAxis::ThirdLast,
        _ => return Err("the sequence is on another axis than -2 or -3".into()),
    };
    let rope = Rope {
        dims: turn.dims,
        base: found.base,
        scale: found.scale,
        amplitude: found.amplitude,
        layout: turn.layout,
        sequence_axis,
    };
    let (b, tokens) = (shape[0], rope.tokens(&shape));
    let position_ids = match found.ids {
        None => None,
        Some(ids) => {
            let n = ids.spec().numel();
            let rows = if n == b * tokens { b } else { 1 };
            if n != rows * tokens {
                return Err(format!("positions {} do not fit x {}", ids.spec(), x.spec()));
            }
            Some(ids.reshape(&[rows, tokens]).broadcast_to(&[b, tokens]))
        }
    };
    let offset = found.offset.map(|o| match o.spec().numel() {
        1 => o.reshape(&[]),
        n => o.reshape(&[n]),
    });
    let inv_freqs = found.inv_freqs.map(|f| f.cast(DType::F32));
    Ok(Tensor::block(rope, RopeInputs { x, offset, position_ids, inv_freqs }))
}
