//! Attention of random shapes with random masks, against float64 one row after the other.

use super::*;

/// A random case; operands are made from `seed`.
#[derive(Clone, Debug)]
struct Sample {
    batch: usize,
    key_heads: usize,
    group: usize,
    queries: usize,
    keys: usize,
    head: usize,
    value: usize,
    causal: bool,
    window: Option<(usize, usize)>,
    softcap: Option<f32>,
    /// Which axes of `[B, H, T, S]` the mask has, and whether it is boolean.
    mask: Option<([bool; 4], bool)>,
    key_mask: bool,
    key_length: Option<f64>,
    sinks: bool,
    seed: u64,
}

fn sample() -> impl Strategy<Value = Sample> {
    let sizes = (1usize..3, 1usize..3, 1usize..5, 1usize..40, 0usize..600, 1usize..70, 1usize..70);
    let window = proptest::option::of((0usize..300, 0usize..40));
    let options = (any::<bool>(), window, proptest::option::of(1f32..20.0));
    let masks = (
        proptest::option::of((any::<[bool; 4]>(), any::<bool>())),
        any::<bool>(),
        proptest::option::of(0f64..1.1),
        any::<bool>(),
        any::<u64>(),
    );
    (sizes, options, masks).prop_map(|(n, o, m)| Sample {
        batch: n.0,
        key_heads: n.1,
        group: n.2,
        // Few queries as often as many: they take other ways.
        queries: if n.3 < 20 { 1 + n.3 / 10 } else { n.3 * n.3 / 20 },
        keys: n.4,
        head: n.5,
        value: n.6,
        causal: o.0,
        window: o.1,
        softcap: o.2,
        mask: m.0,
        key_mask: m.1,
        key_length: m.2,
        sinks: m.3,
        seed: m.4,
    })
}

/// A small generator of its own (xorshift).
struct Random(u64);

impl Random {
    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn many(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * size).collect()
    }
}

/// Attention as it is defined, in float64.
fn expected(a: &Attention<'_, f32>) -> Array {
    let Sizes { batch, heads, key_heads, queries, keys, head, value } = a.sizes();
    let mut y = Array::zeros(&[batch, heads, queries, value]);
    for b in 0..batch {
        let length = a.key_length.map_or(keys as i64, |l| l[b % l.len()].clamp(0, keys as i64));
        for h in 0..heads {
            for t in 0..queries {
                let at = length - queries as i64 + t as i64;
                let kv = |j: usize| (b * key_heads + h / (heads / key_heads)) * keys + j;
                let row = (b * heads + h) * queries + t;
                let mut scores = Vec::new();
                for j in 0..keys {
                    let c = j as i64;
                    let mut kept = c < length && (!a.causal || c <= at);
                    kept &= a.key_mask.is_none_or(|m| m[b * keys + j] != 0);
                    if let Some((left, right)) = a.window {
                        kept &= c >= at - left as i64 && c <= at + right as i64;
                    }
                    if !kept {
                        continue;
                    }
                    let q = &a.q.data[row * head..][..head];
                    let k = &a.k.data[kv(j) * head..][..head];
                    let dot: f64 =
                        q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let mut x = dot * f64::from(a.scale);
                    if let Some(cap) = a.softcap.map(f64::from) {
                        x = cap * (x / cap).tanh();
                    }
                    if let Some(m) = a.mask {
                        let at =
                            [b, h, t, j].iter().zip(m.strides).map(|(i, s)| i * s).sum::<usize>();
                        x += match m.data {
                            MaskData::Bool(m) if m[at] == 0 => f64::NEG_INFINITY,
                            MaskData::Bool(_) => 0.0,
                            MaskData::F32(m) => f64::from(m[at]),
                            MaskData::F16(m) => m[at].to_f64(),
                            MaskData::BF16(m) => m[at].to_f64(),
                        };
                    }
                    if x > f64::NEG_INFINITY {
                        scores.push((j, x));
                    }
                }
                let sink = a.sinks.map_or(f64::NEG_INFINITY, |z| f64::from(z[h]));
                let top = scores.iter().fold(sink, |top, s| top.max(s.1));
                if scores.is_empty() {
                    continue;
                }
                let sum =
                    scores.iter().map(|s| (s.1 - top).exp()).sum::<f64>() + (sink - top).exp();
                for (j, x) in scores {
                    let weight = (x - top).exp() / sum;
                    let v = &a.v.data[kv(j) * value..][..value];
                    let y = &mut y.data[row * value..][..value];
                    y.iter_mut().zip(v).for_each(|(y, &v)| *y += weight * f64::from(v));
                }
            }
        }
    }
    y
}

/// Holds a sample against float64, with this number of keys if it is given.
fn check(s: &Sample, length: Option<i64>) {
    let mut random = Random(s.seed | 1);
    let heads = s.key_heads * s.group;
    let (q, k) = ([s.batch, heads, s.queries, s.head], [s.batch, s.key_heads, s.keys, s.head]);
    let v = [s.batch, s.key_heads, s.keys, s.value];
    let [q_data, mut k_data, mut v_data] = [q, k, v].map(|n| random.many(n.iter().product(), 2.0));
    let lengths: Option<Vec<i64>> = s.key_length.map(|part| {
        let mut length = || (s.keys as f64 * part * f64::from(random.next().abs())) as i64;
        (0..s.batch).map(|_| length()).collect()
    });
    let lengths = length.map(|n| vec![n; s.batch]).or(lengths);
    // Keys and values past the length are NaN.
    if let Some(l) = &lengths {
        for (n, data) in [(k, &mut k_data), (v, &mut v_data)] {
            each_row(n, |row, [b, _, j]| {
                if j as i64 >= l[b] {
                    data[row * n[3]..][..n[3]].fill(f32::NAN);
                }
            });
        }
    }
    let axes = s.mask.map_or([false; 4], |m| m.0);
    let full = [s.batch, heads, s.queries, s.keys];
    let shape: [usize; 4] = std::array::from_fn(|i| if axes[i] { full[i] } else { 1 });
    let mut numbers = random.many(shape.iter().product(), 3.0);
    numbers.iter_mut().filter(|x| **x < -2.0).for_each(|x| *x = f32::NEG_INFINITY);
    let bools: Vec<u8> = numbers.iter().map(|&x| (x > -1.0) as u8).collect();
    let mask = s.mask.map(|(_, boolean)| Mask {
        data: if boolean { MaskData::Bool(&bools) } else { MaskData::F32(&numbers) },
        strides: broadcast(&shape),
    });
    let key_mask: Vec<u8> =
        (0..s.batch * s.keys).map(|i| (random.next() < 0.5 && i % 7 > 1) as u8).collect();
    let sinks = random.many(heads, 3.0);
    let attention = Attention {
        q: Grid::dense(&q_data, q),
        k: Grid::dense(&k_data, k),
        v: Grid::dense(&v_data, v),
        mask,
        key_mask: s.key_mask.then_some(&key_mask),
        key_length: lengths.as_deref(),
        sinks: s.sinks.then_some(&sinks),
        scale: 1.0 / (s.head as f32).sqrt(),
        causal: s.causal,
        window: s.window,
        softcap: s.softcap,
    };
    let want = expected(&attention);
    attend_everywhere(&attention, |got| assert_close("a row", got, &want, 1e-5, 4e-6));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn attention_of_any_shape_with_any_masks_is_that_of_float64(s in sample()) {
        check(&s, None);
    }
}

#[test]
fn few_keys_in_room_for_many_are_cut_into_parts_that_make_up_the_whole() {
    let rows = [(1, false, None), (3, true, None), (1, false, Some((90, 5))), (40, true, None)];
    for (queries, causal, window) in rows {
        for length in [0, 1, 127, 128, 129, 200, 300, 700, 2048] {
            let s = Sample {
                batch: 1,
                key_heads: 1,
                group: if queries == 1 { 3 } else { 1 },
                queries,
                keys: 2048,
                head: 24,
                value: 17,
                causal,
                window,
                softcap: None,
                mask: None,
                key_mask: false,
                key_length: None,
                sinks: true,
                seed: 77,
            };
            check(&s, Some(length));
        }
    }
}
