//! What a reader gives: weights by name, and what the files say of them.

use crate::{LoadError, gguf, gguf::Vocabulary, safetensors};
use frit_graph::{DType, Params, Value};
use frit_ops::Encoding;
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    panic::resume_unwind,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// The kind of file a checkpoint was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// One safetensors file.
    SafeTensors,
    /// Several safetensors files and an index that says which tensor is in which.
    ShardedSafeTensors,
    /// A CTranslate2 binary, its variables renamed.
    CTranslate2,
    /// A GGUF file, its tensors under their own names.
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::SafeTensors => "safetensors",
            Format::ShardedSafeTensors => "safetensors, sharded",
            Format::CTranslate2 => "CTranslate2",
            Format::Gguf => "GGUF",
        })
    }
}

/// Weights by their Hugging Face names (those of the file, for GGUF), with the configuration of the
/// model.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The weights. A packed weight has its bytes here: `u8` `[n, bytes of a row]`; of affine groups
    /// `u32` `[n, words of a row]`, with `scales` and `biases` beside it in the place of `weight`.
    pub params: Params,
    /// How the packed weights among them are encoded, by name.
    pub packed: BTreeMap<String, Encoding>,
    /// The configuration, an object, with the keys of Hugging Face (those of the file, for GGUF);
    /// empty where there is none.
    pub config: serde_json::Value,
    /// The kind of file.
    pub format: Format,
    /// The file that was read; the index of a sharded checkpoint.
    pub path: PathBuf,
    /// What the file says of itself, as text.
    pub metadata: BTreeMap<String, String>,
    /// Tensors that were left out because nothing says how they are called here.
    pub unmapped: Vec<String>,
    /// Tensors that were left out because no [`DType`] stores their elements, and what does.
    pub unsupported: BTreeMap<String, String>,
    /// The tokenizer, where the file carries one (GGUF).
    pub vocabulary: Option<Vocabulary>,
}

impl Checkpoint {
    /// The weight of this name.
    ///
    /// # Errors
    /// When there is none (with the most similar name that there is), or when the file has it in
    /// a type of elements that is not supported.
    pub fn tensor(&self, name: &str) -> Result<&Value, LoadError> {
        if let Some(value) = self.params.get(name) {
            return Ok(value);
        }
        let (path, name) = (self.path.clone(), name.to_string());
        if let Some(dtype) = self.unsupported.get(&name) {
            let supported = match self.format {
                Format::Gguf => gguf::SUPPORTED,
                _ => safetensors::SUPPORTED,
            };
            return Err(LoadError::Dtype { path, name, dtype: dtype.clone(), supported });
        }
        let names = self.params.iter().map(|(n, _)| n);
        let names = names.chain(self.unsupported.keys().map(String::as_str));
        let suggestion = most_similar(&name, names).map(str::to_string);
        Err(LoadError::Missing { path, name, suggestion })
    }

    /// The weights with every float in `dtype`, on all cores. Integers and booleans stay as they
    /// are, and so does everything if `dtype` is no float. Weights of that type already are shared.
    pub fn cast(&self, dtype: DType) -> Params {
        self.cast_where(dtype, |_| true)
    }

    /// The weights for a model that computes in `dtype`: as they are stored where `dtype` holds
    /// all numbers of their type, so that the model widens them where it uses them; the others as
    /// [`Checkpoint::cast`] gives them.
    pub fn params_for(&self, dtype: DType) -> Params {
        self.cast_where(dtype, |stored| !dtype.holds(stored))
    }

    fn cast_where(&self, dtype: DType, wanted: impl Fn(DType) -> bool + Sync) -> Params {
        let mut work: Vec<(&str, &Value)> = self.params.iter().collect();
        // The large ones first, so that no thread is left alone with one at the end.
        work.sort_by_key(|(_, v)| Reverse(v.spec().bytes()));
        let next = AtomicUsize::new(0);
        let run = || {
            let mut done = Vec::new();
            while let Some((name, value)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                let floats = value.dtype().is_float() && dtype.is_float();
                let value = match floats && wanted(value.dtype()) {
                    true => value.cast(dtype),
                    false => (*value).clone(),
                };
                done.push((name.to_string(), value));
            }
            done
        };
        let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(work.len());
        thread::scope(|scope| {
            // Where the system gives no thread, those that there are do the work.
            let spawn = |_| thread::Builder::new().spawn_scoped(scope, run).ok();
            let helpers: Vec<_> = (1..threads).filter_map(spawn).collect();
            let mut done = run();
            for helper in helpers {
                done.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            done.into_iter().collect()
        })
    }
}

/// The name most like `wanted`, if one is alike enough to be what was meant.
fn most_similar<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Names come from files: comparing two endless ones would take for ever.
    const LONGEST: usize = 256;
    if wanted.len() > LONGEST {
        return None;
    }
    let distance = |name: &str| match () {
        // A missing or superfluous `model.` is the commonest mistake.
        () if is_tail(name, wanted) || is_tail(wanted, name) => 1,
        () => edit_distance(wanted.as_bytes(), name.as_bytes()),
    };
    names
        .filter(|n| n.len() <= LONGEST)
        .map(|n| (distance(n), n))
        .min()
        .filter(|(d, _)| *d <= (wanted.len() / 4).max(2))
        .map(|(_, n)| n)
}

/// Whether `name` is something, a dot and `tail`.
fn is_tail(name: &str, tail: &str) -> bool {
    !tail.is_empty() && name.strip_suffix(tail).is_some_and(|head| head.ends_with('.'))
}

/// Insertions, deletions and replacements of a byte that turn `a` into `b` (Levenshtein).
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(values: Vec<(&str, Value)>) -> Checkpoint {
        Checkpoint {
            params: values.into_iter().map(|(n, v)| (n.to_string(), v)).collect(),
            packed: BTreeMap::new(),
            config: serde_json::json!({}),
            format: Format::SafeTensors,
            path: "a/b".into(),
            metadata: BTreeMap::new(),
            unmapped: Vec::new(),
            unsupported: [("odd.weight".to_string(), "F8_E4M3".to_string())].into(),
            vocabulary: None,
        }
    }

    #[test]
    fn edit_distances_are_the_published_ones() {
        for (a, b, d) in
            [("kitten", "sitting", 3), ("flaw", "lawn", 2), ("", "abc", 3), ("same", "same", 0)]
        {
            assert_eq!(edit_distance(a.as_bytes(), b.as_bytes()), d, "{a} {b}");
        }
    }

    #[test]
    fn a_missing_tensor_is_answered_with_the_most_similar_name() {
        let one = || Value::scalar(1.0f32);
        let c = checkpoint(vec![
            ("model.layers.0.self_attn.q_proj.weight", one()),
            ("model.layers.0.self_attn.k_proj.weight", one()),
            ("model.norm.weight", one()),
        ]);
        for (asked, answer) in [
            ("layers.0.self_attn.q_proj.weight", Some("model.layers.0.self_attn.q_proj.weight")),
            ("model.norm.wieght", Some("model.norm.weight")),
            ("base.model.norm.weight", Some("model.norm.weight")),
            ("lm_head.bias", None),
        ] {
            let error = c.tensor(asked).expect_err("missing");
            assert!(error.to_string().contains(&format!("missing tensor `{asked}`")), "{error}");
            let LoadError::Missing { suggestion, .. } = error else { panic!("{error}") };
            assert_eq!(suggestion.as_deref(), answer, "{asked}");
        }
    }

    #[test]
    fn an_unsupported_tensor_is_named_with_its_type_when_asked_for() {
        let error = checkpoint(vec![]).tensor("odd.weight").expect_err("unsupported").to_string();
        assert!(error.contains("`a/b`") && error.contains("`odd.weight`"), "{error}");
        assert!(error.contains("F8_E4M3") && error.contains("BF16"), "{error}");
    }

    #[test]
    fn casting_rounds_floats_once_and_keeps_integers() {
        // 1 + 2^-11 + 2^-40 is just above the middle of two halves: f32 in between would lose it.
        let exact = 1.0 + (2.0f64).powi(-11) + (2.0f64).powi(-40);
        let c = checkpoint(vec![
            ("f", Value::new([2], vec![exact, -2.5]).expect("value")),
            ("h", Value::new([1], vec![half::f16::from_f32(0.5)]).expect("value")),
            ("i", Value::new([1], vec![7i64]).expect("value")),
            ("b", Value::bools([1], &[true]).expect("value")),
        ]);
        let half = c.cast(DType::F16);
        let bits = |p: &Params, n: &str| p.get(n).map(|v| v.bytes().to_vec());
        assert_eq!(bits(&half, "f"), Some(vec![0x01, 0x3c, 0x00, 0xc1]));
        assert_eq!(bits(&half, "h"), Some(vec![0x00, 0x38]));
        assert_eq!(half.get("i").map(Value::to_i64), Some(vec![7]));
        assert_eq!(half.get("b").map(Value::dtype), Some(DType::Bool));
        assert_eq!(half.len(), 4);
        let same = |n| half.get(n).map(Value::id) == c.params.get(n).map(Value::id);
        assert!(same("h") && same("i") && !same("f"));
        assert_eq!(c.cast(DType::I32).get("f"), c.params.get("f"));
        // For a model in f32 the f64 is rounded, and the half stays as it is stored.
        let wide = c.params_for(DType::F32);
        let dtypes = ["f", "h", "i", "b"].map(|n| wide.get(n).map(Value::dtype));
        let wanted = [DType::F32, DType::F16, DType::I64, DType::Bool];
        assert_eq!(dtypes, wanted.map(Some));
        assert_eq!(wide.get("h").map(Value::id), c.params.get("h").map(Value::id));
    }
}
