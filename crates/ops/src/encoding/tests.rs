//! Held against the `gguf` package; `golden/make.py` wrote the files.

use super::Encoding;

fn golden(encoding: Encoding) -> (&'static [u8], Vec<f32>) {
    macro_rules! file {
        ($name:literal) => {
            &include_bytes!(concat!("golden/", $name, ".bin"))[..]
        };
    }
    let all = match encoding {
        Encoding::Q4_0 => file!("q4_0"),
        Encoding::Q4_1 => file!("q4_1"),
        Encoding::Q5_0 => file!("q5_0"),
        Encoding::Q5_1 => file!("q5_1"),
        Encoding::Q4K => file!("q4_k"),
        Encoding::Q5K => file!("q5_k"),
        Encoding::Q6K => file!("q6_k"),
        _ => file!("q8_0"),
    };
    let (bytes, numbers) = all.split_at(all.len() - 4096);
    let numbers = numbers.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
    (bytes, numbers)
}

#[test]
fn every_block_of_ggml_unpacks_to_the_numbers_of_the_gguf_package() {
    for &encoding in Encoding::GGML {
        let (bytes, wanted) = golden(encoding);
        let mut got = vec![f32::NAN; wanted.len()];
        encoding.unpack(bytes, &mut got).expect("whole blocks");
        assert_eq!(got, wanted, "{encoding}");
    }
}

#[test]
fn every_composition_gives_the_numbers_of_the_gguf_package() {
    use frit_graph::{DType, Graph, Params, Policy, Reference, Spec, Value, compile};
    for &encoding in Encoding::GGML {
        let (bytes, wanted) = golden(encoding);
        // Two axes in front, whose rows are whole blocks.
        let spec = Spec::new(DType::U8, [1, 2, bytes.len() / 2]);
        let graph = Graph::trace(std::slice::from_ref(&spec), |x| {
            vec![crate::fast::dequantize(&x[0], None, None, encoding, DType::F32)]
        })
        .expect("a graph");
        let program = compile(&graph, &Reference, &Params::new(), Policy::Allow).expect("compiled");
        let packed = Value::from_bytes(spec, bytes).expect("bytes");
        let got = program.run(vec![packed]).expect("it runs");
        assert_eq!(got[0].shape(), [1, 2, 512]);
        assert_eq!(got[0].slice::<f32>().expect("f32"), wanted, "{encoding}");
    }
}

#[test]
fn affine_groups_unpack_from_the_low_bits_on() {
    let four = Encoding::Affine { bits: 4, group_size: 32 };
    let bytes: Vec<u8> = (0..16).map(|i| i << 4 | (15 - i)).collect();
    let mut out = [0.0; 32];
    four.unpack_affine(&bytes, &[0.5], Some(&[-1.0]), &mut out).expect("one group");
    for (i, y) in out.iter().enumerate() {
        let q = if i % 2 == 0 { 15 - i / 2 } else { i / 2 };
        assert_eq!(*y, 0.5 * q as f32 - 1.0, "{i}");
    }
    let two = Encoding::Affine { bits: 2, group_size: 32 };
    two.unpack_affine(&[0b11_10_01_00; 8], &[2.0], None, &mut out).expect("one group");
    assert_eq!(out[..5], [0.0, 2.0, 4.0, 6.0, 0.0]);
}

#[test]
fn lengths_that_do_not_belong_together_are_errors() {
    let mut out = [0.0; 32];
    assert!(Encoding::Q4_1.unpack(&[0; 40], &mut out).is_err());
    assert!(Encoding::Q4_1.unpack(&[0; 19], &mut out).is_err());
    assert!(Encoding::Q4K.unpack(&[0; 144], &mut out).is_err());
    let four = Encoding::Affine { bits: 4, group_size: 32 };
    assert!(four.unpack(&[0; 16], &mut out).is_err());
    assert!(four.unpack_affine(&[0; 16], &[1.0; 2], None, &mut out).is_err());
    assert!(four.unpack_affine(&[0; 16], &[1.0], Some(&[]), &mut out).is_err());
    assert!(Encoding::Q4_0.unpack_affine(&[0; 18], &[1.0], None, &mut out).is_err());
    let none = Encoding::Affine { bits: 0, group_size: 0 };
    assert!(none.unpack_affine(&[], &[], None, &mut []).is_err());
    let three = Encoding::Affine { bits: 3, group_size: 32 };
    assert!(three.unpack_affine(&[0; 12], &[1.0], None, &mut out).is_err());
}

#[test]
fn names_are_those_of_ggml() {
    for &encoding in Encoding::GGML {
        assert_eq!(Encoding::named(&encoding.to_string()), Some(encoding));
    }
    assert_eq!(Encoding::named("Q4_K"), Some(Encoding::Q4K));
    assert_eq!(Encoding::named("Q3_K"), None);
}
