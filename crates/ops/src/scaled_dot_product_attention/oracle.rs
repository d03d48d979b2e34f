//! Attention in float64, one query row after the other.

use super::{AttentionInputs, ScaledDotProductAttention};
use crate::Array;

pub(super) fn attention(o: &ScaledDotProductAttention, i: AttentionInputs<&Array>) -> Array {
    let [b, h, t, d] = [0, 1, 2, 3].map(|a| i.q.shape[a]);
    let (heads, s, dv) = (i.k.shape[1], i.k.shape[2], i.v.shape[3]);
    // A float mask is told from a boolean one by holding anything but 0 and 1: cases see to it.
    let boolean = |m: &Array| m.data.iter().all(|&x| x == 0.0 || x == 1.0);
    let mut y = Array::zeros(&[b, h, t, dv]);
    for (row, out) in y.data.chunks_mut(dv).enumerate() {
        let (n, head, r) = (row / (h * t), row / t % h, row % t);
        let kv = (n * heads + head / (h / heads)) * s;
        let length = match i.key_length {
            Some(l) => l.data[n % l.data.len()] as i64,
            None => s as i64,
        };
        let at = length - t as i64 + r as i64;
        let mut scores: Vec<(usize, f64)> = Vec::new();
        for j in 0..s {
            let c = j as i64;
            let mut keep = c < length && (!o.causal || c <= at);
            if let Some((left, right)) = o.window {
                keep &= c >= at - left as i64 && c <= at + right as i64;
            }
            keep &= i.key_mask.is_none_or(|m| m.data[n * s + j] != 0.0);
            if !keep {
                continue;
            }
            let (q, k) = (&i.q.data[row * d..][..d], &i.k.data[(kv + j) * d..][..d]);
            let dot: f64 = q.iter().zip(k).map(|(a, b)| a * b).sum();
            let mut score = dot * o.scale.unwrap_or((d as f64).powf(-0.5));
            if let Some(c) = o.softcap {
                score = c * (score / c).tanh();
            }
            match i.mask {
                Some(m) if boolean(m) && m.at(&[n, head, r, j]) == 0.0 => continue,
                Some(m) if boolean(m) => {}
                Some(m) if m.at(&[n, head, r, j]) == f64::NEG_INFINITY => continue,
                Some(m) => score += m.at(&[n, head, r, j]),
                None => {}
            }
            scores.push((j, score));
        }
        let sink = i.sinks.map_or(f64::NEG_INFINITY, |z| z.data[head]);
        let top = scores.iter().fold(sink, |m, s| m.max(s.1));
        if scores.is_empty() || top == f64::NEG_INFINITY {
            continue;
        }
        let z: f64 = scores.iter().map(|s| (s.1 - top).exp()).sum::<f64>() + (sink - top).exp();
        for (j, score) in scores {
            let p = (score - top).exp() / z;
            let v = &i.v.data[(kv + j) * dv..][..dv];
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
        }
    }
    y
}
