//! Products of f64, by the `gemm` crate, and of i32, which wrap around.

use super::{Product, Raw, share};
use crate::Pool;

/// Rows and columns of a block of C that is a task.
const BLOCK: usize = 192;

/// Computes `product` in f64.
///
/// # Safety
/// As for [`super::matmul`].
pub(crate) unsafe fn matmul_f64(
    pool: &Pool,
    product: &Product,
    a: *const f64,
    b: *const f64,
    c: *mut f64,
) {
    // SAFETY: the caller's contract; blocks are disjoint.
    unsafe {
        blocks(pool, product, a, b, c, |block: &Block, a, b, c| {
            let (p, none) = (block.product, ::gemm::Parallelism::None);
            // The crate takes the steps along columns first.
            ::gemm::gemm(
                block.rows,
                block.columns,
                p.k,
                c,
                p.c[1],
                p.c[0],
                false,
                a,
                p.a[1],
                p.a[0],
                b,
                p.b[1],
                p.b[0],
                0.0,
                1.0,
                false,
                false,
                false,
                none,
            );
        });
    }
}

/// Computes `product` in i32; sums wrap around.
///
/// # Safety
/// As for [`super::matmul`].
pub(crate) unsafe fn matmul_i32(
    pool: &Pool,
    product: &Product,
    a: *const i32,
    b: *const i32,
    c: *mut i32,
) {
    // SAFETY: the caller's contract; blocks are disjoint.
    unsafe {
        blocks(pool, product, a, b, c, |block: &Block, a, b, c| {
            let (p, mut sums) = (block.product, [0i32; BLOCK]);
            for i in 0..block.rows as isize {
                let sums = &mut sums[..block.columns];
                sums.fill(0);
                for step in 0..p.k as isize {
                    let a = *a.offset(i * p.a[0] + step * p.a[1]);
                    let b = b.offset(step * p.b[0]);
                    if p.b[1] == 1 {
                        for (j, sum) in sums.iter_mut().enumerate() {
                            *sum = sum.wrapping_add(a.wrapping_mul(*b.add(j)));
                        }
                    } else {
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let b = *b.offset(j as isize * p.b[1]);
                            *sum = sum.wrapping_add(a.wrapping_mul(b));
                        }
                    }
                }
                for (j, &sum) in sums.iter().enumerate() {
                    *c.offset(i * p.c[0] + j as isize * p.c[1]) = sum;
                }
            }
        });
    }
}

struct Block<'a> {
    product: &'a Product,
    rows: usize,
    columns: usize,
}

/// Calls `f` for every block of every place, with the first elements of its rows of A, its columns
/// of B, and itself.
///
/// # Safety
/// As for [`super::matmul`].
unsafe fn blocks<T: Send + Sync>(
    pool: &Pool,
    product: &Product,
    a: *const T,
    b: *const T,
    c: *mut T,
    f: impl Fn(&Block, *const T, *const T, *mut T) + Sync,
) {
    if product.is_empty() {
        return;
    }
    let (m, n) = (product.m, product.n);
    let (a, b, c) = (Raw(a.cast_mut()), Raw(b.cast_mut()), Raw(c));
    let (tall, broad) = (m.div_ceil(BLOCK), n.div_ceil(BLOCK));
    let work = m.min(BLOCK) * n.min(BLOCK) * product.k;
    share(pool, product.count() * tall * broad, work, &|task| {
        let (place, block) = (task / (tall * broad), task % (tall * broad));
        let (row, column) = (block % tall * BLOCK, block / tall * BLOCK);
        let (i, j) = (row as isize, column as isize);
        let [to_a, to_b, to_c] = product.offsets(place);
        let block = Block { product, rows: BLOCK.min(m - row), columns: BLOCK.min(n - column) };
        let a = a.offset(to_a + i * product.a[0]);
        let b = b.offset(to_b + j * product.b[1]);
        f(&block, a, b, c.offset(to_c + i * product.c[0] + j * product.c[1]));
    });
}
