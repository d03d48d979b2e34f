//! A task by panels: packs the queries, walks over the key tiles, writes the results.

use std::ops::Range;

use super::plan::{Buffers, Task, tile_stride};
use super::row::widen;
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
    let stride = tile_stride(head);
    // The room for keys is free as yet. The last block of columns may reach past the panel, into
    // the next, which comes later, or into what the room has to spare.
    let (q, rows) = (&mut b.q[panel.at * head..], &mut b.k[..lanes * stride]);
    assert!(q.len() >= head.next_multiple_of(lanes) * w);
    for r in 0..panel.vectors {
        for i in 0..lanes {
            let row = panel.rows.start + r * lanes + i;
            let to = &mut rows[i * stride..][..stride];
            if row < panel.rows.end {
                let of = task.key_head * plan.group + row % plan.group;
                let from = a.q.row(task.batch, of, row / plan.group);
                // SAFETY: the row is one of q's.
                unsafe { widen(s, from, head, a.scale, to) };
            } else {
                to.fill(0.0);
            }
        }
        let mut x = 0;
        while x < head {
            // SAFETY: both lengths are checked above.
            unsafe {
                let to = q.as_mut_ptr().add(x * w + r * lanes);
                s.transpose(rows.as_ptr().add(x), stride, to, w);
            }
            x += lanes;
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
    let base = keys.start;
    let biased = a.key_bias(s, task.batch, keys.clone(), b.key_bias);
    let has_key_bias = biased.is_some();
    let keys = biased.unwrap_or(keys);
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
            let kept = s.call(bias::Panel {
                mask: m,
                at: &at[..w],
                n: seen.len(),
                to: b.bias,
                block: b.block,
            });
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
    for (i, key) in keys.clone().enumerate() {
        let from = grid.row(task.batch, task.key_head, key);
        // SAFETY: the row is one of the grid's.
        unsafe { widen(s, from, width, 1.0, &mut to[i * stride..][..stride]) };
    }
    (to.as_ptr(), stride)
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
    let (plan, lanes) = (job.plan, S::LANES);
    let (value, w) = (plan.sizes.value, panel.vectors * lanes);
    let stride = tile_stride(value);
    // The room for values is free again. The last block of columns may begin in this panel and
    // end in another, or in what the room has to spare: nothing of that is used.
    let (o, rows) = (&b.o[panel.at * value..], &mut b.v[..lanes * stride]);
    assert!(o.len() >= value.next_multiple_of(lanes) * w);
    for r in 0..panel.vectors {
        let mut c = 0;
        while c < value {
            // SAFETY: both lengths are checked above.
            unsafe {
                let from = o.as_ptr().add(c * w + r * lanes);
                s.transpose(from, w, rows.as_mut_ptr().add(c), stride);
            }
            c += lanes;
        }
        for i in 0..lanes.min(panel.rows.len().saturating_sub(r * lanes)) {
            let row = panel.rows.start + r * lanes + i;
            let state = panel.at + r * lanes + i;
            let o = &rows[i * stride..][..stride];
            // SAFETY: this is a row of this task.
            unsafe { job.finish(s, task, row, o, b.top[state], b.sum[state]) };
        }
    }
}
