//! How a value came from weights alone, so that programs find what another has computed.
//!
//! Recipes are the same recipe where they say the same: the operation, the spec and the operands'
//! recipes, which are compared by address for that reason. They live as long as a program that
//! uses them, and so does what was made by them.

use super::{Label, Layout};
use crate::EventKind;
use frit_graph::{DynBlock, Prim, Spec, Value};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// What a recipe does.
#[derive(Clone)]
pub(crate) enum What {
    /// This memory, which it keeps.
    Weight(Value),
    /// These bytes.
    Constant(Value),
    Prim(Prim),
    Block(Arc<dyn DynBlock>),
    /// Written out densely.
    Copy,
}

impl What {
    /// What a step that computes it is of.
    pub(super) fn label(&self) -> Label {
        let kind = match self {
            What::Block(_) => EventKind::Block,
            _ => EventKind::Primitive,
        };
        Label { kind, name: self.name(), at: None }
    }

    fn name(&self) -> &'static str {
        match self {
            What::Weight(_) => "weight",
            What::Constant(_) => "constant",
            What::Prim(p) => p.name(),
            What::Block(b) => b.name(),
            What::Copy => "copy",
        }
    }

    fn same(&self, other: &What) -> bool {
        match (self, other) {
            (What::Weight(a), What::Weight(b)) => a.id() == b.id(),
            (What::Constant(a), What::Constant(b)) => a == b,
            (What::Prim(a), What::Prim(b)) => a == b,
            (What::Block(a), What::Block(b)) => a.same(&**b),
            (What::Copy, What::Copy) => true,
            _ => false,
        }
    }
}

type From = Vec<Option<(Arc<Recipe>, Layout)>>;

/// One step of a computation on weights.
pub(crate) struct Recipe {
    what: What,
    spec: Spec,
    from: From,
    made: Mutex<Weak<Value>>,
}

impl Recipe {
    /// What was made by it, while a program holds that.
    pub(crate) fn made(&self) -> Option<Arc<Value>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Tells others what was made by it.
    pub(crate) fn make(&self, value: Value) -> Arc<Value> {
        let value = Arc::new(value);
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&value);
        value
    }
}

impl Drop for Recipe {
    /// A long chain would overflow the stack if each dropped the next by recursion.
    fn drop(&mut self) {
        let mut doomed: From = self.from.drain(..).collect();
        while let Some(next) = doomed.pop() {
            if let Some(mut recipe) = next.and_then(|(r, _)| Arc::into_inner(r)) {
                doomed.append(&mut recipe.from);
            }
        }
    }
}

/// All recipes of a backend.
#[derive(Default)]
pub(crate) struct Recipes(Mutex<Book>);

#[derive(Default)]
struct Book {
    pages: HashMap<u64, Vec<Weak<Recipe>>>,
    /// So many pages are swept before there are more.
    limit: usize,
}

impl Recipes {
    /// The recipe that says this. Buffers of the layouts do not count.
    pub(crate) fn find(&self, what: What, spec: &Spec, mut from: From) -> Arc<Recipe> {
        let mut h = DefaultHasher::new();
        (what.name(), spec).hash(&mut h);
        match &what {
            What::Weight(v) => v.id().hash(&mut h),
            What::Constant(v) => v.bytes()[..v.bytes().len().min(256)].hash(&mut h),
            _ => {}
        }
        for (recipe, layout) in from.iter_mut().flatten() {
            layout.buffer = 0;
            (Arc::as_ptr(recipe).addr(), layout.offset).hash(&mut h);
        }
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |r: &Arc<Recipe>| {
            let operands = r.from.len() == from.len()
                && r.from.iter().zip(&from).all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1,
                    (None, None) => true,
                    _ => false,
                });
            operands && r.spec == *spec && r.what.same(&what)
        };
        let page = book.pages.entry(h.finish()).or_default();
        // What the lock guards is dropped outside of it: a recipe may be the last of many.
        let known: Vec<Arc<Recipe>> = page.iter().filter_map(Weak::upgrade).collect();
        if let Some(found) = known.iter().find(|r| same(r)).cloned() {
            drop(book);
            return found;
        }
        let new = Arc::new(Recipe { what, spec: spec.clone(), from, made: Mutex::default() });
        page.push(Arc::downgrade(&new));
        if book.pages.len() > book.limit {
            book.pages.retain(|_, page| {
                page.retain(|r| r.strong_count() > 0);
                !page.is_empty()
            });
            book.limit = 2 * book.pages.len() + 64;
        }
        drop(book);
        new
    }
}
