//! Reading numbers out of a configuration without trusting it.

use serde_json::Value as Json;

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key is absent.
    #[error("{source_name} has no `{key}`")]
    Missing {
        /// What was read.
        source_name: &'static str,
        /// The key.
        key: String,
    },
    /// A key has a value that makes no sense, or that is not supported.
    #[error("{source_name}: `{key}` must be {wanted}, got {got}")]
    Wrong {
        /// What was read.
        source_name: &'static str,
        /// The key.
        key: String,
        /// What it must be.
        wanted: String,
        /// What it is.
        got: String,
    },
}

/// The keys of an object. A key with `null` counts as absent.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    json: &'a Json,
    source_name: &'static str,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Json, source_name: &'static str) -> Keys<'a> {
        Keys { json, source_name }
    }

    /// The object of this key; an empty one if there is none.
    pub(crate) fn inner(self, key: &str) -> Keys<'a> {
        Keys { json: &self.json[key], ..self }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.json.as_object().is_none_or(|o| o.is_empty())
    }

    /// Whether the key is there at all, be it `null`.
    pub(crate) fn names(self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    pub(crate) fn get(self, key: &str) -> Option<&'a Json> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn missing(self, key: &str) -> ConfigError {
        ConfigError::Missing { source_name: self.source_name, key: key.to_string() }
    }

    pub(crate) fn wrong(self, key: &str, wanted: impl Into<String>) -> ConfigError {
        // A value may be as long as a file.
        let got: String = self.json[key].to_string().chars().take(80).collect();
        let (key, wanted) = (key.to_string(), wanted.into());
        ConfigError::Wrong { source_name: self.source_name, key, wanted, got }
    }

    pub(crate) fn maybe_size(self, key: &str) -> Result<Option<usize>, ConfigError> {
        /// No size of any checkpoint comes near; products of two stay far from overflow.
        const LIMIT: u64 = 1 << 24;
        match self.get(key).map(|v| (v.as_u64(), v)) {
            None => Ok(None),
            Some((Some(n), _)) if (1..=LIMIT).contains(&n) => Ok(Some(n as usize)),
            Some(_) => Err(self.wrong(key, format!("a whole number from 1 to {LIMIT}"))),
        }
    }

    pub(crate) fn size(self, key: &str) -> Result<usize, ConfigError> {
        self.maybe_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive number.
    pub(crate) fn maybe_positive(self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(key).map(|v| (v.as_f64(), v)) {
            None => Ok(None),
            Some((Some(x), _)) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            Some(_) => Err(self.wrong(key, "a positive number")),
        }
    }

    pub(crate) fn positive(self, key: &str) -> Result<f64, ConfigError> {
        self.maybe_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn flag(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(crate) fn maybe_text(self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text")),
        }
    }

    /// A list of exactly this many positive numbers.
    pub(crate) fn positives(self, key: &str, count: usize) -> Result<Vec<f64>, ConfigError> {
        let list = self.get(key).ok_or_else(|| self.missing(key))?;
        let good = |v: &Json| v.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        let numbers = list.as_array().and_then(|a| a.iter().map(good).collect::<Option<Vec<_>>>());
        let wrong = || self.wrong(key, format!("a list of {count} positive numbers"));
        numbers.filter(|n| n.len() == count).ok_or_else(wrong)
    }
}
