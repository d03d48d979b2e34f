//! GGUF, the format of llama.cpp: metadata, tensors and the tokenizer in one file.
//!
//! The layout, little endian; a `text` is a `u64` length, then bytes:
//!
//! ```text
//! "GGUF", u32 version = 2 or 3, u64 tensors, u64 pairs
//! pairs x {text key, u32 type, value}
//! tensors x {text name, u32 rank, rank x u64 extent, u32 type, u64 offset}
//! padding to `general.alignment` (32), then the data that the offsets count from
//! ```
//!
//! Extents are written with the innermost first, so shapes are read backwards. A weight of GGML's
//! blocks stays packed: its value is the bytes `[.., bytes of a row]`, and [`Checkpoint::packed`]
//! says what they mean. Names are those of the file (`blk.0.attn_q.weight`): what a model calls
//! them is the model's affair.
//!
//! `reader.rs` reads numbers, texts and metadata, `types.rs` lists GGML's types of elements,
//! `vocabulary.rs` the tokenizer; this file puts a checkpoint together.

mod reader;
mod types;
mod vocabulary;

pub use vocabulary::Vocabulary;

use crate::{
    Checkpoint, Format, LoadError,
    error::shown,
    mapped::{self, Shared},
};
use frit_graph::{Params, Spec, Value};
use reader::{Meta, Reader};
use serde_json::{Map, Value as Json};
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    path::Path,
};
use types::Stored;

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const PARTS: &str = "split.count";
const DEFAULT_ALIGNMENT: usize = 32;
/// GGML has no tensors of a higher rank.
const MAX_RANK: u32 = 4;
/// Longer arrays are data and not configuration.
const MAX_ARRAY: usize = 1024;
/// Values that go to the configuration; models have a few dozen.
const MAX_CONFIG: usize = 1 << 20;
/// The types that can be read, for messages.
pub(crate) const SUPPORTED: &str =
    "F64, F32, F16, BF16, I64, I32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

/// Reads one file.
///
/// [`Checkpoint::config`] has the metadata under its own keys (`general.architecture`,
/// `llama.block_count`), without long arrays, which [`Checkpoint::metadata`] describes. The
/// tokenizer is in [`Checkpoint::vocabulary`].
///
/// # Errors
/// When the file cannot be read, is no GGUF of version 2 or 3, is one part of several, or does not
/// hold what it says.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let path = path.as_ref();
    load(&mapped::map(path)?, path)
}

fn load(bytes: &Shared, path: &Path) -> Result<Checkpoint, LoadError> {
    let all = (**bytes).as_ref();
    let mut reader = Reader::new(all, path);
    let (version, tensors, pairs) = head(&mut reader)?;
    let mut metadata = Vec::new();
    let mut keys = HashSet::new();
    for i in 0..pairs {
        let key = reader.text(&|| format!("the key of metadata {i}"))?;
        let value = reader.meta(key)?;
        if !keys.insert(key) {
            return Err(LoadError::format(path, format!("metadata `{}` twice", shown(key))));
        }
        metadata.push((key, value));
    }
    let find = |key: &str| metadata.iter().find(|(k, _)| *k == key).map(|(_, value)| value);
    if let Some(parts) = find(PARTS).and_then(Meta::unsigned).filter(|parts| *parts > 1) {
        let message =
            format!("is one of {parts} parts; merge them with `llama-gguf-split --merge`");
        return Err(LoadError::format(path, message));
    }
    let alignment = match find(ALIGNMENT) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => {
            let number = value.unsigned().and_then(|n| usize::try_from(n).ok());
            number.filter(|n| n.is_power_of_two() && *n <= 1 << 31).ok_or_else(|| {
                LoadError::format(path, format!("metadata `{ALIGNMENT}` is no power of two"))
            })?
        }
    };
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for i in 0..tensors {
        let info = info(&mut reader, i)?;
        if !names.insert(info.name) {
            return Err(LoadError::tensor(path, info.name, "stands there twice"));
        }
        infos.push(info);
    }
    // A file without tensors may end with its metadata.
    let start = reader.at().checked_next_multiple_of(alignment).unwrap_or(all.len()).min(all.len());
    place(&mut infos, start, all.len(), alignment, path)?;

    let config = config(&metadata, path)?;
    let mut checkpoint = Checkpoint {
        params: Params::new(),
        packed: BTreeMap::new(),
        config,
        format: Format::Gguf,
        path: path.into(),
        metadata: described(version, &metadata),
        unmapped: Vec::new(),
        unsupported: BTreeMap::new(),
        vocabulary: Vocabulary::of(&find, path)?,
    };
    let mut params = BTreeMap::new();
    for Info { name, stored, mut shape, range, .. } in infos {
        let dtype = match stored {
            Stored::Plain(dtype) => dtype,
            Stored::Packed(encoding) => {
                checkpoint.packed.insert(name.into(), encoding);
                let row = shape.last().copied().and_then(|k| encoding.row_bytes(k));
                if let (Some(last), Some(row)) = (shape.last_mut(), row) {
                    *last = row;
                }
                frit_graph::DType::U8
            }
            Stored::Other(..) | Stored::Unknown(_) => {
                checkpoint.unsupported.insert(name.into(), stored.to_string());
                continue;
            }
        };
        let value = Value::from_shared(Spec::new(dtype, shape), bytes.clone(), range)
            .map_err(|e| LoadError::tensor(path, name, shown(&e.to_string())))?;
        params.insert(name.to_string(), value);
    }
    checkpoint.params = params.into_iter().collect();
    Ok(checkpoint)
}

/// Version, number of tensors, number of pairs of metadata.
fn head(reader: &mut Reader<'_>) -> Result<(u32, u64, u64), LoadError> {
    let path = reader.path();
    if reader.array::<4>(&|| "the magic number".into())? != MAGIC {
        return Err(LoadError::format(path, "no GGUF file: it does not begin with `GGUF`"));
    }
    let version = reader.u32(&|| "the version".into())?;
    match version {
        2 | 3 => {}
        // The low half is the high one in a file of the other byte order.
        n if n & 0xffff == 0 && n != 0 => {
            return Err(LoadError::format(path, "a big-endian GGUF file cannot be read"));
        }
        n => {
            let message = format!("a GGUF file of version {n}; 2 and 3 can be read");
            return Err(LoadError::format(path, message));
        }
    }
    let tensors = reader.u64(&|| "the number of tensors".into())?;
    let pairs = reader.u64(&|| "the number of metadata".into())?;
    Ok((version, tensors, pairs))
}

/// One tensor. `range` is that of the file once it is placed; `bytes` is `None` where the type of
/// the elements is not known.
struct Info<'a> {
    name: &'a str,
    stored: Stored,
    shape: Vec<usize>,
    offset: usize,
    bytes: Option<usize>,
    range: Range<usize>,
}

fn info<'a>(reader: &mut Reader<'a>, i: u64) -> Result<Info<'a>, LoadError> {
    let path = reader.path();
    let name = reader.text(&|| format!("the name of tensor {i}"))?;
    let wrong = |message: String| LoadError::tensor(path, name, message);
    let what = || format!("tensor `{name}`");
    let rank = reader.u32(&what)?;
    if rank > MAX_RANK {
        return Err(wrong(format!("has {rank} axes; GGML has {MAX_RANK}")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        let extent = reader.u64(&what)?;
        shape.push(usize::try_from(extent).map_err(|_| wrong(format!("has an axis of {extent}")))?);
    }
    shape.reverse();
    let stored = Stored::from_code(reader.u32(&what)?);
    let offset = reader.u64(&what)?;
    let offset = usize::try_from(offset).map_err(|_| wrong(format!("is at byte {offset}")))?;
    let bytes = match stored.block() {
        None => None,
        Some((length, block)) => {
            // An axis of zero does not excuse the others from fitting into memory.
            let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d));
            let row = shape.last().copied().unwrap_or(1);
            if !row.is_multiple_of(length) {
                let message = format!("has rows of {row}; {stored} has blocks of {length}");
                return Err(wrong(message));
            }
            let row = (row / length).checked_mul(block);
            let bytes = rows.zip(row).and_then(|(rows, row)| rows.checked_mul(row));
            let whole = bytes.filter(|n| isize::try_from(*n).is_ok());
            Some(whole.ok_or_else(|| wrong(format!("of {stored} {shape:?} is too large")))?)
        }
    };
    Ok(Info { name, stored, shape, offset, bytes, range: 0..0 })
}

/// Turns offsets into ranges of the file: aligned, inside, and apart from each other.
fn place(
    infos: &mut [Info<'_>],
    start: usize,
    end: usize,
    alignment: usize,
    path: &Path,
) -> Result<(), LoadError> {
    for info in infos.iter_mut() {
        let wrong = |message: String| LoadError::tensor(path, info.name, message);
        if !info.offset.is_multiple_of(alignment) {
            let message = format!("is at byte {}, no multiple of {alignment}", info.offset);
            return Err(wrong(message));
        }
        let (room, bytes) = (end - start, info.bytes.unwrap_or(0));
        let last = info.offset.checked_add(bytes).filter(|last| *last <= room);
        let Some(last) = last else {
            let at = info.offset;
            return Err(wrong(format!("of {bytes} bytes at {at} is beyond the {room} of data")));
        };
        info.range = start + info.offset..start + last;
    }
    infos.sort_by_key(|info| (info.range.start, info.range.end));
    let mut before: Option<&Info<'_>> = None;
    for info in infos.iter().filter(|info| !info.range.is_empty()) {
        if let Some(other) = before.filter(|other| other.range.end > info.range.start) {
            let message = format!("overlaps `{}`", shown(other.name));
            return Err(LoadError::tensor(path, info.name, message));
        }
        before = Some(info);
    }
    Ok(())
}

/// The metadata as JSON, without what is data.
fn config(metadata: &[(&str, Meta<'_>)], path: &Path) -> Result<Json, LoadError> {
    let mut room = MAX_CONFIG;
    let mut config = Map::new();
    for (key, value) in metadata {
        let values = value.count();
        if is_data(key, value) {
            continue;
        }
        room = room.checked_sub(values).ok_or_else(|| {
            LoadError::format(path, format!("metadata of more than {MAX_CONFIG} values"))
        })?;
        config.insert(key.to_string(), value.json());
    }
    Ok(Json::Object(config))
}

/// What the file says of itself, and how long the arrays are that are no configuration.
fn described(version: u32, metadata: &[(&str, Meta<'_>)]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([("gguf.version".to_string(), version.to_string())]);
    for (key, value) in metadata {
        let text = match value {
            Meta::Array(array) if is_data(key, value) => array.to_string(),
            Meta::Text(text) if key.starts_with("general.") => text.to_string(),
            _ => continue,
        };
        out.insert(key.to_string(), text);
    }
    out
}

fn is_data(key: &str, value: &Meta<'_>) -> bool {
    match value {
        Meta::Array(_) => vocabulary::ARRAYS.contains(&key) || value.count() > MAX_ARRAY,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
