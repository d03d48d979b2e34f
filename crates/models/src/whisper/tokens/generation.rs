//! What a checkpoint's folder says about decoding: the tokens that must never be chosen.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::TokensError;

/// Settings for decoding that come with a checkpoint.
///
/// Read from `generation_config.json` and `config.json`, in Hugging Face's names
/// (`suppress_tokens`, `begin_suppress_tokens`, `forced_decoder_ids`) or in CTranslate2's
/// (`suppress_ids`, `suppress_ids_begin`); the first of these files that has a setting decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Tokens that are never chosen.
    pub suppress: Vec<u32>,
    /// Tokens that are not chosen first.
    pub suppress_begin: Vec<u32>,
    /// Tokens that stand at fixed positions: (position, token).
    pub forced: Vec<(usize, u32)>,
    /// Whether the checkpoint knows more than English, where the folder says so.
    pub multilingual: Option<bool>,
    /// The latest first timestamp, in steps of 0.02 s.
    pub max_initial_timestamp: Option<u32>,
}

/// The settings of both formats, as they stand in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(alias = "suppress_ids")]
    suppress_tokens: Option<Vec<i64>>,
    #[serde(alias = "suppress_ids_begin")]
    begin_suppress_tokens: Option<Vec<i64>>,
    forced_decoder_ids: Option<Vec<(usize, Option<i64>)>>,
    is_multilingual: Option<bool>,
    max_initial_timestamp_index: Option<u32>,
}

impl GenerationConfig {
    /// Reads the settings of a checkpoint; a folder without them yields empty ones.
    ///
    /// # Errors
    /// [`TokensError`] if one of the files cannot be read or is not what it should be.
    pub fn from_folder(folder: &Path) -> Result<Self, TokensError> {
        let first: File = read_json(&folder.join("generation_config.json"))?.unwrap_or_default();
        let second: File = read_json(&folder.join("config.json"))?.unwrap_or_default();
        // A negative id stands for "the usual ones" in some files: there is nothing to list.
        let ids = |list: Option<Vec<i64>>| -> Vec<u32> {
            list.unwrap_or_default().into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
        };
        let forced = first.forced_decoder_ids.or(second.forced_decoder_ids).unwrap_or_default();
        Ok(Self {
            suppress: ids(first.suppress_tokens.or(second.suppress_tokens)),
            suppress_begin: ids(first.begin_suppress_tokens.or(second.begin_suppress_tokens)),
            forced: forced
                .into_iter()
                .filter_map(|(at, id)| Some((at, u32::try_from(id?).ok()?)))
                .collect(),
            multilingual: first.is_multilingual.or(second.is_multilingual),
            max_initial_timestamp: first
                .max_initial_timestamp_index
                .or(second.max_initial_timestamp_index),
        })
    }
}

/// Reads a file of JSON; `None` if it does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TokensError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokensError::Io { path: path.to_path_buf(), source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| TokensError::Damaged { path: path.to_path_buf(), what: e.to_string() })
}
