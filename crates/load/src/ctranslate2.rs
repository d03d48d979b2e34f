//! The binary format of CTranslate2, version 6, holding a Whisper model.
//!
//! The layout, little endian; a `text` is a `u16` length, then bytes, the last of them NUL:
//!
//! ```text
//! u32 version = 6, text spec, u32 revision
//! u32 n, n variables: text name, u8 rank, rank x u32 extent, u8 dtype, u32 length, bytes
//! u32 n, n aliases: text alias, text name
//! ```
//!
//! This file reads that; `whisper.rs` knows what the variables are called in Hugging Face's
//! checkpoints, and what they tell of the model's sizes. Nothing is padded in such a file, so a weight
//! stays in place only where its bytes happen to be aligned, and is copied elsewhere.

mod whisper;

use crate::{
    Checkpoint, Format, LoadError,
    error::shown,
    mapped::{self, Shared},
};
use frit_graph::DType;
use std::{
    collections::{BTreeMap, btree_map},
    ops::Range,
    path::Path,
};

const VERSION: u32 = 6;

/// Reads a Whisper model, its weights renamed to Hugging Face's names.
///
/// CTranslate2 keeps the projections of an attention in one matrix: they are given as `q_proj`,
/// `k_proj` and `v_proj`, windows of the same file. The bias of a `k_proj`, which Whisper does not
/// have, is left out where it is zero. [`Checkpoint::config`] gets the sizes of the model under
/// Hugging Face's keys; the number of heads only where the file tells it. A weight that is the
/// projection to the vocabulary by an alias of the embeddings is no weight of its own, and
/// `tie_word_embeddings` says so.
///
/// # Errors
/// When the file cannot be read, is malformed, is no Whisper model, or holds quantised weights.
pub fn read(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let path = path.as_ref();
    load(&mapped::map(path)?, path)
}

fn load(bytes: &Shared, path: &Path) -> Result<Checkpoint, LoadError> {
    let file = parse((**bytes).as_ref(), path)?;
    if file.spec != "WhisperSpec" {
        let message = format!("holds a `{}`; only a `WhisperSpec` can be read", shown(&file.spec));
        return Err(LoadError::format(path, message));
    }
    let model = whisper::Model { file: &file, bytes, path };
    let (params, unmapped) = model.params()?;
    Ok(Checkpoint {
        params,
        packed: BTreeMap::new(),
        config: model.config()?,
        format: Format::CTranslate2,
        path: path.into(),
        metadata: BTreeMap::from([
            ("spec".to_string(), file.spec.clone()),
            ("revision".to_string(), file.revision.to_string()),
        ]),
        unmapped,
        unsupported: BTreeMap::new(),
        vocabulary: None,
    })
}

/// What the elements of a variable are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F32,
    I8,
    I16,
    I32,
    F16,
    BF16,
}

impl Stored {
    /// In the order of the codes in the file, which count from zero.
    const ALL: [Stored; 6] =
        [Stored::F32, Stored::I8, Stored::I16, Stored::I32, Stored::F16, Stored::BF16];

    fn size(self) -> usize {
        match self {
            Stored::I8 => 1,
            Stored::I16 | Stored::F16 | Stored::BF16 => 2,
            Stored::F32 | Stored::I32 => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Stored::F32 => "f32",
            Stored::I8 => "i8",
            Stored::I16 => "i16",
            Stored::I32 => "i32",
            Stored::F16 => "f16",
            Stored::BF16 => "bf16",
        }
    }

    /// The type of a weight; `None` for integers, which are quantised weights.
    fn float(self) -> Option<DType> {
        match self {
            Stored::F32 => Some(DType::F32),
            Stored::F16 => Some(DType::F16),
            Stored::BF16 => Some(DType::BF16),
            Stored::I8 | Stored::I16 | Stored::I32 => None,
        }
    }
}

/// One variable: where its bytes are and what they mean.
#[derive(Clone, Debug)]
struct Variable {
    dtype: Stored,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A file, its aliases resolved: `variables` holds them too, under their own names.
#[derive(Debug)]
struct File {
    spec: String,
    revision: u32,
    variables: BTreeMap<String, Variable>,
    aliases: BTreeMap<String, String>,
}

fn parse(all: &[u8], path: &Path) -> Result<File, LoadError> {
    let mut cursor = Cursor { all, at: 0, path };
    let version = cursor.u32("the version")?;
    if version != VERSION {
        let hint = if all.starts_with(b"PK") { "; it looks like a PyTorch archive" } else { "" };
        let message = format!("no CTranslate2 binary of version {VERSION}: got {version}{hint}");
        return Err(LoadError::format(path, message));
    }
    let spec = cursor.text("the spec name")?;
    let revision = cursor.u32("the revision")?;
    let mut variables = BTreeMap::new();
    for i in 0..cursor.u32("the number of variables")? {
        let name = cursor.text(&format!("the name of variable {i}"))?;
        let variable = cursor.variable(&name)?;
        match variables.entry(name) {
            btree_map::Entry::Vacant(free) => free.insert(variable),
            btree_map::Entry::Occupied(taken) => {
                return Err(LoadError::tensor(path, taken.key(), "stands there twice"));
            }
        };
    }
    let mut aliases = BTreeMap::new();
    for i in 0..cursor.u32("the number of aliases")? {
        let alias = cursor.text(&format!("alias {i}"))?;
        let name = cursor.text(&format!("the name that alias {i} stands for"))?;
        let Some(variable) = variables.get(&name).cloned() else {
            let message = format!("is an alias of `{}`, which is not there", shown(&name));
            return Err(LoadError::tensor(path, &alias, message));
        };
        // An alias of an alias stands for what that one stands for.
        let name = aliases.get(&name).cloned().unwrap_or(name);
        if variables.insert(alias.clone(), variable).is_some() {
            return Err(LoadError::tensor(path, &alias, "is an alias of a name that is taken"));
        }
        aliases.insert(alias, name);
    }
    match all.len() - cursor.at {
        0 => Ok(File { spec, revision, variables, aliases }),
        n => Err(LoadError::format(path, format!("{n} bytes follow the end"))),
    }
}

/// A place in the file. Nothing is taken that is not there.
struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], LoadError> {
        let rest = &self.all[self.at..];
        let Some(bytes) = rest.get(..length) else {
            let (what, at, left) = (shown(what), self.at, rest.len());
            let message = format!("{what} needs {length} bytes at {at}, but {left} are left");
            return Err(LoadError::format(self.path, message));
        };
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u8(&mut self, what: &str) -> Result<u8, LoadError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &str) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String, LoadError> {
        let length = u16::from_le_bytes(self.array(what)?);
        let bytes = self.take(length.into(), what)?;
        let text = bytes.split_last().filter(|(last, text)| **last == 0 && !text.contains(&0));
        let text = text.and_then(|(_, text)| std::str::from_utf8(text).ok());
        text.map(str::to_string).ok_or_else(|| {
            LoadError::format(self.path, format!("{what} is no UTF-8 that ends with a NUL"))
        })
    }

    fn variable(&mut self, name: &str) -> Result<Variable, LoadError> {
        let what = format!("tensor `{name}`");
        let path = self.path;
        let mut shape = Vec::new();
        for _ in 0..self.u8(&what)? {
            let extent = usize::try_from(self.u32(&what)?);
            shape.push(extent.map_err(|e| LoadError::tensor(path, name, e.to_string()))?);
        }
        let code = self.u8(&what)?;
        let Some(&dtype) = Stored::ALL.get(usize::from(code)) else {
            return Err(LoadError::tensor(path, name, format!("has the unknown dtype {code}")));
        };
        let length = self.u32(&what)?;
        let wanted = if shape.contains(&0) {
            Some(0)
        } else {
            shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d))
        };
        if wanted.is_none() || wanted != usize::try_from(length).ok() {
            let wanted = wanted.map_or("more than memory".into(), |n| n.to_string());
            let shown = &shape[..shape.len().min(16)];
            let message =
                format!("of {} {shown:?} needs {wanted} bytes, got {length}", dtype.name());
            return Err(LoadError::tensor(path, name, message));
        }
        let start = self.at;
        self.take(wanted.unwrap_or_default(), &what)?;
        Ok(Variable { dtype, shape, range: start..self.at })
    }
}

#[cfg(test)]
mod tests;
