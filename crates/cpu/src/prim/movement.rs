//! Primitives that move elements without looking at them.

use super::{
    LEAST, Primitive,
    walk::{Shared, Walk, address},
};
use crate::kernel::{Context, Out, View, Wants};
use frit_graph::{
    Element, Error, Value,
    reference::{index_error, update_error},
    row_major,
};
use half::slice::HalfFloatSliceExt;

/// A strided view written out densely.
pub(crate) struct Copy;

impl Primitive for Copy {
    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        match out.spec.dtype.size() {
            8 => copy::<u64>(&x[0], out, c),
            4 => copy::<u32>(&x[0], out, c),
            2 => copy::<u16>(&x[0], out, c),
            _ => copy::<u8>(&x[0], out, c),
        }
        Ok(())
    }
}

fn copy<T: bytemuck::Pod>(x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
    let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<T>()));
    if let Some((batch, rows, cols)) = as_transpose(x) {
        return transpose(c, from, to, batch, rows, cols);
    }
    let walk = Walk::new(x.shape(), [x.strides()]);
    walk.run(c.pool, LEAST, &|first, n, [place]| {
        // SAFETY: the walk stays inside the operand and gives each output element once.
        unsafe {
            let (p, q) = (from.get().offset(place), to.get().add(first));
            match walk.step[0] {
                1 => std::ptr::copy_nonoverlapping(p, q, n),
                0 => std::slice::from_raw_parts_mut(q, n).fill(*p),
                s => (0..n as isize).for_each(|i| *q.offset(i) = *p.offset(i * s)),
            }
        }
    });
}

/// The same bytes under another type, where a view cannot say it.
pub(crate) struct Bytes;

impl Primitive for Bytes {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, _: &mut Context<'_>) -> Result<(), Error> {
        let from = x[0].layout.offset * x[0].dtype().size();
        match x[0].bytes.get(from..from + out.bytes.len()) {
            Some(bytes) => out.bytes.copy_from_slice(bytes),
            None => return Err(Error::Run("[bitcast] the operand is too short".into())),
        }
        Ok(())
    }
}

type Axis = (usize, isize);

/// Whether the last two joined axes are a matrix that stands transposed, and over which others.
fn as_transpose(x: &View<'_>) -> Option<(Vec<Axis>, Axis, Axis)> {
    let mut axes: Vec<Axis> = Vec::new();
    for (&d, &s) in x.shape().iter().zip(x.strides()).filter(|(d, _)| **d != 1) {
        match axes.last_mut() {
            Some((e, t)) if *t == s * d as isize => (*e, *t) = (*e * d, s),
            _ => axes.push((d, s)),
        }
    }
    let cols = axes.pop()?;
    let rows = axes.pop()?;
    (rows.1 == 1 && cols.1 > 1 && rows.0 >= 8 && cols.0 >= 2).then_some((axes, rows, cols))
}

/// Tiles of 16 by 16 keep the lines of both sides in the cache.
fn transpose<T: bytemuck::Pod>(
    c: &Context<'_>,
    from: Shared<*const T>,
    to: Shared<*mut T>,
    batch: Vec<Axis>,
    rows: Axis,
    cols: Axis,
) {
    const TILE: usize = 16;
    let matrices: usize = batch.iter().map(|b| b.0).product();
    let strips = rows.0.div_ceil(TILE);
    let least = LEAST.div_ceil(TILE * cols.0);
    c.pool.run_chunks(matrices * strips, least, &|units| {
        for unit in units {
            let (matrix, strip) = (unit / strips, unit % strips);
            let mut rest = matrix;
            let mut place = 0;
            for (d, s) in batch.iter().rev() {
                place += (rest % d) as isize * s;
                rest /= d;
            }
            let first = strip * TILE;
            let height = TILE.min(rows.0 - first);
            // SAFETY: rows and columns stay inside the operand; each strip of the output is
            // written by one task.
            unsafe {
                let p = from.get().offset(place + first as isize);
                let q = to.get().add((matrix * rows.0 + first) * cols.0);
                for left in (0..cols.0).step_by(TILE) {
                    for i in 0..height {
                        for j in left..(left + TILE).min(cols.0) {
                            *q.add(i * cols.0 + j) = *p.offset(i as isize + j as isize * cols.1);
                        }
                    }
                }
            }
        }
    });
}

/// Copies `n` bytes each for many pieces, shared out.
fn pieces(c: &Context<'_>, count: usize, n: usize, f: &(dyn Fn(usize) + Sync)) {
    c.pool.run_chunks(count, (4 * LEAST).div_ceil(n.max(1)), &|range| range.for_each(f));
}

/// Operands one after the other.
pub(crate) struct Join(pub(crate) usize);

impl Primitive for Join {
    fn wants(&self, _: usize) -> Wants {
        Wants::Rows
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        match out.spec.dtype.size() {
            8 => join::<u64>(self.0, x, out, c),
            4 => join::<u32>(self.0, x, out, c),
            2 => join::<u16>(self.0, x, out, c),
            _ => join::<u8>(self.0, x, out, c),
        }
        Ok(())
    }
}

fn join<T: bytemuck::Pod>(axis: usize, x: &[View<'_>], out: &mut Out<'_>, c: &Context<'_>) {
    let strides = row_major(&out.spec.shape);
    let strides: Vec<isize> = strides.into_iter().map(|s| s as isize).collect();
    let mut along = 0;
    for part in x {
        let from = Shared(address::<T>(part, out));
        let start = along * strides[axis];
        along += part.shape()[axis] as isize;
        let to = Shared(out.bytes.as_mut_ptr().cast::<T>().wrapping_offset(start));
        // The output is strided here, so it is walked as an operand of the part's shape.
        let walk = Walk::new(part.shape(), [part.strides(), &strides]);
        walk.run(c.pool, LEAST, &|_, n, [place, there]| {
            // SAFETY: the walk stays inside both; parts cover the output once.
            unsafe {
                let (p, q) = (from.get().offset(place), to.get().offset(there));
                match walk.step {
                    [1, 1] => std::ptr::copy_nonoverlapping(p, q, n),
                    [s, t] => {
                        (0..n as isize).for_each(|i| *q.offset(i * t) = *p.offset(i * s));
                    }
                }
            }
        });
    }
}

/// A number around the operand.
pub(crate) struct Frame {
    pub(crate) low: Vec<usize>,
    pub(crate) value: f64,
}

impl Primitive for Frame {
    fn wants(&self, _: usize) -> Wants {
        Wants::Rows
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let one = Value::from_f64(out.spec.with_shape([]), &[self.value])?;
        let size = one.bytes().len();
        if one.bytes().iter().all(|&b| b == 0) {
            out.bytes.fill(0);
        } else {
            out.bytes.chunks_exact_mut(size).for_each(|e| e.copy_from_slice(one.bytes()));
        }
        if x[0].spec().numel() == 0 {
            return Ok(());
        }
        match size {
            8 => frame::<u64>(&self.low, &x[0], out, c),
            4 => frame::<u32>(&self.low, &x[0], out, c),
            2 => frame::<u16>(&self.low, &x[0], out, c),
            _ => frame::<u8>(&self.low, &x[0], out, c),
        }
        Ok(())
    }
}

fn frame<T: bytemuck::Pod>(low: &[usize], x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
    let strides: Vec<isize> = row_major(&out.spec.shape).into_iter().map(|s| s as isize).collect();
    let start: isize = low.iter().zip(&strides).map(|(l, s)| *l as isize * s).sum();
    let from = Shared(address::<T>(x, out));
    let to = Shared(out.bytes.as_mut_ptr().cast::<T>().wrapping_offset(start));
    let walk = Walk::new(x.shape(), [x.strides(), &strides]);
    walk.run(c.pool, LEAST, &|_, n, [place, there]| {
        // SAFETY: the walk stays inside both and gives each element once.
        unsafe {
            let (p, q) = (from.get().offset(place), to.get().offset(there));
            match walk.step {
                [1, 1] => std::ptr::copy_nonoverlapping(p, q, n),
                [s, t] => (0..n as isize).for_each(|i| *q.offset(i * t) = *p.offset(i * s)),
            }
        }
    });
}

/// Slices chosen by index.
pub(crate) struct Pick(pub(crate) usize);

impl Primitive for Pick {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        pick(self.0, &x[0], &x[1], out, c)
    }
}

/// Slices of dense `x` along `axis` chosen by dense `indices`.
pub(crate) fn pick(
    axis: usize,
    x: &View<'_>,
    indices: &View<'_>,
    out: &mut Out<'_>,
    c: &mut Context<'_>,
) -> Result<(), Error> {
    let (extent, indices) = (x.shape()[axis], indices.integers()?);
    if let Some(bad) = indices.iter().find(|&&i| i < 0 || i as usize >= extent) {
        return Err(index_error("gather", *bad, extent));
    }
    let run = x.shape()[axis + 1..].iter().product::<usize>() * x.dtype().size();
    let from = Shared(address::<u8>(x, out).wrapping_add(x.layout.offset * (x.dtype().size() - 1)));
    let to = Shared(out.bytes.as_mut_ptr());
    let count = out.bytes.len().checked_div(run).unwrap_or(0);
    pieces(c, count, run, &|i| {
        let (outer, j) = (i / indices.len(), i % indices.len());
        let place = (outer * extent + indices[j] as usize) * run;
        // SAFETY: the index was checked; each piece of the output is written once.
        unsafe {
            std::ptr::copy_nonoverlapping(from.get().add(place), to.get().add(i * run), run);
        }
    });
    Ok(())
}

/// Rows of dense `x` chosen by dense `indices`, as f32.
pub(crate) fn pick_widened<T: Element>(
    x: &View<'_>,
    indices: &View<'_>,
    out: &mut Out<'_>,
    c: &mut Context<'_>,
) -> Result<(), Error>
where
    [T]: HalfFloatSliceExt,
{
    let (table, extent, indices) = (x.slice::<T>()?, x.shape()[0], indices.integers()?);
    if let Some(bad) = indices.iter().find(|&&i| i < 0 || i as usize >= extent) {
        return Err(index_error("gather", *bad, extent));
    }
    let run = x.shape()[1..].iter().product::<usize>();
    let to = Shared(out.slice_mut::<f32>()?.as_mut_ptr());
    pieces(c, if run > 0 { indices.len() } else { 0 }, run * size_of::<f32>(), &|i| {
        // SAFETY: there are as many rows of the output as indices, each written once.
        let row = unsafe { std::slice::from_raw_parts_mut(to.get().add(i * run), run) };
        table[indices[i] as usize * run..][..run].convert_to_f32_slice(row);
    });
    Ok(())
}

/// A part written over the operand.
pub(crate) struct Write(pub(crate) usize);

impl Primitive for Write {
    fn wants(&self, slot: usize) -> Wants {
        if slot == 1 { Wants::Rows } else { Wants::Dense }
    }

    fn in_place(&self) -> Vec<usize> {
        vec![0]
    }

    fn updates(&self) -> bool {
        true
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        write(self.0, &x[0], &x[1], &x[2], out, c)
    }
}

/// Writes `part` over dense `x` along `axis` from `start`.
pub(crate) fn write(
    axis: usize,
    x: &View<'_>,
    part: &View<'_>,
    start: &View<'_>,
    out: &mut Out<'_>,
    c: &mut Context<'_>,
) -> Result<(), Error> {
    let (extent, length) = (out.spec.shape[axis], part.shape()[axis]);
    let starts = start.integers()?;
    for &s in &starts {
        if s < 0 || s as usize > extent - length {
            return Err(update_error(s, length, extent));
        }
    }
    if !x.is_out {
        let all = &x.bytes[x.layout.offset * x.dtype().size()..];
        let n = out.bytes.len();
        out.bytes.copy_from_slice(&all[..n]);
    }
    match out.spec.dtype.size() {
        8 => overwrite::<u64>(axis, part, &starts, out, c),
        4 => overwrite::<u32>(axis, part, &starts, out, c),
        2 => overwrite::<u16>(axis, part, &starts, out, c),
        _ => overwrite::<u8>(axis, part, &starts, out, c),
    }
    Ok(())
}

fn overwrite<T: bytemuck::Pod>(
    axis: usize,
    part: &View<'_>,
    starts: &[i64],
    out: &mut Out<'_>,
    c: &Context<'_>,
) {
    if part.spec().numel() == 0 {
        return;
    }
    let strides: Vec<isize> = row_major(&out.spec.shape).into_iter().map(|s| s as isize).collect();
    let (from, to) = (Shared(address::<T>(part, out)), Shared(out.bytes.as_mut_ptr().cast::<T>()));
    // One start for all, or one a row of axis 0.
    for (row, &start) in starts.iter().enumerate() {
        let mut shape = part.shape().to_vec();
        let mut shift = start as isize * strides[axis];
        let mut skip = 0;
        if starts.len() > 1 {
            shape[0] = 1;
            shift += row as isize * strides[0];
            skip = row as isize * part.strides()[0];
        }
        let walk = Walk::new(&shape, [part.strides(), &strides]);
        walk.run(c.pool, LEAST, &|_, n, [place, there]| {
            // SAFETY: the start was checked, so the walk stays inside both.
            unsafe {
                let (p, q) = (from.get().offset(skip + place), to.get().offset(shift + there));
                match walk.step {
                    [1, 1] => std::ptr::copy_nonoverlapping(p, q, n),
                    [s, t] => {
                        (0..n as isize).for_each(|i| *q.offset(i * t) = *p.offset(i * s));
                    }
                }
            }
        });
    }
}
