//! What checkpoints call the weights.

/// Names of one model type; those of a layer stand after `layers` and its number.
pub(super) struct Names {
    /// Stands before every name where the checkpoint has a head (a classifier, say).
    pub(super) prefix: &'static str,
    /// The table of tokens, or the projection of patches.
    pub(super) embedding: &'static str,
    /// The norm of the embeddings; empty if there is none.
    pub(super) embedding_norm: &'static str,
    pub(super) layers: &'static str,
    /// Queries, keys and values; one name if they are one matrix.
    pub(super) projections: &'static [&'static str],
    pub(super) output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) mlp_norm: &'static str,
    /// The norm of the result; empty if there is none.
    pub(super) final_norm: &'static str,
}

const BERT: Names = Names {
    prefix: "bert.",
    embedding: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    projections: &["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    final_norm: "",
};

const DISTILBERT: Names = Names {
    prefix: "distilbert.",
    layers: "transformer.layer",
    projections: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    ..BERT
};

const MODERNBERT: Names = Names {
    prefix: "model.",
    embedding: "embeddings.tok_embeddings",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    projections: &["attn.Wqkv"],
    output: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    mlp_norm: "mlp_norm",
    final_norm: "final_norm",
};

const VIT: Names = Names {
    prefix: "vit.",
    embedding: "embeddings.patch_embeddings.projection",
    embedding_norm: "",
    projections: &[
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    attention_norm: "layernorm_before",
    mlp_norm: "layernorm_after",
    final_norm: "layernorm",
    ..BERT
};

/// The names of a model type that [`super::EncoderConfig::from_json`] knows.
pub(super) fn of(model_type: &str) -> &'static Names {
    match model_type {
        "distilbert" => &DISTILBERT,
        "modernbert" => &MODERNBERT,
        "vit" => &VIT,
        _ => &BERT,
    }
}

/// The name that [`Names`] has for what a checkpoint calls so.
pub(super) fn usual(names: &Names, name: &str) -> String {
    let name = name.strip_prefix(names.prefix).unwrap_or(name);
    // The first checkpoints of BERT, made for another library.
    match name.rsplit_once('.') {
        Some((stem, "gamma")) => format!("{stem}.weight"),
        Some((stem, "beta")) => format!("{stem}.bias"),
        _ => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_a_head_puts_before_them_and_what_is_old() {
        for (model_type, name, usual_name) in [
            ("bert", "bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
            ("bert", "embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
            ("distilbert", "distilbert.transformer.layer.0.ffn.lin1.bias", {
                "transformer.layer.0.ffn.lin1.bias"
            }),
            ("modernbert", "model.layers.3.attn.Wqkv.weight", "layers.3.attn.Wqkv.weight"),
            ("vit", "vit.layernorm.weight", "layernorm.weight"),
            ("vit", "classifier.weight", "classifier.weight"),
        ] {
            assert_eq!(usual(of(model_type), name), usual_name);
        }
    }
}
