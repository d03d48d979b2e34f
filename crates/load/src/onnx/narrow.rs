//! Weights of narrow integers: what is kept of them, and the graph that makes integers of it.
//!
//! The graph has no narrow integers, and `i32` carries them. A weight is too large for that: it is
//! kept as bytes that count from the smallest integer, those of less than a byte together in one, and
//! the graph says what they are. Bytes tell how large they can be, which `i32` does not.

use super::elem::Elem;
use frit_graph::{Binary, DType, Tensor, Value};

fn is_narrow(elem: Elem) -> bool {
    matches!(elem, Elem::I8 | Elem::U4 | Elem::I4 | Elem::U2 | Elem::I2)
}

/// A value of narrow integers as bytes; the value itself if it is none, or if rows are no whole bytes.
pub(super) fn stored(elem: Elem, value: Value) -> Value {
    let (bits, least) = (elem.bits(), elem.range().0 as i32);
    let parts = (8 / bits).max(1);
    let mut shape = value.shape().to_vec();
    let (Some(last), true, Ok(all)) = (shape.last_mut(), is_narrow(elem), value.slice::<i32>())
    else {
        return value;
    };
    if !last.is_multiple_of(parts) {
        return value;
    }
    *last /= parts;
    let byte = |fields: &[i32]| {
        let placed = fields.iter().enumerate().map(|(i, n)| (n - least) << (i * bits));
        placed.fold(0, |all, field| all | field) as u8
    };
    let bytes = all.chunks(parts).map(byte).collect();
    Value::new(shape, bytes).unwrap_or(value)
}

/// The integers of what was [`stored`].
pub(super) fn integers(elem: Elem, t: &Tensor) -> Tensor {
    if !is_narrow(elem) || t.dtype() != DType::U8 {
        return t.clone();
    }
    let wide = fields(t, elem.bits()).cast(DType::I32);
    match elem.range().0 {
        0.0 => wide,
        least => wide + least,
    }
}

/// Fields of 2, 4 or 8 bits of each byte, from the low bits on: `[.., c]` to `[.., c * 8 / bits]`.
pub(super) fn fields(bytes: &Tensor, bits: usize) -> Tensor {
    let parts = 8 / bits;
    if parts == 1 || bytes.rank() == 0 {
        return bytes.clone();
    }
    let places: Vec<u8> = (0..parts).map(|i| 1 << (i * bits)).collect();
    let places = match Value::new([parts], places) {
        Ok(value) => Tensor::constant(value),
        Err(e) => Tensor::poison("constant", e),
    };
    let moved = bytes.unsqueeze(-1).binary(&places, Binary::Div);
    let span = Tensor::scalar(DType::U8, f64::from(1u32 << bits));
    let mut shape = bytes.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last *= parts;
    }
    moved.binary(&span, Binary::Rem).reshape(&shape)
}
