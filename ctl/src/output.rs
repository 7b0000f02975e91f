//! What is said, for people and for programs.
//!
//! Its one rule: both forms say the same.
//! It does not know what it is about.

use std::borrow::Cow;

use serde_json::{Value, json};

/// The outcome of a command.
pub struct Said {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// Whether the answer is yes.
    pub answer: Answer,
}

/// What an answer comes to; the program ends with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    Yes = 0,
    No = 1,
    /// What was asked could not be found out.
    Unknown = 2,
}

impl Said {
    /// A text that programs read as it is.
    pub fn text(text: Cow<'_, str>) -> Said {
        Said { text: text.clone().into_owned(), json: json!({ "text": text }), answer: Answer::Yes }
    }

    /// Members and values, a line each.
    pub fn members(members: Vec<(&str, Value)>) -> Said {
        let shown = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let width = members.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = members.iter().map(|(name, value)| format!("{name:width$}  {}\n", shown(value)));
        let text = lines.collect();
        let json = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<serde_json::Map<_, _>>();
        Said { text, json: json.into(), answer: Answer::Yes }
    }

    /// The answer is no.
    pub fn no(self) -> Said {
        Said { answer: Answer::No, ..self }
    }
}

/// Milliseconds in the two largest units that they have.
pub fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}
