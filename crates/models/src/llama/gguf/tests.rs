use super::*;
use frit_graph::Value;
use serde_json::json;

fn smollm2() -> Json {
    json!({
        "general.architecture": "llama", "llama.block_count": 30, "llama.context_length": 8192,
        "llama.embedding_length": 576, "llama.feed_forward_length": 1536,
        "llama.attention.head_count": 9, "llama.attention.head_count_kv": 3,
        "llama.rope.freq_base": 100000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 64, "llama.vocab_size": 49152
    })
}

fn params(list: &[(&str, &[usize])]) -> Params {
    let ones = |s: &[usize]| Value::new(s, vec![2.0f32; s.iter().product()]).expect("a value");
    list.iter().map(|(n, s)| (n.to_string(), ones(s))).collect()
}

#[test]
fn smollm_2_is_read_from_its_metadata() {
    let c = LlamaConfig::from_gguf(&smollm2(), &Params::new()).expect("a configuration");
    assert_eq!((c.layers.len(), c.hidden_size, c.intermediate_size), (30, 576, 1536));
    assert_eq!((c.num_attention_heads, c.num_key_value_heads, c.head_dim), (9, 3, 64));
    assert_eq!((c.rms_norm_eps, c.vocab_size, c.tie_word_embeddings), (1e-5, 49152, true));
    let rope = RopeSchedule { dims: 64, base: 1e5, scaling: RopeScaling::Default };
    assert_eq!((c.ropes, c.rope_layout), (vec![rope], RopeLayout::Interleaved));
    assert!(c.layers.iter().all(|l| *l == LayerKind { rope: Some(0), window: None }));
    assert_eq!((c.attention_scale, c.norm_offset, c.qkv_bias), (0.125, 0.0, false));
    assert_eq!(c.model_type, "llama");
}

#[test]
fn tensors_say_what_metadata_does_not() {
    let tensors = params(&[
        ("model.embed_tokens.weight", &[7, 1]),
        ("output.weight", &[7, 1]),
        ("blk.0.attn_q.bias", &[3]),
        ("rope_freqs.weight", &[32]),
    ]);
    let c = LlamaConfig::from_gguf(&smollm2(), &tensors).expect("a configuration");
    assert_eq!((c.vocab_size, c.tie_word_embeddings, c.qkv_bias), (7, false, true));
    assert_eq!(c.ropes[0].scaling, RopeScaling::Divided(vec![2.0; 32]));
    assert_eq!(c.ropes[0].inv_freqs(9)[0], 0.5);
    let short = params(&[("rope_freqs.weight", &[31])]);
    let error = LlamaConfig::from_gguf(&smollm2(), &short).expect_err("too short").to_string();
    assert_eq!(
        error,
        "the GGUF tensors: `rope_freqs.weight` must be 32 positive numbers, got f32[31]"
    );
}

fn other(architecture: &str, more: Json) -> LlamaConfig {
    let old = smollm2();
    let old = old.as_object().expect("an object").iter();
    let mut keys: serde_json::Map<String, Json> =
        old.map(|(k, v)| (k.replace("llama.", &format!("{architecture}.")), v.clone())).collect();
    keys.insert("general.architecture".into(), json!(architecture));
    for (k, v) in more.as_object().expect("an object") {
        keys.insert(format!("{architecture}.{k}"), v.clone());
    }
    let longrope = [("rope_factors_long.weight", &[32][..]), ("rope_factors_short.weight", &[32])];
    let tensors = if architecture == "phi3" { params(&longrope) } else { Params::new() };
    LlamaConfig::from_gguf(&Json::Object(keys), &tensors).expect("a configuration")
}

#[test]
fn architectures_differ_as_they_do() {
    let gemma = other(
        "gemma3",
        json!({
            "attention.key_length": 256, "attention.value_length": 256, "rope.dimension_count": 256,
            "attention.sliding_window": 512, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0
        }),
    );
    let windows: Vec<usize> = gemma.layers.iter().map(|l| l.window.unwrap_or(0)).collect();
    assert_eq!(windows[..7], [512, 512, 512, 512, 512, 0, 512]);
    assert_eq!((gemma.layers[4].rope, gemma.layers[5].rope), (Some(1), Some(0)));
    assert_eq!(gemma.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!((gemma.ropes[1].base, gemma.norm_offset), (1e4, 0.0));
    assert_eq!((gemma.attention_scale, gemma.embedding_scale), (1.0 / 16.0, Some(24.0)));
    assert!(gemma.rope_layout == RopeLayout::Split && gemma.post_norms && gemma.query_key_norm);

    let qwen = other(
        "qwen2",
        json!({
            "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 2048
        }),
    );
    let RopeScaling::Yarn { factor, trained, amplitude, .. } = qwen.ropes[0].scaling else {
        panic!("{:?}", qwen.ropes)
    };
    assert_eq!((factor, trained, qwen.rope_layout), (4.0, 2048, RopeLayout::Split));
    assert!((amplitude - 1.138629436111989).abs() < 1e-15);

    let smol = other("smollm3", json!({}));
    let turns: Vec<bool> = smol.layers.iter().map(|l| l.rope.is_some()).collect();
    assert_eq!(turns[..5], [true, true, true, false, true]);
    assert_eq!(smol.rope_layout, RopeLayout::Interleaved);

    let phi = other(
        "phi3",
        json!({
            "rope.scaling.original_context_length": 4096, "rope.scaling.attn_factor": 1.25,
            "attention.sliding_window": 2047
        }),
    );
    let RopeScaling::LongRope { trained, amplitude, .. } = phi.ropes[0].scaling else {
        panic!("{:?}", phi.ropes)
    };
    assert_eq!((trained, amplitude, phi.fused_projections), (4096, 1.25, true));
    assert_eq!(phi.layers[0].window, Some(2047));
}

#[test]
fn metadata_that_makes_no_sense_is_named() {
    let error = |key: &str, value: Json| {
        let mut json = smollm2();
        json[key] = value;
        LlamaConfig::from_gguf(&json, &Params::new()).expect_err("no sense").to_string()
    };
    for (key, value, says) in [
        ("general.architecture", json!("mamba"), "one of llama, mistral"),
        ("general.architecture", Json::Null, "the GGUF metadata has no `general.architecture`"),
        ("llama.block_count", json!(1u64 << 40), "a whole number"),
        ("llama.attention.head_count_kv", json!(4), "a divisor of attention.head_count 9"),
        ("llama.rope.dimension_count", json!(65), "even and at most 64"),
        ("llama.rope.scaling.type", json!("other"), "none, linear, or yarn"),
        ("llama.attention.value_length", json!(32), "as long as keys, 64"),
        ("llama.expert_count", json!(8), "mixtures of experts"),
        ("llama.embedding_length", Json::Null, "the GGUF metadata has no `llama.embedding_length`"),
    ] {
        let message = error(key, value);
        assert!(message.contains(says) && message.contains(key), "{message}");
    }
}
