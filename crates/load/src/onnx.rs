//! ONNX files to graphs.
//!
//! [`OnnxModel::open`] reads the file; [`OnnxModel::graph`] makes a graph of it for inputs of given
//! specs. Shapes are static in a graph, so the extents that the file leaves open are bound there,
//! and everything that depends on shapes alone is known while importing. Weights keep their names
//! and are shared by the graphs of all shapes.
//!
//! Operators that the catalogue has a Block for become that Block where their meaning is the same,
//! all others are written in primitives. What is not supported is one error that names it all.
//!
//! Read in this order: `wire` and `proto` (the file), `data` (its tensors), `elem` (element types),
//! `import` (nodes and names), `known` (what is known of values), `operators`.

mod call;
mod data;
mod elem;
mod import;
mod known;
mod narrow;
mod operators;
mod proto;
#[cfg(test)]
mod tests;
mod wire;

use crate::{
    LoadError,
    error::shown,
    mapped::{self, Shared},
};
use data::Files;
use elem::Elem;
use frit_graph::{DType, Graph, Params, Spec, Tensor, Value};
use import::{Importer, Scope, leaf};
use known::Known;
use proto::Extent;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The versions of the standard operators that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// An extent of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Known(usize),
    /// The same wherever this name stands.
    Named(String),
    /// Anything.
    Any,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Named(name) => f.write_str(&shown(name)),
            Dim::Any => f.write_str("?"),
        }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its elements in a graph.
    pub dtype: DType,
    /// The type as the file has it: `i8`, `i16`, `u16` and narrower are `i32` in a graph, `u64` is
    /// `i64`.
    pub element: &'static str,
    /// Its extents, if the file says how many there are.
    pub dims: Option<Vec<Dim>>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", shown(&self.name), self.element)?;
        match &self.dims {
            None => f.write_str("[..]"),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join(", "))
            }
        }
    }
}

/// An ONNX file.
pub struct OnnxModel {
    path: PathBuf,
    files: Files,
    nodes: Vec<proto::Node>,
    functions: Vec<proto::Function>,
    opsets: Vec<(String, i64)>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Initializers and constants, or why they cannot be read.
    tensors: BTreeMap<String, Result<(Elem, Value), String>>,
    params: Params,
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnnxModel({}, {} nodes)", self.path.display(), self.nodes.len())
    }
}

impl OnnxModel {
    /// Reads a file. Its weights stay in the file, which must not change meanwhile.
    ///
    /// # Errors
    /// When the file cannot be read, is no ONNX model, or is of a version that is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<OnnxModel, LoadError> {
        let path = path.as_ref();
        OnnxModel::read(mapped::map(path)?, path)
    }

    /// Reads a model from memory. `path` is where it is said to be: messages name it, and tensors
    /// in other files are looked for beside it.
    ///
    /// # Errors
    /// As [`OnnxModel::open`].
    pub fn from_bytes(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        path: impl AsRef<Path>,
    ) -> Result<OnnxModel, LoadError> {
        OnnxModel::read(Arc::new(bytes), path.as_ref())
    }

    fn read(own: Shared, path: &Path) -> Result<OnnxModel, LoadError> {
        let model = proto::model((*own).as_ref())
            .map_err(|m| LoadError::format(path, format!("no ONNX model: {m}")))?;
        let Some(graph) = model.graph else {
            return Err(LoadError::format(path, "no ONNX model: it has no graph"));
        };
        let version = model.opsets.iter().find(|(d, _)| d.is_empty() || d == "ai.onnx");
        if let Some((_, version)) = version
            && !OPSETS.contains(version)
        {
            let (low, high) = (OPSETS.start(), OPSETS.end());
            let operators = vec![format!("all of opset {version} (supported are {low} to {high})")];
            return Err(LoadError::Unsupported { path: path.into(), operators });
        }
        if graph.sparse {
            return Err(LoadError::format(path, "sparse initializers are not supported"));
        }
        let files = Files::new(own, path);
        let constants = graph.nodes.iter().filter(|n| import::is_constant(n)).filter_map(|n| {
            let tensor = n.attributes.iter().find(|a| a.name == "value")?.tensor.as_deref()?;
            Some((n.outputs.first()?.clone(), tensor))
        });
        let initializers = graph.initializers.iter().map(|t| (t.name.clone(), t));
        let mut tensors = BTreeMap::new();
        for (name, tensor) in initializers.chain(constants) {
            let found = files.value(tensor).map(|(e, v)| match v.spec().numel() > import::FEW {
                true => (e, narrow::stored(e, v)),
                false => (e, v),
            });
            if tensors.insert(name.clone(), found).is_some() {
                return Err(LoadError::tensor(path, &name, "is there twice"));
            }
        }
        let weights = tensors.iter().filter_map(|(name, found)| {
            let value = found.as_ref().ok()?.1.clone();
            Some((name.clone(), value))
        });
        let params: Params = weights.collect();
        let inputs = graph.inputs.iter().filter(|i| !tensors.contains_key(&i.name));
        let inputs = inputs.map(|i| port(i, path)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::new();
        if let Some(twice) = inputs.iter().find(|i| !seen.insert(&i.name)) {
            return Err(LoadError::tensor(path, &twice.name, "is an input twice"));
        }
        let outputs = graph.outputs.iter().map(|o| port(o, path)).collect::<Result<_, _>>()?;
        let (nodes, functions, opsets) = (graph.nodes, model.functions, model.opsets);
        let path = path.to_path_buf();
        Ok(OnnxModel { path, files, nodes, functions, opsets, inputs, outputs, tensors, params })
    }

    /// What it wants, in order. Inputs that the file has a value for are none.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What it gives, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// How many nodes its main graph has.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The specs of the inputs that have known extents only.
    pub fn known_specs(&self) -> BTreeMap<String, Spec> {
        let known = self.inputs.iter().filter_map(|port| {
            let dims = port.dims.as_ref()?.iter().map(|d| match d {
                Dim::Known(n) => Some(*n),
                _ => None,
            });
            Some((port.name.clone(), Spec::new(port.dtype, dims.collect::<Option<Vec<_>>>()?)))
        });
        known.collect()
    }

    /// The graph for inputs of these specs, and the weights by their names in the file. Its inputs
    /// and outputs are in the order of [`OnnxModel::inputs`] and [`OnnxModel::outputs`].
    ///
    /// # Errors
    /// An input that is missing, unknown or of another type or shape; operators that are not
    /// supported, all in one error; a node that breaks the rules of its operator.
    pub fn graph(&self, specs: &BTreeMap<String, Spec>) -> Result<(Graph, Params), LoadError> {
        let (graph, _) = self.import(specs, HashMap::new())?;
        Ok((graph, self.params.clone()))
    }

    /// [`OnnxModel::graph`] for these very inputs: values that decide a shape may be among them
    /// (the wanted size of a Resize, the axes of a reduction). The names of the inputs that did are
    /// given too: the graph is for these values of them, and for any values of the others.
    ///
    /// # Errors
    /// As [`OnnxModel::graph`].
    pub fn graph_for(
        &self,
        inputs: &BTreeMap<String, Value>,
    ) -> Result<(Graph, Params, Vec<String>), LoadError> {
        let specs = inputs.iter().map(|(n, v)| (n.clone(), v.spec().clone())).collect();
        let given = self.inputs.iter().enumerate();
        let given = given.filter_map(|(i, p)| Some((i, inputs.get(&p.name)?.clone())));
        let (graph, used) = self.import(&specs, given.collect())?;
        let names = used.into_iter().map(|i| self.inputs[i].name.clone()).collect();
        Ok((graph, self.params.clone(), names))
    }

    fn import(
        &self,
        specs: &BTreeMap<String, Spec>,
        given: HashMap<usize, Value>,
    ) -> Result<(Graph, BTreeSet<usize>), LoadError> {
        let inputs = self.bind(specs)?;
        let mut scope = Scope::new();
        let used = self.used();
        for (name, found) in self.tensors.iter().filter(|(n, _)| used.contains(n.as_str())) {
            match found {
                Ok((elem, value)) => scope.insert(name.clone(), leaf(name, *elem, value)),
                Err(message) => return Err(LoadError::tensor(&self.path, name, message)),
            };
        }
        for (i, (port, spec)) in self.inputs.iter().zip(&inputs).enumerate() {
            let t = Tensor::input_of(i, spec.clone());
            scope.insert(port.name.clone(), elem::Item { t, e: port.elem() });
        }
        let mut importer = Importer {
            path: &self.path,
            files: &self.files,
            functions: import::by_name(&self.functions),
            seen: HashSet::new(),
            opsets: &self.opsets,
            known: Known::new(self.params.clone(), given),
            nodes: 0,
        };
        let names: Vec<&str> = self.outputs.iter().map(|o| o.name.as_str()).collect();
        let items = importer.model(&self.nodes, &names, scope)?;
        let outputs = items.into_iter().map(|i| i.t).collect();
        let graph = Graph::new(inputs, outputs)
            .map_err(|e| LoadError::format(&self.path, shown(&e.to_string())))?;
        Ok((graph, importer.known.used()))
    }

    /// Names that something reads.
    fn used(&self) -> HashSet<&str> {
        let mut names: HashSet<&str> = self.outputs.iter().map(|o| o.name.as_str()).collect();
        for node in &self.nodes {
            import::uses(node, &mut names);
        }
        names
    }

    /// The specs of the inputs in order, checked against what the file says.
    fn bind(&self, specs: &BTreeMap<String, Spec>) -> Result<Vec<Spec>, LoadError> {
        let wrong = |message: String| LoadError::format(&self.path, message);
        let known = |name: &String| self.inputs.iter().any(|i| i.name == *name);
        if let Some(name) = specs.keys().find(|name| !known(name)) {
            let names: Vec<String> = self.inputs.iter().map(|i| shown(&i.name)).collect();
            let names = names.join(", ");
            return Err(wrong(format!("no input is called `{}`; there are {names}", shown(name))));
        }
        let missing: Vec<String> = self
            .inputs
            .iter()
            .filter(|i| !specs.contains_key(&i.name))
            .map(|i| format!("`{i}`"))
            .collect();
        if !missing.is_empty() {
            return Err(wrong(format!("missing inputs: {}", missing.join(", "))));
        }
        let mut names: HashMap<&str, (usize, &str)> = HashMap::new();
        let mut bound = Vec::new();
        for port in &self.inputs {
            let spec = &specs[&port.name];
            let fits = port.dims.as_ref().is_none_or(|dims| {
                let same = |(d, &n): (&Dim, &usize)| !matches!(d, Dim::Known(k) if *k != n);
                dims.len() == spec.rank() && dims.iter().zip(&spec.shape).all(same)
            });
            if spec.dtype != port.dtype || !fits {
                return Err(wrong(format!("input `{port}` got {spec}")));
            }
            for (dim, &n) in port.dims.iter().flatten().zip(&spec.shape) {
                let Dim::Named(name) = dim else { continue };
                let (m, other) = *names.entry(name).or_insert((n, &port.name));
                if m != n {
                    let (name, other) = (shown(name), shown(other));
                    let message = format!("`{name}` is {n}, but {m} in `{other}`");
                    return Err(wrong(format!("input `{port}` got {spec}: {message}")));
                }
            }
            bound.push(spec.clone());
        }
        Ok(bound)
    }
}

impl Port {
    fn elem(&self) -> Elem {
        let all =
            [Elem::I8, Elem::U16, Elem::I16, Elem::U64, Elem::U4, Elem::I4, Elem::U2, Elem::I2];
        let narrow = all.into_iter().find(|e| e.name() == self.element);
        narrow.unwrap_or(Elem::Plain(self.dtype))
    }
}

fn port(info: &proto::ValueInfo, path: &Path) -> Result<Port, LoadError> {
    let dtype = |dtype| LoadError::Dtype {
        path: path.into(),
        name: info.name.clone(),
        dtype,
        supported: "tensors of floats of 16 to 64 bits, integers of 2 to 64 bits, and booleans",
    };
    let Some(code) = info.code else {
        return Err(dtype("a sequence, a map or an optional".into()));
    };
    let elem = Elem::of(code).map_err(dtype)?;
    let dim = |e: &Extent| match e {
        // A negative extent is what some writers put where they know none.
        Extent::Known(n) => usize::try_from(*n).map_or(Dim::Any, Dim::Known),
        Extent::Named(name) => Dim::Named(name.clone()),
        Extent::Any => Dim::Any,
    };
    let dims = info.extents.as_ref().map(|list| list.iter().map(dim).collect());
    Ok(Port { name: info.name.clone(), dtype: elem.carrier(), element: elem.name(), dims })
}

/// Reads a file of one tensor (`.pb`): its name and its value, narrow integers widened.
///
/// # Errors
/// When the file cannot be read, or holds no tensor of a supported type.
pub fn read_tensor(path: impl AsRef<Path>) -> Result<(String, Value), LoadError> {
    let path = path.as_ref();
    tensor_of(mapped::map(path)?, path)
}

/// [`read_tensor`] from memory; `path` is for messages.
///
/// # Errors
/// As [`read_tensor`].
pub fn tensor_from_bytes(
    bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    path: impl AsRef<Path>,
) -> Result<(String, Value), LoadError> {
    tensor_of(Arc::new(bytes), path.as_ref())
}

fn tensor_of(own: Shared, path: &Path) -> Result<(String, Value), LoadError> {
    let tensor = proto::tensor(wire::Reader::new((*own).as_ref()))
        .map_err(|m| LoadError::format(path, format!("no ONNX tensor: {m}")))?;
    let value = Files::new(own, path).value(&tensor);
    let (_, value) = value.map_err(|m| LoadError::tensor(path, &tensor.name, m))?;
    Ok((tensor.name, value))
}
