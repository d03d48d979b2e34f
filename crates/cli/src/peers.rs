//! Other libraries at the same work: PyTorch, onnxruntime, MLX; faster-whisper and llama-cpp-python
//! for whole models.
//!
//! Each runs in a Python process of its own (`peers/peer.py`), which is asked for one sample at a
//! time: so it takes its turn between our own programs, and a slow minute hits all alike. What is
//! not installed does not take part; the first result of each is compared with ours.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use frit::graph::{DType, DynBlock, Value};
use frit::ops::{
    Activation, Conv1d, DynCase, Gelu, GeluForm, LayerNorm, Linear, RmsNorm, Rope,
    ScaledDotProductAttention, Silu, Softmax, SwiGlu,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::bench::{PAUSE, SHORT, WARM, max_abs_diff};
use crate::commands::plain;
use crate::npy::{read_npy, write_npz};

const SCRIPT: &str = include_str!("peers/peer.py");

/// Peers that run single operations.
pub const KERNELS: [&str; 3] = ["torch", "ort", "mlx"];

/// A peer that does not answer for so long is given up.
const LIMIT: Duration = Duration::from_secs(300);

/// What went wrong with a peer: it is told, and the peer left out.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The process cannot be started or talked to.
    #[error("cannot talk to it: {0}")]
    Io(#[from] io::Error),
    /// It says that it cannot do this.
    #[error("{0}")]
    Cannot(String),
    /// It ended without an answer.
    #[error("it ended without an answer")]
    Ended,
    /// It did not answer in time.
    #[error("no answer in {0:?}")]
    Silent(Duration),
    /// It answered something else.
    #[error("it answered `{0}`")]
    Answer(String),
    /// Operands could not be handed over.
    #[error(transparent)]
    Array(#[from] crate::npy::NpyError),
    /// It computed something else.
    #[error("its result differs by {0:.1e}")]
    Differs(f64),
}

/// The interpreter that peers run under: that of the environment variable `FRIT_PYTHON`, else
/// `python3`.
#[must_use]
pub fn python() -> PathBuf {
    std::env::var_os("FRIT_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

/// An answer of the script.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    version: Option<String>,
    cannot: Option<String>,
    composed: bool,
    seconds: Option<f64>,
}

/// A peer at work.
pub struct Peer {
    /// Its name in tables.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    process: Child,
    requests: Option<ChildStdin>,
    /// Lines of its output, read by a thread that ends with it.
    answers: Receiver<String>,
    /// How long it may take to answer.
    limit: Duration,
    /// Where operands are handed over.
    folder: TempDir,
}

impl Peer {
    /// Starts a peer under an interpreter, on so many threads.
    ///
    /// # Errors
    /// [`PeerError::Cannot`] with the reason if it is not installed there.
    pub fn start(name: &'static str, python: &Path, threads: usize) -> Result<Peer, PeerError> {
        let mut process = Command::new(python)
            .args(["-c", SCRIPT, name, &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let requests = process.stdin.take();
        let output = process.stdout.take().ok_or_else(broken)?;
        let folder = tempfile::tempdir()?;
        let (lines, answers) = channel();
        std::thread::spawn(move || {
            let mut read = BufReader::new(output).lines().map_while(Result::ok);
            read.all(|line| lines.send(line).is_ok());
        });
        let mut peer =
            Peer { name, version: String::new(), process, requests, answers, limit: LIMIT, folder };
        peer.version = peer.answer()?.version.unwrap_or_default();
        Ok(peer)
    }

    fn ask(&mut self, request: &Json) -> Result<Answer, PeerError> {
        let requests = self.requests.as_mut().ok_or_else(broken)?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, PeerError> {
        let line = self.answers.recv_timeout(self.limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => PeerError::Silent(self.limit),
            RecvTimeoutError::Disconnected => PeerError::Ended,
        });
        if let Err(PeerError::Silent(_)) = line {
            self.requests = None;
            self.process.kill()?;
        }
        let line = line?;
        let answer: Answer =
            serde_json::from_str(&line).map_err(|_| PeerError::Answer(plain(line.trim())))?;
        match answer.cannot {
            Some(why) => Err(PeerError::Cannot(plain(&why))),
            None => Ok(answer),
        }
    }

    /// Gets a case of the catalogue ready, and holds its first result against ours: they may
    /// differ by rounding. Says whether the peer composes it of several calls.
    ///
    /// # Errors
    /// The peer has no such operation, or it computes something else.
    pub fn make(
        &mut self,
        case: &DynCase,
        dtype: DType,
        values: &[Option<Value>],
        result: &Value,
    ) -> Result<bool, PeerError> {
        let options = options(&*case.block)
            .ok_or_else(|| PeerError::Cannot(format!("has no {}", case.op)))?;
        let names = frit::ops::find(case.op).map(|line| (line.slots)()).unwrap_or_default();
        let mut arrays = Vec::new();
        for (slot, value) in names.iter().zip(values) {
            if let Some(value) = value {
                arrays.push((slot.name, plain_array(value)?));
            }
        }
        let arrays: Vec<(&str, &Value)> = arrays.iter().map(|(n, v)| (*n, v)).collect();
        let inputs = self.hand_over(&arrays)?;
        let file = self.folder.path().join("result.npy");
        let answer = self.ask(&json!({"make": {
            "op": case.op, "options": options, "dtype": dtype.name(),
            "inputs": inputs, "result": file, "least": LEAST, "short": SHORT.as_secs_f64(),
            "warm": WARM.as_secs_f64(),
        }}))?;
        let theirs = read_npy(&file)?;
        let most = result.to_f64().iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        let bound = if dtype == DType::F32 { 1e-4 } else { 2e-2 } * most;
        let apart = max_abs_diff(&theirs, &plain_array(result)?);
        match apart <= bound {
            true => Ok(answer.composed),
            false => Err(PeerError::Differs(apart)),
        }
    }

    /// Gets something whole ready: a file and what goes into it, as `peer.py` names them.
    ///
    /// # Errors
    /// The peer cannot do it.
    pub fn make_model(&mut self, what: Json, arrays: &[(&str, &Value)]) -> Result<(), PeerError> {
        let mut what = what;
        if !arrays.is_empty() {
            what["inputs"] = json!(self.hand_over(arrays)?);
        }
        what["least"] = json!(LEAST);
        what["short"] = json!(SHORT.as_secs_f64());
        what["warm"] = json!(WARM.as_secs_f64());
        self.ask(&json!({ "make": what })).map(drop)
    }

    fn hand_over(&self, arrays: &[(&str, &Value)]) -> Result<PathBuf, PeerError> {
        let inputs = self.folder.path().join("inputs.npz");
        write_npz(&inputs, arrays)?;
        Ok(inputs)
    }

    /// The seconds of one run of what was made last.
    ///
    /// # Errors
    /// What the peer says.
    pub fn sample(&mut self) -> Result<f64, PeerError> {
        let seconds = self.ask(&json!({"sample": {}}))?.seconds;
        std::thread::sleep(PAUSE);
        seconds.ok_or_else(|| PeerError::Answer("no seconds".into()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input ends it; killed if it is busy.
        self.requests = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

/// A sample lasts at least so many seconds where one run is shorter.
const LEAST: f64 = 1e-3;

/// In a type that NumPy has.
fn plain_array(value: &Value) -> Result<Value, PeerError> {
    if value.dtype() == DType::Bool {
        return Ok(value.clone());
    }
    let numbers: Vec<f32> = value.to_f64().iter().map(|&x| x as f32).collect();
    let array = Value::new(value.shape().to_vec(), numbers);
    array.map_err(|e| PeerError::Cannot(e.to_string()))
}

/// The options of an operation as the script knows them; none where peers have no such operation,
/// or not with these options.
fn options(block: &dyn DynBlock) -> Option<Json> {
    if let Some(b) = block.downcast::<RmsNorm>() {
        return Some(json!({"eps": b.eps}));
    }
    if let Some(b) = block.downcast::<LayerNorm>() {
        return Some(json!({"eps": b.eps}));
    }
    if let Some(b) = block.downcast::<Rope>() {
        let plain = *b == Rope::new(b.dims) && b.scale == 1.0;
        return plain.then(|| json!({"dims": b.dims, "base": b.base, "offset": 0}));
    }
    if let Some(b) = block.downcast::<ScaledDotProductAttention>() {
        let plain = ScaledDotProductAttention { causal: b.causal, ..Default::default() };
        return (*b == plain).then(|| json!({"causal": b.causal}));
    }
    if let Some(b) = block.downcast::<Linear>() {
        return Some(json!({"activation": activation(&b.activation)?}));
    }
    if let Some(b) = block.downcast::<Conv1d>() {
        return Some(json!({
            "stride": b.stride, "padding": b.padding, "dilation": b.dilation, "groups": b.groups,
            "activation": activation(&b.activation)?,
        }));
    }
    let last = |b: &Softmax| b.axis == -1;
    let plain = block.downcast::<SwiGlu>().is_some()
        || block.downcast::<Silu>().is_some()
        || block.downcast::<Gelu>().is_some_and(|b| b.form == GeluForm::default())
        || block.downcast::<Softmax>().is_some_and(last);
    plain.then(|| json!({}))
}

fn activation(activation: &Activation) -> Option<&'static str> {
    match activation {
        Activation::Identity => Some("none"),
        Activation::Silu => Some("silu"),
        Activation::Gelu(form) if *form == GeluForm::default() => Some("gelu"),
        _ => None,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    /// An interpreter that answers these lines, the last one again and again.
    fn interpreter(folder: &TempDir, first: &str, then: &str) -> PathBuf {
        let path = folder.path().join("python");
        let script =
            format!("#!/bin/sh\necho '{first}'\nwhile read -r line; do echo '{then}'; done\n");
        write(&path, script).expect("a script");
        set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
        path
    }

    #[test]
    fn a_peer_says_its_version_and_its_samples() -> Result<(), PeerError> {
        let folder = tempfile::tempdir()?;
        let python = interpreter(&folder, r#"{"version": "1.2"}"#, r#"{"seconds": 0.25}"#);
        let mut peer = Peer::start("torch", &python, 1)?;
        assert_eq!((peer.name, &*peer.version), ("torch", "1.2"));
        assert_eq!(peer.sample()?, 0.25);
        assert!(peer.make_model(json!({"language": "x"}), &[]).is_ok());
        Ok(())
    }

    #[test]
    fn what_is_missing_or_answers_nonsense_is_told() -> Result<(), PeerError> {
        let folder = tempfile::tempdir()?;
        let start =
            |first: &str, then: &str| Peer::start("ort", &interpreter(&folder, first, then), 1);
        let missing = start(r#"{"cannot": "no module"}"#, "").err();
        assert!(matches!(missing, Some(PeerError::Cannot(why)) if why == "no module"));
        let nonsense = start("Segmentation fault", "").err();
        assert!(matches!(nonsense, Some(PeerError::Answer(_))));
        let mut fails = start("{}", r#"{"cannot": "out of memory"}"#)?;
        assert!(fails.sample().is_err_and(|e| e.to_string() == "out of memory"));
        let mut ends = start("{}", "{}")?;
        ends.process.kill()?;
        assert!(matches!(ends.sample(), Err(PeerError::Ended | PeerError::Io(_))));
        // Nobody asked it anything, so that it waits for ever.
        let mut hangs = start("{}", "{}")?;
        hangs.limit = Duration::from_millis(20);
        assert!(matches!(hangs.answer(), Err(PeerError::Silent(_))));
        assert!(matches!(hangs.sample(), Err(PeerError::Io(_))), "it was given up");
        let nowhere = Peer::start("ort", &folder.path().join("nothing"), 1).err();
        assert!(matches!(nowhere, Some(PeerError::Io(_))));
        Ok(())
    }

    #[test]
    fn a_peer_that_computes_something_else_does_not_take_part() -> Result<(), PeerError> {
        let folder = tempfile::tempdir()?;
        let python = interpreter(&folder, "{}", r#"{"composed": true}"#);
        let mut peer = Peer::start("torch", &python, 1)?;
        let line = frit::ops::find("silu").expect("silu is in the catalogue");
        let case = (line.cases)().into_iter().find(|c| c.bench).expect("a bench");
        let (values, ours) = (case.values(DType::F32), Value::new([2], vec![1.0f32, 2.0]));
        let ours = ours.expect("two numbers");
        let result = peer.folder.path().join("result.npz");
        // Where an `.npy` is wanted, the first array of an archive stands for what a peer wrote.
        for (theirs, same) in [([1.0f32, 2.0], true), ([1.0, 2.1], false)] {
            let theirs = Value::new([2], theirs.to_vec()).expect("two numbers");
            write_npz(&result, &[("y", &theirs)])?;
            let file = std::fs::File::open(&result)?;
            let mut archive = zip::ZipArchive::new(file).expect("an archive");
            let mut array = archive.by_index(0).expect("an array");
            let mut out = std::fs::File::create(peer.folder.path().join("result.npy"))?;
            io::copy(&mut array, &mut out)?;
            let got = peer.make(&case, DType::F32, &values, &ours);
            assert_eq!(got.is_ok_and(|composed| composed), same);
        }
        Ok(())
    }
}
