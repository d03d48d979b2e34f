//! What the tests of the command share: running it, and making small files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use frit::graph::Value;

/// The command, with a cache folder that is empty and package clients that cannot be found, so
/// that no test reaches for a network.
pub(crate) fn frit(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frit"));
    command.env("FRIT_HOME", home).env("PATH", home).env_remove("FRIT_THREADS");
    command
}

/// A folder that is removed at the end.
pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("make a temporary folder")
}

/// Runs the command in `home`.
pub(crate) fn run(home: &Path, arguments: &[&str]) -> Output {
    frit(home).current_dir(home).args(arguments).output().expect("run frit")
}

/// The exit status.
pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().expect("an exit status")
}

/// The standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text on the standard output")
}

/// The standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text on the standard error")
}

/// The standard output as JSON.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("nothing but JSON on the standard output")
}

/// A value of f32.
pub(crate) fn floats(shape: &[usize], data: &[f32]) -> Value {
    Value::new(shape, data.to_vec()).expect("as many numbers as the shape says")
}

/// Writes a safetensors file with metadata.
pub(crate) fn write(path: &Path, tensors: &[(&str, &Value)], metadata: &[(&str, &str)]) {
    let folder = path.parent().expect("a folder");
    std::fs::create_dir_all(folder).expect("make a folder");
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    frit::load::write(path, tensors, &metadata).expect("write a safetensors file");
}

/// Writes a case that doubles `[1, 2, 3, 4]`: an einsum with 2.
pub(crate) fn doubling(path: PathBuf, expected: &[f32], metadata: &[(&str, &str)]) {
    let x = floats(&[4], &[1.0, 2.0, 3.0, 4.0]);
    let (two, expected) = (floats(&[], &[2.0]), floats(&[expected.len()], expected));
    let tensors = [("operand0", &x), ("operand1", &two), ("expected", &expected)];
    let usual = [("op", "einsum"), ("options", r#"{"equation": "i,->i"}"#), ("why", "doubling")];
    let bounds = [("rtol", "1e-6"), ("atol", "0")];
    // The last of equal keys wins.
    let metadata: Vec<(&str, &str)> =
        usual.into_iter().chain(bounds).chain(metadata.iter().copied()).collect();
    write(&path, &tensors, &metadata);
}

/// The path of golden numbers of the project.
pub(crate) fn golden(name: &str) -> String {
    format!("{}/../../conformance/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Writes the model of an operator test of ONNX as `model.onnx` into a folder.
pub(crate) fn operator(folder: &Path, name: &str) {
    let file = std::fs::File::open(golden("onnx/operators.tar.gz")).expect("the archive");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        if entry.path().expect("a name").as_ref() == Path::new(name).join("model.onnx") {
            entry.unpack(folder.join("model.onnx")).expect("written");
            return;
        }
    }
    panic!("no operator test is called {name}");
}
