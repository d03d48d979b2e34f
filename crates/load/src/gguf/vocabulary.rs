//! The tokenizer that a GGUF carries.

use super::reader::{Array, Meta};
use crate::{LoadError, error::shown};
use std::path::Path;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// Arrays that are data however short they are.
pub(super) const ARRAYS: &[&str] = &[TOKENS, SCORES, TYPES, MERGES];

/// Tokens and how text is cut into them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The algorithm: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: String,
    /// How byte-level BPE cuts text into words first: `smollm`, `llama-bpe`, `qwen2`.
    pub pre: Option<String>,
    /// The tokens, by id.
    pub tokens: Vec<String>,
    /// A score each, the higher the sooner merged; or none.
    pub scores: Vec<f32>,
    /// A type each, or none: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// Pairs of tokens with a space between, the first merged first.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token that ends a turn.
    pub eot: Option<u32>,
    /// The token for what is not in the vocabulary.
    pub unk: Option<u32>,
    /// The token that fills up.
    pub pad: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space goes before a text.
    pub add_space_prefix: Option<bool>,
    /// How messages become one text: a Jinja template.
    pub chat_template: Option<String>,
}

impl Vocabulary {
    /// The vocabulary in this metadata, if it has a model and tokens.
    pub(super) fn of<'m, 'a: 'm>(
        find: &impl Fn(&str) -> Option<&'m Meta<'a>>,
        path: &Path,
    ) -> Result<Option<Vocabulary>, LoadError> {
        let of = Keys { find, path };
        let (Some(model), Some(tokens)) = (of.text(MODEL)?, of.array(TOKENS, text)?) else {
            return Ok(None);
        };
        let same = |key: &str, n: usize| match n {
            0 => Ok(()),
            n if n == tokens.len() => Ok(()),
            n => Err(of.wrong(key, &format!("has {n} values for {} tokens", tokens.len()))),
        };
        let scores = of.array(SCORES, float)?.unwrap_or_default();
        let types = of.array(TYPES, integer)?.unwrap_or_default();
        same(SCORES, scores.len())?;
        same(TYPES, types.len())?;
        // Some files write an id that is none for "there is none".
        let id = |name: &str| -> Result<Option<u32>, LoadError> {
            let id = of.one(&format!("tokenizer.ggml.{name}_token_id"), "a token", integer)?;
            let id = id.and_then(|id| u32::try_from(id).ok());
            Ok(id.filter(|&id| (id as usize) < tokens.len()))
        };
        let flag = |name: &str| of.one(&format!("tokenizer.ggml.{name}"), "true or false", flag);
        Ok(Some(Vocabulary {
            model,
            pre: of.text("tokenizer.ggml.pre")?,
            scores,
            types,
            merges: of.array(MERGES, text)?.unwrap_or_default(),
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: of.text("tokenizer.chat_template")?,
            tokens,
        }))
    }
}

fn text(value: Meta<'_>) -> Option<String> {
    if let Meta::Text(text) = value { Some(text.to_string()) } else { None }
}

fn float(value: Meta<'_>) -> Option<f32> {
    if let Meta::F32(x) = value { Some(x) } else { None }
}

fn flag(value: Meta<'_>) -> Option<bool> {
    if let Meta::Bool(b) = value { Some(b) } else { None }
}

/// Whole numbers; those that fit nowhere are -1, which is no token and no type.
fn integer(value: Meta<'_>) -> Option<i32> {
    match value {
        Meta::Unsigned(n) => Some(n.try_into().unwrap_or(-1)),
        Meta::Signed(n) => Some(n.try_into().unwrap_or(-1)),
        _ => None,
    }
}

/// Metadata by key, with the types that are wanted.
struct Keys<'f, F> {
    find: &'f F,
    path: &'f Path,
}

impl<'m, 'a: 'm, F: Fn(&str) -> Option<&'m Meta<'a>>> Keys<'_, F> {
    fn wrong(&self, key: &str, message: &str) -> LoadError {
        LoadError::format(self.path, format!("metadata `{}` {message}", shown(key)))
    }

    fn one<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(Meta<'a>) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = (self.find)(key) else { return Ok(None) };
        let wrong = || self.wrong(key, &format!("is not {wanted}"));
        read(*value).map(Some).ok_or_else(wrong)
    }

    fn text(&self, key: &str) -> Result<Option<String>, LoadError> {
        self.one(key, "a text", text)
    }

    fn array<T>(
        &self,
        key: &str,
        read: impl Fn(Meta<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, LoadError> {
        let array: Option<Array<'a>> = self.one(key, "an array", |value| match value {
            Meta::Array(array) => Some(array),
            _ => None,
        })?;
        let Some(array) = array else { return Ok(None) };
        // The length is that of values which are in the file.
        let mut out = Vec::with_capacity(array.len());
        for value in array.values() {
            let value = read(value);
            out.push(value.ok_or_else(|| self.wrong(key, &format!("is an array of {array}")))?);
        }
        Ok(Some(out))
    }
}
