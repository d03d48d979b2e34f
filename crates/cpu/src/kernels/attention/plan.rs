//! How the work is cut into tasks, and what scratch memory a task needs.

use std::ops::Range;

use super::{Attention, Job, Sizes};
use crate::simd::MAX_LANES;

/// Up to so many rows over the same keys are worked on by dot products.
pub(super) const DOT_ROWS: usize = 4;
/// Keys whose scores exist at a time.
const DOT_KEYS: usize = 256;
/// Most rows of a task: their queries and results stay in the L2 cache beside a key tile.
const MOST_ROWS: usize = 192;
/// Rows of the widest panel; tasks have a multiple of it.
const PANEL: usize = 2 * MAX_LANES;
/// As many tasks as should exist, where there is work for them; no more parts of a row than that.
pub(super) const TASKS: usize = 32;
/// There is room for as many parts of a row as it has times so many keys at most.
const LEAST_KEYS: usize = 256;
/// Where fewer keys exist than there is room for, which is known later, a row is cut into as many
/// parts as it has times so many keys, or part of them.
const LEAST_PART: usize = 128;
/// Multiply-adds that take about 10 microseconds: less is not worth another thread.
const MIN_WORK: usize = 1 << 19;
/// The same by dot products, which wait for memory.
const MIN_WORK_DOTS: usize = 1 << 16;

/// The cut of the work. Depends on nothing but sizes.
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    /// Query heads for each key head.
    pub(super) group: usize,
    /// Rows over the same keys: row `r` is query `r / group` of head `r % group` of the group.
    pub(super) rows: usize,
    pub(super) dots: bool,
    /// Rows of a task, and how many times that goes.
    pub(super) chunk: usize,
    pub(super) chunks: usize,
    /// Parts that the keys of a row are cut into, at most.
    pub(super) splits: usize,
    pub(super) key_tile: usize,
    pub(super) tasks: usize,
    pub(super) room: Room,
}

/// Lengths of the buffers of a task, in f32. Their meaning: [`Buffers`].
#[derive(Default)]
pub(super) struct Room {
    q: usize,
    o: usize,
    state: usize,
    p: usize,
    bias: usize,
    key_bias: usize,
    k: usize,
    v: usize,
    pub(super) all: usize,
}

/// The scratch memory of a task.
pub(super) struct Buffers<'a> {
    /// Scaled queries.
    pub(super) q: &'a mut [f32],
    /// Results, not yet divided by their sums.
    pub(super) o: &'a mut [f32],
    /// For each row the largest score so far,
    pub(super) top: &'a mut [f32],
    /// and the sum of exponentials of scores less that.
    pub(super) sum: &'a mut [f32],
    /// Scores of a tile, later their exponentials.
    pub(super) p: &'a mut [f32],
    /// What a mask adds to them.
    pub(super) bias: &'a mut [f32],
    /// What is added for all rows.
    pub(super) key_bias: &'a mut [f32],
    /// Tiles of keys and values, where they must be converted.
    pub(super) k: &'a mut [f32],
    pub(super) v: &'a mut [f32],
    /// A block of lanes by lanes.
    pub(super) block: &'a mut [f32],
}

/// To whole cache lines.
fn line(n: usize) -> usize {
    n.next_multiple_of(MAX_LANES)
}

/// The distance of rows in a converted tile: an odd number of cache lines, so that the rows of a
/// tile do not compete for the same few places in the cache.
pub(super) fn tile_stride(width: usize) -> usize {
    (width.div_ceil(MAX_LANES) | 1) * MAX_LANES
}

impl Plan {
    pub(super) fn new(sizes: Sizes) -> Plan {
        let Sizes { batch, heads, key_heads, queries, keys, head, value } = sizes;
        let group = heads / key_heads.max(1);
        let rows = group * queries;
        let above = batch * key_heads;
        let dots = rows <= DOT_ROWS;
        let chunk = match dots {
            true => rows.max(1),
            false => {
                let wanted = (rows * above).div_ceil(TASKS).next_multiple_of(PANEL);
                let most = wanted.min(MOST_ROWS);
                rows.div_ceil(rows.div_ceil(most)).next_multiple_of(PANEL)
            }
        };
        let chunks = rows.div_ceil(chunk);
        let splits = TASKS.div_ceil((above * chunks).max(1)).min(keys / LEAST_KEYS).max(1);
        let key_tile = match dots {
            true => DOT_KEYS,
            false => (KEY_TILE_ELEMENTS / head.max(value).max(1)).clamp(32, 256) / 16 * 16,
        };
        let key_tile = key_tile.min(line(keys.max(1)));
        let lanes = if dots { chunk } else { PANEL };
        let tiles = if dots { 0 } else { key_tile };
        let mut room = Room {
            q: chunk * line(head),
            o: chunk * line(value),
            state: line(chunk),
            p: line(lanes * key_tile),
            bias: line(lanes * key_tile),
            key_bias: line(key_tile),
            k: tiles * tile_stride(head),
            v: tiles * tile_stride(value),
            all: 0,
        };
        room.all = room.q + room.o + 2 * room.state + room.p + room.bias + room.key_bias;
        room.all += room.k + room.v + MAX_LANES * MAX_LANES;
        let tasks = above * chunks * splits;
        Plan { sizes, group, rows, dots, chunk, chunks, splits, key_tile, tasks, room }
    }

    /// The rows of a chunk.
    fn chunk_rows(&self, chunk: usize) -> Range<usize> {
        chunk * self.chunk..((chunk + 1) * self.chunk).min(self.rows)
    }

    /// The parts of the keys that the rows of a chunk see: one at least, and at most `splits`. They
    /// depend on nothing but sizes and lengths.
    pub(super) fn parts<T: crate::simd::Element>(
        &self,
        a: &Attention<'_, T>,
        batch: usize,
        chunk: usize,
    ) -> impl Iterator<Item = Range<usize>> {
        let rows = self.chunk_rows(chunk);
        let all = Reach::new(a, batch);
        let all = all.some(rows.start / self.group, (rows.end - 1) / self.group);
        let count = all.len().div_ceil(LEAST_PART).clamp(1, self.splits);
        let part = all.len().div_ceil(count).max(1).next_multiple_of(MAX_LANES);
        let count = all.len().div_ceil(part).max(1);
        (0..count).map(move |i| {
            let start = all.start + i * part;
            start..(start + part).min(all.end)
        })
    }

    /// The query and the head (counted within the group) of each of these rows.
    pub(super) fn places(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let (group, mut query, mut head) =
            (self.group, rows.start / self.group, rows.start % self.group);
        rows.map(move |_| {
            let place = (query, head);
            head += 1;
            if head == group {
                (query, head) = (query + 1, 0);
            }
            place
        })
    }

    /// How many threads can share the work.
    pub(super) fn slots(&self, threads: usize) -> usize {
        let Sizes { batch, heads, queries, keys, head, value, .. } = self.sizes;
        let work = [batch, heads, queries, keys, head + value];
        let work = work.into_iter().fold(1usize, usize::saturating_mul);
        let least = if self.dots { MIN_WORK_DOTS } else { MIN_WORK };
        threads.min(self.tasks).min(work / least).max(1)
    }

    /// The length of a part in f32: rows, then their largest scores, then their sums.
    pub(super) fn part(&self) -> usize {
        self.rows * (self.sizes.value + 2)
    }

    /// Scratch memory in f32: a room for each slot, then the parts.
    pub(super) fn scratch(&self, threads: usize) -> usize {
        let parts = self.sizes.batch * self.sizes.key_heads * self.splits;
        let parts = if self.splits > 1 { parts * self.part() } else { 0 };
        self.slots(threads) * self.room.all + parts
    }
}

/// f32 of a tile of keys or values: half of an L2 cache of 256 KiB for both.
const KEY_TILE_ELEMENTS: usize = 16384;

impl Room {
    pub(super) fn buffers<'a>(&self, room: &'a mut [f32]) -> Buffers<'a> {
        let mut rest = room;
        let mut cut = |n: usize| {
            let (one, more) = std::mem::take(&mut rest).split_at_mut(n);
            rest = more;
            one
        };
        Buffers {
            q: cut(self.q),
            o: cut(self.o),
            top: cut(self.state),
            sum: cut(self.state),
            p: cut(self.p),
            bias: cut(self.bias),
            key_bias: cut(self.key_bias),
            k: cut(self.k),
            v: cut(self.v),
            block: cut(MAX_LANES * MAX_LANES),
        }
    }
}

/// Some rows of one key head and a range of its keys.
pub(super) struct Task {
    pub(super) batch: usize,
    pub(super) key_head: usize,
    pub(super) rows: Range<usize>,
    pub(super) keys: Range<usize>,
    pub(super) split: usize,
    pub(super) reach: Reach,
}

impl Task {
    /// `None` where the keys do not make so many parts.
    pub(super) fn new<T: crate::simd::Element>(job: &Job<'_, T>, index: usize) -> Option<Task> {
        let plan = job.plan;
        let (index, split) = (index / plan.splits, index % plan.splits);
        let (index, chunk) = (index / plan.chunks, index % plan.chunks);
        let (batch, key_head) = (index / plan.sizes.key_heads, index % plan.sizes.key_heads);
        let keys = plan.parts(job.attention, batch, chunk).nth(split)?;
        let (rows, reach) = (plan.chunk_rows(chunk), Reach::new(job.attention, batch));
        Some(Task { batch, key_head, rows, keys, split, reach })
    }

    /// The largest score and the sum that a row begins with, by the sink of its head (counted
    /// within the group), which counts once.
    pub(super) fn sink<T>(&self, a: &Attention<'_, T>, plan: &Plan, of: usize) -> (f32, f32) {
        match a.sinks {
            Some(z)
                if self.split == 0 && z[self.key_head * plan.group + of] > f32::NEG_INFINITY =>
            {
                (z[self.key_head * plan.group + of], 1.0)
            }
            _ => (f32::NEG_INFINITY, 0.0),
        }
    }
}

/// Which keys a query sees by its position alone.
pub(super) struct Reach {
    length: i64,
    /// The position of query 0.
    first: i64,
    left: Option<i64>,
    right: Option<i64>,
}

impl Reach {
    fn new<T: crate::simd::Element>(a: &Attention<'_, T>, batch: usize) -> Reach {
        let bound = |n: usize| n.min(1 << 40) as i64;
        let length = a.length(batch) as i64;
        let right = a.window.map(|w| bound(w.1));
        Reach {
            length,
            first: length - a.q.shape[2] as i64,
            left: a.window.map(|w| bound(w.0)),
            right: if a.causal { Some(0) } else { right },
        }
    }

    /// The keys of one query.
    #[inline(always)]
    pub(super) fn of(&self, query: usize) -> Range<usize> {
        let at = self.first + query as i64;
        let start = self.left.map_or(0, |left| (at - left).clamp(0, self.length));
        let end =
            self.right.map_or(self.length, |right| (at + right + 1).clamp(start, self.length));
        start as usize..end as usize
    }

    /// The keys that any of these queries sees.
    #[inline(always)]
    pub(super) fn some(&self, first: usize, last: usize) -> Range<usize> {
        self.of(first).start..self.of(last).end.max(self.of(first).start)
    }

    /// The keys that all of these queries see; may be the wrong way round.
    #[inline(always)]
    pub(super) fn all(&self, first: usize, last: usize) -> (usize, usize) {
        (self.of(last).start, self.of(first).end)
    }
}
