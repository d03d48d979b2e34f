//! Weights of narrow integers, held against their formula in float64.

use super::*;
use frit_graph::recognise;
use frit_ops::{Encoding, QuantizedMatmul, recognisers};

fn raw(name: &str, code: i64, dims: &[usize], bytes: &[u8]) -> Message {
    let m = dims.iter().fold(Message::default(), |m, &d| m.int(1, d as i64));
    m.int(2, code).text(8, name).bytes(9, bytes)
}

fn f32s(name: &str, dims: &[usize], data: &[f32]) -> Message {
    let bytes: Vec<u8> = data.iter().flat_map(|f| f.to_le_bytes()).collect();
    raw(name, 1, dims, &bytes)
}

fn attribute(name: &str, n: i64) -> Message {
    Message::default().text(1, name).int(3, n).int(20, 2)
}

/// Fields of `bits` bits from the low ones on; each row of `width` fields ends with a byte.
fn pack(bits: usize, width: usize, fields: &[u8]) -> Vec<u8> {
    let byte = |part: &[u8]| part.iter().rev().fold(0u8, |byte, f| byte << (bits % 8) | f);
    fields.chunks(width).flat_map(|row| row.chunks(8 / bits).map(byte)).collect()
}

/// The numbers of `y` of a model of `x`, and the encodings of packed products in its graph.
fn run(m: &Message, x: &Value, found: bool) -> (Vec<f64>, Vec<Encoding>, Params) {
    let model = open(m).expect("it opens");
    let specs = BTreeMap::from([("x".to_string(), x.spec().clone())]);
    let (mut graph, params) = model.graph(&specs).expect("a graph");
    if found {
        graph = recognise(&graph, &recognisers()).expect("recognised").0;
    }
    let program = compile(&graph, &Reference, &params, Policy::Allow).expect("compiled");
    let y = program.run(vec![x.clone()]).expect("it runs").remove(0);
    let nodes = graph.nodes();
    let encodings = nodes.iter().filter_map(|t| t.block::<QuantizedMatmul>());
    (y.to_f64(), encodings.map(|b| b.encoding).collect(), params)
}

fn activations(shape: &[usize]) -> Value {
    let numel: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..numel).map(|i| ((i * 37) % 23) as f32 / 23.0 - 0.4).collect();
    Value::new(shape, numbers).expect("activations")
}

fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 2e-5 * (1.0 + w.abs()), "{what}: {g}, not {w}");
    }
}

/// `y = x W^T` in float64.
fn product(x: &Value, n: usize, k: usize, w: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let x = x.to_f64();
    let dot =
        |row: &[f64], j: usize| -> f64 { row.iter().zip(0..).map(|(x, i)| x * w(j, i)).sum() };
    x.chunks(k).flat_map(|row| (0..n).map(|j| dot(row, j)).collect::<Vec<_>>()).collect()
}

#[derive(Clone, Copy, Debug)]
enum Zeros {
    Absent,
    Packed,
    Floats,
}

fn n_bits(bits: usize, n: usize, k: usize, block: usize, zeros: Zeros, biased: bool) {
    let what = format!("{bits} bits, [{n}, {k}] in blocks of {block}, zeros {zeros:?}");
    let count = k.div_ceil(block);
    // Fields behind the last column are no zeros.
    let field = |j: usize, i: usize| ((j * 11 + i * i * 3 + i * 7) % (1 << bits)) as u8;
    let scale = |j: usize, b: usize| 0.01 + 0.003 * ((j * 5 + b * 3) % 7) as f32;
    let zero = |j: usize, b: usize| match zeros {
        Zeros::Absent => (1 << (bits - 1)) as f32,
        Zeros::Packed => ((j * 3 + b) % (1 << bits)) as f32,
        Zeros::Floats => (j + b) as f32 * 0.75,
    };
    let by = |width: usize| (0..n).flat_map(move |j| (0..width).map(move |i| (j, i)));
    let bytes: Vec<u8> = by(count * block).map(|(j, i)| field(j, i)).collect();
    let bytes = pack(bits, count * block, &bytes);
    let scales: Vec<f32> = by(count).map(|(j, b)| scale(j, b)).collect();
    let numbers: Vec<f32> = by(count).map(|(j, b)| zero(j, b)).collect();
    let bias: Vec<f32> = (0..n).map(|j| if biased { j as f32 * 0.5 } else { 0.0 }).collect();

    let mut tensors = vec![
        raw("w", 2, &[n, count, block * bits / 8], &bytes),
        // Both kinds of extents are met in files.
        f32s("s", &if biased { vec![n * count] } else { vec![n, count] }, &scales),
    ];
    let mut inputs = vec!["x", "w", "s"];
    match zeros {
        Zeros::Absent => inputs.push(""),
        Zeros::Packed => {
            let fields: Vec<u8> = numbers.iter().map(|&z| z as u8).collect();
            let packed = pack(bits, count, &fields);
            tensors.push(raw("z", 2, &[n, packed.len() / n], &packed));
            inputs.push("z");
        }
        Zeros::Floats => {
            tensors.push(f32s("z", &[n, count], &numbers));
            inputs.push("z");
        }
    }
    if biased {
        tensors.push(f32s("b", &[n], &bias));
        inputs.extend(["", "b"]);
    }
    let all = [("N", n), ("K", k), ("bits", bits), ("block_size", block)];
    let node = all.iter().fold(node("MatMulNBits", &inputs, &["y"]), |m, (name, value)| {
        m.message(5, attribute(name, *value as i64))
    });
    let node = node.text(7, "com.microsoft");
    let (x, y) = (port("x", 1, &["b", "t", "k"]), port("y", 1, &["b", "t", "n"]));
    let m = model(graph(&[node], &tensors, &[x], &[y]));
    for shape in [[1, 1, k], [2, 3, k]] {
        let x = activations(&shape);
        let (got, encodings, _) = run(&m, &x, false);
        let weight = |j: usize, i: usize| {
            let b = i / block;
            (f64::from(field(j, i)) - f64::from(zero(j, b))) * f64::from(scale(j, b))
        };
        let mut want = product(&x, n, k, weight);
        want.iter_mut().zip((0..n).cycle()).for_each(|(y, j)| *y += f64::from(bias[j]));
        close(&what, &got, &want);
        let packed = block.is_multiple_of(32);
        let group_size = block.min(128);
        let wanted = packed.then_some(Encoding::Affine { bits, group_size });
        assert_eq!(encodings, Vec::from_iter(wanted), "{what}");
    }
}

#[test]
fn products_with_n_bits_are_those_of_their_numbers() {
    for zeros in [Zeros::Absent, Zeros::Packed, Zeros::Floats] {
        n_bits(4, 6, 128, 32, zeros, false);
        n_bits(8, 5, 128, 64, zeros, false);
        n_bits(2, 5, 96, 32, zeros, false);
        // Three blocks: the zero points of a row end within a byte.
        n_bits(4, 5, 96, 32, zeros, true);
        n_bits(4, 3, 512, 256, zeros, true);
        // Blocks that the packed product does not have.
        n_bits(4, 5, 48, 16, zeros, true);
        // The last block ends behind k.
        n_bits(4, 5, 83, 32, zeros, false);
        n_bits(8, 4, 33, 16, zeros, true);
        n_bits(4, 2, 1, 128, zeros, false);
    }
}

#[test]
fn products_with_n_bits_that_do_not_exist_are_errors() {
    let open = |n: i64, k: i64, block: i64, bits: i64, inputs: &[&str]| {
        let tensors = [
            raw("w", 2, &[2, 1, 16], &[7; 32]),
            f32s("s", &[2], &[1.0; 2]),
            raw("z", 2, &[2, 1], &[8; 2]),
            raw("g", 6, &[32], &[0; 128]),
        ];
        let all = [("N", n), ("K", k), ("bits", bits), ("block_size", block)];
        let node = all.iter().fold(node("MatMulNBits", inputs, &["y"]), |m, (name, value)| {
            m.message(5, attribute(name, *value))
        });
        let (x, y) = (port("x", 1, &["t", "32"]), port("y", 1, &["t", "n"]));
        let m = model(graph(&[node.text(7, "com.microsoft")], &tensors, &[x], &[y]));
        let model = open(&m).expect("it opens");
        let specs = specs(&[("x", DType::F32, &[1, 32])]);
        model.graph(&specs).map(|_| ()).map_err(|e| e.to_string())
    };
    let sound: &[&str] = &["x", "w", "s", "z"];
    assert_eq!(open(2, 32, 32, 4, sound), Ok(()));
    type Bad<'a> = (i64, i64, i64, i64, &'a [&'a str], &'a str);
    let cases: [Bad<'_>; 9] = [
        (3, 32, 32, 4, sound, "are not those of 3 rows"),
        (2, 31, 32, 4, sound, "rows of 31"),
        (2, 32, 0, 4, sound, "does not exist"),
        (2, 32, 31, 4, sound, "does not exist"),
        (2, 32, 32, 3, sound, "weights of 3 bits"),
        (2, 32, 32, 8, sound, "are not those of"),
        (2, 32, i64::MAX - 1, 4, sound, "are not those of"),
        (-2, 32, 32, 4, sound, "-2 is no size"),
        (2, 32, 32, 4, &["x", "w", "s", "", "g"], "g_idx"),
    ];
    for (n, k, block, bits, inputs, why) in cases {
        let said = open(n, k, block, bits, inputs).expect_err(why);
        assert!(said.contains(why), "{said:?} does not say {why:?}");
    }
}

/// A weight `[k, n]` of an element type with its code, and DequantizeLinear along an axis before a
/// product.
fn dequantised(code: i64, bits: usize, signed: bool, block: usize, want: (usize, usize)) {
    let (k, n) = (128usize, 16usize);
    let least = if signed { -(1i64 << (bits - 1)) } else { 0 };
    let groups = k.checked_div(block).unwrap_or(1);
    let group = |i: usize| i.checked_div(block).unwrap_or(0);
    let integer = |i: usize, j: usize| least + ((i * i * 5 + i + j * 13) % (1 << bits)) as i64;
    let zero = |g: usize, j: usize| least + (1 << (bits - 1)) + ((g + j) % 3) as i64 - 1;
    let scale = |g: usize, j: usize| 0.004 + 0.001 * ((g * 3 + j) % 5) as f32;
    let fields = |width: usize, f: &dyn Fn(usize, usize) -> i64| -> Vec<u8> {
        let all = (0..width).flat_map(|i| (0..n).map(move |j| (i, j)));
        let fields = all.map(|(i, j)| (f(i, j) as u8) & (255 >> (8 - bits)));
        pack(bits, usize::MAX, &fields.collect::<Vec<_>>())
    };
    let beside: Vec<usize> = if block == 0 { vec![n] } else { vec![groups, n] };
    let scales: Vec<f32> =
        (0..groups).flat_map(|g| (0..n).map(move |j| (g, j))).map(|(g, j)| scale(g, j)).collect();
    let tensors = [
        raw("w", code, &[k, n], &fields(k, &integer)),
        f32s("s", &beside, &scales),
        raw("z", code, &beside, &fields(groups, &zero)),
    ];
    let unpack = node("DequantizeLinear", &["w", "s", "z"], &["d"])
        .message(5, attribute("axis", if block == 0 { 1 } else { 0 }))
        .when(block > 0, |m| m.message(5, attribute("block_size", block as i64)));
    let nodes = [unpack, node("MatMul", &["x", "d"], &["y"])];
    let (x, y) = (port("x", 1, &["b", "t", "128"]), port("y", 1, &["b", "t", "n"]));
    let m = model(graph(&nodes, &tensors, &[x], &[y]));
    let x = activations(&[2, 3, k]);
    let want_numbers = product(&x, n, k, |j, i| {
        let g = group(i);
        (integer(i, j) - zero(g, j)) as f64 * f64::from(scale(g, j))
    });
    for found in [false, true] {
        let what = format!("code {code}, blocks of {block}, recognised {found}");
        let (got, encodings, params) = run(&m, &x, found);
        close(&what, &got, &want_numbers);
        let (bits_wanted, group_size) = want;
        let wanted = found.then_some(Encoding::Affine { bits: bits_wanted, group_size });
        assert_eq!(encodings, Vec::from_iter(wanted), "{what}");
        // Kept in as many bytes as in the file.
        assert_eq!(params.get("w").map(|v| v.spec().bytes()), Some(k * n * bits / 8), "{what}");
    }
}

#[test]
fn narrow_weights_stay_narrow_and_are_recognised() {
    let (u8, i8, u4, i4, u2, i2) = (2, 3, 21, 22, 25, 26);
    dequantised(u8, 8, false, 0, (8, 128));
    dequantised(i8, 8, true, 0, (8, 128));
    dequantised(i8, 8, true, 64, (8, 64));
    dequantised(u4, 4, false, 32, (4, 32));
    dequantised(i4, 4, true, 64, (4, 64));
    dequantised(i4, 4, true, 0, (4, 128));
    dequantised(u2, 2, false, 32, (2, 32));
    dequantised(i2, 2, true, 128, (2, 128));
}
