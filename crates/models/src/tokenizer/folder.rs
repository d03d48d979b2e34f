//! The tokenizer files of a Hugging Face folder.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value as Json;

use super::{ENDS, Machine, Tokenizer, TokenizerError, unique};

const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";
/// Files that say which tokens begin and end a text, the one that counts most first.
const SETTINGS: [&str; 3] = ["tokenizer_config.json", "generation_config.json", "config.json"];

pub(super) fn read(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    let path = folder.join(TOKENIZER);
    let io = |path: &Path, source| TokenizerError::Io { path: path.into(), source };
    let bytes = std::fs::read(&path).map_err(|source| io(&path, source))?;
    let mut library = tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|e| TokenizerError::Damaged { path, what: e.to_string() })?;
    // Files of encoders cut and pad every text, for one use of the model: here callers do it.
    library.with_padding(None);
    let _ = library.with_truncation(None);
    let [tokenizer, generation, config] = SETTINGS.map(|name| settings(&folder.join(name)));
    let (tokenizer, generation, config) = (tokenizer?, generation?, config?);

    let named = |key: &str| text(tokenizer.get(format!("{key}_token"))?);
    let id = |key: &str| named(key).and_then(|token| library.token_to_id(token));
    let listed = |key: &str| {
        let key = format!("{key}_token_id");
        [&generation, &config].into_iter().flat_map(move |file| ids(file.get(&key)))
    };
    let ends = ENDS.iter().filter_map(|token| library.token_to_id(token));
    // A word that happens to be spelt so ends nothing.
    let added = library.get_added_tokens_decoder();
    let ends = ends.filter(|id| added.get(id).is_some_and(|token| token.special));
    let mut eos: Vec<u32> =
        id("eos").into_iter().chain(listed("eos").collect::<Vec<_>>()).collect();
    eos.extend(ends);
    unique(&mut eos);
    let bos = id("bos").or_else(|| listed("bos").next());

    let path = folder.join(TEMPLATE);
    let chat_template = match std::fs::read_to_string(&path) {
        Ok(template) => Some(template),
        Err(error) if error.kind() == ErrorKind::NotFound => template(&tokenizer),
        Err(error) => return Err(io(&path, error)),
    };
    Ok(Tokenizer { machine: Machine::Library(Box::new(library)), bos, eos, chat_template })
}

/// A file's JSON; null where there is no file.
fn settings(path: &Path) -> Result<Json, TokenizerError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| TokenizerError::Damaged { path: path.into(), what: e.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Json::Null),
        Err(source) => Err(TokenizerError::Io { path: path.into(), source }),
    }
}

/// A token is a text, or an object with its `content`.
fn text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id, or a list of them.
fn ids(value: Option<&Json>) -> Vec<u32> {
    let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Json::Array(list)) => list.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The template of `tokenizer_config.json`: a text, or a list of named ones with a `default`.
fn template(tokenizer: &Json) -> Option<String> {
    let templates = tokenizer.get("chat_template")?;
    let default = || {
        let mut list = templates.as_array()?.iter();
        list.find(|t| t.get("name").is_some_and(|name| name == "default"))?
            .get("template")?
            .as_str()
    };
    templates.as_str().or_else(default).map(str::to_string)
}
