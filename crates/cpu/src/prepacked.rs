//! Weights and what is made of them once: a packed weight belongs to the backend and is shared by
//! every program that uses it.

use crate::plan::{Recipe, Recipes};
use frit_graph::Value;
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

type Thing = dyn Any + Send + Sync;

/// Things made of weights, by the weight's memory and the thing's type, and values computed of
/// weights, by their recipes.
#[derive(Default)]
pub(crate) struct Shelf {
    things: Mutex<HashMap<(u64, TypeId), Weak<Thing>>>,
    pub(crate) recipes: Recipes,
}

impl Shelf {
    fn get<P: Any + Send + Sync>(&self, value: &Value, make: impl FnOnce(&Value) -> P) -> Arc<P> {
        let key = (value.id(), TypeId::of::<P>());
        let lock = || self.things.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lock().get(&key).and_then(Weak::upgrade);
        if let Some(Ok(p)) = found.map(Arc::downcast::<P>) {
            return p;
        }
        let made = Arc::new(make(value));
        let shared: Arc<Thing> = made.clone();
        let mut things = lock();
        things.retain(|_, w| w.strong_count() > 0);
        things.insert(key, Arc::downgrade(&shared));
        made
    }
}

/// A weight or constant of a program.
pub(crate) struct Known {
    pub(crate) value: Value,
    shelf: Arc<Shelf>,
    made: Mutex<Vec<Arc<Thing>>>,
    /// Kept so that other programs find the value.
    _recipe: (Arc<Recipe>, Option<Arc<Value>>),
}

impl Known {
    /// A value that is there.
    pub(crate) fn new(value: Value, shelf: Arc<Shelf>, recipe: Arc<Recipe>) -> Known {
        Known { value, shelf, made: Mutex::default(), _recipe: (recipe, None) }
    }

    /// A value that was made by a recipe.
    pub(crate) fn made(value: Arc<Value>, shelf: Arc<Shelf>, recipe: Arc<Recipe>) -> Known {
        let _recipe = (recipe, Some(value.clone()));
        Known { value: (*value).clone(), shelf, made: Mutex::default(), _recipe }
    }

    /// What `make` makes, made once.
    pub(crate) fn prepacked<P: Any + Send + Sync>(&self, make: impl FnOnce(&Value) -> P) -> Arc<P> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = made.iter().find_map(|t| t.clone().downcast::<P>().ok()) {
            return p;
        }
        let new = self.shelf.get(&self.value, make);
        made.push(new.clone());
        new
    }
}
