//! Operands made ready: columns of B as panels, rows of A as dense f32.

use std::{any::TypeId, ops::Range};

use super::tile::panel_width;
use super::{Raw, lines, on, share};
use crate::simd::{Element, Isa, Simd, WithSimd, isa};
use crate::{Pool, slab::Piece};

/// Something whose columns can be laid out as panels: `[k][NR]`, zeros past the last column.
pub(crate) trait Columns: Copy + Sync {
    /// The storage type, kept in the panel.
    type T: Element;
    /// Writes the panel of `width` columns from `first` on.
    ///
    /// # Safety
    /// `panel` has room for `k * width` elements; the columns `first..` that exist are readable.
    unsafe fn pack(self, first: usize, width: usize, panel: *mut Self::T);
}

/// The columns of a matrix anywhere in memory.
#[derive(Clone, Copy)]
pub(super) struct Strided<T> {
    pub(super) at: Raw<T>,
    pub(super) k: usize,
    pub(super) columns: usize,
    /// From step to step along k.
    pub(super) step: isize,
    /// From column to column.
    pub(super) column: isize,
}

impl<T: Element> Columns for Strided<T> {
    type T = T;

    unsafe fn pack(self, first: usize, width: usize, panel: *mut T) {
        let columns = width.min(self.columns - first);
        let from = self.at.offset(first as isize * self.column);
        // SAFETY: `columns` columns exist, and the panel has k rows of `width >= columns`.
        unsafe {
            if columns < width {
                std::slice::from_raw_parts_mut(panel, self.k * width).fill(T::ZERO);
            }
            match (columns == width, width) {
                (true, 8) => self.whole::<8>(from, panel),
                (true, 16) => self.whole::<16>(from, panel),
                (true, 32) => self.whole::<32>(from, panel),
                _ => {
                    for p in 0..self.k {
                        for j in 0..columns {
                            let x = from.offset(p as isize * self.step + j as isize * self.column);
                            *panel.add(p * width + j) = *x;
                        }
                    }
                }
            }
        }
    }
}

impl<T: Element> Strided<T> {
    /// # Safety
    /// `from` is the first of `N` columns; the panel has room for `k * N`.
    unsafe fn whole<const N: usize>(self, from: *const T, panel: *mut T) {
        for p in 0..self.k {
            // SAFETY: p < k.
            unsafe {
                let row = from.offset(p as isize * self.step);
                let to = panel.add(p * N);
                if self.column == 1 {
                    std::ptr::copy_nonoverlapping(row, to, N);
                } else {
                    for j in 0..N {
                        *to.add(j) = *row.offset(j as isize * self.column);
                    }
                }
            }
        }
    }
}

/// The columns of a matrix of halves, as f32. Those of a dense weight, one after the other.
#[derive(Clone, Copy)]
struct Widened<T> {
    weight: Raw<T>,
    k: usize,
    columns: usize,
    isa: Isa,
}

impl<T: Element> Columns for Widened<T> {
    type T = f32;

    unsafe fn pack(self, first: usize, width: usize, panel: *mut f32) {
        let (k, columns) = (self.k, width.min(self.columns - first));
        let mut wide = vec![0f32; columns * k];
        let at = self.weight.add(first * k);
        let rows = Rows { at: Raw(at), row: k as isize, step: 1 };
        let at = Raw(wide.as_mut_ptr());
        let dense = Strided { at, k, columns, step: 1, column: k as isize };
        // SAFETY: these columns exist, and `wide` has room for them; the panel has its own.
        unsafe {
            rows.widen(self.isa, columns, k, wide.as_mut_ptr());
            dense.pack(0, width, panel);
        }
    }
}

/// Packs `panels` panels, from column `first` on, one after the other.
///
/// # Safety
/// The columns that exist are readable, and `to` has room for the panels.
pub(super) unsafe fn pack_panels<C: Columns>(
    pool: &Pool,
    isa: Isa,
    k: usize,
    panels: usize,
    first: impl Fn(usize) -> (C, usize) + Sync,
    to: Raw<C::T>,
) {
    let width = panel_width(isa);
    share(pool, panels, 8 * k * width, &|i| {
        let (columns, first) = first(i);
        // SAFETY: panel i is this task's alone; the caller vouches for the columns.
        unsafe { columns.pack(first, width, to.add(i * k * width)) };
    });
}

/// Rows of a matrix anywhere in memory.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub(super) at: Raw<T>,
    /// From row to row.
    pub(super) row: isize,
    /// From step to step along k.
    pub(super) step: isize,
}

impl<T: Element> Rows<T> {
    /// Whether the tiles can read them where they are.
    pub(super) fn ready(step: isize, k: usize) -> bool {
        T::IS_F32 && (step == 1 || k <= 1)
    }

    /// The rows from `first` on.
    pub(super) fn from(self, first: usize) -> Rows<T> {
        Rows { at: Raw(self.at.offset(first as isize * self.row)), ..self }
    }

    /// The first row and the distance between rows, of rows that are ready (and so are f32).
    pub(super) fn as_f32(self) -> (*const f32, isize) {
        debug_assert!(T::IS_F32);
        (self.at.0.cast_const().cast(), self.row)
    }

    /// Writes `rows` rows densely as f32.
    ///
    /// # Safety
    /// The rows are readable and `to` has room for `rows * k`.
    pub(super) unsafe fn widen(self, isa: Isa, rows: usize, k: usize, to: *mut f32) {
        if self.step == 1 {
            on(isa, Widen { rows: self, count: rows, k, to });
            return;
        }
        // Small squares, because reads and writes cannot both run along memory.
        for (i, p) in squares(rows, k) {
            for (i, p) in (i.start..i.end).flat_map(|i| p.clone().map(move |p| (i, p))) {
                // SAFETY: inside both matrices.
                unsafe {
                    let x = *self.at.offset(i as isize * self.row + p as isize * self.step);
                    *to.add(i * k + p) = x.to_f32();
                }
            }
        }
    }
}

/// The squares of a matrix, side by side along its columns.
fn squares(rows: usize, columns: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    const SIDE: usize = 16;
    (0..columns).step_by(SIDE).flat_map(move |j| {
        let square = move |i| (i..rows.min(i + SIDE), j..columns.min(j + SIDE));
        (0..rows).step_by(SIDE).map(square)
    })
}

struct Widen<T> {
    rows: Rows<T>,
    count: usize,
    k: usize,
    to: *mut f32,
}

impl<T: Element> WithSimd for Widen<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.count {
            let from = self.rows.at.offset(i as isize * self.rows.row);
            let mut p = 0;
            // SAFETY: k elements are readable from `from`, and `to` has `count` rows of k.
            unsafe {
                let to = self.to.add(i * self.k);
                while p + S::LANES <= self.k {
                    s.store(to.add(p), T::load(s, from.add(p)));
                    p += S::LANES;
                }
                let rest = self.k - p;
                s.store_partial(to.add(p), rest, T::load_partial(s, from.add(p), rest));
            }
        }
    }
}

/// The weight of a linear layer, `[n, k]`, laid out as panels once for all products with it, in
/// the type that it had or in f32.
pub(crate) struct Packed<P> {
    panels: Piece,
    /// What it was packed for.
    pub(super) isa: Isa,
    pub(super) n: usize,
    pub(super) k: usize,
    elements: std::marker::PhantomData<P>,
}

impl<P: Element> Packed<P> {
    /// Packs a dense row-major `weight` of `[n, k]`.
    ///
    /// # Panics
    /// If the weight has another size, or is neither of type `P` nor to be widened to it.
    pub(crate) fn new<W: Element>(pool: &Pool, weight: &[W], n: usize, k: usize) -> Packed<P> {
        Packed::new_on(pool, isa(), weight, n, k)
    }

    pub(super) fn new_on<W: Element>(
        pool: &Pool,
        isa: Isa,
        weight: &[W],
        n: usize,
        k: usize,
    ) -> Packed<P> {
        let same = TypeId::of::<P>() == TypeId::of::<W>();
        assert!(same || P::IS_F32, "a weight is packed in its own type or in f32");
        assert_eq!(weight.len(), n * k, "weight is not [{n}, {k}]");
        let width = panel_width(isa);
        let bytes = lines(n.next_multiple_of(width) * k * size_of::<P>());
        let mut packed =
            Packed { panels: Piece::zeroed(bytes), isa, n, k, elements: std::marker::PhantomData };
        let to = packed.panels.as_mut_ptr();
        let (panels, at) = (n.div_ceil(width), Raw(weight.as_ptr().cast_mut()));
        // SAFETY: the weight has n rows of k, and the piece room for its panels, of W or of f32.
        unsafe {
            if same {
                let columns = Strided { at, k, columns: n, step: 1, column: k as isize };
                pack_panels(pool, isa, k, panels, |i| (columns, i * width), Raw(to.cast()));
            } else {
                let columns = Widened { weight: at, k, columns: n, isa };
                pack_panels(pool, isa, k, panels, |i| (columns, i * width), Raw(to.cast()));
            }
        }
        packed
    }

    /// The first panel.
    pub(super) fn panels(&self) -> *const P {
        self.panels.as_ptr().cast()
    }
}
