//! The expected numbers were computed in NumPy from the formulas of the papers and, for Llama 3,
//! of the code released with the model.

use super::*;
use serde_json::json;

#[track_caller]
fn frequencies(config: Json, head: usize, length: usize, want: &[f64]) -> RopeSchedule {
    let schedule = RopeSchedule::from_json(&config, head, 1e4, None).expect("a schedule");
    let got = schedule.inv_freqs(length);
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-12 * w, "{got:?}\n{want:?}");
    }
    schedule
}

fn error(config: Json) -> String {
    RopeSchedule::from_json(&config, 8, 1e4, None).expect_err("no schedule").to_string()
}

#[test]
fn default_and_linear_schedules_are_the_published_ones() {
    let s = frequencies(json!({}), 8, 9, &[1.0, 0.1, 0.01, 0.001]);
    assert_eq!((s.scale(), s.amplitude(), s.follows_length()), (Some(1.0), 1.0, false));
    let old = json!({"rope_theta": 1e6, "rope_scaling": null});
    frequencies(old, 6, 9, &[1.0, 0.01, 0.0001]);
    let new = json!({"rope_theta": 3.0, "rope_parameters": {"rope_theta": 1e6}});
    frequencies(new, 6, 9, &[1.0, 0.01, 0.0001]);
    for config in [
        json!({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10000.0}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    ] {
        let s = frequencies(config, 8, 9, &[0.25, 0.025, 0.0025, 0.00025]);
        assert_eq!(s.scale(), Some(0.25));
    }
}

#[test]
fn a_part_of_the_head_turns() {
    for config in [
        json!({"partial_rotary_factor": 0.4}),
        json!({"rope_parameters": {"partial_rotary_factor": 0.4, "rope_type": "default"}}),
    ] {
        let s = frequencies(config, 20, 9, &[1.0, 0.1, 0.01, 0.001]);
        assert_eq!(s.dims, 8);
    }
}

#[test]
fn the_dynamic_base_grows_with_the_text() {
    let config = json!({
        "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2.0}
    });
    let long = [1.0, 0.06933612743506347, 0.004807498567691361, 0.0003333333333333334];
    let s = frequencies(config.clone(), 8, 128, &long);
    assert!(s.follows_length() && !s.turns_again(64, 65));
    frequencies(config, 8, 64, &[1.0, 0.1, 0.01, 0.001]);
}

#[test]
fn yarn_keeps_fast_ones_and_divides_slow_ones() {
    let qwen = json!({
        "rope_theta": 1e6, "max_position_embeddings": 131072,
        "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768
        }
    });
    let want = [
        1.0,
        0.1778279410038923,
        0.03162277660168379,
        0.004217559938927619,
        0.0005,
        4.445698525097307e-05,
        7.905694150420949e-06,
        1.4058533129758728e-06,
    ];
    let s = frequencies(qwen, 16, 9, &want);
    assert!((s.amplitude() - 1.138629436111989).abs() < 1e-15);
    assert_eq!(s.scale(), None);

    let exact = json!({"rope_parameters": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096,
        "truncate": false, "attention_factor": 0.5
    }});
    let want = [
        1.0,
        0.31622776601683794,
        0.1,
        0.02811208084703974,
        0.005983133441317673,
        0.0009728577591530728,
        0.000125,
        3.952847075210474e-05,
    ];
    assert_eq!(frequencies(exact, 16, 9, &want).amplitude(), 0.5);

    let scales = json!({"rope_parameters": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
        "mscale": 0.707, "mscale_all_dim": 1.0
    }});
    let s = RopeSchedule::from_json(&scales, 16, 1e4, None).expect("a schedule");
    assert!((s.amplitude() - 0.9210423553163399).abs() < 1e-15);
}

#[test]
fn longrope_has_a_list_for_short_and_one_for_long_texts() {
    for (model, name) in [("phi3", "su"), ("phi3", "yarn"), ("llama", "longrope")] {
        let config = json!({
            "model_type": model, "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": name, "short_factor": [1.0, 2.0], "long_factor": [4.0, 5.0]}
        });
        let s = frequencies(config.clone(), 4, 4096, &[1.0, 0.005]);
        frequencies(config, 4, 4097, &[0.25, 0.002]);
        assert!((s.amplitude() - 1.1902380714238083).abs() < 1e-15);
        assert!(s.follows_length() && s.turns_again(4096, 4097) && !s.turns_again(5000, 6000));
    }
}

#[test]
fn llama_3_divides_what_turns_slowly() {
    let config = json!({"rope_theta": 5e5, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    }});
    let want = [
        1.0,
        0.44036660267178046,
        0.19392274474868576,
        0.08539710028576561,
        0.03760603093086393,
        0.016560440080994446,
        0.007292664737217109,
        0.003211445994752591,
        0.0005248461609929547,
        7.78465527393245e-05,
        3.428102195952591e-05,
        1.509621717643313e-05,
        6.647869871181235e-06,
        2.9274998701761677e-06,
        1.2891731721515574e-06,
        5.677088100759837e-07,
    ];
    frequencies(config, 32, 9, &want);
}

#[test]
fn layers_of_two_kinds_have_schedules_of_their_own() {
    let old = json!({
        "rope_theta": 1e6, "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}
    });
    let new = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}
    }});
    for config in [old, new] {
        let of = |t| RopeSchedule::from_json(&config, 8, 7.0, Some(t)).expect("a schedule");
        let (full, local) = (of("full_attention"), of("sliding_attention"));
        assert_eq!((full.base, full.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
        assert_eq!((local.base, local.scaling), (100.0, RopeScaling::Default));
    }
}

#[test]
fn schedules_that_make_no_sense_are_named() {
    let of = |scaling: Json| error(json!({"rope_scaling": scaling}));
    assert_eq!(
        of(json!({"type": "mrope"})),
        "config.json: `type` must be default, linear, dynamic, yarn, longrope or llama3, got \
         \"mrope\""
    );
    assert_eq!(of(json!({"type": "linear"})), "config.json has no `factor`");
    assert!(of(json!({"type": "linear", "factor": -2})).contains("a positive number, got -2"));
    assert!(of(json!({"type": "dynamic", "factor": 2})).contains("`max_position_embeddings`"));
    let short = json!({
        "type": "longrope", "factor": 2, "original_max_position_embeddings": 64,
        "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]
    });
    assert!(of(short).contains("`short_factor` must be a list of 4 positive numbers, got [1.0]"));
    assert!(error(json!({"partial_rotary_factor": 0.4})).contains("partial_rotary_factor"));
    let low = json!({
        "rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4,
        "original_max_position_embeddings": 64
    });
    assert!(of(low).contains("`high_freq_factor` must be above low_freq_factor 4"));
}
