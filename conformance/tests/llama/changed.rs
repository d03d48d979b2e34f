//! Checkpoints in another form, with other switches, or damaged; calls that do not fit.

use super::{attended, close, cpu, expected, forward_is_golden, golden, open, options};
use frit_conformance::compare;
use frit_graph::{Backend, DType, Params, Value};
use frit_load::Checkpoint;
use frit_models::llama::{Llama, LlamaConfig, LoadOptions, config::LayerKind, weights::Weights};
use frit_ops::RopeLayout;
use std::{collections::BTreeMap, sync::Arc};

#[test]
fn a_gguf_of_the_same_weights_gives_the_same_logits() {
    // What the converter does: other names, and the rows of queries and keys of each head in the
    // order of interleaved pairs.
    let source = frit_load::open(golden("llama")).expect("it loads");
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let gguf: Params = source
        .params
        .iter()
        .map(|(name, value)| {
            let name = names.iter().fold(name.to_string(), |n, (from, to)| n.replace(from, to));
            let turned = name.contains("attn_q.") || name.contains("attn_k.");
            (name, if turned { interleaved(value, 16) } else { value.clone() })
        })
        .collect();
    let config = serde_json::json!({
        "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 256,
        "llama.embedding_length": 64, "llama.feed_forward_length": 112,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5
    });
    let checkpoint = Checkpoint { params: gguf, config, ..source };
    for fused in [false, true] {
        let cpu = if fused { cpu() } else { cpu().without_fused() };
        let mut llama =
            Llama::from_checkpoint(&checkpoint, Arc::new(cpu), options(fused)).expect("it loads");
        assert_eq!(llama.config().rope_layout, RopeLayout::Interleaved);
        assert_eq!(llama.config().layers, [LayerKind { rope: Some(0), window: None }; 2]);
        forward_is_golden("GGUF", &mut llama, "llama");
    }
}

/// The golden batch through a checkpoint that was changed.
fn changed(model: &str, change: impl Fn(&mut Checkpoint)) -> Result<Vec<f64>, String> {
    let mut checkpoint = frit_load::open(golden(model)).expect("it loads");
    change(&mut checkpoint);
    let golden = expected(model);
    let of = |n: &str| golden.tensor(n).expect(n);
    let llama = Llama::from_checkpoint(&checkpoint, Arc::new(cpu()), options(true));
    let logits = llama
        .and_then(|mut l| l.forward(of("input_ids"), Some(of("attention_mask")), None))
        .map_err(|e| e.to_string())?;
    Ok(attended(&logits, of("attention_mask")))
}

fn golden_logits(model: &str) -> Vec<f64> {
    let golden = expected(model);
    let of = |n: &str| golden.tensor(n).expect(n);
    attended(of("logits"), of("attention_mask"))
}

#[test]
fn soft_caps_bend_scores_and_logits() {
    let want = golden_logits("gemma3");
    let got = changed("gemma3", |c| c.config["final_logit_softcapping"] = 0.5.into());
    let bent: Vec<f64> = want.iter().map(|x| (x / 0.5).tanh() * 0.5).collect();
    close("capped logits", &got.expect("it runs"), &bent, 1e-4);
    let cap = |cap: f64| changed("gemma3", |c| c.config["attn_logit_softcapping"] = cap.into());
    close("a cap far away", &cap(1e4).expect("it runs"), &want, 1e-4);
    let near = cap(0.01).expect("it runs");
    assert!(!compare(&near, &want, (0.0, 1e-3)).within, "a cap that is near shows");
}

#[test]
fn biases_are_there_where_the_configuration_says_so() {
    let bias = |c: &mut Checkpoint, projections: &[(&str, usize)]| {
        for layer in 0..2 {
            for (name, n) in projections {
                let name = format!("model.layers.{layer}.{name}.bias");
                c.params.insert(name, Value::new([*n], vec![0f32; *n]).expect("a value"));
            }
        }
    };
    let attention = [("q", 64), ("k", 32), ("v", 32), ("o", 64)];
    let attention = attention.map(|(p, n)| (format!("self_attn.{p}_proj"), n));
    let attention: Vec<(&str, usize)> = attention.iter().map(|(p, n)| (p.as_str(), *n)).collect();
    let mlp = [("mlp.gate_proj", 112), ("mlp.up_proj", 112), ("mlp.down_proj", 64)];
    let got = changed("llama", |c| {
        (c.config["attention_bias"], c.config["mlp_bias"]) = (true.into(), true.into());
        bias(c, &attention);
        bias(c, &mlp);
    });
    close("zero biases", &got.expect("it runs"), &golden_logits("llama"), 1e-4);
    for (key, names) in [("attention_bias", &attention[..3]), ("mlp_bias", &mlp[..2])] {
        let missing = changed("llama", |c| {
            c.config[key] = true.into();
            bias(c, names);
        });
        let missing = missing.expect_err("the last is not there");
        assert!(missing.starts_with("missing tensor `model.layers.0."), "{missing}");
        assert!(missing.contains("o_proj.bias") || missing.contains("down_proj.bias"), "{missing}");
    }
}

#[test]
fn a_bare_model_has_names_without_the_prefix() {
    let got = changed("llama", |c| {
        let short = |n: &str| n.strip_prefix("model.").expect("a prefix").to_string();
        c.params = c.params.iter().map(|(n, v)| (short(n), v.clone())).collect();
    });
    close("bare", &got.expect("it runs"), &golden_logits("llama"), 1e-4);
}

/// Row `i` and row `i + d/2` of each head of `d` rows become neighbours.
fn interleaved(value: &Value, d: usize) -> Value {
    let (rows, k) = (value.shape()[0], value.shape()[1]);
    let old = value.to_f32();
    let from = |r: usize| r / d * d + r % d / 2 + r % 2 * (d / 2);
    let new = (0..rows).flat_map(|r| old[from(r) * k..][..k].to_vec()).collect();
    Value::new([rows, k], new).expect("a value")
}

#[test]
fn calls_that_do_not_fit_the_model_are_errors() {
    let mut llama = open("llama", true);
    let mut error = |f: &mut dyn FnMut(&mut Llama) -> Option<frit_models::Error>| {
        f(&mut llama).expect("it does not fit").to_string()
    };
    let none = error(&mut |l| l.step(&[1]).err());
    assert_eq!(none, "a step takes one token a row, 0, got 1");
    let none = error(&mut |l| l.append(&[1]).err());
    assert_eq!(none, "only a session of one row is appended to, there are 0");
    assert!(error(&mut |l| l.prefill(&[], 8).err()).contains("at least one token"));
    assert!(error(&mut |l| l.prefill(&[vec![1], vec![]], 8).err()).contains("at least one token"));
    let long = error(&mut |l| l.prefill(&[vec![1; 9]], 8).err());
    assert_eq!(long, "a prompt of 9 tokens exceeds the capacity of 8");
    let huge = error(&mut |l| l.prefill(&[vec![1]], usize::MAX).err());
    assert!(huge.contains("16777216 is the most"), "{huge}");
    let outside = error(&mut |l| l.prefill(&[vec![1, 320]], 8).err());
    assert_eq!(outside, "token 320 is outside the vocabulary of 320");
    let full = error(&mut |l| {
        l.prefill(&[vec![1; 8]], 8).expect("it fits");
        l.step(&[1]).err()
    });
    assert_eq!(full, "position 8 is past the capacity of 8");
    let outside = error(&mut |l| {
        l.prefill(&[vec![1, 2]], 8).expect("it fits");
        l.step(&[900]).err()
    });
    assert_eq!(outside, "token 900 is outside the vocabulary of 320");

    let ids = Value::new([1, 2], vec![1i64, -1]).expect("ids");
    let below = error(&mut |l| l.forward(&ids, None, None).err());
    assert_eq!(below, "token -1 is outside the vocabulary of 320");
    let flat = Value::new([2], vec![1i64, 2]).expect("ids");
    let rank = error(&mut |l| l.forward(&flat, None, None).err());
    assert_eq!(rank, "input_ids must be integers [B, T], got i64[2]");
    let ids = Value::new([1, 2], vec![1i64, 2]).expect("ids");
    let mask = error(&mut |l| l.forward(&ids, Some(&flat), None).err());
    assert_eq!(mask, "attention_mask must be integers [1, 2], got i64[2]");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let checkpoint = frit_load::open(golden("llama")).expect("it loads");
    let config = LlamaConfig::from_json(&checkpoint.config).expect("a configuration");
    let cpu: Arc<dyn Backend> = Arc::new(cpu());
    let error = |params: Params| {
        let weights = Weights { params, packed: BTreeMap::new(), dtype: DType::F32 };
        let mut l = Llama::new(config.clone(), weights, cpu.clone(), LoadOptions::default());
        l.prefill(&[vec![1]], 8).expect_err("a damaged checkpoint").to_string()
    };
    let name = "model.layers.1.mlp.down_proj.weight";
    let mut params = checkpoint.params.clone();
    params.remove(name);
    assert_eq!(error(params), format!("missing tensor `{name}` (f32[64, 112])"));
    let mut params = checkpoint.params.clone();
    params.insert(name, Value::new([3], vec![0f32; 3]).expect("a value"));
    assert_eq!(error(params), format!("tensor `{name}` must be f32[64, 112], got f32[3]"));

    let mut other = checkpoint.clone();
    other.config["model_type"] = "mamba".into();
    let unknown = Llama::from_checkpoint(&other, cpu, LoadOptions::default());
    let unknown = unknown.err().expect("not of the family").to_string();
    assert!(
        unknown.contains("golden/tiny/llama") && unknown.contains("got \"mamba\""),
        "{unknown}"
    );
}
