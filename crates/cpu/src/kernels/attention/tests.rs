//! Every case of the catalogue, and random ones, against attention in float64.

use frit_graph::{DType, Value};
use frit_ops::{Array, CATALOGUE, DynCase, ScaledDotProductAttention};
use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::simd::available;

mod random;

/// Memory that begins at a multiple of 64.
pub(super) struct Aligned(Vec<u8>, usize);

impl Aligned {
    /// `len` bytes that are all ones: a NaN wherever a number is read too early.
    pub(super) fn new(len: usize) -> Aligned {
        let bytes = vec![0xff; len + 64];
        let start = bytes.as_ptr().align_offset(64);
        Aligned(bytes, start)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let end = self.0.len() - 64 + self.1;
        &mut self.0[self.1..end]
    }
}

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    /// `[B, H, T, D]`.
    Dense,
    /// `[B, T, H, D]`, with gaps.
    TokenMajor,
}

impl Layout {
    fn strides(self, [_, h, t, d]: [usize; 4]) -> [usize; 3] {
        match self {
            Layout::Dense => [h * t * d, t * d, d],
            Layout::TokenMajor => [h * t * (d + 3), d + 3, h * (d + 3)],
        }
    }
}

fn each_row(n: [usize; 4], mut f: impl FnMut(usize, [usize; 3])) {
    for row in 0..n[0] * n[1] * n[2] {
        f(row, [row / n[2] / n[1], row / n[2] % n[1], row % n[2]]);
    }
}

/// A dense operand, laid out anew; what lies between the rows is NaN.
pub(super) fn lay<T: Element>(x: &[T], n: [usize; 4], layout: Layout) -> Vec<T> {
    let strides = layout.strides(n);
    let mut to = vec![T::from_f32(f32::NAN); extent(n, strides)];
    each_row(n, |row, at| {
        let start: usize = at.iter().zip(strides).map(|(i, s)| i * s).sum();
        to[start..start + n[3]].copy_from_slice(&x[row * n[3]..][..n[3]]);
    });
    to
}

/// Runs attention with all operands and the result in one layout; the result comes dense.
pub(super) fn attend<T: Element>(
    a: &Attention<'_, T>,
    layout: Layout,
    isa: Isa,
    pool: &Pool,
) -> Vec<T> {
    let (q, k, v) = (a.q, a.k, a.v);
    let [q_data, k_data, v_data] = [q, k, v].map(|g| lay(g.data, g.shape, layout));
    let a = Attention {
        q: Grid::new(&q_data, q.shape, layout.strides(q.shape)),
        k: Grid::new(&k_data, k.shape, layout.strides(k.shape)),
        v: Grid::new(&v_data, v.shape, layout.strides(v.shape)),
        ..*a
    };
    let n = [q.shape[0], q.shape[1], q.shape[2], v.shape[3]];
    let strides = layout.strides(n);
    let mut out = vec![T::from_f32(7.0); extent(n, strides)];
    let mut scratch = Aligned::new(a.sizes().scratch_bytes(pool.threads()));
    a.run_on(isa, pool, GridMut::new(&mut out, n, strides), scratch.bytes());
    let mut dense = vec![T::ZERO; n.iter().product()];
    each_row(n, |row, at| {
        let start: usize = at.iter().zip(strides).map(|(i, s)| i * s).sum();
        dense[row * n[3]..][..n[3]].copy_from_slice(&out[start..start + n[3]]);
        out[start..start + n[3]].fill(T::from_f32(7.0));
    });
    assert!(out.iter().all(|x| x.to_f32() == 7.0), "written between the rows");
    dense
}

/// Runs on every instruction set, in both layouts, on one thread and on three; all results of an
/// instruction set must be the same bits.
pub(super) fn attend_everywhere<T: Element>(a: &Attention<'_, T>, mut check: impl FnMut(&[f64])) {
    let (one, three) = (Pool::new(1), Pool::new(3));
    for &isa in available() {
        let dense = attend(a, Layout::Dense, isa, &one);
        let bits = |y: &[T]| y.iter().map(|y| y.to_f32().to_bits()).collect::<Vec<_>>();
        for (layout, pool) in [(Layout::Dense, &three), (Layout::TokenMajor, &three)] {
            let other = attend(a, layout, isa, pool);
            assert_eq!(bits(&dense), bits(&other), "{isa}, {layout:?}");
        }
        check(&dense.iter().map(|y| f64::from(y.to_f32())).collect::<Vec<_>>());
    }
}

fn four(shape: &[usize]) -> [usize; 4] {
    shape.try_into().expect("four axes")
}

/// Strides that broadcast `shape` to four axes.
fn broadcast(shape: &[usize]) -> [usize; 4] {
    let (mut strides, mut stride) = ([0; 4], 1);
    for (axis, &n) in (0..4).rev().zip(shape.iter().rev()) {
        strides[axis] = if n == 1 { 0 } else { stride };
        stride *= n;
    }
    strides
}

fn check_case<T: Element + frit_graph::Element>(case: &DynCase, dtype: DType) {
    let block: &ScaledDotProductAttention = case.block.downcast().expect("attention");
    let values = case.values(dtype);
    let want = case.expected(&values).expect("an oracle");
    let [Some(q), Some(k), Some(v), mask, key_mask, key_length, sinks] = &values[..] else {
        panic!("operands of {}", case.name);
    };
    fn data<T: frit_graph::Element>(v: &Value) -> &[T] {
        v.slice().expect("the type of the case")
    }
    let grid = |v| Grid::dense(data::<T>(v), four(Value::shape(v)));
    let mask = mask.as_ref().map(|m| Mask {
        data: match m.dtype() {
            DType::Bool => MaskData::Bool(m.bytes()),
            DType::F16 => MaskData::F16(data::<f16>(m)),
            DType::BF16 => MaskData::BF16(data::<bf16>(m)),
            _ => MaskData::F32(data::<f32>(m)),
        },
        strides: broadcast(m.shape()),
    });
    let key_mask: Option<Vec<u8>> =
        key_mask.as_ref().map(|m| m.to_f64().iter().map(|&m| (m != 0.0) as u8).collect());
    let key_length = key_length.as_ref().map(Value::to_i64);
    let sinks = sinks.as_ref().map(Value::to_f32);
    let attention = Attention {
        q: grid(q),
        k: grid(k),
        v: grid(v),
        mask,
        key_mask: key_mask.as_deref(),
        key_length: key_length.as_deref(),
        sinks: sinks.as_deref(),
        scale: block.scale_for(q.shape()[3]) as f32,
        causal: block.causal,
        window: block.window,
        softcap: block.softcap.map(|c| c as f32),
    };
    let (relative, absolute) = case.tolerance(dtype);
    attend_everywhere(&attention, |got| {
        assert_close(&format!("{} in {dtype:?}", case.name), got, &want, relative, absolute);
    });
}

pub(super) fn assert_close(what: &str, got: &[f64], want: &Array, relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.data.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(&want.data).enumerate() {
        let close = (got - want).abs() <= absolute + relative * want.abs();
        assert!(close, "{what}: element {i} is {got:e}, should be {want:e}");
    }
}

#[test]
fn every_small_case_of_the_catalogue_is_within_its_bounds() {
    let line = CATALOGUE.iter().find(|l| l.name == "scaled_dot_product_attention");
    let cases = (line.expect("attention is in the catalogue").cases)();
    let small: Vec<&DynCase> = cases.iter().filter(|c| !c.bench).collect();
    assert!(small.len() > 30, "only {} cases", small.len());
    for case in small {
        for &dtype in case.dtypes {
            match dtype {
                DType::F16 => check_case::<f16>(case, dtype),
                DType::BF16 => check_case::<bf16>(case, dtype),
                _ => check_case::<f32>(case, dtype),
            }
        }
    }
}
