//! The messages of an ONNX file, as far as they are needed to run it.
//!
//! Read by hand from the wire: tensors keep the range of the file where their bytes lie, so that
//! opening a file copies no weight. Fields that are not known here are skipped.

use super::wire::{Reader, Wire};
use std::ops::Range;

/// Messages nested deeper than this are refused.
const DEPTH: usize = 32;

type Parsed<T> = Result<T, String>;

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) opsets: Vec<(String, i64)>,
    pub(super) graph: Option<Graph>,
    pub(super) functions: Vec<Function>,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) initializers: Vec<Tensor>,
    pub(super) sparse: bool,
    pub(super) inputs: Vec<ValueInfo>,
    pub(super) outputs: Vec<ValueInfo>,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) name: String,
    pub(super) operator: String,
    pub(super) domain: String,
    pub(super) overload: String,
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Debug, Default)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) overload: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) defaults: Vec<Attribute>,
    pub(super) nodes: Vec<Node>,
    pub(super) opsets: Vec<(String, i64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    pub(super) name: String,
    /// The attribute of the function around it that it stands for.
    pub(super) refers_to: String,
    pub(super) float: Option<f32>,
    pub(super) int: Option<i64>,
    pub(super) text: Option<Vec<u8>>,
    pub(super) tensor: Option<std::sync::Arc<Tensor>>,
    pub(super) graph: Option<std::sync::Arc<Graph>>,
    pub(super) floats: Vec<f32>,
    pub(super) ints: Vec<i64>,
    pub(super) texts: usize,
}

/// Where the elements of a tensor are.
#[derive(Debug, Default)]
pub(super) enum Data {
    #[default]
    None,
    /// Little-endian bytes of the file.
    Raw(Range<usize>),
    /// Little-endian bytes that were scattered.
    Bytes(Vec<u8>),
    /// One number an element: the element, or its bits where it is a narrow float.
    Numbers(Vec<i64>),
    /// Texts, which are not kept.
    Texts,
}

#[derive(Debug, Default)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dims: Vec<i64>,
    pub(super) code: i64,
    pub(super) data: Data,
    /// Keys and values that say where the bytes are, if they are in another file.
    pub(super) external: Option<Vec<(String, String)>>,
}

/// An extent: a number, a name for any number, or neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Known(i64),
    Named(String),
    Any,
}

#[derive(Debug, Default)]
pub(super) struct ValueInfo {
    pub(super) name: String,
    /// Code of the element type, if it is a tensor.
    pub(super) code: Option<i64>,
    /// The extents, if the rank is known.
    pub(super) extents: Option<Vec<Extent>>,
}

fn message<'a>(r: &Reader<'a>, wire: Wire) -> Parsed<Reader<'a>> {
    match wire {
        Wire::Bytes(range) => Ok(r.inside(range)),
        _ => Err("a number stands where a message should".into()),
    }
}

fn text(r: &Reader<'_>, wire: Wire) -> Parsed<String> {
    match wire {
        Wire::Bytes(range) => r.text(&range),
        _ => Err("a number stands where a text should".into()),
    }
}

fn int(wire: Wire) -> Parsed<i64> {
    match wire {
        Wire::Varint(n) => Ok(n as i64),
        _ => Err("something else stands where an integer should".into()),
    }
}

pub(super) fn model(bytes: &[u8]) -> Parsed<Model> {
    let (mut r, mut m) = (Reader::new(bytes), Model::default());
    while let Some((field, wire)) = r.field()? {
        match field {
            7 => m.graph = Some(graph(message(&r, wire)?, 0)?),
            8 => m.opsets.push(opset(message(&r, wire)?)?),
            25 => m.functions.push(function(message(&r, wire)?)?),
            _ => {}
        }
    }
    Ok(m)
}

fn opset(mut r: Reader<'_>) -> Parsed<(String, i64)> {
    let mut found = (String::new(), 0);
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => found.0 = text(&r, wire)?,
            2 => found.1 = int(wire)?,
            _ => {}
        }
    }
    Ok(found)
}

fn graph(mut r: Reader<'_>, depth: usize) -> Parsed<Graph> {
    if depth > DEPTH {
        return Err(format!("graphs are nested more than {DEPTH} deep"));
    }
    let mut g = Graph::default();
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => g.nodes.push(node(message(&r, wire)?, depth)?),
            5 => g.initializers.push(tensor(message(&r, wire)?)?),
            11 => g.inputs.push(value_info(message(&r, wire)?)?),
            12 => g.outputs.push(value_info(message(&r, wire)?)?),
            15 => g.sparse = true,
            _ => {}
        }
    }
    Ok(g)
}

fn node(mut r: Reader<'_>, depth: usize) -> Parsed<Node> {
    let mut n = Node::default();
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => n.inputs.push(text(&r, wire)?),
            2 => n.outputs.push(text(&r, wire)?),
            3 => n.name = text(&r, wire)?,
            4 => n.operator = text(&r, wire)?,
            5 => n.attributes.push(attribute(message(&r, wire)?, depth)?),
            7 => n.domain = text(&r, wire)?,
            8 => n.overload = text(&r, wire)?,
            _ => {}
        }
    }
    Ok(n)
}

fn function(mut r: Reader<'_>) -> Parsed<Function> {
    let mut f = Function::default();
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => f.name = text(&r, wire)?,
            4 => f.inputs.push(text(&r, wire)?),
            5 => f.outputs.push(text(&r, wire)?),
            7 => f.nodes.push(node(message(&r, wire)?, 0)?),
            9 => f.opsets.push(opset(message(&r, wire)?)?),
            10 => f.domain = text(&r, wire)?,
            11 => f.defaults.push(attribute(message(&r, wire)?, 0)?),
            13 => f.overload = text(&r, wire)?,
            _ => {}
        }
    }
    Ok(f)
}

fn attribute(mut r: Reader<'_>, depth: usize) -> Parsed<Attribute> {
    let mut a = Attribute::default();
    while let Some((field, wire)) = r.field()? {
        match (field, wire) {
            (1, wire) => a.name = text(&r, wire)?,
            (2, Wire::Fixed32(f)) => a.float = Some(f32::from_le_bytes(f)),
            (3, wire) => a.int = Some(int(wire)?),
            (4, Wire::Bytes(range)) => a.text = Some(r.bytes(&range).to_vec()),
            (5, wire) => a.tensor = Some(tensor(message(&r, wire)?)?.into()),
            (6, wire) => a.graph = Some(graph(message(&r, wire)?, depth + 1)?.into()),
            (7, Wire::Fixed32(f)) => a.floats.push(f32::from_le_bytes(f)),
            (7, Wire::Bytes(range)) => {
                let chunks = r.bytes(&range).as_chunks::<4>().0;
                a.floats.extend(chunks.iter().map(|&c| f32::from_le_bytes(c)));
            }
            (8, wire) => r.integers(&wire, &mut a.ints)?,
            (9, _) => a.texts += 1,
            (21, wire) => a.refers_to = text(&r, wire)?,
            _ => {}
        }
    }
    Ok(a)
}

/// One tensor; `r` is the whole message.
pub(super) fn tensor(mut r: Reader<'_>) -> Parsed<Tensor> {
    let mut t = Tensor::default();
    let mut numbers = Vec::new();
    let mut entries = Vec::new();
    let mut elsewhere = false;
    while let Some((field, wire)) = r.field()? {
        match (field, wire) {
            (1, wire) => r.integers(&wire, &mut t.dims)?,
            (2, wire) => t.code = int(wire)?,
            (3, _) => return Err("a tensor in segments is not supported".into()),
            (4 | 10, wire) => scattered(&r, wire, &mut t.data)?,
            (5 | 7 | 11, wire) => r.integers(&wire, &mut numbers)?,
            (6, _) => t.data = Data::Texts,
            (8, wire) => t.name = text(&r, wire)?,
            (9, Wire::Bytes(range)) => t.data = Data::Raw(range),
            (13, wire) => entries.push(entry(message(&r, wire)?)?),
            (14, wire) => elsewhere = int(wire)? == 1,
            _ => {}
        }
    }
    if !numbers.is_empty() {
        t.data = Data::Numbers(numbers);
    }
    t.external = elsewhere.then_some(entries);
    Ok(t)
}

/// Floats one after the other: packed they are bytes of the file, single they are gathered.
fn scattered(r: &Reader<'_>, wire: Wire, to: &mut Data) -> Parsed<()> {
    if let (Data::None, Wire::Bytes(range)) = (&*to, &wire) {
        *to = Data::Raw(range.clone());
        return Ok(());
    }
    let mut bytes = match std::mem::take(to) {
        Data::Raw(range) => r.bytes(&range).to_vec(),
        Data::Bytes(bytes) => bytes,
        _ => Vec::new(),
    };
    match wire {
        Wire::Bytes(range) => bytes.extend(r.bytes(&range)),
        Wire::Fixed32(f) => bytes.extend(f),
        Wire::Fixed64(f) => bytes.extend(f),
        Wire::Varint(_) => return Err("an integer stands where a float should".into()),
    }
    *to = Data::Bytes(bytes);
    Ok(())
}

fn entry(mut r: Reader<'_>) -> Parsed<(String, String)> {
    let mut found = (String::new(), String::new());
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => found.0 = text(&r, wire)?,
            2 => found.1 = text(&r, wire)?,
            _ => {}
        }
    }
    Ok(found)
}

fn value_info(mut r: Reader<'_>) -> Parsed<ValueInfo> {
    let mut v = ValueInfo::default();
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => v.name = text(&r, wire)?,
            2 => {
                let mut kind = message(&r, wire)?;
                while let Some((field, wire)) = kind.field()? {
                    if field == 1 {
                        tensor_type(message(&kind, wire)?, &mut v)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(v)
}

fn tensor_type(mut r: Reader<'_>, v: &mut ValueInfo) -> Parsed<()> {
    // A type without a number is of type 0, which is none.
    v.code.get_or_insert(0);
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => v.code = Some(int(wire)?),
            2 => {
                let extents = v.extents.get_or_insert_default();
                let mut shape = message(&r, wire)?;
                while let Some((field, wire)) = shape.field()? {
                    if field == 1 {
                        extents.push(extent(message(&shape, wire)?)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn extent(mut r: Reader<'_>) -> Parsed<Extent> {
    let mut found = Extent::Any;
    while let Some((field, wire)) = r.field()? {
        match field {
            1 => found = Extent::Known(int(wire)?),
            2 => {
                let name = text(&r, wire)?;
                found = if name.is_empty() { Extent::Any } else { Extent::Named(name) };
            }
            _ => {}
        }
    }
    Ok(found)
}
