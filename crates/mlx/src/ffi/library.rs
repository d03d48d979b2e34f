//! The loaded bridge and the lock around it.

use super::{
    Array, Call,
    symbols::{Args, Raw, Symbols},
};
use crate::{MlxError, VERSION, bridge, find};
use frit_graph::DType;
use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char},
    marker::PhantomData,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Where MLX computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The graphics processor, through Metal or CUDA.
    Gpu,
}

impl Device {
    /// The name: `CPU`, `GPU`.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "CPU",
            Device::Gpu => "GPU",
        }
    }
}

/// The loaded bridge.
pub(crate) struct Library {
    pub(super) symbols: Symbols,
    pub(crate) installation: find::Installation,
    gpus: usize,
}

static LOCK: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether this thread holds the lock.
    static HELD: Cell<bool> = const { Cell::new(false) };
    /// Whether MLX knows this thread's streams.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// The lock, unless this thread has it already. Memory of MLX is freed in many places, also while
/// its lock is held.
pub(super) struct Held(Option<MutexGuard<'static, ()>>);

impl Held {
    pub(super) fn new() -> Held {
        if HELD.try_with(Cell::get).unwrap_or(false) {
            return Held(None);
        }
        // Nothing is left half done by a panic: MLX's own state is behind the bridge.
        let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = HELD.try_with(|h| h.set(true));
        Held(Some(guard))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = HELD.try_with(|h| h.set(false));
        }
    }
}

/// The text behind a pointer of the bridge.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the bridge gives strings that end in zero and live until the next call of this
    // thread, which the lock holds off.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

impl Library {
    /// The library of this process: found, compiled and loaded at the first call.
    pub(crate) fn get() -> Result<&'static Library, MlxError> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        static LOADING: Mutex<()> = Mutex::new(());
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        // A failure is not kept: what was missing may be installed meanwhile.
        let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        match LIBRARY.get() {
            Some(library) => Ok(library),
            None => {
                let library = Library::load()?;
                Ok(LIBRARY.get_or_init(|| library))
            }
        }
    }

    fn load() -> Result<Library, MlxError> {
        let installation = find::find()?;
        let path = bridge::ensure(&installation)?;
        load_blas()?;
        let symbols = Symbols::load(&path)?;
        let _held = Held::new();
        // SAFETY: the lock is held.
        let found = text(unsafe { (symbols.version)() });
        if found != VERSION {
            return Err(MlxError::Version { folder: installation.folder, found });
        }
        // SAFETY: the lock is held.
        let gpus = unsafe { (symbols.devices)(1) };
        Ok(Library { symbols, installation, gpus: usize::try_from(gpus).unwrap_or(0) })
    }

    /// How many GPUs MLX sees.
    pub(crate) fn gpus(&self) -> usize {
        self.gpus
    }

    /// The name of a device, as far as MLX knows one.
    pub(crate) fn device_name(&self, device: Device) -> String {
        let _held = Held::new();
        // SAFETY: the lock is held.
        text(unsafe { (self.symbols.device_name)((device == Device::Gpu).into()) })
    }

    /// Bytes that arrays take now.
    pub(crate) fn active_memory(&self) -> usize {
        let _held = Held::new();
        // SAFETY: the lock is held.
        unsafe { (self.symbols.active_memory)() }
    }

    /// Takes the lock for operations on this device.
    pub(crate) fn session(&'static self, device: Device) -> Result<Session, MlxError> {
        let session = Session { library: self, device, _held: Held::new(), _here: PhantomData };
        if !ENTERED.get() {
            // SAFETY: the lock is held.
            let failed = unsafe { (self.symbols.enter_thread)((self.gpus > 0).into()) };
            session.check(failed == 0, "enter_thread")?;
            ENTERED.set(true);
        }
        Ok(session)
    }
}

/// A faster BLAS for MLX's products on the CPU, where the user names one: its symbols come before
/// those of the reference BLAS that the wheel carries.
fn load_blas() -> Result<(), MlxError> {
    #[cfg(unix)]
    if let Some(name) = std::env::var_os("FRIT_MLX_BLAS").filter(|n| !n.is_empty()) {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: the user asks for this library to be loaded.
        match unsafe { Library::open(Some(&name), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => std::mem::forget(library),
            Err(e) => return Err(MlxError::Load { path: name.into(), why: e.to_string() }),
        }
    }
    Ok(())
}

/// The right to call MLX, for one device, on this thread.
pub(crate) struct Session {
    pub(super) library: &'static Library,
    device: Device,
    _held: Held,
    /// The lock is this thread's.
    _here: PhantomData<*const ()>,
}

impl Session {
    /// What MLX said last on this thread, unless all is well.
    pub(super) fn check(&self, fine: bool, call: &'static str) -> Result<(), MlxError> {
        if fine {
            return Ok(());
        }
        // SAFETY: the lock is held.
        let message = text(unsafe { (self.library.symbols.error)() });
        Err(MlxError::Call { call, message })
    }

    /// The device that operations are for.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Adds one operation to the lazy graph.
    ///
    /// # Errors
    /// What MLX says against these operands.
    pub(crate) fn call(
        &self,
        call: Call,
        operands: &[Option<&Array>],
        ints: &[i64],
        reals: &[f64],
        text: &str,
    ) -> Result<Array, MlxError> {
        let raws: Vec<Raw> =
            operands.iter().map(|a| a.map_or(std::ptr::null_mut(), Array::raw)).collect();
        let text = CString::new(text)
            .map_err(|e| MlxError::Call { call: call.name(), message: e.to_string() })?;
        // No GPU has f64: such operations run on the CPU, which MLX lets work on the same arrays.
        let f64_in = operands.iter().flatten().any(|a| a.dtype() == DType::F64);
        let f64_out = match call {
            Call::Cast | Call::Zeros => ints.first() == Some(&0),
            Call::Count => ints.get(1) == Some(&0),
            _ => false,
        };
        let gpu = self.device == Device::Gpu && !f64_in && !f64_out;
        let args = Args {
            arrays: raws.as_ptr(),
            array_count: raws.len(),
            ints: ints.as_ptr(),
            int_count: ints.len(),
            reals: reals.as_ptr(),
            real_count: reals.len(),
            text: text.as_ptr(),
            gpu: gpu.into(),
        };
        // SAFETY: the lock is held, the arrays live, and the bridge reads no further than the
        // counts say.
        let raw = unsafe { self.library.symbols.operation(call)(&raw const args) };
        self.own(raw, call.name())
    }

    /// Computes these arrays.
    ///
    /// # Errors
    /// What MLX met.
    pub(crate) fn eval(&self, arrays: &[&Array]) -> Result<(), MlxError> {
        let raws: Vec<Raw> = arrays.iter().map(|a| a.raw()).collect();
        // SAFETY: the lock is held and the arrays live.
        let failed = unsafe { (self.library.symbols.eval)(raws.as_ptr(), raws.len()) };
        self.check(failed == 0, "eval")
    }
}
