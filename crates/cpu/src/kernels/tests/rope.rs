//! Rope and its table against the formula in f64.

use super::super::rope::{RopeShape, rope, rope_table};
use super::*;

/// The rotation in f64, straight from the definition, of contiguous `[B, outer, T, inner, D]`:
/// `turn` gives sine and cosine.
fn truth(
    x: &[f64],
    shape: RopeShape,
    turn: impl Fn(usize, usize, usize) -> (f64, f64),
) -> Vec<f64> {
    let RopeShape { outer, tokens, inner, size, dims, interleaved, .. } = shape;
    let mut out = x.to_vec();
    for (row, (x, out)) in x.chunks(size).zip(out.chunks_mut(size)).enumerate() {
        let (token, batch) = (row / inner % tokens, row / (inner * tokens * outer));
        for i in 0..dims / 2 {
            let (j, k) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + dims / 2) };
            let (sin, cos) = turn(batch, token, i);
            out[j] = x[j] * cos - x[k] * sin;
            out[k] = x[j] * sin + x[k] * cos;
        }
    }
    out
}

fn inverse_frequencies(dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / dims as f64)).collect()
}

fn rope_case<T: Stored>() {
    for [batch, outer, tokens, inner, size, dims] in [
        [1, 1, 1, 1, 2, 2],
        [2, 3, 5, 1, 16, 16],
        [2, 1, 5, 3, 20, 10],
        [1, 4, 3, 2, 67, 34],
        [2, 2, 7, 2, 64, 6],
        [1, 8, 300, 1, 32, 32],
        [3, 1, 40, 4, 128, 128],
        [2, 2, 2, 2, 5, 0],
    ] {
        for (interleaved, rows) in [(false, 1), (true, 1), (false, batch), (true, batch)] {
            let shape = RopeShape { batch, outer, tokens, inner, size, dims, interleaved };
            let x = normal::<T>(batch * outer * tokens * inner * size, 4, 0.0, 1.0);
            let inv_freqs = inverse_frequencies(dims);
            let at = |b: usize, t: usize| (t * 37 + b % rows * 1001) as i64 - 50;
            let positions: Vec<i64> =
                (0..rows).flat_map(|b| (0..tokens).map(move |t| at(b, t))).collect();
            let mut cos = vec![0.0; rows * tokens * dims / 2];
            let mut sin = cos.clone();
            let pool = Pool::new(2);
            rope_table(&pool, &positions, (0.5, 1.0), &inv_freqs, &mut cos, &mut sin);
            let want =
                truth(&wide(&x), shape, |b, t, i| (at(b, t) as f64 * 0.5 * inv_freqs[i]).sin_cos());
            let what = format!("{shape:?}");
            for got in everywhere(&what, &x, |p, io| rope(p, io, shape, &cos, &sin)) {
                check(&what, &got, &want, 1e-7, 6e-7);
                // What is not rotated is copied, to the bit.
                for (got, x) in got.chunks(size).zip(x.chunks(size)) {
                    assert_same_bits(&what, &got[dims..], &x[dims..]);
                }
            }
        }
    }
}

#[test]
fn rope_equals_the_formula_in_every_layout() {
    for_each_type!(rope_case);
}

fn given_table_case<T: Stored, C: Element>() {
    for [batch, outer, tokens, inner, size, dims] in
        [[2, 3, 5, 1, 16, 16], [2, 1, 5, 3, 20, 10], [1, 4, 3, 2, 67, 34], [3, 1, 40, 4, 128, 128]]
    {
        for (interleaved, rows) in [(false, 1), (true, 1), (false, batch), (true, batch)] {
            let shape = RopeShape { batch, outer, tokens, inner, size, dims, interleaved };
            let x = normal::<T>(batch * outer * tokens * inner * size, 4, 0.0, 1.0);
            let len = rows * tokens * dims / 2;
            let (cos, sin) = (normal::<C>(len, 5, 0.0, 0.5), normal::<C>(len, 6, 0.0, 0.5));
            let want = truth(&wide(&x), shape, |b, t, i| {
                let at = (b % rows * tokens + t) * dims / 2 + i;
                (f64::from(sin[at].to_f32()), f64::from(cos[at].to_f32()))
            });
            let what = format!("{shape:?}");
            for got in everywhere(&what, &x, |p, io| rope(p, io, shape, &cos, &sin)) {
                check(&what, &got, &want, 1e-7, 6e-7);
            }
        }
    }
}

#[test]
fn tables_may_be_of_any_type_beside_any_other() {
    fn each<T: Stored>() {
        given_table_case::<T, f32>();
        given_table_case::<T, f16>();
        given_table_case::<T, bf16>();
    }
    for_each_type!(each);
}

#[test]
fn the_table_is_exact_to_f32_rounding_at_any_position() {
    let positions: Vec<i64> = (0..600)
        .chain([-1, -2, -77, 65_535, 1 << 20, (1 << 24) - 1, 1 << 24, -(1 << 24)])
        .chain([25_000_001, 1 << 31, 1 << 40, i64::MAX, i64::MIN])
        .collect();
    let inv_freqs = inverse_frequencies(64);
    for (scale, amplitude) in [(1.0, 1.0), (0.25, 1.3), (8.0, 1.0)] {
        let len = positions.len() * inv_freqs.len();
        for (&isa, threads) in available().iter().zip([1, 1, 1]) {
            let (mut cos, mut sin) = (vec![0f32; len], vec![0f32; len]);
            let pool = Pool::new(threads);
            with_isa(isa, || {
                rope_table(&pool, &positions, (scale, amplitude), &inv_freqs, &mut cos, &mut sin)
            });
            let mut at = 0;
            for &position in &positions {
                for &inv_freq in &inv_freqs {
                    let (s, c) = (position as f64 * scale * inv_freq).sin_cos();
                    for (got, want) in [(cos[at], c * amplitude), (sin[at], s * amplitude)] {
                        let room = want.abs() * f32::HALF_ULP + 2e-12;
                        let off = (f64::from(got) - want).abs();
                        assert!(off <= room, "{isa}: {position} {inv_freq}: {got:e}, not {want:e}");
                    }
                    at += 1;
                }
            }
            let (mut again, mut other) = (vec![0f32; len], vec![0f32; len]);
            let three = Pool::new(3);
            let (scale, inv) = ((scale, amplitude), &inv_freqs);
            rope_table(&three, &positions, scale, inv, &mut again, &mut other);
            assert_same_bits("cos", &again, &cos);
            assert_same_bits("sin", &other, &sin);
        }
    }
}

#[test]
fn angles_that_are_not_finite_give_nan_and_spoil_no_neighbour() {
    let (mut cos, mut sin) = ([0f32; 3], [0f32; 3]);
    let freqs = [f64::INFINITY, 1.0, 0.5];
    rope_table(&Pool::new(1), &[2], (1.0, 1.0), &freqs, &mut cos, &mut sin);
    assert!(cos[0].is_nan() && sin[0].is_nan());
    assert_eq!((cos[1], sin[2]), (2f64.cos() as f32, 1f64.sin() as f32));
}
