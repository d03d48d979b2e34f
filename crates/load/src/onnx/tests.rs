//! Files that are written here, field by field: sound ones, broken ones, and hostile ones.

mod packed;

use super::*;
use frit_graph::{Policy, Reference, compile};
use proptest::prelude::*;

/// A message being written.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut n: u64) -> Message {
        while n > 0x7f {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
        self
    }

    fn int(self, field: u64, n: i64) -> Message {
        self.varint(field << 3).varint(n as u64)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Message {
        let mut m = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        m.0.extend(bytes);
        m
    }

    fn text(self, field: u64, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, inner: Message) -> Message {
        self.bytes(field, &inner.0)
    }

    fn when(self, yes: bool, f: impl FnOnce(Message) -> Message) -> Message {
        if yes { f(self) } else { self }
    }
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let m = inputs.iter().fold(Message::default(), |m, i| m.text(1, i));
    outputs.iter().fold(m, |m, o| m.text(2, o)).text(4, operator)
}

fn port(name: &str, code: i64, dims: &[&str]) -> Message {
    let dim = |d: &&str| match d.parse() {
        Ok(n) => Message::default().int(1, n),
        Err(_) => Message::default().text(2, d),
    };
    let shape = dims.iter().fold(Message::default(), |m, d| m.message(1, dim(d)));
    let tensor = Message::default().int(1, code).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

fn floats(name: &str, dims: &[i64], data: &[f32]) -> Message {
    let m = dims.iter().fold(Message::default(), |m, &d| m.int(1, d)).int(2, 1).text(8, name);
    m.bytes(9, &data.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>())
}

fn longs(name: &str, data: &[i64]) -> Message {
    let m = Message::default().int(1, data.len() as i64).int(2, 7).text(8, name);
    m.bytes(9, &data.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>())
}

fn graph(nodes: &[Message], tensors: &[Message], ins: &[Message], outs: &[Message]) -> Message {
    let add = |m: Message, field: u64, all: &[Message]| {
        all.iter().fold(m, |m, one| m.message(field, one.clone()))
    };
    let m = add(add(Message::default(), 1, nodes), 5, tensors);
    add(add(m, 11, ins), 12, outs)
}

fn model(graph: Message) -> Message {
    let opset = Message::default().int(2, 17);
    Message::default().int(1, 8).message(7, graph).message(8, opset)
}

fn open(m: &Message) -> Result<OnnxModel, LoadError> {
    OnnxModel::from_bytes(m.0.clone(), "memory.onnx")
}

fn specs(list: &[(&str, DType, &[usize])]) -> BTreeMap<String, Spec> {
    list.iter().map(|(n, d, s)| (n.to_string(), Spec::new(*d, *s))).collect()
}

/// `y = reshape(x w + b, [shape(x)[0], -1])`, with shapes known only at the call.
fn sample() -> Message {
    let nodes = [
        node("MatMul", &["x", "w"], &["xw"]),
        node("Add", &["xw", "b"], &["sum"]),
        node("Shape", &["x"], &["shape"]),
        node("Gather", &["shape", "zero"], &["rows"]),
        node("Concat", &["rows", "rest"], &["wanted"])
            .message(5, Message::default().text(1, "axis").int(3, 0).int(20, 2)),
        node("Reshape", &["sum", "wanted"], &["y"]),
    ];
    let tensors = [
        floats("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        floats("b", &[2], &[0.5, -0.5]),
        longs("zero", &[0]),
        longs("rest", &[-1]),
    ];
    let (x, y) = (port("x", 1, &["batch", "steps", "3"]), port("y", 1, &["batch", "n"]));
    model(graph(&nodes, &tensors, &[x], &[y]))
}

#[test]
fn shapes_that_are_known_at_the_call_are_known_while_importing() {
    let model = open(&sample()).expect("it opens");
    assert_eq!(model.inputs()[0].to_string(), "x f32[batch, steps, 3]");
    for rows in [1, 2] {
        let spec = specs(&[("x", DType::F32, &[rows, 1, 3])]);
        let (graph, params) = model.graph(&spec).expect("a graph");
        let program = compile(&graph, &Reference, &params, Policy::Allow).expect("compiled");
        let x = Value::new([rows, 1, 3], vec![1.0f32; 3 * rows]).expect("a value");
        let y = program.run(vec![x]).expect("it runs").remove(0);
        // Columns of w add up to 9 and 12.
        assert_eq!(y.shape(), [rows, 2]);
        assert_eq!(y.slice::<f32>().expect("f32")[..2], [9.5, 11.5]);
    }
}

#[test]
fn a_model_that_is_cut_anywhere_is_an_error_or_a_smaller_model() {
    let whole = sample();
    for cut in 0..whole.0.len() {
        let part = Message(whole.0[..cut].to_vec());
        if let Ok(model) = open(&part) {
            // Only the opset is missing, which follows the graph.
            let spec = specs(&[("x", DType::F32, &[1, 1, 3])]);
            assert!(model.graph(&spec).is_err() || cut >= whole.0.len() - 4, "cut at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_bytes_never_panic(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut m = sample();
        for (place, byte) in places {
            let at = place.index(m.0.len());
            m.0[at] = byte;
        }
        if let Ok(model) = open(&m) {
            let known = model.known_specs();
            let mut spec = specs(&[("x", DType::F32, &[2, 2, 3])]);
            spec.extend(known);
            let _ = model.graph(&spec);
        }
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = OnnxModel::from_bytes(bytes.clone(), "memory.onnx");
        let _ = tensor_from_bytes(bytes, "memory.pb");
    }
}

#[test]
fn everything_that_is_unsupported_is_one_error() {
    let nodes = [
        node("Loop", &["x"], &["a"]).text(3, "first"),
        node("Sin", &["a"], &["b"]),
        node("Loop", &["b"], &["c"]).text(3, "second"),
        node("Fold", &["c"], &["y"]).text(7, "some.where"),
        node("Nothing", &["x"], &["unused"]),
    ];
    let m = model(graph(&nodes, &[], &[port("x", 1, &["2"])], &[port("y", 1, &[])]));
    let model = open(&m).expect("it opens");
    let error = model.graph(&model.known_specs()).expect_err("unsupported").to_string();
    let wanted = "`memory.onnx`: unsupported operators: Loop (first, second); some.where.Fold (y)";
    assert_eq!(error, wanted);
}

#[test]
fn unknown_names_and_cycles_are_errors_that_name_the_node() {
    let cycle = [node("Add", &["x", "b"], &["a"]), node("Neg", &["a"], &["b"])];
    let m = model(graph(&cycle, &[], &[port("x", 1, &["2"])], &[port("b", 1, &[])]));
    let model = open(&m).expect("it opens");
    let error = model.graph(&model.known_specs()).expect_err("a cycle").to_string();
    assert!(error.ends_with("node a (Add): nothing before it makes its input `b`"), "{error}");

    let m = super::tests::model(graph(&[], &[], &[], &[port("y", 1, &[])]));
    let model = open(&m).expect("it opens");
    let error = model.graph(&BTreeMap::new()).expect_err("no such output").to_string();
    assert!(error.ends_with("no node makes the output `y`"), "{error}");
}

#[test]
fn tensors_whose_bytes_do_not_fit_are_errors_where_they_are_used() {
    let bad = [
        floats("w", &[1 << 40, 1 << 40], &[1.0]),
        floats("w", &[3], &[1.0]),
        floats("w", &[-1], &[1.0]),
        Message::default().int(1, 1).int(2, 8).text(8, "w").text(6, "text"),
        Message::default().int(1, 2).int(2, 1).text(8, "w"),
        Message::default().int(1, 1).int(2, 99).text(8, "w").bytes(9, &[0; 4]),
    ];
    for tensor in bad {
        let nodes = [node("Neg", &["w"], &["y"])];
        let model = open(&model(graph(&nodes, &[tensor], &[], &[port("y", 1, &[])])));
        let error = model.expect("it opens").graph(&BTreeMap::new()).expect_err("bad");
        assert!(error.to_string().starts_with("`memory.onnx`: tensor `w` "), "{error}");
    }
}

#[test]
fn shape_errors_name_the_node() {
    let nodes = [node("Add", &["x", "w"], &["y"]).text(3, "sum")];
    let w = floats("w", &[3], &[1.0; 3]);
    let m = model(graph(&nodes, &[w], &[port("x", 1, &["2"])], &[port("y", 1, &[])]));
    let model = open(&m).expect("it opens");
    let error = model.graph(&model.known_specs()).expect_err("a shape error").to_string();
    let wanted = "node sum (Add): [add] f32[2] and f32[3] do not broadcast";
    assert!(error.ends_with(wanted), "{error}");
}

#[test]
fn external_data_stays_inside_the_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let inside = folder.path().join("model");
    std::fs::create_dir(&inside).expect("a folder");
    std::fs::write(folder.path().join("secret"), [0u8; 64]).expect("written");
    let data: Vec<u8> = [0.0f32, 7.0, 8.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    std::fs::write(inside.join("weights"), data).expect("written");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("secret"), inside.join("link")).expect("a link");
    let entry = |k: &str, v: &str| Message::default().text(1, k).text(2, v);
    let run = |location: &str, offset: &str, length: &str| -> Result<Vec<f64>, LoadError> {
        let w = Message::default().int(1, 2).int(2, 1).text(8, "w").int(14, 1);
        let w = w.message(13, entry("location", location)).message(13, entry("offset", offset));
        let w = w.when(!length.is_empty(), |m| m.message(13, entry("length", length)));
        let m = model(graph(&[node("Neg", &["w"], &["y"])], &[w], &[], &[port("y", 1, &["2"])]));
        std::fs::write(inside.join("m.onnx"), m.0).expect("written");
        let (graph, params) = OnnxModel::open(inside.join("m.onnx"))?.graph(&BTreeMap::new())?;
        let program = compile(&graph, &Reference, &params, Policy::Allow).expect("compiled");
        Ok(program.run(Vec::new()).expect("it runs")[0].to_f64())
    };
    assert_eq!(run("weights", "4", "8").expect("inside"), [-7.0, -8.0]);
    assert_eq!(run("./weights", "4", "").expect("inside"), [-7.0, -8.0]);
    for (location, offset, length) in [
        ("../secret", "0", "8"),
        ("/etc/hostname", "0", "8"),
        ("link", "0", "8"),
        ("weights", "8", "8"),
        ("weights", "4", "18446744073709551615"),
        ("weights", "99", "8"),
        ("weights", "-4", "8"),
        ("weights", "0", "4"),
        ("absent", "0", "8"),
        ("", "0", "8"),
    ] {
        let error = run(location, offset, length).expect_err(location).to_string();
        assert!(error.contains("tensor `w` "), "{error}");
    }
}

#[test]
fn graphs_nested_without_end_are_refused() {
    let mut inner = graph(&[], &[], &[], &[]);
    for _ in 0..40 {
        let branch = Message::default().text(1, "then_branch").message(6, inner);
        inner = graph(&[node("If", &["c"], &["y"]).message(5, branch)], &[], &[], &[]);
    }
    let error = open(&model(inner)).expect_err("too deep").to_string();
    assert!(error.contains("nested more than"), "{error}");
}

fn function(name: &str, nodes: &[Message]) -> Message {
    let m = Message::default().text(1, name).text(4, "a").text(5, "r").text(10, "own");
    let m = nodes.iter().fold(m, |m, n| m.message(7, n.clone()));
    m.message(9, Message::default().int(2, 17))
}

#[test]
fn functions_of_the_file_are_expanded_and_endless_ones_refused() {
    let call = |name: &str, from: &str, to: &str| node(name, &[from], &[to]).text(7, "own");
    let outer =
        || graph(&[call("F", "x", "y")], &[], &[port("x", 1, &["2"])], &[port("y", 1, &[])]);
    let twice = function("F", &[node("Add", &["a", "a"], &["b"]), call("G", "b", "r")]);
    let negate = function("G", &[node("Neg", &["a"], &["r"])]);
    let m = model(outer()).message(25, twice).message(25, negate);
    let model = open(&m).expect("it opens");
    let (graph, params) = model.graph(&model.known_specs()).expect("a graph");
    let program = compile(&graph, &Reference, &params, Policy::Allow).expect("compiled");
    let x = Value::new([2], vec![1.0f32, 3.0]).expect("a value");
    assert_eq!(program.run(vec![x]).expect("it runs")[0].to_f64(), [-2.0, -6.0]);

    let itself = function("F", &[call("F", "a", "b"), call("F", "b", "r")]);
    let endless = open(&super::tests::model(outer()).message(25, itself)).expect("it opens");
    let error = endless.graph(&endless.known_specs()).expect_err("endless").to_string();
    assert!(error.contains("nested more than"), "{error}");
}
