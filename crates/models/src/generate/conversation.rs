//! A talk with a model: the messages so far, and the next answer.

use super::{CausalLm, GenerateError, GenerateOptions, Generated, Piece, TextGenerator};
use crate::chat::{ChatError, ChatTemplate, Message};
use std::ops::ControlFlow;

/// Messages in turn, put into the model's own form by its template.
#[derive(Clone, Debug)]
pub struct Conversation {
    template: ChatTemplate,
    messages: Vec<Message>,
    /// Messages that [`Conversation::reset`] keeps: the instructions of the system.
    kept: usize,
}

/// An answer, and what had to be forgotten for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The answer.
    pub answer: Generated,
    /// The oldest messages that did not fit any more and were dropped.
    pub forgotten: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The template cannot write these messages.
    #[error(transparent)]
    Template(#[from] ChatError),
    /// The generator.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

impl Conversation {
    /// A talk that begins with instructions, if there are any.
    pub fn new(template: ChatTemplate, system: Option<&str>) -> Conversation {
        let messages: Vec<Message> =
            system.map(|text| Message::new("system", text)).into_iter().collect();
        Conversation { template, kept: messages.len(), messages }
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Forgets all but the instructions.
    pub fn reset(&mut self) {
        self.messages.truncate(self.kept);
    }

    /// Says something and hears the answer, which stays in the talk, cancelled or not. Where the
    /// talk is too long for the model the oldest messages go.
    ///
    /// # Errors
    /// Messages that the template refuses; as [`TextGenerator::stream`]. The talk is then as it was
    /// before.
    pub fn say<M: CausalLm>(
        &mut self,
        generator: &mut TextGenerator<M>,
        text: &str,
        options: &GenerateOptions,
        on: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Turn, ConversationError> {
        let before = self.messages.clone();
        self.messages.push(Message::new("user", text));
        let turn = self.answer(generator, options, on);
        match &turn {
            Ok(turn) => self.messages.push(Message::new("assistant", &turn.answer.text)),
            Err(_) => self.messages = before,
        }
        turn
    }

    fn answer<M: CausalLm>(
        &mut self,
        generator: &mut TextGenerator<M>,
        options: &GenerateOptions,
        on: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Turn, ConversationError> {
        let most = generator.model().max_positions();
        let wanted = most.saturating_sub(options.max_tokens.min(most / 4)).max(1);
        let mut forgotten = 0;
        let prompt = loop {
            let prompt = self.prompt(generator)?;
            // The question itself stays.
            if prompt.len() <= wanted || self.messages.len() <= self.kept + 1 {
                break prompt;
            }
            let pair = 2.min(self.messages.len() - self.kept - 1);
            self.messages.drain(self.kept..self.kept + pair);
            forgotten += pair;
        };
        let answer = generator.generate_with(&prompt, options, on)?;
        Ok(Turn { answer, forgotten })
    }

    /// The talk as tokens, up to where the answer begins.
    fn prompt<M: CausalLm>(
        &self,
        generator: &TextGenerator<M>,
    ) -> Result<Vec<u32>, ConversationError> {
        let tokenizer = generator.tokenizer().ok_or(GenerateError::NoTokenizer)?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos().first().copied()));
        let text = self.template.render(&self.messages, true, bos.as_deref(), eos.as_deref())?;
        // The template writes the special tokens itself.
        Ok(tokenizer.encode(&text, false).map_err(GenerateError::from)?)
    }
}
