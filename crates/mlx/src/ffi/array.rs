//! Arrays of MLX and their elements on the host.

use super::{Library, Session, library::Held, symbols::Raw};
use crate::MlxError;
use frit_graph::{DType, Value};
use std::{ffi::c_void, ptr::NonNull, sync::Arc};

struct Owned {
    raw: NonNull<c_void>,
    library: &'static Library,
    dtype: DType,
}

// SAFETY: an array belongs to no thread. All that is done with one happens under the one lock, and
// the streams it is computed on are those of the process.
unsafe impl Send for Owned {}
// SAFETY: as above; nothing is done with a shared array without the lock.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        let _held = Held::new();
        // SAFETY: the pointer came from the bridge, is freed here only, and the lock is held.
        unsafe { (self.library.symbols.free)(self.raw.as_ptr()) }
    }
}

/// A node of MLX's lazy graph. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Array(Arc<Owned>);

impl Array {
    pub(super) fn raw(&self) -> Raw {
        self.0.raw.as_ptr()
    }

    /// The element type.
    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The extents.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let _held = Held::new();
        let symbols = &self.0.library.symbols;
        // SAFETY: the lock is held and the array lives.
        let rank = unsafe { (symbols.rank)(self.raw()) };
        // SAFETY: as above.
        let dim = |axis| unsafe { (symbols.dim)(self.raw(), axis) };
        (0..rank).map(|axis| usize::try_from(dim(axis)).unwrap_or(0)).collect()
    }
}

/// The number of a type in the bridge: its place in this list.
const CODES: [DType; 9] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I64,
    DType::I32,
    DType::U32,
    DType::U8,
    DType::Bool,
];

/// The number of a type in the bridge.
pub(crate) fn code(dtype: DType) -> i64 {
    CODES.iter().position(|d| *d == dtype).map_or(-1, |p| p as i64)
}

/// Called by MLX, on any thread, when it needs the bytes of a value no more.
unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the pointer is that of the box made in `Session::array`, and MLX calls this once.
    drop(unsafe { Box::from_raw(context.cast::<Value>()) });
}

impl Session {
    /// Takes a new array of the bridge.
    pub(super) fn own(&self, raw: Raw, call: &'static str) -> Result<Array, MlxError> {
        let Some(raw) = NonNull::new(raw) else {
            self.check(false, call)?;
            return Err(MlxError::Call { call, message: "no result".into() });
        };
        let library = self.library;
        // SAFETY: the lock is held and the array lives.
        let code = unsafe { (library.symbols.dtype)(raw.as_ptr()) };
        // The array is freed whatever comes.
        let known = usize::try_from(code).ok().and_then(|c| CODES.get(c)).copied();
        let array = Array(Arc::new(Owned { raw, library, dtype: known.unwrap_or(DType::U8) }));
        self.check(known.is_some(), call).map(|()| array)
    }

    /// The elements of a value as an array: read where they lie if the device can, copied once
    /// otherwise.
    pub(crate) fn array(&self, value: &Value) -> Result<Array, MlxError> {
        let dims: Vec<i64> = value.shape().iter().map(|&d| d as i64).collect();
        let code = i32::try_from(code(value.dtype())).unwrap_or(-1);
        let data = value.bytes().as_ptr().cast::<c_void>();
        // The value keeps the bytes where they are; nobody writes to shared ones.
        let context = Box::into_raw(Box::new(value.clone())).cast::<c_void>();
        // SAFETY: the lock is held; the bytes are as many as type and shape say, and live until
        // `release` is called with the box. MLX writes only over memory that it has allocated.
        let raw = unsafe {
            (self.library.symbols.from_bytes)(
                data,
                dims.as_ptr(),
                dims.len(),
                code,
                release,
                context,
            )
        };
        self.own(raw, "from_bytes")
    }

    /// The elements of an evaluated, contiguous array.
    pub(crate) fn contents(&self, array: &Array) -> Result<Contents, MlxError> {
        let mut bytes = 0usize;
        // SAFETY: the lock is held and the array lives.
        let data = unsafe { (self.library.symbols.data)(array.raw(), &raw mut bytes) };
        let data = NonNull::new(data.cast_mut().cast::<u8>());
        self.check(data.is_some() || bytes == 0, "data")?;
        Ok(Contents { array: array.clone(), data: data.unwrap_or(NonNull::dangling()), bytes })
    }
}

/// The elements of an array on the host, for as long as this lives.
pub(crate) struct Contents {
    array: Array,
    data: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the bytes are only read, and the array that owns them may be dropped on any thread.
unsafe impl Send for Contents {}
// SAFETY: as above.
unsafe impl Sync for Contents {}

impl Contents {
    /// The array.
    pub(crate) fn array(&self) -> &Array {
        &self.array
    }
}

impl AsRef<[u8]> for Contents {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: MLX said that so many bytes stand there; the array holds them, and MLX writes
        // over memory of an array only when nobody else holds it.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }
}
