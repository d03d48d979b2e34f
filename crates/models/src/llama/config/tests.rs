use super::*;
use serde_json::json;

fn tiny(model_type: &str) -> Json {
    json!({
        "model_type": model_type, "vocab_size": 320, "hidden_size": 64,
        "intermediate_size": 112, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256
    })
}

fn read(model_type: &str, changes: Json) -> Result<LlamaConfig, ConfigError> {
    let mut json = tiny(model_type);
    for (key, value) in changes.as_object().expect("an object") {
        json[key] = value.clone();
    }
    LlamaConfig::from_json(&json)
}

fn windows(model_type: &str, changes: Json) -> Vec<usize> {
    let config = read(model_type, changes).expect("a configuration");
    config.layers.iter().map(|l| l.window.unwrap_or(0)).collect()
}

#[test]
fn what_a_file_leaves_out_is_what_the_model_type_has() {
    let gemma = read("gemma3_text", json!({})).expect("gemma");
    assert_eq!((gemma.head_dim, gemma.attention_scale), (256, 1.0 / 16.0));
    assert_eq!((gemma.embedding_scale, gemma.norm_offset), (Some(8.0), 1.0));
    assert!(gemma.tie_word_embeddings && gemma.post_norms && gemma.query_key_norm);
    let bases: Vec<f64> = gemma.ropes.iter().map(|r| r.base).collect();
    assert_eq!(bases, [1e6, 1e4]);
    let ropes: Vec<_> = gemma.layers.iter().map(|l| l.rope).collect();
    let (local, full) = (Some(1), Some(0));
    assert_eq!(ropes, [local, local, local, local, local, full, local, local]);

    let llama = read("llama", json!({})).expect("llama");
    assert_eq!((llama.head_dim, llama.rms_norm_eps, llama.qkv_bias), (16, 1e-6, false));
    assert!(!llama.tie_word_embeddings && llama.layers.iter().all(|l| l.rope == Some(0)));
    let qwen = read("qwen2", json!({"attention_bias": true})).expect("qwen 2");
    assert!(qwen.qkv_bias && !qwen.output_bias);
    let smol = read("smollm3", json!({})).expect("smollm 3");
    let turns: Vec<bool> = smol.layers.iter().map(|l| l.rope.is_some()).collect();
    assert_eq!(turns, [true, true, true, false, true, true, true, false]);
    assert_eq!(smol.ropes[0].base, 2e6);
}

#[test]
fn windows_are_where_the_model_type_has_them() {
    assert_eq!(windows("llama", json!({"sliding_window": 9})), [0; 8]);
    assert_eq!(windows("mistral", json!({})), [4096; 8]);
    assert_eq!(windows("mistral", json!({"sliding_window": null})), [0; 8]);
    assert_eq!(windows("phi3", json!({"sliding_window": 9})), [9; 8]);
    let gemma = windows("gemma3_text", json!({"sliding_window": 9, "sliding_window_pattern": 2}));
    assert_eq!(gemma, [9, 0, 9, 0, 9, 0, 9, 0]);
    assert_eq!(windows("qwen2", json!({"sliding_window": 9, "max_window_layers": 6})), [0; 8]);
    let used = json!({
        "sliding_window": 9, "max_window_layers": 6, "use_sliding_window": true
    });
    assert_eq!(windows("qwen2", used), [0, 0, 0, 0, 0, 0, 9, 9]);
}

#[test]
fn keys_that_make_no_sense_are_named() {
    let error = |model, changes| read(model, changes).expect_err("no sense").to_string();
    assert_eq!(
        error("mamba", json!({})),
        "config.json: `model_type` must be one of llama, mistral, qwen2, qwen3, gemma3_text, \
         smollm3, phi3, got \"mamba\""
    );
    for (key, value, says) in [
        ("hidden_size", json!(-1), "a whole number from 1 to"),
        ("num_hidden_layers", json!(1_000_000), "at most 4096"),
        ("num_key_value_heads", json!(3), "a divisor of num_attention_heads 4"),
        ("num_attention_heads", json!(5), "a divisor of hidden_size 64"),
        ("hidden_act", json!("relu"), "silu, gelu or gelu_pytorch_tanh"),
        ("attention_bias", json!(1), "true or false"),
        ("rms_norm_eps", json!("x"), "a positive number"),
        ("use_bidirectional_attention", json!(true), "false"),
    ] {
        let message = error("llama", json!({key: value}));
        assert!(message.contains(key) && message.contains(says), "{message}");
    }
    let types = json!({"layer_types": ["full_attention"]});
    assert!(error("qwen3", types).contains("8 of full_attention and sliding_attention"));
    assert_eq!(
        LlamaConfig::from_json(&json!({})).expect_err("empty").to_string(),
        "config.json has no `model_type`"
    );
}
