//! Everything foreign: the bridge's functions and all `unsafe`, behind safe types.
//!
//! - [`Library`]: the loaded bridge, one for the process, never unloaded.
//! - [`Session`]: the right to call it. There is one lock for all of MLX; a session holds it and
//!   has told MLX which streams this thread uses. It cannot leave its thread.
//! - [`Array`]: a node of MLX's lazy graph, or its result. It may go to any thread.
//! - [`Contents`]: the elements of an array on the host.
//! - [`Compiled`]: a graph by `mx::compile`.
//!
//! What `unsafe` relies on: a pointer to an array is made by the bridge and freed once, by [`Array`];
//! every function of the bridge is called while the lock is held; the bridge lets no exception out.

mod array;
mod compiled;
mod library;
mod symbols;

pub(crate) use array::{Array, Contents, code};
pub(crate) use compiled::Compiled;
pub use library::Device;
pub(crate) use library::{Library, Session};
pub(crate) use symbols::Call;
