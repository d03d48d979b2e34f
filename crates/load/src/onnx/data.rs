//! The elements of a tensor message as a [`Value`]: from the file, from numbers in the message, or
//! from another file beside the model.

use super::{
    elem::Elem,
    proto::{Data, Tensor},
};
use crate::{
    error::shown,
    mapped::{self, Shared},
};
use frit_graph::{DType, Spec, Value};
use std::{
    collections::HashMap,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The file of a model, and the files beside it that hold its large tensors.
pub(super) struct Files {
    pub(super) own: Shared,
    folder: PathBuf,
    others: Mutex<HashMap<String, Shared>>,
}

impl Files {
    pub(super) fn new(own: Shared, path: &Path) -> Files {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Files { own, folder, others: Mutex::default() }
    }

    /// The element type and the value of a tensor.
    ///
    /// # Errors
    /// What does not hold, as the end of a sentence that starts with the tensor's name.
    pub(super) fn value(&self, t: &Tensor) -> Result<(Elem, Value), String> {
        let elem = Elem::of(t.code).map_err(|name| format!("is of the unsupported type {name}"))?;
        let size = |&d: &i64| usize::try_from(d).map_err(|_| format!("has the extent {d}"));
        let shape = t.dims.iter().map(size).collect::<Result<Vec<_>, _>>()?;
        let spec = Spec::new(elem.carrier(), shape);
        let Some(count) = spec.checked_numel() else {
            return Err(format!("of {spec} is larger than memory"));
        };
        let value = match (&t.external, &t.data) {
            (Some(entries), _) => {
                let (file, range) = self.external(entries)?;
                from_raw(elem, spec, count, &file, range)?
            }
            (None, Data::Raw(range)) => from_raw(elem, spec, count, &self.own, range.clone())?,
            (None, Data::Bytes(bytes)) => Value::from_bytes(spec, bytes).map_err(text)?,
            (None, Data::Numbers(numbers)) => from_numbers(elem, spec, count, numbers)?,
            (None, Data::None) if count == 0 => Value::from_bytes(spec, &[]).map_err(text)?,
            (None, Data::None) => return Err(format!("of {spec} has no elements")),
            (None, Data::Texts) => return Err("holds texts".into()),
        };
        Ok((elem, value))
    }

    /// The file and the range of it that external data lies in.
    fn external(&self, entries: &[(String, String)]) -> Result<(Shared, Range<usize>), String> {
        let find = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let location = find("location").ok_or("is in another file, without a `location`")?;
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty()
            || !Path::new(location).components().all(plain)
            || location.contains(['\\', ':', '\0'])
        {
            let place = shown(location);
            return Err(format!("is in `{place}`, which is not inside the model's folder"));
        }
        let number = |key: &str| -> Result<Option<usize>, String> {
            match find(key) {
                None => Ok(None),
                Some(n) => n.parse().map(Some).map_err(|_| format!("has the {key} `{}`", shown(n))),
            }
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.open(location)?;
        let all = (*file).as_ref().len();
        let end = match length {
            Some(length) => offset.checked_add(length),
            None => Some(all),
        };
        match end {
            Some(end) if offset <= end && end <= all => Ok((file, offset..end)),
            _ => {
                let place = shown(location);
                let length = length.map_or("the rest".to_string(), |n| n.to_string());
                Err(format!("is {length} bytes from {offset} of `{place}`, which has {all}"))
            }
        }
    }

    fn open(&self, location: &str) -> Result<Shared, String> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = others.get(location) {
            return Ok(file.clone());
        }
        let path = self.folder.join(location);
        // A link could lead out of the folder.
        let real = |p: &Path| p.canonicalize().map_err(|e| format!("is in `{}`: {e}", p.display()));
        let root = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        if !real(&path)?.starts_with(real(root)?) {
            let place = shown(location);
            return Err(format!("is in `{place}`, which leads out of the model's folder"));
        }
        let file = mapped::map(&path).map_err(|e| format!("is in another file: {e}"))?;
        others.insert(location.into(), file.clone());
        Ok(file)
    }
}

fn text(e: frit_graph::Error) -> String {
    shown(&e.to_string())
}

/// Little-endian bytes; narrow integers are widened.
fn from_raw(
    elem: Elem,
    spec: Spec,
    count: usize,
    file: &Shared,
    range: Range<usize>,
) -> Result<Value, String> {
    if matches!(elem, Elem::Plain(_) | Elem::U64) {
        return Value::from_shared(spec, file.clone(), range).map_err(text);
    }
    let bytes = (**file).as_ref().get(range).unwrap_or(&[]);
    let bits = elem.bits();
    if count.checked_mul(bits).map(|b| b.div_ceil(8)) != Some(bytes.len()) {
        return Err(format!("of {}{:?} has {} bytes", elem.name(), spec.shape, bytes.len()));
    }
    let element = |i: usize| {
        let at = i * bits / 8;
        let low = i64::from(bytes[at]) >> (i * bits % 8);
        let high = if bits == 16 { i64::from(bytes[at + 1]) << 8 } else { 0 };
        elem.extend(low | high) as i32
    };
    Value::new(spec.shape, (0..count).map(element).collect::<Vec<i32>>()).map_err(text)
}

/// One number an element, or its bits. Elements of less than a byte come packed in bytes.
fn from_numbers(elem: Elem, spec: Spec, count: usize, all: &[i64]) -> Result<Value, String> {
    let packed = if elem.bits() < 8 { 8 / elem.bits() } else { 1 };
    if count.div_ceil(packed) != all.len() {
        return Err(format!("of {}{:?} has {} elements", elem.name(), spec.shape, all.len()));
    }
    let shape = spec.shape.clone();
    let value = match elem {
        Elem::Plain(DType::F16 | DType::BF16) => {
            let bytes: Vec<u8> = all.iter().flat_map(|&n| (n as u16).to_le_bytes()).collect();
            Value::from_bytes(spec, &bytes)
        }
        Elem::Plain(DType::I64) | Elem::U64 => Value::new(shape, all.to_vec()),
        Elem::Plain(DType::I32) => Value::new(shape, all.iter().map(|&n| n as i32).collect()),
        Elem::Plain(DType::U32) => Value::new(shape, all.iter().map(|&n| n as u32).collect()),
        Elem::Plain(DType::U8) => Value::new(shape, all.iter().map(|&n| n as u8).collect()),
        Elem::Plain(DType::Bool) => {
            Value::bools(shape, &all.iter().map(|&n| n != 0).collect::<Vec<_>>())
        }
        Elem::Plain(_) => return Err(format!("of {spec} holds integers")),
        narrow => {
            let bits = narrow.bits();
            let element = |i: usize| narrow.extend(all[i / packed] >> (i % packed * bits)) as i32;
            Value::new(shape, (0..count).map(element).collect::<Vec<i32>>())
        }
    };
    value.map_err(text)
}
