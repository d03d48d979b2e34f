use super::*;
use frit_graph::DType;
use frit_ops::Encoding;
use half::f16;
use proptest::prelude::*;
use std::sync::Arc;

const PATH: &str = "some/model.gguf";
/// Written by the `gguf` package: tests/data/make.py.
const SMALL: &[u8] = include_bytes!("../../tests/data/small.gguf");
/// Where its data begin, about.
const HEAD: usize = 6590;

fn parsed(bytes: Vec<u8>) -> Result<Checkpoint, LoadError> {
    let shared: Shared = Arc::new(bytes);
    load(&shared, Path::new(PATH))
}

fn small() -> Checkpoint {
    parsed(SMALL.to_vec()).expect("the file of the reference implementation")
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

/// A tensor's name, extents (innermost first), type and offset.
fn tensor(name: &str, extents: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((extents.len() as u32).to_le_bytes());
    out.extend(extents.iter().flat_map(|n| n.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// A file of version 3 with `data` bytes of data.
fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    out.extend(pairs.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

#[track_caller]
fn refused(bytes: Vec<u8>, says: &str) {
    let error = parsed(bytes).expect_err(says).to_string();
    assert!(error.starts_with(&format!("`{PATH}`: ")) && error.contains(says), "{says}: {error}");
}

#[test]
fn the_metadata_of_the_reference_implementation_is_read() {
    let c = small();
    assert_eq!((c.format, c.path.as_path()), (Format::Gguf, Path::new(PATH)));
    let want = serde_json::json!({
        "general.architecture": "llama", "general.alignment": 64, "general.name": "small",
        "llama.block_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "kinds.u8": 200, "kinds.i8": -100, "kinds.u16": 60000, "kinds.i16": -30000,
        "kinds.u32": 4_000_000_000u32, "kinds.i32": -2_000_000_000, "kinds.u64": u64::MAX,
        "kinds.i64": i64::MIN, "kinds.f32": 0.1, "kinds.f64": 0.1, "kinds.bool": true,
        "kinds.text": "naïve", "kinds.numbers": [1, 2, 3], "kinds.texts": ["a", "", "ß"],
        "kinds.nested": [[1, 2], [3]],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": u32::MAX, "tokenizer.ggml.add_bos_token": false,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    });
    assert_eq!(c.config, want);
    assert_eq!(c.metadata["general.name"], "small");
    assert_eq!(c.metadata["kinds.long"], "1025 x i32");
    assert_eq!(c.metadata["tokenizer.ggml.tokens"], "4 x text");
    let vocabulary = c.vocabulary.expect("a tokenizer");
    let want = Vocabulary {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        tokens: ["<|end|>", "a", "b", "ab"].map(String::from).into(),
        types: vec![3, 1, 1, 1],
        merges: vec!["a b".into()],
        bos: Some(0),
        eos: Some(0),
        add_bos: Some(false),
        chat_template: Some("{{ messages[0].content }}".into()),
        ..Vocabulary::default()
    };
    assert_eq!(vocabulary, want);
}

#[test]
fn plain_tensors_of_the_reference_implementation_are_read() {
    let c = small();
    let x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5];
    for (name, dtype) in
        [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16), ("f64", DType::F64)]
    {
        let value = c.tensor(name).expect(name);
        assert_eq!((value.dtype(), value.shape()), (dtype, &[2, 3][..]), "{name}");
        assert_eq!(value.to_f64(), x, "{name}");
    }
    assert_eq!(c.tensor("i32").expect("i32").to_i64(), [-1, i64::from(i32::MAX)]);
    assert_eq!(c.tensor("i64").expect("i64").to_i64(), [i64::MIN]);
    assert_eq!(c.unsupported, [("i8".to_string(), "I8".to_string())].into());
    let error = c.tensor("i8").expect_err("unsupported").to_string();
    assert!(error.contains("stored as I8") && error.contains("Q4_K"), "{error}");
}

/// The numbers of a row in blocks of 32, as [`Encoding`] describes them.
fn unpacked(encoding: Encoding, row: &[u8]) -> Vec<f64> {
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f64();
    let block = |block: &[u8]| -> Vec<f64> {
        let d = half(block);
        let nibble = |bytes: &[u8], i: usize| match i {
            0..16 => i32::from(bytes[i] & 15),
            _ => i32::from(bytes[i - 16] >> 4),
        };
        let high = |bits: &[u8], i: usize| i32::from(bits[i / 8] >> (i % 8) & 1) << 4;
        let one = |i: usize| match encoding {
            Encoding::Q4_0 => d * f64::from(nibble(&block[2..], i) - 8),
            Encoding::Q4_1 => d * f64::from(nibble(&block[4..], i)) + half(&block[2..]),
            Encoding::Q5_0 => d * f64::from((nibble(&block[6..], i) | high(&block[2..], i)) - 16),
            Encoding::Q5_1 => {
                let q = nibble(&block[8..], i) | high(&block[4..], i);
                d * f64::from(q) + half(&block[2..])
            }
            _ => d * f64::from(block[2 + i] as i8),
        };
        (0..32).map(one).collect()
    };
    row.chunks_exact(encoding.block_bytes()).flat_map(block).collect()
}

#[test]
fn packed_tensors_are_the_bytes_that_the_reference_implementation_unpacks() {
    let c = small();
    let shared: Shared = Arc::new(SMALL.to_vec());
    for &encoding in Encoding::GGML {
        let (name, k) = (encoding.to_string(), 2 * encoding.block_len());
        let weight = format!("{name}.weight");
        let value = c.tensor(&weight).expect("packed");
        let expected = c.tensor(&format!("{name}.expected")).expect("expected");
        assert_eq!(c.packed[&weight], encoding);
        assert_eq!(expected.shape()[1], k);
        let row = encoding.row_bytes(k).expect("whole blocks");
        assert_eq!((value.dtype(), value.shape()), (DType::U8, &[expected.shape()[0], row][..]));
        if encoding.block_len() == 32 {
            let got: Vec<f32> =
                unpacked(encoding, value.bytes()).into_iter().map(|x| x as f32).collect();
            for (got, want) in got.iter().zip(expected.to_f32()) {
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1e-3), "{name}: {got} {want}");
            }
        }
    }
    let experts = c.tensor("experts").expect("experts");
    assert_eq!((experts.shape(), c.packed["experts"]), (&[2, 2, 34][..], Encoding::Q8_0));
    assert_eq!(c.tensor("row").expect("row").bytes(), &experts.bytes()[..34]);
    assert_eq!(c.tensor("row").expect("row").shape(), [34]);
    assert_eq!(c.packed.len(), 10);
    // What is in the file stays there.
    let whole = (*shared).as_ref().as_ptr_range();
    let c = load(&shared, Path::new(PATH)).expect("read");
    assert!(c.params.iter().all(|(_, v)| whole.contains(&v.bytes().as_ptr())));
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_it() {
    for n in 0..SMALL.len() - 64 {
        let error = parsed(SMALL[..n].to_vec()).expect_err("cut").to_string();
        assert!(error.contains(PATH), "cut at {n}: {error}");
    }
}

#[test]
fn a_head_that_does_not_hold_is_an_error() {
    let head = |magic: &[u8], version: u32| {
        [magic, &version.to_le_bytes(), &0u64.to_le_bytes(), &0u64.to_le_bytes()].concat()
    };
    for version in [2, 3] {
        assert!(parsed(head(b"GGUF", version)).expect("empty").params.is_empty());
    }
    refused(head(b"GGML", 3), "no GGUF file");
    refused(head(b"GGUF", 1), "version 1; 2 and 3");
    refused(head(b"GGUF", 4), "version 4; 2 and 3");
    refused(head(b"GGUF", 3u32.swap_bytes()), "big-endian");
    let mut endless = head(b"GGUF", 3);
    endless[8..16].fill(0xff);
    refused(endless.clone(), "the name of tensor 0 needs 8 bytes at 24, but 0 are left");
    endless[16..24].fill(0xff);
    refused(endless, "the key of metadata 0 needs 8 bytes");
}

#[test]
fn metadata_that_does_not_hold_is_an_error_that_names_the_key() {
    let huge = u64::MAX.to_le_bytes();
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let nested = |depth: usize| [array(9, 1).repeat(depth), array(0, 0)].concat();
    let listed = |texts: &[&str]| {
        [array(8, texts.len() as u64), texts.iter().flat_map(|t| text(t)).collect()].concat()
    };
    let tokens = pair("tokenizer.ggml.tokens", 9, &listed(&["a", "b"]));
    let model = pair("tokenizer.ggml.model", 8, &text("llama"));
    let scores = |kind: u32, len: u64| {
        let value = [array(kind, len), vec![0; 4 * len as usize]].concat();
        pair("tokenizer.ggml.scores", 9, &value)
    };
    for (pairs, says) in [
        (vec![pair("a", 0, &[1]), pair("a", 0, &[2])], "metadata `a` twice"),
        (vec![pair("a", 13, &[])], "metadata `a` has the unknown type 13"),
        (vec![pair("a", 7, &[2])], "metadata `a` is the boolean 2"),
        (vec![pair("a", 8, &huge)], "metadata `a` needs 18446744073709551615 bytes"),
        (vec![pair("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])], "metadata `a` is no UTF-8"),
        (vec![pair("a", 9, &array(0, u64::MAX))], "metadata `a` needs"),
        (vec![pair("a", 9, &array(10, u64::MAX / 4))], "metadata `a` has 4611686018427387903"),
        (vec![pair("a", 9, &array(8, u64::MAX))], "metadata `a`, value "),
        (vec![pair("a", 9, &array(9, u64::MAX))], "metadata `a`, value "),
        (vec![pair("a", 9, &array(77, 0))], "metadata `a` has the unknown type 77"),
        (vec![pair("a", 9, &nested(8))], "nests more than 8 arrays"),
        (vec![pair("a", 9, &nested(100_000))], "nests more than 8 arrays"),
        (vec![pair("general.alignment", 4, &[0; 4])], "`general.alignment` is no power"),
        (vec![pair("general.alignment", 4, &[48, 0, 0, 0])], "`general.alignment` is no power"),
        (vec![pair("general.alignment", 8, &text("32"))], "`general.alignment` is no power"),
        (vec![pair("split.count", 2, &[3, 0])], "one of 3 parts"),
        (vec![model.clone(), pair("tokenizer.ggml.tokens", 4, &[0; 4])], "is not an array"),
        (
            vec![model.clone(), pair("tokenizer.ggml.tokens", 9, &array(0, 0)), scores(6, 1)],
            "1 values",
        ),
        (vec![model.clone(), tokens.clone(), scores(6, 3)], "scores` has 3 values for 2 tokens"),
        (vec![model.clone(), tokens.clone(), scores(5, 2)], "scores` is an array of 2 x i32"),
        (vec![tokens.clone(), pair("tokenizer.ggml.model", 4, &[0; 4])], "model` is not a text"),
        (
            vec![model.clone(), tokens.clone(), pair("tokenizer.ggml.add_bos_token", 0, &[1])],
            "add_bos_token` is not true or false",
        ),
    ] {
        refused(file(&pairs, &[], 64), says);
    }
    assert!(parsed(file(&[pair("a", 9, &nested(7))], &[], 0)).is_ok());
    let plain = parsed(file(&[model, tokens, scores(6, 2)], &[], 0)).expect("read");
    let vocabulary = plain.vocabulary.expect("a tokenizer");
    assert_eq!((vocabulary.tokens.len(), vocabulary.scores), (2, vec![0.0, 0.0]));
}

#[test]
fn metadata_that_would_fill_memory_is_an_error() {
    // A byte in the file is 32 in memory: arrays just short enough to be configuration.
    let array = [&0u32.to_le_bytes()[..], &1000u64.to_le_bytes(), &[7; 1000]].concat();
    let pairs: Vec<_> = (0..1100).map(|i| pair(&format!("k{i}"), 9, &array)).collect();
    refused(file(&pairs, &[], 0), "more than 1048576 values");
}

#[test]
fn tensors_that_do_not_hold_are_errors_that_name_them() {
    let f32s = |name: &str, n: u64, offset: u64| tensor(name, &[n], 0, offset);
    let cases: &[(&[Vec<u8>], &str)] = &[
        (&[f32s("t", 4, 0), f32s("t", 4, 32)], "tensor `t` stands there twice"),
        (&[f32s("t", 4, 8)], "tensor `t` is at byte 8, no multiple of 32"),
        (&[f32s("t", 4, 64)], "tensor `t` of 16 bytes at 64 is beyond the 64 of data"),
        (&[f32s("t", 17, 0)], "`t` of 68 bytes at 0 is beyond the 64 of data"),
        (&[f32s("t", 4, u64::MAX - 31)], "`t` of 16 bytes at 18446744073709551584 is beyond"),
        (&[f32s("u", 9, 0), f32s("t", 4, 32)], "tensor `t` overlaps `u`"),
        (&[f32s("t", 8, 0), f32s("u", 8, 0)], "overlaps"),
        (&[tensor("t", &[1 << 40, 1 << 40], 0, 0)], "`t` of F32 [1099511627776, 1099511627776]"),
        (&[tensor("t", &[1 << 62], 0, 0)], "is too large"),
        (&[tensor("t", &[u64::MAX, 2, 0], 0, 0)], "is too large"),
        (&[tensor("t", &[0, 1 << 40, 1 << 40], 0, 0)], "is too large"),
        (&[tensor("t", &[1; 5], 0, 0)], "tensor `t` has 5 axes"),
        (&[tensor("t", &[33], 8, 0)], "tensor `t` has rows of 33; Q8_0 has blocks of 32"),
        (&[tensor("t", &[], 8, 0)], "tensor `t` has rows of 1; Q8_0"),
        (&[tensor("t", &[128, 2], 12, 0)], "tensor `t` has rows of 128; Q4_K has blocks of 256"),
        (&[tensor("t", &[256], 10, 0)], "tensor `t` of 84 bytes at 0 is beyond"),
    ];
    for (tensors, says) in cases {
        refused(file(&[], tensors, 64), says);
    }
    let mut bytes = file(&[], &[tensor("\u{7f}\u{7f}", &[1], 0, 0)], 64);
    bytes[32..34].copy_from_slice(&[0xc0, 0xff]);
    refused(bytes, "the name of tensor 0 is no UTF-8");
    let one = parsed(file(&[], &[tensor("t", &[], 0, 0), tensor("u", &[3, 0], 0, 0)], 4));
    let one = one.expect("a scalar and nothing");
    assert_eq!(one.tensor("t").expect("t").to_f64(), [0.0]);
    assert_eq!(one.tensor("u").expect("u").shape(), [0, 3]);
    let odd = parsed(file(&[], &[tensor("t", &[5], 99, 0)], 4)).expect("unknown types");
    assert_eq!(odd.unsupported["t"], "type 99 of GGML");
}

#[test]
fn data_may_be_aligned_to_less_than_its_elements() {
    let alignment = pair("general.alignment", 4, &1u32.to_le_bytes());
    let mut bytes = file(&[alignment], &[tensor("t", &[1], 0, 1)], 0);
    // Nothing is padded: cut the padding off, then one byte, then the number.
    let end = 24 + text("general.alignment").len() + 8 + tensor("t", &[1], 0, 1).len();
    bytes.truncate(end);
    bytes.push(0xff);
    bytes.extend(2.5f32.to_le_bytes());
    assert_eq!(parsed(bytes).expect("read").tensor("t").expect("t").to_f64(), [2.5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_bytes_give_a_checkpoint_or_an_error_that_names_the_file(
        changes in prop::collection::vec((0..HEAD, any::<u8>()), 1..6),
        cut in prop::option::of(0..SMALL.len()),
    ) {
        let mut bytes = SMALL.to_vec();
        for (at, to) in changes {
            bytes[at] = to;
        }
        bytes.truncate(cut.unwrap_or(SMALL.len()));
        match parsed(bytes) {
            Err(error) => prop_assert!(error.to_string().contains(PATH)),
            Ok(checkpoint) => {
                let bytes: usize = checkpoint.params.iter().map(|(_, v)| v.bytes().len()).sum();
                prop_assert!(bytes <= SMALL.len());
            }
        }
    }

    #[test]
    fn lengths_of_every_size_give_a_checkpoint_or_an_error(
        at in 0..HEAD,
        number in prop::sample::select(vec![0, 1, 255, 1 << 31, 1 << 32, 1 << 62, u64::MAX - 7]),
    ) {
        let mut bytes = SMALL.to_vec();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        if let Err(error) = parsed(bytes) {
            prop_assert!(error.to_string().contains(PATH));
        }
    }
}
