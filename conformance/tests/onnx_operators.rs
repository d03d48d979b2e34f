//! The official operator tests of ONNX.

use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, Policy, Reference, Value, compile};
use frit_load::{LoadError, OnnxModel, onnx::read_tensor};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

enum Found {
    Passed,
    Unsupported(String),
    Failed(String),
}

fn tensors(folder: &Path, kind: &str, count: usize) -> Result<Vec<Value>, LoadError> {
    (0..count).map(|i| Ok(read_tensor(folder.join(format!("{kind}_{i}.pb")))?.1)).collect()
}

fn judge(folder: &Path, backend: &dyn Backend) -> Found {
    let wrong = |e: LoadError| match e {
        LoadError::Unsupported { .. } | LoadError::Dtype { .. } => {
            Found::Unsupported(e.to_string())
        }
        _ => Found::Failed(e.to_string()),
    };
    let model = match OnnxModel::open(folder.join("model.onnx")) {
        Ok(m) => m,
        Err(e) => return wrong(e),
    };
    let data = folder.join("test_data_set_0");
    let read = |kind: &str, n: usize| tensors(&data, kind, n);
    let (inputs, outputs) =
        match (read("input", model.inputs().len()), read("output", model.outputs().len())) {
            (Ok(i), Ok(o)) => (i, o),
            (Err(e), _) | (_, Err(e)) => return wrong(e),
        };
    let values: BTreeMap<_, _> =
        model.inputs().iter().zip(&inputs).map(|(p, v)| (p.name.clone(), v.clone())).collect();
    let (graph, params, _) = match model.graph_for(&values) {
        Ok(g) => g,
        Err(e) => return wrong(e),
    };
    let got = compile(&graph, backend, &params, Policy::Allow).and_then(|p| p.run(inputs));
    let got = match got {
        Ok(g) => g,
        Err(e) => return Found::Failed(e.to_string()),
    };
    for (i, (got, wanted)) in got.iter().zip(&outputs).enumerate() {
        if got.spec() != wanted.spec() {
            return Found::Failed(format!("output {i} is {}, not {}", got.spec(), wanted.spec()));
        }
        let (rtol, atol) = match wanted.dtype() {
            frit_graph::DType::F16 => (2e-3, 1e-3),
            frit_graph::DType::BF16 => (1.6e-2, 1e-2),
            d if d.is_float() => (1e-3, 1e-5),
            _ => (0.0, 0.0),
        };
        for (j, (g, w)) in got.to_f64().iter().zip(wanted.to_f64()).enumerate() {
            let same =
                *g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= atol + rtol * w.abs();
            if !same {
                return Found::Failed(format!("output {i}[{j}] is {g}, not {w}"));
            }
        }
    }
    Found::Passed
}

#[test]
fn cases_of_a_folder() {
    let Some(root) = std::env::var_os("FRIT_ONNX_CASES") else { return };
    let composed = std::env::var_os("FRIT_COMPOSED").is_some();
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    let cpu = Cpu::on(Pool::new(2));
    let cpu = if composed { cpu.without_fused() } else { cpu };
    let backend: &dyn Backend =
        if std::env::var_os("FRIT_REFERENCE").is_some() { &Reference } else { &cpu };
    let (mut passed, mut unsupported, mut failed) = (0, 0, 0);
    for folder in folders {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let found =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&folder, backend)));
        match found {
            Ok(Found::Passed) => passed += 1,
            Ok(Found::Unsupported(why)) => {
                unsupported += 1;
                println!("UNSUPPORTED {name}: {}", why.split("`: ").nth(1).unwrap_or(&why));
            }
            Ok(Found::Failed(why)) => {
                failed += 1;
                println!("FAILED {name}: {}", why.split(".onnx`: ").nth(1).unwrap_or(&why));
            }
            Err(_) => {
                failed += 1;
                println!("FAILED {name}: PANIC");
            }
        }
    }
    println!("passed {passed}, unsupported {unsupported}, failed {failed}");
}
