use half::{bf16, f16};

use super::super::matmul::{matmul_on, matmul_scratch_bytes_on};
use super::super::{BatchAxis, Product, matmul_f64, matmul_i32};
use super::{Random, Scratch, bits, near, wide};
use crate::Pool;
use crate::simd::{Element, available, isa};

fn product(m: usize, n: usize, k: usize) -> Product {
    Product::dense(m, n, k)
}

fn axis(count: usize, a: isize, b: isize, c: isize) -> BatchAxis {
    BatchAxis { count, a, b, c }
}

/// Shapes and strides of every road through the code.
fn products() -> Vec<Product> {
    let mut all = Vec::new();
    // Blocks, tiles and their edges.
    for (m, n, k) in [
        (1, 1, 1),
        (5, 7, 3),
        (48, 128, 64),
        (49, 129, 65),
        (100, 17, 257),
        (13, 300, 31),
        (97, 15, 1030),
        (7, 16, 512),
        (6, 33, 256),
        (64, 5, 100),
    ] {
        all.push(product(m, n, k));
        all.push(Product { b: [1, k as isize], ..product(m, n, k) });
        all.push(Product { a: [1, m as isize], ..product(m, n, k) });
        all.push(Product { c: [1, m as isize], ..product(m, n, k) });
        all.push(Product { c: [2 * n as isize, 2], b: [2 * n as isize, 2], ..product(m, n, k) });
    }
    // Few rows and few columns.
    for few in 1..=4 {
        for (n, k) in [(1, 9), (3, 300), (130, 64), (261, 37)] {
            all.push(product(few, n, k));
            all.push(Product { b: [1, k as isize], ..product(few, n, k) });
            all.push(Product { b: [3, 3 * k as isize], ..product(few, n, k) });
            all.push(product(n, few, k));
            all.push(Product { a: [1, n as isize], ..product(n, few, k) });
        }
    }
    // Empty in one way or the other.
    all.extend([product(0, 3, 4), product(3, 0, 4), product(3, 20, 0), product(30, 20, 0)]);
    // Batches: one, broadcast, folded into rows, with gaps.
    let (m, n, k) = (9, 20, 12);
    let (mk, kn, mn) = ((m * k) as isize, (k * n) as isize, (m * n) as isize);
    for batch in [
        vec![axis(3, mk, kn, mn)],
        vec![axis(3, mk, 0, mn)],
        vec![axis(3, 0, kn, mn)],
        vec![axis(2, 0, 3 * kn, 3 * mn), axis(3, mk, kn, mn)],
        vec![axis(2, 3 * mk, 0, 3 * mn), axis(3, mk, kn, mn)],
        vec![axis(4, mk, kn, mn), axis(1, 7, 7, 7), axis(3, 4 * mk, 0, 4 * mn)],
        vec![axis(0, mk, kn, mn)],
    ] {
        all.push(Product { batch, ..product(m, n, k) });
    }
    // Rows of a batch lie apart from each other, as heads do.
    let heads = vec![axis(2, 6, 6, 7 * 5)];
    all.push(Product { a: [12, 1], b: [1, 12], c: [5, 1], batch: heads, ..product(7, 5, 6) });
    let vectors = vec![axis(40, 10, 0, 6)];
    all.push(Product { batch: vectors, ..product(1, 6, 10) });
    all
}

fn reach(strides: &[(usize, isize)]) -> usize {
    strides.iter().map(|&(n, s)| n.saturating_sub(1) * s.unsigned_abs()).sum::<usize>() + 1
}

/// Elements behind a, b and c.
fn sizes(p: &Product) -> [usize; 3] {
    let of = |two: [(usize, isize); 2], axis: fn(&BatchAxis) -> isize| {
        let batch = p.batch.iter().map(|x| (x.count, axis(x)));
        reach(&two.into_iter().chain(batch).collect::<Vec<_>>())
    };
    [
        of([(p.m, p.a[0]), (p.k, p.a[1])], |x| x.a),
        of([(p.k, p.b[0]), (p.n, p.b[1])], |x| x.b),
        of([(p.m, p.c[0]), (p.n, p.c[1])], |x| x.c),
    ]
}

/// Calls `f(a index of (i, 0), b index of (0, j), c index)` for every element of C.
fn each_element(p: &Product, mut f: impl FnMut(isize, isize, isize)) {
    for place in 0..p.count() {
        let [a, b, c] = p.offsets(place);
        for i in 0..p.m as isize {
            for j in 0..p.n as isize {
                f(a + i * p.a[0], b + j * p.b[1], c + i * p.c[0] + j * p.c[1]);
            }
        }
    }
}

fn holds<T: Element>(p: &Product) {
    let mut random = Random(p.m as u64 + 131 * p.n as u64);
    let [a_size, b_size, c_size] = sizes(p);
    let (a, b) = (random.vec::<T>(a_size), random.vec::<T>(b_size));
    for &isa in available() {
        let mut results = Vec::new();
        for threads in [1, 3] {
            let mut c = vec![T::from_f32(77.0); c_size];
            let mut scratch = Scratch::new(matmul_scratch_bytes_on::<T>(isa, p));
            let pool = Pool::new(threads);
            let (a, b, c_at) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: the vectors reach as far as the product does.
            unsafe { matmul_on(isa, &pool, p, a, b, c_at, scratch.bytes()) };
            results.push(c);
        }
        assert_eq!(bits(&results[0]), bits(&results[1]), "{isa} {p:?}: threads show");
        let mut written = vec![false; c_size];
        each_element(p, |a_at, b_at, c_at| {
            let (mut want, mut size) = (0.0, 0.0);
            for step in 0..p.k as isize {
                let x = wide(a[(a_at + step * p.a[1]) as usize]);
                let y = wide(b[(b_at + step * p.b[0]) as usize]);
                want += x * y;
                size += (x * y).abs();
            }
            let got = results[0][c_at as usize];
            written[c_at as usize] = true;
            assert!(near(got, want, size), "{isa} {p:?}: {} instead of {want}", wide(got));
        });
        for (x, written) in results[0].iter().zip(written) {
            assert!(written || wide(*x) == 77.0, "{isa} {p:?}: written beside C");
        }
    }
}

#[test]
fn products_of_f32_are_those_of_f64_loops() {
    products().iter().for_each(holds::<f32>);
}

#[test]
fn products_of_f16_are_those_of_f64_loops() {
    products().iter().for_each(holds::<f16>);
}

#[test]
fn products_of_bf16_are_those_of_f64_loops() {
    products().iter().for_each(holds::<bf16>);
}

#[test]
fn random_strides_of_any_sign_and_order_hold() {
    let mut random = Random(5);
    for _ in 0..60 {
        let mut next = |top: usize| 1 + random.below(top);
        let (m, n, k, z) = (next(20), next(40), next(40), next(3));
        let mut two = |rows: usize, columns: usize| {
            let gap = next(3) as isize;
            match next(2) == 1 {
                true => [columns as isize * gap, gap],
                false => [gap, rows as isize * gap],
            }
        };
        let (a, b, c) = (two(m, k), two(k, n), two(m, n));
        let apart = |s: [isize; 2], rows: usize, columns: usize| {
            reach(&[(rows, s[0]), (columns, s[1])]) as isize
        };
        let batch = vec![axis(z, apart(a, m, k), apart(b, k, n), apart(c, m, n))];
        holds::<f32>(&Product { m, n, k, a, b, c, batch });
    }
}

#[test]
fn rows_may_run_backwards() {
    let (m, n, k) = (50usize, 40usize, 30usize);
    let mut random = Random(9);
    let (a, b) = (random.vec::<f32>(m * k), random.vec::<f32>(k * n));
    let forwards = product(m, n, k);
    let backwards = Product { a: [-(k as isize), 1], ..product(m, n, k) };
    let pool = Pool::new(2);
    let run = |p: &Product, first: usize| {
        let mut c = vec![0f32; m * n];
        let mut scratch = Scratch::new(matmul_scratch_bytes_on::<f32>(isa(), p));
        let (a, b) = (a[first..].as_ptr(), b.as_ptr());
        // SAFETY: the first row is the last of a where the rows run backwards.
        unsafe { matmul_on(isa(), &pool, p, a, b, c.as_mut_ptr(), scratch.bytes()) };
        c
    };
    let (c, mirrored) = (run(&forwards, 0), run(&backwards, (m - 1) * k));
    for (row, mirror) in c.chunks(n).zip(mirrored.chunks(n).rev()) {
        // The two may take different ways, so sums may be rounded in another order.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 + 1e-5 * b.abs();
        assert!(row.iter().zip(mirror).all(close), "{row:?} is not {mirror:?}");
    }
}

#[test]
fn more_than_the_budget_goes_in_rounds() {
    // B of 6 MB and, in f16, A of 5 MB as f32; then many small ones.
    holds::<f32>(&product(5, 1100, 1400));
    holds::<f16>(&product(1300, 17, 1000));
    let batch = vec![axis(300, 50 * 64, 64 * 60, 50 * 60)];
    holds::<f32>(&Product { batch, ..product(50, 60, 64) });
}

#[test]
fn infinities_and_nans_go_where_arithmetic_takes_them() {
    let (m, n, k) = (7, 40, 20);
    for &isa in available() {
        let (mut a, b) = (vec![1f32; m * k], vec![0f32; k * n]);
        a[2 * k + 5] = f32::INFINITY;
        a[4 * k + 19] = f32::NAN;
        let (mut c, p) = (vec![0f32; m * n], product(m, n, k));
        let mut scratch = Scratch::new(matmul_scratch_bytes_on::<f32>(isa, &p));
        let (a, b, c_at) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: the vectors are as large as the product says.
        unsafe { matmul_on(isa, &Pool::new(1), &p, a, b, c_at, scratch.bytes()) };
        for (i, row) in c.chunks(n).enumerate() {
            // Infinity times zero is NaN, and stays in its row.
            assert!(row.iter().all(|x| if i == 2 || i == 4 { x.is_nan() } else { *x == 0.0 }));
        }
    }
}

#[test]
fn products_of_f64_are_those_of_loops() {
    let long = Product { c: [1, 200], ..product(200, 390, 50) };
    for p in products().into_iter().chain([long]) {
        let mut random = Random(3);
        let [a_size, b_size, c_size] = sizes(&p);
        let mut vec = |n| random.vec::<f32>(n).into_iter().map(|x| f64::from(x) / 3.0).collect();
        let (a, b): (Vec<f64>, Vec<f64>) = (vec(a_size), vec(b_size));
        let mut results = Vec::new();
        for threads in [1, 3] {
            let mut c = vec![77.0; c_size];
            // SAFETY: the vectors reach as far as the product does.
            unsafe {
                matmul_f64(&Pool::new(threads), &p, a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            }
            results.push(c);
        }
        assert!(results[0] == results[1], "{p:?}: threads show");
        each_element(&p, |a_at, b_at, c_at| {
            let steps = 0..p.k as isize;
            let want: f64 = steps
                .map(|s| a[(a_at + s * p.a[1]) as usize] * b[(b_at + s * p.b[0]) as usize])
                .sum();
            let got = results[0][c_at as usize];
            assert!((got - want).abs() <= 1e-13 * (1.0 + p.k as f64), "{p:?}: {got} for {want}");
        });
    }
}

#[test]
fn products_of_i32_are_exact_and_wrap_around() {
    for p in products() {
        let mut random = Random(3);
        let [a_size, b_size, c_size] = sizes(&p);
        let mut vec = |n| (0..n).map(|_| random.next() as i32).collect::<Vec<i32>>();
        let (a, b, mut c) = (vec(a_size), vec(b_size), vec![77; c_size]);
        // SAFETY: the vectors reach as far as the product does.
        unsafe { matmul_i32(&Pool::new(3), &p, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
        each_element(&p, |a_at, b_at, c_at| {
            let want = (0..p.k as isize).fold(0i64, |sum, s| {
                let x = i64::from(a[(a_at + s * p.a[1]) as usize]);
                sum.wrapping_add(x * i64::from(b[(b_at + s * p.b[0]) as usize]))
            });
            assert_eq!(c[c_at as usize], want as i32, "{p:?}");
        });
    }
}
