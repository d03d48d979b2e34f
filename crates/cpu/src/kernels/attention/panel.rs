//! A task by panels: packs the queries, walks over the key tiles, writes the results.

use std::ops::Range;

use super::bias::{self, Bias};
use super::plan::{Buffers, Task, tile_stride};
use super::row::widen;
use super::tile::Tile;
use super::{Grid, Job};
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
    let mut places = plan.places(panel.rows.clone());
    for r in 0..panel.vectors {
        for i in 0..lanes {
            let to = &mut rows[i * stride..][..stride];
            match places.next() {
                Some((query, of)) => {
                    let from = a.q.row(task.batch, task.key_head * plan.group + of, query);
                    // SAFETY: the row is one of q's.
                    unsafe { widen(s, from, head, a.scale, to) };
                }
                None => to.fill(0.0),
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
    b.top[panel.at..][..w].fill(f32::NEG_INFINITY);
    b.sum[panel.at..][..w].fill(0.0);
    if a.sinks.is_some() {
        for (i, (_, of)) in plan.places(panel.rows.clone()).enumerate() {
            (b.top[panel.at + i], b.sum[panel.at + i]) = task.sink(a, plan, of);
        }
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
    let common = a.key_bias(s, task.batch, &keys, b.key_bias);
    let keys = common.as_ref().map_or(keys, |c| base + c.keys.start..base + c.keys.end);
    let common = common.filter(|c| c.bias != Bias::None).is_some();
    if keys.is_empty() {
        return;
    }
    let (k, k_stride) = rows(s, &a.k, task, &keys, b.k);
    let (v, v_stride) = rows(s, &a.v, task, &keys, b.v);
    for panel in Panel::all(task, S::LANES) {
        let w = panel.vectors * S::LANES;
        let (first, last) = (panel.rows.start / group, (panel.rows.end - 1) / group);
        // Rows that do not exist fare like the last that does.
        let existing = panel.rows.len();
        let seen = task.reach.some(first, last);
        let mut seen = seen.start.max(keys.start)..seen.end.min(keys.end);
        if seen.is_empty() {
            continue;
        }
        let mut key_bias = common.then(|| &b.key_bias[seen.start - base..]);
        let mut bias = None;
        if let Some(mask) = a.row_mask() {
            let mut at = [0; 2 * MAX_LANES];
            for (at, (query, of)) in at.iter_mut().zip(plan.places(panel.rows.clone())) {
                *at = mask.at(task.batch, task.key_head * group + of, query, seen.start);
            }
            let last = at[existing - 1];
            at[existing..].fill(last);
            let (n, at) = (seen.len(), &at[..w]);
            let kept = s.call(bias::Panel { mask, at, n, key_bias, to: b.bias, block: b.block });
            let skip = kept.keys.start;
            seen = seen.start + skip..seen.start + kept.keys.end;
            if seen.is_empty() {
                continue;
            }
            match kept.bias {
                Bias::None => key_bias = None,
                Bias::Keys => key_bias = Some(&b.bias[skip..]),
                Bias::Rows => {
                    key_bias = key_bias.map(|b| &b[skip..]);
                    bias = Some(&b.bias[skip * w..]);
                }
            }
        }
        // What of these keys all rows see, and what each of them sees, counted from the first and
        // exact in f32.
        let inside = |j: usize| j.clamp(seen.start, seen.end) - seen.start;
        let all = task.reach.all(first, last);
        let all = inside(all.0)..inside(all.1);
        let (mut low, mut high) = ([0.0; 2 * MAX_LANES], [0.0; 2 * MAX_LANES]);
        let bounded = all != (0..seen.len());
        if bounded {
            for (i, (query, _)) in plan.places(panel.rows.clone()).enumerate() {
                let own = task.reach.of(query);
                (low[i], high[i]) = (inside(own.start) as f32, inside(own.end) as f32);
            }
            let (last_low, last_high) = (low[existing - 1], high[existing - 1]);
            low[existing..].fill(last_low);
            high[existing..].fill(last_high);
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
            key_bias,
            bias,
            bounds: bounded.then_some((&low, &high)),
            all,
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
    let mut places = plan.places(panel.rows.clone());
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
        for (i, place) in places.by_ref().take(lanes).enumerate() {
            let state = panel.at + r * lanes + i;
            let o = &rows[i * stride..][..stride];
            // SAFETY: this is a row of this task.
            unsafe { job.finish(s, task, place, o, b.top[state], b.sum[state]) };
        }
    }
}
