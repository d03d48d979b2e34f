//! What is known of a value before it is computed: its type and its extents.

use crate::DType;
use std::fmt;

/// Type and shape of a tensor. Shapes are static: every extent is known when a graph is traced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Spec {
    /// A spec of this type and shape.
    ///
    /// ```
    /// use frit_graph::{DType, Spec};
    /// assert_eq!(Spec::new(DType::F32, [2, 8]).to_string(), "f32[2, 8]");
    /// ```
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Spec {
        Spec { dtype, shape: shape.into() }
    }

    /// The same shape in another type.
    pub fn with_dtype(&self, dtype: DType) -> Spec {
        Spec { dtype, shape: self.shape.clone() }
    }

    /// The same type in another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Spec {
        Spec { dtype: self.dtype, shape: shape.into() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements, or `None` where their bytes would not fit in the address space.
    pub fn checked_numel(&self) -> Option<usize> {
        let n = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        // An extent of zero hides the overflow of the others; they are harmless then.
        let n = if self.shape.contains(&0) { Some(0) } else { n };
        n.filter(|n| n.checked_mul(self.dtype.size()).is_some_and(|b| b <= isize::MAX as usize))
    }

    /// Number of elements; `usize::MAX` where they cannot be counted (such a spec never becomes a
    /// value: [`crate::Tensor`] and [`crate::Value`] refuse it).
    pub fn numel(&self) -> usize {
        self.checked_numel().unwrap_or(usize::MAX)
    }

    /// Number of bytes, saturating like [`Spec::numel`].
    pub fn bytes(&self) -> usize {
        self.numel().saturating_mul(self.dtype.size())
    }

    /// The last extent, if there is one.
    pub fn last(&self) -> Option<usize> {
        self.shape.last().copied()
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// The shape two shapes broadcast to by the rules of NumPy, or `None`.
///
/// ```
/// assert_eq!(frit_graph::broadcast_shapes(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
/// assert_eq!(frit_graph::broadcast_shapes(&[2], &[3]), None);
/// ```
pub fn broadcast_shapes(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Strides in elements of a dense row-major tensor of this shape.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}
