//! Where the elements of an operand stand: strided views, so that reshapes, transposes, slices and
//! broadcasts cost nothing.

use frit_graph::{DType, Spec, row_major};

/// A strided window of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// The buffer.
    pub(crate) buffer: usize,
    /// Element of the buffer that is the first of the view.
    pub(crate) offset: usize,
    pub(crate) spec: Spec,
    /// Distance in elements along each axis; 0 where it broadcasts.
    pub(crate) strides: Vec<isize>,
}

impl Layout {
    pub(crate) fn dense(buffer: usize, spec: &Spec) -> Layout {
        let strides = row_major(&spec.shape).into_iter().map(|s| s as isize).collect();
        Layout { buffer, offset: 0, spec: spec.clone(), strides }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.spec.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// Whether the elements stand one after the other in row-major order.
    pub(crate) fn is_dense(&self) -> bool {
        let mut wanted = 1isize;
        for (&d, &s) in self.shape().iter().zip(&self.strides).rev() {
            if d != 1 && s != wanted {
                return self.spec.numel() == 0;
            }
            wanted *= d as isize;
        }
        true
    }

    /// Whether the last axis is contiguous and no axis runs backwards.
    pub(crate) fn has_rows(&self) -> bool {
        let last = self.shape().iter().zip(&self.strides).next_back();
        last.is_none_or(|(&d, &s)| d <= 1 || s == 1) && self.strides.iter().all(|&s| s >= 0)
    }

    pub(crate) fn transposed(&self, perm: &[usize]) -> Layout {
        let mut out = self.clone();
        out.spec.shape = perm.iter().map(|&p| self.shape()[p]).collect();
        out.strides = perm.iter().map(|&p| self.strides[p]).collect();
        out
    }

    pub(crate) fn sliced(&self, start: &[usize], step: &[isize], spec: &Spec) -> Layout {
        let mut out = self.clone();
        let moved: isize = start.iter().zip(&self.strides).map(|(&a, &s)| a as isize * s).sum();
        // An empty slice may start past the end: it reads nothing.
        out.offset = if spec.numel() == 0 { 0 } else { self.offset.wrapping_add_signed(moved) };
        out.strides = self.strides.iter().zip(step).map(|(s, t)| s * t).collect();
        out.spec = spec.clone();
        out
    }

    pub(crate) fn broadcast(&self, spec: &Spec) -> Layout {
        let mut out = self.clone();
        let axes = self.shape().iter().zip(&spec.shape).zip(&self.strides);
        out.strides = axes.map(|((from, to), &s)| if from == to { s } else { 0 }).collect();
        out.spec = spec.clone();
        out
    }

    /// The same bytes as elements of another type, where strides can express it.
    pub(crate) fn bitcast(&self, spec: &Spec) -> Option<Layout> {
        let (from, to) = (self.dtype().size(), spec.dtype.size());
        let mut out = self.clone();
        out.spec = spec.clone();
        if from == to {
            return Some(out);
        }
        let (&extent, outer) = self.shape().split_last()?;
        let (last, strides) = out.strides.split_last_mut()?;
        if extent != 1 && *last != 1 || !(self.offset * from).is_multiple_of(to) {
            return None;
        }
        *last = 1;
        out.offset = self.offset * from / to;
        for (stride, _) in strides.iter_mut().zip(outer).filter(|(_, d)| **d != 1) {
            let bytes = *stride * from as isize;
            if bytes % to as isize != 0 {
                return None;
            }
            *stride = bytes / to as isize;
        }
        Some(out)
    }

    /// The view in another shape, where strides can express it.
    pub(crate) fn reshaped(&self, spec: &Spec) -> Option<Layout> {
        let mut out = self.clone();
        out.spec = spec.clone();
        if self.spec.numel() <= 1 || self.is_dense() {
            out.strides = row_major(&spec.shape).into_iter().map(|s| s as isize).collect();
            return Some(out);
        }
        // Axes of both shapes are walked together in groups of equal extent; within a group of the
        // old shape the strides must chain.
        let old: Vec<(usize, isize)> = self
            .shape()
            .iter()
            .zip(&self.strides)
            .filter(|(d, _)| **d != 1)
            .map(|(&d, &s)| (d, s))
            .collect();
        let mut strides = vec![0isize; spec.shape.len()];
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (mut a, mut b) = (old[i].0, 1);
            let (first_old, first_new) = (i, j);
            i += 1;
            loop {
                if a == b {
                    break;
                } else if a < b {
                    let (d, s) = *old.get(i)?;
                    if old[i - 1].1 != s * d as isize {
                        return None;
                    }
                    a *= d;
                    i += 1;
                } else {
                    b *= *spec.shape.get(j)?;
                    j += 1;
                }
            }
            debug_assert!(first_old < i);
            let mut s = old[i - 1].1;
            for k in (first_new..j).rev() {
                strides[k] = s;
                s *= spec.shape[k] as isize;
            }
        }
        out.strides = strides;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[usize]) -> Spec {
        Spec::new(DType::F32, shape)
    }

    /// Places of all elements in row-major order, from the strides alone.
    fn places(l: &Layout) -> Vec<isize> {
        let strides = row_major(l.shape());
        (0..l.spec.numel())
            .map(|i| {
                let at = strides.iter().zip(l.shape()).map(|(s, d)| (i / s) % d);
                l.offset as isize + at.zip(&l.strides).map(|(c, s)| c as isize * s).sum::<isize>()
            })
            .collect()
    }

    #[test]
    fn a_reshape_that_strides_can_express_keeps_the_order_of_the_elements() {
        let x = Layout::dense(0, &spec(&[2, 3, 4, 5]));
        let views = [
            x.clone(),
            x.transposed(&[1, 0, 2, 3]),
            x.transposed(&[0, 2, 1, 3]),
            x.transposed(&[3, 2, 1, 0]),
            x.sliced(&[0, 1, 0, 2], &[1, 1, 1, 1], &spec(&[2, 2, 4, 3])),
            x.sliced(&[0, 0, 3, 0], &[1, 1, -1, 2], &spec(&[2, 3, 4, 3])),
            Layout::dense(0, &spec(&[2, 1, 4, 1])).broadcast(&spec(&[2, 3, 4, 5])),
        ];
        let mut expressed = 0;
        for v in &views {
            let n = v.spec.numel();
            let all = v.shape().to_vec();
            let shapes: Vec<Vec<usize>> = vec![
                vec![n],
                vec![1, n, 1],
                vec![all[0] * all[1], all[2], all[3]],
                vec![all[0], all[1], all[2] * all[3]],
                vec![all[0], all[1] * all[2], all[3]],
                vec![all[0], 1, all[1], 2, all[2] / 2, 1, all[3]],
            ];
            for shape in shapes {
                if let Some(r) = v.reshaped(&spec(&shape)) {
                    assert_eq!(places(&r), places(v), "{v:?} as {shape:?}");
                    expressed += 1;
                }
            }
        }
        assert!(expressed >= 13, "only {expressed} reshapes were expressed");
    }

    #[test]
    fn views_know_whether_they_are_dense() {
        let x = Layout::dense(0, &spec(&[2, 1, 3]));
        assert!(x.is_dense() && x.has_rows());
        assert!(x.transposed(&[0, 2, 1]).is_dense());
        assert!(!x.transposed(&[2, 1, 0]).is_dense());
        assert!(!x.transposed(&[2, 1, 0]).has_rows());
        assert!(!x.broadcast(&spec(&[2, 4, 3])).is_dense());
        assert!(x.broadcast(&spec(&[2, 4, 3])).has_rows());
    }
}
