//! Element types of ONNX, and what carries those that the graph does not have.
//!
//! Narrow integers are carried by `i32` and `u64` by `i64`: the same numbers in wider elements,
//! brought back into their range where arithmetic leaves it.

use frit_graph::{DType, Spec, Tensor, Value};

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elem {
    Plain(DType),
    I8,
    U16,
    I16,
    U64,
    U4,
    I4,
    U2,
    I2,
}

impl Elem {
    /// The type of this code.
    ///
    /// # Errors
    /// The name of a type that is not supported.
    pub(super) fn of(code: i64) -> Result<Elem, String> {
        Ok(match code {
            1 => Elem::Plain(DType::F32),
            2 => Elem::Plain(DType::U8),
            3 => Elem::I8,
            4 => Elem::U16,
            5 => Elem::I16,
            6 => Elem::Plain(DType::I32),
            7 => Elem::Plain(DType::I64),
            9 => Elem::Plain(DType::Bool),
            10 => Elem::Plain(DType::F16),
            11 => Elem::Plain(DType::F64),
            12 => Elem::Plain(DType::U32),
            13 => Elem::U64,
            16 => Elem::Plain(DType::BF16),
            21 => Elem::U4,
            22 => Elem::I4,
            25 => Elem::U2,
            26 => Elem::I2,
            8 => return Err("string".into()),
            14 => return Err("complex64".into()),
            15 => return Err("complex128".into()),
            17 => return Err("float8e4m3fn".into()),
            18 => return Err("float8e4m3fnuz".into()),
            19 => return Err("float8e5m2".into()),
            20 => return Err("float8e5m2fnuz".into()),
            23 => return Err("float4e2m1".into()),
            24 => return Err("float8e8m0".into()),
            other => return Err(format!("type {other}")),
        })
    }

    /// The type of the graph that holds its numbers.
    pub(super) fn carrier(self) -> DType {
        match self {
            Elem::Plain(d) => d,
            Elem::U64 => DType::I64,
            _ => DType::I32,
        }
    }

    /// Its name in lower case.
    pub(super) fn name(self) -> &'static str {
        match self {
            Elem::Plain(d) => d.name(),
            Elem::I8 => "i8",
            Elem::U16 => "u16",
            Elem::I16 => "i16",
            Elem::U64 => "u64",
            Elem::U4 => "u4",
            Elem::I4 => "i4",
            Elem::U2 => "u2",
            Elem::I2 => "i2",
        }
    }

    /// Bits of an element in a file.
    pub(super) fn bits(self) -> usize {
        match self {
            Elem::Plain(d) => d.size() * 8,
            Elem::U64 => 64,
            Elem::U16 | Elem::I16 => 16,
            Elem::I8 => 8,
            Elem::U4 | Elem::I4 => 4,
            Elem::U2 | Elem::I2 => 2,
        }
    }

    /// Whether negative integers exist.
    pub(super) fn is_signed(self) -> bool {
        match self {
            Elem::Plain(d) => !matches!(d, DType::U8 | DType::U32 | DType::Bool),
            Elem::I8 | Elem::I16 | Elem::I4 | Elem::I2 => true,
            Elem::U16 | Elem::U64 | Elem::U4 | Elem::U2 => false,
        }
    }

    pub(super) fn is_float(self) -> bool {
        self.carrier().is_float()
    }

    /// The smallest and the largest integer.
    pub(super) fn range(self) -> (f64, f64) {
        let bits = self.bits() as i32;
        match self.is_signed() {
            true => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
            false => (0.0, 2f64.powi(bits) - 1.0),
        }
    }

    /// One element of a narrow integer, from the low bits of a number.
    pub(super) fn extend(self, bits: i64) -> i64 {
        let shift = 64 - self.bits() as u32;
        match self.is_signed() {
            true => (bits << shift) >> shift,
            false => ((bits as u64) << shift >> shift) as i64,
        }
    }
}

/// A tensor and the element type that the file says it has.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) t: Tensor,
    pub(super) e: Elem,
}

impl Item {
    /// A tensor whose type is its own.
    pub(super) fn plain(t: Tensor) -> Item {
        let e = Elem::Plain(t.dtype());
        Item { t, e }
    }

    /// Another tensor of the same element type.
    pub(super) fn with(&self, t: Tensor) -> Item {
        Item { t, e: self.e }
    }

    /// Another tensor of the same element type, brought into its range.
    pub(super) fn wrapped(&self, t: Tensor) -> Item {
        let narrow = !matches!(self.e, Elem::Plain(_) | Elem::U64);
        let t = match narrow {
            true => {
                let (low, span) = (self.e.range().0, 2f64.powi(self.e.bits() as i32));
                let d = t.dtype();
                let turns = modulo(&(t - low), &Tensor::scalar(d, span));
                turns + low
            }
            false => t,
        };
        Item { t, e: self.e }
    }
}

/// Integers of this shape.
pub(super) fn integers(shape: &[usize], numbers: Vec<i64>) -> Tensor {
    match Value::new(shape, numbers) {
        Ok(v) => Tensor::constant(v),
        Err(e) => Tensor::poison("constant", e),
    }
}

/// Numbers of this type and shape, each rounded once.
pub(super) fn numbers(dtype: DType, shape: &[usize], numbers: &[f64]) -> Tensor {
    match Value::from_f64(Spec::new(dtype, shape), numbers) {
        Ok(v) => Tensor::constant(v),
        Err(e) => Tensor::poison("constant", e),
    }
}

/// The remainder with the sign of the divisor.
pub(super) fn modulo(a: &Tensor, b: &Tensor) -> Tensor {
    let d = a.dtype();
    let r = a.binary(b, frit_graph::Binary::Rem);
    let zero = Tensor::scalar(d, 0.0);
    let other_sign = r.lt(&zero).ne(&b.lt(&zero)).logical_and(&r.ne(&zero));
    other_sign.select(&(&r + b), &r)
}
