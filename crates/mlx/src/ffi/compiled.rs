//! Graphs by `mx::compile`: MLX calls back to have a graph built over arrays that stand for the
//! inputs, and from then on runs what it has made of it.

use super::{Array, Library, Session, library::Held, symbols::Raw};
use crate::MlxError;
use frit_graph::Error;
use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    slice,
    sync::{Mutex, PoisonError},
};

/// Builds a graph over inputs.
pub(crate) type BuildGraph = Box<dyn Fn(Vec<Array>) -> Result<Vec<Array>, Error> + Send + Sync>;

struct Builder {
    library: &'static Library,
    build: BuildGraph,
    /// The arrays given last, until MLX has taken them.
    given: Mutex<(Vec<Array>, Vec<Raw>)>,
}

/// A compiled graph.
pub(crate) struct Compiled {
    raw: NonNull<c_void>,
    builder: Box<Builder>,
}

// SAFETY: it belongs to no thread, and all that is done with it happens under the one lock.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        let _held = Held::new();
        // SAFETY: the pointer came from the bridge, is freed here only, and the lock is held.
        unsafe { (self.builder.library.symbols.free_compiled)(self.raw.as_ptr()) }
    }
}

/// Called by MLX while `call_compiled` runs, on its thread, to have the graph built.
unsafe extern "C" fn build(
    context: *mut c_void,
    inputs: *const Raw,
    count: usize,
    out_count: *mut usize,
) -> *const Raw {
    // SAFETY: the pointer is that of the builder that `Compiled` keeps in a box.
    let builder = unsafe { &*context.cast::<Builder>() };
    // SAFETY: the bridge gives as many arrays as it says.
    let inputs = unsafe { slice::from_raw_parts(inputs, count) };
    let built = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<Array>, Error> {
        let session = builder.library.session(super::Device::Cpu)?;
        let own = |raw: &Raw| {
            // SAFETY: the lock is held by the caller, and the array lives.
            let copy = unsafe { (builder.library.symbols.clone)(*raw) };
            session.own(copy, "clone")
        };
        (builder.build)(inputs.iter().map(own).collect::<Result<_, _>>()?)
    }));
    let Ok(Ok(arrays)) = built else { return std::ptr::null() };
    let mut given = builder.given.lock().unwrap_or_else(PoisonError::into_inner);
    let raws = arrays.iter().map(Array::raw).collect();
    *given = (arrays, raws);
    // SAFETY: the bridge gives a place for the number.
    unsafe { *out_count = given.1.len() };
    given.1.as_ptr()
}

impl Session {
    /// Prepares a graph for `mx::compile`; it is built at the first call.
    pub(crate) fn compile(&self, graph: BuildGraph) -> Result<Compiled, MlxError> {
        let builder =
            Box::new(Builder { library: self.library, build: graph, given: Mutex::default() });
        let context = (&raw const *builder).cast_mut().cast::<c_void>();
        // SAFETY: the lock is held; the builder lives in its box as long as what is made here.
        let raw = unsafe { (self.library.symbols.compile)(build, context) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Compiled { raw, builder }),
            None => self
                .check(false, "compile")
                .and(Err(MlxError::Call { call: "compile", message: "no result".into() })),
        }
    }

    /// The outputs over these inputs, as a lazy graph.
    pub(crate) fn call_compiled(
        &self,
        compiled: &Compiled,
        inputs: &[Array],
    ) -> Result<Vec<Array>, MlxError> {
        let raws: Vec<Raw> = inputs.iter().map(Array::raw).collect();
        let mut out: Vec<Raw> = vec![std::ptr::null_mut(); 4096];
        // SAFETY: the lock is held, the arrays live, and the bridge writes no more than `out` holds.
        let count = unsafe {
            (self.library.symbols.call_compiled)(
                compiled.raw.as_ptr(),
                raws.as_ptr(),
                raws.len(),
                out.as_mut_ptr(),
                out.len(),
            )
        };
        let given = &compiled.builder.given;
        *given.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
        self.check(count >= 0, "call_compiled")?;
        out.truncate(usize::try_from(count).unwrap_or(0));
        out.into_iter().map(|raw| self.own(raw, "call_compiled")).collect()
    }
}
