use half::{bf16, f16};

use super::*;

/// Maps a slice through lanes on one instruction set, the tail by partial loads and stores.
macro_rules! on_lanes {
    ($isa:expr, $xs:expr, |$s:ident, $v:ident| $body:expr) => {{
        struct Map<'a>(&'a [f32]);
        impl WithSimd for Map<'_> {
            type Output = Vec<f32>;
            #[inline(always)]
            fn run<S: Simd>(self, $s: S) -> Vec<f32> {
                let mut out = vec![0.0; self.0.len()];
                let mut at = 0;
                while at < out.len() {
                    let n = S::LANES.min(out.len() - at);
                    // SAFETY: n elements are left in both from `at` on.
                    unsafe {
                        let $v = $s.load_partial(self.0.as_ptr().add(at), n);
                        $s.store_partial(out.as_mut_ptr().add(at), n, $body);
                    }
                    at += n;
                }
                out
            }
        }
        dispatch_on($isa, Map($xs))
    }};
}

pub(crate) mod math;

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn assert_same(isa: Isa, what: &str, xs: &[f32], got: &[f32], want: impl Fn(f32) -> f32) {
    for (&x, &got) in xs.iter().zip(got) {
        assert!(same(got, want(x)), "{isa}: {what}({x:e}) is {got:e}, should be {:e}", want(x));
    }
}

/// Ordinary numbers, ties, signs, the ends of the range, and what is not a number.
fn numbers() -> Vec<f32> {
    let mut xs =
        vec![0.0, 0.5, 1.0, 1.5, 2.5, 3.5, 0.499_999_97, 0.1, 7.3, 1e-3, 123.75, 8388607.5];
    xs.extend([8388608.0, 16777216.0, 3e9, 1e30, f32::MAX, f32::MIN_POSITIVE, 1e-40, 1e-45]);
    xs.extend([f32::INFINITY, f32::NAN, 0.75, 0.25, 99.9]);
    let negative: Vec<f32> = xs.iter().map(|x| -x).collect();
    xs.extend(negative);
    xs
}

#[test]
fn one_operand_lane_operations_equal_scalar_rust() {
    let xs = numbers();
    for &isa in available() {
        let check = |what, got: Vec<f32>, want: &dyn Fn(f32) -> f32| {
            assert_same(isa, what, &xs, &got, want)
        };
        check("neg", on_lanes!(isa, &xs, |s, v| s.neg(v)), &|x| -x);
        check("abs", on_lanes!(isa, &xs, |s, v| s.abs(v)), &f32::abs);
        check("sqrt", on_lanes!(isa, &xs, |s, v| s.sqrt(v)), &f32::sqrt);
        check("floor", on_lanes!(isa, &xs, |s, v| s.floor(v)), &f32::floor);
        let round = on_lanes!(isa, &xs, |s, v| s.round_even(v));
        check("round", round, &f32::round_ties_even);
        let sign = on_lanes!(isa, &xs, |s, v| s.copysign(s.splat(3.0), v));
        check("copysign", sign, &|x| 3f32.copysign(x));
    }
}

#[test]
fn two_operand_lane_operations_equal_scalar_rust() {
    let xs = numbers();
    for &isa in available() {
        for other in numbers() {
            let check = |what: &str, got: Vec<f32>, want: &dyn Fn(f32) -> f32| {
                assert_same(isa, &format!("{what} with {other:e}"), &xs, &got, want)
            };
            let flag = |yes: bool| if yes { 1.0 } else { 2.0 };
            let with = Pair { xs: &xs, other };
            check("add", with.run(isa, 0), &|x| x + other);
            check("sub", with.run(isa, 1), &|x| x - other);
            check("mul", with.run(isa, 2), &|x| x * other);
            check("div", with.run(isa, 3), &|x| x / other);
            check("min", with.run(isa, 4), &|x| if x < other { x } else { other });
            check("max", with.run(isa, 5), &|x| if x > other { x } else { other });
            check("lt", with.run(isa, 6), &|x| flag(x < other));
            check("le", with.run(isa, 7), &|x| flag(x <= other));
            check("eq", with.run(isa, 8), &|x| flag(x == other));
            check("and", with.run(isa, 9), &|x| flag(x < other && x <= 1.0));
        }
    }
}

/// Runs one of several operations with a second operand in every lane.
#[derive(Clone, Copy)]
struct Pair<'a> {
    xs: &'a [f32],
    other: f32,
}

impl Pair<'_> {
    fn run(self, isa: Isa, op: usize) -> Vec<f32> {
        dispatch_on(isa, PairOp(self, op))
    }
}

struct PairOp<'a>(Pair<'a>, usize);

impl WithSimd for PairOp<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Pair { xs, other } = self.0;
        let b = s.splat(other);
        let flag = |m| s.select(m, s.splat(1.0), s.splat(2.0));
        let mut out = vec![0.0; xs.len()];
        for at in (0..xs.len()).step_by(S::LANES) {
            let n = S::LANES.min(xs.len() - at);
            // SAFETY: n elements are left in both from `at` on.
            unsafe {
                let a = s.load_partial(xs.as_ptr().add(at), n);
                let y = match self.1 {
                    0 => s.add(a, b),
                    1 => s.sub(a, b),
                    2 => s.mul(a, b),
                    3 => s.div(a, b),
                    4 => s.min(a, b),
                    5 => s.max(a, b),
                    6 => flag(s.lt(a, b)),
                    7 => flag(s.le(a, b)),
                    8 => flag(s.eq(a, b)),
                    _ => flag(s.and_m(s.lt(a, b), s.le(a, s.splat(1.0)))),
                };
                s.store_partial(out.as_mut_ptr().add(at), n, y);
            }
        }
        out
    }
}

#[test]
fn multiply_add_is_right_to_one_rounding_of_the_product() {
    let xs: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 0.371).collect();
    for &isa in available() {
        let plus = on_lanes!(isa, &xs, |s, v| s.fma(v, s.splat(1.7), s.splat(0.3)));
        let minus = on_lanes!(isa, &xs, |s, v| s.fnma(v, s.splat(1.7), s.splat(0.3)));
        for ((&x, plus), minus) in xs.iter().zip(plus).zip(minus) {
            let product = f64::from(x) * f64::from(1.7f32);
            let room = product.abs() * 1.2e-7 + 1e-7;
            assert!((f64::from(plus) - (f64::from(0.3f32) + product)).abs() <= room, "{isa} {x}");
            assert!((f64::from(minus) - (f64::from(0.3f32) - product)).abs() <= room, "{isa} {x}");
        }
    }
}

#[test]
fn partial_loads_and_stores_touch_only_the_first_elements() {
    let xs: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    for &isa in available() {
        for n in 0..=8 {
            let twice = on_lanes!(isa, &xs[..n], |s, v| s.add(v, v));
            assert_eq!(twice, xs[..n].iter().map(|x| x + x).collect::<Vec<_>>(), "{isa} {n}");
            let got = dispatch_on(isa, Partial(&xs, n));
            for (i, &y) in got.iter().enumerate() {
                let lane = i % (got.len() / 4);
                let want =
                    if lane < n { xs[lane] } else { [0.0, 9.0, 9.0, 9.0][i * 4 / got.len()] };
                assert_eq!(y, want, "{isa}, n {n}, place {i}");
            }
        }
    }
}

/// A partial load of `n` and then partial stores as f32, f16 and bf16 over nines.
struct Partial<'a>(&'a [f32], usize);

impl WithSimd for Partial<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        fn through<S: Simd, T: Element>(s: S, xs: &[f32], n: usize) -> Vec<f32> {
            let from: Vec<T> = xs.iter().map(|&x| T::from_f32(x)).collect();
            let mut to = vec![T::from_f32(9.0); S::LANES];
            // SAFETY: both hold LANES >= n elements.
            unsafe {
                let v = T::load_partial(s, from.as_ptr(), n);
                T::store_partial(s, to.as_mut_ptr(), n, v);
            }
            to.into_iter().map(T::to_f32).collect()
        }
        let Partial(xs, n) = self;
        let mut all = vec![0.0; S::LANES];
        // SAFETY: `all` holds LANES elements, `xs` at least n.
        unsafe { s.store(all.as_mut_ptr(), s.load_partial(xs.as_ptr(), n)) };
        all.extend(through::<S, f32>(s, xs, n));
        all.extend(through::<S, f16>(s, xs, n));
        all.extend(through::<S, bf16>(s, xs, n));
        all
    }
}

/// Stores f32 lanes as `T`, whole vectors only.
struct Narrow<'a, T>(&'a [f32], std::marker::PhantomData<T>);

impl<T: Element> WithSimd for Narrow<'_, T> {
    type Output = Vec<T>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<T> {
        let mut out = vec![T::ZERO; self.0.len()];
        assert_eq!(out.len() % S::LANES, 0);
        for at in (0..out.len()).step_by(S::LANES) {
            // SAFETY: the length is a multiple of LANES.
            unsafe { T::store(s, out.as_mut_ptr().add(at), s.load(self.0.as_ptr().add(at))) };
        }
        out
    }
}

/// Loads `T` as f32 lanes, whole vectors only.
struct Widen<'a, T>(&'a [T]);

impl<T: Element> WithSimd for Widen<'_, T> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        assert_eq!(out.len() % S::LANES, 0);
        for at in (0..out.len()).step_by(S::LANES) {
            // SAFETY: the length is a multiple of LANES.
            unsafe { s.store(out.as_mut_ptr().add(at), T::load(s, self.0.as_ptr().add(at))) };
        }
        out
    }
}

#[test]
fn every_f16_and_bf16_widens_exactly() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    for &isa in available() {
        for (h, x) in halves.iter().zip(dispatch_on(isa, Widen(&halves))) {
            assert!(same(x, h.to_f32()), "{isa}: {h:?} widens to {x:e}");
        }
        for (b, x) in brains.iter().zip(dispatch_on(isa, Widen(&brains))) {
            assert!(same(x, b.to_f32()), "{isa}: {b:?} widens to {x:e}");
        }
    }
}

#[test]
fn stores_of_f16_and_bf16_round_to_nearest_even() {
    // Around every f16 and bf16: itself, the midpoint to the next, and both neighbours of that.
    let mut xs = Vec::new();
    for bits in 0..=u16::MAX {
        for x in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
            xs.extend(
                [0, 0x800, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001]
                    .map(|d| f32::from_bits(x.to_bits().wrapping_add(d))),
            );
        }
    }
    for &isa in available() {
        let halves = dispatch_on(isa, Narrow::<f16>(&xs, std::marker::PhantomData));
        let brains = dispatch_on(isa, Narrow::<bf16>(&xs, std::marker::PhantomData));
        for ((&x, h), b) in xs.iter().zip(halves).zip(brains) {
            let (wh, wb) = (f16::from_f32(x), bf16::from_f32(x));
            assert!(h == wh || (h.is_nan() && wh.is_nan()), "{isa}: {x:e} to {h:?}, not {wh:?}");
            assert_eq!(h.is_sign_negative(), wh.is_sign_negative(), "{isa}: {x:e}");
            assert!(b == wb || (b.is_nan() && wb.is_nan()), "{isa}: {x:e} to {b:?}, not {wb:?}");
            assert_eq!(b.is_sign_negative(), wb.is_sign_negative(), "{isa}: {x:e}");
        }
    }
}

/// Integer lanes and reductions, checked on the spot.
struct Integers;

impl WithSimd for Integers {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ints: Vec<i32> = (0..16).map(|i: i32| (i - 7).wrapping_mul(0x1234_5678)).collect();
        let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
        let signed: Vec<i8> = bytes.iter().map(|&b| b as i8).collect();
        let floats: Vec<f32> = (0..16).map(|i| (i * i) as f32 - 0.5).collect();
        let see = |v: S::I| {
            let mut out = [0f32; MAX_LANES];
            // SAFETY: `out` holds MAX_LANES >= LANES elements.
            unsafe { s.store(out.as_mut_ptr(), s.from_bits(v)) };
            out[..S::LANES].iter().map(|x| x.to_bits() as i32).collect::<Vec<_>>()
        };
        let want = |f: &dyn Fn(usize) -> i32| (0..S::LANES).map(f).collect::<Vec<_>>();
        // SAFETY: all four hold 16 >= LANES elements.
        let (v, u, i, x) = unsafe {
            let (u, i) = (s.load_u8(bytes.as_ptr()), s.load_i8(signed.as_ptr()));
            (s.bits(s.load(ints.as_ptr().cast())), u, i, s.load(floats.as_ptr()))
        };
        let k = s.splat_i(0x0f0f_0f0f);
        let yes = s.splat(f32::from_bits(1));
        assert_eq!(see(v), want(&|j| ints[j]));
        assert_eq!(see(u), want(&|j| i32::from(bytes[j])));
        assert_eq!(see(i), want(&|j| i32::from(signed[j])));
        assert_eq!(see(s.add_i(v, k)), want(&|j| ints[j].wrapping_add(0x0f0f_0f0f)));
        assert_eq!(see(s.sub_i(v, k)), want(&|j| ints[j].wrapping_sub(0x0f0f_0f0f)));
        assert_eq!(see(s.and_i(v, k)), want(&|j| ints[j] & 0x0f0f_0f0f));
        assert_eq!(see(s.or_i(v, k)), want(&|j| ints[j] | 0x0f0f_0f0f));
        assert_eq!(see(s.xor_i(v, k)), want(&|j| ints[j] ^ 0x0f0f_0f0f));
        assert_eq!(see(s.shl_i::<5>(v)), want(&|j| ints[j] << 5));
        assert_eq!(see(s.shr_i::<5>(v)), want(&|j| ((ints[j] as u32) >> 5) as i32));
        assert_eq!(see(s.sar_i::<5>(v)), want(&|j| ints[j] >> 5));
        let seventh = s.eq_i(v, s.splat_i(0));
        assert_eq!(see(s.bits(s.select(seventh, yes, s.zero()))), want(&|j| (j == 7) as i32));
        assert!(s.any(seventh) && !s.any(s.eq_i(v, s.splat_i(12345))));
        assert_eq!(see(s.bits(s.swap_pairs(x))), want(&|j| floats[j ^ 1].to_bits() as i32));
        assert_eq!(see(s.bits(s.twice_low(x))), want(&|j| floats[j / 2].to_bits() as i32));
        // Sums of these are exact in any order.
        let last = S::LANES as f32 - 1.0;
        assert_eq!(s.reduce_sum(x), floats[..S::LANES].iter().sum::<f32>());
        let rough = s.mul(x, s.splat(0.1));
        let four = [rough, s.neg(x), s.div(s.splat(1.0), x), s.mul(rough, rough)];
        assert_eq!(s.reduce_sums(four), four.map(|x| s.reduce_sum(x)));
        assert_eq!(s.reduce_max(x), last * last - 0.5);
        assert_eq!(s.reduce_max(s.neg(x)), 0.5);
    }
}

#[test]
fn integer_lanes_and_reductions_equal_scalar_rust() {
    for &isa in available() {
        dispatch_on(isa, Integers);
    }
}

#[test]
fn streaming_stores_write_whole_vectors() {
    struct Stream<'a>(&'a mut [f32]);
    impl WithSimd for Stream<'_> {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> usize {
            let p = self.0.as_mut_ptr();
            let at = p.align_offset(4 * S::LANES);
            assert!(at + S::LANES <= self.0.len());
            // SAFETY: p + at is aligned, and LANES elements are left there.
            unsafe { s.store_stream(p.add(at), s.splat(3.0)) };
            s.stream_fence();
            assert!(self.0[at..at + S::LANES].iter().all(|&x| x == 3.0));
            S::LANES
        }
    }
    for &isa in available() {
        let mut out = vec![0.0; 64];
        let lanes = dispatch_on(isa, Stream(&mut out));
        assert_eq!(out.iter().filter(|&&x| x == 3.0).count(), lanes, "{isa}");
    }
}

#[test]
fn the_environment_chooses_only_what_the_processor_has() {
    let all = [Isa::Portable, Isa::Avx2, Isa::Avx512];
    assert_eq!(choose("", &all), Isa::Avx512);
    assert_eq!(choose("avx2", &all), Isa::Avx2);
    assert_eq!(choose("portable", &all), Isa::Portable);
    assert_eq!(choose("avx512", &all[..2]), Isa::Avx2);
    assert_eq!(choose("mmx", &all[..1]), Isa::Portable);
    assert!(available().contains(&isa()));
}

#[test]
fn transpose_swaps_rows_and_columns_and_call_runs_the_work() {
    struct Swap;
    impl WithSimd for Swap {
        type Output = Isa;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Isa {
            const MORE: usize = MAX_LANES + 3;
            let from: Vec<f32> = (0..MAX_LANES * MORE).map(|x| x as f32).collect();
            let mut to = vec![-1.0; MAX_LANES * MORE];
            // SAFETY: LANES rows of LANES elements are inside both.
            unsafe { s.transpose(from.as_ptr(), MORE, to.as_mut_ptr(), MORE) };
            for (at, &x) in to.iter().enumerate() {
                let (j, i) = (at / MORE, at % MORE);
                let inside = i < S::LANES && j < S::LANES;
                let want = if inside { (i * MORE + j) as f32 } else { -1.0 };
                assert_eq!(x, want, "{}: row {j}, column {i}", S::ISA);
            }
            S::ISA
        }
    }
    struct Through;
    impl WithSimd for Through {
        type Output = Isa;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Isa {
            s.call(Swap)
        }
    }
    for &isa in available() {
        assert_eq!(dispatch_on(isa, Through), isa);
    }
}
