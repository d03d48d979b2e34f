//! What the command `frit` is made of, apart from its arguments.
//!
//! It is a library so that tests and other tools of the workspace fetch models and audio, and time
//! kernels, in exactly the way the command does. [`assets`] brings pinned files and keeps them;
//! [`mod@bench`] times composed against fused; [`html`] writes a report that is one file; [`npy`]
//! reads and writes NumPy's files; [`floor`] measures what the machine can do; [`peers`] runs other
//! libraries beside ours; [`commands`] holds the commands.
#![forbid(unsafe_code)]

pub mod assets;
pub mod bench;
pub mod commands;
pub mod floor;
pub mod html;
pub mod npy;
pub mod peers;
