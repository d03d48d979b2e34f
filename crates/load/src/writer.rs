//! Writing safetensors files, whole or not at all.

use crate::{
    LoadError,
    safetensors::{MAX_HEADER, METADATA},
};
use frit_graph::{DType, Value};
use serde_json::{Map, Value as Json, json};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Writes tensors and text about them to a safetensors file.
///
/// The bytes go to a new file beside `path` that takes its name once it is complete, so a reader
/// never sees half a file, and one that was there before stays if anything fails. Tensors are laid
/// out by falling size of their elements: then each is aligned in the file, and a mapped file is
/// used without copies.
///
/// ```
/// use frit_graph::Value;
/// use std::collections::BTreeMap;
/// let path = std::env::temp_dir().join(format!("frit-write-{}.safetensors", std::process::id()));
/// let (a, b) = (Value::new([2], vec![1u8, 2])?, Value::scalar(0.5f64));
/// frit_load::write(&path, &[("a", &a), ("b", &b)], &BTreeMap::new())?;
/// let back = frit_load::safetensors::read(&path)?;
/// assert_eq!((back.tensor("a")?, back.tensor("b")?), (&a, &b));
/// std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When two tensors have one name, a name is the one that the format reserves (`__metadata__`), the
/// header would be longer than readers take, or the file cannot be written.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &[(&str, &Value)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), LoadError> {
    let path = path.as_ref();
    let mut order = tensors.to_vec();
    order.sort_by_key(|&(name, value)| (Reverse(value.dtype().size()), name));
    let header = header(path, &order, metadata)?;

    let (temporary, file) = beside(path).map_err(|e| LoadError::io("write", path, e))?;
    let written = fill(file, &header, &order).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        // The first error is the one that matters.
        let _ = fs::remove_file(&temporary);
        LoadError::io("write", path, e)
    })
}

/// The JSON header, padded with spaces so that the data starts at a multiple of eight.
fn header(
    path: &Path,
    order: &[(&str, &Value)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, LoadError> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.into(), json!(metadata));
    }
    let mut end = 0usize;
    for &(name, value) in order {
        if name == METADATA {
            return Err(LoadError::tensor(path, name, "has a name that the format reserves"));
        }
        let start = end;
        end += value.bytes().len();
        let entry = json!({
            "dtype": dtype_name(path, name, value.dtype())?,
            "shape": value.shape(),
            "data_offsets": [start, end],
        });
        if header.insert(name.into(), entry).is_some() {
            return Err(LoadError::tensor(path, name, "is given twice"));
        }
    }
    let mut text = Json::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > MAX_HEADER {
        return Err(LoadError::format(path, "the header would be longer than 100 MB"));
    }
    Ok(text)
}

fn dtype_name(path: &Path, name: &str, dtype: DType) -> Result<&'static str, LoadError> {
    Ok(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::U32 => "U32",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
        other => {
            let message = format!("of {other} has no place in a safetensors file");
            return Err(LoadError::tensor(path, name, message));
        }
    })
}

/// A new file in the folder of `path`, so that the renaming stays within one file system.
fn beside(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no file name"));
    };
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{number}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        match fs::File::create_new(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // Left behind by a process of the same number that was killed.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

fn fill(mut file: fs::File, header: &[u8], order: &[(&str, &Value)]) -> io::Result<()> {
    let mut out = io::BufWriter::new(&mut file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    for (_, value) in order {
        out.write_all(value.bytes())?;
    }
    out.flush()?;
    drop(out);
    // Renamed before the bytes are on the disk, the file could be empty after a power cut.
    file.sync_all()
}

#[cfg(test)]
mod tests;
