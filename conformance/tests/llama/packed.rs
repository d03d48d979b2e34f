//! Checkpoints whose weights MLX has packed, against the same numbers unpacked.

use super::{cpu, expected, golden, options};
use frit_conformance::compare;
use frit_graph::{DType, Value};
use frit_load::Checkpoint;
use frit_models::llama::Llama;
use std::{collections::BTreeMap, fs, sync::Arc};

const GROUP: usize = 32;

/// A matrix in affine groups: words, scales, biases, and the numbers that they stand for.
fn pack(matrix: &[f32], bits: usize) -> (Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut words, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let (most, mut numbers) = ((1 << bits) - 1, Vec::new());
    for group in matrix.chunks(GROUP) {
        let low = group.iter().copied().fold(f32::INFINITY, f32::min);
        let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = ((high - low) / most as f32).max(1e-8);
        let of = |x: &f32| (((x - low) / scale).round() as u32).min(most);
        for part in group.chunks(32 / bits) {
            let bits = |(i, x): (usize, &f32)| of(x) << (i * bits);
            words.push(part.iter().enumerate().map(bits).sum());
        }
        numbers.extend(group.iter().map(|x| scale * of(x) as f32 + low));
        scales.push(scale);
        biases.push(low);
    }
    (words, scales, biases, numbers)
}

/// Logits of the golden batch.
fn logits(folder: &std::path::Path, fused: bool) -> Vec<f64> {
    let golden = expected("llama");
    let backend = if fused { cpu() } else { cpu().without_fused() };
    let mut llama = Llama::open(folder, Arc::new(backend), options(fused)).expect("it loads");
    let ids = golden.tensor("input_ids").expect("ids");
    llama.forward(ids, None, None).expect("logits").to_f64()
}

#[test]
fn weights_that_mlx_packed_give_the_logits_of_the_numbers_they_stand_for() {
    let source: Checkpoint = frit_load::open(golden("llama")).expect("it loads");
    for bits in [2, 4, 8] {
        let (mut packed, mut plain) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in source.params.iter() {
            let (shape, matrix) = (value.shape().to_vec(), value.to_f32());
            // Rows of 112 are no whole groups: MLX leaves such a layer as it is.
            if shape.len() != 2 || !shape[1].is_multiple_of(GROUP) {
                packed.insert(name.to_string(), value.clone());
                plain.insert(name.to_string(), value.clone());
                continue;
            }
            let [n, k] = [shape[0], shape[1]];
            let (words, scales, biases, numbers) = pack(&matrix, bits);
            let layer = name.strip_suffix("weight").expect("a weight");
            let value = |shape: [usize; 2], data| Value::new(shape, data).expect("a value");
            let words = Value::new([n, k * bits / 32], words).expect("words");
            packed.insert(name.to_string(), words);
            packed.insert(format!("{layer}scales"), value([n, k / GROUP], scales));
            packed.insert(format!("{layer}biases"), value([n, k / GROUP], biases));
            plain.insert(name.to_string(), value([n, k], numbers));
        }
        let folder = |tensors: &BTreeMap<String, Value>, quantised: bool| {
            let folder = tempfile::tempdir().expect("a folder");
            let tensors: Vec<(&str, &Value)> = tensors.iter().map(|(n, v)| (&**n, v)).collect();
            let file = folder.path().join("model.safetensors");
            frit_load::write(file, &tensors, &BTreeMap::new()).expect("written");
            let mut config = source.config.clone();
            if quantised {
                config["quantization"] = serde_json::json!({"bits": bits, "group_size": GROUP});
            }
            fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
            folder
        };
        let (packed, plain) = (folder(&packed, true), folder(&plain, false));
        let words = frit_load::open(packed.path()).expect("it loads");
        assert_eq!(words.packed.len(), 13, "six products a layer, and the table");
        assert!(words.params.iter().any(|(_, v)| v.dtype() == DType::U32));
        let want = logits(plain.path(), false);
        for fused in [false, true] {
            let d = compare(&logits(packed.path(), fused), &want, (0.0, 1e-4));
            assert!(d.within, "{bits} bits, fused {fused}: {d:?}");
        }
    }
}
