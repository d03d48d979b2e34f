//! Opening folders: which file is taken, sharded checkpoints, and what is said when nothing fits.

use frit_graph::{DType, Value};
use frit_load::{Checkpoint, Format, LoadError, open, write};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

fn one(x: f32) -> Value {
    Value::scalar(x)
}

fn put(path: &Path, tensors: &[(&str, &Value)]) {
    write(path, tensors, &BTreeMap::new()).expect("written");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

/// A folder with two shards and this weight map.
fn sharded(weight_map: serde_json::Value) -> tempfile::TempDir {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    put(&at("one.safetensors"), &[("a", &one(1.0)), ("b", &one(2.0))]);
    put(&at("two.safetensors"), &[("c", &one(3.0)), ("extra", &one(4.0))]);
    let index = json!({"metadata": {"total_size": 12}, "weight_map": weight_map});
    fs::write(at("model.safetensors.index.json"), index.to_string()).expect("written");
    folder
}

fn refused(folder: &Path) -> String {
    open(folder).expect_err("refused").to_string()
}

fn number(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    checkpoint.tensor(name).expect("there").to_f64()
}

#[test]
fn a_single_file_is_preferred_to_shards_and_those_to_a_binary() {
    let folder = sharded(json!({"a": "one.safetensors"}));
    fs::write(folder.path().join("model.bin"), b"no binary").expect("written");
    assert_eq!(open(folder.path()).expect("opened").format, Format::ShardedSafeTensors);
    put(&folder.path().join("model.safetensors"), &[("x", &one(0.5))]);
    let checkpoint = open(folder.path()).expect("opened");
    assert_eq!(checkpoint.format, Format::SafeTensors);
    assert_eq!(checkpoint.path, folder.path().join("model.safetensors"));
    assert_eq!(checkpoint.config, json!({}));
    assert_eq!(number(&checkpoint, "x"), [0.5]);
}

#[test]
fn shards_are_put_together_by_their_index() {
    let folder = sharded(json!({
        "a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors",
    }));
    fs::write(folder.path().join("config.json"), r#"{"model_type": "llama"}"#).expect("written");
    for path in [folder.path().to_path_buf(), folder.path().join("model.safetensors.index.json")] {
        let checkpoint = open(&path).expect("opened");
        assert_eq!(checkpoint.params.len(), 3);
        let numbers = ["a", "b", "c"].map(|n| number(&checkpoint, n)[0]);
        assert_eq!(numbers, [1.0, 2.0, 3.0]);
        assert_eq!(checkpoint.unmapped, ["extra"]);
        assert_eq!(checkpoint.metadata["total_size"], "12");
        assert_eq!(checkpoint.config["model_type"], "llama");
    }
}

#[test]
fn an_index_that_does_not_hold_is_an_error_that_says_where() {
    for (weight_map, says) in [
        (json!({"a": "three.safetensors"}), "three.safetensors`"),
        (json!({"c": "one.safetensors"}), "one.safetensors`: tensor `c` is not in this file"),
        (json!({"a": "../one.safetensors"}), "tensor `a` is said to be in"),
        (json!({"a": "/etc/passwd"}), "no file name"),
        (json!({"a": ".."}), "no file name"),
        (json!({"a": 3}), "no file name"),
        (json!([]), "no object `weight_map`"),
        (json!({"a": "model.safetensors.index.json"}), "model.safetensors.index.json"),
    ] {
        let folder = sharded(weight_map.clone());
        let error = refused(folder.path());
        assert!(error.contains(says), "{weight_map}: {error}");
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }
    let folder = sharded(json!({}));
    let index = folder.path().join("model.safetensors.index.json");
    let twice = r#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#;
    for (text, says) in [(twice, "`a` stands there twice"), ("{", "index"), ("", "index")] {
        fs::write(&index, text).expect("written");
        let error = refused(folder.path());
        assert!(error.contains(says) && error.contains("index.json"), "{error}");
    }
}

#[test]
fn a_folder_without_a_checkpoint_is_answered_with_what_was_looked_for() {
    let folder = folder();
    fs::write(folder.path().join("pytorch_model.bin"), b"PK").expect("written");
    let error = refused(folder.path());
    for name in ["model.safetensors", "model.safetensors.index.json", "model.bin"] {
        assert!(error.contains(name), "{error}");
    }
    let file = folder.path().join("weights.txt");
    fs::write(&file, b"").expect("written");
    assert!(matches!(open(&file), Err(LoadError::NotFound { .. })));
    let error = refused(&folder.path().join("absent"));
    assert!(error.contains("absent") && error.contains("cannot open"), "{error}");
}

#[test]
fn a_configuration_that_is_no_object_is_an_error_that_names_it() {
    let folder = folder();
    put(&folder.path().join("model.safetensors"), &[]);
    for text in ["", "[]", "{\"a\": }"] {
        fs::write(folder.path().join("config.json"), text).expect("written");
        assert!(refused(folder.path()).contains("config.json`: configuration: "), "{text}");
    }
}

#[test]
fn an_empty_file_is_an_error_whatever_its_name() {
    for name in ["model.safetensors", "model.safetensors.index.json", "model.bin"] {
        let folder = folder();
        fs::write(folder.path().join(name), b"").expect("written");
        assert!(refused(folder.path()).contains(name), "{name}");
    }
}

#[test]
fn many_weights_are_cast_each_under_its_own_name() {
    let folder = folder();
    let values: Vec<(String, Value)> =
        (0..300).map(|i| (format!("w.{i}"), one(i as f32 + 0.5))).collect();
    let list: Vec<(&str, &Value)> = values.iter().map(|(n, v)| (n.as_str(), v)).collect();
    put(&folder.path().join("model.safetensors"), &list);
    let cast = open(folder.path()).expect("opened").cast(DType::F64);
    assert_eq!(cast.len(), 300);
    for i in 0..300 {
        let value = cast.get(&format!("w.{i}")).expect("there");
        assert_eq!((value.dtype(), value.to_f64()), (DType::F64, vec![i as f64 + 0.5]));
    }
}

/// A GGUF file without tensors and metadata.
const EMPTY_GGUF: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn a_gguf_file_is_opened_by_its_name_or_as_the_only_one_of_a_folder() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("some.GGUF"), EMPTY_GGUF).expect("written");
    fs::write(at("config.json"), "{\"model_type\": \"other\"}").expect("written");
    for path in [folder.path().to_path_buf(), at("some.GGUF")] {
        let checkpoint = open(&path).expect("opened");
        assert_eq!((checkpoint.format, checkpoint.path), (Format::Gguf, at("some.GGUF")));
        assert_eq!(checkpoint.config, json!({}));
    }
    fs::write(at("another.gguf"), EMPTY_GGUF).expect("written");
    let error = refused(folder.path());
    assert!(error.contains("several GGUF files (another.gguf, some.GGUF)"), "{error}");
    put(&at("model.safetensors"), &[]);
    assert_eq!(open(folder.path()).expect("opened").format, Format::SafeTensors);
}
