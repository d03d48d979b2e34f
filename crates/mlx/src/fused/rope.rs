//! `mx::fast::rope`.
//!
//! MLX's call rotates axis -2 and knows one offset a row, after which positions follow one another.
//! Positions in any order are said by making every token a row of its own. MLX takes frequencies as
//! the reciprocals of inverse frequencies.
//!
//! It computes angles in f32, which is wrong by 1e-7 of the position and more; angles must be exact
//! at any position. So:
//!
//! - one position for all (a step of decoding): the exact angles, less their whole turns, are given
//!   as frequencies, and the offset is 1;
//! - positions near the start, as far as the type of `x` can tell the difference: a call;
//! - others: exact cosines and sines from the host, made once for all layers, and MLX's operations.
//!
//! Positions are therefore looked at when a program runs: they are inputs of every model.

use crate::{
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Binary, DType, Decline, Error, Spec, Value};
use frit_ops::{Rope, RopeInputs, RopeLayout, SequenceAxis};
use std::f64::consts::TAU;

/// The farthest position (times the scale) that is near the start.
fn near(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 16.0,
        // There, 1e-4 is lost in the rounding of the result.
        _ => 1024.0,
    }
}

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
        // One row of positions, or one for each row of the batch; the scale is in the frequencies.
        let positions: Vec<f64> = match (i.position_ids, i.offset) {
            (Some(p), _) => p.numbers(s)?,
            (None, offset) => {
                let starts = offset.map_or(Ok(vec![0.0]), |o| o.numbers(s))?;
                let row = |&start: &f64| (0..e.tokens).map(move |t| start + t as f64);
                starts.iter().flat_map(row).collect()
            }
        };
        let inverse: Vec<f64> = match i.inv_freqs {
            Some(f) => f.numbers(s)?,
            None => self.inverse_frequencies(),
        };
        let inverse: Vec<f64> = inverse.iter().map(|w| w * self.scale).collect();
        let x = s.reshape(&i.x.array(s)?, &e.shape())?;
        let first = positions[0];
        let y = if positions.iter().all(|p| *p == first) {
            let turned = |w: &f64| (first * w) - (first * w / TAU).round() * TAU;
            let angles: Vec<f64> = inverse.iter().map(turned).collect();
            call(self, c, &x, &e, &angles, &vec![1.0; e.batch * e.tokens])?
        } else if positions.iter().all(|p| (p * self.scale).abs() <= near(out.dtype)) {
            let each: Vec<f64> =
                positions.iter().cycle().take(e.batch * e.tokens).copied().collect();
            call(self, c, &x, &e, &inverse, &each)?
        } else {
            tables(self, c, &x, &e, &inverse, &positions)?
        };
        Ok(s.reshape(&y, &out.shape)?)
    }
}

/// An array of these numbers, made once a run.
fn shared(
    c: &mut Context<'_>,
    kind: u64,
    from: &[&[f64]],
    make: impl FnOnce() -> Result<Value, Error>,
) -> Result<Array, Error> {
    let bits = from.iter().flat_map(|part| part.iter().map(|n| n.to_bits()).chain([u64::MAX]));
    let key: Vec<u64> = bits.chain([kind]).collect();
    if let Some(array) = c.tables.get(&key) {
        return Ok(array.clone());
    }
    let array = c.session.array(&make()?)?;
    c.tables.insert(key, array.clone());
    Ok(array)
}

/// By MLX's own call, of every token as a row of its own.
fn call(
    rope: &Rope,
    c: &mut Context<'_>,
    x: &Array,
    e: &Extents,
    inverse: &[f64],
    positions: &[f64],
) -> Result<Array, Error> {
    let s = c.session;
    let freqs = shared(c, 0, &[inverse], || {
        Value::new([inverse.len()], inverse.iter().map(|w| (1.0 / w) as f32).collect::<Vec<_>>())
    })?;
    let offsets = shared(c, 1, &[positions], || {
        Value::new([positions.len()], positions.iter().map(|&p| p as i32).collect::<Vec<_>>())
    })?;
    let x = match rope.amplitude {
        1.0 => x.clone(),
        amplitude => {
            // A rotation is linear.
            let factor = |i: usize| if i < rope.dims { amplitude as f32 } else { 1.0 };
            let factors = Value::new([e.size], (0..e.size).map(factor).collect::<Vec<f32>>())?;
            s.mul(&s.cast(x, DType::F32)?, &s.array(&factors)?)?
        }
    };
    let (rows, heads) = (e.batch * e.tokens, e.before * e.after);
    let x = s.reshape(&s.transpose(&x, &[0, 2, 1, 3, 4])?, &[rows, heads, 1, e.size])?;
    let options = [rope.dims as i64, (rope.layout == RopeLayout::Interleaved).into()];
    let operands = [Some(&x), Some(&offsets), Some(&freqs)];
    let y = s.call(Call::Rope, &operands, &options, &[rope.base, 1.0], "")?;
    let y = s.reshape(&y, &[e.batch, e.tokens, e.before, e.after, e.size])?;
    Ok(s.transpose(&y, &[0, 2, 1, 3, 4])?)
}

/// By exact cosines and sines.
fn tables(
    rope: &Rope,
    c: &mut Context<'_>,
    x: &Array,
    e: &Extents,
    inverse: &[f64],
    positions: &[f64],
) -> Result<Array, Error> {
    let (s, half) = (c.session, inverse.len());
    let shape = [positions.len() / e.tokens, 1, e.tokens, 1, half];
    let mut table = |kind: u64, f: fn(f64) -> f64| {
        shared(c, kind, &[inverse, positions, &[rope.amplitude, e.tokens as f64]], || {
            let row = |p: &f64| inverse.iter().map(move |w| f(p * w)).collect();
            let rows: Vec<Vec<f64>> = positions.iter().map(row).collect();
            let numbers = rows.concat().iter().map(|v| (v * rope.amplitude) as f32).collect();
            Value::new::<f32>(shape, numbers)
        })
    };
    let (cos, sin) = (table(2, f64::cos)?, table(3, f64::sin)?);
    let x = s.cast(x, DType::F32)?;
    let [batch, before, tokens, after, _] = e.shape();
    let part = |start: usize, step: isize, n: usize| {
        s.slice(&x, &[0, 0, 0, 0, start], &[1, 1, 1, 1, step], &[batch, before, tokens, after, n])
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
        let pairs = s.reshape(&turned, &[batch, before, tokens, after, 2, half])?;
        let pairs = s.transpose(&pairs, &[0, 1, 2, 3, 5, 4])?;
        turned = s.reshape(&pairs, &[batch, before, tokens, after, rope.dims])?;
    }
    match e.size - rope.dims {
        0 => Ok(turned),
        rest => Ok(s.concat(&[&turned, &part(rope.dims, 1, rest)?], 4)?),
    }
}
