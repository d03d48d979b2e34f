//! Named weights, kept apart from inputs: loaded once, shared by many programs.

use crate::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Weights by name. Cloning shares them.
///
/// ```
/// use frit_graph::{Params, Value};
/// let mut params = Params::new();
/// params.insert("norm.weight", Value::new([2], vec![1.0f32, 1.0])?);
/// assert_eq!(params.get("norm.weight").map(|v| v.shape().to_vec()), Some(vec![2]));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Params(Arc<BTreeMap<String, Value>>);

impl Params {
    /// No weights.
    pub fn new() -> Params {
        Params::default()
    }

    /// Adds or replaces a weight.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        Arc::make_mut(&mut self.0).insert(name.into(), value);
    }

    /// Takes a weight out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        Arc::make_mut(&mut self.0).remove(name)
    }

    /// The weight of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Names and weights in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Value)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(iter: I) -> Params {
        Params(Arc::new(iter.into_iter().collect()))
    }
}
