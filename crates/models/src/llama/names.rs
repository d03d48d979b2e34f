//! What GGUF files call the weights, and what Hugging Face does.

/// The Hugging Face name of a weight of a GGUF file of this architecture (`general.architecture`).
///
/// ```
/// use frit_models::llama::names::hugging_face;
/// let name = |n| hugging_face("llama", n);
/// assert_eq!(name("blk.7.attn_q.weight").as_deref(), Some("model.layers.7.self_attn.q_proj.weight"));
/// assert_eq!(name("rope_freqs.weight"), None);
/// ```
pub fn hugging_face(architecture: &str, name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let outer = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(format!("{outer}.{kind}"));
    }
    let (layer, stem) = stem.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let gemma = architecture.starts_with("gemma");
    let inner = match stem {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" if gemma => "post_attention_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "post_ffw_norm" if gemma => "post_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        // Phi 3 has gate and up in one.
        "ffn_up" if architecture == "phi3" => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{inner}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::hugging_face;

    #[test]
    fn every_architecture_has_its_names() {
        for (architecture, gguf, name) in [
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("llama", "output_norm.weight", "model.norm.weight"),
            ("llama", "output.weight", "lm_head.weight"),
            ("llama", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
            ("llama", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("llama", "blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
            ("qwen2", "blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"),
            ("qwen3", "blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"),
            ("phi3", "blk.2.ffn_up.weight", "model.layers.2.mlp.gate_up_proj.weight"),
            ("phi3", "blk.2.attn_qkv.weight", "model.layers.2.self_attn.qkv_proj.weight"),
            ("gemma3", "blk.3.ffn_norm.weight", "model.layers.3.pre_feedforward_layernorm.weight"),
            (
                "gemma3",
                "blk.3.post_ffw_norm.weight",
                "model.layers.3.post_feedforward_layernorm.weight",
            ),
            (
                "gemma3",
                "blk.3.post_attention_norm.weight",
                "model.layers.3.post_attention_layernorm.weight",
            ),
        ] {
            assert_eq!(hugging_face(architecture, gguf).as_deref(), Some(name), "{gguf}");
        }
        for other in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "", "blk"] {
            assert_eq!(hugging_face("llama", other), None, "{other}");
        }
    }
}
