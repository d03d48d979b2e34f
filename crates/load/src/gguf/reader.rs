//! Numbers, texts and metadata, each checked against the bytes that there are.
//!
//! A value is read without being copied: texts and arrays are windows of the file. An array is
//! walked once when it is read, so that what it holds is known to be sound afterwards.

use crate::{LoadError, error::shown};
use serde_json::Value as Json;
use std::{fmt, path::Path};

/// Arrays in arrays; no known file has any.
const MAX_DEPTH: usize = 8;

/// What is being read, for messages; made only when one is needed.
type What<'w> = &'w dyn Fn() -> String;

/// A place in the file. Nothing is taken that is not there.
pub(super) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
    path: &'a Path,
}

/// The types of metadata, in the order of their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Text,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes, where they are always as many.
    fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::Array => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::Text => "text",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        }
    }
}

/// One value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meta<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

/// Values of one kind, known to be sound.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
    /// Values, those in nested arrays included.
    count: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(all: &'a [u8], path: &'a Path) -> Reader<'a> {
        Reader { all, at: 0, path }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    fn wrong(&self, what: What<'_>, message: &str) -> LoadError {
        LoadError::format(self.path, format!("{} {message}", shown(&what())))
    }

    fn take(&mut self, length: usize, what: What<'_>) -> Result<&'a [u8], LoadError> {
        let rest = &self.all[self.at..];
        let Some(bytes) = rest.get(..length) else {
            let (at, left) = (self.at, rest.len());
            let message = format!("needs {length} bytes at {at}, but {left} are left");
            return Err(self.wrong(what, &message));
        };
        self.at += length;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: What<'_>) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: What<'_>) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: What<'_>) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn length(&mut self, what: What<'_>) -> Result<usize, LoadError> {
        let n = self.u64(what)?;
        usize::try_from(n).map_err(|_| self.wrong(what, &format!("has a length of {n}")))
    }

    pub(super) fn text(&mut self, what: What<'_>) -> Result<&'a str, LoadError> {
        let length = self.length(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.wrong(what, "is no UTF-8"))
    }

    /// The type and the value of metadata.
    pub(super) fn meta(&mut self, key: &str) -> Result<Meta<'a>, LoadError> {
        let what = || format!("metadata `{key}`");
        let kind = self.kind(&what)?;
        self.value(kind, 0, &what)
    }

    fn kind(&mut self, what: What<'_>) -> Result<Kind, LoadError> {
        let code = self.u32(what)?;
        let kind = usize::try_from(code).ok().and_then(|code| Kind::ALL.get(code));
        kind.copied().ok_or_else(|| self.wrong(what, &format!("has the unknown type {code}")))
    }

    fn value(&mut self, kind: Kind, depth: usize, what: What<'_>) -> Result<Meta<'a>, LoadError> {
        Ok(match kind {
            Kind::U8 => Meta::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            Kind::I8 => Meta::Signed(i8::from_le_bytes(self.array(what)?).into()),
            Kind::U16 => Meta::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            Kind::I16 => Meta::Signed(i16::from_le_bytes(self.array(what)?).into()),
            Kind::U32 => Meta::Unsigned(self.u32(what)?.into()),
            Kind::I32 => Meta::Signed(i32::from_le_bytes(self.array(what)?).into()),
            Kind::U64 => Meta::Unsigned(self.u64(what)?),
            Kind::I64 => Meta::Signed(i64::from_le_bytes(self.array(what)?)),
            Kind::F32 => Meta::F32(f32::from_le_bytes(self.array(what)?)),
            Kind::F64 => Meta::F64(f64::from_le_bytes(self.array(what)?)),
            Kind::Bool => match self.array::<1>(what)? {
                [0] => Meta::Bool(false),
                [1] => Meta::Bool(true),
                [n] => return Err(self.wrong(what, &format!("is the boolean {n}"))),
            },
            Kind::Text => Meta::Text(self.text(what)?),
            Kind::Array => Meta::Array(self.values(depth + 1, what)?),
        })
    }

    fn values(&mut self, depth: usize, what: What<'_>) -> Result<Array<'a>, LoadError> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(what, &format!("nests more than {MAX_DEPTH} arrays")));
        }
        let kind = self.kind(what)?;
        let len = self.length(what)?;
        let start = self.at;
        let mut count = len;
        match kind.size().filter(|_| kind != Kind::Bool) {
            Some(size) => {
                let bytes = len.checked_mul(size);
                let bytes = bytes.ok_or_else(|| self.wrong(what, &format!("has {len} values")))?;
                self.take(bytes, what)?;
            }
            // Every one of these takes a byte at least, so that the file bounds the loop.
            None => {
                for i in 0..len {
                    let each = || format!("{}, value {i},", what());
                    if let Meta::Array(inner) = self.value(kind, depth, &each)? {
                        count = count.saturating_add(inner.count);
                    }
                }
            }
        }
        Ok(Array { kind, len, bytes: &self.all[start..self.at], count })
    }
}

impl<'a> Array<'a> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The values, in order.
    pub(super) fn values(&self) -> impl Iterator<Item = Meta<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes, Path::new(""));
        let kind = self.kind;
        // They were read before, so that none fails now.
        (0..self.len).map_while(move |_| reader.value(kind, 0, &String::new).ok())
    }
}

impl fmt::Display for Array<'_> {
    /// `49152 x text`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.len, self.kind.name())
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Meta<'_> {
    /// A number that is not negative.
    pub(super) fn unsigned(&self) -> Option<u64> {
        match *self {
            Meta::Unsigned(n) => Some(n),
            Meta::Signed(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// How many values there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Meta::Array(array) => array.count.saturating_add(1),
            _ => 1,
        }
    }

    /// As JSON; what is no number is null.
    pub(super) fn json(&self) -> Json {
        match *self {
            Meta::Unsigned(n) => n.into(),
            Meta::Signed(n) => n.into(),
            Meta::F32(x) => shortest(x).into(),
            Meta::F64(x) => x.into(),
            Meta::Bool(b) => b.into(),
            Meta::Text(text) => text.into(),
            Meta::Array(array) => array.values().map(|value| value.json()).collect(),
        }
    }
}

/// The f64 that people would write for this f32 (1e-5 and not 0.000009999999747378752), as long as
/// it is rounded to this f32.
fn shortest(x: f32) -> f64 {
    let written = x.to_string().parse().ok();
    written.filter(|&y: &f64| y as f32 == x).unwrap_or(x.into())
}
