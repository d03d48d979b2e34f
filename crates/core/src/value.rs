//! Host tensors: dense row-major bytes with a spec, shared by reference count.
//!
//! A [`Value`] is what programs take and give. Cloning shares the bytes. A program that is handed
//! the only reference to a value may reuse its memory for a result: that is how a KV cache is
//! updated in place (see [`Value::bytes_mut`]).

use crate::{DType, Element, Error, Memory, Spec};
use bytemuck::{cast_slice, try_cast_slice};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

enum Buffer {
    Owned(Memory),
    Shared { bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize> },
}

struct Bytes {
    id: u64,
    buffer: Buffer,
}

impl Bytes {
    fn new(buffer: Buffer) -> Arc<Bytes> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Bytes { id: NEXT.fetch_add(1, Ordering::Relaxed), buffer })
    }

    /// Bytes that hold anything.
    fn any(len: usize) -> Arc<Bytes> {
        let memory = idle::take(len).unwrap_or_else(|| Memory::zeroed(len));
        Bytes::new(Buffer::Owned(memory))
    }

    fn get(&self) -> &[u8] {
        match &self.buffer {
            Buffer::Owned(memory) => memory.bytes(),
            Buffer::Shared { bytes, range } => &(**bytes).as_ref()[range.clone()],
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Buffer::Owned(memory) = &mut self.buffer {
            idle::keep(std::mem::replace(memory, Memory::NONE));
        }
    }
}

/// Memory of dropped values, for the outputs of the next run: to fault in fresh pages takes longer
/// than most kernels run (32 MB: 30 ms against 3 ms; EPYC, two cores, 2026-11).
mod idle {
    use crate::Memory;
    use std::sync::{Mutex, PoisonError};

    /// Smaller ones are better off with the allocator.
    const LEAST: usize = 16 << 10;
    /// A longer list takes longer to search than it saves.
    const MOST: usize = 64;
    /// No more than this is kept.
    const MOST_BYTES: usize = 128 << 20;

    static IDLE: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

    /// Memory of so many bytes that has room for not much more.
    pub(super) fn take(len: usize) -> Option<Memory> {
        if len < LEAST {
            return None;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        // What is mapped has some megabytes to spare by itself, which nobody has touched.
        let fits = |m: &Memory| m.bytes().len() <= len + len / 4 && m.room() >= len;
        let at = idle.iter().position(fits)?;
        Some(idle.swap_remove(at).with_len(len))
    }

    pub(super) fn keep(memory: Memory) {
        if memory.bytes().len() < LEAST {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(memory);
        // The oldest go first; dropping them outside of the lock would be no gain.
        let mut total: usize = idle.iter().map(|m| m.bytes().len()).sum();
        while total > MOST_BYTES || idle.len() > MOST {
            total -= idle.remove(0).bytes().len();
        }
    }
}

/// A tensor in memory.
///
/// ```
/// use frit_graph::{DType, Value};
/// let v = Value::new([2, 2], vec![1.0f32, 2.0, 3.0, 4.0])?;
/// assert_eq!(v.spec().to_string(), "f32[2, 2]");
/// assert_eq!(v.slice::<f32>()?[3], 4.0);
/// assert!(v.slice::<i64>().is_err());
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone)]
pub struct Value {
    spec: Spec,
    bytes: Arc<Bytes>,
}

impl Value {
    /// A value of these elements.
    ///
    /// # Errors
    /// When the shape does not hold as many elements as `data`.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, data: Vec<T>) -> Result<Value, Error> {
        let spec = Spec::new(T::DTYPE, shape);
        if spec.checked_numel() != Some(data.len()) {
            return Err(Error::Value(format!("{spec} cannot hold {} elements", data.len())));
        }
        Ok(Value::from_bytes_unchecked(spec, cast_slice(&data)))
    }

    /// A value of booleans.
    ///
    /// # Errors
    /// When the shape does not hold as many elements as `data`.
    pub fn bools(shape: impl Into<Vec<usize>>, data: &[bool]) -> Result<Value, Error> {
        let bytes: Vec<u8> = data.iter().map(|&b| b as u8).collect();
        Value::from_bytes(Spec::new(DType::Bool, shape), &bytes)
    }

    /// A scalar (rank 0).
    pub fn scalar<T: Element>(value: T) -> Value {
        Value::from_bytes_unchecked(Spec::new(T::DTYPE, []), bytemuck::bytes_of(&value))
    }

    /// A value of zeros.
    ///
    /// # Errors
    /// When the spec is larger than the address space.
    pub fn zeros(spec: &Spec) -> Result<Value, Error> {
        match spec.checked_numel() {
            Some(n) => Ok(Value {
                spec: spec.clone(),
                bytes: Bytes::new(Buffer::Owned(Memory::zeroed(n * spec.dtype.size()))),
            }),
            None => Err(Error::Value(format!("{spec} is larger than the address space"))),
        }
    }

    /// A value whose elements are anything (but none of them invalid), to be written over. Memory
    /// of dropped values is used again.
    ///
    /// # Errors
    /// When the spec is larger than the address space.
    pub fn unset(spec: &Spec) -> Result<Value, Error> {
        match (spec.checked_numel(), spec.dtype) {
            // Any byte is a number, but not a boolean.
            (Some(_), DType::Bool) => Value::zeros(spec),
            (Some(n), _) => {
                Ok(Value { spec: spec.clone(), bytes: Bytes::any(n * spec.dtype.size()) })
            }
            (None, _) => Err(Error::Value(format!("{spec} is larger than the address space"))),
        }
    }

    /// A copy of `bytes` (little-endian elements in row-major order).
    ///
    /// # Errors
    /// When the length is not that of the spec, or a boolean is neither 0 nor 1.
    pub fn from_bytes(spec: Spec, bytes: &[u8]) -> Result<Value, Error> {
        check(&spec, bytes)?;
        Ok(Value::from_bytes_unchecked(spec, bytes))
    }

    fn from_bytes_unchecked(spec: Spec, bytes: &[u8]) -> Value {
        let mut out = Bytes::any(bytes.len());
        if let Some(Bytes { buffer: Buffer::Owned(memory), .. }) = Arc::get_mut(&mut out) {
            memory.bytes_mut().copy_from_slice(bytes);
        }
        Value { spec, bytes: out }
    }

    /// A window of bytes that somebody else owns, such as a memory-mapped file, without a copy;
    /// copied after all where the elements would not be aligned.
    ///
    /// # Errors
    /// When the range is outside `bytes`, its length is not that of the spec, or a boolean is
    /// neither 0 nor 1.
    pub fn from_shared(
        spec: Spec,
        bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    ) -> Result<Value, Error> {
        let all = (*bytes).as_ref();
        let Some(window) = all.get(range.clone()) else {
            let len = all.len();
            return Err(Error::Value(format!("bytes {range:?} of {len} do not exist")));
        };
        check(&spec, window)?;
        if window.as_ptr().align_offset(spec.dtype.size()) != 0 {
            return Ok(Value::from_bytes_unchecked(spec, window));
        }
        Ok(Value { spec, bytes: Bytes::new(Buffer::Shared { bytes, range }) })
    }

    /// Type and shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// The bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get()
    }

    /// A number that this memory alone has while it lives: the key of caches of prepacked weights.
    pub fn id(&self) -> u64 {
        self.bytes.id
    }

    /// The bytes for writing, if this is the only reference and the memory is owned; else `None`.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match Arc::get_mut(&mut self.bytes) {
            Some(Bytes { buffer: Buffer::Owned(memory), .. }) => Some(memory.bytes_mut()),
            _ => None,
        }
    }

    /// The elements.
    ///
    /// # Errors
    /// When they are not of type `T`. Booleans are read as `u8`.
    pub fn slice<T: Element>(&self) -> Result<&[T], Error> {
        let same = T::DTYPE == self.dtype() || (T::DTYPE, self.dtype()) == (DType::U8, DType::Bool);
        same.then(|| try_cast_slice(self.bytes()).ok()).flatten().ok_or_else(|| {
            Error::Value(format!("a value of {} was read as {}", self.dtype(), T::DTYPE))
        })
    }

    /// The same bytes in another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Value, Error> {
        let spec = self.spec.with_shape(shape);
        if spec.checked_numel() != self.spec.checked_numel() {
            return Err(Error::Value(format!("cannot reshape {} to {:?}", self.spec, spec.shape)));
        }
        Ok(Value { spec, bytes: self.bytes.clone() })
    }

    /// Every element as f64 (64-bit integers beyond 2^53 are rounded).
    pub fn to_f64(&self) -> Vec<f64> {
        let b = self.bytes();
        match self.dtype() {
            DType::F64 => read(b, f64::from_le_bytes),
            DType::F32 => read(b, |x| f32::from_le_bytes(x) as f64),
            DType::F16 => read(b, |x| f16::from_le_bytes(x).to_f64()),
            DType::BF16 => read(b, |x| bf16::from_le_bytes(x).to_f64()),
            DType::I64 => read(b, |x| i64::from_le_bytes(x) as f64),
            DType::I32 => read(b, |x| i32::from_le_bytes(x) as f64),
            DType::U32 => read(b, |x| u32::from_le_bytes(x) as f64),
            DType::U8 | DType::Bool => b.iter().map(|&x| x as f64).collect(),
        }
    }

    /// Every element as i64; floats are truncated towards zero.
    pub fn to_i64(&self) -> Vec<i64> {
        match self.dtype() {
            DType::I64 => read(self.bytes(), i64::from_le_bytes),
            _ => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }

    /// Every element as f32, rounded to nearest.
    pub fn to_f32(&self) -> Vec<f32> {
        let b = self.bytes();
        match self.dtype() {
            DType::F32 => read(b, f32::from_le_bytes),
            DType::F16 => read(b, |x| f16::from_le_bytes(x).to_f32()),
            DType::BF16 => read(b, |x| bf16::from_le_bytes(x).to_f32()),
            _ => self.to_f64().into_iter().map(|x| x as f32).collect(),
        }
    }

    /// A value of `dtype` from numbers in f64, each rounded once.
    ///
    /// # Errors
    /// When the shape does not hold as many elements as `data`.
    pub fn from_f64(spec: Spec, data: &[f64]) -> Result<Value, Error> {
        if spec.checked_numel() != Some(data.len()) {
            return Err(Error::Value(format!("{spec} cannot hold {} elements", data.len())));
        }
        let shape = spec.shape.clone();
        macro_rules! as_type {
            ($t:ty) => {
                Value::new(shape, data.iter().map(|&x| x as $t).collect::<Vec<$t>>())
            };
        }
        match spec.dtype {
            DType::F64 => Value::new(shape, data.to_vec()),
            DType::F32 => as_type!(f32),
            DType::F16 => Value::new(shape, data.iter().map(|&x| round_f16(x)).collect()),
            DType::BF16 => Value::new(shape, data.iter().map(|&x| round_bf16(x)).collect()),
            DType::I64 => as_type!(i64),
            DType::I32 => as_type!(i32),
            DType::U32 => as_type!(u32),
            DType::U8 => as_type!(u8),
            DType::Bool => Value::bools(shape, &data.iter().map(|&x| x != 0.0).collect::<Vec<_>>()),
        }
    }

    /// The value in another element type, each element rounded once; shared if it has it already.
    pub fn cast(&self, dtype: DType) -> Value {
        if dtype == self.dtype() {
            return self.clone();
        }
        let spec = self.spec.with_dtype(dtype);
        if let Some(wide) = self.widened(&spec) {
            return wide;
        }
        if dtype == DType::F32 {
            let data = self.to_f32();
            return Value::from_bytes_unchecked(spec, cast_slice(&data));
        }
        match Value::from_f64(spec, &self.to_f64()) {
            Ok(v) => v,
            Err(_) => unreachable!("the shape is the same"),
        }
    }
}

impl Value {
    /// Halves as f32, written where they stay: large fresh memory is dearer than the conversion.
    fn widened(&self, spec: &Spec) -> Option<Value> {
        if spec.dtype != DType::F32 || !matches!(self.dtype(), DType::F16 | DType::BF16) {
            return None;
        }
        let mut wide = Value::unset(spec).ok()?;
        let to: &mut [f32] = bytemuck::cast_slice_mut(wide.bytes_mut()?);
        match self.dtype() {
            DType::F16 => self.slice::<f16>().ok()?.convert_to_f32_slice(to),
            _ => self.slice::<bf16>().ok()?.convert_to_f32_slice(to),
        }
        Some(wide)
    }
}

/// Rounds to nearest even in one step. (`half` may go through f32, which rounds twice.)
pub fn round_f16(x: f64) -> f16 {
    f16::from_f32(round_odd(x))
}

/// Rounds to nearest even in one step.
pub fn round_bf16(x: f64) -> bf16 {
    bf16::from_f32(round_odd(x))
}

/// f64 to f32 by rounding to odd: a second rounding to a narrower type is then as good as one.
fn round_odd(x: f64) -> f32 {
    let near = x as f32;
    if near.is_nan() || near as f64 == x || near.is_infinite() {
        return near;
    }
    let (bits, away) = (near.to_bits(), (near as f64).abs() > x.abs());
    // The neighbour towards zero of the exact value, with its last bit set.
    f32::from_bits(if away { bits - 1 } else { bits } | 1)
}

fn read<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&c| f(c)).collect()
}

fn check(spec: &Spec, bytes: &[u8]) -> Result<(), Error> {
    let wanted = spec.checked_numel().map(|n| n * spec.dtype.size());
    if wanted != Some(bytes.len()) {
        let wanted = wanted.map_or("more than memory".into(), |w| w.to_string());
        return Err(Error::Value(format!("{spec} needs {wanted} bytes, got {}", bytes.len())));
    }
    if spec.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
        return Err(Error::Value(format!("{spec} holds a byte that is neither 0 nor 1")));
    }
    Ok(())
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<f64> = if self.spec.numel() <= 8 { self.to_f64() } else { Vec::new() };
        write!(f, "Value({}", self.spec)?;
        if !first.is_empty() {
            write!(f, " {first:?}")?;
        }
        f.write_str(")")
    }
}

impl PartialEq for Value {
    /// Same spec and the same bits.
    fn eq(&self, other: &Value) -> bool {
        self.spec == other.spec
            && (Arc::ptr_eq(&self.bytes, &other.bytes) || self.bytes() == other.bytes())
    }
}
