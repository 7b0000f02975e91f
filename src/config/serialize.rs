//! Which requests run one at a time, whatever their keys: `serialize`.
//!
//! Its one rule: a request that names no resource never runs beside the lock of one.
//! It does not know how a lock is taken.

use serde_json::Value;

use super::outcomes::Statuses;
use super::source::{Part, source};
use super::text::plain;
use super::walk::{Place, Read};
use super::words::{all, time};
use crate::refusal::ProblemType;

/// `serialize`: requests that name the same resource run one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serialize {
    /// What rules that share their locks have in common; none is the name of the rule.
    name: Option<String>,
    /// What names the resource, in order; all must be present and not empty. Never an empty list.
    pub sources: Vec<Part>,
    /// How long a request waits for its turn.
    pub max_wait_ms: u64,
}

impl Serialize {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            let name = fields.read("name", None, |at, value| plain(at, value).map(Some))?;
            let sources = fields.required("sources", |at, value| at.filled_list(value, source))?;
            let max_wait_ms = fields.whole("max_wait_ms", 10_000, 100..=600_000)?;
            Ok(Serialize { name, sources, max_wait_ms })
        })
    }

    /// The name of the lock, of a rule of this name.
    pub fn name<'a>(&'a self, rule: &'a str) -> &'a str {
        self.name.as_deref().unwrap_or(rule)
    }

    pub(super) fn words(&self, rule: &str, statuses: &Statuses) -> String {
        format!(
            "requests of rules under the lock {} that have the same {} run one after the other, whatever their keys; one \
             waits at most {} and is then refused: {}; without that it is refused: {}, and nothing passes unprotected",
            self.name(rule),
            all(&self.sources),
            time(self.max_wait_ms),
            statuses.shown(ProblemType::ResourceBusy),
            statuses.shown(ProblemType::KeyInvalid),
        )
    }
}
