//! The inner loops: a block of C as f32 sums, from rows of A and panels of B.
//!
//! A tile of `MR x NR` sums stays in registers while k runs; per step it takes one row of the panel
//! and `MR` single numbers of A. The sizes fill the registers of each instruction set.

use std::mem::MaybeUninit;

use crate::simd::{Element, Isa, Simd, WithSimd};

/// Rows of a block.
pub(super) const MC: usize = 48;
/// Columns of a block, a multiple of every panel width.
pub(super) const NC: usize = 128;
/// Longest chain of fused steps: so much of a panel stays in L1, and rounding errors stay small.
/// (1500 x 384 x 1536 without an activation on one thread of a Zen 3: 92 GFLOP/s with 192 steps, 93
/// with 384.)
const KC: usize = 384;

/// The width of a panel: the columns of a tile.
pub(super) const fn panel_width(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 32,
        Isa::Avx2 => 16,
        Isa::Portable => PORTABLE_WIDTH,
    }
}

/// SSE2 has 16 registers of 4 lanes, NEON 32.
const PORTABLE_WIDTH: usize = if cfg!(target_arch = "x86_64") { 8 } else { 16 };

/// `0..k` is summed in parts of so many steps, all equal but for the last. Of the wide panels
/// of AVX-512 256 steps fill L1.
fn chain(isa: Isa, k: usize) -> usize {
    let most = if isa == Isa::Avx512 { 256 } else { KC };
    k.div_ceil(k.div_ceil(most).max(1)).max(1)
}

/// `sums[i][j] = a row i * b column j`, `rows x columns` of them with a pitch of [`NC`].
pub(super) struct Sums<W> {
    /// First row; k lies densely.
    pub(super) a: *const f32,
    /// From row to row.
    pub(super) a_row: isize,
    /// First panel, `[k][NR]`, and the others after it; or a matrix with columns side by side.
    pub(super) b: *const W,
    /// From row to row of that matrix; `None` for panels.
    pub(super) b_row: Option<isize>,
    pub(super) k: usize,
    /// At most [`MC`].
    pub(super) rows: usize,
    /// At most [`NC`].
    pub(super) columns: usize,
    /// Room for the rows; columns up to a whole panel are written.
    pub(super) sums: *mut f32,
    /// Where the results will go, which is asked for meanwhile, a cache line a row.
    pub(super) to: Target,
}

/// Memory that results will be written to, row by row. It need not exist.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) first: *const u8,
    /// Bytes from row to row, and from column to column.
    pub(super) row: isize,
    pub(super) column: usize,
}

impl Target {
    /// Nowhere.
    pub(super) const NONE: Target = Target { first: std::ptr::null(), row: 0, column: 0 };

    /// From a column on.
    fn at(self, column: usize) -> Target {
        Target { first: self.first.wrapping_add(column * self.column), ..self }
    }
}

impl<W: Element> WithSimd for Sums<W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes a Sums vouches for its pointers.
        unsafe {
            match S::ISA {
                Isa::Avx512 => self.tiles::<S, 12, 2>(s),
                Isa::Avx2 => self.tiles::<S, 6, 2>(s),
                Isa::Portable if cfg!(target_arch = "x86_64") => self.tiles::<S, 4, 1>(s),
                Isa::Portable => self.tiles::<S, 6, 2>(s),
            }
        }
    }
}

impl<W: Element> Sums<W> {
    /// # Safety
    /// The pointers are valid for what the fields say.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const MR: usize, const NV: usize>(self, s: S) {
        let width = NV * S::LANES;
        let panels = self.columns.div_ceil(width);
        let chain = chain(S::ISA, self.k);
        let chains = self.k.div_ceil(chain).max(1);
        let (b_row, b_panel) = match self.b_row {
            Some(row) => (row, width as isize),
            None => (width as isize, (self.k * width) as isize),
        };
        // Widening is dear without instructions for it: once a panel rather than once a tile.
        let widen = !W::IS_F32 && S::ISA == Isa::Portable && self.rows > MR && self.b_row.is_none();
        let mut wide = [const { MaybeUninit::<f32>::uninit() }; KC * PORTABLE_WIDTH];
        // Few rows read a panel once: then it is read from end to end.
        let (outer, inner) = if self.rows <= MR { (1, chains) } else { (chains, 1) };
        for part in 0..outer {
            for panel in 0..panels {
                let columns = match self.b_row {
                    Some(_) => width.min(self.columns - panel * width),
                    None => width,
                };
                for part in part..part + inner {
                    let from = part * chain;
                    let k = chain.min(self.k - from);
                    let b =
                        self.b.wrapping_offset(panel as isize * b_panel + from as isize * b_row);
                    let a = self.a.wrapping_add(from);
                    let sums = self.sums.wrapping_add(panel * width);
                    // The panel after this one is asked for while this one is multiplied.
                    let next = b.wrapping_offset(b_panel);
                    // The results of the last part.
                    let to = match part + 1 == chains {
                        true => self.to.at(panel * width),
                        false => Target::NONE,
                    };
                    let tile = Tile {
                        k,
                        to,
                        a,
                        a_row: self.a_row,
                        b,
                        b_row,
                        columns,
                        sums,
                        add: part > 0,
                        next,
                    };
                    // SAFETY: inside the matrices that the fields describe; a chain of a portable
                    // panel fits into `wide`.
                    unsafe {
                        if widen {
                            let wide = wide.as_mut_ptr().cast::<f32>();
                            for at in (0..k * width).step_by(S::LANES) {
                                s.store(wide.add(at), W::load(s, b.add(at)));
                            }
                            tile.of(wide.cast_const()).all::<S, MR, NV>(s, self.rows);
                        } else {
                            tile.all::<S, MR, NV>(s, self.rows);
                        }
                    }
                }
            }
        }
    }
}

/// One tile: the first rows of `a` times one panel.
#[derive(Clone, Copy)]
struct Tile<W> {
    k: usize,
    a: *const f32,
    a_row: isize,
    b: *const W,
    b_row: isize,
    /// Columns of `b` that may be read.
    columns: usize,
    sums: *mut f32,
    /// Whether the sums are added to what is there.
    add: bool,
    /// What will be read after this panel.
    next: *const W,
    to: Target,
}

impl<W: Element> Tile<W> {
    /// The same of another panel.
    #[inline(always)]
    fn of<V>(self, b: *const V) -> Tile<V> {
        let Tile { k, a, a_row, b_row, columns, sums, add, to, .. } = self;
        Tile { k, a, a_row, b, b_row, columns, sums, add, next: b, to }
    }

    /// This tile and those below it: as few as can be, and of heights as equal as can be, because
    /// low tiles wait for their sums.
    ///
    /// # Safety
    /// As for [`Tile::sum`], with `rows` rows in all.
    #[inline(always)]
    unsafe fn all<S: Simd, const MR: usize, const NV: usize>(mut self, s: S, rows: usize) {
        let (mut left, next, all) = (rows, self.next, rows.div_ceil(MR));
        for tiles in (1..=all).rev() {
            let rows = left.div_ceil(tiles);
            // The second tile finds its own panel in L1, and has time to ask for the next.
            self.next = if tiles == (all - 1).max(1) { next } else { self.b };
            if !self.to.first.is_null() {
                for _ in 0..rows {
                    s.prefetch(self.to.first);
                    self.to.first = self.to.first.wrapping_offset(self.to.row);
                }
            }
            // SAFETY: the caller's contract.
            unsafe { self.rows::<S, MR, NV>(s, rows) };
            self.a = self.a.wrapping_offset(rows as isize * self.a_row);
            self.sums = self.sums.wrapping_add(rows * NC);
            left -= rows;
        }
    }

    /// # Safety
    /// As for [`Tile::sum`], with `rows` rows, from 1 to `MR`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const MR: usize, const NV: usize>(self, s: S, rows: usize) {
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match rows {
                    // One row or two: steps in turn go to sums of their own, which overlap.
                    // SAFETY: the caller's contract, with this many rows.
                    1 => unsafe { self.sum::<S, 1, NV, 4>(s) },
                    // SAFETY: as above.
                    2 => unsafe { self.sum::<S, 2, NV, 2>(s) },
                    // The condition is constant: sizes past MR are not compiled.
                    // SAFETY: as above.
                    $($n if $n < MR => unsafe { self.sum::<S, $n, NV, 1>(s) },)*
                    // SAFETY: as above.
                    _ => unsafe { self.sum::<S, MR, NV, 1>(s) },
                }
            };
        }
        by_rows!(3 4 5 6 7 8 9 10 11)
    }

    /// # Safety
    /// `a` is valid for `MR` rows of `k`, `b` for `k` rows of `columns`, `sums` for the tile.
    #[inline(always)]
    unsafe fn sum<S: Simd, const MR: usize, const NV: usize, const KU: usize>(self, s: S) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.columns == NV * S::LANES {
                self.whole::<S, MR, NV, KU>(s);
            } else {
                for j in 0..NV {
                    self.partial::<S, MR>(s, j * S::LANES);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Tile::sum`]; all columns may be read.
    #[inline(always)]
    unsafe fn whole<S: Simd, const MR: usize, const NV: usize, const KU: usize>(&self, s: S) {
        let mut acc = [[[s.zero(); NV]; MR]; KU];
        let (mut b, mut next, mut p) = (self.b, self.next, 0);
        // SAFETY: step p < k.
        unsafe {
            while p + KU <= self.k {
                for acc in &mut acc {
                    for line in (0..NV * S::LANES).step_by(64 / size_of::<W>()) {
                        s.prefetch(next.wrapping_add(line));
                    }
                    self.step::<S, MR, NV>(s, p, b, acc);
                    p += 1;
                    b = b.wrapping_offset(self.b_row);
                    next = next.wrapping_offset(self.b_row);
                }
            }
            while KU > 1 && p < self.k {
                self.step::<S, MR, NV>(s, p, b, &mut acc[0]);
                p += 1;
                b = b.wrapping_offset(self.b_row);
            }
        }
        for i in 0..MR {
            for j in 0..NV {
                let mut sum = acc[0][i][j];
                for acc in &acc[1..] {
                    sum = s.add(sum, acc[i][j]);
                }
                // SAFETY: inside the tile.
                unsafe { self.put(s, i, j * S::LANES, sum) };
            }
        }
    }

    /// Adds step `p` of k, whose row of the panel is at `b`.
    ///
    /// # Safety
    /// As for [`Tile::sum`]; all columns may be read.
    #[inline(always)]
    unsafe fn step<S: Simd, const MR: usize, const NV: usize>(
        &self,
        s: S,
        p: usize,
        b: *const W,
        acc: &mut [[S::F; NV]; MR],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut row = [s.zero(); NV];
            for (j, v) in row.iter_mut().enumerate() {
                *v = W::load(s, b.add(j * S::LANES));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = s.splat(*self.a.offset(i as isize * self.a_row).add(p));
                for (acc, b) in acc.iter_mut().zip(row) {
                    *acc = s.fma(a, b, *acc);
                }
            }
        }
    }

    /// One vector of columns, as far as they may be read.
    ///
    /// # Safety
    /// As for [`Tile::sum`].
    #[inline(always)]
    unsafe fn partial<S: Simd, const MR: usize>(&self, s: S, first: usize) {
        let n = self.columns.saturating_sub(first).min(S::LANES);
        let mut acc = [s.zero(); MR];
        for p in 0..self.k {
            // SAFETY: p < k, and n columns from `first` may be read.
            unsafe {
                let b = self.b.wrapping_offset(p as isize * self.b_row).wrapping_add(first);
                let b = W::load_partial(s, b, n);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = s.splat(*self.a.offset(i as isize * self.a_row).add(p));
                    *acc = s.fma(a, b, *acc);
                }
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            // SAFETY: inside the tile.
            unsafe { self.put(s, i, first, acc) };
        }
    }

    /// # Safety
    /// A vector at row `i`, column `j` is inside the tile.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, i: usize, j: usize, sum: S::F) {
        // SAFETY: the caller's contract.
        unsafe {
            let to = self.sums.add(i * NC + j);
            let sum = if self.add { s.add(s.load(to), sum) } else { sum };
            s.store(to, sum);
        }
    }
}
