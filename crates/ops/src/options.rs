//! Options of an operation by their published names, for files and command lines.

use std::collections::BTreeMap;

/// The value of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// `null`: as if it were not given.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list of numbers.
    List(Vec<f64>),
}

/// Options by name. Reading takes them out, so that what is left over is unknown.
///
/// ```
/// use frit_ops::{OptionValue, Options};
/// let mut options = Options::from([("eps".to_string(), OptionValue::Number(1e-5))]);
/// assert_eq!(options.number("eps", 1e-6)?, 1e-5);
/// options.finish()?;
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options(BTreeMap<String, OptionValue>);

impl<const N: usize> From<[(String, OptionValue); N]> for Options {
    fn from(list: [(String, OptionValue); N]) -> Options {
        Options(list.into())
    }
}

impl FromIterator<(String, OptionValue)> for Options {
    fn from_iter<I: IntoIterator<Item = (String, OptionValue)>>(list: I) -> Options {
        Options(list.into_iter().collect())
    }
}

impl Options {
    fn take(&mut self, name: &str) -> Option<OptionValue> {
        self.0.remove(name).filter(|v| *v != OptionValue::Null)
    }

    /// A number that may be absent.
    ///
    /// # Errors
    /// When the option is not a number.
    pub fn maybe_number(&mut self, name: &str) -> Result<Option<f64>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(OptionValue::Number(n)) => Ok(Some(n)),
            Some(other) => Err(format!("option `{name}` must be a number, got {other:?}")),
        }
    }

    /// A number with a default.
    ///
    /// # Errors
    /// When the option is not a number.
    pub fn number(&mut self, name: &str, default: f64) -> Result<f64, String> {
        Ok(self.maybe_number(name)?.unwrap_or(default))
    }

    /// A count with a default.
    ///
    /// # Errors
    /// When the option is not a whole number from 0.
    pub fn count(&mut self, name: &str, default: Option<usize>) -> Result<usize, String> {
        match self.maybe_number(name)? {
            Some(n) if n >= 0.0 && n.fract() == 0.0 && n < 1e15 => Ok(n as usize),
            Some(n) => Err(format!("option `{name}` must be a whole number from 0, got {n}")),
            None => default.ok_or_else(|| format!("option `{name}` is missing")),
        }
    }

    /// A flag with a default.
    ///
    /// # Errors
    /// When the option is neither true nor false.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool, String> {
        match self.take(name) {
            None => Ok(default),
            Some(OptionValue::Bool(b)) => Ok(b),
            Some(other) => Err(format!("option `{name}` must be true or false, got {other:?}")),
        }
    }

    /// A text that may be absent.
    ///
    /// # Errors
    /// When the option is not a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(OptionValue::Text(t)) => Ok(Some(t)),
            Some(other) => Err(format!("option `{name}` must be a text, got {other:?}")),
        }
    }

    /// A pair of counts that may be absent.
    ///
    /// # Errors
    /// When the option is not a list of two whole numbers from 0.
    pub fn pair(&mut self, name: &str) -> Result<Option<(usize, usize)>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(OptionValue::List(l))
                if l.len() == 2 && l.iter().all(|n| *n >= 0.0 && n.fract() == 0.0) =>
            {
                Ok(Some((l[0] as usize, l[1] as usize)))
            }
            Some(other) => {
                Err(format!("option `{name}` must be two whole numbers from 0, got {other:?}"))
            }
        }
    }

    /// A list of counts that may be absent.
    ///
    /// # Errors
    /// When the option is not a list of whole numbers from 0.
    pub fn counts(&mut self, name: &str) -> Result<Option<Vec<usize>>, String> {
        let whole = |n: &f64| *n >= 0.0 && n.fract() == 0.0 && *n < 1e15;
        match self.take(name) {
            None => Ok(None),
            Some(OptionValue::List(l)) if l.iter().all(whole) => {
                Ok(Some(l.iter().map(|n| *n as usize).collect()))
            }
            Some(other) => Err(format!(
                "option `{name}` must be a list of whole numbers from 0, got {other:?}"
            )),
        }
    }

    /// Checks that every option was read.
    ///
    /// # Errors
    /// Names of the options that are left.
    pub fn finish(&self) -> Result<(), String> {
        let left: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("unknown options: {}", left.join(", "))),
        }
    }
}
