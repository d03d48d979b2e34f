//! What a folder of sentence-transformers says beside the model: how tokens become one vector, and
//! how long texts may be.

use super::Pooling;
use serde_json::Value as Json;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The steps after tokens that are done here.
const MODULES: [&str; 3] = ["Transformer", "Pooling", "Normalize"];

/// What the files say; nothing where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) pooling: Option<Pooling>,
    pub(super) max_length: Option<usize>,
}

/// A file's JSON, if there is a file.
fn json(path: &Path) -> Result<Option<Json>, crate::Error> {
    let wrong = |what: String| crate::Error::Settings { path: path.into(), what };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| wrong(e.to_string())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(wrong(e.to_string())),
    }
}

pub(super) fn read(folder: &Path) -> Result<Settings, crate::Error> {
    let path = folder.join("modules.json");
    if let Some(modules) = json(&path)? {
        let kinds = modules.as_array().into_iter().flatten().filter_map(|m| m["type"].as_str());
        let last = |kind: &str| kind.rsplit('.').next().unwrap_or_default().to_string();
        if let Some(kind) = kinds.map(last).find(|kind| !MODULES.contains(&kind.as_str())) {
            let kind: String = kind.chars().take(80).collect();
            let what = format!("the module {kind:?} is not supported, only {}", MODULES.join(", "));
            return Err(crate::Error::Settings { path, what });
        }
    }
    let path = folder.join("1_Pooling").join("config.json");
    let pooling = match json(&path)? {
        Some(config) => Some(pooling(path, &config)?),
        None => None,
    };
    let lengths = json(&folder.join("sentence_bert_config.json"))?;
    let length = lengths.as_ref().and_then(|l| l["max_seq_length"].as_u64());
    let max_length = length.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    Ok(Settings { pooling, max_length })
}

fn pooling(path: PathBuf, config: &Json) -> Result<Pooling, crate::Error> {
    let keys = config.as_object().into_iter().flatten();
    let on = keys.filter(|(_, value)| **value == Json::Bool(true));
    let named = config["pooling_mode"].as_str().into_iter();
    let modes: Vec<&str> =
        on.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).chain(named).collect();
    match modes[..] {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        _ => {
            let modes: String = modes.join(" and ").chars().take(80).collect();
            let got = if modes.is_empty() { "none".to_string() } else { modes };
            let what = format!("the pooling must be one of mean, cls and max, got {got}");
            Err(crate::Error::Settings { path, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        read(folder.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn pooling_and_length_are_what_the_files_say() {
        assert_eq!(folder(&[]), Ok(Settings::default()));
        const POOLING: &str = "1_Pooling/config.json";
        for (text, pooling) in [
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, {
                Pooling::Cls
            }),
            (r#"{"pooling_mode_mean_tokens": true, "include_prompt": true}"#, Pooling::Mean),
            (r#"{"pooling_mode": "max", "word_embedding_dimension": 3}"#, Pooling::Max),
        ] {
            let lengths = r#"{"max_seq_length": 256, "do_lower_case": false}"#;
            let got = folder(&[(POOLING, text), ("sentence_bert_config.json", lengths)]);
            assert_eq!(got, Ok(Settings { pooling: Some(pooling), max_length: Some(256) }));
        }
        for (text, what) in [
            (r#"{"pooling_mode_lasttoken": true}"#, "got lasttoken"),
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#, " and "),
            ("[]", "got none"),
            ("{", "EOF"),
        ] {
            let error = folder(&[(POOLING, text)]).expect_err("not supported");
            assert!(error.contains(what) && error.contains("1_Pooling"), "{error}");
        }
    }

    #[test]
    fn a_step_that_is_not_done_here_is_refused() {
        let kind = |kind: &str| format!(r#"[{{"type": "sentence_transformers.models.{kind}"}}]"#);
        assert!(folder(&[("modules.json", &kind("Normalize"))]).is_ok());
        let error = folder(&[("modules.json", &kind("Dense"))]).expect_err("not supported");
        assert!(error.contains("modules.json") && error.contains("\"Dense\""), "{error}");
    }
}
