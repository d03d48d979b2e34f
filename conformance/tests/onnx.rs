//! Real ONNX files against golden numbers of onnxruntime.
//!
//! The files are fetched (and kept) the first time. `golden/onnx/*.npz` holds inputs `in_<name>` and
//! outputs `out_<index>_<name>`, made without graph optimisations.

use frit_cli::{
    assets::{self, Asset, PARAPHRASE_MINILM_ONNX, PP_OCR_V4_REC_ONNX, VIT_S_FOCUS_ONNX},
    npy::read_npz,
};
use frit_conformance::compare;
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, Op, Policy, Spec, Tensor, Value, compile, recognise};
use frit_load::{OnnxModel, onnx::Dim};
use frit_ops::recognisers;
use std::{collections::BTreeMap, path::Path};

/// Difference from onnxruntime, relative to 1 + |expected|.
const WITHIN: f64 = 1e-4;

struct Golden {
    model: OnnxModel,
    inputs: BTreeMap<String, Value>,
    outputs: Vec<Value>,
}

fn golden(asset: &'static Asset, numbers: &str) -> Golden {
    let folder = assets::ensure(asset, true).expect("the model");
    let model = OnnxModel::open(folder.join(asset.members[0].file)).expect("it opens");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/onnx").join(numbers);
    let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in read_npz(&path).expect("golden numbers") {
        if let Some(name) = name.strip_prefix("in_") {
            inputs.insert(name.to_string(), value);
        } else {
            let index: usize =
                name.split('_').nth(1).and_then(|n| n.parse().ok()).expect("a place");
            outputs.insert(index, value);
        }
    }
    assert_eq!(outputs.len(), model.outputs().len());
    Golden { model, inputs, outputs: outputs.into_values().collect() }
}

impl Golden {
    fn specs(&self) -> BTreeMap<String, Spec> {
        self.inputs.iter().map(|(n, v)| (n.clone(), v.spec().clone())).collect()
    }

    fn run(&self, backend: &dyn Backend, recognised: bool) -> Vec<Value> {
        let (mut graph, params) = self.model.graph(&self.specs()).expect("a graph");
        if recognised {
            graph = recognise(&graph, &recognisers()).expect("recognised").0;
        }
        let program = compile(&graph, backend, &params, Policy::Allow).expect("compiled");
        let inputs = self.model.inputs().iter().map(|p| self.inputs[&p.name].clone()).collect();
        program.run(inputs).expect("it runs")
    }

    /// The numbers hold in every way it can run, and these Blocks are found in it, by the beginning
    /// of their text.
    fn check(&self, found: &[(&str, usize)]) {
        let (graph, _) = self.model.graph(&self.specs()).expect("a graph");
        let (graph, report) = recognise(&graph, &recognisers()).expect("recognised");
        let text = |t: &Tensor| match t.op() {
            Op::Block(b) => Some(format!("{b:?}")),
            _ => None,
        };
        let blocks: Vec<String> = graph.nodes().iter().filter_map(text).collect();
        for &(name, count) in found {
            let got = blocks.iter().filter(|b| b.starts_with(name)).count();
            assert_eq!(got, count, "{name}\n{report}\n{:?}", graph.histogram());
        }
        let cpu = || Cpu::on(Pool::new(2));
        let ways: [(&str, Cpu, bool); 3] = [
            ("composed", cpu().without_fused(), false),
            ("recognised, composed", cpu().without_fused(), true),
            ("recognised, fused", cpu(), true),
        ];
        for (what, backend, recognised) in ways {
            let got = self.run(&backend, recognised);
            for ((got, wanted), port) in got.iter().zip(&self.outputs).zip(self.model.outputs()) {
                assert_eq!(got.spec(), wanted.spec(), "{what}: {port}");
                let d = compare(&got.to_f64(), &wanted.to_f64(), (WITHIN, WITHIN));
                assert!(d.within, "{what}: {port}: max abs {:.2e} at {}", d.max_abs, d.at);
                println!("{what}: {port}: max abs {:.2e}", d.max_abs);
            }
        }
    }
}

#[test]
fn sentence_embeddings_agree_with_onnxruntime() {
    golden(&PARAPHRASE_MINILM_ONNX, "paraphrase_minilm_l3.npz").check(&[
        ("ScaledDotProductAttention", 3),
        ("LayerNorm", 7),
        ("Linear { activation: Gelu(Erf)", 3),
        ("Linear { activation: Identity", 15),
        ("Embedding", 3),
    ]);
}

#[test]
fn a_vision_transformer_agrees_with_onnxruntime() {
    golden(&VIT_S_FOCUS_ONNX, "vit_s_focus.npz").check(&[
        ("ScaledDotProductAttention", 12),
        ("LayerNorm", 25),
        ("Linear { activation: Gelu(Erf)", 12),
        ("Linear { activation: Identity", 62),
    ]);
}

#[test]
fn recognised_text_agrees_with_onnxruntime() {
    golden(&PP_OCR_V4_REC_ONNX, "ppocr_v4_rec.npz").check(&[
        ("ScaledDotProductAttention", 2),
        ("LayerNorm", 5),
        // With their normalisations and activations.
        ("Conv {", 38),
        ("Silu", 0),
        ("Linear { activation: Silu", 2),
        ("Linear { activation: Identity", 7),
    ]);
}

#[test]
fn one_file_makes_graphs_of_several_shapes_over_the_same_weights() {
    let golden = golden(&PARAPHRASE_MINILM_ONNX, "paraphrase_minilm_l3.npz");
    let open = golden.model.inputs().iter().flat_map(|p| p.dims.iter().flatten());
    assert!(open.clone().any(|d| !matches!(d, Dim::Known(_))));
    let (_, first) = golden.model.graph(&golden.specs()).expect("a graph");
    let longer: BTreeMap<String, Spec> =
        golden.specs().into_iter().map(|(n, s)| (n, s.with_shape([1, 20]))).collect();
    let (graph, second) = golden.model.graph(&longer).expect("another graph");
    assert!(graph.outputs().iter().any(|t| t.shape().contains(&20)));
    for (name, spec) in graph.params().expect("weights") {
        let (a, b) = (first.get(&name).expect("there"), second.get(&name).expect("there"));
        assert_eq!((a.id(), a.spec()), (b.id(), &spec), "{name}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let golden = golden(&PARAPHRASE_MINILM_ONNX, "paraphrase_minilm_l3.npz");
    let mut specs = golden.specs();
    specs.remove("attention_mask");
    let error = golden.model.graph(&specs).expect_err("one is missing").to_string();
    assert!(error.contains("missing inputs: `attention_mask i64["), "{error}");
    specs.insert("attention_mask".into(), specs["input_ids"].with_shape([2, 9, 1]));
    let error = golden.model.graph(&specs).expect_err("one has another shape").to_string();
    assert!(error.contains("input `attention_mask i64[") && error.contains("got i64[2, 9, 1]"));
}
