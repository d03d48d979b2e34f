//! The layers of decoders against the float64 oracles of the fused operations, which are written
//! apart from them, before and after the rules.

use super::*;
use frit_graph::{DType, Graph, Params, Policy, Reference, Value, compile, rewrite};
use frit_ops::{self as ops, Array, Entry, GeluForm, RopeLayout, SequenceAxis};

/// Numbers between -1 and 1 that look random.
fn noise(shape: &[usize], seed: usize) -> Value {
    let number = |i: usize| (((i + 1) * (7919 + 104 * seed)) % 2003) as f32 / 1001.0 - 1.0;
    Value::new(shape, (0..shape.iter().product()).map(number).collect()).expect("a value")
}

fn array(v: &Value) -> Array {
    Array { shape: v.shape().to_vec(), data: v.to_f64() }
}

/// Runs a layer composed and rewritten; both must be what the oracle says.
#[track_caller]
fn check(values: &[&Value], build: impl Fn(&[Tensor]) -> Tensor, fused: &str, want: &Array) {
    let specs: Vec<Spec> = values.iter().map(|v| v.spec().clone()).collect();
    let plain = Graph::trace(&specs, |x| vec![build(x)]).expect("a graph");
    let (fast, _) = rewrite(&plain, &crate::fast_kernels()).expect("rewritten");
    assert!(fast.histogram().contains_key(fused), "{:?}", fast.histogram());
    for graph in [plain, fast] {
        let program = compile(&graph, &Reference, &Params::new(), Policy::Allow).expect("compiled");
        let got = program.run(values.iter().map(|v| (*v).clone()).collect()).expect("it runs");
        assert_eq!(got[0].shape(), want.shape);
        for (i, (g, w)) in got[0].to_f64().iter().zip(&want.data).enumerate() {
            assert!((g - w).abs() < 2e-6 * w.abs().max(1.0), "element {i}: {g}, wanted {w}");
        }
    }
}

#[test]
fn rms_norm_adds_its_offset_to_the_weight() {
    let (x, weight) = (noise(&[2, 3, 16], 1), noise(&[16], 2));
    for offset in [0.0, 1.0] {
        let mut shifted = array(&weight);
        shifted.data.iter_mut().for_each(|w| *w += offset);
        let inputs = ops::RmsNormInputs { x: &array(&x), weight: Some(&shifted) };
        let want = ops::RmsNorm { eps: 1e-5 }.oracle(inputs);
        let layer = RmsNorm { eps: 1e-5, offset };
        let build = |x: &[Tensor]| layer::rms_norm(&x[0], x[1].clone(), layer.clone());
        check(&[&x, &weight], build, "rms_norm", &want);
    }
}

#[test]
fn layer_norm_has_a_bias_or_none() {
    let (x, weight, bias) = (noise(&[2, 3, 16], 1), noise(&[16], 2), noise(&[16], 3));
    for bias in [None, Some(&bias)] {
        let (x_, weight_, bias_) = (array(&x), array(&weight), bias.map(array));
        let (weight_, bias_) = (Some(&weight_), bias_.as_ref());
        let inputs = ops::LayerNormInputs { x: &x_, weight: weight_, bias: bias_ };
        let want = ops::LayerNorm { eps: 1e-5 }.oracle(inputs);
        let build = |x: &[Tensor]| layer::layer_norm(&x[0], x[1].clone(), x.get(2).cloned(), 1e-5);
        let values: Vec<&Value> = [&x, &weight].into_iter().chain(bias).collect();
        check(&values, build, "layer_norm", &want);
    }
}

#[test]
fn every_form_of_gelu_joins_a_product() {
    let (x, weight) = (noise(&[3, 10], 1), noise(&[6, 10], 2));
    for form in [GeluForm::Erf, GeluForm::Tanh, GeluForm::Quick] {
        let want = ops::Gelu { form }.oracle(ops::UnaryInputs { x: &array(&x) });
        check(&[&x], |x| layer::gelu_of(x[0].clone(), form), "gelu", &want);
        let activation = ops::Activation::Gelu(form);
        let (x_, weight_) = (array(&x), array(&weight));
        let inputs = ops::LinearInputs { x: &x_, weight: &weight_, bias: None };
        let want = ops::Linear { activation }.oracle(inputs);
        let product = |x: &[Tensor]| layer::linear(&x[0], x[1].clone(), None);
        check(&[&x, &weight], |x| layer::gelu_of(product(x), form), "linear", &want);
    }
}

#[test]
fn rope_turns_pairs_of_either_layout_at_any_position() {
    let x = noise(&[2, 3, 2, 12], 1);
    let at = Value::new([2, 3], vec![0i64, 7, 4_000_000, 3, 2, 1]).expect("positions");
    let given = Value::new([4], vec![1.0f32, 0.5, 0.03, 0.001]).expect("frequencies");
    for layout in [RopeLayout::Split, RopeLayout::Interleaved] {
        for given in [None, Some(&given)] {
            let layer = Rope { dims: 8, base: 500.0, scale: 0.25, amplitude: 1.5, layout };
            let oracle = ops::Rope {
                dims: 8,
                base: 500.0,
                scale: 0.25,
                amplitude: 1.5,
                layout,
                sequence_axis: SequenceAxis::ThirdLast,
            };
            let want = oracle.oracle(ops::RopeInputs {
                x: &array(&x),
                offset: None,
                position_ids: Some(&array(&at)),
                inv_freqs: given.map(array).as_ref(),
            });
            let build = |x: &[Tensor]| layer::rope(x[0].clone(), &x[1], x.get(2), layer.clone());
            let values: Vec<&Value> = [&x, &at].into_iter().chain(given).collect();
            check(&values, build, "rope", &want);
        }
    }
}

#[test]
fn gates_open_by_their_function() {
    let (gate, up) = (noise(&[3, 10], 1), noise(&[3, 10], 2));
    let gelu = |form| {
        let x = array(&gate);
        let open = ops::Gelu { form }.oracle(ops::UnaryInputs { x: &x });
        let data = open.data.iter().zip(up.to_f64()).map(|(g, u)| g * u).collect();
        Array { data, ..open }
    };
    let swiglu = ops::SwiGlu.oracle(ops::SwiGluInputs { gate: &array(&gate), up: &array(&up) });
    for (activation, name, want) in [
        (GateActivation::Silu, "swiglu", swiglu),
        (GateActivation::Gelu, "gelu", gelu(GeluForm::Erf)),
        (GateActivation::GeluTanh, "gelu", gelu(GeluForm::Tanh)),
    ] {
        let build = |x: &[Tensor]| layer::gate(x[0].clone(), x[1].clone(), activation);
        check(&[&gate, &up], build, name, &want);
    }
}

#[test]
fn attention_has_groups_windows_caps_masks_and_lengths() {
    let (q, k, v) = (noise(&[2, 4, 3, 8], 1), noise(&[2, 2, 9, 8], 2), noise(&[2, 2, 9, 8], 3));
    let length = Value::scalar(6i64);
    // The second row has nothing but padding before its last query.
    let mask: Vec<bool> = (0..18).map(|i| !(9..14).contains(&i)).collect();
    let mask = Value::bools([2, 9], &mask).expect("a mask");
    for (causal, window, softcap, scale) in [
        (true, None, None, None),
        (true, Some(2), None, Some(0.3)),
        (true, Some(100), Some(0.7), Some(2.0)),
        (false, None, None, None),
        (false, Some(1), None, None),
        (false, Some(3), Some(0.7), None),
        (false, Some(100), None, None),
    ] {
        for (with_length, with_mask) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let layer = Attention { causal, window, scale, softcap };
            let fused = ops::ScaledDotProductAttention {
                causal,
                window: window.map(|w| (w - 1, if causal { 0 } else { w - 1 })),
                scale,
                softcap,
            };
            let want = fused.oracle(ops::AttentionInputs {
                q: &array(&q),
                k: &array(&k),
                v: &array(&v),
                mask: None,
                key_mask: with_mask.then(|| array(&mask)).as_ref(),
                key_length: with_length.then(|| array(&length)).as_ref(),
                sinks: None,
            });
            let build = |x: &[Tensor]| {
                let inputs = AttentionInputs {
                    q: x[0].clone(),
                    k: x[1].clone(),
                    v: x[2].clone(),
                    key_length: with_length.then(|| x[3].clone()),
                    key_mask: with_mask.then(|| x[4].clone()),
                };
                Tensor::block(layer.clone(), inputs)
            };
            let name = "scaled_dot_product_attention";
            check(&[&q, &k, &v, &length, &mask], build, name, &want);
        }
    }
}

#[test]
fn layers_say_what_does_not_fit() {
    let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
    let error = |specs: &[Spec], build: &dyn Fn(&[Tensor]) -> Tensor| {
        Graph::trace(specs, |x| vec![build(x)]).expect_err("a shape error").to_string()
    };
    let norm = error(&[spec(&[2, 8]), spec(&[7])], &|x| {
        layer::rms_norm(&x[0], x[1].clone(), RmsNorm { eps: 1e-6, offset: 0.0 })
    });
    assert!(norm.starts_with("[nn.rms_norm] weight must be [8] for x f32[2, 8], got f32[7]"));
    let gate = error(&[spec(&[2, 8]), spec(&[2, 7])], &|x| {
        layer::gate(x[0].clone(), x[1].clone(), GateActivation::Silu)
    });
    assert!(gate.starts_with("[nn.gate] gate f32[2, 8] and up f32[2, 7] must be equal"), "{gate}");
    let heads = error(&[spec(&[1, 3, 2, 8]), spec(&[1, 2, 2, 8])], &|x| {
        layer::attention(x[0].clone(), x[1].clone(), x[1].clone(), None, true)
    });
    assert!(heads.starts_with("[nn.attention] q f32[1, 3, 2, 8], k"), "{heads}");
    let positions = [spec(&[1, 2, 1, 8]), Spec::new(DType::I64, [1, 3])];
    let rope = error(&positions, &|x| {
        let layout = RopeLayout::Split;
        let rope = Rope { dims: 8, base: 1e4, scale: 1.0, amplitude: 1.0, layout };
        layer::rope(x[0].clone(), &x[1], None, rope)
    });
    assert!(rope.contains("position_ids must be integers [1, 2], got i64[1, 3]"), "{rope}");
}
