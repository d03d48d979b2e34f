//! Messages to one text, by the Jinja template that a model brings.
//!
//! A chat model was taught on texts in which somebody's words stand between tokens of its own
//! (`<|im_start|>user`, `[INST]`). How exactly is written as a template in the checkpoint; here it is
//! rendered as transformers does it: lines of blocks leave no blanks, Python's methods of texts,
//! lists and dictionaries work, and so do `raise_exception`, `strftime_now`, `tojson`, `break` and
//! `continue`. A template is a program from a file: it gets a bounded number of steps.
//!
//! ```
//! use frit_models::chat::{ChatTemplate, Message};
//! let template = "{% for m in messages %}[{{ m.role }}] {{ m['content'].strip() }}\n{% endfor %}\
//!                 {% if add_generation_prompt %}[assistant]{% endif %}";
//! let template = ChatTemplate::new(template)?;
//! let messages = [Message::new("user", " Hello ")];
//! assert_eq!(template.render(&messages, true, None, None)?, "[user] Hello\n[assistant]");
//! # Ok::<(), frit_models::chat::ChatError>(())
//! ```

mod time;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;

const NAME: &str = "chat_template";
/// Steps of a rendering; a template takes about a hundred for a message.
const FUEL: u64 = 20_000_000;

/// Why a template cannot be used, or what it says against the messages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is no Jinja, or does what it must not.
    #[error("chat template, line {line}: {what}")]
    Template {
        /// The line; 0 if it is not known.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The template does not take these messages, in its own words.
    #[error("the chat template does not take these messages: {0}")]
    Refused(String),
}

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who: `system`, `user`, `assistant`; others if the template knows them.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A template, ready to render.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// What `raise_exception` said, kept apart from what went wrong by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl ChatTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`ChatError::Template`] if it is no Jinja.
    pub fn new(source: impl Into<String>) -> Result<ChatTemplate, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| failure(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        // As Python writes them.
        environment.set_formatter(|out, _, value| {
            let text = match value.kind() {
                ValueKind::Undefined => return Ok(()),
                ValueKind::None => "None",
                ValueKind::Bool if value.is_true() => "True",
                ValueKind::Bool => "False",
                _ => return Ok(write!(out, "{value}")?),
            };
            Ok(out.write_str(text)?)
        });
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            let what = "raise_exception was called";
            Err(Error::new(ErrorKind::InvalidOperation, what).with_source(Refusal(message)))
        });
        let source = source.into();
        environment.add_template_owned(NAME, source).map_err(|error| failure(&error))?;
        Ok(ChatTemplate { environment }.at(None))
    }

    /// The moment that `strftime_now` tells, in seconds since 1970 (UTC); `None` is that of the call.
    #[must_use]
    pub fn at(mut self, seconds: Option<i64>) -> ChatTemplate {
        let now = move || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            seconds.unwrap_or_else(|| now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0)))
        };
        let strftime = move |format: String| -> Result<String, Error> {
            time::strftime(&format, now())
                .map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
        };
        self.environment.add_function("strftime_now", strftime);
        self
    }

    /// The text of a conversation. `add_generation_prompt` begins the answer of the assistant;
    /// `bos` and `eos` are the tokens, as texts, that begin and end what the model reads.
    ///
    /// # Errors
    /// [`ChatError::Refused`] if the template does not take these messages, and
    /// [`ChatError::Template`] if it fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<String, ChatError> {
        let template = self.environment.get_template(NAME).map_err(|error| failure(&error))?;
        let message =
            |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", &m.content)]);
        let rendered = template.render(context! {
            messages => messages.iter().map(message).collect::<Value>(),
            add_generation_prompt,
            bos_token => bos.unwrap_or_default(),
            eos_token => eos.unwrap_or_default(),
            tools => Value::from(()),
            documents => Value::from(()),
        });
        rendered.map_err(|error| failure(&error))
    }
}

fn failure(error: &Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return ChatError::Refused(message.clone());
        }
        cause = error.source();
    }
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    let what = format!("{}{detail}", error.kind());
    ChatError::Template { line: error.line().unwrap_or(0), what }
}

/// Spaces after commas and colons, as Python writes JSON.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
    ) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}

fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    use serde_json::ser::{PrettyFormatter, Serializer};
    let indent = options.get::<Option<usize>>("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(32));
            let layout = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, layout))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Python)),
    };
    let wrong = |what: String| Error::new(ErrorKind::BadSerialization, what);
    written.map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(out).map_err(|error| wrong(error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

#[cfg(test)]
mod tests;
