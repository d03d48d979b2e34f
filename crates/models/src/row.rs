//! What decoding asks of a row of logits, which is as long as a vocabulary: loops that the compiler
//! turns into vectors. (51864 logits on a Zen 3: 0.4 ms with `f32::exp` and `f32::max`, 0.06 so.)

/// Numbers side by side.
const LANES: usize = 16;

/// The largest number that is not NaN; -inf if there is none.
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for part in whole {
        for (top, &x) in tops.iter_mut().zip(part) {
            *top = if x > *top { x } else { *top };
        }
    }
    tops.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// The first of the largest numbers that is not -inf.
pub(crate) fn argmax(row: &[f32]) -> Option<usize> {
    let top = largest(row);
    row.iter().position(|&x| x == top && x > f32::NEG_INFINITY)
}

/// ln of the sum of e^x; -inf for a row of -inf. No number is NaN or +inf.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let top = largest(row);
    if top == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let mut sum = 0.0;
    // Short runs in f32, those in f64.
    for run in row.chunks(64 * LANES) {
        let mut sums = [0.0f32; LANES];
        let (whole, rest) = run.as_chunks::<LANES>();
        for part in whole {
            for (sum, &x) in sums.iter_mut().zip(part) {
                *sum += exp(x - top);
            }
        }
        sum += sums.iter().map(|&x| f64::from(x)).sum::<f64>();
        sum += rest.iter().map(|&x| f64::from(exp(x - top))).sum::<f64>();
    }
    f64::from(top) + sum.ln()
}

/// e^x of x up to 0, to 3 units in the last place; zero below -87, where it is under 2e-38; NaN of NaN.
pub(crate) fn exp(x: f32) -> f32 {
    /// Added to a small number, it rounds it to a whole one, in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts: multiples of the first by small whole numbers are exact.
    const LN2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    let near = if x < -87.0 { -87.0 } else { x };
    let shifted = near * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = near - n * LN2[0] - n * LN2[1];
    // The series of e^r: |r| is at most 0.35, and the next term 1.2e-7 of that seventh.
    let mut y = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        y = y * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { y * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 7919 % 10007) as f32 * 0.004 - 30.0).collect()
    }

    #[test]
    fn the_first_of_the_largest_is_found_and_minus_infinity_is_none() {
        let mut x = row(1003);
        for at in [0, 5, 15, 16, 700, 1002] {
            let before = std::mem::replace(&mut x[at], 77.0);
            assert_eq!((argmax(&x), largest(&x)), (Some(at), 77.0));
            x[at] = before;
        }
        (x[9], x[40]) = (80.0, 80.0);
        assert_eq!(argmax(&x), Some(9));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn exponentials_are_those_of_f64() {
        for i in 0..200_000 {
            let x = -88.0 * i as f32 / 200_000.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            let room = if x > -87.0 { want * 3.6e-7 } else { 2e-38 };
            assert!((got - want).abs() <= room, "e^{x} is not {got}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_logarithm_of_a_sum_is_that_of_f64() {
        for n in [1, 15, 16, 1000, 51864] {
            let mut x = row(n);
            x[n / 2] = f32::NEG_INFINITY;
            x[0] = 3.0;
            let want = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            assert!((log_sum_exp(&x) - want).abs() < 1e-6, "{n}: {want}");
        }
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
    }
}
