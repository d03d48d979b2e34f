//! The command from outside: arguments in, status and output out. No test needs a network.

mod common;
mod doctor;
mod embed;
mod eval;
mod fuse;
mod generate;
mod inspect;
mod models;
mod onnx;
mod usage;
mod verify;
