//! Rotations by tables that nothing is known of: how exporters spell them, and what is none.

use crate::{
    near_misses::{self, miss},
    spellings::{self, constant, rotate_half, spelling},
};
use frit_graph::Tensor;
use frit_ops::catalogue::{integers, normal};

const SPLIT: &[&str] = &["ApplyRope { layout: Split, sequence_axis: SecondLast }"];
const SPLIT_BTHD: &[&str] = &["ApplyRope { layout: Split, sequence_axis: ThirdLast }"];
const PAIRS: &[&str] = &["ApplyRope { layout: Interleaved, sequence_axis: SecondLast }"];
const PAIRS_BTHD: &[&str] = &["ApplyRope { layout: Interleaved, sequence_axis: ThirdLast }"];

/// A table beside itself.
fn doubled(t: &Tensor) -> Tensor {
    Tensor::concat(&[t, t], -1)
}

/// `repeat_interleave(2)`.
fn repeated(t: &Tensor) -> Tensor {
    let (mut wide, mut flat) = (t.shape().to_vec(), t.shape().to_vec());
    wide.push(2);
    *flat.last_mut().expect("an axis") *= 2;
    t.unsqueeze(-1).broadcast_to(&wide).reshape(&flat)
}

/// GPT-J: `(-b, a)` of neighbours.
fn rotate_every_two(x: &Tensor) -> Tensor {
    let n = x.shape()[x.rank() - 1] / 2;
    let (a, b) = (x.slice_step(-1, 0, 2, n), x.slice_step(-1, 1, 2, n));
    Tensor::concat(&[&(-b).unsqueeze(-1), &a.unsqueeze(-1)], -1).reshape(x.shape())
}

fn halves(x: &Tensor) -> [Tensor; 2] {
    let n = x.shape()[x.rank() - 1] / 2;
    [x.slice(-1, 0..n), x.slice(-1, n..2 * n)]
}

/// Halves by four products.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let [a, b] = halves(x);
    Tensor::concat(&[&(&a * cos - &b * sin), &(&b * cos + &a * sin)], -1)
}

#[test]
fn halves_are_found_with_tables_of_any_place() {
    let x = normal(&[2, 3, 5, 16]);
    let with = |x: &[usize], cos: &[usize], sin: &[usize]| [x, cos, sin].map(normal);
    spellings::check(vec![
        spelling("transformers", &with(&[2, 3, 5, 16], &[2, 5, 8], &[2, 5, 8]), SPLIT, |x| {
            let (cos, sin) = (doubled(&x[1]).unsqueeze(1), doubled(&x[2]).unsqueeze(1));
            &x[0] * cos + rotate_half(&x[0]) * sin
        }),
        spelling("angles of any origin, scaled", &[x.clone(), normal(&[5, 8])], SPLIT, |x| {
            let f = doubled(&x[1]);
            &x[0] * (f.cos() * 1.2) + rotate_half(&x[0]) * (f.sin() * 1.2)
        }),
        spelling("four products", &with(&[2, 3, 5, 16], &[5, 8], &[1, 1, 5, 8]), SPLIT, |x| {
            turned(&x[0], &x[1], &x[2])
        }),
        spelling(
            "tables of a batch and of none",
            &with(&[2, 3, 5, 16], &[5, 8], &[2, 1, 5, 8]),
            SPLIT,
            |x| turned(&x[0], &x[1], &x[2]),
        ),
        spelling("[B, T, H, D]", &with(&[2, 5, 3, 16], &[5, 1, 8], &[5, 1, 8]), SPLIT_BTHD, |x| {
            turned(&x[0], &x[1], &x[2])
        }),
        spelling(
            "as many heads as tokens",
            &with(&[2, 5, 5, 16], &[5, 1, 8], &[5, 1, 8]),
            SPLIT_BTHD,
            |x| turned(&x[0], &x[1], &x[2]),
        ),
        spelling("one token", &with(&[2, 3, 1, 16], &[2, 1, 8], &[2, 1, 8]), SPLIT, |x| {
            turned(&x[0], &x[1].unsqueeze(1), &x[2].unsqueeze(1))
        }),
        spelling("no batch", &with(&[5, 3, 16], &[5, 1, 8], &[5, 1, 8]), SPLIT_BTHD, |x| {
            turned(&x[0], &x[1], &x[2])
        }),
        spelling("no heads", &with(&[5, 16], &[5, 8], &[5, 8]), SPLIT, |x| {
            turned(&x[0], &x[1], &x[2])
        }),
        spelling("a number for each token", &with(&[2, 3, 5, 16], &[5, 1], &[5, 1]), SPLIT, |x| {
            &x[0] * &x[1] + rotate_half(&x[0]) * &x[2]
        }),
        spelling("the same for all tokens", &with(&[2, 3, 5, 16], &[8], &[8]), SPLIT, |x| {
            turned(&x[0], &x[1], &x[2])
        }),
        spelling(
            "cosines and sines are parts of one table",
            &[x.clone(), normal(&[5, 16])],
            SPLIT,
            |x| {
                let [sin, cos] = halves(&x[1]);
                turned(&x[0], &cos, &sin)
            },
        ),
        spelling("tables that are tiled", &with(&[2, 3, 5, 16], &[5, 8], &[5, 8]), SPLIT, |x| {
            let tile = |t: &Tensor| t.unsqueeze(1).broadcast_to(&[5, 2, 8]).reshape(&[5, 16]);
            &x[0] * tile(&x[1]) + rotate_half(&x[0]) * tile(&x[2])
        }),
        spelling(
            "numbers that positions choose from",
            &[x, integers(&[2, 5], &[0, 1, 2, 3, 4, 7, 8, 9, 10, 11])],
            &["Embedding", "Embedding", "ApplyRope { layout: Split, sequence_axis: SecondLast }"],
            |x| {
                let stored = |k: f64| {
                    let t = constant(&[12, 16], |at| {
                        (at[0] as f64 * 1.7 + (at[1] % 8) as f64 * k).sin()
                    });
                    t.gather(0, &x[1]).unsqueeze(1)
                };
                &x[0] * stored(0.9) + rotate_half(&x[0]) * stored(2.3)
            },
        ),
        spelling("the rest is copied", &with(&[2, 3, 5, 20], &[5, 8], &[5, 8]), SPLIT, |x| {
            let turn = x[0].slice(-1, 0..16);
            let y = &turn * doubled(&x[1]) + rotate_half(&turn) * doubled(&x[2]);
            Tensor::concat(&[&y, &x[0].slice(-1, 16..20)], -1)
        }),
    ]);
}

#[test]
fn neighbours_are_found_with_tables_of_any_place() {
    let with = |x: &[usize], cos: &[usize], sin: &[usize]| [x, cos, sin].map(normal);
    spellings::check(vec![
        spelling("GPT-J", &with(&[2, 5, 3, 16], &[2, 5, 8], &[2, 5, 8]), PAIRS_BTHD, |x| {
            let table = |t: &Tensor| repeated(&t.unsqueeze(2));
            &x[0] * table(&x[1]) + rotate_every_two(&x[0]) * table(&x[2])
        }),
        spelling("a stack of two", &with(&[2, 3, 5, 16], &[5, 8], &[5, 8]), PAIRS, |x| {
            let stack = |t: &Tensor| {
                let t = t.unsqueeze(-1);
                Tensor::concat(&[&t, &t], -1).reshape(&[5, 16])
            };
            &x[0] * stack(&x[1]) + rotate_every_two(&x[0]) * stack(&x[2])
        }),
        spelling("by reshapes", &with(&[2, 3, 5, 16], &[5, 8], &[5, 8]), PAIRS, |x| {
            let p = x[0].reshape(&[2, 3, 5, 8, 2]);
            let (a, b) = (p.slice(-1, 0..1).squeeze(-1), p.slice(-1, 1..2).squeeze(-1));
            let (u, v) = (&a * &x[1] - &b * &x[2], &x[2] * a + &x[1] * b);
            Tensor::concat(&[&u.unsqueeze(-1), &v.unsqueeze(-1)], -1).reshape(&[2, 3, 5, 16])
        }),
        spelling(
            "by strides, a part of the head",
            &with(&[2, 3, 5, 20], &[2, 1, 5, 8], &[5, 8]),
            PAIRS,
            |x| {
                let (a, b) = (x[0].slice_step(-1, 0, 2, 8), x[0].slice_step(-1, 1, 2, 8));
                let (u, v) = (&a * &x[1] - &b * &x[2], &a * &x[2] + &b * &x[1]);
                let y = Tensor::concat(&[&u.unsqueeze(-1), &v.unsqueeze(-1)], -1);
                Tensor::concat(&[&y.reshape(&[2, 3, 5, 16]), &x[0].slice(-1, 16..20)], -1)
            },
        ),
    ]);
}

#[test]
fn what_is_no_rotation_by_tables_stays() {
    let never = "ApplyRope";
    let with = |x: &[usize], cos: &[usize], sin: &[usize]| [x, cos, sin].map(normal);
    let narrow = with(&[2, 3, 5, 16], &[5, 8], &[5, 8]);
    near_misses::check(vec![
        miss(
            "columns that may differ",
            &with(&[2, 3, 5, 16], &[5, 16], &[5, 16]),
            never,
            Some("not known to be 8 twice"),
            |x| vec![&x[0] * &x[1] + rotate_half(&x[0]) * &x[2]],
        ),
        miss("one half by the other table", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let (u, v) = (&a * &x[1] - &b * &x[2], &a * &x[2] + &b * &x[2]);
            vec![Tensor::concat(&[&u, &v], -1)]
        }),
        miss("tables exchanged in one half", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let (u, v) = (&a * &x[1] - &b * &x[2], &a * &x[1] + &b * &x[2]);
            vec![Tensor::concat(&[&u, &v], -1)]
        }),
        miss("a wrong sign", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let (u, v) = (&a * &x[1] + &b * &x[2], &a * &x[2] + &b * &x[1]);
            vec![Tensor::concat(&[&u, &v], -1)]
        }),
        miss("the sign in the other half", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let (u, v) = (&a * &x[1] + &b * &x[2], &b * &x[1] - &a * &x[2]);
            vec![Tensor::concat(&[&u, &v], -1)]
        }),
        miss("halves put back exchanged", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let (u, v) = (&a * &x[1] - &b * &x[2], &a * &x[2] + &b * &x[1]);
            vec![Tensor::concat(&[&v, &u], -1)]
        }),
        miss("nothing is negated", &narrow, never, None, |x| {
            let [a, b] = halves(&x[0]);
            let r = Tensor::concat(&[&b, &a], -1);
            vec![&x[0] * doubled(&x[1]) + r * doubled(&x[2])]
        }),
        miss(
            "halves of two tensors",
            &[normal(&[2, 3, 5, 16]), normal(&[2, 3, 5, 16]), normal(&[5, 8])],
            never,
            None,
            |x| {
                let ([a, _], [_, b]) = (halves(&x[0]), halves(&x[1]));
                let (u, v) = (&a * &x[2] - &b * &x[2].exp(), &a * &x[2].exp() + &b * &x[2]);
                vec![Tensor::concat(&[&u, &v], -1)]
            },
        ),
        miss(
            "a table for each head",
            &with(&[2, 3, 5, 16], &[3, 5, 8], &[3, 5, 8]),
            never,
            Some("run along other axes"),
            |x| vec![turned(&x[0], &x[1], &x[2])],
        ),
        miss(
            "tables along different axes",
            &with(&[2, 5, 5, 16], &[5, 8], &[5, 1, 8]),
            never,
            Some("run along other axes"),
            |x| vec![turned(&x[0], &x[1], &x[2])],
        ),
        miss(
            "sines for halves, cosines for neighbours",
            &narrow,
            never,
            Some("not known to be 8 twice"),
            |x| vec![&x[0] * repeated(&x[1]) + rotate_half(&x[0]) * doubled(&x[2])],
        ),
        miss("halves side by side under neighbours", &narrow, never, Some("8 twice"), |x| {
            vec![&x[0] * doubled(&x[1]) + rotate_every_two(&x[0]) * doubled(&x[2])]
        }),
        miss("two tables side by side", &narrow, never, Some("8 twice"), |x| {
            let both = Tensor::concat(&[&x[1], &x[2]], -1);
            vec![&x[0] * both + rotate_half(&x[0]) * doubled(&x[2])]
        }),
        miss("one stored number differs", &narrow, never, Some("8 twice"), |x| {
            let number = |at: &[usize]| (at[0] * 3 + at[1] % 8) as f64;
            let cos = constant(&[5, 16], |at| number(at) + if at == [3, 9] { 1e-3 } else { 0.0 });
            let cos = cos.sin();
            vec![&x[0] * cos + rotate_half(&x[0]) * doubled(&x[2])]
        }),
        miss("the turned half is needed", &narrow, never, Some("used elsewhere"), |x| {
            let r = rotate_half(&x[0]);
            vec![&x[0] * doubled(&x[1]) + &r * doubled(&x[2]) + &r]
        }),
        miss(
            "the rest is another tensor's",
            &with(&[2, 3, 5, 20], &[5, 8], &[5, 8]),
            "Nothing",
            None,
            |x| {
                let y = turned(&x[0].slice(-1, 0..16), &x[1], &x[2]);
                vec![Tensor::concat(&[&y, &(&x[0] * 2.0).slice(-1, 16..20)], -1)]
            },
        ),
    ]);
}
