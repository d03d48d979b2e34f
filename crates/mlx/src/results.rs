//! Results that stay in MLX's memory.
//!
//! An output of a program is a [`Value`] over the array's own bytes, and a value that comes back as
//! an input (a cache does, at every step) is known by its identity: the array goes in as it is, and
//! MLX writes over it where nobody else holds it.

use crate::{
    MlxError,
    ffi::{Array, Contents, Session},
};
use frit_graph::{Error, Spec, Value};
use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

struct Kept {
    contents: Contents,
    /// The identity of the value made of it.
    id: AtomicU64,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.contents.as_ref()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        known().remove(&self.id.load(Ordering::Relaxed));
    }
}

type Known = HashMap<u64, Weak<Kept>>;

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of an evaluated, contiguous array.
pub(crate) fn value_of(session: &Session, array: &Array, spec: &Spec) -> Result<Value, Error> {
    let contents = session.contents(array)?;
    let kept = Arc::new(Kept { contents, id: AtomicU64::new(0) });
    let bytes = (*kept).as_ref().len();
    let value = Value::from_shared(spec.clone(), kept.clone(), 0..bytes)?;
    kept.id.store(value.id(), Ordering::Relaxed);
    known().insert(value.id(), Arc::downgrade(&kept));
    Ok(value)
}

/// The array of a value: its own if it has one.
pub(crate) fn array_of(session: &Session, value: &Value) -> Result<Array, MlxError> {
    let found = known().get(&value.id()).and_then(Weak::upgrade);
    let Some(kept) = found else { return session.array(value) };
    let array = kept.contents.array().clone();
    // A value may have been given another shape.
    if array.dtype() == value.dtype() && array.shape() == value.shape() {
        return Ok(array);
    }
    if array.dtype() == value.dtype() {
        return session.reshape(&array, value.shape());
    }
    // In another type it is copied, so that no array waits for another's memory.
    match Value::from_bytes(value.spec().clone(), value.bytes()) {
        Ok(copy) => session.array(&copy),
        Err(e) => Err(MlxError::Call { call: "array", message: e.to_string() }),
    }
}
