//! Opening a folder: which reader fits, and the configuration beside the weights.

use crate::{
    Checkpoint, LoadError, affine, ctranslate2, error::shown, gguf, json, mapped, safetensors,
};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const SHARDED: &str = "model.safetensors.index.json";
const CTRANSLATE2: &str = "model.bin";
const IN_A_FOLDER: &str =
    "model.safetensors, model.safetensors.index.json, model.bin (CTranslate2) and one *.gguf";
const AS_A_FILE: &str = "a name that ends in .safetensors, .safetensors.index.json, .bin or .gguf";
/// A configuration is a few kilobytes; what is longer than this is none.
const MAX_CONFIG: usize = 16 << 20;

/// Reads a checkpoint from a folder, or from one file and the `config.json` beside it.
///
/// A folder's `model.safetensors` is taken first, then the index of a sharded one, then a
/// CTranslate2 `model.bin`, then a `.gguf`, if it is the only one. A GGUF has its configuration
/// inside, and no `config.json` is read. A CTranslate2 `config.json` lacks the sizes of the model: those that
/// the weights tell are added to [`Checkpoint::config`], and what `config.json` says stays. Where it
/// says that weights are quantised as MLX does, they are in [`Checkpoint::packed`].
///
/// # Errors
/// When there is nothing there that a reader fits (the message lists what was looked for), the
/// configuration is no JSON object, or the reader fails.
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let path = path.as_ref();
    let kind = std::fs::metadata(path).map_err(|e| LoadError::io("open", path, e))?;
    let file = if kind.is_dir() {
        let known = [SINGLE, SHARDED, CTRANSLATE2].iter().map(|name| path.join(name));
        match known.into_iter().find(|file| file.exists()) {
            None => only_gguf(path)?,
            found => found,
        }
    } else {
        Some(path.to_path_buf())
    };
    let looked_for = if kind.is_dir() { IN_A_FOLDER } else { AS_A_FILE };
    let not_found = || LoadError::NotFound { path: path.into(), looked_for };
    let file = file.ok_or_else(not_found)?;
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut checkpoint = if name.ends_with(".safetensors") {
        safetensors::read(&file)?
    } else if name.ends_with(".safetensors.index.json") {
        safetensors::read_sharded(&file)?
    } else if name.ends_with(".bin") {
        ctranslate2::read(&file)?
    } else if is_gguf(&file) {
        return gguf::read(&file);
    } else {
        return Err(not_found());
    };
    let config = file.with_file_name(CONFIG);
    add_config(&mut checkpoint, &config)?;
    affine::mark(&mut checkpoint, &config)?;
    Ok(checkpoint)
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file of a folder; several are an error that names them.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    let failed = |e| LoadError::io("open", folder, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_gguf(&path) {
            found.push(path);
        }
    }
    if found.len() > 1 {
        found.sort();
        let names = found.iter().take(8).filter_map(|f| f.file_name());
        let names: Vec<String> = names.map(|n| shown(&n.to_string_lossy())).collect();
        let message = format!("holds several GGUF files ({}): choose one", names.join(", "));
        return Err(LoadError::format(folder, message));
    }
    Ok(found.pop())
}

/// Puts what a `config.json` says, if there is one, over what the weights told.
fn add_config(checkpoint: &mut Checkpoint, path: &Path) -> Result<(), LoadError> {
    if !path.exists() {
        return Ok(());
    }
    let bytes = mapped::map(path)?;
    let text = (*bytes).as_ref();
    if text.len() > MAX_CONFIG {
        return Err(LoadError::format(path, "a configuration of more than 16 MiB"));
    }
    let mut config = json::object(text, path, "configuration")?;
    if let Json::Object(derived) = &mut checkpoint.config {
        for (key, value) in std::mem::take(derived) {
            config.entry(key).or_insert(value);
        }
    }
    checkpoint.config = Json::Object(config);
    Ok(())
}
