//! Checks that several shape rules share.

use frit_graph::{DType, ShapeError, Spec};

/// A float operand without an extent of zero.
pub(crate) fn float(name: &str, spec: &Spec) -> Result<(), ShapeError> {
    if !matches!(spec.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(format!("{name} must be f32, f16 or bf16, got {spec}").into());
    }
    not_empty(name, spec)
}

/// An operand without an extent of zero.
pub(crate) fn not_empty(name: &str, spec: &Spec) -> Result<(), ShapeError> {
    match spec.shape.contains(&0) {
        true => Err(format!("{name} must not be empty, got {spec}").into()),
        false => Ok(()),
    }
}

/// A vector as long as the last axis of `x`.
pub(crate) fn vector(name: &str, spec: &Spec, x: &Spec) -> Result<(), ShapeError> {
    float(name, spec)?;
    match x.last() {
        Some(c) if spec.shape == [c] => Ok(()),
        Some(c) => Err(format!(
            "{name} must be [{c}] (last axis of x {:?}), got {:?}",
            x.shape, spec.shape
        )
        .into()),
        None => Err(format!("x must have at least 1 axis, got {x}").into()),
    }
}

/// An operand of the same type as another.
pub(crate) fn same_dtype(name: &str, spec: &Spec, like: (&str, &Spec)) -> Result<(), ShapeError> {
    match spec.dtype == like.1.dtype {
        true => Ok(()),
        false => Err(format!("{name} must be {} like {}, got {spec}", like.1.dtype, like.0).into()),
    }
}

/// A finite number above zero.
pub(crate) fn positive(name: &str, number: f64) -> Result<(), ShapeError> {
    match number.is_finite() && number > 0.0 {
        true => Ok(()),
        false => Err(format!("{name} must be finite and above 0, got {number}").into()),
    }
}

/// A finite number from zero.
pub(crate) fn not_negative(name: &str, number: f64) -> Result<(), ShapeError> {
    match number.is_finite() && number >= 0.0 {
        true => Ok(()),
        false => Err(format!("{name} must be finite and at least 0, got {number}").into()),
    }
}
