//! The driver of products: what is packed at a time, and which blocks are tasks.
//!
//! Packed panels and widened rows stand in the caller's scratch, each at most about [`BUDGET`]
//! bytes at a time, so that they stay in the last cache. Larger products go in rounds.

use frit_ops::Activation;

use super::finish::{Bias, Finish};
use super::pack::{Columns, Rows, pack_panels};
use super::tile::{MC, NC, Sums, Target, panel_width};
use super::{Raw, Rooms, lines, on, share, take};
use crate::Pool;
use crate::kernel::Combine;
use crate::simd::{Element, Isa};

/// Bytes of panels, and of widened rows, in the scratch at a time.
const BUDGET: usize = 4 << 20;

/// Products with so few rows are bound by reading the panels: their tasks are cut by bytes.
const FEW_ROWS: usize = 16;
/// Bytes of panels that such a task reads.
const FEW_ROWS_BYTES: usize = 64 << 10;

/// So many blocks balance on some threads; where there are fewer, they are made narrower.
const ENOUGH: usize = 24;

/// Where a result goes and what happens to it on the way.
pub(super) struct Sink<'a, T> {
    pub(super) c: Raw<T>,
    pub(super) row: isize,
    pub(super) column: isize,
    pub(super) bias: Bias<'a>,
    pub(super) activation: Activation,
    /// With what is there.
    pub(super) combine: Combine,
}

/// The cut of C into blocks.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    columns: usize,
}

impl Cut {
    /// For `m x n` sums over panels of `bytes` bytes and `width` columns.
    fn new(m: usize, n: usize, bytes: usize, width: usize) -> Cut {
        let mut cut = Cut { rows: MC, columns: NC };
        if m <= FEW_ROWS {
            cut.columns = ((FEW_ROWS_BYTES / bytes.max(1)).max(1) * width).min(NC);
        }
        while cut.blocks(m, n) < ENOUGH && cut.columns >= 64 {
            cut.columns = (cut.columns / 2).next_multiple_of(width);
        }
        cut
    }

    fn blocks(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }
}

/// A product whose operands are ready.
struct Ready<W> {
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    a_row: isize,
    /// Panels.
    b: *const W,
    cut: Cut,
}

impl<W: Element> Ready<W> {
    /// Computes a block, `0..cut.blocks(m, n)`; blocks that follow each other share columns.
    ///
    /// # Safety
    /// The operands are valid for `m x k` and `k x n`, the sink for `m x n`; no other thread
    /// touches the part of C that this block is.
    unsafe fn block<T: Element>(&self, index: usize, sink: &Sink<'_, T>) {
        let tall = self.m.div_ceil(self.cut.rows);
        let (row, column) = (index % tall * self.cut.rows, index / tall * self.cut.columns);
        let rows = self.cut.rows.min(self.m - row);
        let columns = self.cut.columns.min(self.n - column);
        let c = sink.c.offset(row as isize * sink.row + column as isize * sink.column);
        let size = size_of::<T>();
        let to = match sink.column {
            1 => Target { first: c.cast(), row: sink.row * size as isize, column: size },
            _ => Target::NONE,
        };
        let mut sums = [const { std::mem::MaybeUninit::<f32>::uninit() }; MC * NC];
        let sums = sums.as_mut_ptr().cast::<f32>();
        let work = Sums {
            a: self.a.wrapping_offset(row as isize * self.a_row),
            a_row: self.a_row,
            // Blocks begin at panels.
            b: self.b.wrapping_add(column * self.k),
            b_row: None,
            k: self.k,
            rows,
            columns,
            sums,
            to,
        };
        on(self.isa, work);
        let finish = Finish {
            sums,
            pitch: NC,
            rows,
            columns,
            bias: sink.bias.of(row, rows, column, columns),
            activation: sink.activation,
            combine: sink.combine,
            c,
            c_row: sink.row,
            c_column: sink.column,
        };
        on(self.isa, finish);
    }
}

/// The extents of a batch of products: `outer` matrices B, each with `inner` matrices A.
#[derive(Clone, Copy)]
pub(super) struct Extents {
    pub(super) isa: Isa,
    pub(super) outer: usize,
    pub(super) inner: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Bytes of an element of B.
    pub(super) size: usize,
    /// Whether A can be read where it is.
    pub(super) ready: bool,
}

/// How much goes into the scratch at a time.
struct Rounds {
    outer: usize,
    rows: usize,
    columns: usize,
}

impl Extents {
    fn rounds(&self) -> Rounds {
        let width = panel_width(self.isa);
        let panel = (self.k * width * self.size).max(1);
        let whole = self.n.div_ceil(width) * panel;
        let mut rounds = Rounds { outer: self.outer, rows: self.m, columns: self.n };
        if whole > BUDGET {
            rounds.outer = 1;
            rounds.columns = (BUDGET / panel * width / NC * NC).clamp(NC, self.n.max(NC));
        } else {
            rounds.outer = (BUDGET / whole.max(1)).min(self.outer);
        }
        if !self.ready {
            let row = (self.inner * self.k * 4).max(1);
            if row * self.m > BUDGET {
                rounds.outer = 1;
                rounds.rows = (BUDGET / row / MC * MC).clamp(MC, self.m.max(MC));
            } else {
                rounds.outer = (BUDGET / (row * self.m).max(1)).min(rounds.outer);
            }
        }
        rounds.outer = rounds.outer.max(1);
        rounds
    }

    /// Elements of panels, and of widened rows.
    fn room(&self) -> (usize, usize) {
        let rounds = self.rounds();
        let columns = rounds.columns.min(self.n).next_multiple_of(panel_width(self.isa));
        let rows = rounds.rows.min(self.m);
        let panels = rounds.outer * columns * self.k;
        (panels, if self.ready { 0 } else { rounds.outer * self.inner * rows * self.k })
    }

    /// Bytes of scratch that [`super::dot::few`] needs.
    pub(super) fn few_scratch_bytes(&self) -> usize {
        lines(if self.ready { 0 } else { self.outer * self.inner * self.m * self.k * 4 })
    }

    /// Bytes of scratch that [`products`] needs.
    pub(super) fn scratch_bytes(&self) -> usize {
        let (panels, rows) = self.room();
        lines(panels * self.size) + lines(rows * size_of::<f32>())
    }
}

/// Computes all products: `rows(outer, inner)` times `columns(outer)` into `sink(outer, inner)`.
///
/// # Safety
/// What the functions give is valid for the extents; the sinks overlap with nothing.
pub(super) unsafe fn products<'a, A: Element, C: Columns, T: Element>(
    pool: &Pool,
    e: &Extents,
    rows: impl Fn(usize, usize) -> Rows<A> + Sync,
    columns: impl Fn(usize) -> C + Sync,
    sink: impl Fn(usize, usize) -> Sink<'a, T> + Sync,
    mut scratch: &mut [u8],
) {
    let width = panel_width(e.isa);
    let rounds = e.rounds();
    let (panels_room, rows_room) = e.room();
    let panels = take::<C::T>(&mut scratch, panels_room);
    let widened = take::<f32>(&mut scratch, rows_room);
    for outer in steps(e.outer, rounds.outer) {
        let outers = rounds.outer.min(e.outer - outer);
        for column in steps(e.n, rounds.columns) {
            let n = rounds.columns.min(e.n - column);
            let each = n.div_ceil(width);
            let first = |i: usize| (columns(outer + i / each), column + i % each * width);
            // SAFETY: the panels have their room, and the columns exist.
            unsafe { pack_panels(pool, e.isa, e.k, outers * each, first, panels) };
            for row in steps(e.m, rounds.rows) {
                let m = rounds.rows.min(e.m - row);
                let part = Part { outer, outers, row, m, column, n };
                let widen = !e.ready && (column == 0 || rounds.rows < e.m);
                // SAFETY: the caller vouches for rows and sinks.
                unsafe {
                    if widen {
                        part.widen(pool, e, &rows, widened);
                    }
                    part.blocks(pool, e, &rows, widened, panels, &sink);
                }
            }
        }
    }
}

/// Computes one product of which B is packed.
///
/// # Safety
/// `rows` and `panels` are valid for the extents; the sink overlaps with nothing.
pub(super) unsafe fn packed_product<'a, A: Element, W: Element, T: Element>(
    pool: &Pool,
    e: &Extents,
    rows: impl Fn(usize, usize) -> Rows<A> + Sync,
    panels: *const W,
    sink: impl Fn(usize, usize) -> Sink<'a, T> + Sync,
    mut scratch: &mut [u8],
) {
    let rounds = e.rounds();
    let widened = take::<f32>(&mut scratch, e.room().1);
    let panels = Raw(panels.cast_mut());
    for row in steps(e.m, rounds.rows) {
        let m = rounds.rows.min(e.m - row);
        let part = Part { outer: 0, outers: 1, row, m, column: 0, n: e.n };
        // SAFETY: the caller vouches for all operands.
        unsafe {
            if !e.ready {
                part.widen(pool, e, &rows, widened);
            }
            part.blocks(pool, e, &rows, widened, panels, &sink);
        }
    }
}

/// The extents of products whose columns are packed by the tasks that need them: `outer` pairs of
/// matrices, of which A is f32 with rows that can be read where they are.
#[derive(Clone, Copy)]
pub(super) struct Local {
    pub(super) isa: Isa,
    pub(super) outer: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Bytes of an element of B.
    pub(super) size: usize,
}

/// Bytes of panels that a task packs: they stay in L2 or near it.
const LOCAL: usize = 512 << 10;

impl Local {
    /// Rows and columns of a task. Tasks of the same columns pack them again, so rows are cut only
    /// where there are few columns.
    fn cut(&self) -> Cut {
        let width = panel_width(self.isa);
        let most = LOCAL / (self.k * self.size * width).max(1) * width;
        let mut cut = Cut { rows: self.m, columns: most.clamp(width, NC) };
        let tasks = |cut: Cut| self.outer * cut.blocks(self.m, self.n);
        while tasks(cut) < ENOUGH && cut.columns >= 64 {
            cut.columns = (cut.columns / 2).next_multiple_of(width);
        }
        if tasks(cut) < ENOUGH {
            let parts = (ENOUGH / tasks(cut).max(1)).clamp(1, self.m.div_ceil(MC));
            cut.rows = self.m.div_ceil(parts);
        }
        cut
    }

    /// Bytes of the panels of one task.
    fn room(&self) -> usize {
        let columns = self.cut().columns.min(self.n.next_multiple_of(panel_width(self.isa)));
        lines(columns * self.k * self.size)
    }

    /// Bytes of scratch that [`local_products`] needs.
    pub(super) fn scratch_bytes(&self, threads: usize) -> usize {
        self.room() * threads
    }
}

/// Computes `rows(outer)` times `columns(outer)` into `sink(outer)`, each of which a task packs as
/// far as it needs them.
///
/// # Safety
/// What the functions give is valid for the extents; the sinks overlap with nothing.
pub(super) unsafe fn local_products<'a, C: Columns, T: Element>(
    pool: &Pool,
    e: &Local,
    rows: impl Fn(usize) -> Rows<f32> + Sync,
    columns: impl Fn(usize) -> C + Sync,
    sink: impl Fn(usize) -> Sink<'a, T> + Sync,
    scratch: &mut [u8],
) {
    let &Local { isa, outer, m, n, k, .. } = e;
    let (cut, width) = (e.cut(), panel_width(isa));
    let (tall, each) = (m.div_ceil(cut.rows), cut.blocks(m, n));
    let rooms = Rooms::new(scratch, pool.threads(), e.room());
    share(pool, outer * each, cut.rows * cut.columns.min(n) * k, &|i| {
        let (place, block) = (i / each, i % each);
        let (row, column) = (block % tall * cut.rows, block / tall * cut.columns);
        let (high, wide) = (cut.rows.min(m - row), cut.columns.min(n - column));
        let from = columns(place);
        let mut sink = sink(place);
        sink.c = Raw(sink.c.offset(row as isize * sink.row + column as isize * sink.column));
        sink.bias = sink.bias.of(row, high, column, wide);
        let (a, a_row) = rows(place).from(row).as_f32();
        rooms.with(|room| {
            let panels: *mut C::T = room.cast();
            for p in 0..wide.div_ceil(width) {
                // SAFETY: the room is for all panels of the block, and the columns exist.
                unsafe { from.pack(column + p * width, width, panels.add(p * width * k)) };
            }
            let b = panels.cast_const();
            let cut = Cut { rows: MC, columns: NC };
            let ready = Ready { isa, m: high, n: wide, k, a, a_row, b, cut };
            for index in 0..cut.blocks(high, wide) {
                // SAFETY: the operands are ready, and blocks are disjoint.
                unsafe { ready.block(index, &sink) };
            }
        });
    });
}

fn steps(all: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..all).step_by(step.max(1))
}

/// What is computed in one round.
struct Part {
    outer: usize,
    outers: usize,
    row: usize,
    m: usize,
    column: usize,
    n: usize,
}

impl Part {
    /// Widens the rows of the part, matrix after matrix.
    ///
    /// # Safety
    /// The rows exist and `to` has room for them.
    unsafe fn widen<A: Element>(
        &self,
        pool: &Pool,
        e: &Extents,
        rows: &(impl Fn(usize, usize) -> Rows<A> + Sync),
        to: Raw<f32>,
    ) {
        let tall = self.m.div_ceil(MC);
        share(pool, self.outers * e.inner * tall, 8 * MC * e.k, &|i| {
            let (z, i) = (i / tall, i % tall * MC);
            let from = rows(self.outer + z / e.inner, z % e.inner).from(self.row + i);
            let to = to.add((z * self.m + i) * e.k);
            // SAFETY: these rows exist, and their room is this task's alone.
            unsafe { from.widen(e.isa, MC.min(self.m - i), e.k, to) };
        });
    }

    /// Computes the part from panels, and from rows where they are or widened.
    ///
    /// # Safety
    /// All of these are valid for the part; the sinks overlap with nothing.
    unsafe fn blocks<'a, A: Element, W: Element, T: Element>(
        &self,
        pool: &Pool,
        e: &Extents,
        rows: &(impl Fn(usize, usize) -> Rows<A> + Sync),
        widened: Raw<f32>,
        panels: Raw<W>,
        sink: &(impl Fn(usize, usize) -> Sink<'a, T> + Sync),
    ) {
        let &Part { outer, outers, row, m, column, n } = self;
        let width = panel_width(e.isa);
        let matrix = n.next_multiple_of(width) * e.k;
        let cut = Cut::new(m, n, e.k * width * e.size, width);
        let blocks = cut.blocks(m, n);
        let work = cut.rows.min(m) * cut.columns.min(n) * e.k;
        share(pool, outers * e.inner * blocks, work, &|i| {
            let (z, index) = (i / blocks, i % blocks);
            let (o, inner) = (z / e.inner, z % e.inner);
            let (a, a_row) = match e.ready {
                true => rows(outer + o, inner).from(row).as_f32(),
                false => (widened.add(z * m * e.k).cast_const(), e.k as isize),
            };
            let b = panels.add(o * matrix).cast_const();
            let ready = Ready { isa: e.isa, m, n, k: e.k, a, a_row, b, cut };
            let mut sink = sink(outer + o, inner);
            let at = row as isize * sink.row + column as isize * sink.column;
            sink.c = Raw(sink.c.offset(at));
            sink.bias = sink.bias.of(row, m, column, n);
            // SAFETY: the operands are ready, and blocks are disjoint.
            unsafe { ready.block(index, &sink) };
        });
    }
}
