//! The official operator tests of ONNX, composed, fused and recognised.
//!
//! `golden/onnx/operators.tar.gz` holds the cases of the operators that are supported, as the
//! package `onnx` makes them; `golden/onnx/operators.md` says which are not, and why. With
//! `FRIT_ONNX_CASES` set to a folder of cases (a folder each, with `model.onnx` and
//! `test_data_set_0/{input,output}_N.pb`), these are judged as well, and the outcome is printed.

use flate2::read::GzDecoder;
use frit_conformance::expect_none;
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, DType, Graph, Op, Policy, Value, compile, recognise};
use frit_load::{LoadError, OnnxModel, onnx::tensor_from_bytes};
use frit_ops::recognisers;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::Path,
};

/// The cases in the archive.
const CASES: usize = 1499;

/// The files of one case by their names.
type Case = BTreeMap<String, Vec<u8>>;

enum Found {
    Passed,
    Unsupported(String),
    Failed(String),
}

impl From<LoadError> for Found {
    fn from(e: LoadError) -> Found {
        match e {
            LoadError::Unsupported { .. } | LoadError::Dtype { .. } => {
                Found::Unsupported(e.to_string())
            }
            other => Found::Failed(other.to_string()),
        }
    }
}

/// Relative and absolute differences that are allowed: those of the standard's own runner, and a few
/// roundings of the narrow floats, which it computes step by step.
fn tolerance(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F16 => (2e-3, 1e-3),
        DType::BF16 => (1.6e-2, 1e-2),
        d if d.is_float() => (1e-3, 1e-5),
        _ => (0.0, 0.0),
    }
}

fn differs(got: &Value, wanted: &Value) -> Option<String> {
    if got.spec() != wanted.spec() {
        return Some(format!("is {}, not {}", got.spec(), wanted.spec()));
    }
    let (rtol, atol) = tolerance(wanted.dtype());
    let same = |g: f64, w: f64| {
        g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= atol + rtol * w.abs()
    };
    let (got, wanted) = (got.to_f64(), wanted.to_f64());
    let at = (0..got.len()).find(|&i| !same(got[i], wanted[i]))?;
    Some(format!("[{at}] is {}, not {}", got[at], wanted[at]))
}

fn judge(name: &str, case: &Case, way: &Way) -> Found {
    judged(name, case, way).unwrap_or_else(Found::from)
}

fn judged(name: &str, case: &Case, way: &Way) -> Result<Found, LoadError> {
    let backend: &dyn Backend = &way.backend;
    let file = |file: String| case.get(&file).cloned().unwrap_or_default();
    let model = OnnxModel::from_bytes(file("model.onnx".into()), name)?;
    let tensors = |kind: &str, count: usize| -> Result<Vec<Value>, LoadError> {
        (0..count).map(|i| Ok(tensor_from_bytes(file(format!("{kind}_{i}.pb")), name)?.1)).collect()
    };
    let inputs = tensors("input", model.inputs().len())?;
    let outputs = tensors("output", model.outputs().len())?;
    let names = model.inputs().iter().map(|p| p.name.clone());
    let (graph, params, _) = model.graph_for(&names.zip(inputs.iter().cloned()).collect())?;
    let graph = match way.recognised {
        true => recognise(&graph, &recognisers()).map(|(g, _)| g),
        false => Ok(graph),
    };
    let program = graph.and_then(|g| compile(&g, backend, &params, Policy::Allow));
    let got = program.and_then(|p| p.run(inputs));
    Ok(match got {
        Err(e) => Found::Failed(e.to_string()),
        Ok(got) => {
            let all = got.iter().zip(&outputs).enumerate();
            match all.filter_map(|(i, (g, w))| Some((i, differs(g, w)?))).next() {
                Some((i, what)) => Found::Failed(format!("output {i} {what}")),
                None => Found::Passed,
            }
        }
    })
}

/// How a case is run.
struct Way {
    name: &'static str,
    backend: Cpu,
    recognised: bool,
}

fn ways() -> [Way; 3] {
    let cpu = Cpu::on(Pool::new(2));
    let composed = cpu.clone().without_fused();
    [
        Way { name: "composed", backend: composed, recognised: false },
        Way { name: "fused", backend: cpu.clone(), recognised: false },
        Way { name: "recognised", backend: cpu, recognised: true },
    ]
}

fn archive() -> BTreeMap<String, Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/onnx/operators.tar.gz");
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).expect("the archive")));
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a name").to_string_lossy().into_owned();
        let (name, file) = path.split_once('/').expect("a file in a folder");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        cases.entry(name.into()).or_default().insert(file.into(), bytes);
    }
    cases
}

#[test]
fn the_official_operator_tests_pass() {
    let cases = archive();
    assert_eq!(cases.len(), CASES);
    let mut complaints = Vec::new();
    for way in ways() {
        for (name, case) in &cases {
            match judge(name, case, &way) {
                Found::Passed => {}
                Found::Unsupported(why) | Found::Failed(why) => {
                    complaints.push(format!("{} {name}: {why}", way.name));
                }
            }
        }
    }
    expect_none(complaints);
}

/// Operators that the standard also gives as functions of simpler ones: the Block that each is, in
/// how many of their tests it is found in the simpler ones, and of how many. Rotations by tables
/// that are inputs are refused.
const EXPANDED: &[(&str, &str, usize, usize)] = &[
    ("test_attention_", "ScaledDotProductAttention", 93, 93),
    ("test_layer_normalization_", "LayerNorm", 38, 38),
    ("test_rms_normalization_", "RmsNorm", 19, 19),
    ("test_rotary_embedding_", "ApplyRope", 8, 8),
    ("test_gelu_", "Gelu", 4, 4),
];

#[test]
fn operators_are_recognised_in_what_the_standard_expands_them_to() {
    let cases = archive();
    let mut complaints = Vec::new();
    for &(prefix, block, wanted, of) in EXPANDED {
        let all = cases.iter().filter(|(n, _)| n.starts_with(prefix) && n.contains("_expanded"));
        let (mut found, mut total) = (0, 0);
        for (name, case) in all {
            let graph = imported(name, case).expect("a graph");
            // Without the mean of a norm or the keys of an attention, which are outputs too.
            let graph = Graph::new(graph.inputs().to_vec(), graph.outputs()[..1].to_vec());
            let graph = graph.expect("a smaller graph");
            let (graph, report) = recognise(&graph, &recognisers()).expect("recognised");
            let is = |op: &Op| matches!(op, Op::Block(b) if format!("{b:?}").starts_with(block));
            let there = graph.nodes().iter().any(|t| is(t.op()));
            found += usize::from(there);
            total += 1;
            if !there {
                println!("{name}:\n{report}");
            }
        }
        if (found, total) != (wanted, of) {
            complaints.push(format!("{prefix}: {found} of {total}, not {wanted} of {of}"));
        }
    }
    expect_none(complaints);
}

fn imported(name: &str, case: &Case) -> Result<Graph, LoadError> {
    let file = |file: String| case.get(&file).cloned().unwrap_or_default();
    let model = OnnxModel::from_bytes(file("model.onnx".into()), name)?;
    let mut inputs = BTreeMap::new();
    for (i, port) in model.inputs().iter().enumerate() {
        inputs.insert(port.name.clone(), tensor_from_bytes(file(format!("input_{i}.pb")), name)?.1);
    }
    Ok(model.graph_for(&inputs)?.0)
}

/// A panic would end the test.
#[test]
fn damaged_models_are_errors_or_other_models() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut imported) = (0, 0);
    for (name, case) in archive() {
        let inputs = (0..).map_while(|i| case.get(&format!("input_{i}.pb")).cloned());
        let inputs: Vec<Value> =
            inputs.map(|b| tensor_from_bytes(b, &name).expect("a tensor").1).collect();
        for _ in 0..4 {
            let mut bytes = case["model.onnx"].clone();
            for _ in 0..1 + next() % 3 {
                let at = (next() % bytes.len() as u64) as usize;
                bytes[at] = [0xff, 0, (next() % 8) as u8, next() as u8][(next() % 4) as usize];
            }
            let graph = OnnxModel::from_bytes(bytes, &name).and_then(|model| {
                let names = model.inputs().iter().map(|p| p.name.clone());
                model.graph_for(&names.zip(inputs.iter().cloned()).collect())
            });
            match graph {
                Ok(_) => imported += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > CASES && imported > 100, "{refused} refused, {imported} imported");
}

fn folder(path: &Path) -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        let data = path.join("test_data_set_0");
        let mut case = Case::new();
        case.insert("model.onnx".into(), fs::read(path.join("model.onnx")).expect("a model"));
        for file in fs::read_dir(data).into_iter().flatten() {
            let file = file.expect("an entry");
            let name = file.file_name().to_string_lossy().into_owned();
            case.insert(name, fs::read(file.path()).expect("a tensor"));
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        cases.insert(name, case);
    }
    cases
}

#[test]
fn cases_of_a_folder_do_not_fail() {
    let Some(path) = std::env::var_os("FRIT_ONNX_CASES") else {
        println!("FRIT_ONNX_CASES names no folder");
        return;
    };
    let cases = folder(Path::new(&path));
    let mut complaints = Vec::new();
    for way in ways() {
        let (mut passed, mut unsupported) = (0, 0);
        for (name, case) in &cases {
            match judge(name, case, &way) {
                Found::Passed => passed += 1,
                Found::Unsupported(why) => {
                    unsupported += 1;
                    println!("unsupported {why}");
                }
                Found::Failed(why) => complaints.push(format!("{} {name}: {why}", way.name)),
            }
        }
        let way = way.name;
        println!("{way}: {passed} passed, {unsupported} unsupported, of {}", cases.len());
    }
    expect_none(complaints);
}
