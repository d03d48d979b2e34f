//! Rotations by cosines and sines that are any tensors.
//!
//! The rotation is found as for `rope` (`rope/rotation.rs`). The tables must then be one row for
//! each token, for all of the batch or for each row of it, and one column for each pair: columns
//! that are there twice must be seen to be the same.

use super::{ApplyRope, apply_rope};
use crate::{
    RopeLayout, SequenceAxis,
    rope::rotation::{self, Rotation},
};
use frit_graph::{
    Block, DType, Prim, Rule, Tensor,
    pattern::{before_widening, known, same_value},
};

/// Tables are looked at for equal columns up to this many elements.
const READ: usize = 1 << 22;
/// Tables are made of a few operations; deeper ones are not looked at.
const DEPTH: usize = 12;

pub(super) fn rules() -> Vec<Rule> {
    vec![rotation::rule(ApplyRope::NAME, block)]
}

fn block(turn: &Rotation) -> Result<Tensor, String> {
    let (cos, sin) = (table(&turn.cos, turn)?, table(&turn.sin, turn)?);
    let plain = [&turn.x, &cos, &sin].map(Tensor::clone);
    // Without a batch the sequence may be the first axis.
    let batched = [&turn.x, &cos, &sin].map(|t| t.unsqueeze(0));
    let ways = [(&plain, true), (&batched, true), (&plain, false), (&batched, false)];
    let found = ways.into_iter().find_map(|([x, cos, sin], each)| {
        let sequence_axis = sequence(x.shape(), cos, sin, each)?;
        let options = ApplyRope { layout: turn.layout, sequence_axis };
        let [cos, sin] = alike([cos, sin], &options, x.shape(), turn.dims / 2);
        Some(apply_rope(x, &cos, &sin, options))
    });
    match found {
        Some(y) => Ok(y.reshape(turn.x.shape())),
        None => Err(format!(
            "tables of {:?} and {:?} run along other axes of {} than the batch and the sequence",
            cos.shape(),
            sin.shape(),
            turn.x.spec()
        )),
    }
}

/// A table in the axes of x, with extents of 1 along which it is broadcast and a column a pair.
fn table(t: &Tensor, turn: &Rotation) -> Result<Tensor, String> {
    let (lead, half) = (&turn.x.shape()[..turn.x.rank() - 1], turn.dims / 2);
    let (width, before) = t.shape().split_last().ok_or("a table is one number")?;
    if before != lead {
        return Err(format!("a table {} does not stand in the axes of {}", t.spec(), turn.x.spec()));
    }
    let t = bare(t);
    if *width == half || t.spec().last() == Some(1) {
        return Ok(t.clone());
    }
    let narrow = narrowed(t, half, turn.layout, DEPTH);
    match narrow.or_else(|| equal_columns(t, half, turn.layout)) {
        Some(narrow) => Ok(bare(&narrow).clone()),
        None => Err(format!("the columns of a table {} are not known to be {half} twice", t.spec())),
    }
}

/// What is broadcast and widened.
fn bare(t: &Tensor) -> &Tensor {
    let mut t = before_widening(t);
    while let (Some(Prim::Broadcast), Some(x)) = (t.prim(), t.input(0)) {
        t = before_widening(x);
    }
    t
}

/// The columns of the pairs, where each is there twice as the layout wants it; columns that are one
/// broadcast number stay so.
fn narrowed(t: &Tensor, half: usize, layout: RopeLayout, depth: usize) -> Option<Tensor> {
    let (depth, last) = (depth.checked_sub(1)?, t.rank().checked_sub(1)?);
    if t.shape()[last] == 1 {
        return Some(t.clone());
    }
    let mut to = t.shape().to_vec();
    to[last] = half;
    let below = |i: usize| narrowed(t.input(i)?, half, layout, depth);
    let keeps_last = |x: &Tensor| x.spec().last() == t.spec().last();
    match t.prim()? {
        Prim::Constant(_) => equal_columns(t, half, layout),
        Prim::Concat(axis) if *axis == last && layout == RopeLayout::Split => {
            twice(t).filter(|a| a.spec().last() == Some(half)).cloned()
        }
        Prim::Reshape if keeps_last(t.input(0)?) => {
            let x = below(0)?;
            (x.spec().last() == Some(half)).then(|| x.reshape(&to))
        }
        // A new axis of two, broadcast or put together, and folded.
        Prim::Reshape => {
            let wide = t.input(0)?;
            let (tail, axis) = match layout {
                RopeLayout::Split => ([2, half], 2),
                RopeLayout::Interleaved => ([half, 2], 1),
            };
            let axis = wide.rank().checked_sub(axis)?;
            let one = match wide.prim()? {
                Prim::Broadcast => wide.input(0)?,
                Prim::Concat(along) if *along == axis => twice(wide)?,
                _ => return None,
            };
            let mut lean = wide.shape().to_vec();
            (wide.shape().ends_with(&tail) && one.shape()[axis] == 1).then(|| {
                lean.remove(axis);
                one.squeeze(axis as isize).broadcast_to(&lean).reshape(&to)
            })
        }
        Prim::Broadcast => Some(below(0)?.broadcast_to(&to)),
        Prim::Transpose(perm) if perm[last] == last => Some(below(0)?.transpose(perm)),
        Prim::Cast => Some(below(0)?.cast(t.dtype())),
        Prim::Unary(f) => Some(below(0)?.unary(*f)),
        Prim::Binary(f) => Some(below(0)?.binary(&below(1)?, *f)),
        Prim::Slice { start, step } if keeps_last(t.input(0)?) && step[last] == 1 => {
            let mut x = below(0)?;
            for axis in 0..last {
                x = x.slice_step(axis as isize, start[axis], step[axis], t.shape()[axis]);
            }
            Some(x)
        }
        Prim::Gather(0) if t.input(0)?.rank() > 1 => Some(below(0)?.gather(0, t.input(1)?)),
        _ => None,
    }
}

/// What a tensor is twice, put together.
fn twice(t: &Tensor) -> Option<&Tensor> {
    let (a, b) = (t.input(0)?, t.input(1)?);
    (t.inputs().len() == 2 && same_value(a, b)).then_some(a)
}

/// The columns of the pairs of known numbers.
fn equal_columns(t: &Tensor, half: usize, layout: RopeLayout) -> Option<Tensor> {
    let numbers = known(t, READ)?.to_f64();
    let same = |row: &[f64]| {
        (0..half).all(|i| {
            let (a, b) = match layout {
                RopeLayout::Split => (i, i + half),
                RopeLayout::Interleaved => (2 * i, 2 * i + 1),
            };
            row[a].to_bits() == row[b].to_bits()
        })
    };
    numbers.chunks_exact(2 * half).all(same).then(|| match layout {
        RopeLayout::Split => t.slice(-1, 0..half),
        RopeLayout::Interleaved => t.slice_step(-1, 0, 2, half),
    })
}

/// The axis of the sequence, if the tables have extents along it and the batch only; `each` asks for
/// a row for each token.
fn sequence(x: &[usize], cos: &Tensor, sin: &Tensor, each: bool) -> Option<SequenceAxis> {
    let along = |a: usize| cos.shape()[a].max(sin.shape()[a]);
    [SequenceAxis::SecondLast, SequenceAxis::ThirdLast].into_iter().find(|axis| {
        let at = x.len().checked_sub(axis.counted_from_end()).filter(|&at| at > 0);
        at.is_some_and(|at| {
            let mut others = (1..x.len() - 1).filter(|&a| a != at);
            others.all(|a| along(a) == 1) && (!each || along(at) == x[at])
        })
    })
}

/// Both tables as `[T, half]` or `[B, T, half]` in one type.
fn alike(tables: [&Tensor; 2], options: &ApplyRope, x: &[usize], half: usize) -> [Tensor; 2] {
    let [cos, sin] = tables;
    let (at, last) = (x.len() - options.sequence_axis.counted_from_end(), x.len() - 1);
    let axes: &[usize] = match cos.shape()[0].max(sin.shape()[0]) {
        1 => &[at, last],
        _ => &[0, at, last],
    };
    let to: Vec<usize> = axes.iter().map(|&a| if a == last { half } else { x[a] }).collect();
    let dtype = if cos.dtype() == sin.dtype() { cos.dtype() } else { DType::F32 };
    tables.map(|t| {
        let own: Vec<usize> = axes.iter().map(|&a| t.shape()[a]).collect();
        t.reshape(&own).broadcast_to(&to).cast(dtype)
    })
}
