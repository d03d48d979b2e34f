use super::*;
use ::safetensors::{SafeTensors, tensor::TensorView};
use proptest::prelude::*;
use std::sync::Arc;

const PATH: &str = "some/model.safetensors";

/// A file with this header and as many bytes of data, counting up from zero.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend((0..data).map(|i| i as u8));
    out
}

fn parsed(bytes: Vec<u8>) -> Result<File, LoadError> {
    let shared: Shared = Arc::new(bytes);
    parse(&shared, Path::new(PATH))
}

/// A small file by the reference implementation: several types, a scalar and an empty tensor.
fn by_reference() -> Vec<u8> {
    let floats: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    let halves = [0x3c00u16, 0xc100].map(u16::to_le_bytes).concat();
    let view = |dtype, shape: &[usize], data| {
        TensorView::new(dtype, shape.to_vec(), data).expect("a sound view")
    };
    let tensors = [
        ("a.weight", view(Dtype::F32, &[3], &floats)),
        ("b", view(Dtype::F16, &[2, 1], &halves)),
        ("scalar", view(Dtype::BF16, &[], &[0x80, 0x3f])),
        ("empty", view(Dtype::I64, &[0, 7], &[])),
        ("flags", view(Dtype::BOOL, &[3], &[1, 0, 1])),
        ("odd", view(Dtype::F8_E4M3, &[2], &[1, 2])),
    ];
    let about = [("format".to_string(), "pt".to_string())].into();
    ::safetensors::serialize(tensors, Some(about)).expect("serialised")
}

#[test]
fn a_file_of_the_reference_implementation_is_read() {
    let file = parsed(by_reference()).expect("read");
    let get = |name: &str| &file.tensors[name];
    assert_eq!(get("a.weight").slice::<f32>().expect("f32"), [1.5, -2.0, 0.25]);
    assert_eq!(get("b").to_f64(), [1.0, -2.5]);
    assert_eq!(get("b").shape(), [2, 1]);
    assert_eq!((get("scalar").to_f64(), get("scalar").shape().len()), (vec![1.0], 0));
    assert_eq!(get("empty").shape(), [0, 7]);
    assert_eq!(get("flags").to_i64(), [1, 0, 1]);
    assert_eq!(get("flags").dtype(), DType::Bool);
    assert_eq!(file.tensors.len(), 5);
    assert_eq!(file.unsupported, [("odd".to_string(), "F8_E4M3".to_string())].into());
    assert_eq!(file.metadata, [("format".to_string(), "pt".to_string())].into());
}

#[test]
fn a_file_cut_anywhere_is_an_error_that_names_it() {
    let whole = by_reference();
    for n in 0..whole.len() {
        let error = parsed(whole[..n].to_vec()).expect_err("cut").to_string();
        assert!(error.contains(PATH), "cut at {n}: {error}");
    }
    let longer = [whole, vec![0]].concat();
    let error = parsed(longer).expect_err("one byte too many").to_string();
    assert!(error.contains("1 bytes at the end"), "{error}");
}

#[test]
fn a_header_that_does_not_hold_is_an_error_that_says_where() {
    // Header, bytes of data, what the message must say.
    let cases: &[(&str, usize, &str)] = &[
        (r#"[1]"#, 0, "no JSON object"),
        (r#" {}"#, 0, "no JSON object"),
        (r#"{"#, 0, "header"),
        (r#"{}x"#, 0, "header"),
        (r#"{"__metadata__": {"a": 1}}"#, 0, "__metadata__"),
        (r#"{"__metadata__": []}"#, 0, "__metadata__"),
        (r#"{"t": 1}"#, 0, "`t` has no `dtype`"),
        (
            r#"{"t": {"dtype":"F31","shape":[],"data_offsets":[0,4]}}"#,
            4,
            "`t` has the unknown dtype",
        ),
        (r#"{"t": {"dtype":7,"shape":[],"data_offsets":[0,4]}}"#, 4, "`t` has the unknown dtype 7"),
        (r#"{"t": {"dtype":"F32","data_offsets":[0,4]}}"#, 4, "`t` has no `shape`"),
        (r#"{"t": {"dtype":"F32","shape":[1]}}"#, 4, "`t` has no `data_offsets`"),
        (r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4, "`t` needs two"),
        (r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}"#, 4, "`t` needs two"),
        (r#"{"t": {"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "`t` has a `shape`"),
        (r#"{"t": {"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, 4, "`t` has a `shape`"),
        (r#"{"t": {"dtype":"F32","shape":1,"data_offsets":[0,4]}}"#, 4, "`t` has a `shape`"),
        (r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "before its start"),
        (r#"{"t": {"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4, "`t` of F32 [2] needs 8"),
        (r#"{"t": {"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#, 1, "no whole number"),
        (
            r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            3,
            "`t` reaches to byte 4 of 3",
        ),
        (r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 5, "belong to no tensor"),
        (r#"{"t": {"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "`t` starts at byte 4"),
        (r#"{"t": {"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}"#, 3, "neither 0 nor 1"),
        (
            r#"{"t": {"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
            4,
            "`t` has a `shape`",
        ),
        (
            r#"{"t": {"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
            0,
            "`t` of U8 [4294967296, 4294967296] is no whole number",
        ),
        (
            r#"{"t": {"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#,
            0,
            "fits in memory",
        ),
        (
            r#"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
                "u":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}}"#,
            5,
            "`u` at bytes 2..5 overlaps `t`",
        ),
        (
            r#"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
                "u":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}"#,
            3,
            "overlaps",
        ),
        (
            r#"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
                "u":{"dtype":"U8","shape":[0],"data_offsets":[9,9]}}"#,
            3,
            "`u` reaches to byte 9 of 3",
        ),
        (
            r#"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
                "t":{"dtype":"U8","shape":[3],"data_offsets":[3,6]}}"#,
            6,
            "key `t` stands there twice",
        ),
    ];
    for (header, data, says) in cases {
        let error = parsed(file(header, *data)).expect_err(header).to_string();
        assert!(error.contains(PATH) && error.contains(says), "{header}\n{error}");
    }
}

#[test]
fn a_header_length_that_does_not_hold_is_an_error() {
    for (length, says) in [
        (0u64, "no JSON object"),
        (3, "the header has 3 bytes, but 2 are left"),
        (MAX_HEADER, "but 2 are left"),
        (MAX_HEADER + 1, "at most 100 MB"),
        (u64::MAX, "at most 100 MB"),
    ] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        let error = parsed(bytes).expect_err("refused").to_string();
        assert!(error.contains(PATH) && error.contains(says), "{length}: {error}");
    }
}

#[test]
fn an_empty_checkpoint_and_padding_are_sound() {
    assert!(parsed(file("{}      ", 0)).expect("read").tensors.is_empty());
}

#[test]
fn names_that_would_leave_the_folder_are_not_plain() {
    for name in ["", ".", "..", "../x", "a/b", "/x", "x/", "./x", "a\\b", "c:x", "a\0b"] {
        assert!(!is_plain(name), "{name:?}");
    }
    assert!(is_plain("model-00001-of-00002.safetensors") && is_plain("..x"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What this reader takes, the reference implementation takes too, with the same bytes.
    #[test]
    fn a_damaged_file_is_refused_or_sound(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        digits in any::<bool>(),
    ) {
        let mut bytes = by_reference();
        for (place, byte) in damage {
            // Digits for digits: such headers stay JSON and lie about sizes instead.
            let numbers: Vec<usize> =
                (8..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
            if digits {
                bytes[*place.get(&numbers)] = b'0' + byte % 10;
            } else {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        match parsed(bytes.clone()) {
            Err(error) => prop_assert!(error.to_string().contains(PATH)),
            Ok(file) => {
                let reference = SafeTensors::deserialize(&bytes).expect("sound");
                prop_assert_eq!(reference.len(), file.tensors.len() + file.unsupported.len());
                for (name, value) in &file.tensors {
                    let view = reference.tensor(name).expect("there");
                    prop_assert_eq!(view.shape(), value.shape());
                    prop_assert_eq!(view.data(), value.bytes());
                }
            }
        }
    }
}
