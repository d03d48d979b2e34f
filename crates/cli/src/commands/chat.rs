//! `frit chat`: a talk with a language model.

use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use frit::models::chat::ChatTemplate;
use frit::models::generate::{Conversation, ConversationError, Finish, Generated};

use super::language::{Choosing, Language, Running};
use super::{Failure, Out, Verdict, note};

const EXAMPLES: &str = "\
Without MODEL, SmolLM2-135M-Instruct is fetched once and kept. Lines are read from the standard
input, so a talk can be piped in as well. The talk so far is not read anew at each turn.

While it runs:
  /reset    forget the talk (not --system)
  /stats    times of the last answer
  /help     these lines
  /quit     end; so does the end of the input
  Ctrl-C    stops an answer; twice, or at the prompt, ends

Examples:
  frit chat
  frit chat qwen3/ --system \"You are a terse assistant.\" --temperature 0.6
  echo \"What is gravity?\" | frit chat --greedy --stats";

const HELP: &str =
    "/reset forgets the talk, /stats tells times, /quit ends, Ctrl-C stops an answer";

/// Arguments of `frit chat`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ChatArgs {
    /// A GGUF file or a model folder [default: SmolLM2-135M-Instruct, fetched]
    model: Option<PathBuf>,
    /// Instructions before the talk [default: those of the model's template, if it has any]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    running: Running,
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be fetched or read, or has no chat template.
pub fn run(args: &ChatArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let options = args.choosing.options()?;
    let mut language = Language::open(args.model.as_deref(), &args.running)?;
    let tokenizer = language.generator.tokenizer();
    let template = tokenizer.and_then(|t| t.chat_template()).ok_or_else(|| {
        Failure::Input("this model has no chat template; `frit generate` takes plain text".into())
    })?;
    let template = ChatTemplate::new(template)?;
    let mut talk = Conversation::new(template, args.system.as_deref());
    let interrupted = Arc::new(AtomicBool::new(false));
    let answering = Arc::new(AtomicBool::new(false));
    interrupts(interrupted.clone(), answering.clone())?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        note(HELP);
    }
    let mut last: Option<Generated> = None;
    let mut lines = io::stdin().lock().lines();
    loop {
        if terminal {
            out.text("> ")?;
        }
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|e| Failure::io("read", "the standard input".as_ref(), e))?;
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/help" => note(HELP),
            "/reset" => {
                talk.reset();
                note("the talk is forgotten");
            }
            "/stats" => match &last {
                Some(last) => note(language.stats(last).trim_end()),
                None => note("there was no answer yet"),
            },
            word if word.starts_with('/') && !word.contains(' ') => {
                note(&format!("there is no {}; {HELP}", super::plain(word)));
            }
            text => {
                interrupted.store(false, Ordering::SeqCst);
                answering.store(true, Ordering::SeqCst);
                let mut failed = None;
                let turn = talk.say(&mut language.generator, text, &options, &mut |piece| {
                    failed = out.text(&piece.text).err();
                    let stop = failed.is_some() || out.closed();
                    match stop || interrupted.load(Ordering::SeqCst) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                });
                answering.store(false, Ordering::SeqCst);
                if let Some(failure) = failed {
                    return Err(failure);
                }
                let turn = match turn {
                    Ok(turn) => turn,
                    // A question that does not fit ends itself and not the talk.
                    Err(error) => {
                        let failure = failure(error);
                        if !terminal {
                            return Err(failure);
                        }
                        note(&format!("error: {failure}"));
                        continue;
                    }
                };
                out.line("")?;
                if turn.forgotten > 0 {
                    note(&format!("the oldest {} messages did not fit any more", turn.forgotten));
                }
                if turn.answer.finish == Finish::Length {
                    note("(cut: --max-tokens allows more)");
                }
                language.tell(&turn.answer);
                last = Some(turn.answer);
                if out.closed() {
                    break;
                }
            }
        }
    }
    language.watch.tell()?;
    Ok(Verdict::Passed)
}

fn failure(error: ConversationError) -> Failure {
    match error {
        ConversationError::Template(error) => error.into(),
        ConversationError::Generate(error) => Language::failure(error),
    }
}

/// Ctrl-C stops an answer; where there is none, or a second time, it ends the program.
fn interrupts(interrupted: Arc<AtomicBool>, answering: Arc<AtomicBool>) -> Result<(), Failure> {
    ctrlc::set_handler(move || {
        let first = !interrupted.swap(true, Ordering::SeqCst);
        if !(first && answering.load(Ordering::SeqCst)) {
            // 128 and the number of the signal, as shells have it.
            std::process::exit(130);
        }
    })
    .map_err(|e| Failure::Input(format!("cannot listen for Ctrl-C: {e}")))
}
