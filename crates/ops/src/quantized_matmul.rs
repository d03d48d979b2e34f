//! The product with a packed weight.

mod recognise;

use crate::catalogue::{Operand, normal, packed};
use crate::dequantize::{EACH, unpacked};
use crate::{Array, Case, Encoding, Entry, Options, check, fast::dequantize};
use frit_graph::reference::round_f16;
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, operands};

/// What happens to the activations before the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Nothing.
    #[default]
    Exact,
    /// Rounded to 8 bits as GGML does, so that products are of integers: each 32 of a row become
    /// `f16(scale) * whole`, with `scale = max |x| / 127` and `whole = round(x / scale)`.
    EightBit,
}

/// Activations that share a scale.
const SHARED: usize = 32;
/// The smallest scale: below it, numbers are as good as 0.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

/// `y = x W^T`, or `y = x W`, of a packed weight W.
///
/// # Inputs
/// - `x`: `[.., k]`, f32, f16 or bf16
/// - `packed`: W of `[n, k]`, its rows packed: u8 `[n, row bytes]`, or u32 `[n, words]` of affine
///   groups; with `transposed` off W of `[k, n]` (affine only)
/// - `scales` (affine only): `[rows of W, columns / group size]`, f32, f16 or bf16
/// - `biases` (affine only, optional): like `scales`
///
/// # Output
/// `[.., n]` in the type of `x`.
///
/// # Numerics
/// Products and sums in f32; rounded once. With [`Activations::EightBit`] an activation is wrong by
/// up to 1/254 of the largest among its 32, so that y is off by up to that times the sum of `|w|`:
/// for normal numbers about 0.6% of the size of y. Above 8.3 million the scale is no f16 any more,
/// and y no number.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Activations, Encoding, fast};
/// let specs = [Spec::new(DType::F32, [2, 64]), Spec::new(DType::U8, [8, 20])];
/// let wrong = Graph::trace(&specs, |x| {
///     let (exact, transposed) = (Activations::Exact, true);
///     vec![fast::quantized_matmul(&x[0], &x[1], None, None, Encoding::Q4_1, transposed, exact)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[quantized_matmul] packed must hold [n, 64] (last axis of x [2, 64]), got [8, 32] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatmul {
    /// How the weight is packed.
    pub encoding: Encoding,
    /// Whether W is `[n, k]`, as linear layers keep it.
    pub transposed: bool,
    /// What happens to `x` before.
    pub activations: Activations,
}

operands!(/// Inputs of [`QuantizedMatmul`].
    pub QuantizedMatmulInputs { x, packed } optional { scales, biases });

/// [`QuantizedMatmul`] of `x`.
#[track_caller]
pub fn quantized_matmul(
    x: &Tensor,
    packed: &Tensor,
    scales: Option<&Tensor>,
    biases: Option<&Tensor>,
    encoding: Encoding,
    transposed: bool,
    activations: Activations,
) -> Tensor {
    let (x, packed) = (x.clone(), packed.clone());
    let (scales, biases) = (scales.cloned(), biases.cloned());
    let inputs = QuantizedMatmulInputs { x, packed, scales, biases };
    Tensor::block(QuantizedMatmul { encoding, transposed, activations }, inputs)
}

impl Block for QuantizedMatmul {
    type Inputs<T> = QuantizedMatmulInputs<T>;
    const NAME: &'static str = "quantized_matmul";

    fn infer(&self, i: QuantizedMatmulInputs<&Spec>) -> Result<Spec, ShapeError> {
        check::float("x", i.x)?;
        let width = self.encoding.width(i.packed, i.scales, i.biases)?;
        let Some(last) = i.x.last() else {
            return Err(format!("x must have at least 1 axis, got {}", i.x).into());
        };
        if i.packed.rank() != 2 {
            return Err(format!("packed must have 2 axes, got {}", i.packed).into());
        }
        let rows = i.packed.shape[0];
        if !self.transposed && !matches!(self.encoding, Encoding::Affine { .. }) {
            return Err(format!("{} is packed along k: it must be transposed", self.encoding).into());
        }
        let (k, n) = if self.transposed { (width, rows) } else { (rows, width) };
        if k != last {
            let wanted = if self.transposed { format!("[n, {last}]") } else { format!("[{last}, n]") };
            return Err(format!(
                "packed must hold {wanted} (last axis of x {:?}), got [{rows}, {width}]",
                i.x.shape
            )
            .into());
        }
        if self.activations == Activations::EightBit && k % SHARED != 0 {
            return Err(format!("k must be a multiple of {SHARED} for 8 bits, got {k}").into());
        }
        let mut y = i.x.clone();
        y.shape[i.x.rank() - 1] = n;
        Ok(y)
    }

    fn compose(&self, i: QuantizedMatmulInputs<Tensor>) -> Tensor {
        let (shape, dtype) = (i.x.shape().to_vec(), i.x.dtype());
        let (k, lead) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
        let rows: usize = lead.iter().product();
        let mut x = i.x.cast(DType::F32).reshape(&[rows, k]);
        if self.activations == Activations::EightBit {
            let groups = x.reshape(&[rows, k / SHARED, SHARED]);
            let scale = groups.abs().max(&[-1]) / 127.0;
            let scale = scale.maximum(&Tensor::scalar(DType::F32, LEAST));
            let whole = (&groups / &scale).round();
            x = (whole * scale.cast(DType::F16).cast(DType::F32)).reshape(&[rows, k]);
        }
        let (scales, biases) = (i.scales.as_ref(), i.biases.as_ref());
        let mut w = dequantize(&i.packed, scales, biases, self.encoding, DType::F32);
        if self.transposed {
            w = w.swap_axes(0, 1);
        }
        x.matmul(&w).reshape(&[lead, &[w.shape()[1]]].concat()).cast(dtype)
    }
}

/// Rounds to 8 bits with the steps in f32 that the composition takes: at a half, a last bit decides.
fn rounded(x: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for group in x.chunks(SHARED) {
        let largest = group.iter().fold(0f32, |m, &x| m.max((x as f32).abs()));
        let scale = (largest / 127.0).max(LEAST as f32);
        let whole = |&x: &f64| f64::from((x as f32 / scale).round_ties_even());
        let kept = round_f16(f64::from(scale)).to_f64();
        out.extend(group.iter().map(|x| whole(x) * kept));
    }
    out
}

impl Entry for QuantizedMatmul {
    const FORMULA: &'static str = "x W^T, of a packed weight W";
    const MAIN: &'static str = "x";

    fn parse(o: &mut Options) -> Result<QuantizedMatmul, String> {
        let activations = match o.text("activations")?.as_deref() {
            None | Some("exact") => Activations::Exact,
            Some("eight_bit") => Activations::EightBit,
            Some(other) => {
                return Err(format!(
                    "option `activations` must be exact or eight_bit, got {other}"
                ));
            }
        };
        let transposed = o.flag("transpose", true)?;
        Ok(QuantizedMatmul { encoding: Encoding::parse(o)?, transposed, activations })
    }

    fn oracle(&self, i: QuantizedMatmulInputs<&Array>) -> Array {
        let w = unpacked(self.encoding, i.packed, i.scales, i.biases);
        let (rows, width) = (w.shape[0], w.last());
        let (k, n) = if self.transposed { (width, rows) } else { (rows, width) };
        let mut data = Vec::new();
        for x in i.x.data.chunks(k) {
            let x = match self.activations {
                Activations::Exact => x.to_vec(),
                Activations::EightBit => rounded(x),
            };
            for j in 0..n {
                let w = |p: usize| w.data[if self.transposed { j * k + p } else { p * n + j }];
                data.push(x.iter().enumerate().map(|(p, x)| x * w(p)).sum());
            }
        }
        let mut shape = i.x.shape.clone();
        let last = shape.len() - 1;
        shape[last] = n;
        Array { shape, data }
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn flops(&self, i: QuantizedMatmulInputs<&Spec>) -> Option<f64> {
        let y = self.infer(i.clone()).ok()?;
        Some(2.0 * i.x.numel() as f64 * y.last()? as f64)
    }

    fn cases() -> Vec<Case<QuantizedMatmul>> {
        let new = |name, why, block: QuantizedMatmul, x: &[usize], n: usize| {
            let k = x[x.len() - 1];
            let (rows, width) = if block.transposed { (n, k) } else { (k, n) };
            let numbers = |deviation| -> Option<Operand> {
                let Encoding::Affine { group_size, .. } = block.encoding else { return None };
                Some(normal(&[rows, width / group_size]).normal(0.0, deviation))
            };
            let packed = packed(block.encoding, &[rows], width);
            let (scales, biases) = (numbers(0.02), numbers(0.1));
            let inputs = QuantizedMatmulInputs { x: normal(x), packed, scales, biases };
            Case::new(name, why, block, inputs).within(2e-5, 1e-4)
        };
        let exact = |name, why, encoding, x: &[usize], n| {
            let activations = Activations::Exact;
            new(name, why, QuantizedMatmul { encoding, transposed: true, activations }, x, n)
        };
        let eight = |name, encoding, x: &[usize], n| {
            let block =
                QuantizedMatmul { encoding, transposed: true, activations: Activations::EightBit };
            new(name, "activations of 8 bits", block, x, n)
        };
        let (q4_1, q8_0) = (Encoding::Q4_1, Encoding::Q8_0);
        let affine = Encoding::Affine { bits: 4, group_size: 64 };
        let mut cases: Vec<_> =
            EACH.iter().map(|&(name, e)| exact(name, "one row", e, &[1, 512], 37)).collect();
        let several = EACH.iter().map(|&(name, e)| {
            let name = match name {
                "affine_2" => "affine_2_rows",
                "affine_4" => "affine_4_rows",
                "affine_8" => "affine_8_rows",
                "q4_0" => "q4_0_rows",
                "q4_1" => "q4_1_rows",
                "q5_0" => "q5_0_rows",
                "q5_1" => "q5_1_rows",
                "q8_0" => "q8_0_rows",
                "q4_k" => "q4_k_rows",
                "q5_k" => "q5_k_rows",
                _ => "q6_k_rows",
            };
            exact(name, "many rows", e, &[3, 7, 256], 35)
        });
        cases.extend(several);
        let plain = QuantizedMatmul {
            encoding: affine,
            transposed: false,
            activations: Activations::Exact,
        };
        let mut no_biases = exact("no_biases", "biases are optional", affine, &[2, 128], 9);
        no_biases.inputs.biases = None;
        let mut own_types = exact("own_types", "scales of their own type", affine, &[3, 128], 9);
        own_types.inputs.scales = own_types.inputs.scales.map(|s| s.of(DType::BF16));
        own_types.inputs.biases = own_types.inputs.biases.map(|s| s.of(DType::BF16));
        cases.extend([
            new("not_transposed", "W of [k, n]", plain.clone(), &[3, 40], 128).floats(),
            new("not_transposed_rows", "W of [k, n]", plain, &[50, 33], 64),
            exact("vector", "no leading axis", q4_1, &[64], 20).floats(),
            exact("few", "each number of rows that a pass takes", q4_1, &[2, 64], 20).floats(),
            exact("three", "as above", q8_0, &[3, 96], 20).floats(),
            exact("seven", "as above", Encoding::Q6K, &[7, 256], 20).floats(),
            exact("rows", "many rows", Encoding::Q4K, &[2, 20, 256], 70).floats(),
            no_biases,
            own_types.floats(),
            eight("eight_q4_0", Encoding::Q4_0, &[3, 96], 20).floats(),
            eight("eight_q4_1", q4_1, &[1, 576], 33).floats(),
            eight("eight_q8_0", q8_0, &[2, 9, 64], 40).floats(),
            exact("qmm_decode", "a token's feed-forward", q4_1, &[1, 576], 1536).bench(),
            exact("qmm_down", "a token's way back", q4_1, &[1, 1536], 576).bench(),
            exact("qmm_head", "a token's logits", q8_0, &[1, 576], 49152).bench(),
            exact("qmm_prefill", "a prompt", q4_1, &[512, 576], 1536).bench(),
            eight("qmm_decode_8", q4_1, &[1, 576], 1536).bench(),
            eight("qmm_head_8", q8_0, &[1, 576], 49152).bench(),
            eight("qmm_prefill_8", q4_1, &[512, 576], 1536).bench(),
        ]);
        cases
    }
}
