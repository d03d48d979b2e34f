//! Why no package client brought a package: what was tried, what was said, and what a user can do.
//!
//! The clients tell reasons only in words for people, so the likely cause is found by looking for
//! words. Those words are shown as well: a wrong guess then does no harm.

use std::fmt;

use super::Registry;

/// One command that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The command, as a person would type it.
    pub command: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such program.
    NotFound,
    /// The program could not be started or waited for.
    NotRun(String),
    /// It ended with a failure and said this.
    Failed {
        /// How it ended.
        status: String,
        /// The last lines of its stderr.
        said: Vec<String>,
    },
    /// It ended well, yet no archive is there.
    Nothing {
        /// The last lines of its stderr.
        said: Vec<String>,
    },
}

impl Outcome {
    /// The last lines of its stderr; none if it never ran.
    #[must_use]
    pub fn said(&self) -> &[String] {
        match self {
            Self::Failed { said, .. } | Self::Nothing { said } => said,
            Self::NotFound | Self::NotRun(_) => &[],
        }
    }

    fn said_any(&self, words: &[&str]) -> bool {
        self.said().iter().any(|line| {
            let line = line.to_ascii_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    }
}

/// The likely reason why no client brought the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No client is installed.
    NoClient,
    /// The registry cannot be reached.
    Unreachable,
    /// The registry was reached, but its certificate is not trusted.
    Certificate,
    /// The registry does not have this version of the package.
    NotThere,
    /// The disk is full.
    DiskFull,
    /// Something else, which only the client's own words tell.
    Other,
}

const UNREACHABLE: &[&str] = &[
    "connection refused",
    "connection reset",
    "connection timed out",
    "connecttimeout",
    "newconnectionerror",
    "nameresolutionerror",
    "proxyerror",
    "read timed out",
    "max retries exceeded",
    "name resolution",
    "name or service not known",
    "nodename nor servname",
    "getaddrinfo",
    "network is unreachable",
    "no route to host",
    "econnrefused",
    "econnreset",
    "enotfound",
    "enetunreach",
    "ehostunreach",
    "etimedout",
    "eai_again",
    "err_socket_timeout",
    "could not fetch url",
];
const CERTIFICATE: &[&str] = &[
    "certificate_verify_failed",
    "certificate verify failed",
    "self_signed_cert",
    "self-signed certificate",
    "unable_to_get_issuer_cert",
    "unable_to_verify_leaf_signature",
    "cert_has_expired",
];
const NOT_THERE: &[&str] = &["no matching distribution", "etarget", "e404", "404 not found"];
const DISK_FULL: &[&str] = &["no space left", "enospc", "disk quota"];
const NO_PIP: &[&str] = &["no module named pip", "python was not found"];

/// Reads the likely reason from what the clients said.
pub(super) fn cause_of(attempts: &[Attempt]) -> Cause {
    let any = |words| attempts.iter().any(|attempt| attempt.outcome.said_any(words));
    let absent = |attempt: &Attempt| {
        attempt.outcome == Outcome::NotFound || attempt.outcome.said_any(NO_PIP)
    };
    // A client that cannot reach its registry also says that there is no such package: order
    // matters.
    if attempts.iter().all(absent) {
        Cause::NoClient
    } else if any(CERTIFICATE) {
        Cause::Certificate
    } else if any(UNREACHABLE) {
        Cause::Unreachable
    } else if any(DISK_FULL) {
        Cause::DiskFull
    } else if any(NOT_THERE) {
        Cause::NotThere
    } else {
        Cause::Other
    }
}

/// What was tried to bring a package, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which family of client was asked.
    pub registry: Registry,
    /// Every command, in the order it was tried.
    pub attempts: Vec<Attempt>,
    /// The likely reason.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tried:")?;
        for Attempt { command, outcome } in &self.attempts {
            match outcome {
                Outcome::NotFound => writeln!(f, "  {command}: no such program")?,
                Outcome::NotRun(why) => writeln!(f, "  {command}: {why}")?,
                Outcome::Failed { status, .. } => writeln!(f, "  {command}: {status}")?,
                Outcome::Nothing { .. } => writeln!(f, "  {command}: it left no package")?,
            }
            for line in outcome.said() {
                writeln!(f, "    | {line}")?;
            }
        }
        let client = match self.registry {
            Registry::PyPi => "pip",
            Registry::Npm => "npm",
        };
        match self.cause {
            Cause::NoClient => write!(f, "{client} is not installed"),
            Cause::Unreachable => write!(f, "the package registry of {client} cannot be reached"),
            Cause::Certificate => {
                write!(f, "{client} does not trust the certificate of its package registry")
            }
            Cause::NotThere => {
                write!(f, "the registry that {client} is set up with does not have this version")
            }
            Cause::DiskFull => write!(f, "the disk is full"),
            Cause::Other => write!(f, "{client} failed"),
        }
    }
}

impl Failure {
    /// A failure of these attempts; the cause is read from what they said.
    #[must_use]
    pub fn new(registry: Registry, attempts: Vec<Attempt>) -> Self {
        let cause = cause_of(&attempts);
        Self { registry, attempts, cause }
    }

    /// What the user can do about it.
    pub(super) fn advice(&self) -> &'static str {
        match (self.cause, self.registry) {
            (Cause::NoClient, Registry::PyPi) => {
                "install Python with pip (a Python without pip gets it by `python3 -m ensurepip` \
                 or from the system's package manager)"
            }
            (Cause::NoClient, Registry::Npm) => "install Node.js, which comes with npm",
            (Cause::Unreachable, Registry::PyPi) => {
                "check the network, and the proxy and index settings of pip (`pip config list`)"
            }
            (Cause::Unreachable, Registry::Npm) => {
                "check the network, and the proxy and registry settings of npm (`npm config list`)"
            }
            (Cause::Certificate, Registry::PyPi) => {
                "tell pip which certificates to trust (its setting `cert`)"
            }
            (Cause::Certificate, Registry::Npm) => {
                "tell npm which certificates to trust (its setting `cafile`)"
            }
            (Cause::NotThere, _) => {
                "use a registry or mirror that has it, if a mirror is set up; an offline setting \
                 of the client gives the same answer"
            }
            (Cause::DiskFull, _) => "make room on the disk of the cache",
            (Cause::Other, _) => "run the command by hand and see what it says",
        }
    }
}
