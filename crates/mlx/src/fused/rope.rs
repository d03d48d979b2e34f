//! `mx::fast::rope`.
//!
//! MLX's call rotates axis -2 and knows one offset a row, after which positions follow one another.
//! Positions in any order are said by making every token a row of its own. MLX wants the
//! reciprocals of inverse frequencies.
//!
//! MLX computes angles in f32, which is wrong by up to 2^-24 of the position. So its call is used
//! near the start ([`NEAR`]), where that is less than 1e-4, and angles of farther positions are
//! computed in f64 on the host, once for all layers. Positions are therefore looked at when a program
//! runs: they are inputs of every model.

use crate::{
    MlxError,
    ffi::{Array, Call, Session},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Binary, DType, Decline, Error, Spec, Value};
use frit_ops::{Rope, RopeInputs, RopeLayout, SequenceAxis};

/// MLX's own call is used for positions (times the scale) up to this.
const NEAR: f64 = 1024.0;

/// The extents of `x` as `[batch, before, tokens, after, size]`: heads stand on either side of the
/// sequence.
struct Extents {
    batch: usize,
    before: usize,
    tokens: usize,
    after: usize,
    size: usize,
}

impl Extents {
    fn of(rope: &Rope, shape: &[usize]) -> Extents {
        let rank = shape.len();
        let axis = match rope.sequence_axis {
            SequenceAxis::SecondLast => rank - 2,
            SequenceAxis::ThirdLast => rank - 3,
        };
        Extents {
            batch: shape[0],
            before: shape[1..axis].iter().product(),
            tokens: shape[axis],
            after: shape[axis + 1..rank - 1].iter().product(),
            size: shape[rank - 1],
        }
    }

    fn shape(&self) -> [usize; 5] {
        [self.batch, self.before, self.tokens, self.after, self.size]
    }
}

impl MlxKernel for Rope {
    fn accept(&self, _: &RopeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: RopeInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        if out.numel() == 0 {
            return Ok(s.zeros(out)?);
        }
        let e = Extents::of(self, &out.shape);
        // One row of positions, or one for each row of the batch.
        let positions: Vec<f64> = match (i.position_ids, i.offset) {
            (Some(p), _) => p.numbers(s)?,
            (None, offset) => {
                let starts = offset.map_or(Ok(vec![0.0]), |o| o.numbers(s))?;
                let row = |&start: &f64| (0..e.tokens).map(move |t| start + t as f64);
                starts.iter().flat_map(row).collect()
            }
        };
        let x = s.reshape(&i.x.array(s)?, &e.shape())?;
        let y = match positions.iter().all(|p| (p * self.scale).abs() <= NEAR) {
            true => near(self, s, &i, &x, &e)?,
            false => far(self, c, &i, &x, &e, &positions)?,
        };
        Ok(s.reshape(&y, &out.shape)?)
    }
}

/// By MLX's own call.
fn near(
    rope: &Rope,
    s: &Session,
    i: &RopeInputs<&Operand>,
    x: &Array,
    e: &Extents,
) -> Result<Array, Error> {
    let x = match rope.amplitude {
        1.0 => x.clone(),
        amplitude => {
            // A rotation is linear.
            let factor = |i: usize| if i < rope.dims { amplitude as f32 } else { 1.0 };
            let factors = Value::new([e.size], (0..e.size).map(factor).collect::<Vec<f32>>())?;
            s.mul(&s.cast(x, DType::F32)?, &s.array(&factors)?)?
        }
    };
    let given = i.inv_freqs.map(|f| f.array(s)).transpose()?;
    let reciprocal = |f: Array| s.binary(Binary::Div, &s.scalar(DType::F32, 1.0)?, &f);
    let freqs = given.map(reciprocal).transpose()?;
    let rotate = |x: &Array, offset: &Array| -> Result<Array, MlxError> {
        let options = [rope.dims as i64, (rope.layout == RopeLayout::Interleaved).into()];
        let offset = s.cast(offset, DType::I32)?;
        let operands = [Some(x), Some(&offset), freqs.as_ref()];
        s.call(Call::Rope, &operands, &options, &[rope.base, rope.scale], "")
    };
    let heads = e.before * e.after;
    Ok(match (i.position_ids, i.offset) {
        (Some(positions), _) => {
            let rows = e.batch * e.tokens;
            let x = s.reshape(&s.transpose(&x, &[0, 2, 1, 3, 4])?, &[rows, heads, 1, e.size])?;
            let y = rotate(&x, &s.reshape(&positions.array(s)?, &[rows])?)?;
            let y = s.reshape(&y, &[e.batch, e.tokens, e.before, e.after, e.size])?;
            s.transpose(&y, &[0, 2, 1, 3, 4])?
        }
        (None, offset) => {
            let x = s.transpose(&x, &[0, 1, 3, 2, 4])?;
            let x = s.reshape(&x, &[e.batch, heads, e.tokens, e.size])?;
            let at = match offset {
                Some(offset) => offset.array(s)?,
                None => s.scalar(DType::I32, 0.0)?,
            };
            let y =
                s.reshape(&rotate(&x, &at)?, &[e.batch, e.before, e.after, e.tokens, e.size])?;
            s.transpose(&y, &[0, 1, 3, 2, 4])?
        }
    })
}

/// By tables of exact cosines and sines.
fn far(
    rope: &Rope,
    c: &mut Context<'_>,
    i: &RopeInputs<&Operand>,
    x: &Array,
    e: &Extents,
    positions: &[f64],
) -> Result<Array, Error> {
    let s = c.session;
    let inverse = match i.inv_freqs {
        Some(f) => f.numbers(s)?,
        None => rope.inverse_frequencies(),
    };
    let half = inverse.len();
    let numbers = positions.iter().chain(&inverse).chain([&rope.scale, &rope.amplitude]);
    let key: Vec<u64> = numbers.map(|n| n.to_bits()).chain([e.tokens as u64]).collect();
    let (cos, sin) = match c.tables.get(&key) {
        Some(tables) => tables.clone(),
        None => {
            let shape = [positions.len() / e.tokens, 1, e.tokens, 1, half];
            let table = |f: fn(f64) -> f64| -> Result<Array, Error> {
                let row = |p: &f64| inverse.iter().map(move |w| f(p * rope.scale * w)).collect();
                let rows: Vec<Vec<f64>> = positions.iter().map(row).collect();
                let numbers = rows.concat().iter().map(|v| (v * rope.amplitude) as f32).collect();
                Ok(s.array(&Value::new(shape, numbers)?)?)
            };
            let made = (table(f64::cos)?, table(f64::sin)?);
            c.tables.insert(key, made.clone());
            made
        }
    };
    let x = s.cast(x, DType::F32)?;
    let part = |start: usize, step: usize, n: usize| {
        let [b, before, tokens, after, _] = e.shape();
        let (from, by) = ([0, 0, 0, 0, start], [1, 1, 1, 1, step as isize]);
        s.slice(&x, &from, &by, &[b, before, tokens, after, n])
    };
    let interleaved = rope.layout == RopeLayout::Interleaved;
    let (a, b) = match interleaved {
        true => (part(0, 2, half)?, part(1, 2, half)?),
        false => (part(0, 1, half)?, part(half, 1, half)?),
    };
    let u = s.binary(Binary::Sub, &s.mul(&a, &cos)?, &s.mul(&b, &sin)?)?;
    let v = s.add(&s.mul(&a, &sin)?, &s.mul(&b, &cos)?)?;
    let mut turned = s.concat(&[&u, &v], 4)?;
    if interleaved {
        let [batch, before, tokens, after, _] = e.shape();
        let pairs = [batch, before, tokens, after, 2, half];
        let swapped = s.transpose(&s.reshape(&turned, &pairs)?, &[0, 1, 2, 3, 5, 4])?;
        turned = s.reshape(&swapped, &[batch, before, tokens, after, rope.dims])?;
    }
    if rope.dims == e.size {
        return Ok(turned);
    }
    Ok(s.concat(&[&turned, &part(rope.dims, 1, e.size - rope.dims)?], 4)?)
}
