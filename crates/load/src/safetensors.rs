//! The safetensors format: a JSON header that says where each tensor lies, then the bytes.
//!
//! The header is checked more strictly than JSON asks for, because a file that two readers
//! understand differently is a trap: no name twice, and every byte of the data in exactly one
//! tensor. A type of elements that exists in the format but not in [`DType`] does no harm until
//! its tensor is asked for ([`Checkpoint::unsupported`]).
//!
//! [`DType`]: frit_graph::DType

use crate::{
    Checkpoint, Format, LoadError,
    error::shown,
    json,
    mapped::{self, Shared},
};
use ::safetensors::Dtype;
use frit_graph::{DType, Spec, Value};
use serde_json::{Map, Value as Json};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Component, Path},
};

/// Longest header that is read, in bytes; the limit of the reference implementation.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Where the header keeps text about the file.
pub(crate) const METADATA: &str = "__metadata__";
/// The types that can be read, for messages.
pub(crate) const SUPPORTED: &str = "F64, F32, F16, BF16, I64, I32, U32, U8 and BOOL";

/// Reads one file.
///
/// ```
/// use frit_graph::Value;
/// use std::collections::BTreeMap;
/// let path = std::env::temp_dir().join(format!("frit-read-{}.safetensors", std::process::id()));
/// let about = BTreeMap::from([("format".to_string(), "pt".to_string())]);
/// frit_load::write(&path, &[("bias", &Value::new([3], vec![1i32, 2, 3])?)], &about)?;
///
/// let checkpoint = frit_load::safetensors::read(&path)?;
/// assert_eq!(checkpoint.tensor("bias")?.slice::<i32>()?, [1, 2, 3]);
/// assert_eq!(checkpoint.metadata, about);
/// std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the file cannot be read, its header does not hold, or a tensor does not fit the file.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let path = path.as_ref();
    let file = parse(&mapped::map(path)?, path)?;
    Ok(Checkpoint {
        params: file.tensors.into_iter().collect(),
        packed: BTreeMap::new(),
        config: Json::Object(Map::new()),
        format: Format::SafeTensors,
        path: path.into(),
        metadata: file.metadata,
        unmapped: Vec::new(),
        unsupported: file.unsupported,
        vocabulary: None,
    })
}

/// Reads a checkpoint of several files by its index (`model.safetensors.index.json`), whose
/// `weight_map` says which file, beside the index, holds which tensor. Tensors that the index does
/// not name go to [`Checkpoint::unmapped`].
///
/// # Errors
/// When the index does not hold, names a file that is not there or is elsewhere than beside it, or
/// puts a tensor where it is not; and as [`read`] for each file.
pub fn read_sharded(index: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let path = index.as_ref();
    let bytes = mapped::map(path)?;
    let text = (*bytes).as_ref();
    if text.len() as u64 > MAX_HEADER {
        return Err(LoadError::format(path, "the index is longer than 100 MB"));
    }
    let index = json::unique_object(text, path, "index")?;
    let Some(Json::Object(weight_map)) = index.get("weight_map") else {
        return Err(LoadError::format(path, "the index has no object `weight_map`"));
    };
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, shard) in weight_map {
        match shard {
            Json::String(shard) if is_plain(shard) => {
                shards.entry(shard).or_default().push(name);
            }
            other => {
                let message = format!(
                    "is said to be in {}, which is no file name",
                    shown(&other.to_string())
                );
                return Err(LoadError::tensor(path, name, message));
            }
        }
    }
    let mut checkpoint = Checkpoint {
        params: Default::default(),
        packed: BTreeMap::new(),
        config: Json::Object(Map::new()),
        format: Format::ShardedSafeTensors,
        path: path.into(),
        metadata: BTreeMap::new(),
        unmapped: Vec::new(),
        unsupported: BTreeMap::new(),
        vocabulary: None,
    };
    if let Some(Json::Object(metadata)) = index.get("metadata") {
        let text = |v: &Json| v.as_str().map_or_else(|| v.to_string(), str::to_string);
        checkpoint.metadata = metadata.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    }
    for (shard, names) in shards {
        let shard = path.with_file_name(shard);
        let mut file = parse(&mapped::map(&shard)?, &shard)?;
        for name in names {
            if let Some(value) = file.tensors.remove(name) {
                checkpoint.params.insert(name, value);
            } else if let Some(dtype) = file.unsupported.remove(name) {
                checkpoint.unsupported.insert(name.into(), dtype);
            } else {
                let message = "is not in this file, where the index puts it";
                return Err(LoadError::tensor(&shard, name, message));
            }
        }
        checkpoint.unmapped.extend(file.tensors.into_keys().chain(file.unsupported.into_keys()));
        for (key, text) in file.metadata {
            checkpoint.metadata.entry(key).or_insert(text);
        }
    }
    Ok(checkpoint)
}

/// Whether this names a file beside the index and nothing else on any system.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['/', '\\', ':', '\0'])
}

/// One file, read.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) tensors: BTreeMap<String, Value>,
    pub(crate) unsupported: BTreeMap<String, String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What the header says of one tensor; `range` counts from the end of the header.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Reads a file's bytes; `path` is for messages only.
pub(crate) fn parse(bytes: &Shared, path: &Path) -> Result<File, LoadError> {
    let all = (**bytes).as_ref();
    let header = header(all, path)?;
    let start = 8 + header.len();
    let mut entries = Vec::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in json::unique_object(header, path, "header")? {
        if name == METADATA {
            metadata = texts(value)
                .ok_or_else(|| LoadError::format(path, "`__metadata__` must hold texts only"))?;
        } else {
            match entry(&value) {
                Ok(entry) => entries.push(Entry { name, ..entry }),
                Err(message) => return Err(LoadError::tensor(path, &name, message)),
            }
        }
    }
    check_cover(&mut entries, all.len() - start, path)?;

    let mut file = File { tensors: BTreeMap::new(), unsupported: BTreeMap::new(), metadata };
    for Entry { name, dtype, shape, range } in entries {
        let Some(known) = supported(dtype) else {
            file.unsupported.insert(name, dtype.to_string());
            continue;
        };
        let range = start + range.start..start + range.end;
        let value = Value::from_shared(Spec::new(known, shape), bytes.clone(), range)
            .map_err(|e| LoadError::tensor(path, &name, shown(&e.to_string())))?;
        file.tensors.insert(name, value);
    }
    Ok(file)
}

/// The bytes of the JSON header.
fn header<'a>(all: &'a [u8], path: &Path) -> Result<&'a [u8], LoadError> {
    let Some((length, rest)) = all.split_first_chunk::<8>() else {
        let message = format!("{} bytes are too few for a safetensors file", all.len());
        return Err(LoadError::format(path, message));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let message = format!("no safetensors file: a header of {length} bytes (at most 100 MB)");
        return Err(LoadError::format(path, message));
    }
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        let message = format!("the header has {length} bytes, but {} are left", rest.len());
        return Err(LoadError::format(path, message));
    };
    if header.first() != Some(&b'{') {
        return Err(LoadError::format(path, "no safetensors file: the header is no JSON object"));
    }
    Ok(header)
}

/// An object that holds nothing but texts.
fn texts(value: Json) -> Option<BTreeMap<String, String>> {
    let Json::Object(object) = value else { return None };
    let text = |(k, v)| match v {
        Json::String(v) => Some((k, v)),
        _ => None,
    };
    object.into_iter().map(text).collect()
}

/// Reads and checks what can be checked of one tensor alone. The name is left empty.
fn entry(value: &Json) -> Result<Entry, String> {
    let field = |key: &str| value.get(key).ok_or_else(|| format!("has no `{key}` in the header"));
    let dtype = field("dtype")?;
    let dtype: Dtype = serde_json::from_value(dtype.clone())
        .map_err(|_| format!("has the unknown dtype {}", shown(&dtype.to_string())))?;
    let wrong = |key: &str| format!("has a `{key}` that is not a list of sizes");
    let sizes = |key: &str| -> Result<Vec<usize>, String> {
        let list = field(key)?.as_array().ok_or_else(|| wrong(key))?;
        let size = |v: &Json| v.as_u64().and_then(|n| usize::try_from(n).ok());
        list.iter().map(size).collect::<Option<_>>().ok_or_else(|| wrong(key))
    };
    let shape = sizes("shape")?;
    let [from, to] = sizes("data_offsets")?[..] else {
        return Err("needs two `data_offsets`".into());
    };
    let Some(got) = to.checked_sub(from) else {
        return Err(format!("ends at byte {to}, before its start at {from}"));
    };
    let bytes = byte_length(dtype, &shape).ok_or_else(|| {
        format!("of {dtype} {} is no whole number of bytes that fits in memory", listed(&shape))
    })?;
    if bytes != got {
        let shape = listed(&shape);
        return Err(format!("of {dtype} {shape} needs {bytes} bytes, got {got}"));
    }
    Ok(Entry { name: String::new(), dtype, shape, range: from..to })
}

/// A shape for messages; hostile ones are long.
fn listed(shape: &[usize]) -> String {
    shown(&format!("{:?}", &shape[..shape.len().min(16)]))
}

/// Bytes a tensor takes; `None` where they cannot be counted or are no whole number.
fn byte_length(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Checks that the tensors, put in order, cover the data once: no overlap, no hole, no rest.
fn check_cover(entries: &mut [Entry], room: usize, path: &Path) -> Result<(), LoadError> {
    entries.sort_by_key(|e| (e.range.start, e.range.end));
    let (mut end, mut last) = (0, "");
    for Entry { name, range, .. } in &*entries {
        let message = if range.end > room {
            format!("reaches to byte {} of {room}", range.end)
        } else if range.start < end {
            format!("at bytes {range:?} overlaps `{}`", shown(last))
        } else if range.start > end {
            format!("starts at byte {}, but the tensor before it ends at {end}", range.start)
        } else {
            (end, last) = (range.end, name);
            continue;
        };
        return Err(LoadError::tensor(path, name, message));
    }
    match room - end {
        0 => Ok(()),
        n => Err(LoadError::format(path, format!("{n} bytes at the end belong to no tensor"))),
    }
}

fn supported(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
