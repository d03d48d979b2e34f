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
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Constants of up to so many bytes are known by what they hold.
const SMALL: usize = 256;

/// What an array is, apart from its memory: it outlives the arrays that were only on the way.
pub(crate) struct Identity {
    number: u64,
    /// Kept so that the same recipe is found again.
    _from: Vec<Arc<Identity>>,
}

/// An array that does not change from run to run.
pub(crate) struct Known {
    pub(crate) identity: Arc<Identity>,
    pub(crate) array: Array,
}

/// What makes two arrays the same.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Memory of a value, in this shape.
    Memory(u64, String),
    /// A small constant: its spec and bytes.
    Small(String, Vec<u8>),
    /// An operation, described, on known operands.
    Recipe(String, Vec<Option<u64>>),
}

#[derive(Default)]
struct Shelf {
    identities: HashMap<Key, Weak<Identity>>,
    arrays: HashMap<u64, Weak<Known>>,
}

fn shelf() -> MutexGuard<'static, Shelf> {
    static SHELF: LazyLock<Mutex<Shelf>> = LazyLock::new(Mutex::default);
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Identity {
    fn of(key: Key, from: Vec<Arc<Identity>>) -> Arc<Identity> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let identities = &mut shelf().identities;
        if let Some(found) = identities.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = Arc::new(Identity { number, _from: from });
        identities.insert(key, Arc::downgrade(&new));
        new
    }

    /// The identity of what an operation makes of known operands.
    pub(crate) fn of_recipe(what: String, from: &[Option<Arc<Known>>]) -> Arc<Identity> {
        let numbers = from.iter().map(|k| k.as_ref().map(|k| k.identity.number)).collect();
        let from = from.iter().flatten().map(|k| k.identity.clone()).collect();
        Identity::of(Key::Recipe(what, numbers), from)
    }
}

/// The array of this identity, if a program uses it.
pub(crate) fn find(identity: &Identity) -> Option<Arc<Known>> {
    shelf().arrays.get(&identity.number).and_then(Weak::upgrade)
}

/// Lets others find an array, which is evaluated.
pub(crate) fn keep(known: &Arc<Known>) {
    let Shelf { identities, arrays } = &mut *shelf();
    identities.retain(|_, identity| identity.strong_count() > 0);
    arrays.retain(|_, known| known.strong_count() > 0);
    arrays.insert(known.identity.number, Arc::downgrade(known));
}

/// A weight or constant.
pub(crate) fn value(session: &Session, value: &Value) -> Result<Arc<Known>, MlxError> {
    let spec = value.spec().to_string();
    let key = match value.bytes().len() {
        0..=SMALL => Key::Small(spec, value.bytes().to_vec()),
        _ => Key::Memory(value.id(), spec),
    };
    let identity = Identity::of(key, Vec::new());
    if let Some(known) = find(&identity) {
        return Ok(known);
    }
    let known = Arc::new(Known { identity, array: results::array_of(session, value)? });
    keep(&known);
    Ok(known)
}
