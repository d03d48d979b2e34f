//! Goes on from a prompt: `cargo run --release --example generate -- MODEL PROMPT`.
//!
//! MODEL is a GGUF file, or a folder of Hugging Face with its tokenizer.json.

use frit::{
    models::{
        generate::{GenerateOptions, Sampling, TextGenerator},
        llama::{Llama, LoadOptions},
        tokenizer::Tokenizer,
    },
    prelude::*,
};
use std::{env, error::Error, io::Write, ops::ControlFlow, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, prompt] = &arguments[..] else {
        return Err("usage: generate MODEL PROMPT".into());
    };

    let checkpoint = frit::load::open(model)?;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    // The default options rewrite the model to the fused kernels and keep packed weights packed.
    let options = LoadOptions { policy: Policy::Deny, ..LoadOptions::default() };
    let llama = Llama::from_checkpoint(&checkpoint, Arc::new(Cpu::default()), options)?;
    let mut generator = TextGenerator::new(llama, tokenizer);

    let sampling = Sampling { temperature: 0.7, top_p: 0.95, seed: 1, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 100, sampling, ..GenerateOptions::default() };
    let prompt = generator.encode(prompt)?;
    let text = generator.generate_with(&prompt, &options, &mut |piece| {
        print!("{}", piece.text);
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    println!("\n{:.0} tokens a second", text.stats.decode_rate());
    Ok(())
}
