//! The command `frit`: its arguments, and its exit status: 0 all is well, 1 it failed, 2 bad usage.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use frit_cli::commands::{Failure, Out, Verdict, note};
use frit_cli::commands::{
    bench, chat, demo, doctor, embed, eval, forward, fuse, generate, inspect, run as run_file,
    setup, transcribe, verify,
};

/// Transformer models, written as many small tensor operations, run as few fused kernels.
#[derive(Parser)]
#[command(
    name = "frit",
    version,
    after_help = "\
Results go to the standard output, progress and messages to the standard error. The exit status is
0 if all is well, 1 if something failed, 2 if the arguments make no sense.

Examples:
  frit demo                        composed and fused side by side, on a real model
  frit transcribe speech.wav       speech to text
  frit generate \"The sky is\"       a language model goes on
  frit chat                        a talk with a language model
  frit embed \"A text\"              a text as a vector
  frit doctor                      what this machine has
  frit help transcribe             all options of a command"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Transcribe speech composed and fused: the same tokens, and a table of times
    Demo(demo::DemoArgs),
    /// Turn recordings into text
    Transcribe(transcribe::TranscribeArgs),
    /// Go on from a prompt with a language model
    Generate(generate::GenerateArgs),
    /// Talk with a language model
    Chat(chat::ChatArgs),
    /// Turn texts into vectors that tell how alike they are
    Embed(embed::EmbedArgs),
    /// Time every operation, composed against fused
    Bench(bench::BenchArgs),
    /// Run conformance cases and judge them, or write their outputs
    Eval(eval::EvalArgs),
    /// Run one forward pass of a checkpoint on given inputs
    Forward(forward::ForwardArgs),
    /// Tell what a checkpoint holds: metadata, tensors, types, sizes
    Inspect(inspect::InspectArgs),
    /// Run an ONNX file on given inputs, or list what it wants
    Run(run_file::RunArgs),
    /// Find operations in an ONNX file that it spells out in small ones, and measure what it brings
    Fuse(fuse::FuseArgs),
    /// Hold a model, run fused, against itself, composed, Block by Block
    Verify(verify::VerifyArgs),
    /// Bring what Frit can use but does not carry: MLX
    Setup(setup::SetupArgs),
    /// Tell what this machine has: processor, threads, backends, cache
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let mut out = Out::stdout();
    match run(&Arguments::parse(), &mut out) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Err(failure) => {
            note(&format!("error: {failure}"));
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(arguments: &Arguments, out: &mut Out) -> Result<Verdict, Failure> {
    match &arguments.command {
        Some(Command::Demo(args)) => demo::run(args, out),
        Some(Command::Transcribe(args)) => transcribe::run(args, out),
        Some(Command::Generate(args)) => generate::run(args, out),
        Some(Command::Chat(args)) => chat::run(args, out),
        Some(Command::Embed(args)) => embed::run(args, out),
        Some(Command::Bench(args)) => bench::run(args, out),
        Some(Command::Eval(args)) => eval::run(args, out),
        Some(Command::Forward(args)) => forward::run(args, out),
        Some(Command::Inspect(args)) => inspect::run(args, out),
        Some(Command::Run(args)) => run_file::run(args, out),
        Some(Command::Fuse(args)) => fuse::run(args, out),
        Some(Command::Verify(args)) => verify::run(args, out),
        Some(Command::Setup(args)) => setup::run(args, out),
        Some(Command::Doctor(args)) => doctor::run(args, out),
        None => {
            out.text(&Arguments::command().render_help().to_string())?;
            Ok(Verdict::Passed)
        }
    }
}
