//! Rotary position embedding by cosines and sines that are given: `apply_rotary_pos_emb`.

mod recognise;

use crate::{
    Array, Case, Entry, Options, RopeLayout, SequenceAxis,
    catalogue::{Operand, normal},
    check,
    rope::parse_layout,
};
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, operands};

/// Rotates the leading `dims` of the last axis, pair by pair, and copies the rest:
/// `(a cos - b sin, a sin + b cos)` for each pair `(a, b)`.
///
/// A row of the tables belongs to a token, a column to a pair; `dims` is twice their last axis. Where the
/// angles are positions times frequencies, [`crate::Rope`] says more and is more exact.
///
/// # Inputs
/// - `x`: `[B, .., T, D]`, or `[B, T, H, D]` with [`SequenceAxis::ThirdLast`]
/// - `cos`, `sin`: floats `[T, dims/2]` or `[B, T, dims/2]`, alike; of another type than `x` if
///   need be
///
/// # Output
/// As `x`.
///
/// # Numerics
/// f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{ApplyRope, fast};
/// let specs = |cos: &[usize]| [&[1, 2, 5, 64][..], cos, cos].map(|s| Spec::new(DType::F32, s));
/// let apply = |specs: &[Spec]| {
///     Graph::trace(specs, |x| vec![fast::apply_rope(&x[0], &x[1], &x[2], ApplyRope::default())])
/// };
/// let y = apply(&specs(&[5, 32]))?;
/// assert_eq!(y.outputs()[0].spec(), &Spec::new(DType::F32, [1, 2, 5, 64]));
///
/// assert!(apply(&specs(&[5, 64])).unwrap_err().to_string().starts_with(
///     "[apply_rope] cos must be [5, dims/2] or [1, 5, dims/2] with dims at most 64 (last axis of \
///      x [1, 2, 5, 64]), got f32[5, 64] --> "
/// ));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ApplyRope {
    /// The pairs.
    pub layout: RopeLayout,
    /// The axis of the sequence.
    pub sequence_axis: SequenceAxis,
}

impl ApplyRope {
    /// The sequence length of an `x` of this shape.
    pub fn tokens(&self, shape: &[usize]) -> usize {
        shape[shape.len() - self.sequence_axis.counted_from_end()]
    }
}

operands!(/// Inputs of [`ApplyRope`].
    pub ApplyRopeInputs { x, cos, sin } optional {});

/// [`ApplyRope`] of `x` by `cos` and `sin`.
#[track_caller]
pub fn apply_rope(x: &Tensor, cos: &Tensor, sin: &Tensor, options: ApplyRope) -> Tensor {
    Tensor::block(
        options,
        ApplyRopeInputs { x: x.clone(), cos: cos.clone(), sin: sin.clone() },
    )
}

impl Block for ApplyRope {
    type Inputs<T> = ApplyRopeInputs<T>;
    const NAME: &'static str = "apply_rope";

    fn infer(&self, i: ApplyRopeInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        check::float("cos", i.cos)?;
        if i.sin != i.cos {
            return Err(format!("sin must be {} like cos, got {}", i.cos, i.sin).into());
        }
        let wanted = self.sequence_axis.counted_from_end() + 1;
        if i.x.rank() < wanted {
            return Err(format!("x must have at least {wanted} axes, got {}", i.x).into());
        }
        let (b, t, d) = (i.x.shape[0], self.tokens(&i.x.shape), i.x.shape[i.x.rank() - 1]);
        let half = match *i.cos.shape {
            [rows, half] if rows == t => half,
            [batch, rows, half] if batch == b && rows == t => half,
            _ => d,
        };
        if half > d / 2 {
            return Err(format!(
                "cos must be [{t}, dims/2] or [{b}, {t}, dims/2] with dims at most {d} (last axis \
                 of x {:?}), got {}",
                i.x.shape, i.cos
            )
            .into());
        }
        Ok(i.x.clone())
    }

    fn compose(&self, i: ApplyRopeInputs<Tensor>) -> Tensor {
        let shape = i.x.shape().to_vec();
        let (rank, d) = (shape.len(), shape[shape.len() - 1]);
        let half = i.cos.spec().last().unwrap_or(0);
        let dims = 2 * half;
        // [B or 1, 1.., T, (1,) half], to broadcast over the heads.
        let mut table = vec![1; rank];
        table[0] = if i.cos.rank() == 3 { shape[0] } else { 1 };
        table[rank - self.sequence_axis.counted_from_end()] = self.tokens(&shape);
        table[rank - 1] = half;
        let (cos, sin) = (i.cos.cast(DType::F32), i.sin.cast(DType::F32));
        let (cos, sin) = (cos.reshape(&table), sin.reshape(&table));

        let x = i.x.cast(DType::F32);
        let (a, b) = match self.layout {
            RopeLayout::Split => (x.slice(-1, 0..half), x.slice(-1, half..dims)),
            RopeLayout::Interleaved => {
                (x.slice_step(-1, 0, 2, half), x.slice_step(-1, 1, 2, half))
            }
        };
        let (u, v) = (&a * &cos - &b * &sin, &a * &sin + &b * &cos);
        let turned = match self.layout {
            RopeLayout::Split => Tensor::concat(&[&u, &v], -1),
            RopeLayout::Interleaved => {
                let mut flat = shape.clone();
                flat[rank - 1] = dims;
                Tensor::concat(&[&u.unsqueeze(-1), &v.unsqueeze(-1)], -1).reshape(&flat)
            }
        };
        let y = match d == dims {
            true => turned,
            false => Tensor::concat(&[&turned, &x.slice(-1, dims..d)], -1),
        };
        y.cast(i.x.dtype())
    }
}

impl Entry for ApplyRope {
    const FORMULA: &'static str = "(a cos - b sin, a sin + b cos) of each pair, tables given";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<ApplyRope, String> {
        let (layout, sequence_axis) = parse_layout(o)?;
        Ok(ApplyRope { layout, sequence_axis })
    }

    fn oracle(&self, i: ApplyRopeInputs<&Array>) -> Array {
        let (shape, rank, half) = (&i.x.shape, i.x.shape.len(), i.cos.last());
        let (d, tokens) = (shape[rank - 1], self.tokens(shape));
        let per_row: usize = shape[1..].iter().product();
        let heads = if self.sequence_axis == SequenceAxis::ThirdLast { shape[rank - 2] } else { 1 };
        let mut y = i.x.clone();
        for at in 0..y.data.len() {
            let (row, head, column) = (at / per_row, at / d, at % d);
            let (pair, other, sign) = match self.layout {
                _ if column >= 2 * half => continue,
                RopeLayout::Split if column < half => (column, at + half, -1.0),
                RopeLayout::Split => (column - half, at - half, 1.0),
                RopeLayout::Interleaved if column % 2 == 0 => (column / 2, at + 1, -1.0),
                RopeLayout::Interleaved => (column / 2, at - 1, 1.0),
            };
            let place = [row, head / heads % tokens, pair];
            let place = &place[3 - i.cos.shape.len()..];
            let (cos, sin) = (i.cos.at(place), i.sin.at(place));
            y.data[at] = i.x.data[at] * cos + sign * i.x.data[other] * sin;
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<ApplyRope>> {
        // Tables of any numbers show which of them goes where.
        let typed = |name, why, block: ApplyRope, x: &[usize], table: Operand| {
            let (cos, sin) = (table.clone(), table);
            Case::new(name, why, block, ApplyRopeInputs { x: normal(x), cos, sin })
        };
        let case = |name, why, block, x: &[usize], table: &[usize]| {
            typed(name, why, block, x, normal(table))
        };
        let split = ApplyRope::default();
        let pairs = ApplyRope { layout: RopeLayout::Interleaved, ..split };
        let bthd = ApplyRope { sequence_axis: SequenceAxis::ThirdLast, ..split };
        let bthd_pairs = ApplyRope { layout: RopeLayout::Interleaved, ..bthd };
        let wide = |shape: &[usize]| normal(shape).of(DType::F32);
        let narrow = |shape: &[usize], dtype| normal(shape).of(dtype);
        vec![
            case("split", "half-split pairs", split, &[2, 3, 7, 64], &[7, 32]).floats(),
            case("interleaved", "neighbours", pairs, &[2, 3, 7, 64], &[7, 32]).floats(),
            case("bthd", "sequence on axis -3", bthd, &[2, 6, 3, 32], &[6, 16]).floats(),
            case("bthd_interleaved", "both", bthd_pairs, &[2, 6, 3, 32], &[2, 6, 16]).floats(),
            case("partial", "the tail of the head is copied", split, &[1, 2, 5, 64], &[5, 16])
                .floats(),
            case("partial_interleaved", "the tail is copied", pairs, &[1, 2, 5, 67], &[1, 5, 9])
                .floats(),
            case("batch_tables", "a table for each row", split, &[3, 2, 4, 32], &[3, 4, 16]).floats(),
            typed("wide_tables", "f32 for halves", split, &[2, 2, 5, 32], wide(&[2, 5, 16])).floats(),
            typed("f16_tables", "halves for f32", pairs, &[2, 2, 5, 32], narrow(&[5, 16], DType::F16)),
            typed("bf16_tables", "for f32", bthd, &[1, 4, 2, 16], narrow(&[1, 4, 8], DType::BF16)),
            case("decode", "one token", split, &[3, 4, 1, 64], &[3, 1, 32]).floats(),
            case("decode_bthd", "one token", bthd_pairs, &[2, 1, 3, 16], &[1, 8]),
            case("long", "many tokens", split, &[1, 2, 700, 16], &[700, 8]),
            case("one_pair", "the smallest table", pairs, &[1, 1, 3, 5], &[3, 1]),
            case("rank_3", "no head axis", split, &[2, 4, 16], &[2, 4, 8]),
            case("rank_5", "two head axes", split, &[2, 2, 3, 4, 16], &[2, 4, 8]),
            case("heads_around", "heads on both sides", bthd, &[2, 2, 4, 3, 16], &[2, 4, 8]),
            case("apply_rope_prefill", "a prompt", split, &[1, 32, 512, 64], &[512, 32]).bench(),
            case("apply_rope_decode", "one token a row", split, &[8, 32, 1, 128], &[8, 1, 64]).bench(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_that_do_not_fit_are_told() {
        let f32s = |shape: &[usize]| Spec::new(DType::F32, shape);
        let half = |shape: &[usize]| Spec::new(DType::F16, shape);
        let bthd = ApplyRope { sequence_axis: SequenceAxis::ThirdLast, ..Default::default() };
        for (block, [x, cos, sin], want) in [
            (
                bthd,
                [f32s(&[2, 5, 8]), f32s(&[5, 4]), f32s(&[5, 4])],
                "x must have at least 4 axes, got f32[2, 5, 8]",
            ),
            (
                ApplyRope::default(),
                [f32s(&[2, 5, 8]), f32s(&[5, 4]), half(&[5, 4])],
                "sin must be f32[5, 4] like cos, got f16[5, 4]",
            ),
            (
                bthd,
                [f32s(&[2, 5, 3, 8]), half(&[3, 5, 4]), half(&[3, 5, 4])],
                "cos must be [5, dims/2] or [2, 5, dims/2] with dims at most 8 (last axis of x \
                 [2, 5, 3, 8]), got f16[3, 5, 4]",
            ),
            (
                ApplyRope::default(),
                [Spec::new(DType::I64, [2, 5, 8]), f32s(&[5, 4]), f32s(&[5, 4])],
                "x must be f32, f16 or bf16, got i64[2, 5, 8]",
            ),
        ] {
            let found = block.infer(ApplyRopeInputs { x: &x, cos: &cos, sin: &sin });
            assert_eq!(found.expect_err("it does not fit").to_string(), want);
        }
    }
}
