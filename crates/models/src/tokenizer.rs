//! Text to tokens and back, for models that write text.
//!
//! A tokenizer comes from the `tokenizer.json` of a Hugging Face folder, or from the vocabulary that
//! a GGUF carries ([`Tokenizer::of`] takes whichever a checkpoint has). Three machines are behind
//! it:
//!
//! | from | machine |
//! |---|---|
//! | `tokenizer.json` | the crate `tokenizers`, whatever the file says |
//! | GGUF, model `gpt2` | byte-level BPE of the same crate; `pre.rs` knows how text is cut into words |
//! | GGUF, model `llama` | SentencePiece's BPE, merged by scores: `pieces.rs` |
//!
//! The tokens of a GGUF are bytes, so that they are turned back here (`table.rs`) and not by the
//! crate. [`Stream`] turns them back one at a time, and never gives half of a character.
//!
//! Control tokens that are spelt out in a text (`<|im_start|>`) become what they spell, as chat
//! templates need it. A program that puts the text of strangers into a prompt has to look for them.

mod folder;
mod pieces;
mod pre;
mod stream;
mod table;

use std::path::{Path, PathBuf};

use frit_load::Checkpoint;
use frit_load::gguf::Vocabulary;
use pieces::Pieces;
pub use stream::Stream;
use table::Table;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper};

/// Control tokens that end a turn, whatever else a file names.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Why a tokenizer cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The operating system refused.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}`: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A tokenizer of a kind that is not known here.
    #[error("{what} `{name}` is not known; known are {known}")]
    Unknown {
        /// What it is that is not known.
        what: &'static str,
        /// Its name.
        name: String,
        /// Those that are.
        known: String,
    },
    /// The vocabulary of a GGUF does not hold.
    #[error("the vocabulary {0}")]
    Vocabulary(String),
    /// Text could not be turned into tokens, or back.
    #[error("tokenizer: {0}")]
    Text(String),
}

/// Text to tokens and back.
///
/// ```
/// use frit_load::gguf::Vocabulary;
/// use frit_models::tokenizer::Tokenizer;
/// let tokens = ["<|im_end|>", "h", "i", "hi", "Ġ"];
/// let tokenizer = Tokenizer::from_vocabulary(Vocabulary {
///     model: "gpt2".into(),
///     pre: Some("smollm".into()),
///     tokens: tokens.map(String::from).into(),
///     types: vec![3, 1, 1, 1, 1],
///     merges: vec!["h i".into()],
///     ..Vocabulary::default()
/// })?;
/// assert_eq!(tokenizer.encode("hi h<|im_end|>", false)?, [3, 4, 1, 0]);
/// assert_eq!(tokenizer.decode(&[3, 4, 1, 0], true)?, "hi h");
/// assert_eq!(tokenizer.eos(), [0]);
/// # Ok::<(), frit_models::tokenizer::TokenizerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    machine: Machine,
    bos: Option<u32>,
    eos: Vec<u32>,
    chat_template: Option<String>,
}

#[derive(Clone, Debug)]
enum Machine {
    /// `tokenizer.json`.
    Library(Box<tokenizers::Tokenizer>),
    /// A GGUF: what is added around a text, and the tokens.
    Own { encoder: Encoder, front: Option<u32>, back: Option<u32>, table: Table },
}

#[derive(Clone, Debug)]
enum Encoder {
    Words(Box<tokenizers::Tokenizer>),
    Pieces(Box<Pieces>),
}

impl Tokenizer {
    /// The tokenizer of a checkpoint: the one inside, or the files beside the weights.
    ///
    /// # Errors
    /// As [`Tokenizer::from_vocabulary`] and [`Tokenizer::from_folder`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Tokenizer, TokenizerError> {
        match &checkpoint.vocabulary {
            Some(vocabulary) => Tokenizer::from_vocabulary(vocabulary.clone()),
            None => Tokenizer::from_folder(checkpoint.path.parent().unwrap_or(Path::new("."))),
        }
    }

    /// Reads `tokenizer.json`, and what `tokenizer_config.json`, `generation_config.json`,
    /// `config.json` and `chat_template.jinja` say of it, where they exist.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] and [`TokenizerError::Damaged`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        folder::read(folder.as_ref())
    }

    /// The tokenizer that a GGUF carries.
    ///
    /// # Errors
    /// [`TokenizerError::Unknown`] for an algorithm, or a way to cut text into words, that is not
    /// known here; [`TokenizerError::Vocabulary`] where tokens, scores and merges do not go
    /// together.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let mut v = vocabulary;
        let (bytes, bos_is_usual) = match v.model.as_str() {
            "gpt2" => (true, pre::find(&v)?.bos),
            "llama" => (false, true),
            _ => {
                let (name, known) = (v.model, "gpt2, llama".into());
                return Err(TokenizerError::Unknown { what: "the tokenizer model", name, known });
            }
        };
        let template = v.chat_template.take();
        let front = v.bos.filter(|_| v.add_bos.unwrap_or(bos_is_usual));
        let back = v.eos.filter(|_| v.add_eos.unwrap_or(false));
        let mut eos: Vec<u32> = v.eos.into_iter().chain(v.eot).collect();
        let ends = (0..).zip(&v.tokens).zip(&v.types);
        let ends = ends.filter(|((_, token), kind)| **kind == 3 && ENDS.contains(&token.as_str()));
        eos.extend(ends.map(|((id, _), _)| id));
        unique(&mut eos);
        let bos = v.bos;
        let encoder = match bytes {
            true => Encoder::Words(Box::new(words(&mut v)?)),
            false => Encoder::Pieces(Box::new(Pieces::new(&v)?)),
        };
        let strips = !bytes && v.add_space_prefix.unwrap_or(true);
        let table = Table::new(v.tokens, &v.types, bytes, strips);
        let machine = Machine::Own { encoder, front, back, table };
        Ok(Tokenizer { machine, bos, eos, chat_template: template })
    }

    /// The tokens of a text. `add_special` puts around it what the model expects around a text;
    /// the text of a chat template has it already.
    ///
    /// # Errors
    /// [`TokenizerError::Text`] if the vocabulary has no tokens for it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let by = |library: &tokenizers::Tokenizer, add_special: bool| {
            let encoding = library.encode_fast(text, add_special);
            encoding.map(|e| e.get_ids().to_vec()).map_err(|e| TokenizerError::Text(e.to_string()))
        };
        let (encoder, front, back) = match &self.machine {
            Machine::Library(library) => return by(library, add_special),
            Machine::Own { encoder, front, back, .. } => (encoder, *front, *back),
        };
        let ids = match encoder {
            Encoder::Words(library) => by(library, false)?,
            Encoder::Pieces(pieces) => pieces.encode(text)?,
        };
        let around = |id: Option<u32>| id.filter(|_| add_special);
        Ok(around(front).into_iter().chain(ids).chain(around(back)).collect())
    }

    /// The text of tokens; those that are special have none if `skip_special`. Bytes that are no
    /// UTF-8 become U+FFFD, and ids that are no token have no text.
    ///
    /// # Errors
    /// [`TokenizerError::Text`] if the decoder of a `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        match &self.machine {
            Machine::Library(library) => library
                .decode(ids, skip_special)
                .map_err(|error| TokenizerError::Text(error.to_string())),
            Machine::Own { table, .. } => {
                let (mut bytes, mut first) = (Vec::new(), true);
                for &id in ids {
                    table.push(id, skip_special, &mut first, &mut bytes);
                }
                let text = String::from_utf8(bytes);
                Ok(text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
            }
        }
    }

    /// Turns tokens into text as they come; special ones have none.
    #[must_use]
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends a text or a turn.
    #[must_use]
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The Jinja template that makes one text of messages: see [`crate::chat::ChatTemplate`].
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// A token as the vocabulary writes it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.machine {
            Machine::Library(library) => library.id_to_token(id),
            Machine::Own { table, .. } => table.token(id).map(str::to_string),
        }
    }

    /// The id of a token, as the vocabulary writes it.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.machine {
            Machine::Library(library) => library.token_to_id(token),
            Machine::Own { encoder: Encoder::Words(library), .. } => library.token_to_id(token),
            Machine::Own { table, .. } => table.id(token),
        }
    }

    /// The number of tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match &self.machine {
            Machine::Library(library) => library.get_vocab_size(true),
            Machine::Own { table, .. } => table.len(),
        }
    }
}

/// Byte-level BPE; takes the merges.
fn words(v: &mut Vocabulary) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let wrong = |what: String| TokenizerError::Vocabulary(what);
    let pre = pre::find(v)?;
    let vocab: Vocab = v.tokens.iter().cloned().zip(0..).collect();
    let pair = |merge: String| {
        // A space inside a token is written otherwise, so that there is one, after the first byte.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let at = at.ok_or_else(|| wrong(format!("has a merge of one token: {merge:?}")))?;
        Ok((merge[..at].to_string(), merge[at + 1..].to_string()))
    };
    let merges = std::mem::take(&mut v.merges).into_iter().map(pair);
    let merges = merges.collect::<Result<_, TokenizerError>>()?;
    let mut model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.whole_words);
    if let Some(token) = v.unk.and_then(|unk| v.tokens.get(unk as usize)) {
        model = model.unk_token(token.clone());
    }
    let model = model.build().map_err(|e| wrong(format!("does not hold: {e}")))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre.splitter()?));
    if pre.nfc {
        tokenizer.with_normalizer(Some(NormalizerWrapper::from(tokenizers::normalizers::NFC)));
    }
    // Unknown, control and user-defined tokens are never made by merging.
    let added = v.tokens.iter().zip(&v.types).filter(|(_, kind)| (2..=4).contains(*kind));
    let added = added.map(|(token, kind)| AddedToken::from(token, *kind != 4).normalized(false));
    tokenizer.add_tokens(&added.collect::<Vec<_>>());
    Ok(tokenizer)
}

/// Removes later occurrences.
fn unique(ids: &mut Vec<u32>) {
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
}

#[cfg(test)]
mod tests;
