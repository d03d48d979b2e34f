//! Writes down a recording: `cargo run --release --example transcribe -- FOLDER RECORDING`.
//!
//! FOLDER is a Whisper checkpoint of Hugging Face or CTranslate2, with its tokenizer.json.

use frit::{
    models::whisper::{
        audio,
        model::{LoadOptions, Whisper},
        tokens::{GenerationConfig, Tokenizer},
        transcribe::{TranscribeOptions, transcribe},
    },
    prelude::*,
};
use std::{env, error::Error, path::Path, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, recording] = &arguments[..] else {
        return Err("usage: transcribe FOLDER RECORDING".into());
    };
    let folder = Path::new(folder);

    let samples = audio::load(Path::new(recording))?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let rules = GenerationConfig::from_folder(folder)?;
    // The default options rewrite the model to the fused kernels; `Deny` makes sure that nothing
    // is left out in silence.
    let options = LoadOptions { policy: Policy::Deny, ..LoadOptions::default() };
    let mut whisper = Whisper::open(folder, Arc::new(Cpu::default()), options)?;

    let options = TranscribeOptions {
        suppress: rules.suppress,
        suppress_begin: rules.suppress_begin,
        ..TranscribeOptions::default()
    };
    let special = tokenizer.special();
    let transcript = transcribe(&mut whisper, &tokenizer, special, &samples, &options, &mut ())?;
    for segment in &transcript.segments {
        println!("{:6.2} - {:6.2} {}", segment.start, segment.end, segment.text.trim());
    }
    Ok(())
}
