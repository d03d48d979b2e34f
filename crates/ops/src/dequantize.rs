//! Packed weights as plain numbers.

use crate::{Array, Case, Encoding, Entry, Options, catalogue::normal, catalogue::packed, check};
use frit_graph::{Block, DType, ShapeError, Spec, Tensor, operands};

/// The numbers that packed bytes stand for: what [`Encoding`] says of each.
///
/// Rows may be picked before: an embedding is `dequantize(packed.gather(0, ids))`.
///
/// # Inputs
/// - `packed`: u8 `[.., row bytes]` of whole blocks; u32 `[.., words]` of affine groups
/// - `scales` (affine only): `[.., k / group size]`, f32, f16 or bf16
/// - `biases` (affine only, optional): like `scales`
///
/// # Output
/// `[.., k]` in the type `dtype`.
///
/// # Numerics
/// In f32, where the blocks of GGML need one rounding at most; rounded once to `dtype`.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{Encoding, fast};
/// let specs = [Spec::new(DType::U8, [3, 21])];
/// let wrong = Graph::trace(&specs, |x| {
///     vec![fast::dequantize(&x[0], None, None, Encoding::Q4_1, DType::F32)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[dequantize] packed must be u8 [.., 20 b] for Q4_1, got u8[3, 21] --> "
/// ));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dequantize {
    /// How the numbers are packed.
    pub encoding: Encoding,
    /// The type of the output: f32, f16 or bf16.
    pub dtype: DType,
}

operands!(/// Inputs of [`Dequantize`].
    pub DequantizeInputs { packed } optional { scales, biases });

/// [`Dequantize`] of `packed`.
#[track_caller]
pub fn dequantize(
    packed: &Tensor,
    scales: Option<&Tensor>,
    biases: Option<&Tensor>,
    encoding: Encoding,
    dtype: DType,
) -> Tensor {
    let (scales, biases) = (scales.cloned(), biases.cloned());
    let inputs = DequantizeInputs { packed: packed.clone(), scales, biases };
    Tensor::block(Dequantize { encoding, dtype }, inputs)
}

impl Block for Dequantize {
    type Inputs<T> = DequantizeInputs<T>;
    const NAME: &'static str = "dequantize";

    fn infer(&self, i: DequantizeInputs<&Spec>) -> Result<Spec, ShapeError> {
        let k = self.encoding.width(i.packed, i.scales, i.biases)?;
        let mut out = i.packed.with_dtype(self.dtype);
        out.shape[i.packed.rank() - 1] = k;
        check::float("the output", &out)?;
        Ok(out)
    }

    fn compose(&self, i: DequantizeInputs<Tensor>) -> Tensor {
        let (scales, biases) = (i.scales.as_ref(), i.biases.as_ref());
        self.encoding.compose(&i.packed, scales, biases).cast(self.dtype)
    }
}

/// The numbers of packed operands in float64.
pub(crate) fn unpacked(
    encoding: Encoding,
    packed: &Array,
    scales: Option<&Array>,
    biases: Option<&Array>,
) -> Array {
    let narrow = |a: &Array| a.data.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let words = packed.data.iter().map(|&w| w as u32);
    let (bytes, unit): (Vec<u8>, usize) = match encoding {
        Encoding::Affine { .. } => (words.flat_map(u32::to_le_bytes).collect(), 4),
        _ => (words.map(|w| w as u8).collect(), 1),
    };
    let (len, size) = (encoding.block_len(), encoding.block_bytes());
    let mut out = vec![0.0; bytes.len() / size * len];
    let done = match scales {
        None => encoding.unpack(&bytes, &mut out),
        Some(s) => {
            let biases = biases.map(narrow);
            encoding.unpack_affine(&bytes, &narrow(s), biases.as_deref(), &mut out)
        }
    };
    let mut shape = packed.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = *last * unit / size * len;
    }
    // What the shape rule accepts can be unpacked.
    let number = |x: f32| if done.is_ok() { f64::from(x) } else { f64::NAN };
    Array { shape, data: out.into_iter().map(number).collect() }
}

/// The encodings that cases go through, each with its name.
pub(crate) const EACH: &[(&str, Encoding)] = &[
    ("affine_2", Encoding::Affine { bits: 2, group_size: 32 }),
    ("affine_4", Encoding::Affine { bits: 4, group_size: 64 }),
    ("affine_8", Encoding::Affine { bits: 8, group_size: 128 }),
    ("q4_0", Encoding::Q4_0),
    ("q4_1", Encoding::Q4_1),
    ("q5_0", Encoding::Q5_0),
    ("q5_1", Encoding::Q5_1),
    ("q8_0", Encoding::Q8_0),
    ("q4_k", Encoding::Q4K),
    ("q5_k", Encoding::Q5K),
    ("q6_k", Encoding::Q6K),
];

impl Entry for Dequantize {
    const FORMULA: &'static str = "scale q + offset, of each block";
    const MAIN: &'static str = "packed";

    fn parse(o: &mut Options) -> Result<Dequantize, String> {
        let encoding = Encoding::parse(o)?;
        let dtype = match o.text("dtype")?.as_deref() {
            None | Some("f32") => DType::F32,
            Some("f16") => DType::F16,
            Some("bf16") => DType::BF16,
            Some(other) => {
                return Err(format!("option `dtype` must be f32, f16 or bf16, got {other}"));
            }
        };
        Ok(Dequantize { encoding, dtype })
    }

    fn oracle(&self, i: DequantizeInputs<&Array>) -> Array {
        unpacked(self.encoding, i.packed, i.scales, i.biases)
    }

    fn cases() -> Vec<Case<Dequantize>> {
        let case = |name, why, encoding: Encoding, dtype, lead: &[usize], k: usize| {
            let group = match encoding {
                Encoding::Affine { group_size, .. } => Some(group_size),
                _ => None,
            };
            let numbers = || group.map(|g| normal(&[lead, &[k / g]].concat()).normal(0.0, 0.1));
            let packed = packed(encoding, lead, k);
            let inputs = DequantizeInputs { packed, scales: numbers(), biases: numbers() };
            let case = Case::new(name, why, Dequantize { encoding, dtype }, inputs);
            match dtype {
                DType::F32 => case,
                DType::F16 => case.within(1e-3, 1e-4),
                _ => case.within(8e-3, 1e-3),
            }
        };
        let each = EACH.iter().map(|&(name, e)| case(name, "layout", e, DType::F32, &[5], 512));
        let mut cases: Vec<_> = each.collect();
        let affine = Encoding::Affine { bits: 4, group_size: 32 };
        let scaled = case("scales_of_any_type", "affine", affine, DType::F32, &[2, 3], 96).floats();
        let mut no_biases = case("no_biases", "biases are optional", affine, DType::F32, &[3], 64);
        no_biases.inputs.biases = None;
        cases.extend([
            case("f16", "rounded to f16", Encoding::Q4_1, DType::F16, &[3], 64),
            case("bf16", "rounded to bf16", Encoding::Q6K, DType::BF16, &[3], 256),
            case("one_block", "a vector", Encoding::Q8_0, DType::F32, &[], 32),
            case("picked", "axes of gathered rows", Encoding::Q5_0, DType::F32, &[2, 3], 96),
            scaled,
            no_biases,
            case("dequantize_q4_1", "a weight", Encoding::Q4_1, DType::F32, &[1536], 576).bench(),
        ]);
        cases
    }
}
