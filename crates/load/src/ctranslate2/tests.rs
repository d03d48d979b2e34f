use super::*;
use frit_graph::Value;
use proptest::prelude::*;
use std::{fs, sync::Arc};

const PATH: &str = "some/model.bin";
// The sizes differ, so that no two can be confused.
const WIDTH: usize = 4;
const ENCODER_FFN: usize = 6;
const DECODER_FFN: usize = 10;
const LAYERS: [(&str, usize); 2] = [("encoder", 1), ("decoder", 2)];

#[derive(Clone)]
struct Var {
    name: String,
    shape: Vec<usize>,
    code: u8,
    bytes: Vec<u8>,
}

fn f32s(name: &str, shape: &[usize], data: &[f32]) -> Var {
    let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Var { name: name.into(), shape: shape.to_vec(), code: 0, bytes }
}

fn setting(name: &str, code: u8, bytes: &[u8]) -> Var {
    Var { name: name.into(), shape: vec![], code, bytes: bytes.to_vec() }
}

/// Names and shapes of a Whisper model as CTranslate2 writes them.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let w = WIDTH;
    let mut out: Vec<(String, Vec<usize>)> = vec![
        ("decoder/embeddings/weight".into(), vec![7, w]),
        ("decoder/position_encodings/encodings".into(), vec![9, w]),
        ("encoder/position_encodings/encodings".into(), vec![5, w]),
        ("encoder/conv1/weight".into(), vec![w, 2, 3]),
        ("encoder/conv1/bias".into(), vec![w]),
        ("encoder/conv2/weight".into(), vec![w, w, 3]),
        ("encoder/conv2/bias".into(), vec![w]),
    ];
    let mut norm = |at: String| {
        out.push((format!("{at}/gamma"), vec![w]));
        out.push((format!("{at}/beta"), vec![w]));
    };
    for (side, layers) in LAYERS {
        norm(format!("{side}/layer_norm"));
        for i in 0..layers {
            norm(format!("{side}/layer_{i}/self_attention/layer_norm"));
            norm(format!("{side}/layer_{i}/ffn/layer_norm"));
        }
    }
    norm("decoder/layer_0/attention/layer_norm".into());
    norm("decoder/layer_1/attention/layer_norm".into());
    let mut linear = |at: String, to: usize, from: usize| {
        out.push((format!("{at}/weight"), vec![to, from]));
        out.push((format!("{at}/bias"), vec![to]));
    };
    for ((side, layers), ffn) in LAYERS.into_iter().zip([ENCODER_FFN, DECODER_FFN]) {
        for i in 0..layers {
            linear(format!("{side}/layer_{i}/self_attention/linear_0"), 3 * w, w);
            linear(format!("{side}/layer_{i}/self_attention/linear_1"), w, w);
            linear(format!("{side}/layer_{i}/ffn/linear_0"), ffn, w);
            linear(format!("{side}/layer_{i}/ffn/linear_1"), w, ffn);
            if side == "decoder" {
                linear(format!("{side}/layer_{i}/attention/linear_0"), w, w);
                linear(format!("{side}/layer_{i}/attention/linear_1"), 2 * w, w);
                linear(format!("{side}/layer_{i}/attention/linear_2"), w, w);
            }
        }
    }
    out
}

/// A small model in f32 whose elements count up through the whole file; biases of keys are zero.
fn model() -> Vec<Var> {
    let mut next = 0;
    let mut vars = Vec::new();
    for (name, shape) in shapes() {
        let count: usize = shape.iter().product();
        let mut data: Vec<f32> = (next..next + count).map(|i| i as f32 + 1.0).collect();
        next += count;
        if name.ends_with("self_attention/linear_0/bias") {
            data[WIDTH..2 * WIDTH].fill(0.0);
        }
        if name.ends_with("/attention/linear_1/bias") {
            data[..WIDTH].fill(-0.0);
        }
        vars.push(f32s(&name, &shape, &data));
    }
    vars.extend([
        setting("encoder/num_heads", 2, &2i16.to_le_bytes()),
        setting("decoder/num_heads", 3, &4i32.to_le_bytes()),
        setting("decoder/activation", 1, &[3]),
        setting("decoder/scale_embeddings", 1, &[0]),
        setting("decoder/never_heard_of", 1, &[1]),
        f32s("decoder/strange/weight", &[1], &[0.5]),
    ]);
    vars
}

const TIED: &[(&str, &str)] = &[("decoder/projection/weight", "decoder/embeddings/weight")];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16 + 1).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

/// The file, and where the bytes of each variable start.
fn file(spec: &str, vars: &[Var], aliases: &[(&str, &str)]) -> (Vec<u8>, Vec<usize>) {
    let mut out = 6u32.to_le_bytes().to_vec();
    let mut starts = Vec::new();
    text(&mut out, spec);
    out.extend(3u32.to_le_bytes());
    out.extend((vars.len() as u32).to_le_bytes());
    for var in vars {
        text(&mut out, &var.name);
        out.push(var.shape.len() as u8);
        out.extend(var.shape.iter().flat_map(|&d| (d as u32).to_le_bytes()));
        out.push(var.code);
        out.extend((var.bytes.len() as u32).to_le_bytes());
        starts.push(out.len());
        out.extend(&var.bytes);
    }
    out.extend((aliases.len() as u32).to_le_bytes());
    for (alias, name) in aliases {
        text(&mut out, alias);
        text(&mut out, name);
    }
    (out, starts)
}

fn loaded(bytes: Vec<u8>) -> Result<Checkpoint, LoadError> {
    let shared: Shared = Arc::new(bytes);
    load(&shared, Path::new(PATH))
}

fn whisper(vars: &[Var], aliases: &[(&str, &str)]) -> Result<Checkpoint, LoadError> {
    loaded(file("WhisperSpec", vars, aliases).0)
}

fn refused(vars: &[Var], aliases: &[(&str, &str)]) -> String {
    let error = whisper(vars, aliases).expect_err("refused").to_string();
    assert!(error.contains(PATH), "{error}");
    error
}

/// The model with one variable changed.
fn with(name: &str, change: impl Fn(&mut Var)) -> Vec<Var> {
    let mut vars = model();
    change(vars.iter_mut().find(|v| v.name == name).expect("there"));
    vars
}

#[test]
fn names_are_those_of_hugging_face() {
    let shared = "fc1.bias fc1.weight fc2.bias fc2.weight final_layer_norm.bias \
        final_layer_norm.weight self_attn.k_proj.weight self_attn.out_proj.bias \
        self_attn.out_proj.weight self_attn.q_proj.bias self_attn.q_proj.weight \
        self_attn.v_proj.bias self_attn.v_proj.weight self_attn_layer_norm.bias \
        self_attn_layer_norm.weight";
    let cross = "encoder_attn.k_proj.weight encoder_attn.out_proj.bias \
        encoder_attn.out_proj.weight encoder_attn.q_proj.bias encoder_attn.q_proj.weight \
        encoder_attn.v_proj.bias encoder_attn.v_proj.weight encoder_attn_layer_norm.bias \
        encoder_attn_layer_norm.weight";
    let outside = "decoder.embed_positions.weight decoder.embed_tokens.weight \
        decoder.layer_norm.bias decoder.layer_norm.weight encoder.conv1.bias encoder.conv1.weight \
        encoder.conv2.bias encoder.conv2.weight encoder.embed_positions.weight \
        encoder.layer_norm.bias encoder.layer_norm.weight";
    let mut expected: Vec<String> =
        outside.split_whitespace().map(|n| format!("model.{n}")).collect();
    for (at, names) in [
        ("encoder.layers.0", shared),
        ("decoder.layers.0", shared),
        ("decoder.layers.1", shared),
        ("decoder.layers.0", cross),
        ("decoder.layers.1", cross),
    ] {
        expected.extend(names.split_whitespace().map(|n| format!("model.{at}.{n}")));
    }
    expected.sort();
    let model = whisper(&model(), TIED).expect("read");
    let names: Vec<&str> = model.params.iter().map(|(n, _)| n).collect();
    assert_eq!(names, expected);
    assert_eq!(model.unmapped, ["decoder/strange/weight"]);
    assert_eq!(model.format, Format::CTranslate2);
    assert_eq!(model.metadata["spec"], "WhisperSpec");
}

#[test]
fn the_configuration_is_read_from_shapes_names_and_settings() {
    let config = whisper(&model(), TIED).expect("read").config;
    let expected = serde_json::json!({
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "is_encoder_decoder": true,
        "activation_function": "gelu",
        "scale_embedding": false,
        "tie_word_embeddings": true,
        "d_model": 4, "vocab_size": 7, "num_mel_bins": 2,
        "max_source_positions": 5, "max_target_positions": 9,
        "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 6,
        "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 10,
    });
    assert_eq!(config, expected);
}

/// Loads the model from a mapped file, its bytes moved by `shift`, and checks the split weights:
/// the right rows, in the file itself where they are aligned and only there. Says how many were.
fn split_rows(shift: usize) -> usize {
    let mut vars = model();
    vars.insert(0, setting(&"x".repeat(shift + 1), 1, &[0]));
    let (bytes, starts) = file("WhisperSpec", &vars, TIED);
    let on_disk = tempfile::NamedTempFile::new().expect("file");
    fs::write(on_disk.path(), &bytes).expect("written");
    let shared = mapped::map(on_disk.path()).expect("mapped");
    let model = load(&shared, on_disk.path()).expect("read");
    let inside = |v: &Value| (*shared).as_ref().as_ptr_range().contains(&v.bytes().as_ptr());
    let mut in_place = 0;
    for (name, parts, target) in [
        (
            "encoder/layer_0/self_attention/linear_0/weight",
            &["q_proj", "k_proj", "v_proj"][..],
            "model.encoder.layers.0.self_attn",
        ),
        (
            "decoder/layer_1/attention/linear_1/weight",
            &["k_proj", "v_proj"][..],
            "model.decoder.layers.1.encoder_attn",
        ),
    ] {
        let at = vars.iter().position(|v| v.name == name).expect("there");
        let length = WIDTH * WIDTH * 4;
        for (i, part) in parts.iter().enumerate() {
            let value = model.tensor(&format!("{target}.{part}.weight")).expect("there");
            assert_eq!(value.shape(), [WIDTH, WIDTH]);
            assert_eq!(value.bytes(), &vars[at].bytes[i * length..][..length], "{name} {part}");
            let aligned = (starts[at] + i * length).is_multiple_of(4);
            assert_eq!(inside(value), aligned, "{name} {part}");
            in_place += usize::from(aligned);
        }
    }
    in_place
}

#[test]
fn rows_are_split_in_place_where_they_are_aligned() {
    let in_place: Vec<usize> = (0..4).map(split_rows).collect();
    assert!(in_place.iter().any(|&n| n >= 2), "{in_place:?}");
}

#[test]
fn a_bias_of_keys_is_kept_only_where_it_is_not_zero() {
    let key = "model.encoder.layers.0.self_attn.k_proj.bias";
    let plain = whisper(&model(), TIED).expect("read");
    assert!(plain.params.get(key).is_none());
    let name = "encoder/layer_0/self_attention/linear_0/bias";
    let own = plain.tensor("model.encoder.layers.0.self_attn.v_proj.bias").expect("there");
    let all = model();
    let all = all.iter().find(|v| v.name == name).expect("there");
    assert_eq!(own.bytes(), &all.bytes[8 * WIDTH..]);

    let vars = with(name, |v| v.bytes[4 * (WIDTH + 1)..][..4].copy_from_slice(&2f32.to_le_bytes()));
    let kept = whisper(&vars, TIED).expect("read");
    assert_eq!(kept.tensor(key).expect("kept").to_f64(), [0.0, 2.0, 0.0, 0.0]);
}

#[test]
fn a_projection_is_tied_by_its_alias_and_a_weight_of_its_own_otherwise() {
    let mut vars = model();
    vars.push(f32s("decoder/projection/weight", &[1, 2], &[1.0, 2.0]));
    let own = whisper(&vars, &[]).expect("read");
    assert_eq!(own.tensor("proj_out.weight").expect("there").to_f64(), [1.0, 2.0]);
    assert_eq!(own.config["tie_word_embeddings"], false);

    let indirect = [("e", "decoder/embeddings/weight"), ("decoder/projection/weight", "e")];
    let tied = whisper(&model(), &indirect).expect("read");
    assert!(tied.params.get("proj_out.weight").is_none());
    assert_eq!(tied.config["tie_word_embeddings"], true);
}

#[test]
fn an_alias_shares_the_memory_of_its_target_at_any_alignment() {
    for shift in 0..4 {
        let mut vars = model();
        vars.insert(0, setting(&"x".repeat(shift + 1), 1, &[0]));
        vars.retain(|v| v.name != "decoder/layer_1/ffn/linear_1/weight");
        let alias =
            [("decoder/layer_1/ffn/linear_1/weight", "decoder/layer_0/ffn/linear_1/weight")];
        let model = whisper(&vars, &alias).expect("read");
        let get = |i| model.tensor(&format!("model.decoder.layers.{i}.fc2.weight")).expect("there");
        assert_eq!(get(0).id(), get(1).id());
        assert_eq!(get(1).shape(), [WIDTH, DECODER_FFN]);
    }
}

#[test]
fn half_and_brain_floats_keep_their_bits() {
    for (code, dtype, one) in [(4, DType::F16, 0x3c00u16), (5, DType::BF16, 0x3f80)] {
        let vars = with("encoder/layer_norm/gamma", |v| {
            (v.code, v.bytes) = (code, [one; WIDTH].map(u16::to_le_bytes).concat());
        });
        let model = whisper(&vars, TIED).expect("read");
        let gamma = model.tensor("model.encoder.layer_norm.weight").expect("there");
        assert_eq!((gamma.dtype(), gamma.to_f64()), (dtype, vec![1.0; WIDTH]));
    }
}

#[test]
fn quantised_weights_are_refused_with_their_name_and_the_types_that_are_read() {
    for (code, size, dtype) in [(1, 1, "i8"), (2, 2, "i16")] {
        let name = "encoder/layer_0/ffn/linear_0/weight";
        let vars = with(name, |v| {
            (v.code, v.bytes) = (code, vec![1; size * v.shape.iter().product::<usize>()]);
        });
        let error = refused(&vars, TIED);
        assert!(error.contains(&format!("`{name}` is stored as {dtype}")), "{error}");
        assert!(error.contains("supported are f32, f16 and bf16"), "{error}");
    }
}

#[test]
fn what_a_whisper_model_cannot_be_is_an_error_that_names_it() {
    let error = loaded(file("TransformerSpec", &[], &[]).0).expect_err("refused").to_string();
    assert!(error.contains(PATH) && error.contains("`TransformerSpec`"), "{error}");

    let error = refused(
        &with("encoder/layer_0/self_attention/linear_0/weight", |v| {
            (v.shape, v.bytes) = (vec![4, 1], vec![0; 16]);
        }),
        TIED,
    );
    assert!(error.contains("linear_0/weight` of [4, 1] cannot be split into 3"), "{error}");

    let error = refused(&with("decoder/num_heads", |v| v.bytes = 3i32.to_le_bytes().into()), TIED);
    assert!(error.contains("`decoder/num_heads` of 3 does not divide the width 4"), "{error}");
    let error = refused(&with("decoder/num_heads", |v| v.bytes = vec![0; 4]), TIED);
    assert!(error.contains("`decoder/num_heads` of 0"), "{error}");

    let mut vars = model();
    vars.iter_mut().for_each(|v| v.name = v.name.replace("decoder/layer_1", "decoder/layer_7"));
    let error = refused(&vars, TIED);
    assert!(error.contains("has a decoder layer 7, but no layer 1"), "{error}");

    let mut vars = model();
    vars.retain(|v| v.name != "encoder/conv1/weight");
    assert!(refused(&vars, TIED).contains("`encoder/conv1/weight` is missing"));
    let error = refused(&with("decoder/embeddings/weight", |v| v.shape = vec![28]), TIED);
    assert!(error.contains("`decoder/embeddings/weight` must have 2 axes, got 1"), "{error}");
}

#[test]
fn variables_and_aliases_that_do_not_hold_are_errors_that_name_them() {
    let norm = "encoder/layer_norm/gamma";
    let error = refused(&with(norm, |v| v.shape = vec![5]), TIED);
    assert!(error.contains("gamma` of f32 [5] needs 20 bytes, got 16"), "{error}");
    let error = refused(&with(norm, |v| v.shape = vec![u32::MAX as usize; 8]), TIED);
    assert!(error.contains("gamma` of f32") && error.contains("more than memory"), "{error}");
    let error = refused(&with(norm, |v| v.code = 6), TIED);
    assert!(error.contains("gamma` has the unknown dtype 6"), "{error}");

    let mut twice = model();
    twice.push(twice[0].clone());
    let error = refused(&twice, TIED);
    assert!(error.contains("`decoder/embeddings/weight` stands there twice"), "{error}");
    let error = refused(&model(), &[("a", "nobody")]);
    assert!(error.contains("`a` is an alias of `nobody`, which is not there"), "{error}");
    let error = refused(&model(), &[(norm, "encoder/layer_norm/beta")]);
    assert!(error.contains("gamma` is an alias of a name that is taken"), "{error}");
}

#[test]
fn a_layer_number_is_a_number_and_not_a_number_in_disguise() {
    for (layer, index) in [
        ("layer_0", Some(0)),
        ("layer_31", Some(31)),
        ("layer_01", None),
        ("layer_+1", None),
        ("layer_", None),
        ("layer_99999999999999999999", None),
    ] {
        let name = format!("encoder/{layer}/ffn/linear_0/bias");
        let expected = index.map(|i: usize| vec![format!("model.encoder.layers.{i}.fc1.bias")]);
        assert_eq!(whisper::targets(&name), expected, "{name}");
    }
    // Only decoders look at another side.
    assert_eq!(whisper::targets("encoder/layer_0/attention/linear_0/bias"), None);
}

#[test]
fn a_file_cut_anywhere_or_longer_is_an_error_that_names_it() {
    let (whole, _) = file("WhisperSpec", &model(), TIED);
    for n in 0..whole.len() {
        let error = loaded(whole[..n].to_vec()).expect_err("cut").to_string();
        assert!(error.contains(PATH), "cut at {n}: {error}");
    }
    let error = loaded([whole, vec![0]].concat()).expect_err("longer").to_string();
    assert!(error.contains("1 bytes follow the end"), "{error}");
}

#[test]
fn a_pytorch_archive_is_recognised_as_what_it_is_not() {
    let error = loaded(b"PK\x03\x04 and so on".to_vec()).expect_err("refused").to_string();
    assert!(error.contains(PATH) && error.contains("PyTorch"), "{error}");
}

#[test]
fn a_folder_keeps_what_its_configuration_says_and_adds_what_the_weights_tell() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes);
    write("model.bin", &file("WhisperSpec", &model(), TIED).0).expect("written");
    write("config.json", br#"{"suppress_ids": [1, 2], "num_mel_bins": 80}"#).expect("written");
    let model = crate::open(folder.path()).expect("opened");
    assert_eq!(model.format, Format::CTranslate2);
    assert_eq!(model.config["suppress_ids"], serde_json::json!([1, 2]));
    assert_eq!(model.config["num_mel_bins"], 80);
    assert_eq!(model.config["d_model"], 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_damaged_file_never_panics_and_errors_name_it(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 4]>()), 1..6),
        names_only in any::<bool>(),
        extreme in any::<bool>(),
    ) {
        let vars = model();
        let (mut bytes, starts) = file("WhisperSpec", &vars, TIED);
        // Damage to the numbers is seldom seen: half of the cases hit what stands between them.
        let is_data = |at: usize| {
            starts.iter().zip(&vars).any(|(s, v)| (*s..s + v.bytes.len()).contains(&at))
        };
        let places: Vec<usize> =
            (0..bytes.len() - 4).filter(|&at| !names_only || !is_data(at)).collect();
        for (place, new) in damage {
            let at = *place.get(&places);
            bytes[at..at + 4].copy_from_slice(&if extreme { [255; 4] } else { new });
        }
        if let Err(error) = loaded(bytes) {
            prop_assert!(error.to_string().contains(PATH));
        }
    }
}
