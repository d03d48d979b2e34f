//! What an operation brings to enter the catalogue, and the catalogue itself with types erased.
//!
//! Tests, benches, documents and `frit eval` walk [`CATALOGUE`](crate::CATALOGUE); a new operation
//! adds its file and its line there and nothing else.

use crate::{encoding::Encoding, options::Options};
use frit_graph::{Block, DType, DynBlock, Operands, Rule, Slot, Spec, Tensor, Value};
use std::sync::Arc;

/// Numbers in f64 with a shape: what oracles read and write.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f64>,
}

impl Array {
    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Array {
        Array { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
    }

    /// The place of an element given by its coordinates; extents of 1 and missing leading axes
    /// broadcast.
    pub fn at(&self, index: &[usize]) -> f64 {
        let skip = index.len() - self.shape.len();
        let along = self.shape.iter().zip(&index[skip..]);
        self.data[along.fold(0, |p, (&d, &i)| p * d + if d == 1 { 0 } else { i })]
    }

    /// The last extent.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl From<&Value> for Array {
    fn from(v: &Value) -> Array {
        Array { shape: v.shape().to_vec(), data: v.to_f64() }
    }
}

/// How the numbers of an operand are made.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal numbers of this mean and deviation.
    Normal(f64, f64),
    /// These numbers.
    Numbers(Vec<f64>),
    /// A function of the coordinates and of a normal number.
    Map(fn(&[usize], f64) -> f64),
    /// Random blocks of an encoding, with scales that make numbers of about 0.1.
    Packed(Encoding),
}

/// An operand of a case.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Extents.
    pub shape: Vec<usize>,
    /// The type, or that of the case.
    pub dtype: Option<DType>,
    /// The numbers.
    pub fill: Fill,
}

/// Standard normal numbers in the case's type.
pub fn normal(shape: &[usize]) -> Operand {
    Operand { shape: shape.to_vec(), dtype: None, fill: Fill::Normal(0.0, 1.0) }
}

/// Normal numbers around one: the usual weight of a norm.
pub fn weight(shape: &[usize]) -> Operand {
    Operand { shape: shape.to_vec(), dtype: None, fill: Fill::Normal(1.0, 0.5) }
}

/// A function of the coordinates and a normal number, in the case's type.
pub fn mapped(shape: &[usize], f: fn(&[usize], f64) -> f64) -> Operand {
    Operand { shape: shape.to_vec(), dtype: None, fill: Fill::Map(f) }
}

/// These integers (i64).
pub fn integers(shape: &[usize], numbers: &[i64]) -> Operand {
    let numbers = numbers.iter().map(|&n| n as f64).collect();
    let fill = Fill::Numbers(numbers);
    Operand { shape: shape.to_vec(), dtype: Some(DType::I64), fill }
}

/// A random packed matrix of rows of `k` numbers: bytes of GGML, words of affine groups.
pub fn packed(encoding: Encoding, lead: &[usize], k: usize) -> Operand {
    let bytes = encoding.row_bytes(k).unwrap_or(0);
    let (dtype, last) = match encoding {
        Encoding::Affine { .. } => (DType::U32, bytes / 4),
        _ => (DType::U8, bytes),
    };
    let fill = Fill::Packed(encoding);
    Operand { shape: [lead, &[last]].concat(), dtype: Some(dtype), fill }
}

impl Operand {
    /// The same in a type of its own.
    pub fn of(mut self, dtype: DType) -> Operand {
        self.dtype = Some(dtype);
        self
    }

    /// The same with another mean and deviation.
    pub fn normal(mut self, mean: f64, deviation: f64) -> Operand {
        self.fill = Fill::Normal(mean, deviation);
        self
    }

    /// The spec in a case of `dtype`.
    pub fn spec(&self, dtype: DType) -> Spec {
        Spec::new(self.dtype.unwrap_or(dtype), self.shape.clone())
    }

    /// The value in a case of `dtype`; `seed` decides the random numbers.
    pub fn value(&self, dtype: DType, seed: u64) -> Value {
        let spec = self.spec(dtype);
        let mut random = Random(seed);
        let numbers: Vec<f64> = match &self.fill {
            Fill::Normal(mean, deviation) => {
                (0..spec.numel()).map(|_| mean + deviation * random.normal()).collect()
            }
            Fill::Numbers(n) => n.clone(),
            Fill::Packed(encoding) => {
                let bytes = random.blocks(*encoding, spec.bytes());
                return match Value::from_bytes(spec, &bytes) {
                    Ok(v) => v,
                    Err(_) => Value::scalar(f64::NAN),
                };
            }
            Fill::Map(f) => (0..spec.numel())
                .map(|i| {
                    let strides = frit_graph::row_major(&spec.shape);
                    let at: Vec<usize> =
                        strides.iter().zip(&spec.shape).map(|(s, d)| (i / s) % d).collect();
                    f(&at, random.normal())
                })
                .collect(),
        };
        match Value::from_f64(spec.clone(), &numbers) {
            Ok(v) => v,
            Err(_) => Value::from_f64(spec.clone(), &vec![f64::NAN; spec.numel()])
                .unwrap_or_else(|_| Value::scalar(f64::NAN)),
        }
    }
}

/// A small generator (splitmix64) with normal numbers by the method of Box and Muller.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Random bytes with finite numbers where the blocks of an encoding keep those.
    fn blocks(&mut self, encoding: Encoding, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.bits().to_le_bytes());
        let mut bytes: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
        bytes.truncate(length);
        // The upper byte of each f16: sign and exponent; its lowest two bits are random.
        let halves: &[(usize, u8)] = match encoding {
            Encoding::Affine { .. } => &[],
            Encoding::Q4_0 | Encoding::Q5_0 => &[(1, 0x20)],
            Encoding::Q4_1 | Encoding::Q5_1 => &[(1, 0x20), (3, 0xac)],
            Encoding::Q8_0 => &[(1, 0x14)],
            Encoding::Q4K | Encoding::Q5K => &[(1, 0x0c), (3, 0x1c)],
            Encoding::Q6K => &[(209, 0x08)],
        };
        for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
            halves.iter().for_each(|&(at, upper)| block[at] = upper | block[at] & 3);
        }
        bytes
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

/// The three float types that models run in.
pub const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// One conformance case of a Block.
#[derive(Clone, Debug)]
pub struct Case<B: Block> {
    /// Short name.
    pub name: &'static str,
    /// What it guards.
    pub why: &'static str,
    /// Options.
    pub block: B,
    /// Operands by slot.
    pub inputs: B::Inputs<Operand>,
    /// Types it is run in.
    pub dtypes: &'static [DType],
    /// Relative and absolute bound, where the usual ones do not fit.
    pub tolerance: Option<(f64, f64)>,
    /// Whether it is a bench case rather than a small one.
    pub bench: bool,
}

impl<B: Block> Case<B> {
    /// A case in f32.
    pub fn new(
        name: &'static str,
        why: &'static str,
        block: B,
        inputs: B::Inputs<Operand>,
    ) -> Self {
        Case { name, why, block, inputs, dtypes: &[DType::F32], tolerance: None, bench: false }
    }

    /// The case in all three floats.
    pub fn floats(mut self) -> Self {
        self.dtypes = FLOATS;
        self
    }

    /// The case with bounds of its own.
    pub fn within(mut self, relative: f64, absolute: f64) -> Self {
        self.tolerance = Some((relative, absolute));
        self
    }

    /// A bench case: larger, timed, in all three floats.
    pub fn bench(mut self) -> Self {
        self.bench = true;
        self.floats()
    }
}

/// What a Block brings to enter the catalogue. A missing item does not compile.
pub trait Entry: Block {
    /// One line: what it computes.
    const FORMULA: &'static str;
    /// The slot whose type the output has and cases vary.
    const MAIN: &'static str;

    /// The options from their published names.
    ///
    /// # Errors
    /// A missing, unknown or wrongly typed option.
    fn parse(options: &mut Options) -> Result<Self, String>;

    /// The result in float64, written independently of [`Block::compose`].
    fn oracle(&self, inputs: Self::Inputs<&Array>) -> Array;

    /// Cases; at least one of a fused operation is a bench.
    fn cases() -> Vec<Case<Self>>;

    /// Multiplications and additions that the result needs, where they and not the memory bound
    /// its speed.
    fn flops(&self, inputs: Self::Inputs<&Spec>) -> Option<f64> {
        let _ = inputs;
        None
    }

    /// Rules that find this Block in a graph of primitives, for [`frit_graph::recognise`]; the
    /// default finds nothing.
    fn recognise() -> Vec<Rule> {
        Vec::new()
    }
}

type Flops = Arc<dyn Fn(&[Option<&Spec>]) -> Option<f64> + Send + Sync>;
type Oracle = Arc<dyn Fn(&[Option<Array>]) -> Option<Array> + Send + Sync>;

/// A case with its type erased.
#[derive(Clone)]
pub struct DynCase {
    /// Name of the operation.
    pub op: &'static str,
    /// Short name.
    pub name: &'static str,
    /// What it guards.
    pub why: &'static str,
    /// The Block.
    pub block: Arc<dyn DynBlock>,
    /// Operands in slot order.
    pub inputs: Vec<Option<Operand>>,
    /// Types it is run in.
    pub dtypes: &'static [DType],
    /// Whether it is a bench.
    pub bench: bool,
    tolerance: Option<(f64, f64)>,
    oracle: Oracle,
    flops: Flops,
}

impl DynCase {
    /// Specs of the operands in a type.
    pub fn specs(&self, dtype: DType) -> Vec<Option<Spec>> {
        self.inputs.iter().map(|o| o.as_ref().map(|o| o.spec(dtype))).collect()
    }

    /// Multiplications and additions, where they bound the speed.
    pub fn flops(&self, dtype: DType) -> Option<f64> {
        let specs = self.specs(dtype);
        (self.flops)(&specs.iter().map(Option::as_ref).collect::<Vec<_>>())
    }

    /// Bytes that must be read and written at least.
    pub fn bytes(&self, dtype: DType) -> usize {
        let specs = self.specs(dtype);
        let refs: Vec<Option<&Spec>> = specs.iter().map(Option::as_ref).collect();
        let out = self.block.infer_list(&refs).map_or(0, |s| s.bytes());
        out + specs.iter().flatten().map(Spec::bytes).sum::<usize>()
    }

    /// The operands in a type, always the same numbers.
    pub fn values(&self, dtype: DType) -> Vec<Option<Value>> {
        let seed = self.name.bytes().fold(7u64, |h, b| h.wrapping_mul(131).wrapping_add(b as u64));
        let seeds = (0u64..).map(|i| seed.wrapping_add(i << 32));
        let slots = self.inputs.iter().zip(seeds);
        slots.map(|(o, s)| o.as_ref().map(|o| o.value(dtype, s))).collect()
    }

    /// The result in float64 from the operands as stored.
    pub fn expected(&self, values: &[Option<Value>]) -> Option<Array> {
        let arrays: Vec<_> = values.iter().map(|v| v.as_ref().map(Array::from)).collect();
        (self.oracle)(&arrays)
    }

    /// Relative and absolute bound in a type.
    pub fn tolerance(&self, dtype: DType) -> (f64, f64) {
        match (dtype, self.tolerance) {
            (DType::F16, t) => t.map_or((1e-3, 1e-4), |t| (t.0.max(1e-3), t.1.max(1e-4))),
            (DType::BF16, t) => t.map_or((8e-3, 1e-3), |t| (t.0.max(8e-3), t.1.max(1e-3))),
            (_, t) => t.unwrap_or((1e-5, 2e-6)),
        }
    }
}

/// One line of the catalogue.
#[derive(Clone, Copy)]
pub struct Line {
    /// Name of the operation.
    pub name: &'static str,
    /// Its file in this folder.
    pub file: &'static str,
    /// What it computes.
    pub formula: &'static str,
    /// The slot whose type the output has.
    pub main: &'static str,
    /// Its operand slots.
    pub slots: fn() -> &'static [Slot],
    /// Its cases.
    pub cases: fn() -> Vec<DynCase>,
    /// The Block from its options by name.
    pub parse: fn(&mut Options) -> Result<Arc<dyn DynBlock>, String>,
    /// Rules that find it in a graph of primitives.
    pub recognise: fn() -> Vec<Rule>,
}

impl Line {
    /// The line of a Block.
    pub const fn of<B: Entry>(file: &'static str) -> Line {
        Line {
            name: B::NAME,
            file,
            formula: B::FORMULA,
            main: B::MAIN,
            slots: <B::Inputs<Tensor> as Operands<Tensor>>::slots,
            cases: cases::<B>,
            parse: |o| Ok(Arc::new(B::parse(o)?)),
            recognise: B::recognise,
        }
    }
}

fn cases<B: Entry>() -> Vec<DynCase> {
    let erase = |c: Case<B>| {
        let block = c.block.clone();
        let flops: Flops = Arc::new(move |specs: &[Option<&Spec>]| {
            block.flops(Operands::unflatten(specs.to_vec())?)
        });
        let block = c.block.clone();
        let oracle: Oracle = Arc::new(move |arrays: &[Option<Array>]| {
            let arrays = arrays.iter().map(Option::as_ref).collect();
            Some(block.oracle(Operands::unflatten(arrays)?))
        });
        DynCase {
            op: B::NAME,
            name: c.name,
            why: c.why,
            block: Arc::new(c.block),
            inputs: c.inputs.flatten(),
            dtypes: c.dtypes,
            bench: c.bench,
            tolerance: c.tolerance,
            oracle,
            flops,
        }
    };
    B::cases().into_iter().map(erase).collect()
}
