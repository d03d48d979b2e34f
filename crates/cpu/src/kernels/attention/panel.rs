//! A task by panels: packs the queries, walks over the key tiles, writes the results.

use std::ops::Range;

use super::plan::{Buffers, Task, tile_stride};
use super::tile::Tile;
use super::{Grid, Job, bias};
use crate::simd::{Element, MAX_LANES, Simd};

/// Runs a task in its scratch room.
#[inline(always)]
pub(super) fn run<S: Simd, T: Element>(s: S, job: &Job<'_, T>, task: &Task, room: &mut [f32]) {
    let b = &mut job.plan.room.buffers(room);
    for panel in Panel::all(task, S::LANES) {
        begin(s, job, task, b, &panel);
    }
    let mut start = task.keys.start;
    while start < task.keys.end {
        let keys = start..(start + job.plan.key_tile).min(task.keys.end);
        start = keys.end;
        tile(s, job, task, b, keys);
    }
    for panel in Panel::all(task, S::LANES) {
        finish(s, job, task, b, &panel);
    }
}

/// One or two vectors of rows.
struct Panel {
    /// Rows of the task before it: where its buffers begin.
    at: usize,
    vectors: usize,
    /// Its rows. The last panel may have fewer than fit.
    rows: Range<usize>,
}

impl Panel {
    fn all(task: &Task, lanes: usize) -> impl Iterator<Item = Panel> {
        let all = task.rows.clone();
        all.clone().step_by(2 * lanes).map(move |first| {
            let vectors = if all.end - first <= lanes { 1 } else { 2 };
            let rows = first..(first + vectors * lanes).min(all.end);
            Panel { at: first - all.start, vectors, rows }
        })
    }
}

/// Packs the queries of a panel as `[D][row]`, and sets maxima, sums and results to none.
#[inline(always)]
fn begin<S: Simd, T: Element>(
    s: S,
    job: &Job<'_, T>,
    task: &Task,
    b: &mut Buffers<'_>,
    panel: &Panel,
) {
    let (a, plan, lanes) = (job.attention, job.plan, S::LANES);
    let (head, value, w) = (plan.sizes.head, plan.sizes.value, panel.vectors * lanes);
    let q = &mut b.q[panel.at * head..][..head * w];
    let (block, turned) = b.blocks.split_at_mut(MAX_LANES * MAX_LANES);
    assert!(block.len() >= lanes * lanes && turned.len() >= lanes * lanes);
    let (block, turned) = (block.as_mut_ptr(), turned.as_mut_ptr());
    let scale = s.splat(a.scale);
    for r in 0..panel.vectors {
        for x in (0..head).step_by(lanes) {
            let n = lanes.min(head - x);
            for i in 0..lanes {
                let row = panel.rows.start + r * lanes + i;
                // SAFETY: the row is one of q's and has n elements from x on; the block has room.
                unsafe {
                    let mut elements = s.zero();
                    if row < panel.rows.end {
                        let from = a.q.row(
                            task.batch,
                            task.key_head * plan.group + row % plan.group,
                            row / plan.group,
                        );
                        elements = match n == lanes {
                            true => T::load(s, from.add(x)),
                            false => T::load_partial(s, from.add(x), n),
                        };
                    }
                    s.store(block.add(i * lanes), s.mul(elements, scale));
                }
            }
            // SAFETY: both blocks have lanes by lanes elements; n * w fit in q from x * w on.
            unsafe {
                s.transpose(block, lanes, turned, lanes);
                for i in 0..n {
                    let to = q.as_mut_ptr().add((x + i) * w + r * lanes);
                    s.store(to, s.load(turned.add(i * lanes)));
                }
            }
        }
    }
    b.o[panel.at * value..][..value * w].fill(0.0);
    for i in 0..w {
        let row = (panel.rows.start + i).min(panel.rows.end - 1);
        let sink = task.sink(a, task.key_head * plan.group + row % plan.group);
        b.top[panel.at + i] = sink;
        b.sum[panel.at + i] = if sink > f32::NEG_INFINITY { 1.0 } else { 0.0 };
    }
}

/// Takes some keys into account, for all panels.
#[inline(always)]
fn tile<S: Simd, T: Element>(
    s: S,
    job: &Job<'_, T>,
    task: &Task,
    b: &mut Buffers<'_>,
    keys: Range<usize>,
) {
    let (a, plan) = (job.attention, job.plan);
    let (head, value, group) = (plan.sizes.head, plan.sizes.value, plan.group);
    let has_key_bias = bias::for_keys(s, a, task.batch, &keys, b.key_bias);
    let base = keys.start;
    let keys = match has_key_bias {
        true => bias::trim_keys(keys, b.key_bias, base),
        false => keys,
    };
    if keys.is_empty() {
        return;
    }
    let (k, k_stride) = rows(s, &a.k, task, &keys, b.k);
    let (v, v_stride) = rows(s, &a.v, task, &keys, b.v);
    for panel in Panel::all(task, S::LANES) {
        let w = panel.vectors * S::LANES;
        let (first, last) = (panel.rows.start / group, (panel.rows.end - 1) / group);
        let seen = task.reach.some(first, last);
        let mut seen = seen.start.max(keys.start)..seen.end.min(keys.end);
        if seen.is_empty() {
            continue;
        }
        // The keys of the mask tile begin here.
        let mask_base = seen.start;
        if let Some(m) = a.row_mask() {
            let mut at = [0; 2 * MAX_LANES];
            for (i, at) in at[..w].iter_mut().enumerate() {
                let row = (panel.rows.start + i).min(panel.rows.end - 1);
                let head = task.key_head * group + row % group;
                *at = m.at(task.batch, head, row / group, seen.start);
            }
            // SAFETY: the mask covers every row and key.
            let kept = unsafe {
                bias::for_panel(s, m, &at[..w], panel.vectors, seen.len(), b.bias, b.blocks)
            };
            seen = mask_base + kept.start..mask_base + kept.end;
            if seen.is_empty() {
                continue;
            }
        }
        let (all_start, all_end) = task.reach.all(first, last);
        let (mut low, mut high) = ([0.0; 2 * MAX_LANES], [0.0; 2 * MAX_LANES]);
        let bounded = seen.start < all_start || seen.end > all_end;
        if bounded {
            for i in 0..w {
                let row = (panel.rows.start + i).min(panel.rows.end - 1);
                let own = task.reach.of(row / group);
                // Counted from the first key of the tile, and exact in f32.
                low[i] = own.start.clamp(seen.start, seen.end) as f32 - seen.start as f32;
                high[i] = own.end.clamp(seen.start, seen.end) as f32 - seen.start as f32;
            }
        }
        let skip = seen.start - keys.start;
        s.call(Tile {
            narrow: panel.vectors == 1,
            n: seen.len(),
            k: k.wrapping_add(skip * k_stride),
            k_stride,
            v: v.wrapping_add(skip * v_stride),
            v_stride,
            q: &b.q[panel.at * head..][..head * w],
            o: &mut b.o[panel.at * value..][..value * w],
            top: &mut b.top[panel.at..][..w],
            sum: &mut b.sum[panel.at..][..w],
            p: b.p,
            softcap: a.softcap,
            key_bias: has_key_bias.then(|| &b.key_bias[seen.start - base..]),
            bias: a.row_mask().map(|_| &b.bias[(seen.start - mask_base) * w..]),
            bounds: bounded.then_some((&low, &high)),
        });
    }
}

/// Where these keys (or values) are to be had as f32, and their distance: in place, or converted.
#[inline(always)]
fn rows<S: Simd, T: Element>(
    s: S,
    grid: &Grid<'_, T>,
    task: &Task,
    keys: &Range<usize>,
    to: &mut [f32],
) -> (*const f32, usize) {
    let width = grid.shape[3];
    if T::IS_F32 {
        return (grid.row(task.batch, task.key_head, keys.start).cast(), grid.strides[2]);
    }
    let stride = tile_stride(width);
    assert!(to.len() >= keys.len() * stride);
    let to = to.as_mut_ptr();
    for (i, key) in keys.clone().enumerate() {
        let from = grid.row(task.batch, task.key_head, key);
        // SAFETY: the row has `width` elements; the buffer has `stride` for it, whole vectors.
        unsafe {
            let to = to.add(i * stride);
            let mut x = 0;
            while x + S::LANES <= width {
                s.store(to.add(x), T::load(s, from.add(x)));
                x += S::LANES;
            }
            if x < width {
                s.store(to.add(x), T::load_partial(s, from.add(x), width - x));
            }
        }
    }
    (to, stride)
}

/// Writes the rows of a panel: results, or parts of them.
#[inline(always)]
fn finish<S: Simd, T: Element>(
    s: S,
    job: &Job<'_, T>,
    task: &Task,
    b: &mut Buffers<'_>,
    panel: &Panel,
) {
    let plan = job.plan;
    let value = plan.sizes.value;
    if plan.splits == 1 {
        let mut to = [std::ptr::null_mut::<T>(); 2 * MAX_LANES];
        let mut factor = [0.0; 2 * MAX_LANES];
        for (i, row) in panel.rows.clone().enumerate() {
            let head = task.key_head * plan.group + row % plan.group;
            to[i] = job.out_row(task.batch, head, row / plan.group);
            let sum = b.sum[panel.at + i];
            factor[i] = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        }
        // SAFETY: these are rows of the result, and no other task writes there.
        unsafe { write(s, b, panel, value, &to, &factor) };
    } else {
        let mut to = [std::ptr::null_mut::<f32>(); 2 * MAX_LANES];
        for (i, row) in panel.rows.clone().enumerate() {
            let part = job.part(task);
            to[i] = part.wrapping_add(row * value);
            let state = part.wrapping_add(plan.rows * value);
            // SAFETY: a part has room for the rows, their maxima and their sums.
            unsafe {
                *state.add(row) = b.top[panel.at + i];
                *state.add(plan.rows + row) = b.sum[panel.at + i];
            }
        }
        // SAFETY: these are rows of a part, and no other task writes there.
        unsafe { write(s, b, panel, value, &to, &[1.0; 2 * MAX_LANES]) };
    }
}

/// Writes the results of a panel, times a factor, as rows.
///
/// # Safety
/// The first `panel.rows.len()` places of `to` are valid for `value` elements.
#[inline(always)]
unsafe fn write<S: Simd, T: Element>(
    s: S,
    b: &mut Buffers<'_>,
    panel: &Panel,
    value: usize,
    to: &[*mut T; 2 * MAX_LANES],
    factor: &[f32; 2 * MAX_LANES],
) {
    let (lanes, w) = (S::LANES, panel.vectors * S::LANES);
    let o = &b.o[panel.at * value..][..value * w];
    let (block, turned) = b.blocks.split_at_mut(MAX_LANES * MAX_LANES);
    assert!(block.len() >= lanes * lanes && turned.len() >= lanes * lanes);
    let (block, turned) = (block.as_mut_ptr(), turned.as_mut_ptr());
    for r in 0..panel.vectors {
        // SAFETY: o is `[value][w]`; blocks are lanes by lanes; the caller vouches for `to`.
        unsafe {
            let factor = s.load(factor.as_ptr().add(r * lanes));
            for c in (0..value).step_by(lanes) {
                let n = lanes.min(value - c);
                for j in 0..n {
                    let x = s.load(o.as_ptr().add((c + j) * w + r * lanes));
                    s.store(block.add(j * lanes), s.mul(x, factor));
                }
                s.transpose(block, lanes, turned, lanes);
                for i in 0..lanes.min(panel.rows.len().saturating_sub(r * lanes)) {
                    let (to, x) = (to[r * lanes + i].add(c), s.load(turned.add(i * lanes)));
                    match n == lanes {
                        true => T::store(s, to, x),
                        false => T::store_partial(s, to, n, x),
                    }
                }
            }
        }
    }
}
