//! Primitives that move elements without looking at them.

use crate::{Error, Prim, Spec, Value, row_major};

/// Builds the result element by element: `from(i)` is the place in the operand's bytes.
fn pick(out: &Spec, x: &Value, from: impl Fn(usize) -> usize) -> Result<Value, Error> {
    let (size, bytes) = (out.dtype.size(), x.bytes());
    let mut data = Vec::with_capacity(out.bytes());
    for i in 0..out.numel() {
        let at = from(i) * size;
        data.extend_from_slice(&bytes[at..at + size]);
    }
    Value::from_bytes(out.clone(), &data)
}

/// Coordinates of element `i` of a row-major tensor.
fn coordinates(i: usize, shape: &[usize], strides: &[usize]) -> Vec<usize> {
    strides.iter().zip(shape).map(|(s, d)| (i / s) % d).collect()
}

pub(super) fn eval(prim: &Prim, out: &Spec, x: &[&Value]) -> Result<Value, Error> {
    let strides = row_major(&out.shape);
    let at = |i: usize| coordinates(i, &out.shape, &strides);
    let from = row_major(x[0].shape());
    let dot = |c: &mut dyn Iterator<Item = usize>| c.zip(&from).map(|(c, s)| c * s).sum::<usize>();
    match prim {
        Prim::Bitcast => Value::from_bytes(out.clone(), x[0].bytes()),
        Prim::Reshape => x[0].reshaped(out.shape.clone()),
        Prim::Transpose(perm) => {
            pick(out, x[0], |i| at(i).iter().zip(perm).map(|(c, &p)| c * from[p]).sum())
        }
        Prim::Broadcast => {
            let shape = x[0].shape();
            pick(out, x[0], |i| {
                dot(&mut at(i).into_iter().zip(shape).map(|(c, &d)| if d == 1 { 0 } else { c }))
            })
        }
        Prim::Slice { start, step } => pick(out, x[0], |i| {
            let along = at(i).into_iter().zip(start.iter().zip(step));
            dot(&mut along.map(|(c, (&a, &s))| a.wrapping_add_signed(c as isize * s)))
        }),
        Prim::Concat(axis) => concat(*axis, out, x),
        Prim::Pad { low, value, .. } => {
            let mut data = Value::from_f64(out.clone(), &vec![value.0; out.numel()])?;
            let (size, shape) = (out.dtype.size(), x[0].shape());
            let Some(bytes) = data.bytes_mut() else { return Ok(data) };
            for (i, element) in x[0].bytes().chunks_exact(size).enumerate() {
                let c = coordinates(i, shape, &from);
                let to: usize =
                    c.iter().zip(low).zip(&strides).map(|((c, l), s)| (c + l) * s).sum();
                bytes[to * size..][..size].copy_from_slice(element);
            }
            Ok(data)
        }
        Prim::Gather(axis) => {
            let (extent, inner) = (x[0].shape()[*axis], from[*axis]);
            let indices = x[1].to_i64();
            if let Some(bad) = indices.iter().find(|&&i| i < 0 || i as usize >= extent) {
                return Err(index_error("gather", *bad, extent));
            }
            let n = indices.len();
            pick(out, x[0], |i| {
                let (outer, j, rest) = (i / (n * inner), (i / inner) % n, i % inner);
                (outer * extent + indices[j] as usize) * inner + rest
            })
        }
        Prim::Update(axis) => update(*axis, out, x),
        _ => Err(Error::Run(format!("{prim} moves nothing"))),
    }
}

/// The error of an index that does not exist, in the same words on every backend.
pub fn index_error(what: &str, index: i64, extent: usize) -> Error {
    Error::Run(format!("[{what}] index {index} is outside 0..{extent}"))
}

fn concat(axis: usize, out: &Spec, x: &[&Value]) -> Result<Value, Error> {
    let outer: usize = out.shape[..axis].iter().product();
    let inner: usize = out.shape[axis + 1..].iter().product::<usize>() * out.dtype.size();
    let mut data = Vec::with_capacity(out.bytes());
    for o in 0..outer {
        for part in x {
            let run = part.shape()[axis] * inner;
            data.extend_from_slice(&part.bytes()[o * run..(o + 1) * run]);
        }
    }
    Value::from_bytes(out.clone(), &data)
}

fn update(axis: usize, out: &Spec, x: &[&Value]) -> Result<Value, Error> {
    let (mut data, part, starts) = (x[0].bytes().to_vec(), x[1].bytes(), x[2].to_i64());
    let (extent, length) = (out.shape[axis], x[1].shape()[axis]);
    let outer: usize = out.shape[..axis].iter().product();
    let inner: usize = out.shape[axis + 1..].iter().product::<usize>() * out.dtype.size();
    for o in 0..outer {
        // One start a row of axis 0, or the same for all.
        let row = if starts.len() == 1 { 0 } else { o * out.shape[0] / outer };
        let start = starts[row];
        let room = extent - length;
        if start < 0 || start as usize > room {
            return Err(update_error(start, length, extent));
        }
        let to = (o * extent + start as usize) * inner;
        data[to..to + length * inner]
            .copy_from_slice(&part[o * length * inner..][..length * inner]);
    }
    Value::from_bytes(out.clone(), &data)
}

/// The error of a write past the end, in the same words on every backend.
pub fn update_error(start: i64, length: usize, extent: usize) -> Error {
    Error::Run(format!("[update] {length} positions from {start} do not fit in {extent}"))
}
