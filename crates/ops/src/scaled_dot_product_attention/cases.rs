//! The cases of attention.

use super::{AttentionInputs, ScaledDotProductAttention as Sdpa};
use crate::{
    Case,
    catalogue::{Operand, integers, mapped, normal},
};
use frit_graph::DType;

type Inputs = AttentionInputs<Operand>;

/// `[B, H, K, T, S, D]`.
fn make(name: &'static str, why: &'static str, n: [usize; 6], block: Sdpa) -> Case<Sdpa> {
    let [b, h, k, t, s, d] = n;
    let inputs = AttentionInputs {
        q: normal(&[b, h, t, d]),
        k: normal(&[b, k, s, d]),
        v: normal(&[b, k, s, d]),
        mask: None,
        key_mask: None,
        key_length: None,
        sinks: None,
    };
    Case::new(name, why, block, inputs)
}

fn with(mut case: Case<Sdpa>, f: impl FnOnce(&mut Inputs)) -> Case<Sdpa> {
    f(&mut case.inputs);
    case
}

/// A scattered choice that keeps column 0.
fn scattered(at: &[usize]) -> bool {
    let mix: usize = at.iter().fold(17, |h, &i| h.wrapping_mul(31).wrapping_add(i * 7 + 3));
    at[at.len() - 1] == 0 || mix % 5 < 3
}

fn keep(at: &[usize], _: f64) -> f64 {
    scattered(at) as u8 as f64
}

fn keep_but_row_2(at: &[usize], _: f64) -> f64 {
    (scattered(at) && at[at.len() - 2] != 2) as u8 as f64
}

fn minus_inf(at: &[usize], x: f64) -> f64 {
    if scattered(at) { x } else { f64::NEG_INFINITY }
}

fn minus_inf_and_dead(at: &[usize], x: f64) -> f64 {
    if at[at.len() - 2] == 2 { f64::NEG_INFINITY } else { minus_inf(at, x) }
}

fn finite_minimum(at: &[usize], _: f64) -> f64 {
    if scattered(at) { 0.0 } else { -3.3e38 }
}

fn boolean(shape: &[usize], f: fn(&[usize], f64) -> f64) -> Option<Operand> {
    Some(mapped(shape, f).of(DType::Bool))
}

pub(super) fn cases() -> Vec<Case<Sdpa>> {
    let plain = Sdpa::default;
    let causal = || Sdpa { causal: true, ..Sdpa::default() };
    let mut all = vec![
        make("plain", "no mask", [2, 4, 4, 9, 9, 64], plain()).floats(),
        make("causal_gqa", "4 query heads a key head", [1, 8, 2, 17, 33, 64], causal()).floats(),
        make("decode", "one query, cached keys", [2, 4, 4, 1, 77, 64], plain()).floats(),
        make("decode_gqa", "one query, grouped heads", [2, 9, 3, 1, 130, 64], causal()).floats(),
        make("mqa", "all heads share one key head", [1, 6, 1, 5, 11, 32], plain()),
        make("causal_square", "prefill", [1, 2, 2, 65, 65, 64], causal()).floats(),
        make("causal_more_queries", "first rows see no key", [1, 1, 1, 6, 4, 8], causal()),
        with(make("value_width", "wider values", [1, 2, 2, 5, 7, 16], plain()), |i| {
            i.v = normal(&[1, 2, 7, 24]);
        })
        .floats(),
        with(make("narrow_values", "narrower values", [1, 2, 2, 5, 7, 16], plain()), |i| {
            i.v = normal(&[1, 2, 7, 3]);
        }),
        make("head_dim_40", "not a multiple of 16", [1, 2, 2, 9, 19, 40], plain()).floats(),
        make("head_dim_1", "the narrowest head", [1, 1, 1, 3, 3, 1], plain()),
        make("head_dim_256", "a wide head", [1, 2, 1, 4, 37, 256], plain()).floats(),
        make("explicit_scale", "scale given", [1, 2, 2, 4, 4, 16], Sdpa {
            scale: Some(0.7),
            ..plain()
        }),
        make("long_keys", "more than one key block", [1, 2, 2, 3, 1500, 64], plain()).floats(),
        make("tile_tails", "no multiple of a tile", [1, 2, 2, 127, 129, 64], plain()).floats(),
        make("tile_tails_causal", "no multiple of a tile", [1, 4, 2, 131, 261, 24], causal()),
        with(make("bool_mask", "true keeps", [2, 3, 3, 6, 10, 16], plain()), |i| {
            i.mask = boolean(&[1, 1, 6, 10], keep);
        })
        .floats(),
        with(make("bool_mask_rank_2", "[T, S]", [2, 3, 3, 6, 10, 16], causal()), |i| {
            i.mask = boolean(&[6, 10], keep);
        }),
        with(make("bool_mask_dead_row", "zeros, not NaN", [1, 2, 2, 6, 10, 16], plain()), |i| {
            i.mask = boolean(&[1, 1, 6, 10], keep_but_row_2);
        })
        .floats(),
        with(make("bool_mask_per_head", "full-size", [2, 4, 2, 5, 6, 16], plain()), |i| {
            i.mask = boolean(&[2, 4, 5, 6], keep);
        }),
        with(make("bool_mask_per_key", "[B, 1, 1, S]", [2, 4, 2, 70, 300, 16], plain()), |i| {
            i.mask = boolean(&[2, 1, 1, 300], keep);
        }),
        with(make("additive_mask", "added", [2, 3, 3, 6, 10, 16], plain()), |i| {
            i.mask = Some(normal(&[2, 1, 6, 10]));
        })
        .floats(),
        with(make("additive_f32", "mask of its own type", [1, 4, 2, 70, 90, 16], causal()), |i| {
            i.mask = Some(normal(&[1, 4, 70, 90]).of(DType::F32));
        })
        .floats(),
        with(make("additive_minus_inf", "-inf removes", [1, 2, 2, 6, 10, 16], plain()), |i| {
            i.mask = Some(mapped(&[1, 1, 6, 10], minus_inf));
        }),
        with(make("additive_dead_row", "all -inf", [1, 2, 2, 6, 10, 16], plain()), |i| {
            i.mask = Some(mapped(&[1, 1, 6, 10], minus_inf_and_dead));
        }),
        Case {
            dtypes: &[DType::F32, DType::BF16],
            ..with(make("finite_minimum", "plain arithmetic", [1, 2, 2, 4, 6, 32], plain()), |i| {
                i.mask = Some(mapped(&[1, 1, 4, 6], finite_minimum));
            })
        },
        with(make("key_mask", "left-padded batch", [2, 2, 2, 5, 5, 16], causal()), |i| {
            i.key_mask = boolean(&[2, 5], |at, _| (at[0] == 1 || at[1] > 1) as u8 as f64);
        })
        .floats(),
        with(make("key_mask_integer", "0 and 1", [2, 2, 2, 5, 5, 16], plain()), |i| {
            i.key_mask = Some(integers(&[2, 5], &[0, 0, 1, 1, 1, 1, 1, 1, 1, 1]));
        }),
        with(make("key_mask_dead_rows", "zeros", [1, 2, 1, 4, 4, 16], causal()), |i| {
            i.key_mask = boolean(&[1, 4], |at, _| (at[1] > 1) as u8 as f64);
        }),
        with(make("key_mask_chunk", "aligned to the end", [2, 2, 2, 3, 8, 16], causal()), |i| {
            i.key_mask = boolean(&[2, 8], |at, _| (at[0] == 1 || at[1] > 1) as u8 as f64);
        }),
        with(make("cache_decode", "37 of 64", [1, 4, 2, 1, 64, 32], causal()), |i| {
            i.key_length = Some(integers(&[], &[37]));
        })
        .floats(),
        with(make("cache_rows", "NaN behind", [3, 4, 4, 1, 40, 16], causal()), |i| {
            i.key_length = Some(integers(&[3], &[1, 17, 40]));
            let garbage: fn(&[usize], f64) -> f64 =
                |at, x| if at[2] >= [1, 17, 40][at[0]] { f64::NAN } else { x };
            i.k = mapped(&[3, 4, 40, 16], garbage);
            i.v = mapped(&[3, 4, 40, 16], garbage);
        })
        .floats(),
        with(make("cache_prefill_chunk", "5 at 20 of 32", [2, 2, 1, 5, 32, 16], causal()), |i| {
            i.key_length = Some(integers(&[], &[20]));
        }),
        with(make("cache_window", "window over a cache", [1, 2, 1, 2, 300, 16], Sdpa {
            window: Some((40, 0)),
            ..causal()
        }), |i| i.key_length = Some(integers(&[], &[211]))),
        with(make("cache_empty", "no key yet", [2, 2, 2, 1, 8, 16], plain()), |i| {
            i.key_length = Some(integers(&[2], &[0, 3]));
            let garbage: fn(&[usize], f64) -> f64 =
                |at, x| if at[2] >= [0, 3][at[0]] { f64::NAN } else { x };
            i.k = mapped(&[2, 2, 8, 16], garbage);
            i.v = mapped(&[2, 2, 8, 16], garbage);
        }),
        with(make("sinks", "denominator only", [1, 4, 4, 5, 8, 16], plain()), |i| {
            i.sinks = Some(mapped(&[4], |at, _| [0.1, -0.2, 3.0, 0.0][at[0]]));
        })
        .floats(),
        with(make("sinks_gqa_causal", "one a query head", [2, 8, 4, 3, 6, 16], causal()), |i| {
            i.sinks = Some(mapped(&[8], |at, _| 0.25 * at[0] as f64 - 0.5));
        }),
        with(make("sinks_minus_inf", "no sink", [1, 2, 2, 4, 4, 8], plain()), |i| {
            i.sinks = Some(mapped(&[2], |at, _| [f64::NEG_INFINITY, 1.0][at[0]]));
        }),
        with(make("sinks_dead_row", "a sink but no key", [1, 2, 2, 6, 10, 16], plain()), |i| {
            i.mask = boolean(&[1, 1, 6, 10], keep_but_row_2);
            i.sinks = Some(mapped(&[2], |at, _| [1.0, -1.0][at[0]]));
        }),
        make("window", "sliding, causal", [1, 2, 2, 12, 12, 16], Sdpa {
            window: Some((3, 0)),
            ..causal()
        })
        .floats(),
        make("window_both_sides", "local", [1, 2, 2, 12, 12, 16], Sdpa {
            window: Some((2, 2)),
            ..plain()
        }),
        make("window_long", "skipped blocks", [1, 2, 2, 200, 400, 16], Sdpa {
            window: Some((30, 5)),
            ..plain()
        }),
        make("softcap", "capped scores", [1, 2, 2, 6, 6, 16], Sdpa {
            softcap: Some(5.0),
            ..causal()
        })
        .floats(),
        with(make("large_logits", "in the thousands", [1, 1, 1, 4, 4, 8], plain()), |i| {
            for x in [&mut i.q, &mut i.k, &mut i.v] {
                *x = normal(&[1, 1, 4, 8]).normal(0.0, 30.0);
            }
        })
        .within(1e-3, 1e-3),
    ];
    let bench = |name, why, n, block| make(name, why, n, block).bench();
    all.extend([
        bench("sdpa_block", "a block", [2, 8, 8, 128, 128, 64], plain()),
        bench("sdpa_whisper_encoder", "30 s of audio", [1, 6, 6, 1500, 1500, 64], plain()),
        bench("sdpa_prefill_causal", "a prompt", [1, 12, 12, 512, 512, 64], causal()),
        bench("sdpa_prefill_gqa", "grouped heads", [1, 16, 8, 1024, 1024, 128], causal()),
        bench("sdpa_decode_gqa", "one token", [1, 16, 8, 1, 4096, 128], plain()),
        bench("sdpa_decode_mha", "one token", [1, 32, 32, 1, 2048, 64], plain()),
        with(bench("sdpa_additive_mask", "added", [1, 12, 12, 384, 384, 64], plain()), |i| {
            i.mask = Some(normal(&[1, 1, 384, 384]));
        }),
        with(bench("sdpa_key_padding", "a padded batch", [8, 12, 12, 128, 128, 32], plain()), |i| {
            i.mask = boolean(&[8, 1, 128, 128], |at, _| (at[3] >= 32) as u8 as f64);
        }),
    ]);
    all
}
