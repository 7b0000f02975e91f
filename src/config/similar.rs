//! What a request gets whose caller has sent the same content under another key a short while ago: `similar`.
//!
//! Its one rule: unless the document says otherwise, such a request runs, and its answer tells of the other.
//! It does not know which contents are the same.

use serde_json::Value;

use super::outcomes::Statuses;
use super::walk::{Choice, DAY_MS, Place, Read};
use super::words::time;
use crate::refusal::ProblemType;

/// `similar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Similar {
    /// For how long a request counts.
    pub window_ms: u64,
    /// What the next one gets.
    pub action: OnSimilar,
}

/// `similar.action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSimilar {
    /// It is refused unless it says that it is meant.
    Refuse,
    /// It runs, and its answer tells of the other.
    #[default]
    Tell,
}

impl Choice for OnSimilar {
    const WORDS: &[(&str, Self)] = &[("tell", OnSimilar::Tell), ("refuse", OnSimilar::Refuse)];
}

impl Similar {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(Similar {
                window_ms: fields.whole("window_ms", 300_000, 100..=DAY_MS)?,
                action: fields.choice("action")?,
            })
        })
    }

    pub(super) fn words(&self, statuses: &Statuses) -> String {
        let then = match self.action {
            OnSimilar::Refuse => format!(
                "refused, unless the request says Idempotency-Similar: allow: {}",
                statuses.shown(ProblemType::Similar)
            ),
            OnSimilar::Tell => "executed, and Idempotency-Status says how long ago the other was sent".to_owned(),
        };
        format!(
            "what a caller sends under a new key within {} of the same under another is {then}",
            time(self.window_ms)
        )
    }
}
