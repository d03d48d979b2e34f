//! Every encoding, instruction set and number of rows against float64.

use super::*;
use crate::simd::available;
use frit_graph::DType;
use frit_ops::catalogue;

const ALL: &[Encoding] = &[
    Encoding::Affine { bits: 2, group_size: 32 },
    Encoding::Affine { bits: 4, group_size: 128 },
    Encoding::Affine { bits: 8, group_size: 64 },
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q8_0,
    Encoding::Q4K,
    Encoding::Q5K,
    Encoding::Q6K,
];

/// A random packed matrix and its numbers by the scalar code of the catalogue.
struct Packed {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
    encoding: Encoding,
    rows: usize,
    numbers: Vec<f32>,
}

impl Packed {
    fn new(encoding: Encoding, rows: usize, width: usize) -> Packed {
        let operand = catalogue::packed(encoding, &[rows], width);
        let bytes = operand.value(DType::F32, 5).bytes().to_vec();
        let mut numbers = vec![0.0; rows * width];
        let groups = rows * width / encoding.block_len();
        let wave = |i: usize, by: f32| ((i * 31 % 17) as f32 - 8.0) * by;
        let scales: Vec<f32> = (0..groups).map(|i| wave(i, 0.01)).collect();
        let biases: Vec<f32> = (0..groups).map(|i| wave(i + 5, 0.03)).collect();
        match encoding {
            Encoding::Affine { .. } => {
                encoding.unpack_affine(&bytes, &scales, Some(&biases), &mut numbers)
            }
            _ => encoding.unpack(&bytes, &mut numbers),
        }
        .expect("whole blocks");
        Packed { bytes, scales, biases, encoding, rows, numbers }
    }

    fn weight(&self) -> Weight<'_> {
        let (scales, biases) = match self.encoding {
            Encoding::Affine { .. } => (Numbers::F32(&self.scales), Numbers::F32(&self.biases)),
            _ => (Numbers::None, Numbers::None),
        };
        Weight::new(self.encoding, &self.bytes, scales, biases, self.rows)
    }
}

fn activations(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0) * 1.7).collect()
}

/// Memory that is aligned as kernels expect.
fn scratch(bytes: usize) -> Vec<u128> {
    vec![0; bytes.div_ceil(16) + 4]
}

fn aligned(words: &mut [u128], bytes: usize) -> &mut [u8] {
    let skip = words.as_ptr().align_offset(64);
    &mut bytemuck::cast_slice_mut(&mut words[skip..])[..bytes]
}

#[test]
fn every_encoding_unpacks_to_the_very_numbers_on_every_instruction_set() {
    for &encoding in ALL {
        let packed = Packed::new(encoding, 5, 768);
        for &isa in available() {
            let mut got = vec![f32::NAN; packed.numbers.len()];
            dequantize(isa, &Pool::new(2), &packed.weight(), &mut got);
            assert_eq!(got, packed.numbers, "{encoding} on {isa}");
            let mut narrow = vec![bf16::ZERO; got.len()];
            dequantize(isa, &Pool::new(1), &packed.weight(), &mut narrow);
            let wanted: Vec<bf16> = got.iter().map(|&x| bf16::from_f32(x)).collect();
            assert_eq!(narrow, wanted, "{encoding} on {isa}");
        }
    }
}

/// Largest error as a part of the sum of the absolute products.
fn worst(m: usize, k: usize, x: &[f32], y: &[f32], w: impl Fn(usize, usize) -> f32) -> f64 {
    let n = y.len() / m;
    let mut worst = 0f64;
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w(j, p)));
            let (sum, size) = terms.fold((0.0, 1e-9), |(s, a), t| (s + t, a + t.abs()));
            let error = (f64::from(y[i * n + j]) - sum).abs() / size;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    worst
}

#[test]
fn scales_and_offsets_that_cancel_lose_little_of_activations_with_a_mean() {
    // Symmetric weights of 8 bits count from -128, and activations are positive, as behind a relu.
    let (n, k) = (13, 4096);
    let encoding = Encoding::Affine { bits: 8, group_size: 128 };
    let field = |i: usize| (118 + i * 7919 % 1009 % 21) as u8;
    let bytes: Vec<u8> = (0..n * k).map(field).collect();
    let scales: Vec<f32> = (0..n * k / 128).map(|i| 0.001 + i as f32 * 1e-6).collect();
    let biases: Vec<f32> = scales.iter().map(|s| -128.0 * s).collect();
    let number = |j: usize, p: usize| {
        let i = j * k + p;
        (f32::from(field(i)) - 128.0) * scales[i / 128]
    };
    let (scales, biases) = (Numbers::F32(&scales), Numbers::F32(&biases));
    let weight = Weight::new(encoding, &bytes, scales, biases, n);
    for &isa in available() {
        for m in [1, 5] {
            let x: Vec<f32> = activations(m * k).iter().map(|x| 1.0 + 0.1 * x).collect();
            let shape = LinearShape { m, n, k, x_row: k };
            let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, true);
            let mut words = scratch(bytes);
            let mut y = vec![f32::NAN; m * n];
            let room = aligned(&mut words, bytes);
            matmul(
                isa,
                &Pool::new(2),
                &shape,
                &x,
                (&weight, None, true),
                Combine::Replace,
                &mut y,
                room,
            );
            let error = worst(m, k, &x, &y, number);
            assert!(error < 1e-6, "{m} rows on {isa}: {error:e}");
        }
    }
}

fn interleaved(pool: &Pool, weight: &Weight<'_>) -> Option<Interleaved> {
    Interleaved::takes(weight.encoding).then(|| Interleaved::new(pool, weight))
}

#[test]
fn products_by_digits_lose_no_more_than_sums_in_f32_and_leave_the_rest_to_f32() {
    let (n, k) = (29, 576);
    for encoding in [Encoding::Q4_0, Encoding::Q4_1, Encoding::Q8_0] {
        let packed = Packed::new(encoding, n, k);
        let weight = packed.weight();
        let laid = Interleaved::new(&Pool::new(2), &weight);
        for &isa in available() {
            // One number among the others that is a thousand times as large, and a group of zeros.
            let mut x = activations(2 * k);
            x[70] = 1500.0;
            x[k + 32..k + 64].fill(0.0);
            let shape = LinearShape { m: 2, n, k, x_row: k };
            let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, true);
            let mut words = scratch(bytes);
            let run = |x: &[f32], threads: usize, words: &mut [u128]| {
                let mut y = vec![f32::NAN; 2 * n];
                let room = aligned(words, bytes);
                let laid = Some(&laid);
                matmul(
                    isa,
                    &Pool::new(threads),
                    &shape,
                    x,
                    (&weight, laid, true),
                    Combine::Replace,
                    &mut y,
                    room,
                );
                y
            };
            let y = run(&x, 1, &mut words);
            let error = worst(2, k, &x, &y, |j, p| packed.numbers[j * k + p]);
            // Where the large one meets a zero, scale and offset cancel in f32.
            assert!(error < 3e-6, "{encoding} on {isa}: {error:e}");
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(run(&x, 3, &mut words)), bits(y), "{encoding} on {isa}");
            // Numbers that digits have no scale for.
            let tiny: Vec<f32> = x.iter().map(|x| x * 1e-36).collect();
            let y: Vec<f32> = run(&tiny, 2, &mut words).iter().map(|y| y * 1e30).collect();
            let larger: Vec<f32> = tiny.iter().map(|x| x * 1e30).collect();
            let error = worst(2, k, &larger, &y, |j, p| packed.numbers[j * k + p]);
            assert!(error < 1e-5, "{encoding} on {isa}: {error:e}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = x.clone();
                x[k + 40] = bad;
                let y = run(&x, 2, &mut words);
                assert!(y[..n].iter().all(|y| y.is_finite()), "{isa}: {bad}");
                assert!(y[n..].iter().all(|y| !y.is_finite()), "{isa}: {bad} gives {y:?}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_as_among_others() {
    let pool = Pool::new(2);
    for encoding in [Encoding::Q4_0, Encoding::Q4_1, Encoding::Q8_0] {
        for (n, k) in [(16, 32), (29, 64), (48, 576)] {
            let packed = Packed::new(encoding, n, k);
            let weight = packed.weight();
            let laid = Interleaved::new(&pool, &weight);
            for &isa in available() {
                let x = activations(2 * k);
                let run = |m: usize, x: &[f32]| {
                    let shape = LinearShape { m, n, k, x_row: k };
                    let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, true);
                    let (mut words, mut y) = (scratch(bytes), vec![f32::NAN; m * n]);
                    let (room, laid) = (aligned(&mut words, bytes), Some(&laid));
                    matmul(
                        isa,
                        &pool,
                        &shape,
                        x,
                        (&weight, laid, true),
                        Combine::Replace,
                        &mut y,
                        room,
                    );
                    y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let (one, other) = x.split_at(k);
                let alone = [run(1, one), run(1, other)].concat();
                assert_eq!(alone, run(2, &x), "{encoding}, {n} of {k}, on {isa}");
            }
        }
    }
}

#[test]
fn products_of_every_number_of_rows_are_those_of_float64() {
    let (n, k) = (45, 512);
    for &encoding in ALL {
        let packed = Packed::new(encoding, n, k);
        for &isa in available() {
            for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 40] {
                let x = activations(m * k);
                let shape = LinearShape { m, n, k, x_row: k };
                let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, true);
                let (mut words, pool, weight) = (scratch(bytes), Pool::new(2), packed.weight());
                for laid in [None, interleaved(&pool, &weight)] {
                    let laid = laid.as_ref();
                    let mut y = vec![f32::NAN; m * n];
                    let room = aligned(&mut words, bytes);
                    matmul(
                        isa,
                        &pool,
                        &shape,
                        &x,
                        (&weight, laid, true),
                        Combine::Replace,
                        &mut y,
                        room,
                    );
                    let error = worst(m, k, &x, &y, |j, p| packed.numbers[j * k + p]);
                    assert!(error < 1e-6, "{encoding} on {isa}, {m} rows: {error:e}");
                    let mut sums: Vec<f32> = (0..m * n).map(|i| i as f32 * 0.25).collect();
                    let wanted: Vec<f32> = sums.iter().zip(&y).map(|(x, y)| x + y).collect();
                    let room = aligned(&mut words, bytes);
                    matmul(
                        isa,
                        &pool,
                        &shape,
                        &x,
                        (&weight, laid, true),
                        Combine::Add,
                        &mut sums,
                        room,
                    );
                    assert_eq!(sums, wanted, "{encoding} on {isa}, {m} rows added");
                    let mut gated: Vec<f32> = (0..m * n).map(|i| (i % 9) as f32 - 4.0).collect();
                    let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
                    let wanted: Vec<f64> =
                        gated.iter().zip(&y).map(|(&x, &y)| silu(x) * f64::from(y)).collect();
                    let (room, way) = (aligned(&mut words, bytes), (&weight, laid, true));
                    matmul(isa, &pool, &shape, &x, way, Combine::Gate, &mut gated, room);
                    for (got, want) in gated.iter().zip(wanted) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error <= 1e-6 * want.abs(), "{encoding} on {isa}, {m} rows gated");
                    }
                }
            }
        }
    }
}

#[test]
fn several_weights_are_shared_out_as_one() {
    let k = 1024;
    for encoding in [Encoding::Q4_0, Encoding::Q4_1, Encoding::Q8_0] {
        // 23 blocks of sixteen rows: runs begin within each of them.
        let packed = [70, 40, 200, 16].map(|n| Packed::new(encoding, n, k));
        let pool = Pool::new(2);
        let laid = packed.each_ref().map(|p| Interleaved::new(&pool, &p.weight()));
        let all = laid.each_ref().map(Some);
        let rows: usize = packed.iter().map(|p| p.rows).sum();
        for (&isa, m) in available().iter().flat_map(|isa| [1, 3, 7].map(|m| (isa, m))) {
            let x = activations(m * k);
            let bytes = digits::scratch_bytes(&LinearShape { m, n: rows, k, x_row: k });
            let run = |threads| {
                let (mut words, mut y) = (scratch(bytes), vec![f32::NAN; m * rows]);
                let (pool, room) = (Pool::new(threads), aligned(&mut words, bytes));
                let replace = Combine::Replace;
                assert!(few_together(isa, &pool, m, &x, &all, replace, &mut y, room));
                y
            };
            let y = run(1);
            assert_eq!([run(2), run(3)], [y.clone(), y.clone()], "{encoding} on {isa}, {m} rows");
            let mut rest = &y[..];
            for p in &packed {
                let (part, after) = rest.split_at(m * p.rows);
                let error = worst(m, k, &x, part, |j, i| p.numbers[j * k + i]);
                assert!(error < 1e-6, "{encoding} on {isa}, {m} rows of {}: {error:e}", p.rows);
                rest = after;
            }
        }
    }
}

#[test]
fn affine_weights_may_lie_the_other_way() {
    for bits in [2, 4, 8] {
        let encoding = Encoding::Affine { bits, group_size: 32 };
        let (n, k) = (96, 37);
        let packed = Packed::new(encoding, k, n);
        for &isa in available() {
            for m in [1, 3, 20] {
                let x = activations(m * k);
                let shape = LinearShape { m, n, k, x_row: k };
                let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, false);
                let mut words = scratch(bytes);
                let mut y = vec![f32::NAN; m * n];
                let room = aligned(&mut words, bytes);
                let weight = packed.weight();
                matmul(
                    isa,
                    &Pool::new(2),
                    &shape,
                    &x,
                    (&weight, None, false),
                    Combine::Replace,
                    &mut y,
                    room,
                );
                let error = worst(m, k, &x, &y, |j, p| packed.numbers[p * n + j]);
                assert!(error < 1e-6, "{encoding} on {isa}, {m} rows: {error:e}");
                let mut sums: Vec<f32> = (0..m * n).map(|i| i as f32 * 0.25).collect();
                let wanted: Vec<f32> = sums.iter().zip(&y).map(|(x, y)| x + y).collect();
                let (room, way) = (aligned(&mut words, bytes), (&weight, None, false));
                matmul(isa, &Pool::new(2), &shape, &x, way, Combine::Add, &mut sums, room);
                assert_eq!(sums, wanted, "{encoding} on {isa}, {m} rows added");
            }
        }
    }
}

/// Activations rounded by hand: scale and whole numbers.
fn rounded(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for group in x.chunks(32) {
        let scale = group.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        let kept = f16::from_f32(scale).to_f32();
        out.extend(group.iter().map(|x| (x / scale).round_ties_even() * kept));
    }
    out
}

#[test]
fn activations_of_8_bits_give_the_product_of_the_rounded_ones() {
    let (n, k) = (45, 576);
    for encoding in [Encoding::Q4_0, Encoding::Q4_1, Encoding::Q8_0] {
        let packed = Packed::new(encoding, n, k);
        for &isa in available() {
            for m in [1, 2, 3, 4, 7, 33] {
                let x = activations(m * k);
                let shape = LinearShape { m, n, k, x_row: k };
                let bytes = eight_bit_scratch_bytes(isa, &shape);
                let mut words = scratch(bytes);
                let mut y = vec![f32::NAN; m * n];
                let room = aligned(&mut words, bytes);
                eight_bit(isa, &Pool::new(2), &shape, &x, &packed.weight(), &mut y, room);
                let w = |j: usize, p: usize| packed.numbers[j * k + p];
                let error = worst(m, k, &rounded(&x), &y, w);
                assert!(error < 1e-6, "{encoding} on {isa}, {m} rows: {error:e}");
                // And not far from the exact product.
                let error = worst(m, k, &x, &y, w);
                assert!(error < 4e-3, "{encoding} on {isa}, {m} rows: {error:e}");
            }
        }
    }
}

#[test]
fn activations_that_are_no_numbers_stay_so_and_zeros_are_zeros() {
    let packed = Packed::new(Encoding::Q8_0, 3, 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for &isa in available() {
            let mut x = vec![0f32; 2 * 64];
            x[64 + 40] = bad;
            let shape = LinearShape { m: 2, n: 3, k: 64, x_row: 64 };
            let bytes = eight_bit_scratch_bytes(isa, &shape);
            let mut words = scratch(bytes);
            let mut y = vec![7f32; 6];
            let room = aligned(&mut words, bytes);
            eight_bit(isa, &Pool::new(1), &shape, &x, &packed.weight(), &mut y, room);
            assert_eq!(y[..3], [0.0; 3], "{isa}");
            assert!(y[3..].iter().all(|y| y.is_nan()), "{isa}: {bad} gives {y:?}");
        }
    }
}

#[test]
fn scales_are_read_in_every_type() {
    let encoding = Encoding::Affine { bits: 4, group_size: 32 };
    let packed = Packed::new(encoding, 4, 64);
    let half: Vec<f16> = packed.scales.iter().map(|&x| f16::from_f32(x)).collect();
    let brain: Vec<bf16> = packed.biases.iter().map(|&x| bf16::from_f32(x)).collect();
    let wide: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
    let biases: Vec<f32> = brain.iter().map(|x| x.to_f32()).collect();
    let mut wanted = vec![0.0; 256];
    encoding
        .unpack_affine(&packed.bytes, &wide, Some(&biases), &mut wanted)
        .expect("they belong together");
    let (scales, brain) = (Numbers::F16(&half), Numbers::BF16(&brain));
    let weight = Weight::new(encoding, &packed.bytes, scales, brain, 4);
    for &isa in available() {
        let mut got = vec![0f32; 256];
        dequantize(isa, &Pool::new(1), &weight, &mut got);
        assert_eq!(got, wanted, "{isa}");
    }
}

#[test]
fn narrow_sums_are_rounded_once_and_what_digits_refuse_is_added_once() {
    let (n, k) = (29, 64);
    for encoding in [Encoding::Q4_1, Encoding::Q8_0, Encoding::Q5_0] {
        let packed = Packed::new(encoding, n, k);
        let (pool, weight) = (Pool::new(2), packed.weight());
        let laid = interleaved(&pool, &weight);
        for (&isa, m) in available().iter().flat_map(|isa| [1, 3].map(|m| (isa, m))) {
            let shape = LinearShape { m, n, k, x_row: k };
            let x: Vec<half::f16> =
                activations(m * k).into_iter().map(half::f16::from_f32).collect();
            let bytes = matmul_scratch_bytes::<half::f16>(isa, &shape, encoding, true);
            let mut words = scratch(bytes);
            let way = (&weight, laid.as_ref(), true);
            let mut sums = vec![half::f16::from_f32(300.0); m * n];
            matmul(
                isa,
                &pool,
                &shape,
                &x,
                way,
                Combine::Add,
                &mut sums,
                aligned(&mut words, bytes),
            );
            let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            for (at, sum) in sums.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let row = wide[i * k..][..k].iter().zip(&packed.numbers[j * k..][..k]);
                let want = 300.0 + row.map(|(x, w)| f64::from(x * w)).sum::<f64>();
                // Half a unit in the last place, at 256 to 512.
                let error = (f64::from(sum.to_f32()) - want).abs();
                assert!(error < 0.126, "{encoding} on {isa}: {sum} for {want}");
            }
            let mut x = activations(m * k);
            x[3] = f32::INFINITY;
            let bytes = matmul_scratch_bytes::<f32>(isa, &shape, encoding, true);
            let mut words = scratch(bytes);
            let mut alone = vec![0.0; m * n];
            matmul(
                isa,
                &pool,
                &shape,
                &x,
                way,
                Combine::Replace,
                &mut alone,
                aligned(&mut words, bytes),
            );
            let mut sums = vec![0.5; m * n];
            matmul(
                isa,
                &pool,
                &shape,
                &x,
                way,
                Combine::Add,
                &mut sums,
                aligned(&mut words, bytes),
            );
            for (sum, alone) in sums[n..].iter().zip(&alone[n..]) {
                assert_eq!(*sum, 0.5 + alone, "{encoding} on {isa}, {m} rows");
            }
            let gates = |at: usize| at as f32 * 0.25 - 3.0;
            let mut gated: Vec<f32> = (0..m * n).map(gates).collect();
            let room = aligned(&mut words, bytes);
            matmul(isa, &pool, &shape, &x, way, Combine::Gate, &mut gated, room);
            for (at, (gated, alone)) in gated.iter().zip(&alone).enumerate().skip(n) {
                let gate = f64::from(gates(at));
                let want = gate / (1.0 + (-gate).exp()) * f64::from(*alone);
                let off = (f64::from(*gated) - want).abs();
                assert!(off <= 1e-6 * want.abs(), "{encoding} on {isa}, {m} rows, gate {gate}");
            }
        }
    }
}
