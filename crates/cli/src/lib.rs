//! What the command `frit` is made of, apart from its arguments.
//!
//! It is a library so that tests and other tools of the workspace fetch models and audio in exactly
//! the way the command does. [`assets`] brings pinned files and keeps them; [`html`] writes a
//! report that is one file.
#![forbid(unsafe_code)]

pub mod assets;
pub mod html;
