//! `frit run`, on a file of one node that is written here.

use crate::common::{floats, json, run, status, stderr, stdout, temp, write};

/// `z = x + y` of `[n, 2]`, opset 17, as bytes.
fn add() -> Vec<u8> {
    let field = |number: u8, inner: &[u8]| [&[number << 3 | 2, inner.len() as u8], inner].concat();
    let port = |name: &[u8]| {
        let dims = [field(1, &field(2, b"n")), field(1, &[1 << 3, 2])].concat();
        let tensor = [vec![1 << 3, 1], field(2, &dims)].concat();
        [field(1, name), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(1, b"y"), field(2, b"z"), field(4, b"Add")].concat();
    let graph =
        [field(1, &node), field(11, &port(b"x")), field(11, &port(b"y")), field(12, &port(b"z"))];
    [field(7, &graph.concat()), field(8, &[2 << 3, 17])].concat()
}

#[test]
fn without_inputs_it_lists_what_the_model_wants() {
    let home = temp();
    std::fs::write(home.path().join("add.onnx"), add()).expect("written");
    let listed = run(home.path(), &["run", "add.onnx"]);
    assert_eq!(status(&listed), 0, "{}", stderr(&listed));
    assert_eq!(stdout(&listed), "input  x f32[n, 2]\ninput  y f32[n, 2]\noutput z f32[n, 2]\n");
    let listed = json(&run(home.path(), &["run", "add.onnx", "--json"]));
    assert_eq!(listed["inputs"][1]["name"], "y");
    assert_eq!(listed["inputs"][1]["shape"], serde_json::json!(["n", "2"]));
}

#[test]
fn outputs_go_to_archives_that_are_inputs_again() {
    let home = temp();
    std::fs::write(home.path().join("add.onnx"), add()).expect("written");
    let (x, y) = (floats(&[1, 2], &[1.0, 2.0]), floats(&[1, 2], &[10.0, 20.0]));
    write(&home.path().join("in.safetensors"), &[("x", &x), ("y", &y)], &[]);
    let first =
        run(home.path(), &["run", "add.onnx", "--input", "in.safetensors", "--out", "z.npz"]);
    assert_eq!(status(&first), 0, "{}", stderr(&first));
    let arrays = frit_cli::npy::read_npz(&home.path().join("z.npz")).expect("an archive");
    assert_eq!(arrays, [("z".to_string(), floats(&[1, 2], &[11.0, 22.0]))]);

    frit_cli::npy::write_npz(&home.path().join("y.npz"), &[("y", &arrays[0].1)]).expect("written");
    let again = run(
        home.path(),
        &[
            "run",
            "add.onnx",
            "--input",
            "x=in.safetensors",
            "--input",
            "y.npz",
            "--json",
            "--composed",
        ],
    );
    let said = json(&again);
    assert_eq!(said["outputs"][0]["most"], 24.0, "{said}");
    assert_eq!(said["outputs"][0]["shape"], serde_json::json!([1, 2]));
}

#[test]
fn several_runs_give_what_one_gives_and_say_how_many_they_were() {
    let home = temp();
    std::fs::write(home.path().join("add.onnx"), add()).expect("written");
    let (x, y) = (floats(&[1, 2], &[1.0, 2.0]), floats(&[1, 2], &[10.0, 20.0]));
    write(&home.path().join("in.safetensors"), &[("x", &x), ("y", &y)], &[]);
    let times = |n: &str| {
        run(home.path(), &["run", "add.onnx", "--input", "in.safetensors", "--runs", n, "--json"])
    };
    let said = json(&times("3"));
    assert_eq!((&said["runs"], &said["outputs"][0]["most"]), (&3.into(), &22.0.into()), "{said}");
    assert_eq!(status(&times("0")), 2);
}

#[test]
fn inputs_that_are_missing_or_misshapen_are_named() {
    let home = temp();
    std::fs::write(home.path().join("add.onnx"), add()).expect("written");
    let x = floats(&[1, 2], &[1.0, 2.0]);
    write(&home.path().join("x.safetensors"), &[("x", &x)], &[]);
    let missing = run(home.path(), &["run", "add.onnx", "--input", "x.safetensors"]);
    assert_eq!(status(&missing), 1);
    assert!(stderr(&missing).contains("missing inputs: `y f32[n, 2]`"), "{}", stderr(&missing));
    let y = floats(&[2, 2], &[1.0; 4]);
    write(&home.path().join("y.safetensors"), &[("y", &y)], &[]);
    let wrong = ["run", "add.onnx", "--input", "x.safetensors", "--input", "y.safetensors"];
    let said = stderr(&run(home.path(), &wrong));
    assert!(said.contains("input `y f32[n, 2]` got f32[2, 2]: `n` is 2, but 1 in `x`"), "{said}");
    let unknown = run(home.path(), &["run", "add.onnx", "--input", "w=x.safetensors"]);
    assert!(stderr(&unknown).contains("no array is called `w`"), "{}", stderr(&unknown));
}

#[test]
fn random_inputs_are_the_same_for_the_same_seed() {
    let home = temp();
    std::fs::write(home.path().join("add.onnx"), add()).expect("written");
    let mean = |seed: &str| {
        let said = json(&run(home.path(), &["run", "add.onnx", "--random", seed, "--json"]));
        said["outputs"][0]["mean"].as_f64().expect("a number")
    };
    assert_eq!(mean("1"), mean("1"));
    assert_ne!(mean("1"), mean("2"));
}
