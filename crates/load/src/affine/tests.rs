use super::*;
use frit_graph::{Spec, Value};
use serde_json::json;

fn zeros(dtype: DType, shape: &[usize]) -> Value {
    Value::zeros(&Spec::new(dtype, shape)).expect("zeros")
}

/// A folder with `x`, 4 bits in groups of 64, and `y`, 8 bits in groups of 64, both `[3, 128]`.
fn opened(config: Json, more: &[(&str, &Value)]) -> Result<Checkpoint, LoadError> {
    let folder = tempfile::tempdir().expect("folder");
    let words = |n| Value::new([3, n], (0..3 * n as u32).collect()).expect("words");
    let (four, eight) = (words(16), words(32));
    let (two, half) = (zeros(DType::F16, &[3, 2]), zeros(DType::BF16, &[3, 2]));
    let norm = zeros(DType::F16, &[128]);
    let mut tensors: BTreeMap<&str, &Value> = BTreeMap::from([
        ("x.weight", &four),
        ("x.scales", &two),
        ("x.biases", &two),
        ("y.weight", &eight),
        ("y.scales", &half),
        ("y.biases", &half),
        ("norm.weight", &norm),
        ("ids.weight", &four),
    ]);
    tensors.extend(more.iter().copied());
    let list: Vec<(&str, &Value)> = tensors.into_iter().collect();
    let path = folder.path().join("model.safetensors");
    crate::write(path, &list, &BTreeMap::new()).expect("written");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    crate::open(folder.path())
}

fn usual() -> Json {
    let y = json!({"bits": 8, "group_size": 64});
    json!({"quantization": {"bits": 4, "group_size": 64, "mode": "affine", "y": y}})
}

#[test]
fn layers_with_scales_and_biases_are_packed_as_the_configuration_says() {
    let renamed = json!({"quantization_config": usual()["quantization"]});
    for config in [usual(), renamed] {
        let c = opened(config, &[]).expect("opened");
        let affine = |bits, group_size| Encoding::Affine { bits, group_size };
        let want = [("x.weight", affine(4, 64)), ("y.weight", affine(8, 64))];
        assert_eq!(c.packed, want.map(|(n, e)| (n.to_string(), e)).into());
    }
}

#[test]
fn casting_leaves_words_alone_and_converts_scales() {
    let c = opened(usual(), &[]).expect("opened");
    let cast = c.cast(DType::F32);
    let (before, after) = (c.tensor("y.weight").expect("y"), cast.get("y.weight").expect("y"));
    assert_eq!((before.id(), after.dtype()), (after.id(), DType::U32));
    assert_eq!(cast.get("y.scales").map(Value::dtype), Some(DType::F32));
    assert_eq!(c.packed.len(), 2);
}

#[test]
fn a_checkpoint_that_is_none_of_these_has_nothing_packed() {
    let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 3}});
    for config in [json!({}), gptq, json!({"quantization": null})] {
        assert!(opened(config, &[]).expect("opened").packed.is_empty());
    }
    let mut config = usual();
    config["quantization"]["x"] = json!(false);
    let packed = opened(config, &[]).expect("opened").packed;
    assert_eq!(packed.into_keys().collect::<Vec<_>>(), ["y.weight"]);
}

#[test]
fn settings_and_shapes_that_do_not_hold_are_errors() {
    let with = |key: &str, value: Json| {
        let mut config = usual();
        config["quantization"][key] = value;
        config
    };
    for (config, says) in [
        (with("bits", json!(3)), "config.json`: quantization of `x`: bits 3 cannot be read"),
        (with("bits", json!("4")), "bits \\\"4\\\" cannot be read, only 2, 4 and 8"),
        (with("group_size", json!(16)), "group_size 16 cannot be read, only 32, 64 and 128"),
        (with("mode", json!("mxfp4")), "mode \\\"mxfp4\\\" cannot be read"),
        (with("y", json!({"bits": 8})), "quantization of `y`: there is no `group_size`"),
        (with("y", json!(true)), "tensor `y.weight` of [3, 32] words has scales of [3, 2]"),
        (with("group_size", json!(32)), "tensor `x.weight` of [3, 16] words has scales"),
    ] {
        let error = opened(config, &[]).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    let scalar = Value::scalar(1u32);
    for (name, value, says) in [
        ("x.biases", zeros(DType::F16, &[3, 1]), "has biases of [3, 1]"),
        ("x.scales", zeros(DType::F16, &[2, 2]), "has scales of [2, 2]"),
        ("x.scales", zeros(DType::I32, &[3, 2]), "has scales of i32"),
        ("x.scales", zeros(DType::F16, &[]), "has scales of []"),
        ("x.weight", scalar, "`x.weight` of [] words"),
    ] {
        let error = opened(usual(), &[(name, &value)]).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
