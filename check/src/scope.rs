//! What the scope of a rule reads, as places of a request that a filter in front can take away or write.
//!
//! Its one rule: a place that no filter in front writes, such as the connection, is none of these.
//! It does not know what stands in front.

use envoy_idempotency::config::{Config, Mode, Part, Policy};
use serde_json::Value;

use crate::wanted::Wanted;

/// A place of a request as it comes to the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    Cookie(String),
    Header(String),
    /// Of a filter, below `metadata.filter_metadata`.
    Metadata(Vec<String>),
    Query(String),
}

impl Spot {
    /// A header by a name in whatever case.
    pub fn header(name: &str) -> Spot {
        Spot::Header(name.to_ascii_lowercase())
    }

    /// As messages name it.
    pub fn words(&self) -> String {
        match self {
            Spot::Cookie(name) => format!("cookie {name}"),
            Spot::Header(name) => format!("header {name}"),
            Spot::Metadata(path) => format!("metadata {}", path.join(".")),
            Spot::Query(name) => format!("query parameter {name}"),
        }
    }

    /// The part of a scope that reads it.
    pub fn part(&self) -> String {
        match self {
            Spot::Cookie(name) => format!("{{\"cookie\": \"{name}\"}}"),
            Spot::Header(name) => format!("{{\"header\": \"{name}\"}}"),
            Spot::Metadata(path) => {
                let path: Vec<_> = path.iter().map(|name| format!(", \"{name}\"")).collect();
                format!("{{\"property\": [\"metadata\", \"filter_metadata\"{}]}}", path.concat())
            }
            Spot::Query(name) => format!("{{\"query\": \"{name}\"}}"),
        }
    }
}

/// How a place is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// A claim of the token that stands there.
    Claim,
    /// Whole.
    Raw,
    /// The name in the signature that stands there.
    Signer,
}

/// One place that a scope reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub spot: Spot,
    pub manner: Manner,
    /// The claim, where it is one.
    pub claim: Option<String>,
    /// The index of its part in `scope.caller`: those of one `any` stand in for each other.
    pub part: usize,
}

impl Reading {
    /// As messages name it.
    pub fn words(&self) -> String {
        match (&self.manner, &self.claim) {
            (Manner::Claim, Some(claim)) => format!("jwt_claim {claim} in {}", self.spot.words()),
            (Manner::Signer, _) => format!("signer in {}", self.spot.words()),
            _ => self.spot.words(),
        }
    }
}

/// A rule that is in force, and what its scope reads.
pub struct Enforced<'a> {
    pub name: &'a str,
    pub policy: &'a Policy,
    pub readings: Vec<Reading>,
    /// The document says nothing of its callers.
    pub has_default_caller: bool,
    /// The paths of all attributes of Envoy's that it reads.
    pub properties: Vec<&'a Vec<String>>,
    pub wanted: Wanted<'a>,
    /// `match.headers` of the document.
    pub matched: &'a Value,
}

/// The rules in force. `document` is what the configuration was read from.
pub fn enforced<'a>(config: &'a Config, document: &'a Value) -> Vec<Enforced<'a>> {
    let rules = config.rules.iter().enumerate().filter(|(_, rule)| rule.policy.mode == Mode::Enforce);
    rules
        .map(|(index, rule)| {
            let matches = &document["rules"][index]["match"];
            let parts = rule.policy.scope.caller.iter().enumerate();
            let mut properties = Vec::new();
            rule.policy.scope.caller.iter().for_each(|part| properties_of(part, &mut properties));
            Enforced {
                name: &rule.name,
                policy: &rule.policy,
                readings: parts.flat_map(|(index, part)| read_by(part, index)).collect(),
                has_default_caller: [document, &document["rules"][index]]
                    .iter()
                    .all(|above| above["policy"]["scope"]["caller"].is_null()),
                properties,
                wanted: Wanted::of(matches),
                matched: &matches["headers"],
            }
        })
        .collect()
}

fn properties_of<'a>(part: &'a Part, found: &mut Vec<&'a Vec<String>>) {
    match part {
        Part::Any(parts) => parts.iter().for_each(|part| properties_of(part, found)),
        Part::Property(path) => found.push(path),
        _ => {}
    }
}

/// A part as messages name it.
pub fn words(part: &Part) -> String {
    match part {
        Part::Authorization { header, .. } => format!("header {header}"),
        part => part.to_string(),
    }
}

/// How many places this part may read.
pub fn count(part: &Part) -> usize {
    match part {
        Part::Any(parts) => parts.iter().map(count).sum(),
        _ => 1,
    }
}

/// What this part reads.
fn read_by(part: &Part, index: usize) -> Vec<Reading> {
    let reading = |spot, manner, claim| vec![Reading { spot, manner, claim, part: index }];
    let authorization = || Spot::header("authorization");
    match part {
        Part::Any(parts) => parts.iter().flat_map(|part| read_by(part, index)).collect(),
        Part::Authorization { header: name, .. } | Part::Header(name) => reading(Spot::header(name), Manner::Raw, None),
        Part::Cookie(name) => reading(Spot::Cookie(name.clone()), Manner::Raw, None),
        Part::JwtClaim(claim) => reading(authorization(), Manner::Claim, Some(claim.clone())),
        Part::Property(path) => match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["request", "headers", name] => reading(Spot::header(name), Manner::Raw, None),
            ["metadata", "filter_metadata", path @ ..] => {
                let path = path.iter().map(|name| (*name).to_owned()).collect();
                reading(Spot::Metadata(path), Manner::Raw, None)
            }
            _ => Vec::new(),
        },
        Part::Query(name) => reading(Spot::Query(name.clone()), Manner::Raw, None),
        Part::Signer => reading(authorization(), Manner::Signer, None),
        Part::Form(_) | Part::Json(_) | Part::PathSegment(_) => Vec::new(),
    }
}
