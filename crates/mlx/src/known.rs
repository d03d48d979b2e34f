//! Weights and what is made of them once.
//!
//! A weight crosses to MLX once for all programs that use it, by the identity of its memory. What
//! depends on weights alone is computed when the first program is prepared, and shared by its
//! recipe: the operation and the identities of its operands. Both live as long as a program that
//! uses them.

use crate::{
    MlxError,
    ffi::{Array, Session},
    results,
};
use frit_graph::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Constants of up to so many bytes are known by what they hold.
const SMALL: usize = 256;

/// An array that does not change from run to run.
pub(crate) struct Known {
    /// A number that no other has.
    pub(crate) id: u64,
    pub(crate) array: Array,
}

/// What makes two arrays the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Memory of a value, in this shape.
    Memory(u64, String),
    /// A small constant: its spec and bytes.
    Small(String, Vec<u8>),
    /// An operation, described, on known operands.
    Recipe(String, Vec<Option<u64>>),
}

impl Key {
    /// The key of a value.
    pub(crate) fn of(value: &Value) -> Key {
        let spec = value.spec().to_string();
        match value.bytes().len() {
            0..=SMALL => Key::Small(spec, value.bytes().to_vec()),
            _ => Key::Memory(value.id(), spec),
        }
    }
}

type Shelf = HashMap<Key, Weak<Known>>;

static SHELF: LazyLock<Mutex<Shelf>> = LazyLock::new(Mutex::default);

/// What has this key, if a program uses it.
pub(crate) fn find(key: &Key) -> Option<Arc<Known>> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner).get(key).and_then(Weak::upgrade)
}

/// Keeps an array under this key.
pub(crate) fn keep(key: Key, array: Array) -> Arc<Known> {
    let known = fresh(array);
    let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
    shelf.retain(|_, known| known.strong_count() > 0);
    shelf.insert(key, Arc::downgrade(&known));
    known
}

/// An array that is on its way to being known.
pub(crate) fn fresh(array: Array) -> Arc<Known> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(Known { id: NEXT.fetch_add(1, Ordering::Relaxed), array })
}

/// A weight or constant.
pub(crate) fn value(session: &Session, value: &Value) -> Result<Arc<Known>, MlxError> {
    let key = Key::of(value);
    match find(&key) {
        Some(known) => Ok(known),
        None => Ok(keep(key, results::array_of(session, value)?)),
    }
}
