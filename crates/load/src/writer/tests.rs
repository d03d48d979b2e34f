use super::*;
use crate::safetensors::read;
use ::safetensors::{Dtype, SafeTensors};
use frit_graph::Spec;
use proptest::prelude::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed");
    entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn the_reference_implementation_reads_what_is_written() {
    let folder = folder();
    let path = folder.path().join("x.safetensors");
    let flags = Value::bools([3], &[true, false, true]).expect("value");
    let wide = Value::new([1, 2], vec![1.0f64, -0.5]).expect("value");
    let empty = Value::new([0], Vec::<i64>::new()).expect("value");
    let one = Value::scalar(half::bf16::from_f32(1.0));
    let metadata = BTreeMap::from([("format".to_string(), "\"pt\" ü".to_string())]);
    let tensors = [("flags", &flags), ("wide", &wide), ("empty", &empty), ("one \"\n", &one)];
    write(&path, &tensors, &metadata).expect("written");

    let bytes = fs::read(&path).expect("bytes");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("header");
    let stored = header.metadata().clone().expect("metadata");
    assert_eq!(stored.into_iter().collect::<BTreeMap<_, _>>(), metadata);
    let reference = SafeTensors::deserialize(&bytes).expect("sound");
    let get = |name| reference.tensor(name).expect("there");
    assert_eq!((get("flags").dtype(), get("flags").data()), (Dtype::BOOL, &[1, 0, 1][..]));
    let expected = [1.0f64.to_le_bytes(), (-0.5f64).to_le_bytes()].concat();
    assert_eq!((get("wide").shape(), get("wide").data()), (&[1, 2][..], &expected[..]));
    assert_eq!((get("empty").dtype(), get("empty").shape()), (Dtype::I64, &[0][..]));
    assert_eq!((get("one \"\n").dtype(), get("one \"\n").data()), (Dtype::BF16, &[0x80, 0x3f][..]));
    assert_eq!(reference.len(), 4);
    let header_length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert_eq!(header_length % 8, 0);
    assert_eq!(names(folder.path()), ["x.safetensors"]);
}

#[test]
fn what_cannot_be_written_leaves_the_old_file_and_nothing_else() {
    let folder = folder();
    let path = folder.path().join("x.safetensors");
    let one = Value::scalar(1u8);
    write(&path, &[("old", &one)], &BTreeMap::new()).expect("written");
    let twice: &[(&str, &Value)] = &[("a", &one), ("a", &one)];
    let reserved: &[(&str, &Value)] = &[("__metadata__", &one)];
    for (tensors, says) in [(twice, "`a` is given twice"), (reserved, "reserves")] {
        let error = write(&path, tensors, &BTreeMap::new()).expect_err("refused").to_string();
        assert!(error.contains("x.safetensors") && error.contains(says), "{error}");
    }
    assert!(read(&path).expect("read").tensor("old").is_ok());

    // A folder cannot be replaced by a file: the renaming fails, after everything was written.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("folder");
    let error = write(&taken, &[("a", &one)], &BTreeMap::new()).expect_err("refused").to_string();
    assert!(error.contains("taken"), "{error}");
    let mut left = names(folder.path());
    left.sort();
    assert_eq!(left, ["taken", "x.safetensors"]);
    let absent = folder.path().join("no/folder/x");
    assert!(write(&absent, &[("a", &one)], &BTreeMap::new()).is_err());
}

fn value() -> impl Strategy<Value = Value> {
    let shape = prop::collection::vec(0usize..4, 0..4);
    (shape, 0..DType::ALL.len(), any::<u8>()).prop_map(|(shape, i, seed)| {
        let spec = Spec::new(DType::ALL[i], shape);
        let byte = |j: usize| (j as u8).wrapping_mul(31).wrapping_add(seed);
        let bytes: Vec<u8> = (0..spec.bytes())
            .map(|j| if spec.dtype == DType::Bool { byte(j) % 2 } else { byte(j) })
            .collect();
        Value::from_bytes(spec, &bytes).expect("value")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read_back_without_a_copy(
        tensors in prop::collection::btree_map(".{0,12}", value(), 0..8),
        metadata in prop::collection::btree_map(".{0,4}", ".{0,8}", 0..3),
    ) {
        let folder = folder();
        let path = folder.path().join("x.safetensors");
        let list: Vec<(&str, &Value)> = tensors.iter().map(|(n, v)| (n.as_str(), v)).collect();
        write(&path, &list, &metadata).expect("written");
        let back = read(&path).expect("read");
        prop_assert_eq!(&back.metadata, &metadata);
        prop_assert_eq!(back.params.iter().collect::<Vec<_>>(), list);
        // The only holder of owned memory may write to it, the holder of a window may not.
        let mut alone = read(&path).expect("read").params;
        for name in tensors.keys() {
            let mut value = alone.remove(name).expect("there");
            prop_assert!(value.bytes_mut().is_none(), "{} was copied", name);
        }
    }
}
