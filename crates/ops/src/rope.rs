//! Rotary position embedding (Su et al., 2021).

mod recognise;
pub(crate) mod rotation;
mod tables;

use crate::{
    ApplyRope, Array, Case, Entry, Options,
    apply_rope::apply_rope,
    catalogue::{Operand, integers, mapped, normal},
    check,
};
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, Value, operands};

/// Which elements of a head form the pairs that are rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + dims/2)`, as in Hugging Face checkpoints.
    #[default]
    Split,
    /// `(2i, 2i + 1)`.
    Interleaved,
}

/// Which axis of `x` is the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequenceAxis {
    /// Axis -2: `[B, .., T, D]`.
    #[default]
    SecondLast,
    /// Axis -3: `[B, T, H, D]`.
    ThirdLast,
}

impl SequenceAxis {
    pub(crate) fn counted_from_end(self) -> usize {
        match self {
            SequenceAxis::SecondLast => 2,
            SequenceAxis::ThirdLast => 3,
        }
    }
}

/// Pairs and sequence by the names of their options.
pub(crate) fn parse_layout(o: &mut Options) -> Result<(RopeLayout, SequenceAxis), String> {
    let layout = match o.flag("interleaved", false)? {
        true => RopeLayout::Interleaved,
        false => RopeLayout::Split,
    };
    let axis = match o.number("seq_axis", -2.0)? {
        -2.0 => SequenceAxis::SecondLast,
        -3.0 => SequenceAxis::ThirdLast,
        other => return Err(format!("option `seq_axis` must be -2 or -3, got {other}")),
    };
    Ok((layout, axis))
}

/// Rotates the leading `dims` of the last axis by angles `position * scale * inv_freq[i]` and copies
/// the rest: `(a cos - b sin, a sin + b cos)` for each pair `(a, b)`.
///
/// `inv_freq[i] = base^(-2i/dims)`, or `inv_freqs[i]` where that operand is given.
///
/// # Inputs
/// - `x`: `[B, .., T, D]`, or `[B, T, H, D]` with [`SequenceAxis::ThirdLast`]
/// - `offset` (optional): integer scalar or `[B]`; token t stands at `offset + t` (default 0)
/// - `position_ids` (optional): integers `[B, T]`, instead of `offset`
/// - `inv_freqs` (optional): f32 `[dims/2]`, true inverse frequencies
///
/// # Output
/// As `x`.
///
/// # Numerics
/// Angles, cosines and sines in f64, once a position; the rotation in f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Rope, fast};
/// let x = Spec::new(DType::F32, [1, 2, 5, 64]);
/// let y = Graph::trace(&[x.clone()], |x| vec![fast::rope(&x[0], None, Rope::new(64))])?;
/// assert_eq!(y.outputs()[0].spec(), &x);
///
/// let wrong = Graph::trace(&[x], |x| vec![fast::rope(&x[0], None, Rope::new(65))]);
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[rope] dims must be even and at most 64 (last axis of x [1, 2, 5, 64]), got 65 --> "
/// ));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many leading elements of a head are rotated; even.
    pub dims: usize,
    /// Base of the inverse frequencies.
    pub base: f64,
    /// Multiplies every position.
    pub scale: f64,
    /// Multiplies cosine and sine (1 but for the longrope and yarn schedules).
    pub amplitude: f64,
    /// The pairs.
    pub layout: RopeLayout,
    /// The axis of the sequence.
    pub sequence_axis: SequenceAxis,
}

impl Rope {
    /// All defaults: base 10000, scale 1, split, sequence on axis -2.
    pub fn new(dims: usize) -> Rope {
        Rope {
            dims,
            base: 10000.0,
            scale: 1.0,
            amplitude: 1.0,
            layout: RopeLayout::Split,
            sequence_axis: SequenceAxis::SecondLast,
        }
    }

    /// The inverse frequencies `base^(-2i/dims)`.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        (0..self.dims / 2).map(|i| self.base.powf(-2.0 * i as f64 / self.dims as f64)).collect()
    }

    /// The sequence length of an `x` of this shape.
    pub fn tokens(&self, shape: &[usize]) -> usize {
        shape[shape.len() - self.sequence_axis.counted_from_end()]
    }
}

operands!(/// Inputs of [`Rope`].
    pub RopeInputs { x } optional { offset, position_ids, inv_freqs });

/// [`Rope`] of `x` at `offset` (default 0).
#[track_caller]
pub fn rope(x: &Tensor, offset: Option<&Tensor>, options: Rope) -> Tensor {
    let inputs = RopeInputs {
        x: x.clone(),
        offset: offset.cloned(),
        position_ids: None,
        inv_freqs: None,
    };
    Tensor::block(options, inputs)
}

/// [`Rope`] of `x` at any positions, with given inverse frequencies if there are any.
#[track_caller]
pub fn rope_at(
    x: &Tensor,
    position_ids: &Tensor,
    inv_freqs: Option<&Tensor>,
    options: Rope,
) -> Tensor {
    let inputs = RopeInputs {
        x: x.clone(),
        offset: None,
        position_ids: Some(position_ids.clone()),
        inv_freqs: inv_freqs.cloned(),
    };
    Tensor::block(options, inputs)
}

impl Block for Rope {
    type Inputs<T> = RopeInputs<T>;
    const NAME: &'static str = "rope";

    fn infer(&self, i: RopeInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        let wanted = self.sequence_axis.counted_from_end() + 1;
        if i.x.rank() < wanted {
            return Err(format!("x must have at least {wanted} axes, got {}", i.x).into());
        }
        let d = i.x.shape[i.x.rank() - 1];
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > d {
            return Err(format!(
                "dims must be even and at most {d} (last axis of x {:?}), got {}",
                i.x.shape, self.dims
            )
            .into());
        }
        check::positive("base", self.base)?;
        if !self.scale.is_finite() || !self.amplitude.is_finite() {
            return Err("scale and amplitude must be finite".into());
        }
        let (b, t) = (i.x.shape[0], self.tokens(&i.x.shape));
        if let Some(o) = i.offset
            && (!o.dtype.is_integer() || !(o.shape.is_empty() || o.shape == [b]))
        {
            return Err(format!("offset must be an integer scalar or [{b}], got {o}").into());
        }
        if let Some(p) = i.position_ids {
            if i.offset.is_some() {
                return Err("offset and position_ids exclude each other".into());
            }
            if !p.dtype.is_integer() || p.shape != [b, t] {
                return Err(format!("position_ids must be integers [{b}, {t}], got {p}").into());
            }
        }
        if let Some(f) = i.inv_freqs
            && (f.dtype != DType::F32 || f.shape != [self.dims / 2])
        {
            return Err(format!("inv_freqs must be f32[{}], got {f}", self.dims / 2).into());
        }
        Ok(i.x.clone())
    }

    fn compose(&self, i: RopeInputs<Tensor>) -> Tensor {
        let (half, tokens) = (self.dims / 2, self.tokens(i.x.shape()));
        let inverse = match &i.inv_freqs {
            Some(f) => f.cast(DType::F64),
            None => match Value::new([half], self.inverse_frequencies()) {
                Ok(v) => Tensor::constant(v),
                Err(e) => return Tensor::poison("rope", e),
            },
        };
        let position = match &i.position_ids {
            Some(p) => p.cast(DType::F64),
            None => {
                let t = Tensor::iota(Spec::new(DType::F64, [1, tokens]), 1);
                match &i.offset {
                    Some(o) if o.rank() == 1 => o.cast(DType::F64).unsqueeze(1) + t,
                    Some(o) => o.cast(DType::F64) + t,
                    None => t,
                }
            }
        };
        let angle = (position * self.scale).unsqueeze(-1) * inverse;
        // [rows, T, half], or [T, half] where all rows of the batch have the same positions.
        let rows = angle.shape()[0];
        let table = [rows, tokens, half];
        let table = if rows == 1 { &table[1..] } else { &table[..] };
        let turn = |t: Tensor| (t * self.amplitude).cast(DType::F32).reshape(table);
        let options = ApplyRope { layout: self.layout, sequence_axis: self.sequence_axis };
        apply_rope(&i.x, &turn(angle.cos()), &turn(angle.sin()), options)
    }
}

impl Entry for Rope {
    const FORMULA: &'static str = "(a cos - b sin, a sin + b cos) of each pair";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<Rope, String> {
        let mut rope = Rope::new(o.count("dims", None)?);
        rope.base = o.number("base", 10000.0)?;
        rope.scale = o.number("scale", 1.0)?;
        rope.amplitude = o.number("amplitude", 1.0)?;
        (rope.layout, rope.sequence_axis) = parse_layout(o)?;
        Ok(rope)
    }

    fn oracle(&self, i: RopeInputs<&Array>) -> Array {
        let (shape, rank) = (&i.x.shape, i.x.shape.len());
        let (d, tokens) = (shape[rank - 1], self.tokens(shape));
        let inner = if self.sequence_axis == SequenceAxis::ThirdLast { shape[rank - 2] } else { 1 };
        let per_row: usize = shape[1..].iter().product();
        let mut y = i.x.clone();
        for (h, head) in y.data.chunks_mut(d).enumerate() {
            let (row, t) = (h * d / per_row, (h / inner) % tokens);
            let position = match (i.position_ids, i.offset) {
                (Some(p), _) => p.data[row * tokens + t],
                (None, Some(o)) => o.data[row % o.data.len()] + t as f64,
                (None, None) => t as f64,
            };
            let x = head.to_vec();
            for p in 0..self.dims / 2 {
                let f = match i.inv_freqs {
                    Some(f) => f.data[p],
                    None => self.base.powf(-((2 * p) as f64) / self.dims as f64),
                };
                let (s, c) = (position * self.scale * f).sin_cos();
                let (s, c) = (s * self.amplitude, c * self.amplitude);
                let (a, b) = match self.layout {
                    RopeLayout::Split => (p, p + self.dims / 2),
                    RopeLayout::Interleaved => (2 * p, 2 * p + 1),
                };
                (head[a], head[b]) = (x[a] * c - x[b] * s, x[a] * s + x[b] * c);
            }
        }
        y
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<Rope>> {
        let make = |name, why, block: Rope, x: &[usize], f: &dyn Fn(&mut RopeInputs<Operand>)| {
            let mut inputs =
                RopeInputs { x: normal(x), offset: None, position_ids: None, inv_freqs: None };
            f(&mut inputs);
            Case::new(name, why, block, inputs)
        };
        let plain = |name, why, dims, x: &[usize]| make(name, why, Rope::new(dims), x, &|_| {});
        let at = |o: Vec<i64>| {
            move |i: &mut RopeInputs<Operand>| {
                let shape = if o.len() == 1 { vec![] } else { vec![o.len()] };
                i.offset = Some(integers(&shape, &o));
            }
        };
        let ids = |shape: [usize; 2], p: Vec<i64>| {
            move |i: &mut RopeInputs<Operand>| i.position_ids = Some(integers(&shape, &p))
        };
        let pairs = |dims| Rope { layout: RopeLayout::Interleaved, ..Rope::new(dims) };
        let bthd = |dims| Rope { sequence_axis: SequenceAxis::ThirdLast, ..Rope::new(dims) };
        // Llama 3's long waves are divided by a factor; here in the shape of the schedule only.
        let freqs = |i: &mut RopeInputs<Operand>| {
            let f = |at: &[usize], _| {
                let f = 5e5f64.powf(-(at[0] as f64) / 32.0);
                if at[0] > 16 { f / 32.0 } else { f }
            };
            i.inv_freqs = Some(mapped(&[32], f).of(DType::F32));
        };
        vec![
            plain("split", "half-split pairs, prefill", 64, &[2, 3, 7, 64]).floats(),
            make("interleaved", "decode at 300", pairs(64), &[1, 3, 1, 64], &at(vec![300])).floats(),
            plain("partial_dims", "the tail of the head is copied", 32, &[1, 2, 5, 64]).floats(),
            make("partial_interleaved", "the tail is copied", pairs(16), &[1, 2, 5, 64], &|_| {})
                .floats(),
            make("bthd", "sequence on axis -3", bthd(32), &[2, 6, 3, 32], &at(vec![4])).floats(),
            make(
                "scale_and_offset",
                "the offset is scaled too",
                Rope { scale: 0.25, ..Rope::new(32) },
                &[1, 2, 5, 32],
                &at(vec![7]),
            ),
            make(
                "batch_offsets",
                "one offset a row",
                Rope::new(32),
                &[3, 2, 4, 32],
                &at(vec![0, 5, 1000]),
            ),
            make(
                "left_padded",
                "any positions, repeated zeros",
                bthd(32),
                &[2, 5, 3, 32],
                &ids([2, 5], vec![0, 0, 1, 2, 3, 8, 9, 10, 11, 12]),
            )
            .floats(),
            make(
                "decreasing",
                "positions need not be sequential",
                Rope::new(16),
                &[1, 2, 4, 16],
                &ids([1, 4], vec![9, 2, 7, 0]),
            ),
            make(
                "far_position",
                "angles stay exact",
                Rope { base: 5e5, ..Rope::new(64) },
                &[1, 1, 2, 64],
                &at(vec![131_070]),
            ),
            make(
                "farthest_position",
                "exact at 2^24",
                Rope::new(64),
                &[1, 1, 2, 64],
                &at(vec![16_777_214]),
            ),
            make("negative_offset", "a shifted window", Rope::new(16), &[1, 1, 4, 16], &at(vec![-3])),
            make("given_freqs", "explicit inverse frequencies", Rope::new(64), &[1, 2, 6, 64], &|i| {
                at(vec![9000])(i);
                freqs(i);
            }),
            make("given_freqs_interleaved", "explicit", pairs(64), &[1, 2, 6, 64], &|i| {
                ids([1, 6], vec![5, 6, 7, 1, 2, 3])(i);
                freqs(i);
            }),
            make(
                "amplitude",
                "cosine and sine are scaled",
                Rope { amplitude: 1.19, ..Rope::new(32) },
                &[1, 2, 5, 32],
                &|_| {},
            ),
            make("rank_3", "no head axis", Rope::new(16), &[2, 4, 16], &at(vec![1])),
            make("rank_5", "two head axes", Rope::new(16), &[2, 2, 3, 4, 16], &at(vec![1, 3])),
            plain("rope_prefill", "a prompt", 64, &[1, 32, 512, 64]).bench(),
            plain("rope_decode", "one token a row", 128, &[8, 32, 1, 128]).bench(),
        ]
    }
}
