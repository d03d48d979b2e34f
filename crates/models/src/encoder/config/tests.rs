use super::*;
use serde_json::json;

fn read(mut config: Json, changes: Json) -> Result<EncoderConfig, String> {
    for (key, value) in changes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    EncoderConfig::from_json(&config).map_err(|e| e.to_string())
}

/// What `config.json` of ModernBERT-base says of its layers, in the old form and the new.
fn modern(changes: Json) -> Result<EncoderConfig, String> {
    let config = json!({
        "model_type": "modernbert", "hidden_size": 768, "intermediate_size": 1152,
        "num_attention_heads": 12, "num_hidden_layers": 22, "vocab_size": 50368,
        "max_position_embeddings": 8192, "local_attention": 128, "norm_eps": 1e-5,
        "global_attn_every_n_layers": 3
    });
    read(config, changes)
}

fn bert(changes: Json) -> Result<EncoderConfig, String> {
    let config = json!({
        "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536,
        "num_attention_heads": 12, "num_hidden_layers": 6, "vocab_size": 30522,
        "max_position_embeddings": 512, "type_vocab_size": 2
    });
    read(config, changes)
}

#[test]
fn bert_adds_positions_and_norms_sums() {
    let config = bert(json!({})).expect("a configuration");
    let reads = Reads::Text { vocab_size: 30522, positions: Some(512), types: Some(2) };
    assert_eq!((config.reads.clone(), config.max_length), (reads, 512));
    assert_eq!((config.norm_eps, config.activation), (1e-12, GeluForm::Erf));
    assert!(!config.pre_norm && !config.gated && config.norm_bias && config.qkv_bias);
    assert_eq!(config.layers, vec![LayerKind::default(); 6]);
    assert_eq!(config.inputs(), ["input_ids", "attention_mask", "token_type_ids"]);
    let tanh = bert(json!({"hidden_act": "gelu_new"})).expect("a configuration");
    assert_eq!(tanh.activation, GeluForm::Tanh);
}

#[test]
fn modernbert_alternates_layers_and_frequencies_in_either_form() {
    let old = modern(json!({"global_rope_theta": 160000.0, "local_rope_theta": 10000.0}));
    let kinds: Vec<&str> =
        (0..22).map(|i| if i % 3 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    let new = modern(json!({
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}
        }
    }));
    let config = old.expect("a configuration");
    assert_eq!(Ok(&config), new.as_ref());
    assert_eq!(Ok(&config), modern(json!({})).as_ref());
    assert_eq!(config.ropes.iter().map(|r| r.base).collect::<Vec<_>>(), [160000.0, 10000.0]);
    // 64 keys on either side.
    let local = LayerKind { rope: Some(1), window: Some(65) };
    let wide = LayerKind { rope: Some(0), window: None };
    assert_eq!(config.layers[..5], [wide, local, local, wide, local]);
    assert!(config.pre_norm && config.gated);
    assert!(!config.norm_bias && !config.qkv_bias && !config.output_bias && !config.mlp_bias);
    // Without a base of their own, all turn alike.
    let alike = modern(json!({"global_rope_theta": 5e4, "local_rope_theta": null}));
    assert!(alike.expect("a configuration").ropes.iter().all(|r| r.base == 5e4));
}

#[test]
fn vit_reads_patches() {
    let vit = |changes: Json| {
        let config = json!({
            "model_type": "vit", "hidden_size": 192, "intermediate_size": 768,
            "num_attention_heads": 3, "num_hidden_layers": 12
        });
        read(config, changes)
    };
    let config = vit(json!({"qkv_bias": false})).expect("a configuration");
    assert_eq!(config.reads, Reads::Image { size: 224, patch: 16, channels: 3 });
    assert_eq!(config.max_length, 14 * 14 + 1);
    assert!(config.pre_norm && !config.qkv_bias && config.output_bias);
    assert_eq!(config.inputs(), ["pixel_values"]);
    for (changes, what) in [
        (json!({"patch_size": 15}), "`patch_size` must be a divisor of image_size 224"),
        (json!({"image_size": 16777216, "patch_size": 1}), "`image_size` must be"),
        (json!({"num_channels": 9999999}), "`num_channels` must be at most 4096"),
    ] {
        let error = vit(changes).expect_err("it makes no sense");
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    for (changes, what) in [
        (json!({"model_type": "roberta"}), "one of bert, distilbert, modernbert, vit"),
        (json!({"model_type": null}), "no `model_type`"),
        (json!({"is_decoder": true}), "`is_decoder` must be false"),
        (json!({"num_attention_heads": 7}), "a divisor of the width 384"),
        (json!({"num_hidden_layers": 5000}), "at most 4096"),
        (json!({"position_embedding_type": "relative_key"}), "must be absolute"),
        (json!({"hidden_act": "relu"}), "`hidden_act` must be gelu"),
        (json!({"layer_norm_eps": 0}), "a positive number"),
        (json!({"intermediate_size": null}), "no `intermediate_size`"),
    ] {
        let error = bert(changes).expect_err("not supported");
        assert!(error.contains(what), "{error}");
    }
    let types = modern(json!({"layer_types": ["full_attention"]})).expect_err("too few");
    assert!(types.contains("22 of full_attention and sliding_attention"), "{types}");
    let quick = modern(json!({"hidden_activation": "quick_gelu"})).expect_err("no such gate");
    assert!(quick.contains("`hidden_activation`"), "{quick}");
}
