//! Elementary functions on lanes, for every instruction set at once.
//!
//! Each reduces its argument to a short interval and evaluates a minimax polynomial there (fitted
//! for this file by the Remez exchange, weighted by the relative error). The tests hold all of
//! them against f64 over dense grids, on every instruction set; the errors in the comments, in
//! units in the last place (ulp), are the largest seen there, with and without fused
//! multiply-add.
//!
//! NaN stays NaN, and unless said otherwise infinities and subnormal results come out right.

use super::{MAX_LANES, Simd};

/// `1.5 * 2^23`: adding it rounds a small number to a whole one, in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has nine bits, so that its multiples by small integers are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.fma(sum, x, s.splat(c[i]));
    }
    sum
}

/// [`polynomial`] of several, in step.
#[inline(always)]
fn polynomials<S: Simd, const N: usize, const V: usize>(
    s: S,
    x: [S::F; V],
    c: [f32; N],
) -> [S::F; V] {
    let mut sums = [s.splat(c[N - 1]); V];
    for i in (0..N - 1).rev() {
        let c = s.splat(c[i]);
        for v in 0..V {
            sums[v] = s.fma(sums[v], x[v], c);
        }
    }
    sums
}

/// Splits `x` into `n ln 2 + r` with whole `n` and `r` between -ln 2 / 2 and ln 2 / 2: returns `r`
/// and the f32 that holds `n` in its low bits.
#[inline(always)]
fn by_ln2<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUNDER));
    let n = s.sub(shifted, s.splat(ROUNDER));
    (s.fnma(n, s.splat(LN2_LOW), s.fnma(n, s.splat(LN2_HIGH), x)), shifted)
}

/// `e^r - 1` for such an `r`.
#[inline(always)]
fn exp_less_one<S: Simd>(s: S, r: S::F) -> S::F {
    const C: [f32; 5] = [0.499_999_93, 0.166_665_09, 0.041_668_527, 0.008_370_135, 0.001_381_166_3];
    s.fma(s.mul(r, r), polynomial(s, r, C), r)
}

/// `2^n (1 + less_one)`, where `shifted` holds `n`, from -127 (where the power is zero) to 128
/// (where it is infinite), in its low bits.
#[inline(always)]
fn scaled<S: Simd>(s: S, less_one: S::F, shifted: S::F) -> S::F {
    let power = s.add_i(s.shl_i::<23>(s.bits(shifted)), s.splat_i(0x3f80_0000));
    // Multiplied last: less than one time infinity, added to infinity, would be no number.
    s.mul(s.add(s.splat(1.0), less_one), s.from_bits(power))
}

/// `e^x`. 1 ulp.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Past these e^x is infinite or rounds to zero. The constant first lets NaN pass.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let (r, shifted) = by_ln2(s, x);
    let less_one = exp_less_one(s, r);
    // 2^n in two factors: n runs from -150 to 128, and one factor reaches from -126 to 127.
    let n = s.sub_i(s.bits(shifted), s.splat_i(ROUNDER.to_bits() as i32));
    let half = s.sar_i::<1>(n);
    let one = s.splat_i(127);
    let a = s.from_bits(s.shl_i::<23>(s.add_i(half, one)));
    let b = s.from_bits(s.shl_i::<23>(s.add_i(s.sub_i(n, half), one)));
    s.mul(s.fma(less_one, a, a), b)
}

/// `e^x`, infinite from 88.4 up and zero below -87.7 (where the result is under 1e-38): what a
/// softmax, a sigmoid and their like need. 1 ulp.
#[inline(always)]
pub(crate) fn exp_fast<S: Simd>(s: S, x: S::F) -> S::F {
    // The constants first let NaN pass.
    let x = s.max(s.splat(-88.0), s.min(s.splat(89.0), x));
    let (r, shifted) = by_ln2(s, x);
    scaled(s, exp_less_one(s, r), shifted)
}

/// Natural logarithm: -inf at zero, NaN below. 0.9 ulp.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F) -> S::F {
    const C: [f32; 8] = [
        0.333_333_3,
        -0.250_008_2,
        0.200_012_27,
        -0.166_233_57,
        0.142_017_57,
        -0.131_601_83,
        0.127_615_78,
        -0.076_345,
    ];
    // x = m 2^e with m from sqrt(1/2) to sqrt(2). Subnormals are scaled up by 2^23 first.
    let root = s.splat_i(0x3f35_04f3);
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let normal = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let shifted = s.sub_i(s.bits(normal), root);
    let e = s.to_f(s.sar_i::<23>(shifted));
    let e = s.select(tiny, s.sub(e, s.splat(23.0)), e);
    let m = s.from_bits(s.add_i(s.and_i(shifted, s.splat_i(0x007f_ffff)), root));
    // log(1 + f) = f - f^2 / 2 + f^3 P(f), the smallest terms first.
    let f = s.sub(m, s.splat(1.0));
    let ff = s.mul(f, f);
    let small = s.fma(e, s.splat(LN2_LOW), s.mul(s.mul(ff, f), polynomial(s, f, C)));
    let y = s.add(f, s.fnma(s.splat(0.5), ff, small));
    let y = s.fma(e, s.splat(LN2_HIGH), y);
    // Infinity and NaN are themselves; zero and less are not in the domain.
    let y = s.select(s.lt(x, s.splat(f32::INFINITY)), y, x);
    let y = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), y);
    s.select(s.lt(x, s.zero()), s.splat(f32::NAN), y)
}

/// Hyperbolic tangent. 1.3 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const C: [f32; 5] =
        [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_088, -0.005_704_987_3];
    let size = s.abs(x);
    let xx = s.mul(size, size);
    let small = s.fma(s.mul(xx, size), polynomial(s, xx, C), size);
    // 1 - 2 / (e^2x + 1); from 10 on that is 1 to the last bit.
    let e = exp_fast(s, s.min(s.splat(20.0), s.add(size, size)));
    let one = s.splat(1.0);
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.copysign(s.select(s.lt(size, s.splat(0.625)), small, large), x)
}

/// `1 / (1 + e^-x)`, zero below -88.4. 2.2 ulp.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    times_sigmoid(s, s.splat(1.0), x)
}

/// `x sigmoid(x)`, also called swish; zero below -88.4. 3 ulp.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    times_sigmoid(s, x, x)
}

/// `a / (1 + e^-x)`
#[inline(always)]
fn times_sigmoid<S: Simd>(s: S, a: S::F, x: S::F) -> S::F {
    s.div(a, s.add(s.splat(1.0), exp_fast(s, s.neg(x))))
}

/// The sigmoid form of GELU, `x sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu<S: Simd>(s: S, x: S::F) -> S::F {
    times_sigmoid(s, x, s.mul(s.splat(1.702), x))
}

/// The tanh form of GELU, `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, written as
/// `x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))`, which loses nothing where tanh is near -1.
/// 7 ulp above -2; the error grows with the exponent, to 44 ulp of a result of 5e-7 at -5.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let slope = s.fma(s.splat(0.071_354_814), s.mul(x, x), s.splat(1.595_769));
    times_sigmoid(s, x, s.mul(x, slope))
}

/// `e^(t^2) erfc(t)` for `t` from 0 up.
#[inline(always)]
fn erfc_scaled<S: Simd>(s: S, t: S::F) -> S::F {
    // In u = (t - 3) / (t + 3) the function times t + 3 is smooth up to infinity.
    const C: [f32; 10] = [
        1.074_006_9,
        -0.883_394_5,
        0.590_228_3,
        -0.310_466_17,
        0.119_528_67,
        -0.026_838_86,
        -0.001_224_005_8,
        0.003_079_207_8,
        -4.880_479_2e-4,
        -3.278_533e-4,
    ];
    let w = s.div(s.splat(1.0), s.add(t, s.splat(3.0)));
    let u = s.fnma(s.splat(6.0), w, s.splat(1.0));
    s.mul(w, polynomial(s, u, C))
}

/// `e^(-a^2)` for `a` from 0 to 4: the square is taken in two parts, because an error in the
/// exponent is a relative error of the result as many times larger as the exponent is.
#[inline(always)]
fn exp_minus_square<S: Simd>(s: S, a: S::F) -> S::F {
    let top = s.from_bits(s.and_i(s.bits(a), s.splat_i(!0xfff)));
    let hi = s.neg(s.mul(top, top));
    let lo = s.mul(s.sub(top, a), s.add(a, top));
    let (r, shifted) = by_ln2(s, hi);
    scaled(s, exp_less_one(s, s.add(r, lo)), shifted)
}

/// The error function. 1.4 ulp.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    const C: [f32; 7] = [
        0.128_379_17,
        -0.376_126_26,
        0.112_835_854,
        -0.026_853_813,
        0.005_188_327_7,
        -8.010_193_7e-4,
        7.853_861_5e-5,
    ];
    let size = s.abs(x);
    let small = s.fma(size, polynomial(s, s.mul(size, size), C), size);
    // From 4 on erf is 1 to the last bit. The constant first lets NaN pass.
    let a = s.min(s.splat(4.0), size);
    let large = s.fnma(exp_minus_square(s, a), erfc_scaled(s, a), s.splat(1.0));
    s.copysign(s.select(s.lt(size, s.splat(1.0)), small, large), x)
}

/// GELU, `x/2 (1 + erf(x / sqrt(2)))`, as `max(x, 0) - |x| Q(|x|)` with the normal distribution's
/// tail `Q(a) = erfc(a / sqrt(2)) / 2`, so that digits are kept where x is negative. 5 ulp above
/// zero, 10 above -2; the error grows with the exponent, to 140 ulp of a result of 6e-9 at -6; below
/// -9, where the result is under 1e-18, and at minus infinity (its limit, where the formula is NaN),
/// it is zero.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    gelu_erf_several(s, [x])[0]
}

/// [`gelu_erf`] of several vectors, in step: one waits for itself 70 cycles, and takes 22 alone, 19
/// as one of two and 15.5 as one of four (a Zen 3).
#[inline(always)]
pub(crate) fn gelu_erf_several<S: Simd, const V: usize>(s: S, x: [S::F; V]) -> [S::F; V] {
    // log2 Q, in its even and its odd powers.
    const EVEN: [f32; 7] = [
        -0.999_999_94,
        -0.459_191_5,
        0.007_042_535,
        -2.658_221e-4,
        -1.307_326_7e-5,
        -9.642_331_4e-8,
        -6.786_571e-11,
    ];
    const ODD: [f32; 6] = [
        -1.151_108_1,
        -0.052_519_377,
        -5.735_712e-5,
        7.844_878_6e-5,
        1.405_736_3e-6,
        3.844_843_6e-9,
    ];
    // 2^r for r from -1/2 to 1/2.
    const POWER: [f32; 6] =
        [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_1];
    let nine = s.splat(9.0);
    // The constant first lets NaN pass.
    let (mut a, mut aa) = (x, x);
    for v in 0..V {
        a[v] = s.min(nine, s.abs(x[v]));
        aa[v] = s.mul(a[v], a[v]);
    }
    let (even, odd) = (polynomials(s, aa, EVEN), polynomials(s, aa, ODD));
    let (mut r, mut shifted) = (x, x);
    for v in 0..V {
        let log = s.fma(a[v], odd[v], even[v]);
        shifted[v] = s.add(log, s.splat(ROUNDER));
        r[v] = s.sub(log, s.sub(shifted[v], s.splat(ROUNDER)));
    }
    let power = polynomials(s, r, POWER);
    let mut y = x;
    for v in 0..V {
        // The power of two goes into the exponent: it is -63 at the least.
        let tail = s.add_i(s.bits(power[v]), s.shl_i::<23>(s.bits(shifted[v])));
        let size = s.select(s.lt(a[v], nine), a[v], s.zero());
        y[v] = s.fnma(size, s.from_bits(tail), s.max(s.zero(), x[v]));
    }
    y
}

/// `1 / sqrt(x)`, both rounded as IEEE wants. 1.5 ulp.
#[inline(always)]
pub(crate) fn rsqrt<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(s.splat(1.0), s.sqrt(x))
}

/// Sine, for arguments of any size. 1.5 ulp.
#[inline(always)]
pub(crate) fn sin<S: Simd>(s: S, x: S::F) -> S::F {
    wave(s, x, 0)
}

/// Cosine, for arguments of any size. 1.5 ulp.
#[inline(always)]
pub(crate) fn cos<S: Simd>(s: S, x: S::F) -> S::F {
    wave(s, x, 1)
}

/// `sin(x + quarter pi/2)` for `quarter` 0 or 1.
#[inline(always)]
fn wave<S: Simd>(s: S, x: S::F, quarter: i32) -> S::F {
    const SIN: [f32; 4] = [-0.166_666_67, 0.008_333_329, -1.983_925_6e-4, 2.717_564_5e-6];
    const COS: [f32; 3] = [0.041_666_646, -0.001_388_730_6, 2.443_120_5e-5];
    // pi/2 in parts of eleven bits, whose products with n (ten bits) are exact, and a rest.
    const PARTS: [f32; 4] = [1.570_312_5, 4.837_513e-4, 7.549_533_6e-8, 2.563_344e-12];
    let shifted = s.fma(x, s.splat(std::f32::consts::FRAC_2_PI), s.splat(ROUNDER));
    let n = s.sub(shifted, s.splat(ROUNDER));
    let mut r = x;
    for part in PARTS {
        r = s.fnma(n, s.splat(part), r);
    }
    let rr = s.mul(r, r);
    let sine = s.fma(s.mul(rr, r), polynomial(s, rr, SIN), r);
    let minus_half = s.fma(rr, polynomial(s, rr, COS), s.splat(-0.5));
    let cosine = s.fma(rr, minus_half, s.splat(1.0));
    let n = s.add_i(s.bits(shifted), s.splat_i(quarter));
    let odd = s.eq_i(s.and_i(n, s.splat_i(1)), s.splat_i(1));
    let sign = s.and_i(s.shl_i::<30>(n), s.splat_i(i32::MIN));
    let y = s.select(odd, cosine, sine);
    let y = s.from_bits(s.xor_i(s.bits(y), sign));
    let fits = s.le(s.abs(x), s.splat(WAVE_LIMIT));
    if s.any(s.lt(s.select(fits, s.splat(1.0), s.zero()), s.splat(0.5))) {
        return wave_far(s, x, y, quarter);
    }
    // sin(-0) is -0, which the sums above lose.
    if quarter == 0 { s.select(s.eq(x, s.zero()), x, y) } else { y }
}

/// Up to here the four parts of pi/2 reduce without loss.
const WAVE_LIMIT: f32 = 1000.0;

/// Lane by lane in f64 where the argument is large; `near` elsewhere.
#[cold]
#[inline(never)]
fn wave_far<S: Simd>(s: S, x: S::F, near: S::F, quarter: i32) -> S::F {
    let (mut from, mut to) = ([0f32; MAX_LANES], [0f32; MAX_LANES]);
    // SAFETY: both arrays hold MAX_LANES >= LANES elements.
    unsafe {
        s.store(from.as_mut_ptr(), x);
        s.store(to.as_mut_ptr(), near);
    }
    for (x, y) in from.into_iter().zip(&mut to) {
        if x.abs() <= WAVE_LIMIT {
            continue;
        }
        let x = f64::from(x);
        *y = if quarter == 0 { x.sin() } else { x.cos() } as f32;
    }
    // SAFETY: as above.
    unsafe { s.load(to.as_ptr()) }
}
