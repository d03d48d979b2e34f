//! The table of the bridge's functions.

use crate::MlxError;
use std::{
    ffi::{c_char, c_int, c_void},
    path::Path,
};

/// A pointer to an array of MLX.
pub(super) type Raw = *mut c_void;

/// What an operation is given; the same layout as in the bridge.
#[repr(C)]
pub(super) struct Args {
    pub(super) arrays: *const Raw,
    pub(super) array_count: usize,
    pub(super) ints: *const i64,
    pub(super) int_count: usize,
    pub(super) reals: *const f64,
    pub(super) real_count: usize,
    pub(super) text: *const c_char,
    pub(super) gpu: c_int,
}

pub(super) type Operation = unsafe extern "C" fn(*const Args) -> Raw;
pub(super) type Build =
    unsafe extern "C" fn(*mut c_void, *const Raw, usize, *mut usize) -> *const Raw;
pub(super) type Release = unsafe extern "C" fn(*mut c_void);

macro_rules! calls {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// An operation of the bridge, `frit_NAME` there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Call { $($variant),* }

        impl Call {
            const ALL: &'static [Call] = &[$(Call::$variant),*];

            /// The name in the bridge.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Call::$variant => $name),* }
            }
        }
    };
}

calls! {
    Cast = "cast",
    Bitcast = "bitcast",
    Count = "count",
    Zeros = "zeros",
    Contiguous = "contiguous",
    Reshape = "reshape",
    Transpose = "transpose",
    Broadcast = "broadcast",
    Slice = "slice",
    Concat = "concat",
    Pad = "pad",
    Take = "take",
    Update = "update",
    PutAlong = "put_along",
    Unary = "unary",
    Binary = "binary",
    Compare = "compare",
    Select = "select",
    Reduce = "reduce",
    ArgMax = "argmax",
    CumSum = "cumsum",
    MatMul = "matmul",
    Any = "any",
    AnyAlong = "any_along",
    RmsNorm = "rms_norm",
    LayerNorm = "layer_norm",
    Rope = "rope",
    Attention = "attention",
    Einsum = "einsum",
    QuantizedMatmul = "quantized_matmul",
    Dequantize = "dequantize",
    Softmax = "softmax",
    Product = "product",
    AddProduct = "add_product",
    Conv1d = "conv1d",
}

macro_rules! symbols {
    ($($name:ident: $type:ty),* $(,)?) => {
        /// Addresses of all functions of the bridge.
        pub(super) struct Symbols {
            operations: Vec<Operation>,
            $(pub(super) $name: $type,)*
        }

        impl Symbols {
            fn all(library: &libloading::Library) -> Result<Symbols, libloading::Error> {
                let mut operations = Vec::new();
                for call in Call::ALL {
                    let name = format!("frit_{}", call.name());
                    // SAFETY: every operation of the bridge has this signature.
                    operations.push(unsafe { *library.get::<Operation>(name.as_bytes())? });
                }
                // SAFETY: the types below are the signatures in bridge.cpp, which is compiled from
                // the text that this crate carries.
                Ok(unsafe {
                    Symbols {
                        operations,
                        $($name: *library.get::<$type>(concat!("frit_", stringify!($name)).as_bytes())?,)*
                    }
                })
            }
        }
    };
}

symbols! {
    free: unsafe extern "C" fn(Raw),
    from_bytes: unsafe extern "C" fn(
        *const c_void, *const i64, usize, c_int, Release, *mut c_void,
    ) -> Raw,
    dtype: unsafe extern "C" fn(Raw) -> c_int,
    rank: unsafe extern "C" fn(Raw) -> usize,
    dim: unsafe extern "C" fn(Raw, usize) -> i64,
    compile: unsafe extern "C" fn(Build, *mut c_void) -> *mut c_void,
    call_compiled: unsafe extern "C" fn(*mut c_void, *const Raw, usize, *mut Raw, usize) -> i64,
    free_compiled: unsafe extern "C" fn(*mut c_void),
    clone: unsafe extern "C" fn(Raw) -> Raw,
    eval: unsafe extern "C" fn(*const Raw, usize) -> c_int,
    data: unsafe extern "C" fn(Raw, *mut usize) -> *const c_void,
    error: unsafe extern "C" fn() -> *const c_char,
    version: unsafe extern "C" fn() -> *const c_char,
    devices: unsafe extern "C" fn(c_int) -> c_int,
    device_name: unsafe extern "C" fn(c_int) -> *const c_char,
    enter_thread: unsafe extern "C" fn(c_int) -> c_int,
    active_memory: unsafe extern "C" fn() -> usize,
}

impl Symbols {
    /// Loads the bridge, and MLX with it.
    pub(super) fn load(path: &Path) -> Result<Symbols, MlxError> {
        let failed =
            |e: libloading::Error| MlxError::Load { path: path.to_path_buf(), why: e.to_string() };
        // SAFETY: what runs on loading are the initialisers of MLX and of its BLAS, of an MLX whose
        // version was checked; the file was compiled from our own text.
        let library = unsafe { libloading::Library::new(path) }.map_err(failed)?;
        // Its functions are called until the process ends, so it is never unloaded.
        Symbols::all(Box::leak(Box::new(library))).map_err(failed)
    }

    pub(super) fn operation(&self, call: Call) -> Operation {
        self.operations[call as usize]
    }
}
