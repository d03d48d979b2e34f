//! One panel of rows and one tile of keys: scores, softmax, weighted sum of values.
//!
//! Everything is f32 here, whatever the tensors hold; the code exists once an instruction set.
//! `W` is the width of a panel: `NR` vectors of rows, one or two.

use std::ops::Range;

use crate::simd::{Isa, Simd, WithSimd, math};

/// What one step works on.
pub(super) struct Tile<'a> {
    /// One vector of rows rather than two.
    pub(super) narrow: bool,
    /// Keys, `n` of them.
    pub(super) n: usize,
    pub(super) k: *const f32,
    pub(super) k_stride: usize,
    pub(super) v: *const f32,
    pub(super) v_stride: usize,
    /// Scaled queries, `[D][W]`.
    pub(super) q: &'a [f32],
    /// Results so far, `[Dv][W]`.
    pub(super) o: &'a mut [f32],
    /// `[W]` each: the largest score and the sum of exponentials.
    pub(super) top: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
    /// Room for scores, `[n][W]`.
    pub(super) p: &'a mut [f32],
    pub(super) softcap: Option<f32>,
    /// Added to the scores of each key.
    pub(super) key_bias: Option<&'a [f32]>,
    /// Added to the scores, `[n][W]`.
    pub(super) bias: Option<&'a [f32]>,
    /// `[W]` each: the first key that a row sees and one past the last.
    pub(super) bounds: Option<(&'a [f32], &'a [f32])>,
    /// The keys that all rows see.
    pub(super) all: Range<usize>,
}

impl WithSimd for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever made the tile gives `n` rows of keys and values; the rest are slices,
        // whose lengths `step` checks.
        unsafe {
            match self.narrow {
                true => step::<S, 1>(s, self),
                false => step::<S, 2>(s, self),
            }
        }
    }
}

/// Cuts `n` into the fewest blocks, of sizes that differ by one at most, and runs some code for
/// each with its beginning and, as a constant, its size. (Closures would not do: they do not
/// always end up inside the function that enables the instructions.)
macro_rules! each_block {
    ($s:ty, $nr:expr, $n:expr, |$at:ident, $size:ident| $code:block) => {{
        each_block!(@ [1 2 3 4 5 6 7 8 9 10 11 12] $s, $nr, $n, $at, $size, $code)
    }};
    (@ [$($some:literal)*]
        $s:ty, $nr:expr, $n:expr, $at:ident, $size:ident, $code:block) => {{
        let most = most::<$s, $nr>();
        let count = usize::div_ceil($n, most).max(1);
        let (small, larger) = ($n / count, $n % count);
        let mut $at = 0;
        for i in 0..count {
            let size = small + (i < larger) as usize;
            match size {
                $($some if $some <= most => { const $size: usize = $some; $code })*
                _ => {}
            }
            $at += size;
        }
    }};
}

/// # Safety
/// `k` and `v` are valid for `n` rows.
#[inline(always)]
unsafe fn step<S: Simd, const NR: usize>(s: S, mut t: Tile<'_>) {
    let w = NR * S::LANES;
    let (head, value, n) = (t.q.len() / w, t.o.len() / w, t.n);
    assert!(t.p.len() >= n * w && t.top.len() >= w && t.sum.len() >= w);
    let p = t.p.as_mut_ptr();
    // SAFETY: blocks are inside the n keys and the value columns; the lengths are checked above.
    unsafe {
        let mut tops = [s.splat(f32::NEG_INFINITY); NR];
        assert!(t.key_bias.is_none_or(|b| b.len() >= n));
        assert!(t.bias.is_none_or(|b| b.len() >= n * w));
        // What is added comes after a cap.
        let capped = t.softcap.is_some();
        let (key_bias, bias) = if capped { (None, None) } else { (t.key_bias, t.bias) };
        // Most keys are seen by all rows, and their scores are final at once.
        let (start, end) = (t.all.start.min(n), t.all.end.clamp(t.all.start.min(n), n));
        for (from, to, adjusted) in [(0, start, true), (start, end, capped), (end, n, true)] {
            let before = tops;
            each_block!(S, NR, to - from, |at, N| {
                let at = from + at;
                let more = More {
                    key: key_bias.map(|b| b.as_ptr().add(at)),
                    row: bias.map(|b| b.as_ptr().add(at * w)),
                };
                let (k, p) = (t.k.wrapping_add(at * t.k_stride), p.add(at * w));
                scores::<S, N, NR>(s, t.q.as_ptr(), head, k, t.k_stride, more, p, &mut tops);
            });
            if adjusted {
                tops = adjust::<S, NR>(s, &t, from..to, before);
            }
        }
        let alpha = exponentials::<S, NR>(s, &mut t, tops);
        let o = t.o.as_mut_ptr();
        each_block!(S, NR, value, |at, N| {
            let (v, o) = (t.v.wrapping_add(at), o.add(at * w));
            weigh::<S, N, NR>(s, p, n, v, t.v_stride, o, alpha);
        });
    }
}

/// The most broadcast factors of a block: their products with a panel must fit the registers, 16
/// of 4 lanes where nothing better is known of x86-64, 16 of 8 lanes, 32 of 16, 32 of 4 (aarch64).
const fn most<S: Simd, const NR: usize>() -> usize {
    match S::ISA {
        Isa::Portable if cfg!(target_arch = "x86_64") => 3 * (3 - NR),
        Isa::Avx512 => 12,
        _ => 6 * (3 - NR),
    }
}

/// What is added to some scores: a number for each key, and one for each key and row.
#[derive(Clone, Copy)]
struct More {
    key: Option<*const f32>,
    row: Option<*const f32>,
}

/// The scores of `N` keys: `p[j][..] = k[j] . q`, and more; `tops` takes part in the maximum.
///
/// # Safety
/// `k` is valid for `N` rows of `head`, `q` for `[head][W]`, `p` for `[N][W]`, and `more` for `[N]`
/// and `[N][W]`.
#[expect(clippy::too_many_arguments, reason = "the operands of the product")]
#[inline(always)]
unsafe fn scores<S: Simd, const N: usize, const NR: usize>(
    s: S,
    q: *const f32,
    head: usize,
    k: *const f32,
    k_stride: usize,
    more: More,
    p: *mut f32,
    tops: &mut [S::F; NR],
) {
    let w = NR * S::LANES;
    let mut acc = [[s.zero(); NR]; N];
    let mut keys = [k; N];
    for (j, key) in keys.iter_mut().enumerate() {
        *key = k.wrapping_add(j * k_stride);
    }
    // SAFETY: the caller's contract.
    unsafe {
        for x in 0..head {
            let mut rows = [s.zero(); NR];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = s.load(q.add(x * w + r * S::LANES));
            }
            for j in 0..N {
                let key = s.splat(*keys[j].add(x));
                for r in 0..NR {
                    acc[j][r] = s.fma(key, rows[r], acc[j][r]);
                }
            }
        }
        if let Some(key) = more.key {
            for j in 0..N {
                let key = s.splat(*key.add(j));
                for r in 0..NR {
                    acc[j][r] = s.add(acc[j][r], key);
                }
            }
        }
        if let Some(row) = more.row {
            for j in 0..N {
                for r in 0..NR {
                    acc[j][r] = s.add(acc[j][r], s.load(row.add(j * w + r * S::LANES)));
                }
            }
        }
        for j in 0..N {
            for r in 0..NR {
                tops[r] = s.max(acc[j][r], tops[r]);
                s.store(p.add(j * w + r * S::LANES), acc[j][r]);
            }
        }
    }
}

/// Caps the scores of some keys and adds what is to be added after a cap (without one, [`scores`]
/// has added it), and takes away the keys that a row does not see; they take part in the maxima.
///
/// # Safety
/// The lengths in `t` have been checked.
#[inline(always)]
unsafe fn adjust<S: Simd, const NR: usize>(
    s: S,
    t: &Tile<'_>,
    keys: Range<usize>,
    mut tops: [S::F; NR],
) -> [S::F; NR] {
    let w = NR * S::LANES;
    let lowest = s.splat(f32::NEG_INFINITY);
    let p = t.p.as_ptr().cast_mut();
    // SAFETY: the lengths are checked.
    unsafe {
        if let Some(cap) = t.softcap {
            let (cap, inverse) = (s.splat(cap), s.splat(1.0 / cap));
            for i in keys.start * NR..keys.end * NR {
                let p = p.add(i * S::LANES);
                s.store(p, s.mul(cap, math::tanh(s, s.mul(s.load(p), inverse))));
            }
        }
        let mut bounds = [[s.zero(); 2]; NR];
        if let Some((low, high)) = t.bounds {
            for (r, bound) in bounds.iter_mut().enumerate() {
                let range = r * S::LANES..(r + 1) * S::LANES;
                *bound = [s.load(low[range.clone()].as_ptr()), s.load(high[range].as_ptr())];
            }
        }
        for j in keys {
            let at = s.splat(j as f32);
            for r in 0..NR {
                let i = j * w + r * S::LANES;
                let mut x = s.load(p.add(i));
                if t.softcap.is_some() {
                    x = s.add(x, s.splat(t.key_bias.map_or(0.0, |b| *b.get_unchecked(j))));
                    x = t.bias.map_or(x, |b| s.add(x, s.load(b.as_ptr().add(i))));
                }
                if t.bounds.is_some() {
                    let [low, high] = bounds[r];
                    x = s.select(s.and_m(s.le(low, at), s.lt(at, high)), x, lowest);
                }
                s.store(p.add(i), x);
                tops[r] = s.max(x, tops[r]);
            }
        }
    }
    tops
}

/// Turns scores into exponentials; brings maximum and sum up to date; returns what the results so
/// far must be multiplied by.
///
/// # Safety
/// The lengths in `t` have been checked.
#[inline(always)]
unsafe fn exponentials<S: Simd, const NR: usize>(
    s: S,
    t: &mut Tile<'_>,
    tops: [S::F; NR],
) -> [S::F; NR] {
    let lowest = s.splat(f32::NEG_INFINITY);
    let (top, sum, p) = (t.top.as_mut_ptr(), t.sum.as_mut_ptr(), t.p.as_mut_ptr());
    let mut minus = [s.zero(); NR];
    let mut alpha = [s.zero(); NR];
    // SAFETY: the lengths are checked.
    unsafe {
        for r in 0..NR {
            let top = top.add(r * S::LANES);
            let before = s.load(top);
            let now = s.max(before, tops[r]);
            s.store(top, now);
            // A row that has seen no key yet: all its scores are -inf, less any number.
            minus[r] = s.select(s.lt(lowest, now), now, s.zero());
            alpha[r] = exp_down(s, s.sub(before, minus[r]));
        }
        let mut sums = [s.zero(); NR];
        let (vectors, mut i) = (t.n * NR, 0);
        while i + STEP <= vectors {
            let mut x = [s.zero(); STEP];
            for v in 0..STEP {
                x[v] = s.sub(s.load(p.add((i + v) * S::LANES)), minus[v % NR]);
            }
            let e = exp_down_several(s, x);
            for v in 0..STEP {
                s.store(p.add((i + v) * S::LANES), e[v]);
                sums[v % NR] = s.add(sums[v % NR], e[v]);
            }
            i += STEP;
        }
        while i < vectors {
            let p = p.add(i * S::LANES);
            let e = exp_down(s, s.sub(s.load(p), minus[i % NR]));
            s.store(p, e);
            sums[i % NR] = s.add(sums[i % NR], e);
            i += 1;
        }
        for r in 0..NR {
            let sum = sum.add(r * S::LANES);
            s.store(sum, s.fma(s.load(sum), alpha[r], sums[r]));
        }
    }
    alpha
}

/// `o[i][..] = o[i][..] * alpha + sum over j of v[j][i] p[j][..]`, for `N` columns of values.
///
/// # Safety
/// `v` is valid for `n` rows of `N`, `p` for `[n][W]`, `o` for `[N][W]`.
#[inline(always)]
unsafe fn weigh<S: Simd, const N: usize, const NR: usize>(
    s: S,
    p: *const f32,
    n: usize,
    v: *const f32,
    v_stride: usize,
    o: *mut f32,
    alpha: [S::F; NR],
) {
    let w = NR * S::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[s.zero(); NR]; N];
        for i in 0..N {
            for r in 0..NR {
                acc[i][r] = s.mul(s.load(o.add(i * w + r * S::LANES)), alpha[r]);
            }
        }
        for j in 0..n {
            let mut rows = [s.zero(); NR];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = s.load(p.add(j * w + r * S::LANES));
            }
            let v = v.add(j * v_stride);
            for i in 0..N {
                let value = s.splat(*v.add(i));
                for r in 0..NR {
                    acc[i][r] = s.fma(value, rows[r], acc[i][r]);
                }
            }
        }
        for i in 0..N {
            for r in 0..NR {
                s.store(o.add(i * w + r * S::LANES), acc[i][r]);
            }
        }
    }
}

/// `e^x` for `x` up to 0, zero below -87.7. Relative error 4e-7 at most, 2e-7 from -20 up: a step
/// less than [`math::exp_fast`], which matters here. NaN counts as -inf.
#[inline(always)]
pub(super) fn exp_down<S: Simd>(s: S, x: S::F) -> S::F {
    exp_down_several(s, [x])[0]
}

/// Vectors of scores that become exponentials at a time, a multiple of those of a panel.
const STEP: usize = 4;

/// [`exp_down`] of several vectors, in step, because each waits for itself: attention as a whole
/// takes 2.5% less so.
#[inline(always)]
fn exp_down_several<S: Simd, const V: usize>(s: S, x: [S::F; V]) -> [S::F; V] {
    /// `1.5 * 2^23`: adding it rounds to a whole number, in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    // e^r = 1 + r (1 + r (...)), fitted between -ln 2 / 2 and ln 2 / 2 by the relative error.
    const C: [f32; 6] = [1.0, 1.0, 0.499_992_3, 0.166_671_16, 0.041_890_33, 0.008_312_501];
    let (mut shifted, mut r, mut y) = (x, x, [s.splat(C[5]); V]);
    for v in 0..V {
        let x = s.max(x[v], s.splat(-88.0));
        shifted[v] = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUNDER));
        let n = s.sub(shifted[v], s.splat(ROUNDER));
        r[v] = s.fnma(n, s.splat(std::f32::consts::LN_2), x);
    }
    for c in C[..5].iter().rev() {
        for v in 0..V {
            y[v] = s.fma(y[v], r[v], s.splat(*c));
        }
    }
    for v in 0..V {
        // 2^n is zero at the least n, -127.
        let power = s.add_i(s.shl_i::<23>(s.bits(shifted[v])), s.splat_i(0x3f80_0000));
        y[v] = s.mul(y[v], s.from_bits(power));
    }
    y
}
