//! JSON from files that are not trusted: an object at the top, and, where it says which bytes are
//! which tensor, no key twice in any object (`serde_json` keeps the last of two, another reader may
//! keep the first).

use crate::{LoadError, error::shown};
use serde_json::{Map, Value};
use std::{borrow::Cow, collections::HashSet, path::Path};

/// The object that `bytes` spell, keys unique; `what` is how errors call it.
pub(crate) fn unique_object(
    bytes: &[u8],
    path: &Path,
    what: &str,
) -> Result<Map<String, Value>, LoadError> {
    let object = object(bytes, path, what)?;
    match std::str::from_utf8(bytes).ok().and_then(duplicate_key) {
        None => Ok(object),
        Some(key) => {
            let message = format!("{what}: key `{}` stands there twice", shown(&key));
            Err(LoadError::format(path, message))
        }
    }
}

/// The object that `bytes` spell, the last of equal keys counting, as in Python.
pub(crate) fn object(
    bytes: &[u8],
    path: &Path,
    what: &str,
) -> Result<Map<String, Value>, LoadError> {
    let wrong = |e: String| LoadError::format(path, format!("{what}: {e}"));
    match serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("not a JSON object".into())),
    }
}

/// The first key that some object holds twice, in text that is known to be JSON.
fn duplicate_key(text: &str) -> Option<String> {
    // One entry for each bracket that is open: the keys seen so far, or `None` in an array.
    let mut open: Vec<Option<HashSet<Cow<str>>>> = Vec::new();
    let mut key_is_next = false;
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        match byte {
            b'{' => {
                open.push(Some(HashSet::new()));
                key_is_next = true;
            }
            b'[' => {
                open.push(None);
                key_is_next = false;
            }
            b'}' | b']' => {
                open.pop();
            }
            b',' => key_is_next = matches!(open.last(), Some(Some(_))),
            b'"' => {
                let end = at + 1 + string_length(&text.as_bytes()[at + 1..]);
                if key_is_next && let Some(Some(keys)) = open.last_mut() {
                    let raw = &text[at + 1..end];
                    let key = if raw.contains('\\') {
                        Cow::Owned(serde_json::from_str(&text[at..=end]).ok()?)
                    } else {
                        Cow::Borrowed(raw)
                    };
                    if let Some(seen) = keys.replace(key) {
                        return Some(seen.into_owned());
                    }
                }
                key_is_next = false;
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Bytes up to the closing quote of a string whose opening quote is behind us.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_twice_in_one_object_is_found_at_any_depth() {
        for (text, twice) in [
            (r#"{"a": 1, "a": 2}"#, Some("a")),
            (r#"{"a": {"b": [1, {"c": 1, "\u0063": 2}]}}"#, Some("c")),
            (r#"{"a": {"a": 1}, "b": {"a": "a"}, "c": ["b", "b"]}"#, None),
            (r#"{"a\"": ",", "a": "{\"a\": 1", "b\\": 1, "b": 2}"#, None),
            (r#"{"x": [], "y": {}, "x": 3}"#, Some("x")),
        ] {
            assert_eq!(duplicate_key(text).as_deref(), twice, "{text}");
        }
    }

    #[test]
    fn anything_but_an_object_is_an_error_with_the_path() {
        for text in [&b"[1]"[..], b"", b"{", b"\xff", b"{\"a\":1,\"a\":1}"] {
            let path = Path::new("some/file");
            let error = unique_object(text, path, "header").expect_err("refused");
            assert!(error.to_string().starts_with("`some/file`: header: "), "{error}");
        }
    }
}
