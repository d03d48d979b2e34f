//! The backend: which device, which Blocks MLX has calls for.

use crate::{
    Device, MlxError,
    ffi::{Library, Session},
    fused::{Entry, FUSED},
    kernel::{Kernel, declined},
    plan,
    repack::{is_simple, repacked},
};
use frit_graph::{Backend, Decline, DynBlock, Error, Executable, Graph, Params, Spec};
use frit_ops::QuantizedMatmul;
use std::path::Path;

/// Apple's MLX.
///
/// [`Mlx::new`] finds and loads it, and takes the GPU where there is one. Cloning is free, and all
/// share weights. Programs run from any thread; one runs at a time, since MLX is one machine.
///
/// ```no_run
/// use frit_graph::{DType, Graph, Params, Policy, Spec, Value, compile};
/// use frit_mlx::Mlx;
/// use frit_ops::fast;
///
/// let mlx = Mlx::new()?;
/// let graph = Graph::trace(&[Spec::new(DType::F32, [1, 4])], |x| {
///     vec![fast::rms_norm(&x[0], None, 0.0)]
/// })?;
/// let program = compile(&graph, &mlx, &Params::new(), Policy::Deny)?;
/// let y = program.run(vec![Value::new([1, 4], vec![2.0f32, -2.0, 2.0, -2.0])?])?;
/// assert_eq!(y[0].to_f64(), [1.0, -1.0, 1.0, -1.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Mlx {
    library: &'static Library,
    device: Device,
    fused: bool,
    compiled: bool,
    packed: bool,
}

impl Mlx {
    /// On the GPU if MLX has one here, else on the CPU.
    ///
    /// # Errors
    /// No MLX of the right version, or one that cannot be loaded: what to do stands in the error.
    pub fn new() -> Result<Mlx, MlxError> {
        let library = Library::get()?;
        let device = if library.gpus() > 0 { Device::Gpu } else { Device::Cpu };
        let packed = device == Device::Gpu;
        Ok(Mlx { library, device, fused: true, compiled: false, packed })
    }

    /// On this device.
    ///
    /// # Errors
    /// As [`Mlx::new`]; a device that is not there.
    pub fn on(device: Device) -> Result<Mlx, MlxError> {
        let mlx = Mlx { device, ..Mlx::new()? }.with_packed(device == Device::Gpu);
        match device == Device::Gpu && mlx.library.gpus() == 0 {
            true => Err(MlxError::NoDevice { device: device.name() }),
            false => Ok(mlx),
        }
    }

    /// On a GPU, if this machine may have one and MLX can use it. Cheap where it cannot have one:
    /// nothing is looked for or loaded.
    pub fn on_gpu() -> Option<Mlx> {
        let metal = cfg!(all(target_os = "macos", target_arch = "aarch64"));
        let possible = metal || Path::new("/dev/nvidiactl").exists();
        possible.then(Mlx::new)?.ok().filter(|mlx| mlx.device == Device::Gpu)
    }

    /// The same with no call of MLX's own: every Block is composed of primitives.
    pub fn without_fused(mut self) -> Mlx {
        self.fused = false;
        self
    }

    /// The same with each program by `mx::compile`, which joins small operations on a GPU. Off
    /// unless asked for: on a CPU it calls a C++ compiler at run time and brings nothing. A program
    /// that looks at numbers while its graph is built, as rotary embeddings do, runs as it is.
    pub fn compiled(mut self) -> Mlx {
        self.compiled = true;
        self
    }

    /// Whether weights in the simple blocks of GGML (`Q4_0`, `Q4_1`, `Q8_0`) stay packed, in MLX's own
    /// layout, or are unpacked once to f32. They stay packed on a GPU; on a CPU, MLX's product with
    /// packed weights takes longer.
    pub fn with_packed(mut self, packed: bool) -> Mlx {
        self.packed = packed;
        self
    }

    pub(crate) fn is_compiled(&self) -> bool {
        self.compiled
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The name of the device, as far as MLX knows one.
    pub fn device_name(&self) -> String {
        self.library.device_name(self.device)
    }

    /// How many GPUs MLX sees.
    pub fn gpus(&self) -> usize {
        self.library.gpus()
    }

    /// The folder that MLX lies in.
    pub fn folder(&self) -> &Path {
        &self.library.installation.folder
    }

    /// Bytes that MLX's arrays take now, in the whole process.
    pub fn active_memory(&self) -> usize {
        self.library.active_memory()
    }

    pub(crate) fn session(&self) -> Result<Session, MlxError> {
        self.library.session(self.device)
    }

    fn entry(block: &dyn DynBlock) -> Option<&'static Entry> {
        let wanted = block.block_type();
        FUSED.iter().find(|e| (e.block)() == wanted)
    }

    pub(crate) fn make(&self, block: &dyn DynBlock, out: &Spec) -> Option<Box<dyn Kernel>> {
        (Mlx::entry(block)?.make)(block, out)
    }
}

impl Backend for Mlx {
    fn name(&self) -> &str {
        "mlx"
    }

    fn accept(&self, block: &dyn DynBlock, inputs: &[Option<&Spec>]) -> Result<(), Decline> {
        if !self.fused {
            return Err(Decline::Off);
        }
        let blocks = block.downcast::<QuantizedMatmul>().is_some_and(|q| is_simple(q.encoding));
        if blocks && !self.packed {
            return declined("on a CPU, weights are unpacked once");
        }
        let entry = Mlx::entry(block).ok_or(Decline::NoKernel)?;
        (entry.accept)(block, inputs)
    }

    fn prepare(&self, graph: &Graph, params: &Params) -> Result<Box<dyn Executable>, Error> {
        Ok(Box::new(plan::build(self, &repacked(graph)?, params)?))
    }
}
