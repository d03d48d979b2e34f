//! Whisper: speech recognition.

pub mod audio;
pub mod config;
pub mod decode;
pub mod format;
pub mod mel;
pub mod model;
pub mod network;
pub mod tokens;
pub mod transcribe;
