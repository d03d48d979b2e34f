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
use frit_graph::{Backend, Policy, Spec, Value, compile, rewrite};
use frit_load::{OnnxModel, onnx::Dim};
use frit_models::fast_kernels;
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

    fn run(&self, backend: &dyn Backend, fused: bool) -> Vec<Value> {
        let (graph, params) = self.model.graph(&self.specs()).expect("a graph");
        let rules = if fused { fast_kernels() } else { Vec::new() };
        let (graph, _) = rewrite(&graph, &rules).expect("rewritten");
        let program = compile(&graph, backend, &params, Policy::Allow).expect("compiled");
        let inputs = self.model.inputs().iter().map(|p| self.inputs[&p.name].clone()).collect();
        program.run(inputs).expect("it runs")
    }

    fn check(&self) {
        let cpu = || Cpu::on(Pool::new(2));
        let ways: [(&str, Cpu, bool); 2] =
            [("composed", cpu().without_fused(), false), ("fused", cpu(), true)];
        for (what, backend, fused) in ways {
            let got = self.run(&backend, fused);
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
    golden(&PARAPHRASE_MINILM_ONNX, "paraphrase_minilm_l3.npz").check();
}

#[test]
fn a_vision_transformer_agrees_with_onnxruntime() {
    golden(&VIT_S_FOCUS_ONNX, "vit_s_focus.npz").check();
}

#[test]
fn recognised_text_agrees_with_onnxruntime() {
    golden(&PP_OCR_V4_REC_ONNX, "ppocr_v4_rec.npz").check();
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
