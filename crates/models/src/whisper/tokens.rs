//! Text to token ids and back, and the ids that steer Whisper.
//!
//! Besides words the vocabulary has tokens that mean something to the network: the start, the
//! language, the task, moments in time, the end. [`SpecialTokens`] is a plain list of their ids;
//! it comes from a checkpoint's files, from the size of a published vocabulary
//! ([`SpecialTokens::for_vocabulary`]), or is filled in by hand. [`Tokenizer`] adds the words.
//! Whatever decodes speech takes the trait [`TextCodec`], so that it needs no files.
//!
//! Ids are ordered: words, then the end of text, then the other special tokens, then timestamps
//! in steps of 0.02 s.

mod generation;
mod languages;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use generation::GenerationConfig;
pub use languages::{LANGUAGES, language_code, language_name};

/// Timestamp tokens: 0.00 to 30.00 s in steps of 0.02 s.
const TIMESTAMPS: u32 = 1501;

/// Why a tokenizer cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The folder has no such file.
    #[error("{path}: no such file")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The files have no such token.
    #[error("{folder}: the vocabulary has no token {token:?}")]
    NoToken {
        /// The folder of the checkpoint.
        folder: PathBuf,
        /// The token.
        token: &'static str,
    },
    /// Text could not be turned into tokens, or back.
    #[error("tokenizer: {0}")]
    Text(String),
}

/// Turns text into tokens and back.
pub trait TextCodec {
    /// The tokens of a text, without special ones.
    ///
    /// # Errors
    /// [`TokensError::Text`] if the text cannot be encoded.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokensError>;

    /// The text of some tokens; special ones have none.
    ///
    /// # Errors
    /// [`TokensError::Text`] if the tokens cannot be decoded.
    fn decode(&self, ids: &[u32]) -> Result<String, TokensError>;
}

/// The ids of the tokens that steer the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<|endoftext|>`; every id from here on is special.
    pub end_of_text: u32,
    /// `<|startoftranscript|>`.
    pub start_of_transcript: u32,
    /// The languages by code, with their tokens, in the order of the vocabulary.
    pub languages: Vec<(String, u32)>,
    /// `<|translate|>`: write English whatever is spoken.
    pub translate: Option<u32>,
    /// `<|transcribe|>`: write what is spoken.
    pub transcribe: Option<u32>,
    /// `<|startoflm|>`.
    pub start_of_lm: Option<u32>,
    /// `<|startofprev|>`: earlier text follows.
    pub start_of_prev: Option<u32>,
    /// `<|nospeech|>`, `<|nocaptions|>` in older files.
    pub no_speech: Option<u32>,
    /// `<|notimestamps|>`.
    pub no_timestamps: Option<u32>,
    /// `<|0.00|>`; every id from here on is a timestamp.
    pub timestamp_begin: u32,
    /// Whether language and task are part of the prompt. The English-only checkpoints have the
    /// tokens, but were not taught them.
    pub multilingual: bool,
}

impl SpecialTokens {
    /// The ids in a published vocabulary of this size: 51864 is English only, 51865 has 99
    /// languages, 51866 has 100.
    #[must_use]
    pub fn for_vocabulary(size: usize) -> Option<Self> {
        let (end, languages) = match size {
            51_864 => (50_256, 99),
            51_865 => (50_257, 99),
            51_866 => (50_257, 100),
            _ => return None,
        };
        let start = end + 1;
        let codes = LANGUAGES.iter().take(languages).map(|(code, _)| code.to_string());
        let after = start + 1 + languages as u32;
        Some(Self {
            end_of_text: end,
            start_of_transcript: start,
            languages: codes.zip(start + 1..).collect(),
            translate: Some(after),
            transcribe: Some(after + 1),
            start_of_lm: Some(after + 2),
            start_of_prev: Some(after + 3),
            no_speech: Some(after + 4),
            no_timestamps: Some(after + 5),
            timestamp_begin: after + 6,
            multilingual: end != 50_256,
        })
    }

    /// Finds the ids by name; on failure says which token is missing.
    fn from_names(id: impl Fn(&str) -> Option<u32>) -> Result<Self, &'static str> {
        let end_of_text = id("<|endoftext|>").ok_or("<|endoftext|>")?;
        let start = id("<|startoftranscript|>").ok_or("<|startoftranscript|>")?;
        let no_timestamps = id("<|notimestamps|>");
        let timestamp_begin =
            id("<|0.00|>").or_else(|| no_timestamps?.checked_add(1)).ok_or("<|notimestamps|>")?;
        let named = |code: &str| id(&format!("<|{code}|>"));
        let languages: Vec<_> = LANGUAGES
            .iter()
            .filter_map(|(code, _)| {
                // Hebrew has an old code in the first checkpoints.
                let old = || if *code == "he" { named("iw") } else { None };
                Some((code.to_string(), named(code).or_else(old)?))
            })
            .collect();
        Ok(Self {
            end_of_text,
            start_of_transcript: start,
            multilingual: end_of_text != 50_256 && !languages.is_empty(),
            languages,
            translate: id("<|translate|>"),
            transcribe: id("<|transcribe|>"),
            start_of_lm: id("<|startoflm|>"),
            start_of_prev: id("<|startofprev|>"),
            no_speech: id("<|nospeech|>").or_else(|| id("<|nocaptions|>")),
            no_timestamps,
            timestamp_begin,
        })
    }

    /// The token of a language given by its code.
    #[must_use]
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages.iter().find(|(c, _)| c == code).map(|(_, id)| *id)
    }

    /// Whether `id` is a moment in time.
    #[must_use]
    pub fn is_timestamp(&self, id: u32) -> bool {
        id >= self.timestamp_begin
    }

    /// Tokens that belong into prompts and are never an answer.
    #[must_use]
    pub fn control(&self) -> Vec<u32> {
        let some =
            [self.translate, self.transcribe, self.start_of_lm, self.start_of_prev, self.no_speech];
        some.into_iter().flatten().chain([self.start_of_transcript]).collect()
    }
}

/// The words and the special tokens of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    words: tokenizers::Tokenizer,
    special: SpecialTokens,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, for special tokens that it does not name, `vocabulary.json` or
    /// `vocabulary.txt`.
    ///
    /// # Errors
    /// [`TokensError`] if a file is missing or damaged, or if the vocabulary lacks a token that
    /// Whisper cannot do without.
    pub fn from_folder(folder: &Path) -> Result<Self, TokensError> {
        let path = folder.join("tokenizer.json");
        let bytes = fs::read(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => TokensError::Missing { path: path.clone() },
            _ => TokensError::Io { path: path.clone(), source },
        })?;
        let words = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| TokensError::Damaged { path: path.clone(), what: e.to_string() })?;
        let listed = vocabulary(folder)?;
        let mut special = SpecialTokens::from_names(|name| {
            words.token_to_id(name).or_else(|| listed.get(name).copied())
        })
        .map_err(|token| TokensError::NoToken { folder: folder.to_path_buf(), token })?;
        if let Some(multilingual) = GenerationConfig::from_folder(folder)?.multilingual {
            special.multilingual = multilingual;
        }
        Ok(Self { words, special })
    }

    /// The special tokens.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The codes of the languages that the network can write; English alone for an English-only
    /// checkpoint.
    #[must_use]
    pub fn languages(&self) -> Vec<&str> {
        match self.special.multilingual {
            true => self.special.languages.iter().map(|(code, _)| code.as_str()).collect(),
            false => vec!["en"],
        }
    }

    /// The number of ids, timestamps included.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.special.timestamp_begin.saturating_add(TIMESTAMPS) as usize
    }
}

impl TextCodec for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let encoding =
            self.words.encode(text, false).map_err(|e| TokensError::Text(e.to_string()))?;
        // A text may spell out "<|endoftext|>": it must not steer the network.
        let end = self.special.end_of_text;
        Ok(encoding.get_ids().iter().copied().filter(|&id| id < end).collect())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TokensError> {
        let end = self.special.end_of_text;
        let text: Vec<u32> = ids.iter().copied().filter(|&id| id < end).collect();
        self.words.decode(&text, false).map_err(|e| TokensError::Text(e.to_string()))
    }
}

/// The special tokens that CTranslate2's list of tokens names.
fn vocabulary(folder: &Path) -> Result<HashMap<String, u32>, TokensError> {
    let listed: Option<Vec<String>> = generation::read_json(&folder.join("vocabulary.json"))?;
    let listed = match listed {
        Some(listed) => listed,
        None => {
            let path = folder.join("vocabulary.txt");
            match fs::read_to_string(&path) {
                // Only a line feed ends a line: other white space may be a token.
                Ok(text) => {
                    text.split('\n').map(|line| line.trim_end_matches('\r').into()).collect()
                }
                Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
                Err(source) => return Err(TokensError::Io { path, source }),
            }
        }
    };
    let special = |token: &str| token.starts_with("<|") && token.ends_with("|>");
    Ok(listed.into_iter().zip(0..).filter(|(token, _)| special(token)).collect())
}

#[cfg(test)]
mod tests;
